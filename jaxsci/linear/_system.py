"""What every method prepares from an operator: the `System` that its steps work on, and what they share."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike, Int, PyTree

from jaxsci.core import status
from jaxsci.core.types import float_dtype


def identity(x):
    """x itself: the storage of methods without sweeps."""
    return x


class System(NamedTuple):
    """A prepared operator: storage changes, the product, what a step applies, trouble found on the way, and the iterate
    of a state's ``x`` in the storage of b."""

    pack: Partial
    unpack: Partial
    mv: Partial
    apply: PyTree
    status: Int[ArrayLike, ""]
    iterate: Partial = Partial(identity)


class Splitting(NamedTuple):
    """SOR on A = M + N, M = D/omega + L, in pieces.

    ``start(b, x)`` is both as the others want them, ``iterate(x)`` the x that it was. ``pull(b, x)`` is
    b - N x up to a scaling of its entries, of which ``solve(pull, x)`` makes the next iterate, in the memory of the
    last if it likes; ``residual(pull, x)`` is b - A x of a pull and its own x.
    """

    start: Partial
    iterate: Partial
    pull: Partial
    solve: Partial
    residual: Partial


def scalar(value: ArrayLike, name: str = "omega"):
    """A hyper-parameter as a floating scalar array.

    Raises:
        ValueError: an array with axes: sweep it by vmap.
    """
    value = jnp.asarray(value, float_dtype(value))
    if value.ndim:
        raise ValueError(f"{name} must be a scalar, got shape {value.shape}; use jax.vmap to sweep it")
    return value


def real_dtype(name: str, *trees: PyTree):
    """`float_dtype` of real data; norms, tests and gradients of this room are those of real systems.

    Raises:
        TypeError: a complex entry.
    """
    dtype = float_dtype(*trees)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{name}: expected real numbers, got {dtype}; write (B + iC)(x + iy) = f + ig as the real system "
            "[[B, -C], [C, B]] of twice the size"
        )
    return dtype


def cast(x: PyTree, dtype) -> PyTree:
    """x with its floating arrays in `dtype`."""
    return jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, x)


def over(omega, diagonal):
    """omega / diagonal in the dtype of the diagonal, 0 where the diagonal is 0."""
    zero = diagonal == 0
    return jnp.where(zero, 0, omega / jnp.where(zero, 1, diagonal)).astype(diagonal.dtype)


def trouble(diagonal, omega=None):
    """Status bits of a zero diagonal and of omega outside (0, 2)."""
    code = status.flag(jnp.any(diagonal == 0), status.SINGULAR)
    if omega is not None:
        # Written so that a NaN counts as outside.
        code = code | status.flag(~((omega > 0) & (omega < 2)), status.OUT_OF_RANGE)
    return code


__all__ = ["Splitting", "System", "cast", "identity", "over", "real_dtype", "scalar", "trouble"]
