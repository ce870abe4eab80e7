"""Rules at work in compiled code: traced ends, pytrees, gradients, stacks of rules, float32, cumulative forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from jaxsci import quadrature

RULES, KERNELS = quadrature.rules, quadrature.embeddings
GAUSS = RULES.gauss_legendre(20)


@pytest.mark.x64
def test_traced_ends_and_pytrees_of_any_shape():
    def f(t):
        return {"a": jnp.cos(t), "b": jnp.stack([t, t**2])}

    got = jax.jit(lambda a, b: quadrature.integrate(f, GAUSS, a, b))(0.5, 2.0)
    np.testing.assert_allclose(got["a"], np.sin(2.0) - np.sin(0.5), rtol=1e-13)
    np.testing.assert_allclose(got["b"], [(4 - 0.25) / 2, (8 - 0.125) / 3], rtol=1e-13)
    back = quadrature.integrate(f, GAUSS, 2.0, 0.5)
    np.testing.assert_allclose(back["a"], -got["a"], rtol=1e-13)


@pytest.mark.x64
def test_a_rule_used_where_it_stands_and_one_moved_from_another_interval():
    rule = RULES.clenshaw_curtis(24, -1.0, 3.0)
    truth = np.exp(3.0) - np.exp(-1.0)
    np.testing.assert_allclose(quadrature.integrate(jnp.exp, rule), truth, rtol=1e-13)
    np.testing.assert_allclose(quadrature.integrate(jnp.exp, rule, -1.0, 3.0, source=(-1.0, 3.0)), truth, rtol=1e-13)
    moved = quadrature.integrate(jnp.exp, rule, 0.0, 1.0, source=(-1.0, 3.0))
    np.testing.assert_allclose(moved, np.e - 1, rtol=1e-13)


@pytest.mark.x64
def test_a_moved_bayesian_rule_is_that_of_the_scaled_kernel():
    rule = RULES.bayesian(5, kernel=KERNELS.matern(2.5, 0.5))
    scaled = RULES.bayesian(5, 1.0, 4.0, kernel=KERNELS.matern(2.5, 1.5))
    got = quadrature.integrate(jnp.sin, rule, 1.0, 4.0)
    np.testing.assert_allclose(got, scaled.weights @ np.sin(scaled.nodes), rtol=1e-12)


@pytest.mark.x64
def test_gradients_with_respect_to_ends_and_parameters():
    def area(a, b, c):
        return quadrature.integrate(lambda t: jnp.exp(c * t), GAUSS, a, b)

    a, b, c = 0.2, 1.1, 0.7
    slopes = jax.grad(area, argnums=(0, 1, 2))(a, b, c)
    by_parts = (b * np.exp(c * b) - a * np.exp(c * a)) / c - (np.exp(c * b) - np.exp(c * a)) / c**2
    np.testing.assert_allclose(slopes, [-np.exp(c * a), np.exp(c * b), by_parts], rtol=1e-11)
    # Leibniz' rule holds for any rule that is exact on f', and only then: a trapezoid on exp is not.
    coarse = jax.grad(lambda b: quadrature.integrate(jnp.exp, RULES.trapezoid(3), 0.0, b))(1.0)
    assert abs(float(coarse) - np.e) > 1e-2


def test_f_is_traced_once():
    calls = []

    def f(t):
        calls.append(1)
        return t

    quadrature.integrate(f, GAUSS, 0.0, 1.0)
    assert len(calls) == 1


@pytest.mark.x64
def test_a_study_over_n_is_a_vmap_over_padded_rules():
    sizes = (3, 5, 9, 17)
    rules = [RULES.simpson(n) for n in sizes]
    stack = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *(quadrature.pad(r, 17) for r in rules))
    got = jax.vmap(lambda rule: quadrature.integrate(jnp.exp, rule, 0.0, 2.0))(stack)
    one = [quadrature.integrate(jnp.exp, rule, 0.0, 2.0) for rule in rules]
    np.testing.assert_allclose(got, one, rtol=1e-14)
    errors = np.abs(np.asarray(got) - (np.exp(2) - 1))
    assert (np.log2(errors[:-1] / errors[1:]) > 3.7).all()


def test_float32_weights_keep_float32_accuracy():
    """Smooth-kernel weights cast from float64 are good to float32; solved for in float32 they are noise."""
    kernel = KERNELS.matern(3.5, 0.3)
    nodes, weights = RULES.bayesian(9, 0.0, 0.1, kernel=kernel)
    samples = jnp.asarray(np.exp(-nodes) * np.cos(5 * nodes), jnp.float32)
    total = quadrature.apply(weights, samples)
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, weights @ (np.exp(-nodes) * np.cos(5 * nodes)), rtol=3e-7)
    gram = kernel.covariance(nodes[:, None], nodes[None, :], 0.0).astype(np.float32)
    single = np.linalg.solve(gram, kernel.embedding(nodes, 0.0, 0.1).astype(np.float32))
    assert np.abs(single - weights).max() > 1e-3


def test_apply_weighs_any_axis_and_takes_matrices():
    f = jnp.arange(24.0).reshape(2, 3, 4)
    w, S = np.array([1.0, 2.0, 3.0]), np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(quadrature.apply(w, f, axis=1), np.einsum("j,ijk->ik", w, f))
    np.testing.assert_allclose(quadrature.apply(w, f, axis=-2), np.einsum("j,ijk->ik", w, f))
    np.testing.assert_allclose(quadrature.apply(S, f, axis=1), np.einsum("mj,ijk->imk", S, f))
    np.testing.assert_allclose(quadrature.apply(w, jnp.arange(3)), 8.0)


@pytest.mark.x64
@pytest.mark.parametrize("n", [3, 4, 9, 10])
def test_cumulative_forms_equal_scipy(n, key):
    f = jax.random.normal(key, (2, n))
    t = jnp.sort(jax.random.uniform(key, (n,)))
    got = quadrature.cumulative_trapezoid(f, t, axis=1)
    np.testing.assert_allclose(got, scipy.integrate.cumulative_trapezoid(f, t, axis=1, initial=0), atol=1e-14)
    got = quadrature.cumulative_simpson(f, 0.3, axis=1)
    np.testing.assert_allclose(got, scipy.integrate.cumulative_simpson(f, dx=0.3, axis=1, initial=0), atol=1e-14)
    # Every second value is Simpson's.
    weights = RULES.simpson(3, 0.0, 0.6).weights
    np.testing.assert_allclose(got[:, 2], quadrature.apply(weights, f[:, :3], axis=1), atol=1e-14)


@pytest.mark.x64
def test_the_integration_matrix_cumulates_samples():
    nodes, _ = RULES.gauss_legendre(16, 0.0, 2.0)
    S = quadrature.integration_matrix(nodes, 0.0, 2.0)
    samples = jnp.stack([jnp.sin(nodes), jnp.exp(nodes)])
    got = quadrature.apply(S, samples, axis=1)
    np.testing.assert_allclose(got, [1 - np.cos(nodes), np.exp(nodes) - 1], atol=1e-13)


BAD = [
    (lambda: quadrature.integrate(jnp.sin, GAUSS, 0.0), "both ends or none"),
    (lambda: quadrature.integrate(jnp.sin, (np.zeros(3), np.zeros(2))), r"one shape \(n,\)"),
    (lambda: quadrature.integrate(jnp.sin, (np.zeros((2, 3)), np.zeros((2, 3)))), "jax.vmap over a stack"),
    (lambda: quadrature.apply(np.ones(3), jnp.ones(4)), "3 entries along axis 0"),
    (lambda: quadrature.apply(np.ones(3), jnp.ones(3), axis=1), "along axis 1"),
    (lambda: quadrature.apply(1.0, jnp.ones(3)), r"shape \(n,\) or \(m, n\)"),
    (lambda: quadrature.cumulative_simpson(jnp.ones(2), 0.1), "at least 3 samples"),
    (lambda: quadrature.cumulative_trapezoid(jnp.ones(2), jnp.ones(3)), "nodes' "),
    (lambda: quadrature.cumulative_simpson(1.0, 0.1), "have no axis 0"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_static_misuse_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.bad_input
def test_infinite_ends_and_rules_that_are_none_are_refused():
    rule = quadrature.rules.simpson(5)
    for a, b in ((0.0, np.inf), (-np.inf, 0.0), (jnp.nan, 1.0)):
        with pytest.raises(ValueError, match="a and b must be finite"):
            quadrature.integrate(jnp.sin, rule, a, b)
    assert np.isnan(jax.jit(lambda b: quadrature.integrate(jnp.sin, rule, 0.0, b))(np.inf))  # traced: no status to set
    for name in ("simpson", 3.0, (rule.nodes,)):
        with pytest.raises(TypeError, match=r"integrate: rule must be a pair \(nodes, weights\)"):
            quadrature.integrate(jnp.sin, name, 0.0, 1.0)


@pytest.mark.bad_input
def test_rules_and_spacings_that_are_none():
    nodes = np.linspace(0.0, 1.0, 3)
    for rule in ((nodes, nodes[:2]), (nodes[None], nodes[None]), (nodes[:0], nodes[:0])):
        with pytest.raises(ValueError, match="one shape"):
            quadrature.pad(rule, 4)
    for size in (4.5, 4.0, np.array([4])):
        with pytest.raises(TypeError, match="num_nodes must be an integer"):
            quadrature.pad((nodes, nodes), size)
    for source in ((1.0, 1.0), (np.float64(2.0), 2)):
        with pytest.raises(ValueError, match="source must be an interval"):
            quadrature.integrate(jnp.sin, (nodes, nodes), 0.0, 1.0, source=source)
    with pytest.raises(ValueError, match="spacing must be a scalar"):
        quadrature.cumulative_simpson(np.ones(4), np.full(3, 0.1))
