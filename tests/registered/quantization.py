"""Entries of jaxsci.quantization."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

import contracts
from contracts import Bad, Builder, Compiled, Driver
from jaxsci import nn
from jaxsci import quantization as qz
from jaxsci.quantization import formats, scaling

SPEC = qz.quant_spec(formats.midrise(2), axis=-1, hadamard=8, estimator="trust")
CFG = nn.mlp.config(8, (8,), 2)
RULES = {"layer_0": qz.quest(4, 4, block=8), "*": None}


def _array(function, shape=(2, 16)):
    """`function(x)` of an array."""
    return lambda key, dtype: (function, (contracts.normal(key, shape, dtype),))


def _codes(function, size, dtype=jnp.int8):
    """`function(codes)` of whole numbers that fit four bits."""

    def make(key, _):
        drawn = 8 * contracts.uniform(key, (size, 2), low=-1.0)
        return function, (jnp.floor(drawn).astype(dtype),)

    return Compiled(make)


def _spec_values(step, eps):
    """A spec with a traced unit, as training over units would have it."""
    spec = qz.quant_spec(formats.midrise(4), scale="fixed", unit=step, eps=eps, axis=-1)
    return qz.dequantize(qz.quantize(jnp.linspace(-1, 1, 8, dtype=step.dtype), spec))


def _spec_entry(key, dtype):
    return _spec_values, (contracts.uniform(key, (), dtype, 0.1, 0.3), jnp.asarray(0, dtype))


def _unified(x, step):
    made = [qz.quant_spec(formats.midrise(b), scale="fixed", unit=step, axis=-1) for b in (1, 2)]
    one, two = qz.unify(made)
    return qz.fake_quantize(x, one), qz.fake_quantize(x, two)


def _dense(key, dtype):
    x, w = (contracts.normal(jax.random.fold_in(key, i), s, dtype) for i, s in enumerate([(2, 16), (16, 3)]))
    return lambda x, w: qz.dense(qz.quest(2, 2, block=16))("layer", x, w, None), (x, w)


def _pair(key, dtype):
    x, w = (contracts.normal(jax.random.fold_in(key, i), s, dtype) for i, s in enumerate([(2, 16), (16, 3)]))
    pair = qz.layer_spec(qz.quest(2, block=16).weights, qz.quest(4, 4, block=16).activations)
    return lambda x, w: qz.dense(pair, execution="integer")("layer", x, w, None), (x, w)


def _layers(folder):
    params = nn.mlp.init(jax.random.key(0), CFG)
    assert qz.layer_names(nn.mlp.apply, params, CFG, jnp.ones(8)) == ("layer_0", "layer_1")


def _packed(key, dtype):
    kernel = contracts.normal(key, (16, 2), dtype)
    return lambda w: qz.pack_params({"up": {"kernel": w}}, qz.quest(4, block=16)), (kernel,)


def _files(folder):
    params = nn.mlp.init(jax.random.key(0), CFG)
    packed = qz.pack_params(params, RULES)
    qz.save(folder / "a.npz", packed)
    again = qz.load(folder / "a.npz", packed)
    np.testing.assert_array_equal(again["kernel_0"].codes, packed["kernel_0"].codes)


def _traced_save(folder):
    jax.jit(lambda w: qz.save(folder / "a.npz", {"w": w}))(jnp.ones(2))


def _bytes(folder):
    assert qz.num_bytes({"a": np.ones((3, 2), np.float32), "b": None}) == 24


def _normal_float(folder):
    levels = formats.nf4().levels
    assert len(levels) == 16 and levels[0] == -1 and levels[7] == 0 and levels[-1] == 1 and np.all(np.diff(levels) > 0)


def _paths(folder):
    leaves = jax.tree_util.tree_leaves_with_path({"params": {"up": {"kernel": 1.0}}, "kernel_3": 2.0, "bias": 0.0})
    assert [qz.layer_of(path) for path, _ in leaves] == [None, "layer_3", "up"]


def _grid(make, levels):
    """A builder without arguments of its own, against its levels."""
    return Builder(
        lambda: (lambda: make().levels, ()), lambda: np.asarray(levels), skip={"tracer": "no array arguments"}
    )


def _quantiles(bits):
    """Lloyd's levels for two bits by their defining integrals: the mean of a cell."""
    levels = formats.lloyd(bits).levels
    borders = [-12, *(levels[1:] + levels[:-1]) / 2, 12]

    def of(power, a, b):
        return scipy.integrate.quad(lambda x: x**power * np.exp(-x * x / 2), a, b, epsabs=1e-14)[0]

    return [of(1, a, b) / of(0, a, b) for a, b in zip(borders, borders[1:])]


def _small_float(exponents, mantissa, most):
    """Numbers of a small format by its definition, bias 2**(exponents - 1) - 1."""
    bias, found = 2 ** (exponents - 1) - 1, []
    for e in range(2**exponents):
        for m in range(2**mantissa):
            found.append((m + (e > 0) * 2**mantissa) * 2.0 ** (max(e, 1) - bias - mantissa))
    positive = np.array([v for v in found if v <= most])
    return [*-positive[:0:-1], *positive]


def _gaussian():
    def found(levels):
        return formats.gaussian(formats.Grid("midrise", levels, 1)).unit

    return found, (np.array([-0.5, 0.5]),)


