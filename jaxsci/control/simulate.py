r"""Simulation on a time grid: Euler-Maruyama for stochastic problems, adaptive Runge-Kutta for deterministic ones.

$X_{k+1} = X_k + b(t_k, X_k, u_k)\Delta_k + \sigma(t_k, X_k, u_k)\Delta W_k$, all functions at the left end of the step.

A step of length 0 changes nothing, and that is all that padding is: past the horizon, and after a failure, steps have
length 0. So paths over one horizon with different steps dt have equal shapes, and dt may be a vmapped axis.

Reference: P. E. Kloeden, E. Platen, *Numerical Solution of Stochastic Differential Equations*, 1992, section 10.2.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from jaxsci.control.problems import ODE, SDE
from jaxsci.core import extras, keys, status, tree
from jaxsci.core.types import KeyArray, float_dtype

# A grid point this near to the horizon, in steps, is the horizon: k * dt is rounded.
_SNAP = 1e-2


class Path(NamedTuple):
    """A trajectory on a grid of K steps."""

    ts: Float[Array, " K+1"]
    """Times; repeated where nothing happens (past the horizon, after a failure)."""
    xs: Float[Array, "K+1 *d"]
    """States."""
    us: PyTree
    """Controls over each step, leading axis K; 0 over steps of length 0. None when nothing is controlled."""
    rs: Float[Array, " K"]
    """Reward rates at the left end of each step; 0 on steps of length 0."""
    dts: Float[Array, " K"]
    """Lengths of the steps, more accurate than differences of `ts`."""
    status: Int[Array, ""]
    """0 = ok; otherwise the path stands still from the first bad step on."""


class Transition(NamedTuple):
    """One step of a path: what learning algorithms consume."""

    t: Float[Array, ""]
    x: Float[Array, "*d"]
    u: PyTree
    reward: Float[Array, ""]
    """Rate r at (t, x, u); the step earns r dt."""
    dt: Float[Array, ""]
    t_next: Float[Array, ""]
    x_next: Float[Array, "*d"]
    first: Bool[Array, ""]
    """True on the first step of an episode: eligibility traces start afresh."""


class SimulationState(NamedTuple):
    """Where a simulation stands."""

    t: Float[Array, ""]
    x: Float[Array, "*d"]
    index: Int[Array, ""]
    """Global index of the next step, which names its random key."""
    status: Int[Array, ""]


def init(x0: Float[ArrayLike, "*d"], *, t: ArrayLike = 0.0) -> SimulationState:
    """The state before step 0, at time t. A non-finite x0 is reported, and the simulation then stands still at 0."""
    dtype = float_dtype(x0)
    return _init(jnp.asarray(x0, dtype), jnp.asarray(t, dtype))


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
    dt: ArrayLike,
    increment: Float[ArrayLike, "..."] | None = None,
    *,
    t_next: ArrayLike | None = None,
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
    """
    dtype = state.x.dtype
    dt = jnp.asarray(dt, dtype)
    increment = None if increment is None else jnp.asarray(increment, dtype)
    t_next = None if t_next is None else jnp.asarray(t_next, dtype)
    return _step(_checked(key, "simulate.step"), problem, policy, state, dt, increment, t_next)


@eqx.filter_jit
def _step(key, problem, policy, state, dt, increment, t_next):
    if increment is None:
        shape = _noise_shape(problem, policy, state.t, state.x)
        increment = _normal(_drawing(key, "simulate.step"), state.index, shape, dt.dtype) * _root(dt)
    return _advance(key, problem, policy, state, dt, increment, state.t + dt if t_next is None else t_next)


