"""`pfn_attention`: dense attention in float64, kernels against the reference, dead slots, a cache, derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ladder
from pallas_kernels import pfn_attention
from pallas_kernels.pfn_attention import arg_specs, gpu, tpu
from pallas_kernels.pfn_attention._backward import gpu as backward_gpu
from pallas_kernels.pfn_attention._backward import reference as backward_reference
from pallas_kernels.pfn_attention._backward import tpu as backward_tpu
from pallas_kernels.pfn_attention.reference import call as reference

INTERPRETED = ("interpret", "tpu_interpret")
TOL, SLOPE_TOL, BFLOAT16_TOL = 2e-6, 2e-5, 2e-2
TOKENS, SLOTS, HEADS, SIZE = 21, 13, 2, 4
GRADIENTS = "pallas_kernels.pfn_attention.arg_specs.slopes"


def dense(query, key, value, n, softmax_of, dot):
    """All tokens times all tokens under the mask: live slots, and the diagonal."""
    tokens = np.arange(query.shape[0])
    seen = (tokens[None, :] < n) | np.eye(query.shape[0], dtype=bool)
    scores = dot("thd,shd->hts", query, key) / np.sqrt(query.shape[2])
    return dot("hts,shd->thd", softmax_of(scores, seen), value)


def truth(query, key, value, n):
    """`dense` in NumPy."""

    def softmax_of(scores, seen):
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    return dense(*(np.asarray(x, np.float64) for x in (query, key, value)), int(n), softmax_of, np.einsum)


def plain(query, key, value, n):
    """`dense` in jax.numpy, differentiated by JAX."""
    dot = functools.partial(jnp.einsum, precision="highest")
    return dense(query, key, value, n, lambda s, seen: jax.nn.softmax(jnp.where(seen, s, -1e30), axis=-1), dot)


@jax.jit
def plain_slopes(query, key, value, n, weights):
    """Gradients of the weighted sum of `plain`."""
    return jax.grad(lambda *a: jnp.sum(weights * plain(*a, n)), (0, 1, 2))(query, key, value)


def draw(seed, *shape, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def tokens(seed, scale=1.0):
    return tuple(draw((seed, i), TOKENS, HEADS, SIZE, scale=scale) for i in range(3))


def close(got, expected, tol):
    """To `tol` of the largest entry."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        b = np.asarray(b, np.float64)
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=0, atol=tol * np.abs(b).max())


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", arg_specs.TESTED)
def test_reference_equals_dense_attention_in_float64(name, key):
    args = arg_specs.make(key, name)
    tol = BFLOAT16_TOL if args[0].dtype == jnp.bfloat16 else TOL
    close(arg_specs.halves(*args, implementation="reference"), truth(*args), tol)


@pytest.mark.parametrize("rung", ladder.RUNGS)
@pytest.mark.parametrize("name", ["one", "prime_bfloat16", pytest.param("several_steps", marks=pytest.mark.full)])
def test_kernels_equal_reference(name, rung, key):
    args = arg_specs.make(key, name)
    ladder.check(arg_specs.halves, args, rung, BFLOAT16_TOL if args[0].dtype == jnp.bfloat16 else TOL)


@pytest.mark.full
@pytest.mark.parametrize("rung", ladder.RUNGS)
@pytest.mark.parametrize("name", ["prime_bfloat16", "several_steps"])
def test_slopes_of_the_kernels_equal_those_of_the_reference(name, rung, key):
    args = arg_specs.make(key, name)
    ladder.check(arg_specs.slopes, args, rung, BFLOAT16_TOL if args[0].dtype == jnp.bfloat16 else SLOPE_TOL)


@pytest.mark.parametrize("rung", [ladder.DEVICE])
@pytest.mark.parametrize("name", arg_specs.TIMED)
def test_kernels_equal_reference_at_size(name, rung, key):
    args = arg_specs.make(key, name)
    low = args[0].dtype == jnp.bfloat16
    ladder.check(arg_specs.halves, args, rung, BFLOAT16_TOL if low else TOL)
    ladder.check(arg_specs.slopes, args, rung, BFLOAT16_TOL if low else SLOPE_TOL)


LIVE = (0, 1, 7, SLOTS, SLOTS + 4, -3)
DIRTY = [(n, filling) for n in (0, 7) for filling in (1e6, jnp.nan)]


