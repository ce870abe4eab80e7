r"""Red-black sweeps on a grid: cells with an even index sum (red) first, then the others (black).

A red cell has black neighbours only, so each half of a sweep is one array operation. Packed storage keeps the two
colours in arrays of their own, $R[i, k] = u[i, 2k + p_i]$ and $B[i, k] = u[i, 2k + 1 - p_i]$ with $p_i$ the parity of
the leading indices, so that no half of a sweep computes cells of the other colour. If the last axis has an odd length,
one column of zeros is added.

Reference: Saad 2003, Iterative Methods for Sparse Linear Systems, section 12.4 (red-black ordering).
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxsci.core import entry
from jaxsci.core.static import bind
from jaxsci.linear._shift import shift
from jaxsci.linear._system import over


class Checkerboard(eqx.Module):
    """A stencil in packed storage, axis 0 the colours (red, black); the properties are those of `operators.Ordered`.

    Attributes:
        diagonal: D, packed.
        before: for each axis the coefficients of the cell before, packed, or a scalar that is the same everywhere.
        after: the same of the cell after.
        cols: length of the grid's last axis, without the column of zeros that makes it even.
    """

    diagonal: Float[Array, "2 *rows half"]
    before: tuple[Float[Array, "..."], ...]
    after: tuple[Float[Array, "..."], ...]
    cols: int = eqx.field(static=True)

    @property
    def pack(self):
        """Grid (*rows, cols) -> (2, *rows, half)."""
        return Partial(pack)

    @property
    def unpack(self):
        """(2, *rows, half) -> grid (*rows, cols)."""
        return Partial(bind(unpack, cols=self.cols))

    @property
    def mv(self):
        """y -> A y, both packed."""
        return Partial(_mv, self)

    @property
    def lower_mv(self):
        """y -> L y."""
        return Partial(bind(_half, second=1), self)

    @property
    def upper_mv(self):
        """y -> U y."""
        return Partial(bind(_half, second=0), self)

    @property
    def lower(self):
        """omega -> (r -> (D/omega + L)^-1 r): red, then black."""
        return Partial(bind(_triangle, second=1), self)

    @property
    def upper(self):
        """omega -> (r -> (D/omega + U)^-1 r): black, then red."""
        return Partial(bind(_triangle, second=0), self)


def checkerboard(op) -> Checkerboard:
    """Pack the coefficient arrays of a `Stencil` once."""
    before, after = (tuple(pack(c) if c.ndim else c for c in part) for part in (op.before, op.after))
    return Checkerboard(pack(op.diagonal), before, after, cols=op.diagonal.shape[-1])


def _parity(rows: tuple[int, ...]) -> np.ndarray:
    """Whether the leading indices sum to an odd number, shape (*rows, 1)."""
    return np.indices(rows, np.int32).sum(0)[..., None] % 2 == 1 if rows else np.zeros(1, bool)


def pack(u: Float[Array, "*rows cols"]) -> Float[Array, "2 *rows half"]:
    """Both colours of a grid, red first."""
    *rows, cols = u.shape
    pairs = jnp.pad(u, [(0, 0)] * len(rows) + [(0, cols % 2)]).reshape(*rows, (cols + 1) // 2, 2)
    odd, left, right = _parity(tuple(rows)), pairs[..., 0], pairs[..., 1]
    return jnp.stack([_pick(odd, right, left), _pick(odd, left, right)])


def unpack(s: Float[Array, "2 *rows half"], *, cols: int) -> Float[Array, "*rows cols"]:
    """The inverse of `pack`."""
    red, black = s
    odd = _parity(red.shape[:-1])
    pairs = jnp.stack([_pick(odd, black, red), _pick(odd, red, black)], axis=-1)
    return pairs.reshape(*red.shape[:-1], 2 * red.shape[-1])[..., :cols]


def _pick(condition, x, y):
    return jnp.where(jnp.broadcast_to(condition, x.shape), x, y)


def _reach(before, after, other, colour: int):
    """For every cell of `colour` (0 red, 1 black), the weighted sum of its neighbours, which stand in `other`."""
    total, last = 0, other.ndim - 1
    for axis in range(last):
        total += before[axis] * shift(other, axis, 1) + after[axis] * shift(other, axis, -1)
    # Place k holds column 2k or 2k + 1. In an odd column, place k of the other colour is the left neighbour; in an
    # even column it is the right one.
    odd = _parity(other.shape[:-1]) != (colour == 1)
    left, right = _pick(odd, other, shift(other, last, 1)), _pick(odd, shift(other, last, -1), other)
    return total + before[last] * left + after[last] * right


def _mv(op: Checkerboard, s):
    return op.diagonal * s + jnp.stack([_from_other(op, s, 0), _from_other(op, s, 1)])


def _from_other(op: Checkerboard, s, colour: int):
    before, after = (tuple(c[colour] if c.ndim else c for c in part) for part in (op.before, op.after))
    # The diagonal is 0 in the added column, whose cells must stay 0. (A zero diagonal elsewhere is a singular system,
    # which ends a method before its first sweep.)
    return jnp.where(op.diagonal[colour] != 0, _reach(before, after, s[1 - colour], colour), 0)


def _half(op: Checkerboard, s, *, second: int):
    """L y (second = 1) has the black rows only, which read red cells; U y (second = 0) the red rows."""
    parts = [jnp.zeros_like(s[0]), _from_other(op, s, second)]
    return jnp.stack(parts if second == 1 else parts[::-1])


def _triangle(op: Checkerboard, omega, *, second: int):
    scale = over(omega, op.diagonal)
    before, after = (
        tuple(scale[second] * (c[second] if c.ndim else c) for c in part) for part in (op.before, op.after)
    )
    return Partial(bind(_substitute, second=second), scale, before, after)


def _substitute(scale, before, after, r, *, second: int):
    y = scale * r
    first = y[1 - second]
    parts = [first, y[second] - _reach(before, after, first, second)]
    return jnp.stack(parts if second == 1 else parts[::-1])


__all__ = ["Checkerboard", "checkerboard", "pack", "unpack"]

entry.hold(globals(), "_mv", "_substitute", "_triangle", "pack", "unpack")
