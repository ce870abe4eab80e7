"""The perceptron against its formula in NumPy, its initial scale, and another product put in by `dense`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.nn import layers, mlp


@pytest.mark.x64
@pytest.mark.parametrize("hidden", [(), (5,), (5, 7)])
def test_equals_the_formula(key, hidden):
    cfg = mlp.config(3, hidden, 2, activation="tanh")
    params = mlp.init(key, cfg)
    x = jax.random.normal(key, (3,))
    h = np.asarray(x)
    for i in range(len(hidden) + 1):
        h = h @ np.asarray(params[f"kernel_{i}"]) + np.asarray(params[f"bias_{i}"])
        h = np.tanh(h) if i < len(hidden) else h
    np.testing.assert_allclose(mlp.apply(params, cfg, x), h, rtol=1e-12, atol=1e-12)


def test_kernels_start_with_variance_one_over_fan_in(key):
    params = mlp.init(key, mlp.config(400, (500,), 1))
    kernel = np.asarray(params["kernel_0"])
    error = np.sqrt(2 / kernel.size) / 400  # standard error of a variance; the truncated normal has less
    assert abs(kernel.var() - 1 / 400) < 5 * error
    assert not np.any(params["bias_0"])


def test_another_product_replaces_every_layer(key):
    names = []

    def coarse(name, x, kernel, bias):
        names.append(name)
        return layers.affine(name, x, jnp.round(kernel * 8) / 8, bias)

    cfg = mlp.config(2, (4, 4), 1)
    params = mlp.init(key, cfg)
    rounded = mlp.apply(params, cfg, jnp.ones(2), dense=coarse)
    grid = jax.tree.map(lambda a: jnp.round(a * 8) / 8, params)
    np.testing.assert_allclose(rounded, mlp.apply(grid, cfg, jnp.ones(2)), rtol=1e-6)
    assert not np.allclose(rounded, mlp.apply(params, cfg, jnp.ones(2)))
    assert names == ["layer_0", "layer_1", "layer_2"]


def test_a_batch_by_vmap_is_the_batch_by_broadcasting(key):
    cfg = mlp.config(3, (8,), 2, activation="gelu")
    params = mlp.init(key, cfg)
    x = jax.random.normal(key, (6, 3))
    np.testing.assert_allclose(
        jax.vmap(lambda x: mlp.apply(params, cfg, x))(x), mlp.apply(params, cfg, x), rtol=1e-5, atol=1e-6
    )
