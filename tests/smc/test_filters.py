"""Filters from distribution objects: published accuracy, missing observations, look-aheads, forecasts, variances."""

import functools
import math

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxsci import smc
from jaxsci.core import status
from registered.smc import Normal
from smc.known import LINEAR_LOG_Z, kalman, moments, series
from tolerances import STANDARD_ERRORS

ROOT = 1 / math.sqrt(1 - 0.81)


def first(y):
    return distrax.Normal(0.0, ROOT)


def following(x, y):
    return distrax.Normal(0.9 * x, 1.0)


def observation(x, y):
    return distrax.Normal(x, 0.2)


def best(x, y):
    """The law of x_t given x_{t-1} and y_t."""
    variance = 1 / (1 + 25.0)
    return distrax.Normal(variance * (0.9 * x + 25 * y), math.sqrt(variance))


def best_first(y):
    variance = 1 / (0.19 + 25.0)
    return distrax.Normal(variance * 25 * y, math.sqrt(variance))


def foretold(x, y):
    """log p(y_t | x_{t-1})."""
    return distrax.Normal(0.9 * x, math.sqrt(1.04)).log_prob(jnp.broadcast_to(y, x.shape))


@functools.cache
def models(batched):
    space = smc.state_space(first, following, observation, batched=batched)
    guided = smc.guided(space, best_first, best)
    return {
        "bootstrap": smc.bootstrap(space),
        "guided": guided,
        "auxiliary": smc.auxiliary(space, guided, foretold),
    }


@pytest.mark.parametrize(
    ("name", "sd", "runs"),
    [
        ("guided", 0.066, 40),
        pytest.param("guided", 0.066, 200, marks=pytest.mark.full),
        pytest.param("auxiliary", 0.070, 200, marks=pytest.mark.full),
    ],
)
def test_guided_and_auxiliary_filters_are_as_accurate_as_published(name, sd, runs, key):
    """N = 1000; standard deviation of log Z, mean of Z^ / Z."""
    run = jax.jit(jax.vmap(lambda k: smc.run(k, models(True)[name], series(), num_particles=1000)))
    result = run(jax.random.split(key, runs))
    log_z = np.asarray(result.log_z, np.float64) - LINEAR_LOG_Z
    assert 0.75 * sd < log_z.std() < 1.25 * sd and not np.any(result.status)
    ratio = np.exp(log_z)
    assert abs(ratio.mean() - 1) < STANDARD_ERRORS * ratio.std() / np.sqrt(runs)


def test_a_function_of_one_particle_gives_the_filter_of_the_cloud(key):
    """Other keys, so other draws: the same law."""
    y = series()[:8]
    run = jax.jit(lambda k: [smc.run(k, models(b)["auxiliary"], y, num_particles=3000).log_z for b in (False, True)])
    np.testing.assert_allclose(run(key), kalman(y)[1], atol=0.05)


def test_missing_observations_are_left_out(key):
    y = series()[:12].copy()
    y[[0, 3, 4, 11]] = np.nan
    exact, log_z = kalman(y)

    def run(y):
        return smc.run(key, models(True)["bootstrap"], y, num_particles=20_000, statistics=moments)

    result = jax.jit(run)(y)
    assert int(result.status) == 0
    np.testing.assert_allclose(result.log_z, log_z, atol=0.1)
    np.testing.assert_allclose(result.history.log_increment[np.isnan(y)], 0, atol=1e-5)
    miss = np.abs(result.history.statistics[0] - exact[:, 0]) / np.sqrt(exact[:, 1])
    assert miss.max() < 0.1
    slope = jax.jit(jax.grad(lambda y: run(y).log_z))(jnp.asarray(y))
    assert np.all(np.isfinite(slope)) and not np.any(slope[np.isnan(y)])


def test_controls_come_with_the_inputs(key):
    """x_t = .9 x_{t-1} + u_t + noise: log Z is that of the series without the path of the controls."""
    y, u = series()[:8], np.linspace(-1, 2, 8, dtype=np.float32)
    path = np.zeros(8)
    for t in range(1, 8):
        path[t] = 0.9 * path[t - 1] + u[t]
    space = smc.state_space(
        lambda input: Normal(0.0, ROOT),
        lambda x, input: Normal(0.9 * x + input["control"], 1.0),
        lambda x, input: Normal(x, 0.2),
        observed=lambda input: input["y"],
        batched=True,
    )
    inputs = {"y": (y + path).astype(np.float32), "control": u}
    result = smc.run(key, smc.bootstrap(space), inputs, num_particles=20_000)
    np.testing.assert_allclose(result.log_z, kalman(y)[1], atol=0.1)


MEAN, COVARIANCE = np.array([0.3, -0.2, 0.5]), np.array([[2.0, 0.5, 0.3], [0.5, 1.0, -0.2], [0.3, -0.2, 1.5]])


