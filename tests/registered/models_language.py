"""Entries of jaxsci.models.language."""

import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Bad, Compiled, Driver
from jaxsci import quantization
from jaxsci.core import checkpoint
from jaxsci.models import language
from jaxsci.nn import transformer

CFG = language.config(width=8, num_layers=1, num_heads=1, hidden=8, context=6)
SPEC = quantization.quest(2, 2, block=8)
SMALL = {"cfg": CFG, "batch_size": 2, "num_windows": 2}


def _params(key, dtype):
    """Parameters of the small decoder, without compiling `init`."""
    like = jax.eval_shape(lambda key: language.init(key, CFG), jax.random.key(0))
    leaves, structure = jax.tree.flatten(like)
    drawn = [0.3 * contracts.normal(jax.random.fold_in(key, i), a.shape, dtype) for i, a in enumerate(leaves)]
    return structure.unflatten(drawn)


def _tokens(key, shape=(5,)):
    return jnp.floor(90 * contracts.uniform(key, shape)).astype(jnp.int32)


def _apply(key, dtype):
    return lambda params, tokens: language.apply(params, CFG, tokens), (_params(key, dtype), _tokens(key))


def _loss(key, dtype):
    return lambda params, w: language.loss(params, w, cfg=CFG), (_params(key, dtype), _tokens(key, (2, 5)))


def _validation(key, dtype):
    def run(params):
        return language.validation_loss(params, CFG, spec=SPEC, num_windows=2)

    return run, (_params(key, dtype),)


def _point(key, dtype):
    return lambda key, clip: language.point(key, _clipped(clip), num_steps=2, **SMALL), (key, jnp.asarray(1.3, dtype))


def _clipped(clip):
    return quantization.quest(1, 1, block=0, estimator="clip", clip_scale=clip)


def _write(key, dtype):
    def run(key, prompt, params):
        model = transformer.sequence_model(params, CFG)
        return language.write(key, model, prompt, 3)

    return run, (key, _tokens(key, (2,)), _params(key, dtype))


def _train(folder, **options):
    options = {"num_steps": 4, "save_every": 0, "progress": False} | SMALL | options
    return language.train(jax.random.key(0), out=folder, **options)


def _resumed(folder):
    whole = _train(folder)
    assert whole.history.shape == (4,) and int(whole.status) == 0
    chex.assert_trees_all_equal(language.load(folder, cfg=CFG), whole.value)
    shutil.rmtree(folder / "training" / "4")
    shutil.rmtree(folder / "network")
    assert checkpoint.latest(folder / "training") < 4
    chex.assert_trees_all_equal(_train(folder).value, whole.value)


def _text(folder):
    text = language.data()
    assert len(set(text.symbols)) == len(text.symbols) and "?" in text.symbols and text.symbols.isascii()
    assert text.train.dtype == np.int32 and 0 <= text.train.min() and text.train.max() < len(text.symbols)


def _round_trip(folder):
    assert language.decode(language.encode("for x in y:")) == "for x in y:"


def _rules(folder):
    assert language.rules(SPEC) == {"head": None, "*": SPEC}
    assert language.products(None)("head", np.ones(2), np.eye(2), None).tolist() == [1, 1]


_STAYS_SINGLE = {"dtype": "parameters are float32, whatever the precision of JAX"}

ENTRIES = {
    "jaxsci.models.language.apply": Compiled(_apply, grad=(0,)),
    "jaxsci.models.language.config": Driver(
        bad=(Bad(lambda _: language.config(positions="none"), ValueError, "must be rotary or learned"),)
    ),
    "jaxsci.models.language.data": Driver(works=_text),
    "jaxsci.models.language.decode": Driver(
        bad=(Bad(lambda _: language.decode([1000]), ValueError, r"must lie in \[0, \d+\), got 1000"),),
        works=_round_trip,
    ),
    "jaxsci.models.language.encode": Driver(
        bad=(Bad(lambda _: language.encode("\x00"), ValueError, "must be made of the"),), works=_round_trip
    ),
    "jaxsci.models.language.init": Compiled(
        lambda key, dtype: (lambda key: language.init(key, CFG), (key,)), skip=_STAYS_SINGLE
    ),
    "jaxsci.models.language.load": Driver(
        bad=(Bad(language.load, FileNotFoundError, "python -m jaxsci.models.language"),)
    ),
    "jaxsci.models.language.loss": Compiled(_loss, grad=(0,)),
    "jaxsci.models.language.point": Compiled(_point, skip=_STAYS_SINGLE),
    "jaxsci.models.language.products": Driver(works=_rules),
    "jaxsci.models.language.rules": Driver(works=_rules),
    "jaxsci.models.language.train": Driver(
        bad=(Bad(lambda folder: _train(folder, num_steps=0), ValueError, "num_steps must be an int >= 1"),),
        resume=_resumed,
    ),
    "jaxsci.models.language.validation_loss": Compiled(_validation),
    "jaxsci.models.language.write": Compiled(_write),
}
