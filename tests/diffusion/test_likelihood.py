"""Likelihood and latents: mixtures and Gaussians with known densities, unbiased traces, honest statuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import contracts
import tolerances
from diffusion import mixture
from jaxsci import diffusion
from jaxsci.core import status
from jaxsci.diffusion import grids, likelihood, predictions, schedules, solvers

PROBLEM = mixture.problem_a()
DENOISER = mixture.denoiser(PROBLEM.mixture, PROBLEM.schedule)
TIGHT = dict(rtol=1e-10, atol=1e-10)  # a program of "dopri8" takes several times longer to compile


def _density(components, schedule, t, x):
    """log p_t(x) written from its definition."""
    alpha, sigma = schedule.alpha_sigma(schedule.lam(t))
    variances = alpha**2 * components.stds**2 + sigma**2
    squares = ((x[None, :] - alpha * components.means) ** 2).sum(1)
    logs = jnp.log(components.weights) - x.size / 2 * jnp.log(2 * jnp.pi * variances) - squares / (2 * variances)
    return jax.nn.logsumexp(logs)


def _exact(components, schedule, x, t, cond, w):
    """The exact denoiser at schedule time t."""
    return mixture.predict(components, x, *schedule.alpha_sigma(schedule.lam(t)))


EXACT_END = Partial(_density, PROBLEM.mixture, PROBLEM.schedule, np.float64(1.0))


def _points(num=64):
    """Draws from p_{t_min} of problem A, and their log-densities."""
    rng, (weights, means, stds) = np.random.default_rng(0), PROBLEM.mixture
    which = rng.choice(5, num, p=weights)
    alpha, sigma = PROBLEM.schedule.alpha_sigma(PROBLEM.schedule.lam(1e-3))
    clean = means[which] + stds[which, None] * rng.standard_normal((num, 2))
    x = alpha * clean + sigma * rng.standard_normal((num, 2))
    return x, mixture.log_prob(PROBLEM.mixture, x, alpha, sigma)


def _log_probs(x, **options):
    return jax.vmap(lambda x: likelihood.log_prob(None, DENOISER, PROBLEM.schedule, x, **options))(x)


# --- truth -------------------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({"prior": EXACT_END, "solver": "dopri8", **TIGHT}, 0, 1e-8),
        ({"prior": EXACT_END}, 1e-7, 1e-3),
        ({}, 1e-4, 1e-2),  # the normal prior is not the law at t_max: a bias that no tolerance removes
    ],
    ids=["tight", "default tolerance", "normal prior"],
)
def test_density_of_problem_a(options, low, high):
    x, exact = _points()
    found = _log_probs(x, **options)
    worst = np.abs(found.value - exact).max()
    assert low <= worst <= high, f"max |log p - exact| = {worst:.2e}"
    assert not found.status.any() and int(found.steps.max()) < 100


SCHEDULES = {
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "vp_discrete": schedules.vp_discrete(schedules.betas("linear")),
    "ve": schedules.ve(),
    "flow": schedules.flow(3.0, t_max=0.99),
}


@pytest.mark.x64
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ("vp_cosine", "vp_discrete") else ()) for n in SCHEDULES]
)
def test_one_gaussian_under_every_family(name):
    """Density, latent and sample of N(m, s^2) in closed form: every alpha'/alpha and its divergence count."""
    schedule = SCHEDULES[name]
    gaussian = mixture.single_gaussian()
    denoise = Partial(_exact, gaussian, schedule)
    ends = [tuple(float(v) for v in schedule.alpha_sigma(schedule.lam(t))) for t in (schedule.t_min, schedule.t_max)]
    x = np.array([0.9, 0.2])
    prior = Partial(_density, gaussian, schedule, schedule.t_max)
    found = likelihood.log_prob(None, denoise, schedule, x, prior=prior, **TIGHT)
    np.testing.assert_allclose(found.value, mixture.log_prob(gaussian, x, *ends[0]), atol=1e-7)
    latent = mixture.gaussian_flow(gaussian.means[0], gaussian.stds[0], x, *ends)
    np.testing.assert_allclose(found.latent, latent, rtol=1e-7)
    if name == "vp_linear":
        there = likelihood.transport(denoise, schedule, x, "noise", **TIGHT)
        np.testing.assert_allclose(there.value, latent, rtol=1e-7)
    back = likelihood.transport(denoise, schedule, latent, "data", **TIGHT)
    np.testing.assert_allclose(back.value, x, rtol=1e-7, atol=1e-7)
    assert int(found.status) == int(back.status) == 0


