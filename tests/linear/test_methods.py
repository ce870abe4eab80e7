"""Methods: counts against published figures, invariants, refinement, batches, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxsci import linear
from jaxsci.core import status

M = linear.methods
SHAPE = (5, 6)
LOW, HIGH = (4.1 + sign * 2 * (np.cos(np.pi / 6) + np.cos(np.pi / 7)) for sign in (-1, 1))
NEW = {
    "jacobi": M.jacobi(),
    "ssor": M.ssor(1.3),
    "chebyshev": M.chebyshev(LOW, HIGH),
    "eisenstat": M.ssor_pcg(1.3, form="eisenstat"),
}
each_new = pytest.mark.parametrize("method", NEW.values(), ids=NEW.keys())


def laplacian(shift=0.1, shape=SHAPE):
    return linear.operators.shifted_laplacian(shape, shift)


def matrix(op, shape=SHAPE):
    n = int(np.prod(shape))
    return np.asarray(jax.vmap(op.mv)(jnp.eye(n).reshape(n, *shape))).reshape(n, n).T


# --- counts ------------------------------------------------------------------------------------------------

# b_i = sin(i) on the 10 x 10 grid, x0 = 0, tol 1e-8: c, Jacobi, SSOR, Chebyshev (exact bounds), SSOR-PCG, both orders.
TABLE = [
    (0.0, 294, (53, 32, 31, 67), 65, (14, 12, 12, 13, 16), (15, 13, 12, 13, 16)),
    (-0.15, 3876, (524, 284, 260, 326), 235, (18, 16, 16, 17, 20), (18, 16, 15, 17, 20)),
    (0.45, 82, (19, 17, 28, 63), 34, (10, 9, 9, 12, 16), (10, 9, 9, 12, 16)),
]


@pytest.mark.x64
@pytest.mark.parametrize(("shift", "jacobi", "ssor", "chebyshev", "backward", "forward"), TABLE)
def test_published_counts(shift, jacobi, ssor, chebyshev, backward, forward):
    op, b = laplacian(shift, (10, 10)), jnp.sin(jnp.arange(1.0, 101.0)).reshape(10, 10)

    def steps(method):
        result = linear.solve(op, b, method=method)
        assert int(result.status) == 0
        return int(result.steps)

    assert abs(steps(M.jacobi()) - jacobi) <= 1
    np.testing.assert_allclose([steps(M.ssor(w)) for w in (1.0, 1.4, 1.6, 1.8)], ssor, atol=1)
    wave = 4 * np.cos(np.pi / 11)
    assert abs(steps(M.chebyshev(4 + shift - wave, 4 + shift + wave)) - chebyshev) <= 1
    for order, expected in (("backward", backward), ("forward", forward)):
        got = [steps(M.ssor_pcg(w, sweep_first=order, form="eisenstat")) for w in (1.0, 1.2, 1.4, 1.6, 1.8)]
        np.testing.assert_allclose(got, expected, atol=1)


# --- invariants --------------------------------------------------------------------------------------------


def iterates(method, op, b, num_steps):
    """x after 0, 1, ... steps, and the residuals that the method believes in."""

    def run(op, b):
        system = method.prepare(op)
        state = method.init(system, system.pack(b), jnp.zeros_like(system.pack(b)))

        def step(state, _):
            after = method.step(system, system.pack(b), state)
            return after, (system.unpack(system.iterate(after.x)), system.unpack(after.r))

        _, (xs, rs) = jax.lax.scan(step, state, length=num_steps)
        return jnp.concatenate([jnp.zeros_like(b)[None], xs]), rs

    return jax.jit(run)(op, b)


ENERGY = {
    "sor": M.sor(1.7),
    "ssor": M.ssor(0.6),
    "jacobi": M.jacobi(0.9),
    "cg": M.cg(),
    "ssor_pcg": M.ssor_pcg(1.5, sweep_first="backward"),
    "eisenstat": M.ssor_pcg(1.5, sweep_first="backward", form="eisenstat"),
}


@pytest.mark.x64
def test_energy_of_the_error_falls_and_residuals_are_true(key):
    op, x = laplacian(0.0), jax.random.normal(key, SHAPE)
    b, a, found = op.mv(x), matrix(op), {}
    for name, method in ENERGY.items():
        xs, rs = (np.asarray(v) for v in iterates(method, op, b, 12))
        errors = (np.asarray(x) - xs).reshape(13, -1)
        energy = np.einsum("ki,ij,kj->k", errors, a, errors)
        assert np.all(energy[1:] <= energy[:-1] * (1 + 1e-12)) and energy[-1] < 0.5 * energy[0], name
        np.testing.assert_allclose(rs.reshape(12, -1), errors[1:] @ a.T, atol=1e-12, err_msg=name)
        found[name] = xs
    np.testing.assert_allclose(found["eisenstat"], found["ssor_pcg"], atol=1e-12)  # the same steps


@pytest.mark.x64
def test_sweeps_are_those_of_their_matrices(key):
    """One step each from zero: Gauss-Seidel is SOR at 1, and SSOR is a forward, then a backward SOR sweep."""
    op, b = laplacian(0.2), jax.random.normal(key, SHAPE)
    a, flat = matrix(op), np.asarray(b).reshape(-1)
    d = np.diag(np.diag(a))

    def sweep(part, omega, x):
        return x + np.linalg.solve(d / omega + part, flat - a @ x)

    lower, upper = np.tril(a, -1), np.triu(a, 1)
    zero = np.zeros_like(flat)
    expected = {
        "jacobi": (M.jacobi(0.8), sweep(0 * a, 0.8, zero)),
        "gauss_seidel": (M.gauss_seidel(), sweep(lower, 1.0, zero)),
        "sor": (M.sor(1.6), sweep(lower, 1.6, zero)),
        "ssor": (M.ssor(1.6), sweep(upper, 1.6, sweep(lower, 1.6, zero))),
    }
    for name, (method, x) in expected.items():
        np.testing.assert_allclose(iterates(method, op, b, 1)[0][1].reshape(-1), x, atol=1e-12, err_msg=name)


@pytest.mark.x64
def test_ssor_is_palindromic():
    """Forward then backward is its own transpose: the map r -> correction is symmetric, and definite inside (0, 2)."""
    op = laplacian(0.2)
    system = M.ssor(jnp.asarray(1.6)).prepare(op)
    n = SHAPE[0] * SHAPE[1]
    m = jax.vmap(lambda e: system.unpack(system.apply(system.pack(e))))(jnp.eye(n).reshape(n, *SHAPE)).reshape(n, n)
    np.testing.assert_allclose(m, m.T, atol=1e-13)
    assert float(np.linalg.eigvalsh(m).min()) > 0


def test_jacobi_solves_a_diagonal_system_in_one_step():
    op = linear.operators.dense(jnp.diag(jnp.array([1.0, 2.0, 4.0])))
    result = linear.solve(op, jnp.ones(3), method=M.jacobi(), tol=1e-6)
    assert int(result.steps) == 1 and int(result.status) == 0


@pytest.mark.x64
@each_new
def test_scaling_warm_start_and_zero(method, key):
    op, x = laplacian(), jax.random.normal(key, SHAPE)
    b, zero = op.mv(x), jnp.zeros(SHAPE)
    one, many = (linear.solve(op, s * b, zero, method=method) for s in (1.0, 1024.0))
    assert int(one.steps) == int(many.steps) and int(one.status) == int(many.status) == 0
    np.testing.assert_allclose(1024 * one.value, many.value, rtol=1e-12)
    np.testing.assert_allclose(one.value, x, atol=1e-6)
    warm = linear.solve(op, b, x, method=method)
    assert int(warm.steps) == 0 and int(warm.status) == 0
    nothing = linear.solve(op, zero, zero, method=method)
    assert int(nothing.steps) == 0 and int(nothing.status) == 0 and not bool(jnp.any(nothing.value))


@pytest.mark.x64
def test_any_linear_preconditioner(key):
    """The symmetric sweep handed over as a function gives the counts of `ssor_pcg`; a Partial's arrays are traced."""
    op, b = laplacian(0.0), jax.random.normal(key, SHAPE)
    system = M.ssor(1.4).prepare(op)
    by_hand = linear.solve(op, b, method=M.pcg(lambda r: system.unpack(system.apply(system.pack(r)))))
    assert int(by_hand.steps) == int(linear.solve(op, b, method=M.ssor_pcg(1.4)).steps)
    strong = linear.operators.diffusion(jnp.exp(3 * b[1:]), jnp.exp(3 * b[:, 1:]), 5.0)
    counts = {
        name: int(linear.solve(strong, b, method=M.pcg(Partial(jnp.multiply, scale))).steps)
        for name, scale in (("none", jnp.ones(SHAPE)), ("diagonal", 1 / strong.diagonal))
    }
    assert counts["diagonal"] < counts["none"]


