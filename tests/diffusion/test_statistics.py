"""Empirical model statistics: the exact identity of l, a Gaussian in closed form, the guard, the draws, the files."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import tolerances
from diffusion import mixture
from jaxsci import diffusion
from jaxsci.core import status
from jaxsci.diffusion import _regression, grids, predictions, schedules, statistics, v3

PROBLEM = mixture.problem_a()
VP = PROBLEM.schedule
DENOISER = mixture.denoiser(PROBLEM.mixture, VP)
MEAN, STD = np.array([0.7, -0.4]), np.array([0.5, 1.3])


def _variance(components, x, t, cond, w):
    alpha, sigma = VP.alpha_sigma(VP.lam(t))
    components = jax.tree.map(lambda a: jnp.asarray(a, x.dtype), components)
    return mixture.data_variance(components, x, alpha, sigma)


DRAW, VARIANCE = Partial(mixture.draw, PROBLEM.mixture), Partial(_variance, PROBLEM.mixture)


def _gaussian_model(mean, std, schedule, x, t, cond):
    alpha, sigma = (jnp.asarray(a, x.dtype) for a in schedule.alpha_sigma(schedule.lam(t)))
    return sigma * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)


def _gaussian_draw(mean, std, key):
    return mean + std * jax.random.normal(key, mean.shape, mean.dtype)


def _bent(x, t, cond, w):
    """Bent in x, mixing dimensions, and smooth in t: no denoiser of any data, but cheap to compile."""
    alpha, sigma = (jnp.asarray(a, x.dtype) for a in VP.alpha_sigma(VP.lam(t)))
    eps = sigma * x + 0.3 * jnp.sin(2 * x + x[::-1])
    return (x - sigma * eps) / alpha, eps


def _bent_draw(key):
    return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)


def _gaussian(mean, std, dtype="float64", schedule=VP):
    mean, std = np.asarray(mean, dtype), np.asarray(std, dtype)
    model = Partial(_gaussian_model, mean, std, schedule)
    return predictions.denoiser(model, schedule, "epsilon"), Partial(_gaussian_draw, mean, std)


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, None, None, 0))
def _both_sides(law, denoiser, key, t):  # JAX hands what is closed over to later programs too, in another precision
    lam = VP.lam(t)
    alpha, sigma = VP.alpha_sigma(lam)
    x = alpha * mixture.draw(law, key) + sigma * jax.random.normal(key, (2,))
    jacobian = jax.jacfwd(lambda x: denoiser(x, t, None, 1.0)[1])(x)
    return sigma * jnp.diag(jacobian), 1 - jnp.exp(2 * lam) * _variance(law, x, t, None, 1.0)


@pytest.mark.x64
def test_scaled_jacobian_of_noise_is_one_minus_scaled_posterior_variance(key):
    found, expected = _both_sides(PROBLEM.mixture, DENOISER, key, np.array([0.9, 0.4, 0.1, 0.01]))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@functools.cache
def _stats(*, exact=False):
    """Statistics of problem A, one program for each kind."""
    return statistics.estimate(
        jax.random.key(0), DENOISER, VP, DRAW, lams=24, num_samples=1024, batch_size=128,
        variance=VARIANCE if exact else None,
    )  # fmt: skip


@pytest.mark.x64
def test_l_lies_between_one_in_noise_and_zero_in_data():
    stats = _stats(exact=True)
    assert stats.l.shape == (25, 2) and stats.l.dtype == jnp.float64
    level = np.asarray(stats.l)
    assert (level > 0).all() and (level < 1).all()
    assert (level[0] > 0.999).all() and (level[-1] < 0.005).all()


@pytest.mark.x64
def test_probes_agree_with_the_exact_diagonal():
    error = np.asarray(_stats().l - _stats(exact=True).l)
    assert 0 < np.sqrt((error**2).mean()) <= 0.01


@pytest.mark.x64
@pytest.mark.parametrize("schedule", [VP, schedules.ve(), schedules.flow(t_max=0.99)], ids=["vp", "ve", "flow"])
def test_gaussian_closed_form(schedule, key):
    # f = -l m does not vary: s is the guard's 0 and b = -l' m; the Jacobian is diagonal, so one probe is exact.
    denoiser, draw = _gaussian(MEAN, STD, schedule=schedule)
    stats = statistics.estimate(key, denoiser, schedule, draw, lams=200, num_samples=8)
    alpha, sigma = schedule.alpha_sigma(np.asarray(stats.lam)[:, None])
    level = sigma**2 / (alpha**2 * STD**2 + sigma**2)
    np.testing.assert_allclose(stats.l, level, atol=1e-12)
    # l' by differences is off by h^2/6 of the third derivative, which is below 2: h = .06 at most
    np.testing.assert_allclose(stats.b, 2 * level * (1 - level) * MEAN, atol=2e-3)
    assert np.abs(stats.s).max() < 1e-3


@pytest.mark.parametrize("dtype", [pytest.param("float64", marks=pytest.mark.x64), "float32"])
def test_constant_pixels_and_gaussian_dimensions_are_guarded(dtype, key):
    # a pixel that never varies has Var f = 0 exactly, a Gaussian one up to rounding
    mean, std = np.array([-1.0, 0.7, 0.0]), np.array([0.0, 0.5, 1.3])
    denoiser, draw = _gaussian(mean, std, dtype)
    stats = statistics.estimate(key, denoiser, VP, draw, lams=40, num_samples=64)
    assert stats.s.dtype == dtype
    np.testing.assert_allclose(stats.l[:, 0], 1.0, atol=1e-6)
    assert all(np.isfinite(a).all() for a in stats[:4]) and np.abs(stats.s).max() < 100
    table = v3.dpm_v3(grids.time(VP, 8), stats)  # raises on what is not finite
    x = np.asarray([0.3, -0.8, 1.1], dtype)
    result = diffusion.sample(None, denoiser, table, x)
    ends = [VP.alpha_sigma(VP.lam(np.float64(t))) for t in (VP.t_max, VP.t_min)]
    truth = mixture.gaussian_flow(mean, std, np.asarray(x, np.float64), *ends)
    assert result.value.dtype == dtype
    # s of what does not vary is rounding, which the check may notice: any s is right there
    assert status.faults(int(result.status), "diffusion") == 0
    # l is known to the curve through 41 levels, so the flow of Gaussian dimensions is known to about 1e-3
    np.testing.assert_allclose(result.value, truth, atol=5e-3)


def _of_bent(key, **options):
    """One program for each set of options: nine levels, 64 samples."""
    return statistics.estimate(key, _bent, VP, _bent_draw, num_samples=64, **options)


@pytest.mark.x64
def test_batch_size_changes_nothing_but_rounding(key):
    lams = np.linspace(-4.0, 4.0, 9)
    whole, parts = (_of_bent(key, lams=lams, batch_size=size) for size in (64, 7))  # 64 = 9 * 7 + 1: the last is masked
    chex.assert_trees_all_close(whole, parts, rtol=1e-8, atol=1e-8)


@pytest.mark.x64
def test_common_random_numbers_are_smooth_in_lam(key):
    lams, rough = np.linspace(0.0, 0.1, 9), {}
    for common in (True, False):
        stats = _of_bent(key, lams=lams, common_random_numbers=common)
        np.testing.assert_allclose(stats.lam, lams)
        rough[common] = np.sqrt((np.diff(np.asarray(stats.l), 2, axis=0) ** 2).mean())
    assert rough[True] < 0.05 * rough[False]


@pytest.mark.x64
def test_rows_and_samplers_are_alike(key):
    rows = jax.jit(lambda key: jax.vmap(DRAW)(jax.random.split(key, 4096)))(key)
    first = statistics.estimate(key, DENOISER, VP, rows, lams=24, num_samples=1024, batch_size=128, variance=VARIANCE)
    # l is a mean over 1024 draws of e^{2 lam} Var(x0|x), between 0 and 1 here: standard error <= .5/32 each
    np.testing.assert_allclose(first.l, _stats(exact=True).l, atol=tolerances.STANDARD_ERRORS * np.sqrt(2) / 64)


def test_a_sampler_may_give_each_sample_its_condition(key):
    def draw(key):
        return jnp.where(jax.random.bernoulli(key), 2.0, -2.0)[None], jnp.float32(0.5)

    def denoiser(x, t, cond, w):  # eps = cond * x: l = sigma * cond
        alpha, sigma = VP.alpha_sigma(VP.lam(t))
        eps = cond * x * w
        return (x - sigma * eps) / alpha, eps

    stats = statistics.estimate(key, denoiser, VP, draw, lams=3, num_samples=4, guidance_scale=3.0)
    np.testing.assert_allclose(stats.l[:, 0], 1.5 * VP.alpha_sigma(np.asarray(stats.lam))[1], rtol=1e-5)


def test_slopes_are_exact_for_parabolas_on_uneven_levels():
    lam = np.array([-2.0, -1.5, 0.1, 0.4, 2.0])
    found = _regression.slopes(lam, np.stack([lam**2 - lam, 3 * lam], 1))
    np.testing.assert_allclose(found, np.stack([2 * lam - 1, 3 + 0 * lam], 1), atol=1e-13)
    np.testing.assert_allclose(_regression.slopes(lam[:2], lam[:2] ** 2), [-3.5, -3.5])


def test_constant_statistics():
    stats = statistics.constant(VP, np.ones(3), s=-1.0, lams=5)
    assert stats.l.shape == stats.s.shape == stats.b.shape == (6, 3) and stats.lam.dtype == np.float64
    assert (stats.s == -1).all() and (stats.b == 0).all()
    np.testing.assert_allclose(stats.lam[[0, -1]], [VP.lam(np.float64(1.0)), VP.lam(np.float64(1e-3))])
    traced = jax.jit(lambda l: statistics.constant(VP, l, lams=5).l)(jnp.ones(3))  # noqa: E741
    assert traced.shape == (6, 3)


def _random(shape=(2, 3), num=7):
    rng = np.random.default_rng(0)
    lam = statistics.constant(VP, lams=num - 1).lam
    return statistics.Statistics(lam, *(rng.uniform(size=(num, *shape)) for _ in range(3)))


def test_files_come_back(tmp_path):
    stats = _random()
    statistics.save(stats, tmp_path / "stats.npz")
    statistics.save(stats, tmp_path / "official", layout="official")
    for back in (statistics.load(tmp_path / "stats.npz"), statistics.load(tmp_path / "official", VP)):
        chex.assert_trees_all_equal(stats, back, strict=True)
    with np.load(tmp_path / "official" / "l.npz") as first, np.load(tmp_path / "official" / "sb.npz") as second:
        assert first.files == ["l"] and sorted(second.files) == ["b", "s"] and first["l"].shape == (7, 2, 3)


@pytest.mark.bad_input
def test_bad_input(key, tmp_path):
    with pytest.raises(ValueError, match="num_samples must be an int >= 1, got 0"):
        statistics.estimate(key, DENOISER, VP, DRAW, num_samples=0)
    with pytest.raises(TypeError, match="data must be floating rows"):
        statistics.estimate(key, DENOISER, VP, np.ones((3, 2), int))
    with pytest.raises(TypeError, match="must return .D, eps., both of shape"):
        statistics.estimate(key, lambda x, t, cond, w: x, VP, DRAW, lams=2, num_samples=2)
    with pytest.raises(ValueError, match="choose ends with both noise and signal"):
        statistics.estimate(key, DENOISER, schedules.flow(), DRAW, lams=2, num_samples=2)
    with pytest.raises(ValueError, match="lams must be a vector"):
        statistics.constant(VP, lams=np.ones((2, 2)))
    for wrong in (np.linspace(4, -4, 5), np.asarray([0.0, 1.0, 1.0]), np.asarray([0.0, np.nan, 1.0])):
        with pytest.raises(ValueError, match="statistics.estimate: lams must rise"):
            statistics.estimate(key, DENOISER, VP, DRAW, lams=wrong, num_samples=2)
    with pytest.raises(ValueError, match="layout must be"):
        statistics.save(_random(), tmp_path / "x", layout="zip")
    uneven = _random()
    with pytest.raises(ValueError, match="uniform levels"):
        statistics.save(uneven._replace(lam=uneven.lam**3), tmp_path / "x", layout="official")
    statistics.save(_random(), tmp_path / "folder", layout="official")
    with pytest.raises(ValueError, match="pass the model's schedule"):
        statistics.load(tmp_path / "folder")
    np.save(tmp_path / "bare.npy", np.ones(3))
    with pytest.raises(ValueError, match="holds no statistics of a model"):
        statistics.load(tmp_path / "bare.npy")
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="holds no statistics of a model"):
        statistics.load(tmp_path / "other.npz")
