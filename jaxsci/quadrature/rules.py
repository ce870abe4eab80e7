r"""Quadrature rules: builders `rule(num_nodes, a, b) -> Rule(nodes, weights)`, host float64, on [0, 1] by default.

$\int_a^b f(t)\,dt \approx \sum_j w_j f(t_j)$. Classical weights are positive and sum
to b - a. Accuracy for smooth f as n grows: trapezoid $n^{-2}$, Simpson $n^{-4}$, Gauss-Legendre and Clenshaw-Curtis
faster than any power; Bayesian rules are in `jaxsci/quadrature/_bayesian.py`.

References: Davis and Rabinowitz 1984, Methods of Numerical Integration, chapter 2; Trefethen 2008, Is Gauss
quadrature better than Clenshaw-Curtis?, SIAM Review 50(1).
"""

import numpy as np

from jaxsci.core import entry
from jaxsci.core.types import Scalar, Size
from jaxsci.quadrature._bayesian import bayesian
from jaxsci.quadrature._rule import Rule, size_and_interval


def trapezoid(num_nodes: Size, a: Scalar = 0.0, b: Scalar = 1.0) -> Rule:
    """Composite trapezoidal rule on equispaced nodes including the ends; exact for linear functions.

    Args:
        num_nodes: n >= 2, static.
        a, b: ends, finite, a < b, built.

    Raises:
        ValueError: fewer than 2 nodes, a >= b. TypeError: a traced argument.

    Example:
        >>> from jaxsci import quadrature
        >>> nodes, weights = quadrature.rules.trapezoid(3, 0.0, 2.0)
        >>> nodes.tolist(), weights.tolist()
        ([0.0, 1.0, 2.0], [0.5, 1.0, 0.5])
    """
    n, a, b = size_and_interval("rules.trapezoid", num_nodes, a, b, 2)
    weights = np.full(n, (b - a) / (n - 1))
    weights[[0, -1]] /= 2
    return Rule(np.linspace(a, b, n), weights)


def simpson(num_nodes: Size, a: Scalar = 0.0, b: Scalar = 1.0, *, tail: str | None = None) -> Rule:
    """Composite Simpson rule on equispaced nodes including the ends; exact for cubics.

    Args:
        num_nodes: n >= 3, odd, static; even n >= 4 with ``tail="three_eighths"``.
        a, b: ends, finite, a < b, built.
        tail: what the last three intervals of an even n use, static: ``"three_eighths"``, which is exact for cubics
            too (n = 2 has a single interval: no cubic rule exists there), or None, which refuses even n.

    Raises:
        ValueError: n below 3, even n without a tail, unknown tail, a >= b. TypeError: a traced argument.

    Example:
        >>> from jaxsci import quadrature
        >>> quadrature.rules.simpson(5, 0.0, 12.0).weights.tolist()
        [1.0, 4.0, 2.0, 4.0, 1.0]
    """
    if tail not in (None, "three_eighths"):
        raise ValueError(f"rules.simpson: tail must be None or 'three_eighths', got {tail!r}")
    n, a, b = size_and_interval("rules.simpson", num_nodes, a, b, 3)
    if n % 2 == 0 and tail is None:
        raise ValueError(f"rules.simpson: num_nodes must be odd, got {n}; use {n + 1}, or tail='three_eighths'")
    h = (b - a) / (n - 1)
    weights = np.zeros(n)
    pairs = n if n % 2 else n - 3  # nodes that the 1-4-1 pairs of intervals cover
    if pairs > 1:
        weights[:pairs] = h / 3 * np.where(np.arange(pairs) % 2, 4.0, 2.0)
        weights[[0, pairs - 1]] = h / 3
    if n % 2 == 0:
        weights[-4:] += 3 * h / 8 * np.array([1.0, 3.0, 3.0, 1.0])
    return Rule(np.linspace(a, b, n), weights)


def gauss_legendre(num_nodes: Size, a: Scalar = 0.0, b: Scalar = 1.0) -> Rule:
    """Gauss-Legendre rule: exact for polynomials of degree 2n - 1; the ends are no nodes; n = 1 is the midpoint rule.

    Args:
        num_nodes: n >= 1, static; the eigenvalue problem behind it costs n^3.
        a, b: ends, finite, a < b, built.

    Raises:
        ValueError: no node, a >= b. TypeError: a traced argument.

    Example:
        >>> from jaxsci import quadrature
        >>> nodes, weights = quadrature.rules.gauss_legendre(2)
        >>> print((weights * nodes**3).sum().round(12))
        0.25
    """
    n, a, b = size_and_interval("rules.gauss_legendre", num_nodes, a, b, 1)
    x, w = np.polynomial.legendre.leggauss(n)
    return Rule(a + (b - a) * (1 + x) / 2, (b - a) / 2 * w)


def clenshaw_curtis(num_nodes: Size, a: Scalar = 0.0, b: Scalar = 1.0) -> Rule:
    r"""Clenshaw-Curtis rule on the Chebyshev points $\cos(j\pi/N)$, N = n - 1: exact for degree N, ends included.

    $w_j = \frac{c_j}{N} \sum_{m=0}^{\lfloor N/2\rfloor} \frac{b_m}{1 - 4m^2} \cos\frac{2mj\pi}{N}$, with $b_m = 1$ at
    2m = 0 and N and 2 otherwise, $c_j = 1$ at the ends and 2 otherwise. In practice about as accurate as Gauss.

    Args:
        num_nodes: n >= 1, static; 1 is the midpoint rule.
        a, b: ends, finite, a < b, built.

    Raises:
        ValueError: no node, a >= b. TypeError: a traced argument.

    Example:
        >>> from jaxsci import quadrature
        >>> quadrature.rules.clenshaw_curtis(3, 0.0, 6.0).weights.round(12).tolist()
        [1.0, 4.0, 1.0]
    """
    n, a, b = size_and_interval("rules.clenshaw_curtis", num_nodes, a, b, 1)
    if n == 1:
        return Rule(np.array([(a + b) / 2]), np.array([b - a]))
    N = n - 1
    j, m = np.arange(n), np.arange(N // 2 + 1)
    end_of_sum = np.where((2 * m == 0) | (2 * m == N), 1.0, 2.0)
    at_end = np.where((j == 0) | (j == N), 1.0, 2.0)
    # j m is an integer: reduce it modulo N, so that the angle stays small and the weights symmetric.
    cosines = np.cos(2 * np.pi / N * ((j[:, None] * m[None, :]) % N))
    weights = at_end / N * (cosines @ (end_of_sum / (1 - 4.0 * m**2)))
    x = np.sin(np.pi * (2 * j - N) / (2 * N))  # -cos(j pi / N), exactly odd about the middle
    nodes = (a + b) / 2 + (b - a) / 2 * x
    nodes[0], nodes[-1] = a, b
    return Rule(nodes, (b - a) / 2 * weights)


__all__ = ["bayesian", "clenshaw_curtis", "gauss_legendre", "simpson", "trapezoid"]

entry.guard(globals())
