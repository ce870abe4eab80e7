"""Entries of jaxsci.diffusion.likelihood and jaxsci.diffusion.digits."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from contracts import Bad, Compiled, Constant, Driver, Record
from jaxsci.core import checkpoint
from jaxsci.diffusion import digits, likelihood, schedules

# --- likelihood --------------------------------------------------------------------------------------------


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

        x = jax.random.normal(key, (3,), dtype)
        return run, (x, 0.1 * x[::-1], jax.random.fold_in(key, 1))

    return make


def _transport(function):
    def make(key, dtype):
        def run(x, mean):
            found = function(Partial(_noise, mean), schedules.vp_linear(), x, **_tolerances(dtype))
            return found.value, found.status

        x = jax.random.normal(key, (3,), dtype)
        return run, (x, 0.1 * x[::-1])

    return make


def _bits(key, dtype):
    def run(log_prob, bin_width):
        return likelihood.bits_per_dimension(log_prob, 5, bin_width=bin_width)

    return run, (jax.random.normal(key, (4,), dtype), jnp.asarray(0.125, dtype))


# --- digits ------------------------------------------------------------------------------------------------


def _params(key, dtype):
    return jax.tree.map(lambda a: a.astype(dtype), digits.init(key))


def _apply(key, dtype):
    x = jax.random.normal(key, (64,), dtype)
    return lambda x, lam, params: digits.apply(params, x, lam, 3), (x, x[0], _params(key, dtype))


def _denoiser(key, dtype):
    def run(x, w, params):
        label, t = jnp.int32(3), jnp.asarray(0.3, x.dtype)
        return digits.denoiser(params, guidance="classifier_free")(x, t, label, w)

    x = jax.random.normal(key, (64,), dtype)
    return run, (x, x[0], _params(key, dtype))


def _loss(key, dtype):
    def run(images, labels, params, key):
        return digits.loss(params, (images, labels), key)

    images, labels = jax.random.normal(key, (4, 64), dtype), jnp.arange(4, dtype=jnp.int32)
    return run, (images, labels, _params(key, dtype), jax.random.fold_in(key, 1))


def _train(folder, **options):
    options = {"num_steps": 12, "save_every": 0, "progress": False} | options
    return digits.train(jax.random.key(0), out=folder, **options)


def _trained(folder):
    result = _train(folder)
    assert result.losses.shape == (12,) and int(result.status) == 0
    loaded = digits.load(folder)
    assert all(jnp.array_equal(a, b) for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(result.params)))


def _resumed(folder):
    whole = _train(folder)
    shutil.rmtree(folder / "training" / "12")
    shutil.rmtree(folder / "network")
    assert checkpoint.latest(folder / "training") < 12
    again = _train(folder)
    assert all(jnp.array_equal(a, b) for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(whole.params)))


def _data(folder):
    images, labels = digits.data()
    assert images.shape == (1797, 64) and np.abs(images).max() == 1 and labels.max() == 9


def _schedule(folder):
    vp = digits.schedule()
    assert float(vp.t_min) == 1e-3 and float(vp.lam(vp.t_max)) == float(schedules.vp_linear().lam(1.0))


_STAYS_SINGLE = {"dtype": "parameters are float32, whatever the precision of JAX"}

ENTRIES = {
    "jaxsci.diffusion.likelihood.log_prob": Compiled(_log_prob("hutchinson"), grad=(0, 1)),
    # Adaptive steps amplify the rounding of single precision: 2.8e-5 measured.
    "jaxsci.diffusion.likelihood.encode": Compiled(_transport(likelihood.encode), grad=(0, 1), tol=1e-4),
    "jaxsci.diffusion.likelihood.decode": Compiled(_transport(likelihood.decode), grad=(0, 1), tol=1e-4),
    "jaxsci.diffusion.likelihood.bits_per_dimension": Compiled(_bits, grad=(0, 1)),
    "jaxsci.diffusion.likelihood.LogProb": Record(),
    "jaxsci.diffusion.likelihood.Transport": Record(),
    "jaxsci.diffusion.digits.NULL_LABEL": Constant(),
    "jaxsci.diffusion.digits.NUM_PIXELS": Constant(),
    "jaxsci.diffusion.digits.Trained": Record(),
    "jaxsci.diffusion.digits.init": Compiled(lambda key, dtype: (digits.init, (key,)), skip=_STAYS_SINGLE),
    "jaxsci.diffusion.digits.apply": Compiled(_apply, grad=(0, 1)),
    "jaxsci.diffusion.digits.denoiser": Compiled(_denoiser, grad=(0, 1)),
    "jaxsci.diffusion.digits.loss": Compiled(_loss, grad=(0,)),
    "jaxsci.diffusion.digits.data": Driver(works=_data),
    "jaxsci.diffusion.digits.schedule": Driver(works=_schedule),
    "jaxsci.diffusion.digits.load": Driver(
        bad=(Bad(digits.load, FileNotFoundError, "python -m jaxsci.diffusion.digits"),), works=_trained
    ),
    "jaxsci.diffusion.digits.train": Driver(
        bad=(Bad(lambda folder: _train(folder, num_steps=0), ValueError, "num_steps must be >= 1"),), resume=_resumed
    ),
}
