r"""Triangular solves of a sparse matrix in any order, level by level.

The level of unknown i is $\mathrm{level}(i) = 1 + \max \mathrm{level}(j)$ over the neighbours j that are updated before
i. Unknowns of one level do not depend on each other, so a whole level is updated by one array operation, and the
iterates are those of the sequential loop. A multicolour order has few levels, one per colour. Levels are computed for
the pattern of A + A^T, so that one storage serves both triangles and A^T.

Vectors are stored sorted by level. A sweep is a scan over windows of one fixed width. A large level is cut into several
windows; a window that is wider than its level computes some values of other levels too, and drops them.

Reference: Saad 2003, Iterative Methods for Sparse Linear Systems, section 11.6 (level scheduling).
"""

from functools import lru_cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxsci.core.static import bind
from jaxsci.linear._colours import sequence
from jaxsci.linear._pattern import Pattern, Rows, fill, pad_rows
from jaxsci.linear._system import over

# Cost of one more window, in unknowns: a window of width w costs w plus this. It decides the width.
_WINDOW_COST = 64
# Rows are padded to the longest row. Sweeps are refused if that takes more than this many times the entries.
_MOST_PADDING = 32


class Schedule(NamedTuple):
    """Static arrays of a sweep.

    Attributes:
        unknowns: ``unknowns[place]`` is the unknown stored at a place.
        places: ``places[unknown]``, the inverse.
        before: rows of the triangle of neighbours that are updated earlier.
        after: rows of the other triangle.
        width: places that a window reads.
        windows: (first, begin, end) of each: it reads `width` places from first on and keeps those in [begin, end).
    """

    unknowns: Int[np.ndarray, " n"]
    places: Int[np.ndarray, " n"]
    before: Rows
    after: Rows
    width: int
    windows: Int[np.ndarray, "windows 3"]


class Leveled(eqx.Module):
    """A sparse operator stored by level; the properties are those of `operators.Ordered`.

    Attributes:
        diagonal: D, sorted by level.
        before: entries of the triangle updated earlier: the columns hold the rows of A, padded with zeros.
        after: the same of the other triangle.
        pattern: places of the off-diagonal entries.
        order: order of the update, see `Sparse`.
    """

    diagonal: Float[Array, " n"]
    before: Float[Array, "w_before n"]
    after: Float[Array, "w_after n"]
    pattern: Pattern = eqx.field(static=True)
    order: str | tuple[int, ...] = eqx.field(static=True)

    @property
    def pack(self):
        """x -> x sorted by level."""
        return Partial(bind(_take, pattern=self.pattern, order=self.order, back=False))

    @property
    def unpack(self):
        """The inverse of `pack`."""
        return Partial(bind(_take, pattern=self.pattern, order=self.order, back=True))

    @property
    def mv(self):
        """y -> A y, both packed."""
        return Partial(_mv, self)

    @property
    def lower_mv(self):
        """y -> L y."""
        return Partial(_below, self)

    @property
    def upper_mv(self):
        """y -> U y."""
        return Partial(_above, self)

    @property
    def lower(self):
        """omega -> (r -> (D/omega + L)^-1 r)."""
        return Partial(bind(_triangle, backward=False), self)

    @property
    def upper(self):
        """omega -> (r -> (D/omega + U)^-1 r)."""
        return Partial(bind(_triangle, backward=True), self)


def leveled(diagonal, entries, pattern: Pattern, order) -> Leveled:
    """Sort a sparse operator by levels.

    Raises:
        ValueError: a row so long that padding all rows to it would take too much memory.
    """
    plan = schedule(pattern, order)
    padded, held = plan.before.slots.size + plan.after.slots.size, len(pattern.rows)
    if padded > _MOST_PADDING * held + 2**20:
        longest = max(plan.before.slots.shape[0], plan.after.slots.shape[0])
        raise ValueError(
            f"sweeps of a sparse operator pad every row to the longest; here one has {longest} of {held} entries in "
            f"{pattern.size} rows. Use a method without sweeps (cg, chebyshev, jacobi) or operators.dense"
        )
    parts = (fill(entries, plan.before.slots), fill(entries, plan.after.slots))
    return Leveled(diagonal[plan.unknowns], *parts, pattern=pattern, order=order)


