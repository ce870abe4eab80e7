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


def require_double(function: str, dtype: Any, allow_float32: bool, reason: str) -> None:
    """Refuse a computation in less than double precision, unless the caller allowed it.

    Args:
        function: named by the error.
        dtype: what the computation would run in, usually `float_dtype` of its inputs.
        allow_float32: the user's argument of that name; True accepts any dtype.
        reason: why single precision is meaningless here: the middle of the error's sentence.

    Raises:
        ValueError: `dtype` is not float64 and `allow_float32` is False; the message names the line to add.
    """
    if dtype != np.dtype("float64") and not allow_float32:
        raise ValueError(
            f'{function}: expected float64, got {dtype}, {reason}; add jax.config.update("jax_enable_x64", True) and '
            "pass float64 arrays, or pass allow_float32=True"
        )


def is_concrete(value: Any) -> bool:
    """Whether no leaf of `value` is a tracer, so that its numbers can be looked at before anything is compiled."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


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
    if not is_concrete(value):
        raise TypeError(
            f"{function}: {argument} must be concrete because this function runs on the host, got a traced value; "
            f"{alternative}"
        )
    return jax.tree.map(np.asarray, value)


__all__ = ["KeyArray", "Size", "as_float", "as_scalar", "concrete", "float_dtype", "is_concrete", "require_double"]
