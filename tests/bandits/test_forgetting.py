"""Discounting and sliding windows: moments from scratch, and a world that switches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import bandits

ROUNDS, LENGTH, GAMMA = 60, 7, 0.9


def moments(costs, actions, weights):
    """Of every arm: weighted sums of losses, of squares, and of plays."""
    played = np.eye(costs.shape[1])[actions] * weights[:, None]
    paid = costs[np.arange(len(actions)), actions][:, None]
    return (played * paid).sum(0), (played * paid**2).sum(0), played.sum(0)


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["discounted", "windowed"])
def test_moments_are_those_of_the_weighted_rounds(kind, key):
    costs = np.asarray(jax.random.uniform(key, (ROUNDS, 3)))
    age = np.arange(ROUNDS)[::-1]
    if kind == "discounted":
        policy, weights = bandits.discounted(bandits.ucb_v(3), discount=GAMMA), GAMMA**age
    else:
        policy, weights = bandits.windowed(bandits.ucb_v(3), LENGTH), (age < LENGTH).astype(float)
    state, record = bandits.replay(key, costs, policy)
    state = state.policy.policy
    for got, expected in zip(state[:3], moments(costs, np.asarray(record.action), weights)):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-14)
    assert int(state.rounds) == ROUNDS


def test_window_leaves_no_crumbs_of_fractional_weights(key):
    """An arm that has left the window is unplayed again, whatever rounding did to its sums."""
    policy = bandits.windowed(bandits.ucb1(2), 3)
    state = policy.init(key)
    for i in range(9):
        mask = jnp.arange(2) == (i >= 5)
        decision = policy.select(key, state, None, mask)
        state = policy.update(state, decision, 0.1 * i + 0.123, weight=0.1 * i + 0.017)
    assert float(state.policy.count[0]) == 0 and float(state.policy.total[0]) == 0
    assert int(policy.select(key, state).action) == 0


def test_the_window_holds_the_last_plays_whatever_came_between(key):
    """Rounds without a play, of weight 0, or with a loss that is not finite take no place in it and drive none out."""
    policy = bandits.windowed(bandits.ucb1(2), 3)
    state = policy.init(key)
    for i, loss in enumerate((0.1, 0.2, jnp.nan, 0.4, jnp.inf, 0.6, 0.7, 0.8)):
        decision = policy.select(key, state, None, jnp.full(2, i != 3))
        state = policy.update(state, decision, loss, weight=float(i != 6))
    # 0.4 had no arm to play, 0.7 no weight.
    np.testing.assert_allclose(np.sort(state.window.loss), [0.2, 0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose([state.policy.total.sum(), state.policy.count.sum()], [1.6, 3.0], rtol=1e-6)
    assert int(state.policy.rounds) == int(state.plays) == 4


def test_both_follow_a_switch(key):
    """The best of two arms becomes the worst half-way; plain UCB1 has 500 rounds to unlearn."""
    means = jnp.where(jnp.arange(1000)[:, None] < 500, jnp.array([[0.2, 0.8]]), jnp.array([[0.8, 0.2]]))
    costs = jax.random.bernoulli(key, means).astype(jnp.float32)
    late = {
        name: float(bandits.regret(bandits.replay(key, costs, policy)[1].action, means).instance[-1])
        for name, policy in {
            "plain": bandits.ucb1(2, alpha=0.3),
            "discounted": bandits.discounted(bandits.ucb1(2, alpha=0.3), discount=0.97),
            "windowed": bandits.windowed(bandits.ucb1(2, alpha=0.3), 60),
        }.items()
    }
    assert max(late["discounted"], late["windowed"]) < 0.6 * late["plain"], late


@pytest.mark.bad_input
def test_static_misuse_raises(key):
    fading = bandits.discounted(bandits.ucb1(2))
    for wrapped in (
        bandits.discounted(bandits.cheb_cb(3, low=0.0, high=1.0)),
        bandits.windowed(bandits.delayed(bandits.ucb1(2), 2), 3),
        bandits.windowed(fading, 3),
        bandits.windowed(bandits.binned(fading, 2, low=0.0, high=1.0), 3),
        bandits.discounted(fading),
        bandits.discounted(bandits.windowed(bandits.ucb1(2), 3)),
    ):
        with pytest.raises(TypeError, match="whose state is Moments"):
            wrapped.init(key)
    with pytest.raises(ValueError, match="length must be an int >= 1"):
        bandits.windowed(bandits.ucb1(2), 0)
