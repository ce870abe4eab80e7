"""Integral reinforcement learning from trajectories: published figures, peers, statuses, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

import jaxsci
from jaxsci import quadrature
from jaxsci.control import integral, riccati
from jaxsci.core import status

RULES, DELTA = quadrature.rules, 0.1
A = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-0.1, -0.5, -0.7]])
B = np.array([[0.0], [0.0], [1.0]])
TRUTH = np.array([0.5, 0.0, 1.0])  # V* = x1^2 / 2 + x2^2
START = np.array([-1.0, 3.0, 1.5])
TIGHT = {"rtol": 1e-12, "atol": 1e-14}


def drift(x, args):
    return jnp.array([-x[0] + x[1], -0.5 * (x[0] + x[1]) + 0.5 * x[1] * jnp.sin(x[0]) ** 2])


def input_matrix(x, args):
    return jnp.array([[0.0], [jnp.sin(x[0])]])


def padded(rule):
    """To 15 nodes, so that the tests share one compilation."""
    return rule if rule is None else quadrature.pad(rule, 15)


def nonlinear(rule, features=integral.quadratic, weights=START, x=(1.0, 1.0), **kw):
    problem = integral.ControlAffine(drift, input_matrix, jnp.eye(2), jnp.eye(1))
    return integral.policy_iteration(problem, features, jnp.asarray(weights), jnp.asarray(x), rule=rule, **kw)


def linear(rule, weights=None, features=integral.kronecker, rank=6, **kw):
    problem = integral.linear_quadratic(A, B, np.eye(3), np.eye(1))
    weights = jnp.zeros(9) if weights is None else jnp.asarray(weights)
    x = jnp.array([2.0, -2.0, 3.0])
    return integral.policy_iteration(problem, features, weights, x, rule=rule, rank=rank, num_rows=10, **kw)


def error(found):
    return float(np.linalg.norm(np.asarray(found.value) - TRUTH))


def matern(n, jitter=0.0):
    return RULES.bayesian(n, 0.0, DELTA, kernel=quadrature.embeddings.matern(3.5, 0.3), jitter=jitter)


# --- nonlinear task ----------------------------------------------------------------------------------------


@pytest.mark.x64
def test_exact_integrals_converge_quadratically():
    found = nonlinear(None, **TIGHT)
    assert int(found.steps) == 3 and int(found.status) == 0
    errors = np.linalg.norm(np.asarray(found.history) - TRUTH, axis=1)
    np.testing.assert_allclose(errors[1:3], [0.644132, 7.93577e-4], rtol=2e-6)
    np.testing.assert_allclose(errors[3], 2.48e-9, rtol=5e-3)
    assert np.isnan(errors[4:]).all() and found.rank[:4].tolist() == [3, 3, 3, -1]
    np.testing.assert_array_equal(found.value, found.history[3])


def measured(w, x, n, tol):
    """Twenty intervals under the greedy policy of w, sampled from the interpolant of SciPy's solver: (20, n, 2)."""
    paths, t = [], np.linspace(0, DELTA, n)

    def field(_, x):
        u = -np.sin(x[0]) * (w[1] * x[0] + 2 * w[2] * x[1]) / 2
        return [-x[0] + x[1], -0.5 * (x[0] + x[1]) + 0.5 * x[1] * np.sin(x[0]) ** 2 + np.sin(x[0]) * u]

    for _ in range(20):
        paths.append(scipy.integrate.solve_ivp(field, (0, DELTA), x, rtol=tol, atol=tol, t_eval=t).y.T)
        x = paths[-1][-1]
    return np.stack(paths)


def from_measurements(n, tol):
    """Policy iteration on such data, the drift unknown: the error of the weights it ends with."""
    problem = integral.ControlAffine(None, input_matrix, jnp.eye(2), jnp.eye(1))
    rule_weights = padded(RULES.trapezoid(n, 0.0, DELTA))[1]
    w, x = START, np.ones(2)
    for _ in range(20):
        paths = measured(w, x, n, tol)
        # a rule padded to 15 nodes repeats one of them with weight 0
        samples = np.concatenate([paths, np.repeat(paths[:, -1:], 15 - n, axis=1)], axis=1)
        found = integral.evaluate_samples(
            problem, integral.quadratic, jnp.asarray(w), samples, rule_weights, starts=paths[:, 0], ends=paths[:, -1]
        )
        assert int(found.status) == 0 and int(found.rank) == 3
        previous, w, x = w, np.asarray(found.weights), paths[-1, -1]
        if np.linalg.norm(w - previous) < 1e-3:
            return np.linalg.norm(w - TRUTH)
    raise AssertionError("no convergence")


