"""Priors against closed forms, published figures of the curve prior, and plain NumPy samplers of the same laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxsci import gp
from jaxsci.core import status
from jaxsci.pfn import priors
from tolerances import STANDARD_ERRORS as K

# Learning curves of 100 epochs: 82 000 curves of the published sampler, each figure to .002.
EPOCHS = np.array([1, 2, 5, 10, 20, 50, 100])
MEAN, SPREAD = [0.418, 0.513, 0.561, 0.581, 0.595, 0.606, 0.612], [0.226, 0.221, 0.221, 0.222, 0.223, 0.225, 0.226]
RISE, RISE_QUANTILES = 0.194, {0.05: 0.013, 0.5: 0.158, 0.95: 0.497}
Y_QUANTILES = {0.005: 0.063, 0.05: 0.202, 0.5: 0.612, 0.95: 0.944, 0.995: 1.025}
ANCHOR = 0.002


def near(found, expected, errors, slack=0.0):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert np.all(np.abs(found - expected) <= K * np.asarray(errors) + slack), (found, expected, errors)


def mean_error(values):
    """Standard error of the mean over the leading axis."""
    return np.std(values, axis=0) / np.sqrt(len(values))


def is_mean(values, expected, slack=0.0):
    near(np.mean(values, axis=0), expected, mean_error(values), slack)


@jax.jit
def many_curves(keys):
    return jax.vmap(lambda k: priors.draw_curve(k, 100, num_candidates=16, max_rounds=16))(keys)


@pytest.fixture(scope="module")
def sample():
    return jax.tree.map(np.asarray, many_curves(jax.random.split(jax.random.key(17), 2500)))


def test_curves_have_the_published_moments(sample):
    f, num = sample.mean[:, EPOCHS - 1].astype(float), len(sample.mean)
    is_mean(f, MEAN, ANCHOR)
    near(f.std(0), SPREAD, f.std(0) / np.sqrt(2 * num), ANCHOR)
    rise = sample.mean[:, -1] - sample.mean[:, 0]
    is_mean(rise, RISE, ANCHOR)
    for share, value in RISE_QUANTILES.items():
        # The published quantile is known to .002: the share of curves below may be off by what lies between.
        slack = np.mean(np.abs(rise - value) <= ANCHOR)
        near(np.mean(rise <= value), share, np.sqrt(share * (1 - share) / num), slack)
    monotone = np.all(np.diff(sample.mean) >= 0, axis=1)
    is_mean(monotone, 0.516, ANCHOR)
    assert not sample.status.any() and np.all(rise > 0) and sample.mean.min() >= 0 and sample.mean.max() <= 1


def test_noisy_curves_have_the_published_quantiles(sample):
    for share, value in Y_QUANTILES.items():
        is_mean(np.mean(sample.y <= value, axis=1), share, np.mean(np.abs(sample.y - value) <= ANCHOR))
    is_mean(np.mean((sample.y < 0) | (sample.y > 1), axis=1), 0.0106, 5e-4)
    log_scale = sample.parameters[:, 12].astype(float)
    is_mean(log_scale, -4)
    is_mean((log_scale + 4) ** 2, 1)
    residual = (sample.y - sample.mean) / np.exp(sample.parameters[:, 12:])
    is_mean(np.mean(residual.astype(float) ** 2, axis=1), 1)


def test_one_candidate_in_five_is_accepted(key):
    found = float(priors.acceptance(key, 100, 20_000))
    near(found, 0.2049, np.sqrt(0.2049 * 0.7951 / 20_000), 5 * 6e-4)


def test_the_rejection_is_exact_and_its_failures_are_reported(key):
    """The law does not depend on how candidates are drawn; one candidate fails four times in five."""

    def run(key):
        few = priors.draw_curve(key, 20, num_candidates=2, max_rounds=40)
        return few, priors.draw_curve(key, 20, "paper"), priors.draw_curve(key, 20, num_candidates=1, max_rounds=1)

    few, paper, one = (jax.tree.map(np.asarray, c) for c in jax.jit(jax.vmap(run))(jax.random.split(key, 2000)))
    assert not few.status.any() and not paper.status.any()
    gap = few.parameters[:, :12].astype(float).mean(0) - paper.parameters[:, :12].mean(0)
    near(gap, 0, np.hypot(mean_error(few.parameters[:, :12]), mean_error(paper.parameters[:, :12])))
    is_mean((paper.parameters[:, 12].astype(float) + 4) ** 2, 0.5)
    failed = one.status == priors.REJECTED
    np.testing.assert_array_equal(np.isnan(one.y).all(1), failed)
    np.testing.assert_array_equal(np.isnan(one.mean).any(1), failed)
    assert not np.any(one.status[~failed]) and 0.7 < failed.mean() < 0.9


def test_the_curve_prior_observes_the_curve_that_is_drawn(key):
    x, y = priors.curves()(key, 100, 1)
    curve = priors.draw_curve(key, 100)
    np.testing.assert_array_equal(y, curve.y)
    np.testing.assert_allclose(x[:, 0], np.arange(1, 101) / 101, rtol=1e-6)
    np.testing.assert_allclose(priors.curve_mean(curve.parameters, np.arange(1, 101)), curve.mean, atol=1e-6)


@pytest.mark.x64
def test_the_density_of_a_curves_parameters():
    p = np.array([0.6, 0.4, 0.1, 0.7, 0.3, -1.5, 0.2, 0.8, 0.3, 0.3, 0.2, 0.4, -3.0])
    normal = scipy.stats.norm.logpdf(p[[2, 5, 6, 12]], [0, -2, 0, -4], [2, 1, 0.5, 1]).sum()
    uniform = scipy.stats.uniform.logpdf(p[[0, 1, 3, 4, 7, 8]], [0, -0.6, 0, 0, 0, -0.5], [1.25, 1.2, 1, 2, 1, 1]).sum()
    t = np.arange(1, 101)
    f = 0.3 * (p[0] - p[1] * t ** -np.exp(p[2])) + 0.4 * (p[7] - p[8] / np.log(t + 1))
    f += 0.2 * (p[3] - (p[3] - p[4]) * np.exp(-np.exp(p[5]) * t ** np.exp(p[6])))
    np.testing.assert_allclose(priors.curve_mean(p, t), f, rtol=1e-12)
    outside = np.stack([p, *(np.where(np.arange(13) == i, v, p) for i, v in ((0, 1.3), (9, -0.1), (10, 1.1)))])
    falling = np.where(np.isin(np.arange(13), (1, 8)), -p, p) * np.where(np.arange(13) == 4, 3, 1)
    above = np.where(np.isin(np.arange(13), (9, 10, 11)), 1, p)
    cases = np.stack([*outside, falling, above])
    found = jax.jit(jax.vmap(lambda q: priors.log_prior(q, 100)))(cases)
    np.testing.assert_allclose(found[0], normal + uniform, rtol=1e-12)
    assert np.all(np.isneginf(found[1:]))


# --- Gaussian processes ------------------------------------------------------------------------------------


def rbf(x, length):
    return np.exp(-((x[..., :, None, :] - x[..., None, :, :]) ** 2).sum(-1) / (2 * length**2))


def matern52(x, length):
    s = np.sqrt(5 * (((x[..., :, None, :] - x[..., None, :, :]) / length) ** 2).sum(-1))
    return (1 + s + s**2 / 3) * np.exp(-s)


MATERN = gp.kernels.matern(2.5, np.array([0.3, 2.0]))
GP_CASES = {
    "squared exponential": (priors.gp(length=0.6, variance=1.5, noise=1e-4), lambda x: 1.5 * rbf(x, 0.6), 1e-4),
    "a kernel": (priors.gp(MATERN, noise=0.1), lambda x: matern52(x, [0.3, 2.0]), 0.1),
    "ridge": (priors.ridge(weight_variance=0.3, noise=0.05), lambda x: 0.3 * x @ np.swapaxes(x, -1, -2), 0.05),
}  # fmt: skip


@pytest.mark.x64
@pytest.mark.parametrize("case", GP_CASES)
def test_targets_have_the_covariance_of_the_kernel(case, key):
    """Whitened by the exact covariance at their inputs, targets are independent and of variance 1."""
    prior, kernel, noise = GP_CASES[case]
    x, y = (np.asarray(a, float) for a in priors.draw(key, prior, 3000, 5, 2))
    white = np.linalg.solve(np.linalg.cholesky(kernel(x) + noise * np.eye(5)), y[..., None])[..., 0]
    is_mean((white[:, :, None] * white[:, None, :]).reshape(3000, 25), np.eye(5).ravel())
    is_mean(white, 0)
    is_mean(x.reshape(3000, 10), 0.5)
    assert x.min() >= 0 and x.max() <= 1


@pytest.mark.parametrize("preset", ["code", "paper"])
def test_drawn_scales_have_their_laws(preset, key):
    x, y = (np.asarray(a, float) for a in priors.draw(key, priors.gp_hyper(preset), 6000, 2, 2))
    variance, noise = {"code": (0.5 / 0.15, 1.1 / 0.05), "paper": (2 / 0.15, 1e-4)}[preset]
    is_mean(y**2, variance + noise)
    assert np.all(np.isfinite(y))
    rng = np.random.default_rng(0)
    inputs, lengths = rng.uniform(size=(20_000, 2, 2)), rng.gamma(3, 1 / 6, (20_000, 1, 1, 2))
    s = np.sqrt(5 * (((inputs[:, :, None] - inputs[:, None]) / lengths) ** 2).sum(-1))[:, 0, 1]
    correlation = (1 + s + s**2 / 3) * np.exp(-s)
    is_mean(y[:, 0] * y[:, 1], variance * correlation.mean(), K * variance * mean_error(correlation))


def _standardised_error(key, kernel, prior, noise, n):
    """Errors of the exact law for rows n on, in its own standard deviations; and the laws."""
    x, y = prior(key, 8, 2)
    law = priors.posterior(kernel, x, y, n, x[6:], noise=noise)
    return (y[6:] - law.mean) / jnp.sqrt(law.variance), law


@pytest.mark.x64
def test_the_posterior_is_calibrated_and_equals_ridge_regression(key):
    kernel, noise = gp.kernels.linear(0.3), 0.05
    run = jax.jit(
        jax.vmap(
            lambda k, n: _standardised_error(k, kernel, priors.ridge(weight_variance=0.3, noise=noise), noise, n),
            (0, None),
        )
    )
    keys = jax.random.split(key, 2000)
    for n in (0, 4, 6):
        error, law = run(keys, n)
        is_mean(np.asarray(error), 0)
        is_mean(np.asarray(error) ** 2, 1)
        assert not np.any(law.status)
    x, y = (np.asarray(a) for a in priors.ridge(weight_variance=0.3, noise=noise)(keys[0], 8, 2))
    precision = x[:6].T @ x[:6] / noise + np.eye(2) / 0.3
    weights = np.linalg.solve(precision, x[:6].T @ y[:6]) / noise
    np.testing.assert_allclose(law.mean[0], x[6:] @ weights, rtol=1e-9)
    spread = np.einsum("ij,jk,ik->i", x[6:], np.linalg.inv(precision), x[6:]) + noise
    np.testing.assert_allclose(law.variance[0], spread, rtol=1e-9)


# --- tables ------------------------------------------------------------------------------------------------


def numpy_table(rng, num_points, num_features, most, dropout):
    """The law of the docstring for one data set, by a plain loop: inputs in use, output, before standardising."""
    used = 2 + int(np.clip(np.round(rng.beta(1, 1.6) * (num_features - 1) - 0.5), 0, num_features - 2))
    hidden = 2 + int(np.clip(np.round(rng.beta(2, 4) * (most - 1) - 0.5), 0, most - 2))
    weight, noise = rng.gamma(3.6188, 0.067737), rng.gamma(1.8663, 0.052755)
    z = x = rng.standard_normal((num_points, used))
    for layer, (a, b) in enumerate(((used, hidden), (hidden, hidden), (hidden, 1))):
        w, bias = weight / (1 - dropout) * rng.standard_normal((a, b)), weight / (1 - dropout) * rng.standard_normal(b)
        if layer:
            w = w * (rng.random(w.shape) < 1 - dropout)
        bias = bias * (rng.random(bias.shape) < 1 - dropout)
        z = (np.tanh(z) if layer else z) @ w + bias
        if layer:
            z = z + noise * rng.standard_normal(z.shape)
    return x, z[:, 0]


def explained(x, y):
    """Share of the variance of y that a linear function of the columns of x explains."""
    design = np.column_stack([np.ones(len(y)), x])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - residual.var() / max(y.var(), 1e-30)


@pytest.mark.parametrize("dropout", [None, pytest.param(0.4, marks=pytest.mark.full)])
def test_tables_have_the_law_of_a_plain_sampler(dropout, key):
    """Features in use, and how well a linear function tells the classes: both follow the plain sampler."""
    num, points, features, most = 800, 24, 6, 12
    prior = priors.tabular(max_hidden=most, dropout=dropout, alternate=True)
    x, y = (np.asarray(a, float) for a in priors.draw(key, prior, num, points, features))
    rng, used, shares = np.random.default_rng(1), [], []
    for _ in range(num):
        table, output = numpy_table(rng, points, features, most, dropout or 0.0)
        used.append(table.shape[1])
        shares.append(explained(table, (output > np.median(output)).astype(float)))
    in_use = np.any(x != 0, axis=1).sum(1)
    mine = np.array([explained(table[:, :f], labels) for table, f, labels in zip(x, in_use, y)])
    for found, plain in (
        (in_use == np.arange(2, 7)[:, None], np.array(used) == np.arange(2, 7)[:, None]),
        (mine[None], np.array(shares)[None]),
    ):
        near(found.mean(1), plain.mean(1), np.hypot(mean_error(found.T), mean_error(plain.T)))
    # Columns in use come first, have mean 0 and standard deviation F/f; the others are 0.
    for table, f in zip(x[:50], in_use):
        np.testing.assert_allclose(table[:, :f].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(table[:, :f].std(0), features / f, rtol=1e-4)
    # Classes are of equal size and alternate, beginning with either.
    assert np.all(y[:, ::2] + y[:, 1::2] == 1) and np.all(y[:, ::2] == y[:, :1])
    is_mean(y[:, 0], 0.5)


def test_several_classes_have_equal_sizes_in_random_order(key):
    _, y = priors.draw(key, priors.tabular(num_classes=(2, 4), max_hidden=4), 2000, 24, 3)
    counts = np.stack([(np.asarray(y) == c).sum(1) for c in range(4)], axis=1)
    classes = (counts > 0).sum(1)
    assert np.all(counts == np.where(np.arange(4) < classes[:, None], 24 // classes[:, None], 0))
    is_mean(classes[:, None] == np.arange(2, 5), 1 / 3)
    first = np.asarray(y)[classes == 4, 0]
    is_mean(first[:, None] == np.arange(4), 1 / 4)


def test_padding_scales_what_is_in_use():
    x = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(priors.pad_features(x, 5), np.pad(2.5 * x, [(0, 0), (0, 3)]))


# --- all ---------------------------------------------------------------------------------------------------


def test_without_noise_float32_holds_no_nan(key):
    """Sixty points on a line under a smooth kernel: the matrix is singular in float32."""
    _, y = priors.draw(key, priors.gp(length=1.0, noise=0.0), 20, 60, 1)
    assert y.dtype == jnp.float32 and np.all(np.isfinite(y)) and np.std(y) > 0.5


def test_ones_own_prior_and_quantiles(key):
    def mine(key, num_points, num_features):
        x = jax.random.normal(key, (num_points, num_features))
        return x, jnp.where(x[:, 0] > 2, jnp.nan, x[:, 0])

    x, y = (np.asarray(a) for a in priors.draw(key, mine, 50, 8, 2))
    np.testing.assert_array_equal(x[7], mine(jax.random.fold_in(key, 7), 8, 2)[0])
    found = priors.quantiles(key, mine, [0.1, 0.5, 0.9], 50, 8, 2)
    np.testing.assert_allclose(found, np.nanquantile(y, [0.1, 0.5, 0.9]), rtol=1e-5)
    assert np.isnan(y).any()


@pytest.mark.parametrize("call, match", [
    (lambda k: priors.gp(gp.kernels.rbf(1.0), length=2.0), "length and variance belong"),
    (lambda k: priors.gp_hyper("other"), "preset must be one of"),
    (lambda k: priors.gp_hyper(noise=(1.0,)), "noise must be a pair"),
    (lambda k: priors.gp()(k, 0, 1), "priors.gp: num_points must be an int >= 1"),
    (lambda k: priors.ridge()(k, 3, 0), "priors.ridge: num_features"),
    (lambda k: priors.curves()(k, 100, 2), "num_features must be 1"),
    (lambda k: priors.curves()(k, 1, 1), "num_points must be an int >= 2"),
    (lambda k: priors.curves("other"), "preset must be one of"),
    (lambda k: priors.curves(noise_law=(1.0,)), "noise_law must be a pair"),
    (lambda k: priors.draw_curve(k, 10, num_candidates=0), "num_candidates"),
    (lambda k: priors.tabular()(k, 10, 1), "num_features must be an int >= 2"),
    (lambda k: priors.tabular(num_classes=(4, 2)), "swap them"),
    (lambda k: priors.tabular(num_classes=1), "num_classes must be an int >= 2"),
    (lambda k: priors.tabular(num_classes=8)(k, 7, 3), "num_points must be an int >= 8"),
    (lambda k: priors.pad_features(jnp.ones((3, 4)), 2), "features"),
    (lambda k: priors.posterior(gp.kernels.rbf(1.0), jnp.ones((3, 2)), jnp.ones(2), 1, jnp.ones((1, 2))), "expected x"),
    (lambda k: priors.draw(k, priors.gp(), 0, 3), "num_sets"),
])  # fmt: skip
def test_bad_input(call, match, key):
    with pytest.raises(ValueError, match=match):
        call(key)
    with pytest.raises(TypeError, match="typed key"):
        priors.gp()(jnp.zeros(2, jnp.uint32), 3, 1)


def test_a_posterior_of_data_that_are_not_finite_says_so():
    law = priors.posterior(gp.kernels.rbf(1.0), jnp.ones((3, 1)), jnp.array([1.0, jnp.nan, 2.0]), 2, jnp.ones((1, 1)))
    assert int(law.status[0]) & status.NONFINITE_INPUT and np.isfinite(law.mean[0])
