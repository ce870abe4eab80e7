"""UCB1 and UCB-V: the arms of a plain statement of the rule and of MABWiser, on fixed tables."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
from jaxsci import bandits

ROUNDS = 1000


def table(key):
    return np.asarray(jax.random.uniform(key, (ROUNDS, 6))) * np.linspace(0.6, 1.0, 6)


def plain(costs, index):
    """Play each arm once, then the arm of least `index(losses so far, plays of all arms)`; no array library."""
    seen, arms = [[] for _ in costs[0]], []
    for row in costs.tolist():
        scores = [index(losses, len(arms)) if losses else -math.inf for losses in seen]
        arm = scores.index(min(scores))
        seen[arm].append(row[arm])
        arms.append(arm)
    return arms


@pytest.mark.x64
def test_ucb1_equals_the_plain_rule_and_a_new_width_compiles_nothing(key):
    costs = table(key)

    def rule(alpha):
        return lambda losses, n: sum(losses) / len(losses) - alpha * math.sqrt(2 * math.log(n) / len(losses))

    assert bandits.replay(key, costs, bandits.policies.ucb1(6)).history.action.tolist() == plain(costs, rule(1.0))
    with contracts.count_compilations() as events:
        record = bandits.replay(key, costs, bandits.policies.ucb1(6, alpha=0.3)).history
    assert not events
    assert record.action.tolist() == plain(costs, rule(0.3))
    assert not bool(jnp.any(record.status)) and not bool(jnp.any(record.log_prob))


@pytest.mark.x64
def test_ucb_v_equals_the_plain_rule(key):
    costs = table(key)

    def rule(losses, n):
        zeta, count = 1.2 * math.log(n), len(losses)
        return np.mean(losses) - math.sqrt(2 * np.var(losses) * zeta / count) - 3 * zeta / count

    assert bandits.replay(key, costs, bandits.policies.ucb_v(6)).history.action.tolist() == plain(costs, rule)


@pytest.mark.x64
@pytest.mark.filterwarnings("ignore")  # the peer's own
def test_ucb1_plays_the_arms_of_mabwiser(key):
    """The peer starts from one play of every arm, which here are the first rounds."""
    mab = pytest.importorskip("mabwiser.mab")
    costs = table(key)
    peer = mab.MAB(list(range(6)), mab.LearningPolicy.UCB1(alpha=1))
    peer.fit(list(range(6)), [-costs[i, i] for i in range(6)])
    arms = list(range(6))
    for row in costs[6:]:
        arms.append(peer.predict())
        peer.partial_fit([arms[-1]], [-row[arms[-1]]])
    assert bandits.replay(key, costs, bandits.policies.ucb1(6)).history.action.tolist() == arms


def test_unplayed_arms_come_first_also_under_masks(key):
    policy, mask = bandits.policies.ucb1(4), jnp.array([False, True, False, True])
    state, seen = policy.init(key), []
    for i in range(4):
        decision = policy.select(key, state, None, mask if i < 2 else None)
        seen.append(int(decision.action))
        state = policy.update(state, decision, 0.5)
    assert seen == [1, 3, 0, 2]