@pytest.mark.x64
def test_the_gradient_is_the_score():
    x, _ = _points(4)
    value = lambda x: likelihood.log_prob(None, DENOISER, PROBLEM.schedule, x, prior=EXACT_END, **TIGHT).value  # noqa: E731
    score = jax.vmap(jax.grad(lambda x: _density(PROBLEM.mixture, PROBLEM.schedule, 1e-3, x)))(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(value))(x), score, rtol=1e-6, atol=1e-6)


@pytest.mark.x64
def test_the_random_trace_is_unbiased(key):
    x = _points(1)[0][0]
    exact = likelihood.log_prob(None, DENOISER, PROBLEM.schedule, x).value

    def one(key):
        return likelihood.log_prob(key, DENOISER, PROBLEM.schedule, x, trace="hutchinson").value

    values = jax.vmap(one)(jax.random.split(key, 4000))
    error = jnp.std(values) / jnp.sqrt(values.size)
    assert 1e-4 < error < 0.05  # it does vary
    assert abs(jnp.mean(values) - exact) < tolerances.STANDARD_ERRORS * error


@pytest.mark.x64
def test_encoded_points_come_back():
    x, _ = _points(16)
    latents = jax.vmap(lambda x: likelihood.transport(DENOISER, PROBLEM.schedule, x, "noise", **TIGHT).value)(x)
    back = jax.vmap(lambda z: likelihood.transport(DENOISER, PROBLEM.schedule, z, "data", **TIGHT).value)(latents)
    np.testing.assert_allclose(back, x, atol=1e-7)
    errors = []
    for num_steps in (80, 160):
        table = solvers.unipc(grids.logsnr(PROBLEM.schedule, num_steps), order=3, lower_order_final=False)
        sampled = jax.vmap(lambda z, table=table: diffusion.sample(None, DENOISER, table, z).value)(latents)
        errors.append(np.abs(sampled - x).max())
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 4, errors


@pytest.mark.x64
def test_decoding_is_the_truth_that_solvers_are_held_against():
    problem = mixture.problem_a()
    decode = lambda x: likelihood.transport(DENOISER, problem.schedule, x, "data", **TIGHT).value  # noqa: E731
    np.testing.assert_allclose(jax.vmap(decode)(problem.x_T[:8]), mixture.truth("a")[:8], atol=1e-8)


def test_condition_and_guidance_reach_the_denoiser():
    """Data at w c, exactly: the latent is (x - alpha_0 w c) scaled."""
    vp = schedules.vp_linear()

    def model(x, t, cond, w):
        alpha, sigma = vp.alpha_sigma(vp.lam(t))
        return jnp.full_like(x, w * cond), (x - alpha * w * cond) / sigma

    options = dict(cond=jnp.float32(2.0), guidance_scale=1.5)
    (a, s), (b, t) = (tuple(float(v) for v in vp.alpha_sigma(vp.lam(t))) for t in (1e-3, 1.0))
    found = likelihood.transport(model, vp, jnp.float32([3.0]), "noise", **options)
    np.testing.assert_allclose(found.value, b * 3 + t / s * (3 - a * 3), rtol=1e-3, atol=1e-3)
    assert abs(float(likelihood.transport(model, vp, jnp.float32([3.0]), "noise", cond=jnp.float32(2.0)).value[0])) > 10


def test_shape_dtype_and_one_compilation(key):
    x = jax.random.normal(key, (2, 3, 1))
    vp = schedules.vp_linear()
    guided = {"guidance": "classifier_free", "null": jnp.float32(0.0)}
    denoise = predictions.denoiser(Partial(lambda x, t, cond: x), vp, "epsilon", **guided)
    found = likelihood.log_prob(None, denoise, vp, x, cond=jnp.float32(1.0))
    flat = likelihood.log_prob(None, denoise, vp, x.reshape(6), cond=jnp.float32(1.0))
    assert found.latent.shape == x.shape and found.value.dtype == found.latent.dtype == jnp.float32
    np.testing.assert_allclose(found.value, flat.value, rtol=1e-5)
    other = 2 * x
    with contracts.count_compilations() as events:
        options = dict(rtol=1e-4, t_min=2e-3, cond=jnp.float32(2.0), guidance_scale=2.0)
        likelihood.log_prob(None, denoise, vp, other, **options)
    assert not events


