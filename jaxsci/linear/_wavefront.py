r"""Natural-order triangular solves on a grid, one anti-diagonal (plane in 3-D) at a time.

In natural (row-major) numbering a cell on the anti-diagonal $i_1 + \dots + i_d = k$ depends on the cell before it along
every axis, and all of those lie on the anti-diagonal k - 1. So a sweep is a scan over k in which each step updates a
whole anti-diagonal, and the iterates are those of the sequential loop. Skewed storage $S[k, i_1, \dots] = u[i_1, \dots,
k - i_1 - \dots]$, in 2-D of shape (rows + cols - 1, rows), makes every step a contiguous slice; places outside the grid
hold zeros, which change neither norms nor inner products. A coefficient that is the same everywhere stays a scalar.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxsci.core import entry
from jaxsci.core.static import bind
from jaxsci.linear._shift import shift
from jaxsci.linear._system import Splitting, over


class Triangle(NamedTuple):
    """(D/omega + L) or (D/omega + U), divided by its diagonal: y_k = scale r_k - sum_a coefficients_a y_{k-1, a}.

    Attributes:
        scale: omega / D.
        coefficients: for each axis the neighbour's coefficient times `scale`.
    """

    scale: Float[Array, "diagonals *rows"]
    coefficients: tuple[Float[Array, "diagonals *rows"], ...]


class Wavefront(eqx.Module):
    """A stencil in skewed storage; the properties are those of `operators.Ordered`.

    Attributes:
        diagonal: D, skewed.
        before: for each axis the coefficients of the cell before, skewed, or a scalar that is the same everywhere.
        after: the same of the cell after.
    """

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
    """Sum over the grid's axes of coefficient times neighbour: the cell before (`by` = 1) or after (`by` = -1).

    `s` must already hold the neighbouring anti-diagonal; only the shift along the rows, which start at `axis`, is done
    here.
    """
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
    """`s` with zeros outside the grid, where the diagonal is 0. (A zero diagonal inside the grid is a singular system,
    which ends a method before its first sweep.)"""
    return jnp.where(op.diagonal != 0, s, 0)


def _lower(op: Wavefront, omega):
    # Outside the grid the diagonal is 0, hence scale is 0, and such places stay 0.
    scale = over(omega, op.diagonal)
    return Partial(bind(_substitute, by=1), Triangle(scale, tuple(scale * c for c in op.before)))


def _upper(op: Wavefront, omega):
    scale = over(omega, op.diagonal)
    return Partial(bind(_substitute, by=-1), Triangle(scale, tuple(scale * c for c in op.after)))


def _substitute(triangle: Triangle, r, *, by: int):
    """Forward (by = 1) or backward (by = -1) substitution. The scan is never unrolled: XLA compiles the small
    rolled body into one kernel on CPU; an unrolled one is far slower there."""

    def step(y, x):
        scaled, coefficients = x
        y = scaled - reach(coefficients, y, by)
        return y, y

    start = jnp.zeros_like(r[0])
    return jax.lax.scan(step, start, (triangle.scale * r, triangle.coefficients), reverse=by < 0)[1]


def bordered(op: Wavefront, omega) -> Splitting:
    """The pieces of an SOR sweep (see `Splitting`), with equations scaled by omega / D.

    The iterate has a border of zeros, so that all neighbours of an anti-diagonal are slices of it, and a sweep
    overwrites the last iterate one anti-diagonal after the other.
    """
    scale, inverse = over(omega, op.diagonal), op.diagonal / jnp.where(omega == 0, 1, omega)  # omega = 0 is a status
    before, after = (_scaled(scale, part) for part in (op.before, op.after))
    return Splitting(
        Partial(_start, scale),
        Partial(_cells),
        Partial(_pull, omega - 1, *after),
        Partial(_advance, *before),
        Partial(_residual, inverse, *before),
    )


def _scaled(scale, coefficients):
    """(factor, coefficients) with factor times coefficients = scale times `coefficients`. If all coefficients are
    scalars they stay scalars and scale is the factor, so that no array is read for them."""
    if any(c.ndim for c in coefficients):
        return jnp.ones((), scale.dtype), tuple(scale * c for c in coefficients)
    return scale, coefficients


def _cells(x, axes=(), by: int = 0):
    """The cells inside the border of x, moved by `by` places along all of `axes`."""
    moves = (by if a in axes else 0 for a in range(x.ndim))
    return x[tuple(slice(1 + move, n - 1 + move) for move, n in zip(moves, x.shape))]


def _near(coefficients, x, by: int, diagonals: tuple[int, ...]):
    """As `reach`, for x with a border of zeros. `diagonals` is (0,) if axis 0 of x counts the anti-diagonals, which are
    then moved by `by` too, and () if x is a single anti-diagonal."""
    total = coefficients[-1] * _cells(x, diagonals, by)
    for a, coefficient in enumerate(coefficients[:-1]):
        total = total + coefficient * _cells(x, (*diagonals, len(diagonals) + a), by)
    return total


def _start(scale, b, x):
    return scale * b, jnp.pad(x, 1)


def _pull(relaxed, scale, after, b, x):
    return b - (relaxed * _cells(x) + scale * _near(after, x, 1, (0,)))


def _advance(scale, before, pull, x):
    def step(k, x):
        last, pulled, factor, *coefficients = (
            jax.lax.dynamic_index_in_dim(a, k, keepdims=False) if a.ndim else a for a in (x, pull, scale, *before)
        )
        new = pulled - factor * _near(coefficients, last, -1, ())
        return jax.lax.dynamic_update_slice(x, new[None], (k + 1, *[1] * new.ndim))

    return jax.lax.fori_loop(0, pull.shape[0], step, x)


def _residual(inverse, scale, before, pull, x):
    return inverse * (pull - (_cells(x) + scale * _near(before, x, -1, (0,))))


__all__ = ["Triangle", "Wavefront", "bordered", "reach", "skew", "unskew", "wavefront"]

entry.hold(globals(), "_advance", "_mv", "_pull", "_residual", "_start", "skew", "unskew")
