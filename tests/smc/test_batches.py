"""Clouds moved a batch of particles at a time: the same law, less memory, the same numbers from keys of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import smc
from smc.known import LINEAR_LOG_Z, linear, series
from tolerances import STANDARD_ERRORS

WALK = smc.FeynmanKac(
    init=lambda key, y: jax.random.normal(key),
    propagate=lambda key, x, y: 0.9 * x + jax.random.normal(key),
    log_potential=lambda before, x, y: -0.5 * (y - x) ** 2,
    log_auxiliary=lambda x, y: -0.1 * (y - x) ** 2,
)


def test_a_lifted_model_gives_equal_numbers_whatever_the_batch_size(key):
    """101 particles in one piece, by 25 with one left over, by one, and by more than there are."""

    def run(size):
        return smc.run(key, smc.lift(WALK, batch_size=size), series()[:4], num_particles=101, ess_threshold=1.0)

    whole, *others = jax.jit(lambda: [run(size) for size in (None, 25, 1, 500)])()
    for other in others:
        np.testing.assert_array_equal(other.state.eves, whole.state.eves)
        np.testing.assert_allclose(other.value.particles, whole.value.particles, rtol=1e-6)
        np.testing.assert_allclose(other.log_z, whole.log_z, rtol=1e-6)


def test_batches_of_a_cloud_have_its_law(key):
    """Linear-Gaussian series, 1000 particles by 300: Z is unbiased and log Z as noisy as published (.84)."""
    model = smc.in_batches(linear(), 300)
    run = jax.jit(jax.vmap(lambda k: smc.run(k, model, series(), num_particles=1000)))
    result = run(jax.random.split(key, 60))
    log_z = np.asarray(result.log_z, np.float64) - LINEAR_LOG_Z
    assert 0.75 * 0.84 < log_z.std() < 1.25 * 0.84 and not np.any(result.status)
    ratio = np.exp(log_z)
    assert abs(ratio.mean() - 1) < STANDARD_ERRORS * ratio.std() / np.sqrt(60)


def _doubled(key, p, log_weights, y):
    """Two children each, the second with a sign."""
    x = p["x"]
    return {"x": jnp.concatenate([x, -x])}, jnp.concatenate([x, x]) * 0.1 + y, x.sum()


def test_children_and_weights_stand_where_they_stand_without_batches(key):
    """Seven parents by three, fourteen children; a look-ahead by batches too."""

    def ahead(p, log_weights, y):
        return -0.1 * p["x"]

    model = smc.Model(lambda k, n, y: ({"x": jax.random.normal(k, (n,))}, jnp.zeros(n)), _doubled, ahead)
    batched = smc.in_batches(model, 3)
    state = smc.init(key, model, jnp.float32(0), num_particles=14)[0]
    options = dict(num_resampled=7, store="aux")
    (one, plain), (two, taken) = (smc.step(key, m, state, jnp.float32(0.5), **options) for m in (model, batched))
    np.testing.assert_array_equal(two.cloud.particles["x"], one.cloud.particles["x"])
    np.testing.assert_allclose(two.cloud.log_weights, one.cloud.log_weights, atol=1e-6)
    assert taken.aux.shape == (3,) and plain.aux.shape == ()


def _wide(key, x, log_weights, y):
    """A move that needs 512 numbers a particle on its way."""
    features = jax.random.normal(key, (*x.shape, 512))
    return x + jnp.sort(features, axis=1)[:, 0], -x * x, None


def test_batches_bound_the_memory(key):
    """Temporary bytes of a compiled move, by XLA's own count."""
    whole, num = linear()._replace(move=_wide), 4096
    needed = []
    for model in (whole, smc.in_batches(whole, 256)):
        move = jax.jit(lambda k, x, m=model: m.move(k, x, jnp.zeros(num), 0.4)[0])
        needed.append(move.lower(key, jnp.zeros(num)).compile().memory_analysis().temp_size_in_bytes)
    assert needed[1] < 0.25 * needed[0] and needed[0] > num * 512 * 4, needed


@pytest.mark.bad_input
def test_bad_calls(key):
    with pytest.raises(ValueError, match="in_batches: batch_size must be an int >= 1"):
        smc.in_batches(linear(), 0)
    with pytest.raises(ValueError, match="lift: batch_size must be an int >= 1"):
        smc.lift(WALK, batch_size=2.5)
    with pytest.raises(TypeError, match="in_batches: model.move must be a function"):
        smc.in_batches(linear()._replace(move=3), 2)
    short = linear()._replace(move=lambda k, x, w, y: (x[:2], w, None))
    with pytest.raises(ValueError, match="with 3 particles, or a multiple"):
        smc.run(key, smc.in_batches(short, 3), jnp.zeros(3), num_particles=6)
