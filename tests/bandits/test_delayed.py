"""Late losses: what is learnt when, in which order, and what a full queue drops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
from jaxsci import bandits
from jaxsci.core.protocols import Decision

ROUNDS = 30


def by_hand(key, costs, policy, delays, capacity):
    """The same rounds in Python: a list of pending decisions, those that are due learnt in their order."""
    state, pending, arms, dropped = policy.init(jax.random.fold_in(key, 0xFFFF_FFFF)), [], [], 0
    for t, row in enumerate(costs):
        decision = policy.select(jax.random.fold_in(jax.random.fold_in(key, t), 1), state)
        arms.append(int(decision.action))
        if len(pending) < capacity:
            pending.append((t + int(delays[t % len(delays)]), decision, row[decision.action]))
        else:
            dropped += 1
        for _, decision, loss in [p for p in pending if p[0] <= t]:
            state = policy.update(state, decision, loss)
        pending = [p for p in pending if p[0] > t]
    return state, arms, dropped


@pytest.mark.x64
@pytest.mark.parametrize(
    ("delays", "drops"), [([0], False), ([3], False), ([2, 0, 7, 1, 5], False), ([9, 8, 11], True)], ids=str
)
def test_equals_a_list_of_pending_decisions(delays, drops, key):
    """EXP3-IX, whose update needs probability and rate of the choice, so old decisions must keep theirs."""
    policy, costs = bandits.policies.exp3_ix(3), jax.random.uniform(key, (ROUNDS, 3))
    late = bandits.wrappers.delayed(policy, 6, delay=jnp.asarray(delays))
    _, state, record, _ = bandits.replay(key, costs, late)
    expected, arms, dropped = by_hand(key, costs, policy, delays, 6)
    assert record.action.tolist() == arms
    state = state.policy
    np.testing.assert_allclose(state.policy.losses, expected.losses, rtol=1e-12)
    assert int(state.dropped) == dropped and (dropped > 0) == drops
    assert int(state.policy.rounds) + int((state.due >= 0).sum()) + dropped == ROUNDS


def test_a_queue_of_the_delay_plus_one_drops_nothing(key):
    costs = jax.random.uniform(key, (ROUNDS, 3))
    for capacity, dropped in ((4, False), (3, True)):
        state = bandits.replay(key, costs, bandits.wrappers.delayed(bandits.policies.ucb1(3), capacity, delay=3)).state
        assert (int(state.policy.dropped) > 0) == dropped


def test_tickets_in_any_order(key):
    ucb = bandits.policies.ucb1(3)
    policy = bandits.wrappers.delayed(ucb, 2)
    state = policy.init(key)

    def hold(state, arm):
        return bandits.wrappers.delayed_hold(state, Decision(jnp.int32(arm), jnp.float32(0)))

    state, first = hold(state, 0)
    state, second = hold(state, 1)
    state, third = hold(state, 2)
    assert [int(first), int(second), int(third)] == [0, 1, 2] and int(state.dropped) == 1
    state = bandits.wrappers.delayed_settle(ucb, state, third, 0.9)  # was not kept
    assert not state.policy.count.any()
    state = bandits.wrappers.delayed_settle(ucb, state, second, 0.3)
    state = bandits.wrappers.delayed_settle(ucb, state, second, 0.3)  # settled already
    np.testing.assert_array_equal(state.policy.count, [0, 1, 0])
    state, fourth = hold(state, 2)
    state = bandits.wrappers.delayed_settle(ucb, state, fourth, 0.5)
    state = bandits.wrappers.delayed_settle(ucb, state, first, 0.1)
    np.testing.assert_allclose(state.policy.total, [0.1, 0.3, 0.5], rtol=1e-6)
    assert bool(jnp.all(state.due == -1)) and int(state.dropped) == 1


def test_contexts_wait_with_their_decisions(key):
    """Each loss goes to the bin in which its decision was made, not to the one of the round in which it arrives."""
    policy = bandits.wrappers.delayed(
        bandits.wrappers.binned(bandits.policies.ucb1(2), 2, low=0.0, high=1.0), 4, delay=2, context=jnp.float32(0)
    )
    state = policy.init(key)
    for loss, context in ((0.1, 0.2), (0.3, 0.9), (0.5, 0.9), (0.7, 0.9)):
        context = jnp.float32(context)
        state = policy.update(state, policy.select(key, state, context), loss, context)
    np.testing.assert_allclose(state.policy.total, [[0.1, 0], [0.3, 0]], rtol=1e-6)


def test_rounds_that_teach_nothing_are_no_rounds(key):
    """The clock stands, so nothing arrives; a ticket of such a round is -1."""
    ucb = bandits.policies.ucb1(2)
    policy = bandits.wrappers.delayed(ucb, 3, delay=1)
    state = policy.init(key)
    decision = policy.select(key, state)
    state = policy.update(state, decision, 0.5)
    nothing = policy.select(key, state, None, jnp.zeros(2, bool))
    for decided, loss, weight in ((decision, jnp.nan, 1.0), (decision, 0.5, 0.0), (nothing, 0.5, 1.0)):
        contracts.assert_close(policy.update(state, decided, loss, weight=weight), state, 0.0, "state")
    held, ticket = bandits.wrappers.delayed_hold(state, nothing)
    assert int(ticket) == -1
    contracts.assert_close(held, state, 0.0, "held")
    state = policy.update(state, decision, 0.7)
    np.testing.assert_allclose(state.policy.total, [0.5, 0.0], rtol=1e-6)


@pytest.mark.bad_input
def test_static_misuse_raises(key):
    with pytest.raises(ValueError, match="capacity must be an int >= 1"):
        bandits.wrappers.delayed(bandits.policies.ucb1(2), 0)
    with pytest.raises(ValueError, match="array of one axis"):
        bandits.wrappers.delayed(bandits.policies.ucb1(2), 3, delay=jnp.zeros((2, 2), int))
    policy = bandits.wrappers.delayed(bandits.policies.ucb1(2), 3)
    state = policy.init(key)
    with pytest.raises(ValueError, match="name an example"):
        policy.update(state, policy.select(key, state), 0.5, jnp.float32(0.3))
    with pytest.raises(ValueError, match="delay must be of an integer dtype"):
        bandits.wrappers.delayed(bandits.policies.ucb1(2), 3, delay=2.9)
    for wrap in (bandits.wrappers.delayed, bandits.wrappers.windowed):
        policy = wrap(
            bandits.policies.lin_ucb(2, 3) if wrap is bandits.wrappers.delayed else bandits.policies.ucb1(2),
            3,
            context=jnp.zeros(3),
        )
        state = policy.init(key)
        decision = policy.select(key, state, jnp.zeros(3))
        for context in (2.0, jnp.zeros(2), jnp.zeros((1, 3))):
            with pytest.raises(ValueError, match=r"context must match the example .* of shape \(3,\)"):
                policy.update(state, decision, 0.5, context)
    whole = bandits.wrappers.delayed(bandits.policies.ucb1(2), 3, context=0)
    state = whole.init(key)
    with pytest.raises(ValueError, match="context must match the example"):
        whole.update(state, whole.select(key, state), 0.5, 0.5)
