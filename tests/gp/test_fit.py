"""Fitting against SciPy's optimiser and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.tree_util import Partial

import contracts
import jaxsci
from jaxsci import gp
from jaxsci.core import status

NAMES = ("length", "variance", "noise")
X = np.linspace(0.0, 6.0, 20)
Y = np.sin(X) + 0.1 * np.random.default_rng(0).standard_normal(20)


def model(params):
    return gp.kernels.scale(gp.kernels.rbf(params["length"]), params["variance"]), params["noise"]


def params(*values):
    return {name: jnp.asarray(v) for name, v in zip(NAMES, values)}


def negative_evidence(u):
    length, variance, noise = np.exp(u)
    gram = variance * np.exp(-(((X[:, None] - X[None]) / length) ** 2) / 2) + noise * np.eye(len(X))
    volume = np.linalg.slogdet(2 * np.pi * gram)[1]
    return (Y @ np.linalg.solve(gram, Y) + volume) / 2


@pytest.mark.x64
def test_fit_finds_the_maximum_that_scipy_finds_from_every_start():
    best = scipy.optimize.minimize(negative_evidence, np.log([1.0, 1.0, 0.1]), method="Nelder-Mead", tol=1e-10)

    def run(start, max_steps):
        return gp.fit(model, start, X[:, None], Y, max_steps=max_steps, tol=1e-6)

    starts = params(*np.array([[1.0, 1.0, 0.1], [0.3, 3.0, 0.5], [4.0, 0.2, 0.01]]).T)
    found = jax.jit(jax.vmap(run, (0, None)))(starts, 60)
    assert not np.any(found.status) and np.all(found.steps <= 40) and np.all(found.residual <= 1e-6)
    np.testing.assert_allclose(found.objective, -best.fun, rtol=1e-10)
    for name, value in zip(NAMES, np.exp(best.x)):
        np.testing.assert_allclose(found.value[name], value, rtol=1e-5)
    short = jax.jit(jax.vmap(run, (0, None)))(starts, 4)
    assert np.all(short.status == status.MAX_STEPS) and np.all(short.steps == 4)


def gamma_prior(params):
    return 99 * jnp.log(params["precision"]) - params["precision"]


def precision_model(params):
    return gp.kernels.constant(jnp.ones_like(params["precision"])), 1 / params["precision"]


@pytest.mark.x64
def test_without_data_the_fit_is_the_mode_of_the_prior():
    """99 log tau - tau is largest at 99: the prior is added as it is, without the Jacobian of the logarithm."""
    start = {"precision": jnp.asarray(1.0)}
    found = gp.fit(precision_model, start, np.zeros((3, 1)), np.zeros(3), np.zeros(3, bool), log_prior=gamma_prior)
    np.testing.assert_allclose(found.value["precision"], 99.0, rtol=1e-4)
    np.testing.assert_allclose(found.objective, 99 * np.log(99) - 99, rtol=1e-8)
    assert int(found.status) == 0


@pytest.mark.x64
def test_a_parameter_that_runs_away_is_a_notice():
    """Observations that are all equal want an infinite length; a prior keeps it, and the value holds either way."""

    def flat(params):
        return gp.kernels.rbf(params["length"]), jnp.full_like(params["length"], 0.1)

    def prior(weight, params):
        return -weight * jnp.log(params["length"]) ** 2

    def run(weight):
        start = {"length": jnp.ones_like(weight)}
        return gp.fit(flat, start, X[:, None], np.ones_like(Y), log_prior=Partial(prior, weight), tol=1e-13)

    free, kept = (jax.tree.map(lambda a, i=i: a[i], jax.jit(jax.vmap(run))(jnp.array([0.0, 1.0]))) for i in (0, 1))
    assert float(free.value["length"]) > 1e4 and int(free.status) & gp.FAR_OFF
    assert int(status.faults(int(free.status) & ~status.STAGNATED, "gp")) == 0
    assert "far off" in jaxsci.explain(gp.FAR_OFF, "gp")
    assert float(kept.value["length"]) < 100 and not int(kept.status) & gp.FAR_OFF


def test_bad_starts_are_reported():
    x, y = jnp.asarray(X[:, None], "float32"), jnp.asarray(Y, "float32")
    run = jax.jit(jax.vmap(lambda start: gp.fit(model, start, x, y, max_steps=5)))
    found = run(params(*np.array([[1, 1, 0.1], [-1, 1, 0.1], [1, np.nan, 0.1], [1.2e-38, 1, 0.1]], "float32").T))
    assert np.all(found.status[1:3] == status.OUT_OF_RANGE) and np.all(found.steps[1:3] == 0)
    assert float(found.value["length"][1]) == -1 and float(found.objective[1]) == -np.inf
    # Without any correlation the evidence is flat in the length, which stays; the others are fitted.
    assert abs(found.value["length"][3] / 1.2e-38 - 1) < 1e-4 and np.isfinite(found.objective[3])
    assert not int(found.status[3]) & ~status.MAX_STEPS
    assert float(found.objective[0]) > -np.inf and np.isfinite(found.value["length"][0])


def test_float32_comes_close_and_new_values_compile_nothing():
    x, y = jnp.asarray(X[:, None], "float32"), jnp.asarray(Y, "float32")
    found = gp.fit(model, params(1.0, 1.0, 0.1), x, y, tol=1e-2)
    exact = scipy.optimize.minimize(negative_evidence, np.log([1.0, 1.0, 0.1]), method="Nelder-Mead", tol=1e-8)
    assert float(found.objective) >= -exact.fun - 1e-2 and found.objective.dtype == np.float32
    with contracts.count_compilations() as events:
        jax.block_until_ready(gp.fit(model, params(2.0, 0.5, 0.2), x, y, tol=1e-3, max_steps=9))
    assert not events


@pytest.mark.bad_input
def test_static_misuse_raises():
    with pytest.raises(ValueError, match="params holds no numbers"):
        gp.fit(model, {}, X[:, None], Y)
    with pytest.raises(ValueError, match="log_prior must return a scalar"):
        gp.fit(model, params(1.0, 1.0, 0.1), X[:, None], Y, log_prior=lambda p: jnp.ones(2))
    with pytest.raises(ValueError, match="gp.fit: x must have n = 20 rows"):
        gp.fit(model, params(1.0, 1.0, 0.1), X[:3, None], Y)
