r"""Natural-order triangular solves on a five-point grid, one anti-diagonal at a time.

In natural (row) numbering cell (i, j) depends on its west and north neighbours, both on the anti-diagonal
k - 1 of i + j = k. So a sweep is a scan over k whose steps are vectors, with the iterates of the sequential loop.
Skewed storage $S[k, i] = u[i, k - i]$ of shape (rows + cols - 1, rows) makes every step a contiguous slice; cells
outside the grid hold zeros, which change neither norms nor inner products.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxsci.core.static import bind


class Triangle(NamedTuple):
    """(D/omega + L) or (D/omega + U), divided by its diagonal: y_k = scale r_k - near y - far shift(y)."""

    scale: Float[Array, "diagonals rows"]
    near: Float[Array, "diagonals rows"]
    far: Float[Array, "diagonals rows"]


class Wavefront(eqx.Module):
    """A five-point operator in skewed storage: what methods with sweeps ask for (see `operators.LinearOperator`)."""

    diagonal: Float[Array, "diagonals rows"]
    north: Float[Array, "diagonals rows"]
    south: Float[Array, "diagonals rows"]
    west: Float[Array, "diagonals rows"]
    east: Float[Array, "diagonals rows"]
    cols: int = eqx.field(static=True)

    @property
    def pack(self):
        """Grid (rows, cols) -> skewed storage."""
        return skew

    @property
    def unpack(self):
        """Skewed storage -> grid (rows, cols)."""
        return Partial(bind(_unskew, cols=self.cols))

    @property
    def mv(self):
        """y -> A y, both skewed."""
        return Partial(_mv, self)

    @property
    def lower(self):
        """omega -> (r -> (D/omega + L)^-1 r)."""
        return Partial(_lower, self)

    @property
    def upper(self):
        """omega -> (r -> (D/omega + U)^-1 r)."""
        return Partial(_upper, self)


def wavefront(op) -> Wavefront:
    """Skew the five coefficient arrays of a `Stencil5` once."""
    parts = jnp.stack([op.diagonal, op.north, op.south, op.west, op.east])
    return Wavefront(*jax.vmap(skew)(parts), cols=op.diagonal.shape[1])


def skew(u: Float[Array, "rows cols"]) -> Float[Array, "diagonals rows"]:
    """S[k, i] = u[i, k - i]: row i moves right by i when rows of width w are read with width w - 1."""
    rows, cols = u.shape
    wide = jnp.pad(u, ((0, 0), (0, rows))).reshape(-1)
    return wide[: rows * (rows + cols - 1)].reshape(rows, rows + cols - 1).T


def _unskew(s: Float[Array, "diagonals rows"], *, cols: int) -> Float[Array, "rows cols"]:
    diagonals, rows = s.shape
    flat = jnp.pad(s.T.reshape(-1), (0, rows))
    return flat.reshape(rows, diagonals + 1)[:, :cols]


def _roll(s, diagonal: int, row: int):
    """Entry (k, i) of the result is s[k - diagonal, i - row], zero outside."""
    return jax.lax.pad(s, jnp.zeros((), s.dtype), ((diagonal, -diagonal, 0), (row, -row, 0)))


def _mv(op: Wavefront, s):
    return (
        op.diagonal * s
        + op.west * _roll(s, 1, 0)
        + op.north * _roll(s, 1, 1)
        + op.east * _roll(s, -1, 0)
        + op.south * _roll(s, -1, -1)
    )


def _triangle(op: Wavefront, omega, near, far) -> Triangle:
    # Outside the grid the diagonal is 0, and so is the scale: such cells stay 0.
    inside = op.diagonal != 0
    scale = jnp.where(inside, omega / jnp.where(inside, op.diagonal, 1), 0).astype(op.diagonal.dtype)
    return Triangle(scale, scale * near, scale * far)


def _lower(op: Wavefront, omega):
    return Partial(bind(_substitute, row=1), _triangle(op, omega, op.west, op.north))


def _upper(op: Wavefront, omega):
    return Partial(bind(_substitute, row=-1), _triangle(op, omega, op.east, op.south))


def _substitute(triangle: Triangle, r, *, row: int):
    """Forward (row = 1) or backward (row = -1) substitution. The scan is never unrolled: XLA compiles the small
    rolled body into one kernel on CPU, and unrolling it was measured 10 times slower."""

    def step(y, x):
        scaled, near, far = x
        y = scaled - near * y - far * jax.lax.pad(y, jnp.zeros((), y.dtype), ((row, -row, 0),))
        return y, y

    start = jnp.zeros_like(r[0])
    return jax.lax.scan(step, start, (triangle.scale * r, triangle.near, triangle.far), reverse=row < 0)[1]
