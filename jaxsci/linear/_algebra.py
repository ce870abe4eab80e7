"""Operators made from functions and from other operators: matrix-free, shifted, scaled, sums, products, reordered."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import entry
from jaxsci.core.static import as_partial
from jaxsci.core.types import Scalar, as_real, as_scalar, concrete
from jaxsci.linear._dense import Dense
from jaxsci.linear._sparse import Banded, Sparse, banded_as_sparse, from_coordinates
from jaxsci.linear._stencil import Stencil
from jaxsci.linear._system import real_dtype

# Kinds whose arrays are the entries of the matrix: a multiple of the operator is the multiple of every array.
_ENTRIES = (Banded, Dense, Sparse, Stencil)

_NO_TRIANGLES = (
    "SOR, SSOR and their preconditioners need triangular solves, which a matrix-free operator (also a product, or a "
    "sum of different kinds) does not have; use cg, chebyshev or jacobi, or build it by stencil5, stencil7, banded, "
    "sparse or dense"
)


def _no_triangles(op):
    """An operator that is known by its product alone has no triangular solves.

    Raises:
        ValueError: always; the message names what to use instead.
    """
    raise ValueError(_NO_TRIANGLES)


class MatrixFree(eqx.Module):
    """An operator known by its product and diagonal alone. Build it with `matrix_free`.

    Attributes:
        mv: ``mv(x) -> A x``.
        transpose_mv: ``transpose_mv(y) -> A^T y``; None lets JAX transpose `mv`.
        diagonal: D, in the shape of x.
        symmetric: promise that A = A^T, not checked.
    """

    mv: Callable
    transpose_mv: Callable | None
    diagonal: Float[Array, "..."]
    symmetric: bool = eqx.field(static=True)

    @property
    def transpose(self) -> "MatrixFree":
        """A^T; where no transposed product was given, JAX transposes the product."""
        if self.symmetric:
            return self
        back = Partial(_linear_transpose, self.mv, self.diagonal) if self.transpose_mv is None else self.transpose_mv
        return MatrixFree(back, self.mv, self.diagonal, symmetric=False)

    ordered = property(_no_triangles)


def _linear_transpose(mv, diagonal, y):
    like = jax.ShapeDtypeStruct(diagonal.shape, diagonal.dtype)
    return jax.linear_transpose(mv, like)(y)[0]


def matrix_free(
    mv: Callable, diagonal: Float[Array, "..."], *, transpose_mv: Callable | None = None, symmetric: bool = False
) -> MatrixFree:
    """An operator from a function x -> A x.

    Args:
        mv: linear in x. A `jax.tree_util.Partial` has its leaves traced: gradients flow into them and new values
            compile nothing. A bare function is static.
        diagonal: D in the shape of x, traced; it fixes the operator's shape and dtype.
        transpose_mv: y -> A^T y; by default the transpose of `mv` taken by JAX.
        symmetric: promise that A = A^T (not checked); static.

    Raises:
        ValueError: `mv` does not return the shape and dtype of `diagonal`.
        TypeError: a complex diagonal, or something that cannot be called.

    There are no triangular solves: SOR and SSOR raise, cg, chebyshev and jacobi work.

    Example:
        >>> from jaxsci import linear
        >>> op = linear.operators.matrix_free(lambda x: 4 * x, 4 * jnp.ones(2), symmetric=True)
        >>> [float(v) for v in linear.solve(op, jnp.ones(2), method=linear.methods.cg(), tol=1e-5).value]
        [0.25, 0.25]
    """
    diagonal = jnp.asarray(diagonal, real_dtype("matrix_free", diagonal))
    mv = as_partial(mv, "matrix_free", "mv")
    got = jax.eval_shape(mv, diagonal)
    if (getattr(got, "shape", None), getattr(got, "dtype", None)) != (diagonal.shape, diagonal.dtype):
        raise ValueError(
            f"matrix_free: mv must map shape {diagonal.shape} and dtype {diagonal.dtype}, those of diagonal, to "
            f"itself, got {got}"
        )
    back = None if transpose_mv is None else as_partial(transpose_mv, "matrix_free", "transpose_mv")
    return MatrixFree(mv, back, diagonal, symmetric=symmetric)


def shifted(op, shift: ArrayLike):
    """A + c I, or A + diag(c), as an operator of the kind of `op`: if `op` has triangular solves, so has the result.

    Args:
        op: an operator.
        shift: c, a scalar or an array of the operator's shape, traced.

    Raises:
        ValueError: another shape.

    Differentiable in both.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op = linear.operators.shifted(linear.operators.dense(jnp.eye(2)), 3.0)
        >>> print(op.mv(jnp.array([1.0, 2.0])))
        [4. 8.]
    """
    like = _like(op)
    shift = as_real(shift, like.dtype)
    if shift.ndim and shift.shape != like.shape:
        raise ValueError(f"shifted: expected a scalar or shape {like.shape}, got {shift.shape}")
    shift = jnp.broadcast_to(shift, like.shape)
    if isinstance(op, Dense):
        return dataclasses.replace(op, matrix=op.matrix + jnp.diag(shift))
    if isinstance(op, _ENTRIES):
        return dataclasses.replace(op, diagonal=op.diagonal + shift)
    return add(op, MatrixFree(Partial(jnp.multiply, shift), None, shift, symmetric=True))


def scaled(op, factor: Scalar):
    """factor A, of the kind of `op`; `factor` is a traced scalar. Differentiable in both.

    Raises:
        ValueError: `factor` is not a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op = linear.operators.scaled(linear.operators.dense(jnp.eye(2)), 3.0)
        >>> print(op.mv(jnp.array([1.0, 2.0])))
        [3. 6.]
    """
    factor = as_scalar(factor, "scaled", "factor", _like(op).dtype)
    if isinstance(op, _ENTRIES):
        return jax.tree.map(lambda a: factor * a, op)
    if isinstance(op, Sum):
        return dataclasses.replace(op, one=scaled(op.one, factor), other=scaled(op.other, factor))
    if isinstance(op, Product):
        given = None if op.given is None else factor * op.given
        return dataclasses.replace(op, outer=scaled(op.outer, factor), given=given)
    mv, back = (Partial(_scaled_mv, factor, each.mv) for each in (op, op.transpose))
    return MatrixFree(mv, back, factor * op.diagonal, symmetric=op.symmetric)


def _scaled_mv(factor, mv, x):
    return factor * mv(x)


def add(a, b):
    """A + B. Two operators of one kind (both sparse, both banded, ...) give that kind, with the entries of both, swept
    in the order of A. Operators of different kinds give an operator that is known by its product and diagonal alone.

    Raises:
        ValueError: operators of different shapes.

    Differentiable in both.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op = linear.operators.add(linear.operators.dense(jnp.eye(2)), linear.operators.dense(jnp.ones((2, 2))))
        >>> print(op.mv(jnp.array([1.0, 2.0])))
        [4. 5.]
    """
    _same_shape("add", a, b)
    symmetric = a.symmetric and b.symmetric
    if isinstance(a, Sparse) and isinstance(b, Sparse):
        places, data = zip(_coordinates(a), _coordinates(b))
        rows, cols = np.concatenate(places, axis=1)
        op = from_coordinates("add", a.pattern.size, rows, cols, jnp.concatenate(data), symmetric)
        return dataclasses.replace(op, order=a.order)
    if isinstance(a, Banded) and isinstance(b, Banded):
        offsets = tuple(dict.fromkeys(a.offsets + b.offsets))
        a, b = _with_offsets(a, offsets), _with_offsets(b, offsets)
    if type(a) is type(b) and isinstance(a, _ENTRIES):
        same = {"symmetric": symmetric} | ({"order": a.order} if hasattr(a, "order") else {})
        a, b = dataclasses.replace(a, **same), dataclasses.replace(b, **same)
        if jax.tree.structure(a) == jax.tree.structure(b):
            return jax.tree.map(jnp.add, a, b)  # a scalar coefficient may meet one per cell
    return Sum(a, b, symmetric=symmetric)


def _with_offsets(op: Banded, offsets: tuple[int, ...]) -> Banded:
    """The same matrix with a band at each of `offsets`, zeros where it had none."""
    held = dict(zip(op.offsets, op.bands))
    bands = [held.get(offset, jnp.zeros_like(op.diagonal)) for offset in offsets]
    return dataclasses.replace(op, bands=jnp.stack(bands) if bands else op.bands, offsets=offsets)


class Sum(eqx.Module):
    """A + B as a function, from `add`.

    Attributes:
        one: operator A.
        other: operator B.
        symmetric: whether both are symmetric.
    """

    one: eqx.Module
    other: eqx.Module
    symmetric: bool = eqx.field(static=True)

    @property
    def mv(self):
        """x -> A x + B x."""
        return Partial(_sum_mv, self.one.mv, self.other.mv)

    @property
    def diagonal(self) -> Float[Array, "..."]:
        """The sum of both diagonals."""
        return self.one.diagonal + self.other.diagonal

    @property
    def transpose(self) -> "Sum":
        """A^T + B^T."""
        return self if self.symmetric else Sum(self.one.transpose, self.other.transpose, symmetric=False)

    ordered = property(_no_triangles)


def _sum_mv(mv, other, x):
    return mv(x) + other(x)


def _coordinates(op: Sparse):
    """Places (2, given) and values of all entries."""
    index = np.arange(op.pattern.size, dtype=np.int32)
    rows, cols = np.concatenate([index, op.pattern.rows]), np.concatenate([index, op.pattern.cols])
    return np.stack([rows, cols]), jnp.concatenate([op.diagonal, op.entries])


class Product(eqx.Module):
    """A B as a function. Build it with `compose`.

    Attributes:
        outer: operator A.
        inner: operator B.
        given: diagonal of A B; None: it is computed when it is read, by one product per unknown.
        symmetric: promise that A B is symmetric, not checked.
    """

    outer: eqx.Module
    inner: eqx.Module
    given: Float[Array, "..."] | None
    symmetric: bool = eqx.field(static=True)

    @property
    def mv(self):
        """x -> A (B x)."""
        return Partial(_product_mv, self.outer.mv, self.inner.mv)

    @property
    def diagonal(self) -> Float[Array, "..."]:
        """The diagonal D: as given, or computed here by one product per unknown."""
        return _probe(self.mv, self.inner.diagonal) if self.given is None else self.given

    @property
    def transpose(self) -> "Product":
        """B^T A^T."""
        if self.symmetric:
            return self
        return Product(self.inner.transpose, self.outer.transpose, self.given, symmetric=False)

    ordered = property(_no_triangles)


def compose(a, b, *, diagonal: Float[Array, "..."] | None = None, symmetric: bool = False) -> Product:
    """A B, known by its product alone.

    Args:
        a, b: operators of one shape.
        diagonal: D of the product, traced. None: it is computed when a method reads it, by one product per unknown;
            cg and chebyshev never read it.
        symmetric: promise that A B is symmetric (not checked); static.

    Raises:
        ValueError: operators, or a diagonal, of different shapes.

    Differentiable in both.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> double, sums = linear.operators.dense(2 * jnp.eye(2)), linear.operators.dense(jnp.ones((2, 2)))
        >>> op = linear.operators.compose(double, sums)
        >>> print(op.mv(jnp.array([1.0, 2.0])))
        [6. 6.]
    """
    like = _same_shape("compose", a, b)
    if diagonal is not None:
        diagonal = as_real(diagonal, like.dtype)
        if diagonal.shape != like.shape:
            raise ValueError(f"compose: expected a diagonal of shape {like.shape}, got {diagonal.shape}")
    return Product(a, b, diagonal, symmetric=symmetric)


def _product_mv(outer, inner, x):
    return outer(inner(x))


@eqx.filter_jit
def _probe(mv, like):
    """The diagonal, entry i from the product with the unit vector e_i."""
    zero = jnp.zeros(like.size, like.dtype)

    def entry(i):
        return mv(zero.at[i].set(1).reshape(like.shape)).reshape(-1)[i]

    return jax.lax.map(entry, jnp.arange(like.size)).reshape(like.shape)


def _like(op) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the operator's vectors, without computing its diagonal."""
    return eqx.filter_eval_shape(lambda op: op.diagonal, op)


