"""Packing: every byte, every axis, every width of planes, and what others make of the same codes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.quantization import (
    from_gptq_words,
    from_interleaved,
    pack,
    to_gptq_words,
    to_interleaved,
    unpack,
)

BITS, PLANES, AXES = (1, 2, 4), (1, 8, 128), (0, 1, 2)


def _bytes(axis, plane):
    """All bytes in every place of a plane, along one of three axes."""
    columns = np.stack([np.roll(np.arange(256), 7 * i) for i in range(2)])
    data = np.concatenate([columns] * max(1, plane // 256), axis=1).astype(np.uint8).view(np.int8)
    return np.moveaxis(data.reshape(1, 2, -1), 2, axis)


@functools.cache
def _all():
    """Everything that the tests ask, in one program."""

    @jax.jit
    def run(data):
        out, others = {}, {}
        for bits in BITS:
            for (axis, plane), byte in data.items():
                codes = unpack(byte, bits, axis, plane)
                again = pack(codes, bits, axis, plane)
                out[bits, axis, plane] = codes, again
            byte = data[1, 128]
            other, words = to_interleaved(byte, bits, 1), to_gptq_words(byte, bits, 1)
            others[bits] = other, from_interleaved(other, bits, 1), words, from_gptq_words(words, bits, 1)
        return out, others

    data = {(axis, plane): _bytes(axis, plane) for axis in AXES for plane in PLANES}
    return data, jax.tree.map(np.asarray, run(data))


def _fields(byte, bits):
    """The fields of bytes as a list of arrays, the lowest first."""
    return [(byte.view(np.uint8).astype(int) >> (bits * p)) & (2**bits - 1) for p in range(8 // bits)]


def _signed(fields, bits):
    return np.where(fields >= 8, fields - 16, fields) if bits == 4 else fields - 2 ** (bits - 1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("axis", AXES)
def test_all_bytes_come_back_and_mean_what_the_layout_says(bits, plane, axis):
    data, found = _all()
    byte, (codes, again) = data[axis, plane], found[0][bits, axis, plane]
    np.testing.assert_array_equal(again, byte)
    assert codes.dtype == again.dtype == np.int8 and again.nbytes * 8 == codes.size * bits
    moved = np.moveaxis(byte, axis, -1)
    planes = np.stack(_fields(moved, bits), -1).reshape(*moved.shape[:-1], -1, plane, 8 // bits)
    expected = np.swapaxes(planes, -1, -2).reshape(*moved.shape[:-1], -1)
    np.testing.assert_array_equal(np.moveaxis(codes, axis, -1), _signed(expected, bits))


@pytest.mark.parametrize("bits", BITS)
def test_layouts_of_others(bits):
    data, found = _all()
    other, back, words, from_words = found[1][bits]
    np.testing.assert_array_equal(back, data[1, 128])
    np.testing.assert_array_equal(from_words, data[1, 128])
    codes = found[0][bits, 1, 128][0]
    flat = np.stack(_fields(other, bits), 2).reshape(codes.shape)
    np.testing.assert_array_equal(_signed(flat, bits), codes)
    assert words.dtype == np.int32 and words.shape[1] * 32 == codes.shape[1] * bits
    wide = words.view(np.uint32).astype(np.int64)
    counted = np.stack([(wide >> (bits * i)) & (2**bits - 1) for i in range(32 // bits)], 2).reshape(codes.shape)
    np.testing.assert_array_equal(counted - 2 ** (bits - 1), codes)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pack(jnp.zeros((100, 2), jnp.int8), 4), "multiple of 256, got 100; pad the array"),
        (lambda: pack(jnp.zeros((256, 2), jnp.int8), 2), "multiple of 512, got 256"),
        (lambda: pack(jnp.zeros((256, 2), jnp.int8), 3), "1, 2 or 4 bits are packed, got 3"),
        (lambda: pack(jnp.zeros((256, 2), jnp.int8), 4, axis=2), "within the 2 axes"),
        (lambda: unpack(jnp.zeros((100, 2), jnp.int8), 4), "multiple of 128 bytes, got 100"),
        (lambda: to_interleaved(jnp.zeros((128, 2), jnp.int8), 8), "1, 2 or 4 bits"),
        (lambda: from_interleaved(jnp.zeros((100, 2), jnp.int8), 4), "multiple of 256, got 200"),
        (lambda: from_gptq_words(jnp.zeros((3, 2), jnp.int32), 4), "multiple of 256, got 24"),
    ],
)
@pytest.mark.bad_input
def test_ragged_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
