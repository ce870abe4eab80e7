"""`log_weight_stats`: reference against float64, kernels against the reference, derivatives, troubles, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ladder
from pallas_kernels import log_weight_stats
from pallas_kernels.log_weight_stats import arg_specs, gpu, tpu

INTERPRETED = ("interpret", "tpu_interpret")
N = 2049  # one more than a TPU block of 16 rows, one more than a power of two
TOL = 2e-6  # sums in another order
by = {name: functools.partial(log_weight_stats, implementation=name) for name in ("reference", *INTERPRETED)}


def truth(x):
    """In float64; a NaN is a weight of zero."""
    bad = np.isnan(x)
    x = np.where(bad, -np.inf, x)
    m = np.max(x)
    trouble = bad.any() * 1 + (m == np.inf) * 2 + (m == -np.inf) * 4
    if m == np.inf:
        return m, np.nan, np.nan, trouble
    w = np.exp(x - (0 if m == -np.inf else m))
    return m, w.sum(), (w * w).sum(), trouble


@pytest.mark.parametrize("name", arg_specs.TESTED)
def test_reference_equals_float64(name, key):
    ladder.check_truth(log_weight_stats, arg_specs.make(key, name), truth, 1e-6)


@pytest.mark.full
def test_reference_holds_in_float32_at_ten_million():
    for x in (np.full(10**7, -1.1), 3 * np.random.default_rng(0).standard_normal(10**7)):
        ladder.check_truth(log_weight_stats, (jnp.asarray(x, jnp.float32),), truth, 1e-6)


@pytest.mark.parametrize("rung", ladder.RUNGS)
@pytest.mark.parametrize("name", arg_specs.TESTED)
def test_kernel_equals_reference(name, rung, key):
    ladder.check(log_weight_stats, arg_specs.make(key, name), rung, TOL)


@pytest.mark.parametrize("rung", [ladder.DEVICE])
@pytest.mark.parametrize("name", arg_specs.TIMED)
def test_kernel_equals_reference_at_size(name, rung, key):
    ladder.check(log_weight_stats, arg_specs.make(key, name), rung, TOL)


def _placed(values, fill=0.0):
    x = np.full(N, fill)
    x[list(values)] = list(values.values())
    return x


CORNERS = {
    "all equal": np.full(N, 2.5),
    "all -inf": np.full(N, -np.inf),
    "all NaN": np.full(N, np.nan),
    "one weight, last": _placed({N - 1: 3.0}, -np.inf),
    "NaN first and last": _placed({0: np.nan, N - 1: np.nan}),
    "NaN beside zero weights": _placed({7: np.nan}, -np.inf),
    "+inf": _placed({1500: np.inf}),
    "+inf, NaN and -inf": _placed({3: np.inf, 1500: np.nan, N - 1: -np.inf}),
    "range of 1e4": np.linspace(-1e4, 0, N),
    "far away": np.linspace(-3e38, -2.9e38, N),
    "largest floats": _placed({5: np.finfo(np.float32).max}, np.finfo(np.float32).min),
}


@pytest.fixture(scope="module")
def corners():
    """All cases as a batch of a batch: implementation -> results."""
    x = jnp.asarray(np.stack(list(CORNERS.values()))[None], jnp.float32)
    return {
        name: jax.tree.map(lambda r: np.asarray(r[0]), jax.jit(jax.vmap(jax.vmap(op)))(x)) for name, op in by.items()
    }


@pytest.mark.parametrize("implementation", by)
@pytest.mark.parametrize("case", CORNERS)
def test_corner_values(case, implementation, corners):
    i = list(CORNERS).index(case)
    expected = truth(np.asarray(CORNERS[case], np.float32).astype(np.float64))
    for a, b in zip(corners[implementation], expected, strict=True):
        np.testing.assert_allclose(a[i], b, rtol=TOL)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rung", INTERPRETED)
def test_random_shapes(rung, seed):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(10 * rng.standard_normal(rng.integers(1, 6000)), ["float32", "bfloat16"][seed % 2])
    ladder.check(log_weight_stats, (x,), rung, TOL)


def test_many_grid_steps_and_programs():
    x = jnp.asarray(np.random.default_rng(1).standard_normal(5 * 2048 + 1), jnp.float32)
    alone = jnp.full_like(x, -jnp.inf).at[2048 * 3 + 5].set(-200.0)  # parts without weight beside one with
    on_tpu = jax.jit(lambda x: tpu.call(x, interpret=True, rows=16))
    on_gpu = jax.jit(lambda x: gpu.call(x, interpret=True, config=gpu.Config(128, 4)))
    for kernel in (on_tpu, on_gpu):
        ladder.assert_same(kernel(x), by["reference"](x), TOL)
        ladder.assert_same(kernel(alone), (jnp.float32(-200), jnp.float32(1), jnp.float32(1), jnp.int32(0)))


@pytest.mark.full
def test_tpu_kernel_is_free_of_races():
    x = jnp.asarray(np.random.default_rng(2).standard_normal(3 * 2048), jnp.float32)
    ladder.check_races(functools.partial(tpu.call, rows=16), (x,))


@pytest.mark.x64
def test_double_precision():
    x = np.random.default_rng(3).standard_normal(997)
    ladder.check_truth(log_weight_stats, (jnp.asarray(x),), truth, 1e-14)
    ladder.check(log_weight_stats, (jnp.asarray(x),), "interpret", 1e-14)
    with pytest.raises(ValueError, match="log_weights is float64.*no double precision"):
        by["tpu_interpret"](jnp.asarray(x))


# --- derivatives -------------------------------------------------------------------------------------------


def _shift_free(op):
    """What does not depend on the shift: (log of the total, effective sample size)."""

    def f(x):
        largest, total, squares, _ = op(x)
        return jnp.stack([largest + jnp.log(total), total**2 / squares])

    return f


def _plain(x):
    w = jax.nn.softmax(x)
    return jnp.stack([jax.nn.logsumexp(x), 1 / jnp.sum(w * w)])


@pytest.mark.parametrize("implementation", ["reference", "interpret"])
def test_derivatives_equal_those_of_log_sum_exp(implementation):
    x = jnp.asarray(np.random.default_rng(4).standard_normal(7), jnp.float32)
    ours = _shift_free(by[implementation])
    modes = [jax.jacrev, jax.jacfwd]
    if implementation == "reference":
        modes += [lambda f: jax.jacfwd(jax.jacrev(f))]
    got, expected = (jax.jit(lambda x, f=f: [mode(f)(x) for mode in modes])(x) for f in (ours, _plain))
    ladder.assert_same(got, expected, 1e-5)


def test_a_weight_of_zero_has_slope_zero():
    slopes = jax.grad(lambda x: _shift_free(by["reference"])(x)[0])
    np.testing.assert_allclose(slopes(jnp.array([0.0, -jnp.inf, jnp.nan, 0.0])), [0.5, 0, 0, 0.5])
    np.testing.assert_array_equal(jax.grad(lambda x: by["reference"](x)[1])(jnp.full(3, -jnp.inf)), np.zeros(3))
    # log(0) has an infinite tangent, which does not reach the sums.
    w = jnp.array([1.0, 0.0, 2.0])
    tangent = jax.jvp(lambda w: by["reference"](jnp.log(w))[1], (w,), (jnp.ones(3),))[1]
    np.testing.assert_allclose(tangent, 0.5 * 1 + 1 * 0.5)


# --- lowering, compiling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
@pytest.mark.parametrize("name", ["prime_bfloat16", "large_ragged"])
def test_lowers(name, platform):
    ladder.check_lowers(log_weight_stats, arg_specs.SPECS[name], platform)


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
def test_transformations_lower(platform):
    spec = (jax.ShapeDtypeStruct((3, 300), jnp.float32),)
    ladder.check_lowers(jax.vmap(jax.grad(lambda x: _shift_free(log_weight_stats)(x)[0])), spec, platform)


@pytest.mark.parametrize("target", ladder.TARGETS)
@pytest.mark.parametrize("name", ["one", "block_and_one", "prime_bfloat16", "large", "large_ragged"])
def test_compiles(name, target):
    ladder.check_compiles("log_weight_stats", name, target)


def test_launch_parameters_are_powers_of_two_and_bounded():
    for n in (1, 127, 129, 4097, 2**26 - 61, 2**30):
        block, rows = gpu.default_config(n).block, tpu.default_rows(n)
        assert block & (block - 1) == 0 and 128 <= block <= 4096 and rows & (rows - 1) == 0 and 16 <= rows <= 2048
        assert n + block < 2**31, "offsets are int32"
    assert gpu.refusal(jax.ShapeDtypeStruct((2**30 + 1,), jnp.float32)) is not None


# --- bad input ---------------------------------------------------------------------------------------------

BAD = {
    "integers": (np.arange(3), TypeError, "real floating dtype, got int32"),
    "complex": (np.ones(3, np.complex64), TypeError, "got complex64"),
    "matrix": (np.ones((2, 3), np.float32), ValueError, r"got shape \(2, 3\)"),
    "empty": (np.ones(0, np.float32), ValueError, "at least one element"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    x, error, match = BAD[case]
    with pytest.raises(error, match=match):
        log_weight_stats(x)


@pytest.mark.bad_input
def test_half_precision_without_a_kernel_runs_by_the_reference():
    x = jnp.array([0.0, 1.0], jnp.float16)
    assert log_weight_stats(x)[1].dtype == jnp.float32
    with pytest.raises(ValueError, match="log_weights is float16 and the GPU kernel takes"):
        by["interpret"](x)
