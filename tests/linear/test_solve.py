"""The driver: statuses, edge cases, gradients, transforms, bad input."""

import re

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


@each_method
def test_zero_right_hand_side_forgets_the_guess(method):
    """What is relative to ||b|| = 0 has one answer; relative to the first residual the guess is worked on."""
    guess = jnp.ones((5, 6))
    result = linear.solve(laplacian(), 0 * guess, guess, method=method, tol=1e-5)
    assert int(result.steps) == 0 and int(result.status) == 0 and not bool(jnp.any(result.value))
    worked = linear.solve(laplacian(), 0 * guess, guess, method=method, tol=1e-5, norm_ref="r0")
    assert int(worked.steps) > 0 and int(worked.status) == 0 and float(jnp.abs(worked.value).max()) < 1e-3


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
    result = linear.solve(op, b, x0, method=method, max_history=3)
    assert int(result.status) == status.NONFINITE_INPUT and int(result.steps) == 0
    assert bool(jnp.all(jnp.isfinite(result.value))) and float(result.residual) == np.inf
    np.testing.assert_array_equal(result.history, [np.inf, np.nan, np.nan])


@each_method
@pytest.mark.parametrize("tol", [np.nan, -1.0])
def test_a_tolerance_that_is_none_is_a_status(method, tol):
    b = jnp.ones((5, 6))
    result = linear.solve(laplacian(), b, 0.1 * b, method=method, tol=tol)
    assert int(result.status) == status.OUT_OF_RANGE and int(result.steps) == 0
    np.testing.assert_allclose(result.residual, jnp.linalg.norm(b - laplacian().mv(0.1 * b)), rtol=1e-6)


@each_method
def test_what_no_float_holds_is_a_status(method):
    """A guess so far off that the tolerance lies below its rounding, and a residual above the largest number."""
    far = jnp.full((5, 6), 3e38).at[3, 3].set(-3e38)
    for b, x0 in ((jnp.ones((5, 6)), far), (far, jnp.zeros((5, 6)))):
        result = linear.solve(laplacian(), b, x0, method=method, tol=1e-5, max_steps=1000)
        assert int(result.status) != 0 and bool(jnp.all(jnp.isfinite(result.value)))
        assert float(result.residual) > 1e18


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


@each_method
@settings(max_examples=15, deadline=None)
@given(power=st.integers(-105, 105))
def test_powers_of_two_scale_everything_and_change_nothing(method, power):
    """Over all of float32: equal counts, and x and residuals equal to the last bit."""
    b, x0 = np.asarray(jax.random.normal(jax.random.key(3), (2, 5, 6)))
    scale = np.float32(2.0**power)
    one, many = (linear.solve(laplacian(), s * b, s * x0, method=method, tol=1e-5, max_history=9) for s in (1, scale))
    assert int(one.steps) == int(many.steps) > 0 and int(one.status) == int(many.status) == 0
    np.testing.assert_array_equal(scale * one.value, many.value)
    np.testing.assert_array_equal(scale * one.residual, many.residual)
    np.testing.assert_array_equal(scale * one.history, many.history)


@each_method
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_scaling_the_right_hand_side_scales_the_solution(method, scale, key):
    b, scale = jax.random.normal(key, (5, 6)), np.float32(scale)
    one, many = (linear.solve(laplacian(), s * b, method=method, tol=1e-5) for s in (np.float32(1), scale))
    assert int(one.steps) == int(many.steps) > 0 and int(one.status) == int(many.status) == 0
    np.testing.assert_allclose(scale * one.value, many.value, rtol=1e-4)
    true = np.linalg.norm(np.asarray(scale * b, float) - _mv64(laplacian(), many.value))
    np.testing.assert_allclose(many.residual, true, rtol=0.1)


@pytest.mark.x64
def test_ssor_preconditioner_is_symmetric_and_positive(key):
    op = laplacian((4, 5), 0.3)
    for omega in (0.5, 1.0, 1.7):
        system = linear.methods.ssor_pcg(omega).prepare(op)
        m = jax.vmap(lambda e, s=system: s.unpack(s.apply(s.pack(e))).reshape(-1))(jnp.eye(20).reshape(20, 4, 5))
        np.testing.assert_allclose(m, m.T, atol=1e-13)
        assert float(jnp.linalg.eigvalsh(m).min()) > 0


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
@pytest.mark.parametrize(("method", "norm_ref"), [("sor", "r0"), ("cg", "b")])
def test_derivatives_do_not_see_the_guess(method, norm_ref, key):
    """b = A x + sin(s) v with x large and a guess near x: first derivatives by vmap, second ones forward over both."""
    x, v = jax.random.normal(key, (2, 5, 6)) * jnp.array([1e8, 1.0])[:, None, None]
    op, options = laplacian(), {"method": METHODS[method], "norm_ref": norm_ref, "tol": 1e-10}

    def run(s):
        return linear.solve(op, op.mv(x) + jnp.sin(s) * v, 0.999 * x, **options).value

    def moment(s):
        return jnp.vdot(v, run(s))

    @jax.jit
    def derivatives(s):
        lanes = jax.vmap(lambda way: jax.jvp(run, (s,), (way,))[1])(jnp.array([1.0, 2.0]))
        return lanes, jax.jacfwd(jax.jacfwd(moment))(s), jax.hessian(moment)(s)

    lanes, *second = derivatives(0.3)
    exact = linear.solve(op, v, method=METHODS[method], tol=1e-13).value
    np.testing.assert_allclose(lanes, np.cos(0.3) * jnp.stack([exact, 2 * exact]), atol=1e-7)
    np.testing.assert_allclose(second, -np.sin(0.3) * jnp.vdot(v, exact), rtol=1e-7)


