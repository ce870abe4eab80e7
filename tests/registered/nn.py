"""Entries of jaxsci.nn."""

import jax
import jax.numpy as jnp

import contracts
from contracts import Compiled, Constant, Driver, Record
from jaxsci import nn

CFG = nn.mlp.config(3, (8,), 2)


def _init(key, dtype):
    return lambda k: nn.mlp.init(k, CFG, dtype=dtype), (key,)


def _apply(key, dtype):
    params = nn.mlp.init(key, CFG, dtype=dtype)
    return lambda p, x: nn.mlp.apply(p, CFG, x), (params, jax.random.normal(key, (3,), dtype))


def _affine(key, dtype):
    keys = jax.random.split(key, 3)
    shapes = ((3,), (3, 2), (2,))
    return nn.mlp.affine, tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes))


ENTRIES = {
    "jaxsci.nn.mlp.ACTIVATIONS": Constant(),
    "jaxsci.nn.mlp.Config": Record(),
    "jaxsci.nn.mlp.affine": Compiled(_affine, grad=(0, 1, 2)),
    "jaxsci.nn.mlp.apply": Compiled(_apply, grad=(0, 1)),
    "jaxsci.nn.mlp.config": Driver(
        bad=(
            contracts.Bad(lambda _: nn.mlp.config(0, (8,), 1), ValueError, "sizes must be integers >= 1"),
            contracts.Bad(lambda _: nn.mlp.config(1, (8,), 1, activation="no"), ValueError, "activation must be one"),
            contracts.Bad(
                lambda _: nn.mlp.apply(nn.mlp.init(jax.random.key(0), CFG), CFG, jnp.ones(4)),
                ValueError,
                r"shape \(3,\)",
            ),
        )
    ),
    "jaxsci.nn.mlp.init": Compiled(_init),
}
