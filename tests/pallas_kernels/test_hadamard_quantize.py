"""`hadamard_quantize`: NumPy's own arithmetic, kernels equal to the bit, bytes, the trust estimator, odd rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import ladder
from pallas_kernels import hadamard_quantize
from pallas_kernels.hadamard_quantize import arg_specs, gpu, reference, tpu, transform
from pallas_kernels.hadamard_quantize._backward import gpu as backward_gpu
from pallas_kernels.hadamard_quantize._backward import tpu as backward_tpu
from pallas_kernels.hadamard_quantize.reference import Static

INTERPRETED = ("interpret", "tpu_interpret")
FACTOR = 2.5
MODULE = "pallas_kernels.hadamard_quantize.arg_specs"


def truth_turned(x, block=128):
    """x in float64 times scipy's matrix."""
    parts = np.asarray(x, np.float64).reshape(-1, block) @ scipy.linalg.hadamard(block)
    return parts.reshape(x.shape) / np.sqrt(block)


def truth(x, bits, factor=FACTOR, block=128, reach=None, eps=1e-8):
    """(codes, steps, mask) of rows in float64, by scipy's matrix."""
    x = np.asarray(x, np.float64)
    turned = truth_turned(x, block)
    scale = factor * np.sqrt(np.mean(turned**2, axis=-1, keepdims=True)) + eps
    levels = 2**bits
    step = 2 * scale / (levels - 1)
    codes = np.clip(np.floor(turned / step), -levels // 2, levels // 2 - 1)
    reach = levels / (levels - 1) if reach is None else reach
    return codes.astype(int), step[..., 0], np.abs(turned) <= reach * scale


def unpacked(packed, bits):
    """Codes of bytes, byte by byte as the layout tells it."""
    planes = 8 // bits
    raw = np.asarray(packed).view(np.uint8).astype(int)
    rows, columns = raw.shape
    out = np.zeros((rows, columns * planes), int)
    for j in range(columns // 128):
        for p in range(planes):
            part = (raw[:, 128 * j : 128 * (j + 1)] >> (p * bits)) % 2**bits
            part = part - 2 ** (bits - 1) if bits < 4 else np.where(part >= 2 ** (bits - 1), part - 2**bits, part)
            out[:, 128 * (planes * j + p) : 128 * (planes * j + p + 1)] = part
    return out


def dyadic(seed, rows=37, columns=1024):
    """Multiples of 1/16 below 4: in any order their sums, with signs or squared, are exact in float32."""
    return jnp.asarray(np.random.default_rng(seed).integers(-64, 64, (rows, columns)) / 16, jnp.float32)


CASES = {
    "packed 4": (1024, dict(bits=4, output="packed", mask=True)),
    "values": (48, dict(bits=4, block=16, output="values", mask=True)),
    "packed 2": (1024, dict(bits=2, output="packed")),
    "packed 1": (1024, dict(bits=1, output="packed")),
    "codes 8": (1024, dict(bits=8, output="packed")),
    "codes 3": (1024, dict(bits=3, block=32, mask=True, reach=1.0)),
    "not turned": (5, dict(bits=1, block=1, output="values", mask=True, reach=1.3)),
}
"""Name -> (columns, options)."""

FIRST, OTHERS = tuple(CASES)[:2], tuple(CASES)[2:]


@functools.cache
def results(implementation, names):
    """The outputs of these cases, in one program."""

    @jax.jit
    def run(x):
        cases = {name: CASES[name] for name in names}
        op = functools.partial(hadamard_quantize, implementation=implementation)
        return {name: op(x[:, :columns], FACTOR, **options) for name, (columns, options) in cases.items()}

    return jax.tree.map(np.asarray, run(dyadic(0)))


@pytest.mark.parametrize("name", CASES)
def test_reference_equals_float64(name):
    columns, options = CASES[name]
    x, got = dyadic(0)[:, :columns], results("reference", tuple(CASES))[name]
    codes, step, mask = truth(x, **{k: v for k, v in options.items() if k in ("bits", "block", "reach")})
    np.testing.assert_allclose(got.step, step, rtol=1e-6)
    if options.get("mask"):
        np.testing.assert_array_equal(got.mask, mask)
    if options.get("output") == "values":
        np.testing.assert_allclose(got.value, (codes + 0.5) * step[:, None], rtol=1e-6)
        return
    assert got.value.nbytes == x.size * (options["bits"] if "output" in options else 8) // 8
    unpack = unpacked if "output" in options and options["bits"] < 8 else lambda value, bits: value
    np.testing.assert_array_equal(unpack(got.value, options["bits"]), codes)


@pytest.mark.parametrize("rung", INTERPRETED)
@pytest.mark.parametrize("names", [FIRST, pytest.param(OTHERS, marks=pytest.mark.full)])
def test_kernels_equal_reference_to_the_bit(rung, names):
    # Codes, bytes and masks; steps to their last bit, which depends on what XLA contracts to a multiply-add.
    for name, got in results(rung, names).items():
        ladder.assert_same(got, results("reference", tuple(CASES))[name], 2e-7)


@pytest.mark.parametrize("rung", ladder.RUNGS)
@pytest.mark.parametrize(
    "name", ["ragged_bfloat16", *(pytest.param(n, marks=pytest.mark.full) for n in ("one", "ragged"))]
)
def test_codes_of_normal_numbers(name, rung, key):
    args = arg_specs.make(key, name)
    run = arg_specs.values if rung == "device" else functools.partial(arg_specs.values, implementation=rung)
    outs = jax.jit(run)(*args), jax.jit(functools.partial(arg_specs.values, implementation="reference"))(*args)
    (got, step, mask), (value, expected, within) = jax.tree.map(np.asarray, outs)
    ladder.assert_same(step, expected, 1e-6)
    # An entry that lies on a border to the last bit may fall on either side.
    assert np.mean(np.abs(got.astype(np.float32) - value.astype(np.float32)) > 0.01 * step[:, None]) <= 1e-4
    assert np.mean(mask != within) <= 1e-4


@pytest.mark.parametrize("rung", [ladder.DEVICE])
@pytest.mark.parametrize("name", arg_specs.TIMED)
def test_codes_at_size(name, rung, key):
    args = arg_specs.make(key, name)
    got, step = jax.jit(arg_specs.packed)(*args)
    value, expected = arg_specs.packed(*args, implementation="reference")
    ladder.assert_same(step, expected, 1e-6)
    assert np.mean(np.asarray(got != value)) <= 2e-4
    ladder.check(arg_specs.slopes, args, rung, 2e-2)


def test_bits_are_an_array_like_any_other():
    x = dyadic(1, rows=3, columns=128)
    several = jax.jit(jax.vmap(lambda bits: hadamard_quantize(x, FACTOR, bits=bits, mask=True)))(jnp.arange(1, 9))
    for i, bits in enumerate(range(1, 9)):
        codes, step, mask = truth(x, bits)
        np.testing.assert_array_equal(several.value[i], codes)
        np.testing.assert_allclose(several.step[i], step, rtol=1e-6)
        np.testing.assert_array_equal(several.mask[i], mask)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_every_byte_is_packed_and_read_back(bits):
    planes = 8 // bits
    raw = np.arange(256).reshape(2, 128).astype(np.uint8)
    codes = unpacked(raw, bits)
    assert codes.min() == -(2 ** (bits - 1)) and codes.max() == 2 ** (bits - 1) - 1
    packed = np.asarray(jax.jit(reference.pack, static_argnums=1)(codes.astype(np.int32), bits)).astype(np.int8)
    np.testing.assert_array_equal(packed.view(np.uint8), raw)
    assert packed.size * planes == codes.size


def test_gaussian_error_and_masked_share_are_those_of_the_optimal_grid():
    x = np.random.default_rng(2).standard_normal((128, 4096)).astype(np.float32)
    op = jax.jit(functools.partial(hadamard_quantize, bits=4, output="values", mask=True))
    value, _, mask = op(x, arg_specs.CLIP_FACTOR)
    error = (np.asarray(value) - truth_turned(x)) ** 2
    # In closed form for N(0, 1) and 16 levels.
    assert abs(error.mean() - 0.01154288) < 5 * error.std() / np.sqrt(error.size)
    assert abs(np.mean(~np.asarray(mask)) - 0.0073270) < 5 * np.sqrt(0.0073 / mask.size)


def test_scale_by_a_power_of_two_changes_no_code():
    x = dyadic(3, rows=5, columns=256)
    op = jax.jit(functools.partial(hadamard_quantize, bits=4, output="packed", eps=0.0))
    once, scaled = op(x, FACTOR), op(x / 64, FACTOR)
    np.testing.assert_array_equal(once.value, scaled.value)
    np.testing.assert_array_equal(once.step, 64 * np.asarray(scaled.step))


def _odd_rows():
    x = np.array(dyadic(4, rows=7, columns=256))
    x[1], x[2, 3], x[3, 200], x[4, 0] = 0, np.nan, np.inf, -np.inf
    x[5] *= 1e25
    return jnp.asarray(x)


@pytest.mark.parametrize("implementation", ["reference", *INTERPRETED])
def test_rows_of_zeros_and_without_a_scale(implementation):
    op = functools.partial(hadamard_quantize, bits=4, implementation=implementation)
    codes, step, mask = jax.tree.map(np.asarray, jax.jit(lambda x: op(x, FACTOR, mask=True))(_odd_rows()))
    finite = np.array([True, True, False, False, False, False, True])
    np.testing.assert_array_equal(np.isfinite(step), finite)
    if implementation == "reference":
        values = np.isfinite(op(_odd_rows(), FACTOR, output="values").value)
        assert values[finite].all() and not values[~finite].any(), "nothing is hidden"
    np.testing.assert_array_equal(codes[1:6], 0)
    assert mask[1].all() and not mask[2].any() and np.isclose(step[1], 2e-8 / 15)
    for i in (0, 6):  # neighbours do not feel it
        np.testing.assert_array_equal(codes[i], truth(_odd_rows()[i], 4)[0])


# --- the transform ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [16, 32, 64, 128])
def test_transform_is_that_of_scipy(block):
    x = np.random.default_rng(block).standard_normal((3, 2 * block)).astype(np.float32)
    full = scipy.linalg.block_diag(*[scipy.linalg.hadamard(block)] * 2) / np.sqrt(block)
    np.testing.assert_array_equal(reference.matrix(block, 2 * block), np.round(full * np.sqrt(block)))

    @jax.jit
    def turn(x):
        once = transform(x, block)
        return (
            once,
            transform(once, block),
            transform(jnp.eye(2 * block), block),
            transform(x.astype("bfloat16"), block),
        )

    once, twice, one_hot, low = turn(x)
    np.testing.assert_allclose(once, x.astype(np.float64) @ full, rtol=0, atol=2e-6)
    np.testing.assert_allclose(twice, x, rtol=0, atol=2e-6)
    np.testing.assert_allclose(one_hot, full, rtol=1e-6)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(low, np.float64), once, rtol=0, atol=2e-2)


def test_thirds_are_exact():
    x = np.random.default_rng(5).standard_normal(1000).astype(np.float32) * np.float32(10.0) ** np.arange(-20, 20, 0.04)
    parts = [np.asarray(p).astype(np.float64) for p in jax.jit(reference.thirds)(jnp.asarray(x, jnp.float32))]
    np.testing.assert_array_equal(sum(parts), np.asarray(x, np.float32).astype(np.float64))


# --- derivatives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["reference", *INTERPRETED])
def test_derivative_is_the_masked_one_transformed_back(implementation):
    x, weights = dyadic(6, columns=256), dyadic(7, columns=256)

    @jax.jit
    def slopes(x, factor):
        def total(x, factor):
            op = functools.partial(hadamard_quantize, bits=2, output="values", implementation=implementation)
            out = op(x, factor)
            return jnp.sum(weights * out.value) + jnp.sum(out.step)

        return jax.grad(total, (0, 1))(x, factor)

    to_x, to_factor = slopes(x, FACTOR)
    _, _, mask = truth(x, 2)
    assert 0.5 < mask.mean() < 1
    expected = truth_turned(np.where(mask, weights, 0))
    np.testing.assert_allclose(to_x, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert to_factor == 0


@pytest.mark.parametrize("implementation", ["reference", *INTERPRETED])
def test_rows_along_any_axis(implementation):
    """Sums of these numbers are exact in any order, so that nothing may differ from the array turned around."""
    x = dyadic(3, rows=256, columns=6)
    weights = dyadic(4, rows=256, columns=6)

    def both(x, axis, output):
        options = dict(bits=4, output=output, mask=True, implementation=implementation)
        there = hadamard_quantize(jnp.moveaxis(x, axis, -1), FACTOR, **options)
        back = [jnp.moveaxis(a, -1, axis) for a in (there.value, there.mask)]
        return hadamard_quantize(x, FACTOR, axis=axis, **options), (back[0], there.step, back[1])

    for given, axis in ((x, 0), (x.reshape(2, 256, 3), 1)):
        for output in ("codes", "packed", "values"):
            for mine, other in zip(*both(given, axis, output)):
                np.testing.assert_array_equal(mine, other)
    one, other = (jax.grad(lambda x, k=k: jnp.sum(weights * (both(x, 0, "values")[k][0])))(x) for k in (0, 1))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_hand_case_of_the_estimators():
    # Two bits, standard deviation 1: the last level is at 1.4935, and half a step beyond it at 1.9914.
    rest = np.full(98, np.sqrt((100 - 3.0**2 - 1.9**2) / 98))
    x = jnp.asarray(np.r_[3.0, 1.9, rest], jnp.float32)

    def slopes(reach):
        def total(x):
            return jnp.sum(hadamard_quantize(x, 1.4935300289, bits=2, block=1, output="values", reach=reach).value)

        return jax.grad(total)(x)[:2]

    trust, clip, straight = jax.jit(lambda: [slopes(reach) for reach in (None, 1.0, jnp.inf)])()
    assert trust.tolist() == [0.0, 1.0]
    assert clip.tolist() == [0.0, 0.0]
    assert straight.tolist() == [1.0, 1.0]


# --- blocks, lowering, compiling -----------------------------------------------------------------------------


def test_many_steps_and_programs():
    x, numbers = dyadic(8, rows=70, columns=512), np.array([[FACTOR, 2 / 15, 8, 16 / 15, 1e-8]], np.float32)
    static = Static("packed", 4, 128, True)
    expected = jax.jit(functools.partial(reference.call, static=static))(x, numbers)
    for call in (
        functools.partial(tpu.call, rows=32, interpret=True),
        functools.partial(gpu.call, config=gpu.Config(32, 4), interpret=True),
    ):
        ladder.assert_same(jax.jit(functools.partial(call, static=static))(x, numbers), expected, 2e-7)


@pytest.mark.full
def test_tpu_kernels_are_free_of_races():
    x, numbers = dyadic(9, rows=70, columns=2304), jnp.array([[FACTOR, 2 / 15, 8, 16 / 15, 1e-8]])
    static = Static("values", 0, 128, True)
    ladder.check_races(functools.partial(tpu.call, rows=32, static=static), (x, numbers))
    ladder.check_races(functools.partial(backward_tpu.call, block=128), (x, (x > 0).astype(jnp.int8)))


@pytest.mark.full
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rung", INTERPRETED)
def test_random_shapes(rung, seed):
    rng = np.random.default_rng(seed)
    block = int(rng.choice([1, 16, 32, 64, 128]))
    x = dyadic(seed, int(rng.integers(1, 300)), block * int(rng.integers(1, 12)))
    x = x.astype(["float32", "bfloat16"][seed % 2])
    op = functools.partial(hadamard_quantize, bits=int(rng.integers(1, 9)), block=block, mask=True)
    ladder.assert_same(op(x, FACTOR, implementation=rung), op(x, FACTOR, implementation="reference"))
    values = functools.partial(op, output="values")
    total = [lambda x, i=i: jnp.sum(values(x, FACTOR, implementation=i).value) for i in (rung, "reference")]
    slopes = [jax.grad(f)(x) for f in total]
    ladder.assert_same(*slopes, 2e-2 if seed % 2 else 1e-6)


@pytest.mark.x64
def test_double_precision():
    x = np.random.default_rng(10).standard_normal((3, 256))
    got = hadamard_quantize(x, FACTOR, bits=4, mask=True)
    codes, step, mask = truth(x, 4)
    np.testing.assert_array_equal(got.value, codes)
    np.testing.assert_array_equal(got.mask, mask)
    np.testing.assert_allclose(got.step, step, rtol=1e-14)
    for implementation, match in (("interpret", "x is float64 and the GPU"), ("tpu_interpret", "no double precision")):
        with pytest.raises(ValueError, match=match):
            hadamard_quantize(x, FACTOR, bits=4, implementation=implementation)


@pytest.mark.full
@pytest.mark.x64
@pytest.mark.parametrize("platform", ladder.PLATFORMS)
def test_lowers_where_integers_have_64_bits(platform):
    ladder.check_lowers(arg_specs.packed, arg_specs.SPECS["ragged"], platform)
    ladder.check_lowers(arg_specs.slopes, arg_specs.SPECS["ragged"], platform)


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
def test_lowers(platform):
    ladder.check_lowers(arg_specs.packed, arg_specs.SPECS["ragged_bfloat16"], platform)
    batch = [jax.ShapeDtypeStruct((3, *s.shape), s.dtype) for s in arg_specs.SPECS["ragged"]]
    ladder.check_lowers(jax.vmap(arg_specs.slopes), batch, platform)

    def along_columns(x):
        return jax.value_and_grad(lambda x: hadamard_quantize(x, FACTOR, bits=4, output="values", axis=0).value.sum())(
            x
        )

    ladder.check_lowers(along_columns, [jax.ShapeDtypeStruct((256, 6), jnp.float32)], platform)


@pytest.mark.parametrize("target", ladder.TARGETS)
@pytest.mark.parametrize("name", arg_specs.SPECS)
def test_compiles(name, target):
    ladder.check_compiles(f"{MODULE}.packed", name, target)
    ladder.check_compiles(f"{MODULE}.slopes", name, target)


@pytest.mark.parametrize("target", ladder.TARGETS)
@pytest.mark.parametrize("op", ["packed_1", "packed_2"])
def test_compiles_with_fewer_bits(op, target):
    ladder.check_compiles(f"{MODULE}.{op}", "large", target)


def test_what_is_refused():
    static = Static("packed", 4, 128, False)
    long = jax.ShapeDtypeStruct((1, 2**18), jnp.float32)
    assert "on-chip memory" in tpu.refusal(long, static=static) and not gpu.refusal(long, static=static)
    assert "on-chip memory" in backward_tpu.refusal(long, long, block=128)
    large = jax.ShapeDtypeStruct((2**12, 2**19), jnp.bfloat16)
    assert "at most" in gpu.refusal(large, static=static) and backward_gpu.refusal(large, large, block=128)


# --- bad input ----------------------------------------------------------------------------------------------

X = np.ones((2, 256), np.float32)
BAD = {
    "integers": ((X.astype(int), 1.0), {"bits": 4}, TypeError, "real floating dtype, got int"),
    "scalar": ((np.float32(1), 1.0), {"bits": 4}, ValueError, "nothing of length 0, got shape"),
    "columns": ((X[:, :200], 1.0), {"bits": 4}, ValueError, r"multiple of 128 \(the block\).*\(2, 200\)"),
    "planes": ((X, 1.0), {"bits": 2, "output": "packed"}, ValueError, "multiple of 512 .planes of 128 columns, 2 bits"),
    "block": ((X, 1.0), {"bits": 4, "block": 256}, ValueError, "block must be one of 1, 16, 32, 64, 128, got 256"),
    "output": ((X, 1.0), {"bits": 4, "output": "bytes"}, ValueError, "one of codes, packed, values, got 'bytes'"),
    "bits": ((X, 1.0), {"bits": 9}, ValueError, "between 1 and 8, got 9"),
    "half bits": ((X, 1.0), {"bits": 1.585}, TypeError, "bits must be an integer, got float"),
    "three bits": ((X, 1.0), {"bits": 3, "output": "packed"}, ValueError, "1, 2, 4 or 8 bits, got 3; take codes"),
    "factors": ((X, np.ones(2)), {"bits": 4}, ValueError, "clip_factor must be a scalar.*jax.vmap"),
    "implementation": ((X, 1.0), {"bits": 4, "implementation": "cuda"}, ValueError, "must be None or one of"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    args, options, error, match = BAD[case]
    with pytest.raises(error, match=match):
        hadamard_quantize(*args, **options)


@pytest.mark.bad_input
def test_bad_input_of_the_axis():
    with pytest.raises(ValueError, match="axis must lie within the 2 axes of x, got 2"):
        hadamard_quantize(jnp.ones((128, 128)), FACTOR, bits=4, axis=2)
    with pytest.raises(ValueError, match="axis of rows, moved to the front, must be a multiple of 128"):
        hadamard_quantize(jnp.ones((100, 128)), FACTOR, bits=4, axis=0)


@pytest.mark.bad_input
def test_bad_input_of_the_transform_and_of_traced_bits():
    with pytest.raises(ValueError, match="block must be a power of two, got 48"):
        transform(X, 48)
    with pytest.raises(ValueError, match="multiple of 512"):
        transform(X, 512)
    with pytest.raises(TypeError, match="bits as a Python integer, got a traced array"):
        jax.jit(lambda bits: hadamard_quantize(X, 1.0, bits=bits, output="packed"))(4)
    with pytest.raises(ValueError, match="x is float16 and the GPU kernel takes"):
        hadamard_quantize(X.astype(np.float16), 1.0, bits=4, implementation="interpret")
    assert hadamard_quantize(X.astype(np.float16), 1.0, bits=4, output="values").value.dtype == jnp.float16
