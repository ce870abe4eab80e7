r"""Regret: what was paid beyond the best fixed arm, $\sum_{s\le t} c_{s,a_s} - c_{s,i^*}$, and beyond the best arm of
every single round, $\sum_{s\le t} c_{s,a_s} - \min_i c_{s,i}$.

Of realised costs this is regret; of expected ones, pseudo-regret, whose curves do not carry the noise of the losses.

Reference: Bubeck and Cesa-Bianchi 2012, Regret analysis of bandit problems, section 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Real

from jaxsci.core.types import float_dtype


class Regret(NamedTuple):
    """Curves over the rounds, leading axis T, and the best fixed arm."""

    paid: Float[Array, " T"]
    """Cumulative cost of the arms played."""
    fixed: Float[Array, " T"]
    """Beyond that of `best_arm`; its last entry is the regret."""
    instance: Float[Array, " T"]
    """Beyond that of the best arm of each round."""
    best_arm: Int[Array, ""]
    """The arm of least total cost, the first of equal ones."""


def regret(actions: Int[ArrayLike, " T"], costs: Real[ArrayLike, "T K"] | Real[ArrayLike, " K"]) -> Regret:
    """Regret curves of the arms played on a table of costs.

    Args:
        actions: the arm of each round, e.g. `Replay.action`.
        costs: of every arm in every round, realised or expected; or the expected costs (K,) of a stationary world.

    Raises:
        ValueError: shapes that do not match.

    The total over that of the best fixed arm is ``paid[-1] / (paid[-1] - fixed[-1])``. Differentiable in `costs`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> r = bandits.regret(jnp.array([2, 0, 1]), jnp.array([0.5, 0.25, 1.0]))
        >>> r.fixed.tolist(), int(r.best_arm)
        ([0.75, 1.0, 1.0], 1)

    References: Bubeck and Cesa-Bianchi 2012, section 1.
    """
    actions, costs = jnp.asarray(actions), jnp.asarray(costs, float_dtype(costs))
    num_rounds = actions.shape[:1]
    if actions.ndim != 1 or costs.ndim not in (1, 2) or costs.shape[:-1] not in ((), num_rounds) or not costs.shape[-1]:
        raise ValueError(
            f"regret: expected actions (T,) and costs (T, K) or (K,) with K >= 1, got {actions.shape}, {costs.shape}"
        )
    return _regret(actions, costs)


@jax.jit
def _regret(actions, costs):
    costs = jnp.broadcast_to(costs, (actions.shape[0], costs.shape[-1]))
    best_arm = jnp.argmin(jnp.sum(costs, axis=0)).astype(jnp.int32)
    paid = jnp.take_along_axis(costs, actions[:, None], axis=1)[:, 0]
    # Differences are summed, not sums subtracted: in float32 long totals would swallow them.
    beyond_fixed, beyond_instance = paid - jnp.take(costs, best_arm, axis=1), paid - jnp.min(costs, axis=1)
    return Regret(*(jnp.cumsum(a) for a in (paid, beyond_fixed, beyond_instance)), best_arm)


__all__ = ["Regret", "regret"]
