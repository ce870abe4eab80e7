"""Thompson sampling: arms are played with the probabilities of their posteriors, from closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from jaxsci import bandits
from jaxsci.core.protocols import Decision

DRAWS = 20_000


def taught(policy, losses):
    """The state after these losses of arms 0, 1, ..., learnt in one scan."""
    arms = np.repeat(np.arange(len(losses)), [len(x) for x in losses])
    decisions = Decision(jnp.asarray(arms, jnp.int32), jnp.zeros(len(arms)))
    return bandits.update_batch(policy, policy.init(jax.random.key(0)), decisions, jnp.concatenate(losses))


@jax.jit
def share(policy, state, key):
    """How often arm 0 is played."""
    keys = jax.random.split(key, DRAWS)
    return jnp.mean(jax.vmap(policy.select, (0, None))(keys, state).action == 0)


def assert_probability(found, expected):
    assert 0.02 < expected < 0.98
    assert abs(float(found) - expected) <= 5 * np.sqrt(expected * (1 - expected) / DRAWS)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.05, 0.3)])
def test_beta(a, b, key):
    policy = bandits.policies.thompson_beta(2, ones=a, zeros=b)
    state = taught(policy, [jnp.array([1.0, 0, 0]), jnp.array([0.0, 1, 0.25, 0, 0])])
    first, second = scipy.stats.beta(a + 1, b + 2), scipy.stats.beta(a + 1.25, b + 3.75)
    expected = scipy.integrate.quad(lambda x: first.cdf(x) * second.pdf(x), 0, 1)[0]
    assert_probability(share(policy, state, key), expected)


def test_gaussian_of_known_spread(key):
    policy = bandits.policies.thompson_gaussian(2, sigma=2.0, prior_mean=10.0, prior_count=0.5)
    x, y = np.array([9.0, 11.0, 8.0]), np.array([9.5])
    means = [(5 + v.sum()) / (0.5 + v.size) for v in (x, y)]
    spread = 2.0 * np.sqrt(1 / 3.5 + 1 / 1.5)
    expected = scipy.stats.norm.cdf((means[1] - means[0]) / spread)
    assert_probability(share(policy, taught(policy, [jnp.asarray(x), jnp.asarray(y)]), key), expected)


def test_unknown_variance_gives_student_t(key):
    """The other arm's mean is as good as known, so the probability is a value of the distribution function.

    Losses lie far from 0: their squares must be taken about the prior's mean, or float32 loses the variance.
    """
    policy = bandits.policies.thompson_normal_inverse_gamma(
        2, prior_mean=1000.0, prior_count=2.0, prior_shape=1.5, prior_scale=0.3
    )
    x = 1000 + np.array([0.25, -0.5, 0.75, 0.125])
    state = taught(policy, [jnp.asarray(x), jnp.asarray([1000.5])])
    state = state._replace(  # arm 1: a million losses of 1000.5 that do not vary
        total=state.total.at[1].mul(1e6), squares=state.squares.at[1].mul(1e6), count=state.count.at[1].mul(1e6)
    )
    count, shape = 2 + x.size, 1.5 + x.size / 2
    mean = (2 * 1000 + x.sum()) / count
    scale = 0.3 + ((x - x.mean()) ** 2).sum() / 2 + 2 * x.size / count * (x.mean() - 1000) ** 2 / 2
    expected = scipy.stats.t(2 * shape, mean, np.sqrt(scale / (shape * count))).cdf(1000.5)
    assert_probability(share(policy, state, key), expected)
