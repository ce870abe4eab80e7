r"""Deep Q-learning in compiled loops: many environments at a time, replay, a slowly following target network.

In every step each environment takes the action of largest value, or with probability epsilon (`_config.py`) a random
one; then $\theta$ descends the loss of `_targets.py` on windows drawn from the buffer, and the target network follows,
$\theta^- \leftarrow \theta^- + \tau(\theta - \theta^-)$.

Reference: V. Mnih et al., "Human-level control through deep reinforcement learning", 2015; H. van Hasselt, A. Guez,
D. Silver, "Deep reinforcement learning with double Q-learning", 2016; F. Pardo et al., "Time limits in reinforcement
learning", 2018.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import keys, status, train, tree
from jaxsci.core.keys import unrolled
from jaxsci.core.protocols import Environment
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import KeyArray, float_dtype
from jaxsci.rl import replay_buffer
from jaxsci.rl.dqn._config import Config, epsilon
from jaxsci.rl.dqn._network import Network
from jaxsci.rl.dqn._targets import td_loss


class State(NamedTuple):
    """What learning carries from step to step; all of it is needed to go on.

    Attributes:
        learner: parameters, optimiser state, updates done, status.
        target: parameters of the target network.
        buffer: the transitions that updates draw from.
        env: states of the environments, leaves [num_envs, ...].
        observation: their observations, leaves [num_envs, ...].
        total: undiscounted return of the running episodes so far.
        step: steps done, which is the global index of the next.
    """

    learner: train.TrainState
    target: PyTree
    buffer: replay_buffer.Buffer
    env: PyTree
    observation: PyTree
    total: Float[Array, " num_envs"]
    step: Int[Array, ""]


class Record(NamedTuple):
    """One step of learning.

    Attributes:
        loss: mean over the updates of this step; 0 while warming up.
        epsilon: probability with which each action was drawn at random.
        reward: mean over the environments.
        finished: episodes that ended at this step.
        total: sum of the undiscounted returns of these episodes.
        env_status: status bits of the environments' steps, or-ed.
    """

    loss: Float[Array, ""]
    epsilon: Float[Array, ""]
    reward: Float[Array, ""]
    finished: Int[Array, ""]
    total: Float[Array, ""]
    env_status: Int[Array, ""]


class Result(NamedTuple):
    """What `run` returns.

    Attributes:
        value: the last parameters.
        state: the whole state, from which learning can go on.
        history: leaves [num_steps].
        status: bits of all updates: NONFINITE_RESULT when one was skipped.
        env_status: bits of all steps of the environments in this call, in the terms of the environment's room. An
            episode that failed and so ended is no fault of the learning.
    """

    value: PyTree
    state: State
    history: Record
    status: Int[Array, ""]
    env_status: Int[Array, ""]


def init(key: KeyArray, env: Environment, network: Network, *, cfg: Config, optimizer: Any) -> State:
    """The state before the first step: fresh parameters, environments that have just been reset, an empty buffer.

    Args:
        key: one typed key.
        env: the environment, a `core.protocols.Environment` whose actions are the numbers 0 to num_actions - 1.
        network: the action values; the dtype of its parameters is that of everything learnt and stored.
        cfg: from `config`.
        optimizer: an optax triple, e.g. of `optimizer`.

    Raises:
        TypeError: `env` has no reset and step, as a problem in continuous time has none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.core.protocols import Environment, TimeStep
        >>> from jaxsci.rl import dqn
        >>> def reset(key): return jnp.int32(0), TimeStep(jnp.ones(1))
        >>> def step(key, state, action): return state, TimeStep(jnp.ones(1))
        >>> env = Environment(reset, step)
        >>> network = dqn.network(1, 2, hidden=())
        >>> state = dqn.init(jax.random.key(0), env, network, cfg=dqn.config(), optimizer=dqn.optimizer())
        >>> print(int(state.step))
        0
    """
    _check_kind("init", env)
    return _init(keys.as_typed_key(key, "dqn.init"), env, network, cfg, optimizer)


@eqx.filter_jit
def _init(key, env, network, cfg, optimizer):
    params = network.init(jax.random.fold_in(key, 0))
    dtype = float_dtype(params)
    states, first = jax.vmap(env.reset)(keys.per_item(jax.random.fold_in(key, 1), cfg.num_envs))
    observation = tree.cast(first.observation, dtype)
    one = jax.tree.map(lambda a: a[0], observation)
    scalar, no = jnp.zeros((), dtype), jnp.zeros((), bool)
    buffer = replay_buffer.init((one, jnp.int32(0), scalar, one, scalar, no, no), cfg.capacity, num_lanes=cfg.num_envs)
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

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.core.protocols import Environment, TimeStep
        >>> from jaxsci.rl import dqn
        >>> def reset(key): return jnp.int32(0), TimeStep(jnp.ones(1))
        >>> def step(key, state, action): return state, TimeStep(jnp.ones(1))
        >>> env = Environment(reset, step)
        >>> key, parts = jax.random.key(0), dict(cfg=dqn.config(batch_size=4, capacity=100), optimizer=dqn.optimizer())
        >>> network = dqn.network(1, 2, hidden=())
        >>> state = dqn.init(key, env, network, **parts)
        >>> out = dqn.step(key, env, network, state, **parts)
        >>> print(int(out[0].step))
        1
    """
    _check_kind("step", env)
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
        chance = jax.random.randint(unrolled(keys[0]), (), 0, values.shape[0], jnp.int32)
        random = jax.random.uniform(unrolled(keys[1]), (), dtype) < explore
        return jnp.where(random, chance, jnp.argmax(values).astype(jnp.int32))

    action = jax.vmap(choose)(lanes, state.observation)
    taken = (lanes[:, 2], state.env, action)
    if cfg.batch == "vmap":
        env_state, answer = jax.vmap(env.step)(*taken)
    else:
        env_state, answer = jax.lax.map(lambda one: env.step(*one), taken)
    following, reward, discount = tree.cast((answer.observation, answer.reward, answer.discount), dtype)
    ended = answer.terminated | answer.truncated
    row = (state.observation, action, reward, following, discount, answer.terminated, answer.truncated)
    buffer = replay_buffer.add(state.buffer, row)

    total = state.total + reward
    fresh, first = jax.vmap(env.reset)(lanes[:, 3])
    first = tree.cast(first.observation, dtype)
    env_state, observation = jax.vmap(tree.where)(ended, (fresh, first), (env_state, following))
    learner, target, loss = _learn(jax.random.fold_in(key, 1), network, state, buffer, cfg, optimizer)
    record = Record(
        loss=loss,
        epsilon=explore,
        reward=jnp.mean(reward),
        finished=jnp.sum(ended, dtype=jnp.int32),
        total=jnp.sum(total, where=ended),
        env_status=status.reduce(answer.status),
    )
    total = jnp.where(ended, 0, total)
    return State(learner, target, buffer, env_state, observation, total, state.step + 1), record


