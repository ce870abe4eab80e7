"""A dense matrix as an operator; its sweeps are triangular solves in the order of its rows."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxsci.core import entry, precision
from jaxsci.core.static import bind
from jaxsci.linear._system import check_square, identity, real_dtype


class Dense(eqx.Module):
    """A dense matrix. Build it with `dense`.

    Attributes:
        matrix: A.
        symmetric: promise that A = A^T, not checked.
    """

    matrix: Float[Array, "n n"]
    symmetric: bool = eqx.field(static=True)

    @property
    def diagonal(self) -> Float[Array, " n"]:
        """The diagonal D."""
        return jnp.diagonal(self.matrix)

    @property
    def mv(self):
        """x -> A x at full precision."""
        return Partial(_mv, self.matrix)

    @property
    def transpose(self) -> "Dense":
        """A^T."""
        return self if self.symmetric else Dense(self.matrix.T, symmetric=False)

    @property
    def ordered(self) -> "Dense":
        """The operator itself: a dense matrix is swept in the storage it has."""
        return self

    @property
    def pack(self):
        """Identity."""
        return Partial(identity)

    @property
    def unpack(self):
        """Identity."""
        return Partial(identity)

    @property
    def lower_mv(self):
        """y -> L y."""
        return Partial(_mv, _part(self.matrix, lower=True))

    @property
    def upper_mv(self):
        """y -> U y."""
        return Partial(_mv, _part(self.matrix, lower=False))

    @property
    def lower(self):
        """omega -> (r -> (D/omega + L)^-1 r)."""
        return Partial(bind(_triangle, lower=True), self.matrix)

    @property
    def upper(self):
        """omega -> (r -> (D/omega + U)^-1 r)."""
        return Partial(bind(_triangle, lower=False), self.matrix)


def _mv(matrix, x):
    return precision.matmul(matrix, x)


def _triangle(matrix, omega, *, lower: bool):
    diagonal = jnp.diag(jnp.diagonal(matrix) / omega)
    return Partial(bind(_substitute, lower=lower), _part(matrix, lower) + diagonal)


def _part(matrix, lower: bool):
    return jnp.tril(matrix, -1) if lower else jnp.triu(matrix, 1)


def _substitute(triangle, r, *, lower: bool):
    return jax.scipy.linalg.solve_triangular(triangle, r, lower=lower)


def dense(matrix: Float[Array, "n n"], *, symmetric: bool = False) -> Dense:
    """A square matrix as an operator on vectors of shape (n,).

    Args:
        matrix: A, traced.
        symmetric: promise that A = A^T (not checked); static. Gradients then reuse the operator itself.

    Raises:
        ValueError: a matrix that is not square, or empty.
        TypeError: a complex matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op = linear.operators.dense(jnp.array([[2.0, 1.0], [0.0, 3.0]]))
        >>> print(op.mv(jnp.array([1.0, 2.0])))
        [4. 6.]
    """
    matrix = jnp.asarray(matrix, real_dtype("dense", matrix))
    check_square("dense", matrix.shape)
    return Dense(matrix, symmetric=symmetric)


__all__ = ["Dense", "dense"]

entry.hold(globals(), "_mv")