PUBLISHED = {5: 1.287602e-4, 6: 8.240861e-5, 7: 5.722930e-5, 8: 4.204674e-5, 9: 3.219260e-5, 10: 2.543658e-5}
PUBLISHED |= {11: 2.060402e-5, 13: 1.430896e-5, 15: 1.051322e-5}


@pytest.mark.x64
@pytest.mark.parametrize("n", sorted(PUBLISHED))
def test_trapezoid_on_the_published_solvers_data_equals_the_published_figures(n):
    """They were made with solver tolerances of 1e-8 and interpolated samples."""
    np.testing.assert_allclose(from_measurements(n, 1e-8), PUBLISHED[n], rtol=1e-5)


@pytest.mark.x64
@pytest.mark.parametrize("n", [5, 10, 15])
def test_trapezoid_with_our_solver_agrees_with_tight_data(n):
    """That solver's own error, 4e-10, is in all published figures, and the one of five nodes is large enough to hide
    it. Ours equal the same data at a tolerance of 1e-12."""
    found = nonlinear(padded(RULES.trapezoid(n, 0.0, DELTA)))
    assert int(found.steps) == 3 and int(found.status) == 0
    np.testing.assert_allclose(error(found), from_measurements(n, 1e-12), rtol=1e-5)
    assert abs(error(found) - PUBLISHED[n]) < 5e-10
    if n == 5:
        np.testing.assert_allclose(error(found), PUBLISHED[n], rtol=1e-5)


@pytest.mark.x64
def test_measured_states_and_simulated_ones_give_the_same_evaluation():
    t, weights = RULES.gauss_legendre(4, 0.0, DELTA)
    decay = np.exp(-np.arange(5) * DELTA)
    samples = (decay[:, None] * np.exp(-t))[..., None]
    problem = integral.linear_quadratic([[-1.0]], [[1.0]], [[1.0]], [[1.0]])
    zero, one = jnp.zeros(1), jnp.ones(1)
    ours = integral.evaluate(problem, integral.quadratic, zero, one, rule=(t, weights), num_rows=5, **TIGHT)
    ends = decay[:, None] * np.exp(-DELTA)
    found = integral.evaluate_samples(
        problem, integral.quadratic, zero, samples, weights, starts=decay[:, None], ends=ends
    )
    for name in ("weights", "x", "differences", "integrals"):
        np.testing.assert_allclose(getattr(found, name), getattr(ours, name), rtol=1e-11)
    assert found.status == ours.status == 0 and found.rank == 1


@pytest.mark.x64
def test_bad_measurements_are_reported():
    problem = integral.linear_quadratic(A, B, np.eye(3), np.eye(1))
    samples = np.random.default_rng(0).normal(size=(6, 3, 3))
    weights = RULES.trapezoid(3, 0.0, DELTA)[1]
    broken = samples.copy()
    broken[2, 1, 0] = np.nan

    def evaluated(data, problem=problem):
        return integral.evaluate_samples(
            problem, integral.quadratic, np.zeros(6), data, weights, starts=data[:, 0], ends=data[:, -1]
        )

    for data, bit in ((broken, status.NONFINITE_INPUT), (0 * samples, integral.RANK_LOST)):
        found = evaluated(data)
        assert int(found.status) & bit and np.isfinite(found.weights).all()
    # states that move up the value they should move down
    growing = np.repeat(np.cumsum(np.abs(samples), axis=0)[:, :1], 3, axis=1) * np.array([1.0, 1.1, 1.2])[:, None]
    assert int(evaluated(growing).status)
    assert int(evaluated(samples, problem._replace(control_cost=jnp.zeros((1, 1)))).status) == status.SINGULAR