_step = eqx.filter_jit(_advance)


def _learn(key, network, state, buffer, cfg, optimizer):
    """`num_updates` updates, none while the buffer warms up."""
    loss = Partial(bind(td_loss, double=cfg.double), network.apply, cfg.discount, cfg.huber)

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
        TypeError: `env` has no reset and step, as a problem in continuous time has none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.core.protocols import Environment, TimeStep
        >>> from jaxsci.rl import dqn
        >>> def reset(key):  # one state; action 1 pays 1 and ends the episode
        ...     return jnp.int32(0), TimeStep(jnp.ones(1))
        >>> def step(key, state, action):
        ...     return state, TimeStep(jnp.ones(1), reward=1.0 * action, terminated=True)
        >>> net = dqn.network(1, 2, hidden=())
        >>> result = dqn.run(jax.random.key(0), Environment(reset, step), net, cfg=dqn.config(warm_up=10),
        ...                  optimizer=dqn.optimizer(0.05, weight_decay=0.0), num_steps=300)
        >>> print(net.apply(result.value, jnp.ones(1)).round(1) + 0, int(result.status))
        [0. 1.] 0

    References: Mnih et al. 2015, algorithm 1; van Hasselt et al. 2016, equation 4.
    """
    _check_kind("run", env)
    num_steps = check_size("dqn.run", "num_steps", num_steps, least=0)
    key = keys.as_typed_key(key, "dqn.run")
    if state is None:
        state = init(key, env, network, cfg=cfg, optimizer=optimizer)
    state, history = _run(key, env, network, state, cfg, optimizer, num_steps)
    return Result(state.learner.params, state, history, state.learner.status, status.reduce(history.env_status))


@eqx.filter_jit
def _run(key, env, network, state, cfg, optimizer, num_steps):
    def body(state, _):
        return _advance(key, env, network, state, cfg, optimizer)

    return jax.lax.scan(body, state, None, length=num_steps)


def _check_kind(function, env):
    """Refuse what is not stepped in discrete time, by name."""
    if not (hasattr(env, "reset") and hasattr(env, "step")):
        raise TypeError(
            f"dqn.{function}: env must be a core.protocols.Environment with reset and step, got {type(env).__name__}; "
            "control.environments.discrete(walled, dt) makes one of a WalledProblem"
        )


__all__ = ["Record", "Result", "State", "init", "run", "step"]
