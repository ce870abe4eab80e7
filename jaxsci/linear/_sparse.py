"""Sparse operators in compressed rows (CSR) and in diagonals (DIA): patterns are static, values are traced."""

import operator
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import entry
from jaxsci.core.static import bind
from jaxsci.core.types import concrete
from jaxsci.linear._jagged import arrange, product
from jaxsci.linear._levels import Leveled, leveled
from jaxsci.linear._pattern import Pattern, split, transposed
from jaxsci.linear._shift import shift
from jaxsci.linear._system import as_operand, real_dtype


class Sparse(eqx.Module):
    """A sparse matrix: its diagonal, and its other entries in the places of a static pattern. Build it with `sparse`.

    Attributes:
        diagonal: D.
        entries: off-diagonal entries, in the order of the pattern.
        pattern: their rows and columns.
        symmetric: promise that A = A^T, not checked.
        order: order of the sweeps: "natural", "multicolor" or a tuple of all unknowns as they are updated; see
            `reordered`.
    """

    diagonal: Float[Array, " n"]
    entries: Float[Array, " entries"]
    pattern: Pattern = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)
    order: str | tuple[int, ...] = eqx.field(static=True, default="natural")

    @property
    def mv(self):
        """x -> A x."""
        return Partial(bind(_mv, pattern=self.pattern), self.diagonal, arrange(self.entries, self.pattern))

    @property
    def transpose(self) -> "Sparse":
        """A^T."""
        if self.symmetric:
            return self
        pattern, places = transposed(self.pattern)
        return Sparse(self.diagonal, self.entries[places], pattern=pattern, symmetric=False, order=self.order)

    @property
    def ordered(self) -> Leveled:
        """The operator sorted by the levels of its order."""
        return leveled(self.diagonal, self.entries, self.pattern, self.order)


def _mv(diagonal, parts, x, *, pattern: Pattern):
    x = as_operand("Sparse.mv", x, diagonal.shape)
    return diagonal * x + product(parts, x, pattern)


def sparse(
    data: Float[Array, " given"],
    indices: Int[ArrayLike, " given"] | Sequence[int],
    indptr: Int[ArrayLike, " ends"] | Sequence[int],
    *,
    symmetric=False,
) -> Sparse:
    """A square matrix in compressed sparse rows (CSR): row i holds data[indptr[i]:indptr[i + 1]].

    Args:
        data: the entries, traced. Unsorted rows are sorted, entries at one place are added up.
        indices: their columns, built.
        indptr: where rows begin, shape (n + 1,), built.
        symmetric: promise that A = A^T (not checked); static. Gradients then reuse the operator itself.

    Raises:
        TypeError: `indices` or `indptr` traced (the pattern is part of the program) or not integers; complex data.
        ValueError: an empty matrix, lengths that do not agree, a column outside.

    Differentiable in `data`. Sweeps go level by level in the order of `reordered`.

    Example:
        >>> from jaxsci import linear
        >>> op = linear.operators.sparse(jnp.array([2.0, -1.0, -1.0, 2.0]), [0, 1, 0, 1], [0, 2, 4])
        >>> [float(v) for v in op.mv(jnp.array([1.0, 3.0]))]
        [-1.0, 5.0]
    """
    other = "keep the pattern outside and pass only data through the transform"
    indices = np.asarray(concrete(indices, "sparse", "indices", other))
    indptr = np.asarray(concrete(indptr, "sparse", "indptr", other))
    for name, given in (("indices", indices), ("indptr", indptr)):
        if given.size and not np.issubdtype(given.dtype, np.integer):
            raise TypeError(f"sparse: {name} must be integers, got {given.dtype}")
    size, data = len(indptr) - 1, jnp.asarray(data, real_dtype("sparse", data))
    if size < 1:
        raise ValueError(f"sparse: expected n >= 1 rows, indptr of shape (n + 1,), got shape {indptr.shape}")
    if data.shape != indices.shape or data.ndim != 1 or indptr[0] != 0 or indptr[-1] != len(indices):
        raise ValueError(
            f"sparse: expected data and indices of shape (indptr[-1],) and indptr[0] = 0, got {data.shape}, "
            f"{indices.shape} and indptr from {indptr[0]} to {indptr[-1]}"
        )
    if np.any(np.diff(indptr) < 0):
        raise ValueError("sparse: indptr must not decrease")
    return from_coordinates("sparse", size, np.repeat(np.arange(size), np.diff(indptr)), indices, data, symmetric)


def from_coordinates(name: str, size: int, rows, cols, data, symmetric: bool) -> Sparse:
    """A square matrix from entries at (rows, cols) in any order; entries at the same place are added up."""
    for places in (rows, cols):
        if len(places) and not (0 <= np.min(places) and np.max(places) < size):
            raise ValueError(
                f"{name}: the matrix must be square, {size} x {size}, got an index outside: "
                f"[{np.min(places)}, {np.max(places)}]"
            )
    pattern, diagonal, entries = split(size, rows, cols, data)
    return Sparse(diagonal, entries, pattern=pattern, symmetric=symmetric)


