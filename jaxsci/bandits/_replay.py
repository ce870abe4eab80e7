r"""Replay of a policy on a table of costs, and updates of many decisions at once.

If the cost of every arm in every round is known beforehand (from `linear.cost_table` or a logged experiment), one scan
plays any policy on that table: no solver runs again, and seeds and hyper-parameters are axes of a `vmap`. Policies of
different kinds are compared in a Python loop, or through `wrappers.choose`.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree, Real

from jaxsci.core import status, tree
from jaxsci.core.keys import as_typed_key
from jaxsci.core.policies import played, round_key, select_among
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.types import as_float


class ReplayState(NamedTuple):
    """Where a replay stands.

    Attributes:
        policy: the policy's state after the rounds played so far.
        round: index of the next round, from 0; it names the random key of that round.
    """

    policy: PyTree
    round: Int[Array, ""]


class ReplayRecord(NamedTuple):
    """What happened in each round.

    Attributes:
        action: arm chosen, int32.
        cost: what it cost; 0 where the mask left no arm.
        log_prob: log-probability of the choice, as in `Decision`; -inf where the mask left no arm.
        status: NONFINITE_INPUT (cost or context), DEGENERATE (no arm allowed), OUT_OF_RANGE (no such arm in the table);
            0 = ok.
        policy_status: ``policy.status`` of the state after the round: bits of what went wrong in the policy.
    """

    action: Int[Array, " T"]
    cost: Float[Array, " T"]
    log_prob: Float[Array, " T"]
    status: Int[Array, " T"]
    policy_status: Int[Array, " T"]


class ReplayResult(NamedTuple):
    """A replay: what it cost in all, where it stands, and what happened in each round.

    Attributes:
        value: sum of the costs paid.
        state: where to go on.
        history: one entry a round, leading axis T.
        status: bitwise or over the rounds.
    """

    value: Float[Array, ""]
    state: ReplayState
    history: ReplayRecord
    status: Int[Array, ""]


def replay(
    key,
    costs: Real[ArrayLike, "T K"],
    policy: Policy,
    contexts: PyTree = None,
    *,
    masks: Bool[ArrayLike, "T K"] | None = None,
    state: ReplayState | None = None,
) -> ReplayResult:
    """Play `policy` on a table of costs: choose, pay, learn, row by row, in one compiled scan.

    Args:
        key: typed key.
        costs: what each arm costs in each round, traced; in the range that the policy expects.
        policy: any policy over K arms.
        contexts: a record with leading axis T, traced; None for policies without.
        masks: arms that may be played in each round, traced; all by default.
        state: where to go on, the `state` of an earlier result with the same key; the start by default.

    Returns:
        A `ReplayResult` of the total cost, the final `ReplayState`, a `ReplayRecord` of all rounds and the status of
        all rounds together. A round with a cost or a context that is not finite is not learnt and sets
        NONFINITE_INPUT. In a round without an allowed arm nothing is played: cost 0, log-probability -inf, status
        DEGENERATE. An arm outside the table costs what its last column says, at status OUT_OF_RANGE.

    Raises:
        ValueError: costs without two axes or without arms; contexts or masks of another length.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> costs = jax.random.uniform(jax.random.key(0), (200, 3))
        >>> keys, alphas = jax.random.split(jax.random.key(1), 4), jnp.array([0.1, 1.0])
        >>> def run(key, alpha):
        ...     return bandits.replay(key, costs, bandits.policies.ucb1(3, alpha=alpha))
        >>> result = jax.vmap(jax.vmap(run, (None, 0)), (0, None))(keys, alphas)
        >>> result.history.cost.shape, result.value.shape
        ((4, 2, 200), (4, 2))
    """
    key = as_typed_key(key, "replay")
    costs, contexts = as_float(costs), tree.as_arrays(contexts)
    if costs.ndim != 2 or costs.shape[1] == 0:
        raise ValueError(f"replay: costs must have shape (T, K) with K >= 1, got {costs.shape}")
    lengths = {np.shape(a)[:1] for a in jax.tree.leaves(contexts)}
    if lengths - {costs.shape[:1]}:
        raise ValueError(f"replay: contexts must have the leading axis T = {costs.shape[0]} of costs, got {lengths}")
    if masks is not None and np.shape(masks) != costs.shape:
        raise ValueError(f"replay: masks must have the shape of costs, {costs.shape}, got {np.shape(masks)}")
    return _run(key, costs, policy, contexts, None if masks is None else jnp.asarray(masks), state)


@eqx.filter_jit
def _run(key, costs, policy, contexts, masks, state):
    if state is None:
        state = ReplayState(policy.init(round_key(key, "policy")), jnp.int32(0))

    def step(state, row):
        costs, context, mask = row
        key_now, num_arms = round_key(key, "policy", state.round), costs.shape[0]
        decision = select_among("replay", policy, key_now, state.policy, context, num_arms, mask)
        real, cost = played(decision), costs[jnp.minimum(decision.action, costs.shape[0] - 1)]
        fine = jnp.isfinite(cost) & tree.all_finite(context)
        trouble = status.merge(
            status.flag(real & ~fine, status.NONFINITE_INPUT),
            status.flag(~real, status.DEGENERATE),
            status.flag(decision.action >= costs.shape[0], status.OUT_OF_RANGE),
        )
        learnt = policy.update(state.policy, decision, jnp.where(fine, cost, 0), context, fine.astype(cost.dtype))
        paid = jnp.where(real, cost, 0)
        record = ReplayRecord(decision.action, paid, decision.log_prob, trouble, policy.status(learnt))
        return ReplayState(learnt, state.round + 1), record

    state, record = jax.lax.scan(step, state, (costs, contexts, masks))
    return ReplayResult(jnp.sum(record.cost), state, record, status.reduce(record.status))


def update_batch(
    policy: Policy,
    state: PyTree,
    decisions: Decision,
    losses: Real[ArrayLike, " B"],
    contexts: PyTree = None,
    weights: Real[ArrayLike, " B"] | None = None,
) -> PyTree:
    """Learn from B decisions that were made at one state, in their order: `policy.update` as one scan.

    Args:
        policy: any policy.
        state: its state.
        decisions: with leading axis B, e.g. from `select` under `vmap` over keys.
        losses: of the decisions.
        contexts: with leading axis B; None for policies without.
        weights: of the decisions, 1 by default; 0 learns nothing, e.g. for padding.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.thompson_beta(3)
        >>> state = policy.init(jax.random.key(0))
        >>> decisions = jax.vmap(policy.select, (0, None))(jax.random.split(jax.random.key(1), 8), state)
        >>> state = bandits.update_batch(policy, state, decisions, jnp.ones(8))
        >>> state.total.sum().item()
        8.0
    """
    losses = as_float(losses)
    if losses.ndim != 1 or np.shape(decisions.action) != losses.shape:
        raise ValueError(
            f"update_batch: expected one axis of losses and decisions, got {losses.shape}, {np.shape(decisions.action)}"
        )
    weights = jnp.ones_like(losses) if weights is None else jnp.asarray(weights, losses.dtype)
    return _learn_all(policy, state, decisions, losses, tree.as_arrays(contexts), weights)


@eqx.filter_jit
def _learn_all(policy, state, decisions, losses, contexts, weights):
    def learn(state, item):
        decision, loss, context, weight = item
        return policy.update(state, decision, loss, context, weight), None

    return jax.lax.scan(learn, state, (decisions, losses, contexts, weights))[0]


__all__ = ["ReplayRecord", "ReplayResult", "ReplayState", "replay", "update_batch"]
