"""QuEST: the transform, the estimators against their formulas, bits as lanes, products of integers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxsci import quantization as qz
from jaxsci.quantization import formats
from jaxsci.quantization._layers import integer_product

SIZES = (1, 2, 16, 128, 512, 4096)


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@functools.cache
def _matrices():
    @jax.jit
    def run():
        rows = {n: jnp.eye(min(n, 128), n, dtype=jnp.float32) for n in SIZES}
        return {n: qz.hadamard_transform(row, n) for n, row in rows.items()}

    return run()


@pytest.mark.parametrize("size", SIZES)
def test_the_transform_is_the_hadamard_matrix(size):
    expected = scipy.linalg.hadamard(size)[:128] / np.sqrt(size)
    np.testing.assert_allclose(_matrices()[size], expected, rtol=0, atol=1e-7)


@functools.cache
def _transformed():
    x = jnp.asarray(_normal(3, 4096, seed=1), jnp.float32)
    wide, half = jnp.asarray(_normal(256, 5, seed=2), jnp.float32), jnp.asarray(_normal(4, 256, seed=3), jnp.bfloat16)

    @jax.jit
    def run(x, wide, half):
        return dict(
            once=qz.hadamard_transform(x, 4096),
            twice=qz.hadamard_transform(qz.hadamard_transform(x, 4096), 4096),
            columns=qz.hadamard_transform(wide, 64, axis=0),
            half=qz.hadamard_transform(half, 128),
            slope=jax.grad(lambda a: jnp.vdot(qz.hadamard_transform(a, 128), x))(x),
            blocks=qz.hadamard_transform(x, 128),
        )

    return x, wide, half, run(x, wide, half)


def test_the_transform_is_orthonormal_and_its_own_inverse():
    x, _, _, found = _transformed()
    np.testing.assert_allclose(found["twice"], x, atol=3e-6)
    np.testing.assert_allclose(np.linalg.norm(found["once"], axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)
    exact = np.asarray(x, np.float64) @ (scipy.linalg.hadamard(4096) / 64)
    assert np.abs(found["once"] - exact).max() <= 1e-6 * np.abs(exact).max()
    np.testing.assert_allclose(found["slope"], found["blocks"], rtol=0, atol=1e-6)


def test_blocks_stand_side_by_side_along_any_axis():
    _, wide, half, found = _transformed()
    matrix = scipy.linalg.hadamard(64) / 8
    expected = np.concatenate([matrix @ np.asarray(wide)[i : i + 64] for i in range(0, 256, 64)])
    np.testing.assert_allclose(found["columns"], expected, atol=2e-6)
    assert found["half"].dtype == jnp.bfloat16
    h = scipy.linalg.block_diag(*[scipy.linalg.hadamard(128) / np.sqrt(128)] * 2)
    expected = np.asarray(half, np.float64) @ h
    assert np.abs(np.asarray(found["half"], np.float64) - expected).max() <= 2**-8 * np.abs(expected).max()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: qz.hadamard_transform(jnp.ones((2, 96)), 128), "block 128 must divide the 96 .* that does is 32"),
        (lambda: qz.hadamard_transform(jnp.ones((2, 96)), 24), "block must be a power of two, got 24"),
        (lambda: qz.hadamard_transform(jnp.ones((2, 96)), 32, axis=2), "axis must lie within the 2 axes"),
    ],
)
@pytest.mark.bad_input
def test_a_rotation_is_never_left_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- estimators ---------------------------------------------------------------------------------------------


def test_the_hand_case():
    """Four levels for a standard deviation of 1: the last is 1.4935, half a step more 1.9914."""
    unit = formats.gaussian(formats.midrise(2)).unit
    x = jnp.asarray([3.0, 1.9, 1.95, 1.4, -1.9, -3.0, 2.01], jnp.float32)
    made = functools.partial(qz.quant_spec, formats.midrise(2), scale="fixed", unit=unit)
    specs = qz.unify([made(estimator="trust"), made(estimator="clip"), made(), made(estimator="clip", clip_scale=1.3)])
    slopes = jax.jit(lambda x: [jax.grad(lambda x, s=s: qz.fake_quantize(x, s).sum())(x) for s in specs])(x)
    expected = [[0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0], [1] * 7, [0, 1, 0, 1, 1, 0, 0]]
    # 1.3 times the last level is 1.9416
    np.testing.assert_array_equal(slopes, expected)


@functools.cache
def _slopes():
    x = jnp.asarray(_normal(6, 256, seed=5), jnp.float32)
    g = jnp.asarray(_normal(6, 256, seed=6), jnp.float32)
    grids = {"midrise": formats.midrise(2), "lloyd": formats.lloyd(3), "e2m1": formats.e2m1()}
    options = dict(axis=-1, hadamard=128, estimator="trust")
    specs = {(n, d): qz.quant_spec(grid, domain=d, **options) for n, grid in grids.items() for d in ("half", "full")}

    @jax.jit
    def run(x, g):
        out = {}
        for name, spec in specs.items():
            values, pull = jax.vjp(lambda x, spec=spec: qz.fake_quantize(x, spec), x)
            out[name] = (
                values,
                pull(g)[0],
                jax.grad(lambda c, spec=spec: jnp.vdot(qz.fake_quantize(c * x, spec), g))(1.0),
            )
        return out

    return np.asarray(x, np.float64), np.asarray(g, np.float64), run(x, g)


@pytest.mark.parametrize("name", ["midrise", "lloyd", "e2m1"])
def test_the_gradient_is_the_masked_one_of_the_transformed_array(name):
    """Against a restatement in float64 whose mask is the error itself, at most half of the widest gap."""
    x, g, found = _slopes()
    grid = {"midrise": formats.midrise(2), "lloyd": formats.lloyd(3), "e2m1": formats.e2m1()}[name]
    h = scipy.linalg.block_diag(*[scipy.linalg.hadamard(128) / np.sqrt(128)] * 2)
    rotated = x @ h
    sigma = np.sqrt(np.mean(rotated**2, -1, keepdims=True))
    law = formats.gaussian(grid)
    unit = law.unit * sigma
    values = grid.levels[np.abs(rotated[..., None] / unit[..., None] - grid.levels).argmin(-1)] * unit
    mask = np.abs(values - rotated) <= law.half_gap * sigma * (1 + 1e-6)
    assert 0 < (~mask).mean() < 0.1
    half, full = found[name, "half"], found[name, "full"]
    np.testing.assert_allclose(half[0], values, atol=2e-6)
    np.testing.assert_allclose(full[0], values @ h, atol=3e-6)
    np.testing.assert_allclose(half[1], (mask * g) @ h, atol=3e-6)
    np.testing.assert_allclose(full[1], (mask * (g @ h)) @ h, atol=3e-6)
    # Units get no gradient: that of a factor is the masked identity's, not the one of a function that scales along.
    np.testing.assert_allclose(half[2], np.sum(mask * g * rotated), rtol=1e-4)


def test_masked_shares_and_errors_are_those_of_the_normal_law():
    """Means over rows, with their standard errors; a row's own unit moves its share by parts in a thousand."""
    x = jnp.asarray(_normal(256, 4096, seed=7), jnp.float32)
    bits, clipped = (1, 2, 3, 4), qz.quest(None, 1, estimator="clip", clip_scale=1.3)
    specs = qz.unify([qz.quest(None, b).activations for b in bits] + [clipped.activations])
    stacked = jax.tree.map(lambda *a: np.stack(a), *specs)
    rows = jax.vmap(jax.vmap(qz.report, in_axes=(0, None)), in_axes=(None, 0))
    found = jax.tree.map(lambda a: np.asarray(a, np.float64), jax.jit(rows)(x, stacked))
    shares = [0.11054, 0.046440, 0.019074, 0.0073270, 0.2996]
    errors = [formats.gaussian(formats.midrise(b)).error for b in (*bits, 1)]
    for value, expected in ((found.masked, shares), (found.error, errors)):
        error = value.std(-1) / np.sqrt(len(x))
        assert np.all(np.abs(value.mean(-1) - expected) <= 5 * error + 1e-3 * np.array(expected))
    assert np.all(np.diff(found.error.mean(-1)[:4]) < 0)


