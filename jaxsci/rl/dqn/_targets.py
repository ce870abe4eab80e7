r"""n-step targets of deep Q-learning from windows of transitions, and the loss that draws the network to them.

$Q(s,a) \leftarrow \sum_{i<n} \gamma^i r_i + \gamma^n (1 - \mathrm{terminated})\, Q^-(s_n, a^*)$, with
$a^* = \arg\max_a Q(s_n, a)$ (double) or $\arg\max_a Q^-(s_n, a)$; Huber loss. Where the environment
discounts by itself, $\gamma^i$ is multiplied by its discounts of the i steps. An episode cut by a time limit
(truncated) is bootstrapped from the state where it was cut; only a state from which nothing follows (terminated) is
worth zero.

Reference: H. van Hasselt, A. Guez, D. Silver, "Deep reinforcement learning with double Q-learning", 2016, equation 4;
F. Pardo et al., "Time limits in reinforcement learning", 2018.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core import entry, tree
from jaxsci.core.types import as_real


def target_of(
    window: tuple[PyTree, ...], next_value: Callable[[PyTree], Any], discount: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    r"""The n-step target, $\sum_{i \le m} \gamma_i r_i + \gamma_{m+1} V(s_{m+1})$, the last term 0 if terminated.

    $\gamma_i = \gamma^i \prod_{j<i} d_j$ with the learner's discount factor and those of the environment.

    Args:
        window: ``(reward, next_observation, d, terminated, truncated)`` of n consecutive transitions, leaves [n, ...].
        next_value: V, called once.
        discount: gamma, traced.

    Returns:
        The target; m is the first transition at which the episode ended, n - 1 if none did: what follows in the
        window belongs to the next episode.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl import dqn
        >>> rewards, discounts, ends = jnp.array([1.0, 2.0]), jnp.ones(2), jnp.array([False, False])
        >>> window = (rewards, jnp.zeros((2, 3)), discounts, ends, ends)
        >>> print(dqn.target_of(window, lambda observation: jnp.float32(4.0), 0.5))  # 1 + 0.5 * 2 + 0.25 * 4
        3.0
    """
    reward, following, kept, terminated, truncated = window
    ended = terminated | truncated
    alive = jnp.concatenate([jnp.ones(1, bool), jnp.cumsum(ended[:-1]) == 0])
    powers = as_real(discount, reward.dtype) ** jnp.arange(ended.shape[0])
    powers = powers * jnp.concatenate([jnp.ones(1, kept.dtype), jnp.cumprod(kept[:-1])])
    last = jnp.sum(alive) - 1
    value = next_value(tree.dynamic_index(following, last))
    beyond = jnp.where(terminated[last], 0, powers[last] * discount * kept[last] * value)
    return jnp.sum(jnp.where(alive, powers * reward, 0)) + beyond.astype(reward.dtype)


def td_loss(apply, discount, huber, params, batch, key, *, double):
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


__all__ = ["target_of", "td_loss"]

entry.hold(globals(), "td_loss")
