"""Shared aliases and dtype rules: one place for what every signature in jaxsci says.

Symbols in shape strings: ``T`` steps or rounds, ``K`` arms, ``n`` unknowns, ``m`` features, ``rows cols`` a
grid.
"""

from typing import Any, SupportsIndex, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Inexact, Int, Key, PyTree, Real

from jaxsci.core import entry

KeyArray: TypeAlias = Key[Array, ""]
"""One typed key, ``jax.random.key(seed)``; consumed once."""

Size: TypeAlias = SupportsIndex
"""A static number of things: an int, or an integer of NumPy."""

Scalar: TypeAlias = Real[ArrayLike, ""]
"""One real number without axes, as Python, NumPy and JAX write it; a traced one where the docstring says traced."""


COMPLEX = (
    "expected real numbers, got complex ones, whose imaginary parts would be lost; pass .real, or a function of real "
    "and imaginary part"
)


def float_dtype(*trees: PyTree) -> np.dtype:
    """Floating dtype that a computation on these inputs runs in.

    Integers and Booleans count as JAX's default float; float64 appears only when some input has it (and x64
    is on). Derived once at an entry point and kept from there on.

    Raises:
        TypeError: a complex leaf, of which a cast would keep the real part alone.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import types
        >>> print(types.float_dtype(jnp.ones(2), 3))
        float32
    """
    if is_complex(*trees):
        raise TypeError(COMPLEX)
    leaves = [leaf for tree in trees for leaf in jax.tree.leaves(tree)]
    dtype = jnp.result_type(*leaves) if leaves else jnp.result_type(float)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.result_type(float)
    return dtype


def is_complex(*trees: PyTree) -> bool:
    """Whether some leaf is of a complex dtype, traced ones included.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import types
        >>> print(types.is_complex(jnp.ones(1)), types.is_complex(1j))
        False True
    """
    for leaf in (leaf for tree in trees for leaf in jax.tree.leaves(tree)):
        dtype = getattr(leaf, "dtype", None)
        if isinstance(leaf, complex) or dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
            return True
    return False


def as_float(value: ArrayLike) -> Inexact[Array, "..."]:
    """`value` as an array of its own `float_dtype`: numbers, integers and Booleans become JAX's default float.

    Example:
        >>> from jaxsci.core import types
        >>> print(types.as_float(3).dtype)
        float32
    """
    return jnp.asarray(value, float_dtype(value))


def as_real(value: ArrayLike, dtype: Any) -> Array:
    """`value` as an array of `dtype`, unless that would cut off an imaginary part.

    Raises:
        TypeError: `value` is complex and `dtype` is not.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import types
        >>> print(types.as_real(2, jnp.float32))
        2.0
    """
    if is_complex(value) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(COMPLEX)
    return jnp.asarray(value, dtype)


def as_scalar(value: ArrayLike, function: str, argument: str, dtype: Any = None) -> Inexact[Array, ""]:
    """A hyper-parameter as one floating number: in `dtype`, or as `as_float` where `dtype` is None.

    Raises:
        ValueError: `value` has axes; the message names `function` and `argument`.
        TypeError: `value` is complex.

    Example:
        >>> from jaxsci.core import types
        >>> print(types.as_scalar(0.5, "solve", "tol"))
        0.5
    """
    if jnp.shape(value) != ():
        raise ValueError(f"{function}: {argument} must be a scalar, got shape {jnp.shape(value)}; use jax.vmap over it")
    if is_complex(value):
        raise TypeError(f"{function}: {argument} must be a real number, got {jnp.result_type(value)}")
    return as_float(value) if dtype is None else jnp.asarray(value, dtype)


def as_count(value: ArrayLike, function: str, argument: str) -> Int[Array, ""]:
    """A number of steps or the like, which may be traced, as an int32 scalar. A float that is a whole number counts.

    Raises:
        ValueError: `value` has axes, is no whole number (2.5, NaN), or exceeds int32; the message names `function` and
            `argument`.
        TypeError: `value` is no number, or a traced one of a dtype that is not integer.

    Example:
        >>> from jaxsci.core import types
        >>> print(types.as_count(3.0, "solve", "max_steps"))
        3
    """
    if np.shape(value) != ():
        raise ValueError(f"{function}: {argument} must be a scalar, got shape {np.shape(value)}; use jax.vmap over it")
    if isinstance(value, jax.core.Tracer):
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(
                f"{function}: {argument} must be an integer, got a traced {value.dtype}; use .astype(jnp.int32)"
            )
        return value.astype(jnp.int32)
    number = np.asarray(value)
    if number.dtype.kind not in "iuf":
        raise TypeError(f"{function}: {argument} must be an integer, got {value!r}")
    if not np.isfinite(number) or number != np.floor(number):
        raise ValueError(f"{function}: {argument} must be a whole number, got {value}")
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"{function}: {argument} must fit int32, at most {2**31 - 1}, got {value}")
    return jnp.asarray(int(number), jnp.int32)


def require_double(function: str, dtype: Any, allow_float32: bool, reason: str) -> None:
    """Refuse a computation in less than double precision, unless the caller allowed it.

    Args:
        function: named by the error.
        dtype: what the computation would run in, usually `float_dtype` of its inputs.
        allow_float32: the user's argument of that name; True accepts any dtype.
        reason: why single precision is meaningless here: the middle of the error's sentence.

    Raises:
        ValueError: `dtype` is not float64 and `allow_float32` is False; the message names the line to add.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import types
        >>> types.require_double("solve", jnp.float32, True, "it would be noise")
    """
    if dtype != np.dtype("float64") and not allow_float32:
        raise ValueError(
            f'{function}: expected float64, got {dtype}, {reason}; add jax.config.update("jax_enable_x64", True) and '
            "pass float64 arrays, or pass allow_float32=True"
        )


def is_concrete(value: Any) -> bool:
    """Whether no leaf of `value` is a tracer, so that its numbers can be looked at before anything is compiled.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import types
        >>> print(types.is_concrete(jnp.ones(1)))
        True
    """
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def concrete(value: Any, function: str, argument: str, alternative: str) -> Any:
    """`value` as NumPy, for a function that runs on the host; a traced one is refused.

    Args:
        value: any pytree of numbers and arrays.
        function: named by the error.
        argument: what `value` is, for the error: one name or several.
        alternative: what to do inside compiled code instead, the end of the error's sentence.

    Raises:
        TypeError: a leaf of `value` is a tracer, or complex.

    Example:
        >>> from jaxsci.core import types
        >>> print(types.concrete([1.0, 2.0], "rule", "nodes", "pass the weights"))
        [array(1.), array(2.)]
    """
    if not is_concrete(value):
        raise TypeError(
            f"{function}: {argument} must be concrete because this function runs on the host, got a traced value; "
            f"{alternative}"
        )
    if is_complex(value):
        raise TypeError(f"{function}: {argument} must be real, got complex numbers")
    return jax.tree.map(np.asarray, value)


__all__ = [
    "KeyArray",
    "Scalar",
    "Size",
    "as_count",
    "as_float",
    "as_real",
    "as_scalar",
    "concrete",
    "float_dtype",
    "is_complex",
    "is_concrete",
    "require_double",
]

entry.guard(globals())
