"""Static arguments for the functions inside a `jax.tree_util.Partial`, whose own arguments are all leaves.

A family member is ``Partial(bind(function, size=3), *arrays)``: the arrays are traced, the size is part of the
function. Two members bound to equal values are equal, so fresh ones compile nothing again; `functools.partial`
compares by identity and would.
"""

import dataclasses
import operator
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.tree_util import Partial

from jaxsci.core import entry


@dataclasses.dataclass(frozen=True)
class Bound:
    """A module-level function with static keyword arguments, equal and hashable by value."""

    function: Callable
    items: tuple[tuple[str, Any], ...]

    def __call__(self, *args, **kwargs):
        """Call the function with its bound arguments added."""
        return self.function(*args, **dict(self.items), **kwargs)


def bind(function: Callable, **static) -> Bound:
    """`function` with hashable keyword arguments fixed, compared by value.

    Raises:
        TypeError: an argument that is an array or cannot be hashed: pass it as a leaf of the `Partial` instead.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import static
        >>> print(static.bind(jnp.sum, axis=0)(jnp.ones((2, 3))))
        [2. 2. 2.]
    """
    for name, value in static.items():
        try:
            hash(value)
        except TypeError:
            unhashable = True
        else:
            unhashable = isinstance(value, jax.Array)
        if unhashable:
            raise TypeError(
                f"bind: {name} must be hashable to be static, got {type(value).__name__}; "
                "pass arrays as leaves of the Partial, lists as tuples"
            )
    return Bound(function, tuple(sorted(static.items())))


def as_partial(function: Callable, caller: str, argument: str) -> Callable:
    """A function as a pytree, so that a record which holds it crosses jit and stacks under vmap.

    A `jax.tree_util.Partial` or an `equinox.Module` comes back as it is: its arrays stay leaves. Any other callable
    becomes a Partial without leaves, which is static: another function is another compilation.

    Args:
        function: what the user plugged in.
        caller: named by the error.
        argument: the argument's name, for the error.

    Raises:
        TypeError: `function` cannot be called.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import static
        >>> print(static.as_partial(jnp.sin, "solve", "f")(0.0))
        0.0
    """
    if not callable(function):
        raise TypeError(f"{caller}: {argument} must be a function, got {type(function).__name__}")
    if isinstance(function, (Partial, eqx.Module)):
        return function
    warn_of_new_objects(function, caller, argument)
    return Partial(function)


# How often one place in the source may make a function anew before it is said what that costs.
_MANY = 100
_made: dict[tuple[str, str, Any], tuple[int, weakref.ref]] = {}


def warn_of_new_objects(function: Callable, caller: str, argument: str) -> None:
    """Warn once where the same line of source has handed over a hundred functions, each another object.

    A function that is static counts by identity. One that is made anew before every call, a lambda in a loop, is
    compiled at every call, and JAX keeps each program with its memory maps, of which a process has some ten thousand.

    Args:
        function: what the user plugged in; only functions of Python have a source line to tell.
        caller: named by the warning.
        argument: the argument's name, for the warning.

    Example:
        >>> from jaxsci.core import static
        >>> static.warn_of_new_objects(print, "solve", "cost")
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return
    place = (caller, argument, code)
    count, last = _made.get(place, (0, None))
    if last is not None and last() is function:
        return
    _made[place] = count + 1, weakref.ref(function)
    if count + 1 == _MANY:
        warnings.warn(
            f"{caller}: {argument} was {_MANY} different functions so far, all made in line {code.co_firstlineno} of "
            f"{code.co_filename} ({code.co_name}). Each is compiled anew and its program stays in memory. Make the "
            "function once, outside the loop, and pass what changes as an array: jax.tree_util.Partial(function, x)",
            stacklevel=3,
        )


def check_size(function: str, name: str, value: Any, *, least: int = 1) -> int:
    """A static size as an int.

    Args:
        function: named by the error.
        name: the argument's name, for the error.
        value: an int or an integer of NumPy; a Boolean is none.
        least: the smallest value allowed.

    Raises:
        ValueError: `value` is no integer, below `least`, or too large for the int32 that counts.
        TypeError: `value` is traced.

    Example:
        >>> from jaxsci.core import static
        >>> print(static.check_size("run", "num_steps", 3))
        3
    """
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{function}: {name} must be static, a Python int, got a traced value; keep it out of the arguments of jit "
            "and vmap (jax.jit(..., static_argnames=...), sweep.static)"
        )
    try:
        size = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        size = None
    if size is None or size < least:
        raise ValueError(f"{function}: {name} must be an int >= {least}, got {value!r}")
    if size >= 2**31:
        raise ValueError(f"{function}: {name} must be an int <= {2**31 - 1}, got {value!r}")
    return size


__all__ = ["as_partial", "bind", "check_size", "warn_of_new_objects"]

entry.guard(globals())
