"""Riccati equation, Kleinman's history, the fixed point of integral policy iteration with every rule, HJB residuals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import quadrature
from jaxsci.control import integral, riccati
from jaxsci.core import status

A = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-0.1, -0.5, -0.7]])
B = np.array([[0.0], [0.0], [1.0]])
Q, R = np.eye(3), np.eye(1)
K_STAR = np.array([[0.904987562112089, 1.893095222031230, 1.596995960828503]])
P_STAR = np.array(
    [
        [2.355030933091255, 2.238452370854351, 0.904987562112089],
        [2.238452370854351, 4.241942496771635, 1.893095222031228],
        [0.904987562112089, 1.893095222031228, 1.596995960828503],
    ]
)
LENGTH, DELTA = 0.3, 0.1


def matern(nu, jitter=0.0):
    kernel = quadrature.embeddings.matern(nu, LENGTH)
    return lambda n: quadrature.rules.bayesian(n, 0.0, DELTA, kernel=kernel, jitter=jitter)


RULES = {
    "trapezoid": lambda n: quadrature.rules.trapezoid(n, 0.0, DELTA),
    "simpson": lambda n: quadrature.rules.simpson(n, 0.0, DELTA),
    "matern1/2": matern(0.5),
    "matern3/2": matern(1.5),
    "matern5/2": matern(2.5),
    "matern7/2": matern(3.5),
    "jitter": matern(3.5, 1e-8),
    "gauss": lambda n: quadrature.rules.gauss_legendre(n, 0.0, DELTA),
    "clenshaw": lambda n: quadrature.rules.clenshaw_curtis(n, 0.0, DELTA),
}

# ||P - P*||_F where integral policy iteration ends, by number of nodes.
TABLE = {
    "trapezoid": {
        2: 1.910915e-2, 3: 4.723471e-3, 5: 1.177567e-3, 7: 5.230929e-4, 9: 2.941866e-4, 11: 1.882637e-4,
        15: 9.604589e-5,
    },
    "simpson": {
        3: 7.252903e-6, 5: 4.538777e-7, 7: 8.967585e-8, 9: 2.837633e-8, 11: 1.162339e-8, 15: 3.025772e-9,
    },
    "matern1/2": {
        2: 4.55351e-2, 3: 1.14508e-2, 5: 2.86691e-3, 7: 1.27453e-3, 9: 7.16992e-4, 11: 4.58895e-4, 15: 2.34139e-4,
    },
    "matern3/2": {
        2: 1.28055e-1, 3: 1.14949e-2, 5: 1.75432e-3, 7: 5.39603e-4, 9: 2.31071e-4, 11: 1.19331e-4, 15: 4.39154e-5,
    },
    "matern5/2": {
        2: 1.09457e-1, 3: 2.80354e-3, 5: 2.74989e-4, 7: 6.13817e-5, 9: 2.02363e-5, 11: 8.44933e-6, 15: 2.24292e-6,
    },
    "matern7/2": {
        2: 9.96483e-2, 3: 9.87033e-4, 5: 5.24754e-5, 7: 8.68163e-6, 9: 2.26635e-6, 11: 7.75984e-7, 15: 1.50075e-7,
    },
    "jitter": {
        3: 9.87543e-4, 5: 5.71283e-5, 7: 1.55097e-5, 9: 7.79536e-6, 11: 5.29453e-6, 15: 3.32298e-6,
    },
    "gauss": {2: 4.835e-6, 3: 5.922e-10},
    "clenshaw": {4: 1.812e-6, 5: 2.467e-10},
}  # fmt: skip


def limit(rule, **kw):
    found = riccati.integral_fixed_point(A, B, Q, R, rule, DELTA, **kw)
    assert int(found.status) == 0 and int(found.steps) < 25
    return found


def error(rule):
    return float(np.linalg.norm(np.asarray(limit(rule).value) - P_STAR))


# --- exact -------------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_the_riccati_solution():
    P, K = riccati.solve(A, B, Q, R)
    np.testing.assert_allclose(P, P_STAR, atol=1e-13)
    np.testing.assert_allclose(K, K_STAR, atol=1e-13)
    x = np.array([2.0, -2.0, 3.0])
    assert abs(x @ P @ x - 10.995946) < 5e-7
    history = riccati.kleinman(A, B, Q, R)
    np.testing.assert_allclose(history.P[-1], P, atol=1e-10)
    np.testing.assert_allclose(history.K[-1], K, atol=1e-10)
    assert float(history.residual[-1]) < 1e-12 and int(history.status) == 0


@pytest.mark.x64
def test_kleinmans_history():
    history = riccati.kleinman(A, B, Q, R, num_iterations=8)
    np.testing.assert_allclose(history.P[0], [[3.64, 5.2, 5.0], [5.2, 11.48, 11.4], [5.0, 11.4, 17.0]], rtol=1e-12)
    errors = np.linalg.norm(np.asarray(history.P) - P_STAR, axis=(1, 2))
    known = [22.87215, 10.00061, 3.893876, 1.285786, 0.2666836, 0.01017723, 1.0885979e-5, 1.2301e-11]
    np.testing.assert_allclose(errors[:7], known[:7], rtol=1e-5)
    assert errors[7] < 1e-10
    # Exact evaluations: the cost never rises, and every gain stabilises.
    steps = -np.diff(np.asarray(history.P), axis=0)
    assert np.linalg.eigvalsh(steps).min() > -1e-12
    assert all(np.linalg.eigvals(A - B @ K).real.max() < 0 for K in np.asarray(history.K))


@pytest.mark.x64
@pytest.mark.parametrize("gain", [-0.6, -5.0])
def test_a_gain_that_does_not_stabilise_is_reported(gain):
    K0 = np.array([[0.0, 0.0, gain]])
    assert np.linalg.eigvals(A - B @ K0).real.max() > 0
    assert int(riccati.kleinman(A, B, Q, R, K0).status) & integral.UNSTABLE
    found = riccati.integral_fixed_point(A, B, Q, R, RULES["gauss"](5), DELTA, K0=K0)
    assert int(found.status) & integral.UNSTABLE and int(found.steps) == 1


def test_the_librarys_answer_is_looked_at():
    """300 systems with a mode at rest, or an oscillation, that Q does not weigh: no stabilising solution exists."""
    rng = np.random.default_rng(0)
    rest, spin = np.zeros((1, 1)), np.array([[0.0, 1.0], [-1.0, 0.0]])
    for i in range(300):
        d, core = rng.integers(2, 6), (rest, spin)[i % 2]
        size, basis = core.shape[0], rng.standard_normal((d + core.shape[0],) * 2)
        A, Q = np.zeros((d + size,) * 2), np.zeros((d + size,) * 2)
        A[:size, :size], A[size:, size:] = core, rng.standard_normal((d, d)) - 2 * np.eye(d)
        Q[size:, size:] = np.eye(d)
        A, Q = basis @ A @ np.linalg.inv(basis), np.linalg.inv(basis).T @ Q @ np.linalg.inv(basis)
        with pytest.raises(ValueError, match="no stabilising solution"):
            riccati.solve(A, basis @ rng.standard_normal((d + size, 1)), (Q + Q.T) / 2, [[1.0]])
    for A, B, Q in (
        ([[0, 1, 0], [-1, 0, 0], [0, 0, -1]], [[0], [0], [1]], np.eye(3)),  # a pair of modes out of reach of B
        ([[0, 1], [0, 0]], [[0], [1]], np.diag([0.0, 1.0])),
    ):
        with pytest.raises(ValueError, match="no stabilising solution"):
            riccati.solve(A, B, Q, [[1.0]])


def test_random_systems_are_solved():
    """The check refuses none of 300 ordinary systems, time scales from 1e-2 to 1e2 among them."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        d = rng.integers(1, 7)
        A = rng.standard_normal((d, d)) * np.exp(rng.uniform(-2, 2, d))[:, None]
        P, K = riccati.solve(A, rng.standard_normal((d, 2)), np.eye(d), np.eye(2))
        assert np.linalg.eigvals(P).real.min() > 0


