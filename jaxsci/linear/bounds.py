r"""Where the eigenvalues of a symmetric operator lie: what Chebyshev iteration must know beforehand.

Gershgorin: every eigenvalue lies in some $[a_{ii} - R_i, a_{ii} + R_i]$, $R_i = \sum_{j\ne i}|a_{ij}|$: certain, often
wide (the low end of a Laplacian is 0). Power iteration: the Rayleigh quotient $\theta$ of the iterate plus its residual
norm, first for A and then for $\mathrm{high}\,I - A$: sharp, and certain only once more than half of the iterate's
squared length lies in the extreme eigenspace.

Reference: Golub and Van Loan 2013, Matrix Computations, sections 7.2.1 and 8.2.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxsci.core import entry, status, tree
from jaxsci.core.static import check_size
from jaxsci.core.types import Scalar, as_real
from jaxsci.linear._start import as_start, scaled


class Bounds(NamedTuple):
    """An interval that holds the spectrum.

    Attributes:
        low: its lower end; 0 where the inputs are not finite.
        high: its upper end; 0 where the inputs are not finite.
        status: int32 bits, see the function that made it; 0 = ok.
    """

    low: Float[Array, ""]
    high: Float[Array, ""]
    status: Int[Array, ""]


def gershgorin(op) -> Bounds:
    """Ends of the union of Gershgorin's discs: certain bounds of every real eigenvalue.

    Args:
        op: a `linear.operators` operator whose arrays are coefficients: stencils, dense, banded and sparse matrices,
            and sums and products of them. The row sums of |A| come from the operator with the absolute values of all
            coefficients, applied to ones; for products, and for sums of different kinds, that may give a wider interval
            than the assembled matrix would.

    Raises:
        TypeError: an operator that is a function: its entries are unknown; use `power`.

    Differentiable in `op` wherever the extreme row is unique.

    Example:
        >>> from jaxsci import linear
        >>> b = linear.bounds.gershgorin(linear.operators.shifted_laplacian((3, 3), 0.5))
        >>> float(b.low), float(b.high)
        (0.5, 8.5)

    References: Golub and Van Loan 2013, theorem 7.2.1.
    """
    parts = jax.tree.leaves(op, is_leaf=lambda a: isinstance(a, Partial))
    if not parts or any(callable(a) for a in parts):
        raise TypeError(
            f"gershgorin: expected an operator of coefficients, got {type(op).__name__}, whose entries are a function; "
            "use bounds.power or lanczos.extreme_eigenvalues"
        )
    return _gershgorin(op)


@eqx.filter_jit
def _gershgorin(op) -> Bounds:
    moduli = jax.tree.map(lambda a: jnp.abs(a) if jnp.issubdtype(a.dtype, jnp.inexact) else a, op)
    sizes = moduli.diagonal
    radius = moduli.mv(jnp.ones_like(sizes)) - sizes
    low, high = jnp.min(op.diagonal - radius), jnp.max(op.diagonal + radius)
    return _bounds(low, high, ~tree.all_finite(op))


def _bounds(low, high, bad, code=0) -> Bounds:
    """`Bounds` of these ends; both are 0 if an input is not finite."""
    low, high = (jnp.where(bad, 0, value) for value in (low, high))
    return Bounds(low, high, status.flag(bad, status.NONFINITE_INPUT) | code)


def power(op, start: Float[Array, "..."], *, num_steps: int = 30, margin: Scalar = 0.0) -> Bounds:
    r"""Bounds of the spectrum of a symmetric operator by two power iterations.

    Args:
        op: a `linear.operators` operator, symmetric positive semidefinite, or any object with ``mv``.
        start: a start with a part in every eigenvector, e.g. random, in the operator's shape; traced.
        num_steps: products of each of the two iterations, static.
        margin: high is raised and low is lowered by this part of high, traced.

    Returns:
        `Bounds`. high = theta + ||A v - theta v||. low comes the same way from high I - A, which converges slowly if
        the smallest eigenvalues lie close together; if low is not positive, use a known bound or
        `lanczos.extreme_eigenvalues`. status: 0, or NONFINITE_INPUT, or OUT_OF_RANGE for a start of zeros.

    Raises:
        ValueError: `num_steps` below 1; a start that does not have the operator's shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op = linear.operators.shifted_laplacian((4, 4))
        >>> found = linear.bounds.power(op, jnp.sin(jnp.arange(1.0, 17.0)).reshape(4, 4))
        >>> print(f"{found.low:.1f} {found.high:.1f}")
        0.8 7.3

    References: Golub and Van Loan 2013, section 8.2.1.
    """
    num_steps = check_size("power", "num_steps", num_steps)
    start = as_start(op, start, "power")
    return _power(op, start, as_real(margin, start.dtype), num_steps)


@eqx.filter_jit
def _power(op, start, margin, num_steps: int) -> Bounds:
    bad = ~tree.all_finite((eqx.filter((op, start), eqx.is_array), margin))
    start = jnp.where(bad, 0, start)
    nothing = ~jnp.any(start != 0)
    product, v, up = scaled(op, start)
    high = _largest(product, v, num_steps)
    low = high - _largest(lambda v: high * v - product(v), v, num_steps)
    code = status.flag(~bad & nothing, status.OUT_OF_RANGE)
    return _bounds(up * (low - margin * high), up * (high + margin * high), bad, code)


def _largest(mv, start, num_steps: int):
    """Rayleigh quotient plus residual norm after power iteration."""

    def unit(v):
        length = tree.norm(v).astype(v.dtype)
        return v / jnp.where(length > 0, length, 1)

    v = jax.lax.fori_loop(0, num_steps - 1, lambda _, v: unit(mv(v)), start)
    w = mv(v)
    theta = tree.dot(v, w).astype(w.dtype)
    return theta + tree.norm(w - theta * v).astype(w.dtype)


__all__ = ["Bounds", "gershgorin", "power"]

entry.guard(globals())