def _loss(key, dtype):
    n, d = (contracts.uniform(jax.random.fold_in(key, i), (), dtype, 1e3, 2e3) for i in range(2))
    return lambda n, d: scaling.loss(scaling.published_law(), n, d, 0.5), (n, d)


def _fitted(folder):
    law = scaling.fit(scaling.published_runs())
    assert abs(scaling.bits_worth(law, {"W4A4": 4})["W4A4"] - 2.77) < 0.1
    assert scaling.predicted(law, scaling.published_runs()).shape == (82,)


def _no_runs(folder):
    runs = scaling.published_runs()
    scaling.fit(runs._replace(**{name: values[:4] for name, values in zip(runs._fields, runs)}))


ENTRIES = {
    "jaxsci.quantization.dense": Compiled(_dense),
    "jaxsci.quantization.dequantize": Compiled(_array(lambda x: qz.dequantize(qz.quantize(x, SPEC)))),
    "jaxsci.quantization.fake_quantize": Compiled(_array(lambda x: qz.fake_quantize(x, SPEC))),
    "jaxsci.quantization.from_gptq_words": _codes(lambda w: qz.from_gptq_words(w, 4), 32, jnp.int32),
    "jaxsci.quantization.from_interleaved": _codes(lambda w: qz.from_interleaved(w, 4), 128),
    "jaxsci.quantization.hadamard_transform": Compiled(_array(lambda x: qz.hadamard_transform(x, 8)), grad=(0,)),
    "jaxsci.quantization.layer_names": Driver(works=_layers),
    "jaxsci.quantization.layer_of": Driver(works=_paths),
    "jaxsci.quantization.layer_spec": Compiled(_pair),
    "jaxsci.quantization.load": Driver(
        bad=(Bad(lambda folder: qz.load(folder / "none.npz", {}), FileNotFoundError, "none"),), works=_files
    ),
    "jaxsci.quantization.num_bytes": Driver(works=_bytes),
    "jaxsci.quantization.pack": _codes(lambda c: qz.pack(c, 4), 256),
    "jaxsci.quantization.pack_params": Compiled(_packed),
    "jaxsci.quantization.quant_spec": Compiled(_spec_entry),
    "jaxsci.quantization.quantize": Compiled(_array(lambda x: qz.quantize(x, SPEC))),
    "jaxsci.quantization.quest": Driver(
        bad=(Bad(lambda folder: qz.quest(4, 4, block=100), ValueError, "power of two"),),
    ),
    "jaxsci.quantization.report": Compiled(_array(lambda x: qz.report(x, SPEC))),
    "jaxsci.quantization.save": Driver(bad=(Bad(_traced_save, TypeError, "is traced"),)),
    "jaxsci.quantization.to_gptq_words": _codes(lambda p: qz.to_gptq_words(p, 4), 128),
    "jaxsci.quantization.to_interleaved": _codes(lambda p: qz.to_interleaved(p, 4), 128),
    "jaxsci.quantization.unify": Compiled(
        lambda key, dtype: (
            _unified,
            (contracts.normal(key, (8,), dtype), contracts.uniform(key, (), dtype, 0.5, 1.0)),
        )
    ),
    "jaxsci.quantization.unpack": _codes(lambda p: qz.unpack(p, 4), 128),
    "jaxsci.quantization.formats.affine": _grid(lambda: formats.affine(2), [0, 1, 2, 3]),
    "jaxsci.quantization.formats.e2m1": _grid(formats.e2m1, _small_float(2, 1, 6)),
    "jaxsci.quantization.formats.e4m3": _grid(formats.e4m3, _small_float(4, 3, 448)),
    "jaxsci.quantization.formats.e5m2": _grid(formats.e5m2, _small_float(5, 2, 57344)),
    "jaxsci.quantization.formats.gaussian": Builder(_gaussian, lambda levels: 2 * np.sqrt(2 / np.pi)),
    "jaxsci.quantization.formats.lloyd": _grid(lambda: formats.lloyd(2), _quantiles(2)),
    "jaxsci.quantization.formats.midrise": _grid(lambda: formats.midrise(2), [-1.5, -0.5, 0.5, 1.5]),
    "jaxsci.quantization.formats.midtread": _grid(lambda: formats.midtread(3, full=True), np.arange(-4, 4)),
    "jaxsci.quantization.formats.nf4": Driver(works=_normal_float),
    "jaxsci.quantization.formats.ternary": _grid(formats.ternary, [-1, 0, 1]),
    "jaxsci.quantization.scaling.bits_worth": Driver(
        bad=(Bad(lambda folder: scaling.bits_worth(scaling.published_law(), {"no": 4}), ValueError, "got 'no'"),)
    ),
    "jaxsci.quantization.scaling.fit": Driver(
        bad=(Bad(_no_runs, ValueError, "constants need as many|no run"),), works=_fitted
    ),
    "jaxsci.quantization.scaling.loss": Compiled(_loss, grad=(0, 1)),
    "jaxsci.quantization.scaling.predicted": Driver(works=_fitted),
    "jaxsci.quantization.scaling.published_law": Driver(works=_fitted),
    "jaxsci.quantization.scaling.published_runs": Driver(works=_fitted),
}
