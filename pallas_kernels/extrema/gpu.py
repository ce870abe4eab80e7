"""`extrema` on GPU (Triton): each program reduces one slab of x to two numbers, with masked loads at the ragged end.

Inside a program a loop keeps the running minimum and maximum element by element of the block, and reduces across the
block once at the end. Partials of all programs are combined by XLA. No length needs padding, so x is read once.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels._compat import call_gpu, masked_load, pl

_ACCUMULATE = {"float32": jnp.float32, "float64": jnp.float64, "bfloat16": jnp.float32, "int32": jnp.int32}
_MAX_SIZE = 2**30  # offsets are int32, and the last program counts beyond the end


class Config(NamedTuple):
    """Launch parameters: `block` elements (a power of two) per load, `steps` loads per program."""

    block: int
    steps: int
    num_warps: int
    num_stages: int


def default_config(n: int) -> Config:
    """About a thousand programs for large n (several for each multiprocessor), at most 16 loads in each."""
    block = min(4096, max(128, 1 << (n - 1).bit_length()))
    steps = min(16, max(1, n // (1024 * block)))
    return Config(block, steps, num_warps=8 if block > 1024 else 4, num_stages=2)


def refusal(x) -> str | None:
    """Why the kernel cannot take x, or None."""
    if x.dtype.name not in _ACCUMULATE:
        return f"x is {x.dtype} and the GPU kernel takes {', '.join(_ACCUMULATE)}"
    if x.size > _MAX_SIZE:
        return f"x has {x.size} elements and the GPU kernel takes at most {_MAX_SIZE}"
    return None


def call(x: jax.Array, *, interpret: bool, config: Config | None = None) -> tuple[jax.Array, jax.Array]:
    """(min x, max x) of x (n,); `config` None takes `default_config`."""
    config = default_config(x.size) if config is None else config
    programs = math.ceil(x.size / (config.block * config.steps))
    partial = jax.ShapeDtypeStruct((programs, 1, 1), _ACCUMULATE[x.dtype.name])
    one = pl.BlockSpec((None, 1, 1), lambda i: (i, 0, 0))
    low, high = call_gpu(
        functools.partial(_body, n=x.size, block=config.block, steps=config.steps),
        grid=(programs,),
        in_specs=[pl.BlockSpec(x.shape, lambda i: (0,))],  # a pointer: nothing is copied
        out_specs=[one, one],
        out_shape=[partial, partial],
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        interpret=interpret,
        name="extrema",
    )(x)
    return jnp.min(low).astype(x.dtype), jnp.max(high).astype(x.dtype)


def _body(x_ref, low_ref, high_ref, *, n: int, block: int, steps: int):
    start = pl.program_id(0) * (block * steps)
    lane = lax.broadcasted_iota(jnp.int32, (block,), 0)
    # The slab's own first element stands in for what lies beyond the end: it is neutral for both extrema.
    own = x_ref[start]

    def load(j):
        at = start + j * block
        return masked_load(x_ref, at, block, at + lane < n, own).astype(low_ref.dtype)

    def step(j, carry):
        low, high, bad = carry
        v = load(j)
        # Counted apart: Triton's reductions and minima drop a NaN.
        return jnp.minimum(low, v), jnp.maximum(high, v), bad + (v != v).astype(jnp.int32)

    first = load(0)
    low, high, bad = lax.fori_loop(1, steps, step, (first, first, (first != first).astype(jnp.int32)))
    low, high = jnp.min(low), jnp.max(high)
    if jnp.issubdtype(low_ref.dtype, jnp.floating):
        any_bad = jnp.max(bad) > 0
        low, high = jnp.where(any_bad, jnp.nan, low), jnp.where(any_bad, jnp.nan, high)
    low_ref[...] = jnp.full((1, 1), low)
    high_ref[...] = jnp.full((1, 1), high)


__all__: list[str] = []
