"""Bayesian quadrature: embeddings against integration, known weights, invariances, and what it refuses."""

import numpy as np
import pytest
import scipy.integrate
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxsci import gp, quadrature

RULES, KERNELS = quadrature.rules, quadrature.embeddings
SMOOTHNESS = (0.5, 1.5, 2.5, 3.5)


def all_kernels(length):
    return {
        "rbf": KERNELS.rbf(length),
        **{f"matern{nu}": KERNELS.matern(nu, length) for nu in SMOOTHNESS},
        "wiener": KERNELS.wiener(0.7),
    }


NAMES = list(all_kernels(1.0))


# --- kernels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0.05, 0.4, 3.0, 200.0])
@pytest.mark.parametrize("name", NAMES)
def test_embedding_and_variance_equal_numerical_integration(name, length):
    kernel = all_kernels(length)[name]
    a, b = -0.3, 0.9
    for t in (a, 0.1, 0.7, b):
        inside = [t] if a < t < b else None
        z = scipy.integrate.quad(lambda s: kernel.covariance(s, t, a), a, b, points=inside, epsabs=1e-13, limit=200)[0]  # noqa: B023
        np.testing.assert_allclose(kernel.embedding(t, a, b), z, rtol=1e-9, atol=1e-12)
    zz = scipy.integrate.quad(lambda s: float(kernel.embedding(s, a, b)), a, b, epsabs=1e-13, limit=200)[0]
    np.testing.assert_allclose(kernel.variance(a, b), zz, rtol=1e-9)


@pytest.mark.parametrize("length", [0.02, 0.3, 1.0, 1.9])
def test_double_integrals_equal_their_closed_forms(length):
    """The Matern ones written out; they cancel for lengths beyond the interval's, hence no longer ones here."""
    L, l = 1.0, length
    r3, r5, r7 = np.sqrt([3, 5, 7])
    closed = {
        0.5: 2 * l * (L + l * np.expm1(-L / l)),
        1.5: 2 * l / 3 * (2 * r3 * L - 3 * l + np.exp(-r3 * L / l) * (r3 * L + 3 * l)),
        2.5: (
            2 * l * (8 * r5 * L - 15 * l) + 2 * np.exp(-r5 * L / l) * (5 * L**2 + 7 * r5 * L * l + 15 * l**2)
        ) / 15,
        3.5: (
            2 * np.exp(-r7 * L / l) * (7 * r7 * L**3 + 84 * L**2 * l + 57 * r7 * L * l**2 + 105 * l**3)
            - 6 * l**2 * (35 * l - 16 * r7 * L)
        ) / (105 * l),
    }  # fmt: skip
    for nu, value in closed.items():
        np.testing.assert_allclose(KERNELS.matern(nu, length).variance(0.0, L), value, rtol=1e-11)


def test_the_variance_keeps_its_digits_for_long_lengths():
    """As the length grows, the kernel tends to 1 and the double integral to L^2, from below."""
    for name in NAMES[:-1]:
        values = np.array([all_kernels(10.0**k)[name].variance(0.0, 1.0) for k in (2, 4, 6, 8)])
        assert (np.diff(1 - values) < 0).all() or name == "rbf"
        np.testing.assert_allclose(values[-1], 1.0, rtol=1e-8)


# --- weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1e-3, 1.0, 20.0])
@pytest.mark.parametrize("n", [2, 5, 9])
def test_wiener_weights_are_the_trapezoids(offset, n):
    rule = RULES.bayesian(n, 1.0, 3.0, kernel=KERNELS.wiener(offset))
    np.testing.assert_allclose(rule.weights, RULES.trapezoid(n, 1.0, 3.0).weights, atol=1e-10)


def test_wiener_from_zero_leaves_out_the_first_node():
    rule = RULES.bayesian(3, kernel=KERNELS.wiener(0.0), nodes=[0.25, 0.5, 1.0])
    np.testing.assert_allclose(rule.weights, [0.25, 0.375, 0.25], atol=1e-12)


def test_flat_limit_of_matern_half_is_the_trapezoid():
    rule = RULES.bayesian(9, 0.0, 0.1, kernel=KERNELS.matern(0.5, 1.0))
    trapezoid = RULES.trapezoid(9, 0.0, 0.1).weights
    assert np.abs(rule.weights - trapezoid).max() < 1e-4 * 0.1
    closer = RULES.bayesian(9, 0.0, 0.1, kernel=KERNELS.matern(0.5, 100.0))
    assert np.abs(closer.weights - trapezoid).max() < 1e-7 * 0.1


