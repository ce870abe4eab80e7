"""Grids against their published figures, against sums and draws, and what formats refuse."""

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxsci.quantization import dequantize, formats, quant_spec, quantize, unify

# (levels, last level, mean squared error, share beyond the last level, share beyond half a gap more)
UNIFORM = [
    (2, 0.7978845608, 0.36338023, 0.42494, 0.11054),
    (3, 1.2240063619, 0.19017404, 0.22095, 0.066356),
    (4, 1.4935300289, 0.11884605, 0.13530, 0.046440),
    (8, 2.0510680451, 0.03743966, 0.040260, 0.019074),
    (16, 2.5140045915, 0.01154288, 0.011937, 0.0073270),
    (32, 2.9161512493, 3.495211e-3, 3.5438e-3, 2.6106e-3),
    (64, 3.2779847974, 1.040045e-3, 1.0455e-3, 8.6841e-4),
    (128, 3.6110971963, 3.043328e-4, 3.0490e-4, 2.7313e-4),
    (256, 3.9222044167, 8.768619e-5, 8.7743e-5, 8.2306e-5),
]


def _grid(count):
    return formats.ternary() if count == 3 else formats.midrise(count.bit_length() - 1)


@pytest.mark.parametrize("count, clip, error, beyond, masked", UNIFORM, ids=[str(row[0]) for row in UNIFORM])
def test_uniform_grids_have_their_published_figures(count, clip, error, beyond, masked):
    found = formats.gaussian(_grid(count))
    np.testing.assert_allclose(found.clip, clip, rtol=1e-9)
    np.testing.assert_allclose(found.error, error, rtol=5e-7)  # seven digits are printed
    assert found.half_gap == pytest.approx(found.clip / (count - 1), rel=1e-12)
    draws = np.abs(np.random.default_rng(count).standard_normal(1_000_000))
    for edge, share in ((found.clip, beyond), (found.clip + found.half_gap, masked)):
        assert abs(np.mean(draws > edge) - share) <= 5 * np.sqrt(share / draws.size)
    assert found.error > 4.0 ** -np.log2(count), "no grid is better than the rate-distortion bound"


def test_one_bit_is_the_mean_magnitude():
    found = formats.gaussian(formats.midrise(1))
    np.testing.assert_allclose([found.clip, found.error], [np.sqrt(2 / np.pi), 1 - 2 / np.pi], rtol=1e-14)


def test_the_published_constants_are_close_to_the_roots():
    constants = [0.7978845587, 1.4935346200, 2.0510683541, 2.5139305786, 2.9160938835, 3.2765972826, 3.6010497188]
    for bits, constant in enumerate([*constants, 3.8849386788], 1):
        assert formats.gaussian(formats.midrise(bits), reference=True).clip == pytest.approx(constant, rel=1e-12)
    assert formats.gaussian(formats.midrise(8), reference=True).error == pytest.approx(8.7822e-5, rel=1e-4)
    assert formats.gaussian(formats.ternary(), reference=True).clip == pytest.approx(1.2240089519, rel=1e-12)


@pytest.mark.parametrize(
    "grid, unit, error",
    [
        (formats.midtread(2), 1.22401, 0.190174), (formats.midtread(3), 0.65077, 0.046860),
        (formats.midtread(4), 0.35341, 0.0128894), (formats.midtread(8), 0.030870, 8.8308e-5),
        (formats.midtread(2, full=True), 1.04839, 0.149431), (formats.midtread(3, full=True), 0.60182, 0.040638),
        (formats.midtread(4, full=True), 0.33861, 0.011864), (formats.e2m1(), 0.48707917, 0.01268490),
        (formats.nf4(), 2.86306, 0.0098993), (formats.lloyd(2), 1, 0.1174818), (formats.lloyd(3), 1, 0.0345478),
        (formats.lloyd(4), 1, 0.00950101), (formats.lloyd(5), 1, 0.00250467),
    ],
)  # fmt: skip
def test_other_grids_have_their_published_figures(grid, unit, error):
    found = formats.gaussian(grid)
    np.testing.assert_allclose([found.unit, found.error], [unit, error], rtol=2e-5)
    assert found.error > 4.0**-grid.bits


