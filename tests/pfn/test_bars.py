"""Bar distributions against quadrature, draws of the tails, gradients at the borders, borders of a sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pfn import bars
from tolerances import STANDARD_ERRORS

RNG = np.random.default_rng(0)
BORDERS = np.cumsum(RNG.uniform(0.2, 1.0, 13)) - 4.0
LOGITS = RNG.normal(size=(2, 12))
BEST = np.array([-5.5, BORDERS[1], -1.3, BORDERS[6], 1.1, 3.7])


@jax.jit
def everything(dist, y, u, best):
    """All functions at once: one program a support."""
    return {
        "log_prob": bars.log_prob(dist, y[:, None]),
        "cdf": bars.cdf(dist, y[:, None]),
        "survival": bars.survival(dist, y[:, None]),
        "quantile": bars.quantile(dist, u[:, None]),
        "round": bars.cdf(dist, bars.quantile(dist, u[:, None])),
        "mean": bars.mean(dist),
        "variance": bars.variance(dist),
        "mode": bars.mode(dist),
        "entropy": bars.entropy(dist),
        "ei": bars.expected_improvement(dist, best[:, None]),
        "pi": bars.probability_of_improvement(dist, best[:, None]),
        "ucb": bars.upper_confidence_bound(dist, jnp.array([-1.0, 1.0])[:, None]),
        "down": bars.expected_improvement(bars.reflect(dist), -best[:, None]),
    }


def quadrature(full):
    """Nodes, weights and the place of each: Gauss-Legendre in every bucket, cut at `BEST`; tails up to 14 scales."""
    low, high = (BORDERS[1] - BORDERS[0]) / 0.6745, (BORDERS[-1] - BORDERS[-2]) / 0.6745
    cuts = [BORDERS, BEST]
    if full:
        cuts += [BORDERS[1] - low * np.arange(0, 14, 0.25), BORDERS[-2] + high * np.arange(0, 14, 0.25)]
    cuts = np.unique(np.concatenate(cuts))
    if not full:
        cuts = cuts[(cuts >= BORDERS[0]) & (cuts <= BORDERS[-1])]
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half, middle = np.diff(cuts)[:, None] / 2, (cuts[1:] + cuts[:-1])[:, None] / 2
    return (middle + half * nodes).ravel(), (half * weights).ravel()


@pytest.mark.x64
@pytest.mark.parametrize("full", [True, False], ids=["full", "bounded"])
def test_everything_equals_quadrature(full):
    dist = bars.distribution(BORDERS, LOGITS, full_support=full)
    y, w = quadrature(full)
    u = np.concatenate([np.geomspace(1e-9, 0.5, 40), 1 - np.geomspace(0.4, 1e-9, 40)])
    found = {name: np.asarray(value) for name, value in everything(dist, y, u, BEST).items()}
    density = np.exp(found["log_prob"])  # (nodes, 2)
    np.testing.assert_allclose(w @ density, 1, atol=1e-12)
    means = (w * y) @ density
    np.testing.assert_allclose(found["mean"], means, rtol=1e-10)
    spread = np.array([(w * (y - m) ** 2) @ d for m, d in zip(means, density.T)])
    np.testing.assert_allclose(found["variance"], spread, rtol=1e-10)
    surprise = np.where(density > 0, density * np.log(np.maximum(density, 1e-300)), 0)
    np.testing.assert_allclose(found["entropy"], -(w @ surprise), rtol=1e-8)
    for i, t in enumerate(BEST):
        np.testing.assert_allclose(found["ei"][i], (w * np.maximum(y - t, 0)) @ density, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(found["pi"][i], (w * (y > t)) @ density, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(found["down"][i], (w * np.maximum(t - y, 0)) @ density, rtol=1e-9, atol=1e-14)
    cumulated = np.cumsum(w[:, None] * density, axis=0)
    at = np.searchsorted(y, BORDERS[1:-1])  # panels end at borders: the sum so far is the probability there
    cdf = np.asarray(bars.cdf(dist, BORDERS[1:-1, None]))
    np.testing.assert_allclose(cdf, cumulated[at - 1], rtol=1e-9)
    np.testing.assert_allclose(found["cdf"] + found["survival"], 1, atol=1e-14)
    np.testing.assert_allclose(found["round"], u[:, None] * np.ones(2), rtol=1e-12, atol=1e-15)
    assert (np.diff(found["quantile"], axis=0) > 0).all()
    assert (found["ei"] >= np.maximum(found["mean"] - BEST[:, None], 0) - 1e-12).all()
    np.testing.assert_allclose(bars.cdf(dist, found["ucb"])[:, 0], [0.15865525393145707, 0.8413447460685429])
    best = density.max(0)
    np.testing.assert_allclose(np.exp(bars.log_prob(dist, found["mode"])), best, rtol=2e-3)


def test_single_precision_keeps_the_tails():
    """Where float64 is the truth, both far ends of a float32 distribution have the same relative accuracy."""
    dist = bars.distribution(BORDERS.astype(np.float32), LOGITS[0].astype(np.float32))
    u = np.array([1e-30, 1e-12, 1e-4], np.float32)
    low, high = bars.quantile(dist, u), bars.quantile(bars.reflect(dist), u)
    np.testing.assert_allclose(bars.cdf(dist, low), u, rtol=2e-4)
    np.testing.assert_allclose(bars.survival(dist, -high), u, rtol=2e-4)
    assert np.isfinite(bars.log_prob(dist, np.array([-1e3, 1e3], np.float32))).all()


def _slopes(dist, y, u):
    def log_prob(borders, logits, y):
        return bars.log_prob(bars.distribution(borders, logits), y).sum()

    def quantile(borders, logits, u):
        return bars.quantile(bars.distribution(borders, logits), u).sum()

    def gain(borders, logits, y):
        d = bars.distribution(borders, logits)
        return (bars.expected_improvement(d, y) + bars.cdf(d, y) + bars.survival(d, y)).sum()

    every = (0, 1, 2)
    parts = (dist.borders, dist.logits)
    slopes = [jax.grad(f, every)(*parts, a) for f, a in ((log_prob, y), (quantile, u), (gain, y))]
    return slopes, jax.grad(lambda t: bars.expected_improvement(dist, t).sum())(y), bars.survival(dist, y)


def test_gradients_are_finite_at_the_borders_and_far_away():
    """At a border the value belongs to the bucket below; the tail's slope there is 0, far away -z / s^2."""
    borders, logits = BORDERS.astype(np.float32), LOGITS[0].astype(np.float32)
    y = np.concatenate([borders, [-1e3, 1e3, 0.0]]).astype(np.float32)
    u = np.concatenate([np.geomspace(1e-6, 0.5, 8), 1 - np.geomspace(0.4, 1e-6, 8)]).astype(np.float32)
    found, fall, survival = jax.jit(_slopes)(bars.distribution(borders, logits), y, u)
    np.testing.assert_allclose(fall, -survival, atol=2e-5)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(found))
    slope = found[0][2]
    assert np.abs(slope[1:-4]).max() == 0 and slope[1] == 0
    s = (borders[1] - borders[0]) / 0.6744897
    np.testing.assert_allclose(slope[-3], (borders[1] + 1e3) / s**2, rtol=1e-5)


