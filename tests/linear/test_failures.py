"""Inputs that are not what a solve is for: scales, shapes, arms, and failures that are not the tolerance's fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from jaxsci import bandits, linear
from jaxsci.core import status
from jaxsci.linear import bounds, lanczos, methods, operators

GRID = operators.shifted_laplacian((4, 4), 0.1)
START = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)


# --- scales ------------------------------------------------------------------------------------------------


@jax.jit
@jax.vmap
def _ends(scale, start_scale):
    op = operators.scaled(GRID, scale)
    found = lanczos.extreme_eigenvalues(op, start_scale * START, num_steps=12)
    power = bounds.power(op, start_scale * START, num_steps=60)
    return jnp.stack([found.low, found.high, power.high]) / scale, found.status | power.status


def test_eigenvalues_of_any_size_have_their_digits():
    """Squares of 1e20 and 1e-25 over- and underflow in single precision; the eigenvalues do not."""
    scales = np.array([1, 1e20, 1e-25, 1, 1, 1e30], np.float32), np.array([1, 1, 1, 1e25, 1e-30, 1e-30], np.float32)
    got, bits = _ends(*scales)
    grid = 4 - 4 * np.cos(np.pi * np.array([1, 4]) / 5) + 0.1
    np.testing.assert_allclose(got, np.broadcast_to([*grid, grid[1]], (6, 3)), rtol=2e-4)
    assert not bits.any()


# --- what stops a solve ------------------------------------------------------------------------------------


@pytest.mark.x64
def test_a_matrix_that_cg_is_not_for_is_out_of_reach_not_a_tolerance():
    rng = np.random.default_rng(3)
    skewed = operators.dense(4 * np.eye(20) + rng.standard_normal((20, 20)), symmetric=True)
    found = linear.solve(skewed, rng.standard_normal(20), method=methods.cg(), tol=1e-10, patience=50)
    assert int(found.status) in (linear.OUT_OF_REACH, status.SINGULAR)
    ring = operators.dense(2 * np.eye(8) - np.roll(np.eye(8), 1, 0) - np.roll(np.eye(8), -1, 0), symmetric=True)
    found = linear.solve(ring, np.ones(8), method=methods.sor(1.0), tol=1e-10, patience=50)
    assert int(found.status) == linear.OUT_OF_REACH  # ones are not in the range of a singular matrix
    fine = linear.solve(ring, np.ones(8) * (-1.0) ** np.arange(8), method=methods.sor(1.0), tol=1e-10)
    assert int(fine.status) == 0


@pytest.mark.x64
def test_a_failure_returns_the_iterate_of_the_least_residual():
    """CG on an ill-conditioned matrix: residuals go up and down, and the cap falls on a high one."""
    n = 40
    basis, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((n, n)))
    A = basis @ np.diag(np.geomspace(1, 1e6, n)) @ basis.T
    op, b = operators.dense((A + A.T) / 2, symmetric=True), np.random.default_rng(2).standard_normal(n)
    found = linear.solve(op, b, method=methods.cg(), tol=1e-14, max_steps=37, max_history=40)
    history = np.asarray(found.history)[:38]
    assert int(found.status) == status.MAX_STEPS and history[37] > 1.5 * history.min()
    np.testing.assert_allclose(found.residual, history.min(), rtol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(b - A @ np.asarray(found.value)), found.residual, rtol=1e-6)
    grown = linear.solve(GRID, START, method=methods.jacobi(1.99), tol=1e-6)
    assert int(grown.status) & status.DIVERGED and float(grown.residual) <= 1.001 * np.linalg.norm(START)


def test_the_default_tolerance_is_met_in_the_default_dtype():
    found = linear.solve(GRID, START, method=methods.cg())
    assert int(found.status) == 0 and float(found.residual) <= 1e-5 * np.linalg.norm(START)


@pytest.mark.x64
def test_the_default_tolerance_in_double_precision():
    found = linear.solve(GRID, START.astype(float), method=methods.cg())
    assert int(found.status) == 0 and float(found.residual) <= 1e-8 * np.linalg.norm(START)


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_a_tolerance_of_derivatives_that_is_none_is_told(bad):
    """The solve behind the derivative would take no step: a slope of zero."""
    found = linear.solve(GRID, START, method=methods.cg(), tol=1e-4, adjoint_tol=bad)
    assert int(found.status) == status.OUT_OF_RANGE
    np.testing.assert_allclose(GRID.mv(found.value), START, atol=2e-4 * np.linalg.norm(START))
    assert int(linear.solve(GRID, START, method=methods.cg(), tol=1e-4, adjoint_tol=0.0).status) == 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("count", "match"), [(2.5, "a whole number, got 2.5"), (np.nan, "got nan"), (1e12, "fit int32")]
)
def test_counts_that_are_none(count, match):
    stream, policy = linear.streams.shifted_laplacian((4, 4)), bandits.policies.fixed(1, arm=0)
    with pytest.raises(ValueError, match=f"solve: max_steps must .*{match}"):
        linear.solve(GRID, START, method=methods.cg(), max_steps=count)
    with pytest.raises(ValueError, match=f"solve: patience must .*{match}"):
        linear.solve(GRID, START, method=methods.cg(), patience=count)
    with pytest.raises(ValueError, match=f"refined: max_inner must .*{match}"):
        methods.refined(methods.cg(), max_inner=count)
    with pytest.raises(ValueError, match=f"tuned_sequence: max_steps must .*{match}"):
        linear.tuned_sequence(
            jax.random.key(0), stream, methods.sor, policy, jnp.ones(1), num_rounds=1, max_steps=count
        )
    with pytest.raises(ValueError, match="tuned_sequence: num_rounds must be an int"):
        linear.tuned_sequence(jax.random.key(0), stream, methods.sor, policy, jnp.ones(1), num_rounds=count)


# --- arms --------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize("num", [4, 20])
def test_a_policy_over_other_arms_is_refused(num, key):
    """Too few parameters: an arm without one. Too many: some that are never tried."""
    policy, arms = bandits.policies.ucb1(5), jnp.linspace(1.0, 1.9, num)
    with pytest.raises(ValueError, match=f"tuned_sequence: the policy must play as many arms .*, {num}; .* \\(5,\\)"):
        linear.tuned_sequence(
            key, linear.streams.shifted_laplacian((4, 4)), methods.sor, policy, arms, num_rounds=3, tol=1e-4
        )
    with pytest.raises(ValueError, match=f"replay: the policy must play as many arms .*, {num}"):
        bandits.replay(key, jnp.ones((3, num)), policy)


# --- shapes ------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: GRID.mv(jnp.ones((1, 4))), ValueError, r"Stencil.mv: expected .* \(4, 4\), got \(1, 4\)"),
        (lambda: operators.banded(jnp.ones((1, 4)), (0,)).mv(jnp.ones(1)), ValueError, r"Banded.mv: .* got \(1,\)"),
        (lambda: _sparse().mv(jnp.ones((3, 1))), ValueError, r"Sparse.mv: expected .* \(3,\)"),
        (lambda: linear.solve(_sparse(), [3.0, 3.0, 1.0], method=methods.cg()), ValueError, "got a list"),
        (lambda: linear.solve(scipy.sparse.eye(3).tocsr(), jnp.ones(3), method=methods.cg()), TypeError, "from_scipy"),
    ],
)
def test_shapes_that_would_broadcast_and_foreign_matrices_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_sparse_matrix_takes_numpy_arrays():
    np.testing.assert_array_equal(_sparse().mv(np.arange(3.0)), [0, 2, 4])


def _sparse():
    return operators.sparse(np.full(3, 2.0), [0, 1, 2], [0, 1, 2, 3], symmetric=True)
