r"""What tells good sequences from bad ones on the way: a reward, and the weight that is made of it.

A reward gives every sequence a number r in [0, 1], read as the probability that it is acceptable. Three weights w(r)
are in use under one name: r itself ("probability"), $e^r$ ("exponential", for which r may be any number), and
$r / (1 - r)$ ("odds"). The law that is decoded from, with $p$ the model's, is by `target`

"product"  $p(s_{1:n}) \prod_t w(r_t)^{1/\tau_t}$: every token's reward counts (a process reward);
"last"     $p(s_{1:n})\, w(r_n)^{1/\tau}$ reached through $w(r_t)^{1/\tau_t}$: earlier rewards only guide the particles
           (a prefix of weight zero has no future);
"outcome"  the same law, but r is read at the end of a sequence alone (an outcome reward).

References: I. Puri et al., arXiv 2502.01618 (2025): its theory weighs by r, its algorithm 1 by e^r, its code by odds.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsci.core.static import as_partial

WEIGHTS = ("probability", "exponential", "odds")
TARGETS = ("product", "last", "outcome")


class Reward(NamedTuple):
    """A reward of sequences, asked after each token; caches of its own are part of its memory.

    Attributes:
        init: ``init(prompt) -> memory``: a record of fixed sizes.
        advance: ``advance(memory, token) -> memory``: after one more token.
        score: ``score(memory) -> r``: the reward of the sequence so far, a scalar.
    """

    init: Callable[..., Any]
    advance: Callable[..., Any]
    score: Callable[..., Any]


def as_reward(name: str, reward: Reward) -> Reward:
    """The reward with functions that cross jit."""
    if not isinstance(reward, Reward):
        raise TypeError(f"{name}: reward must be a decoding.Reward, got {type(reward).__name__}")
    return Reward(*(as_partial(f, name, f"reward.{n}") for n, f in reward._asdict().items()))


def log_weight(reward: Float[Array, " N"], weight: str) -> tuple[Float[Array, " N"], Array]:
    """log w(r), and where r lies outside the range of the weight: there it is zero."""
    if weight == "exponential":
        return reward, jnp.zeros(reward.shape, bool)
    outside = (reward < 0) | (reward > 1)
    inside = jnp.where(outside, 0, reward)
    value = jnp.log(jnp.where(inside > 0, inside, 1))
    if weight == "odds":  # certainty has finite odds, those of the number next to 1
        value = value - jnp.log(jnp.maximum(1 - inside, jnp.finfo(reward.dtype).epsneg))
    value = jnp.where(inside > 0, value, -jnp.inf)
    return jnp.where(jnp.isnan(reward), jnp.nan, value), outside


__all__ = ["Reward"]
