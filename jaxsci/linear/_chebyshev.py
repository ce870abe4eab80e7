r"""Chebyshev iteration: the residual polynomial that is smallest on an interval $[a, b]$ holding the spectrum.

With $\theta = (a+b)/2$, $\delta = (b-a)/2$: $\rho_0 = \delta/\theta$, $d_0 = r_0/\theta$, then $x \mathrel{+}= d$,
$\rho_{k+1} = 1/(2\theta/\delta - \rho_k)$, $d \leftarrow \rho_{k+1}\rho_k d + (2\rho_{k+1}/\delta) r$. No inner
products: nothing to reduce across devices. At most $\ln(2/\mathrm{tol}) / \ln((\sqrt\kappa+1)/(\sqrt\kappa-1))$ steps.

Reference: Saad 2003, Iterative Methods for Sparse Linear Systems, section 12.3.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxsci.core import entry, status, tree
from jaxsci.core.protocols import Solver
from jaxsci.core.types import Scalar, as_scalar
from jaxsci.linear._system import System, identity


class ChebyshevState(NamedTuple):
    r"""What Chebyshev iteration carries from step to step.

    Attributes:
        x: iterate.
        r: residual b - A x.
        d: correction that the next step adds to x.
        rho: $\rho_k$ of the recurrence.
    """

    x: Float[Array, "..."]
    r: Float[Array, "..."]
    d: Float[Array, "..."]
    rho: Float[Array, ""]


class Interval(NamedTuple):
    r"""The interval that the spectrum lies in.

    Attributes:
        centre: $\theta = (a + b)/2$.
        half: $\delta = (b - a)/2$.
    """

    centre: Float[Array, ""]
    half: Float[Array, ""]


def chebyshev(low: Scalar, high: Scalar) -> Solver:
    r"""Chebyshev iteration for symmetric positive definite A with eigenvalues in [low, high].

    Args:
        low, high: 0 < low <= high, traced, e.g. from `linear.bounds`; else the result carries `status.OUT_OF_RANGE`
            and no step runs. A `high` so small that an eigenvalue exceeds low + high diverges, and says so; a `low`
            that is too large converges at the pace of the eigenvalues below it.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op, b = linear.operators.shifted_laplacian((8, 8), 1.0), jnp.ones((8, 8))
        >>> result = linear.solve(op, b, method=linear.methods.chebyshev(1.0, 9.0), tol=1e-4)
        >>> bool(result.steps < 30), int(result.status)
        (True, 0)

    References: Golub and Varga 1961; Saad 2003, section 12.3, algorithm 12.1.
    """
    prepare = Partial(_prepare, as_scalar(low, "chebyshev", "low"), as_scalar(high, "chebyshev", "high"))
    return Solver(prepare, Partial(_init), Partial(_step), Partial(_broken))


def _prepare(low, high, op) -> System:
    # Written so that a NaN counts as outside.
    inside = (low > 0) & (low <= high) & jnp.isfinite(high)
    low, high = jnp.where(inside, low, 1), jnp.where(inside, high, 1)
    interval = Interval((low + high) / 2, (high - low) / 2)
    code = status.flag(~inside, status.OUT_OF_RANGE)
    return System(Partial(identity), Partial(identity), op.mv, interval, code)


def _interval(system: System, dtype) -> Interval:
    return Interval(*(a.astype(dtype) for a in system.apply))


def _init(system: System, b, x0) -> ChebyshevState:
    r = tree.sub(b, system.mv(x0))
    centre, half = _interval(system, r.dtype)
    return ChebyshevState(x0, r, r / centre, half / centre)


def _step(system: System, b, state: ChebyshevState) -> ChebyshevState:
    centre, half = _interval(system, state.r.dtype)
    x = state.x + state.d
    # b - A x costs one product, as the recursion r - A d does, and cannot drift.
    r = b - system.mv(x)
    # rho / half, which is finite also where the interval is a point.
    step = 1 / (2 * centre - half * state.rho)
    rho = half * step
    return ChebyshevState(x, r, rho * state.rho * state.d + 2 * step * r, rho)


def _broken(system: System, state: ChebyshevState):
    return system.status


__all__ = ["ChebyshevState", "Interval", "chebyshev"]

entry.hold(globals(), "_broken", "_init", "_prepare", "_step")