@pytest.mark.x64
@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("samples", "rule_weights", "more", "message"),
    [
        (np.ones((6, 3)), np.ones(3), {}, "expected samples"),
        (np.ones((6, 3, 3)), np.ones(4), {}, "rule_weights"),
        (np.ones((6, 3, 3)), np.ones(3), {"ends": np.ones((5, 3))}, "ends of shape"),
        (np.ones((5, 3, 3)), np.ones(3), {}, "rank must lie in"),
        (np.ones((6, 3, 2)), np.ones(3), {}, "features"),
        (np.ones((6, 3, 3), np.float32), np.ones(3), {"weights": np.zeros(6, np.float32)}, "x64"),
    ],
)
def test_measurements_of_the_wrong_kind_are_refused(samples, rule_weights, more, message):
    cost = np.eye(samples.shape[-1], dtype=samples.dtype)
    problem = integral.ControlAffine(None, input_matrix, cost, np.eye(1, dtype=samples.dtype))
    end = np.ones((samples.shape[0], samples.shape[-1]))
    more = {"weights": np.zeros(6), "starts": end, "ends": end} | more
    with pytest.raises(ValueError, match=message):
        integral.evaluate_samples(problem, integral.quadratic, more.pop("weights"), samples, rule_weights, **more)


@pytest.mark.x64
@pytest.mark.parametrize(("n", "published", "exact"), [(5, 8.53221e-6, 7.8329e-6), (9, 1.16523e-6, 3.3893e-7)])
def test_matern_with_a_librarys_jitter_and_without(n, published, exact):
    np.testing.assert_allclose(error(nonlinear(padded(matern(n, 1e-8)))), published, rtol=1e-3)
    np.testing.assert_allclose(error(nonlinear(padded(matern(n)))), exact, rtol=1e-3)


@pytest.mark.x64
def test_simpson_and_gauss_beat_matern():
    simpson = error(nonlinear(padded(RULES.simpson(5, 0.0, DELTA))))
    np.testing.assert_allclose(simpson, 3.25e-8, rtol=5e-3)
    assert simpson < error(nonlinear(padded(matern(5)))) / 100
    # Gauss with 5 nodes is exact here: what is left is Newton's last error.
    assert error(nonlinear(padded(RULES.gauss_legendre(5, 0.0, DELTA)), **TIGHT)) < 3e-9


@pytest.mark.x64
def test_the_control_found_is_the_optimal_one(key):
    found = nonlinear(None, tol=1e-8, **TIGHT)
    problem = integral.ControlAffine(drift, input_matrix, jnp.eye(2), jnp.eye(1))
    x = jax.random.normal(key, (50, 2))
    u = jax.vmap(lambda y: integral.policy(problem, integral.quadratic, found.value, y))(x)
    np.testing.assert_allclose(u[:, 0], -jnp.sin(x[:, 0]) * x[:, 1], atol=1e-8)


# --- linear task -------------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize(("n", "known"), [(5, 1.177567e-3), (9, 2.941866e-4), (15, 9.604589e-5)])
def test_trajectories_end_where_the_lyapunov_equations_do(n, known):
    found = linear(padded(RULES.trapezoid(n, 0.0, DELTA)))
    assert int(found.steps) == 8 and int(found.status) == 0 and (found.rank[:8] == 6).all()
    P = np.asarray(found.value).reshape(3, 3)
    np.testing.assert_allclose(P, P.T, atol=1e-7)  # minimum norm: the symmetric one of all solutions
    np.testing.assert_allclose(np.linalg.norm(P - riccati.solve(A, B, np.eye(3), np.eye(1)).P), known, rtol=5e-4)


@pytest.mark.x64
@pytest.mark.parametrize("reset_state", [False, True])
@pytest.mark.parametrize("scale_rows", [False, True])
def test_exact_costs_reach_the_riccati_solution(reset_state, scale_rows):
    P = riccati.solve(A, B, np.eye(3), np.eye(1)).P
    found = linear(None, reset_state=reset_state, scale_rows=scale_rows, **TIGHT)
    assert int(found.status) == 0
    np.testing.assert_allclose(found.value.reshape(3, 3), P, atol=1e-8)
    history = riccati.kleinman(A, B, np.eye(3), np.eye(1))
    np.testing.assert_allclose(found.history[1:4].reshape(3, 3, 3), history.P[:3], rtol=1e-6)


@pytest.mark.x64
def test_independent_monomials_give_the_same_value_as_all_products():
    all_products = linear(padded(RULES.simpson(5, 0.0, DELTA))).value.reshape(3, 3)
    monomials = linear(RULES.simpson(5, 0.0, DELTA), jnp.zeros(6), integral.quadratic, None).value
    rows, columns = np.triu_indices(3)
    doubled = np.where(rows == columns, 1, 2) * np.asarray(all_products)[rows, columns]
    np.testing.assert_allclose(monomials, doubled, rtol=1e-6)