@pytest.mark.x64
def test_a_start_that_leaves_modes_at_rest_is_unstable_and_a_free_state_costs_nothing():
    """The double integrator under K0 = 0 has no value; A = -1 at Q = 0 has the value 0, exactly."""
    double = [[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], np.eye(2), [[1.0]]
    assert int(riccati.kleinman(*double).status) == integral.UNSTABLE
    rule = quadrature.rules.trapezoid(5, 0.0, DELTA)
    assert int(riccati.integral_fixed_point(*double, rule, DELTA).status) == integral.UNSTABLE
    free = [[-1.0]], [[1.0]], [[0.0]], [[1.0]]
    found = riccati.kleinman(*free)
    assert int(found.status) == 0 and not found.P.any() and not found.residual.any()
    found = riccati.integral_fixed_point(*free, rule, DELTA)
    assert (int(found.status), float(found.value[0, 0]), float(found.residual), int(found.steps)) == (0, 0, 0, 1)


@pytest.mark.x64
def test_nonfinite_matrices_and_a_low_cap_are_reported():
    bad = np.where(A == -0.1, np.nan, A)
    assert int(riccati.kleinman(bad, B, Q, R).status) & status.NONFINITE_INPUT
    assert int(riccati.integral_fixed_point(bad, B, Q, R, RULES["gauss"](3), DELTA).status) & status.NONFINITE_INPUT
    assert int(riccati.integral_fixed_point(A, B, Q, R, RULES["gauss"](3), DELTA, max_steps=3).status) == 4


# --- the fixed point ---------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize("name", TABLE)
def test_the_limit_of_every_rule(name):
    """Four digits; three for Matern 7/2 with 15 nodes, whose Gram matrix has condition 2e12."""
    for n, known in TABLE[name].items():
        tol = 1e-3 if (name, n) == ("matern7/2", 15) else 5e-4 if name in ("gauss", "clenshaw") else 5e-5
        np.testing.assert_allclose(error(RULES[name](n)), known, rtol=tol, err_msg=f"{name}, {n} nodes")


@pytest.mark.x64
def test_gain_and_cost_of_the_trapezoids_limit():
    found = limit(RULES["trapezoid"](5))
    np.testing.assert_allclose(np.linalg.norm(np.asarray(found.K) - K_STAR), 7.74475e-4, rtol=1e-5)
    np.testing.assert_allclose(1e4 * np.trace(np.asarray(found.value) - P_STAR), 12.6217, rtol=1e-5)


@pytest.mark.x64
def test_four_gauss_nodes_reach_rounding_and_simpson_beats_matern():
    assert error(RULES["gauss"](4)) < 1e-12
    for n in (3, 5, 7, 9, 11, 15):
        matern = error(RULES["matern7/2"](n))
        assert error(RULES["simpson"](n)) < matern / 40
        assert error(RULES["gauss"](n)) < matern / 1000


@pytest.mark.x64
def test_leading_terms():
    """Trapezoid -h^2/12 L(M), Simpson -h^4/180 L^3(M) at the optimum, to 0.1 % with 15 nodes."""
    closed, M = A - B @ K_STAR, Q + K_STAR.T @ R @ K_STAR
    L = lambda X: closed.T @ X + X @ closed  # noqa: E731
    h = DELTA / 14
    for name, term in (("trapezoid", -(h**2) / 12 * L(M)), ("simpson", -(h**4) / 180 * L(L(L(M))))):
        got = np.asarray(limit(RULES[name](15)).value) - P_STAR
        assert np.linalg.norm(got - term) < 1e-3 * np.linalg.norm(term)


@pytest.mark.x64
def test_a_study_over_n_is_a_vmap_over_padded_rules():
    sizes = (2, 3, 5, 9)
    rules = [quadrature.pad(RULES["trapezoid"](n), 9) for n in sizes]
    stack = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *rules)
    found = jax.vmap(lambda rule: riccati.integral_fixed_point(A, B, Q, R, rule, DELTA))(stack)
    assert not found.status.any()
    errors = np.linalg.norm(np.asarray(found.value) - P_STAR, axis=(1, 2))
    np.testing.assert_allclose(errors, [TABLE["trapezoid"][n] for n in sizes], rtol=5e-5)


