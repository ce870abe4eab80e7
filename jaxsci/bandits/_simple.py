r"""Baselines for all other policies: fixed, uniform, and epsilon-greedy.

Epsilon-greedy draws an arm uniformly with probability $\epsilon_t = \min(1, cK/t)$, else plays that of least mean loss.

Reference: Auer, Cesa-Bianchi and Fischer 2002, Finite-time analysis of the multiarmed bandit problem, figure 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.bandits._moments import Moments, init_moments, learning_moments
from jaxsci.core import entry
from jaxsci.core.policies import allowed_arms, as_select, check_num_arms, draw
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind
from jaxsci.core.types import Size, as_float


class Nothing(NamedTuple):
    """The state of a policy that learns nothing.

    Attributes:
        empty: an array without entries: the one leaf, so that this state is batched like any other.
    """

    empty: Float[Array, " 0"]


def fixed(num_arms: Size, *, arm: ArrayLike) -> Policy:
    """Always plays `arm`; if the mask forbids that arm, a uniformly drawn allowed one.

    Args:
        num_arms: K, static.
        arm: index in [0, K), traced; values outside are clipped.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.fixed(3, arm=2)
        >>> int(policy.select(jax.random.key(0), policy.init(jax.random.key(0))).action)
        2
    """
    num_arms = check_num_arms("fixed", num_arms)
    return Policy(
        Partial(_init_nothing),
        as_select(Partial(bind(_select_fixed, num_arms=num_arms), jnp.asarray(arm, jnp.int32))),
        Partial(_update_nothing),
    )


def uniform(num_arms: Size) -> Policy:
    """Plays every allowed arm with equal probability.

    Args:
        num_arms: K, static.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.uniform(4)
        >>> decision = policy.select(jax.random.key(1), policy.init(jax.random.key(0)))
        >>> print(f"{jnp.exp(decision.log_prob):.2f}")
        0.25
    """
    num_arms = check_num_arms("uniform", num_arms)
    return Policy(
        Partial(_init_nothing), as_select(Partial(bind(_select_uniform, num_arms=num_arms))), Partial(_update_nothing)
    )


def _init_nothing(key) -> Nothing:
    return Nothing(jnp.zeros(0))


def _select_fixed(arm, key, state, context, mask, *, num_arms) -> Decision:
    return draw(key, jax.nn.one_hot(jnp.clip(arm, 0, num_arms - 1), num_arms), mask)


def _select_uniform(key, state, context, mask, *, num_arms) -> Decision:
    return draw(key, jnp.full(num_arms, 1 / num_arms), mask)


def _update_nothing(state, decision, loss, context=None, weight=1.0):
    return state


def epsilon_greedy(num_arms: Size, *, exploration: ArrayLike = 5.0) -> Policy:
    r"""Draws an arm uniformly with probability $\min(1, cK/t)$, else plays the arm of least mean loss.

    Arms that were never played come before all others, in the order of their index.

    Args:
        num_arms: K, static.
        exploration: c > 0, traced.

    Losses may have any range. References: Auer et al. 2002, figure 3.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from jaxsci import bandits
        >>> costs = np.tile(np.array([0.9, 0.1], np.float32), (200, 1))
        >>> played = bandits.replay(jax.random.key(0), costs, bandits.policies.epsilon_greedy(2))
        >>> bool(played.history.action[-50:].mean() > 0.8)
        True
    """
    num_arms = check_num_arms("epsilon_greedy", num_arms)
    exploration = as_float(exploration)
    return Policy(
        Partial(bind(init_moments, num_arms=num_arms), exploration),
        as_select(Partial(bind(_select_greedy, num_arms=num_arms), exploration)),
        learning_moments(jnp.zeros_like(exploration)),
    )


def _select_greedy(exploration, key, state: Moments, context, mask, *, num_arms) -> Decision:
    dtype = exploration.dtype
    allowed = allowed_arms(mask, num_arms)
    score = jnp.where(allowed, jnp.where(state.count > 0, state.mean, -jnp.inf), jnp.inf)
    epsilon = jnp.minimum(1, exploration * num_arms / (state.rounds + 1).astype(dtype))
    greedy = jax.nn.one_hot(jnp.argmin(score), num_arms, dtype=dtype)
    explore = allowed.astype(dtype) / jnp.maximum(jnp.sum(allowed), 1).astype(dtype)
    return draw(key, epsilon * explore + (1 - epsilon) * greedy, mask)


__all__ = ["Nothing", "epsilon_greedy", "fixed", "uniform"]

entry.hold(globals(), "_init_nothing", "_select_fixed", "_select_greedy", "_select_uniform", "_update_nothing")
