r"""Choosing the step parameter of an integrator, as a decision process over three bodies of equal mass in a plane.

Body 0 starts at the origin with velocity (0, 10) km/s, body 1 at $(x_1, y_1)$ with (-10, 0) km/s, body 2 at
$(x_2, y_2)$ at rest; then everything moves to the frame of the centre of mass. An action picks the step parameter
$\mu$ with which the next tenth of a year is integrated. The episode ends when $|\epsilon| > 0.1$, $\epsilon = (E -
E_0)/E_0 + 10^{-20}$, or after 100 actions.

Reference: V. Saz Ulibarrena, S. Portegies Zwart, "Reinforcement learning for adaptive time-stepping in the chaotic
gravitational three-body problem", 2025.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import entry, keys, status, tree
from jaxsci.core.protocols import Environment, TimeStep
from jaxsci.core.types import KeyArray, as_count, as_real, concrete, float_dtype, require_double
from jaxsci.rl.three_body import _reward, hermite, integrators

STEP_PARAMETERS = tuple(float(mu) for mu in np.geomspace(1e-4, 1e-1, 10))
"""The ten actions of the published models, small steps first."""

_OBSERVATIONS = {"cart": 13, "dist": 3, "pairs": 10}
# Corners x1, y1, x2, y2 are these plus a uniform number times those, in astronomical units.
_CORNER, _EXTENT = (5.0, 0.0, 0.0, 5.0), (15.0, 10.0, -10.0, 15.0)
_KM_PER_S = 1 / 4.740470463  # in astronomical units per year
# Python numbers, which take the dtype of what they meet.
_TIME, _SPEED = (float(u) for u in hermite.units(1.0, 3.0, gravity=4 * math.pi**2)[2:])
_TINY = 1e-20


class Config(eqx.Module):
    """The environment as data: names static, numbers leaves. Made by `config`.

    Attributes:
        reward: index into `REWARDS` (static).
        observation: name of what is seen, see `config` (static).
        clock: whether the time left is seen too (static).
        integrator: name of the rule that moves the bodies, see `integrators` (static).
        variable: whether actions are parameters of a variable step or steps (static).
        step_parameters: mu of every action.
        weights: W0, W1, W2 of the reward.
        interval: time between two actions in units with G = 1.
        max_error: relative energy error beyond which the episode terminates.
        horizon: actions in an episode.
        max_steps: cap on the integrator's steps per action.
    """

    reward: int = eqx.field(static=True)
    observation: str = eqx.field(static=True)
    clock: bool = eqx.field(static=True)
    integrator: str = eqx.field(static=True)
    variable: bool = eqx.field(static=True)
    step_parameters: Float[Array, " num_actions"]
    weights: Float[Array, " 3"]
    interval: Float[Array, ""]
    max_error: Float[Array, ""]
    horizon: Int[Array, ""]
    max_steps: Int[Array, ""]

    @property
    def num_actions(self) -> int:
        """How many step parameters there are to choose from."""
        return self.step_parameters.shape[0]

    @property
    def num_features(self) -> int:
        """Entries of an observation."""
        return _OBSERVATIONS[self.observation] + 2 * self.clock


class State(NamedTuple):
    """Where an episode stands, in N-body units (astronomical unit, three solar masses, G = 1).

    Attributes:
        position: of the three bodies, in the frame of their centre of mass.
        velocity: of the three bodies.
        energy: at the start of the episode.
        error: relative energy error now; 1 before the first step.
        step: actions taken.
        evaluations: evaluations of the forces so far: what the episode has cost.
        status: int32 bits of all steps so far.
    """

    position: Float[Array, "3 2"]
    velocity: Float[Array, "3 2"]
    energy: Float[Array, ""]
    error: Float[Array, ""]
    step: Int[Array, ""]
    evaluations: Int[Array, ""]
    status: Int[Array, ""]


def config(
    *,
    step_parameters: Sequence[float] | Float[ArrayLike, " num_actions"] = STEP_PARAMETERS,
    reward: int | str = "cubed",
    weights: Sequence[float] | Float[ArrayLike, " 3"] = (3000.0, 0.0, 4.0),
    observation: str = "cart",
    clock: bool = False,
    integrator: str = "hermite",
    variable: bool = True,
    interval: ArrayLike = 0.1,
    horizon: ArrayLike = 100,
    max_error: ArrayLike = 0.1,
    max_steps: ArrayLike = 1_000_000,
    allow_float32: bool = False,
) -> Config:
    """A validated configuration; the defaults are those of the published Hermite models.

    Args:
        step_parameters: mu of every action, traced. ``STEP_PARAMETERS[4:]`` leaves out the four that cost most of
            the time of an episode and gain nothing.
        reward: index or name, see `REWARDS` (static).
        weights: W0, W1, W2 of the reward, traced.
        observation: static. "cart": positions / 10 (6) and velocities (6), N-body units, and -log10 |error|; "dist":
            distance / 10 and relative speed of the closest pair, and -log10 |error|; "pairs": for each pair, the
            closest first, log10 of the distance, radial and tangential speed over the parabolic one, and
            -log10 |error| / 10. The last does not change when the system is turned or its bodies are renumbered.
        clock: append k / horizon and 1 / (k + 1) (static). Then the end at the horizon is part of the task, and the
            episode terminates there; without, it is cut (truncated), and a learner looks beyond.
        integrator: name of one of `integrators`, e.g. "yoshida": policies can be carried from one to another (static).
        variable: False takes actions as steps in units of time with G = 1 instead of parameters of a variable step
            (static).
        interval: years between two actions, traced.
        horizon: actions in an episode, traced.
        max_error: the episode terminates beyond this error, traced.
        max_steps: cap on the integrator's steps per action, traced.
        allow_float32: accept single precision, in which the errors that the reward speaks of do not exist (static).

    Raises:
        ValueError: an unknown reward, observation or integrator, no action, other than three weights, or single
            precision without `allow_float32`.

    Example:
        >>> from jaxsci.rl import three_body
        >>> print(len(three_body.config(allow_float32=True).step_parameters))
        10
    """
    if observation not in _OBSERVATIONS:
        raise ValueError(f"three_body.config: observation must be one of {sorted(_OBSERVATIONS)}, got {observation!r}")
    index = _reward.index_of(reward)
    integrators.named(integrator)
    numbers = (step_parameters, weights, interval, max_error)
    dtype = float_dtype(*(a for a in numbers if hasattr(a, "dtype")))
    reason = "in which the errors that the reward speaks of do not exist"
    require_double("three_body.config", dtype, allow_float32, reason)
    step_parameters, weights, interval, max_error = (as_real(a, dtype) for a in numbers)
    if step_parameters.ndim != 1 or step_parameters.size < 1 or weights.shape != (3,):
        raise ValueError(
            "three_body.config: expected step_parameters [num_actions] and weights [3], got shapes "
            f"{step_parameters.shape} and {weights.shape}"
        )
    horizon, max_steps = (
        as_count(value, "three_body.config", name) for name, value in (("horizon", horizon), ("max_steps", max_steps))
    )
    interval = interval / _TIME
    chosen = (index, observation, bool(clock), integrator, bool(variable))
    return Config(*chosen, step_parameters, weights, interval, max_error, horizon, max_steps)


def published_start(seed: int) -> Float[np.ndarray, " 4"]:
    """The corners x1, y1, x2, y2 that the published code draws for this seed (NumPy's legacy generator).

    Args:
        seed: 0 to 2**32 - 1, concrete.

    Raises:
        TypeError: a traced seed.

    Example:
        >>> from jaxsci.rl import three_body
        >>> three_body.published_start(1).round(3).tolist()
        [11.255, 7.203, -0.001, 9.535]
    """
    seed = concrete(seed, "three_body.published_start", "seed", "draw by three_body.reset(key, cfg) instead")
    uniform = np.random.RandomState(int(seed)).random_sample(4)  # noqa: NPY002 (the published seeds need it)
    return np.asarray(_CORNER) + np.asarray(_EXTENT) * uniform


def start(cfg: Config, corners: Float[ArrayLike, " 4"]) -> State:
    """The state of a new episode from given corners.

    Args:
        cfg: from `config`.
        corners: x1, y1, x2, y2 in astronomical units, traced.

    Raises:
        ValueError: corners are not four numbers.

    Example:
        >>> from jaxsci.rl import three_body
        >>> cfg = three_body.config(allow_float32=True)
        >>> state = three_body.start(cfg, three_body.published_start(0))
        >>> print(int(state.step), int(state.status))
        0 0
    """
    corners = as_real(corners, cfg.interval.dtype)
    if corners.shape != (4,):
        raise ValueError(f"three_body.start: expected x1, y1, x2, y2, got shape {corners.shape}; jax.vmap for a batch")
    return _start(corners)


@jax.jit
def _start(corners):
    dtype = corners.dtype
    position = jnp.concatenate([jnp.zeros((1, 2), dtype), corners.reshape(2, 2)])
    velocity = jnp.asarray(((0.0, 10.0), (-10.0, 0.0), (0.0, 0.0)), dtype) * (_KM_PER_S / _SPEED)
    position = position - jnp.mean(position, 0, keepdims=True)
    velocity = velocity - jnp.mean(velocity, 0, keepdims=True)
    bad = ~tree.all_finite(corners)
    bodies = hermite.Bodies(_mass(dtype), position, velocity, None, None, None)
    none, energy = jnp.int32(0), hermite.energy(bodies)
    met = ~bad & ~jnp.isfinite(energy)  # two bodies at one place
    code = status.flag(bad, status.NONFINITE_INPUT) | status.flag(met, hermite.COLLISION)
    return State(position, velocity, energy, jnp.ones((), dtype), none, none, code)


def _mass(dtype):
    return jnp.full(3, 1 / 3, dtype)


def reset(key: KeyArray, cfg: Config) -> State:
    """The state of a new episode with corners drawn as in the published study.

    Args:
        key: one typed key.
        cfg: from `config`.

    Example:
        >>> import jax
        >>> from jaxsci.rl import three_body
        >>> cfg = three_body.config(allow_float32=True)
        >>> state = three_body.reset(jax.random.key(0), cfg)
        >>> state, answer = three_body.step(cfg, state, 9)
        >>> answer.observation.shape, float(answer.reward), bool(answer.terminated)
        ((13,), 0.0, False)
    """
    return _reset(keys.as_typed_key(key, "three_body.reset"), cfg)


@eqx.filter_jit
def _reset(key, cfg):
    dtype = cfg.interval.dtype
    uniform = jax.random.uniform(key, (4,), dtype)
    return start(cfg, jnp.asarray(_CORNER, dtype) + jnp.asarray(_EXTENT, dtype) * uniform)


def step(cfg: Config, state: State, action: Int[ArrayLike, ""]) -> tuple[State, TimeStep]:
    """Integrate one interval with the step parameter of `action`.

    Args:
        cfg: from `config`.
        state: from `reset`, `start` or the step before.
        action: index into ``cfg.step_parameters``, cut to its range; traced.

    Returns:
        ``(state, TimeStep)``. Where the integration fails (collision, step cap, NaN) the state keeps the last bodies
        that are finite, its status says why, the episode terminates, and the reward is that of an error of
        ``max_error``.

    Example:
        >>> from jaxsci.rl import three_body
        >>> cfg = three_body.config(allow_float32=True)
        >>> state = three_body.start(cfg, three_body.published_start(0))
        >>> out = three_body.step(cfg, state, 9)
        >>> print(int(out[0].step))
        1
    """
    return _step(cfg, state, jnp.asarray(action, jnp.int32))


@eqx.filter_jit
def _step(cfg, state, action):
    parameter = cfg.step_parameters[jnp.clip(action, 0, cfg.num_actions - 1)]
    bodies = hermite.Bodies(_mass(state.position.dtype), state.position, state.velocity, None, None, None)
    bodies = hermite.init(*bodies[:3], allow_float32=True)
    rule = integrators.named(cfg.integrator)
    moved = rule(bodies, cfg.interval, parameter, variable=cfg.variable, max_steps=cfg.max_steps)
    # Not E / E0 - 1 + tiny: there the compiler adds the two constants first, and an error of 0 has no logarithm.
    error = (hermite.energy(moved.value) - state.energy) / state.energy + _TINY
    failed = (moved.status | state.status) != status.OK
    error = jnp.where(jnp.isfinite(error), error, cfg.max_error)
    new = State(
        moved.value.position,
        moved.value.velocity,
        state.energy,
        error,
        state.step + 1,
        state.evaluations + moved.evaluations + 1,
        state.status | moved.status,
    )
    seen = jnp.where(failed, cfg.max_error, error)
    value = _reward.reward(cfg.reward, cfg.weights, seen, state.error, parameter, new.step, moved.evaluations + 1)
    unsound = ~jnp.isfinite(value)  # weights that are no numbers, or too large
    new = new._replace(status=new.status | status.flag(unsound, status.NONFINITE_RESULT))
    over, late = failed | unsound | (jnp.abs(error) > cfg.max_error), new.step >= cfg.horizon
    terminated = over | late if cfg.clock else over
    return new, TimeStep(
        observation=observe(cfg, new),
        reward=value,
        discount=jnp.ones_like(value),
        terminated=terminated,
        truncated=late & ~terminated,
        status=new.status,
    )


def observe(cfg: Config, state: State) -> Float[Array, " num_features"]:
    """What a policy sees of a state; see `config`.

    Example:
        >>> from jaxsci.rl import three_body
        >>> cfg = three_body.config(allow_float32=True)
        >>> print(three_body.observe(cfg, three_body.start(cfg, three_body.published_start(0))).shape)
        (13,)
    """
    return _observe(cfg, state)


@eqx.filter_jit
def _observe(cfg, state):
    level = -jnp.log10(jnp.abs(state.error))[None]
    if cfg.observation == "cart":
        parts = [state.position.reshape(-1) / 10, state.velocity.reshape(-1), level]
    else:
        # The pairs (0, 1), (1, 2), (2, 0).
        r = jnp.roll(state.position, -1, 0) - state.position
        v = jnp.roll(state.velocity, -1, 0) - state.velocity
        distance, speed = jnp.sqrt(jnp.sum(r * r, -1)), jnp.sqrt(jnp.sum(v * v, -1))
        if cfg.observation == "dist":
            closest = jnp.argmin(distance)
            parts = [distance[closest][None] / 10, speed[closest][None], level]
        else:
            order = jnp.argsort(distance)
            parabolic = jnp.sqrt(2 * (2 / 3) / distance)
            radial = jnp.sum(r * v, -1) / distance
            tangential = jnp.sqrt(jnp.maximum(speed**2 - radial**2, 0))
            parts = [jnp.log10(distance)[order], (radial / parabolic)[order], (tangential / parabolic)[order]]
            parts.append(level / 10)
    if cfg.clock:
        k, dtype = state.step.astype(level.dtype), level.dtype
        parts += [(k / cfg.horizon.astype(dtype))[None], (1 / (k + 1))[None]]
    return jnp.concatenate(parts)


def environment(cfg: Config, *, reward_scale: ArrayLike = 1.0, reward_floor: ArrayLike = -math.inf) -> Environment:
    """The environment as `core.protocols.Environment`, for `rl.dqn`; its actions are indices of step parameters.

    Args:
        cfg: from `config`.
        reward_scale: multiplies the reward, traced.
        reward_floor: rewards below count as this much, before scaling; traced. The rewards of a lost episode are a
            thousand times those of a good one: this and the scale keep them in the range a network learns in. They
            change what is learnt from, not what `rollout` reports.

    Example:
        >>> import jax
        >>> from jaxsci.rl import three_body
        >>> env = three_body.environment(three_body.config(allow_float32=True))
        >>> state, first = env.reset(jax.random.key(0))
        >>> print(first.observation.shape)
        (13,)
    """
    dtype = cfg.interval.dtype
    shaping = (as_real(reward_scale, dtype), as_real(reward_floor, dtype))
    return Environment(Partial(_env_reset, cfg), Partial(_env_step, cfg, *shaping))


def _env_reset(cfg, key):
    state = reset(key, cfg)
    return state, TimeStep(observe(cfg, state), status=state.status)


def _env_step(cfg, scale, floor, key, state, action):
    state, answer = step(cfg, state, action)
    return state, answer._replace(reward=scale * jnp.maximum(answer.reward, floor))


REWARDS = _reward.NAMES
"""Names of the rewards in the order of their indices; the formulas stand in `_reward.py`."""

__all__ = [
    "REWARDS",
    "STEP_PARAMETERS",
    "Config",
    "State",
    "config",
    "environment",
    "observe",
    "published_start",
    "reset",
    "start",
    "step",
]

entry.hold(globals(), "_env_reset", "_env_step")