@pytest.mark.x64
def test_a_trajectory_that_goes_on_loses_its_small_directions_and_a_reset_keeps_them():
    """The smallest singular value of the rows after eight iterations: 3e-11, against 3e-7 from the start again."""
    problem = integral.linear_quadratic(A, B, np.eye(3), np.eye(1))
    w = linear(None).value
    x0 = jnp.array([2.0, -2.0, 3.0])
    smallest = {}
    for name, x in (("reset", x0), ("goes on", linear(None).state)):
        found = integral.evaluate(problem, integral.kronecker, w, x, rule=None, num_rows=10, rank=6)
        assert int(found.status) == 0
        smallest[name] = float(np.linalg.svd(found.differences)[1][5])
    assert smallest["goes on"] < 1e-10 < 1e-7 < smallest["reset"]


@pytest.mark.x64
def test_one_evaluation_is_the_value_of_its_policy():
    """K0 = 0: V is x^T P1 x with P1 known; the integrals are its differences."""
    problem = integral.linear_quadratic(A, B, np.eye(3), np.eye(1))
    x = jnp.array([2.0, -2.0, 3.0])
    found = integral.evaluate(problem, integral.kronecker, jnp.zeros(9), x, rule=None, num_rows=10, rank=6, **TIGHT)
    P1 = np.array([[3.64, 5.2, 5.0], [5.2, 11.48, 11.4], [5.0, 11.4, 17.0]])
    np.testing.assert_allclose(found.weights.reshape(3, 3), P1, rtol=1e-7)
    flow = scipy.linalg.expm(A * DELTA)
    np.testing.assert_allclose(found.x, np.linalg.matrix_power(flow, 10) @ x, rtol=1e-9)
    np.testing.assert_allclose(found.integrals[0], x @ (P1 - flow.T @ P1 @ flow) @ x, rtol=1e-10)
    assert float(found.residual) < 1e-9


@pytest.mark.x64
def test_a_study_over_rules_and_starts_is_a_vmap():
    sizes, starts = (5, 9), jnp.array([[1.0, 1.0], [1.5, -0.5]])
    rules = [quadrature.pad(RULES.trapezoid(n, 0.0, DELTA), 9) for n in sizes]
    stack = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *rules)
    run = jax.vmap(jax.vmap(lambda r, x: nonlinear(r, x=x), (None, 0)), (0, None))
    found = run(stack, starts)
    assert found.value.shape == (2, 2, 3) and not found.status.any()
    for i, n in enumerate(sizes):
        rule = RULES.trapezoid(n, 0.0, DELTA)
        one = nonlinear(rule if n == 5 else padded(rule))  # padding changes nothing
        np.testing.assert_allclose(found.value[i, 0], one.value, atol=1e-10)
        assert int(found.steps[i, 0]) == int(one.steps)


@pytest.mark.x64
def test_forward_derivatives_equal_differences():
    problem = integral.linear_quadratic(A, B, np.eye(3), np.eye(1))

    def costs(scale):
        x = scale * jnp.array([2.0, -2.0, 3.0])
        rule = RULES.simpson(3, 0.0, DELTA)
        return integral.evaluate(
            problem, integral.kronecker, jnp.zeros(9), x, rule=rule, num_rows=6, rank=6, **TIGHT
        ).integrals

    slope = jax.jvp(costs, (1.0,), (1.0,))[1]
    np.testing.assert_allclose(slope, 2 * costs(1.0), rtol=1e-7)  # costs are quadratic in the state


# --- statuses ----------------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize("gain", [-0.6, -1.0, -5.0, -300.0])
def test_a_first_policy_that_is_not_stable_is_reported_and_its_weights_are_not_used(gain):
    P = np.zeros((3, 3))
    P[2, 2] = gain
    found = linear(padded(RULES.simpson(5, 0.0, DELTA)), P.reshape(-1))
    assert int(found.status) & integral.UNSTABLE and int(found.steps) == 1
    np.testing.assert_array_equal(found.value, P.reshape(-1))
    assert "stabilises" in jaxsci.explain(integral.UNSTABLE, "control")


