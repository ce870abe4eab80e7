r"""Stationary methods $x \leftarrow x + M^{-1}(b - A x)$: Jacobi, Gauss-Seidel, SOR, SSOR.

With $A = D + L + U$: Jacobi has $M = D/\omega$, SOR $M = D/\omega + L$ (Gauss-Seidel at $\omega = 1$), and SSOR, a
forward and a backward SOR sweep, $M = (D+\omega L)D^{-1}(D+\omega U)/(\omega(2-\omega))$. All share the step above:
computing the residual first costs nothing extra, since the stopping test needs it in any case.

In natural order on a grid, SOR saves half of the product. With $A = M + N$, $N = (1 - 1/\omega) D + U$, a sweep is
$x_{k+1} = M^{-1}(b - N x_k)$, and the residual after it is $(b - N x_{k+1}) - M x_{k+1}$. The first term of that is
what the next sweep starts from, so it is computed once for both (`Splitting`).

Reference: Saad 2003, Iterative Methods for Sparse Linear Systems, section 4.1; Young 1954.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxsci.core import entry, tree
from jaxsci.core.protocols import Solver
from jaxsci.core.static import bind
from jaxsci.core.types import Scalar, as_scalar
from jaxsci.linear._system import Splitting, System, identity, over, trouble
from jaxsci.linear._wavefront import Wavefront, bordered


class StationaryState(NamedTuple):
    """What a stationary method carries from step to step.

    Attributes:
        x: iterate.
        r: residual b - A x.
    """

    x: Float[Array, "..."]
    r: Float[Array, "..."]


class SplitState(NamedTuple):
    """What SOR on a grid carries from step to step, in the form of `Splitting`.

    Attributes:
        x: iterate, with a border of zeros.
        r: residual b - A x, not scaled.
        b: right-hand side, scaled.
        pull: b - N x, scaled: what the next sweep starts from.
    """

    x: Float[Array, "..."]
    r: Float[Array, "..."]
    b: Float[Array, "..."]
    pull: Float[Array, "..."]


def jacobi(omega: Scalar = 1.0) -> Solver:
    r"""Damped Jacobi iteration $x \leftarrow x + \omega D^{-1}(b - Ax)$, for any operator that knows its diagonal.

    Args:
        omega: damping, traced. It converges for 0 < omega < 2 / lambda_max(D^-1 A), which is at most 2; outside (0, 2)
            the result carries `status.OUT_OF_RANGE` and no sweep runs.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op, b = linear.operators.shifted_laplacian((8, 8), 1.0), jnp.ones((8, 8))
        >>> result = linear.solve(op, b, method=linear.methods.jacobi(), tol=1e-4)
        >>> bool(result.steps < 60), int(result.status)
        (True, 0)

    References: Saad 2003, section 4.1.
    """
    return _stationary(Partial(_prepare_jacobi, as_scalar(omega, "jacobi", "omega")))


def gauss_seidel() -> Solver:
    r"""Gauss-Seidel in the operator's order: $x \leftarrow x + (D + L)^{-1}(b - Ax)$, which is `sor` at omega = 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op, b = linear.operators.shifted_laplacian((8, 8), 1.0), jnp.ones((8, 8))
        >>> result = linear.solve(op, b, method=linear.methods.gauss_seidel(), tol=1e-4)
        >>> bool(result.steps < 30), int(result.status)
        (True, 0)

    References: Saad 2003, section 4.1.
    """
    return sor(1.0)


def sor(omega: Scalar) -> Solver:
    r"""Successive over-relaxation in the operator's order: $x \leftarrow x + (D/\omega+L)^{-1}(b - Ax)$.

    Args:
        omega: relaxation parameter, traced; outside (0, 2) the result carries `status.OUT_OF_RANGE` and no sweep runs.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op, b = linear.operators.shifted_laplacian((8, 8)), jnp.ones((8, 8))
        >>> result = linear.solve(op, b, method=linear.methods.sor(1.5), tol=1e-4)
        >>> bool(result.steps < 40), int(result.status)
        (True, 0)

    References: Young 1954; Saad 2003, section 4.1.
    """
    return _stationary(Partial(_prepare_sor, as_scalar(omega, "sor", "omega")))


def ssor(omega: Scalar) -> Solver:
    r"""Symmetric SOR: a forward sweep, then a backward sweep; one step is both.

    Both together are $x \leftarrow x + \omega(2-\omega)(D+\omega U)^{-1}D(D+\omega L)^{-1}(b - Ax)$, one product and
    two triangular solves.

    Args:
        omega: relaxation parameter, traced; outside (0, 2) the result carries `status.OUT_OF_RANGE` and no sweep runs.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op, b = linear.operators.shifted_laplacian((8, 8)), jnp.ones((8, 8))
        >>> result = linear.solve(op, b, method=linear.methods.ssor(1.5), tol=1e-4)
        >>> bool(result.steps < 40), int(result.status)
        (True, 0)

    References: Saad 2003, section 4.1, equation 4.15.
    """
    return _stationary(Partial(bind(prepare_ssor, forward=True), as_scalar(omega, "ssor", "omega")))


def _stationary(prepare) -> Solver:
    return Solver(prepare, Partial(_init), Partial(_step), Partial(_broken))


def _prepare_jacobi(omega, op) -> System:
    omega = omega.astype(op.diagonal.dtype)
    apply = Partial(jnp.multiply, over(omega, op.diagonal))
    return System(Partial(identity), Partial(identity), op.mv, apply, trouble(op.diagonal, omega))


def _prepare_sor(omega, op) -> System:
    ordered = op.ordered
    omega = omega.astype(op.diagonal.dtype)
    code = trouble(op.diagonal, omega)
    if isinstance(ordered, Wavefront):
        parts = bordered(ordered, omega)
        return System(ordered.pack, ordered.unpack, ordered.mv, parts, code, parts.iterate)
    return System(ordered.pack, ordered.unpack, ordered.mv, ordered.lower(omega), code)


def prepare_ssor(omega, op, *, forward: bool) -> System:
    r"""The symmetric sweep $\omega(2-\omega)(D+\omega U)^{-1}D(D+\omega L)^{-1}$; U and L exchanged if not
    `forward`."""
    ordered = op.ordered
    omega = omega.astype(op.diagonal.dtype)
    first, second = ordered.lower(omega), ordered.upper(omega)
    if not forward:
        first, second = second, first
    # (D + omega L)^-1 = (D/omega + L)^-1 / omega, twice.
    middle = (2 - omega) / omega * ordered.diagonal
    apply = Partial(_apply_ssor, first, second, middle)
    return System(ordered.pack, ordered.unpack, ordered.mv, apply, trouble(op.diagonal, omega))


def _apply_ssor(first, second, middle, r):
    return second(middle * first(r))


def _init(system: System, b, x0) -> StationaryState | SplitState:
    parts, r = system.apply, tree.sub(b, system.mv(x0))
    if not isinstance(parts, Splitting):
        return StationaryState(x0, r)
    b, x = parts.start(b, x0)
    return SplitState(x, r, b, parts.pull(b, x))


def _step(system: System, b, state: StationaryState | SplitState) -> StationaryState | SplitState:
    parts = system.apply
    if not isinstance(parts, Splitting):
        x = state.x + parts(state.r)
        return StationaryState(x, b - system.mv(x))
    x = parts.solve(state.pull, state.x)
    pull = parts.pull(state.b, x)
    return SplitState(x, parts.residual(pull, x), state.b, pull)


def _broken(system: System, state: StationaryState | SplitState):
    return system.status


__all__ = ["SplitState", "StationaryState", "gauss_seidel", "jacobi", "prepare_ssor", "sor", "ssor"]

entry.hold(globals(), "_broken", "_init", "_prepare_jacobi", "_prepare_sor", "_step", "prepare_ssor")