def test_draws_fall_where_the_probability_is(key):
    """Three buckets: the tails hold a quarter of the mass each, and half of it outside the borders."""
    borders = np.array([-1.0, 0.0, 1.0, 3.0], np.float32)
    dist = bars.distribution(borders, np.log(np.array([0.25, 0.5, 0.25], np.float32)))
    num = 40_000
    draws = np.asarray(bars.sample(key, dist, (num,)))
    for share, truth in (
        (draws < 0, 0.25), (draws > 1, 0.25), (draws < -1, 0.125), (draws > 3, 0.125),
    ):  # fmt: skip
        assert abs(share.mean() - truth) < STANDARD_ERRORS * np.sqrt(truth * (1 - truth) / num)
    error = np.sqrt(float(bars.variance(dist)) / num)
    assert abs(draws.mean() - float(bars.mean(dist))) < STANDARD_ERRORS * error
    centred = (draws - draws.mean()) ** 2
    assert abs(centred.mean() - float(bars.variance(dist))) < STANDARD_ERRORS * centred.std() / np.sqrt(num)
    bounded = np.asarray(bars.sample(key, bars.distribution(borders, dist.logits, full_support=False), (num,)))
    assert bounded.min() >= -1 and bounded.max() <= 3
    assert abs((bounded < 0).mean() - 0.25) < STANDARD_ERRORS * np.sqrt(0.1875 / num)