def test_a_preconditioner_that_is_not_definite_is_a_status():
    result = linear.solve(laplacian(), jnp.ones(SHAPE), method=M.pcg(Partial(jnp.negative)))
    assert int(result.status) & status.SINGULAR and bool(jnp.all(jnp.isfinite(result.value)))


# --- statuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("omega", [0.0, 2.0, np.nan])
@pytest.mark.parametrize("make", [M.jacobi, M.ssor], ids=["jacobi", "ssor"])
def test_omega_outside_its_range_is_a_status(make, omega):
    result = linear.solve(laplacian(), jnp.ones(SHAPE), method=make(omega))
    assert int(result.status) & status.OUT_OF_RANGE and int(result.steps) == 0


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (np.nan, 1.0), (1.0, np.inf)])
def test_an_interval_that_is_none_is_a_status(bounds):
    result = linear.solve(laplacian(), jnp.ones(SHAPE), method=M.chebyshev(*bounds))
    assert int(result.status) & status.OUT_OF_RANGE and int(result.steps) == 0


def test_chebyshev_below_the_spectrum_diverges_and_says_so(key):
    b = jax.random.normal(key, SHAPE)
    result = linear.solve(laplacian(), b, method=M.chebyshev(LOW, 0.9 * HIGH))
    assert int(result.status) & status.DIVERGED and bool(jnp.all(jnp.isfinite(result.value)))
    assert int(result.steps) < 500


