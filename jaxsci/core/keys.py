"""Keys: typed, consumed once; the key of step or item i is ``fold_in(key, i)`` with i its global index.

The index is the global one on purpose: padding, chunking, resuming and the number of devices then never shift
a random stream.

Numbers of one stream come slowly or fast on a CPU: `unrolled` gives a key of the same stream that draws fast.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int, Key

from jaxsci.core import _threefry, entry
from jaxsci.core.types import KeyArray


def as_typed_key(key: Any, function: str) -> KeyArray:
    """Return `key` if it is one typed key, else raise the TypeError that names the remedy.

    Example:
        >>> import jax
        >>> from jaxsci.core import keys
        >>> print(keys.as_typed_key(jax.random.key(3), "run").shape)
        ()
    """
    generator(key, function)
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
    items = start + jnp.arange(num, dtype=jnp.int32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, items)


def unrolled(key: Key[Array, "..."]) -> Key[Array, "..."]:
    """A key (or an array of them) of the same stream; 256 numbers or more at once come several times sooner on a CPU.

    JAX writes the rounds of its default generator as a loop on a CPU, which keeps the compiler from vectorising them. A
    key from here has them written out: every function of `jax.random` gives the same bits. What is folded in or split
    off is of its kind. jaxsci draws all its own numbers so; in a function that it calls with a key, for instance
    ``move(key, ...)`` of a model, ``jax.random.normal(unrolled(key), shape)`` is as fast (benchmark `draws`). Or pass
    an unrolled key to begin with. It has a dtype of its own, so that it cannot be stacked with, or chosen against,
    other keys: `like` turns it back.

    Args:
        key: typed keys. Those of another generator than JAX's default are returned as they are, and so are all under
            ``jax_threefry_partitionable=False``.

    Raises:
        TypeError: no typed key.

    Example:
        >>> import jax
        >>> from jaxsci.core import keys
        >>> key = jax.random.key(3)
        >>> bool((jax.random.normal(key, (5,)) == jax.random.normal(keys.unrolled(key), (5,))).all())
        True
    """
    if generator(key, "keys.unrolled") != "threefry2x32" or not jax.config.jax_threefry_partitionable:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_threefry.SPEC)


def like(key: Key[Array, "..."], other: Key[Array, "..."]) -> Key[Array, "..."]:
    """`key` as a key of the generator of `other`; meant for `unrolled` keys, whose stream this does not change.

    Example:
        >>> import jax
        >>> from jaxsci.core import keys
        >>> key = jax.random.key(3)
        >>> keys.like(keys.unrolled(key), key).dtype == key.dtype
        True
    """
    name = generator(other, "keys.like")
    return key if generator(key, "keys.like") == name else wrap(jax.random.key_data(key), name)


def generator(key: Key[Array, "..."], function: str = "keys.generator") -> str:
    """Name of the generator of typed keys, to be stored beside their data; `wrap` makes keys of both.

    Example:
        >>> import jax
        >>> from jaxsci.core import keys
        >>> print(keys.generator(jax.random.key(3)))
        threefry2x32
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        got = type(key).__name__ if dtype is None else f"an array of {dtype}{list(np.shape(key))}"
        raise TypeError(f"{function}: key must be a typed key, got {got}; make one with jax.random.key(seed)")
    found = jax.random.key_impl(key)
    return _threefry.NAME if found == _threefry.SPEC else str(found)


def wrap(data: Int[ArrayLike, "..."], name: str) -> Key[Array, "..."]:
    """Keys of their data and the name of their `generator`.

    Example:
        >>> import jax
        >>> from jaxsci.core import keys
        >>> print(keys.wrap(jax.random.key_data(jax.random.key(3)), "threefry2x32").shape)
        ()
    """
    return jax.random.wrap_key_data(jnp.asarray(data), impl=_threefry.SPEC if name == _threefry.NAME else name)


__all__ = ["as_typed_key", "generator", "like", "per_item", "unrolled", "wrap"]

entry.guard(globals())
