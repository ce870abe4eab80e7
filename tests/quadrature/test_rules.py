"""Classical rules against SciPy and their degrees; rates; spectral integration; bad input."""

import numpy as np
import pytest
import scipy.integrate
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsci import quadrature

RULES = quadrature.rules
SIMPSON_ANY = lambda n, a, b: RULES.simpson(n, a, b, tail="three_eighths")  # noqa: E731
SIMPSON_UNIT = lambda n: SIMPSON_ANY(n, 0.0, 1.0)  # noqa: E731
# name -> (rule, least n, degree of exactness)
CLASSICAL = {
    "trapezoid": (RULES.trapezoid, 2, lambda n: 1),
    "simpson": (SIMPSON_ANY, 3, lambda n: 3),
    "gauss_legendre": (RULES.gauss_legendre, 1, lambda n: 2 * n - 1),
    "clenshaw_curtis": (RULES.clenshaw_curtis, 1, lambda n: n - 1 + n % 2),
}
# int_0^1 exp(sin 3t) dt
SINE = 2.018889845184385


def sine(t):
    return np.exp(np.sin(3 * t))


@pytest.mark.parametrize("name", CLASSICAL)
@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), a=st.floats(-5, 5), span=st.floats(0.1, 20))
def test_classical_rules_are_positive_symmetric_sum_to_the_length_and_reach_their_degree(name, n, a, span):
    rule, least, degree = CLASSICAL[name]
    b = a + span
    nodes, weights = rule(max(n, least), a, b)
    assert nodes.dtype == weights.dtype == np.float64 and nodes.shape == weights.shape == (max(n, least),)
    assert (weights > 0).all() and (np.diff(nodes) > 0).all() and a <= nodes[0] and nodes[-1] <= b
    np.testing.assert_allclose(weights.sum(), b - a, rtol=1e-13)
    if name != "simpson" or len(nodes) % 2:
        np.testing.assert_allclose(weights, weights[::-1], rtol=1e-11)
        np.testing.assert_allclose(nodes + nodes[::-1], a + b, atol=1e-13 * (abs(a) + abs(b)))
    x = (2 * nodes - a - b) / (b - a)  # in [-1, 1]
    for k in range(min(degree(len(nodes)), 25) + 1):
        np.testing.assert_allclose(2 / (b - a) * weights @ x**k, (1 + (-1) ** k) / (k + 1), atol=1e-11)


def test_no_rule_has_a_degree_more_than_it_says():
    for n in (3, 5):
        for rule, _, degree in CLASSICAL.values():
            x, w = rule(n, -1.0, 1.0)
            k = degree(n) + 1
            assert abs(w @ x**k - (1 + (-1) ** k) / (k + 1)) > 1e-4


@pytest.mark.parametrize("n", [1, 2, 5, 15, 64])
def test_gauss_legendre_equals_scipy(n):
    nodes, weights = RULES.gauss_legendre(n, -1.0, 1.0)
    x, w = scipy.special.roots_legendre(n)
    np.testing.assert_allclose(nodes, x, atol=1e-14)
    np.testing.assert_allclose(weights, w, rtol=1e-11)


@pytest.mark.parametrize("n", [3, 9, 33])
def test_simpson_and_trapezoid_equal_scipy_on_samples(n):
    nodes, weights = RULES.simpson(n, 0.0, 1.0)
    np.testing.assert_allclose(weights @ sine(nodes), scipy.integrate.simpson(sine(nodes), x=nodes), rtol=1e-13)
    nodes, weights = RULES.trapezoid(n, 0.0, 1.0)
    np.testing.assert_allclose(weights @ sine(nodes), scipy.integrate.trapezoid(sine(nodes), x=nodes), rtol=1e-13)


def test_a_smooth_integral():
    for rule in (RULES.gauss_legendre(15), RULES.clenshaw_curtis(33)):
        assert abs(rule.weights @ sine(rule.nodes) - SINE) < 1e-13


def order(rule, coarse, fine):
    """log2 of the ratio of the errors with `coarse` and `fine` nodes."""
    errors = [abs(r.weights @ sine(r.nodes) - SINE) for r in (rule(coarse), rule(fine))]
    return np.log2(errors[0] / errors[1])


