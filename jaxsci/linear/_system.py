"""What every method prepares from an operator, the `System`, and small helpers that the methods share."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike, Int, PyTree

from jaxsci.core import status
from jaxsci.core.types import float_dtype, is_complex


def identity(x):
    """x itself: the storage of methods without sweeps."""
    return x


class System(NamedTuple):
    """An operator prepared for one method, whose steps may work in another storage than the operator's shape.

    Attributes:
        pack: ``pack(x)`` brings a vector into that storage.
        unpack: ``unpack(y)`` brings it back.
        mv: ``mv(y)`` is A y in that storage.
        apply: what a step uses beside the product: a triangular solve, a preconditioner, an interval.
        status: bits of whatever was wrong while preparing; 0 = ok.
        iterate: ``iterate(state.x)`` is the iterate in packed storage. It is x itself, except for methods that keep the
            iterate in a form of their own: with a border of zeros, or as several sweeps at once.
    """

    pack: Partial
    unpack: Partial
    mv: Partial
    apply: PyTree
    status: Int[ArrayLike, ""]
    iterate: Partial = Partial(identity)


class Splitting(NamedTuple):
    """A sweep of SOR in pieces: with A = M + N and M = D/omega + L, the next iterate is M^-1 (b - N x).

    The pieces work on a right-hand side b' and an iterate x' in a form of their own: equations are scaled by omega / D,
    and the iterate has a border of zeros.

    Attributes:
        start: ``start(b, x) -> (b', x')`` brings both into that form.
        iterate: ``iterate(x') -> x`` takes the iterate out of it.
        pull: ``pull(b', x')`` is the scaled b - N x.
        solve: ``solve(pull, x')`` makes the next iterate from the pull; the memory of x' may be overwritten.
        residual: ``residual(pull, x')`` is b - A x, not scaled, if the pull belongs to that same x'.
    """

    start: Partial
    iterate: Partial
    pull: Partial
    solve: Partial
    residual: Partial


def check_square(function: str, shape: tuple[int, ...]) -> None:
    """Refuse what is no square matrix of at least one row."""
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        raise ValueError(f"{function}: expected a square matrix (n, n) with n >= 1, got shape {tuple(shape)}")


def real_dtype(name: str, *trees: PyTree):
    """`float_dtype` of real data; norms, tests and gradients of this room are those of real systems.

    Raises:
        TypeError: a complex entry.
    """
    if is_complex(*trees):
        raise TypeError(
            f"{name}: expected real numbers, got complex ones; write (B + iC)(x + iy) = f + ig as the real system "
            "[[B, -C], [C, B]] of twice the size"
        )
    return float_dtype(*trees)


def default_tol(dtype) -> float:
    """What a solve asks for if nobody says: 1e-8 in double precision, 1e-5 in single, where 1e-6 is about the limit."""
    return 1e-8 if jnp.finfo(dtype).eps < 1e-12 else 1e-5


def as_operand(function: str, x, shape: tuple[int, ...]):
    """`x` as an array of the operator's shape; a shape that broadcasts is none of it.

    Raises:
        ValueError: another shape.
    """
    if jnp.shape(x) != shape:
        raise ValueError(f"{function}: expected an array of the operator's shape {shape}, got {jnp.shape(x)}")
    return jnp.asarray(x)


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


__all__ = ["Splitting", "System", "check_square", "identity", "over", "real_dtype", "trouble"]
