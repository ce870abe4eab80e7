"""Results as the dict that `arviz.from_dict` takes: names, shapes, weights, and the law of the draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import smc
from smc.known import linear, series
from tolerances import STANDARD_ERRORS

COURSE = ("log_increment", "ess", "resampled", "status")


def test_chains_draws_and_the_course_of_a_run(key):
    """Three lanes are three chains; draws are particles, each with its weight; their mean is the weighted one."""
    run = jax.jit(jax.vmap(lambda k: smc.run(k, linear(), series()[:5], num_particles=400)))
    result = jax.device_get(run(jax.random.split(key, 3)))
    groups = smc.interop.to_arviz(jax.random.fold_in(key, 1), result, 300, name="level")
    assert set(groups) == {"posterior", "sample_stats", "constant_data"}
    draws, log_weight = groups["posterior"]["level"], groups["sample_stats"]["log_weight"]
    assert draws.shape == log_weight.shape == (3, 300)
    for chain in range(3):
        cloud = dict(zip(result.value.particles[chain], result.value.log_weights[chain]))
        np.testing.assert_array_equal([cloud[x] for x in draws[chain]], log_weight[chain])
        weights = np.exp(result.value.log_weights[chain]) / 400
        mean = np.sum(weights * result.value.particles[chain])
        spread = np.sqrt(np.sum(weights * (result.value.particles[chain] - mean) ** 2))
        assert abs(draws[chain].mean() - mean) < STANDARD_ERRORS * spread / np.sqrt(300)
    for name in COURSE:
        np.testing.assert_array_equal(groups["constant_data"][name], getattr(result.history, name))
    np.testing.assert_array_equal(groups["constant_data"]["log_z"], result.log_z)
    assert all(type(a) is np.ndarray for group in groups.values() for a in group.values())


def test_a_single_run_is_one_chain_and_a_pytree_names_its_variables(key):
    def init(key, num, y):
        return {"pair": (jnp.zeros((num, 2)), jnp.arange(num)), "all": jnp.ones(num)}, jnp.zeros(num)

    def move(key, p, log_weights, y):
        return p, log_weights * 0, None

    groups = smc.interop.to_arviz(key, smc.run(key, smc.Model(init, move), jnp.zeros(3), num_particles=6))
    shapes = {name: a.shape for name, a in groups["posterior"].items()}
    assert shapes == {"all": (1, 6), "pair_0": (1, 6, 2), "pair_1": (1, 6)}
    assert groups["constant_data"]["ess"].shape == (1, 3)
    np.testing.assert_array_equal(np.sort(groups["posterior"]["pair_1"][0]), np.arange(6))


@pytest.mark.bad_input
def test_bad_calls(key):
    result = smc.run(key, linear(), series()[:2], num_particles=4)
    with pytest.raises(ValueError, match="num_draws must be an int >= 1"):
        smc.interop.to_arviz(key, result, 0)
    with pytest.raises(ValueError, match="one batch axis at most"):
        smc.interop.to_arviz(key, jax.tree.map(lambda a: a[None, None], result))
    with pytest.raises(TypeError, match="must be concrete"):
        jax.jit(lambda r: smc.interop.to_arviz(key, r)["posterior"]["x"])(result)
