"""Entries of jaxsci.models."""

import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Bad, Compiled, Driver
from jaxsci.core import checkpoint
from jaxsci.diffusion import schedules
from jaxsci.models import digits


def _params(key, dtype):
    return jax.tree.map(lambda a: a.astype(dtype), digits.init(key))


def _apply(key, dtype):
    x = contracts.normal(key, (64,), dtype)
    return lambda x, lam, params: digits.apply(params, x, lam, 3), (x, x[0], _params(key, dtype))


def _denoiser(key, dtype):
    def run(x, w, params):
        label, t = jnp.int32(3), jnp.asarray(0.3, x.dtype)
        return digits.denoiser(params, guidance="classifier_free")(x, t, label, w)

    x = contracts.normal(key, (64,), dtype)
    return run, (x, x[0], _params(key, dtype))


def _loss(key, dtype):
    def run(images, labels, params, key):
        return digits.loss(params, (images, labels), key)

    images, labels = contracts.normal(key, (4, 64), dtype), jnp.arange(4, dtype=jnp.int32)
    return run, (images, labels, _params(key, dtype), jax.random.fold_in(key, 1))


def _train(folder, **options):
    options = {"num_steps": 12, "save_every": 0, "progress": False} | options
    return digits.train(jax.random.key(0), out=folder, **options)


def _trained(folder):
    result = _train(folder)
    assert result.history.shape == (12,) and int(result.status) == 0
    chex.assert_trees_all_equal(digits.load(folder), result.value)


def _resumed(folder):
    whole = _train(folder)
    shutil.rmtree(folder / "training" / "12")
    shutil.rmtree(folder / "network")
    assert checkpoint.latest(folder / "training") < 12
    chex.assert_trees_all_equal(_train(folder).value, whole.value)


def _data(folder):
    images, labels = digits.data()
    assert images.shape == (1797, 64) and np.abs(images).max() == 1 and labels.max() == 9


def _schedule(folder):
    vp = digits.schedule()
    assert float(vp.t_min) == 1e-3 and float(vp.lam(vp.t_max)) == float(schedules.vp_linear().lam(1.0))


_STAYS_SINGLE = {"dtype": "parameters are float32, whatever the precision of JAX"}

ENTRIES = {
    "jaxsci.models.digits.init": Compiled(lambda key, dtype: (digits.init, (key,)), skip=_STAYS_SINGLE),
    "jaxsci.models.digits.apply": Compiled(_apply, grad=(0, 1)),
    "jaxsci.models.digits.denoiser": Compiled(_denoiser, grad=(0, 1)),
    "jaxsci.models.digits.loss": Compiled(_loss, grad=(0,)),
    "jaxsci.models.digits.data": Driver(works=_data),
    "jaxsci.models.digits.schedule": Driver(works=_schedule),
    "jaxsci.models.digits.load": Driver(
        bad=(Bad(digits.load, FileNotFoundError, "python -m jaxsci.models.digits"),), works=_trained
    ),
    "jaxsci.models.digits.train": Driver(
        bad=(Bad(lambda folder: _train(folder, num_steps=0), ValueError, "num_steps must be an int >= 1"),),
        resume=_resumed,
    ),
}
