"""Orders of the unknowns: every implementation against a sequential loop, the published counts, and bad orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.tree_util import Partial

from jaxsci import bandits, linear
from jaxsci.core import status
from jaxsci.linear._colours import greedy_colours
from jaxsci.linear._levels import levels, schedule
from jaxsci.linear._pipelined import sweep

O, M = linear.operators, linear.methods

# b_i = sin(i) on the 10 x 10 grid, x0 = 0, tol 1e-8: c, SOR in natural and in red-black order.
OMEGAS = (1.0, 1.2, 1.4, None, 1.6, 1.8, 1.9, 1.95)
TABLE = {
    0.0: ((131, 90, 58, 37, 41, 86, 175, 361), (107, 75, 49, 32, 37, 83, 175, 359)),
    -0.15: ((1239, 885, 607, 118, 379, 175, 177, 359), (1198, 835, 569, 116, 357, 165, 175, 359)),
    0.45: ((44, 30, 25, 23, 41, 84, 177, 360), (34, 22, 21, 17, 36, 83, 175, 359)),
}


def _rhs():
    return jnp.sin(jnp.arange(1.0, 101.0)).reshape(10, 10)


@jax.jit
def _columns(op, eye):
    return jax.vmap(op.mv)(eye)


def _matrix(op):
    """The matrix of an operator, unknowns in row-major numbering."""
    eye = np.eye(op.diagonal.size, dtype=op.diagonal.dtype).reshape(-1, *op.diagonal.shape)
    return np.asarray(_columns(op, eye)).reshape(len(eye), -1).T


def _loop(a, b, omega, sequence, sweeps):
    """Sweeps of x_i <- x_i + omega (b_i - a_i x) / a_ii, one unknown after the other, and the residual norms."""
    x, norms = np.zeros_like(b), []
    for _ in range(sweeps):
        for i in sequence:
            x[i] += omega * (b[i] - a[i] @ x) / a[i, i]
        norms.append(np.linalg.norm(b - a @ x))
    return x, np.array(norms)


def _pipelined(omega):
    return M.pipelined_sor(omega, sweeps=6)


def _red_black(shape):
    colour = np.indices(shape).sum(0).reshape(-1) % 2
    return np.argsort(colour, kind="stable")


# --- counts ------------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_published_counts_in_every_implementation():
    """All natural implementations give the natural counts, all red-black ones the red-black counts."""
    b = _rhs()
    flat = b.reshape(-1)
    counts = jax.jit(
        jax.vmap(lambda op, b, make, w: linear.solve(op, b, method=make(w)).steps, (None, None, None, 0)),
        static_argnums=2,
    )
    for shift, (natural, red_black) in TABLE.items():
        omega = linear.theory.young_omega(linear.theory.laplacian_radius((10, 10), shift))
        omegas = jnp.asarray([w if w else omega for w in OMEGAS])
        op = O.shifted_laplacian((10, 10), shift)
        plain = O.as_sparse(op)
        for make in (M.sor, _pipelined) if shift == 0 else (M.sor,):
            np.testing.assert_allclose(counts(op, b, make, omegas), natural, atol=1)
            np.testing.assert_allclose(counts(O.reordered(op, "red-black"), b, make, omegas), red_black, atol=1)
        np.testing.assert_allclose(counts(plain, flat, M.sor, omegas), natural, atol=1)
        np.testing.assert_allclose(counts(O.reordered(plain, "multicolor"), flat, M.sor, omegas), red_black, atol=1)


def _red_black_ssor(omega):
    method = M.ssor_pcg(omega, sweep_first="backward")
    return method._replace(prepare=Partial(_prepare_red_black, method.prepare))


def _prepare_red_black(prepare, op):
    return prepare(O.reordered(op, "red-black"))


@pytest.mark.x64
def test_red_black_spoils_the_ssor_preconditioner():
    """Published totals of 5000 heat steps, rounded to three digits; natural order takes 32800 at omega = 1, and 29454
    at its best."""
    for omega, total in ((1.0, 44_600), (1.8, 74_100)):
        record = linear.tuned_sequence(
            jax.random.key(0),
            linear.streams.heat(25),
            _red_black_ssor,
            bandits.policies.fixed(1, arm=0),
            jnp.asarray([omega]),
            num_rounds=5000,
        ).history
        np.testing.assert_allclose(int(record.steps.sum()), total, rtol=2e-3)


# --- sweeps ------------------------------------------------------------------------------------------------


def _random_stencil(key, shape):
    keys = jax.random.split(key, 7)
    parts = [jax.random.normal(k, shape) for k in keys]
    dominant = 2 * len(shape) + 2 + parts[0]
    return O.stencil5(dominant, *parts[1:5]) if len(shape) == 2 else O.stencil7(dominant, *parts[1:7])


@jax.jit
def _sweeps(op, b, omega):
    """Four sweeps in residual form: (x in the operator's shape, residual norms)."""
    ordered = op.ordered
    lower, b = ordered.lower(omega), ordered.pack(b)

    def body(carry, _):
        x, r = carry
        x = x + lower(r)
        r = b - ordered.mv(x)
        return (x, r), jnp.linalg.norm(r)

    (x, _), norms = jax.lax.scan(body, (jnp.zeros_like(b), b), length=4)
    return ordered.unpack(x), norms


@jax.jit
def _at_once(op, b, omega):
    ordered = op.ordered
    b = ordered.pack(b)
    x, norms = sweep(ordered, omega, b, jnp.zeros_like(b), sweeps=4)
    return ordered.unpack(x), norms


@jax.jit
def _solved(op, b, omega):
    """As `sor` steps, which on a grid in natural order has a storage of its own."""
    result = linear.solve(op, b, method=M.sor(omega), tol=0.0, max_steps=4, max_history=5)
    return result.value, result.history[1:]


@pytest.mark.x64
@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 3)])
def test_sweeps_equal_the_sequential_loop(shape, key):
    """Wavefront, pipelined, level-scheduled, red-black and multicolour sweeps of a nonsymmetric stencil."""
    op, omega = _random_stencil(key, shape), jnp.asarray(1.3)
    b = jax.random.normal(jax.random.fold_in(key, 1), shape)
    a, flat = _matrix(op), b.reshape(-1)
    plain = O.as_sparse(op)
    np.testing.assert_allclose(_matrix(plain), a, rtol=1e-15)
    natural = [_sweeps(op, b, omega), _solved(op, b, omega), _at_once(op, b, omega), _sweeps(plain, flat, omega)]
    checkered = [_sweeps(O.reordered(op, "red-black"), b, omega)]
    if len(shape) == 2:  # a corner of the box, not another storage
        natural.append(_sweeps(O.dense(jnp.asarray(a)), flat, omega))
        checkered.append(_sweeps(O.reordered(plain, "multicolor"), flat, omega))
    checkered.append(_sweeps(O.reordered(plain, _red_black(shape)), flat, omega))
    for found, sequence in ((natural, np.arange(a.shape[0])), (checkered, _red_black(shape))):
        x, norms = _loop(a, np.asarray(flat), 1.3, sequence, 4)
        for value, history in found:
            np.testing.assert_allclose(value.reshape(-1), x, atol=1e-12 * np.abs(x).max())
            np.testing.assert_allclose(history, norms, rtol=1e-9, atol=1e-13 * np.linalg.norm(flat))


