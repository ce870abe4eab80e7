r"""Linear operators as data: what A is. A solver asks them for products, the diagonal and triangular solves.

A splits as D + L + U (diagonal, strictly lower, strictly upper in the operator's natural order). An operator is an
`equinox.Module` of arrays, so it crosses jit, stacks under vmap and is differentiated with respect to its entries.
"""

from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core.static import bind
from jaxsci.core.types import float_dtype
from jaxsci.linear import _wavefront


class LinearOperator(Protocol):
    """What every solver asks of an operator on arrays of one fixed shape.

    ``mv(x)`` is A x; ``diagonal`` is D in the shape of x; ``transpose`` is the operator A^T; ``symmetric`` is a
    static promise. ``ordered`` is the same operator in the storage of its natural-order sweeps, with ``pack`` and
    ``unpack`` between the two storages, ``mv``, ``diagonal``, and ``lower(omega)``, ``upper(omega)``: functions
    r -> (D/omega + L)^-1 r and r -> (D/omega + U)^-1 r.
    """

    symmetric: bool
    diagonal: Array
    mv: Partial
    transpose: "LinearOperator"
    ordered: "LinearOperator"


class Stencil5(eqx.Module):
    """(A u)[i,j] = d u[i,j] + n u[i-1,j] + s u[i+1,j] + w u[i,j-1] + e u[i,j+1], a coefficient per cell.

    Build it with `stencil5`, which validates and removes coefficients that reach over the border.
    """

    diagonal: Float[Array, "rows cols"]
    north: Float[Array, "rows cols"]
    south: Float[Array, "rows cols"]
    west: Float[Array, "rows cols"]
    east: Float[Array, "rows cols"]
    symmetric: bool = eqx.field(static=True)

    @property
    def mv(self):
        """u -> A u on the grid."""
        return Partial(_stencil_mv, self)

    @property
    def transpose(self) -> "Stencil5":
        """A^T: the coefficient that i gives to j becomes the one that j gives to i."""
        if self.symmetric:
            return self
        return Stencil5(
            self.diagonal,
            north=_shift(self.south, 1, 0),
            south=_shift(self.north, -1, 0),
            west=_shift(self.east, 0, 1),
            east=_shift(self.west, 0, -1),
            symmetric=False,
        )

    @property
    def ordered(self) -> _wavefront.Wavefront:
        """Row-by-row numbering, swept by anti-diagonals."""
        return _wavefront.wavefront(self)


def _shift(u, down: int, right: int):
    return jax.lax.pad(u, jnp.zeros((), u.dtype), ((down, -down, 0), (right, -right, 0)))


def _stencil_mv(op: Stencil5, u):
    return (
        op.diagonal * u
        + op.north * _shift(u, 1, 0)
        + op.south * _shift(u, -1, 0)
        + op.west * _shift(u, 0, 1)
        + op.east * _shift(u, 0, -1)
    )


def stencil5(
    diagonal: ArrayLike,
    north: ArrayLike,
    south: ArrayLike,
    west: ArrayLike,
    east: ArrayLike,
    *,
    shape: tuple[int, int] | None = None,
    symmetric: bool = False,
) -> Stencil5:
    """Five-point operator with zero Dirichlet values outside the grid.

    Args:
        diagonal, north, south, west, east: coefficients, scalars or arrays (rows, cols); traced. A coefficient that
            reaches over the border is removed.
        shape: (rows, cols), static; needed when all coefficients are scalars.
        symmetric: promise that A = A^T (not checked); static. Gradients then reuse the operator itself.

    Raises:
        ValueError: shapes that do not agree, or none given.

    Example:
        >>> from jaxsci import linear
        >>> op = linear.operators.stencil5(4.0, -1.0, -1.0, -1.0, -1.0, shape=(2, 3), symmetric=True)
        >>> [float(v) for v in op.mv(jnp.ones((2, 3)))[0]]
        [2.0, 1.0, 2.0]
    """
    given = (diagonal, north, south, west, east)
    shapes = {np.shape(c) for c in given if np.ndim(c)} | ({tuple(shape)} if shape is not None else set())
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"stencil5: expected scalars and arrays of one shape (rows, cols), got {[np.shape(c) for c in given]} and "
            f"shape={shape}; give shape=(rows, cols) when all coefficients are scalars"
        )
    rows, cols = next(iter(shapes))
    if rows < 1 or cols < 1:
        raise ValueError(f"stencil5: expected at least one cell, got shape ({rows}, {cols})")
    dtype = float_dtype(*given)
    d, n, s, w, e = (jnp.broadcast_to(jnp.asarray(c, dtype), (rows, cols)) for c in given)
    i, j = jnp.arange(rows)[:, None], jnp.arange(cols)[None, :]
    zero = jnp.zeros((), dtype)
    return Stencil5(
        d,
        north=jnp.where(i > 0, n, zero),
        south=jnp.where(i < rows - 1, s, zero),
        west=jnp.where(j > 0, w, zero),
        east=jnp.where(j < cols - 1, e, zero),
        symmetric=symmetric,
    )