@pytest.mark.parametrize(
    ("nu", "low", "high"), [(None, 1.98, 2.02), (0.5, 1.95, 2.05), (1.5, 2.7, 3.3), (2.5, 3.7, 4.3), (3.5, 3.5, np.inf)]
)
def test_rates_of_trapezoid_and_matern(nu, low, high):
    """int exp(sin 3t), n = 17 -> 33, length 1: a Matern rule gains one order over its smoothness."""
    kernel = quadrature.embeddings.matern(nu, 1.0) if nu else None
    rule = RULES.trapezoid if nu is None else lambda n: RULES.bayesian(n, kernel=kernel)
    assert low <= order(rule, 17, 33) <= high


def test_rate_of_simpson():
    assert 3.5 <= order(RULES.simpson, 17, 33) <= 4.1
    assert order(SIMPSON_UNIT, 64, 128) >= 3.8


@pytest.mark.parametrize("rule", [RULES.gauss_legendre, RULES.clenshaw_curtis])
@pytest.mark.parametrize("n", [1, 2, 12, 24])
def test_the_integration_matrix_is_spectral_and_agrees_with_the_weights(rule, n):
    a, b = -0.5, 1.5
    nodes, weights = rule(n, a, b)
    S = quadrature.integration_matrix(nodes, a, b)
    for k in range(n):
        np.testing.assert_allclose(S @ nodes**k, (nodes ** (k + 1) - a ** (k + 1)) / (k + 1), atol=1e-11)
    if n == 24:
        np.testing.assert_allclose(S @ np.cos(nodes), np.sin(nodes) - np.sin(a), atol=1e-14)
    # Integrating on to b with the rule itself: the last Chebyshev point is b.
    if rule is RULES.clenshaw_curtis and n > 1:
        np.testing.assert_allclose(S[-1], weights, atol=1e-13)


def test_padding_adds_nodes_of_no_weight():
    rule = RULES.gauss_legendre(3, 0.0, 2.0)
    nodes, weights = quadrature.pad(rule, 5)
    np.testing.assert_array_equal(nodes, [*rule.nodes, rule.nodes[-1], rule.nodes[-1]])
    np.testing.assert_array_equal(weights, [*rule.weights, 0, 0])
    np.testing.assert_array_equal(quadrature.pad(rule, 3).nodes, rule.nodes)


BAD = [
    (lambda: RULES.trapezoid(1), "num_nodes must be >= 2, got 1"),
    (lambda: RULES.simpson(2, tail="three_eighths"), "num_nodes must be >= 3, got 2"),
    (lambda: RULES.simpson(4), "must be odd, got 4; use 5, or tail='three_eighths'"),
    (lambda: RULES.simpson(5, tail="trapezoid"), "tail must be None or 'three_eighths'"),
    (lambda: RULES.gauss_legendre(0), "num_nodes must be >= 1, got 0"),
    (lambda: RULES.clenshaw_curtis(0), "num_nodes must be >= 1, got 0"),
    (lambda: RULES.trapezoid(3, 1.0, 1.0), "finite a < b"),
    (lambda: RULES.gauss_legendre(3, 1.0, 0.0), "negate the weights"),
    (lambda: RULES.simpson(3, 0.0, np.nan), "finite a < b"),
    (lambda: RULES.clenshaw_curtis(3, -np.inf, 0.0), "finite a < b"),
    (lambda: RULES.trapezoid(3, np.zeros(2), 1.0), "scalars"),
    (lambda: quadrature.pad(RULES.trapezoid(3), 2), "num_nodes must be >= 3"),
    (lambda: quadrature.integration_matrix([0.0, 0.0, 1.0]), "strictly increasing"),
    (lambda: quadrature.integration_matrix([0.0, 2.0]), "must lie in"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_values_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.bad_input
def test_a_number_of_nodes_that_is_no_integer_raises():
    with pytest.raises(TypeError, match="must be an integer, got 2.5"):
        RULES.trapezoid(2.5)


@pytest.mark.bad_input
def test_many_equispaced_nodes_are_no_nodes_to_interpolate_through():
    with pytest.warns(quadrature.ConditioningWarning, match=r"rules\.gauss_legendre"):
        quadrature.integration_matrix(np.linspace(0, 1, 40))