@pytest.mark.x64
@pytest.mark.parametrize("order", ["natural", "red-black"])
def test_constant_coefficients_are_those_of_every_cell(order, key):
    """Scalars stay scalars, and sweeps with them are those with arrays; an odd grid, and constants but for one."""
    shape, omega = (3, 5), jnp.asarray(1.3)
    b = jax.random.normal(key, shape)
    for north in (-1.0, jnp.linspace(-1.0, 0.0, 15).reshape(shape)):
        one = O.stencil5(5.0, north, -0.5, -0.7, -0.2, shape=shape)
        full = [jnp.broadcast_to(c, shape) for c in (5.0, north, -0.5, -0.7, -0.2)]
        every = O.stencil5(*full)
        assert one.after[0].shape == () and every.after[0].shape == shape
        for run in (_sweeps, _solved, _at_once) if order == "natural" else (_sweeps, _solved):
            got, expected = (run(O.reordered(op, order), b, omega) for op in (one, every))
            np.testing.assert_allclose(got[0], expected[0], rtol=1e-13)
            np.testing.assert_allclose(got[1], expected[1], rtol=1e-12)
        np.testing.assert_array_equal(one.transpose.mv(b), every.transpose.mv(b))


@pytest.mark.x64
def test_pipelined_chunk_equals_sweeps_one_by_one(key):
    shape = (9, 6)
    wave = _random_stencil(key, shape).ordered
    b = wave.pack(jax.random.normal(jax.random.fold_in(key, 1), shape))
    x = wave.pack(jax.random.normal(jax.random.fold_in(key, 2), shape))
    omega = jnp.asarray(1.2)
    got, norms = jax.jit(lambda x: sweep(wave, omega, b, x, sweeps=5))(x)
    lower = jax.jit(lambda x: x + wave.lower(omega)(b - wave.mv(x)))
    for k in range(5):
        x = lower(x)
        np.testing.assert_allclose(norms[k], jnp.linalg.norm(b - wave.mv(x)), rtol=2e-13)
    np.testing.assert_allclose(got, x, atol=3e-15 * float(jnp.abs(x).max()))


