"""Shapes, inputs and costs of `permute`, shared by its tests and its benchmark."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.permute import permute, settle


def _rows(n: int, row: tuple[int, ...], dtype: str = "float32", m: int | None = None):
    return jax.ShapeDtypeStruct((n, *row), dtype), jax.ShapeDtypeStruct((n if m is None else m,), "int32")


SPECS = {
    "one": _rows(1, (512,)),
    "ragged": _rows(37, (3, 171), m=53),
    "prime_bfloat16": _rows(13, (1031,), "bfloat16"),
    "integers": _rows(29, (600,), "int32"),
    "caches": _rows(64, (2, 64, 2, 32)),
    "large": _rows(256, (4, 128, 4, 64)),
}
"""Name -> the arrays of one call: rows, ancestors."""

TESTED = ("one", "ragged", "prime_bfloat16", "integers", "caches")
"""Small enough for the interpreters."""

TIMED = ("caches", "large")
"""Caches of a decoder: particles, layers, length, groups, width."""


def make(key: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
    """Random arguments for the spec `name`, drawn by NumPy: ancestors as a resampling of uneven weights leaves them."""
    x, ancestors = SPECS[name]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    weights = np.exp(rng.standard_normal(x.shape[0]))
    ends = np.cumsum(weights / weights.sum())
    m = ancestors.shape[0]
    drawn = np.searchsorted(ends, (np.arange(m) + rng.uniform()) / m, side="right").clip(max=x.shape[0] - 1)
    rows = 100 * rng.standard_normal(x.shape)
    return jnp.asarray(rows.astype(x.dtype)), jnp.asarray(drawn, jnp.int32)


def settled(x, ancestors, *, implementation=None):
    """The op in place, of the same offspring."""
    return permute(x, settle(ancestors), in_place=True, implementation=implementation)


def cost(name: str) -> tuple[int, int]:
    """(bytes moved, operations) that the spec `name` needs at least, if every row moves."""
    x, ancestors = SPECS[name]
    return ancestors.size * (2 * x.dtype.itemsize * (x.size // x.shape[0]) + 4), 0


__all__: list[str] = []
