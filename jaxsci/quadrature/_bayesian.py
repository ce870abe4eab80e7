r"""Bayesian quadrature: the integral's posterior mean, as one more rule, and its posterior variance.

f is a Gaussian process with kernel k; given f at the nodes, $\int_a^b f$ has mean $w^\top f$, $w = K^{-1} z$, and
variance $\iint k - z^\top K^{-1} z$, the squared worst-case error in the kernel's Hilbert space. $K_{ij} = k(t_i, t_j)$
and $z_i = \int_a^b k(t_i, s)\,ds$. Everything in float64: with float32 the weights of a smooth kernel are noise.

References: O'Hagan 1991, Bayes-Hermite quadrature, J. Stat. Plan. Inference 29; Briol et al. 2019, Probabilistic
Integration, Statistical Science 34(1).
"""

import warnings
from collections.abc import Sequence

import numpy as np
import scipy.linalg
from jaxtyping import ArrayLike

from jaxsci.core.types import Scalar, Size, concrete
from jaxsci.quadrature._rule import ConditioningWarning, Rule, checked_nodes, interval, size_and_interval
from jaxsci.quadrature.embeddings import EmbeddedKernel, checked_kernel

_EPS = np.finfo(np.float64).eps
# Relative error of the weights is about condition * eps; above this fewer than three digits are certain.
_FEW_DIGITS = 1e-3


def bayesian(
    num_nodes: Size,
    a: Scalar = 0.0,
    b: Scalar = 1.0,
    *,
    kernel: EmbeddedKernel,
    nodes: ArrayLike | Sequence | None = None,
    jitter: Scalar = 0.0,
) -> Rule:
    """Bayesian quadrature weights K^-1 z; weights may be negative and need not sum to b - a.

    Args:
        num_nodes: n >= 1, static.
        a, b: ends, finite, a < b, built.
        kernel: from `quadrature.embeddings`; its length is in the unit of the nodes. If `integrate` moves the rule to
            another interval, the length is stretched with the nodes.
        nodes: (n,) strictly increasing in [a, b], built; equispaced with the ends by default, the middle for n = 1.
        jitter: added to the diagonal of the Gram matrix (unit amplitude), built. It models noise of that variance and
            limits the accuracy: 1e-8, the default of some libraries, already does so from 7 nodes on with Matern 7/2.

    Raises:
        ValueError: bad nodes or interval, negative jitter, or a numerically singular Gram matrix (the message says
            what to do). TypeError: a traced argument, or a kernel of `gp.kernels`.

    Warns:
        ConditioningWarning: fewer than three digits of the weights are certain.

    Example:
        >>> from jaxsci import quadrature
        >>> rule = quadrature.rules.bayesian(4, kernel=quadrature.embeddings.wiener())
        >>> (6 * rule.weights).round(9).tolist()
        [1.0, 2.0, 2.0, 1.0]

    References: O'Hagan 1991; Briol et al. 2019, section 2.
    """
    n, a, b = size_and_interval("rules.bayesian", num_nodes, a, b, 1)
    if nodes is None:
        nodes = np.linspace(a, b, n) if n > 1 else np.array([(a + b) / 2])
    nodes = checked_nodes("rules.bayesian", nodes, a, b)
    if len(nodes) != n:
        raise ValueError(f"rules.bayesian: expected {n} nodes, got {len(nodes)}; num_nodes must be their number")
    return Rule(nodes, _solve("rules.bayesian", kernel, nodes, a, b, jitter)[0])


def variance(
    kernel: EmbeddedKernel, nodes: ArrayLike | Sequence, a: Scalar, b: Scalar, *, jitter: Scalar = 0.0
) -> np.float64:
    """Posterior variance of the integral given f at the nodes, for a kernel of unit amplitude; never negative.

    The difference cancels: values below about 1e-12 of the prior variance are rounding noise (clipped at 0).

    Args:
        kernel: from `quadrature.embeddings`.
        nodes: (n,) strictly increasing in [a, b], built.
        a, b: ends, finite, a < b, built.
        jitter: added to the diagonal of the Gram matrix, built.

    Raises:
        ValueError, TypeError: as `rules.bayesian`.

    Warns:
        ConditioningWarning: as `rules.bayesian`.

    Example:
        >>> from jaxsci import quadrature
        >>> variance = quadrature.variance(quadrature.embeddings.wiener(), [0.0, 0.5, 1.0], 0.0, 1.0)
        >>> print(f"{variance:.6f}")  # sum of h^3 / 12
        0.020833

    References: Briol et al. 2019, section 2.
    """
    a, b = interval("quadrature.variance", a, b)
    nodes = checked_nodes("quadrature.variance", nodes, a, b)
    weights, embedding = _solve("quadrature.variance", kernel, nodes, a, b, jitter)
    return np.maximum(np.float64(kernel.variance(a, b)) - embedding @ weights, 0.0)


def _solve(function, kernel, nodes, a, b, jitter):
    """(K^-1 z, z), or the error that says why there is none."""
    jitter = float(concrete(jitter, function, "jitter", "build one rule for each jitter and jnp.stack them"))
    if not 0 <= jitter < np.inf:
        raise ValueError(f"{function}: jitter must be >= 0 and finite, got {jitter}")
    kernel = checked_kernel(kernel, function)
    gram = np.asarray(kernel.covariance(nodes[:, None], nodes[None, :], a), np.float64) + jitter * np.eye(len(nodes))
    embedding = np.asarray(kernel.embedding(nodes, a, b), np.float64)
    condition = np.linalg.cond(gram)
    if not condition < 1 / _EPS:
        raise ValueError(
            f"{function}: the Gram matrix of {len(nodes)} nodes is singular (condition {condition:.1e}); use a "
            "positive jitter, fewer nodes, a shorter length or a rougher kernel (Wiener with offset 0: leave out the "
            "node at a)"
        )
    if condition * _EPS > _FEW_DIGITS:
        warnings.warn(
            f"{function}: condition {condition:.1e} of the Gram matrix leaves fewer than three certain digits; use a "
            "positive jitter, fewer nodes, a shorter length or a rougher kernel",
            ConditioningWarning,
            stacklevel=4,
        )
    try:
        return scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, lower=True), embedding), embedding
    except np.linalg.LinAlgError:  # not positive definite after rounding, yet not singular
        return np.linalg.solve(gram, embedding), embedding


__all__ = ["bayesian", "variance"]
