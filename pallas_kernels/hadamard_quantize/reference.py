"""The meaning of `hadamard_quantize`, and what runs on a CPU: one product with the Hadamard matrix, then elementwise.

On a CPU the product with the matrix is faster than butterflies for every block from 16 to 128 (512 x 512, float32).
The kernels share the formulas for the scale of a row and for a code, so equal sums give equal bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PLANE = 128
"""Columns whose codes share bytes with those of the next planes."""

CLIP, PER_LEVEL, HALF, REACH, EPS = range(5)
"""Places in `numbers`: clip factor, 2 / (levels - 1), levels / 2, reach of the mask in scales, least scale."""


class Static(NamedTuple):
    """What selects the program.

    Attributes:
        output: "codes", "packed" or "values".
        bits: of a packed code; 0 where nothing is packed.
        block: order of the Hadamard matrix; 1 for none.
        mask: whether the mask is returned.
        columns: whether x is (n, rows), turned around; so is then all that is returned.
    """

    output: str
    bits: int
    block: int
    mask: bool
    columns: bool = False


def turned(call, x, numbers, *, static: Static, **options):
    """A call for columns by one for rows."""
    return tuple(a.T for a in call(x.T, numbers, static=static._replace(columns=False), **options))


def call(x, numbers, *, static: Static):
    """(codes, packed codes or values, step of every row (rows, 1), mask) of x (rows, n); numbers (1, 5)."""
    if static.columns and static.output == "packed":
        return turned(call, x, numbers, static=static)
    wide, axis = jnp.promote_types(x.dtype, jnp.float32), 0 if static.columns else 1
    numbers = tuple(numbers[0, i] for i in range(5))
    squares = jnp.sum(jnp.square(x.astype(wide)), axis=axis, keepdims=True)
    reach, step, inverse = row(squares, x.shape[axis], numbers, static.block)
    raw = (rotate_columns if static.columns else rotate)(x.astype(wide), static.block)
    value = code(raw, inverse, numbers)
    mask = (is_inside(raw, reach, static.block),) if static.mask else ()
    if static.output == "values":
        return ((value + 0.5) * step).astype(x.dtype), step, *mask
    value = value.astype(jnp.int32)
    return (pack(value, static.bits) if static.output == "packed" else value).astype(jnp.int8), step, *mask


def row(squares, n: int, numbers, block: int):
    """(largest entry that the mask lets through, step, what a sum of the transform is multiplied by) of rows."""
    scale = numbers[CLIP] * jnp.sqrt(squares / n) + numbers[EPS]
    step = scale * numbers[PER_LEVEL]
    return numbers[REACH] * scale, step, norm(block) / step


def norm(block: int) -> float:
    """1 / sqrt(block), by which sums of the transform are orthonormal."""
    return float(np.float32(block**-0.5))


def code(raw, inverse, numbers):
    """Number of the interval that an entry lies in, from -levels / 2 on; NaN counts as 0."""
    value = jnp.floor(raw * inverse)
    value = jnp.where(value == value, value, 0)
    return jnp.clip(value, -numbers[HALF], numbers[HALF] - 1)


def is_inside(raw, reach, block: int):
    """Whether an entry is no farther out than `reach`; False for NaN."""
    return jnp.abs(raw) * norm(block) <= reach


def rotate(x, block: int):
    """x times the block-diagonal matrix of +1 and -1; sums of x, not scaled."""
    if block == 1:
        return x
    split = x.reshape(-1, block)
    return jnp.dot(split, jnp.asarray(matrix(block), x.dtype), precision=jax.lax.Precision.HIGHEST).reshape(x.shape)


def rotate_columns(x, block: int):
    """The matrix times x, without turning x around: a product for each block."""
    if block == 1:
        return x
    split = x.reshape(-1, block, x.shape[1])
    each = jnp.broadcast_to(jnp.asarray(matrix(block), x.dtype), (split.shape[0], block, block))
    product = jax.lax.dot_general(each, split, (((2,), (1,)), ((0,), (0,))), precision=jax.lax.Precision.HIGHEST)
    return product.reshape(x.shape)


def matrix(block: int, size: int | None = None) -> np.ndarray:
    """Sylvester's Hadamard matrices of order `block` along the diagonal of a matrix of `size`, entries +1, -1 and 0."""
    i = np.arange(block if size is None else size)
    parity = np.bitwise_count(i[:, None] & i[None, :] & (block - 1)) % 2
    return np.where(i[:, None] // block == i[None, :] // block, 1.0 - 2.0 * parity, 0.0).astype(np.float32)


def thirds(x):
    """Three bfloat16 arrays whose sum is the float32 x, each with the next 8 of its 24 bits, largest first."""
    parts = []
    for _ in range(3):
        high = jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, jnp.int32) & -65536, jnp.float32)
        parts.append(high.astype(jnp.bfloat16))
        x = x - high
    return tuple(parts)


def pack(codes, bits: int):
    """Bytes (rows, n bits / 8) of int32 codes (rows, n), n a multiple of 128 · 8 / bits, as int32 below 256."""
    planes = 8 // bits
    parts = codes.reshape(codes.shape[0], -1, planes, PLANE)
    return as_byte(sum(stored(parts[:, :, p], bits) << p * bits for p in range(planes))).reshape(codes.shape[0], -1)


def stored(codes, bits: int):
    """The bits of a code: two's complement with 4 and 8, counted from the lowest level with 1 and 2."""
    return codes & (2**bits - 1) if bits > 2 else codes + 2 ** (bits - 1)


def as_byte(value):
    """An int32 from 0 to 255 as the int32 that int8 holds."""
    return jnp.where(value > 127, value - 256, value)


__all__: list[str] = []
