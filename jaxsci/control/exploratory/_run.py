r"""Learning while acting on an Euler-Maruyama trajectory, and learning from recorded transitions.

$X_{i+1} = X_i + (AX_i + Ba_i)dt + (CX_i + Da_i)\sqrt{dt}\,\xi_i$ with $a_i$ drawn from the current policy; the noise of
step i comes from ``fold_in(key, i)``. The learner sees (x, a, r, x') and never the coefficients.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.control.exploratory._data import LARGEST, Experience, check_steps, move, normals, prepare
from jaxsci.control.exploratory._learners import Learner, Parameters, project
from jaxsci.control.exploratory._problem import ExploratoryLQ, as_scalars, trouble
from jaxsci.core import status, tree
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.protocols import Result
from jaxsci.core.static import check_size
from jaxsci.core.types import Scalar, as_real, float_dtype


class OnlineState(NamedTuple):
    """Where learning stands.

    Attributes:
        x: state of the system.
        parameters: parameters learnt so far.
        step: steps done, int32: the global index of the next one, which names its random key.
        status: bits so far; 0 = ok.
    """

    x: Float[Array, ""]
    parameters: Parameters
    step: Int[Array, ""]
    status: Int[Array, ""]


class History(NamedTuple):
    """One entry for each record, a stretch of `record_every` steps.

    Attributes:
        time: elapsed time at the record's end.
        parameters: parameters at the record's end.
        reward: mean reward rate over the record's steps, without entropy; NaN once the run has stopped, see its status.
    """

    time: Float[Array, " num_records"]
    parameters: Parameters
    reward: Float[Array, " num_records"]


def init(problem: ExploratoryLQ, learner: Learner, *, x0: Scalar = 0.0) -> OnlineState:
    """The state before the first step.

    Args:
        problem: scalars, traced.
        learner: `actor_critic(...)` or `q_learning(...)`.
        x0: where the system starts, traced.

    Raises:
        ValueError: a field of `problem` or `x0` is not a scalar.

    Example:
        >>> from jaxsci.control import exploratory
        >>> problem = exploratory.ExploratoryLQ(-1.0, 0.5, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.1, 0.0)
        >>> state = exploratory.init(problem, exploratory.q_learning(), x0=0.5)
        >>> print(float(state.x), int(state.step))
        0.5 0
    """
    problem, learner, x0 = prepare("exploratory.init", problem, learner, x0)
    return _init(problem, learner, x0)


@eqx.filter_jit
def _init(problem, learner, x0):
    return OnlineState(x0, project(learner, learner.start), jnp.int32(0), trouble(problem, x0 * 0, x0, learner.start))


def step(
    key, state: OnlineState, problem: ExploratoryLQ, learner: Learner, *, dt: Scalar
) -> tuple[OnlineState, Experience]:
    """Act once and learn from it; `run` is the scan of this.

    Args:
        key: typed key of the whole run; the step's own is ``fold_in(key, state.step)``.
        state: from `init` or the step before.
        problem, learner: as in `run`.
        dt: time step > 0, traced.

    Returns:
        The new state and the transition. A step that leaves the floats or ±1e6, or makes the policy's standard
        deviation wider than 1e6 or narrower than 1e-6, is not taken: the state stays and its status says diverged, for
        good.

    Example:
        >>> import jax
        >>> from jaxsci.control import exploratory
        >>> problem = exploratory.ExploratoryLQ(-1.0, 0.5, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.1, 0.0)
        >>> learner = exploratory.q_learning()
        >>> state = exploratory.init(problem, learner)
        >>> state, seen = exploratory.step(jax.random.key(0), state, problem, learner, dt=0.01)
        >>> print(int(state.step), int(state.status))
        1 0
    """
    key = as_typed_key(key, "exploratory.step")
    problem, learner, dt = prepare("exploratory.step", problem, learner, dt)
    return _step(key, state, problem, learner, dt)


@eqx.filter_jit
def _step(key, state, problem, learner, dt):
    noise = jax.random.normal(jax.random.fold_in(unrolled(key), state.step), (2,), dt.dtype)
    return _advance(problem, learner, dt, state, noise)


def _advance(problem, learner, dt, state: OnlineState, noise):
    """One step with given standard normals, of the action and of the system."""
    policy = learner.policy(state.parameters, problem.temperature)
    transition = move(problem, policy, dt, state.x, noise)
    time = state.step.astype(dt.dtype) * dt
    change = learner.change(state.parameters, transition, time, problem.temperature, problem.discount, dt)
    after = project(learner, jax.tree.map(jnp.add, state.parameters, change))
    kept = _bounded(learner, after, problem.temperature) & (jnp.abs(transition.next_state) <= LARGEST)
    bad = state.status | status.flag(~(dt > 0), status.OUT_OF_RANGE)
    bad = bad | status.flag(~kept & (bad == status.OK), status.DIVERGED)
    x, after = tree.where(bad == status.OK, (transition.next_state, after), (state.x, state.parameters))
    return OnlineState(x, after, state.step + 1, bad), transition


def _bounded(learner, parameters: Parameters, temperature):
    """Whether parameters and policy are of a size to learn on; written so that a NaN counts as too large."""
    spread = learner.policy(parameters, temperature).log_variance
    small = jnp.stack([jnp.abs(a) <= LARGEST for a in parameters]).all()
    return small & (jnp.abs(spread) <= 2 * math.log(LARGEST))


def run(
    key,
    problem: ExploratoryLQ,
    learner: Learner,
    *,
    num_steps: int,
    dt: Scalar,
    record_every: int,
    x0: Scalar = 0.0,
    state: OnlineState | None = None,
) -> Result:
    """Learn online along one trajectory, in one compiled scan.

    Args:
        key: typed key; step i draws from ``fold_in(key, i)``.
        problem: the system, scalars, traced.
        learner: `actor_critic(...)` or `q_learning(...)`; rates, bounds and start are traced.
        num_steps: static, a multiple of `record_every`.
        dt: time step > 0, traced.
        record_every: steps in one record, static. The noise of a record is drawn at once: 2 numbers a step.
        x0: start of the system, traced; not read when `state` is given.
        state: where to go on, from an earlier call with the same key.

    Returns:
        A `core.protocols.Result`. value: the last `Parameters`. state: `OnlineState`. history: `History` with
        num_steps / record_every records. Status bits: diverged (the state stays where it was), out of range
        (temperature or dt not positive, negative discount), non-finite input.

    Raises:
        ValueError: num_steps is negative or no multiple of record_every; a field of `problem` is not a scalar.
        TypeError: `key` is not a typed key.

    Example:
        >>> import jax
        >>> from jaxsci.control import exploratory
        >>> problem = exploratory.ExploratoryLQ(A=-1., B=0., C=0., D=1., M=2., N=2., R=1., P=1., Q=2., temperature=.1)
        >>> seeds = jax.random.split(jax.random.key(0), 8)
        >>> def one(key):
        ...     return exploratory.run(
        ...         key, problem, exploratory.q_learning(), num_steps=20_000, dt=.01, record_every=1000)
        >>> result = jax.vmap(one)(seeds)
        >>> result.history.reward.shape, bool((abs(result.value.intercept.mean() + .708) < .2))
        ((8, 20), True)

    References: Jia and Zhou 2022, Policy Gradient and Actor-Critic Learning (JMLR 23:275), algorithm 3.
    """
    function = "exploratory.run"
    check_steps(function, num_steps, record_every)
    key = as_typed_key(key, function)
    problem, learner, dt, x0 = prepare(function, problem, learner, dt, x0)
    state = _init(problem, learner, x0) if state is None else state
    return _result(_run(key, problem, learner, dt, state, num_steps // record_every, record_every))


def _result(end: tuple[OnlineState, History]) -> Result:
    state, history = end
    return Result(state.parameters, state, history, state.status)


@eqx.filter_jit
def _run(key, problem, learner, dt, state, num_records: int, record_every: int):
    def one(carry, noise):
        state, total = carry
        state, transition = _advance(problem, learner, dt, state, noise)
        earned = jnp.where(state.status == status.OK, transition.reward, jnp.nan)
        return (state, total + earned), None

    def record(state, _):
        noise = normals(key, state.step, record_every, dt.dtype)
        (state, total), _ = jax.lax.scan(one, (state, jnp.zeros_like(dt)), noise)
        time = state.step.astype(dt.dtype) * dt
        return state, History(time, state.parameters, total / record_every)

    return jax.lax.scan(record, state, None, length=num_records)


def run_offline(
    key,
    learner: Learner,
    data: Experience,
    *,
    temperature: Scalar,
    num_steps: int,
    dt: Scalar,
    batch_size: int,
    record_every: int,
    discount: Scalar = 0.0,
    state: OnlineState | None = None,
) -> Result:
    """Learn from recorded transitions, whatever policy made them: each step averages increments over a random batch.

    Args:
        key: typed key; step i draws its batch from ``fold_in(key, i)``.
        learner: `q_learning(...)`.
        data: `Experience` with leading axis T, traced.
        temperature: > 0, traced.
        num_steps: static, a multiple of `record_every`. Step i counts as time i dt in the learner's schedule.
        dt: time between state and next_state, > 0, traced.
        batch_size: transitions drawn with replacement at each step, static.
        record_every: steps in one record, static.
        discount: rate, traced; 0 is the long-run average.
        state: where to go on, from an earlier call with the same key.

    Returns:
        A `core.protocols.Result` as from `run`; the state's x is not used. The history's reward is the mean of the
        data seen. Status bits as in `run`.

    Raises:
        ValueError: `learner` learns from its own actions only; `data` does not hold four arrays of one length; see
            also `run`.

    Example:
        >>> import jax
        >>> from jaxsci.control import exploratory
        >>> problem = exploratory.ExploratoryLQ(A=-1., B=0., C=0., D=1., M=2., N=2., R=1., P=1., Q=2., temperature=.1)
        >>> behaviour = exploratory.GaussianPolicy(1., 1., 0.)
        >>> data = exploratory.simulate(jax.random.key(0), problem, behaviour, num_steps=10_000, dt=.1).value
        >>> learner = exploratory.q_learning(critic_rate=1., q_rate=.2, scale_rate=.2, test_scale=1.)
        >>> result = exploratory.run_offline(
        ...     jax.random.key(1), learner, data, temperature=.1, num_steps=10, dt=.1, batch_size=100, record_every=10)
        >>> int(result.status)
        0

    References: Jia and Zhou 2023, q-Learning in Continuous Time (JMLR 24:161), section 4.
    """
    function = "exploratory.run_offline"
    check_steps(function, num_steps, record_every)
    key = as_typed_key(key, function)
    if not learner.off_policy:
        raise ValueError(
            f"{function}: learner must be able to learn from another policy's actions, got one that learns from its "
            "own only; use q_learning(...)"
        )
    shapes = [jnp.shape(a) for a in data]
    if len(shapes[0]) != 1 or len(set(shapes)) != 1 or shapes[0][0] == 0:
        raise ValueError(f"{function}: data must hold four arrays of one shape (T,), T > 0, got {shapes}")
    batch_size = check_size(function, "batch_size", batch_size)
    dtype = float_dtype(data)
    data = Experience(*(as_real(a, dtype) for a in data))
    learner = tree.cast(learner, dtype)
    scalars = _Scalars(temperature, discount, dt)
    scalars = as_scalars(function, "argument", scalars, dtype)
    sizes = (num_steps // record_every, record_every, batch_size)
    return _result(_run_offline(key, learner, data, scalars, state, sizes))


class _Scalars(NamedTuple):
    temperature: ArrayLike
    discount: ArrayLike
    dt: ArrayLike


@eqx.filter_jit
def _run_offline(key, learner, data: Experience, scalars: _Scalars, state, sizes: tuple[int, int, int]):
    num_records, record_every, batch_size = sizes
    temperature, discount, dt = scalars
    outside = (temperature <= 0) | (discount < 0) | ~(dt > 0)
    bad = status.flag(outside, status.OUT_OF_RANGE)
    bad = bad | status.flag(~tree.all_finite((scalars, data, learner.start)), status.NONFINITE_INPUT)
    if state is None:
        state = OnlineState(jnp.zeros_like(dt), project(learner, learner.start), jnp.int32(0), jnp.int32(0))
    state = state._replace(status=state.status | bad)

    def one(carry, _):
        state, total = carry
        index = jax.random.randint(jax.random.fold_in(unrolled(key), state.step), (batch_size,), 0, data.state.shape[0])
        batch = jax.tree.map(lambda a: a[index], data)
        time = state.step.astype(dt.dtype) * dt

        def change(transition):
            return learner.change(state.parameters, transition, time, temperature, discount, dt)

        changes = jax.vmap(change)(batch)
        after = project(learner, jax.tree.map(lambda p, c: p + jnp.mean(c), state.parameters, changes))
        kept = _bounded(learner, after, temperature)
        bad = state.status | status.flag(~kept & (state.status == status.OK), status.DIVERGED)
        after = tree.where(bad == status.OK, after, state.parameters)
        seen = jnp.where(bad == status.OK, jnp.mean(batch.reward), jnp.nan)
        return (OnlineState(state.x, after, state.step + 1, bad), total + seen), None

    def record(state, _):
        (state, total), _ = jax.lax.scan(one, (state, jnp.zeros_like(dt)), None, length=record_every)
        return state, History(state.step.astype(dt.dtype) * dt, state.parameters, total / record_every)

    return jax.lax.scan(record, state, None, length=num_records)


__all__ = ["History", "OnlineState", "init", "run", "run_offline", "step"]