def exact_tokens():
    """Integers, and a head whose size has a root: scores up to 1e4 that float32 holds exactly."""
    rng = np.random.default_rng(1)
    return [jnp.asarray(rng.integers(-100, 100, (TOKENS, 1, SIZE)), jnp.float32) for _ in range(3)]


def corner_weights(n):
    """Of the outputs in the sum that is differentiated: 0 where nobody uses them."""
    return draw(9, TOKENS, 1, SIZE).at[np.clip(n, 0, SLOTS) : SLOTS].set(0)


@functools.cache
def corners(implementation):
    """Outputs and gradients of every case, in one program: the number of live slots from none to all; 1e6 and NaN in
    dead slots; large scores; scores whose rounding is large."""

    def total(q, k, v, n, weights):
        out = pfn_attention(q, k, v, n, num_slots=SLOTS, implementation=implementation)
        return jnp.sum(weights * out), out

    drawn = [x[:, :1] for x in tokens(0)]
    cases = [(*drawn, n) for n in LIVE]
    cases += [(*(x.at[n:SLOTS].set(filling) for x in drawn), n) for n, filling in DIRTY]
    cases += [(*exact_tokens(), 9), (*(1.1e4 * x for x in exact_tokens()), 9)]
    batch = [jnp.stack([jnp.asarray(a) for a in x]) for x in zip(*cases)]
    weights = jnp.stack([corner_weights(case[3]) for case in cases])
    out = jax.jit(jax.vmap(jax.grad(total, (0, 1, 2), has_aux=True)))(*batch, weights)
    slopes, out = jax.tree.map(np.asarray, out)
    return out, np.stack(slopes, axis=1)


@pytest.mark.parametrize("implementation", ["reference", *INTERPRETED])
def test_number_of_live_slots_from_none_to_all(implementation):
    (out, slopes), args = corners(implementation), [x[:, :1] for x in tokens(0)]
    for i, n in enumerate(LIVE):
        n = min(max(n, 0), SLOTS)
        close(out[i], truth(*args, n), TOL)
        for got, expected in zip(slopes[i], plain_slopes(*args, n, corner_weights(n))):
            np.testing.assert_allclose(got, expected, rtol=0, atol=SLOPE_TOL * max(1, np.abs(expected).max()))
    np.testing.assert_array_equal(out[0], args[2], err_msg="without context a token returns its own value")


@pytest.mark.parametrize("implementation", ["reference", *INTERPRETED])
def test_nothing_depends_on_dead_slots(implementation):
    out, slopes = corners(implementation)
    assert np.isfinite(out).all() and np.isfinite(slopes).all()
    for i, (n, _) in enumerate(DIRTY, len(LIVE)):
        seen, clean = np.r_[:n, SLOTS:TOKENS], LIVE.index(n)
        np.testing.assert_array_equal(out[i][seen], out[clean][seen])
        np.testing.assert_array_equal(slopes[i], slopes[clean])
        assert not slopes[i][:, n:SLOTS].any()


@pytest.mark.parametrize("implementation", ["reference", *INTERPRETED])
def test_large_scores(implementation):
    out, slopes = corners(implementation)
    close(out[-2], truth(*exact_tokens(), 9), TOL)
    assert np.isfinite(slopes[-1]).all(), "rounding of scores of 1e12 shall not let a weight overflow"


def test_queries_with_a_cache_equal_the_joint_pass():
    weights = draw(3, TOKENS - SLOTS, HEADS, SIZE)

    def joint(q, k, v):
        return pfn_attention(q, k, v, 9, num_slots=SLOTS)[SLOTS:]

    def cached(q, k, v):
        own, cache = (x[SLOTS:] for x in (q, k, v)), (k[:SLOTS], v[:SLOTS])
        return pfn_attention(*own, 9, context=cache)

    def slopes(f):
        return jax.grad(lambda *a: (jnp.sum(weights * f(*a)), f(*a)), (0, 1, 2), has_aux=True)

    got, expected = jax.jit(lambda *a: [slopes(f)(*a) for f in (cached, joint)])(*tokens(2))
    close(got, expected, 1e-6)


def test_one_query_alone_equals_many_together():
    q, k, v = tokens(4)
    ask = jax.jit(lambda *own: pfn_attention(*own, 11, context=(k[:SLOTS], v[:SLOTS])))
    alone = jax.jit(jax.vmap(lambda *own: pfn_attention(*(x[None] for x in own), 11, context=(k[:SLOTS], v[:SLOTS]))))
    close(alone(q, k, v)[:, 0], ask(q, k, v), 1e-6)


