"""Sparse matrices of SciPy and of `jax.experimental.sparse` as operators."""

import numpy as np

from jaxsci.core.types import as_float, concrete
from jaxsci.linear._sparse import Banded, Sparse, banded, from_coordinates
from jaxsci.linear._system import check_square


def from_scipy(matrix, *, symmetric: bool | None = None) -> Sparse | Banded:
    """A square `scipy.sparse` matrix or array of any format as an operator; a builder.

    The format ``dia`` becomes `operators.banded`, every other format `operators.sparse`; entries at the same place are
    added up.

    Args:
        matrix: float32 and float64 are kept (float64 while x64 is on), integers become floats.
        symmetric: promise that A = A^T; None compares A with A^T.

    Raises:
        TypeError: not a SciPy sparse matrix.
        ValueError: a matrix that is not square, empty, or complex.

    Example:
        >>> import scipy.sparse as sp
        >>> from jaxsci import linear
        >>> op = linear.interop.from_scipy(sp.csr_array([[2.0, -1.0], [-1.0, 2.0]]))
        >>> [float(v) for v in op.mv(jnp.array([1.0, 3.0]))], op.symmetric
        ([-1.0, 5.0], True)
    """
    if not hasattr(matrix, "tocoo") or not hasattr(matrix, "shape"):
        raise TypeError(
            f"from_scipy: expected a scipy.sparse matrix or array, got {type(matrix).__name__}; "
            "use operators.dense for arrays"
        )
    check_square("from_scipy", matrix.shape)
    if np.iscomplexobj(matrix):
        raise ValueError("from_scipy: expected a real matrix, got a complex one; solve its real form")
    if symmetric is None:
        difference = matrix.tocsr() - matrix.T.tocsr()
        symmetric = bool(difference.nnz == 0 or np.abs(difference.data).max() == 0)
    if matrix.format == "dia":
        return _from_dia(matrix, symmetric)
    coordinates = matrix.tocoo()
    data = as_float(coordinates.data)
    return from_coordinates("from_scipy", matrix.shape[0], coordinates.row, coordinates.col, data, symmetric)


def _from_dia(matrix, symmetric: bool) -> Banded:
    """SciPy keeps A[j - o, j] at place j of a diagonal, `banded` A[i, i + o] at place i."""
    size = matrix.shape[0]
    rows = np.zeros((len(matrix.offsets), size), matrix.data.dtype)
    for row, offset, held in zip(rows, matrix.offsets, matrix.data):
        first, last = max(0, offset), min(size + min(0, offset), len(held))
        if first < last:
            row[first - offset : last - offset] = held[first:last]
    return banded(as_float(rows), tuple(matrix.offsets.tolist()), symmetric=symmetric)


def from_bcoo(matrix, *, symmetric: bool = False) -> Sparse:
    """A square `jax.experimental.sparse.BCOO` matrix as `operators.sparse`: values traced, indices built.

    Args:
        matrix: BCOO without batch or dense axes; entries at one place are added up, padding is dropped. Inside jit,
            ``BCOO((data, indices), ...)`` has concrete indices only if `indices` is a JAX array made outside.
        symmetric: promise that A = A^T (not checked); static.

    Raises:
        TypeError: traced indices: the pattern is part of the program.
        ValueError: a matrix that is not square, empty, or has batch or dense axes.

    Differentiable in ``matrix.data``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax.experimental.sparse import BCOO
        >>> from jaxsci import linear
        >>> op = linear.interop.from_bcoo(BCOO.fromdense(jnp.array([[2.0, -1.0], [-1.0, 2.0]])))
        >>> print(op.mv(jnp.array([1.0, 3.0])))
        [-1.  5.]
    """
    if matrix.n_batch or matrix.n_dense or matrix.ndim != 2:
        raise ValueError(
            f"from_bcoo: expected a matrix without batch or dense axes, got shape {matrix.shape} with "
            f"n_batch={matrix.n_batch}, n_dense={matrix.n_dense}; use jax.vmap for a batch"
        )
    check_square("from_bcoo", matrix.shape)
    places = concrete(matrix.indices, "from_bcoo", "indices", "keep the pattern outside and trace the data only")
    held = np.flatnonzero((places < matrix.shape[0]).all(1))
    data = as_float(matrix.data)
    data = data if len(held) == len(places) else data[held]
    return from_coordinates("from_bcoo", matrix.shape[0], *places[held].T, data, symmetric)


__all__ = ["from_bcoo", "from_scipy"]