def test_a_mixture_has_the_probabilities_of_its_parts():
    """On the parts' own borders nothing is lost; on others each bucket holds the mean of what the parts put there."""
    logits = LOGITS.astype(np.float32)
    stack = jax.vmap(lambda b, l: bars.distribution(b, l))(np.stack([BORDERS, BORDERS]).astype(np.float32), logits)
    same = bars.mixture(stack, BORDERS.astype(np.float32), weights=np.array([3.0, 1.0], np.float32))
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(same.logits), 0.75 * p[0] + 0.25 * p[1], rtol=1e-4)
    other = bars.mixture(stack, np.linspace(-6, 6, 9, dtype=np.float32))
    np.testing.assert_allclose(np.exp(other.logits).sum(), 1, rtol=1e-5)
    inner = np.linspace(-6, 6, 9, dtype=np.float32)[1:-1]
    parts = [bars.cdf(bars.distribution(BORDERS.astype(np.float32), l), inner) for l in logits]
    np.testing.assert_allclose(bars.cdf(other, inner), np.mean(parts, axis=0), atol=1e-5)


def test_borders_hold_equal_shares():
    values = np.random.default_rng(1).normal(size=10_050)
    borders = bars.borders_from_sample(values, 100)
    counts, _ = np.histogram(np.sort(values)[:10_000], borders)
    assert borders.dtype == np.float64 and (counts == 100).all()
    flat = np.concatenate([np.zeros(500), values[:500]])  # half of the prior is one number
    borders = bars.borders_from_sample(flat, 50)
    assert (np.diff(borders.astype(np.float32)) > 0).all() and 20 < borders.size < 50


def test_uniform_logits_are_the_histogram_of_the_prior():
    values = np.random.default_rng(2).normal(size=5_000)
    borders = bars.borders_from_sample(values, 50)
    dist = bars.distribution(borders.astype(np.float32), np.zeros(50, np.float32), full_support=False)
    nll = -np.mean(bars.log_prob(dist, values.astype(np.float32)[np.abs(values) < 2]))
    inside = values[np.abs(values) < 2]
    widths = np.diff(borders)[np.searchsorted(borders, inside) - 1]
    np.testing.assert_allclose(nll, np.log(50) + np.log(widths).mean(), rtol=1e-5)


@pytest.mark.bad_input
def test_what_is_refused():
    dist = bars.distribution(BORDERS, LOGITS)
    for call, error, match in (
        (lambda: bars.distribution(BORDERS, LOGITS[:, 1:]), ValueError, "one entry more than the last axis"),
        (lambda: bars.distribution(np.arange(2.0), np.zeros(1)), ValueError, "at least 2 buckets, got 1"),
        (lambda: bars.mean(LOGITS), TypeError, "bars.mean: expected a BarDistribution, got an array of shape"),
        (lambda: bars.cdf(dist, np.zeros(3)), ValueError, r"leading axes of logits \(2,\), got \(3,\)"),
        (lambda: bars.mixture(dist, BORDERS), ValueError, "expected a stack"),
        (lambda: bars.borders_from_sample(np.full(10, 3.0), 2), ValueError, "two values that float32"),
        (lambda: bars.borders_from_sample([0.0, np.nan], 2), ValueError, "must be finite"),
        (lambda: bars.borders_from_sample([0.0], 2), ValueError, "at least num_buckets = 2 values, got 1"),
    ):
        with pytest.raises(error, match=match):
            call()
    stack = jax.vmap(lambda b: bars.distribution(b, LOGITS[0]))(np.stack([BORDERS] * 2))
    with pytest.raises(ValueError, match="use jax.vmap"):
        bars.mean(stack)
    assert np.isnan(bars.quantile(dist, 1.5)).all()