def _same_shape(name: str, a, b) -> jax.ShapeDtypeStruct:
    a, b = _like(a), _like(b)
    if a.shape != b.shape:
        raise ValueError(f"{name}: operators of one shape expected, got {a.shape} and {b.shape}")
    return a


def as_sparse(op) -> Sparse:
    """A stencil or banded operator as `Sparse` on vectors (n,), grids in row-major numbering.

    Raises:
        TypeError: an operator whose pattern is not known.

    Differentiable in the coefficients.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op = linear.operators.as_sparse(linear.operators.shifted_laplacian((2, 2)))
        >>> print(op.mv(jnp.ones(4)))
        [2. 2. 2. 2.]
    """
    if isinstance(op, Sparse):
        return op
    if isinstance(op, Banded):
        return banded_as_sparse(op)
    if not isinstance(op, Stencil):
        raise TypeError(f"as_sparse: expected a stencil, banded or sparse operator, got {type(op).__name__}")
    index = np.arange(op.diagonal.size).reshape(op.diagonal.shape)
    parts = [(index, index, op.diagonal)]
    for axis, (before, after) in enumerate(zip(op.before, op.after)):
        first, last = (np.moveaxis(index, axis, 0)[side] for side in (np.s_[:-1], np.s_[1:]))
        before, after = (jnp.moveaxis(jnp.broadcast_to(c, index.shape), axis, 0) for c in (before, after))
        parts += [(last, first, before[1:]), (first, last, after[:-1])]
    rows, cols, data = zip(*parts)
    rows, cols = (np.concatenate([a.reshape(-1) for a in places]) for places in (rows, cols))
    return from_coordinates(
        "as_sparse", op.diagonal.size, rows, cols, jnp.concatenate([a.reshape(-1) for a in data]), op.symmetric
    )


