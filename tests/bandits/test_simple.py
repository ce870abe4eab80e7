"""Epsilon-greedy under masks and with fractional plays."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci import bandits


def test_exploration_is_uniform_over_the_allowed_arms(key):
    """Epsilon = 1/2 and two of four arms allowed: the greedy one has 1/2 + 1/4, the other 1/4."""
    policy = bandits.policies.epsilon_greedy(4, exploration=5.0)
    state = policy.init(key)._replace(total=jnp.array([0.1, 0.9, 0.5, 0.7]), count=jnp.ones(4), rounds=jnp.int32(39))
    mask = jnp.array([False, True, False, True])
    drawn = jax.jit(jax.vmap(lambda k: policy.select(k, state, None, mask)))(jax.random.split(key, 64))
    assert set(drawn.action.tolist()) == {1, 3}
    np.testing.assert_allclose(jnp.exp(drawn.log_prob), np.where(drawn.action == 3, 0.75, 0.25), rtol=1e-6)


def test_means_of_fractional_plays(key):
    """Discounted or weighted plays of less than one in all still divide the losses they were counted with."""
    policy = bandits.policies.epsilon_greedy(2, exploration=0.0)
    state = policy.init(key)._replace(total=jnp.array([0.09, 0.02]), count=jnp.array([0.3, 0.04]))
    np.testing.assert_allclose(state.mean, [0.3, 0.5], rtol=1e-6)
    assert int(policy.select(key, state).action) == 0
