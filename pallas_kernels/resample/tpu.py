"""`resample` on TPU: the ends of the shares by one launch over blocks of rows of 128 lanes, and then the ancestors.

That launch runs in order, twice over the blocks: first it adds up the shares, then it scans each strip of rows (lanes,
then rows, by rolls in log2 steps), stretches the sums, and carries them from strip to strip and from block to block in
scalar memory. Both rounds use the exponential of this kernel, so the total is that of the sums.
XLA scatters each particle's index to the first of its slots, because a TPU kernel has neither a scatter nor a gather by
index; a second launch, in order as well, takes the running maximum of these, which are the ancestors.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._compat import call_tpu, loop, pl, pltpu
from pallas_kernels.log_weight_stats import reference as stats
from pallas_kernels.log_weight_stats import tpu as stats_tpu
from pallas_kernels.resample import _fixed, reference

_LANES = 128
_MIN_ROWS = 16  # rows of one bfloat16 tile; a float32 tile has 8
_STRIP = 32  # rows per scan: 4 vector registers for each half of a pair
_MAX_ROWS = 1024  # 0.5 MiB of float32 in, as much out, two of each in flight


def refusal(log_weights, offset, *, num_out: int) -> str | None:
    """Why the kernel cannot take the arrays, or None."""
    return stats_tpu.refusal(log_weights)


def default_rows(n: int) -> int:
    """Rows of a block: all of a small cloud, else 0.5 MiB; a power of two."""
    rows = math.ceil(n / _LANES)
    return min(_MAX_ROWS, max(_MIN_ROWS, 1 << (rows - 1).bit_length()))


def call(log_weights: jax.Array, offset: jax.Array, *, num_out: int, interpret, rows: int | None = None):
    """Ancestors (num_out,) of log-weights (n,); `interpret` is False, True or those of the TPU interpreter."""
    n = log_weights.shape[0]
    largest, total, _, _ = stats_tpu.call(log_weights, interpret=interpret)
    usable = jnp.isfinite(largest)
    scale = _fixed.coarse_scale(jnp.where(usable, total, 1), num_out)
    numbers = jnp.stack([jnp.where(usable, stats.shift(largest), 0), scale, offset]).reshape(1, 3)
    ends = _ends(log_weights, numbers, num_out, rows or default_rows(n), interpret)
    drawn = _running_max(
        reference.first_slots(reference.starts_of(ends), num_out), rows or default_rows(num_out), interpret
    )
    return reference.choose(drawn, usable, n, num_out)


def _ends(x, numbers, num_out, block, interpret):
    padded = _in_rows(x, block, -jnp.inf)
    strip = min(_STRIP, block)
    ends = call_tpu(
        functools.partial(_body, num_out=num_out, strip=strip, num_strips=block // strip),
        grid=(2, padded.shape[0] // block),
        num_ordered=2,
        in_specs=[
            pl.BlockSpec((1, 3), lambda r, i: (0, 0), memory_space=pltpu.SMEM),
            pl.BlockSpec((block, _LANES), lambda r, i: (i, 0)),
        ],
        # The first round writes nothing: it stays on the block that the second one starts with.
        out_specs=pl.BlockSpec((block, _LANES), lambda r, i: (r * i, 0)),
        out_shape=jax.ShapeDtypeStruct(padded.shape, jnp.int32),
        # The running sum (whole, fraction) and how far the sums must be stretched, in two parts.
        scratch=[pltpu.SMEM((1, 3), jnp.int32), pltpu.SMEM((1, 1), jnp.float32)],
        interpret=interpret,
        name="resample",
    )(numbers, padded)
    return ends.reshape(-1)[: x.size]


def _running_max(x, block, interpret):
    padded = _in_rows(x, block, 0)
    blocks = pl.BlockSpec((block, _LANES), lambda i: (i, 0))
    strip = min(_STRIP, block)
    out = call_tpu(
        functools.partial(_max_body, strip=strip, num_strips=block // strip),
        grid=(padded.shape[0] // block,),
        num_ordered=1,
        in_specs=[blocks],
        out_specs=blocks,
        out_shape=jax.ShapeDtypeStruct(padded.shape, jnp.int32),
        scratch=[pltpu.SMEM((1, 1), jnp.int32)],
        interpret=interpret,
        name="resample_ancestors",
    )(padded)
    return out.reshape(-1)[: x.size]


def _in_rows(x, block, fill):
    size = math.ceil(x.size / (block * _LANES)) * block * _LANES
    return jnp.pad(x, (0, size - x.size), constant_values=fill).reshape(-1, _LANES)


def _rows(j, strip):
    return pl.ds(pl.multiple_of(j * strip, strip), strip)


def _positions(strip):
    return tuple(jax.lax.broadcasted_iota(jnp.int32, (strip, _LANES), axis) for axis in (0, 1))


def _body(numbers_ref, x_ref, end_ref, carry_ref, fine_ref, *, num_out: int, strip: int, num_strips: int):
    first_round, i = pl.program_id(0) == 0, pl.program_id(1)
    largest, scale, offset = (numbers_ref[0, k] for k in range(3))
    shape = (strip, _LANES)
    row, lane = _positions(strip)

    def shares(j):
        x = x_ref[_rows(j, strip), :].astype(jnp.float32)
        return _fixed.shares(jnp.exp(jnp.where(x != x, -jnp.inf, x) - largest), scale)

    @pl.when(i == 0)
    def _():
        @pl.when(jnp.logical_not(first_round))
        def _():
            total = carry_ref[0, 0], carry_ref[0, 1]
            carry_ref[0, 2], fine_ref[0, 0] = _fixed.stretch(total, num_out, fine_ref.dtype)

        carry_ref[0, 0] = np.int32(0)
        carry_ref[0, 1] = np.int32(0)

    @pl.when(first_round)
    def _():
        total = loop(num_strips, lambda j, total: _fixed.add(total, shares(j)), _fixed.zeros(shape))
        whole, fraction = _fixed.add((carry_ref[0, 0], carry_ref[0, 1]), _fixed.total(total, _add_up))
        carry_ref[0, 0], carry_ref[0, 1] = whole, fraction

    @pl.when(jnp.logical_not(first_round))
    def _():
        by = carry_ref[0, 2], fine_ref[0, 0]

        def step(j, before):
            sums = _fixed.add(_scan(shares(j), row, lane), before)
            offspring = _fixed.stretched(sums, by, num_out)
            end_ref[_rows(j, strip), :] = _fixed.offspring_before(offspring, offset, num_out)
            return tuple(_pick(s, (row == strip - 1) & (lane == _LANES - 1)) for s in sums)

        whole, fraction = loop(num_strips, step, (carry_ref[0, 0], carry_ref[0, 1]))
        carry_ref[0, 0], carry_ref[0, 1] = whole, fraction


def _max_body(x_ref, out_ref, carry_ref, *, strip: int, num_strips: int):
    row, lane = _positions(strip)

    @pl.when(pl.program_id(0) == 0)
    def _():
        carry_ref[0, 0] = np.int32(0)

    def step(j, before):
        x = _along(x_ref[_rows(j, strip), :], lane, 1, jnp.maximum)
        rows = _along(_totals(x, lane), row, 0, jnp.maximum)
        earlier = jnp.where(row == 0, before, jnp.maximum(_roll(rows, 1, 0), before))
        x = jnp.maximum(x, earlier)
        out_ref[_rows(j, strip), :] = x
        return jnp.max(x)

    carry_ref[0, 0] = loop(num_strips, step, carry_ref[0, 0])


def _scan(pair, row, lane):
    """Running sums in the order of the elements: along lanes, then of the rows' totals."""
    pair = _fixed.running(pair, lambda x: _along(x, lane, 1, jnp.add))
    totals = tuple(_totals(p, lane) for p in pair)
    rows = _fixed.running(totals, lambda x: _along(x, row, 0, jnp.add))
    return _fixed.add(pair, _fixed.subtract(rows, totals))


def _along(x, position, axis, combine):
    """Running `combine` along an axis; 0 is its neutral element."""
    shift = 1
    while shift < x.shape[axis]:
        x, shift = combine(x, jnp.where(position >= shift, _roll(x, shift, axis), 0)), 2 * shift
    return x


def _totals(x, lane):
    """The last running value of each row, in all its lanes."""
    return jnp.broadcast_to(_pick(x, lane == _LANES - 1, axis=1), x.shape)


def _add_up(x):
    """A scalar; axis by axis, because in double precision Mosaic's sum of all elements has 64 bits."""
    for axis in (1, 0):
        x = jnp.sum(x, axis=axis, keepdims=True, dtype=jnp.int32)
    return jnp.max(x)


def _pick(x, where, axis=None):
    """The one element (of each row, for axis 1) at which `where` holds; none of x is negative."""
    return jnp.max(jnp.where(where, x, 0), axis=axis, keepdims=axis is not None)


def _roll(x, by, axis):
    """`jnp.roll`; the shift has 32 bits, also in double precision."""
    return pltpu.roll(x, np.int32(by), axis)


__all__: list[str] = []
