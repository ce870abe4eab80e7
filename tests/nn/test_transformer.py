"""The transformer against PyTorch's, its masks, caches and heads, and what enters by `dense` and `attention`."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.nn import layers, transformer
from jaxsci.nn.attention import attention, causal_mask

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "transformer.npz")
ENCODER = {"hidden": 24, "norm": "layer"}
LLAMA = {"norm": "rms", "positions": "rotary", "activation": "swiglu", "bias": False, "num_groups": 2, "hidden": 24}
CASES = {
    "post": (ENCODER | {"order": "post", "activation": "gelu"}, None),
    "pre": (ENCODER | {"order": "pre", "activation": "relu"}, np.tri(7, dtype=bool)),
    "llama": (LLAMA, np.tri(7, dtype=bool)),
}


def golden(case, cfg, dtype):
    """PyTorch's parameters in the structure of `init`, its input and its output."""
    like = jax.eval_shape(lambda key: transformer.init(key, cfg, dtype=dtype), jax.random.key(0))

    def leaf(path, a):
        found = GOLDEN[f"{case}/" + ".".join(p.key for p in path)]
        assert found.shape == a.shape, path
        return found.astype(dtype)

    params = jax.tree_util.tree_map_with_path(leaf, like)
    assert len(jax.tree.leaves(params)) + 2 == sum(name.startswith(f"{case}/") for name in GOLDEN.files)
    return params, GOLDEN[f"{case}/x"].astype(dtype), GOLDEN[f"{case}/y"]


@pytest.mark.x64
@pytest.mark.parametrize("case", CASES)
def test_equals_pytorch(case):
    options, mask = CASES[case]
    cfg = transformer.config(16, 2, 4, **options)
    for dtype, tol in ((jnp.float64, 1e-12), (jnp.float32, 1e-5)):
        params, x, y = golden(case, cfg, dtype)
        found = transformer.apply(params, cfg, x, mask=mask)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, y, rtol=tol, atol=tol)


def test_the_tanh_form_of_gelu_would_fail():
    x = np.linspace(-5, 5, 1001, dtype=np.float32)
    assert 4e-4 < float(jax.jit(lambda x: jnp.abs(layers.gelu(x) - jax.nn.gelu(x)).max())(x)) < 5e-4


attend = jax.jit(attention)
CAUSAL = np.tri(6, dtype=bool)
CFG = transformer.config(8, 2, 2, positions="rotary", max_length=6, num_groups=1, activation="swiglu", norm="rms")
LEARNED = transformer.config(8, 1, 2, positions="learned", max_length=6, order="post")
X = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)


@pytest.mark.parametrize("cfg", [CFG, LEARNED], ids=["rotary", "learned"])
@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1, 1), (4, 2), (6,)], ids=["one", "two", "all"])
def test_a_cache_gives_what_the_whole_sequence_gives(cfg, parts):
    params = transformer.init(jax.random.key(1), cfg)
    whole = transformer.apply(params, cfg, X, mask=CAUSAL)
    cache, found = transformer.empty_cache(cfg), []
    for start, size in zip(np.cumsum((0, *parts)), parts):
        out, cache = transformer.apply(params, cfg, X[start : start + size], cache=cache)
        found.append(out)
    np.testing.assert_allclose(np.concatenate(found), whole, rtol=1e-5, atol=1e-6)
    assert int(cache.length) == 6


def test_a_cache_is_scanned_and_vmapped():
    params = transformer.init(jax.random.key(1), CFG)

    def one(cache, x):
        out, cache = transformer.apply(params, CFG, x[None], cache=cache)
        return cache, out[0]

    def run(xs):
        return jax.lax.scan(one, transformer.empty_cache(CFG), xs)[1]

    batch = np.stack([X, -X])
    whole = jax.vmap(lambda x: transformer.apply(params, CFG, x, mask=CAUSAL))(batch)
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(batch), whole, rtol=1e-5, atol=1e-6)


def test_grouped_heads_are_repeated_keys_and_values():
    draw = np.random.default_rng(0).standard_normal
    q, k, v = (draw((5, n, 3)).astype(np.float32) for n in (4, 2, 2))
    mask = causal_mask(5)
    np.testing.assert_array_equal(mask, np.tri(5, dtype=bool))
    whole = attend(q, np.repeat(k, 2, 1), np.repeat(v, 2, 1), mask)
    np.testing.assert_allclose(attend(q, k, v, mask), whole, rtol=1e-5, atol=1e-6)


