r"""Codes of 1, 2 or 4 bits in bytes.

Layout "plane128": the packed axis is cut into super-blocks of 128 P entries, P = 8 / bits. Byte r of a super-block
holds for p = 0, ..., P - 1 the code of its entry 128 p + r in the bits from ``p * bits`` on. So every plane p of the
128 bytes unpacks, by one shift, to 128 neighbours, which is what vector units want. Short axes take narrower planes.
Codes are signed, from $-2^{b-1}$; four bits hold them as two's complement, two bits and one as their distance from the
least code.

Converters lead to the layouts of others: "interleaved" (neighbours share a byte, the lower bits first) and the 32-bit
words of GPTQ (the first of 8, 16 or 32 neighbours in the lowest bits, unsigned codes).

Reference: E. Frantar et al. 2022, arXiv:2210.17323 (GPTQ; the words are those of its packages).
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

PLANE = 128


def check_packable(function: str, bits, size: int | None = None, axis: int = 0, plane: int = 1) -> int:
    """The number of codes in a byte, or a message that says what cannot be packed.

    Raises:
        ValueError: bits other than 1, 2 and 4, or a size that leaves a byte or a super-block unfilled.
    """
    if isinstance(bits, bool) or bits not in (1, 2, 4):
        raise ValueError(f"{function}: codes of 1, 2 or 4 bits are packed, got {bits!r} bits; wider ones stay as int8")
    per_byte = 8 // bits
    multiple = per_byte * plane
    if size is not None and size % multiple:
        raise ValueError(
            f"{function}: {bits} bits need axis {axis} to be a multiple of {multiple}, got {size}; pad the array with "
            "entries that its product does not read, or keep the codes unpacked"
        )
    return per_byte


def _axis(function: str, x, axis: int) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{function}: axis must lie within the {x.ndim} axes of the array, got {axis}")
    return axis % x.ndim


def _to_fields(codes, bits: int):
    """Signed codes as the bits that are stored, int32."""
    wide = codes.astype(jnp.int32)
    return (wide if bits == 4 else wide + 2 ** (bits - 1)) & (2**bits - 1)


def _from_fields(fields, bits: int):
    signed = (fields ^ 8) - 8 if bits == 4 else fields - 2 ** (bits - 1)
    return signed.astype(jnp.int8)


def _to_int8(byte):
    return ((byte ^ 128) - 128).astype(jnp.int8)


def _split(x, axis: int, *parts: int):
    return x.reshape(*x.shape[:axis], -1, *parts, *x.shape[axis + 1 :])


def _merged(x, axis: int, count: int):
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + count :])


def _gathered(fields, axis: int, bits: int):
    """Or of fields along an axis, the p-th shifted by p bits, as bytes."""
    shifts = (bits * jnp.arange(fields.shape[axis], dtype=jnp.int32)).reshape(-1, *(1,) * (fields.ndim - 1 - axis))
    shifts = jnp.broadcast_to(shifts, fields.shape)
    return _to_int8(jnp.sum(jnp.left_shift(fields, shifts), axis=axis, dtype=jnp.int32))


def _spread(byte, axis: int, bits: int):
    """The fields of bytes along a new axis."""
    wide = jnp.expand_dims(byte.astype(jnp.int32) & 255, axis)
    shape = (*wide.shape[:axis], 8 // bits, *wide.shape[axis + 1 :])
    shifts = (bits * jnp.arange(8 // bits, dtype=jnp.int32)).reshape(-1, *(1,) * (wide.ndim - 1 - axis))
    shifted = jnp.right_shift(jnp.broadcast_to(wide, shape), jnp.broadcast_to(shifts, shape))
    return shifted & (2**bits - 1)


@eqx.filter_jit
def pack(codes: Int[ArrayLike, "..."], bits: int, axis: int = 0, plane: int = PLANE) -> Int[Array, "..."]:
    r"""Codes as bytes in the layout "plane128": exactly ``bits / 8`` bytes an entry.

    Args:
        codes: int8, from $-2^{b-1}$ to $2^{b-1} - 1$; the higher bits of others are lost.
        bits: 1, 2 or 4 (static).
        axis: that shrinks by ``8 / bits`` (static).
        plane: entries of a plane (static).

    Returns:
        int8, the axis shortened.

    Raises:
        ValueError: other bits, or an axis that is no multiple of ``plane * 8 / bits``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.quantization import pack
        >>> print(pack(jnp.zeros((512, 3), jnp.int8), 2).shape)
        (128, 3)
    """
    axis = _axis("pack", codes, axis)
    per_byte = check_packable("pack", bits, codes.shape[axis], axis, plane)
    fields = _split(_to_fields(codes, bits), axis, per_byte, plane)
    return _merged(_gathered(fields, axis + 1, bits), axis, 2)


@eqx.filter_jit
def unpack(packed: Int[ArrayLike, "..."], bits: int, axis: int = 0, plane: int = PLANE) -> Int[Array, "..."]:
    """The codes of `pack` again, int8.

    Args:
        packed: int8 bytes.
        bits, axis, plane: as they were packed (static).

    Raises:
        ValueError: other bits, or an axis that is no multiple of `plane`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> codes = jnp.tile(jnp.array([[-8], [7]], jnp.int8), (128, 1))
        >>> print(bool((quantization.unpack(quantization.pack(codes, 4), 4) == codes).all()))
        True
    """
    axis = _axis("unpack", packed, axis)
    check_packable("unpack", bits)
    if packed.shape[axis] % plane:
        raise ValueError(f"unpack: axis {axis} must be a multiple of {plane} bytes, got {packed.shape[axis]}")
    fields = _spread(_split(packed, axis, plane), axis + 1, bits)
    return _from_fields(_merged(fields, axis, 3), bits)


@eqx.filter_jit
def to_interleaved(packed: Int[ArrayLike, "..."], bits: int, axis: int = 0) -> Int[Array, "..."]:
    """Bytes in which neighbours along the axis share a byte, the first in the lowest bits; same shape.

    Args:
        packed: from `pack`.
        bits, axis: as they were packed (static).

    Raises:
        ValueError: as in `unpack`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> codes = jnp.tile(jnp.array([[-8], [7]], jnp.int8), (128, 1))
        >>> print(quantization.to_interleaved(quantization.pack(codes, 4), 4).shape)
        (128, 1)
    """
    axis = _axis("to_interleaved", packed, axis)
    fields = _to_fields(unpack(packed, bits, axis), bits)
    return _gathered(_split(fields, axis, 8 // bits), axis + 1, bits)


@eqx.filter_jit
def from_interleaved(interleaved: Int[ArrayLike, "..."], bits: int, axis: int = 0) -> Int[Array, "..."]:
    """The inverse of `to_interleaved`.

    Raises:
        ValueError: as in `pack`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> packed = quantization.pack(jnp.tile(jnp.array([[-8], [7]], jnp.int8), (128, 1)), 4)
        >>> back = quantization.from_interleaved(quantization.to_interleaved(packed, 4), 4)
        >>> print(bool((back == packed).all()))
        True
    """
    axis = _axis("from_interleaved", interleaved, axis)
    check_packable("from_interleaved", bits)
    fields = _merged(_spread(interleaved, axis + 1, bits), axis, 2)
    return pack(_from_fields(fields, bits), bits, axis)


@eqx.filter_jit
def to_gptq_words(packed: Int[ArrayLike, "..."], bits: int, axis: int = 0) -> Int[Array, "..."]:
    r"""The int32 words of GPTQ's packages: ``32 / bits`` neighbours a word, codes counted from the least one.

    Args:
        packed: from `pack`.
        bits, axis: as they were packed (static).

    Returns:
        int32, the axis a quarter as long. The zero point that belongs to them is $2^{b-1}$.

    Raises:
        ValueError: as in `unpack`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> codes = jnp.tile(jnp.array([[-8], [7]], jnp.int8), (128, 1))
        >>> words = quantization.to_gptq_words(quantization.pack(codes, 4), 4)
        >>> print(words.dtype, words.shape)
        int32 (32, 1)
    """
    axis = _axis("to_gptq_words", packed, axis)
    counted = unpack(packed, bits, axis).astype(jnp.int32) + 2 ** (bits - 1)
    fields = _split(counted, axis, 32 // bits)
    shifts = (bits * jnp.arange(32 // bits, dtype=jnp.int32)).reshape(-1, *(1,) * (fields.ndim - 2 - axis))
    return jnp.sum(jnp.left_shift(fields, jnp.broadcast_to(shifts, fields.shape)), axis=axis + 1, dtype=jnp.int32)


@eqx.filter_jit
def from_gptq_words(words: Int[ArrayLike, "..."], bits: int, axis: int = 0) -> Int[Array, "..."]:
    """The inverse of `to_gptq_words`.

    Raises:
        ValueError: as in `pack`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> codes = jnp.tile(jnp.array([[-8], [7]], jnp.int8), (128, 1))
        >>> packed = quantization.pack(codes, 4)
        >>> back = quantization.from_gptq_words(quantization.to_gptq_words(packed, 4), 4)
        >>> print(bool((back == packed).all()))
        True
    """
    axis = _axis("from_gptq_words", words, axis)
    check_packable("from_gptq_words", bits)
    wide = jnp.expand_dims(words, axis + 1)
    shape = (*wide.shape[: axis + 1], 32 // bits, *wide.shape[axis + 2 :])
    shifts = (bits * jnp.arange(32 // bits, dtype=jnp.int32)).reshape(-1, *(1,) * (wide.ndim - 2 - axis))
    shifted = jnp.right_shift(jnp.broadcast_to(wide, shape), jnp.broadcast_to(shifts, shape))
    counted = _merged(shifted & (2**bits - 1), axis, 2)
    return pack((counted - 2 ** (bits - 1)).astype(jnp.int8), bits, axis)


__all__ = [
    "PLANE",
    "check_packable",
    "from_gptq_words",
    "from_interleaved",
    "pack",
    "to_gptq_words",
    "to_interleaved",
    "unpack",
]
