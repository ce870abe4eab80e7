r"""Kernels: covariance functions of one pair of inputs, $k(x, x') \to$ scalar; matrices are vmaps of them (`gram`).

A kernel is a `jax.tree_util.Partial` whose leaves are its hyper-parameters, all positive and traced: it crosses jit,
stacks under vmap, is differentiated, and new values never compile again. Any other function of a pair works too.
An input is an array (d,) or any record of arrays, as the kernel expects it: `part` lets a kernel see a part of one.

Reference: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, chapter 4.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core import entry
from jaxsci.core.static import as_partial, bind
from jaxsci.core.types import Scalar, as_float, is_concrete

Kernel: TypeAlias = Callable[[Any, Any], Any]
"""``k(x, y) -> scalar``, symmetric and positive semi-definite."""

_FAR = 1e4  # lengths at which even the Matern kernel of nu = 1/2 is 0 in every dtype

# Matern of smoothness p + 1/2 is a polynomial in s = sqrt(2 nu) r times e^-s: nu -> its coefficients.
_MATERN = {0.5: (1.0,), 1.5: (1.0, 1.0), 2.5: (1.0, 1.0, 1 / 3)}


def rbf(length: ArrayLike) -> Kernel:
    r"""Squared exponential $k = e^{-r^2/2}$, $r^2 = \sum_j (x_j - x'_j)^2/\ell_j^2$.

    Args:
        length: $\ell > 0$, one for all coordinates or (d,), traced.

    Example:
        >>> from jaxsci import gp
        >>> x = jnp.asarray([[0.0], [1.0]])
        >>> kernel = gp.kernels.rbf(1.0)
        >>> print(f"{kernel(x[0], x[1]):.4f}", gp.kernels.gram(kernel, x, x).shape)
        0.6065 (2, 2)
    """
    return Partial(_rbf, _positive("rbf", "length", length))


def matern(nu: float, length: ArrayLike) -> Kernel:
    r"""Matern: $k = c_\nu(s)\,e^{-s}$, $s = \sqrt{2\nu}\,r$, r as for `rbf`; sample paths have $\nu - 1/2$ derivatives.

    Args:
        nu: 1/2, 3/2 or 5/2, static.
        length: $\ell > 0$, one for all coordinates or (d,), traced.

    The gradient with respect to x at distance 0 is 0, for nu = 1/2 by convention; second derivatives there are not
    the kernel's.

    Raises:
        ValueError: another nu; a concrete length that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> print(gp.kernels.matern(1.5, 1.0)(jnp.zeros(1), jnp.ones(1)).round(3))
        0.483

    References: Rasmussen and Williams 2006, section 4.2.1.
    """
    if nu not in _MATERN:
        raise ValueError(f"kernels.matern: nu must be one of {sorted(_MATERN)}, got {nu!r}; for smoother ones use rbf")
    return Partial(bind(_matern, nu=float(nu)), _positive("matern", "length", length))


def linear(variance: ArrayLike) -> Kernel:
    r"""Linear functions through the origin: $k = \sum_j \sigma_j^2 x_j x'_j$; add a `constant` for an unknown offset.

    Args:
        variance: prior variance of the slopes, one for all coordinates or (d,), traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> print(gp.kernels.linear(jnp.array([1.0, 2.0]))(jnp.array([1.0, 1.0]), jnp.array([3.0, 4.0])))
        11.0
    """
    return Partial(_linear, _positive("linear", "variance", variance, ">= 0"))


def constant(variance: Scalar) -> Kernel:
    r"""An unknown constant, $k = \sigma^2$.

    Args:
        variance: its prior variance, traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> print(gp.kernels.constant(2.0)(jnp.zeros(1), jnp.ones(1)))
        2.0
    """
    return Partial(_constant, _positive("constant", "variance", variance, ">= 0"))


def hamming(coupling: Scalar) -> Kernel:
    r"""For categories: $k = e^{g m}$, m the share of coordinates in which the two agree; $k(x, x) = e^g$.

    Args:
        coupling: g > 0, traced; as it grows, only equal inputs resemble each other.

    Coordinates are compared by equality, so they may be Booleans, integers or whole floats; the derivative with
    respect to them is zero. On binary vectors $m = \mathrm{mean}_j(1 - |x_j - x'_j|)$.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> print(gp.kernels.hamming(1.0)(jnp.array([1, 2]), jnp.array([1, 3])).round(3))
        1.649

    References: Zhang et al. 2023, Meta Learning of Interface Conditions for Multi-Domain PINNs, section 4.
    """
    return Partial(_hamming, _leaf(coupling))


def scale(kernel: Kernel, variance: Scalar) -> Kernel:
    r"""$\sigma^2 k$.

    Args:
        kernel: any kernel. variance: $\sigma^2$, traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> print(gp.kernels.scale(gp.kernels.rbf(1.0), 4.0)(jnp.zeros(1), jnp.zeros(1)))
        4.0
    """
    return Partial(_scale, _positive("scale", "variance", variance, ">= 0"), as_tree(kernel))


def add(*kernels: Kernel) -> Kernel:
    """The kernel of a sum of independent processes, k1 + k2 + ...

    Raises:
        ValueError: no kernel.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> kernel = gp.kernels.add(gp.kernels.rbf(1.0), gp.kernels.constant(2.0))
        >>> print(kernel(jnp.zeros(1), jnp.zeros(1)))
        3.0
    """
    return Partial(_add, _several("add", kernels))


def multiply(*kernels: Kernel) -> Kernel:
    """The product k1 k2 ...: alike only if alike in every factor.

    Raises:
        ValueError: no kernel.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> kernel = gp.kernels.multiply(gp.kernels.constant(2.0), gp.kernels.constant(3.0))
        >>> print(kernel(jnp.zeros(1), jnp.zeros(1)))
        6.0
    """
    return Partial(_multiply, _several("multiply", kernels))


def part(kernel: Kernel, which: int | str | tuple[int, int]) -> Kernel:
    """The kernel of a part of the input.

    Args:
        kernel: any kernel.
        which: static. An int or str picks that entry of an input that is a tuple or dict; a pair (start, stop) picks
            these columns of an input that is an array.

    Example:
        >>> from jaxsci import gp
        >>> k = gp.kernels
        >>> mixed = k.multiply(k.part(k.rbf(1.0), 0), k.part(k.hamming(1.0), 1))
        >>> x = (jnp.asarray([0.3]), jnp.asarray([0, 1, 1]))  # a point and some categories
        >>> print(f"{mixed(x, x):.4f}")
        2.7183

    Raises:
        TypeError: another kind of `which`.
    """
    pair = isinstance(which, tuple) and len(which) == 2 and all(isinstance(i, int) for i in which)
    if not (pair or isinstance(which, (int, str))):
        raise TypeError(f"kernels.part: which must be an int, a str or a pair (start, stop) of ints, got {which!r}")
    return Partial(bind(_part, which=which), as_tree(kernel))


@eqx.filter_jit
def gram(kernel: Kernel, xs: PyTree, ys: PyTree) -> Float[Array, "n m"]:
    """The matrix k(x_i, y_j).

    Args:
        kernel: any kernel. xs, ys: n and m inputs along the leading axis of every array.

    Differentiable in everything but categories. Distances are formed from differences, never from inner products,
    which cancel; memory is n m unless XLA cannot fuse.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> xs = jnp.array([[0.0], [1.0]])
        >>> print(gp.kernels.gram(gp.kernels.rbf(1.0), xs, xs).round(2))
        [[1.   0.61]
         [0.61 1.  ]]
    """
    kernel = as_tree(kernel)
    return jax.vmap(lambda x: jax.vmap(lambda y: kernel(x, y))(ys))(xs)


def as_tree(kernel: Kernel) -> Kernel:
    """The kernel as a pytree: a bare function is static from here on. What is no function raises a TypeError."""
    if not callable(kernel):
        other = "; an EmbeddedKernel of quadrature.embeddings carries integrals for quadrature rules, not for a process"
        raise TypeError(
            "gp: a kernel must be a function of a pair of inputs, k(x, y) -> scalar, as gp.kernels makes them, got "
            f"{type(kernel).__name__}{other if hasattr(kernel, 'embedding') else ''}"
        )
    return as_partial(kernel, "gp", "kernel")


def _leaf(value):
    # A Python number stays weakly typed: the inputs then say in which precision the kernel is computed.
    if isinstance(value, (int, float)):
        return jnp.asarray(float(value))
    return as_float(value)


def _positive(kernel: str, name: str, value, least: str = "> 0"):
    """The parameter as an array.

    Raises:
        ValueError: concrete numbers that are not positive (or negative, where 0 will do), or NaN.
    """
    if is_concrete(value):
        numbers = np.asarray(value, np.float64)
        if not np.all(numbers > 0 if least == "> 0" else numbers >= 0):
            raise ValueError(f"kernels.{kernel}: {name} must be {least}, got {value}")
    return _leaf(value)


def _several(name, kernels):
    if not kernels:
        raise ValueError(f"kernels.{name}: expected at least one kernel, got none")
    return tuple(map(as_tree, kernels))


def _square(length, x, y):
    """r^2. Beyond `_FAR` lengths all kernels are 0, and there r is held: its square would overflow, and derivatives
    with respect to a length whose own square underflows would be infinity times 0."""
    apart, length = jnp.abs(x - y), jnp.asarray(length)
    held = (apart > _FAR * jnp.abs(length)) | (jnp.abs(length) < jnp.sqrt(jnp.finfo(length.dtype).tiny))
    return jnp.sum(jnp.where(held, jnp.where(apart > 0, _FAR, 0), (x - y) / jnp.where(held, 1, length)) ** 2)


def _rbf(length, x, y):
    return jnp.exp(-_square(length, x, y) / 2)


def _matern(length, x, y, *, nu):
    square = 2 * nu * _square(length, x, y)
    apart = square > 0
    # The root's own gradient at 0 is infinite; this one is 0.
    s = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)
    polynomial = sum(c * s**j for j, c in enumerate(_MATERN[nu]))
    return polynomial * jnp.exp(-s)


def _linear(variance, x, y):
    return jnp.sum(variance * x * y)


def _constant(variance, x, y):
    return variance


def _hamming(coupling, x, y):
    return jnp.exp(coupling * jnp.mean((x == y).astype(coupling.dtype)))


def _scale(variance, kernel, x, y):
    return variance * kernel(x, y)


def _add(kernels, x, y):
    return sum(kernel(x, y) for kernel in kernels)


def _multiply(kernels, x, y):
    return math.prod(kernel(x, y) for kernel in kernels)


def _part(kernel, x, y, *, which):
    def pick(z):
        return z[slice(*which)] if isinstance(which, tuple) else z[which]

    return kernel(pick(x), pick(y))


__all__ = ["Kernel", "add", "constant", "gram", "hamming", "linear", "matern", "multiply", "part", "rbf", "scale"]

entry.guard(globals(), "_add", "_constant", "_hamming", "_linear", "_matern", "_multiply", "_rbf", "_scale")
