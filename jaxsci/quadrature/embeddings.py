r"""Kernels with their integrals: covariance $k$, embedding $z(t) = \int_a^b k(t, s)\,ds$, variance $\iint k$.

All have unit amplitude, which cancels in the weights and multiplies the posterior variance. Host, NumPy float64.

Matern of smoothness $\nu = p + 1/2$: $k = c(s)\,e^{-s}$, $s = \sqrt{2\nu}\,|d|/\ell$, $c$ a polynomial of degree p.
With $T[c](s) = e^{s}\int_s^\infty c(r)\,e^{-r}\,dr$, again a polynomial, $\int_0^s k = T[c](0) - T[c](s)\,e^{-s}$.

References: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, section 4.2; Briol et al. 2019,
Probabilistic Integration, Statistical Science 34(1), table 1 (embeddings).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.special
from jax.tree_util import Partial
from jaxtyping import ArrayLike, Float

from jaxsci.core import entry
from jaxsci.core.static import bind
from jaxsci.core.types import Scalar, concrete

_POLYNOMIALS = {
    0.5: (1.0,),
    1.5: (1.0, 1.0),
    2.5: (1.0, 1.0, 1 / 3),
    3.5: (1.0, 1.0, 2 / 5, 1 / 15),
}
# Below this argument the closed forms of the double integral cancel; there few Gauss nodes integrate k exactly.
_SHORT = 1.0
_GAUSS = np.polynomial.legendre.leggauss(20)
_ALTERNATIVE = "build rules for the values you need beforehand and jnp.stack them"


class EmbeddedKernel(NamedTuple):
    """What Bayesian quadrature on [a, b] needs; any three functions of NumPy float64 arrays will do.

    A kernel of `gp.kernels` is another kind: a traced function of a pair of inputs, without integrals.

    Attributes:
        covariance: ``(s, t, a) -> k(s, t)``, shapes broadcast.
        embedding: ``(t, a, b) -> z(t)`` for t in [a, b].
        variance: ``(a, b) -> `` the double integral of k over the square, the prior variance of the integral.
    """

    covariance: Callable[..., Float[ArrayLike, "..."]]
    embedding: Callable[..., Float[ArrayLike, "..."]]
    variance: Callable[..., Float[ArrayLike, ""]]


def rbf(length: Scalar) -> EmbeddedKernel:
    r"""Squared exponential $k = e^{-d^2/2\ell^2}$: infinitely smooth, and numerically singular beyond about 10 nodes.

    Args:
        length: $\ell > 0$ in the unit of the nodes, built.

    Raises:
        ValueError: a length that is not positive and finite. TypeError: a traced one.

    Example:
        >>> from jaxsci import quadrature
        >>> nodes, weights = quadrature.rules.bayesian(3, kernel=quadrature.embeddings.rbf(0.5))
        >>> print(nodes, weights.round(3))
        [0.  0.5 1. ] [0.198 0.615 0.198]
    """
    length = _positive("embeddings.rbf", "length", length)
    return EmbeddedKernel(
        Partial(_rbf_covariance, length), Partial(_rbf_embedding, length), Partial(_rbf_variance, length)
    )


def matern(nu: float, length: Scalar) -> EmbeddedKernel:
    r"""Matern: $k = c_\nu(s)\,e^{-s}$, $s = \sqrt{2\nu}\,|d|/\ell$; sample paths have $\nu - 1/2$ derivatives.

    With equispaced nodes that include the ends, smooth integrands converge as $n^{-(\nu + 3/2)}$.

    Args:
        nu: 1/2, 3/2, 5/2 or 7/2, static.
        length: $\ell > 0$ in the unit of the nodes, built.

    Raises:
        ValueError: another nu; a length that is not positive and finite. TypeError: a traced one.

    Example:
        >>> from jaxsci import quadrature
        >>> nodes, weights = quadrature.rules.bayesian(3, kernel=quadrature.embeddings.matern(1.5, 0.5))
        >>> print(nodes, weights.round(3))
        [0.  0.5 1. ] [0.229 0.552 0.229]
    """
    nu = float(concrete(nu, "embeddings.matern", "nu", _ALTERNATIVE))
    if nu not in _POLYNOMIALS:
        raise ValueError(f"embeddings.matern: nu must be one of {sorted(_POLYNOMIALS)}, got {nu}")
    length = _positive("embeddings.matern", "length", length)
    static = {"coefficients": _POLYNOMIALS[nu]}
    scale = length / math.sqrt(2 * nu)  # s = |d| / scale
    return EmbeddedKernel(
        Partial(bind(_matern_covariance, **static), scale),
        Partial(bind(_matern_embedding, **static), scale),
        Partial(bind(_matern_variance, **static), scale),
    )


def wiener(offset: Scalar = 1.0) -> EmbeddedKernel:
    r"""Brownian motion from a random start: $k = \sigma_0^2 + \min(s, t) - a$, with a the left end of the interval.

    With both ends as nodes and a positive offset, its weights are those of the trapezoidal rule.

    Args:
        offset: $\sigma_0^2 \ge 0$, built; 0 assumes f(a) = 0, and then a must not be a node.

    Raises:
        ValueError: an offset that is negative or not finite. TypeError: a traced one.

    Example:
        >>> from jaxsci import quadrature
        >>> nodes, weights = quadrature.rules.bayesian(3, kernel=quadrature.embeddings.wiener())
        >>> print(nodes, weights.round(3))
        [0.  0.5 1. ] [0.25 0.5  0.25]
    """
    offset = np.float64(concrete(offset, "embeddings.wiener", "offset", _ALTERNATIVE))
    if not 0 <= offset < np.inf:
        raise ValueError(f"embeddings.wiener: offset must be >= 0 and finite, got {offset}")
    return EmbeddedKernel(
        Partial(_wiener_covariance, offset), Partial(_wiener_embedding, offset), Partial(_wiener_variance, offset)
    )


def checked_kernel(kernel, function: str) -> EmbeddedKernel:
    """The kernel, or the TypeError that tells it from a kernel of a Gaussian process."""
    if not all(hasattr(kernel, name) for name in EmbeddedKernel._fields):
        raise TypeError(
            f"{function}: kernel must be an EmbeddedKernel of quadrature.embeddings, with the fields "
            f"{', '.join(EmbeddedKernel._fields)}, got {type(kernel).__name__}; a kernel of gp.kernels is a function "
            "of a pair of inputs and does not know its integral"
        )
    return kernel


def _positive(function, name, value):
    value = np.asarray(concrete(value, function, name, _ALTERNATIVE), np.float64)
    if value.shape != () or not 0 < value < np.inf:
        raise ValueError(f"{function}: {name} must be one positive finite number, got {value}")
    return value[()]


def _double(k, closed, length, span):
    """2 int_0^L (L - u) k(u) du: by the closed form, or for short spans by Gauss-Legendre, whose terms are positive."""
    if span > _SHORT * length:
        return closed()
    u = span * (1 + _GAUSS[0]) / 2
    return span * np.sum(_GAUSS[1] * (span - u) * k(u))


def _rbf_covariance(length, s, t, a):
    return np.exp(-(((s - t) / length) ** 2) / 2)


def _rbf_embedding(length, t, a, b):
    unit = math.sqrt(2) * length
    return length * math.sqrt(np.pi / 2) * (scipy.special.erf((b - t) / unit) + scipy.special.erf((t - a) / unit))


def _rbf_variance(length, a, b):
    span = b - a

    def closed():
        first = length * math.sqrt(np.pi / 2) * span * scipy.special.erf(span / (math.sqrt(2) * length))
        return 2 * (first + length**2 * np.expm1(-((span / length) ** 2) / 2))

    return _double(lambda u: _rbf_covariance(length, u, 0.0, 0.0), closed, length, span)


def _tail(c):
    """Coefficients of T[c](s) = e^s int_s^inf c(r) e^-r dr: q_j = sum over i >= j of c_i i! / j!."""
    return [sum(c[i] * math.factorial(i) for i in range(j, len(c))) / math.factorial(j) for j in range(len(c))]


def _polynomial(c, s):
    return np.polynomial.polynomial.polyval(s, c)


def _matern_covariance(scale, s, t, a, *, coefficients):
    distance = np.abs(s - t) / scale
    return _polynomial(coefficients, distance) * np.exp(-distance)


def _matern_embedding(scale, t, a, b, *, coefficients):
    q = _tail(coefficients)

    def one_side(u):
        # T(0) - T(u) e^-u, with the constant term by expm1 so that small u keep their digits.
        return -q[0] * np.expm1(-u) - u * _polynomial(q[1:] or [0.0], u) * np.exp(-u)

    return scale * (one_side((t - a) / scale) + one_side((b - t) / scale))


def _matern_variance(scale, a, b, *, coefficients):
    span = b - a

    def closed():
        q = _tail(coefficients)
        second = _tail(q)
        u = span / scale
        return 2 * scale**2 * (q[0] * u - second[0] + _polynomial(second, u) * np.exp(-u))

    k = lambda u: _matern_covariance(scale, u, 0.0, 0.0, coefficients=coefficients)  # noqa: E731
    return _double(k, closed, scale, span)


def _wiener_covariance(offset, s, t, a):
    return offset + np.minimum(s, t) - a


def _wiener_embedding(offset, t, a, b):
    return (offset + t - a) * (b - a) - (t - a) ** 2 / 2


def _wiener_variance(offset, a, b):
    return offset * (b - a) ** 2 + (b - a) ** 3 / 3


__all__ = ["EmbeddedKernel", "matern", "rbf", "wiener"]

entry.guard(
    globals(),
    "_matern_covariance",
    "_matern_embedding",
    "_matern_variance",
    "_rbf_covariance",
    "_rbf_embedding",
    "_rbf_variance",
    "_wiener_covariance",
    "_wiener_embedding",
    "_wiener_variance",
)