@pytest.mark.x64
@pytest.mark.parametrize("rule", [None, RULES.simpson(5, 0.0, DELTA)], ids=["exact", "simpson"])
def test_a_blow_up_in_finite_time_is_a_status_and_no_nan(rule):
    problem = integral.ControlAffine(lambda x, _: x**3, lambda x, _: jnp.ones((1, 1)), jnp.eye(1), jnp.eye(1))
    found = integral.evaluate(problem, integral.quadratic, jnp.zeros(1), jnp.ones(1), rule=rule, num_rows=6)
    assert int(found.status) & status.MAX_STEPS
    assert all(bool(jnp.isfinite(a).all()) for a in found[:-1])
    assert bool((found.integrals[:4] > 0).all()) and not found.integrals[5:].any()
    small = integral.evaluate(
        problem, integral.quadratic, jnp.zeros(1), jnp.ones(1), rule=rule, num_rows=6, max_growth=1.5
    )
    assert int(small.status) == integral.UNSTABLE and float(small.x[0]) < 1.5


@pytest.mark.x64
def test_a_start_that_excites_too_little_is_rank_lost():
    problem = integral.linear_quadratic([[-1.0, 0.0], [0.0, -2.0]], np.zeros((2, 1)), np.eye(2), np.eye(1))
    kw = {"rule": RULES.simpson(3, 0.0, DELTA), "num_rows": 5}
    found = integral.evaluate(problem, integral.quadratic, jnp.zeros(3), jnp.array([1.0, 0.0]), **kw)
    assert int(found.status) == integral.RANK_LOST and int(found.rank) == 1
    np.testing.assert_allclose(found.weights, [0.5, 0.0, 0.0], atol=1e-6)  # minimum norm
    whole = integral.evaluate(problem, integral.quadratic, jnp.zeros(3), jnp.array([1.0, 1.0]), **kw)
    assert int(whole.status) == 0 and int(whole.rank) == 3


@pytest.mark.x64
def test_times_that_are_not_in_order_or_leave_the_interval_are_reported():
    nodes = np.array([[0.0, 0.1, 0.05], [0.0, 0.05, 0.2], [-0.1, 0.05, 0.1], [0.0, np.nan, 0.1]])
    rules = [padded((row, np.full(3, DELTA / 3))) for row in nodes]
    stack = jax.tree.map(lambda *rows: jnp.stack([jnp.asarray(a) for a in rows]), *rules)
    found = jax.vmap(nonlinear)(stack)
    assert found.status.tolist()[:3] == [integral.MISPLACED_RULE] * 3 and found.status[3] & status.NONFINITE_INPUT
    np.testing.assert_array_equal(found.steps, 1)
    np.testing.assert_array_equal(found.value, np.broadcast_to(START, found.value.shape))


@pytest.mark.x64
def test_a_double_integrator_without_control_is_unstable():
    """From weights 0 the position runs away, and the rows it leaves span two directions of three."""
    problem = integral.linear_quadratic([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], np.eye(2), [[1.0]])
    rule = RULES.simpson(3, 0.0, DELTA)
    found = integral.policy_iteration(
        problem, integral.quadratic, jnp.zeros(3), jnp.ones(2), rule=rule, interval=DELTA, num_rows=8
    )
    assert int(found.status) == integral.UNSTABLE | integral.RANK_LOST


@pytest.mark.x64
def test_samples_of_an_unknown_input_matrix_carry_a_status():
    problem = integral.linear_quadratic([[-1.0]], [[np.nan]], [[1.0]], [[1.0]])
    ends = {"starts": jnp.ones((2, 1)), "ends": 0.9 * jnp.ones((2, 1))}
    weights = np.full(3, 1 / 30)
    found = integral.evaluate_samples(problem, integral.quadratic, jnp.zeros(1), jnp.ones((2, 3, 1)), weights, **ends)
    assert int(found.status) & status.NONFINITE_RESULT and bool(jnp.isfinite(found.weights).all())


@pytest.mark.x64
def test_nan_in_the_start_and_the_cap_are_reported():
    assert int(nonlinear(None, x=(np.nan, 1.0)).status) & status.NONFINITE_INPUT
    capped = nonlinear(RULES.simpson(3, 0.0, DELTA), max_steps=2)
    assert int(capped.status) == status.MAX_STEPS and int(capped.steps) == 2
    assert capped.history.shape == (3, 3) and bool(jnp.isfinite(capped.history).all())
    # Going on from weights and state is the third step of a longer run.
    third = nonlinear(RULES.simpson(3, 0.0, DELTA), weights=capped.value, x=capped.state, max_steps=2)
    longer = nonlinear(RULES.simpson(3, 0.0, DELTA), max_steps=3)
    np.testing.assert_allclose(third.history[1], longer.history[3], rtol=1e-9)


# --- Newton's bound ----------------------------------------------------------------------------------------


