"""`permute` on GPU (Triton): each program copies one tile of rows by columns through pointers.

In place the output takes the memory of the input and a row that stays is neither read nor written: those that are read
survive, so no program writes them.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels._compat import call_gpu, gather, pl, scatter
from pallas_kernels.permute.reference import SMALL, row_bytes

_DTYPES = ("float32", "float64", "bfloat16", "float16", "int32", "uint32", "int8", "uint8")
_MAX_SIZE = 2**30  # offsets are int32


class Config(NamedTuple):
    """Launch parameters: a tile has `rows` x `columns` elements, both powers of two."""

    rows: int
    columns: int
    num_warps: int


def default_config(width: int) -> Config:
    """2048 elements a program: as much of a row as it has, and as many rows as that leaves room for."""
    columns = min(2048, max(16, 1 << (width - 1).bit_length()))
    return Config(2048 // columns, columns, num_warps=4)


def refusal(x, ancestors, *, in_place: bool) -> str | None:
    """Why the kernel cannot take the arrays, or None."""
    if x.dtype.name not in _DTYPES:
        return f"x is {x.dtype} and the GPU kernel takes {', '.join(_DTYPES)}"
    if row_bytes(x) < SMALL:
        return f"rows of {row_bytes(x)} bytes are below the {SMALL} from which the kernel is worth its launch"
    most = max(x.size, ancestors.size * (x.size // x.shape[0]))
    if most > _MAX_SIZE:
        return f"x or the result has {most} elements and the GPU kernel takes at most {_MAX_SIZE}"
    return None


def call(x: jax.Array, ancestors: jax.Array, *, in_place: bool, interpret: bool, config: Config | None = None):
    """Rows of x (n, ...) by `ancestors` (m,) in [0, n); `config` None takes `default_config`."""
    flat = x.reshape(x.shape[0], -1)
    num, width = ancestors.shape[0], flat.shape[1]
    config = default_config(width) if config is None else config
    whole = [pl.BlockSpec(shape, lambda i, j, n=len(shape): (0,) * n) for shape in ((num,), flat.shape, (num, width))]
    moved = call_gpu(
        functools.partial(_body, rows=config.rows, columns=config.columns, in_place=in_place),
        grid=(math.ceil(num / config.rows), math.ceil(width / config.columns)),
        in_specs=whole[:2],  # pointers: nothing is copied
        out_specs=whole[2],
        out_shape=jax.ShapeDtypeStruct((num, width), x.dtype),
        num_warps=config.num_warps,
        num_stages=1,
        interpret=interpret,
        name="permute",
        aliases={1: 0} if in_place else None,
    )(ancestors, flat)
    return moved.reshape(num, *x.shape[1:])


def _body(ancestors_ref, x_ref, out_ref, *, rows, columns, in_place):
    row = pl.program_id(0) * rows + lax.broadcasted_iota(jnp.int32, (rows,), 0)
    column = pl.program_id(1) * columns + lax.broadcasted_iota(jnp.int32, (columns,), 0)
    source = gather(ancestors_ref, row, other=-1)  # -1 lies outside x
    if in_place:
        source = jnp.where(source == row, -1, source)
    there = (source >= 0)[:, None]
    at = (source[:, None], column[None, :])
    scatter(out_ref, (row[:, None], column[None, :]), gather(x_ref, at, mask=there), mask=there)


__all__: list[str] = []
