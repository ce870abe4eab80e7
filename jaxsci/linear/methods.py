r"""Iterative methods for A x = b, each a `core.protocols.Solver`: four pure functions that `linear.solve` drives.

Stationary: SOR, $x \leftarrow x + (D/\omega + L)^{-1}(b - A x)$, $0 < \omega < 2$; $\omega = 1$ is Gauss-Seidel.
Krylov: conjugate gradients, plain or preconditioned by $M = (D+\omega L)D^{-1}(D+\omega U)/(\omega(2-\omega))$ (SSOR).
Hyper-parameters are traced leaves: a new value never compiles again, and they may be swept by vmap.

Reference: Saad 2003, Iterative Methods for Sparse Linear Systems, sections 4.1, 6.7 and 9.2.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import status, tree
from jaxsci.core.protocols import Solver
from jaxsci.core.static import bind
from jaxsci.core.types import float_dtype


class System(NamedTuple):
    """A prepared operator: storage changes, the product, what a step applies, and trouble found on the way."""

    pack: Partial
    unpack: Partial
    mv: Partial
    apply: Partial
    status: Int[Array, ""]


class StationaryState(NamedTuple):
    """Iterate and residual."""

    x: Float[Array, "..."]
    r: Float[Array, "..."]


class KrylovState(NamedTuple):
    """Iterate, recursive residual, search direction, r^T M^-1 r, and breakdown bits."""

    x: Float[Array, "..."]
    r: Float[Array, "..."]
    p: Float[Array, "..."]
    rho: Float[Array, ""]
    status: Int[Array, ""]


def sor(omega: ArrayLike) -> Solver:
    r"""Successive over-relaxation in the operator's natural order: $x \leftarrow x + (D/\omega+L)^{-1}(b - Ax)$.

    Args:
        omega: relaxation parameter, traced; outside (0, 2) the result carries `status.OUT_OF_RANGE` and no sweep runs.

    References: Young 1954; Saad 2003, section 4.1.
    """
    return Solver(
        Partial(_prepare_sor, _scalar(omega)), Partial(_init_stationary), Partial(_step_sor), Partial(_broken_sor)
    )


def cg() -> Solver:
    """Conjugate gradients for symmetric positive definite A, stopping as SciPy does.

    References: Hestenes and Stiefel 1952; Saad 2003, section 6.7.
    """
    return Solver(Partial(_prepare_cg), Partial(_init_krylov), Partial(_step_pcg), Partial(_broken_pcg))


def ssor_pcg(omega: ArrayLike, *, sweep_first: str = "forward") -> Solver:
    r"""Conjugate gradients preconditioned by one symmetric SOR sweep, for symmetric positive definite A.

    $z = \omega(2-\omega)\,(D+\omega U)^{-1} D (D+\omega L)^{-1} r$ for ``sweep_first="forward"``; ``"backward"``
    exchanges the two triangles, which some programs do: totals differ by less than 0.1 %.

    Args:
        omega: relaxation parameter in (0, 2), traced.
        sweep_first: which triangle is solved first, static.

    Raises:
        ValueError: an unknown `sweep_first`.

    References: Axelsson 1972; Saad 2003, section 10.2.
    """
    if sweep_first not in ("forward", "backward"):
        raise ValueError(f"ssor_pcg: expected sweep_first 'forward' or 'backward', got {sweep_first!r}")
    prepare = Partial(bind(_prepare_ssor, forward=sweep_first == "forward"), _scalar(omega))
    return Solver(prepare, Partial(_init_krylov), Partial(_step_pcg), Partial(_broken_pcg))


def _scalar(omega):
    omega = jnp.asarray(omega, float_dtype(omega))
    if omega.ndim:
        raise ValueError(f"omega must be a scalar, got shape {omega.shape}; use jax.vmap to sweep it")
    return omega


def _trouble(diagonal, omega=None):
    code = status.flag(jnp.any(diagonal == 0), status.SINGULAR)
    if omega is not None:
        # Written so that a NaN counts as outside.
        code = code | status.flag(~((omega > 0) & (omega < 2)), status.OUT_OF_RANGE)
    return code


def _identity(x):
    return x


def _prepare_cg(op) -> System:
    return System(Partial(_identity), Partial(_identity), op.mv, Partial(_identity), jnp.int32(status.OK))


def _prepare_sor(omega, op) -> System:
    ordered = op.ordered
    omega = omega.astype(op.diagonal.dtype)
    return System(ordered.pack, ordered.unpack, ordered.mv, ordered.lower(omega), _trouble(op.diagonal, omega))


def _prepare_ssor(omega, op, *, forward: bool) -> System:
    ordered = op.ordered
    omega = omega.astype(op.diagonal.dtype)
    first, second = ordered.lower(omega), ordered.upper(omega)
    if not forward:
        first, second = second, first
    # (D + omega L)^-1 = (D/omega + L)^-1 / omega, twice.
    middle = (2 - omega) / omega * ordered.diagonal
    apply = Partial(_apply_ssor, first, second, middle)
    return System(ordered.pack, ordered.unpack, ordered.mv, apply, _trouble(op.diagonal, omega))


def _apply_ssor(first, second, middle, r):
    return second(middle * first(r))


def _init_stationary(system: System, b, x0) -> StationaryState:
    return StationaryState(x0, tree.sub(b, system.mv(x0)))


def _step_sor(system: System, b, state: StationaryState) -> StationaryState:
    # Residual form of the sweep: the residual is needed for the stopping test in any case.
    x = state.x + system.apply(state.r)
    return StationaryState(x, b - system.mv(x))


def _broken_sor(system: System, state: StationaryState):
    return system.status


def _init_krylov(system: System, b, x0) -> KrylovState:
    r = tree.sub(b, system.mv(x0))
    rho = jnp.ones((), tree.dot(r, r).dtype)
    return KrylovState(x0, r, tree.zeros_like(r), rho, jnp.int32(status.OK))


def _step_pcg(system: System, b, state: KrylovState) -> KrylovState:
    z = system.apply(state.r)
    rho = tree.dot(state.r, z)
    p = tree.axpy(rho / state.rho, state.p, z)  # the first p is z because state.p starts at 0
    q = system.mv(p)
    curvature = tree.dot(p, q)
    # A or M is not positive definite: no step along p makes sense, so stay and say so.
    broken = (curvature <= 0) | (rho <= 0)
    alpha = jnp.where(broken, 0, rho / jnp.where(broken, 1, curvature))
    return KrylovState(
        tree.axpy(alpha, p, state.x),
        tree.axpy(-alpha, q, state.r),
        p,
        rho,
        state.status | status.flag(broken, status.SINGULAR),
    )


def _broken_pcg(system: System, state: KrylovState):
    return system.status | state.status


__all__ = ["KrylovState", "StationaryState", "System", "cg", "sor", "ssor_pcg"]
