"""Entries of jaxsci.nn.flax, apart because flax is an extra."""

import jax
import jax.numpy as jnp

from contracts import Bad, Driver
from jaxsci import nn


def _named(folder):
    from flax import linen

    network = nn.flax.named_dense(linen.Dense(2))
    params = network.init(jax.random.key(0), jnp.ones(3))
    assert network.apply(params, jnp.ones(3)).shape == (2,)


ENTRIES = {
    "jaxsci.nn.flax.named_dense": Driver(
        bad=(Bad(lambda folder: nn.flax.named_dense(3), TypeError, "must be of flax.linen or flax.nnx"),), works=_named
    ),
}