SCALES = np.sqrt(np.diag(COVARIANCE)).astype(np.float32)
LAWS = {
    "normal": lambda x: distrax.MultivariateNormalFullCovariance(x, jnp.asarray(COVARIANCE, jnp.float32)),
    "components": lambda x: distrax.Normal(x, jnp.broadcast_to(SCALES, x.shape)),
    "joint": lambda x: distrax.Independent(distrax.Normal(x, 1.0), 1),
}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("name", LAWS)
def test_single_components_may_be_missing(name, batched, key):
    """The marginal density where the law can give it, else a status; the state is known, so log Z is exact."""
    y = np.array([[1.0, 0.1, -0.4], [np.nan, 0.1, -0.4], [1.0, np.nan, np.nan], [np.nan] * 3], np.float32)
    space = smc.state_space(
        lambda y: Normal(jnp.asarray(MEAN, jnp.float32), 0.0),
        lambda x, y: Normal(x, 0.0),
        lambda x, y: LAWS[name](x),
        batched=batched,
    )
    run = jax.jit(jax.vmap(lambda y: smc.run(key, smc.bootstrap(space), y[None], num_particles=2)))
    result = jax.device_get(run(y))
    covariance = {"normal": COVARIANCE, "components": np.diag(np.diag(COVARIANCE)), "joint": np.eye(3)}[name]
    for row, log_z, code in zip(y, result.log_z, result.status):
        seen = ~np.isnan(row)
        if name == "joint" and seen.any() and not seen.all():
            assert code == status.NONFINITE_INPUT | status.DEGENERATE and log_z == -np.inf
            continue
        law = scipy.stats.multivariate_normal
        exact = law(MEAN[seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen]) if seen.any() else 0.0
        assert code == 0
        np.testing.assert_allclose(log_z, exact, rtol=1e-5, atol=1e-6)


class Keyed(Normal):
    """A law that calls its key `key`, as those of numpyro do."""

    def sample(self, key, sample_shape=()):
        return super().sample(seed=key, sample_shape=sample_shape)


def test_laws_that_name_their_key_otherwise_give_the_same_run(key):
    def run(law):
        space = smc.state_space(
            lambda y: law(0.0, 1.0), lambda x, y: law(x, 1.0), lambda x, y: law(x, 0.5), batched=True
        )
        return smc.run(key, smc.bootstrap(space), series()[:4], num_particles=20).log_z

    seeded, keyed = jax.jit(lambda: (run(Normal), run(Keyed)))()
    assert seeded == keyed and np.isfinite(seeded)


def test_an_uneven_look_ahead_is_told_and_costs_accuracy(key):
    """An eta five times too sure of itself: unbiased all the same, but far noisier; a notice, no fault."""
    y = series()[:30]
    space = smc.state_space(first, following, observation, batched=True)
    poor = smc.auxiliary(space, smc.bootstrap(space), lambda x, y: -3.0 * (y - 0.9 * x) ** 2 * 25)
    run = jax.jit(jax.vmap(lambda k: [smc.run(k, m, y, num_particles=300) for m in (models(True)["bootstrap"], poor)]))
    plain, poor = run(jax.random.split(key, 40))
    assert poor.log_z.std() > 1.5 * plain.log_z.std()
    assert np.all(np.asarray(poor.status) & smc.UNEVEN_LOOK_AHEAD) and not np.any(plain.status)
    assert not np.any(status.faults(np.asarray(poor.status), "smc"))


def test_forecasts_follow_the_model(key):
    """Mean and variance of the observations of the next three steps, from the exact filter."""
    y = series()[:6]
    (mean, variance) = kalman(y)[0][-1]
    space = smc.state_space(first, following, observation, batched=True)
    num = 20_000
    result = smc.run(key, models(True)["guided"], y, num_particles=num)
    particles, seen = smc.forecast(jax.random.fold_in(key, 1), space, result.value, jnp.zeros(3))
    assert particles.shape == seen.shape == (3, num)
    weights = np.exp(np.asarray(result.value.log_weights)) / num
    for row in np.asarray(seen):
        mean, variance = 0.9 * mean, 0.81 * variance + 1
        found = np.sum(weights * row)
        assert abs(found - mean) < STANDARD_ERRORS * 2 * math.sqrt(variance / num)
        np.testing.assert_allclose(np.sum(weights * (row - found) ** 2), variance + 0.04, rtol=0.06)


def test_the_variance_of_a_mean_from_one_run(key):
    """Multinomial resampling: the single-run estimates of both variances agree with those over runs."""

    def run(key):
        result = smc.run(
            key, models(True)["guided"], series()[:10], num_particles=200, resampler=smc.resamplers.multinomial
        )
        mean = moments(result.value.particles, jnp.exp(result.value.log_weights) / 200)[0]
        return result.log_z, mean, smc.log_z_variance(result), smc.mean_variance(result, lambda x: x)

    log_z, mean, first, second = jax.device_get(jax.jit(jax.vmap(run))(jax.random.split(key, 200)))
    np.testing.assert_allclose(first.value.mean(), log_z.var(), rtol=0.4)
    np.testing.assert_allclose(second.value.mean(), mean.var(), rtol=0.4)
    assert not first.status.any() and np.all(first.num_eves > 5)
    alone = smc.run(key, models(True)["bootstrap"], series()[:40], num_particles=4, ess_threshold=1.0)
    found = smc.log_z_variance(alone)
    assert int(found.num_eves) == 1 and int(found.status) == smc.COALESCED and np.isnan(found.value)
