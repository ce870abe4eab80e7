"""SquareCB, FastCB and their greedy relatives: the probabilities are the formulas', over any regressor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

from jaxsci import bandits
from jaxsci.core.protocols import Decision

PREDICTED = (0.3, 0.1, 0.9, 0.1001)


def _start(key):
    return jnp.zeros(1)


def _add(scores, state, context):
    return scores + 0 * state + context


def _same(state, context, action, loss, weight):
    return state


def constant(scores=PREDICTED):
    """A regressor written by a user: it predicts what it is told (plus the context) and learns nothing."""
    return bandits.regressors.Regressor(Partial(_start), Partial(_add, jnp.asarray(scores)), Partial(_same))


@jax.jit
def draws(policy, state, mask, context):
    """256 decisions in one state."""
    return jax.vmap(lambda k: policy.select(k, state, context, mask))(jax.random.split(jax.random.key(0), 256))


def probabilities(policy, state, mask=(True, True, True, True), context=0.0):
    """Each arm's probability as its decisions report it, NaN where it was not drawn; and the share of its draws."""
    drawn = draws(policy, state, jnp.asarray(mask), jnp.float32(context))
    actions, table = np.asarray(drawn.action), np.full(len(mask), np.nan)
    table[actions] = np.exp(np.asarray(drawn.log_prob))
    return table, np.bincount(actions, minlength=len(mask)) / len(actions)


def at(policy, rounds):
    return bandits.policies.InverseGapState(jnp.zeros(1), jnp.int32(rounds))


def compare(got, expected):
    table, share = got
    drawn, expected = np.isfinite(table), np.asarray(expected)
    assert drawn.sum() >= 2
    np.testing.assert_allclose(table[drawn], expected[drawn], rtol=1e-5)
    error = np.sqrt(expected * (1 - expected) / 256)
    assert np.all(np.abs(share - expected) <= 5 * error + 1e-6)


def square_formula(y, gamma, allowed=None):
    """p_a = 1/(K + gamma gap), what is left to the best, over the arms allowed."""
    allowed = np.ones(len(y), bool) if allowed is None else np.asarray(allowed)
    y = np.where(allowed, y, np.inf)
    best, p = int(np.argmin(y)), np.zeros(len(y))
    for a in np.flatnonzero(allowed):
        p[a] = 1 / (allowed.sum() + gamma * (y[a] - y[best]))
    p[best] = 1 - (p.sum() - p[best])
    return p


def fast_formula(y, gamma, floor=1e-3):
    """p_a = y_b / (K y_b + gamma gap)."""
    y = np.clip(y, floor, 1)
    best = int(np.argmin(y))
    p = y[best] / (len(y) * y[best] + gamma * (y - y[best]))
    p[best] = 1 - (p.sum() - p[best])
    return p


def test_square_cb_plays_by_the_formula_over_a_users_regressor():
    policy = bandits.policies.square_cb(constant(), exploration=2.0)
    compare(probabilities(policy, at(policy, 9)), square_formula(PREDICTED, 6.0))
    mask = (True, False, True, True)
    compare(probabilities(policy, at(policy, 9), mask), square_formula(PREDICTED, 6.0, mask))
    other = bandits.policies.square_cb(constant(), exploration=2.0, exponent=1.0)
    compare(probabilities(other, at(other, 9)), square_formula(PREDICTED, 18.0))


def test_fast_cb_plays_by_the_formula_and_survives_a_best_loss_of_zero():
    policy = bandits.policies.fast_cb(constant(), exploration=2.0)
    compare(probabilities(policy, at(policy, 9)), fast_formula(np.array(PREDICTED), 6.0))
    below = (0.0, -0.5, 1.7, 0.001)  # clipped to the floor and to 1: the first, second and fourth tie
    policy = bandits.policies.fast_cb(constant(below), exploration=2.0)
    got = probabilities(policy, at(policy, 9))
    compare(got, fast_formula(np.array(below), 6.0))
    assert float(np.nansum(got[0])) <= 1 + 1e-6


@pytest.mark.parametrize("factory", [bandits.policies.square_cb, bandits.policies.fast_cb])
def test_before_anything_is_learnt_all_arms_are_equal(factory):
    policy = factory(constant(), exploration=1e6)
    compare(probabilities(policy, at(policy, 0)), np.full(4, 0.25))
    blind = probabilities(policy, at(policy, 50), context=np.nan)
    compare(blind, np.full(4, 0.25))