@lru_cache(maxsize=16)
def schedule(pattern: Pattern, order) -> Schedule:
    """Levels, storage order and windows of one pattern in one order."""
    n, held = pattern.size, len(pattern.rows)
    turn = sequence(pattern, order)
    rank = np.empty(n, np.int64)
    rank[turn] = np.arange(n)
    level = levels(n, rank[pattern.rows], rank[pattern.cols])
    by_level = np.argsort(level, kind="stable")
    unknowns = turn[by_level]
    places = np.empty(n, np.int64)
    places[unknowns] = np.arange(n)
    rows, cols, slots = places[pattern.rows], places[pattern.cols], np.arange(held)
    low = cols < rows
    before, after = (pad_rows(n, rows[side], cols[side], slots[side], held) for side in (low, ~low))
    width, windows = _windows(np.bincount(level))
    return Schedule(unknowns.astype(np.int32), places.astype(np.int32), before, after, width, windows)


def levels(size: int, rows, cols) -> Int[np.ndarray, " n"]:
    """Level of every unknown of a graph: along every edge, the unknown of lower number is updated first."""
    first, last = np.minimum(rows, cols), np.maximum(rows, cols)
    order = np.argsort(first, kind="stable")
    first, last = first[order], last[order]
    starts = np.searchsorted(first, np.arange(size + 1))
    waiting = np.bincount(last, minlength=size)
    level = np.zeros(size, np.int64)
    front, k = np.flatnonzero(waiting == 0), 0
    while front.size:
        level[front] = k
        count = starts[front + 1] - starts[front]
        reached = last[np.repeat(starts[front] - (np.cumsum(count) - count), count) + np.arange(count.sum())]
        np.subtract.at(waiting, reached, 1)
        front, k = np.unique(reached[waiting[reached] == 0]), k + 1
    return level


def _windows(sizes: np.ndarray) -> tuple[int, np.ndarray]:
    """The width of least total cost, and the windows (first, begin, end) of that width."""
    n = int(sizes.sum())
    widths = {int(sizes.max())} | {2**k for k in range(int(sizes.max()).bit_length())}
    width = min(widths, key=lambda w: (np.ceil(sizes / w).sum() * (w + _WINDOW_COST), w))
    ends = np.cumsum(sizes)
    windows = [
        (min(begin, n - width), begin, min(begin + width, end))
        for end, size in zip(ends, sizes)
        for begin in range(end - size, end, width)
    ]
    return width, np.asarray(windows, np.int32)


def _take(x, *, pattern: Pattern, order, back: bool):
    plan = schedule(pattern, order)
    return x.at[plan.places if back else plan.unknowns].get(mode="promise_in_bounds")


def _sum_rows(coefficients, cols, x):
    return (coefficients * x.at[cols].get(mode="promise_in_bounds")).sum(0)


def _mv(op: Leveled, x):
    return op.diagonal * x + _below(op, x) + _above(op, x)


def _below(op: Leveled, x):
    return _sum_rows(op.before, schedule(op.pattern, op.order).before.cols, x)


def _above(op: Leveled, x):
    return _sum_rows(op.after, schedule(op.pattern, op.order).after.cols, x)


def _triangle(op: Leveled, omega, *, backward: bool):
    scale = over(omega, op.diagonal)
    part = op.after if backward else op.before
    function = bind(_substitute, pattern=op.pattern, order=op.order, backward=backward)
    return Partial(function, scale, scale[None] * part)


def _substitute(scale, coefficients, r, *, pattern: Pattern, order, backward: bool):
    plan = schedule(pattern, order)
    width = plan.width
    cols = jnp.asarray(plan.after.cols if backward else plan.before.cols)
    scaled = scale * r

    def step(y, window):
        first, begin, end = window
        part, near = (jax.lax.dynamic_slice_in_dim(a, first, width, 1) for a in (coefficients, cols))
        old, new = (jax.lax.dynamic_slice_in_dim(a, first, width) for a in (y, scaled))
        place = first + jnp.arange(width, dtype=jnp.int32)
        new = jnp.where((place >= begin) & (place < end), new - _sum_rows(part, near, y), old)
        return jax.lax.dynamic_update_slice_in_dim(y, new, first, 0), None

    return jax.lax.scan(step, jnp.zeros_like(r), jnp.asarray(plan.windows), reverse=backward)[0]


__all__ = ["Leveled", "Schedule", "leveled", "levels", "schedule"]