def test_a_bad_number_stays_where_it_belongs():
    q, k, v = tokens(5)
    op = jax.jit(functools.partial(pfn_attention, num_slots=SLOTS))
    query = np.isnan(op(q.at[-1].set(jnp.nan), k, v, 4)).any((1, 2))
    assert query[-1] and query.sum() == 1
    assert np.isnan(op(q, k, v.at[2].set(jnp.nan), 4)).all((1, 2)).all(), "a live slot is seen by all"


# --- derivatives --------------------------------------------------------------------------------------------


def _head(seed, rows, slots, size, n):
    """Arrays of one head, of the op behind and of its derivative."""
    own = [draw((seed, i), rows, size) for i in range(3)]
    context = [draw((seed, 3 + i), slots, size).at[n:].set(0) for i in range(2)]
    return own[0], *context, *own[1:], jnp.array([[n, 0]], jnp.int32)


@functools.cache
def _head_slopes(seed, rows, slots, size, n):
    args, scale = _head(seed, rows, slots, size, n), size**-0.5
    slope, to_log = draw((seed, 7), rows, size), draw((seed, 8), rows, 1)

    @jax.jit
    def both(*args):
        (out, log_total), pull = jax.vjp(functools.partial(reference, scale=scale), *args)
        delta = jnp.sum(slope * out, axis=1, keepdims=True) - to_log
        q, k, v, own_k, own_v, _ = pull((slope, to_log))
        return (q, k, v, own_k, own_v), jnp.concatenate([log_total, delta], axis=1)

    expected, sums = both(*args)
    return (*args, slope, sums), expected, scale


def test_many_blocks_and_the_derivative_equal_what_jax_derives():
    args, expected, scale = _head_slopes(7, 70, 300, 8, 150)
    close(jax.jit(functools.partial(backward_reference.call, scale=scale))(*args), expected, SLOPE_TOL)
    forward = jax.jit(functools.partial(reference, scale=scale))(*args[:6])
    small = gpu.Config(16, 32, 4, 1)
    kernels = {
        "tpu": (
            functools.partial(tpu.call, sizes=(16, 128), interpret=True, scale=scale),
            functools.partial(backward_tpu.call, sizes=(16, 128), interpret=True, scale=scale),
        ),
        "gpu": (
            functools.partial(gpu.call, config=small, interpret=True, scale=scale),
            functools.partial(backward_gpu.call, config=small, interpret=True, scale=scale),
        ),
    }
    for call, slopes in kernels.values():
        close(jax.jit(call)(*args[:6]), forward, TOL)
        close(jax.jit(slopes)(*args), expected, SLOPE_TOL)


@pytest.mark.full
def test_tpu_kernels_are_free_of_races():
    args, _, scale = _head_slopes(8, 40, 200, 8, 150)
    ladder.check_races(functools.partial(tpu.call, sizes=(16, 128), scale=scale), args[:6])
    ladder.check_races(functools.partial(backward_tpu.call, sizes=(16, 128), scale=scale), args)


@pytest.mark.full
@pytest.mark.parametrize("implementation", [None, *INTERPRETED])
def test_second_derivatives(implementation):
    args = tokens(10)
    way = tokens(11)

    def twice(op):
        def along(*a):
            slopes = jax.grad(lambda *b: jnp.sum(jnp.sin(op(*b))), (0, 1, 2))(*a)
            return sum(jnp.sum(g * w) for g, w in zip(slopes, way))

        return jax.jit(jax.grad(along, (0, 1, 2)))

    ours = twice(lambda *a: pfn_attention(*a, 9, num_slots=SLOTS, implementation=implementation))(*args)
    close(ours, twice(lambda *a: plain(*a, 9))(*args), 5e-5)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rung", INTERPRETED)
def test_random_shapes(rung, seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 400)), int(rng.integers(1, 4)), int(rng.integers(1, 80)))
    dtype = ["float32", "bfloat16"][seed % 2]
    args = [jnp.asarray(rng.standard_normal(shape), dtype) for _ in range(3)]
    n = jnp.int32(rng.integers(0, arg_specs.num_slots(shape[0]) + 1))
    ladder.check(arg_specs.halves, (*args, n), rung, [TOL, BFLOAT16_TOL][seed % 2])
    ladder.check(arg_specs.slopes, (*args, n), rung, [SLOPE_TOL, BFLOAT16_TOL][seed % 2])


