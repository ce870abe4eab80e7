"""`sor` on GPU (Triton): one launch a half-sweep, over the packed colours laid out as vectors.

A program takes a block of consecutive cells of one colour, reads the other colour at five offsets, which the caches
serve, and writes its own block in place: no program reads what another one writes. Zeros in front of and behind a
colour stand for the neighbours of the first and the last row; masks cut off those beyond the ends of a row.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels._compat import call_gpu, masked_load, pl
from pallas_kernels.sor import reference

_MAX_SIZE = 2**30  # offsets are int32, and blocks reach beyond the end
_ALIGNED = 128
_CONSTANTS = 6  # diagonal, omega / diagonal, north, south, west, east


class Config(NamedTuple):
    """Launch parameters: cells of a program (a power of two), and Triton's."""

    block: int
    num_warps: int
    num_stages: int


def default_config(cells: int) -> Config:
    """Four cells a thread, and for small grids fewer, so that more programs share the work."""
    block = min(1024, max(128, 1 << (cells // 512).bit_length()))
    return Config(block, num_warps=8 if block == 1024 else 4, num_stages=1)


def refusal(u, b, coefficients, omega, *, num_sweeps: int, sums: bool, first: str) -> str | None:
    """Why the kernel cannot take these arrays, or None."""
    if u.size > _MAX_SIZE:
        return f"the grid has {u.size} cells and the GPU kernel takes at most {_MAX_SIZE}"
    return None


def call(
    u, b, coefficients, omega, *, num_sweeps: int, sums: bool, first: str, interpret: bool,
    config: Config | None = None,
):  # fmt: skip
    """As `reference.call`; `config` None takes `default_config`."""
    rows, cols = u.shape
    h = (cols + 1) // 2
    config = default_config(rows * h) if config is None else config
    programs = -(-rows * h // config.block)
    margin = -(-(h + 1) // _ALIGNED) * _ALIGNED
    order = (reference.COLOUR[first], 1 - reference.COLOUR[first])

    def flat(x, margin=0):
        return jnp.pad(x.ravel(), (margin, programs * config.block - rows * h + margin))

    parts, sides = reference.pack(u), reference.pack(b)
    if coefficients.ndim == 3:
        scalars = jnp.zeros((1, _CONSTANTS), u.dtype)
        weights = [[flat(w) for w in reference.weights(coefficients, omega, u.shape, c)] for c in order]
    else:
        diagonal, *around = coefficients
        scalars = jnp.stack([diagonal, reference.over(omega, diagonal), *around]).reshape(1, _CONSTANTS)
        weights = [[], []]
    halves = [
        functools.partial(
            _half, scalars, flat(sides[c]), weights[which], shape=u.shape, colour=c, margin=margin, last=which == 1,
            sums=sums, programs=programs, config=config, interpret=interpret,
        )
        for which, c in enumerate(order)
    ]  # fmt: skip

    def sweep(carry, _):
        a, z = carry
        a, s_a = halves[0](a, z)
        z, s_z = halves[1](z, a)
        return (a, z), (s_a, s_z)

    (a, z), squares = lax.scan(sweep, tuple(flat(parts[c], margin) for c in order), None, length=num_sweeps)
    a, z = (x[margin : margin + rows * h].reshape(rows, h) for x in (a, z))
    red, black = (a, z) if order[0] == reference.RED else (z, a)
    return reference.unpack(red, black, cols), jnp.stack(squares) if sums else jnp.zeros((2, 0), u.dtype)


def _half(
    scalars, rhs, weights, own, other, *, shape, colour, margin, last, sums, programs, config, interpret
):  # fmt: skip
    """(own colour relaxed, its sum of squared residuals or None)."""
    inputs = [scalars, own, other, rhs, *weights]
    out = [jax.ShapeDtypeStruct(own.shape, own.dtype)]
    specs = [pl.BlockSpec(own.shape, lambda i: (0,))]  # a pointer: nothing is copied
    if sums:
        out.append(jax.ShapeDtypeStruct((programs, 1, 1), own.dtype))
        specs.append(pl.BlockSpec((None, 1, 1), lambda i: (i, 0, 0)))
    got = call_gpu(
        functools.partial(_body, shape=shape, colour=colour, margin=margin, last=last, sums=sums, block=config.block),
        grid=(programs,),
        in_specs=[pl.BlockSpec(x.shape, lambda i, n=x.ndim: (0,) * n) for x in inputs],
        out_specs=specs,
        out_shape=out,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        interpret=interpret,
        name="sor",
        aliases={1: 0},
    )(*inputs)
    return got[0], jnp.sum(got[1]) if sums else None


def _body(scalar_ref, own_ref, other_ref, rhs_ref, *refs, shape, colour, margin, last, sums, block):
    weights, out_ref = refs[:6] if len(refs) > 6 else None, refs[-2] if sums else refs[-1]
    rows, cols = shape
    h = (cols + 1) // 2
    start = pl.program_id(0) * block
    cell = start + lax.broadcasted_iota(jnp.int32, (block,), 0)
    row = cell // h
    k = cell - row * h
    left = (row + colour) % 2 == 0

    def near(offset, mask):
        return masked_load(other_ref, margin + start + offset, block, mask, jnp.zeros((), own_ref.dtype))

    here, own_at = pl.ds(start, block), pl.ds(margin + start, block)
    anywhere = cell >= 0
    side = near(-1, left & (k > 0)) + near(1, ~left & (k < h - 1))
    if weights is not None:
        diagonal, inverse, to_north, to_south, to_same, to_side = (w[here] for w in weights)
    else:
        diagonal, inverse, to_north, to_south, to_west, to_east = (scalar_ref[0, i] for i in range(_CONSTANTS))
        to_same, to_side = jnp.where(left, to_east, to_west), jnp.where(left, to_west, to_east)
    value = own_ref[own_at]
    around = to_north * near(-h, anywhere) + to_south * near(h, anywhere) + to_same * near(0, anywhere) + to_side * side
    r = rhs_ref[here] - diagonal * value - around
    if weights is None:  # own coefficients are zero outside the grid
        r = jnp.where((row < rows) & (2 * k + (~left).astype(jnp.int32) < cols), r, jnp.zeros((), r.dtype))
    change = inverse * r
    out_ref[own_at] = value + change
    if sums:
        r = r - diagonal * change if last else r
        refs[-1][...] = jnp.full((1, 1), jnp.sum(r * r))


__all__: list[str] = []
