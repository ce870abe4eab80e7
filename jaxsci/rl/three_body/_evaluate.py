"""Policies measured: one episode under a policy, and every fixed step parameter from every start."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from jaxsci.core import entry, keys, tree
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray, as_real
from jaxsci.rl.three_body._env import Config, State, observe, start, step


class Rollout(NamedTuple):
    """An episode; past its end rewards are 0, and errors and evaluations stay.

    Attributes:
        value: the last state.
        total: undiscounted return.
        reward: of each step.
        action: the index of each step's parameter.
        error: relative energy error after each action.
        running: False for the steps after the end.
        status: int32 bits of all steps.
    """

    value: State
    total: Float[Array, ""]
    reward: Float[Array, " num_steps"]
    action: Int[Array, " num_steps"]
    error: Float[Array, " num_steps"]
    running: Bool[Array, " num_steps"]
    status: Int[Array, ""]


def rollout(key: KeyArray, cfg: Config, policy: Callable, state: State, *, num_steps: int = 100) -> Rollout:
    """An episode under a policy.

    Args:
        key: one typed key; step i of the rollout gets ``fold_in(key, i)``.
        cfg: from `config`.
        policy: ``policy(key, observation) -> action``, e.g. `dqn.greedy`.
        state: from `reset` or `start`.
        num_steps: actions at most (static).

    Raises:
        ValueError: num_steps is negative.

    Example:
        >>> import jax
        >>> from jaxsci.rl import three_body
        >>> cfg = three_body.config(allow_float32=True)
        >>> state = three_body.start(cfg, three_body.published_start(0))
        >>> episode = three_body.rollout(jax.random.key(0), cfg, lambda key, observation: 9, state, num_steps=5)
        >>> episode.reward.shape, int(episode.value.step), int(episode.status)
        ((5,), 5, 0)
    """
    num_steps = check_size("three_body.rollout", "num_steps", num_steps, least=0)
    return _rollout(keys.as_typed_key(key, "three_body.rollout"), cfg, policy, state, num_steps)


@eqx.filter_jit
def _rollout(key, cfg, policy, state, num_steps):
    def body(carry, i):
        state, running = carry
        action = jnp.asarray(policy(jax.random.fold_in(key, i), observe(cfg, state)), jnp.int32)
        moved, answer = step(cfg, state, action)
        new = tree.where(running, moved, state)
        reward = jnp.where(running, answer.reward, 0)
        return (new, running & ~(answer.terminated | answer.truncated)), (reward, action, new.error, running)

    (end, _), (reward, action, error, running) = jax.lax.scan(body, (state, jnp.asarray(True)), jnp.arange(num_steps))
    return Rollout(end, jnp.sum(reward), reward, action, error, running, end.status)


def fixed_actions(cfg: Config, corners: Float[Array, "S 4"], *, num_steps: int = 100) -> Rollout:
    """An episode for every start under every fixed action: what a policy has to beat.

    Args:
        cfg: from `config`.
        corners: starts, see `start`; traced.
        num_steps: actions at most (static).

    Returns:
        `Rollout` with leaves [S, num_actions, ...].

    The lanes are uneven: a small step parameter costs a thousand times what a large one does, and under vmap all wait
    for the slowest. They are mapped one after the other, which is faster than vmap over both axes or over the starts
    alone: benchmark "three_body: episodes of 4 starts x 6 actions", 20 starts without ``--fast``.

    Example:
        >>> from jaxsci.rl import three_body
        >>> cfg = three_body.config(step_parameters=(0.05, 0.1), allow_float32=True)
        >>> found = three_body.fixed_actions(cfg, three_body.published_start(0)[None], num_steps=2)
        >>> print(found.reward.shape)
        (1, 2, 2)
    """
    return _fixed_actions(cfg, as_real(corners, cfg.interval.dtype), num_steps)


@eqx.filter_jit
def _fixed_actions(cfg, corners, num_steps):
    key = jax.random.key(0)  # a fixed action draws nothing
    actions = jnp.arange(cfg.num_actions, dtype=jnp.int32)

    def episode(corners, action):
        return rollout(key, cfg, Partial(_constant, action), start(cfg, corners), num_steps=num_steps)

    return jax.lax.map(lambda c: jax.lax.map(lambda a: episode(c, a), actions), corners)


def _constant(action, key, observation):
    return action


__all__ = ["Rollout", "fixed_actions", "rollout"]

entry.hold(globals(), "_constant")