def test_chebyshev_on_a_point():
    """low = high: A is a multiple of the identity, and one step solves it."""
    op = linear.operators.dense(3 * jnp.eye(4), symmetric=True)
    result = linear.solve(op, jnp.arange(4.0), method=M.chebyshev(3.0, 3.0), tol=1e-6)
    assert int(result.steps) == 1 and int(result.status) == 0


def test_damped_jacobi_diverges_where_theory_says(key):
    """Eigenvalues of D^-1 A reach 1 + beta: omega = 1.9 is beyond 2 / (1 + beta)."""
    result = linear.solve(laplacian(0.0), jax.random.normal(key, SHAPE), method=M.jacobi(1.9))
    assert int(result.status) & status.DIVERGED and bool(jnp.all(jnp.isfinite(result.value)))


@pytest.mark.parametrize("form", ["plain", "eisenstat"])
def test_rounding_is_stagnation_not_a_matrix_that_is_singular(form, key):
    """Without a tolerance the recursion runs until its squares vanish."""
    b = jax.random.normal(key, SHAPE)
    result = linear.solve(laplacian(), b, method=M.ssor_pcg(1.3, form=form), tol=0.0)
    assert int(result.status) == status.STAGNATED and int(result.steps) < 100
    assert float(result.residual) < 1e-5 * float(jnp.linalg.norm(b))


# --- refinement --------------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize(
    ("method", "extra"),
    [
        pytest.param(M.sor(1.6), 0, id="stationary"),
        pytest.param(M.ssor_pcg(1.4), 8, id="krylov", marks=pytest.mark.slow),
    ],
)
def test_refinement_reaches_what_float32_does_not(method, extra, key):
    op, b = laplacian(-0.15, (10, 10)), jax.random.normal(key, (10, 10))
    small = jax.tree.map(lambda a: a.astype(jnp.float32), (op, b))
    plain = linear.solve(*small, method=method, tol=1e-8, patience=100)
    assert int(plain.status) & status.STAGNATED
    refined, full = (linear.solve(op, b, method=each, tol=1e-8) for each in (M.refined(method), method))
    assert int(refined.status) == 0 and float(refined.residual) <= 1e-8 * float(jnp.linalg.norm(b)) * 1.1
    assert abs(int(refined.steps) - int(full.steps)) <= 1 + extra
    np.testing.assert_allclose(refined.value, full.value, atol=1e-6)


@pytest.mark.x64
def test_a_preconditioner_in_full_precision_is_rounded_with_its_method(key):
    """Arrays of a Partial are cast, and what a closure returns too."""
    op, b = laplacian(), jax.random.normal(key, SHAPE)
    scale = 1 / op.diagonal
    for preconditioner in (Partial(jnp.multiply, scale), lambda r: scale * r):
        result = linear.solve(op, b, method=M.refined(M.pcg(preconditioner)), tol=1e-10)
        assert int(result.status) == 0 and result.value.dtype == jnp.float64


