"""Entries of jaxsci.diffusion.interop, its diffusers and jaxsci.diffusion.names."""

import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Bad, Builder, Compiled, Driver
from jaxsci import diffusion
from jaxsci.diffusion import grids, interop, names, predictions, schedules, solvers

_EULER = {"_class_name": "EulerDiscreteScheduler"}


def _from_diffusers():
    def run(sigmas):
        it = interop.from_diffusers(_EULER, sigmas=sigmas)
        return it.table.alpha, it.table.predictor.data, it.table.predictor.noise, it.init_scale

    return run, (np.array([10.0, 3.0, 0.5, 0.0]),)


def _euler(sigmas):
    """x = alpha D + sigma eps at the next node."""
    alpha, sigma = 1 / np.sqrt(1 + sigmas**2), sigmas / np.sqrt(1 + sigmas**2)
    return alpha, alpha[1:, None], np.append(sigma[1:-1], 0.0)[:, None], sigma[0]


def _denoiser(key, dtype):
    it = interop.from_diffusers({"_class_name": "DDPMScheduler", "clip_sample_range": 0.8}, 10)

    def run(x, t, scale):
        return interop.denoiser(it, lambda x, t, cond: scale * x)(x, t, None, 1.0)

    x = contracts.normal(key, (3,), dtype)
    return run, (x, jnp.asarray(2.0, dtype) + x[0] ** 2, jnp.asarray(0.5, dtype))


def _at_three(x, t):
    alpha, sigma = schedules.vp_linear().alpha_sigma(schedules.vp_linear().lam(t))
    return (x - 3 * alpha) / sigma


def _run_plain(folder):
    denoiser = interop.plain_denoiser(_at_three, schedules.vp_linear(), "epsilon")
    table = solvers.dpm_multistep(grids.logsnr(schedules.vp_linear(), 6))
    start = np.array([0.3, -1.0])
    plain = interop.run_plain(denoiser, table, start)
    ours = predictions.denoiser(lambda x, t, cond: _at_three(x, t), schedules.vp_linear(), "epsilon")
    ours = diffusion.sample(None, ours, table, start).value
    np.testing.assert_allclose(plain, ours, rtol=1e-4)
    np.testing.assert_allclose(plain, 3, atol=0.02)


def _level(t):
    return schedules.vp_linear().alpha_sigma(schedules.vp_linear().lam(t))


def _plain_denoiser(folder):
    data, noise = interop.plain_denoiser(_at_three, schedules.vp_linear(), "epsilon")(np.ones(2), 0.4, *_level(0.4))
    np.testing.assert_allclose(data, 3, rtol=1e-12)
    np.testing.assert_allclose(noise, _at_three(np.ones(2), 0.4))


def _named():
    def run(beta_max):
        table = names.named("Euler Karras", schedules.vp_linear(0.1, beta_max), 4)
        return table.sigma / table.alpha, table.predictor.data[:, 0]

    def truth(beta_max):
        def ratio(t):
            half_log = 0.25 * t**2 * (beta_max - 0.1) + 0.5 * t * 0.1
            return np.sqrt(np.expm1(2 * half_log))

        roots = np.linspace(ratio(1.0) ** (1 / 7), ratio(1e-3) ** (1 / 7), 4)
        rho = np.append(roots**7, 0.0)
        return rho, (1 / np.sqrt(1 + rho**2))[1:]

    return run, truth


def _normal_network(x, t, cond):
    return schedules.vp_linear().alpha_sigma(schedules.vp_linear().lam(t))[1] * x


def _diagnosed(folder):
    vp = schedules.vp_linear()
    data = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    found = diffusion.diagnose(predictions.denoiser(_normal_network, vp, "epsilon"), vp, data, num_samples=32)
    assert found.findings == () and found.lam.shape == found.loss.shape == found.relative.shape == (9,)


ENTRIES = {
    "jaxsci.diffusion.diagnose": Driver(
        bad=(
            Bad(lambda f: diffusion.diagnose(_normal_network, None, np.ones((2, 4))), TypeError, "NoiseSchedule"),
            Bad(
                lambda f: diffusion.diagnose(_normal_network, schedules.vp_linear(), np.ones((2, 4)), num_levels=0),
                ValueError,
                "num_levels must be",
            ),
        ),
        works=_diagnosed,
    ),
    "jaxsci.diffusion.diffusers.denoiser": Compiled(_denoiser, grad=(0,)),
    "jaxsci.diffusion.from_diffusers": Builder(_from_diffusers, _euler),
    "jaxsci.diffusion.interop.plain_denoiser": Driver(
        bad=(
            Bad(
                lambda f: interop.plain_denoiser(_at_three, schedules.vp_linear(), "noise"),
                ValueError,
                "kind must be one of",
            ),
        ),
        works=_plain_denoiser,
    ),
    "jaxsci.diffusion.interop.run_plain": Driver(
        bad=(
            Bad(
                lambda f: interop.run_plain(
                    lambda x, t, a, s: (x, x), solvers.sde_dpm(grids.logsnr(schedules.vp_linear(), 3)), np.ones(1)
                ),
                ValueError,
                "draws noise; pass noise",
            ),
        ),
        works=_run_plain,
    ),
    "jaxsci.diffusion.names.named": Builder(lambda: (_named()[0], (20.0,)), _named()[1], tol=1e-10),
}
