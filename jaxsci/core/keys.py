"""Keys: typed, consumed once; the key of step or item i is ``fold_in(key, i)`` with i its global index.

The index is the global one on purpose: padding, chunking, resuming and the number of devices then never shift
a random stream.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from jaxsci.core import entry
from jaxsci.core.types import KeyArray


def as_typed_key(key: Any, function: str) -> KeyArray:
    """Return `key` if it is one typed key, else raise the TypeError that names the remedy.

    Example:
        >>> import jax
        >>> from jaxsci.core import keys
        >>> print(keys.as_typed_key(jax.random.key(3), "run").shape)
        ()
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        got = type(key).__name__ if dtype is None else f"an array of {dtype}{list(np.shape(key))}"
        raise TypeError(f"{function}: key must be a typed key, got {got}; make one with jax.random.key(seed)")
    if np.shape(key) != ():
        raise ValueError(f"{function}: expects one key, got keys of shape {np.shape(key)}; use jax.vmap over keys")
    return key


def per_item(key: KeyArray, num: int, *, start: Int[Array, ""] | int = 0) -> Key[Array, " num"]:
    """Keys of the items start, ..., start + num - 1: ``fold_in(key, i)`` for each global index i.

    Args:
        key: one typed key.
        num: how many (static).
        start: global index of the first (traced), so that a chunk gets the keys it would have in the whole.

    Example:
        >>> import jax
        >>> from jaxsci.core import keys
        >>> whole = keys.per_item(jax.random.key(0), 5)
        >>> bool((whole[3:] == keys.per_item(jax.random.key(0), 2, start=3)).all())
        True
    """
    key = as_typed_key(key, "keys.per_item")
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, start + jnp.arange(num, dtype=jnp.int32))


__all__ = ["as_typed_key", "per_item"]

entry.guard(globals())
