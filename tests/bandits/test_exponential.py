"""EXP3 and its kin, and the estimators of Tsallis-INF: weights, estimates by enumeration, the textbook's ordering."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import bandits
from jaxsci.core.protocols import Decision

LOSSES = np.array([0.9, 0.2, 0.4, 0.7])


@pytest.mark.x64
@pytest.mark.parametrize("num_arms", [1, 2, 20, 512])
def test_weights(num_arms, key):
    """Sums, shifts, equal losses, limits; over losses of 1e-3 to 1e6 in one program."""
    unit = jax.random.uniform(key, (num_arms,))
    scales = jnp.asarray([1e-3, 1.0, 1e3, 1e6])

    def run(scale, shift):
        return bandits.probabilities.exponential(scale * unit + shift, 0.3, mixing=0.1)

    weights = jax.jit(jax.vmap(run))
    p = np.asarray(weights(scales, 0 * scales))
    assert p.min() >= 0.1 / num_arms - 1e-15 and np.abs(p.sum(1) - 1).max() <= 1e-12
    exact = np.exp(-0.3 * np.asarray(unit - unit.min()))
    np.testing.assert_allclose(p[1], 0.9 * exact / exact.sum() + 0.1 / num_arms, rtol=1e-12)
    np.testing.assert_allclose(weights(scales, 5 * scales), p, rtol=1e-9)
    np.testing.assert_allclose(weights(0 * scales, 7 + scales), 1 / num_arms, rtol=1e-12)


def test_weights_in_float32_and_under_masks(key):
    losses = jnp.asarray([0.0, 1e6, 3e-3, 5e2])
    weights = jax.jit(lambda mask: bandits.probabilities.exponential(losses, 2.0, mask, mixing=0.2))
    for mask in ([True] * 4, [False, True, False, True], [False] * 4):
        p = np.asarray(weights(jnp.asarray(mask)))
        assert abs(p.sum() - any(mask)) <= 1e-6 and not p[~np.asarray(mask)].any()
        assert p[mask].min(initial=1.0) >= 0.2 / max(sum(mask), 1) - 1e-7


def _mean_estimate(policy, state, p, aux):
    """E of what one round adds to the cumulative losses, by enumeration of the arms."""
    aux = jax.tree.map(lambda a: jnp.broadcast_to(a, (4, *a.shape)), aux)
    decisions = Decision(jnp.arange(4, dtype=jnp.int32), jnp.log(p), aux)
    after = jax.vmap(policy.update, (None, 0, 0))(state, decisions, jnp.asarray(LOSSES))
    return np.asarray(p) @ (np.asarray(after.losses) - np.asarray(state.losses))


@pytest.mark.x64
@pytest.mark.parametrize("name", ["exp3", "iw", "rv"])
def test_estimates_are_unbiased(name, key):
    policy = (
        bandits.policies.exp3(4) if name == "exp3" else bandits.policies.tsallis_inf(4, normalize=False, estimator=name)
    )
    state = policy.init(key)._replace(losses=jnp.array([3.0, 0.0, 1.0, 8.0]), rounds=jnp.asarray(70.0))
    decision = policy.select(key, state)
    if name == "exp3":
        p = bandits.probabilities.exponential(state.losses, np.sqrt(np.log(4) / (4 * 71)))
    else:
        p = bandits.probabilities.tsallis(state.losses, {"iw": 2, "rv": 4}[name] / np.sqrt(71))
    np.testing.assert_allclose(decision.log_prob, jnp.log(p[decision.action]), rtol=1e-9)
    if name == "rv":  # some arms have a baseline, some none
        np.testing.assert_array_equal(decision.aux[0], np.where(p >= 16 / 71, 0.5, 0))
        assert 0 < np.count_nonzero(decision.aux[0]) < 4
    np.testing.assert_allclose(_mean_estimate(policy, state, p, decision.aux), LOSSES, rtol=1e-12)


@pytest.mark.x64
def test_the_biases_of_ix_and_p_are_those_of_the_formulas(key):
    state = bandits.policies.ExponentialState(jnp.array([3.0, 0.0, 1.0, 2.0]), jnp.asarray(9.0))
    policy = bandits.policies.exp3_ix(4)
    eta = np.sqrt(2 * np.log(4) / (4 * 10))
    p = np.asarray(bandits.probabilities.exponential(state.losses, eta))
    aux = policy.select(key, state).aux
    np.testing.assert_allclose(aux[0], eta / 2, rtol=1e-12)
    mean = _mean_estimate(policy, state, p, aux)
    np.testing.assert_allclose(mean, LOSSES * p / (p + eta / 2), rtol=1e-12)

    policy, T, delta = bandits.policies.exp3_p(4, horizon=500, failure=0.02), 500, 0.02
    eta, gamma = 0.95 * np.sqrt(np.log(4) / (4 * T)), 1.05 * np.sqrt(4 * np.log(4) / T)
    weights = np.exp(-eta * np.asarray(state.losses))
    p = (1 - gamma) * weights / weights.sum() + gamma / 4
    aux = policy.select(key, state).aux
    np.testing.assert_allclose(aux[0], p, rtol=1e-12)
    mean = _mean_estimate(policy, state, p, aux)
    np.testing.assert_allclose(mean, -(1 - LOSSES) - np.sqrt(np.log(4 / delta) / (4 * T)) / p, rtol=1e-12)


SLEEPERS = {
    "exp3": bandits.policies.exp3(3),
    "ix": bandits.policies.exp3_ix(3),
    "p": bandits.policies.exp3_p(3, horizon=2500),
    "iw": bandits.policies.tsallis_inf(3, normalize=False),
    "normalized": bandits.policies.tsallis_inf(3),
    "rv": bandits.policies.tsallis_inf(3, estimator="rv"),
}


@pytest.mark.parametrize("name", SLEEPERS)
def test_an_arm_wakes_where_it_fell_asleep(name, key):
    """Arm 0 sleeps for 2000 of 2500 rounds. As the worst it gets at most 59 of the rest (as many as in NumPy; 250 and
    more if sleep cost nothing), as the best at least 286 (13 of EXP3.P if sleep gained nothing)."""
    policy, masks = SLEEPERS[name], jnp.ones((2500, 3), bool).at[:2000, 0].set(False)

    @jax.jit
    def plays(losses):
        def one(key):
            record = bandits.replay(key, jnp.broadcast_to(losses, (2500, 3)), policy, masks=masks).history
            return (record.action[2000:] == 0).sum()

        return jax.vmap(one)(jax.random.split(key, 16)).mean()

    worst, best = (float(plays(jnp.asarray(losses))) for losses in ((0.9, 0.1, 0.5), (0.1, 0.9, 0.5)))
    assert worst < 80 and best > 250, (worst, best)


@pytest.mark.x64
def test_sleeping_arms_are_charged_what_was_paid(key):
    """By enumeration: the mean of what a sleeping arm is charged is the mean loss of the play (of EXP3.P, in gains,
    with the bonus of every arm awake)."""
    mask = jnp.array([True, False, True, True])
    for name, policy in {
        "exp3": bandits.policies.exp3(4),
        "p": bandits.policies.exp3_p(4, horizon=99),
        "iw": bandits.policies.tsallis_inf(4, normalize=False),
        "rv": bandits.policies.tsallis_inf(4, estimator="rv"),
    }.items():
        state = policy.init(key)._replace(losses=jnp.array([3.0, 0.0, 1.0, 2.0]), rounds=jnp.asarray(9.0))
        decided = jax.vmap(lambda k, policy=policy, state=state: policy.select(k, state, None, mask))
        drawn = decided(jax.random.split(key, 256))
        arms, first = np.unique(drawn.action, return_index=True)
        assert arms.tolist() == [0, 2, 3]
        decisions = jax.tree.map(lambda a, first=first: a[first], drawn)
        after = jax.vmap(policy.update, (None, 0, 0))(state, decisions, jnp.asarray(LOSSES[arms]))
        p = np.exp(decisions.log_prob)
        np.testing.assert_allclose(p.sum(), 1, rtol=1e-9)
        charged = p @ (np.asarray(after.losses) - np.asarray(state.losses))
        expected = p @ LOSSES[arms]
        if name == "p":
            expected = expected - 1 - 3 * np.sqrt(np.log(4 / 0.05) / (4 * 99))
        np.testing.assert_allclose(charged[1], expected, rtol=1e-9)


def test_one_arm_is_played_with_certainty(key):
    for policy in (bandits.policies.exp3(1), bandits.policies.exp3_ix(1), bandits.policies.exp3_p(1, horizon=10)):
        state = policy.init(key)
        for _ in range(2):
            decision = policy.select(key, state)
            np.testing.assert_allclose(decision.log_prob, 0, atol=1e-7)
            state = policy.update(state, decision, 0.5)


@pytest.mark.slow
def test_tsallis_beats_exp3_on_bernoulli_arms(key):
    """Ten arms of mean loss .5 but one of .4, 10000 rounds: the gap of the means exceeds 5 standard errors."""
    means = jnp.full(10, 0.5).at[3].set(0.4)
    keys = jax.random.split(key, 32)

    @jax.jit
    def run(policy):
        def one(key):
            each = jnp.broadcast_to(means, (10_000, 10))
            costs = jax.random.bernoulli(jax.random.fold_in(key, 1), each).astype(means.dtype)
            return bandits.regret(bandits.replay(key, costs, policy).history.action, means).fixed[-1]

        return jax.vmap(one)(keys)

    regrets = {
        name: np.asarray(run(policy))
        for name, policy in {
            "iw": bandits.policies.tsallis_inf(10, normalize=False),
            "rv": bandits.policies.tsallis_inf(10, estimator="rv"),
            "exp3": bandits.policies.exp3(10),
        }.items()
    }
    print({name: (r.mean(), r.std()) for name, r in regrets.items()})
    for name in ("iw", "rv"):
        gap = regrets["exp3"] - regrets[name]
        assert gap.mean() > 5 * gap.std(ddof=1) / np.sqrt(32)
    assert regrets["exp3"].mean() < 0.9 * 0.1 * 0.9 * 10_000  # which is .9 of what uniform play loses


@pytest.mark.bad_input
def test_static_misuse_raises():
    with pytest.raises(ValueError, match="'iw' or 'rv'"):
        bandits.policies.tsallis_inf(3, estimator="rw")
    with pytest.raises(ValueError, match="scale them instead"):
        bandits.policies.tsallis_inf(3, estimator="rv", normalize=True)
    with pytest.raises(ValueError, match="num_arms must be an int >= 1"):
        bandits.policies.exp3_p(0, horizon=10)


def test_the_bonus_is_at_most_one(key):
    """Two arms, one round, delta = .001: the formula says 1.95."""
    policy = bandits.policies.exp3_p(2, horizon=1, failure=0.001)
    state = policy.init(key)
    after = policy.update(state, policy.select(key, state), 1.0)
    np.testing.assert_allclose(after.losses, [-2.0, -2.0], rtol=1e-6)
