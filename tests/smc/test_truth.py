"""Runs against exact filters: a hidden Markov chain, and the linear-Gaussian model up to a million particles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxsci
from jaxsci import smc
from jaxsci.core.static import bind
from smc.known import HMM, HMM_LOG_Z, LINEAR_LOG_Z, SYMBOLS, forward_filter, kalman, linear, moments, series
from tolerances import STANDARD_ERRORS

R = smc.resamplers


def occupancy(x, weights):
    return jnp.zeros(3).at[x].add(weights)


def test_particles_that_remember_give_the_smoother(key):
    """P(x_t = 0) given all six observations, by enumeration of 729 paths."""
    exact = [0.710460, 0.299518, 0.164549, 0.146624, 0.379146, 0.226176]
    result = smc.run(key, smc.with_lag(HMM, 5), SYMBOLS, num_particles=20_000, ess_threshold=1.0)
    weights = np.exp(np.asarray(result.value.log_weights)) / 20_000
    now, past = jax.device_get(result.value.particles)
    path = np.concatenate([past[:, ::-1], now[:, None]], axis=1)
    np.testing.assert_allclose(weights @ (path == 0), exact, atol=STANDARD_ERRORS * 0.008)


SCHEMES = {name: getattr(R, name) for name in ("systematic", "stratified", "multinomial", "residual", "ssp")}
SCHEMES["multinomial in any order"] = Partial(bind(R.multinomial, ordered=False))


@pytest.mark.parametrize(
    ("name", "runs"),
    [("systematic", 1500), ("ssp", 1500), *(pytest.param(n, 65_000, marks=pytest.mark.full) for n in SCHEMES)],
)
def test_the_constant_of_a_hidden_markov_chain_is_unbiased(name, runs, key):
    """E[Z^] / Z = 1 with resampling always, and at ESS below a half; integer states. The full one to .2 %."""
    num, thresholds = 20, jnp.asarray([1.0, 0.5])

    def run(key, threshold):
        return smc.run(key, HMM, SYMBOLS, num_particles=num, resampler=SCHEMES[name], ess_threshold=threshold)

    batch = jax.jit(jax.vmap(jax.vmap(lambda k, t: run(k, t).log_z, (0, None)), (None, 0)))
    log_z = np.asarray(batch(jax.random.split(key, runs), thresholds), np.float64)
    ratio = np.exp(log_z - HMM_LOG_Z)
    error = ratio.std(1) / np.sqrt(runs)
    assert np.all(np.abs(ratio.mean(1) - 1) < STANDARD_ERRORS * error), (ratio.mean(1), error)
    assert np.all(error < 0.5 / np.sqrt(runs)), error
    assert runs < 10_000 or np.all(error < 0.002), error
    if name == "systematic" and runs > 10_000:
        scaled = num * ratio[0].var()
        assert 2.5 < scaled < 2.85, scaled  # 2.77 at N = 10, 2.58 at N = 100


def test_statistics_and_what_is_stored_are_those_of_the_exact_filter(key):
    exact, log_z = forward_filter()
    np.testing.assert_allclose(log_z, HMM_LOG_Z, rtol=1e-14)
    store = ("particles", "log_weights", "ancestors")
    result = smc.run(key, HMM, SYMBOLS, num_particles=10_000, statistics=occupancy, store=store, ess_threshold=0.7)
    history = jax.device_get(result.history)
    np.testing.assert_allclose(history.statistics, exact, atol=STANDARD_ERRORS * 0.01)
    np.testing.assert_allclose(result.log_z, history.log_increment.astype(np.float64).sum(), rtol=1e-6)
    weights = np.exp(history.log_weights)
    np.testing.assert_allclose(weights.mean(1), 1, rtol=1e-5)
    np.testing.assert_allclose(history.ess, weights.sum(1) ** 2 / (weights**2).sum(1), rtol=1e-4)
    assert not history.resampled[0]
    np.testing.assert_array_equal(history.resampled[1:], history.ess[:-1] < 0.7 * 10_000)
    for t in range(1, 6):
        moved = history.ancestors[t] != np.arange(10_000)
        assert moved.any() == history.resampled[t]
    eves = np.arange(10_000)
    for t in range(1, 6):
        eves = eves[history.ancestors[t]]
    np.testing.assert_array_equal(result.state.eves, eves)
    np.testing.assert_array_equal(history.particles[-1], result.value.particles)
    assert int(result.status) == 0 and result.value.particles.dtype == jnp.int32
    jaxsci.check(result)


def test_the_standard_deviation_of_log_z_is_the_published_one(key):
    """Linear-Gaussian series, N = 1000, 60 seeds: sd .84, and the single-run estimate of it."""
    run = jax.jit(jax.vmap(lambda k: smc.run(k, linear(), series(), num_particles=1000)))
    result = run(jax.random.split(key, 60))
    log_z = np.asarray(result.log_z, np.float64)
    assert 0.75 * 0.84 < log_z.std() < 1.25 * 0.84
    assert abs(log_z.mean() + 146.70) < 0.5
    ratio = np.exp(log_z - LINEAR_LOG_Z)
    assert abs(ratio.mean() - 1) < STANDARD_ERRORS * ratio.std() / np.sqrt(60)
    assert not np.any(result.status)


def _study(key, num):
    return smc.run(key, linear(), series(), num_particles=num, statistics=moments)


def check_study(result, num):
    exact, log_z = kalman(series())
    np.testing.assert_allclose(log_z, LINEAR_LOG_Z, rtol=1e-6)  # the series is rounded to float32
    variance = smc.log_z_variance(result)
    error = float(jnp.sqrt(variance.value))
    assert int(variance.status) == 0 and error < 40 / np.sqrt(num)
    assert abs(float(result.log_z) - log_z) < STANDARD_ERRORS * error
    mean, spread = (np.asarray(a) for a in result.history.statistics)
    scale = np.sqrt(exact[:, 1])
    assert np.all(np.abs(mean - exact[:, 0]) < STANDARD_ERRORS * 4 * scale / np.sqrt(num))
    np.testing.assert_allclose(spread, exact[:, 1], rtol=30 / np.sqrt(num))


def test_log_z_and_moments_are_kalmans(key):
    check_study(_study(key, 20_000), 20_000)


@pytest.mark.full
def test_a_million_particles_in_float32(key):
    check_study(_study(key, 1_000_000), 1_000_000)


def test_a_sweep_over_parameters_is_a_vmap(key):
    """64 draws of the parameters at N = 1000: log Z of each against Kalman's; one lane equals its own run."""
    rng, y = np.random.default_rng(0), series()[:50]
    thetas = np.stack([rng.uniform(0.8, 0.95, 64), rng.uniform(0.9, 1.2, 64), rng.uniform(0.3, 0.6, 64)])
    keys = jax.random.split(key, 64)
    run = jax.jit(jax.vmap(lambda k, theta: smc.run(k, linear(theta), y, num_particles=1000)))
    result = run(keys, tuple(jnp.asarray(row, jnp.float32) for row in thetas))
    exact = np.array([kalman(y, theta)[1] for theta in thetas.T])
    miss = np.asarray(result.log_z) - exact
    assert np.abs(miss).max() < 3 and abs(miss.mean() + miss.var() / 2) < STANDARD_ERRORS * miss.std() / 8
    one = smc.run(keys[5], linear(thetas[:, 5]), y, num_particles=1000)
    np.testing.assert_allclose(one.log_z, result.log_z[5], atol=1e-3)