@pytest.mark.x64
def test_double_precision():
    args = [jnp.asarray(np.asarray(x, np.float64) * 1.1) for x in tokens(12)]
    close(pfn_attention(*args, 9, num_slots=SLOTS), truth(*args, 9), 1e-14)
    for implementation, match in (("interpret", "are float64 and the GPU"), ("tpu_interpret", "no double precision")):
        with pytest.raises(ValueError, match=match):
            pfn_attention(*args, 9, implementation=implementation)


# --- lowering, compiling ------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("platform", ladder.PLATFORMS)
@pytest.mark.parametrize("name", ["prime_bfloat16", "large_ragged"])
def test_lowers(name, platform):
    ladder.check_lowers(arg_specs.halves, arg_specs.SPECS[name], platform)


@pytest.mark.full
@pytest.mark.x64
@pytest.mark.parametrize("platform", ladder.PLATFORMS)
def test_lowers_where_integers_have_64_bits(platform):
    ladder.check_lowers(arg_specs.slopes, arg_specs.SPECS["several_steps"], platform)


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
def test_transformations_lower(platform):
    batch = [jax.ShapeDtypeStruct((3, *s.shape), s.dtype) for s in arg_specs.SPECS["prime_bfloat16"]]
    ladder.check_lowers(jax.vmap(arg_specs.slopes), batch, platform)


@pytest.mark.parametrize("target", ladder.TARGETS)
@pytest.mark.parametrize("name", arg_specs.SPECS)
def test_compiles(name, target):
    ladder.check_compiles(GRADIENTS, name, target)


def test_what_does_not_fit_on_chip_is_refused():
    large = jax.ShapeDtypeStruct((40_000, 64), jnp.float32)
    assert "on-chip memory" in tpu.refusal(large, large, scale=1.0)
    assert backward_tpu.refusal(large, large, scale=1.0) and not gpu.refusal(large, large, scale=1.0)
    wide = jax.ShapeDtypeStruct((4, 300), jnp.float32)
    assert "a head has 300 entries" in gpu.refusal(wide, wide, scale=1.0)


# --- bad input ----------------------------------------------------------------------------------------------

X = np.zeros((6, 2, 3), np.float32)
BAD = {
    "integers": ((X.astype(int),) * 3, {}, TypeError, "query must have a real floating dtype, got int"),
    "two dtypes": ((X, X.astype(np.float16), X), {}, TypeError, "float32 for query and float16 for key"),
    "matrix": ((X[0],) * 3, {}, ValueError, "one shape .tokens, heads, size."),
    "shapes": ((X, X[:5], X), {}, ValueError, "use jax.vmap over leading axes"),
    "no token": ((X[:0],) * 3, {}, ValueError, "nothing of length 0"),
    "slots": ((X, X, X), {"num_slots": 7}, ValueError, "between 1 and the 6 tokens, got 7"),
    "traced slots": ((X, X, X), {"num_slots": 2.5}, TypeError, "num_slots is static"),
    "both": ((X, X, X), {"num_slots": 2, "context": (X, X)}, ValueError, "leave one of them out"),
    "heads": ((X, X, X), {"context": (X[:, :1], X[:, :1])}, ValueError, r"\(slots, 2, 3\)"),
    "context": ((X, X, X), {"context": (X, X[:2])}, ValueError, "with at least one slot"),
    "implementation": ((X, X, X), {"implementation": "cuda"}, ValueError, "implementation must be None or one of"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    args, options, error, match = BAD[case]
    with pytest.raises(error, match=match):
        pfn_attention(*args, 3, **options)


@pytest.mark.bad_input
def test_bad_number_of_slots_raises():
    with pytest.raises(TypeError, match="num_context must be an integer, got float"):
        pfn_attention(X, X, X, 2.0)
    with pytest.raises(ValueError, match="num_context must be a scalar"):
        pfn_attention(X, X, X, np.arange(3))


@pytest.mark.bad_input
def test_half_precision_without_a_kernel_runs_by_the_reference():
    x = jnp.asarray(X, jnp.float16)
    assert pfn_attention(x, x, x, 3).dtype == jnp.float16
    with pytest.raises(ValueError, match="the arrays are float16 and the GPU kernel takes"):
        pfn_attention(x, x, x, 3, implementation="interpret")
