r"""Natural-order triangular solves on a grid, one anti-diagonal (plane in 3-D) at a time.

In natural (row-major) numbering a cell depends on the cell before it along every axis, and all of those lie on the
anti-diagonal k - 1 of $i_1 + \dots + i_d = k$. So a sweep is a scan over k whose steps are arrays, with the iterates
of the sequential loop. Skewed storage $S[k, i_1, \dots] = u[i_1, \dots, k - i_1 - \dots]$, in 2-D of shape
(rows + cols - 1, rows), makes every step a contiguous slice; places outside the grid hold zeros, which change neither
norms nor inner products. A coefficient that is the same everywhere stays a scalar.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxsci.core.static import bind
from jaxsci.linear._shift import shift
from jaxsci.linear._system import over


class Triangle(NamedTuple):
    """(D/omega + L) or (D/omega + U), divided by its diagonal: y_k = scale r_k - sum_a coefficients_a y_{k-1, a}."""

    scale: Float[Array, "diagonals *rows"]
    coefficients: tuple[Float[Array, "diagonals *rows"], ...]


class Wavefront(eqx.Module):
    """A stencil in skewed storage: what methods with sweeps ask for (see `operators.Ordered`)."""

    diagonal: Float[Array, "diagonals *rows"]
    before: tuple[Float[Array, "..."], ...]
    after: tuple[Float[Array, "..."], ...]

    @property
    def pack(self):
        """Grid (*rows, cols) -> skewed storage."""
        return Partial(skew)

    @property
    def unpack(self):
        """Skewed storage -> grid (*rows, cols)."""
        return Partial(unskew)

    @property
    def mv(self):
        """y -> A y, both skewed."""
        return Partial(_mv, self)

    @property
    def lower_mv(self):
        """y -> L y."""
        return Partial(_before, self)

    @property
    def upper_mv(self):
        """y -> U y."""
        return Partial(_after, self)

    @property
    def lower(self):
        """omega -> (r -> (D/omega + L)^-1 r)."""
        return Partial(_lower, self)

    @property
    def upper(self):
        """omega -> (r -> (D/omega + U)^-1 r)."""
        return Partial(_upper, self)


def wavefront(op) -> Wavefront:
    """Skew the coefficient arrays of a `Stencil` once."""
    before, after = (tuple(skew(c) if c.ndim else c for c in part) for part in (op.before, op.after))
    return Wavefront(skew(op.diagonal), before, after)


def skew(u: Float[Array, "*rows cols"]) -> Float[Array, "diagonals *rows"]:
    """S[k, i...] = u[i..., k - sum i]: row i moves right by i when rows of width w are read with width w - 1."""
    for axis in range(u.ndim - 1):
        u = jnp.moveaxis(u, axis, -2)
        *rest, rows, cols = u.shape
        flat = jnp.pad(u, [(0, 0)] * (u.ndim - 1) + [(0, rows)]).reshape(*rest, rows * (cols + rows))
        u = flat[..., : rows * (rows + cols - 1)].reshape(*rest, rows, rows + cols - 1)
        u = jnp.moveaxis(u, -2, axis)
    return jnp.moveaxis(u, -1, 0)


def unskew(s: Float[Array, "diagonals *rows"]) -> Float[Array, "*rows cols"]:
    """The inverse of `skew`."""
    s = jnp.moveaxis(s, 0, -1)
    for axis in range(s.ndim - 1):
        s = jnp.moveaxis(s, axis, -2)
        *rest, rows, width = s.shape
        flat = jnp.pad(s.reshape(*rest, rows * width), [(0, 0)] * (s.ndim - 2) + [(0, rows)])
        s = flat.reshape(*rest, rows, width + 1)[..., : width + 1 - rows]
        s = jnp.moveaxis(s, -2, axis)
    return s


def reach(coefficients, s, by: int, axis: int = 0):
    """Sum over the grid's axes of coefficient times neighbour: `by` = 1 before, -1 after. The rows of `s` start at
    `axis`; the move from one anti-diagonal to the next is the caller's."""
    # Along the last axis of the grid the neighbour has the same rows.
    total = coefficients[-1] * s
    for a, coefficient in enumerate(coefficients[:-1]):
        total = total + coefficient * shift(s, axis + a, by)
    return total


def _mv(op: Wavefront, s):
    near = reach(op.before, shift(s, 0, 1), 1, 1) + reach(op.after, shift(s, 0, -1), -1, 1)
    return op.diagonal * s + _inside(op, near)


def _before(op: Wavefront, s):
    return _inside(op, reach(op.before, shift(s, 0, 1), 1, 1))


def _after(op: Wavefront, s):
    return _inside(op, reach(op.after, shift(s, 0, -1), -1, 1))


def _inside(op: Wavefront, s):
    """Zeros outside the grid. (A zero diagonal inside ends every method with sweeps before its first.)"""
    return jnp.where(op.diagonal != 0, s, 0)


def _lower(op: Wavefront, omega):
    # Outside the grid the diagonal is 0, and so is this: such places stay 0.
    scale = over(omega, op.diagonal)
    return Partial(bind(_substitute, by=1), Triangle(scale, tuple(scale * c for c in op.before)))


def _upper(op: Wavefront, omega):
    scale = over(omega, op.diagonal)
    return Partial(bind(_substitute, by=-1), Triangle(scale, tuple(scale * c for c in op.after)))


def _substitute(triangle: Triangle, r, *, by: int):
    """Forward (by = 1) or backward (by = -1) substitution. The scan is never unrolled: XLA compiles the small
    rolled body into one kernel on CPU, and unrolling it was measured 10 times slower."""

    def step(y, x):
        scaled, coefficients = x
        y = scaled - reach(coefficients, y, by)
        return y, y

    start = jnp.zeros_like(r[0])
    return jax.lax.scan(step, start, (triangle.scale * r, triangle.coefficients), reverse=by < 0)[1]


__all__ = ["Triangle", "Wavefront", "reach", "skew", "unskew", "wavefront"]