def shifted_laplacian(shape: tuple[int, int], shift: ArrayLike = 0.0) -> Stencil5:
    """Five-point Laplacian plus c I without the mesh-width factor: diagonal 4 + c, neighbours -1.

    Args:
        shape: (rows, cols), static.
        shift: c, traced. Positive definite while 4 + c exceeds 4 cos(pi/(rows+1))/2 + 4 cos(pi/(cols+1))/2.
    """
    shift = jnp.asarray(shift, float_dtype(shift))
    off = -jnp.ones((), shift.dtype)
    return stencil5(4 + shift, off, off, off, off, shape=shape, symmetric=True)


def diffusion(
    across_rows: Float[Array, "rows_minus_1 cols"], across_cols: Float[Array, "rows cols_minus_1"], step: ArrayLike
) -> Stencil5:
    r"""Implicit diffusion $I - \tau\,\mathrm{div}(g\,\nabla)$ with no flux through the border.

    Args:
        across_rows: conductance g between cells (i, j) and (i + 1, j), shape (rows - 1, cols).
        across_cols: conductance g between cells (i, j) and (i, j + 1), shape (rows, cols - 1).
        step: tau in units of the squared cell width, traced. Every row sums to 1, so the mean is kept.

    Raises:
        ValueError: shapes that do not belong to one grid.
    """
    rows, cols = across_rows.shape[0] + 1, across_rows.shape[1]
    if across_cols.shape != (rows, cols - 1):
        raise ValueError(
            f"diffusion: expected across_cols of shape {(rows, cols - 1)} beside across_rows of shape "
            f"{across_rows.shape}, got {across_cols.shape}"
        )
    vertical, horizontal = step * across_rows, step * across_cols
    north, south = jnp.pad(vertical, ((1, 0), (0, 0))), jnp.pad(vertical, ((0, 1), (0, 0)))
    west, east = jnp.pad(horizontal, ((0, 0), (1, 0))), jnp.pad(horizontal, ((0, 0), (0, 1)))
    return Stencil5(1 + north + south + west + east, -north, -south, -west, -east, symmetric=True)


class Dense(eqx.Module):
    """A dense matrix; sweeps are triangular solves. Build it with `dense`."""

    matrix: Float[Array, "n n"]
    symmetric: bool = eqx.field(static=True)

    @property
    def diagonal(self) -> Float[Array, " n"]:
        """The diagonal D."""
        return jnp.diagonal(self.matrix)

    @property
    def mv(self):
        """x -> A x at full precision."""
        return Partial(_dense_mv, self.matrix)

    @property
    def transpose(self) -> "Dense":
        """A^T."""
        return self if self.symmetric else Dense(self.matrix.T, symmetric=False)

    @property
    def ordered(self) -> "Dense":
        """Itself: the storage is the natural order."""
        return self

    @property
    def pack(self):
        """Identity."""
        return Partial(_identity)

    @property
    def unpack(self):
        """Identity."""
        return Partial(_identity)

    @property
    def lower(self):
        """omega -> (r -> (D/omega + L)^-1 r)."""
        return Partial(bind(_dense_triangle, lower=True), self.matrix)

    @property
    def upper(self):
        """omega -> (r -> (D/omega + U)^-1 r)."""
        return Partial(bind(_dense_triangle, lower=False), self.matrix)


def _identity(x):
    return x


def _dense_mv(matrix, x):
    return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)


def _dense_triangle(matrix, omega, *, lower: bool):
    diagonal = jnp.diag(jnp.diagonal(matrix) / omega)
    part = jnp.tril(matrix, -1) if lower else jnp.triu(matrix, 1)
    return Partial(bind(_substitute, lower=lower), part + diagonal)


def _substitute(triangle, r, *, lower: bool):
    return jax.scipy.linalg.solve_triangular(triangle, r, lower=lower)


def dense(matrix: Float[Array, "n n"], *, symmetric: bool = False) -> Dense:
    """A square matrix as an operator on vectors of shape (n,).

    Raises:
        ValueError: a matrix that is not square, or empty.
    """
    matrix = jnp.asarray(matrix, float_dtype(matrix))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"dense: expected a square matrix (n, n) with n >= 1, got shape {matrix.shape}")
    return Dense(matrix, symmetric=symmetric)


__all__ = ["Dense", "LinearOperator", "Stencil5", "dense", "diffusion", "shifted_laplacian", "stencil5"]
