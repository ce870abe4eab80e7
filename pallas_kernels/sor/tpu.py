"""`sor` on TPU: the whole grid stays in VMEM for all sweeps of a call; HBM sees it once on the way in and once out.

A half-sweep walks over strips of rows. A strip reads the other colour with a halo of one tile (8 rows) above and
below, finds its neighbours by rolling rows and lanes, and writes its own colour in place: nothing else reads that
colour during the half-sweep. Rows and lanes are padded to tiles; the padding, like the halo, holds zeros for ever.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pallas_kernels._compat import call_tpu, loop, pl, pltpu
from pallas_kernels.sor import reference

_TILE, _LANES = 8, 128
_STRIP_CELLS = 2**15  # of one strip: 32 vector registers for each of its values
_MAX_STRIP = 64
_MAX_BYTES = 80 * 2**20  # of the 128 MiB of VMEM; the rest is the compiler's
_CONSTANTS = 6  # diagonal, omega / diagonal, north, south, west, east


def refusal(u, b, coefficients, omega, *, num_sweeps: int, sums: bool, first: str) -> str | None:
    """Why the kernel cannot take these arrays, or None."""
    if u.dtype != jnp.float32:
        return f"the grid is {u.dtype} and the TPU kernel computes in float32 (TPUs have no double precision)"
    need = _bytes(u.shape, coefficients.ndim == 3)
    if need > _MAX_BYTES:
        return f"the grid needs {need / 2**20:.0f} MiB of on-chip memory and the TPU kernel takes {_MAX_BYTES >> 20}"
    return None


def default_strip(rows: int, lanes: int) -> int:
    """Rows of a strip, a multiple of the tile."""
    return min(_MAX_STRIP, _round_up(rows, _TILE), max(_TILE, _STRIP_CELLS // lanes // _TILE * _TILE))


def call(u, b, coefficients, omega, *, num_sweeps: int, sums: bool, first: str, interpret, strip: int | None = None):
    """As `reference.call`; `interpret` is False, True or the parameters of the TPU interpreter."""
    rows, cols = u.shape
    lanes = _round_up((cols + 1) // 2, _LANES)
    strip = default_strip(rows, lanes) if strip is None else strip
    num_strips = -(-rows // strip)
    order = (reference.COLOUR[first], 1 - reference.COLOUR[first])
    variable = coefficients.ndim == 3

    def tiled(x, halo):
        below = num_strips * strip - rows + halo
        return jnp.pad(x, ((halo, below), (0, lanes - x.shape[1])))

    parts, sides = reference.pack(u), reference.pack(b)
    arrays = [tiled(parts[c], _TILE) for c in order] + [tiled(sides[c], 0) for c in order]
    if variable:
        arrays += [tiled(w, 0) for c in order for w in reference.weights(coefficients, omega, u.shape, c)]
        scalars = jnp.zeros((1, _CONSTANTS), u.dtype)
    else:
        diagonal, *around = coefficients
        scalars = jnp.stack([diagonal, reference.over(omega, diagonal), *around]).reshape(1, _CONSTANTS)
    whole = [pl.BlockSpec(x.shape, lambda i: (0, 0), pipeline_mode=pl.Buffered(1)) for x in arrays]
    on_scalar_unit = [pl.BlockSpec(s, lambda i: (0, 0), memory_space=pltpu.SMEM) for s in ((1, 6), (2, num_sweeps))]
    squares = jax.ShapeDtypeStruct((2, num_sweeps), u.dtype)
    a, z, *squares = call_tpu(
        functools.partial(
            _body, shape=u.shape, order=order, num_sweeps=num_sweeps, strip=strip, num_strips=num_strips, sums=sums,
            variable=variable,
        ),
        grid=(1,),
        in_specs=[on_scalar_unit[0], *whole],
        out_specs=[*whole[:2], *([on_scalar_unit[1]] if sums else [])],
        out_shape=[*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays[:2]), *([squares] if sums else [])],
        interpret=interpret,
        name="sor",
        vmem_limit_bytes=_bytes(u.shape, variable) + 20 * 2**20,
    )(scalars, *arrays)  # fmt: skip
    a, z = (x[_TILE : _TILE + rows, : (cols + 1) // 2] for x in (a, z))
    red, black = (a, z) if order[0] == reference.RED else (z, a)
    return reference.unpack(red, black, cols), squares[0] if sums else jnp.zeros((2, 0), u.dtype)


def _body(scalar_ref, *refs, shape, order, num_sweeps, strip, num_strips, sums, variable):
    starts, sides, refs = refs[:2], refs[2:4], refs[4:]
    weights, refs = ((refs[:6], refs[6:12]), refs[12:]) if variable else (None, refs)
    values, square_ref = refs[:2], refs[2] if sums else None
    rows, cols = shape
    lanes = values[0].shape[1]
    size = (strip, lanes)
    row = lax.broadcasted_iota(jnp.int32, size, 0)
    lane = lax.broadcasted_iota(jnp.int32, size, 1)

    def copy(j, nothing):
        at = pl.ds(pl.multiple_of(j * _TILE, _TILE), _TILE)
        for start, value in zip(starts, values):
            value[at, :] = start[at, :]
        return nothing

    loop(values[0].shape[0] // _TILE, copy, ())

    def relax(which, j):
        """Relax strip j of one colour; (residual before, change)."""
        own, other = values[which], values[1 - which]
        here = pl.ds(pl.multiple_of(j * strip, _TILE), strip)  # without halo
        inner = pl.ds(pl.multiple_of(j * strip + _TILE, _TILE), strip)
        near = other[pl.ds(pl.multiple_of(j * strip, _TILE), strip + 2 * _TILE), :]
        middle = slice(_TILE, _TILE + strip)
        north, south = _roll(near, 1, 0)[middle], _roll(near, -1, 0)[middle]
        same = near[middle]
        left = (row + order[which]) % 2 == 0  # the strip's height is even
        # What a roll brings round the end lies outside the grid.
        before = jnp.where(lane == 0, 0, _roll(same, 1, 1))
        after = jnp.where(lane == lanes - 1, 0, _roll(same, -1, 1))
        side = jnp.where(left, before, after)
        if variable:
            diagonal, inverse, to_north, to_south, to_same, to_side = (w[here, :] for w in weights[which])
        else:
            diagonal, inverse, to_north, to_south, to_west, to_east = (scalar_ref[0, i] for i in range(_CONSTANTS))
            to_same, to_side = jnp.where(left, to_east, to_west), jnp.where(left, to_west, to_east)
        value = own[inner, :]
        around = to_north * north + to_south * south + to_same * same + to_side * side
        r = sides[which][here, :] - diagonal * value - around
        if not variable:
            column = 2 * lane + (~left).astype(jnp.int32)
            r = jnp.where((row + j * strip < rows) & (column < cols), r, 0)
        change = inverse * r
        own[inner, :] = value + change
        return (r, diagonal * change) if sums else (None, None)

    def half(which, t):
        def one(j, total):
            r, gone = relax(which, j)
            if not sums:
                return total
            r = r if which == 0 else r - gone
            return total + jnp.sum(r * r, axis=0, keepdims=True)

        total = loop(num_strips, one, jnp.zeros((1, lanes), values[0].dtype))
        if sums:
            square_ref[which, t] = jnp.sum(total)

    def sweep(t, nothing):
        half(0, t)
        half(1, t)
        return nothing

    loop(num_sweeps, sweep, ())


def _roll(x, by, axis):
    """`jnp.roll`; the shift has 32 bits, also in double precision, and is not negative."""
    return pltpu.roll(x, np.int32(by % x.shape[axis]), axis)


def _bytes(shape, variable: bool) -> int:
    """VMEM for both colours, in and out, the right-hand side and the coefficients of a grid."""
    rows, cols = shape
    lanes = _round_up((cols + 1) // 2, _LANES)
    rows = _round_up(rows, default_strip(rows, lanes))
    return 4 * lanes * (4 * (rows + 2 * _TILE) + (14 if variable else 2) * rows)


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


__all__: list[str] = []
