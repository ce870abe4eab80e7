"""What policies over independent arms remember: the weighted moments of every arm's losses.

All such policies share one record, so that discounting and sliding windows are written once (`_forgetting.py`).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxsci.core import entry
from jaxsci.core.policies import as_update
from jaxsci.core.protocols import Decision


class Moments(NamedTuple):
    """Weighted moments of the losses of every arm; under `binned` every array has a leading axis of bins.

    Attributes:
        total: sum of weight times loss; normal Thompson policies subtract their prior mean from each loss first.
        squares: sum of weight times the square of that loss.
        count: sum of the weights: the plays of each arm.
        rounds: rounds learnt, each counted once whatever its weight, also those that a window has taken back.
    """

    total: Float[Array, "*bins K"]
    squares: Float[Array, "*bins K"]
    count: Float[Array, "*bins K"]
    rounds: Int[Array, "*bins"]

    @property
    def mean(self) -> Float[Array, "*bins K"]:
        """Mean loss; 0 for an arm without plays."""
        return self.total / jnp.where(self.count > 0, self.count, 1)


def init_moments(like: Array, key, *, num_arms: int) -> Moments:
    """The moments before any play, in the dtype of `like`."""
    zeros = jnp.zeros(num_arms, like.dtype)
    return Moments(zeros, zeros, zeros, jnp.int32(0))


def learning_moments(centre: Array) -> Partial:
    """The update of a policy that adds ``weight`` plays of (loss - `centre`); a negative weight takes plays back."""
    return as_update(Partial(_learn, centre))


def _learn(centre, state: Moments, decision: Decision, loss, context, weight) -> Moments:
    arm, loss = decision.action, loss - centre
    return Moments(
        state.total.at[arm].add(weight * loss),
        state.squares.at[arm].add(weight * loss**2),
        state.count.at[arm].add(weight),
        state.rounds + 1,
    )


__all__ = ["Moments", "init_moments", "learning_moments"]

entry.hold(globals(), "_learn", "init_moments")