@pytest.mark.parametrize(
    ("n", "jitter", "mean", "tol"),
    [
        (5, 1e-8, 0.09134338266765, 1e-13),
        (9, 1e-8, 0.09134382489595, 1e-13),
        (15, 1e-8, 0.09134386566, 1e-12),
        (5, 0.0, 0.09134342135463, 1e-13),
    ],
)
def test_means_of_a_public_library(n, jitter, mean, tol):
    """int_0^.1 e^-t cos 5t with Matern 7/2, length .3: figures of probnum 0.1.25, whose jitter is 1e-8."""
    nodes, weights = RULES.bayesian(n, 0.0, 0.1, kernel=KERNELS.matern(3.5, 0.3), jitter=jitter)
    assert abs(weights @ (np.exp(-nodes) * np.cos(5 * nodes)) - mean) < tol


def test_without_jitter_more_nodes_help_and_with_it_they_stop_helping():
    truth = 0.09134389588621

    def error(n, jitter):
        nodes, weights = RULES.bayesian(n, 0.0, 0.1, kernel=KERNELS.matern(3.5, 0.3), jitter=jitter)
        return abs(weights @ (np.exp(-nodes) * np.cos(5 * nodes)) - truth)

    assert error(15, 0.0) < 0.1 * error(9, 0.0)
    assert error(15, 1e-8) > 0.4 * error(9, 1e-8)


nodes_in_unit = st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True).map(lambda x: np.sort(np.array(x)))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(nodes=nodes_in_unit, length=st.floats(0.1, 1.0), factor=st.floats(0.1, 10))
def test_weights_scale_with_the_interval_and_are_exact_on_the_kernels_sections(name, nodes, length, factor):
    assume(len(nodes) == 1 or np.diff(nodes).min() > 0.08)
    if name == "wiener":
        kernel, scaled = KERNELS.wiener(length), KERNELS.wiener(length * factor)
    else:
        kernel, scaled = all_kernels(length)[name], all_kernels(length * factor)[name]
    n = len(nodes)
    rule = RULES.bayesian(n, 0.0, 1.0, kernel=kernel, nodes=nodes)
    longer = RULES.bayesian(n, 0.0, factor, kernel=scaled, nodes=np.minimum(nodes * factor, factor))
    np.testing.assert_allclose(longer.weights, factor * rule.weights, rtol=1e-5, atol=1e-6 * factor)
    sections = kernel.covariance(nodes[:, None], nodes[None, :], 0.0)
    np.testing.assert_allclose(sections @ rule.weights, kernel.embedding(nodes, 0.0, 1.0), atol=1e-12)
    # Amplitude cancels.
    louder = quadrature.embeddings.EmbeddedKernel(
        lambda s, t, a: 9.0 * kernel.covariance(s, t, a),
        lambda t, a, b: 9.0 * kernel.embedding(t, a, b),
        lambda a, b: 9.0 * kernel.variance(a, b),
    )
    again = RULES.bayesian(n, 0.0, 1.0, kernel=louder, nodes=nodes)
    np.testing.assert_allclose(again.weights, rule.weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES[:-1])
