r"""Products with a sparse matrix whose values are traced: $y_i = \sum_k a_{ik} x_{c_{ik}}$ over jagged rows.

Entry k of every row makes one array operation over the rows. Where rows are about equally long they are padded to the
longest and stay in their order. Else they are sorted by length, and blocks of at most eight columns hold only the rows
that reach them, so that a row is padded by less than eight places. What few rows have beyond the blocks is cut into
pieces of sixteen entries, whose sums are added to their rows.

Reference: Saad 2003, Iterative Methods for Sparse Linear Systems, section 3.4 (jagged diagonals).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsci.linear._pattern import Kept, Pattern, Rows, fill, pad_rows, sum_rows, widest

_BLOCK = 8  # columns of a block
_MOST_BLOCKS = 16  # every column is code to compile
_FEW = 1 / 8  # of the rows: columns that fewer reach are no block
_PIECE = 16
# Rows keep their order if padding all of them to the longest takes at most this many times the entries.
_EVEN = 1.5


class Jagged(NamedTuple):
    """Static arrays of a product.

    Attributes:
        places: ``places[row]`` is the place of a row sorted by length; None: rows are in their order.
        blocks: columns of the rows sorted by length; block b holds as many rows as reach its first column.
        pieces: what stands beyond the blocks, as rows of one piece each; None: nothing does.
        owners: the place of the row that each piece belongs to.
    """

    places: Int[np.ndarray, " n"] | None
    blocks: tuple[Rows, ...]
    pieces: Rows | None
    owners: Int[np.ndarray, " pieces"]


def _jagged(pattern: Pattern) -> Jagged:
    n, held = pattern.size, len(pattern.rows)
    slots, none = np.arange(held, dtype=np.int32), np.zeros(0, np.int32)
    width = widest(n, pattern.rows)
    if width <= _BLOCK * _MOST_BLOCKS and width * n <= _EVEN * held + 1024:
        rows = pad_rows(n, pattern.rows, pattern.cols, slots, held)
        return Jagged(None, _cut(rows), None, none)
    count = np.bincount(pattern.rows, minlength=n)
    by_length = np.argsort(-count, kind="stable")
    places = np.empty(n, np.int32)
    places[by_length] = np.arange(n, dtype=np.int32)
    row, within = places[pattern.rows], slots - (np.cumsum(count) - count)[pattern.rows]
    blocks, end = [], 0
    while len(blocks) < _MOST_BLOCKS and (num := int((count > end).sum())) > _FEW * n:
        of = np.flatnonzero((within >= end) & (within < end + _BLOCK))
        blocks.append(pad_rows(num, row[of], pattern.cols[of], slots[of], held))
        end += _BLOCK
    of = np.flatnonzero(within >= end)
    if not len(of):
        return Jagged(places, tuple(blocks), None, none)
    # numbered by row and by piece within the row
    piece = np.unique(row[of].astype(np.int64) * held + (within[of] - end) // _PIECE, return_inverse=True)
    pieces = pad_rows(len(piece[0]), piece[1], pattern.cols[of], slots[of], held)
    return Jagged(places, tuple(blocks), pieces, (piece[0] // held).astype(np.int32))


def _cut(rows: Rows) -> tuple[Rows, ...]:
    return tuple(Rows(*(a[k : k + _BLOCK] for a in rows)) for k in range(0, len(rows.cols), _BLOCK))


jagged = Kept(_jagged)


def arrange(entries: Float[Array, " entries"], pattern: Pattern) -> tuple[Float[Array, "w num"], ...]:
    """The entries in the layout of `Jagged`: those of each block, and of the pieces."""
    plan = jagged(pattern)
    return tuple(fill(entries, rows.slots) for rows in (*plan.blocks, plan.pieces) if rows is not None)


def product(parts: tuple[Array, ...], x: Float[Array, " n"], pattern: Pattern) -> Float[Array, " n"]:
    """The off-diagonal part of A times x, from the entries as `arrange` lays them out."""
    plan = jagged(pattern)
    y = jnp.zeros_like(x)
    for values, block in zip(parts, plan.blocks):
        part, num = sum_rows(values, block.cols, x), block.cols.shape[1]
        y = y + part if num == len(y) else y.at[:num].add(part)
    if plan.pieces is not None:
        y = y.at[plan.owners].add(sum_rows(parts[-1], plan.pieces.cols, x), indices_are_sorted=True)
    return y if plan.places is None else y.at[plan.places].get(mode="promise_in_bounds")


__all__ = ["Jagged", "arrange", "jagged", "product"]
