"""The digits of scikit-learn as a contextual bandit: 64 pixels of norm 1, ten arms, loss 1 for a wrong digit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxsci import bandits
from jaxsci.core.static import bind

BLOCKS = Partial(bind(bandits.features.disjoint, num_arms=10))


@functools.cache
def data():
    """Contexts (1797, 64) and labels, as NumPy."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.data / np.linalg.norm(digits.data, axis=1, keepdims=True)).astype(np.float32), digits.target


def neural(regressor_or_policy):
    """A policy over block features, from a neural policy of ten arms."""
    return bandits.wrappers.encoded(regressor_or_policy, BLOCKS)


def greedy(epsilon=0.0):
    """Square-loss network, explored by epsilon alone."""
    return neural(bandits.policies.greedy_cb(bandits.regressors.network(10, 640), epsilon=epsilon))


@jax.jit
def _play(policy, pixels, labels, orders):
    def run(numbered):
        seed, order = numbered
        costs = 1 - jax.nn.one_hot(labels[order], 10)
        return bandits.replay(jax.random.key(seed), costs, policy, pixels[order]).history.cost

    return jax.lax.map(run, (jnp.arange(len(orders)), orders))


def mistakes(policy, num_seeds, num_rounds):
    """Wrong digits of each round, Float[seeds, rounds]: every seed goes through the data in an order of its own."""
    pixels, labels = data()
    orders = []
    for seed in range(num_seeds):
        rng = np.random.default_rng(seed)
        passes = [rng.permutation(len(labels)) for _ in range(-(-num_rounds // len(labels)))]
        orders.append(np.concatenate(passes)[:num_rounds])
    return np.asarray(_play(policy, jnp.asarray(pixels), jnp.asarray(labels), jnp.asarray(orders, jnp.int32)))
