"""Quantised products inside networks: by name, in flax, exported, saved and run again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import nn
from jaxsci import quantization as qz

CFG = nn.mlp.config(64, (256, 256, 256), 10, activation="silu")
DECODER = nn.transformer.config(
    128, 1, 2, hidden=128, norm="rms", positions="rotary", activation="swiglu", bias=False
)  # fmt: skip


def _x(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def _rules(bits):
    return {"layer_0": None, "layer_3": None, "*": qz.quest(bits, bits)}


MIXED = {"layer_0": qz.layer_spec(qz.quest(8, block=64).weights), "layer_1": qz.quest(1, 4), "layer_*": qz.quest(2, 2)}


@functools.cache
def _exported():
    """Outputs of the trained form, and of the packed one in floats and in integers, in one program for each."""
    params, x = nn.mlp.init(jax.random.key(0), CFG), _x(32, 64)
    params = {k: v + 0.1 * _x(*v.shape, seed=1) if k.startswith("bias") else v for k, v in params.items()}
    rules = {str(bits): _rules(bits) for bits in (1, 1.585, 2, 3, 4)}
    rules["mixed"] = {"layer_3": None} | MIXED
    packed = {name: qz.pack_params(params, r) for name, r in rules.items()}

    def seen(params, dense):
        """The output, and inputs, product and kernel of every layer."""
        layers = {}

        def told(name, x, kernel, bias):
            layers[name] = x, dense(name, x, kernel, bias)
            return layers[name][1]

        return nn.mlp.apply(params, CFG, x, dense=told), layers

    @jax.jit
    def run(params, packed):
        out = {}
        for name, r in rules.items():
            dense = qz.dense(r)
            trained, layers = seen(params, dense)
            stored, others = seen(packed[name], dense)
            alone = {
                k: dense(k, v[0], packed[name][f"kernel_{k[-1]}"], params[f"bias_{k[-1]}"]) for k, v in layers.items()
            }
            spec = r["layer_2" if "layer_2" in r else "layer_*" if "layer_*" in r else "*"].activations
            flipped = [qz.quantize(v["layer_2"][0], spec).codes for v in (layers, others)]
            out[name] = trained, stored, layers, alone, jnp.mean(flipped[0] != flipped[1])
        whole = {name: qz.dense(rules[name], execution="integer") for name in ("1", "2", "4")}
        return out, {name: nn.mlp.apply(packed[name], CFG, x, dense=d) for name, d in whole.items()}

    return params, x, rules, packed, run(params, packed)


@pytest.mark.parametrize("name", ["1", "1.585", "2", "3", "4", "mixed"])
def test_a_packed_network_computes_what_was_trained(name):
    params, _, rules, packed, (found, whole) = _exported()
    trained, stored, layers, alone, flipped = found[name]
    for layer, (_, y) in layers.items():  # each on the inputs that the trained form saw
        np.testing.assert_allclose(alone[layer], y, rtol=0, atol=1e-6 * np.abs(y).max())
    np.testing.assert_array_equal(np.argmax(stored, -1), np.argmax(trained, -1))
    assert flipped <= 1e-3, "an input of layer 2 that moves by one ulp may change its code"
    kernel = packed[name]["kernel_2"]
    codes = qz.quantize(params["kernel_2"], kernel.spec).codes
    if kernel.plane:
        assert qz.num_bytes(kernel.codes) * 8 == codes.size * kernel.spec.bits
        np.testing.assert_array_equal(qz.unpack(kernel.codes, kernel.spec.bits, 0, kernel.plane), codes)
    else:
        np.testing.assert_array_equal(kernel.codes, codes)
    if name in whole:
        np.testing.assert_allclose(whole[name], trained, rtol=0, atol=3e-6 * np.abs(trained).max())


@pytest.mark.parametrize("name", ["1", "4", "mixed"])
def test_a_file_holds_the_network_bit_by_bit(name, tmp_path):
    params, _, rules, packed, _ = _exported()
    qz.save(tmp_path / "net.npz", packed[name])
    like = jax.eval_shape(lambda p: qz.pack_params(p, rules[name]), params)
    again = qz.load(tmp_path / "net.npz", like)
    assert jax.tree.structure(again) == jax.tree.structure(packed[name])
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(packed[name])):
        np.testing.assert_array_equal(a, b)
    if name == "4":
        with pytest.raises(ValueError, match="quantization.load.*belongs to another configuration"):
            qz.load(tmp_path / "net.npz", jax.eval_shape(lambda p: qz.pack_params(p, rules["1"]), params))
        with pytest.raises(FileNotFoundError):
            qz.load(tmp_path / "no.npz", like)


def test_layers_by_name():
    params, x, _, packed, (found, _) = _exported()
    layers = found["mixed"][2]
    np.testing.assert_allclose(
        layers["layer_3"][1], layers["layer_3"][0] @ params["kernel_3"] + params["bias_3"][None], atol=1e-5
    )
    bits = [getattr(getattr(packed["mixed"][f"kernel_{i}"], "spec", None), "bits", None) for i in range(4)]
    assert bits == [8, 1, 2, None]
    assert qz.layer_names(nn.mlp.apply, params, CFG, x) == ("layer_0", "layer_1", "layer_2", "layer_3")


@pytest.mark.bad_input
def test_a_name_without_a_layer_is_refused():
    params, x, *_ = _exported()
    names, spec = qz.layer_names(nn.mlp.apply, params, CFG, x), qz.quest(4, 4)
    for rules, message in (
        ({"layer_9": None, "*": spec}, "no layer for the rule 'layer_9'.*layers are 'layer_0', 'layer_1'"),
        ({"layer_?": None, "layer_1": spec}, "no layer for the rule 'layer_1', or an earlier rule takes"),
        ({"layer_1": spec}, "no rule for the layer 'layer_0'"),
    ):
        with pytest.raises(ValueError, match=f"quantization.dense: {message}"):
            qz.dense(rules, names=names)
        with pytest.raises(ValueError, match=f"pack_params: {message}"):
            qz.pack_params(params, rules)
    with pytest.raises(ValueError, match="no rule for the layer 'layer_0'"):
        nn.mlp.apply(params, CFG, x, dense=qz.dense({"layer_1": spec}))
    with pytest.raises(ValueError, match="no kernels"):
        qz.pack_params({"w": params["kernel_0"]}, spec)
    with pytest.raises(ValueError, match="layer 'layer_0'.* block 128 must divide the 64"):
        qz.pack_params(params, spec)
    with pytest.raises(ValueError, match="format of several bits"):
        qz.pack_params(params, {"layer_1": qz.unify([spec, qz.quest(2, 2)])[0], "*": None})


def test_a_transformer_runs_packed():
    params, x = nn.transformer.init(jax.random.key(1), DECODER), _x(6, 128, seed=2)
    rules = {"*.query": None, "*": qz.quest(2, 2)}
    packed = qz.pack_params(params, rules)
    assert packed["layer_0"]["down"]["kernel"].codes.shape == (32, 128)
    run = jax.jit(lambda p: nn.transformer.apply(p, DECODER, x, dense=qz.dense(rules)))
    np.testing.assert_allclose(run(packed), run(params), rtol=0, atol=1e-6 * float(jnp.abs(run(params)).max()))


# --- flax -------------------------------------------------------------------------------------------------


def _linen():
    from flax import linen

    network = linen.Sequential(
        [linen.Dense(256), linen.silu, linen.Dense(256), linen.silu, linen.Dense(256), linen.silu, linen.Dense(10)]
    )
    named = nn.flax.named_dense(network)
    return named, named.init(jax.random.key(0), jnp.ones(64)), "layers_{}", (0, 2, 4, 6)


def _nnx():
    from flax import nnx

    class Digits(nnx.Module):
        def __init__(self, rngs):
            sizes = [(64, 256), (256, 256), (256, 256), (256, 10)]
            self.parts = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in sizes])

        def __call__(self, x):
            for part in self.parts[:-1]:
                x = nnx.silu(part(x))
            return self.parts[-1](x)

    named = nn.flax.named_dense(Digits(nnx.Rngs(0)))
    return named, named.init(), "parts.{}", (0, 1, 2, 3)


@pytest.mark.parametrize("make", [_linen, _nnx], ids=["linen", "nnx"])
def test_networks_of_flax_are_quantised_and_packed(make):
    """Against the same layers written out; the packed form gives the same values, and gradients pass."""
    named, params, pattern, numbers = make()
    names, x = [pattern.format(i) for i in numbers], _x(4, 64, seed=3)
    rules = {names[0]: None, names[-1]: None, "*": qz.quest(2, 4)}
    assert qz.layer_names(named.apply, params, x) == tuple(names)
    dense, packed = qz.dense(rules, names=names), qz.pack_params(params, rules)

    def kernels(params):
        found = {qz.layer_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        return [found[name] for name in names]

    def by_hand(params):
        h = x
        for i, kernel in enumerate(kernels(params)):
            if 0 < i < 3:
                h, kernel = qz.fake_quantize(h, rules["*"].activations), qz.fake_quantize(kernel, rules["*"].weights)
            h = h @ kernel
            h = jax.nn.silu(h) if i < 3 else h
        return h

    @jax.jit
    def run(params, packed):
        slopes = [jax.grad(lambda p, f=f: jnp.sum(f(p) ** 2))(params) for f in (by_hand, applied)]
        return by_hand(params), named.apply(params, x, dense=dense), named.apply(packed, x, dense=dense), slopes

    def applied(params):
        return named.apply(params, x, dense=dense)

    expected, found, stored, (one, two) = run(params, packed)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(stored, found, rtol=0, atol=1e-6)
    for a, b in zip(kernels(one), kernels(two)):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * max(1, float(jnp.abs(a).max())))
    assert all(float(jnp.abs(a).max()) > 0 for a in kernels(two))
