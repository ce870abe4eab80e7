"""Modules of flax as they are, and their dense layers by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import nn
from jaxsci.nn import layers

linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")


class Block(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = x + linen.Dense(4, name="up")(linen.LayerNorm()(x))
        return jax.nn.relu(linen.Dense(4, use_bias=False)(x))


class Network(linen.Module):
    @linen.compact
    def __call__(self, x):
        for _ in range(2):
            x = Block()(x)
        return linen.Dense(2, dtype=jnp.bfloat16)(x)


class Nested(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(4, 4, use_bias=False, rngs=rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(4, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + jax.nn.relu(block(x))
        return self.norm(x)


X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
LINEN = ["Block_0.up", "Block_0.Dense_0", "Block_1.up", "Block_1.Dense_0", "Dense_0"]


def recording(names):
    def dense(name, x, kernel, bias):
        names.append(name)
        return layers.affine(name, x, kernel, bias)

    return dense


def test_linen_dense_layers_by_name():
    network, names = nn.flax.named_dense(Network()), []
    params = network.init(jax.random.key(0), X)
    expected = Network().apply(params, X)
    found = network.apply(params, X, dense=recording(names))
    assert names == LINEN and found.dtype == expected.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(jax.jit(jax.vmap(network.apply, (None, 0)))(params, X[:, None]), expected[:, None])


def test_nnx_dense_layers_by_name():
    module, names = Nested(nnx.Rngs(0)), []
    network = nn.flax.named_dense(module)
    params = network.init()
    x = X[:, :3]
    found = network.apply(params, x, dense=recording(names))
    assert names == ["first", "blocks.0", "blocks.1"]
    np.testing.assert_array_equal(found, module(x))
    moved = jax.tree.map(lambda a: a + 0.1, params)
    expected = nnx.clone(module)
    nnx.update(expected, jax.tree.map(lambda a: a + 0.1, nnx.state(expected, nnx.Param)))
    np.testing.assert_allclose(jax.jit(network.apply)(moved, x), expected(x), rtol=1e-6)
    gradient = jax.grad(lambda p: jnp.sum(network.apply(p, x) ** 2 * jnp.arange(4.0)[None]))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["blocks"]) + [gradient["first"]["kernel"]])
    alone = nn.flax.named_dense(nnx.Linear(3, 2, rngs=nnx.Rngs(1)))
    assert alone.apply(alone.init(), x).shape == (3, 2)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_kernels_may_be_records(kind):
    module = Network() if kind == "linen" else Nested(nnx.Rngs(0))
    network, x = nn.flax.named_dense(module), X if kind == "linen" else X[:, :3]
    params = network.init(jax.random.key(0), x)

    def is_kernel(path):
        return path[-1].key == "kernel"

    def dense(name, x, kernel, bias):
        codes, scale = kernel
        return layers.affine(name, x, codes.astype(jnp.float32) * scale, bias)

    packed = jax.tree_util.tree_map_with_path(
        lambda p, a: (jnp.round(a * 64).astype(jnp.int8), jnp.float32(1 / 64)) if is_kernel(p) else a, params
    )
    rounded = jax.tree_util.tree_map_with_path(lambda p, a: jnp.round(a * 64) / 64 if is_kernel(p) else a, params)
    got = network.apply(packed, x, dense=dense)
    expected = network.apply(rounded, x)
    np.testing.assert_allclose(got, expected.astype(jnp.float32), atol=0.02 if kind == "linen" else 1e-5)


def test_the_digits_network_is_such_a_module():
    from jaxsci.models.digits import _network

    network, names = nn.flax.named_dense(_network._module()), []
    inputs = (np.zeros(64, np.float32), np.float32(0.5), np.int32(3))
    params = network.init(jax.random.key(0), *inputs)
    found = network.apply(params, *inputs, dense=recording(names))
    assert names == [f"Dense_{i}" for i in range(4)]
    np.testing.assert_allclose(found, _network.apply(params["params"], *inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.bad_input
def test_bad_input():
    with pytest.raises(TypeError, match="nn.flax.named_dense: module must be of flax.linen or flax.nnx, got int"):
        nn.flax.named_dense(3)