def test_a_row_without_keys_is_zero_and_has_gradients():
    q = np.random.default_rng(0).standard_normal((3, 1, 2)).astype(np.float32)
    mask = np.asarray([[False, False, False], [True, False, False], [True, True, True]])
    out, back = jax.jit(lambda q: jax.vjp(lambda q: attention(q, q, q, mask), q))(q)
    assert not np.any(out[0]) and np.allclose(out[1], q[0])
    assert np.isfinite(back(out)[0]).all()
    assert np.isfinite(attend(1e4 * q, 1e4 * q, q)).all()


def test_half_precision_keeps_its_dtype_and_sums_in_single():
    params = transformer.init(jax.random.key(1), CFG, dtype=jnp.bfloat16)
    out = transformer.apply(params, CFG, X.astype(jnp.bfloat16))
    exact = transformer.apply(jax.tree.map(lambda a: np.asarray(a, np.float32), params), CFG, X)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), exact, atol=0.1)


def test_every_product_goes_through_dense_by_name_and_kernels_may_be_records():
    params, names = transformer.init(jax.random.key(1), CFG), []

    def packed(leaf):
        return (np.round(leaf * 64).astype(np.int8), np.float32(1 / 64))

    def dense(name, x, kernel, bias):
        names.append(name)
        codes, scale = kernel
        return layers.affine(name, x, codes.astype(x.dtype) * scale, bias)

    params = jax.tree.map(np.asarray, params)
    kernels = jax.tree_util.tree_map_with_path(lambda p, a: packed(a) if p[-1].key == "kernel" else a, params)
    rounded = jax.tree_util.tree_map_with_path(
        lambda p, a: np.round(a * 64) / 64 if p[-1].key == "kernel" else a, params
    )
    out = transformer.apply(kernels, CFG, X, dense=dense)
    np.testing.assert_allclose(out, transformer.apply(rounded, CFG, X), rtol=1e-5, atol=1e-5)
    parts = ("query", "key", "value", "out", "gate", "up", "down")
    assert sorted(names) == sorted(f"layer_{i}.{part}" for i in range(2) for part in parts)
    nothing = transformer.apply(params, CFG, X, attention=lambda q, k, v, mask: 0 * q)
    assert not np.allclose(nothing, transformer.apply(params, CFG, X))


def test_initial_values(key):
    cfg = transformer.config(64, 1, 4, hidden=256)
    lecun = transformer.init(key, cfg)["layer_0"]
    params = transformer.init(key, cfg, kind="torch", zero_residual=True)
    torch = params["layer_0"]
    assert abs(float(np.var(lecun["up"]["kernel"])) * 64 - 1) < 5 * (2 / 64 / 256) ** 0.5
    for name, entries in (("up", 64), ("query", 64)):
        bound = entries**-0.5
        for leaf in jax.tree.leaves(torch[name]):
            assert bound / 2 < np.abs(leaf).max() <= bound
    assert not any(np.any(leaf) for name in ("out", "down") for leaf in jax.tree.leaves(torch[name]))
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(transformer.apply(params, cfg, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.bad_input
def test_bad_input():
    cases = [
        (lambda: transformer.config(8, 1, 3), "width must be a multiple of num_heads, got 8 and 3"),
        (lambda: transformer.config(8, 1, 4, num_groups=3), "num_heads must be a multiple of num_groups"),
        (lambda: transformer.config(6, 1, 2, positions="rotary"), "rotary positions need an even head, got 3"),
        (lambda: transformer.config(8, 1, 2, positions="learned"), "learned positions need max_length"),
        (lambda: transformer.config(8, 1, 2, norm="batch"), "norm must be one of layer, rms, got 'batch'"),
        (lambda: transformer.config(8, 0, 2), "num_layers must be an int >= 1, got 0"),
        (lambda: transformer.init(jax.random.key(0), CFG, kind="he"), "kind must be one of lecun, torch, normal"),
        (lambda: transformer.empty_cache(transformer.config(8, 1, 2)), "needs max_length"),
        (lambda: transformer.apply({}, CFG, X[0]), r"x must have shape \(T, 8\), got \(8,\)"),
        (lambda: transformer.apply({}, CFG, np.ones((7, 8))), "at most 6 tokens"),
        (lambda: transformer.apply({}, CFG, X, mask=CAUSAL[:5, :5]), r"mask must have shape \(6, 6\)"),
        (lambda: attention(np.ones((2, 3, 2)), np.ones((2, 2, 2)), np.ones((2, 2, 2))), "got 3 and 2"),
    ]
    for call, match in cases:
        with pytest.raises(ValueError, match=match):
            call()