@pytest.mark.x64
def test_newton_bound_is_the_limit_of_its_recursion():
    for c, eps in ((1.0, 0.2), (3.0, 0.05), (0.5, 1e-9), (0.0, 0.3)):
        e = 0.0
        for _ in range(2000):
            e = c * e**2 + eps
        bound = float(integral.newton_bound(c, eps))
        np.testing.assert_allclose(bound, e, rtol=1e-12)
        assert eps <= bound <= 2 * eps
    np.testing.assert_allclose(integral.newton_bound(1.0, 0.25), 0.5, rtol=1e-12)
    assert float(integral.newton_bound(1.0, 0.26)) == np.inf
    assert bool(jnp.isfinite(jax.grad(integral.newton_bound)(1.0, 0.3)))


@pytest.mark.x64
def test_the_limits_error_obeys_newtons_bound():
    """eps: error of one evaluation by the trapezoid, at the optimum and at the limit; c from Kleinman's own history."""
    P, K = riccati.solve(A, B, np.eye(3), np.eye(1))
    errors = np.linalg.norm(np.asarray(riccati.kleinman(A, B, np.eye(3), np.eye(1)).P)[3:7] - P, axis=(1, 2))
    c = float((errors[1:] / errors[:-1] ** 2).max())
    for n in (3, 5, 9):
        rule = RULES.trapezoid(n, 0.0, DELTA)
        limit = riccati.integral_fixed_point(A, B, np.eye(3), np.eye(1), rule, DELTA)
        eps = 0.0
        for gain in (K, limit.K):
            by_rule = riccati.integral_fixed_point(A, B, np.eye(3), np.eye(1), rule, DELTA, K0=gain, max_steps=1).value
            exact = riccati.kleinman(A, B, np.eye(3), np.eye(1), gain, num_iterations=1).P[0]
            eps = max(eps, float(jnp.linalg.norm(by_rule - exact)))
        e = float(np.linalg.norm(np.asarray(limit.value) - P))
        assert 0.99 * eps <= e <= float(integral.newton_bound(c, eps)) <= 1.01 * eps


# --- refusals ----------------------------------------------------------------------------------------------

SIMPSON = RULES.simpson(3, 0.0, DELTA)
BAD = [
    (lambda: nonlinear(SIMPSON, weights=np.ones(4)), r"features\(x\) must have shape \(4,\), got \(3,\)"),
    (lambda: nonlinear(SIMPSON, weights=np.ones((2, 3))), "use jax.vmap for a batch"),
    (lambda: nonlinear(SIMPSON, x=((1.0, 1.0),)), "use jax.vmap for a batch"),
    (lambda: nonlinear((np.zeros(3), np.zeros(2))), "use jax.vmap over a stack of rules"),
    (lambda: nonlinear(SIMPSON, num_rows=2), "num_rows must be at least the rank 3, got 2"),
    (lambda: nonlinear(SIMPSON, rank=4), r"rank must lie in \[1, 3\]"),
    (lambda: nonlinear(SIMPSON, max_steps=0), "max_steps must be an int >= 1"),
    (lambda: integral.linear_quadratic(A, B, np.eye(2), np.eye(1)), r"Q must have shape \(3, 3\)"),
    (lambda: integral.linear_quadratic(A, B, np.eye(3), np.eye(2)), r"R must have shape \(1, 1\)"),
]


@pytest.mark.x64
@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_static_misuse_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.x64
@pytest.mark.bad_input
def test_functions_of_other_shapes_raise():
    problem = integral.ControlAffine(lambda x, _: x[:1], input_matrix, jnp.eye(2), jnp.eye(1))
    with pytest.raises(ValueError, match=r"problem.drift\(x, args\) must have shape \(2,\), got \(1,\)"):
        integral.evaluate(problem, integral.quadratic, jnp.ones(3), jnp.ones(2), rule=None)
    problem = integral.ControlAffine(drift, lambda x, _: x, jnp.eye(2), jnp.eye(1))
    with pytest.raises(ValueError, match=r"input_matrix\(x, args\) must have shape \(2, 1\), got \(2,\)"):
        integral.evaluate(problem, integral.quadratic, jnp.ones(3), jnp.ones(2), rule=None)


@pytest.mark.bad_input
def test_float32_is_refused():
    with pytest.raises(ValueError, match=r'jax\.config\.update\("jax_enable_x64", True\).*allow_float32=True'):
        nonlinear(SIMPSON)
