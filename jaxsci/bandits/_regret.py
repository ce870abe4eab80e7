r"""Regret: costs paid beyond those of the best fixed arm, $\sum_{s\le t} c_{s,a_s} - c_{s,i^*}$, and beyond those of
the best arm of every single round, $\sum_{s\le t} c_{s,a_s} - \min_i c_{s,i}$.

From realised costs this is the regret; from expected costs it is the pseudo-regret, which is free of the noise of the
losses.

Reference: Bubeck and Cesa-Bianchi 2012, Regret analysis of bandit problems, section 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from jaxsci.bandits._replay import ReplayRecord
from jaxsci.core.types import as_float


class Regret(NamedTuple):
    """Curves over the rounds, leading axis T, and the best fixed arm.

    Attributes:
        paid: cumulative cost of the arms played.
        fixed: cumulative cost beyond that of playing `best_arm` throughout; its last entry is the regret.
        instance: cumulative cost beyond that of the best arm of each single round.
        best_arm: the arm against which the regret is greatest: without masks the arm of least total cost; the first of
            equal ones.
    """

    paid: Float[Array, " T"]
    fixed: Float[Array, " T"]
    instance: Float[Array, " T"]
    best_arm: Int[Array, ""]


def regret(
    actions: Int[ArrayLike, " T"] | ReplayRecord,
    costs: Real[ArrayLike, "T K"] | Real[ArrayLike, " K"],
    *,
    masks: Bool[ArrayLike, "T K"] | None = None,
    log_prob: Float[ArrayLike, " T"] | None = None,
) -> Regret:
    """Regret curves of the arms played on a table of costs.

    Args:
        actions: the arm of each round, or the `history` of a replay; arms outside the table count as its nearest.
        costs: of every arm in every round, realised or expected; or the expected costs (K,) of a stationary world.
        masks: arms that could be played in each round, all by default; no comparison is made with other arms.
        log_prob: of the arms, -inf where nothing was played; those of the replay by default.

    A round in which nothing was played, or in which the cost paid is not finite, adds nothing to any curve. An arm is
    compared with what was paid only in rounds in which it could be played and its cost is finite.

    Raises:
        ValueError: shapes that do not match.

    The total cost relative to that of the best fixed arm is ``paid[-1] / (paid[-1] - fixed[-1])``. Differentiable in
    `costs`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> r = bandits.regret(jnp.array([2, 0, 1]), jnp.array([0.5, 0.25, 1.0]))
        >>> r.fixed.tolist(), int(r.best_arm)
        ([0.75, 1.0, 1.0], 1)

    References: Bubeck and Cesa-Bianchi 2012, section 1.
    """
    if isinstance(actions, ReplayRecord):
        actions, log_prob = actions.action, actions.log_prob if log_prob is None else log_prob
    actions, costs = jnp.asarray(actions), as_float(costs)
    num_rounds = actions.shape[:1]
    if actions.ndim != 1 or costs.ndim not in (1, 2) or costs.shape[:-1] not in ((), num_rounds) or not costs.shape[-1]:
        raise ValueError(
            f"regret: expected actions (T,) and costs (T, K) or (K,) with K >= 1, got {actions.shape}, {costs.shape}"
        )
    costs = jnp.broadcast_to(costs, (*num_rounds, costs.shape[-1]))
    masks = jnp.ones(costs.shape, bool) if masks is None else jnp.asarray(masks)
    log_prob = jnp.zeros(num_rounds) if log_prob is None else jnp.asarray(log_prob)
    if masks.shape != costs.shape or masks.dtype != bool or log_prob.shape != num_rounds:
        raise ValueError(
            f"regret: masks must be Bool of shape {costs.shape} and log_prob of shape {num_rounds}, got {masks.dtype} "
            f"of shape {masks.shape} and {log_prob.shape}"
        )
    return _regret(actions, costs, masks, log_prob > -jnp.inf)


@jax.jit
def _regret(actions, costs, masks, played):
    actions = jnp.clip(actions, 0, costs.shape[1] - 1)
    paid = jnp.take_along_axis(costs, actions[:, None], axis=1)[:, 0]
    counts = played & jnp.isfinite(paid)
    paid = jnp.where(counts, paid, 0)
    compared = counts[:, None] & masks & jnp.isfinite(costs)
    # The differences are summed. Subtracting long float32 totals from each other would lose their digits.
    beyond = jnp.where(compared, paid[:, None] - jnp.where(compared, costs, 0), 0)
    # The arm that was played always counts, with difference 0, even if the mask forbids it.
    instance = jnp.maximum(jnp.max(jnp.where(compared, beyond, -jnp.inf), axis=1), 0)
    total = jnp.where(jnp.any(compared, axis=0), jnp.sum(beyond, axis=0), -jnp.inf)
    best_arm = jnp.argmax(total).astype(jnp.int32)
    return Regret(*(jnp.cumsum(a) for a in (paid, jnp.take(beyond, best_arm, axis=1), instance)), best_arm)


__all__ = ["Regret", "regret"]