def test_bits_and_estimators_are_lanes_of_one_program():
    x = jnp.asarray(_normal(4, 256, seed=8), jnp.float32)
    kinds = [dict(), dict(estimator="ste"), dict(estimator="clip", clip_scale=1.3)]
    single = [qz.quest(None, b, **kind).activations for b in (1, 2, 4, 8) for kind in kinds]
    stacked = jax.tree.map(lambda *a: np.stack(a), *qz.unify(single))

    def both(x, spec):
        return qz.fake_quantize(x, spec), jax.grad(lambda x: jnp.sum(qz.fake_quantize(x, spec) * jnp.sin(x)))(x)

    lanes = jax.jit(jax.vmap(both, in_axes=(None, 0)))(x, stacked)
    alone = jax.jit(lambda x: [both(x, spec) for spec in single])(x)
    for i, expected in enumerate(alone):
        for a, b in zip(lanes, expected):
            np.testing.assert_allclose(a[i], b, rtol=0, atol=2e-6)


# --- products -----------------------------------------------------------------------------------------------


@functools.cache
def _products():
    x, w = jnp.asarray(_normal(5, 256, seed=9), jnp.float32), jnp.asarray(_normal(256, 7, seed=10), jnp.float32)
    b, g = jnp.asarray(_normal(7, seed=11), jnp.float32), jnp.asarray(_normal(5, 7, seed=12), jnp.float32)
    specs = {str(bits): qz.quest(bits, bits) for bits in (1, 1.585, 2, 4, 8)}
    specs["4, 8"], specs["no transform"] = qz.quest(4, 8), qz.quest(4, 4, block=0)
    grid = formats.midtread(4)
    absmax = [qz.quant_spec(grid, axis=a, scale="absmax", granularity=k) for a, k in ((0, "tensor"), (-1, "channel"))]
    specs["absmax"] = qz.layer_spec(*absmax)
    specs["mixed"] = qz.layer_spec(absmax[0], qz.quest(None, 8, block=0, domain="half").activations)

    @jax.jit
    def run(x, w, b):
        out = {}
        for name, spec in specs.items():
            float_, whole = (qz.dense(spec, execution=e)("layer", x, w, b) for e in ("float", "integer"))
            q, k = qz.quantize(x, spec.activations), qz.quantize(w, spec.weights)
            out[name] = float_, whole, q, k
        for domain in ("half", "full"):
            dense = qz.dense(qz.quest(2, 2, domain=domain))
            out[domain] = jax.value_and_grad(lambda x, w, d=dense: jnp.vdot(d("", x, w, b), g), argnums=(0, 1))(x, w)
        return out

    return np.asarray(b, np.float64), run(x, w, b)