@pytest.mark.x64
def test_forward_derivative_of_the_limit_equals_differences():
    def trace(q):
        return jnp.trace(riccati.integral_fixed_point(A, B, q * jnp.eye(3), R, RULES["trapezoid"](3), DELTA).value)

    slope = jax.jvp(trace, (1.0,), (1.0,))[1]
    np.testing.assert_allclose(slope, (trace(1 + 1e-5) - trace(1 - 1e-5)) / 2e-5, rtol=1e-7)


# --- Hamilton-Jacobi-Bellman -------------------------------------------------------------------------------


def drift(x, args):
    return jnp.array([-x[0] + x[1], -0.5 * (x[0] + x[1]) + 0.5 * x[1] * jnp.sin(x[0]) ** 2])


def input_matrix(x, args):
    return jnp.array([[0.0], [jnp.sin(x[0])]])


@pytest.mark.x64
def test_the_residual_vanishes_for_both_optimal_values_and_not_for_others(key):
    nonlinear = integral.ControlAffine(drift, input_matrix, jnp.eye(2), jnp.eye(1))
    linear = integral.linear_quadratic(A, B, Q, R)
    cases = [
        (nonlinear, lambda x: 0.5 * x[0] ** 2 + x[1] ** 2, 2),
        (linear, lambda x: x @ jnp.asarray(P_STAR) @ x, 3),
    ]
    for problem, value, d in cases:
        x = 3 * jax.random.normal(key, (200, d))
        bound = 1e-10 * (1 + jnp.linalg.norm(x, axis=1) ** 4)
        residual = jax.vmap(lambda y: riccati.hjb_residual(value, problem, y))(x)  # noqa: B023
        assert bool((jnp.abs(residual) < bound).all())
        other = jax.vmap(lambda y: riccati.hjb_residual(lambda z: 1.01 * value(z), problem, y))(x)  # noqa: B023
        assert float(jnp.median(jnp.abs(other))) > 1e-3


