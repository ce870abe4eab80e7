"""What differentiating log Z gives in each gradient mode, against the exact score of a linear-Gaussian series."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import smc
from smc.known import kalman, series
from tolerances import STANDARD_ERRORS


def _theta_space(theta):
    slope, state, seen = theta
    return smc.state_space(
        lambda y: distrax.Normal(0.0, state / jnp.sqrt(1 - slope**2)),
        lambda x, y: distrax.Normal(slope * x, state),
        lambda x, y: distrax.Normal(x, seen),
        batched=True,
    )


def _scores(key, runs, num, y, gradient, frozen, threshold=1.0):
    def log_z(theta, key):
        model = smc.bootstrap(_theta_space(theta), frozen=frozen)
        return smc.run(key, model, y, num_particles=num, ess_threshold=threshold, gradient=gradient).log_z

    theta = tuple(jnp.float32(a) for a in (0.9, 1.0, 0.2))
    keys = jax.random.split(key, runs)
    return np.stack(jax.jit(jax.vmap(jax.grad(log_z), (None, 0)))(theta, keys), 1)


def _exact_score(y):
    at, scores = np.array([0.9, 1.0, 0.2]), []
    for step in 1e-5 * np.eye(3):
        scores.append((kalman(y, at + step)[1] - kalman(y, at - step)[1]) / 2e-5)
    return np.array(scores)


@pytest.mark.parametrize("gradient", ["none", "soft"])
def test_the_gradient_through_resampling_is_wrong_as_documented(gradient, key):
    """Reparameterised noise and discrete ancestors: far from the score, by many standard errors."""
    y = series()[:20]
    scores = _scores(key, 24, 1000, y, gradient, frozen=False)
    error = scores.std(0) / np.sqrt(24)
    assert np.any(np.abs(scores.mean(0) - _exact_score(y)) > 6 * error)


def test_stop_gradient_gives_the_score(key):
    y = series()[:10]
    scores = _scores(key, 48, 2000, y, "stop_gradient", frozen=True)
    error = scores.std(0) / np.sqrt(48)
    miss = np.abs(scores.mean(0) - _exact_score(y))
    assert np.all(miss[:2] < STANDARD_ERRORS * error[:2] + 0.1), (scores.mean(0), _exact_score(y), error)


def test_second_derivatives_agree_whichever_way_they_are_taken(key):
    """The kernels' rules must outlive the scan: the derivative of a gradient is taken of a loop that JAX has split."""
    y = series()[:4]

    def log_z(theta):
        model = smc.bootstrap(_theta_space(theta), frozen=True)
        return smc.run(key, model, y, num_particles=50, ess_threshold=1.0, gradient="stop_gradient").log_z

    theta = jnp.array([0.9, 1.0, 0.5])
    hessian, forward = (jax.jit(f(log_z))(theta) for f in (jax.hessian, lambda f: jax.jacfwd(jax.jacfwd(f))))
    np.testing.assert_allclose(hessian, forward, rtol=1e-3, atol=1e-3 * np.abs(forward).max())
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-3, atol=1e-3 * np.abs(forward).max())
    assert np.abs(forward).max() > 1


@pytest.mark.full
def test_stop_gradient_gives_the_published_score(key):
    """The whole series: exact (1.785, .380, .0022) in slope, scale of the states, scale of the observations."""
    exact = _exact_score(series())
    np.testing.assert_allclose(exact, [1.785, 0.380, 0.0022], atol=2e-3)
    scores = _scores(key, 48, 2000, series(), "stop_gradient", frozen=True)
    error = scores.std(0) / np.sqrt(48)
    assert np.all(np.abs(scores.mean(0) - exact)[:2] < STANDARD_ERRORS * error[:2] + 0.3)


def test_without_resampling_every_gradient_is_that_of_importance_sampling(key):
    y = series()[:3]
    plain, stopped = (_scores(key, 4, 50, y, g, False, 0.0) for g in ("none", "stop_gradient"))
    np.testing.assert_allclose(plain, stopped, rtol=1e-5)


def _normal(x, mean, scale):
    return -0.5 * ((x - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * np.log(2 * np.pi).astype(np.float32)


def _single(theta):
    slope, state, seen = theta
    return smc.FeynmanKac(
        init=lambda key, y: state / jnp.sqrt(1 - slope**2) * jax.random.normal(key),
        propagate=lambda key, x, y: slope * x + state * jax.random.normal(key),
        log_potential=lambda before, x, y: _normal(y, x, seen),
        log_init=lambda x, y: _normal(x, 0.0, state / jnp.sqrt(1 - slope**2)),
        log_propagate=lambda before, x, y: _normal(x, slope * before, state),
        log_auxiliary=lambda x, y: _normal(y, slope * x, jnp.sqrt(state**2 + seen**2)),
    )


def test_a_lifted_model_gives_the_score_and_the_constant(key):
    """Functions of one particle, with a look-ahead: log Z and its score from frozen particles."""
    y, runs = series()[:6], 24

    def log_z(theta, key):
        model = smc.lift(_single(theta), frozen=True)
        return smc.run(key, model, y, num_particles=1000, ess_threshold=1.0, gradient="stop_gradient").log_z

    theta = tuple(jnp.float32(a) for a in (0.9, 1.0, 0.2))
    values, scores = jax.jit(jax.vmap(jax.value_and_grad(log_z), (None, 0)))(theta, jax.random.split(key, runs))
    miss, error = np.asarray(values) - kalman(y)[1], values.std() / np.sqrt(runs)
    assert abs(miss.mean()) < STANDARD_ERRORS * error + 0.01
    scores = np.stack(scores, 1)
    error = scores.std(0) / np.sqrt(runs)
    assert np.all(np.abs(scores.mean(0) - _exact_score(y))[:2] < STANDARD_ERRORS * error[:2] + 0.1)
    with pytest.raises(ValueError, match="log-densities of their draws"):
        smc.lift(_single(theta)._replace(log_init=None), frozen=True)
