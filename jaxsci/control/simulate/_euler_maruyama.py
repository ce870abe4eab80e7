r"""Euler-Maruyama: $X_{k+1} = X_k + b(t_k, X_k, u_k)\Delta_k + \sigma(t_k, X_k, u_k)\Delta W_k$.

A step of length 0 changes nothing, and that is all that padding is: past the horizon, and after a failure, steps have
length 0. So paths over one horizon with different steps dt have equal shapes, and dt may be a vmapped axis.

Reference: P. E. Kloeden, E. Platen, *Numerical Solution of Stochastic Differential Equations*, 1992, section 10.2.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.control.problems import SDE
from jaxsci.control.simulate._brownian import drawn, normal, root
from jaxsci.control.simulate._path import SNAP, Path, Transition, num_intervals, shaped
from jaxsci.core import keys, precision, status, tree
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray, Scalar, as_real, float_dtype, is_concrete


class SimulationState(NamedTuple):
    """Where a simulation stands.

    Attributes:
        t: time reached.
        x: state at that time.
        index: global index of the next step, which names its random key.
        status: bits so far; once one is set, the simulation stands still; 0 = ok.
    """

    t: Float[Array, ""]
    x: Float[Array, "*d"]
    index: Int[Array, ""]
    status: Int[Array, ""]


def init(x0: Float[ArrayLike, "*d"], *, t: Scalar = 0.0) -> SimulationState:
    """The state before step 0, at time t. A non-finite x0 is reported, and the simulation then stands still at 0.

    Example:
        >>> from jaxsci import control
        >>> state = control.simulate.init(1.5)
        >>> print(float(state.x), int(state.index), int(state.status))
        1.5 0 0
    """
    dtype = float_dtype(x0)
    return _init(as_real(x0, dtype), as_real(t, dtype))


@eqx.filter_jit
def _init(x0, t):
    bad = ~tree.all_finite((x0, t))
    x0, t = tree.where(bad, tree.zeros_like((x0, t)), (x0, t))
    return SimulationState(t, x0, jnp.int32(0), status.flag(bad, status.NONFINITE_INPUT))


def step(
    key: KeyArray | None,
    problem: SDE,
    policy: Callable | None,
    state: SimulationState,
    dt: Scalar,
    increment: Float[ArrayLike, "..."] | None = None,
    *,
    t_next: Scalar | None = None,
) -> tuple[SimulationState, Transition]:
    """One Euler-Maruyama step; `euler_maruyama` is its scan.

    Args:
        key: the key of the whole simulation, the same at every step; None when nothing is drawn.
        problem, policy: as in `euler_maruyama`.
        state: from `init` or the step before.
        dt: length of the step, traced.
        increment: Brownian increment over the step; drawn when None.
        t_next: end of the step as an exact grid point, t + dt by default.

    Returns:
        ``(state, transition)``.

    Example:
        >>> import jax
        >>> from jaxsci import control
        >>> problem = control.sde(lambda t, x, u, args: -x, lambda t, x, u, args: 0.0)
        >>> state, seen = control.simulate.step(jax.random.key(0), problem, None, control.simulate.init(1.0), 0.1)
        >>> print(f"{state.x:.2f} {seen.t_next:.1f}")
        0.90 0.1
    """
    dtype = state.x.dtype
    dt = as_real(dt, dtype)
    increment = None if increment is None else as_real(increment, dtype)
    t_next = None if t_next is None else as_real(t_next, dtype)
    return _step(_checked(key, "simulate.step"), problem, policy, state, dt, increment, t_next)


@eqx.filter_jit
def _step(key, problem, policy, state, dt, increment, t_next):
    if increment is None:
        shape = _noise_shape(problem, policy, state.t, state.x)
        increment = normal(_drawing(key, "simulate.step"), state.index, shape, dt.dtype) * root(dt)
    return _advance(key, problem, policy, state, dt, increment, state.t + dt if t_next is None else t_next)


def _advance(key, problem, policy, state, dt, increment, t_next, live=None):
    """One step; `live` is (t, x) where the functions are evaluated in a step of length 0."""
    # Nothing happens in a step of length 0, whatever the functions give there: a drift with a pole at the horizon. They
    # are evaluated where the path last moved, since the derivative of a pole that is not selected is still a NaN.
    still = dt == 0
    t, x = (state.t, state.x) if live is None else tree.where(still, live, (state.t, state.x))
    u = _control(policy, key, state.index, t, x)
    drift = shaped(problem.drift(t, x, u, problem.args), x.shape, x.dtype, "drift")
    diffusion = jnp.asarray(problem.diffusion(t, x, u, problem.args), x.dtype)
    reward = shaped(problem.reward(t, x, u, problem.args), (), x.dtype, "reward")
    new = x + drift * dt + _product(diffusion, increment, x.shape)
    t, x = state.t, state.x
    new = tree.where(still, x, new)
    reward, u = tree.where(still, tree.zeros_like((reward, u)), (reward, u))
    code = state.status | status.flag(~(dt >= 0) | ~(problem.discount >= 0), status.OUT_OF_RANGE)
    code = code | status.flag(~tree.all_finite((new, reward, u)), status.NONFINITE_RESULT)
    # From the first bad step on the path stands still, in steps of length 0: nothing is learnt from it.
    lost = code != status.OK
    t_next, x_next = jnp.where(lost, t, t_next), tree.where(lost, x, new)
    reward, dt, u = tree.where(lost, tree.zeros_like((reward, dt, u)), (reward, dt, u))
    transition = Transition(t, x, u, reward, dt, t_next, x_next, state.index == 0)
    return SimulationState(t_next, x_next, state.index + 1, code), transition


def euler_maruyama(
    key: KeyArray | None,
    problem: SDE,
    policy: Callable | None,
    x0: Float[ArrayLike, "*d"],
    *,
    num_steps: int | None = None,
    dt: Scalar | None = None,
    times: Float[ArrayLike, " num_times"] | None = None,
    increments: Float[ArrayLike, "K ..."] | None = None,
) -> Path:
    r"""Simulate one path, $X_{k+1} = X_k + b\,\Delta_k + \sigma\,\Delta W_k$, as one compiled scan.

    Args:
        key: typed key; step k draws from ``fold_in(key, k)``. None when `increments` are given and the policy is
            deterministic.
        problem: from `control.sde`.
        policy: ``policy(key, t, x) -> u``, None for no control.
        x0: initial state, an array of any shape, traced.
        num_steps: K, static; not needed with `times`.
        dt: length of a step, traced; horizon / num_steps by default. Steps past the horizon have length 0.
        times: an ascending grid instead of `num_steps` and `dt`, traced.
        increments: Brownian increments, leading axis K, in place of drawn ones, for common random numbers (see
            `increments` and `coarsen`); those of steps of length 0 are not looked at.

    Returns:
        A `Path`. Status bits: non-finite input (x0), non-finite result, out of range (times that descend, a negative
        discount, a horizon that is NaN or negative, no dt and no finite horizon).

    Raises:
        ValueError: a function or `increments` of the wrong shape, or no grid (both or neither of its two forms, or no
            dt where the horizon is not finite).
        TypeError: an untyped key, or none where one is drawn from.

    Differentiable in everything that is traced, given the draws.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> problem = control.sde(lambda t, x, u, args: u, lambda t, x, u, args: 0.1)
        >>> def policy(key, t, x): return -x
        >>> path = control.euler_maruyama(jax.random.key(0), problem, policy, jnp.ones(2), num_steps=50, dt=0.1)
        >>> print(path.xs.shape, path.us.shape, int(path.status))
        (51, 2) (50, 2) 0

    References: Kloeden and Platen 1992, equation 10.2.4.
    """
    key = _checked(key, "euler_maruyama")
    if (times is None) == (num_steps is None) or (times is not None and dt is not None):
        raise ValueError("euler_maruyama: expected either num_steps (and dt) or times alone")
    if times is None and dt is None and is_concrete(problem.horizon) and np.any(np.isinf(problem.horizon)):
        raise ValueError(
            "euler_maruyama: dt must be given for a problem whose horizon is infinite; name dt=, or horizon= in "
            "control.sde"
        )
    dtype = float_dtype(x0, *([] if increments is None else [increments]))
    if times is not None:
        num_steps = num_intervals(times, "euler_maruyama")
    num_steps = check_size("euler_maruyama", "num_steps", num_steps, least=0)
    x0, times, dt, increments = (None if a is None else as_real(a, dtype) for a in (x0, times, dt, increments))
    if increments is not None and (increments.ndim == 0 or increments.shape[0] != num_steps):
        raise ValueError(f"euler_maruyama: increments need the leading axis {num_steps}, got shape {increments.shape}")
    return _simulate(key, problem, policy, x0, num_steps, dt, times, increments)


@eqx.filter_jit
def _simulate(key, problem, policy, x0, num_steps: int, dt, times, dw):
    ts, dts, code = _grid(problem.horizon.astype(x0.dtype), num_steps, dt, times)
    state = _init(x0, ts[0])
    state = state._replace(status=state.status | code)
    if dw is None:
        shape = _noise_shape(problem, policy, state.t, state.x)
        dw = drawn(_drawing(key, "euler_maruyama"), dts, shape)

    def body(carry, here):
        state, live = carry
        after, row = _advance(key, problem, policy, state, *here, live)
        return (after, tree.where(row.dt == 0, live, (state.t, state.x))), row

    (end, _), rows = jax.lax.scan(body, (state, (state.t, state.x)), (dts, dw, ts[1:]))
    start = jax.tree.map(lambda a: a[None], (state.t, state.x))
    ts, xs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), start, (rows.t_next, rows.x_next))
    return Path(ts, xs, rows.u, rows.reward, rows.dt, end.status)


def _grid(horizon, num_steps: int, dt, times):
    """Grid points, step lengths and their status."""
    sound = horizon >= 0
    if times is not None:
        code = status.flag(~tree.all_finite(times), status.NONFINITE_INPUT)
        return times, jnp.diff(times), code | status.flag(~sound, status.OUT_OF_RANGE)
    horizon = jnp.where(sound, horizon, 0)
    dt = horizon / max(num_steps, 1) if dt is None else dt
    good = jnp.isfinite(dt)
    dt = jnp.where(good, dt, 1)
    k = jnp.arange(num_steps + 1, dtype=dt.dtype)
    # With an infinite horizon nothing is past it.
    past = k * dt > horizon - SNAP * dt
    ts = jnp.where(past, horizon, k * dt)
    dts = jnp.where(past[1:], ts[1:] - ts[:-1], dt)
    return ts, jnp.where(past[:-1], 0, dts), status.flag(~(good & sound), status.OUT_OF_RANGE)


def _control(policy, key, index, t, x):
    if policy is None:
        return None
    mine = None if key is None else jax.random.fold_in(jax.random.fold_in(key, index), 1)
    return jax.tree.map(jnp.asarray, policy(mine, t, x))


def _noise_shape(problem, policy, t, x):
    """Shape of one Brownian increment, from the shape of the diffusion."""

    def diffusion(key, t, x):
        return jnp.asarray(problem.diffusion(t, x, _control(policy, key, 0, t, x), problem.args))

    shape = jax.eval_shape(diffusion, jax.random.key(0), t, x).shape
    if shape in (x.shape, ()):
        return x.shape
    if shape[:-1] == x.shape:
        return shape[-1:]
    raise ValueError(f"simulate: diffusion must return shape {x.shape}, () or {x.shape} + (noises,), got {shape}")


def _product(diffusion, increment, shape):
    if diffusion.shape == (*shape, *increment.shape) and increment.ndim == 1 and diffusion.ndim == len(shape) + 1:
        return precision.matmul(diffusion, increment)
    if diffusion.shape in (shape, ()) and increment.shape == shape:
        return diffusion * increment
    raise ValueError(
        f"simulate: diffusion of shape {diffusion.shape} and increments of shape {increment.shape} do not fit a state "
        f"of shape {shape}"
    )


def _checked(key, function: str):
    return None if key is None else keys.as_typed_key(key, function)


def _drawing(key, function: str):
    if key is None:
        raise TypeError(f"{function}: key is None but noise must be drawn; pass a typed key or increments")
    return key
