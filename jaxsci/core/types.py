"""Shared aliases and dtype rules: one place for what every signature in jaxsci says.

Symbols in shape strings: ``T`` steps or rounds, ``K`` arms, ``n`` unknowns, ``m`` features, ``rows cols`` a
grid.
"""

from typing import Any, SupportsIndex, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Inexact, Key, PyTree

KeyArray: TypeAlias = Key[Array, ""]
"""One typed key, ``jax.random.key(seed)``; consumed once."""

Size: TypeAlias = SupportsIndex
"""A static number of things: an int, or an integer of NumPy."""


def float_dtype(*trees: PyTree) -> np.dtype:
    """Floating dtype that a computation on these inputs runs in.

    Integers and Booleans count as JAX's default float; float64 appears only when some input has it (and x64
    is on). Derived once at an entry point and kept from there on.
    """
    leaves = [leaf for tree in trees for leaf in jax.tree.leaves(tree)]
    dtype = jnp.result_type(*leaves) if leaves else jnp.result_type(float)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.result_type(float)
    return dtype


def as_float(value: ArrayLike) -> Inexact[Array, "..."]:
    """`value` as an array of its own `float_dtype`: numbers, integers and Booleans become JAX's default float."""
    return jnp.asarray(value, float_dtype(value))


def as_scalar(value: ArrayLike, function: str, argument: str, dtype: Any = None) -> Inexact[Array, ""]:
    """A hyper-parameter as one floating number: in `dtype`, or as `as_float` where `dtype` is None.

    Raises:
        ValueError: `value` has axes; the message names `function` and `argument`.
    """
    if jnp.shape(value) != ():
        raise ValueError(f"{function}: {argument} must be a scalar, got shape {jnp.shape(value)}; use jax.vmap over it")
    return as_float(value) if dtype is None else jnp.asarray(value, dtype)


def concrete(value: Any, function: str, argument: str, alternative: str) -> Any:
    """`value` as NumPy, for a function that runs on the host; a traced one is refused.

    Args:
        value: any pytree of numbers and arrays.
        function: named by the error.
        argument: what `value` is, for the error: one name or several.
        alternative: what to do inside compiled code instead, the end of the error's sentence.

    Raises:
        TypeError: a leaf of `value` is a tracer.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
        raise TypeError(
            f"{function}: {argument} must be concrete because this function runs on the host, got a traced value; "
            f"{alternative}"
        )
    return jax.tree.map(np.asarray, value)


__all__ = ["KeyArray", "Size", "as_float", "as_scalar", "concrete", "float_dtype"]
