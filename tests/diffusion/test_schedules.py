"""Noise schedules against golden values, their inverses, and the discrete chains they come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.diffusion import schedules

ALL = {
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "vp_discrete": schedules.vp_discrete(schedules.betas("scaled_linear")),
    "ve": schedules.ve(),
    "flow": schedules.flow(shift=3.0),
}


def test_golden_values_of_vp_linear():
    vp = schedules.vp_linear()
    lam = vp.lam(0.5)
    np.testing.assert_allclose(lam, -1.22756773, atol=5e-9)
    np.testing.assert_allclose(vp.alpha_sigma(lam), (0.28118288, 0.9596542), atol=5e-9)
    np.testing.assert_allclose(vp.t_of_lam(0.0), 0.25896026, atol=5e-9)


@pytest.mark.parametrize("name", ALL)
def test_inverse_and_family(name):
    schedule = ALL[name]
    times = np.linspace(schedule.t_min, schedule.t_max if name != "flow" else 0.99, 50)
    lams = schedule.lam(times)
    assert lams.dtype == np.float64 and np.all(np.diff(lams) < 0)
    np.testing.assert_allclose(schedule.t_of_lam(lams), times, rtol=1e-9)
    alpha, sigma = schedule.alpha_sigma(lams)
    np.testing.assert_allclose(np.log(alpha / sigma), lams, atol=1e-12)
    total = {"ve": alpha, "flow": alpha + sigma}.get(name, alpha**2 + sigma**2)
    np.testing.assert_allclose(total, 1.0, atol=1e-14)
    h = 1e-6
    slope = (np.log(schedule.alpha_sigma(lams + h)[0]) - np.log(schedule.alpha_sigma(lams - h)[0])) / (2 * h)
    np.testing.assert_allclose(schedule.rate(lams), slope, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_ends_are_data_and_noise(name):
    for lam, which in ((np.inf, 0), (-np.inf, 1)):
        if name == "ve" and which == 1:
            continue  # its noise has no bound
        pair = ALL[name].alpha_sigma(np.float64(lam))
        np.testing.assert_array_equal(pair, (1.0, 0.0) if which == 0 else (0.0, 1.0))


def test_formulas_written_out():
    t = np.linspace(0.01, 0.99, 9)
    np.testing.assert_allclose(
        schedules.vp_linear(0.1, 20.0).alpha_sigma(schedules.vp_linear(0.1, 20.0).lam(t))[0],
        np.exp(-0.25 * t**2 * 19.9 - 0.05 * t),
        rtol=1e-13,
    )
    cosine = schedules.vp_cosine()
    law = np.cos(np.pi / 2 * (t + 0.008) / 1.008) / np.cos(np.pi / 2 * 0.008 / 1.008)
    np.testing.assert_allclose(cosine.alpha_sigma(cosine.lam(t))[0], law, rtol=1e-12)
    flow = schedules.flow(3.0, time_scale=1000.0)
    shifted = 3 * t / (1 + 2 * t)
    np.testing.assert_allclose(flow.alpha_sigma(flow.lam(t)), (1 - shifted, shifted), rtol=1e-12)
    np.testing.assert_allclose(flow.model_time(t), 1000 * shifted, rtol=1e-12)
    np.testing.assert_allclose(schedules.flow(3.0).lam(t), schedules.flow().lam(t) - np.log(3), rtol=1e-12)
    np.testing.assert_allclose(schedules.ve().alpha_sigma(schedules.ve().lam(t)), (np.ones(9), t), rtol=1e-13)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_a_discrete_chain_is_its_products(name):
    beta = schedules.betas(name, 100)
    schedule = schedules.vp_discrete(beta)
    times = np.arange(1, 101) / 100
    bar = np.cumprod(1 - beta)
    np.testing.assert_allclose(schedule.alpha_sigma(schedule.lam(times))[0], np.sqrt(bar), rtol=1e-12)
    np.testing.assert_allclose(schedule.model_time(times), np.arange(100), atol=1e-9)
    scaled = schedules.vp_discrete(beta, time_scale=1000.0)
    np.testing.assert_allclose(scaled.model_time(times), np.arange(100) * 10.0, atol=1e-9)
    middle = schedule.lam((times[3] + times[4]) / 2)  # linear in log alpha between the nodes
    np.testing.assert_allclose(np.log(schedule.alpha_sigma(middle)[0]), (np.log(bar[3]) + np.log(bar[4])) / 4)


def test_beta_laws():
    np.testing.assert_allclose(schedules.betas("linear")[[0, -1]], (1e-4, 0.02))
    np.testing.assert_allclose(schedules.betas("scaled_linear")[[0, -1]], (0.00085, 0.012))
    root = np.sqrt(schedules.betas("scaled_linear", 11, beta_start=0.01, beta_end=0.04))
    np.testing.assert_allclose(np.diff(root), 0.01, rtol=1e-9)
    bar = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    cosine = schedules.betas("squaredcos_cap_v2", 1000)
    np.testing.assert_allclose(cosine[[0, 499, 999]], (1 - bar(0.001) / bar(0), 1 - bar(0.5) / bar(0.499), 0.999))


def test_zero_terminal_snr():
    beta = schedules.betas("scaled_linear")
    plain, zero = schedules.vp_discrete(beta), schedules.vp_discrete(beta, zero_terminal_snr=True)
    root = np.sqrt(np.cumprod(1 - beta))
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha = zero.alpha_sigma(zero.lam(np.arange(1, 1001) / 1000))[0]
    np.testing.assert_allclose(alpha[:-1], expected[:-1], rtol=1e-10)
    np.testing.assert_allclose(alpha[-1] ** 2, 2.0**-24, rtol=1e-9)
    assert zero.lam(1.0) < -8 < -3 < plain.lam(1.0)


def test_lam_min_cuts_the_noisy_end():
    beta = schedules.betas("squaredcos_cap_v2")
    schedule = schedules.vp_discrete(beta, lam_min=-5.1)
    np.testing.assert_allclose(schedule.lam(schedule.t_max), -5.1, atol=1e-9)
    assert schedules.vp_discrete(beta, lam_min=-50.0).t_max == 1.0


@pytest.mark.parametrize("name", ALL)
def test_same_on_the_device(name):
    schedule = ALL[name]
    times = np.linspace(0.05, 0.95, 7)
    lams = schedule.lam(times)
    device = jax.jit(lambda s, t: (s.lam(t), s.t_of_lam(s.lam(t)), *s.alpha_sigma(s.lam(t)), s.rate(s.lam(t))))
    got = device(schedule, jnp.asarray(times, jnp.float32))
    for a, b in zip(got, (lams, times, *schedule.alpha_sigma(lams), schedule.rate(lams))):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)  # vp_cosine loses 7e-5 to its arccos


@pytest.mark.x64
def test_parameters_are_traced_and_stack():
    shifts = jnp.asarray([1.0, 2.0, 3.0])
    lams = jax.vmap(lambda k: schedules.flow(k).lam(0.5))(shifts)
    np.testing.assert_allclose(lams, -np.log(shifts), rtol=1e-12)
    slope = jax.grad(lambda b: schedules.vp_linear(0.1, b).t_of_lam(jnp.asarray(0.3)))(20.0)
    h = 1e-5
    expected = (schedules.vp_linear(0.1, 20 + h).t_of_lam(0.3) - schedules.vp_linear(0.1, 20 - h).t_of_lam(0.3)) / 2 / h
    np.testing.assert_allclose(slope, expected, rtol=1e-7)


@pytest.mark.bad_input
def test_bad_input():
    with pytest.raises(ValueError, match=r"betas: name must be one of .* got 'sigmoid'"):
        schedules.betas("sigmoid")
    with pytest.raises(ValueError, match="takes no beta_start"):
        schedules.betas("squaredcos_cap_v2", beta_end=0.5)
    for wrong in ([0.1], [0.1, 1.2], [[0.1, 0.2]]):
        with pytest.raises(ValueError, match=r"vp_discrete: betas must be at least two numbers in \(0, 1\)"):
            schedules.vp_discrete(np.asarray(wrong))
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda b: schedules.vp_discrete(b).lam(0.5))(jnp.full(3, 0.1))
