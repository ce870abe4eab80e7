"""Exact samplers against their laws, and the running maximum against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from jaxsci import control
from jaxsci.core import status


def _gate(samples, expected, what):
    """The mean of each column lies within 5 standard errors."""
    samples = np.asarray(samples)
    error = samples.std(0) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(0) - expected) <= 5 * error), (what, samples.mean(0), expected, error)


@pytest.mark.x64
def test_moments_and_covariances(key):
    keys, t = jax.random.split(key, 40_000), np.array([0.0, 0.4, 0.8, 1.2])

    def moments(make, mean, second):
        xs = jax.vmap(lambda k: make(k, num_steps=3, dt=0.4).xs)(keys)
        xs = np.asarray(xs)
        _gate(xs, mean, "mean")
        _gate((xs - mean) ** 2, np.diag(second), "variance")
        _gate((xs[:, 1] - mean[1]) * (xs[:, 3] - mean[3]), second[1, 3], "covariance")

    brownian = lambda k, **kw: control.exact.brownian(k, 0.5, drift=0.3, volatility=0.7, **kw)  # noqa: E731
    moments(brownian, 0.5 + 0.3 * t, 0.49 * np.minimum.outer(t, t))
    ou = lambda k, **kw: control.exact.ornstein_uhlenbeck(k, 2.0, rate=0.8, mean=0.5, volatility=0.6, **kw)  # noqa: E731
    kernel = np.exp(-0.8 * np.abs(np.subtract.outer(t, t))) - np.exp(-0.8 * np.add.outer(t, t))
    moments(ou, 0.5 + 1.5 * np.exp(-0.8 * t), 0.36 / 1.6 * kernel)
    gbm = lambda k, **kw: control.exact.geometric_brownian(k, 1.5, drift=0.1, volatility=0.3, **kw)  # noqa: E731
    mean = 1.5 * np.exp(0.1 * t)
    moments(gbm, mean, np.outer(mean, mean) * np.expm1(0.09 * np.minimum.outer(t, t)))


@pytest.mark.x64
def test_stationary_start(key):
    keys = jax.random.split(key, 40_000)
    xs = jax.vmap(lambda k: control.exact.ornstein_uhlenbeck(k, num_steps=2, dt=0.3, rate=2.0, mean=1.0).xs)(keys)
    _gate(xs, 1.0, "mean")
    _gate((xs - 1) ** 2, 0.25, "variance")
    _gate((xs[:, 0] - 1) * (xs[:, 2] - 1), 0.25 * np.exp(-1.2), "covariance")


def test_rate_zero_is_brownian_motion(key):
    ou = control.exact.ornstein_uhlenbeck(key, 0.2, num_steps=5, dt=0.1, rate=0.0)
    np.testing.assert_allclose(ou.xs, control.exact.brownian(key, 0.2, num_steps=5, dt=0.1).xs, rtol=1e-5, atol=1e-6)


@pytest.mark.x64
def test_derivatives_in_the_rate_are_smooth_through_zero(key):
    """Against central differences at rates around 0, where the law is that of Brownian motion."""

    def last(rate):
        return control.exact.ornstein_uhlenbeck(key, 0.5, num_steps=5, dt=0.2, rate=rate).xs[-1]

    # Series and quotient meet at a rate of 2.5e-3, where they are one function.
    meet, h = 2.5e-3, 1e-5
    rates = jnp.array([-0.5, -1e-3, 0.0, 1e-3, 0.5, meet * (1 - 1e-12), meet * (1 + 1e-12)])
    values, slopes = jax.vmap(jax.value_and_grad(last))(jnp.concatenate([rates, rates + h, rates - h]))
    _, above, below = values.reshape(3, 7)
    np.testing.assert_allclose(slopes[:7], (above - below) / (2 * h), rtol=1e-8)
    np.testing.assert_allclose(values[5], values[6], rtol=1e-13)
    np.testing.assert_allclose(slopes[5], slopes[6], rtol=1e-9)


def test_vector_states_have_their_own_parameters(key):
    path = control.exact.ornstein_uhlenbeck(
        key, jnp.ones(3), num_steps=400, dt=0.5, rate=jnp.array([1.0, 2.0, 3.0]), volatility=jnp.array([0.0, 0.1, 1.0])
    )
    assert path.xs.shape == (401, 3) and path.ts.shape == (401,)
    np.testing.assert_allclose(path.xs[:5, 0], np.exp(-0.5 * np.arange(5)), rtol=1e-5)
    assert float(path.xs[:, 1].std()) < float(path.xs[:, 2].std())
    path = control.exact.brownian(key, jnp.zeros(2), num_steps=4, dt=0.5, drift=jnp.array([0.0, 1.0]), volatility=0.0)
    np.testing.assert_allclose(path.xs[-1], [0.0, 2.0], rtol=1e-6)


def test_statuses(key):
    bad = control.exact.brownian(key, jnp.nan, num_steps=3, dt=0.1)
    assert int(bad.status) == status.NONFINITE_INPUT and not bool(jnp.any(bad.xs))
    bad = control.exact.brownian(key, 0.0, num_steps=3, dt=-0.1)
    assert int(bad.status) & status.OUT_OF_RANGE and bool(jnp.all(jnp.isfinite(bad.xs)))
    bad = control.exact.ornstein_uhlenbeck(key, num_steps=3, dt=0.1, rate=-1.0)
    assert int(bad.status) == status.OUT_OF_RANGE and bool(jnp.all(jnp.isfinite(bad.xs)))


# --- the running maximum of Brownian motion, h = m ---------------------------------------------------------


def value(tau, x, m):
    r"""$J = m + 2[\sqrt\tau\varphi(z) - (m - x)\Phi(-z)]$, $z = (m - x)/\sqrt\tau$."""
    z = (m - x) / jnp.sqrt(tau)
    return m + 2 * (jnp.sqrt(tau) * norm.pdf(z) - (m - x) * norm.cdf(-z))


@pytest.mark.x64
def test_closed_form_of_the_running_maximum():
    """J(0; 0, 0) = sqrt(2/pi); the heat equation inside and no flux at x = m, to rounding."""
    np.testing.assert_allclose(value(1.0, 0.0, 0.0), np.sqrt(2 / np.pi), rtol=1e-10)
    points = jnp.array([[0.7, -0.2, 0.1], [0.3, 0.4, 0.9], [1.5, -1.0, 0.0]])
    slope_tau = jax.vmap(lambda p: jax.grad(value, 0)(*p))(points)
    curvature = jax.vmap(lambda p: jax.grad(jax.grad(value, 1), 1)(*p))(points)
    np.testing.assert_allclose(slope_tau, curvature / 2, rtol=1e-10)
    np.testing.assert_allclose(jax.grad(value, 2)(0.6, 0.4, 0.4), 0.0, atol=1e-10)


@pytest.mark.x64
def test_discrete_monitoring_lowers_the_maximum(key):
    r"""Spitzer: $E\max_k W_{t_k} = \sqrt{dt/2\pi}\sum_k k^{-1/2}$, so the bias is $-0.5826\sqrt{dt} + 0.1995\,dt$ + ...

    Mean of antithetic pairs to 3e-3, standard error below 7e-4. The leading term alone misses K = 50 by 0.0040.
    """
    keys = jax.random.split(key, 8)
    for steps in (50, 200):

        def batch(keys, steps=steps):
            path = jax.vmap(lambda k: control.exact.brownian(k, 0.0, num_steps=steps, dt=1 / steps))(keys)
            up = jax.vmap(control.exact.running_maximum)(path).xs[:, -1, 1]
            down = jax.vmap(control.exact.running_maximum)(path._replace(xs=-path.xs)).xs[:, -1, 1]
            return jnp.mean(up + down) / 2

        mean = jnp.mean(jax.lax.map(lambda k, batch=batch: batch(jax.random.split(k, 1 << 14)), keys))
        spitzer = np.sqrt(1 / (2 * np.pi * steps)) * np.sum(1 / np.sqrt(np.arange(1, steps + 1)))
        leading = np.sqrt(2 / np.pi) - 0.5826 / np.sqrt(steps)
        np.testing.assert_allclose(spitzer, leading + 0.1995 / steps, atol=1e-4)
        assert abs(float(mean) - spitzer) <= 3e-3, (steps, float(mean), spitzer)
        if steps == 200:
            assert abs(float(mean) - leading) <= 3e-3, (float(mean), leading)


def test_running_maximum_is_monotone_and_above(key):
    path = control.exact.running_maximum(control.exact.brownian(key, 0.0, num_steps=50, dt=0.1))
    assert path.xs.shape == (51, 2)
    assert bool(jnp.all(jnp.diff(path.xs[:, 1]) >= 0)) and bool(jnp.all(path.xs[:, 1] >= path.xs[:, 0]))