# --- bits per dimension ------------------------------------------------------------------------------------


@pytest.mark.x64
def test_bits_of_a_discretised_law():
    """E bits >= entropy of the grid cells, with equality when the density is flat inside each."""
    counts = np.array([1, 2, 5])
    p = counts / counts.sum()
    log_density = np.log(p / 0.125)  # a histogram of bin width 1/8
    bits = (p * np.asarray(likelihood.bits_per_dimension(log_density, 1, bin_width=1 / 8))).sum()
    np.testing.assert_allclose(bits, -(p * np.log2(p)).sum(), rtol=1e-14)
    joint = likelihood.bits_per_dimension(64 * log_density, 64, bin_width=1 / 8)
    np.testing.assert_allclose((p * np.asarray(joint)).sum(), bits, rtol=1e-14)


# --- statuses and bad input --------------------------------------------------------------------------------


def _float32(**options):
    x = options.pop("x", jnp.zeros(2, jnp.float32))
    return likelihood.log_prob(None, options.pop("denoiser", DENOISER), schedules.vp_linear(), x, **options)


def test_trouble_is_reported():
    assert int(_float32().status) == 0
    assert int(_float32(x=jnp.array([jnp.nan, 0.0])).status) == status.NONFINITE_INPUT
    assert int(_float32(t_min=0.9, t_max=0.1).status) == status.OUT_OF_RANGE
    capped = _float32(max_steps=3)
    assert int(capped.status) == status.MAX_STEPS and int(capped.steps) == 3
    flow = schedules.flow()  # t_max = 1 is pure noise, where lam is -inf
    found = likelihood.transport(lambda x, t, c, w: (x, x), flow, jnp.zeros(2), "noise")
    assert int(found.status) == status.OUT_OF_RANGE


def test_a_model_without_finite_output_is_reported():
    """Everywhere, or from the middle of the way on: never the density that some prior has."""

    def broken(x, t, cond, w):
        return x, jnp.where(t >= cond[0], cond[1], x)

    for start, value in ((0.0, jnp.nan), (0.0, jnp.inf), (0.5, jnp.nan), (0.5, jnp.inf)):
        found = _float32(denoiser=broken, prior=jnp.max, cond=jnp.array([start, value]))
        assert int(found.status) == status.NONFINITE_RESULT and int(found.steps) < 100
        assert np.isnan(found.value) and np.isnan(found.latent).all()
    found = likelihood.transport(broken, schedules.vp_linear(), jnp.zeros(2), "noise", cond=jnp.array([0.5, jnp.nan]))
    assert int(found.status) == status.NONFINITE_RESULT and np.isnan(found.value).all()


def test_a_bad_lane_does_not_touch_the_others():
    x = jnp.array([[0.1, 0.2], [jnp.inf, 0.0], [0.3, -0.5]])
    found = jax.vmap(lambda x: likelihood.log_prob(None, DENOISER, PROBLEM.schedule, x))(x)
    assert found.status.tolist() == [0, status.NONFINITE_INPUT, 0]
    np.testing.assert_allclose(found.value[2], _log_probs(x[2:]).value[0], rtol=1e-5)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"trace": "none"}, ValueError, "trace must be one of"),
        ({"trace": "hutchinson"}, ValueError, "pass a key"),
        ({"solver": "euler"}, ValueError, "solver must be one of"),
        ({"denoiser": lambda x, t, c, w: x[0]}, TypeError, r"must return \(D, eps\)"),
        ({"prior": lambda x: x}, TypeError, "prior must return a scalar"),
    ],
)
def test_wrong_calls_are_answered(options, error, match):
    with pytest.raises(error, match=match):
        _float32(**options)


@pytest.mark.bad_input
def test_keys_must_be_typed():
    with pytest.raises(TypeError, match="typed key"):
        likelihood.log_prob(0, DENOISER, PROBLEM.schedule, jnp.zeros(2), trace="hutchinson")