def _refined_in_half(method):
    return linear.solve(laplacian(), jnp.ones(SHAPE), method=M.refined(method, dtype="float16"))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: M.pcg(3.0), TypeError, "function"),
        (lambda: M.ssor_pcg(1.0, form="fast"), ValueError, "'plain' or 'eisenstat'"),
        (lambda: M.jacobi(jnp.ones(2)), ValueError, "jax.vmap"),
        (lambda: M.chebyshev(1.0, jnp.ones(2)), ValueError, "high must be a scalar"),
        (lambda: linear.solve(laplacian(), jnp.ones(SHAPE), method=M.refined(M.cg())), ValueError, "jax_enable_x64"),
        (lambda: linear.solve(laplacian(), jnp.ones(SHAPE), method=M.cg(), batching="all"), ValueError, "'auto'"),
        (lambda: _refined_in_half(M.pipelined_sor(1.2)), ValueError, "pipelined_sor keeps several iterates"),
    ],
)
def test_misuse_raises(call, error, match):
    with pytest.raises(error, match=match):
        call()


# --- batches -----------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_lanes_cost_their_own_steps_and_count_the_same(key):
    """Over omega, systems and right-hand sides at once, by either rule, nested too."""
    omegas, shifts = jnp.array([1.0, 1.5, 1.9]), jnp.array([-0.1, 0.4])
    b = jax.random.normal(key, SHAPE)

    def run(omega, shift, batching="map"):
        result = linear.solve(laplacian(shift), b, method=M.sor(omega), batching=batching)
        return result.steps, result.value

    single = [[run(w, c) for w in omegas] for c in shifts]
    nested = jax.vmap(jax.vmap(run, (0, None)), (None, 0))(omegas, shifts)
    assert nested[0].tolist() == [[int(k) for k, _ in row] for row in single]
    np.testing.assert_allclose(nested[1], jnp.stack([jnp.stack([x for _, x in row]) for row in single]), rtol=1e-12)
    together = jax.vmap(lambda w: run(w, -0.1, "vmap"))(omegas)
    assert together[0].tolist() == nested[0][0].tolist()
    np.testing.assert_allclose(together[1], nested[1][0], rtol=1e-12)


@pytest.mark.x64
def test_lanes_of_what_a_closure_holds(key):
    """Arrays that reach the solve through a closure are batched like arguments."""
    b = jax.random.normal(key, SHAPE)

    def run(c):
        op = linear.operators.matrix_free(lambda x: c * x, c * jnp.ones(SHAPE), symmetric=True)
        return linear.solve(op, b, method=M.cg()).value

    cs = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.vmap(run)(cs), np.asarray(b) / np.asarray(cs)[:, None, None], rtol=1e-12)


# --- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_gradients_equal_differences_and_leave_counts_alone(key):
    keys = jax.random.split(key, 3)
    b, way = jax.random.normal(keys[0], SHAPE), jax.random.normal(keys[1], SHAPE)
    west = -1 + 0.1 * jax.random.uniform(keys[2], SHAPE)

    @jax.jit
    def run(b, shift, west):
        op = linear.operators.stencil5(4.5 + shift, -1.0, -1.0, west, -1.0)
        result = linear.solve(op, b, method=M.ssor(1.2), tol=1e-13)
        return jnp.sum(jnp.sin(result.value)), (result.steps, result.status)

    slopes, (steps, code) = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(b, 0.3, west)
    _, (alone, _) = run(b, 0.3, west)
    assert int(steps) == int(alone) > 0 and int(code) == 0
    directions = ((way, 0.0, 0 * way), (0 * way, 1.0, 0 * way), (0 * way, 0.0, way))
    for slope, direction in zip(slopes, directions):
        there = [[x + h * d for x, d in zip((b, 0.3, west), direction)] for h in (1e-6, -1e-6)]
        up, down = (run(*point)[0] for point in there)
        got = sum(float(jnp.vdot(s, d)) for s, d in zip(slopes, direction))
        np.testing.assert_allclose(got, (up - down) / 2e-6, rtol=1e-6, atol=1e-8)
        assert bool(jnp.all(jnp.isfinite(slope)))


def test_gradients_are_finite_at_the_cap():
    def run(b, shift):
        result = linear.solve(laplacian(shift), b, method=M.ssor(1.2), max_steps=2)
        return result.value.sum(), result.status

    slopes, code = jax.grad(run, (0, 1), has_aux=True)(jnp.ones(SHAPE), 0.1)
    assert int(code) == status.MAX_STEPS and all(bool(jnp.all(jnp.isfinite(s))) for s in slopes)