@settings(max_examples=25, deadline=None)
@given(half=nodes_in_unit, length=st.floats(0.1, 1.0))
def test_symmetric_nodes_have_symmetric_weights(name, half, length):
    half = half[:3] / 2.5
    nodes = np.concatenate([half, 1 - half[::-1]])
    assume(np.diff(nodes).min() > 0.05)
    weights = RULES.bayesian(len(nodes), kernel=all_kernels(length)[name], nodes=nodes).weights
    np.testing.assert_allclose(weights, weights[::-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(nodes=nodes_in_unit, extra=st.floats(0, 1), length=st.floats(0.1, 1.0))
def test_the_posterior_variance_is_not_negative_and_falls_when_a_node_is_added(name, nodes, extra, length):
    more = np.sort(np.append(nodes, extra))
    assume(np.diff(more).min() > 0.05)
    kernel = all_kernels(length)[name]
    prior = kernel.variance(0.0, 1.0)
    before, after = (quadrature.variance(kernel, x, 0.0, 1.0) for x in (nodes, more))
    assert 0 <= after <= before + 1e-9 * prior and before <= prior
    assert quadrature.variance(kernel, nodes, 0.0, 1.0, jitter=0.1) >= before - 1e-9 * prior


def test_the_posterior_variance_is_the_squared_worst_case_error():
    """zz - 2 w.z + w.K w at the rule's own weights; other weights do worse."""
    kernel = KERNELS.matern(1.5, 0.5)
    nodes, weights = RULES.bayesian(4, kernel=kernel)
    gram, z = kernel.covariance(nodes[:, None], nodes[None, :], 0.0), kernel.embedding(nodes, 0.0, 1.0)

    def worst(w):
        return kernel.variance(0.0, 1.0) - 2 * w @ z + w @ gram @ w

    np.testing.assert_allclose(quadrature.variance(kernel, nodes, 0.0, 1.0), worst(weights), rtol=1e-9)
    assert worst(RULES.simpson(4, tail="three_eighths").weights) > 1.01 * worst(weights)


# --- refusals ----------------------------------------------------------------------------------------------


def bayes(nodes, kernel=None, **kw):
    return RULES.bayesian(len(nodes), kernel=kernel or KERNELS.matern(2.5, 1.0), nodes=np.asarray(nodes), **kw)


BAD = [
    (lambda: bayes([0.5, 0.2]), "sorted, no duplicates"),
    (lambda: bayes([0.2, 0.2, 1.0]), "sorted, no duplicates"),
    (lambda: bayes([0.2, np.nan]), "must be finite"),
    (lambda: bayes([0.2, 1.5]), "must lie in"),
    (lambda: bayes([]), "num_nodes must be >= 1"),
    (lambda: bayes([[0.2, 0.3]]), r"shape \(n,\)"),
    (lambda: RULES.bayesian(3, kernel=KERNELS.rbf(1.0), nodes=[0.0, 1.0]), "expected 3 nodes, got 2"),
    (lambda: RULES.bayesian(0, kernel=KERNELS.rbf(1.0)), "num_nodes must be >= 1"),
    (lambda: RULES.bayesian(3, 1.0, 0.0, kernel=KERNELS.rbf(1.0)), "finite a < b"),
    (lambda: bayes([0.0, 1.0], jitter=-1.0), "jitter must be >= 0"),
    (lambda: bayes([0.0, 1.0], jitter=np.nan), "jitter must be >= 0"),
    (lambda: bayes([0.0, 0.5, 1.0], KERNELS.wiener(0.0)), "leave out the node at a"),
    (lambda: RULES.bayesian(25, kernel=KERNELS.rbf(1.0)), "is singular .* positive jitter"),
    (lambda: quadrature.variance(KERNELS.rbf(1.0), [0.0, 0.0], 0.0, 1.0), "quadrature.variance: .*no duplicates"),
    (lambda: KERNELS.matern(2.0, 1.0), "nu must be one of"),
    (lambda: KERNELS.matern(0.5, 0.0), "length must be one positive"),
    (lambda: KERNELS.rbf(np.nan), "length must be one positive"),
    (lambda: KERNELS.rbf(np.ones(2)), "length must be one positive"),
    (lambda: KERNELS.wiener(-1.0), "offset must be >= 0"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_values_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.bad_input
def test_a_kernel_of_a_gaussian_process_is_told_apart():
    kernel = gp.kernels.rbf(1.0)
    match = "EmbeddedKernel of quadrature.embeddings, .* got Partial; a kernel of gp.kernels"
    with pytest.raises(TypeError, match=match):
        RULES.bayesian(3, kernel=kernel)
    with pytest.raises(TypeError, match="quadrature.variance: kernel must be an EmbeddedKernel"):
        quadrature.variance(kernel, [0.0, 1.0], 0.0, 1.0)


@pytest.mark.bad_input
def test_lost_digits_are_announced_and_jitter_silences_it():
    kernel = KERNELS.rbf(0.5)
    with pytest.warns(quadrature.ConditioningWarning, match="positive jitter"):
        RULES.bayesian(11, kernel=kernel)
    RULES.bayesian(11, kernel=kernel, jitter=1e-8)  # warnings are errors here
