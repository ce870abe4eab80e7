"""Entries of jaxsci.diffusion.likelihood."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import contracts
from contracts import Compiled
from jaxsci.diffusion import likelihood, schedules


def _noise(mean, x, t, cond, w):
    """Exact for N(mean, 1) under a variance-preserving schedule."""
    alpha, sigma = schedules.vp_linear().alpha_sigma(schedules.vp_linear().lam(t))
    eps = sigma * (x - alpha * mean)
    return (x - sigma * eps) / alpha, eps


def _tolerances(dtype):
    # Tight: jit and vmap may take other steps, and differences of step 1e-6 must not see the integrator's error.
    return {"rtol": 1e-6, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-12, "solver": "dopri8"}


def _prior(mean, x):
    return -0.5 * jnp.sum((x - mean) ** 2)


def _log_prob(trace):
    def make(key, dtype):
        def run(x, mean, key):
            found = likelihood.log_prob(
                key, Partial(_noise, mean), schedules.vp_linear(), x, trace=trace, prior=Partial(_prior, mean),
                **_tolerances(dtype),
            )  # fmt: skip
            return found.value, found.latent, found.status

        x = contracts.normal(key, (3,), dtype)
        return run, (x, 0.1 * x[::-1], jax.random.fold_in(key, 1))

    return make


def _transport(to):
    def make(key, dtype):
        def run(x, mean):
            found = likelihood.transport(Partial(_noise, mean), schedules.vp_linear(), x, to, **_tolerances(dtype))
            return found.value, found.status

        x = contracts.normal(key, (3,), dtype)
        return run, (x, 0.1 * x[::-1])

    return make


def _bits(key, dtype):
    def run(log_prob, bin_width):
        return likelihood.bits_per_dimension(log_prob, 5, bin_width=bin_width)

    return run, (contracts.normal(key, (4,), dtype), jnp.asarray(0.125, dtype))


ENTRIES = {
    "jaxsci.diffusion.likelihood.log_prob": Compiled(_log_prob("hutchinson"), grad=(0, 1)),
    # Adaptive steps amplify the rounding of single precision: 2.8e-5 measured.
    "jaxsci.diffusion.likelihood.transport": Compiled(_transport("noise"), grad=(0, 1), tol=1e-4),
    "jaxsci.diffusion.likelihood.bits_per_dimension": Compiled(_bits, grad=(0, 1)),
}
