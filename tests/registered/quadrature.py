"""Entries of jaxsci.quadrature."""

import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.special

import contracts
from contracts import Builder, Compiled
from jaxsci import quadrature

RULES, KERNELS = quadrature.rules, quadrature.embeddings


def _integrate(key, dtype):
    def run(a, b, c):
        return quadrature.integrate(lambda t: {"f": jnp.sin(c * t)}, RULES.simpson(5), a, b)

    return run, tuple(contracts.uniform(key, (3,), dtype))


def _apply(key, dtype):
    def run(weights, samples):
        return quadrature.apply(weights, samples, axis=1)

    return run, (contracts.normal(key, (4,), dtype), contracts.normal(key, (2, 4, 3), dtype))


def _trapezoid(key, dtype):
    return quadrature.cumulative_trapezoid, (
        contracts.normal(key, (4, 2), dtype),
        jnp.cumsum(contracts.uniform(key, (4,), dtype)),
    )


def _simpson(key, dtype):
    return quadrature.cumulative_simpson, (
        contracts.normal(key, (5, 2), dtype),
        contracts.uniform(key, (), dtype, 0.1, 1.0),
    )


def _moments(exact):
    """A rule on n nodes, and the moments 0, 1, ..., which a rule of that degree must give."""

    def builder(rule, n, degree, **kw):
        def run(n, a, b):
            nodes, weights = rule(n, a, b, **kw)
            return np.stack([np.sum(weights * nodes**k) for k in range(degree + 1)])

        def truth(n, a, b):
            return np.array([(b ** (k + 1) - a ** (k + 1)) / (k + 1) for k in range(degree + 1)])

        return Builder(lambda: (run, (n, -0.5, 1.2)), truth, tol=exact)

    return builder


def _bayesian():
    """Weights by inverting the Gram matrix of a written-out kernel."""

    def run(n, a, b):
        return RULES.bayesian(n, a, b, kernel=KERNELS.matern(0.5, 0.7))

    def truth(n, a, b):
        t = np.linspace(a, b, n)
        z = [scipy.integrate.quad(lambda s: np.exp(-abs(s - x) / 0.7), a, b, points=[x], epsabs=1e-13)[0] for x in t]  # noqa: B023
        return t, np.linalg.inv(np.exp(-np.abs(t[:, None] - t[None, :]) / 0.7)) @ z

    return Builder(lambda: (run, (4, 0.0, 1.0)), truth, tol=1e-10)


def _variance():
    def run(a, b):
        return quadrature.variance(KERNELS.wiener(1.0), np.array([0.0, 0.5, 2.0]), a, b)

    return Builder(lambda: (run, (0.0, 2.0)), lambda a, b: np.float64((0.5**3 + 1.5**3) / 12), tol=1e-12)


def _kernel(make, hyper, k):
    """All three functions of a kernel against its covariance written out and integrated numerically."""
    s, t, a, b = 0.3, 0.8, 0.1, 1.4

    def run(hyper):
        kernel = make(hyper)
        return kernel.covariance(s, t, a), kernel.embedding(t, a, b), kernel.variance(a, b)

    def truth(hyper):
        def z(t):
            return scipy.integrate.quad(lambda s: k(s, t, a, hyper), a, b, points=[t], epsabs=1e-12)[0]

        return k(s, t, a, hyper), z(t), scipy.integrate.quad(z, a, b, epsabs=1e-12)[0]

    return Builder(lambda: (run, (hyper,)), truth, tol=1e-9)


def _bessel(s, t, a, length):
    """Matern 5/2 by its definition with a modified Bessel function."""
    x = np.sqrt(5) * max(abs(s - t), 1e-14) / length
    return 2**-1.5 / scipy.special.gamma(2.5) * x**2.5 * scipy.special.kv(2.5, x)


def _pad():
    rule = RULES.trapezoid(2)
    return Builder(
        lambda: (lambda nodes, weights: quadrature.pad((nodes, weights), 3), tuple(rule)),
        lambda nodes, weights: (np.array([0.0, 1.0, 1.0]), np.array([0.5, 0.5, 0.0])),
    )


def _matrix():
    nodes = np.array([0.0, 1.0])
    return Builder(lambda: (quadrature.integration_matrix, (nodes,)), lambda x: np.array([[0.0, 0.0], [0.5, 0.5]]))


_exact = _moments(1e-12)

ENTRIES = {
    "jaxsci.quadrature.integrate": Compiled(_integrate, grad=(0, 1, 2)),
    "jaxsci.quadrature.apply": Compiled(_apply, grad=(0, 1)),
    "jaxsci.quadrature.cumulative_trapezoid": Compiled(_trapezoid, grad=(0, 1)),
    "jaxsci.quadrature.cumulative_simpson": Compiled(_simpson, grad=(0, 1)),
    "jaxsci.quadrature.pad": _pad(),
    "jaxsci.quadrature.integration_matrix": _matrix(),
    "jaxsci.quadrature.variance": _variance(),
    "jaxsci.quadrature.rules.trapezoid": _exact(RULES.trapezoid, 4, 1),
    "jaxsci.quadrature.rules.simpson": _exact(RULES.simpson, 5, 3),
    "jaxsci.quadrature.rules.gauss_legendre": _exact(RULES.gauss_legendre, 4, 7),
    "jaxsci.quadrature.rules.clenshaw_curtis": _exact(RULES.clenshaw_curtis, 6, 5),
    "jaxsci.quadrature.rules.bayesian": _bayesian(),
    "jaxsci.quadrature.embeddings.rbf": _kernel(
        KERNELS.rbf, 0.6, lambda s, t, a, l: np.exp(-((s - t) ** 2) / (2 * l**2))
    ),
    "jaxsci.quadrature.embeddings.matern": _kernel(lambda l: KERNELS.matern(2.5, l), 0.6, _bessel),
    "jaxsci.quadrature.embeddings.wiener": _kernel(KERNELS.wiener, 0.4, lambda s, t, a, c: c + min(s, t) - a),
}