def reordered(op, order: str | Int[ArrayLike, " n"]):
    """The same matrix, swept in another order of its unknowns; products do not change.

    SOR converges about as fast in all of the named orders. An SSOR preconditioner does not: with red-black or
    multicolour sweeps it can take three times as many iterations.

    Args:
        op: a stencil ("natural" or "red-black": even index sums first), or a banded or sparse operator ("natural",
            "multicolor": greedy colours, or the unknowns in the order of their update).
        order: static; an array is built.

    Raises:
        ValueError: an order that this kind of operator does not have, or an array that is not a permutation.
        TypeError: a traced order.

    Example:
        >>> from jaxsci import linear
        >>> op, b = linear.operators.shifted_laplacian((10, 10)), jnp.ones((10, 10))
        >>> sor = linear.methods.sor(1.5)
        >>> for order in ("natural", "red-black"):
        ...     result = linear.solve(linear.operators.reordered(op, order), b, method=sor, tol=1e-3)
        ...     print(int(result.steps))
        25
        27

    References: Saad 2003, sections 3.3 and 12.4.
    """
    if isinstance(op, Stencil):
        known = ("natural", "red-black")
    elif isinstance(op, (Sparse, Banded)):
        known = ("natural", "multicolor")
    else:
        raise ValueError(
            f"reordered: {type(op).__name__} is swept as it is numbered; permute it yourself, or use a stencil, banded "
            "or sparse operator"
        )
    if isinstance(order, str):
        if order not in known:
            raise ValueError(
                f"reordered: {type(op).__name__} has the orders {known}, got {order!r}; operators.as_sparse turns a "
                "stencil into a sparse operator"
            )
        return dataclasses.replace(op, order=order)
    sequence = np.asarray(concrete(order, "reordered", "order", "choose the order outside"))
    size = op.diagonal.shape[0]
    if isinstance(op, Stencil) or sequence.shape != (size,) or not np.array_equal(np.sort(sequence), np.arange(size)):
        raise ValueError(
            f"reordered: expected one of {known}"
            + ("; operators.as_sparse(op) takes any permutation" if isinstance(op, Stencil) else "")
            + f", or for banded and sparse operators each of 0 .. n - 1 once, got shape {sequence.shape}"
        )
    return dataclasses.replace(op, order=tuple(sequence.tolist()))


__all__ = ["MatrixFree", "Product", "add", "as_sparse", "compose", "matrix_free", "reordered", "scaled", "shifted"]

entry.hold(globals(), "_linear_transpose", "_product_mv", "_scaled_mv", "_sum_mv")