@pytest.mark.x64
def test_adjoint_tol_is_that_of_every_derivative(key):
    b, way = jax.random.normal(key, (2, 5, 6))

    def run(b):
        return linear.solve(laplacian(), b, method=METHODS["sor"], tol=0.1, adjoint_tol=1e-12).value

    exact = linear.solve(laplacian(), way, method=METHODS["sor"], tol=1e-12).value
    value, forward = jax.jvp(run, (b,), (way,))
    np.testing.assert_allclose(forward, exact, atol=1e-10)
    np.testing.assert_allclose(jax.vjp(run, b)[1](way)[0], exact, atol=1e-10)
    assert float(jnp.linalg.norm(laplacian().mv(value) - b)) > 0.01 * float(jnp.linalg.norm(b))


@pytest.mark.x64
def test_one_dtype_for_operator_guess_and_right_hand_side(key):
    """A float32 operator beside float64 data: every method works in float64."""
    op = jax.tree.map(lambda a: a.astype(jnp.float32), laplacian((5, 6), 0.5))
    b = jax.random.normal(key, (5, 6))
    for method in (linear.methods.ssor_pcg(1.2, form="eisenstat"), linear.methods.pipelined_sor(1.2)):
        result = linear.solve(op, b, b.astype(jnp.float32), method=method, tol=1e-12)
        assert int(result.status) == 0 and result.value.dtype == jnp.float64


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


def test_integers_and_lists_are_conductances():
    """An integer omega would be cut off: the operator is floating whatever it was made from."""
    op = linear.operators.diffusion(np.ones((2, 4), int), [[1, 1, 1]] * 3, 2)
    assert op.diagonal.dtype == jnp.float32
    np.testing.assert_array_equal(op.mv(jnp.ones((3, 4))), 1.0)
    result = linear.solve(op, jnp.arange(12.0).reshape(3, 4), method=linear.methods.sor(1.2), tol=1e-5)
    assert int(result.status) == 0


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
        (lambda: linear.operators.diffusion(jnp.ones((2, 0)), jnp.ones((3, 0)), 1.0), "at least one cell"),
        (lambda: linear.operators.diffusion(jnp.ones(2), jnp.ones((2, 3)), 1.0), "at least one cell"),
        (lambda: linear.operators.diffusion(jnp.ones((2, 3)), jnp.ones((3, 2)), jnp.ones(2)), "must be a scalar"),
        (lambda: linear.solve(laplacian(), jnp.ones((6, 5)), method=METHODS["cg"]), "operator's shape"),
        (lambda: linear.solve(laplacian(), jnp.ones((2, 5, 6)), method=METHODS["cg"]), "jax.vmap for a batch"),
        (lambda: linear.solve(laplacian(), jnp.ones((5, 6)), jnp.ones(3), method=METHODS["cg"]), "x0 must be an array"),
        (lambda: linear.solve(laplacian(), jnp.ones((5, 6)), method=METHODS["cg"], norm_ref="a"), "'b' or 'r0'"),
        (lambda: linear.solve(laplacian(), jnp.ones((5, 6)), method=METHODS["cg"], max_history=-1), ">= 0"),
        (lambda: linear.methods.ssor_pcg(1.0, sweep_first="left"), "sweep_first"),
        (lambda: linear.methods.sor(jnp.ones(3)), "use jax.vmap over it"),
        (lambda: linear.streams.heat(1), ">= 2"),
        (lambda: linear.streams.shifted_laplacian((0, 2)), "at least one cell"),
        (lambda: linear.streams.perona_malik(jnp.ones((4, 4)), steps_per_image=3), "num_images, rows, cols"),
        (lambda: linear.streams.perona_malik(jnp.ones((1, 4, 4)), steps_per_image=0), ">= 1"),
    ],
)
def test_static_misuse_raises(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: linear.solve(jnp.eye(3), jnp.ones(3), method=METHODS["cg"]), "wrap a matrix by linear.operators"),
        (lambda: linear.solve(laplacian(), jnp.ones((5, 6)), method=linear.methods.cg), "such as cg()"),
        (lambda: linear.solve(laplacian(), 1j * jnp.ones((5, 6)), method=METHODS["cg"]), "expected real numbers"),
        (lambda: linear.operators.dense(1j * jnp.eye(2), symmetric=True), "expected real numbers"),
        (lambda: linear.operators.shifted_laplacian((2, 2), 1j), "expected real numbers"),
        (lambda: linear.operators.stencil5(4.0, 1j, 0.0, 0.0, 0.0, shape=(2, 2)), "expected real numbers"),
        (lambda: linear.operators.diffusion(1j * jnp.ones((1, 2)), jnp.ones((2, 1)), 1.0), "expected real numbers"),
    ],
)
def test_wrong_kinds_name_the_remedy(call, match):
    with pytest.raises(TypeError, match=re.escape(match)):
        call()


def test_static_arguments_compare_by_value():
    one, two = (bind(linear.methods.ssor_pcg, sweep_first="backward") for _ in range(2))
    assert one == two and hash(one) == hash(two)
    assert bind(linear.methods.ssor_pcg, sweep_first="forward") != one
    with pytest.raises(TypeError, match="hashable"):
        bind(linear.methods.sor, omega=jnp.ones(2))
    assert isinstance(Partial(one)(1.0), Solver)
