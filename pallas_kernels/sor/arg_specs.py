"""Shapes, inputs and costs of `sor`, shared by its tests and its benchmark."""

import jax
import jax.numpy as jnp
import numpy as np


def _system(rows: int, cols: int, variable: bool = False, dtype: str = "float32"):
    grid = jax.ShapeDtypeStruct((rows, cols), dtype)
    coefficients = jax.ShapeDtypeStruct((5, rows, cols) if variable else (5,), dtype)
    return grid, grid, coefficients, jax.ShapeDtypeStruct((), "float64" if dtype == "float64" else "float32")


SPECS = {
    "one": _system(1, 1),
    "one_row": _system(1, 9),
    "one_column": _system(9, 1, variable=True),
    "odd": _system(17, 9),
    "half_precision": _system(7, 12, dtype="bfloat16"),
    "several_blocks": _system(37, 511),
    "several_blocks_variable": _system(37, 256, variable=True),
    "medium": _system(400, 401),
    "medium_variable": _system(400, 401, variable=True),
    "large": _system(2048, 2048),
    "large_variable": _system(1024, 1024, variable=True),
    "beyond_chip": _system(4096, 4096),
}
"""Name -> the arrays of one call: u, b, coefficients, omega."""

TESTED = ("one", "one_row", "one_column", "odd", "half_precision")
"""Small enough for the interpreters."""

TIMED = ("medium", "medium_variable", "large", "large_variable", "beyond_chip")
"""Large enough for an accelerator; "beyond_chip" runs by the reference on TPU."""


def system(key: jax.Array, shape, variable: bool, dtype="float32") -> tuple[jax.Array, jax.Array, jax.Array]:
    """Random (u, b, coefficients), drawn by NumPy: a diagonally dominant matrix that is not symmetric.

    `shape` may lead with axes of several right-hand sides.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    matrix = -rng.uniform(0.5, 1.0, (5, *shape[-2:]) if variable else 5)
    matrix[0] += 5.5
    return tuple(jnp.asarray(x, dtype) for x in (rng.standard_normal(shape), rng.standard_normal(shape), matrix))


def make(key: jax.Array, name: str) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Random arguments for the spec `name`, with omega = 1.4."""
    u, _, coefficients, omega = SPECS[name]
    return *system(key, u.shape, coefficients.ndim == 3, u.dtype), jnp.asarray(1.4, omega.dtype)


def cost(name: str, num_sweeps: int) -> tuple[int, int]:
    """(bytes moved, operations) of the spec `name`, every half-sweep from memory: what the roofline line says."""
    u, _, coefficients, omega = SPECS[name]
    per_cell = 4 + (12 if coefficients.ndim == 3 else 0)
    return per_cell * u.size * omega.dtype.itemsize * num_sweeps, 16 * u.size * num_sweeps


__all__: list[str] = []
