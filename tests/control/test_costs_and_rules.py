"""Costs that are none, rules for another interval, and loops that did not arrive: all of it is reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import quadrature
from jaxsci.control import integral, riccati
from jaxsci.core import status

ONE = np.eye(1)
RULES = quadrature.rules
SCALAR = integral.linear_quadratic(-ONE, ONE, ONE, ONE)


def fixed_point(rule, interval=0.1, Q=ONE, R=ONE, **options):
    return riccati.integral_fixed_point(-ONE, ONE, Q, R, rule, interval, **options)


def evaluate(problem=SCALAR, rule=None, **options):
    x, weights = jnp.ones(1), jnp.zeros(1)
    return integral.evaluate(
        problem, integral.quadratic, weights, x, rule=rule, num_rows=3, rtol=1e-8, atol=1e-10, **options
    )


@pytest.mark.x64
def test_a_rule_for_another_interval_is_reported():
    """Nodes that leave the interval, do not reach it, or are not sorted: P = 1.73, .23 where .414 is right."""
    good = RULES.gauss_legendre(5, 0.0, 0.1)
    bad = [
        RULES.gauss_legendre(5),
        RULES.gauss_legendre(5, 0.0, 0.05),
        (np.asarray(good.nodes)[::-1], np.asarray(good.weights)[::-1]),
    ]
    stack = [jnp.stack([jnp.asarray(a) for a in pair]) for pair in zip(good, *bad, strict=True)]
    found = jax.vmap(lambda *rule: fixed_point(rule))(*stack)
    np.testing.assert_array_equal(found.status, [0] + 3 * [integral.MISPLACED_RULE])
    np.testing.assert_allclose(found.value[0], np.sqrt(2) - 1, rtol=1e-10)
    assert np.all(np.abs(found.value[1:3, 0, 0] - (np.sqrt(2) - 1)) > 0.1)
    found = jax.vmap(lambda *rule: evaluate(rule=rule, interval=0.1))(*stack)
    np.testing.assert_array_equal(found.status, [0] + 3 * [integral.MISPLACED_RULE])


@pytest.mark.x64
def test_an_interval_that_is_not_positive_is_reported():
    nothing = (np.zeros(2), np.zeros(2))
    for interval in (-0.1, 0.0):
        assert int(evaluate(interval=interval).status) == status.OUT_OF_RANGE
        assert int(jax.jit(lambda end: fixed_point(nothing, end).status)(interval)) & status.OUT_OF_RANGE


RULE = RULES.simpson(5, 0.0, 0.1)


@pytest.mark.x64
@pytest.mark.parametrize("run", [fixed_point, lambda rule: evaluate(rule=rule, interval=0.1)])
@pytest.mark.parametrize(
    ("rule", "error", "match"),
    [
        ("simpson", TypeError, "rule must be a pair .*, got 'simpson'"),
        (3.0, TypeError, "rule must be a pair"),
        (RULES.simpson(5), ValueError, r"must stand on \[0, interval\] with interval = 0.1"),
        (RULES.simpson(5, 0.0, 0.05), ValueError, "a sum of weights of 0.05"),
        ((np.asarray(RULE.nodes)[::-1], np.asarray(RULE.weights)[::-1]), ValueError, "nodes in order"),
    ],
)
def test_a_concrete_rule_elsewhere_raises_before_anything_is_compiled(run, rule, error, match):
    with pytest.raises(error, match=match):
        run(rule)


@pytest.mark.x64
def test_a_rounding_error_at_the_ends_passes():
    """Nodes from other arithmetic end one unit in the last place beyond the interval, or short of it."""
    nodes, weights = (np.asarray(a) for a in RULE)
    for scale in (1 - 2e-16, 1, 1 + 3e-16):
        found = fixed_point((nodes * scale, weights))
        assert int(found.status) == 0
        np.testing.assert_allclose(found.value, np.sqrt(2) - 1, rtol=1e-6)
    assert int(evaluate(rule=(nodes * (1 + 3e-16), weights), interval=0.1).status) == 0


@pytest.mark.x64
def test_a_tolerance_that_is_not_a_number_ends_at_the_cap():
    rule = RULES.simpson(5, 0.0, 0.1)
    found = fixed_point(rule, tol=np.nan, max_steps=8)
    assert int(found.steps) == 8 and int(found.status) == status.NONFINITE_INPUT
    np.testing.assert_allclose(found.value, np.sqrt(2) - 1, rtol=1e-6)
    assert int(fixed_point(rule, tol=-1.0, max_steps=8).status) == status.MAX_STEPS


SKEWED = np.array([[2.0, 1.0], [0.0, 2.0]])
INDEFINITE = np.diag([1.0, -1.0])
COSTS = [
    (np.eye(2), -np.eye(2), integral.UNFIT_COSTS),
    (np.eye(2), INDEFINITE, integral.UNFIT_COSTS),
    (np.eye(2), SKEWED, integral.UNFIT_COSTS),
    (SKEWED, np.eye(2), integral.UNFIT_COSTS),
    (np.eye(2), np.diag([1.0, 0.0]), status.SINGULAR),
    (np.nan * np.eye(2), np.eye(2), status.NONFINITE_INPUT),
    (np.eye(2), np.diag([np.inf, 1.0]), status.NONFINITE_INPUT),
]


@pytest.mark.x64
def test_costs_that_are_none_are_reported():
    """One status by all that take costs; what was found with them is beside the point."""
    A, B = np.diag([-1.0, -2.0]), np.array([[1.0, 0.5], [0.0, 1.0]])
    Q, R = (jnp.asarray(np.stack(M)) for M in zip(*(pair[:2] for pair in COSTS), strict=True))
    bits = np.array([bit for *_, bit in COSTS])
    rule = RULES.simpson(3, 0.0, 0.1)
    for code in (
        jax.vmap(lambda Q, R: riccati.kleinman(A, B, Q, R, num_iterations=6).status)(Q, R),
        jax.vmap(lambda Q, R: riccati.integral_fixed_point(A, B, Q, R, rule, 0.1).status)(Q, R),
    ):
        np.testing.assert_array_equal(np.asarray(code) & bits, bits)
    assert int(riccati.kleinman(A, B, np.eye(2), np.eye(2)).status) == 0

    def evaluated(Q, R):
        problem = integral.linear_quadratic(A, B, Q, R)
        x, zero = jnp.array([1.0, -2.0]), jnp.zeros(3)
        return integral.evaluate(problem, integral.quadratic, zero, x, rule=None, num_rows=4, rtol=1e-6, atol=1e-8)

    found = jax.vmap(evaluated)(Q, R)
    np.testing.assert_array_equal(found.status, bits)
    assert np.all(np.isfinite(found.weights))


@pytest.mark.bad_input
def test_the_host_refuses_a_cost_that_is_not_positive():
    for R in (-ONE, np.zeros((1, 1))):
        with pytest.raises(ValueError, match="R must be positive definite"):
            riccati.solve(-ONE, ONE, ONE, R)
    with pytest.raises(ValueError, match="R must be positive definite"):
        riccati.solve(-np.eye(2), np.eye(2), np.eye(2), INDEFINITE)
    for Q, R in ((SKEWED, np.eye(2)), (np.eye(2), SKEWED)):
        with pytest.raises(ValueError, match="symmetric"):
            riccati.solve(-np.eye(2), np.eye(2), Q, R)


@pytest.mark.x64
def test_kleinman_says_when_it_has_not_arrived():
    start = 100 * ONE
    short, long = (riccati.kleinman(-ONE, ONE, ONE, ONE, start, num_iterations=n) for n in (3, 12))
    assert int(short.status) == status.MAX_STEPS and float(short.residual[-1]) > 1
    assert int(long.status) == status.OK and float(long.residual[-1]) < 1e-12


@pytest.mark.x64
def test_growth_may_be_unlimited():
    """x' = x to e^3 times the start: stopped by a limit of 10, let go by infinity, and NaN is no limit."""
    growing = integral.linear_quadratic(ONE, ONE, ONE, ONE)
    codes = [int(evaluate(growing, interval=1.0, max_growth=limit).status) for limit in (10.0, np.inf, np.nan)]
    assert codes[0] & integral.UNSTABLE and codes[2] & status.NONFINITE_INPUT
    assert not codes[1] & status.NONFINITE_INPUT
    # The last state is that of a run that went on to the end.
    assert float(evaluate(growing, interval=1.0, max_growth=np.inf).x[0]) == pytest.approx(np.exp(3), rel=1e-6)


def test_newton_bound_of_negative_numbers_is_none():
    found = integral.newton_bound(jnp.array([-1.0, 1.0, jnp.nan, 0.0]), jnp.array([0.1, -0.1, 0.1, 0.1]))
    np.testing.assert_allclose(found, [np.nan, np.nan, np.nan, 0.1], rtol=1e-6)
