"""Shapes, inputs and costs of `resample`, shared by its tests and its benchmark."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.resample import resample


def _cloud(n: int, dtype: str = "float32"):
    return jax.ShapeDtypeStruct((n,), dtype), jax.ShapeDtypeStruct((), "float32")


SPECS = {
    "one": _cloud(1),
    "block_and_one": _cloud(2049),
    "prime_bfloat16": _cloud(1009, "bfloat16"),
    "several_steps": _cloud(70_001),
    "large": _cloud(2**24),
    "large_ragged": _cloud(2**24 - 61),
}
"""Name -> the arrays of one call: log-weights, offset."""

TESTED = ("one", "block_and_one", "prime_bfloat16", "several_steps")
"""Small enough for the interpreters."""

TIMED = ("large", "large_ragged")
"""Large enough that a timing measures bandwidth, not the launch."""


def make(key: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
    """Random arguments for the spec `name`, drawn by NumPy."""
    x, offset = SPECS[name]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray(3 * rng.standard_normal(x.shape) - 40, x.dtype), jnp.asarray(rng.uniform(), offset.dtype)


def as_many(log_weights, offset, *, implementation=None):
    """The op with as many slots as particles."""
    return resample(log_weights, offset, log_weights.shape[0], implementation=implementation)


def cost(name: str) -> tuple[int, int]:
    """(bytes moved, operations) that the spec `name` needs at least, as many slots as particles."""
    x, _ = SPECS[name]
    return (3 * x.dtype.itemsize + 12) * x.size, 60 * x.size


__all__: list[str] = []