# --- refusals ----------------------------------------------------------------------------------------------

BAD = [
    (lambda: riccati.solve(A, B, Q, np.eye(2)), "riccati.solve: expected A"),
    (lambda: riccati.solve(np.eye(2), np.zeros((2, 1)), np.eye(2), np.eye(1)), "must be stabilisable"),
    (lambda: riccati.solve(A * np.nan, B, Q, R), "infs or NaNs"),
    (lambda: riccati.kleinman(A, B[:, 0], Q, R), r"kleinman: B must have shape two axes|kleinman: A must"),
    (lambda: riccati.kleinman(A, B, np.eye(2), R), r"kleinman: Q must have shape \(3, 3\)"),
    (lambda: riccati.kleinman(A, B, Q, R, np.zeros(3)), r"K0 must have shape \(m, d\) = \(1, 3\)"),
    (lambda: riccati.kleinman(A, B, Q, R, num_iterations=0), "num_iterations must be an int >= 1"),
    (
        lambda: riccati.integral_fixed_point(A, B, Q, R, (np.zeros(3), np.zeros(2)), DELTA),
        "jax.vmap over a stack of rules",
    ),
]


@pytest.mark.x64
@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_static_misuse_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.bad_input
def test_float32_is_refused():
    with pytest.raises(ValueError, match=r'jax\.config\.update\("jax_enable_x64", True\)'):
        riccati.integral_fixed_point(A, B, Q, R, RULES["gauss"](3), DELTA)
