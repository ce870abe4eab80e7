"""Nearest-neighbour operators on grids: five points in the plane, seven in space; coefficients constant or per cell."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Real

from jaxsci.core import entry
from jaxsci.core.types import Scalar, as_scalar
from jaxsci.linear._checkerboard import checkerboard
from jaxsci.linear._shift import shift
from jaxsci.linear._system import as_operand, real_dtype
from jaxsci.linear._wavefront import wavefront

_ORDERS = {"natural": wavefront, "red-black": checkerboard}


class Stencil(eqx.Module):
    """(A u)_i = diagonal_i u_i + sum over axes a of before[a]_i u_{i - e_a} + after[a]_i u_{i + e_a}.

    Build it with `stencil5` or `stencil7`, which validate. Cells outside the grid count as zeros.

    Attributes:
        diagonal: coefficient of the cell itself.
        before: for each axis the coefficient of the cell before: of the grid's shape, or a scalar that is the same
            everywhere, so that products read no array for it.
        after: the same of the cell after.
        symmetric: promise that A = A^T, not checked.
        order: order of the sweeps: "natural" (row by row, swept by anti-diagonals) or "red-black"; see `reordered`.
    """

    diagonal: Float[Array, "*shape"]
    before: tuple[Float[Array, "..."], ...]
    after: tuple[Float[Array, "..."], ...]
    symmetric: bool = eqx.field(static=True)
    order: str = eqx.field(static=True, default="natural")

    @property
    def mv(self):
        """u -> A u on the grid."""
        return Partial(_mv, self)

    @property
    def transpose(self) -> "Stencil":
        """A^T: the weight of cell j in row i becomes the weight of cell i in row j."""
        if self.symmetric:
            return self
        before = tuple(shift(c, axis, 1) if c.ndim else c for axis, c in enumerate(self.after))
        after = tuple(shift(c, axis, -1) if c.ndim else c for axis, c in enumerate(self.before))
        return Stencil(self.diagonal, before, after, symmetric=False, order=self.order)

    @property
    def ordered(self):
        """The operator in the storage of its sweeps."""
        return _ORDERS[self.order](self)


def _mv(op: Stencil, u):
    u = as_operand("Stencil.mv", u, op.diagonal.shape)
    out = op.diagonal * u
    for axis, (before, after) in enumerate(zip(op.before, op.after)):
        out = out + before * shift(u, axis, 1) + after * shift(u, axis, -1)
    return out


def _build(name: str, diagonal, before, after, shape, symmetric: bool, axes: str) -> Stencil:
    given = (diagonal, *before, *after)
    shapes = {np.shape(c) for c in given if np.ndim(c)} | ({tuple(shape)} if shape is not None else set())
    if len(shapes) != 1 or len(next(iter(shapes))) != len(before):
        raise ValueError(
            f"{name}: expected scalars and arrays of one shape {axes}, got {[np.shape(c) for c in given]} and "
            f"shape={shape}; give shape={axes} when all coefficients are scalars"
        )
    shape = next(iter(shapes))
    if min(shape) < 1:
        raise ValueError(f"{name}: expected at least one cell, got shape {shape}")
    dtype = real_dtype(name, *given)
    diagonal = jnp.broadcast_to(jnp.asarray(diagonal, dtype), shape)
    before, after = (tuple(jnp.asarray(c, dtype) for c in part) for part in (before, after))
    return Stencil(diagonal, before, after, symmetric=symmetric)


def stencil5(
    diagonal: ArrayLike,
    north: ArrayLike,
    south: ArrayLike,
    west: ArrayLike,
    east: ArrayLike,
    *,
    shape: tuple[int, int] | None = None,
    symmetric: bool = False,
) -> Stencil:
    r"""Five-point operator with zero Dirichlet values outside the grid.

    $(A u)_{ij} = d u_{ij} + n u_{i-1,j} + s u_{i+1,j} + w u_{i,j-1} + e u_{i,j+1}$.

    Args:
        diagonal, north, south, west, east: coefficients, scalars or arrays (rows, cols); traced. What reaches
            over the border has no effect.
        shape: (rows, cols), static; needed when all coefficients are scalars.
        symmetric: promise that A = A^T (not checked); static. Gradients then reuse the operator itself.

    Raises:
        ValueError: shapes that do not agree, or none given.
        TypeError: complex coefficients.

    Differentiable in the coefficients.

    Example:
        >>> from jaxsci import linear
        >>> op = linear.operators.stencil5(4.0, -1.0, -1.0, -1.0, -1.0, shape=(2, 3), symmetric=True)
        >>> [float(v) for v in op.mv(jnp.ones((2, 3)))[0]]
        [2.0, 1.0, 2.0]
    """
    return _build("stencil5", diagonal, (north, west), (south, east), shape, symmetric, "(rows, cols)")


def stencil7(
    diagonal: ArrayLike,
    below: ArrayLike,
    above: ArrayLike,
    north: ArrayLike,
    south: ArrayLike,
    west: ArrayLike,
    east: ArrayLike,
    *,
    shape: tuple[int, int, int] | None = None,
    symmetric: bool = False,
) -> Stencil:
    r"""Seven-point operator on a grid (planes, rows, cols) with zero Dirichlet values outside.

    The five points of `stencil5` in every plane, and $b\,u_{k-1,i,j} + a\,u_{k+1,i,j}$ between planes.

    Args:
        diagonal, below, above, north, south, west, east: coefficients, scalars or arrays (planes, rows, cols);
            traced. What reaches over the border has no effect.
        shape: (planes, rows, cols), static; needed when all coefficients are scalars.
        symmetric: promise that A = A^T (not checked); static.

    Raises:
        ValueError: shapes that do not agree, or none given.
        TypeError: complex coefficients.

    Differentiable in the coefficients.

    Example:
        >>> from jaxsci import linear
        >>> op = linear.operators.stencil7(6.0, *[-1.0] * 6, shape=(2, 2, 3), symmetric=True)
        >>> [float(v) for v in op.mv(jnp.ones((2, 2, 3)))[0, 0]]
        [3.0, 2.0, 3.0]
    """
    before, after = (below, north, west), (above, south, east)
    return _build("stencil7", diagonal, before, after, shape, symmetric, "(planes, rows, cols)")


def shifted_laplacian(shape: tuple[int, ...], shift: Scalar = 0.0) -> Stencil:
    """Laplacian plus c I without the mesh-width factor: diagonal 2d + c in d = 2 or 3 dimensions, neighbours -1.

    Args:
        shape: (rows, cols) or (planes, rows, cols), static.
        shift: c, traced. Positive definite while 2d + c exceeds the sum of 2 cos(pi/(n + 1)) over the axes.

    Raises:
        ValueError: a shape of another length, or without cells.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op = linear.operators.shifted_laplacian((3, 3), 0.5)
        >>> print(op.mv(jnp.ones((3, 3))))
        [[2.5 1.5 2.5]
         [1.5 0.5 1.5]
         [2.5 1.5 2.5]]
    """
    if len(shape) not in (2, 3):
        raise ValueError(f"shifted_laplacian: expected shape (rows, cols) or (planes, rows, cols), got {shape}")
    shift = jnp.asarray(shift, real_dtype("shifted_laplacian", shift))
    off = -jnp.ones((), shift.dtype)
    make = stencil5 if len(shape) == 2 else stencil7
    return make(2 * len(shape) + shift, *[off] * (2 * len(shape)), shape=tuple(shape), symmetric=True)


def diffusion(
    across_rows: Real[ArrayLike, "rows_minus_1 cols"] | Sequence,
    across_cols: Real[ArrayLike, "rows cols_minus_1"] | Sequence,
    step: Scalar,
) -> Stencil:
    r"""Implicit diffusion $I - \tau\,\mathrm{div}(g\,\nabla)$ with no flux through the border.

    Args:
        across_rows: conductance g between cells (i, j) and (i + 1, j), shape (rows - 1, cols), traced.
        across_cols: conductance g between cells (i, j) and (i, j + 1), shape (rows, cols - 1), traced.
        step: tau in units of the squared cell width, a traced scalar. Every row sums to 1, so the mean is kept.

    Raises:
        ValueError: shapes that do not belong to one grid, or a grid without cells.
        TypeError: complex conductances.

    Differentiable in all three.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op = linear.operators.diffusion(jnp.ones((2, 3)), jnp.ones((3, 2)), 0.5)
        >>> print(op.mv(jnp.ones((3, 3))).sum())
        9.0
    """
    dtype = real_dtype("diffusion", across_rows, across_cols, step)
    across_rows, across_cols = jnp.asarray(across_rows, dtype), jnp.asarray(across_cols, dtype)
    step = as_scalar(step, "diffusion", "step", dtype)
    down, right = across_rows.shape, across_cols.shape
    if not (len(down) == len(right) == 2 and (down[0] + 1, down[1]) == (right[0], right[1] + 1)):
        raise ValueError(
            "diffusion: expected across_rows of shape (rows - 1, cols) and across_cols of shape (rows, cols - 1) with "
            f"at least one cell, got {down} and {right}"
        )
    vertical, horizontal = step * across_rows, step * across_cols
    north, south = jnp.pad(vertical, ((1, 0), (0, 0))), jnp.pad(vertical, ((0, 1), (0, 0)))
    west, east = jnp.pad(horizontal, ((0, 0), (1, 0))), jnp.pad(horizontal, ((0, 0), (0, 1)))
    return Stencil(1 + north + south + west + east, (-north, -west), (-south, -east), symmetric=True)


__all__ = ["Stencil", "diffusion", "shifted_laplacian", "stencil5", "stencil7"]

entry.hold(globals(), "_mv")
