"""`hadamard_quantize` on GPU (Triton): a program has some whole rows and reads them twice, the second time from cache.

As on TPU: first the sums of squares, then planes of 128 columns, each one product with the matrix of +1 and -1 on the
tensor cores. Rows and columns of any number cost masks, no copies.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels._compat import call_gpu, gather, loop, pl, scatter
from pallas_kernels.hadamard_quantize import reference
from pallas_kernels.hadamard_quantize.reference import PLANE, Static, turned

_DTYPES = ("float32", "bfloat16")
_MAX_SIZE = 2**30


class Config(NamedTuple):
    """Launch parameters: rows of a program, a power of two from 16 on."""

    rows: int
    num_warps: int


def default_config() -> Config:
    """As few rows as a product of blocks takes, and so many warps that no registers spill."""
    return Config(rows=16, num_warps=8)


def refusal(x, numbers=None, *, static: Static) -> str | None:
    """Why the kernel cannot take the arrays, or None."""
    if x.dtype.name not in _DTYPES:
        return f"x is {x.dtype} and the GPU kernel takes {', '.join(_DTYPES)}"
    if x.size > _MAX_SIZE:
        return f"x has {x.size} elements and the GPU kernel takes at most {_MAX_SIZE}"
    return None


def call(x, numbers, *, static: Static, interpret: bool, config: Config | None = None):
    """As `reference.call`; `config` None takes `default_config`."""
    if static.columns:
        return turned(call, x, numbers, static=static, interpret=interpret, config=config)
    num, n = x.shape
    config = config or default_config()
    planes = 8 // static.bits if static.output == "packed" else 1
    out_dtype = x.dtype if static.output == "values" else jnp.int8
    shapes = [(n // planes, out_dtype), (1, jnp.float32)] + [(n, jnp.int8)] * static.mask
    value, step, *mask = launch(
        functools.partial(_body, planes=planes, static=static, config=config, interpret=interpret),
        (-(-num // config.rows),),
        (numbers, x, signs(static.block)),
        [jax.ShapeDtypeStruct((num, size), dtype) for size, dtype in shapes],
        "hadamard_quantize",
        config,
        interpret,
    )
    return value, step, *(m != 0 for m in mask)


def launch(body, grid, arrays, out_shape, name, config, interpret):
    """`body` over the grid, each program with pointers to all arrays: nothing is copied."""
    whole = [pl.BlockSpec(x.shape, lambda *_: (0, 0)) for x in (*arrays, *out_shape)]
    return call_gpu(
        body, grid=grid, in_specs=whole[: len(arrays)], out_specs=whole[len(arrays) :], out_shape=out_shape,
        num_warps=config.num_warps, num_stages=2, interpret=interpret, name=name,
    )(*arrays)  # fmt: skip


def signs(order: int):
    """The matrix for one plane, exact in bfloat16."""
    return jnp.asarray(reference.matrix(order, PLANE), jnp.bfloat16)


def place(i, j, rows: int):
    """Index arrays of the j-th plane of the i-th block of rows."""
    row = i * rows + lax.broadcasted_iota(jnp.int32, (rows,), 0)
    column = j * PLANE + lax.broadcasted_iota(jnp.int32, (PLANE,), 0)
    return row[:, None], column[None, :]


def rotated(x, matrix, interpret: bool):
    """Sums of x (rows, 128) with the signs of the matrix, in float32 as exact as a sum of float32 is."""
    if interpret:  # on a CPU XLA refuses some products of bfloat16
        return jnp.dot(x.astype(jnp.float32), matrix.astype(jnp.float32), precision=lax.Precision.HIGHEST)
    parts = (x,) if x.dtype == jnp.bfloat16 else reversed(reference.thirds(x))
    return sum(jnp.dot(part, matrix, preferred_element_type=jnp.float32) for part in parts)


def _body(numbers_ref, x_ref, matrix_ref, value_ref, step_ref, *mask_ref, planes, static, config, interpret):
    i, rows, n = pl.program_id(0), config.rows, x_ref.shape[1]
    numbers = tuple(numbers_ref[0, k] for k in range(5))

    def add(j, total):
        return total + jnp.square(gather(x_ref, place(i, j, rows)).astype(jnp.float32))

    squares = loop(-(-n // PLANE), add, jnp.zeros((rows, PLANE), jnp.float32))
    reach, step, inverse = reference.row(jnp.sum(squares, axis=1, keepdims=True), n, numbers, static.block)
    first = place(i, 0, rows)[0]
    scatter(step_ref, (first, jnp.zeros_like(first)), step)
    matrix = matrix_ref[...]

    def quantize(j, nothing):
        def one(p, byte):
            here = place(i, j * planes + p, rows)
            x = gather(x_ref, here)
            raw = x.astype(jnp.float32) if static.block == 1 else rotated(x, matrix, interpret)
            value = reference.code(raw, inverse, numbers)
            if static.mask:
                inside = reference.is_inside(raw, reach, static.block)
                scatter(mask_ref[0], here, jnp.where(inside, 1, 0))
            if static.output == "values":
                scatter(value_ref, here, (value + 0.5) * step)
                return byte
            value = value.astype(jnp.int32)
            return byte | reference.stored(value, static.bits) << p * static.bits if planes > 1 else value

        # Unrolled, the planes of a byte would take more registers than there are.
        byte = loop(planes, one, jnp.zeros((rows, PLANE), jnp.int32))
        if static.output != "values":
            byte = reference.as_byte(byte) if static.output == "packed" else byte
            scatter(value_ref, place(i, j, rows), byte)
        return nothing

    loop(-(-n // (PLANE * planes)), quantize, ())


__all__: list[str] = []
