"""Discounting and sliding windows: moments from scratch, and a world that switches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
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
        policy, weights = bandits.wrappers.discounted(bandits.policies.ucb_v(3), discount=GAMMA), GAMMA**age
    else:
        policy, weights = bandits.wrappers.windowed(bandits.policies.ucb_v(3), LENGTH), (age < LENGTH).astype(float)
    _, state, record, _ = bandits.replay(key, costs, policy)
    state = state.policy.policy
    for got, expected in zip(state[:3], moments(costs, np.asarray(record.action), weights)):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-14)
    assert int(state.rounds) == ROUNDS


@pytest.mark.x64
@pytest.mark.parametrize("shared", [False, True])
def test_discounted_ridge_is_least_squares_with_weights(shared, key):
    """A = sum gamma^(age) phi phi^T + lambda I, b alike, from the rounds themselves."""
    contexts = np.asarray(jax.random.normal(key, (25, 2, 3) if shared else (25, 3)))
    costs = np.asarray(jax.random.uniform(key, (25, 2)))
    inner = bandits.policies.lin_ucb(2, 3, regularization=0.5, shared=shared)
    _, state, record, _ = bandits.replay(
        key, costs, bandits.wrappers.discounted(inner, discount=GAMMA), jnp.asarray(contexts)
    )
    assert not record.status.any()
    ridge, actions = state.policy.policy, np.asarray(record.action)
    for model in range(1 if shared else 2):
        gram, moment = 0.5 * np.eye(3), np.zeros(3)
        for t, arm in enumerate(actions):
            if shared or arm == model:
                phi = contexts[t, arm] if shared else contexts[t]
                gram += GAMMA ** (24 - t) * np.outer(phi, phi)
                moment += GAMMA ** (24 - t) * costs[t, arm] * phi
        root = np.asarray(ridge.factor[model, :, :-1])
        np.testing.assert_allclose(root.T @ root, gram, rtol=1e-9)
        np.testing.assert_allclose(ridge.theta[model], np.linalg.solve(gram, moment), rtol=1e-7)


@pytest.mark.parametrize("name", ["exp3", "tsallis"])
def test_adversarial_policies_fade_sums_and_clock(name, key):
    policy = {"exp3": bandits.policies.exp3(2, mixing=0.2), "tsallis": bandits.policies.tsallis_inf(2)}[name]
    fading = bandits.wrappers.discounted(policy, discount=0.5)
    state = fading.init(key)
    plain = state.policy
    for i, loss in enumerate((0.9, jnp.nan, 0.3, 0.6)):
        decision = fading.select(jax.random.fold_in(key, i), state)
        state = fading.update(state, decision, loss)
        if np.isfinite(loss):
            plain = policy.update(jax.tree.map(lambda a: 0.5 * a, plain), decision, loss)
    contracts.assert_close(state.policy, plain, 1e-6, name)
    np.testing.assert_allclose(state.policy.rounds, 1.75)


def test_window_leaves_no_crumbs_of_fractional_weights(key):
    """An arm that has left the window is unplayed again, whatever rounding did to its sums."""
    policy = bandits.wrappers.windowed(bandits.policies.ucb1(2), 3)
    state = policy.init(key)
    for i in range(9):
        mask = jnp.arange(2) == (i >= 5)
        decision = policy.select(key, state, None, mask)
        state = policy.update(state, decision, 0.1 * i + 0.123, weight=0.1 * i + 0.017)
    assert float(state.policy.count[0]) == 0 and float(state.policy.total[0]) == 0
    assert int(policy.select(key, state).action) == 0


def test_the_window_holds_the_last_plays_whatever_came_between(key):
    """Rounds without a play, of weight 0, or with a loss that is not finite take no place in it and drive none out."""
    policy = bandits.wrappers.windowed(bandits.policies.ucb1(2), 3)
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
        name: float(bandits.regret(bandits.replay(key, costs, policy).history.action, means).instance[-1])
        for name, policy in {
            "plain": bandits.policies.ucb1(2, alpha=0.3),
            "discounted": bandits.wrappers.discounted(bandits.policies.ucb1(2, alpha=0.3), discount=0.97),
            "windowed": bandits.wrappers.windowed(bandits.policies.ucb1(2, alpha=0.3), 60),
            "exp3": bandits.policies.exp3(2),
            "discounted exp3": bandits.wrappers.discounted(bandits.policies.exp3(2), discount=0.97),
        }.items()
    }
    assert max(late["discounted"], late["windowed"]) < 0.6 * late["plain"], late
    assert late["discounted exp3"] < 0.8 * late["exp3"], late


@pytest.mark.bad_input
def test_static_misuse_raises(key):
    fading = bandits.wrappers.discounted(bandits.policies.ucb1(2))
    for wrapped in (
        bandits.wrappers.discounted(bandits.policies.cheb_cb(3, low=0.0, high=1.0)),
        bandits.wrappers.windowed(bandits.wrappers.delayed(bandits.policies.ucb1(2), 2), 3),
        bandits.wrappers.windowed(fading, 3),
        bandits.wrappers.windowed(bandits.wrappers.binned(fading, 2, low=0.0, high=1.0), 3),
        bandits.wrappers.discounted(fading),
        bandits.wrappers.discounted(bandits.wrappers.windowed(bandits.policies.ucb1(2), 3)),
    ):
        with pytest.raises(TypeError, match="whose state is Moments"):
            wrapped.init(key)
    with pytest.raises(ValueError, match="length must be an int >= 1"):
        bandits.wrappers.windowed(bandits.policies.ucb1(2), 0)