@pytest.mark.parametrize("name", ["1", "1.585", "2", "4", "8", "4, 8", "no transform", "absmax", "mixed"])
def test_products_of_integers_are_exact(name):
    """Against the product of the values in float64, to 1e-6."""
    bias, found = _products()
    float_, whole, q, k = found[name]

    def values(q):
        return (np.asarray(q.codes, np.float64) + (0.5 if q.spec.grid == "midrise" else 0)) * np.asarray(q.scale, float)

    exact = values(q) @ values(k) + bias
    for product in (float_, whole):
        assert np.abs(product - exact).max() <= 1e-6 * np.abs(exact).max()


def test_integers_are_summed_exactly():
    a = np.random.default_rng(0).integers(-128, 128, (3, 4096)).astype(np.int8)
    w = np.random.default_rng(1).integers(-128, 128, (4096, 2)).astype(np.int8)
    found = jax.jit(lambda a, w: [integer_product(a, w, i, j) for i in (0, 1) for j in (0, 1)])(a, w)
    wide = [(2 * a.astype(np.int64) + i) @ (2 * w.astype(np.int64) + j) for i in (0, 1) for j in (0, 1)]
    np.testing.assert_array_equal(found, wide)


def test_half_and_full_domains_give_one_product_and_one_gradient():
    _, found = _products()
    for a, b in zip(jax.tree.leaves(found["half"]), jax.tree.leaves(found["full"])):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(1, np.abs(a).max()))


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda x, w: qz.dense(qz.quest(4), execution="integer")("up", x, w, None),
            "layer 'up' cannot be comp",
        ),
        (lambda x, w: qz.dense(qz.quest(4, 4), execution="int8"), "execution must be one of float, integer"),
        (
            lambda x, w: qz.layer_spec(qz.quest(4).weights, qz.quest(None, 4).activations),
            "must be those of both",
        ),
        (lambda x, w: qz.layer_spec(qz.quest(None, 4).activations), "weights must run along axis 0"),
        (lambda x, w: qz.quest(9), "bits must lie in 1 to 8"),
        (lambda x, w: qz.dense(qz.quest(4, 4))("up", x[:, :96], w[:96], None), "block 128 must divide the 96"),
    ],
)
@pytest.mark.bad_input
def test_products_that_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((2, 128)), jnp.ones((128, 3)))


@pytest.mark.bad_input
def test_rules_that_are_none():
    for rules in (4, {}, {"up": 4}, {1: None}):
        with pytest.raises(TypeError, match="quantization.dense|Type-check error"):
            qz.dense(rules)
    with pytest.raises(TypeError, match="weights must come from quant_spec|Type-check error"):
        qz.layer_spec(4)