class Banded(eqx.Module):
    """A matrix of a few diagonals. Build it with `banded`.

    Attributes:
        diagonal: D.
        bands: bands[k, i] = A[i, i + offsets[k]], 0 where that leaves the matrix.
        offsets: offset of each band, none of them 0; positive above the diagonal.
        symmetric: promise that A = A^T, not checked.
        order: order of the sweeps, as in `Sparse`.
    """

    diagonal: Float[Array, " n"]
    bands: Float[Array, "k n"]
    offsets: tuple[int, ...] = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)
    order: str | tuple[int, ...] = eqx.field(static=True, default="natural")

    @property
    def mv(self):
        """x -> A x by shifts, without indices."""
        return Partial(bind(_mv_banded, offsets=self.offsets), self.diagonal, self.bands)

    @property
    def transpose(self) -> "Banded":
        """A^T: the band at offset o becomes the one at -o."""
        if self.symmetric:
            return self
        bands = [shift(band, 0, offset) for band, offset in zip(self.bands, self.offsets)]
        bands = jnp.stack(bands) if bands else self.bands
        return Banded(self.diagonal, bands, tuple(-o for o in self.offsets), symmetric=False, order=self.order)

    @property
    def ordered(self) -> Leveled:
        """The operator sorted by the levels of its order."""
        return banded_as_sparse(self).ordered


def _mv_banded(diagonal, bands, x, *, offsets: tuple[int, ...]):
    x = as_operand("Banded.mv", x, diagonal.shape)
    return diagonal * x + sum((band * shift(x, 0, -offset) for band, offset in zip(bands, offsets)), jnp.zeros_like(x))


def banded(bands: Float[Array, "k n"], offsets: tuple[int, ...], *, symmetric: bool = False) -> Banded:
    """A matrix given by its diagonals (DIA): A[i, i + offsets[k]] = bands[k, i], zero elsewhere.

    Args:
        bands: one row per diagonal, aligned to the rows of A, traced. Entries that leave the matrix are ignored.
        offsets: 0 is the main diagonal, positive above; static. Without 0 the main diagonal is zero.
        symmetric: promise that A = A^T (not checked); static.

    Raises:
        ValueError: an empty matrix, repeated offsets, or as many offsets as bands not given.
        TypeError: complex bands, or offsets that are not integers.

    Differentiable in `bands`. Sweeps go level by level in the order of `reordered`.

    Example:
        >>> from jaxsci import linear
        >>> op = linear.operators.banded(jnp.stack([-jnp.ones(3), 2 * jnp.ones(3), -jnp.ones(3)]), (-1, 0, 1))
        >>> [float(v) for v in op.mv(jnp.array([1.0, 2.0, 3.0]))]
        [0.0, 0.0, 4.0]
    """
    # on the host, unless traced, nothing has to be compiled for these shapes
    xp = jnp if any(isinstance(band, jax.core.Tracer) for band in jax.tree.leaves(bands)) else np
    bands, offsets = xp.asarray(bands, real_dtype("banded", bands)), tuple(operator.index(o) for o in offsets)
    if bands.ndim != 2 or bands.shape[1] < 1 or len(offsets) != bands.shape[0] or len(set(offsets)) < len(offsets):
        raise ValueError(
            f"banded: expected bands (k, n) with n >= 1 and k different offsets, got {bands.shape} and {offsets}"
        )
    size = bands.shape[1]
    main = bands[offsets.index(0)] if 0 in offsets else xp.zeros(size, bands.dtype)
    others = [k for k, offset in enumerate(offsets) if offset != 0 and abs(offset) < size]
    place = np.arange(size) + np.asarray([offsets[k] for k in others], np.int64)[:, None].reshape(len(others), 1)
    held = xp.where((place >= 0) & (place < size), bands[np.asarray(others, np.int32)], xp.zeros((), bands.dtype))
    return Banded(jnp.asarray(main), jnp.asarray(held), tuple(offsets[k] for k in others), symmetric=symmetric)


def banded_as_sparse(op: Banded) -> Sparse:
    """The same matrix with its pattern written out."""
    size = op.diagonal.shape[0]
    rows = [np.arange(max(0, -o), size - max(0, o)) for o in op.offsets]
    data = [op.diagonal, *(band[r] for band, r in zip(op.bands, rows))]
    cols = np.concatenate([np.arange(size), *(r + o for r, o in zip(rows, op.offsets))])
    rows = np.concatenate([np.arange(size), *rows])
    pattern, diagonal, entries = split(size, rows, cols, jnp.concatenate(data))
    return Sparse(diagonal, entries, pattern=pattern, symmetric=op.symmetric, order=op.order)


__all__ = ["Banded", "Sparse", "banded", "banded_as_sparse", "from_coordinates", "sparse"]

entry.hold(globals(), "_mv", "_mv_banded")
