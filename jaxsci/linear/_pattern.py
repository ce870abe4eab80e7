"""Where the entries of a sparse matrix stand: the static half of a sparse operator, built once on the host."""

import dataclasses
from collections import OrderedDict
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Sums over more columns than this are left to a reduction.
_WRITTEN_OUT = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """Places (rows, cols) of the off-diagonal entries of a square matrix, by row, then column, each once.

    It hashes and compares by content, so operators of one pattern share compiled programs and stack under vmap.
    """

    size: int
    rows: Int[np.ndarray, " entries"]
    cols: Int[np.ndarray, " entries"]

    @cached_property
    def _hash(self) -> int:
        return hash((self.size, self.rows.tobytes(), self.cols.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other) -> bool:
        if self is other:
            return True
        same = isinstance(other, Pattern) and self.size == other.size and hash(self) == hash(other)
        return same and np.array_equal(self.rows, other.rows) and np.array_equal(self.cols, other.cols)


class Rows(NamedTuple):
    """Rows of up to w entries, padded to w, as the columns of arrays (w, n).

    Attributes:
        slots: where among the entries a value stands; in the padding the number of entries, where `fill` appends a
            zero.
        cols: which x the value multiplies.
    """

    slots: Int[np.ndarray, "w n"]
    cols: Int[np.ndarray, "w n"]


def split(size: int, rows, cols, data: Float[Array, " given"]):
    """(pattern, diagonal (n,), entries): entries sorted, those at one place added up, the diagonal taken out."""
    rows, cols = np.asarray(rows, np.int64), np.asarray(cols, np.int64)
    on = rows == cols
    places, slot = np.unique(rows[~on] * size + cols[~on], return_inverse=True)
    pattern = Pattern(size, (places // size).astype(np.int32), (places % size).astype(np.int32))
    target = np.where(on, rows, 0)
    target[~on] = size + slot
    values = _add_up(data, target, size + len(places))
    return pattern, jnp.asarray(values[:size]), jnp.asarray(values[size:])


def _add_up(data, target: np.ndarray, size: int):
    if not isinstance(data, jax.core.Tracer):  # on the host nothing has to be compiled for these shapes
        values = np.zeros(size, data.dtype)
        np.add.at(values, target, np.asarray(data))
        return values
    if len(np.unique(target)) < len(target):
        return jnp.zeros(size, data.dtype).at[target].add(data)
    source = np.full(size, len(target))
    source[target] = np.arange(len(target))
    return jnp.append(data, jnp.zeros(1, data.dtype))[source]


def transposed(pattern: Pattern) -> tuple[Pattern, np.ndarray]:
    """The pattern of A^T, and the places of its entries among those of A."""
    order = np.lexsort((pattern.rows, pattern.cols))
    return Pattern(pattern.size, pattern.cols[order], pattern.rows[order]), order


def widest(size: int, rows) -> int:
    """Entries of the longest row: what `pad_rows` would pad to, before anything is allocated for it."""
    return int(np.bincount(rows, minlength=size).max(initial=0))


def pad_rows(size: int, rows, cols, slots, missing: int) -> Rows:
    """`Rows` from places in any order; `missing` marks the padding."""
    order = np.lexsort((cols, rows))
    rows, cols, slots = rows[order], cols[order], slots[order]
    count = np.bincount(rows, minlength=size)
    within = np.arange(len(rows)) - (np.cumsum(count) - count)[rows]
    width = int(count.max(initial=0))
    padded = Rows(np.full((width, size), missing, np.int32), np.zeros((width, size), np.int32))
    padded.slots[within, rows] = slots
    padded.cols[within, rows] = cols
    return padded


def fill(entries: Float[Array, " entries"], slots: Int[np.ndarray, "w n"]) -> Float[Array, "w n"]:
    """The entries in the layout of `Rows`, zeros in the padding."""
    return jnp.append(entries, jnp.zeros(1, entries.dtype)).at[slots].get(mode="promise_in_bounds")


def sum_rows(coefficients: Float[Array, "w n"], cols: Int[Array, "w n"], x: Float[Array, " m"]) -> Float[Array, " n"]:
    """y_i = sum_k coefficients[k, i] x[cols[k, i]], one column k after the other.

    Written out, the sum is one loop over the rows for XLA on a CPU, which a reduction over k is not. Very
    long rows are reduced nevertheless, since every column that is written out costs time to compile.
    """
    if not 0 < len(cols) <= _WRITTEN_OUT:
        return (coefficients * x.at[cols].get(mode="promise_in_bounds")).sum(0)
    terms = [part * x.at[near].get(mode="promise_in_bounds") for part, near in zip(coefficients, cols)]
    return sum(terms[1:], terms[0])


class Kept:
    """The last results of a function by its arguments, as many as fit into `limit` bytes, and always the newest.

    A cache by number would hold the plans of sixteen large matrices for ever.
    """

    def __init__(self, function, limit: int = 2**28):
        self.function, self.limit, self.held = function, limit, OrderedDict()

    def __call__(self, *arguments):
        found = self.held.pop(arguments, None)
        self.held[arguments] = found = self.function(*arguments) if found is None else found
        while len(self.held) > 1 and self.bytes > self.limit:
            self.held.popitem(last=False)
        return found

    @property
    def bytes(self) -> int:
        """Of all arrays held."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(list(self.held.values())) if isinstance(leaf, np.ndarray))


__all__ = ["Kept", "Pattern", "Rows", "fill", "pad_rows", "split", "sum_rows", "transposed", "widest"]
