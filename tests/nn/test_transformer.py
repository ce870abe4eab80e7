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
    "pre": (ENCODER | {"order": "pre", "activation": "relu"}, causal_mask(7)),
    "llama": (LLAMA, causal_mask(7)),
}


def golden(case, cfg, dtype):
    """PyTorch's parameters in the structure of `init`, its input and its output."""
    like = transformer.init(jax.random.key(0), cfg, dtype=dtype)

    def leaf(path, a):
        found = GOLDEN[f"{case}/" + ".".join(p.key for p in path)]
        assert found.shape == a.shape, path
        return jnp.asarray(found, dtype)

    params = jax.tree_util.tree_map_with_path(leaf, like)
    assert len(jax.tree.leaves(params)) + 2 == sum(name.startswith(f"{case}/") for name in GOLDEN.files)
    return params, jnp.asarray(GOLDEN[f"{case}/x"], dtype), GOLDEN[f"{case}/y"]


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
    x = jnp.linspace(-5, 5, 1001)
    assert 4e-4 < float(jnp.max(jnp.abs(layers.gelu(x) - jax.nn.gelu(x)))) < 5e-4


CFG = transformer.config(8, 2, 2, positions="rotary", max_length=6, num_groups=1, activation="swiglu", norm="rms")
LEARNED = transformer.config(8, 1, 2, positions="learned", max_length=6, order="post")
X = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)


@pytest.mark.parametrize("cfg", [CFG, LEARNED], ids=["rotary", "learned"])
@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1, 1), (4, 2), (6,)], ids=["one", "two", "all"])
def test_a_cache_gives_what_the_whole_sequence_gives(cfg, parts):
    params = transformer.init(jax.random.key(1), cfg)
    whole = transformer.apply(params, cfg, X, mask=causal_mask(6))
    cache, found = transformer.empty_cache(cfg), []
    step = jax.jit(lambda x, cache: transformer.apply(params, cfg, x, cache=cache))
    for start, size in zip(np.cumsum((0, *parts)), parts):
        out, cache = step(X[start : start + size], cache)
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
    whole = jax.vmap(lambda x: transformer.apply(params, CFG, x, mask=causal_mask(6)))(batch)
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(batch), whole, rtol=1e-5, atol=1e-6)


def test_grouped_heads_are_repeated_keys_and_values(key):
    q, k, v = (jax.random.normal(jax.random.fold_in(key, i), (5, n, 3)) for i, n in enumerate((4, 2, 2)))
    whole = attention(q, jnp.repeat(k, 2, 1), jnp.repeat(v, 2, 1), causal_mask(5))
    np.testing.assert_allclose(attention(q, k, v, causal_mask(5)), whole, rtol=1e-5, atol=1e-6)


def test_a_row_without_keys_is_zero_and_has_gradients(key):
    q = jax.random.normal(key, (3, 1, 2))
    mask = jnp.asarray([[False, False, False], [True, False, False], [True, True, True]])
    out = attention(q, q, q, mask)
    assert not np.any(out[0]) and np.allclose(out[1], q[0])
    grad = jax.grad(lambda q: jnp.sum(attention(q, q, q, mask) ** 2))(q)
    assert np.isfinite(grad).all()
    far = attention(1e4 * q, 1e4 * q, q)
    assert np.isfinite(far).all()


def test_half_precision_keeps_its_dtype_and_sums_in_single():
    params = transformer.init(jax.random.key(1), CFG, dtype=jnp.bfloat16)
    out = transformer.apply(params, CFG, X.astype(jnp.bfloat16))
    exact = transformer.apply(jax.tree.map(lambda a: a.astype(jnp.float32), params), CFG, X)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), exact, atol=0.1)


def test_every_product_goes_through_dense_by_name_and_kernels_may_be_records():
    params, names = transformer.init(jax.random.key(1), CFG), []

    def packed(leaf):
        return (jnp.round(leaf * 64).astype(jnp.int8), jnp.float32(1 / 64))

    def dense(name, x, kernel, bias):
        names.append(name)
        codes, scale = kernel
        return layers.affine(name, x, codes.astype(x.dtype) * scale, bias)

    kernels = jax.tree_util.tree_map_with_path(lambda p, a: packed(a) if p[-1].key == "kernel" else a, params)
    rounded = jax.tree_util.tree_map_with_path(
        lambda p, a: jnp.round(a * 64) / 64 if p[-1].key == "kernel" else a, params
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
    torch = transformer.init(key, cfg, kind="torch", zero_residual=True)["layer_0"]
    assert abs(float(jnp.var(lecun["up"]["kernel"])) * 64 - 1) < 5 * (2 / 64 / 256) ** 0.5
    for name, entries in (("up", 64), ("query", 64)):
        bound = entries**-0.5
        for leaf in jax.tree.leaves(torch[name]):
            assert bound / 2 < float(jnp.max(jnp.abs(leaf))) <= bound
    assert not any(np.any(leaf) for name in ("out", "down") for leaf in jax.tree.leaves(torch[name]))
    params = transformer.init(key, cfg, kind="torch", zero_residual=True)
    x = jax.random.normal(key, (3, 64))
    np.testing.assert_allclose(
        transformer.apply(params, cfg, x), layers.layer_norm(x, jnp.ones(64), None), rtol=1e-5, atol=1e-6
    )


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
        (lambda: transformer.apply(PARAMS, CFG, X[0]), r"x must have shape \(T, 8\), got \(8,\)"),
        (lambda: transformer.apply(PARAMS, CFG, np.ones((7, 8))), "at most 6 tokens"),
        (lambda: transformer.apply(PARAMS, CFG, X, mask=causal_mask(5)), r"mask must have shape \(6, 6\)"),
        (lambda: attention(jnp.ones((2, 3, 2)), jnp.ones((2, 2, 2)), jnp.ones((2, 2, 2))), "got 3 and 2"),
    ]
    for call, match in cases:
        with pytest.raises(ValueError, match=match):
            call()


PARAMS = transformer.init(jax.random.key(0), CFG)
