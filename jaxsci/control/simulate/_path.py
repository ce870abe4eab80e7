r"""Trajectories on a time grid: what simulations return and learning algorithms consume, and what a path earns.

$\sum_k e^{-\beta(t_k - t_0)} r_k \Delta_k + e^{-\beta(t_K - t_0)} h(X_K)$

Reference: Y. Jia, X. Y. Zhou 2022, Policy evaluation and temporal-difference learning in continuous time and space,
JMLR 23, section 2.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxsci.control.problems import ODE, SDE
from jaxsci.core import status, tree

# A grid point this near to the horizon, in steps, is the horizon: k * dt is rounded.
SNAP = 1e-2


class Path(NamedTuple):
    """A trajectory on a grid of K steps.

    Attributes:
        ts: times; repeated where nothing happens (past the horizon, after a failure).
        xs: states.
        us: controls over each step, leading axis K; 0 over steps of length 0. None when nothing is controlled.
        rs: reward rates at the left end of each step; 0 on steps of length 0.
        dts: lengths of the steps, more accurate than differences of `ts`.
        status: 0 = ok; otherwise the path stands still from the first bad step on.
    """

    ts: Float[Array, " K+1"]
    xs: Float[Array, "K+1 *d"]
    us: PyTree
    rs: Float[Array, " K"]
    dts: Float[Array, " K"]
    status: Int[Array, ""]


class Transition(NamedTuple):
    """One step of a path: what learning algorithms consume.

    Attributes:
        t: time at the start of the step.
        x: state at t.
        u: control over the step; None when nothing is controlled.
        reward: rate r at (t, x, u); the step earns r dt.
        dt: length of the step; 0 where nothing happens.
        t_next: time at the end of the step.
        x_next: state at t_next.
        first: True on the first step of an episode: eligibility traces start afresh.
    """

    t: Float[Array, ""]
    x: Float[Array, "*d"]
    u: PyTree
    reward: Float[Array, ""]
    dt: Float[Array, ""]
    t_next: Float[Array, ""]
    x_next: Float[Array, "*d"]
    first: Bool[Array, ""]


def transitions(path: Path) -> Transition:
    """The K steps of a path, stacked along the leading axis.

    Example:
        >>> import jax
        >>> from jaxsci import control
        >>> path = control.exact.brownian(jax.random.key(0), 0.0, num_steps=4, dt=0.5)
        >>> steps = control.transitions(path)
        >>> print(steps.x.shape, steps.first)
        (4,) [ True False False False]
    """
    first = jnp.arange(path.dts.shape[0]) == 0
    return Transition(path.ts[:-1], path.xs[:-1], path.us, path.rs, path.dts, path.ts[1:], path.xs[1:], first)


def rewarded(problem: SDE | ODE, path: Path) -> Path:
    """The same path with the reward rates of `problem`, 0 on steps of length 0; one that is not finite is reported.

    Example:
        >>> import jax
        >>> from jaxsci import control
        >>> problem = control.sde(lambda t, x, u, args: 0.0, lambda t, x, u, args: 1.0, lambda t, x, u, args: x**2)
        >>> path = control.exact.brownian(jax.random.key(0), 2.0, num_steps=3, dt=0.5)
        >>> print(float(control.rewarded(problem, path).rs[0]))
        4.0
    """
    return _rewarded(problem, path)


@eqx.filter_jit
def _rewarded(problem, path):
    def one(t, x, u):
        return shaped(problem.reward(t, x, u, problem.args), (), x.dtype, "reward")

    moves = path.dts != 0
    # As in `_advance`: no step of length 0 is evaluated where it stands.
    live = jax.lax.cummax(jnp.where(moves, jnp.arange(moves.size, dtype=jnp.int32), 0))
    rs = jax.vmap(one)(*jax.tree.map(lambda a: a[live], (path.ts, path.xs, path.us)))
    rs = jnp.where(moves, rs, 0)
    return path._replace(rs=rs, status=path.status | status.flag(~tree.all_finite(rs), status.NONFINITE_RESULT))


def discounted_return(problem: SDE | ODE, path: Path) -> Float[Array, ""]:
    r"""$\sum_k e^{-\beta(t_k - t_0)} r_k \Delta_k + e^{-\beta(t_K - t_0)} h(X_K)$, with h where there is one.

    h is paid at the horizon alone: a path that ends before it, or whose status is not 0, has earned its rewards so far.

    Example:
        >>> import jax
        >>> from jaxsci import control
        >>> still = lambda t, x, u, args: 0.0
        >>> problem = control.sde(lambda t, x, u, args: -x, still, lambda t, x, u, args: x, horizon=1.0)
        >>> path = control.euler_maruyama(jax.random.key(0), problem, None, 1.0, num_steps=100)
        >>> print(f"{control.discounted_return(problem, path):.2f}")
        0.63
    """
    return _return(problem, path)


@eqx.filter_jit
def _return(problem, path):
    dtype = path.ts.dtype
    weight = jnp.exp(-problem.discount.astype(dtype) * (path.ts - path.ts[0]))
    total = jnp.sum(weight[:-1] * path.rs * path.dts)
    if problem.terminal is None:
        return total
    end = shaped(problem.terminal(path.xs[-1]), (), path.xs.dtype, "terminal")
    near = problem.horizon.astype(dtype) - SNAP * jnp.max(path.dts, initial=0)
    return total + jnp.where((path.ts[-1] >= near) & (path.status == status.OK), weight[-1] * end, 0)


def shaped(value, shape, dtype, what: str):
    """`value` in the dtype of the state; a scalar fills any shape."""
    value = jnp.asarray(value)
    if value.shape not in (shape, ()):
        raise ValueError(f"simulate: {what} must return shape {shape}, got {value.shape}")
    return jnp.broadcast_to(value.astype(dtype), shape)


def num_intervals(times, function: str) -> int:
    """K of K + 1 sample times; raises where there is no interval."""
    shape = jnp.shape(times)
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"{function}: times must be a vector of at least two, got shape {shape}")
    return shape[0] - 1
