"""Theory, bounds and Lanczos against dense eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import linear
from jaxsci.core import status

T, M = linear.theory, linear.methods
SHAPE = (6, 9)
INDEFINITE = np.array([[1.0, 2.0], [2.0, 1.0]])


def grid():
    return linear.operators.shifted_laplacian((3, 4))


def matrix(shape, shift):
    op, n = linear.operators.shifted_laplacian(shape, shift), shape[0] * shape[1]
    return np.asarray(jax.vmap(op.mv)(jnp.eye(n).reshape(n, *shape))).reshape(n, n)


@pytest.mark.x64
@pytest.mark.parametrize("shift", [-0.05, 0.0, 0.4])
def test_young_to_rounding(shift):
    a = matrix(SHAPE, shift)
    d = np.diag(np.diag(a))
    # D = d I, so D^-1 A is symmetric and its eigenvalues are exact to rounding.
    waves = np.linalg.eigvalsh(np.eye(len(a)) - a / d[0, 0])
    radius = np.abs(waves).max()
    np.testing.assert_allclose(T.laplacian_radius(SHAPE, shift), radius, rtol=1e-12)
    best = float(T.young_omega(radius))
    for omega in (0.7, 1.0, 0.5 * (1 + best), best - 1e-3):
        m = d / omega + np.tril(a, -1)
        rate = np.abs(np.linalg.eigvals(np.eye(len(a)) - np.linalg.solve(m, a))).max()
        np.testing.assert_allclose(T.young_rate(omega, radius), rate, rtol=1e-12)
    # Each wave mu gives the pairs (lambda + omega - 1)^2 = lambda omega^2 mu^2; all formed from the symmetric spectrum.
    for omega in (1.0, best, best + 0.1, 1.9):
        half = (omega * waves) ** 2 / 2 - (omega - 1)
        pairs = half + np.sqrt((half**2 - (omega - 1) ** 2).astype(complex))
        close = 1e-7 if omega == best else 1e-12  # a double root at omega*
        np.testing.assert_allclose(T.young_rate(omega, radius), np.abs(pairs).max(), rtol=close)
    np.testing.assert_allclose(T.young_rate(best, radius), best - 1, rtol=1e-7)


@pytest.mark.x64
@pytest.mark.parametrize("shape", [(1,), (7,), (1, 1), (4, 5, 6), (2, 1, 3, 2)])
def test_radius_in_any_dimension(shape):
    """Against dense eigenvalues of Kronecker sums; below 1 exactly where all of them have one sign."""
    a = np.zeros((1, 1))
    for n in shape:
        line = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
        a = np.kron(a, np.eye(n)) + np.kron(np.eye(len(a)), line)
    for shift in (0.5, -0.2, -1.5 * len(shape), -5.0 * len(shape)):
        b = a + shift * np.eye(len(a))
        radius = float(T.laplacian_radius(shape, shift))
        waves = np.linalg.eigvalsh(np.eye(len(b)) - b / b[0, 0])
        np.testing.assert_allclose(radius, np.abs(waves).max(), rtol=1e-12, atol=1e-15)
        values = np.linalg.eigvalsh(b)
        assert (radius < 1) == (values[0] > 0 or values[-1] < 0)
    assert float(T.laplacian_radius(shape, -2.0 * len(shape))) == np.inf


def test_a_nan_stays_one():
    for value in (
        T.laplacian_radius((3, 3), np.nan),
        T.young_omega(np.nan),
        T.young_rate(1.5, np.nan),
        T.young_rate(np.nan, 0.5),
        T.surrogate(np.nan, 0.1, 1e-8),
        T.surrogate(0.5, np.nan, 1e-8),
    ):
        assert np.isnan(float(value))


def test_bounds_of_diagonal_matrices():
    """No lower triangle: SOR multiplies the error by 1 - omega, and SSOR-PCG with omega = 1 takes one iteration."""
    omegas = np.array([0.3, 1.0, 1.6])
    for a in (np.array([[3.0]]), np.diag([1.0, 4.0, 9.0])):
        np.testing.assert_allclose(T.energy_bound(a, omegas), np.abs(1 - omegas), atol=1e-7)
        bound = T.ssor_pcg_bound(a, omegas, 1e-8)
        assert bound[1] == 1 and np.all(bound >= 1) and np.all(np.isfinite(bound))


@pytest.mark.x64
@pytest.mark.parametrize(("shift", "published"), [(-0.05, None), (0.0, 0.191), (0.45, 0.246)])
def test_surrogate_is_above_every_count(shift, published):
    op, b = linear.operators.shifted_laplacian((10, 10), shift), jnp.sin(jnp.arange(1.0, 101.0)).reshape(10, 10)
    radius = T.laplacian_radius((10, 10), shift)
    best = float(T.young_omega(radius))
    omegas = np.sort(np.append(np.linspace(1.0, 1.9, 7), best))
    counts = np.array([int(linear.solve(op, b, method=M.sor(w), norm_ref="r0").steps) for w in omegas])
    slack = T.surrogate_slack(matrix((10, 10), shift), omegas, counts)
    rates = T.young_rate(omegas, radius)
    bound = np.asarray(T.surrogate(rates, float(slack), 1e-8))
    assert np.all(bound >= counts) and np.all(bound <= 2.5 * counts)
    asymptotic = np.log(1e-8) / np.log(np.asarray(rates))
    here = list(omegas).index(best)
    assert asymptotic[here] < counts[here] <= bound[here]
    if published:  # one random right-hand side there, b = sin(i) here
        assert abs(float(slack) - published) <= 0.005


@pytest.mark.x64
@pytest.mark.parametrize("shift", [-0.05, 0.0, 0.45])
def test_energy_bound_holds_and_is_near(shift):
    a = matrix(SHAPE, shift)
    root = np.linalg.cholesky(a).T
    for omega in (0.3, 1.0, 1.4, 1.7, 1.95):
        step = np.eye(len(a)) - np.linalg.solve(np.diag(np.diag(a)) / omega + np.tril(a, -1), a)
        norm = np.linalg.norm(root @ step @ np.linalg.inv(root), 2)
        assert norm <= float(T.energy_bound(a, omega)) * (1 + 1e-12) <= 1.05 * norm


@pytest.mark.x64
def test_ssor_pcg_bound_is_above_every_count(key):
    op, b = linear.operators.shifted_laplacian((10, 10)), jax.random.normal(key, (10, 10))
    omegas = np.array([1.0, 1.4, 1.8])
    counts = np.array([int(linear.solve(op, b, method=M.ssor_pcg(w)).steps) for w in omegas])
    bound = T.ssor_pcg_bound(matrix((10, 10), 0.0), omegas, 1e-8)
    assert np.all(bound >= counts) and np.all(bound <= 3 * counts)
    # The condition number behind it, from dense eigenvalues of the preconditioned matrix.
    a = matrix((10, 10), 0.0)
    d, lower = np.diag(np.diag(a)), np.tril(a, -1)
    for omega, value in zip(omegas, bound):
        part = d + omega * lower
        m = part @ np.linalg.solve(d, part.T) / (omega * (2 - omega))
        spectrum = np.linalg.eigvals(np.linalg.solve(m, a)).real
        rate = np.sqrt(spectrum.max() / spectrum.min())
        exact = 1 + np.log(2 * np.sqrt(np.linalg.cond(a)) / 1e-8) / -np.log(1 - 2 / (1 + rate))
        assert exact <= value * (1 + 1e-9)


@pytest.mark.x64
def test_lanczos_finds_the_whole_spectrum(key):
    shape = (4, 5)
    op, start = linear.operators.shifted_laplacian(shape, 0.1), jax.random.normal(key, shape)
    exact = np.linalg.eigvalsh(matrix(shape, 0.1))
    t = linear.lanczos.tridiagonal(op, start, num_steps=24)
    m = int(t.steps)
    assert m == 20 and int(t.status) == 0
    inside = np.asarray(t.off_diagonal[: m - 1])
    full = np.diag(t.diagonal[:m]) + np.diag(inside, 1) + np.diag(inside, -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(full), exact, atol=1e-12)
    v = np.asarray(t.basis[:m]).reshape(m, -1)
    np.testing.assert_allclose(v @ v.T, np.eye(m), atol=1e-13)
    np.testing.assert_allclose(v @ matrix(shape, 0.1) @ v.T, full, atol=1e-12)
    assert not np.any(t.off_diagonal[m - 1 :]) and not np.any(t.basis[m:])


@pytest.mark.x64
def test_extreme_eigenvalues_and_their_errors(key):
    op, start = linear.operators.shifted_laplacian((10, 10)), jax.random.normal(key, (10, 10))
    low, high = 4 - 4 * np.cos(np.pi / 11), 4 + 4 * np.cos(np.pi / 11)
    for keep in (False, True):
        e = linear.lanczos.extreme_eigenvalues(op, start, num_steps=15, reorthogonalize=keep)
        assert low - 1e-12 <= float(e.low) <= low + float(e.low_error) + 1e-12
        assert high - float(e.high_error) - 1e-12 <= float(e.high) <= high + 1e-12
    # An invariant space: a constant start on a grid of one row sees its symmetric waves only.
    one = linear.lanczos.extreme_eigenvalues(
        linear.operators.dense(jnp.diag(jnp.array([1.0, 2.0, 2.0, 5.0])), symmetric=True),
        jnp.array([1.0, 1.0, 0.0, 0.0]),
        num_steps=4,
        reorthogonalize=True,
    )
    np.testing.assert_allclose([one.low, one.high], [1.0, 2.0], atol=1e-14)
    assert int(one.steps) == 2 and float(one.low_error) == 0


@pytest.mark.x64
def test_bounds_hold_the_spectrum_and_serve_chebyshev(key):
    op, start = linear.operators.shifted_laplacian((10, 10)), jax.random.normal(key, (10, 10))
    low, high = 4 - 4 * np.cos(np.pi / 11), 4 + 4 * np.cos(np.pi / 11)
    certain = linear.bounds.gershgorin(op)
    assert (float(certain.low), float(certain.high)) == (0.0, 8.0)
    sharp = linear.bounds.power(op, start, num_steps=100)
    assert 0 < float(sharp.low) <= low and high <= float(sharp.high) <= 1.01 * high
    result = linear.solve(op, start, method=M.chebyshev(sharp.low, certain.high))
    assert int(result.status) == 0 and int(result.steps) <= 1.3 * 65
    a = jax.random.normal(key, (6, 6))
    discs = linear.bounds.gershgorin(linear.operators.dense(a + a.T, symmetric=True))
    values = np.linalg.eigvalsh(a + a.T)
    assert float(discs.low) <= values[0] and values[-1] <= float(discs.high)
    radius = np.abs(a + a.T).sum(1) - np.abs(np.diag(a + a.T))
    np.testing.assert_allclose(discs.high, (np.diag(a + a.T) + radius).max(), rtol=1e-12)


def test_gershgorin_of_sums_and_products():
    """A sum of one kind is exact; other sums and products are at least as wide as their matrix."""
    a = linear.operators.dense(jnp.array([[4.0, -1.0], [2.0, 5.0]]), symmetric=False)
    b = linear.operators.dense(jnp.array([[1.0, 1.0], [-2.0, 1.0]]), symmetric=False)
    total = linear.bounds.gershgorin(linear.operators.add(a, b))
    assert (float(total.low), float(total.high)) == (5.0, 6.0)
    ones = linear.operators.banded(-jnp.ones((3, 2)), (-1, 0, 1))
    mixed = linear.bounds.gershgorin(linear.operators.add(a, ones))  # [[3, -2], [1, 4]]
    assert float(mixed.low) <= 1 and 5 <= float(mixed.high)
    product = linear.bounds.gershgorin(linear.operators.compose(a, b))  # [[6, 3], [-8, 7]]
    assert float(product.low) <= -1 and 15 <= float(product.high)


def test_trouble_is_a_status():
    """Statuses say what is wrong with the start or the operator, and every figure stays finite."""
    good, worse = (linear.operators.shifted_laplacian((3, 4), shift) for shift in (0.0, np.nan))
    one, bad, zero = jnp.ones((3, 4)), jnp.full((3, 4), jnp.nan), jnp.zeros((3, 4))
    for op, start, code in (
        (good, bad, status.NONFINITE_INPUT),
        (worse, one, status.NONFINITE_INPUT),
        (good, zero, status.OUT_OF_RANGE),
    ):
        for found in (
            linear.lanczos.extreme_eigenvalues(op, start, num_steps=3),
            linear.lanczos.tridiagonal(op, start, num_steps=3),
            linear.bounds.power(op, start, num_steps=3),
        ):
            assert int(found.status) == code
            assert all(bool(jnp.all(jnp.isfinite(a))) for a in jax.tree.leaves(found))
    discs = linear.bounds.gershgorin(worse)
    assert int(discs.status) == status.NONFINITE_INPUT and float(discs.low) == float(discs.high) == 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: T.energy_bound(np.ones((2, 3)), 1.0), ValueError, "square matrix"),
        (lambda: T.energy_bound(np.eye(2), 2.0), ValueError, r"\(0, 2\)"),
        (lambda: T.ssor_pcg_bound(np.eye(2), -1.0, 1e-8), ValueError, r"\(0, 2\)"),
        (lambda: T.energy_bound(INDEFINITE, 1.0), ValueError, "positive definite"),
        (lambda: T.energy_bound(-np.eye(2), 1.0), ValueError, "positive definite"),
        (lambda: T.energy_bound(np.diag([1.0, 0.0]), 1.0), ValueError, "positive definite"),
        (lambda: T.energy_bound(np.array([[2.0, 1.0], [0.0, 2.0]]), 1.0), ValueError, "symmetric"),
        (lambda: T.energy_bound(np.full((2, 2), np.nan), 1.0), ValueError, "finite numbers for matrix"),
        (lambda: T.energy_bound(0.1 * np.eye(3) + 0.9, 1.0), ValueError, "Jacobi radius below 1"),
        (lambda: T.ssor_pcg_bound(INDEFINITE, 1.0, 1e-8), ValueError, "positive definite"),
        (lambda: T.ssor_pcg_bound(np.array([[2.0, 1.0], [0.0, 2.0]]), 1.0, 1e-8), ValueError, "symmetric"),
        (lambda: T.ssor_pcg_bound(np.eye(2), 1.0, -1.0), ValueError, r"tol must lie in \(0, 1\)"),
        (lambda: T.ssor_pcg_bound(np.eye(2), 1.0, np.nan), ValueError, "finite numbers for tol"),
        (lambda: T.surrogate_slack(np.eye(2), [2.5], [3]), ValueError, r"\(0, 2\)"),
        (lambda: T.surrogate_slack(INDEFINITE, [1.0], [3]), ValueError, "does not converge"),
        (lambda: T.surrogate_slack(np.diag([1.0, 0.0]), [1.0], [3]), ValueError, "zeros on its diagonal"),
        (lambda: T.surrogate_slack(np.eye(2), [1.0], [np.nan]), ValueError, "finite numbers for counts"),
        (lambda: T.laplacian_radius((), 0.0), ValueError, "at least one cell"),
        (lambda: T.laplacian_radius((3, 0), 0.0), ValueError, "at least one cell"),
        (lambda: linear.lanczos.tridiagonal(grid(), jnp.ones(12), num_steps=2), ValueError, "tridiagonal: start"),
        (lambda: linear.bounds.power(grid(), jnp.ones((4, 3))), ValueError, r"power: start .* \(3, 4\)"),
        (lambda: T.surrogate_slack(np.eye(2), [1.0, 1.2], [3]), ValueError, "one shape"),
        (lambda: T.surrogate_slack(np.eye(2), [1.0], [1]), ValueError, "smaller tolerance"),
        (lambda: linear.lanczos.tridiagonal(None, jnp.ones(2), num_steps=0), ValueError, ">= 1"),
        (lambda: linear.bounds.power(None, jnp.ones(2), num_steps=0), ValueError, ">= 1"),
        (
            lambda: linear.bounds.gershgorin(linear.operators.matrix_free(jnp.negative, jnp.ones(2))),
            TypeError,
            "bounds.power",
        ),
    ],
)
def test_misuse_raises(call, error, match):
    with pytest.raises(error, match=match):
        call()
