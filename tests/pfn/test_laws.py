"""Trainings of minutes where the exact law is known: ridge regression, a mixture over hyper-parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxsci import gp, pfn
from jaxsci.pfn import bars, priors

NUM_POINTS, MOST = 40, 20


def _trained(prior, num_features, num_steps):
    borders = pfn.prior_borders(jax.random.key(0), prior, 100, num_points=NUM_POINTS, num_features=num_features)
    cfg = pfn.config(num_features, borders.size - 1)
    return pfn.train(
        jax.random.key(1), prior, cfg, borders, num_points=NUM_POINTS, num_steps=num_steps, context=(0, MOST),
        progress=False,
    ).value  # fmt: skip


def _log_density(mean, variance, y):
    return -0.5 * (np.log(2 * np.pi * variance) + (y - mean) ** 2 / variance)


def _of_network(model, x, y, n):
    return np.asarray(
        jax.vmap(lambda x, y: bars.log_prob(pfn.predict(model, x[:MOST], y[:MOST], n, x[MOST:]), y[MOST:]))(x, y)
    ).mean(1)


@pytest.mark.slow
def test_ridge_regression_comes_close_to_its_closed_form():
    prior, kernel = priors.ridge(), gp.kernels.linear(0.01)
    model = _trained(prior, 3, 1500)
    x, y = priors.draw(jax.random.key(2), prior, 512, NUM_POINTS, 3)
    for n in (0, 1, 5, 20):
        one = partial(priors.posterior, kernel, num_context=n, noise=0.01)
        law = jax.vmap(lambda x, y, one=one: one(x[:MOST], y[:MOST], x_query=x[MOST:]))(x, y)
        exact = _log_density(*map(np.asarray, (law.mean, law.variance)), np.asarray(y[:, MOST:])).mean(1)
        gap = exact - _of_network(model, x, y, n)
        print(n, exact.mean(), gap.mean(), gap.std() / 512**0.5)
        assert -3 * gap.std() / 512**0.5 <= gap.mean() <= 0.1


def _mixture(draws, x, y, n):
    """Log-densities of the last targets under the process averaged over draws of its hyper-parameters, float64."""
    length, variance, noise = draws
    distance = np.abs(x[:, None, 0] - x[None, :, 0])[None] * 5**0.5 / length[:, None, None]
    cov = variance[:, None, None] * (1 + distance + distance**2 / 3) * np.exp(-distance)
    cov = cov + noise[:, None, None] * np.eye(len(x))
    known, later = slice(0, n), slice(MOST, len(x))
    mean, var, weight = np.zeros((len(noise), len(x) - MOST)), np.diagonal(cov, 0, 1, 2)[:, later], np.zeros(len(noise))
    if n:
        root = np.linalg.cholesky(cov[:, known, known])
        white = np.linalg.solve(root, np.broadcast_to(y[known], (len(noise), n))[..., None])
        cross = np.linalg.solve(root, cov[:, known, later])
        mean, var = (cross * white).sum(1), var - (cross**2).sum(1)
        weight = -np.log(np.diagonal(root, 0, 1, 2)).sum(1) - 0.5 * (white[..., 0] ** 2).sum(1)
    weight = weight - scipy.special.logsumexp(weight)
    return scipy.special.logsumexp(weight[:, None] + _log_density(mean, var, y[later]), axis=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_drawn_hyper_parameters_come_close_to_their_mixture_and_to_the_best_fit():
    process, kernels = (pytest.importorskip(f"sklearn.gaussian_process{part}") for part in ("", ".kernels"))
    prior, num = priors.gp_hyper("code"), 96
    model = _trained(prior, 1, 3000)
    x, y = (np.asarray(a, np.float64) for a in priors.draw(jax.random.key(2), prior, num, NUM_POINTS, 1))
    rng = np.random.default_rng(0)
    draws = [rng.gamma(shape, 1 / rate, 4096) for shape, rate in ((3, 6), (0.5, 0.15), (1.1, 0.05))]
    for n in (0, 1, 5, 20):
        mine = _of_network(model, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), n)
        gap = np.asarray([_mixture(draws, a, b, n).mean() for a, b in zip(x, y)]) - mine
        print(n, gap.mean(), gap.std() / num**0.5)
        assert gap.mean() <= 0.25
        if n in (1, 5):
            kernel = kernels.ConstantKernel(1.0, (1e-3, 1e3)) * kernels.Matern(0.5, (1e-2, 1e2), nu=2.5)
            kernel += kernels.WhiteKernel(1.0, (1e-4, 1e3))
            fitted = []
            for a, b in zip(x, y):
                found = process.GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
                mean, sd = found.fit(a[:n], b[:n]).predict(a[MOST:], return_std=True)
                fitted.append(_log_density(mean, sd**2, b[MOST:]).mean())
            print("   fit", np.mean(fitted), mine.mean())
            assert -mine.mean() <= -np.mean(fitted) + 0.05
