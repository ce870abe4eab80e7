r"""Conjugate gradients: plain, preconditioned by any linear map, and by one symmetric SOR sweep in two forms.

PCG as SciPy does it: $z = M^{-1}r$, $\rho = r^\top z$, $p = z + (\rho/\rho_{old})p$, $q = Ap$, $\alpha =
\rho/p^\top q$, $x \mathrel{+}= \alpha p$, $r \mathrel{-}= \alpha q$.

Eisenstat's form of SSOR-PCG works on $\hat A = E^{-1}AE^{-\top}$, $E = D/\omega + L$: since $A = E + E^\top - K$ with
$K = (2/\omega - 1)D$, $\hat A t = y + E^{-1}(t - Ky)$ with $y = E^{-\top}t$ takes two triangular solves and no product.
The preconditioner of $\hat A$ is the diagonal D, $r = E\hat r$ and $x = E^{-\top}\hat x$.

References: Hestenes and Stiefel 1952; Eisenstat 1981, Efficient implementation of a class of preconditioned conjugate
gradient methods; Saad 2003, sections 6.7, 9.2 and 10.2.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxsci.core import entry, status, tree
from jaxsci.core.protocols import Solver
from jaxsci.core.static import as_partial, bind
from jaxsci.core.types import Scalar, as_scalar
from jaxsci.linear._stationary import prepare_ssor
from jaxsci.linear._system import System, identity, trouble


class KrylovState(NamedTuple):
    """What preconditioned conjugate gradients carry from step to step.

    p and rho belong to the residual before r: a step begins by computing the new ones, so that the last residual costs
    no application of M^-1.

    Attributes:
        x: iterate.
        r: residual by recursion, which may drift from b - A x.
        p: search direction.
        rho: r^T M^-1 r.
        status: SINGULAR (A or M is not positive definite), STAGNATED (rho is 0); 0 = the method can go on.
    """

    x: Float[Array, "..."]
    r: Float[Array, "..."]
    p: Float[Array, "..."]
    rho: Float[Array, ""]
    status: Int[Array, ""]


class CGState(NamedTuple):
    """What conjugate gradients carry from step to step; p belongs to the residual before, so that it, x and r are
    each updated in place.

    Attributes:
        x: iterate.
        r: residual by recursion.
        p: search direction of the step before.
        beta: how much of it the next direction takes.
        rho: r^T r.
        status: SINGULAR, STAGNATED, as in `KrylovState`; 0 = the method can go on.
    """

    x: Float[Array, "..."]
    r: Float[Array, "..."]
    p: Float[Array, "..."]
    beta: Float[Array, ""]
    rho: Float[Array, ""]
    status: Int[Array, ""]


class EisenstatState(NamedTuple):
    """What Eisenstat's form carries from step to step; p and rho belong to the residual before.

    Attributes:
        x: iterate.
        r: residual E r_hat by recursion.
        hat: residual r_hat of the transformed system.
        p: search direction in the transformed system.
        rho: r_hat^T D r_hat.
        status: SINGULAR, STAGNATED, as in `KrylovState`; 0 = the method can go on.
    """

    x: Float[Array, "..."]
    r: Float[Array, "..."]
    hat: Float[Array, "..."]
    p: Float[Array, "..."]
    rho: Float[Array, ""]
    status: Int[Array, ""]


class Factors(NamedTuple):
    """What Eisenstat's form applies, E = D/omega + L; L and U are exchanged where the backward sweep is first.

    Attributes:
        first: ``first(r) -> E^-1 r``.
        second: ``second(r) -> E^-T r``.
        strict: ``strict(y) -> L y``.
        diagonal: D.
        excess: K = (2/omega - 1) D.
        pivot: D/omega.
    """

    first: Partial
    second: Partial
    strict: Partial
    diagonal: Float[Array, "..."]
    excess: Float[Array, "..."]
    pivot: Float[Array, "..."]


def cg() -> Solver:
    """Conjugate gradients for symmetric positive definite A, stopping as SciPy does.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op, b = linear.operators.shifted_laplacian((8, 8)), jnp.ones((8, 8))
        >>> result = linear.solve(op, b, method=linear.methods.cg(), tol=1e-4)
        >>> int(result.steps), int(result.status)
        (10, 0)

    References: Hestenes and Stiefel 1952; Saad 2003, section 6.7.
    """
    return Solver(Partial(_prepare_cg), Partial(_init_cg), Partial(_step_cg), Partial(_broken))


def pcg(preconditioner) -> Solver:
    r"""Conjugate gradients preconditioned by a linear map $r \mapsto M^{-1}r$, for symmetric positive definite A and M.

    Args:
        preconditioner: function of an array of the operator's shape. A `jax.tree_util.Partial` of a module-level
            function is traced (its arrays may change and be swept); a bare closure is static.

    A curvature or $r^\top M^{-1}r$ that is not positive ends the solve with `status.SINGULAR`.

    Raises:
        TypeError: something that cannot be called.

    Example:
        >>> import jax
        >>> from jaxsci import linear
        >>> op = linear.operators.diffusion(jnp.ones((3, 4)), jnp.ones((4, 3)), jnp.float32(9.0))
        >>> scaled = jax.tree_util.Partial(jnp.multiply, 1 / op.diagonal)
        >>> result = linear.solve(op, jnp.ones((4, 4)), method=linear.methods.pcg(scaled), tol=1e-5)
        >>> int(result.status)
        0

    References: Saad 2003, algorithm 9.1.
    """
    if not callable(preconditioner):
        raise TypeError(
            f"pcg: preconditioner must be a function r -> M^-1 r, got {type(preconditioner).__name__}; "
            "wrap a linear.operators operator as op.mv"
        )
    return _krylov(Partial(_prepare_pcg, as_partial(preconditioner, "pcg", "preconditioner")))


def ssor_pcg(omega: Scalar, *, sweep_first: str = "forward", form: str = "plain") -> Solver:
    r"""Conjugate gradients preconditioned by one symmetric SOR sweep, for symmetric positive definite A.

    $z = \omega(2-\omega)\,(D+\omega U)^{-1} D (D+\omega L)^{-1} r$ for ``sweep_first="forward"``; ``"backward"``
    exchanges the two triangles, which some programs do: totals differ by less than 0.1 %.

    Args:
        omega: relaxation parameter in (0, 2), traced.
        sweep_first: which triangle is solved first, static.
        form: ``"plain"``, or ``"eisenstat"``, which replaces the product with A by one with the strict triangle L; that
            one is needed only for the residual E r_hat of the stopping test. Both stop at the same iteration. On CPU,
            where the triangular solves cost most, Eisenstat's form need not be the faster one. Static.

    Raises:
        ValueError: an unknown `sweep_first` or `form`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op, b = linear.operators.shifted_laplacian((8, 8)), jnp.ones((8, 8))
        >>> result = linear.solve(op, b, method=linear.methods.ssor_pcg(1.4), tol=1e-4)
        >>> bool(result.steps < 12), int(result.status)
        (True, 0)

    References: Axelsson 1972; Eisenstat 1981; Saad 2003, sections 9.2.2 and 10.2.
    """
    if sweep_first not in ("forward", "backward"):
        raise ValueError(f"ssor_pcg: expected sweep_first 'forward' or 'backward', got {sweep_first!r}")
    if form not in ("plain", "eisenstat"):
        raise ValueError(f"ssor_pcg: expected form 'plain' or 'eisenstat', got {form!r}")
    forward, omega = sweep_first == "forward", as_scalar(omega, "ssor_pcg", "omega")
    if form == "plain":
        return _krylov(Partial(bind(prepare_ssor, forward=forward), omega))
    prepare = Partial(bind(_prepare_eisenstat, forward=forward), omega)
    return Solver(prepare, Partial(_init_eisenstat), Partial(_step_eisenstat), Partial(_broken))


def _prepare_cg(op) -> System:
    return System(Partial(identity), Partial(identity), op.mv, (), jnp.int32(status.OK))


def _init_cg(system: System, b, x0) -> CGState:
    r = tree.sub(b, system.mv(x0))
    rho = tree.dot(r, r)
    return CGState(x0, r, tree.zeros_like(r), jnp.zeros_like(rho), rho, jnp.int32(status.OK))


def _step_cg(system: System, b, state: CGState) -> CGState:
    p = tree.axpy(state.beta, state.p, state.r)
    q = system.mv(p)
    alpha, code = _step_length(state.rho, tree.dot(p, q))
    x, r = tree.axpy(alpha, p, state.x), tree.axpy(-alpha, q, state.r)
    rho = tree.dot(r, r)  # the stopping test takes the same product, and XLA computes it once
    beta = jnp.where(state.rho > 0, rho / jnp.where(state.rho > 0, state.rho, 1), 0)
    return CGState(x, r, p, beta, rho, state.status | code)


def _krylov(prepare) -> Solver:
    return Solver(prepare, Partial(_init), Partial(_step), Partial(_broken))


def _prepare_pcg(preconditioner, op) -> System:
    apply = Partial(_in_dtype, preconditioner)
    return System(Partial(identity), Partial(identity), op.mv, apply, jnp.int32(status.OK))


def _in_dtype(preconditioner, r):
    return preconditioner(r).astype(r.dtype)


def _init(system: System, b, x0) -> KrylovState:
    r = tree.sub(b, system.mv(x0))
    rho = jnp.ones((), tree.dot(r, r).dtype)
    return KrylovState(x0, r, tree.zeros_like(r), rho, jnp.int32(status.OK))


def _step(system: System, b, state: KrylovState) -> KrylovState:
    z = system.apply(state.r)
    rho = tree.dot(state.r, z)
    p = tree.axpy(rho / state.rho, state.p, z)  # the first p is z because state.p starts at 0
    q = system.mv(p)
    alpha, code = _step_length(rho, tree.dot(p, q))
    return KrylovState(tree.axpy(alpha, p, state.x), tree.axpy(-alpha, q, state.r), p, rho, state.status | code)


def _step_length(rho, curvature):
    """rho / curvature, and status bits; a length of 0 where the method cannot go on.

    If rho < 0 or the curvature is not positive, A or M is not positive definite: SINGULAR. If rho is exactly 0, the
    residual is so small that its squares vanish, and nothing is left to gain: STAGNATED.
    """
    spent = rho == 0
    broken = (rho < 0) | ((curvature <= 0) & ~spent)
    code = status.flag(broken, status.SINGULAR) | status.flag(spent, status.STAGNATED)
    return jnp.where(code != 0, 0, rho / jnp.where(code != 0, 1, curvature)), code


def _prepare_eisenstat(omega, op, *, forward: bool) -> System:
    ordered = op.ordered
    omega = omega.astype(op.diagonal.dtype)
    first, second = ordered.lower(omega), ordered.upper(omega)
    strict = ordered.lower_mv if forward else ordered.upper_mv
    if not forward:
        first, second = second, first
    d = ordered.diagonal
    factors = Factors(first, second, strict, d, (2 / omega - 1) * d, d / omega)
    return System(ordered.pack, ordered.unpack, ordered.mv, factors, trouble(op.diagonal, omega))


def _init_eisenstat(system: System, b, x0) -> EisenstatState:
    r = tree.sub(b, system.mv(x0))
    rho = jnp.ones((), tree.dot(r, r).dtype)
    return EisenstatState(x0, r, system.apply.first(r), tree.zeros_like(r), rho, jnp.int32(status.OK))


def _step_eisenstat(system: System, b, state: EisenstatState) -> EisenstatState:
    factors = system.apply
    z = factors.diagonal * state.hat
    rho = tree.dot(state.hat, z)
    p = tree.axpy(rho / state.rho, state.p, z)
    y = factors.second(p)
    rest = p - factors.excess * y
    q = y + factors.first(rest)
    alpha, code = _step_length(rho, tree.dot(p, q))
    # E q = A y: what the residual E r_hat loses.
    image = factors.pivot * y + factors.strict(y) + rest
    return EisenstatState(
        tree.axpy(alpha, y, state.x),
        tree.axpy(-alpha, image, state.r),
        tree.axpy(-alpha, q, state.hat),
        p,
        rho,
        state.status | code,
    )


def _broken(system: System, state):
    return system.status | state.status


__all__ = ["CGState", "EisenstatState", "Factors", "KrylovState", "cg", "pcg", "ssor_pcg"]

entry.hold(
    globals(),
    "_broken",
    "_init",
    "_init_cg",
    "_init_eisenstat",
    "_prepare_cg",
    "_prepare_eisenstat",
    "_prepare_pcg",
    "_step",
    "_step_cg",
    "_step_eisenstat",
)
