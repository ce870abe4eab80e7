"""The driver: statuses, edge cases, gradients, transforms, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

import contracts
from jaxsci import check, linear
from jaxsci.core import status
from jaxsci.core.protocols import Solver
from jaxsci.core.static import bind

METHODS = {
    "sor": linear.methods.sor(1.4),
    "cg": linear.methods.cg(),
    "ssor_pcg": linear.methods.ssor_pcg(1.3),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def laplacian(shape=(5, 6), shift=0.1):
    return linear.operators.shifted_laplacian(shape, shift)


@each_method
def test_zero_right_hand_side(method):
    result = linear.solve(laplacian(), jnp.zeros((5, 6)), method=method)
    assert int(result.steps) == 0 and int(result.status) == 0 and not bool(jnp.any(result.value))
    slope = jax.grad(lambda b: linear.solve(laplacian(), b, method=method).value.sum())(jnp.zeros((5, 6)))
    assert bool(jnp.all(jnp.isfinite(slope)))


@pytest.mark.x64
@each_method
def test_warm_start_at_the_solution_takes_no_step(method, key):
    op, x = laplacian(), jax.random.normal(key, (5, 6))
    result = linear.solve(op, op.mv(x), x, method=method)
    assert int(result.steps) == 0 and int(result.status) == 0


@each_method
def test_one_unknown(method):
    op = linear.operators.shifted_laplacian((1, 1), 1.0)
    result = linear.solve(op, jnp.array([[10.0]]), method=method, tol=1e-6)
    np.testing.assert_allclose(result.value, [[2.0]], rtol=1e-5)


def test_diagonal_system_converges_in_one_step():
    op = linear.operators.dense(jnp.diag(jnp.array([1.0, 2.0, 3.0])))
    result = linear.solve(op, jnp.ones(3), method=linear.methods.sor(1.0), tol=1e-6)
    assert int(result.steps) == 1


@pytest.mark.parametrize("omega", [0.0, -0.5, 2.0, 2.5, np.nan, np.inf])
@pytest.mark.parametrize("make", [linear.methods.sor, linear.methods.ssor_pcg])
def test_omega_outside_its_range_is_a_status(make, omega):
    result = linear.solve(laplacian(), jnp.ones((5, 6)), method=make(omega))
    assert int(result.status) & status.OUT_OF_RANGE
    assert int(result.steps) == 0 and bool(jnp.all(jnp.isfinite(result.value)))
    with pytest.raises(status.StatusError, match="out of range"):
        check(result)


@each_method
@pytest.mark.parametrize("where", ["b", "x0", "op"])
def test_nan_is_a_status_and_the_value_is_finite(method, where):
    op, b, x0 = laplacian(), jnp.ones((5, 6)), jnp.zeros((5, 6))
    if where == "b":
        b = b.at[2, 3].set(jnp.nan)
    elif where == "x0":
        x0 = x0.at[0, 0].set(jnp.inf)
    else:
        op = linear.operators.shifted_laplacian((5, 6), jnp.nan)
    result = linear.solve(op, b, x0, method=method)
    assert int(result.status) & status.NONFINITE_INPUT and int(result.steps) == 0
    assert bool(jnp.all(jnp.isfinite(result.value)))


def test_zero_diagonal_is_a_status():
    op = linear.operators.dense(jnp.array([[0.0, 1.0], [1.0, 0.0]]))
    result = linear.solve(op, jnp.ones(2), method=linear.methods.sor(1.0))
    assert int(result.status) & status.SINGULAR and bool(jnp.all(jnp.isfinite(result.value)))


def test_indefinite_matrix_is_a_status():
    op = linear.operators.dense(jnp.diag(jnp.array([1.0, -1.0])), symmetric=True)
    result = linear.solve(op, jnp.array([1.0, 2.0]), method=linear.methods.cg())
    assert int(result.status) & status.SINGULAR and bool(jnp.all(jnp.isfinite(result.value)))


def test_divergence_is_a_status():
    # Gauss-Seidel on a matrix far from diagonal dominance
    op = linear.operators.dense(jnp.array([[1.0, 5.0], [5.0, 1.0]]))
    result = linear.solve(op, jnp.ones(2), method=linear.methods.sor(1.0))
    assert int(result.status) & status.DIVERGED and bool(jnp.all(jnp.isfinite(result.value)))
    assert int(result.steps) < 100


def test_cap_is_a_status_and_zero_steps_are_allowed(key):
    b = jax.random.normal(key, (5, 6))
    for cap in (0, 3):
        result = linear.solve(laplacian(), b, method=METHODS["sor"], max_steps=cap)
        assert int(result.status) == status.MAX_STEPS and int(result.steps) == cap


@each_method
def test_float32_stagnates_and_says_so(method, key):
    """1e-8 is below what float32 reaches: the solve ends by stagnation, long before the cap."""
    b = jax.random.normal(key, (10, 10))
    result = linear.solve(linear.operators.shifted_laplacian((10, 10)), b, method=method, tol=1e-9, patience=100)
    assert int(result.status) & status.STAGNATED and int(result.steps) < 2000
    assert float(result.residual) < 1e-5 * float(jnp.linalg.norm(b))


def test_reported_residual_is_never_understated(key):
    """The recursion of CG in float32 goes on falling after b - A x has stopped; the report does not."""
    op = linear.operators.shifted_laplacian((10, 10), -0.15)
    b = jax.random.normal(key, (10, 10))
    result = linear.solve(op, b, method=linear.methods.cg(), tol=1e-9)
    true = np.linalg.norm(np.asarray(b, float) - _mv64(op, result.value))
    assert true <= 2 * float(result.residual) + 1e-6
    assert int(result.status) & status.STAGNATED


def _mv64(op, x):
    x = np.pad(np.asarray(x, np.float64), 1)
    d = float(op.diagonal[0, 0])
    return d * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]


@pytest.mark.x64
def test_history_holds_the_norms_then_nan(key):
    b = jax.random.normal(key, (5, 6))
    result = linear.solve(laplacian(), b, method=METHODS["sor"], max_history=200)
    k = int(result.steps)
    history = np.asarray(result.history)
    np.testing.assert_allclose(history[0], np.linalg.norm(b))
    np.testing.assert_allclose(history[k], result.residual, rtol=1e-9, atol=1e-15 * history[0])  # another order of sums
    assert np.all(np.isfinite(history[: k + 1])) and np.all(np.isnan(history[k + 1 :]))
    short = linear.solve(laplacian(), b, method=METHODS["sor"], max_history=3)
    np.testing.assert_array_equal(short.history, history[:3])


@pytest.mark.x64
def test_norm_ref_r0(key):
    op, x0 = laplacian(), jax.random.normal(key, (5, 6))
    b = op.mv(x0) + 1e-3 * jax.random.normal(jax.random.fold_in(key, 1), (5, 6))
    by_b = linear.solve(op, b, x0, method=METHODS["sor"], tol=1e-6, norm_ref="b")
    by_r0 = linear.solve(op, b, x0, method=METHODS["sor"], tol=1e-6, norm_ref="r0")
    assert int(by_b.steps) < int(by_r0.steps)
    assert float(by_r0.residual) <= 1e-6 * float(jnp.linalg.norm(b - op.mv(x0)))


# --- properties --------------------------------------------------------------------------------------------


@pytest.mark.x64
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), omega=st.floats(0.1, 1.9))
def test_energy_norm_of_the_error_never_grows(seed, omega):
    op = laplacian((4, 5), 0.0)
    key = jax.random.key(seed)
    x = jax.random.normal(key, (4, 5))
    b = op.mv(x)
    e = [x - linear.solve(op, b, method=linear.methods.sor(omega), max_steps=k, tol=0.0).value for k in range(4)]
    energy = [float(jnp.sum(v * op.mv(v))) for v in e]
    assert all(later <= before * (1 + 1e-12) for before, later in zip(energy, energy[1:]))


@pytest.mark.x64
@each_method
def test_scaling_the_right_hand_side_scales_the_solution(method, key):
    b = jax.random.normal(key, (5, 6))
    one, ten = (linear.solve(laplacian(), s * b, method=method) for s in (1.0, 1024.0))
    assert int(one.steps) == int(ten.steps)
    np.testing.assert_allclose(1024 * one.value, ten.value, rtol=1e-12)


@pytest.mark.x64
def test_ssor_preconditioner_is_symmetric_and_positive(key):
    op = laplacian((4, 5), 0.3)
    for omega in (0.5, 1.0, 1.7):
        system = linear.methods.ssor_pcg(omega).prepare(op)
        eye = jnp.eye(20).reshape(20, 4, 5)
        m = jnp.stack([system.unpack(system.apply(system.pack(e))).reshape(-1) for e in eye])
        np.testing.assert_allclose(m, m.T, atol=1e-13)
        assert float(jnp.linalg.eigvalsh(m).min()) > 0


@pytest.mark.x64
def test_young_against_eigenvalues():
    shape = (6, 9)
    for shift in (-0.05, 0.0, 0.4):
        op = linear.operators.shifted_laplacian(shape, shift)
        eye = jnp.eye(54).reshape(54, *shape)
        a = np.stack([np.asarray(op.mv(e)).reshape(-1) for e in eye])
        d = np.diag(np.diag(a))
        radius = np.abs(np.linalg.eigvals(np.eye(54) - np.linalg.solve(d, a))).max()
        np.testing.assert_allclose(linear.theory.laplacian_radius(shape, shift), radius, rtol=1e-12)
        for omega in (0.8, 1.0, 1.3, 1.9):
            m = d / omega + np.tril(a, -1)
            rate = np.abs(np.linalg.eigvals(np.eye(54) - np.linalg.solve(m, a))).max()
            # At double eigenvalues the numerical spectrum itself is accurate to the root of eps only.
            np.testing.assert_allclose(linear.theory.young_rate(omega, radius), rate, rtol=1e-7)
        best = float(linear.theory.young_omega(radius))
        rates = [float(linear.theory.young_rate(best + e, radius)) for e in (-1e-3, 0.0, 1e-3)]
        assert rates[1] == min(rates)


# --- transforms --------------------------------------------------------------------------------------------


@pytest.mark.x64
@each_method
def test_gradients_equal_those_of_a_dense_solve(method, key):
    b = jax.random.normal(key, (4, 5))

    def iterative(b, shift):
        return jnp.sum(jnp.sin(linear.solve(laplacian((4, 5), shift), b, method=method, tol=1e-13).value))

    def direct(b, shift):
        op = laplacian((4, 5), shift)
        a = jnp.stack([op.mv(e).reshape(-1) for e in jnp.eye(20).reshape(20, 4, 5)])
        return jnp.sum(jnp.sin(jnp.linalg.solve(a, b.reshape(-1))))

    def derivatives(f):
        first = jax.grad(f, (0, 1))
        second = jax.grad(lambda s: jax.grad(f, 1)(b, s))
        forward = jax.jvp(lambda s: f(b, s), (0.3,), (1.0,))[1]
        return first(b, 0.3), second(0.3), forward

    got, expected = (jax.jit(lambda f=f: derivatives(f))() for f in (iterative, direct))
    for x, y, rtol in zip(jax.tree.leaves(got), jax.tree.leaves(expected), (1e-8, 1e-8, 1e-7, 1e-8), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-10)


@pytest.mark.x64
def test_gradient_through_a_nonsymmetric_operator(key):
    b = jax.random.normal(key, (4, 5))

    def operator(west):
        return linear.operators.stencil5(5.0, -1.0, -0.5, west, -0.2, shape=(4, 5))

    def iterative(west):
        return jnp.sum(linear.solve(operator(west), b, method=linear.methods.sor(1.0), tol=1e-13).value ** 2)

    def direct(west):
        a = jnp.stack([operator(west).mv(e).reshape(-1) for e in jnp.eye(20).reshape(20, 4, 5)]).T
        return jnp.sum(jnp.linalg.solve(a, b.reshape(-1)) ** 2)

    np.testing.assert_allclose(jax.grad(iterative)(-0.7), jax.grad(direct)(-0.7), rtol=1e-9)


def test_gradients_stay_finite_at_the_cap(key):
    b = jax.random.normal(key, (5, 6))
    slope = jax.grad(lambda b: linear.solve(laplacian(), b, method=METHODS["sor"], max_steps=2).value.sum())(b)
    assert bool(jnp.all(jnp.isfinite(slope)))


@pytest.mark.x64
def test_vmap_over_omega_systems_and_right_hand_sides(key):
    omegas, shifts = jnp.array([1.0, 1.5, 1.9]), jnp.array([-0.1, 0.0, 0.4])
    bs = jax.random.normal(key, (3, 6, 6))

    def run(omega, shift, b):
        return linear.solve(laplacian((6, 6), shift), b, method=linear.methods.sor(omega))

    batch = jax.vmap(run)(omegas, shifts, bs)
    loop = [run(*each) for each in zip(omegas, shifts, bs)]
    assert batch.steps.tolist() == [int(r.steps) for r in loop]
    np.testing.assert_allclose(batch.value, jnp.stack([r.value for r in loop]), rtol=1e-12)
    over_omega = jax.vmap(lambda w: jax.grad(lambda b: run(w, 0.0, b).value.sum())(bs[0]))(omegas)
    np.testing.assert_allclose(over_omega[0], over_omega[2], atol=1e-7)


def test_fresh_partials_of_other_values_compile_nothing():
    b = jnp.ones((5, 6))
    linear.solve(laplacian(), b, method=linear.methods.sor(1.1), tol=1e-4)
    linear.solve(laplacian(), b, method=linear.methods.ssor_pcg(1.1), tol=1e-4)
    other, twice = linear.operators.shifted_laplacian((5, 6), 0.7), 2 * b
    with contracts.count_compilations() as events:
        linear.solve(other, twice, method=linear.methods.sor(1.7), tol=1e-3, max_steps=77, patience=33)
        linear.solve(other, twice, method=linear.methods.ssor_pcg(0.4), tol=1e-5)
    assert not events


# --- operators ---------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_transpose_and_storage_round_trip(key):
    keys = jax.random.split(key, 7)
    shape = (4, 7)
    parts = [jax.random.normal(k, shape) for k in keys[:5]]
    op = linear.operators.stencil5(*parts)
    x, y = jax.random.normal(keys[5], shape), jax.random.normal(keys[6], shape)
    np.testing.assert_allclose(jnp.sum(y * op.mv(x)), jnp.sum(op.transpose.mv(y) * x), rtol=1e-12)
    ordered = op.ordered
    np.testing.assert_array_equal(ordered.unpack(ordered.pack(x)), x)
    np.testing.assert_allclose(ordered.unpack(ordered.mv(ordered.pack(x))), op.mv(x), rtol=1e-12, atol=1e-13)


@pytest.mark.x64
def test_diffusion_keeps_the_mean_and_constants(key):
    g = jax.random.uniform(key, (3, 5)), jax.random.uniform(key, (4, 4))
    op = linear.operators.diffusion(*g, 2.5)
    np.testing.assert_allclose(op.mv(jnp.ones((4, 5))), 1.0, rtol=1e-13)
    x = jax.random.normal(key, (4, 5))
    np.testing.assert_allclose(jnp.sum(op.mv(x)), jnp.sum(x), rtol=1e-12)
    eye = jnp.eye(20).reshape(20, 4, 5)
    a = jnp.stack([op.mv(e).reshape(-1) for e in eye])
    np.testing.assert_array_equal(a, a.T)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: linear.operators.stencil5(4.0, -1.0, -1.0, -1.0, -1.0), "give shape="),
        (lambda: linear.operators.stencil5(jnp.ones((2, 3)), jnp.ones((3, 2)), 0.0, 0.0, 0.0), "one shape"),
        (lambda: linear.operators.stencil5(4.0, 0.0, 0.0, 0.0, 0.0, shape=(0, 3)), "at least one cell"),
        (lambda: linear.operators.dense(jnp.ones((2, 3))), "square matrix"),
        (lambda: linear.operators.dense(jnp.ones((0, 0))), "n >= 1"),
        (lambda: linear.operators.diffusion(jnp.ones((2, 3)), jnp.ones((2, 3)), 1.0), "across_cols of shape"),
        (lambda: linear.solve(laplacian(), jnp.ones((6, 5)), method=METHODS["cg"]), "operator's shape"),
        (lambda: linear.solve(laplacian(), jnp.ones((2, 5, 6)), method=METHODS["cg"]), "jax.vmap for a batch"),
        (lambda: linear.solve(laplacian(), jnp.ones((5, 6)), jnp.ones(3), method=METHODS["cg"]), "x0 must have"),
        (lambda: linear.solve(laplacian(), jnp.ones((5, 6)), method=METHODS["cg"], norm_ref="a"), "'b' or 'r0'"),
        (lambda: linear.solve(laplacian(), jnp.ones((5, 6)), method=METHODS["cg"], max_history=-1), ">= 0"),
        (lambda: linear.methods.ssor_pcg(1.0, sweep_first="left"), "sweep_first"),
        (lambda: linear.methods.sor(jnp.ones(3)), "jax.vmap to sweep it"),
        (lambda: linear.streams.heat(1), ">= 2"),
        (lambda: linear.streams.shifted_laplacian((0, 2)), "at least one cell"),
        (lambda: linear.streams.perona_malik(jnp.ones((4, 4)), steps_per_image=3), "num_images, rows, cols"),
        (lambda: linear.streams.perona_malik(jnp.ones((1, 4, 4)), steps_per_image=0), ">= 1"),
    ],
)
def test_static_misuse_raises(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_static_arguments_compare_by_value():
    one, two = (bind(linear.methods.ssor_pcg, sweep_first="backward") for _ in range(2))
    assert one == two and hash(one) == hash(two)
    assert bind(linear.methods.ssor_pcg, sweep_first="forward") != one
    with pytest.raises(TypeError, match="hashable"):
        bind(linear.methods.sor, omega=jnp.ones(2))
    assert isinstance(Partial(one)(1.0), Solver)
