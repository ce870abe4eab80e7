"""The network against PyTorch's, what it must not depend on, the cache, and what enters by its arguments."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import nn, pfn
from jaxsci.nn import layers

pytestmark = pytest.mark.x64  # all in one mode, so that the float32 program of the first test serves the others too
GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "network.npz")
CFG = pfn.config(2, 12, width=16, num_layers=2)
SLOTS = 6


def golden(dtype, file=GOLDEN, cfg=CFG):
    """PyTorch's parameters in the structure of `init`, and its data."""
    like = jax.eval_shape(lambda key: pfn.init(key, cfg, dtype=dtype), jax.random.key(0))

    def leaf(path, a):
        found = file[".".join(p.key for p in path)]
        assert found.shape == a.shape, path
        return found.astype(dtype)

    return jax.tree_util.tree_map_with_path(leaf, like), file["x"].astype(dtype), file["y"].astype(dtype)


def _hook(query, key, value, num_context, *, num_slots=None, context=None):
    """The same attention by a mask over all tokens, as a stranger would give it."""
    keys, values = (key, value) if context is None else (jnp.concatenate(ab) for ab in zip(context, (key, value)))
    slots = num_slots if context is None else context[0].shape[0]
    itself = jnp.arange(query.shape[0])[:, None] + (0 if context is None else slots) == jnp.arange(keys.shape[0])[None]
    sees = (jnp.arange(keys.shape[0]) < jnp.minimum(num_context, slots))[None] | itself
    return nn.attention.attention(query, keys, values, sees)


@jax.jit
def forms(params, x, y, n):
    """The queries' logits in all the ways of getting them, and those of the whole series."""
    context, queries = (x[:SLOTS], y[:SLOTS], n), x[SLOTS:]
    return {
        "apply": pfn.apply(params, CFG, *context, queries),
        "hook": pfn.apply(params, CFG, *context, queries, attention=_hook),
        "cached": pfn.query(params, CFG, pfn.encode(params, CFG, *context), queries),
        "cached hook": pfn.query(
            params, CFG, pfn.encode(params, CFG, *context, attention=_hook), queries, attention=_hook
        ),
        "sequence": pfn.apply_sequence(params, CFG, x, y, n),
        "short sequence": pfn.apply_sequence(params, CFG, x, y, n, max_context=SLOTS),
    }


def test_equals_pytorch():
    for dtype, tol in ((np.float64, 1e-12), (np.float32, 2e-5)):
        params, x, y = golden(dtype)
        for n in (0, 3, 6):
            truth = GOLDEN[f"logits_{n}"]
            for name, found in forms(params, x, y, np.int32(n)).items():
                assert found.dtype == dtype
                first = n if "sequence" in name else SLOTS
                found = found[n:] if "sequence" in name else found
                np.testing.assert_allclose(found, truth[first:], rtol=0, atol=tol, err_msg=f"{name}, n = {n}")


PARAMS, X, Y = golden(np.float32)


def test_the_number_of_parameters_and_their_start():
    cfg = pfn.config(1, 200)
    params = pfn.init(jax.random.key(0), cfg, dtype=jnp.float32)
    assert sum(a.size for a in jax.tree.leaves(params)) == 134_792
    block = params["transformer"]["layer_1"]
    assert not any(np.any(block[part][name]) for part in ("out", "down") for name in ("kernel", "bias"))
    assert 0.12 < np.abs(block["up"]["kernel"]).max() <= 0.125 and 0.12 < np.abs(block["up"]["bias"]).max() <= 0.125


def test_neither_order_nor_dead_slots_nor_other_queries_count():
    shuffled, garbage = np.arange(SLOTS), np.arange(SLOTS) >= 3
    shuffled[:3] = [2, 0, 1]
    x, y = X.copy(), Y.copy()
    x[:SLOTS], y[:SLOTS] = X[shuffled], Y[shuffled]
    whole = forms(PARAMS, X, Y, np.int32(3))["apply"]
    np.testing.assert_allclose(forms(PARAMS, x, y, np.int32(3))["apply"], whole, atol=1e-5)
    for rubbish in (1e6, np.nan):
        x, y = X.copy(), Y.copy()
        x[:SLOTS][garbage], y[:SLOTS][garbage] = rubbish, rubbish
        found = forms(PARAMS, x, y, np.int32(3))
        for name in ("apply", "hook", "cached"):
            np.testing.assert_array_equal(found[name], forms(PARAMS, X, Y, np.int32(3))[name])
    x = X.copy()
    x[SLOTS + 1 :] = 0.9
    np.testing.assert_allclose(forms(PARAMS, x, Y, np.int32(3))["apply"][0], whole[0], atol=1e-6)
    assert np.abs(forms(PARAMS, x, Y, np.int32(3))["apply"][1:] - whole[1:]).max() > 1e-2


def test_a_number_of_points_beyond_the_slots_is_cut():
    found, full = forms(PARAMS, X, Y, np.int32(99)), forms(PARAMS, X, Y, np.int32(SLOTS))
    np.testing.assert_array_equal(found["apply"], full["apply"])
    np.testing.assert_array_equal(
        forms(PARAMS, X, Y, np.int32(-1))["cached"], forms(PARAMS, X, Y, np.int32(0))["cached"]
    )
    nothing = pfn.apply(PARAMS, CFG, X[:0], Y[:0], 0, X[SLOTS:])
    np.testing.assert_allclose(nothing, forms(PARAMS, X, Y, np.int32(0))["apply"], atol=1e-6)


def test_half_precision_keeps_float32_logits():
    found = pfn.apply(PARAMS, CFG, X[:SLOTS], Y[:SLOTS], 4, X[SLOTS:], compute_dtype=jnp.bfloat16)
    truth = forms(PARAMS, X, Y, np.int32(4))["apply"]
    assert found.dtype == jnp.float32
    assert 1e-5 < np.abs(found - truth).max() < 2e-2 * np.abs(truth).max()


def test_fewer_features_lie_in_the_middle_of_their_range():
    x = X.copy()
    x[:, 1] = 0.5
    narrow = pfn.apply(PARAMS, CFG, x[:SLOTS, :1], Y[:SLOTS], 4, x[SLOTS:, :1])
    np.testing.assert_allclose(narrow, forms(PARAMS, x, Y, np.int32(4))["apply"], atol=1e-6)


def test_products_enter_by_their_names():
    names = []

    def dense(name, x, kernel, bias):
        names.append(name)
        return layers.affine(name, x, kernel, bias)

    pfn.apply(PARAMS, CFG, X[:SLOTS], Y[:SLOTS], 4, X[SLOTS:], dense=dense)
    assert {"encoder_x", "encoder_y", "layer_0.query", "layer_1.down", "head_1", "head_2"} <= set(names)
    assert len(names) == 4 + 2 * 6


@pytest.mark.bad_input
def test_what_is_refused():
    for call, match in (
        (lambda: pfn.apply(PARAMS, CFG, np.ones((4, 3)), np.ones(4), 2, X), "at most the 2 features"),
        (lambda: pfn.apply(PARAMS, CFG, X[:4], Y[:4], 2, X[0]), "x_query must have shape"),
        (lambda: pfn.encode(PARAMS, CFG, X[:4], Y[:3], 2), "x and y must have shapes"),
        (lambda: pfn.apply(PARAMS, CFG, X[:4], Y[:4], np.array([2, 2]), X), "num_context must be a scalar"),
        (lambda: pfn.config(1, 10, x_range=(1.0, 1.0)), "the smaller first"),
        (lambda: pfn.config(1, 0), "num_buckets must be an int >= 1"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
