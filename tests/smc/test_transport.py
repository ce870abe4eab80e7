"""Resamplers that return particles: a toy, one that copies as systematic resampling does, one that does nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxsci import smc
from jaxsci.core import status
from smc.known import linear, moments, series


def _by_index(key, log_weights, particles):
    found = smc.resamplers.systematic(key, log_weights, log_weights.shape[0])
    return jax.tree.map(lambda a: a[found], particles), jnp.zeros_like(log_weights)


def _in_place(shift, key, log_weights, particles):
    return particles, log_weights + shift


def _toward_the_mean(share, key, log_weights, particles):
    """A toy: particles shrunk and shifted to the weighted mean, which they keep; equally weighted."""
    mean = jnp.mean(jnp.exp(log_weights) * particles)
    return mean + share * (particles - jnp.mean(particles)), jnp.zeros_like(log_weights)


def test_copies_by_transport_are_those_by_index(key):
    y, options = series()[:12], dict(num_particles=40, store=("particles", "ancestors"), statistics=moments)
    one, two = jax.jit(
        lambda: [
            smc.run(key, linear(), y, resampler=r, **options)
            for r in (smc.resamplers.systematic, smc.Transport(_by_index))
        ]
    )()
    np.testing.assert_array_equal(two.history.particles, one.history.particles)
    np.testing.assert_array_equal(two.history.resampled, one.history.resampled)
    assert two.log_z == one.log_z and np.any(one.history.resampled) and int(two.status) == 0
    np.testing.assert_array_equal(two.history.ancestors, np.broadcast_to(np.arange(40), (12, 40)))
    variance = smc.log_z_variance(two)
    assert int(variance.status) == smc.COALESCED and np.isnan(variance.value)


def test_weights_come_back_up_to_a_constant(key):
    """Nothing is moved: importance sampling, whatever is added to all log-weights; a leaf, so one compilation."""
    y = series()[:5]
    run = jax.jit(lambda r: smc.run(key, linear(), y, num_particles=30, resampler=r, ess_threshold=1.0))
    plain = smc.run(key, linear(), y, num_particles=30, ess_threshold=0.0)
    for shift in (0.0, 7.0):
        found = run(smc.Transport(Partial(_in_place, jnp.float32(shift))))
        np.testing.assert_allclose(found.log_z, plain.log_z, rtol=1e-5)
        np.testing.assert_allclose(found.value.log_weights, plain.value.log_weights, rtol=1e-6, atol=1e-4)
    assert run._cache_size() == 1


def test_a_toy_keeps_the_mean_and_carries_a_gradient(key):
    y = series()[:6]

    def run(share, y):
        toy = smc.Transport(Partial(_toward_the_mean, share))
        return smc.run(key, linear(), y, num_particles=50, resampler=toy, ess_threshold=1.0, store="particles")

    cloud = smc.init(key, linear(), y[0], num_particles=50)[0].cloud
    moved, weights = _toward_the_mean(0.8, None, cloud.log_weights, cloud.particles)
    np.testing.assert_allclose(moved.mean(), jnp.mean(jnp.exp(cloud.log_weights) * cloud.particles), rtol=1e-5)
    slope = jax.jit(jax.grad(lambda s, y: run(s, y).log_z))
    share, step = jnp.float32(0.8), 1e-2
    near = [float(run(share + d, y).log_z) for d in (-step, step)]
    np.testing.assert_allclose(slope(share, y), (near[1] - near[0]) / (2 * step), rtol=0.05)


def test_a_transport_that_loses_all_weight_is_told(key):
    lost = smc.Transport(lambda k, w, x: (x, jnp.full_like(w, -jnp.inf)))
    result = smc.run(key, linear(), series()[:3], num_particles=10, resampler=lost, ess_threshold=1.0)
    assert int(result.status) == status.DEGENERATE and np.all(np.isfinite(result.value.log_weights))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("error", "match", "function", "change"),
    [
        (TypeError, "resampler.function must be a function", 3, {}),
        (TypeError, r"Transport must return \(particles, log_weights\), got", lambda k, w, x: x, {}),
        (TypeError, "float for each of 5 particles, got float32", lambda k, w, x: (x, w[:2]), {}),
        (ValueError, "5 particles along its leading axis", lambda k, w, x: (x[:2], w), {}),
        (TypeError, "the resampler must keep", lambda k, w, x: ((x, x), w), {}),
        (ValueError, "leave gradient and num_resampled", _by_index, dict(gradient="soft")),
        (ValueError, "leave gradient and num_resampled", _by_index, dict(num_resampled=5)),
        (ValueError, "look-ahead needs ancestors", _by_index, dict(look_ahead=lambda x, w, y: w)),
    ],
)
def test_bad_calls(error, match, function, change, key):
    model = linear()._replace(look_ahead=change.get("look_ahead"))
    change = {name: value for name, value in change.items() if name != "look_ahead"}
    with pytest.raises(error, match=match):
        smc.run(key, model, jnp.zeros(3), num_particles=5, resampler=smc.Transport(function), **change)


def test_equally_weighted_copies_need_ancestors(key):
    result = smc.run(key, linear(), series()[:2], num_particles=5)
    with pytest.raises(TypeError, match="resampler must be a function, got Transport"):
        smc.resample_to_uniform(key, result, resampler=smc.Transport(_by_index))
