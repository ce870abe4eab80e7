"""Kernels against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
from jaxsci import gp, quadrature

K = gp.kernels


def distances(x, y, length):
    return np.sqrt((((x[:, None] - y[None]) / length) ** 2).sum(-1))


@pytest.mark.x64
def test_kernels_equal_their_formulas():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 2)), rng.standard_normal((5, 2))
    x[0] = y[0]
    r, s = distances(x, y, 0.7), distances(x, y, [0.7, 1.9])
    rbf = np.exp(-(s**2) / 2)
    cases = {
        "rbf": (K.rbf(np.array([0.7, 1.9])), rbf),
        "matern12": (K.matern(0.5, 0.7), np.exp(-r)),
        "matern32": (K.matern(1.5, 0.7), (1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r)),
        "matern52": (K.matern(2.5, 0.7), (1 + np.sqrt(5) * r + 5 / 3 * r**2) * np.exp(-np.sqrt(5) * r)),
        "linear": (K.linear(np.array([2.0, 3.0])), (x * [2.0, 3.0]) @ y.T),
        "add": (K.add(K.constant(2.5), K.scale(K.rbf(np.array([0.7, 1.9])), 1.7)), 2.5 + 1.7 * rbf),
        "multiply": (K.multiply(K.rbf(np.array([0.7, 1.9])), K.linear(1.0), K.constant(3.0)), 3 * rbf * (x @ y.T)),
        "part": (K.part(K.rbf(0.7), (1, 2)), np.exp(-((x[:, None, 1] - y[None, :, 1]) ** 2) / 0.98)),
        "bare function": (lambda a, b: (a * b).sum(), x @ y.T),
    }
    for name, (kernel, expected) in cases.items():
        np.testing.assert_allclose(K.gram(kernel, jnp.asarray(x), jnp.asarray(y)), expected, atol=1e-14, err_msg=name)


@pytest.mark.x64
def test_mixed_kernel_on_contexts_and_binary_arms():
    """The published formula of the bandit over interface conditions, on records (s, a)."""
    from jaxsci import bandits

    rng = np.random.default_rng(1)
    s, a = rng.standard_normal((7, 3)), rng.integers(0, 2, (7, 9))
    params = {"length": jnp.asarray(0.6), "coupling": jnp.asarray(1.4), "precision": jnp.asarray(80.0)}
    kernel, noise = bandits.regressors.interface_model(params)
    agree = (1 - np.abs(a[:, None] - a[None])).mean(-1)
    expected = np.exp(-((s[:, None] - s[None]) ** 2).sum(-1) / 0.6) * np.exp(1.4 * agree)
    for arms in (a, a.astype(bool), a.astype(float)):
        inputs = jnp.asarray(s), jnp.asarray(arms)
        np.testing.assert_allclose(K.gram(kernel, inputs, inputs), expected, rtol=1e-13)
    assert float(noise) == 1 / 80


@pytest.mark.x64
@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_gradients_are_finite_where_points_coincide(nu):
    def total(x, length):
        return K.gram(K.matern(nu, length), x, x).sum()

    x = jnp.asarray([[0.3, 1.0], [0.3, 1.0], [0.9, -0.2]])
    slopes = jax.jit(jax.grad(total, (0, 1)))(x, 0.7)
    assert all(np.isfinite(g).all() for g in slopes)
    moved = (total(x, 0.7 + 1e-6) - total(x, 0.7 - 1e-6)) / 2e-6
    np.testing.assert_allclose(slopes[1], moved, rtol=1e-7)


def test_fresh_kernels_compile_nothing():
    x = jnp.ones((3, 2))

    def make(v):
        return K.scale(K.add(K.part(K.matern(1.5, v), (0, 1)), K.hamming(v)), v)

    jax.block_until_ready(K.gram(make(0.5), x, x))
    with contracts.count_compilations() as events:
        jax.block_until_ready(K.gram(make(0.7), x, x))
    assert not events


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: K.matern(2.0, 1.0), ValueError, "nu must be one of"),
        (lambda: K.add(), ValueError, "kernels.add: expected at least one"),
        (lambda: K.multiply(), ValueError, "kernels.multiply: expected at least one"),
        (lambda: K.part(K.rbf(1.0), (1, 2, 3)), TypeError, "which must be"),
        (lambda: K.part(K.rbf(1.0), 1.5), TypeError, "which must be"),
    ],
)
def test_static_misuse_raises(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.bad_input
def test_a_kernel_with_its_integrals_is_told_apart():
    embedded, x = quadrature.embeddings.rbf(1.0), jnp.ones((2, 1))
    calls = (
        lambda: K.gram(embedded, x, x),
        lambda: K.scale(embedded, 2.0),
        lambda: K.add(K.rbf(1.0), embedded),
        lambda: gp.condition(embedded, x, jnp.ones(2), noise=0.1),
        lambda: gp.fit(lambda p: (embedded, p), jnp.asarray(0.1), x, jnp.ones(2)),
    )
    for call in calls:
        with pytest.raises(TypeError, match="as gp.kernels makes them, got EmbeddedKernel; .* quadrature.embeddings"):
            call()
    with pytest.raises(TypeError, match="got float(\n|$)"):
        K.scale(1.0, 2.0)