def _advance(key, problem, policy, state, dt, increment, t_next, live=None):
    """One step; `live` is (t, x) where the functions are evaluated in a step of length 0."""
    # Nothing happens in a step of length 0, whatever the functions give there: a drift with a pole at the horizon. They
    # are evaluated where the path last moved, since the derivative of a pole that is not selected is still a NaN.
    still = dt == 0
    t, x = (state.t, state.x) if live is None else tree.where(still, live, (state.t, state.x))
    u = _control(policy, key, state.index, t, x)
    drift = _shaped(problem.drift(t, x, u, problem.args), x.shape, x.dtype, "drift")
    diffusion = jnp.asarray(problem.diffusion(t, x, u, problem.args), x.dtype)
    reward = _shaped(problem.reward(t, x, u, problem.args), (), x.dtype, "reward")
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
    dt: ArrayLike | None = None,
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
        ValueError: a function or `increments` of the wrong shape, or no grid (both or neither of its two forms).
        TypeError: an untyped key, or none where one is drawn from.

    Differentiable in everything that is traced, given the draws.

    References: Kloeden and Platen 1992, equation 10.2.4.
    """
    key = _checked(key, "euler_maruyama")
    if (times is None) == (num_steps is None) or (times is not None and dt is not None):
        raise ValueError("euler_maruyama: expected either num_steps (and dt) or times alone")
    dtype = float_dtype(x0, *([] if increments is None else [increments]))
    if times is not None:
        num_steps = _num_steps(times, "euler_maruyama")
    if num_steps < 0:
        raise ValueError(f"euler_maruyama: num_steps must be >= 0, got {num_steps}")
    x0, times, dt, increments = (
        None if a is None else jnp.asarray(a, dtype) for a in (x0, times, dt, increments)
    )
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
        dw = _drawn(_drawing(key, "euler_maruyama"), dts, shape)

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
    past = k * dt > horizon - _SNAP * dt
    ts = jnp.where(past, horizon, k * dt)
    dts = jnp.where(past[1:], ts[1:] - ts[:-1], dt)
    return ts, jnp.where(past[:-1], 0, dts), status.flag(~(good & sound), status.OUT_OF_RANGE)


def increments(
    key: KeyArray, num_steps: int, dt: ArrayLike, shape: tuple[int, ...] = (), *, dtype=None
) -> Float[Array, "K ..."]:
    """Brownian increments of K steps, the ones `euler_maruyama` draws at the same key.

    Args:
        key: typed key; increment k is drawn from ``fold_in(key, k)``.
        num_steps: K, static.
        dt: length of every step, or one for each, shape (K,); traced.
        shape: of one increment, static.
        dtype: that of `dt` by default.

    Returns:
        Shape (K, *shape), variance dt.
    """
    dtype = jnp.dtype(dtype) if dtype is not None else float_dtype(dt)
    dt = jnp.asarray(dt, dtype)
    if dt.shape not in ((), (num_steps,)):
        raise ValueError(f"increments: dt must have shape () or ({num_steps},), got {dt.shape}")
    return _increments(keys.as_typed_key(key, "increments"), dt, num_steps, tuple(shape))


@eqx.filter_jit
def _increments(key, dt, num_steps: int, shape):
    return _drawn(key, jnp.broadcast_to(dt, (num_steps,)), shape)


def _drawn(key, dts, shape):
    # All at once: a draw inside the loop costs several times the step itself.
    normals = jax.vmap(lambda k: _normal(key, k, shape, dts.dtype))(jnp.arange(dts.shape[0], dtype=jnp.int32))
    return normals * _root(dts).reshape(-1, *(1 for _ in shape))


def _root(dt):
    """sqrt(dt), 0 where there is none, with derivatives of 0 there."""
    return jnp.where(dt > 0, jnp.sqrt(jnp.where(dt > 0, dt, 1)), 0)


def _normal(key, index, shape, dtype):
    return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, index), 0), shape, dtype)


def coarsen(
    fine: Float[Array, "K ..."], factor: int | Int[ArrayLike, ""], *, num_steps: int | None = None
) -> Float[Array, "L ..."]:
    """Brownian increments over steps `factor` times as long: sums of blocks, so that all grids see the same path.

    Args:
        fine: increments on the finest grid, leading axis K.
        factor: steps in a block; static, or traced when `num_steps` is given.
        num_steps: length of the result, static; K / factor by default. Padded with zeros, so that grids of several
            steps stack and the factor may be a vmapped axis. Blocks past `num_steps` are dropped.

    Raises:
        ValueError: factor is static and no integer >= 1, or does not divide K.

    A traced factor below 1 gives NaN, which `euler_maruyama` reports.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> fine = control.increments(jax.random.key(0), 12, 0.1)
        >>> coarse = jax.vmap(lambda f: control.coarsen(fine, f, num_steps=12))(jnp.array([1, 2, 3]))
        >>> coarse.shape, bool(jnp.allclose(coarse.sum(1), fine.sum()))
        ((3, 12), True)
    """
    fine = jnp.asarray(fine)
    length = fine.shape[0]
    if not isinstance(factor, jax.Array) and (factor < 1 or factor != int(factor)):
        raise ValueError(f"coarsen: factor must be an integer >= 1, got {factor}")
    if num_steps is None:
        if isinstance(factor, jax.core.Tracer):
            raise TypeError("coarsen: factor must be static without num_steps; pass num_steps to pad the result")
        if factor < 1 or length % int(factor):
            raise ValueError(f"coarsen: factor must divide the {length} steps, got {factor}")
        num_steps = length // int(factor)
    return _coarsen(fine, jnp.asarray(factor, jnp.int32), num_steps)


@eqx.filter_jit
def _coarsen(fine, factor, num_steps: int):
    blocks = jnp.arange(fine.shape[0], dtype=jnp.int32) // jnp.maximum(factor, 1)
    sums = jax.ops.segment_sum(fine, blocks, num_segments=num_steps, indices_are_sorted=True)
    return jnp.where(factor >= 1, sums, jnp.nan)


def transitions(path: Path) -> Transition:
    """The K steps of a path, stacked along the leading axis."""
    first = jnp.arange(path.dts.shape[0]) == 0
    return Transition(
        path.ts[:-1], path.xs[:-1], path.us, path.rs, path.dts, path.ts[1:], path.xs[1:], first
    )


def rewarded(problem: SDE | ODE, path: Path) -> Path:
    """The same path with the reward rates of `problem`, 0 on steps of length 0; one that is not finite is reported."""
    return _rewarded(problem, path)


@eqx.filter_jit
def _rewarded(problem, path):
    def one(t, x, u):
        return _shaped(problem.reward(t, x, u, problem.args), (), x.dtype, "reward")

    moves = path.dts != 0
    # As in `_advance`: no step of length 0 is evaluated where it stands.
    live = jax.lax.cummax(jnp.where(moves, jnp.arange(moves.size, dtype=jnp.int32), 0))
    rs = jax.vmap(one)(*jax.tree.map(lambda a: a[live], (path.ts, path.xs, path.us)))
    rs = jnp.where(moves, rs, 0)
    return path._replace(rs=rs, status=path.status | status.flag(~tree.all_finite(rs), status.NONFINITE_RESULT))


def discounted_return(problem: SDE | ODE, path: Path) -> Float[Array, ""]:
    r"""$\sum_k e^{-\beta(t_k - t_0)} r_k \Delta_k + e^{-\beta(t_K - t_0)} h(X_K)$, with h where there is one.

    h is paid at the horizon alone: a path that ends before it, or whose status is not 0, has earned its rewards so far.
    """
    return _return(problem, path)


@eqx.filter_jit
def _return(problem, path):
    dtype = path.ts.dtype
    weight = jnp.exp(-problem.discount.astype(dtype) * (path.ts - path.ts[0]))
    total = jnp.sum(weight[:-1] * path.rs * path.dts)
    if problem.terminal is None:
        return total
    end = _shaped(problem.terminal(path.xs[-1]), (), path.xs.dtype, "terminal")
    near = problem.horizon.astype(dtype) - _SNAP * jnp.max(path.dts, initial=0)
    return total + jnp.where((path.ts[-1] >= near) & (path.status == status.OK), weight[-1] * end, 0)


def rollout(
    problem: ODE,
    policy: Callable | None,
    x0: Float[ArrayLike, "*d"],
    *,
    times: Float[ArrayLike, " num_times"],
    rtol: ArrayLike = 1e-6,
    atol: ArrayLike = 1e-9,
    max_steps: int = 16_384,
) -> Path:
    """Follow a deterministic problem to a tolerance; every sample time is the end of a step of the integrator.

    Interpolated samples would be of lower order than the integrator (Tsit5, order 5), so its steps are cut at `times`.

    Args:
        problem: from `control.ode`.
        policy: ``policy(key, t, x) -> u``, called with the key None at every stage; None for no control.
        x0: initial state, traced.
        times: K + 1 ascending sample times, traced.
        rtol, atol: tolerances of the adaptive steps, traced. float32 wants rtol of 1e-5 or more.
        max_steps: cap on the integrator's steps, static.

    Returns:
        A `Path` with reward rates at the left ends. Status bits: non-finite input, cap reached, non-finite result, out
        of range (times that do not ascend, a negative discount); the path then stands still at the last good sample.
        A reward or a control that is not finite is reported as a non-finite result and stays where it is.

    Raises:
        ValueError: `times` is not a vector of at least two, or a function gives the wrong shape.
        ImportError: diffrax is missing (extra "ode").

    References: Tsitouras 2011, Runge-Kutta pairs of order 5(4).
    """
    dtype = float_dtype(x0)
    _num_steps(times, "rollout")
    x0, times, rtol, atol = (jnp.asarray(a, dtype) for a in (x0, times, rtol, atol))
    return _rollout(problem, policy, x0, times, rtol, atol, max_steps)


@eqx.filter_jit
def _rollout(problem, policy, x0, times, rtol, atol, max_steps: int):
    dfx = extras.require("diffrax", "ode", "control.rollout")
    unsorted = ~jnp.all(jnp.diff(times) > 0) | ~(problem.discount >= 0)
    bad = ~tree.all_finite((x0, times))
    code = status.flag(bad, status.NONFINITE_INPUT) | status.flag(~bad & unsorted, status.OUT_OF_RANGE)
    # The integrator must not see them: run it on something harmless and report.
    x0 = tree.where(bad, tree.zeros_like(x0), x0)
    times = jnp.where(code != status.OK, jnp.arange(times.shape[0], dtype=times.dtype), times)

    def field(t, x, _):
        u = None if policy is None else policy(None, t, x)
        return _shaped(problem.drift(t, x, u, problem.args), x.shape, x.dtype, "drift")

    solution = dfx.diffeqsolve(
        dfx.ODETerm(field),
        dfx.Tsit5(),
        times[0],
        times[-1],
        None,
        x0,
        saveat=dfx.SaveAt(ts=times),
        stepsize_controller=dfx.ClipStepSizeController(dfx.PIDController(rtol=rtol, atol=atol), step_ts=times),
        max_steps=max_steps,
        throw=False,
    )
    capped = solution.result == dfx.RESULTS.max_steps_reached
    failed = solution.result != dfx.RESULTS.successful
    code = code | status.flag(capped, status.MAX_STEPS) | status.flag(failed & ~capped, status.NONFINITE_RESULT)
    good = jnp.isfinite(solution.ys.reshape(times.shape[0], -1)).all(1)
    code = code | status.flag(~good.all() & ~failed, status.NONFINITE_RESULT)
    # Samples after a failure are infinite: repeat the last good one.
    last = jnp.maximum(jnp.sum(jnp.cumprod(good)) - 1, 0)
    index = jnp.where(code & ~(status.MAX_STEPS | status.NONFINITE_RESULT) != 0, 0, last)
    index = jnp.minimum(jnp.arange(times.shape[0]), index)
    ts, xs = times[index], jnp.where(good[0], solution.ys[index], x0)
    us = None if policy is None else jax.vmap(lambda t, x: policy(None, t, x))(ts[:-1], xs[:-1])
    dts = jnp.diff(ts)
    us = jax.tree.map(lambda u: jnp.where((dts != 0).reshape(-1, *(1 for _ in u.shape[1:])), u, 0), us)
    code = code | status.flag(~tree.all_finite(us), status.NONFINITE_RESULT)
    return _rewarded(problem, Path(ts, xs, us, jnp.zeros_like(ts[1:]), dts, code))


def _control(policy, key, index, t, x):
    if policy is None:
        return None
    mine = None if key is None else jax.random.fold_in(jax.random.fold_in(key, index), 1)
    return jax.tree.map(jnp.asarray, policy(mine, t, x))


def _shaped(value, shape, dtype, what: str):
    """`value` in the dtype of the state; a scalar fills any shape."""
    value = jnp.asarray(value)
    if value.shape not in (shape, ()):
        raise ValueError(f"simulate: {what} must return shape {shape}, got {value.shape}")
    return jnp.broadcast_to(value.astype(dtype), shape)


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
        return jnp.matmul(diffusion, increment, precision=jax.lax.Precision.HIGHEST)
    if diffusion.shape in (shape, ()) and increment.shape == shape:
        return diffusion * increment
    raise ValueError(
        f"simulate: diffusion of shape {diffusion.shape} and increments of shape {increment.shape} do not fit a state "
        f"of shape {shape}"
    )


def _num_steps(times, function: str) -> int:
    shape = jnp.shape(times)
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"{function}: times must be a vector of at least two, got shape {shape}")
    return shape[0] - 1


def _checked(key, function: str):
    return None if key is None else keys.as_typed_key(key, function)


def _drawing(key, function: str):
    if key is None:
        raise TypeError(f"{function}: key is None but noise must be drawn; pass a typed key or increments")
    return key


__all__ = [
    "Path",
    "SimulationState",
    "Transition",
    "coarsen",
    "discounted_return",
    "euler_maruyama",
    "increments",
    "init",
    "rewarded",
    "rollout",
    "step",
    "transitions",
]
