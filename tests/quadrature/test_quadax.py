"""Against quadax on the same samples and integrands; left out where the extra "peers" is not installed."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import quadrature

quadax = pytest.importorskip("quadax", reason='quadax is not installed; the extra "peers" holds it')


def _integrand(t):
    return jnp.exp(jnp.sin(3 * t))


@pytest.mark.x64
@pytest.mark.parametrize("n", [3, 9, 33])
@pytest.mark.parametrize("name", ["trapezoid", "simpson"])
def test_samples_are_weighed_alike(name, n):
    """Two columns of samples on [.5, 2], and the cumulative forms at every node of the parabolas' ends."""
    nodes, weights = getattr(quadrature.rules, name)(n, 0.5, 2.0)
    samples = jnp.stack([_integrand(jnp.asarray(nodes)), jnp.cos(nodes)], axis=1)
    theirs = getattr(quadax, name)(samples, dx=1.5 / (n - 1), axis=0)
    np.testing.assert_allclose(quadrature.apply(weights, samples), theirs, rtol=1e-12)
    if name == "trapezoid":
        ours = quadrature.cumulative_trapezoid(samples, nodes)[1:]
        np.testing.assert_allclose(ours, quadax.cumulative_trapezoid(samples, x=jnp.asarray(nodes), axis=0), rtol=1e-12)


@pytest.mark.x64
def test_fifteen_gauss_nodes_are_as_good_as_adaptive_ones():
    truth = 2.018889845184385
    found = quadrature.integrate(_integrand, quadrature.rules.gauss_legendre(15))
    adaptive, info = quadax.quadgk(_integrand, jnp.array([0.0, 1.0]), epsabs=1e-13, epsrel=1e-13)
    np.testing.assert_allclose([found, adaptive], truth, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found, adaptive, rtol=0, atol=1e-13)
    assert int(info.status) == 0
