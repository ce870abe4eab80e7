"""`hadamard_quantize` on TPU: a step has a block of whole rows on chip, and reads it twice there.

First for the sums of squares, which the transform does not change; then plane by plane of 128 columns: a product with
the matrix of +1 and -1, codes, and the bytes that they share.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels._compat import call_tpu, loop, pl, pltpu
from pallas_kernels.hadamard_quantize import reference
from pallas_kernels.hadamard_quantize.reference import PLANE, Static, turned

_TILE = 32  # rows of one int8 tile
_MAX_ROWS = 256
_BLOCK_BYTES = 4 * 2**20  # of a block in float32; it has a copy in flight, and its outputs have too
_MAX_BYTES = 16 * 2**20
_DTYPES = ("float32", "bfloat16")


def refusal(x, numbers=None, *, static: Static) -> str | None:
    """Why the kernel cannot take the arrays, or None."""
    if x.dtype.name not in _DTYPES:
        why = "TPUs have no double precision" if x.dtype.name == "float64" else "no kernel for this dtype"
        return f"x is {x.dtype} and the TPU kernel takes {', '.join(_DTYPES)} ({why})"
    need = 4 * _TILE * padded_columns(x.shape[0 if static.columns else 1])
    if need > _MAX_BYTES:
        return f"{_TILE} rows of x need {need >> 20} MiB of on-chip memory and the TPU kernel takes {_MAX_BYTES >> 20}"
    return None


def padded_columns(n: int) -> int:
    """n up to whole planes."""
    return math.ceil(n / PLANE) * PLANE


def default_rows(rows: int, columns: int) -> int:
    """Rows of a step, a multiple of the tile."""
    most = max(_TILE, _BLOCK_BYTES // (4 * columns) // _TILE * _TILE)
    return min(_MAX_ROWS, most, math.ceil(rows / _TILE) * _TILE)


def call(x, numbers, *, static: Static, interpret, rows: int | None = None):
    """As `reference.call`; `interpret` is False, True or the parameters of the TPU interpreter."""
    if static.columns:
        return turned(call, x, numbers, static=static, interpret=interpret, rows=rows)
    (num, n), columns = x.shape, padded_columns(x.shape[1])
    rows = default_rows(num, columns) if rows is None else rows
    x = padded(x, rows, columns)
    planes = 8 // static.bits if static.output == "packed" else 1
    width = columns // planes
    out_dtype = x.dtype if static.output == "values" else jnp.int8
    shapes = [(width, out_dtype), (1, jnp.float32)] + [(columns, jnp.int8)] * static.mask
    value, step, *mask = call_tpu(
        functools.partial(_body, n=n, planes=planes, static=static, interpret=interpret),
        grid=(x.shape[0] // rows,),
        in_specs=[
            pl.BlockSpec((1, 5), lambda i: (0, 0), memory_space=pltpu.SMEM),
            block(rows, columns),
            pl.BlockSpec((PLANE, PLANE), lambda i: (0, 0)),
        ],
        out_specs=[block(rows, size) for size, _ in shapes],
        out_shape=[jax.ShapeDtypeStruct((x.shape[0], size), dtype) for size, dtype in shapes],
        interpret=interpret,
        name="hadamard_quantize",
        vmem_limit_bytes=100 * 2**20,
    )(numbers, x, signs(static.block))
    size = width if static.output == "packed" else n
    return value[:num, :size], step[:num], *(m[:num, :n] != 0 for m in mask)


def padded(x, rows: int, columns: int):
    """x with zeros below and to the right."""
    below = math.ceil(x.shape[0] / rows) * rows - x.shape[0]
    return jnp.pad(x, ((0, below), (0, columns - x.shape[1])))


def block(rows: int, columns: int):
    """The step's rows of an array."""
    return pl.BlockSpec((rows, columns), lambda i: (i, 0))


def signs(order: int):
    """The matrix for one plane, exact in bfloat16."""
    return jnp.asarray(reference.matrix(order, PLANE), jnp.bfloat16)


def plane(j):
    """The columns of the j-th plane."""
    return pl.ds(pl.multiple_of(j * PLANE, PLANE), PLANE)


def rotated(x, matrix, interpret):
    """Sums of x (rows, 128) with the signs of the matrix, in float32 as exact as a sum of float32 is."""
    if interpret:  # on a CPU XLA refuses some products of bfloat16
        return jnp.dot(x.astype(jnp.float32), matrix.astype(jnp.float32), precision=lax.Precision.HIGHEST)
    parts = (x,) if x.dtype == jnp.bfloat16 else reversed(reference.thirds(x))
    return sum(jnp.dot(part, matrix, preferred_element_type=jnp.float32) for part in parts)


def _body(numbers_ref, x_ref, matrix_ref, value_ref, step_ref, *mask_ref, n, planes, static, interpret):
    numbers = tuple(numbers_ref[0, i] for i in range(5))
    rows, columns = x_ref.shape

    def add(j, total):
        return total + jnp.square(x_ref[:, plane(j)].astype(jnp.float32))

    squares = loop(columns // PLANE, add, jnp.zeros((rows, PLANE), jnp.float32))
    reach, step, inverse = reference.row(jnp.sum(squares, axis=1, keepdims=True), n, numbers, static.block)
    step_ref[...] = step

    def quantize(j, nothing):
        byte = None
        for p in range(planes):
            here = plane(j * planes + p)
            x = x_ref[:, here]
            raw = x.astype(jnp.float32) if static.block == 1 else rotated(x, matrix_ref[...], interpret)
            value = reference.code(raw, inverse, numbers)
            if static.mask:
                inside = reference.is_inside(raw, reach, static.block)
                mask_ref[0][:, here] = jnp.where(inside, 1, 0).astype(jnp.int8)
            if static.output == "values":
                value_ref[:, here] = ((value + 0.5) * step).astype(value_ref.dtype)
                continue
            value = value.astype(jnp.int32)
            if static.output == "packed":
                value = reference.stored(value, static.bits) << p * static.bits
            byte = value if byte is None else byte | value
        if byte is not None:
            byte = reference.as_byte(byte) if static.output == "packed" else byte
            value_ref[:, plane(j)] = byte.astype(jnp.int8)
        return nothing

    loop(columns // PLANE // planes, quantize, ())


__all__: list[str] = []