def test_levels_of_lloyd_and_max():
    np.testing.assert_allclose(formats.lloyd(2).levels[2:], [0.45278, 1.51042], atol=5e-6)
    np.testing.assert_allclose(formats.lloyd(3).levels[4:], [0.245094, 0.756005, 1.343909, 2.151946], atol=5e-7)
    assert formats.gaussian(formats.lloyd(4)).half_gap == pytest.approx(0.33179, abs=5e-6)
    for bits in (4, 8):  # every level is the mean of its cell
        levels = formats.lloyd(bits).levels
        x = np.linspace(-10, 10, 2_000_001)
        cell, weight = np.searchsorted((levels[1:] + levels[:-1]) / 2, x), np.exp(-x * x / 2)
        means = np.bincount(cell, weight * x) / np.bincount(cell, weight)
        np.testing.assert_allclose(means, levels, atol=2e-5)


@pytest.mark.parametrize(
    "grid, dtype",
    [
        (formats.e4m3(), ml_dtypes.float8_e4m3fn),
        (formats.e5m2(), ml_dtypes.float8_e5m2),
        (formats.e2m1(), ml_dtypes.float4_e2m1fn),
    ],
    ids=["e4m3", "e5m2", "e2m1"],
)
def test_small_floats_round_as_their_types_do(grid, dtype):
    """Also at ties, in the middle between all neighbours; larger numbers become the last."""
    middles = (grid.levels[1:] + grid.levels[:-1]) / 2
    x = np.concatenate([grid.levels, middles, np.random.default_rng(0).normal(0, grid.levels[-1] / 4, 500)])
    x = np.clip(x, grid.levels[0], grid.levels[-1]).astype(np.float32)
    q = quantize(x, quant_spec(grid, scale="fixed", unit=1.0))
    np.testing.assert_array_equal(dequantize(q), x.astype(dtype).astype(np.float32))
    magnitudes = np.abs(x).astype(dtype).view(np.uint8) & (127 if grid.bits == 8 else 7)
    np.testing.assert_array_equal(np.abs(np.asarray(q.codes, np.int32)), magnitudes, "a code is the bit pattern")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: formats.midrise(9), "bits must lie in 1 to 8"),
        (lambda: formats.midrise(0), "bits must be an int >= 1"),
        (lambda: formats.midrise(1.585), "bits must be an int"),
        (lambda: formats.midtread(1), "bits must be an int >= 2"),
        (lambda: formats.gaussian(formats.e4m3()), "no unit that is best"),
        (lambda: formats.gaussian(formats.lloyd(2), reference=True), "no constant was published"),
        (lambda: quant_spec(formats.midrise(2), scale="max"), "scale must be one of rms, absmax"),
        (lambda: quant_spec(formats.midrise(2), hadamard=96), "power of two"),
        (lambda: quant_spec(formats.midrise(2), estimator="trust", clip_scale=1.3), "belongs to estimator='clip'"),
        (lambda: quant_spec(formats.midrise(2), trust=1.0), "belongs to estimator='trust'"),
        (lambda: quant_spec(formats.affine(4)), "affine grid needs scale='absmax'"),
        (lambda: quant_spec(formats.affine(4), scale="absmax", bound="qmax+0.5"), "ends on its last codes"),
        (lambda: quant_spec(formats.midrise(2), scale="fixed"), "needs unit="),
        (lambda: quant_spec(formats.midrise(2), group=0), "group must be an int >= 1"),
        (lambda: quant_spec(formats.midrise(2), axis=1.5), "axis must be an int"),
        (lambda: unify([]), "no formats"),
        (lambda: unify([quant_spec(formats.midrise(2)), quant_spec(formats.midtread(2))]), "differ in grid"),
        (lambda: unify([quant_spec(formats.midrise(2)), None]), "same places"),
    ],
)
@pytest.mark.bad_input
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.bad_input
def test_a_grid_is_no_number_of_bits():
    with pytest.raises(TypeError, match="must come from quantization.formats"):
        quant_spec(4)


def test_units_follow_the_bound():
    grid = formats.midtread(4)
    assert quant_spec(grid, scale="absmax").step == 1 / 7
    assert quant_spec(grid, scale="absmax", bound="qmax+0.5").step == 1 / 7.5
    assert quant_spec(formats.midrise(4), scale="absmax").step == 1 / 7.5


def test_formats_of_several_bits_become_one_structure():
    one, two = unify([quant_spec(formats.midrise(b), estimator=e) for b, e in ((1, "clip"), (3, "trust"))])
    assert jax.tree.structure(one) == jax.tree.structure(two) and one.bits is None
    np.testing.assert_array_equal(one.levels, [-0.5, 0.5, *[np.inf] * 6])
