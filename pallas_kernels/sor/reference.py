r"""The meaning of `sor`, and what runs on a CPU: red-black sweeps over packed colours, by jax.numpy.

The colours lie in arrays of their own, two columns of the grid in one of theirs (h = ceil(cols / 2)):
:math:`R[i, k] = u[i, 2k + (i \bmod 2)]` and :math:`B[i, k] = u[i, 2k + 1 - (i \bmod 2)]`. The neighbours of R[i, k]
are then B[i - 1, k], B[i + 1, k], B[i, k] ("same") and one more in its own row ("side"): B[i, k - 1] where the cell is
the left one of its pair, B[i, k + 1] where it is the right one. So a half-sweep reads contiguous arrays, computes no
cell that it does not keep, and touches half of the memory; the kernels use the same storage.
With an odd number of columns the last pair of every second row is half empty. The empty cells hold zeros for ever.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

RED, BLACK = 0, 1
COLOUR = {"red": RED, "black": BLACK}


class Weights(NamedTuple):
    """One colour's row of the system, each (rows, h) or, from constant coefficients, of extent 1 along some axes.

    `inverse` is omega / diagonal, and 0 where the diagonal is: such a cell keeps its value.
    """

    diagonal: jax.Array
    inverse: jax.Array
    north: jax.Array
    south: jax.Array
    same: jax.Array
    side: jax.Array


def call(u, b, coefficients, omega, *, num_sweeps: int, sums: bool, first: str) -> tuple[jax.Array, jax.Array]:
    """(u after the sweeps, sums of squared residuals (2, num_sweeps), or (2, 0) without `sums`).

    Row 0 holds for the colour that goes first its residual just before each sweep, row 1 for the other colour that
    just after each sweep: there nothing but the cell itself has changed since its residual was computed.
    """
    rows, cols = u.shape
    order = (COLOUR[first], 1 - COLOUR[first])
    parts, sides = pack(u), pack(b)
    mine = [weights(coefficients, omega, u.shape, colour) for colour in (RED, BLACK)]
    inside = [valid(u.shape, colour) for colour in (RED, BLACK)]

    def residual(colour, own, other):
        r = _residual(own, other, sides[colour], mine[colour], is_left(rows, colour))
        # Empty cells: coefficients of their own are zero there, constant ones reach into them.
        return r if cols % 2 == 0 or coefficients.ndim == 3 else jnp.where(inside[colour], r, 0)

    def sweep(carry, _):
        a, z = carry
        r_a = residual(order[0], a, z)
        a = a + mine[order[0]].inverse * r_a
        r_z = residual(order[1], z, a)
        change = mine[order[1]].inverse * r_z
        z = z + change
        if not sums:
            return (a, z), None
        r_z = r_z - mine[order[1]].diagonal * change
        return (a, z), (jnp.sum(r_a * r_a), jnp.sum(r_z * r_z))

    carry, squares = lax.scan(sweep, tuple(parts[colour] for colour in order), None, length=num_sweeps)
    squares = jnp.stack(squares) if sums else jnp.zeros((2, 0), u.dtype)
    return unpack(carry[order.index(RED)], carry[order.index(BLACK)], cols), squares


def _residual(own, other, rhs, w: Weights, left):
    side = jnp.where(left, shift(other, 0, 1), shift(other, 0, -1))
    around = w.north * shift(other, 1, 0) + w.south * shift(other, -1, 0) + w.same * other + w.side * side
    return rhs - w.diagonal * own - around


def shift(u, down: int, right: int):
    """u moved over the grid, zeros following."""
    return lax.pad(u, jnp.zeros((), u.dtype), ((down, -down, 0), (right, -right, 0)))


def is_left(rows: int, colour: int):
    """(rows, 1): whether the colour's cells of a row are the left ones of their pairs."""
    return (jnp.arange(rows)[:, None] + colour) % 2 == 0


def valid(shape: tuple[int, int], colour: int):
    """(rows, h): whether a packed cell is one of the grid's."""
    rows, cols = shape
    column = 2 * jnp.arange((cols + 1) // 2)[None, :]
    return jnp.where(is_left(rows, colour), column, column + 1) < cols


def pack(x) -> tuple[jax.Array, jax.Array]:
    """(rows, cols) -> (red, black), each (rows, h)."""
    rows, cols = x.shape
    pairs = jnp.pad(x, ((0, 0), (0, cols % 2))).reshape(rows, (cols + 1) // 2, 2)
    left = is_left(rows, RED)
    return jnp.where(left, pairs[..., 0], pairs[..., 1]), jnp.where(left, pairs[..., 1], pairs[..., 0])


def unpack(red, black, cols: int):
    """The inverse of `pack`."""
    rows, h = red.shape
    left = is_left(rows, RED)
    pairs = jnp.stack([jnp.where(left, red, black), jnp.where(left, black, red)], axis=-1)
    return pairs.reshape(rows, 2 * h)[:, :cols]


def weights(coefficients, omega, shape: tuple[int, int], colour: int) -> Weights:
    """The rows of one colour from coefficients (5,) or (5, rows, cols)."""
    left = is_left(shape[0], colour)
    if coefficients.ndim == 1:
        diagonal, north, south, west, east = (c.reshape(1, 1) for c in coefficients)
    else:
        diagonal, north, south, west, east = (pack(c)[colour] for c in coefficients)
    return Weights(
        diagonal, over(omega, diagonal), north, south, jnp.where(left, east, west), jnp.where(left, west, east)
    )


def over(omega, diagonal):
    """omega / diagonal, 0 where the diagonal is 0."""
    zero = diagonal == 0
    return jnp.where(zero, 0, omega / jnp.where(zero, 1, diagonal))


def product(coefficients, u):
    """A u, by coefficients (5,) or (5, rows, cols)."""
    diagonal, north, south, west, east = (c.reshape(1, 1) if c.ndim == 0 else c for c in coefficients)
    return (
        diagonal * u + north * shift(u, 1, 0) + south * shift(u, -1, 0) + west * shift(u, 0, 1) + east * shift(u, 0, -1)
    )


def transpose(coefficients):
    """Those of A^T: what cell i takes from j becomes what j takes from i."""
    diagonal, north, south, west, east = coefficients
    if coefficients.ndim == 1:
        return jnp.stack([diagonal, south, north, east, west])
    moved = (shift(south, 1, 0), shift(north, -1, 0), shift(east, 0, 1), shift(west, 0, -1))
    return jnp.stack([diagonal, *moved])


__all__: list[str] = []
