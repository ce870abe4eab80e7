"""Shapes, inputs and costs of `extrema`, shared by its tests and its benchmark."""

import jax
import jax.numpy as jnp


def _vector(n: int, dtype: str) -> tuple[jax.ShapeDtypeStruct]:
    return (jax.ShapeDtypeStruct((n,), dtype),)


SPECS = {
    "one": _vector(1, "float32"),
    "one_block": _vector(2048, "float32"),
    "block_and_one": _vector(2049, "float32"),
    "prime_bfloat16": _vector(5003, "bfloat16"),
    "prime_int32": _vector(1009, "int32"),
    "several_steps": _vector(300_007, "float32"),
    "large": _vector(2**26, "float32"),
    "large_ragged": _vector(2**26 - 61, "float32"),
    "large_bfloat16": _vector(2**26, "bfloat16"),
}
"""Name -> the arrays of one call."""

TESTED = ("one", "one_block", "block_and_one", "prime_bfloat16", "prime_int32", "several_steps")
"""Small enough for the interpreters."""

TIMED = ("large", "large_ragged", "large_bfloat16")
"""Large enough that a timing measures bandwidth, not the launch."""


def make(key: jax.Array, name: str) -> tuple[jax.Array]:
    """Random arguments for the spec `name`."""
    (spec,) = SPECS[name]
    if jnp.issubdtype(spec.dtype, jnp.integer):
        return (jax.random.randint(key, spec.shape, -(2**31), 2**31 - 1, spec.dtype),)
    return (jax.random.normal(key, spec.shape, spec.dtype),)


def cost(name: str) -> tuple[int, int]:
    """(bytes moved, operations) that the spec `name` needs at least."""
    (spec,) = SPECS[name]
    return spec.size * spec.dtype.itemsize, 5 * spec.size


__all__: list[str] = []
