"""`resample`: exact offspring for large float32 clouds, kernels equal to the reference bit for bit, corner cases."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ladder
from pallas_kernels import resample
from pallas_kernels.resample import _fixed, ancestors, arg_specs, gpu, prefix, reference, tpu

INTERPRETED = ("interpret", "tpu_interpret")
OFFSETS = (0.0, 0.3, 0.5, 0.7310585, 1 - 2.0**-24)
N = 2049  # one more than a TPU block of 16 rows, one more than a power of two


# --- truth -------------------------------------------------------------------------------------------------


def weight_laws(n):
    """Name -> log-weights (n,), float32."""
    rng = np.random.default_rng(7)
    x, uniform = rng.standard_normal(n), rng.uniform(size=n)
    with np.errstate(divide="ignore"):
        laws = {
            "equal": np.full(n, -1.3),
            "uniform": np.log(uniform),
            "gamma": np.log(rng.gamma(0.1, size=n)),
            "half zero": np.where(np.arange(n) % 2, -np.inf, np.log(uniform)),
            "zeros at the end": np.where(uniform < np.linspace(0, 1, n), -np.inf, 0.0),
            "tilted": -5 * (1 - x) ** 2,
            "two": np.where(np.arange(n) % (n // 2) == 3, 0.0, -np.inf),
        }
    return {name: law.astype(np.float32) for name, law in laws.items()}


@functools.partial(jax.jit, static_argnums=1)
def _ends_and_counts(log_weights, n):
    whole, fraction = prefix(jnp.exp(log_weights - jnp.max(log_weights)), n)
    return whole, fraction, [resample(log_weights, u, n, implementation="reference") for u in OFFSETS]


def check_offspring(n):
    for name, log_weights in weight_laws(n).items():
        weights = np.exp(log_weights.astype(np.float64) - log_weights.max())
        shares = n * (weights / weights.sum())
        whole, fraction, drawn = jax.tree.map(np.asarray, _ends_and_counts(jnp.asarray(log_weights), n))
        ends = whole + fraction.astype(np.float64)
        assert (np.diff(ends) >= 0).all() and ends[-1] == n and fraction.max() < 1, name
        zero = weights == 0
        assert (ends == np.r_[0, ends[:-1]])[zero].all(), f"{name}: a zero weight owns an interval"
        assert np.abs(ends - np.cumsum(shares)).max() < 2e-3, name  # measured: 7e-4 at n = 1e7, 2e-4 at 1e6
        for a in drawn:
            counts = np.bincount(a, minlength=n)
            assert counts.size == n and (np.diff(a) >= 0).all()
            # Exact bounds: |counts - shares| < 1 rounds to equality at shares of 1e-30.
            wrong = (counts < np.floor(shares)) | (counts > np.ceil(shares))
            assert not wrong.any(), f"{name}: {wrong.sum()} particles are off by one or more"
            assert not counts[zero].any(), f"{name}: offspring of a zero weight"


def test_offspring_are_exact():
    check_offspring(20_000)


@pytest.mark.full
def test_offspring_are_exact_at_a_million():
    check_offspring(10**6)


@pytest.mark.slow
def test_offspring_are_exact_at_ten_million():
    check_offspring(10**7)


def test_the_check_of_offspring_finds_what_a_float32_prefix_sum_does(monkeypatch):
    def searched(log_weights, n):
        ends = jnp.cumsum(jax.nn.softmax(jnp.asarray(log_weights))) * n
        ends = ends.at[-1].set(n)
        points = jnp.arange(n, dtype=jnp.float32)
        drawn = [jnp.clip(jnp.searchsorted(ends, points + u, side="right"), 0, n - 1) for u in OFFSETS]
        return jnp.floor(ends).astype(jnp.int32), ends - jnp.floor(ends), drawn

    monkeypatch.setitem(globals(), "_ends_and_counts", searched)
    with pytest.raises(AssertionError):
        check_offspring(20_000)


def test_ancestors_are_those_of_a_search_in_float64_and_unbiased():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(50).astype(np.float32)
    offsets = (np.arange(256, dtype=np.float32) + 0.5) / 256
    num_out = 333
    op = functools.partial(resample, num_out=num_out)
    got = np.asarray(jax.jit(jax.vmap(op, (None, 0)))(x, offsets))
    weights = np.exp(x.astype(np.float64))
    shares = num_out * weights / weights.sum()
    points = np.arange(num_out) + offsets[:, None].astype(np.float64)
    np.testing.assert_array_equal(got, np.searchsorted(np.cumsum(shares), points, side="right"))
    mean = np.stack([np.bincount(a, minlength=50) for a in got]).mean(0)
    np.testing.assert_allclose(mean, shares, atol=2 / 256)


def test_ancestors_of_ends():
    ends = jnp.array([0, 2, 2, 5, 5, 6, 6], jnp.int32)
    np.testing.assert_array_equal(ancestors(ends, 6), [1, 1, 3, 3, 3, 5])
    np.testing.assert_array_equal(ancestors(jnp.array([4], jnp.int32), 4), [0, 0, 0, 0])


def test_prefix_takes_weights_of_any_scale():
    weights = np.array([0.0, 3.0, 1.0, 0.0, 4.0, 0.0])
    batch = np.float32([[1e-25], [1.0], [1e25], [0.0]]) * weights.astype(np.float32)
    whole, fraction = jax.jit(jax.vmap(lambda w: prefix(w, 12)))(batch)
    assert whole.dtype == jnp.int32 and fraction.dtype == jnp.float32
    ends = np.asarray(whole) + np.asarray(fraction)
    np.testing.assert_allclose(ends[:3], 3 * [[0, 4.5, 6, 6, 12, 12]], rtol=1e-6)
    np.testing.assert_array_equal(ends[3], 6 * [12])


@pytest.mark.parametrize(
    "num_out", [1, 2**15, 2**30, *(pytest.param(n, marks=pytest.mark.full) for n in (2, 2**15 - 1, 2**24 + 1))]
)
def test_prefix_of_few_and_of_very_many_slots(num_out):
    """Scales of every size of mantissa, sums of weights that are off either way, and equal shares that are whole."""
    scales = np.float32(1 + np.arange(64) / 64)[:, None]
    weights = np.random.default_rng(6).gamma(0.3, size=500).astype(np.float32) * scales
    whole, fraction = jax.jit(jax.vmap(lambda w: prefix(w, num_out)))(weights)
    ends = np.asarray(whole) + np.asarray(fraction, np.float64)
    exact = num_out * np.cumsum(weights.astype(np.float64), 1) / weights.astype(np.float64).sum(1, keepdims=True)
    assert (np.diff(ends) >= 0).all() and (ends[:, -1] == num_out).all()
    np.testing.assert_allclose(ends, exact, atol=2e-7 * num_out + 1e-6)
    # Ratios just above a power of two, of which most is cut off, by sums that another order may have off either way.
    for last_bits, off in itertools.product((0, 31, 75, 110, 185, 205), (1 - 2e-6, 1 + 2e-6)):
        share = jnp.full(500, num_out / 500 / (1 + last_bits / 2**23), jnp.float32)
        pairs = _fixed.shares(share, _fixed.coarse_scale(jnp.float32(500 * off) * share[0], num_out))
        sums = _fixed.running(pairs, jnp.cumsum)
        by = _fixed.stretch(tuple(a[-1] for a in sums), num_out, share.dtype)
        whole, fraction = _fixed.stretched(sums, by, num_out)
        got = np.minimum(np.asarray(whole, np.float64) + np.asarray(fraction) / 2**24, num_out)
        np.testing.assert_allclose(got, num_out * np.arange(1, 501) / 500, atol=2**-24 + 2e-9 * num_out)


@pytest.mark.parametrize("num_out", [1, 2, 3])
def test_few_slots_of_a_large_cloud(num_out):
    """Roundings of three hundred thousand shares of 3e-6 add up to far more than the scale leaves room for."""
    n, live = 300_000, 299_990
    x = jnp.zeros(n).at[live:].set(-jnp.inf)
    whole, fraction = prefix(jnp.exp(x), num_out)
    ends = np.asarray(whole) + np.asarray(fraction, np.float64)
    assert (np.diff(ends) >= 0).all() and (ends[live - 1 :] == num_out).all()
    np.testing.assert_allclose(ends[:live], num_out * np.arange(1, live + 1) / live, atol=n * 2.0**-32)
    for offset in (0.0, 0.5, 1 - 2.0**-24):
        drawn = np.asarray(resample(x, offset, num_out))
        assert drawn.max() < live
        np.testing.assert_allclose(drawn, live * (np.arange(num_out) + offset) / num_out, atol=n * n * 2.0**-32 + 1)


@pytest.mark.x64
def test_prefix_in_double_precision_and_kernels_under_x64():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(1000)
    whole, fraction = jax.jit(lambda w: prefix(w, 1000))(np.exp(x))
    expected = 1000 * np.cumsum(np.exp(x)) / np.exp(x).sum()
    np.testing.assert_allclose(np.asarray(whole) + np.asarray(fraction, np.float64), expected, atol=2e-7)
    with pytest.raises(ValueError, match="log_weights is float64.*no double precision"):
        resample(x, 0.4, 3, implementation="tpu_interpret")
    for platform in ladder.PLATFORMS:
        ladder.check_lowers(arg_specs.as_many, arg_specs.SPECS["several_steps"], platform)


@pytest.mark.full
@pytest.mark.x64
def test_gpu_kernel_in_double_precision():
    x = jnp.asarray(np.random.default_rng(1).standard_normal(1000))
    ladder.check(resample, (x, 0.4), "interpret", num_out=700)


# --- kernels equal the reference, and corner cases ---------------------------------------------------------


def _placed(values, fill=0.0):
    x = np.full(N, fill)
    x[list(values)] = list(values.values())
    return x


RANDOM = 3 * np.random.default_rng(2).standard_normal(N)
KEPT = np.arange(N)
CORNERS = {  # log-weights and, where it is known, what they give
    "random": (RANDOM, None),
    "far away": (RANDOM - 1e6, None),
    "equal": (np.full(N, 2.5), KEPT),
    "one weight, first": (_placed({0: -7.0}, -np.inf), np.zeros(N)),
    "one weight, last": (_placed({N - 1: 3.0}, -np.inf), np.full(N, N - 1)),
    "zeros at both ends": (_placed({5: 0.0, N - 9: 0.0}, -np.inf), np.repeat([5, N - 9], [N // 2 + 1, N // 2])),
    "NaN is a zero": (_placed({5: 0.0, 6: np.nan, N - 1: np.nan}, -np.inf), np.full(N, 5)),
    "all zero": (np.full(N, -np.inf), KEPT),
    "all NaN": (np.full(N, np.nan), KEPT),
    "infinite": (_placed({9: np.inf}), KEPT),
    "infinite and NaN": (_placed({9: np.inf, 10: np.nan, 11: -np.inf}), KEPT),
    "range of 1e4": (np.linspace(-1e4, 0, N), None),
}


@pytest.fixture(scope="module")
def corners():
    """All cases as one batch, two offsets of a batch within: implementation -> ancestors."""
    x = jnp.asarray(np.stack([c[0] for c in CORNERS.values()]), jnp.float32)

    def run(implementation):
        op = functools.partial(resample, num_out=N, implementation=implementation)
        return np.asarray(jax.jit(jax.vmap(jax.vmap(op, (None, 0)), (0, None)))(x, jnp.array([0.25, 0.999])))

    return {name: run(name) for name in ("reference", *INTERPRETED)}


@pytest.mark.parametrize("case", CORNERS)
def test_corner_values(case, corners):
    i = list(CORNERS).index(case)
    expected = CORNERS[case][1]
    if expected is not None:
        np.testing.assert_array_equal(corners["reference"][i, 0], expected)
    for rung in INTERPRETED:
        np.testing.assert_array_equal(corners[rung][i], corners["reference"][i])


@pytest.mark.full
@pytest.mark.parametrize("rung", INTERPRETED)
@pytest.mark.parametrize("name", arg_specs.TESTED)
def test_kernel_equals_reference(name, rung, key):
    ladder.check(arg_specs.as_many, arg_specs.make(key, name), rung)


@pytest.mark.parametrize("rung", [ladder.DEVICE])
@pytest.mark.parametrize("name", [*arg_specs.TESTED, *arg_specs.TIMED])
def test_kernel_equals_reference_on_the_device(name, rung, key):
    # Exponentials may differ in their last bit from XLA's, and a slot on a border then goes to the neighbour.
    x, offset = arg_specs.make(key, name)
    got, expected = (np.asarray(arg_specs.as_many(x, offset, implementation=i)) for i in (None, "reference"))
    apart = got != expected
    assert apart.mean() < 1e-3 and np.abs(got - expected).max(initial=0, where=apart) < 64


@pytest.mark.parametrize(("n", "num_out"), [(4 * 2048 + 1001, 5003)])
def test_many_blocks_and_programs_and_fewer_slots(n, num_out):
    x = jnp.asarray(3 * np.random.default_rng(3).standard_normal(n), jnp.float32)
    offset = jnp.float32(0.6)
    expected = resample(x, offset, num_out, implementation="reference")
    ladder.assert_same(tpu.call(x, offset, num_out=num_out, interpret=True, rows=16), expected)
    config = gpu.Config(block=128, steps=3, num_warps=4)
    ladder.assert_same(gpu.call(x, offset, num_out=num_out, interpret=True, config=config), expected)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rung", INTERPRETED)
def test_random_shapes(rung, seed):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(10 * rng.standard_normal(rng.integers(1, 6000)), jnp.float32)
    ladder.check(resample, (x, jnp.float32(rng.uniform())), rung, num_out=int(rng.integers(1, 9000)))


@pytest.mark.full
def test_tpu_kernel_is_free_of_races():
    # In order along every axis: what could race is the copy of a block out while the next round reads.
    x = jnp.asarray(np.random.default_rng(4).standard_normal(2 * 2048 + 3), jnp.float32)
    call = functools.partial(tpu.call, x, num_out=2049, rows=16)
    ladder.check_races(call, (jnp.float32(0.3),))


@pytest.mark.parametrize("most", [None, pytest.param(500, marks=pytest.mark.full)])
def test_lanes_are_drawn_as_if_alone(most, monkeypatch):
    """On a CPU they are one loop; too many for int32 go one after the other; none at all is a batch too."""
    if most is not None:
        monkeypatch.setattr(reference, "_MOST_TOGETHER", most)
    rng = np.random.default_rng(5)
    size = 101 if most is None else 103  # of its own, or JAX would answer with the other trace
    x = jnp.asarray(6 * rng.standard_normal((2, 3, size)), jnp.float32)
    x = x.at[0, 1].set(-jnp.inf).at[1, 2, 50:].set(-jnp.inf)
    offsets = jnp.asarray(rng.uniform(size=(2, 3)), jnp.float32)

    def op(x, offset):
        return resample(x, offset, 77), prefix(jnp.exp(x - 20), 77), ancestors(prefix(jnp.exp(x - 20), 77)[0], 77)

    alone = [op(row, u) for row, u in zip(x.reshape(6, -1), offsets.ravel())]
    alone = jax.tree.map(lambda *a: np.stack(a).reshape(2, 3, -1), *alone)
    ladder.assert_same(jax.jit(jax.vmap(jax.vmap(op)))(x, offsets), alone)
    swapped = jax.jit(jax.vmap(jax.vmap(op), (1, 1), 1))(x, offsets)
    ladder.assert_same(swapped, alone)
    one = jax.jit(jax.vmap(op, (None, 0)))(x[0, 0], offsets[0])[0]
    np.testing.assert_array_equal(one[0], alone[0][0, 0])
    assert jax.vmap(op)(x[0, :0], offsets[0, :0])[0].shape == (0, 77)


# --- lowering, compiling, derivatives ----------------------------------------------------------------------


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.full) for n in arg_specs.TESTED), "large_ragged"])
def test_lowers(name, platform):
    ladder.check_lowers(arg_specs.as_many, arg_specs.SPECS[name], platform)


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
def test_vmap_lowers(platform):
    spec = (jax.ShapeDtypeStruct((3, 300), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.float32))
    ladder.check_lowers(jax.vmap(arg_specs.as_many), spec, platform)


@pytest.mark.parametrize("target", ladder.TARGETS)
@pytest.mark.parametrize("name", ["one", "prime_bfloat16", "several_steps", "large_ragged"])
def test_compiles(name, target):
    ladder.check_compiles("pallas_kernels.resample.arg_specs.as_many", name, target)


@pytest.mark.parametrize("implementation", [None, *(pytest.param(i, marks=pytest.mark.full) for i in INTERPRETED)])
def test_ancestors_are_constants_to_a_derivative(implementation):
    def picked(x):
        return jnp.sum(x[resample(x, 0.5, 4, implementation=implementation)])

    x = jnp.array([0.0, 5.0, 0.0])
    for mode in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(jax.jit(mode(picked))(x), [0.0, 4.0, 0.0])


def test_launch_parameters_are_powers_of_two_and_bounded():
    for n in (1, 127, 129, 4097, 2**26 - 61, 2**30):
        block, steps, _ = gpu.default_config(n)
        rows = tpu.default_rows(n)
        assert block & (block - 1) == 0 and 128 <= block <= 1024 and -(-n // (block * steps)) <= 4096
        assert rows & (rows - 1) == 0 and 16 <= rows <= 1024 and n + block * steps <= 2**31


# --- bad input ---------------------------------------------------------------------------------------------

X = np.zeros(3, np.float32)
BAD = {
    "integers": ((np.arange(3), 0.5, 3), {}, TypeError, "real floating dtype, got int32"),
    "matrix": ((np.ones((2, 3), np.float32), 0.5, 3), {}, ValueError, r"got shape \(2, 3\)"),
    "empty": ((X[:0], 0.5, 3), {}, ValueError, "1 to 2"),
    "offsets": ((X, X, 3), {}, ValueError, "for a number a slot"),
    "no slots": ((X, 0.5, 0), {}, ValueError, "between 1 and 2.*got 0"),
    "real slots": ((X, 0.5, 3.0), {}, TypeError, "a Python integer, got float"),
    "name": ((X, 0.5, 3), {"implementation": "cuda"}, ValueError, "got 'cuda'"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    args, static, error, match = BAD[case]
    with pytest.raises(error, match=match):
        resample(*args, **static)