@jax.jit
def _triangles(op, r, omega):
    ordered = op.ordered
    r = ordered.pack(r)
    parts = (
        r,
        ordered.mv(r),
        ordered.lower(omega)(r),
        ordered.upper(omega)(r),
        ordered.lower_mv(r),
        ordered.upper_mv(r),
    )
    return [ordered.unpack(part) for part in parts]


@pytest.mark.x64
@pytest.mark.parametrize(("size", "density"), [(1, 0.0), (6, 0.0), (9, 0.1), (14, 0.4)])
def test_level_schedule_equals_triangular_solves(size, density):
    """Random patterns, among them empty rows and isolated unknowns, in random orders, both triangles."""
    rng = np.random.default_rng(size)
    a = sp.random_array((size, size), density=density, rng=rng).toarray()
    np.fill_diagonal(a, 1 + rng.random(size))
    sequence, omega = rng.permutation(size), 1.4
    op = O.reordered(linear.interop.from_scipy(sp.csr_array(a)), sequence)
    permuted, r = a[np.ix_(sequence, sequence)], rng.standard_normal(size)
    same, product, down, up, below, above = (np.asarray(x) for x in _triangles(op, jnp.asarray(r), omega))
    np.testing.assert_array_equal(same, r)
    np.testing.assert_allclose(product, a @ r, atol=1e-13)
    d = np.diag(np.diag(permuted)) / omega
    for solved, times, part in ((down, below, np.tril(permuted, -1)), (up, above, np.triu(permuted, 1))):
        np.testing.assert_allclose(solved[sequence], np.linalg.solve(d + part, r[sequence]), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(times[sequence], part @ r[sequence], atol=1e-13)


@pytest.mark.x64
@pytest.mark.parametrize("order", ["natural", "red-black"])
def test_triangles_of_a_grid(order, key):
    op, omega = O.reordered(_random_stencil(key, (3, 5)), order), 1.7
    r = jax.random.normal(key, (3, 5))
    same, product, down, _, below, above = _triangles(op, r, omega)
    np.testing.assert_array_equal(same, r)
    np.testing.assert_allclose(product, op.mv(r), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(op.diagonal * r + below + above, product, rtol=1e-13, atol=1e-14)
    _, _, _, up, again, _ = _triangles(op, down, omega)
    np.testing.assert_allclose(op.diagonal / omega * down + again, r, rtol=1e-12, atol=1e-13)
    above = _triangles(op, up, omega)[5]
    np.testing.assert_allclose(op.diagonal / omega * up + above, down, rtol=1e-12, atol=1e-13)


def test_levels_of_a_grid_and_of_hard_patterns():
    """A natural 5-point grid has 2 N - 1 levels, its colours 2; chains have one level per unknown."""
    grid = O.as_sparse(O.shifted_laplacian((7, 7))).pattern
    level = levels(49, grid.rows, grid.cols)
    np.testing.assert_array_equal(level, np.indices((7, 7)).sum(0).reshape(-1))
    np.testing.assert_array_equal(greedy_colours(grid), np.indices((7, 7)).sum(0).reshape(-1) % 2)
    chain = O.as_sparse(O.banded(jnp.ones((3, 5)), (-1, 0, 1))).pattern
    np.testing.assert_array_equal(levels(5, chain.rows, chain.cols), np.arange(5))
    # One level of many unknowns, then a chain: the windows stay narrow.
    rows = np.arange(90, 100)
    uneven = O.sparse(jnp.ones(10), rows - 1, np.concatenate([np.zeros(91, int), np.arange(1, 11)])).pattern
    plan = schedule(uneven, "natural")
    assert plan.width * len(plan.windows) < 3 * 100 + 64 * 12
    covered = np.concatenate([np.arange(begin, end) for _, begin, end in plan.windows])
    np.testing.assert_array_equal(covered, np.arange(100))


@pytest.mark.x64
def test_gradients_through_every_order(key):
    """The solution does not depend on the order, so neither do its derivatives; against differences."""
    b = jax.random.normal(key, (3, 4))
    way = jax.random.normal(jax.random.fold_in(key, 1), (2, 3, 4))

    def loss(coefficients, kind):
        op = O.stencil5(coefficients[0], coefficients[1], -0.5, -1.0, -0.2)
        rhs = b
        if kind == "red-black":
            op = O.reordered(op, kind)
        elif kind != "natural":
            op, rhs = O.reordered(O.as_sparse(op), kind), b.reshape(-1)
        value = linear.solve(op, rhs, method=M.sor(1.1), tol=1e-13).value
        return jnp.sum(value.reshape(b.shape) ** 3)

    at = jnp.stack([jnp.full((3, 4), 5.0), jnp.full((3, 4), -0.7)])
    slope = jax.jit(jax.grad(loss), static_argnums=1)
    h = 1e-5
    expected = (loss(at + h * way, "natural") - loss(at - h * way, "natural")) / (2 * h)
    for kind in ("red-black", "multicolor"):
        np.testing.assert_allclose(jnp.vdot(slope(at, kind), way), expected, rtol=1e-6)


def test_pipelined_statuses_history_and_gradient(key):
    op, b = O.shifted_laplacian((4, 5), 0.3), jax.random.normal(key, (4, 5))
    method = M.pipelined_sor(1.3, sweeps=4)
    options = {"tol": 0.0, "max_history": 8}
    for cap in (0, 3, 4, 5):
        capped = linear.solve(op, b, method=method, max_steps=cap, **options)
        plain = linear.solve(op, b, method=M.sor(1.3), max_steps=cap, **options)
        assert int(capped.steps) == cap and int(capped.status) == status.MAX_STEPS
        np.testing.assert_allclose(capped.value, plain.value, atol=1e-5)
        np.testing.assert_allclose(capped.history, plain.history, rtol=1e-5)
    outside = linear.solve(op, b, method=M.pipelined_sor(2.0, sweeps=4), **options)
    assert int(outside.status) & status.OUT_OF_RANGE and int(outside.steps) == 0
    slope = jax.grad(lambda b: linear.solve(op, b, method=method, tol=1e-5).value.sum())(b)
    np.testing.assert_allclose(op.mv(slope), jnp.ones((4, 5)), atol=1e-4)


@pytest.mark.x64
def test_red_black_sweeps_of_the_kernel_are_those_of_sor(key):
    """Nonsymmetric coefficients per cell, a guess, and an adjoint that sweeps with the transpose."""
    op, b = O.reordered(_random_stencil(key, (7, 6)), "red-black"), jax.random.normal(key, (7, 6))

    def run(b, method=M.pipelined_sor(1.1, sweeps=5)):
        result = linear.solve(op, b, 0.1 * b, method=method, tol=1e-9)
        return result.value.sum(), result

    slope, many = jax.grad(run, has_aux=True)(b)
    one = run(b, M.sor(1.1))[1]
    assert int(many.steps) == int(one.steps) > 5 and int(many.status) == int(one.status) == 0
    np.testing.assert_allclose(many.value, one.value, atol=1e-12)
    np.testing.assert_allclose(op.transpose.mv(slope), 1.0, atol=1e-7)


# --- bad input ---------------------------------------------------------------------------------------------


def _solve_in_space(method):
    op = O.reordered(O.shifted_laplacian((2, 2, 2), 1.0), "red-black")
    return linear.solve(op, jnp.ones((2, 2, 2)), method=method)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: O.reordered(O.shifted_laplacian((2, 2)), "multicolor"), "as_sparse"),
        (lambda: O.reordered(O.shifted_laplacian((2, 2)), [3, 2, 1, 0]), "as_sparse"),
        (lambda: O.reordered(O.as_sparse(O.shifted_laplacian((2, 2))), "red-black"), "'multicolor'"),
        (lambda: O.reordered(O.as_sparse(O.shifted_laplacian((2, 2))), [0, 1, 1, 2]), "once"),
        (lambda: O.reordered(O.as_sparse(O.shifted_laplacian((2, 2))), [0, 1, 2]), "once"),
        (lambda: O.reordered(O.dense(jnp.eye(2)), "red-black"), "permute it"),
        (lambda: M.pipelined_sor(1.0, sweeps=0), ">= 1"),
        (lambda: linear.solve(O.dense(jnp.eye(2)), jnp.ones(2), method=M.pipelined_sor(1.0)), "natural order"),
        (lambda: _solve_in_space(M.pipelined_sor(1.0)), "in the plane in red-black order"),
    ],
)
def test_static_misuse_raises(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.bad_input
def test_a_traced_order_names_the_remedy():
    op = O.as_sparse(O.shifted_laplacian((2, 2)))
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda order: O.reordered(op, order).mv(jnp.ones(4)))(jnp.arange(4))
