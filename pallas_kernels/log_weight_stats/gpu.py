"""`log_weight_stats` on GPU (Triton): each program loads one block of x and reduces it to four numbers.

The block stays in registers, so its largest element and the sums relative to it cost one read. XLA merges the numbers
of all programs. No length needs padding.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels._compat import call_gpu, masked_load, pl
from pallas_kernels.log_weight_stats import reference

_ACCUMULATE = {"float32": jnp.float32, "float64": jnp.float64, "bfloat16": jnp.float32}
_MAX_SIZE = 2**30  # offsets are int32, and the last program counts beyond the end


class Config(NamedTuple):
    """Launch parameters: `block` elements (a power of two) per program."""

    block: int
    num_warps: int


def default_config(n: int) -> Config:
    """16 elements a thread for large n."""
    block = min(4096, max(128, 1 << (n - 1).bit_length()))
    return Config(block, num_warps=8 if block > 1024 else 4)


def refusal(x) -> str | None:
    """Why the kernel cannot take x, or None."""
    if x.dtype.name not in _ACCUMULATE:
        return f"log_weights is {x.dtype} and the GPU kernel takes {', '.join(_ACCUMULATE)}"
    if x.size > _MAX_SIZE:
        return f"log_weights has {x.size} elements and the GPU kernel takes at most {_MAX_SIZE}"
    return None


def call(x: jax.Array, *, interpret: bool, config: Config | None = None):
    """(largest, total, squares, trouble) of x (n,); `config` None takes `default_config`."""
    config = default_config(x.size) if config is None else config
    programs = math.ceil(x.size / config.block)
    one = pl.BlockSpec((None, 1, 1), lambda i: (i, 0, 0))
    real = jax.ShapeDtypeStruct((programs, 1, 1), _ACCUMULATE[x.dtype.name])
    parts = call_gpu(
        functools.partial(_body, n=x.size, block=config.block),
        grid=(programs,),
        in_specs=[pl.BlockSpec(x.shape, lambda i: (0,))],  # a pointer: nothing is copied
        out_specs=[one] * 4,
        out_shape=[real, real, real, jax.ShapeDtypeStruct((programs, 1, 1), jnp.int32)],
        num_warps=config.num_warps,
        num_stages=1,
        interpret=interpret,
        name="log_weight_stats",
    )(x)
    return reference.merge(*(p[:, 0, 0] for p in parts))


def _body(x_ref, largest_ref, total_ref, squares_ref, bad_ref, *, n: int, block: int):
    start = pl.program_id(0) * block
    lane = lax.broadcasted_iota(jnp.int32, (block,), 0)
    x = masked_load(x_ref, start, block, start + lane < n, jnp.asarray(-jnp.inf, x_ref.dtype)).astype(total_ref.dtype)
    nan = x != x
    x = jnp.where(nan, -jnp.inf, x)
    largest = jnp.max(x)
    w = jnp.exp(x - reference.shift(largest))
    largest_ref[...] = jnp.full((1, 1), largest)
    total_ref[...] = jnp.full((1, 1), jnp.sum(w))
    squares_ref[...] = jnp.full((1, 1), jnp.sum(w * w))
    bad_ref[...] = jnp.full((1, 1), jnp.max(nan.astype(jnp.int32)))


__all__: list[str] = []
