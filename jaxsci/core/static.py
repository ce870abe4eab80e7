"""Static arguments for the functions inside a `jax.tree_util.Partial`, whose own arguments are all leaves.

A family member is ``Partial(bind(function, size=3), *arrays)``: the arrays are traced, the size is part of the
function. Two members bound to equal values are equal, so fresh ones compile nothing again; `functools.partial`
compares by identity and would.
"""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.tree_util import Partial


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
    """
    if not callable(function):
        raise TypeError(f"{caller}: {argument} must be a function, got {type(function).__name__}")
    return function if isinstance(function, (Partial, eqx.Module)) else Partial(function)


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


__all__ = ["as_partial", "bind", "check_size"]
