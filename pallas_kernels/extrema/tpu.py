"""`extrema` on TPU: x seen as rows of 128 lanes; each grid step reduces one block of rows to two numbers.

Inside a step a loop keeps the running minimum and maximum of a strip of rows, lane by lane, and reduces across rows
and lanes once at the end. Partials of all steps are combined by XLA: 2 numbers per block of up to 1 MiB.
"""

import functools
import math

import jax
import jax.numpy as jnp

from pallas_kernels._compat import call_tpu, loop, pl

_LANES = 128
_MIN_ROWS = 16  # rows of one bfloat16 tile; a float32 tile has 8
_STRIP = 64  # rows per loop step: 8 float32 vector registers for each of the three running values
_MAX_ROWS = 2048  # 1 MiB of float32 per block, two of them in flight

_ACCUMULATE = {"float32": jnp.float32, "bfloat16": jnp.float32, "int32": jnp.int32}


def refusal(x) -> str | None:
    """Why the kernel cannot take x, or None."""
    if x.dtype.name not in _ACCUMULATE:
        why = "TPUs have no double precision" if x.dtype.name == "float64" else "no kernel for this dtype"
        return f"x is {x.dtype} and the TPU kernel takes {', '.join(_ACCUMULATE)} ({why})"
    return None


def default_rows(n: int) -> int:
    """Rows of a block: all of a small x, else 1 MiB; a power of two."""
    rows = math.ceil(n / _LANES)
    return min(_MAX_ROWS, max(_MIN_ROWS, 1 << (rows - 1).bit_length()))


def call(x: jax.Array, *, interpret, rows: int | None = None) -> tuple[jax.Array, jax.Array]:
    """(min x, max x) of x (n,); `interpret` is False, True or the parameters of the TPU interpreter."""
    block = default_rows(x.size) if rows is None else rows
    steps = math.ceil(x.size / (block * _LANES))
    # A repeated element changes neither extremum: it is neutral for both, also when it is NaN.
    padded = jnp.pad(x, (0, steps * block * _LANES - x.size), mode="edge").reshape(steps * block, _LANES)
    partial = jax.ShapeDtypeStruct((steps, 1, 1), _ACCUMULATE[x.dtype.name])
    one = pl.BlockSpec((None, 1, 1), lambda i: (i, 0, 0))
    low, high = call_tpu(
        functools.partial(_body, strip=min(_STRIP, block), num_strips=block // min(_STRIP, block)),
        grid=(steps,),
        in_specs=[pl.BlockSpec((block, _LANES), lambda i: (i, 0))],
        out_specs=[one, one],
        out_shape=[partial, partial],
        interpret=interpret,
        name="extrema",
    )(padded)
    return jnp.min(low).astype(x.dtype), jnp.max(high).astype(x.dtype)


def _body(x_ref, low_ref, high_ref, *, strip: int, num_strips: int):
    def load(j):
        return x_ref[pl.ds(pl.multiple_of(j * strip, strip), strip), :].astype(low_ref.dtype)

    def step(j, carry):
        low, high, bad = carry
        v = load(j + 1)
        # Counted apart: whether a vector minimum keeps a NaN is the hardware's choice.
        return jnp.minimum(low, v), jnp.maximum(high, v), bad + (v != v).astype(jnp.int32)

    first = load(0)
    low, high, bad = loop(num_strips - 1, step, (first, first, (first != first).astype(jnp.int32)))
    low, high = jnp.min(low, keepdims=True), jnp.max(high, keepdims=True)
    if jnp.issubdtype(low_ref.dtype, jnp.floating):
        any_bad = jnp.max(bad, keepdims=True) > 0
        low, high = jnp.where(any_bad, jnp.nan, low), jnp.where(any_bad, jnp.nan, high)
    low_ref[...] = low
    high_ref[...] = high


__all__: list[str] = []
