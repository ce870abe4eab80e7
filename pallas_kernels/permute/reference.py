"""The meaning of `permute` in jax.numpy, which is also what runs on a CPU.

In place and with rows of some size a loop copies the rows that change, one after the other: in the carry of a scan XLA
then writes those alone. A batch of such loops would select whole arrays at each turn, so a batch is gathered instead.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

SMALL = 2048
"""Bytes of a row below which one gather is as quick as anything else."""


def row_bytes(x) -> int:
    """Bytes of one row."""
    return x.dtype.itemsize * (x.size // x.shape[0])


def rows(x: jax.Array, ancestors: jax.Array) -> jax.Array:
    """Rows of x by index, clipped."""
    return x.at[ancestors].get(mode="clip", wrap_negative_indices=False)


def call(x: jax.Array, ancestors: jax.Array, *, in_place: bool) -> jax.Array:
    """Rows of x by index; `ancestors` lie in [0, n)."""
    if in_place and row_bytes(x) >= SMALL:
        return _moved(x, ancestors)
    return rows(x, ancestors)


@jax.custom_batching.custom_vmap
def _moved(x, ancestors):
    moves = ancestors != jnp.arange(ancestors.shape[0], dtype=ancestors.dtype)
    (rows,) = jnp.nonzero(moves, size=moves.shape[0], fill_value=0)

    def copy(i, x):
        row = lax.dynamic_index_in_dim(x, ancestors[rows[i]], 0)
        return lax.dynamic_update_slice_in_dim(x, row, rows[i], 0)

    return lax.fori_loop(0, jnp.sum(moves, dtype=jnp.int32), copy, x)


@_moved.def_vmap
def _batch(axis_size, in_batched, x, ancestors):
    axes = [0 if batched else None for batched in in_batched]
    return jax.vmap(rows, axes)(x, ancestors), True


@jax.jit
def settle(ancestors: Int[Array, " n"]) -> Int[Array, " n"]:
    r"""The same offspring in other places: every particle that survives keeps its own, :math:`a_{a_k} = a_k`.

    Args:
        ancestors: (n,) integers in [0, n), in any order.

    Returns:
        (n,) int32: each particle with offspring stays where it is, and the places of those without are filled with the
        copies that are left, in the order of their ancestors.

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels.permute import settle
        >>> settle(jnp.array([1, 1, 1, 3, 3])).tolist()
        [1, 1, 1, 3, 3]
        >>> settle(jnp.array([0, 0, 2, 2, 4])).tolist()
        [0, 0, 2, 2, 4]
        >>> settle(jnp.array([3, 3, 3, 1])).tolist()
        [3, 1, 3, 3]
    """
    num = ancestors.shape[0]
    places = jnp.arange(num, dtype=jnp.int32)
    ordered = jnp.sort(ancestors.astype(jnp.int32))
    again = jnp.concatenate([jnp.zeros(1, bool), ordered[1:] == ordered[:-1]])
    survives = jnp.zeros(num, bool).at[ordered].set(True)
    spare = jnp.zeros(num, jnp.int32)
    spare = spare.at[jnp.where(again, jnp.cumsum(again, dtype=jnp.int32) - 1, num)].set(ordered, mode="drop")
    return jnp.where(survives, places, spare[jnp.maximum(jnp.cumsum(~survives, dtype=jnp.int32) - 1, 0)])


__all__ = ["settle"]
