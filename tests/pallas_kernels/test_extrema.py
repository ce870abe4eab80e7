"""`extrema`: reference against NumPy, kernels against the reference (exactly), transformations, gradient, bad input."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import ladder
from pallas_kernels import extrema
from pallas_kernels.extrema import arg_specs, gpu, tpu

INTERPRETED = ("interpret", "tpu_interpret")
N = 2049  # one more than a TPU block of 16 rows, one more than a power of two

few = hypothesis.settings(max_examples=3, deadline=None, derandomize=True, database=None)
more = hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)


def numpy_extrema(x):
    return np.min(x), np.max(x)


# --- truth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", arg_specs.TESTED)
def test_reference_equals_numpy(name, key):
    ladder.check_truth(extrema, arg_specs.make(key, name), numpy_extrema)


@pytest.mark.x64
def test_reference_equals_numpy_in_double_precision(key):
    x = jax.random.normal(key, (997,), jnp.float64)
    assert extrema(x)[0].dtype == jnp.float64
    ladder.check_truth(extrema, (x,), numpy_extrema)


def test_a_numpy_vector_is_taken_too():
    ladder.assert_same(extrema(np.array([2, 1, 3], np.int32)), (jnp.int32(1), jnp.int32(3)))


# --- kernels equal the reference ---------------------------------------------------------------------------


@pytest.mark.parametrize("rung", ladder.RUNGS)
@pytest.mark.parametrize("name", arg_specs.TESTED)
def test_kernel_equals_reference(name, rung, key):
    ladder.check(extrema, arg_specs.make(key, name), rung)


@pytest.mark.parametrize("rung", [ladder.DEVICE])
@pytest.mark.parametrize("name", arg_specs.TIMED)
def test_kernel_equals_reference_at_size(name, rung, key):
    ladder.check(extrema, arg_specs.make(key, name), rung)


CORNERS = {
    "all equal": np.full(N, 2.5),
    "all inf": np.full(N, np.inf),
    "all -inf": np.full(N, -np.inf),
    "all NaN": np.full(N, np.nan),
    "negative zeros": np.full(N, -0.0),
    "zeros of both signs": np.where(np.arange(N) % 2, 0.0, -0.0),
    "both infinities": np.r_[np.zeros(N - 2), np.inf, -np.inf],
    "extremes at the ends": np.r_[-9.0, np.zeros(N - 2), 9.0],
    "extremes in the tail": np.r_[np.full(N - 1, 1.0), -9.0],
    "all positive": np.linspace(3.0, 4.0, N),
    "all negative": np.linspace(-4.0, -3.0, N),
    "smallest subnormals": np.full(N, 1e-45),
    "largest floats": np.r_[np.full(N - 1, np.finfo(np.float32).max), np.finfo(np.float32).min],
    "NaN first": np.r_[np.nan, np.arange(N - 1)],
    "NaN in the middle": np.r_[np.arange(1000), np.nan, np.arange(N - 1001)],
    "NaN last": np.r_[np.arange(N - 1), np.nan],
    "NaN beside infinities": np.r_[np.zeros(N - 3), np.inf, np.nan, -np.inf],
}


@pytest.mark.parametrize("rung", ladder.RUNGS)
@pytest.mark.parametrize("case", CORNERS)
def test_corner_values(case, rung):
    x = jnp.asarray(CORNERS[case], jnp.float32)
    ladder.check(extrema, (x,), rung)
    if "NaN" in case:
        assert all(bool(jnp.isnan(v)) for v in extrema(x, implementation="reference"))


@pytest.mark.parametrize("rung", ladder.RUNGS)
def test_integer_extremes(rung):
    info = np.iinfo(np.int32)
    x = jnp.arange(1009, dtype=jnp.int32).at[-1].set(info.min).at[500].set(info.max)
    ladder.check(extrema, (x,), rung)
    assert [int(v) for v in extrema(x)] == [info.min, info.max]


@pytest.mark.x64
def test_gpu_kernel_in_double_precision_and_kernels_under_x64(key):
    x = jax.random.normal(key, (1009,), jnp.float64)
    ladder.check(extrema, (x,), "interpret")
    for rung in INTERPRETED:
        ladder.check(extrema, (x.astype(jnp.float32),), rung)
    for platform in ladder.PLATFORMS:
        ladder.check_lowers(extrema, (jax.ShapeDtypeStruct((1009,), jnp.float32),), platform)


@few
@hypothesis.given(
    n=st.integers(1, 6000), dtype=st.sampled_from(["float32", "bfloat16", "int32"]), seed=st.integers(0, 999)
)
@pytest.mark.parametrize("rung", INTERPRETED)
def test_random_shapes(rung, n, dtype, seed):
    x = 100 * jax.random.normal(jax.random.key(seed), (n,))
    ladder.check(extrema, (x.astype(dtype),), rung)


@more
@hypothesis.given(
    seed=st.integers(0, 999),
    placed=st.lists(st.tuples(st.integers(0, N - 1), st.floats(width=32)), max_size=4),
)
@pytest.mark.parametrize("rung", INTERPRETED)
def test_random_values(rung, seed, placed):
    x = np.array(jax.random.normal(jax.random.key(seed), (N,)))
    for index, value in placed:  # of any size, with NaN and infinities
        x[index] = value
    ladder.check(extrema, (jnp.asarray(x),), rung)


@pytest.mark.parametrize("n", [6 * 2048, 5 * 2048 + 1])
def test_tpu_kernel_over_many_grid_steps(n, key):
    x = jax.random.normal(key, (n,))
    ladder.assert_same(tpu.call(x, interpret=True, rows=16), extrema(x))


@pytest.mark.parametrize("n", [6 * 384, 5 * 384 - 200])
def test_gpu_kernel_over_many_programs(n, key):
    x = jax.random.normal(key, (n,))
    config = gpu.Config(block=128, steps=3, num_warps=4, num_stages=2)
    ladder.assert_same(gpu.call(x, interpret=True, config=config), extrema(x))


@pytest.mark.parametrize("kernel", ["tpu", "gpu"])
def test_nan_survives_a_minimum_that_drops_it(kernel, monkeypatch):
    # Triton's minimum drops NaN while every interpreter keeps it: put such a minimum in.
    monkeypatch.setattr(jnp, "minimum", jnp.fmin)
    monkeypatch.setattr(jnp, "maximum", jnp.fmax)
    x = jnp.arange(3 * 128 * 128.0).at[130 * 128].set(jnp.nan)
    if kernel == "tpu":
        got = tpu.call(x, interpret=True, rows=256)
    else:
        got = gpu.call(x, interpret=True, config=gpu.Config(block=4096, steps=8, num_warps=8, num_stages=2))
    assert all(bool(jnp.isnan(v)) for v in got)


def test_tpu_kernel_is_free_of_races(key):
    x = jax.random.normal(key, (5 * 2048,))
    ladder.check_races(functools.partial(tpu.call, rows=16), (x,))


def test_launch_parameters_are_powers_of_two_and_bounded():
    for n in (1, 2, 127, 128, 129, 4096, 4097, 2**20, 2**26 - 61, 2**30):
        block, steps, warps, _ = gpu.default_config(n)
        rows = tpu.default_rows(n)
        assert block & (block - 1) == 0 and 128 <= block <= 4096 and 1 <= steps <= 16 and warps in (4, 8)
        assert rows & (rows - 1) == 0 and 16 <= rows <= 2048
        assert n + block * steps < 2**31, "offsets are int32"


# --- transformations ---------------------------------------------------------------------------------------


def _scan(f):
    def step(total, row):
        low, high = f(row)
        return total + high, (low, high)

    return lambda x: jax.lax.scan(step, jnp.zeros((), x.dtype), x)


TRANSFORMED = {  # of a function of one vector, all under jit; and the shape of their argument
    "vmap over columns": (lambda f: jax.vmap(f, in_axes=1, out_axes=0), (300, 3)),
    "vmap of vmap": (lambda f: jax.vmap(jax.vmap(f)), (2, 3, 300)),
    "scan": (_scan, (4, 300)),
    "vmap of grad": (lambda f: jax.vmap(jax.grad(lambda x: f(x)[0] * f(x)[1])), (3, 300)),
    "grad of vmap": (lambda f: jax.grad(lambda x: jnp.vdot(*jax.vmap(f)(x))), (3, 300)),
    "grad of checkpoint": (lambda f: jax.grad(lambda x: jax.checkpoint(f)(x * x)[1]), (300,)),
    "grad of scan": (lambda f: jax.grad(lambda x: _scan(f)(x)[0]), (4, 300)),
}


# The gradient is the same code for every implementation; what the kernels add of their own are batching rules.
# (jax.checkpoint around "tpu_interpret" is refused by JAX: that interpreter works by callbacks.)
BY_KERNELS = [(name, rung) for name in ("vmap of vmap", "scan", "vmap of grad") for rung in INTERPRETED]


@pytest.mark.parametrize(("name", "implementation"), [*((name, None) for name in TRANSFORMED), *BY_KERNELS])
def test_transformations_equal_those_of_jax_numpy(name, implementation, key):
    transform, shape = TRANSFORMED[name]
    x = jax.random.normal(key, shape)
    got = jax.jit(transform(functools.partial(extrema, implementation=implementation)))(x)
    expected = jax.jit(transform(lambda x: (jnp.min(x), jnp.max(x))))(x)
    # 1e-6: the surrounding arithmetic is fused differently; the extrema themselves are exact.
    ladder.assert_same(got, expected, tol=1e-6)


LOWERED = (*arg_specs.SPECS, "vmap of vmap", "vmap of grad", "grad of checkpoint", "grad of scan")


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
@pytest.mark.parametrize("name", LOWERED)
def test_lowers(name, platform):
    transform, shape = TRANSFORMED.get(name, (lambda f: f, None))
    specs = arg_specs.SPECS[name] if shape is None else (jax.ShapeDtypeStruct(shape, jnp.float32),)
    ladder.check_lowers(transform(extrema), specs, platform)


@pytest.mark.x64
def test_several_strips_lower_under_x64():
    """The counter of their loop stays at 32 bits, the only ones a TPU has."""
    ladder.check_lowers(extrema, (jax.ShapeDtypeStruct((300_007,), jnp.float32),), "tpu")


@pytest.mark.parametrize("target", ladder.TARGETS)
@pytest.mark.parametrize("name", ["one", "block_and_one", "prime_bfloat16", "prime_int32", "large", "large_ragged"])
def test_compiles(name, target):
    ladder.check_compiles("extrema", name, target)


# --- gradient ----------------------------------------------------------------------------------------------


def _slopes(f):
    """Gradient of 2 low - 5 high."""
    return jax.jit(jax.grad(lambda x: jnp.dot(jnp.stack(f(x)), jnp.array([2.0, -5.0], x.dtype))))


OURS, JAXS = _slopes(extrema), _slopes(lambda x: (jnp.min(x), jnp.max(x)))


@pytest.mark.parametrize(
    "values",
    [
        [3.0, 1.0, 2.0, 2.5],
        [1.0, 2.0, 1.0, 1.0],
        [4.0, 4.0, 4.0, 4.0],
        [0.0, -0.0, 1.0, 1.0],
        [np.inf, -np.inf, 0.0, np.inf],
        [7.0],
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_shares_ties_as_jax_does(values, dtype):
    x = jnp.array(values, dtype)
    ladder.assert_same(OURS(x), JAXS(x))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_gradient_is_nan_with_a_nan(transform):
    # jnp.min itself gives NaN eagerly and 0 under jit, where XLA simplifies 0 * (slope / 0).
    x = jnp.array([1.0, jnp.nan, 2.0, 2.0])
    assert bool(jnp.all(jnp.isnan(transform(jax.grad(lambda x: extrema(x)[0]))(x))))


def test_second_derivative_is_zero_and_integers_have_none(key):
    x = jax.random.normal(key, (4,))
    assert not bool(jnp.any(jax.jit(jax.jacobian(OURS))(x)))
    ints = jnp.arange(5, dtype=jnp.int32)
    slope = jax.grad(lambda n: extrema(n)[0].astype(jnp.float32), allow_int=True)(ints)
    assert slope.dtype == jax.dtypes.float0
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: extrema(x)[0], (x,), (x,))


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize("shape", [(0,), (), (2, 3), (0, 3)])
def test_other_shapes_raise(shape):
    with pytest.raises(ValueError, match="extrema: x must be a vector of at least one element"):
        extrema(jnp.zeros(shape))
    with pytest.raises(ValueError, match="extrema: x must be"):
        jax.eval_shape(extrema, jnp.zeros(shape))


@pytest.mark.bad_input
@pytest.mark.parametrize("dtype", ["bool", "complex64"])
def test_other_dtypes_raise(dtype):
    with pytest.raises(TypeError, match=f"real dtype, got {dtype}"):
        extrema(jnp.zeros(3, dtype))
