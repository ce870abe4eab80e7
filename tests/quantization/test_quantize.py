"""Codes and units: errors against published figures, values bit by bit, dtypes, symmetries and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci
from jaxsci import quantization as qz
from jaxsci.core import status
from jaxsci.quantization import formats

DTYPES = ("float32", "float16", "bfloat16")


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def _spec(grid=None, **options):
    return qz.quant_spec(grid or formats.midtread(4), **{"axis": -1, "scale": "absmax"} | options)


@functools.cache
def _errors():
    """Mean squared errors on a million normal numbers, in one program."""
    x = jnp.asarray(_normal(1 << 20), jnp.float32)
    cases = {(b, g): _spec(formats.midtread(b), group=g) for b in (2, 3, 4) for g in (32, 64, 128, 1024)}
    cases[8, 128] = _spec(formats.midtread(8), group=128)

    @jax.jit
    def run(x):
        return [jnp.mean((qz.dequantize(qz.quantize(x, spec)) - x) ** 2) for spec in cases.values()]

    return dict(zip(cases, map(float, run(x))))


@pytest.mark.parametrize(
    "bits, group, error",
    [
        (4, 32, 0.00940), (4, 64, 0.01159), (4, 128, 0.01376), (4, 1024, 0.02031), (3, 32, 0.0513), (3, 64, 0.0631),
        (3, 128, 0.0750), (3, 1024, 0.1106), (2, 32, 0.433), (2, 64, 0.514), (2, 128, 0.588), (2, 1024, 0.751),
    ],
)  # fmt: skip
def test_errors_of_units_from_the_largest_magnitude(bits, group, error):
    assert _errors()[bits, group] == pytest.approx(error, rel=0.01)


def test_eight_bits_in_groups():
    assert _errors()[8, 128] == pytest.approx(4e-5, rel=0.1)


@functools.cache
def _cases():
    """Formats of every grid, statistic and granularity that changes the code, two dtypes at a time."""
    grids = [
        formats.midrise(1), formats.midrise(4), formats.midtread(2), formats.midtread(4, full=True), formats.affine(4),
        formats.lloyd(2), formats.nf4(), formats.e4m3(),
    ]  # fmt: skip
    specs = {grid.name + str(grid.bits): _spec(grid, group=64) for grid in grids}
    specs |= {name: _spec(formats.midrise(2), scale=name, unit=0.5) for name in ("rms", "l1", "fixed")}
    specs |= {"tensor": _spec(granularity="tensor"), "rotated": _spec(formats.midrise(4), scale="rms", hadamard=64)}
    specs |= {f"block {n}": _spec(formats.midrise(1), scale="rms", hadamard=n) for n in (2, 16, 256)}
    specs |= {"first axis": _spec(axis=0), "group 16": _spec(formats.midrise(2), group=16, bound="qmax+0.5")}
    return specs | {"back": _spec(formats.midrise(2), scale="rms", hadamard=64, domain="full")}


@functools.cache
def _run(dtype):
    specs, x = _cases(), jnp.asarray(_normal(4, 256, seed=1), dtype)

    @jax.jit
    def run(x):
        out = {}
        for name, spec in specs.items():
            q = qz.quantize(x, spec, packed=spec.bits in (1, 2, 4))
            plain = qz.quantize(x, spec)
            out[name] = q, plain.codes, qz.dequantize(q), qz.dequantize(plain), qz.fake_quantize(x, spec)
        return out

    return x, run(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(_cases()))
def test_packed_stored_and_trained_values_are_equal_bit_by_bit(name, dtype):
    x, found = _run(dtype)
    q, codes, packed, stored, trained = found[name]
    spec = _cases()[name]
    np.testing.assert_array_equal(packed, trained)
    np.testing.assert_array_equal(stored, trained)
    assert trained.dtype == packed.dtype == jnp.dtype(dtype) and q.scale.ndim == x.ndim and q.scale.dtype == jnp.float32
    least = -(int(spec.count) // 2)
    assert codes.dtype == jnp.int8 and least <= int(codes.min()) and int(codes.max()) <= least + int(spec.count) - 1
    if spec.bits in (1, 2, 4):
        assert q.codes.nbytes * 8 == x.size * spec.bits


def test_codes_are_those_of_the_formula():
    """float32, where a plain restatement has the same rounding."""
    x, found = _run("float32")
    x = np.asarray(x)
    units = np.abs(x.reshape(4, 4, 64)).max(-1, keepdims=True) / np.float32(7)
    q, codes = found["midtread4"][:2]
    np.testing.assert_allclose(q.scale, units[..., 0], rtol=2e-7)
    expected = np.clip(np.rint(x.reshape(4, 4, 64) / np.asarray(q.scale)[..., None]), -8, 7).reshape(x.shape)
    np.testing.assert_array_equal(codes, expected)
    q, codes = found["rms"][:2]
    np.testing.assert_allclose(q.scale, np.sqrt((x**2).mean(-1, keepdims=True)) / 2, rtol=1e-6)
    np.testing.assert_array_equal(codes, np.clip(np.floor(x / np.asarray(q.scale)), -2, 1))
    np.testing.assert_allclose(found["l1"][0].scale, np.sqrt(np.pi / 8) * np.abs(x).mean(-1, keepdims=True), rtol=1e-6)
    q, codes, values = found["affine4"][:3]
    tiles = x.reshape(4, 4, 64)
    span = tiles.max(-1) - tiles.min(-1)
    np.testing.assert_allclose(q.scale, span / 15, rtol=2e-7)
    np.testing.assert_array_equal(q.zero_point, np.rint(-tiles.min(-1) / np.asarray(q.scale)) - 8)
    assert np.abs(np.asarray(values) - x).max() <= 0.51 * span.max() / 15


def test_searched_units_are_no_worse_than_any_shrunken_one():
    x = jnp.asarray(_normal(3, 128, seed=2), jnp.float32)
    specs = [_spec(formats.midtread(3), scale="mse")]
    top = jnp.max(jnp.abs(x), axis=-1, keepdims=True)

    @jax.jit
    def run(x):
        found = jnp.sum((qz.dequantize(qz.quantize(x, specs[0])) - x) ** 2, -1)
        fixed = _spec(formats.midtread(3), scale="fixed", unit=1.0)

        def at(share):
            unit = top / 3 * share
            return jnp.sum((qz.dequantize(qz.quantize(x / unit, fixed)) * unit - x) ** 2, -1)

        return found, jax.vmap(at)(1 - 0.01 * jnp.arange(80.0))

    found, tried = run(x)
    np.testing.assert_allclose(found, tried.min(0), rtol=1e-5)


def test_symmetries():
    """Scaling by a power of two is exact; signs turn; a fixed or absmax unit gives the same values again."""
    x = jnp.asarray(_normal(4, 256, seed=3), jnp.float32)
    rms, absmax = _spec(formats.midrise(3), scale="rms", hadamard=64, eps=0.0), _spec(formats.midtread(3))

    @jax.jit
    def run(x):
        return (
            [qz.fake_quantize(c * x, rms) / c for c in (1.0, 4.0, -1.0)],
            qz.fake_quantize(x, absmax),
            qz.fake_quantize(qz.fake_quantize(x, absmax), absmax),
        )

    (one, four, minus), once, twice = run(x)
    np.testing.assert_array_equal(four, one)
    np.testing.assert_array_equal(minus, one)
    np.testing.assert_allclose(twice, once, rtol=1e-6)


def test_rounding_at_random_is_unbiased():
    x = jnp.asarray([-1.49, -0.9, -0.3, 0.0, 0.21, 0.5, 1.3, 1.49], jnp.float32)
    grids = (formats.midrise(2), formats.midtread(3), formats.e2m1())
    keys = jax.random.split(jax.random.key(0), 20_000)

    @jax.jit
    def run(keys):
        specs = [_spec(grid, scale="fixed", unit=1.0) for grid in grids]
        return [jax.vmap(lambda k, s=s: qz.fake_quantize(x, s, key=k))(keys) for s in specs]

    for grid, values in zip(grids, run(keys)):
        values = np.asarray(values, np.float64)
        low, high = (
            np.array([grid.levels[np.searchsorted(grid.levels, v) - i] for v in np.asarray(x)]) for i in (1, 0)
        )
        assert np.all((values == low) | (values == high) | (values == np.asarray(x)))
        error = np.sqrt((high - x) * (x - low) / len(values))
        assert np.all(np.abs(values.mean(0) - x) <= 5 * error + 1e-6), grid.name


def test_zeros_nans_and_infinities():
    x = _normal(6, 128, seed=4)
    x[0], x[1, 5], x[2, 7] = 0, np.nan, np.inf
    x = jnp.asarray(x, jnp.float32)
    rms, absmax, fixed = _spec(formats.midrise(2), scale="rms"), _spec(), _spec(scale="fixed", unit=0.25)

    @jax.jit
    def run(x):
        values = [(qz.fake_quantize(x, s), qz.dequantize(qz.quantize(x, s))) for s in (rms, absmax, fixed)]
        slopes = jax.grad(lambda x: qz.fake_quantize(x, rms).sum())(x)
        return values, slopes, [qz.report(x[i], rms) for i in (0, 1, 2, 3)]

    values, slopes, reports = run(x)
    for trained, stored in values:
        np.testing.assert_array_equal(trained, stored)
        assert np.all(np.isnan(trained[1])) and np.all(np.isfinite(trained[3:]))
    assert np.abs(values[0][0][0]).max() < 1e-7 and not values[1][0][0].any() and not values[2][0][0].any()
    assert not np.isfinite(values[0][0][2]).any() and values[2][0][2, 7] == 0.25 * 7
    assert np.all(np.isfinite(slopes)), "a gradient is masked, never NaN"
    codes = [int(r.status) for r in reports]
    assert codes == [qz.ZERO_TILE, status.NONFINITE_INPUT, status.NONFINITE_INPUT, 0]
    jaxsci.check(reports[0])
    with pytest.raises(status.StatusError, match="non-finite input"):
        jaxsci.check(reports[1])
    assert float(reports[0].error) == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: qz.quantize(x, _spec(axis=2)), "axis 2 of the format must lie within the 2 axes"),
        (lambda x: qz.quantize(x, _spec(group=7)), "group 7 must divide the 96 entries"),
        (lambda x: qz.fake_quantize(x, _spec(hadamard=64)), "block 64 must divide the 96 .* largest that does is 32"),
        (lambda x: qz.quantize(x, _spec(formats.midtread(3)), packed=True), "1, 2 or 4 bits are packed, got 3"),
        (lambda x: qz.quantize(x[:, :5], _spec(), packed=True), "multiple of 2, got 5"),
        (
            lambda x: qz.quantize(x, qz.unify([_spec(formats.midtread(b)) for b in (2, 4)])[0], packed=True),
            "several numbers of bits",
        ),
    ],
)
@pytest.mark.bad_input
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((2, 96)))


@pytest.mark.bad_input
def test_a_format_is_no_number_of_bits():
    with pytest.raises(TypeError, match="spec must come from quant_spec|Type-check error"):
        qz.quantize(jnp.ones(8), 4)
