r"""Deep Q-learning in compiled loops: many environments at a time, replay, a slowly following target network.

$Q(s,a) \leftarrow \sum_{i<n} \gamma^i r_i + \gamma^n (1 - \mathrm{terminated})\, Q^-(s_n, a^*)$, with
$a^* = \arg\max_a Q(s_n, a)$ (double) or $\arg\max_a Q^-(s_n, a)$; Huber loss;
$\theta^- \leftarrow \theta^- + \tau(\theta - \theta^-)$ after every update. An episode cut by a time limit (truncated)
is bootstrapped from the state where it was cut; only a state from which nothing follows (`terminated`) is worth zero.

Reference: V. Mnih et al., "Human-level control through deep reinforcement learning", 2015; H. van Hasselt, A. Guez,
D. Silver, "Deep reinforcement learning with double Q-learning", 2016; F. Pardo et al., "Time limits in reinforcement
learning", 2018.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from jaxsci.core import extras, keys, train, tree
from jaxsci.core.static import bind
from jaxsci.core.types import KeyArray, float_dtype
from jaxsci.rl import replay_buffer
from jaxsci.rl.dqn._network import Network


class TimeStep(NamedTuple):
    """What an environment answers to an action."""

    observation: PyTree
    """Of the state reached; at an episode's end that last state's, not that of the next episode."""
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    """Nothing follows: the value beyond is zero."""
    truncated: Bool[Array, ""]
    """Cut by a time limit: the value beyond is that of `observation`."""


class Environment(NamedTuple):
    """Two pure functions for one environment; batches by `jax.vmap`."""

    reset: Callable[..., tuple[PyTree, PyTree]]
    """``reset(key) -> (state, observation)``."""
    step: Callable[..., tuple[PyTree, TimeStep]]
    """``step(key, state, action) -> (state, TimeStep)``; never called on a state whose episode has ended."""


class Config(eqx.Module):
    """Sizes (static) and hyper-parameters (leaves) of the learner. Made by `config`."""

    num_envs: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    num_updates: int = eqx.field(static=True)
    num_returns: int = eqx.field(static=True)
    double: bool = eqx.field(static=True)
    batch: str = eqx.field(static=True)
    discount: Array
    epsilon_start: Array
    epsilon_end: Array
    epsilon_decay: Array
    target_rate: Array
    huber: Array
    warm_up: Array


class State(NamedTuple):
    """What learning carries from step to step; all of it is needed to go on."""

    learner: train.TrainState
    """Parameters, optimiser state, updates done, status."""
    target: PyTree
    """Parameters of the target network."""
    buffer: replay_buffer.Buffer
    env: PyTree
    """States of the environments, leaves [num_envs, ...]."""
    observation: PyTree
    """Their observations, leaves [num_envs, ...]."""
    total: Float[Array, " num_envs"]
    """Undiscounted return of the running episodes so far."""
    step: Int[Array, ""]
    """Steps done: global index of the next."""


class Record(NamedTuple):
    """One step of learning."""

    loss: Float[Array, ""]
    """Mean over the updates of this step; 0 while warming up."""
    epsilon: Float[Array, ""]
    reward: Float[Array, ""]
    """Mean over the environments."""
    finished: Int[Array, ""]
    """Episodes that ended at this step."""
    total: Float[Array, ""]
    """Sum of their undiscounted returns."""


class Result(NamedTuple):
    """What `run` returns."""

    value: PyTree
    """The last parameters."""
    state: State
    """The whole state, from which learning can go on."""
    history: Record
    """Leaves [num_steps]."""
    status: Int[Array, ""]
    """Bits of all steps: NONFINITE_RESULT when an update was skipped."""


def config(
    *,
    num_envs: int = 1,
    capacity: int = 10_000,
    batch_size: int = 128,
    num_updates: int = 1,
    num_returns: int = 1,
    double: bool = True,
    batch: str = "vmap",
    discount: ArrayLike = 0.99,
    epsilon_start: ArrayLike = 0.9,
    epsilon_end: ArrayLike = 0.05,
    epsilon_decay: ArrayLike = 10_000,
    target_rate: ArrayLike = 0.005,
    huber: ArrayLike = 1.0,
    warm_up: ArrayLike | None = None,
) -> Config:
    """A validated configuration.

    Args:
        num_envs: environments that run side by side (static).
        capacity: rows of the replay buffer, each with one transition of every environment (static).
        batch_size: windows in an update (static).
        num_updates: updates after every step of the environments (static).
        num_returns: n of the n-step targets (static). Beyond 1 they are those of the behaviour, uncorrected.
        double: choose the next action by the online network instead of the target network (static).
        batch: how the environments step together (static): "vmap", or "map", one after the other, which is faster
            where the cost of a step depends on the action, since under vmap all wait for the slowest.
        discount: gamma, traced.
        epsilon_start, epsilon_end, epsilon_decay: see `epsilon`; traced.
        target_rate: tau, traced.
        huber: where the loss turns from quadratic to linear, > 0, traced.
        warm_up: rows in the buffer before the first update, from `num_returns` to `capacity`, which limit a traced one;
            100 by default, or the nearest of these two.

    Raises:
        ValueError: a size below 1, more returns than the buffer has rows, an unknown batch; a number, unless it is
            traced, that is not finite or out of its range.
    """
    sizes = {
        "num_envs": num_envs,
        "capacity": capacity,
        "batch_size": batch_size,
        "num_updates": num_updates,
        "num_returns": num_returns,
    }
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"dqn.config: {name} must be an integer >= 1, got {size!r}")
    if num_returns > capacity:
        raise ValueError(f"dqn.config: num_returns must be <= capacity {capacity}, got {num_returns}")
    if batch not in ("vmap", "map"):
        raise ValueError(f"dqn.config: batch must be 'vmap' or 'map', got {batch!r}")
    floats = (discount, epsilon_start, epsilon_end, epsilon_decay, target_rate, huber)
    dtype = float_dtype(*(a for a in floats if hasattr(a, "dtype")))
    if warm_up is None:
        warm_up = max(num_returns, min(100, capacity))
    checks = {
        "discount": (discount, np.isfinite, "finite"),
        "epsilon_start": (epsilon_start, np.isfinite, "finite"),
        "epsilon_end": (epsilon_end, np.isfinite, "finite"),
        "epsilon_decay": (epsilon_decay, lambda a: np.isfinite(a) & (a > 0), "finite and > 0"),
        "target_rate": (target_rate, np.isfinite, "finite"),
        "huber": (huber, lambda a: a > 0, "> 0"),
        "warm_up": (
            warm_up,
            lambda a: (num_returns <= a) & (a <= capacity),
            f"between num_returns {num_returns} and capacity {capacity}",
        ),
    }
    for name, (value, good, expected) in checks.items():
        if not isinstance(value, jax.core.Tracer) and not np.all(good(np.asarray(value))):
            raise ValueError(f"dqn.config: {name} must be {expected}, got {value}")
    floats = (jnp.asarray(a, dtype) for a in floats)
    return Config(*sizes.values(), double, batch, *floats, jnp.asarray(warm_up, jnp.int32))


def epsilon(cfg: Config, num_transitions: Int[ArrayLike, ""]) -> Float[Array, ""]:
    r"""Probability of a random action, $\epsilon_1 + (\epsilon_0 - \epsilon_1) e^{-n/d}$.

    n counts the transitions of the whole training and never starts again, so the exploration does fade. (The
    published three-body code counts within the episode: there epsilon stays above .82 and the data are all but random.)
    """
    fade = jnp.exp(-jnp.asarray(num_transitions, cfg.discount.dtype) / cfg.epsilon_decay)
    return cfg.epsilon_end + (cfg.epsilon_start - cfg.epsilon_end) * fade


def optimizer(
    learning_rate: ArrayLike | Callable[[Any], Any] = 1e-3, *, weight_decay: float = 0.01, clip: float = 100.0
) -> Any:
    """AdamW with AMSGrad behind a clip of every gradient entry to [-clip, clip], as optax's triple.

    Args:
        learning_rate: a number, or a schedule of the update's index (static).
        weight_decay: decoupled from the gradient (static).
        clip: static.

    Raises:
        ImportError: optax is missing.
    """
    optax = extras.require("optax", "nets", "dqn.optimizer")
    return optax.chain(
        optax.clip(clip),
        optax.scale_by_amsgrad(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def target_of(
    window: tuple[PyTree, ...], next_value: Callable[[PyTree], Any], discount: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    r"""The n-step target, $\sum_{i \le m} \gamma^i r_i + \gamma^{m+1} V(s_{m+1})$, the last term 0 if terminated.

    Args:
        window: ``(reward, next_observation, terminated, truncated)`` of n consecutive transitions, leaves [n, ...].
        next_value: V, called once.
        discount: gamma, traced.

    Returns:
        The target; m is the first transition at which the episode ended, n - 1 if none did: what follows in the
        window belongs to the next episode.
    """
    reward, following, terminated, truncated = window
    ended = terminated | truncated
    alive = jnp.concatenate([jnp.ones(1, bool), jnp.cumsum(ended[:-1]) == 0])
    powers = jnp.asarray(discount, reward.dtype) ** jnp.arange(ended.shape[0])
    last = jnp.sum(alive) - 1
    value = next_value(tree.dynamic_index(following, last))
    beyond = jnp.where(terminated[last], 0, powers[last] * discount * value)
    return jnp.sum(jnp.where(alive, powers * reward, 0)) + beyond.astype(reward.dtype)


def init(key: KeyArray, env: Environment, network: Network, *, cfg: Config, optimizer: Any) -> State:
    """The state before the first step: fresh parameters, environments that have just been reset, an empty buffer.

    Args:
        key: one typed key.
        env: the environment.
        network: the action values; the dtype of its parameters is that of everything learnt and stored.
        cfg: from `config`.
        optimizer: an optax triple, e.g. of `optimizer`.
    """
    return _init(keys.as_typed_key(key, "dqn.init"), env, network, cfg, optimizer)


@eqx.filter_jit
def _init(key, env, network, cfg, optimizer):
    params = network.init(jax.random.fold_in(key, 0))
    dtype = float_dtype(params)
    states, observation = jax.vmap(env.reset)(keys.per_item(jax.random.fold_in(key, 1), cfg.num_envs))
    observation = _cast(observation, dtype)
    one = jax.tree.map(lambda a: a[0], observation)
    scalar, no = jnp.zeros((), dtype), jnp.zeros((), bool)
    buffer = replay_buffer.init((one, jnp.int32(0), scalar, one, no, no), cfg.capacity, num_lanes=cfg.num_envs)
    total = jnp.zeros(cfg.num_envs, dtype)
    # The target starts as a copy: the two are donated and updated apart.
    return State(train.init(params, optimizer=optimizer), params, buffer, states, observation, total, jnp.int32(0))


def step(
    key: KeyArray, env: Environment, network: Network, state: State, *, cfg: Config, optimizer: Any
) -> tuple[State, Record]:
    """One step of every environment, then `num_updates` updates; `run` is its scan.

    Args:
        key: the key of the whole training, the same at every step: the step's index is folded in here.
        env, network, cfg, optimizer: as in `init`.
        state: from `init` or the step before.
    """
    return _step(keys.as_typed_key(key, "dqn.step"), env, network, state, cfg, optimizer)


def _advance(key, env, network, state, cfg, optimizer):
    """One step, inside a compiled function."""
    params = state.learner.params
    dtype = state.total.dtype
    key = jax.random.fold_in(jax.random.fold_in(key, 2), state.step)  # 0 and 1 are those of init
    explore = epsilon(cfg, state.step * cfg.num_envs).astype(dtype)
    lanes = jax.vmap(lambda k: jax.random.split(k, 4))(keys.per_item(jax.random.fold_in(key, 0), cfg.num_envs))

    def choose(keys, observation):
        values = network.apply(params, observation)
        chance = jax.random.randint(keys[0], (), 0, values.shape[0], jnp.int32)
        random = jax.random.uniform(keys[1], (), dtype) < explore
        return jnp.where(random, chance, jnp.argmax(values).astype(jnp.int32))

    action = jax.vmap(choose)(lanes, state.observation)
    taken = (lanes[:, 2], state.env, action)
    if cfg.batch == "vmap":
        env_state, answer = jax.vmap(env.step)(*taken)
    else:
        env_state, answer = jax.lax.map(lambda one: env.step(*one), taken)
    following, reward = _cast((answer.observation, answer.reward), dtype)
    ended = answer.terminated | answer.truncated
    row = (state.observation, action, reward, following, answer.terminated, answer.truncated)
    buffer = replay_buffer.add(state.buffer, row)

    total = state.total + reward
    fresh, first = jax.vmap(env.reset)(lanes[:, 3])
    env_state, observation = jax.vmap(tree.where)(ended, (fresh, _cast(first, dtype)), (env_state, following))
    learner, target, loss = _learn(jax.random.fold_in(key, 1), network, state, buffer, cfg, optimizer)
    record = Record(loss, explore, jnp.mean(reward), jnp.sum(ended, dtype=jnp.int32), jnp.sum(total, where=ended))
    total = jnp.where(ended, 0, total)
    return State(learner, target, buffer, env_state, observation, total, state.step + 1), record


_step = eqx.filter_jit(_advance)


def _learn(key, network, state, buffer, cfg, optimizer):
    """`num_updates` updates, none while the buffer warms up."""
    loss = Partial(bind(_loss, double=cfg.double), network.apply, cfg.discount, cfg.huber)

    def update(carry, i):
        learner, target = carry
        windows = replay_buffer.sample(jax.random.fold_in(key, i), buffer, cfg.batch_size, length=cfg.num_returns)
        learner, value = train.step(key, learner, (target, windows), loss=loss, optimizer=optimizer)
        follow = cfg.target_rate
        target = jax.tree.map(lambda t, p: t + follow.astype(t.dtype) * (p - t), target, learner.params)
        return (learner, target), value

    def updates(carry):
        carry, values = jax.lax.scan(update, carry, jnp.arange(cfg.num_updates))
        return *carry, jnp.mean(values)

    def none(carry):
        return *carry, jnp.zeros((), state.total.dtype)

    ready = buffer.size >= jnp.clip(cfg.warm_up, cfg.num_returns, cfg.capacity)
    return jax.lax.cond(ready, updates, none, (state.learner, state.target))


def _loss(apply, discount, huber, params, batch, key, *, double):
    """Mean Huber loss of the temporal differences of a batch of windows."""
    target_params, windows = batch

    def one(window):
        observation, action, *rest = window
        first, chosen = tree.dynamic_index((observation, action), 0)

        def next_value(following):
            values = apply(target_params, following)
            best = jnp.argmax(apply(params, following) if double else values)
            return values[best]

        value = apply(params, first)[chosen]
        error = value - jax.lax.stop_gradient(target_of(tuple(rest), next_value, discount.astype(value.dtype)))
        size, bound = jnp.abs(error), huber.astype(error.dtype)
        return jnp.where(size <= bound, error * error / 2, bound * (size - bound / 2))

    return jnp.mean(jax.vmap(one)(windows))


def run(
    key: KeyArray,
    env: Environment,
    network: Network,
    *,
    cfg: Config,
    optimizer: Any,
    num_steps: int,
    state: State | None = None,
) -> Result:
    """Learn for `num_steps` steps of all environments, in one compiled scan.

    Args:
        key, env, network, cfg, optimizer: as in `init`. vmap over keys trains many seeds at a time, which pays off
            where an environment's step is cheap and even.
        num_steps: static.
        state: go on from here; the same key and two runs give what one long run gives.

    Returns:
        `Result`. An update whose loss or gradient is not finite is skipped and leaves a bit in the status.

    Raises:
        ValueError: num_steps is negative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.rl import dqn
        >>> def reset(key):  # one state; action 1 pays 1 and ends the episode
        ...     return jnp.int32(0), jnp.ones(1)
        >>> def step(key, state, action):
        ...     return state, dqn.TimeStep(jnp.ones(1), 1.0 * action, jnp.array(True), jnp.array(False))
        >>> net = dqn.network(1, 2, hidden=())
        >>> result = dqn.run(jax.random.key(0), dqn.Environment(reset, step), net, cfg=dqn.config(warm_up=10),
        ...                  optimizer=dqn.optimizer(0.05, weight_decay=0.0), num_steps=300)
        >>> print(net.apply(result.value, jnp.ones(1)).round(1) + 0, int(result.status))
        [0. 1.] 0

    References: Mnih et al. 2015, algorithm 1; van Hasselt et al. 2016, equation 4.
    """
    if num_steps < 0:
        raise ValueError(f"dqn.run: num_steps must be >= 0, got {num_steps}")
    key = keys.as_typed_key(key, "dqn.run")
    if state is None:
        state = init(key, env, network, cfg=cfg, optimizer=optimizer)
    state, history = _run(key, env, network, state, cfg, optimizer, num_steps)
    return Result(state.learner.params, state, history, state.learner.status)


@eqx.filter_jit
def _run(key, env, network, state, cfg, optimizer, num_steps):
    def body(state, _):
        return _advance(key, env, network, state, cfg, optimizer)

    return jax.lax.scan(body, state, None, length=num_steps)


def _cast(x, dtype):
    """Floating leaves of x in `dtype`."""

    def leaf(a):
        return jnp.asarray(a).astype(dtype) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a

    return jax.tree.map(leaf, x)


__all__ = [
    "Config",
    "Environment",
    "Record",
    "Result",
    "State",
    "TimeStep",
    "config",
    "epsilon",
    "init",
    "optimizer",
    "run",
    "step",
    "target_of",
]
