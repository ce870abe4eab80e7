"""Features of different sizes brought to one, and ties drawn at random."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import bandits

T = 3000
RNG = np.random.default_rng(0)
METRES = RNG.normal(2000, 500, T)
HEIGHTS = np.c_[np.ones(T), METRES, 3.28084 * METRES].astype(np.float32)
COSTS = np.stack([METRES > 2000, METRES <= 2000], 1).astype(np.float32)


@pytest.mark.parametrize("kind", ["lin_ucb", "lin_ts", "square_cb", "greedy_cb"])
def test_decisions_do_not_depend_on_the_units_of_a_feature(kind, key):
    """Powers of two, the same in every round: the same decisions, bit by bit, over sizes from 1e-6 to 1e6."""

    def make():
        if kind in ("lin_ucb", "lin_ts"):
            return bandits.wrappers.scaled(getattr(bandits.policies, kind)(3, 4), 4)
        return bandits.wrappers.scaled(getattr(bandits.policies, kind)(bandits.regressors.ridge(3, 4)), 4)

    rng = np.random.default_rng(1)
    x, costs = rng.standard_normal((60, 4)).astype(np.float32), rng.random((60, 3)).astype(np.float32)
    units = np.float32(2) ** np.array([0, 20, -20, 7])
    plain, other = (bandits.replay(key, costs, make(), x * u) for u in (np.float32(1), units))
    np.testing.assert_array_equal(plain.history.action, other.history.action)
    assert not plain.history.policy_status.any()
    chex.assert_trees_all_equal(plain.state.policy.policy, other.state.policy.policy)
    np.testing.assert_array_equal(plain.state.policy.largest * units, other.state.policy.largest)


def test_a_small_feature_that_decides_is_learnt(key):
    """A feature of the size 1e-4 is shrunk away by a regularisation of 1, unless it is brought to the size 1."""
    small = HEIGHTS * np.float32([1, 1e-7, 0])  # the height in units of 10 000 km, about its mean
    small[:, 1] -= np.float32(2e-4)
    raw, scaled = (
        float(bandits.replay(key, COSTS, policy, small).value) / T
        for policy in (bandits.policies.lin_ucb(2, 3), bandits.wrappers.scaled(bandits.policies.lin_ucb(2, 3), 3))
    )
    assert raw > 0.3 and scaled < 0.05, (raw, scaled)


def test_heights_in_metres_and_feet_are_no_worse(key):
    """55 of 3000 losses raw, by a dense inverse in double precision too; the scales cost three."""
    result = bandits.replay(key, COSTS, bandits.wrappers.scaled(bandits.policies.lin_ucb(2, 3), 3), HEIGHTS)
    assert not result.history.policy_status.any() and float(result.value) / T < 0.025
    np.testing.assert_array_equal(result.state.policy.largest, np.abs(HEIGHTS).max(0))


def test_features_of_each_arm_share_their_scales_and_weight_zero_teaches_none(key):
    policy = bandits.wrappers.scaled(bandits.policies.lin_ucb(2, 3, shared=True), 3, per_arm=2)
    rows = jnp.array([[1.0, 1000.0, 0.0], [-2.0, 10.0, 0.0]])
    state = policy.init(key)
    decision = policy.select(key, state, rows)
    chex.assert_trees_all_equal(policy.update(state, decision, 1.0, rows, 0.0), state)
    chex.assert_trees_all_equal(policy.update(state, decision, 1.0, rows * jnp.nan), state)
    after = policy.update(state, decision, 1.0, rows)
    assert after.largest.tolist() == [2.0, 1000.0, 0.0] and int(policy.status(after)) == 0
    with pytest.raises(
        ValueError, match=r"scaled: context must be an array of shape \(2, 3\), got one of shape \(3,\)"
    ):
        policy.select(key, state, rows[0])
    with pytest.raises(ValueError, match="scaled: num_features must be an int >= 1"):
        bandits.wrappers.scaled(bandits.policies.lin_ucb(2, 3), 0)


# --- ties --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "context"),
    [
        (bandits.policies.ucb1(5, random_ties=True), None),
        (bandits.policies.ucb_v(5, random_ties=True), None),
        (bandits.policies.lin_ucb(5, 2, random_ties=True), np.ones(2, np.float32)),
    ],
    ids=["ucb1", "ucb_v", "lin_ucb"],
)
def test_ties_are_drawn_evenly_among_the_allowed_arms(policy, context, key):
    state, mask = policy.init(key), jnp.array([True, False, True, True, False])
    keys = jax.random.split(key, 3000)
    found = jax.jit(jax.vmap(lambda key: policy.select(key, state, context, mask)))(keys)
    counts = np.bincount(found.action, minlength=5)
    assert counts[1] == counts[4] == 0
    np.testing.assert_allclose(counts[[0, 2, 3]], 1000, atol=5 * np.sqrt(3000 * 2 / 9))
    np.testing.assert_allclose(found.log_prob, -np.log(3), rtol=1e-6)
    learnt = policy.update(state, jax.tree.map(lambda a: a[0], found), -1.0, context)  # one arm is now the best
    for arm in range(5):
        if arm != int(found.action[0]):
            learnt = policy.update(learnt, bandits.policies.fixed(5, arm=arm).select(key, None), 1.0, context)
    alone = policy.select(key, learnt, context)
    assert int(alone.action) == int(found.action[0]) and float(alone.log_prob) == 0.0


def test_no_arm_allowed_is_said_with_ties_too(key):
    policy = bandits.policies.ucb1(2, random_ties=True)
    none = policy.select(key, policy.init(key), None, jnp.zeros(2, bool))
    assert int(none.action) == 0 and float(none.log_prob) == -np.inf
