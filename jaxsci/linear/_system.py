"""What every method prepares from an operator: the `System` that its steps work on, and the checks they share."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike, Int, PyTree

from jaxsci.core import status
from jaxsci.core.types import float_dtype


class System(NamedTuple):
    """A prepared operator: storage changes, the product, what a step applies, and trouble found on the way."""

    pack: Partial
    unpack: Partial
    mv: Partial
    apply: PyTree
    status: Int[ArrayLike, ""]


def identity(x):
    """x itself: the storage of methods without sweeps, and the preconditioner of plain CG."""
    return x


def scalar(value: ArrayLike, name: str = "omega"):
    """A hyper-parameter as a floating scalar array.

    Raises:
        ValueError: an array with axes: sweep it by vmap.
    """
    value = jnp.asarray(value, float_dtype(value))
    if value.ndim:
        raise ValueError(f"{name} must be a scalar, got shape {value.shape}; use jax.vmap to sweep it")
    return value


def trouble(diagonal, omega=None):
    """Status bits of a zero diagonal and of omega outside (0, 2)."""
    code = status.flag(jnp.any(diagonal == 0), status.SINGULAR)
    if omega is not None:
        # Written so that a NaN counts as outside.
        code = code | status.flag(~((omega > 0) & (omega < 2)), status.OUT_OF_RANGE)
    return code


__all__ = ["System", "identity", "scalar", "trouble"]
