r"""Triangular solves of a sparse matrix in any order, level by level.

The level of unknown i is $\mathrm{level}(i) = 1 + \max \mathrm{level}(j)$ over the neighbours j that are updated before
i. Unknowns of one level do not depend on each other, so a whole level is updated by one array operation, and the
iterates are those of the sequential loop. A multicolour order has few levels, one per colour. Levels are computed for
the pattern of A + A^T, so that one storage serves both triangles and A^T.

Vectors are stored sorted by level. A sweep is a scan over windows of one fixed width. A large level is cut into several
windows; a window that is wider than its level computes some values of other levels too, and drops them.

Reference: Saad 2003, Iterative Methods for Sparse Linear Systems, section 11.6 (level scheduling).
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxsci.core import entry
from jaxsci.core.static import bind
from jaxsci.linear._colours import sequence
from jaxsci.linear._pattern import Kept, Pattern, Rows, fill, pad_rows, sum_rows, widest
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
        width: places that a window writes.
        windows: (first, begin, end) of each: it reads `width` places from first on and keeps those in [begin, end).
        reach: places before and after a window in which its neighbours of the triangles `before` and `after` stand.
    """

    unknowns: Int[np.ndarray, " n"]
    places: Int[np.ndarray, " n"]
    before: Rows
    after: Rows
    width: int
    windows: Int[np.ndarray, "windows 3"]
    reach: tuple[int, int]


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
    parts = (fill(entries, plan.before.slots), fill(entries, plan.after.slots))
    return Leveled(diagonal[plan.unknowns], *parts, pattern=pattern, order=order)


def _schedule(pattern: Pattern, order) -> Schedule:
    """Levels, storage order and windows of one pattern in one order."""
    n, held = pattern.size, len(pattern.rows)
    turn = sequence(pattern, order)
    rank = np.empty(n, np.int64)
    rank[turn] = np.arange(n)
    earlier = rank[pattern.cols] < rank[pattern.rows]
    _check_memory(n, held, *(widest(n, pattern.rows[side]) for side in (earlier, ~earlier)))
    level = levels(n, rank[pattern.rows], rank[pattern.cols])
    by_level = np.argsort(level, kind="stable")
    unknowns = turn[by_level]
    places = np.empty(n, np.int64)
    places[unknowns] = np.arange(n)
    rows, cols, slots = places[pattern.rows], places[pattern.cols], np.arange(held)
    before, after = (pad_rows(n, rows[side], cols[side], slots[side], held) for side in (earlier, ~earlier))
    width, windows = _windows(np.bincount(level))
    return Schedule(
        unknowns.astype(np.int32), places.astype(np.int32), before, after, width, windows,
        _reach(n, windows, width, rows, cols),
    )  # fmt: skip


schedule = Kept(_schedule)


def _check_memory(n: int, held: int, *longest: int) -> None:
    """Refuse before anything of the size that is refused has been allocated."""
    if n * sum(longest) > _MOST_PADDING * held + 2**20:
        raise ValueError(
            f"sweeps of a sparse operator pad every row to the longest; here one has {max(longest)} of {held} entries "
            f"in {n} rows. Use a method without sweeps (cg, chebyshev, jacobi) or operators.dense"
        )


def _reach(n: int, windows: np.ndarray, width: int, rows, cols) -> tuple[int, int]:
    """How far the neighbours of a window's own places stand before its first place, and after its last."""
    window = np.searchsorted(windows[:, 1], rows, side="right") - 1
    first = windows[window, 0]
    return int((first - cols).max(initial=0)), int((cols - (first + width - 1)).max(initial=0))


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


def _mv(op: Leveled, x):
    return op.diagonal * x + _below(op, x) + _above(op, x)


def _below(op: Leveled, x):
    return sum_rows(op.before, schedule(op.pattern, op.order).before.cols, x)


def _above(op: Leveled, x):
    return sum_rows(op.after, schedule(op.pattern, op.order).after.cols, x)


def _triangle(op: Leveled, omega, *, backward: bool):
    scale = over(omega, op.diagonal)
    part = op.after if backward else op.before
    function = bind(_substitute, pattern=op.pattern, order=op.order, backward=backward)
    return Partial(function, scale, scale[None] * part)


def _substitute(scale, coefficients, r, *, pattern: Pattern, order, backward: bool):
    plan = schedule(pattern, order)
    n, width = len(plan.places), plan.width
    # A window gathers from the places that its neighbours can be in alone: XLA hands loops over a large array to
    # threads, which cost more than a window does.
    ahead, behind = (0, plan.reach[1]) if backward else (plan.reach[0], 0)
    near = min(n, ahead + width + behind)
    starts = np.clip(plan.windows[:, 0] - ahead, 0, n - near)
    cols = (plan.after if backward else plan.before).cols
    cols = _from_start(cols, plan, starts) if near < n else cols
    cols, scaled = jnp.asarray(cols), scale * r

    def step(y, window):
        start, first, begin, end = window
        part, of = (jax.lax.dynamic_slice_in_dim(a, first, width, 1) for a in (coefficients, cols))
        old, new = (jax.lax.dynamic_slice_in_dim(a, first, width) for a in (y, scaled))
        place = first + jnp.arange(width, dtype=jnp.int32)
        new = new - sum_rows(part, of, jax.lax.dynamic_slice_in_dim(y, start, near))
        return jax.lax.dynamic_update_slice_in_dim(
            y, jnp.where((place >= begin) & (place < end), new, old), first, 0
        ), None

    windows = jnp.asarray(np.concatenate([starts[:, None], plan.windows], 1), jnp.int32)
    return jax.lax.scan(step, jnp.zeros_like(r), windows, reverse=backward)[0]


def _from_start(cols, plan: Schedule, starts):
    """Columns counted from the start of what each place's own window reads; 0 in the padding and where it is read by
    another window, which drops that value."""
    sizes = plan.windows[:, 2] - plan.windows[:, 1]
    return np.maximum(cols - np.repeat(starts, sizes), 0).astype(np.int32)


__all__ = ["Leveled", "Schedule", "leveled", "levels", "schedule"]

entry.hold(globals(), "_mv")
