"""Shapes, inputs and costs of `hadamard_quantize`, shared by its tests and its benchmark."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.hadamard_quantize import hadamard_quantize

CLIP_FACTOR = 2.5140045915
"""The best one for normal numbers and 4 bits."""


def _rows(rows: int, columns: int, dtype: str = "float32") -> tuple[jax.ShapeDtypeStruct]:
    return (jax.ShapeDtypeStruct((rows, columns), dtype),)


SPECS = {
    "one": _rows(1, 256),
    "ragged": _rows(37, 1024),
    "ragged_bfloat16": _rows(67, 512, "bfloat16"),
    "large": _rows(4096, 4096),
    "large_bfloat16": _rows(4096, 4096, "bfloat16"),
    "large_ragged": _rows(4001, 11_264, "bfloat16"),
}
"""Name -> the array of one call."""

TESTED = ("one", "ragged", "ragged_bfloat16")
"""Small enough for the interpreters."""

TIMED = ("large", "large_bfloat16", "large_ragged")
"""Large enough that a timing measures bandwidth, not the launch."""


def make(key: jax.Array, name: str) -> tuple[jax.Array]:
    """Random arguments for the spec `name`, drawn by NumPy."""
    (spec,) = SPECS[name]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return (jnp.asarray(rng.standard_normal(spec.shape), spec.dtype),)


def packed(x, *, bits: int = 4, implementation=None):
    """Packed codes and steps."""
    out = hadamard_quantize(x, CLIP_FACTOR, bits=bits, output="packed", implementation=implementation)
    return out.value, out.step


packed_2, packed_1 = (functools.partial(packed, bits=bits) for bits in (2, 1))


def values(x, *, implementation=None):
    """Values, steps and mask."""
    options = dict(bits=4, output="values", mask=True, implementation=implementation)
    return tuple(hadamard_quantize(x, CLIP_FACTOR, **options))


def slopes(x, *, implementation=None):
    """Gradient of a weighted sum of the values."""

    def total(x):
        out = values(x, implementation=implementation)[0].astype(jnp.float32)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    return jax.grad(total)(x)


def cost(name: str, bits: int = 4) -> tuple[int, int]:
    """(bytes moved, operations) that `packed` needs at least for the spec `name`."""
    (spec,) = SPECS[name]
    products = 1 if spec.dtype == jnp.bfloat16 else 3
    return spec.size * spec.dtype.itemsize + spec.size * bits // 8, products * 256 * spec.size


__all__: list[str] = []
