"""`log_weight_stats` on TPU: x seen as rows of 128 lanes; each grid step reduces one block of rows to four numbers.

A block lies on chip, so it is read twice there: strip by strip for its largest element, then for the sums relative to
that. XLA merges the numbers of all blocks, 4 per block of up to 1 MiB.
"""

import functools
import math

import jax
import jax.numpy as jnp

from pallas_kernels._compat import call_tpu, loop, pl
from pallas_kernels.log_weight_stats import reference

_LANES = 128
_MIN_ROWS = 16  # rows of one bfloat16 tile; a float32 tile has 8
_STRIP = 64  # rows per loop step: 8 float32 vector registers for each running value
_MAX_ROWS = 2048  # 1 MiB of float32 per block, two of them in flight

_DTYPES = ("float32", "bfloat16")


def refusal(x) -> str | None:
    """Why the kernel cannot take x, or None."""
    if x.dtype.name not in _DTYPES:
        why = "TPUs have no double precision" if x.dtype.name == "float64" else "no kernel for this dtype"
        return f"log_weights is {x.dtype} and the TPU kernel takes {', '.join(_DTYPES)} ({why})"
    return None


def default_rows(n: int) -> int:
    """Rows of a block: all of a small x, else 1 MiB; a power of two."""
    rows = math.ceil(n / _LANES)
    return min(_MAX_ROWS, max(_MIN_ROWS, 1 << (rows - 1).bit_length()))


def call(x: jax.Array, *, interpret, rows: int | None = None):
    """(largest, total, squares, trouble) of x (n,); `interpret` is False, True or those of the TPU interpreter."""
    block = default_rows(x.size) if rows is None else rows
    steps = math.ceil(x.size / (block * _LANES))
    # A weight of zero changes nothing.
    padded = jnp.pad(x, (0, steps * block * _LANES - x.size), constant_values=-jnp.inf).reshape(steps * block, _LANES)
    one = pl.BlockSpec((None, 1, 1), lambda i: (i, 0, 0))
    partial = [jax.ShapeDtypeStruct((steps, 1, 1), d) for d in (jnp.float32, jnp.float32, jnp.float32, jnp.int32)]
    strip = min(_STRIP, block)
    parts = call_tpu(
        functools.partial(_body, strip=strip, num_strips=block // strip),
        grid=(steps,),
        in_specs=[pl.BlockSpec((block, _LANES), lambda i: (i, 0))],
        out_specs=[one] * 4,
        out_shape=partial,
        interpret=interpret,
        name="log_weight_stats",
    )(padded)
    return reference.merge(*(p[:, 0, 0] for p in parts))


def _body(x_ref, largest_ref, total_ref, squares_ref, bad_ref, *, strip: int, num_strips: int):
    def load(j):
        v = x_ref[pl.ds(pl.multiple_of(j * strip, strip), strip), :].astype(jnp.float32)
        return v, v != v

    def highest(j, carry):
        largest, bad = carry
        v, nan = load(j)
        return jnp.maximum(largest, jnp.where(nan, -jnp.inf, v)), bad + nan.astype(jnp.int32)

    shape = (strip, _LANES)
    start = (jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32))
    largest, bad = loop(num_strips, highest, start)
    largest = jnp.max(largest, keepdims=True)
    shift = reference.shift(largest)

    def add(j, carry):
        total, squares = carry
        v, nan = load(j)
        w = jnp.exp(jnp.where(nan, -jnp.inf, v) - shift)
        return total + w, squares + w * w

    total, squares = loop(num_strips, add, (jnp.zeros(shape, jnp.float32),) * 2)
    largest_ref[...] = largest
    total_ref[...] = jnp.sum(total, keepdims=True)
    squares_ref[...] = jnp.sum(squares, keepdims=True)
    bad_ref[...] = jnp.max(bad, keepdims=True)


__all__: list[str] = []
