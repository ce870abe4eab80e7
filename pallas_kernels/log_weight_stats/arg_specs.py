"""Shapes, inputs and costs of `log_weight_stats`, shared by its tests and its benchmark."""

import jax
import jax.numpy as jnp
import numpy as np


def _vector(n: int, dtype: str = "float32") -> tuple[jax.ShapeDtypeStruct]:
    return (jax.ShapeDtypeStruct((n,), dtype),)


SPECS = {
    "one": _vector(1),
    "block_and_one": _vector(2049),
    "prime_bfloat16": _vector(1009, "bfloat16"),
    "several_steps": _vector(300_007),
    "large": _vector(2**24),
    "large_ragged": _vector(2**24 - 61),
}
"""Name -> the arrays of one call."""

TESTED = ("one", "block_and_one", "prime_bfloat16", "several_steps")
"""Small enough for the interpreters."""

TIMED = ("large", "large_ragged")
"""Large enough that a timing measures bandwidth, not the launch."""


def make(key: jax.Array, name: str) -> tuple[jax.Array]:
    """Random arguments for the spec `name`, drawn by NumPy."""
    (spec,) = SPECS[name]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return (jnp.asarray(3 * rng.standard_normal(spec.shape) - 40, spec.dtype),)


def cost(name: str) -> tuple[int, int]:
    """(bytes moved, operations) that the spec `name` needs at least, an exponential counted as one."""
    (spec,) = SPECS[name]
    return spec.size * spec.dtype.itemsize, 8 * spec.size


__all__: list[str] = []