def test_greedy_cb_explores_with_probability_epsilon():
    policy = bandits.policies.greedy_cb(constant(), epsilon=0.2)
    compare(probabilities(policy, at(policy, 9)), [0.05, 0.85, 0.05, 0.05])
    table, share = probabilities(bandits.policies.greedy_cb(constant()), at(policy, 9))
    assert share[1] == 1 and table[1] == 1


def test_rounds_count_what_was_learnt(key):
    policy = bandits.policies.square_cb(bandits.regressors.ridge(3, 2))
    state, context = policy.init(key), jnp.ones(2)
    decision = policy.select(key, state, context)
    nothing = policy.select(key, state, context, jnp.zeros(3, bool))
    cases = [(decision, 0.4, 0.5, 1), (decision, 0.4, 0.0, 0), (decision, jnp.nan, 1.0, 0), (nothing, 0.4, 1.0, 0)]
    for decided, loss, weight, rounds in cases:
        assert int(policy.update(state, decided, loss, context, weight).rounds) == rounds


@pytest.mark.x64
def test_elimination_keeps_the_arms_some_of_whose_likely_losses_are_least(key):
    """The width w of an arm: forcing its prediction down to y - w raises the ridge objective by Delta exactly."""
    num_arms, d, regularization, mellowness, rounds = 4, 3, 0.5, 0.05, 40
    rng = np.random.default_rng(0)
    model = bandits.regressors.ridge(num_arms, d, regularization=regularization)
    policy = bandits.policies.square_cb(model, exploration=0.0, eliminate=mellowness)
    level = np.array([0.2, 0.3, 0.5, 0.9])
    rows = [(int(a), rng.standard_normal(d)) for a in rng.integers(0, num_arms, rounds)]
    state, update = policy.init(key), jax.jit(policy.update)
    for arm, x in rows:
        state = update(state, Decision(jnp.int32(arm), jnp.log(0.25)), level[arm] * x[0], jnp.asarray(x))
    here = rng.standard_normal(d)
    delta = mellowness * np.log(num_arms * rounds)
    low, high = np.zeros(num_arms), np.zeros(num_arms)
    for a in range(num_arms):
        x = np.array([r for arm, r in rows if arm == a])
        gram, moment = regularization * np.eye(d) + x.T @ x, x.T @ (level[a] * x[:, 0])
        theta = np.linalg.solve(gram, moment)
        # Least rise of (t - theta)' A (t - theta) under t'here = c is quadratic in c: read its width off one point.
        kkt = np.block([[gram, here[:, None]], [here[None, :], np.zeros((1, 1))]])
        forced = np.linalg.solve(kkt, np.append(moment, theta @ here + 1))[:d]
        rise = (forced - theta) @ gram @ (forced - theta)
        low[a], high[a] = theta @ here - np.sqrt(delta / rise), theta @ here + np.sqrt(delta / rise)
    survivors = low <= high.min()
    assert 0 < survivors.sum() < num_arms
    keys = jax.random.split(key, 400)
    drawn = jax.jit(jax.vmap(lambda k: policy.select(k, state, jnp.asarray(here))))(keys)
    np.testing.assert_array_equal(np.unique(drawn.action), np.flatnonzero(survivors))
    np.testing.assert_allclose(np.exp(drawn.log_prob), 1 / survivors.sum(), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    scores=st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4),
    rounds=st.integers(0, 10**6),
    relative=st.booleans(),
)
def test_any_prediction_gives_a_distribution(scores, rounds, relative):
    policy = (bandits.policies.fast_cb if relative else bandits.policies.square_cb)(
        constant(jnp.asarray(scores, jnp.float32))
    )
    table, share = probabilities(policy, at(policy, rounds))
    assert not np.any((table < 0) | (table > 1 + 1e-6)) and np.isfinite(table).sum() == np.sum(share > 0)


@pytest.mark.bad_input
def test_elimination_needs_a_regressor_with_leverage():
    for factory in (bandits.policies.square_cb, bandits.policies.fast_cb):
        with pytest.raises(ValueError, match="needs a regressor with leverage"):
            factory(constant(), eliminate=0.001)
