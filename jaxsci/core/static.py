"""Static arguments for the functions inside a `jax.tree_util.Partial`, whose own arguments are all leaves.

A family member is ``Partial(bind(function, size=3), *arrays)``: the arrays are traced, the size is part of the
function. Two members bound to equal values are equal, so fresh ones compile nothing again; `functools.partial`
compares by identity and would.
"""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import jax


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


def check_size(function: str, name: str, value: Any, *, least: int = 1) -> int:
    """A static size as an int.

    Args:
        function: named by the error.
        name: the argument's name, for the error.
        value: an int or an integer of NumPy; a Boolean is none.
        least: the smallest value allowed.

    Raises:
        ValueError: `value` is no integer or below `least`.
    """
    try:
        size = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        size = None
    if size is None or size < least:
        raise ValueError(f"{function}: {name} must be an int >= {least}, got {value!r}")
    return size


__all__ = ["bind", "check_size"]
