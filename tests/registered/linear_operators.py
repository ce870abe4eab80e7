"""Entries of jaxsci.linear: operators, their algebra and orders, sparse matrices of other packages."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.experimental import sparse as jsparse
from jax.tree_util import Partial

import contracts
from contracts import Bad, Compiled, Driver, Family
from jaxsci import linear
from jaxsci.core.static import bind

O = linear.operators
SHAPE = (2, 3)
INDICES, INDPTR = np.array([1, 0, 2, 2, 0, 3, 3]), np.array([0, 2, 3, 5, 7])  # unsorted, a duplicate, an empty diagonal


def _normals(key, dtype, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(contracts.normal(k, shape, dtype) for k, shape in zip(keys, shapes))


def _entry(run, *shapes):
    return lambda key, dtype: (run, _normals(key, dtype, *shapes))


def _tridiagonal(bands):
    return O.banded(bands, (-1, 0, 1))


def _product(x, op):
    return op.mv(x), op.transpose.mv(x), op.diagonal


def _stencil7(x, *coefficients):
    return _product(x, O.stencil7(*coefficients))


def _sparse(data, x):
    return _product(x, O.sparse(data, INDICES, INDPTR))


def _banded(bands, x):
    return _product(x, _tridiagonal(bands))


def _matrix_free(scale, x):
    return _product(x, O.matrix_free(Partial(jnp.multiply, scale), scale))


def _shifted(bands, shift, x):
    return _product(x, O.shifted(_tridiagonal(bands), shift))


def _scaled(bands, factor, x):
    return _product(x, O.scaled(_tridiagonal(bands), factor))


def _add(bands, matrix, x):
    return _product(x, O.add(_tridiagonal(bands), O.dense(matrix)))


def _compose(bands, matrix, x):
    return _product(x, O.compose(_tridiagonal(bands), O.dense(matrix), diagonal=x))


def _as_sparse(diagonal, north, x):
    return _product(x, O.as_sparse(O.stencil5(diagonal, north, 0.0, 0.0, -1.0)))


def _reordered(diagonal, north, r):
    ordered = O.reordered(O.stencil5(diagonal, north, 0.0, 0.0, -1.0), "red-black").ordered
    return ordered.unpack(ordered.lower(diagonal[0, 0])(ordered.pack(r)))


def _from_bcoo(key, dtype):
    indices = jnp.array([[0, 1], [2, 2], [0, 0], [2, 0]])

    def run(data, x):
        return _product(x, linear.interop.from_bcoo(jsparse.BCOO((data, indices), shape=(3, 3))))

    return run, _normals(key, dtype, (4,), (3,))


def _pipelined(key, dtype):
    make = Partial(bind(linear.methods.pipelined_sor, sweeps=3), 1.4)
    contracts.check_method(make, key, dtype, tol=1e-4 if dtype == "float32" else 1e-10)


def _from_scipy(folder):
    matrix = sp.random_array((6, 6), density=0.4, rng=np.random.default_rng(0))
    for form in (matrix.tocsr(), matrix.todia(), matrix.tocoo(), sp.csc_matrix(matrix)):
        op = linear.interop.from_scipy(form)
        np.testing.assert_allclose(op.mv(jnp.ones(6)), matrix @ np.ones(6), rtol=1e-6)
        assert not op.symmetric
    assert linear.interop.from_scipy(sp.eye_array(3)).symmetric


FROM_SCIPY = (
    Bad(lambda _: linear.interop.from_scipy(np.eye(3)), TypeError, "operators.dense"),
    Bad(lambda _: linear.interop.from_scipy(sp.csr_array((2, 3))), ValueError, "square"),
    Bad(lambda _: linear.interop.from_scipy(1j * sp.eye_array(3)), ValueError, "real matrix"),
)


def _from_systems(folder):
    matrices = [sp.eye_array(3).tocsr() * (1.0 + t) for t in range(2)]
    stream = linear.streams.from_systems(matrices, np.ones((2, 3), np.float32), np.arange(2.0))
    for t in range(3):
        carry, problem = stream.next(None, stream.init(None), jnp.int32(t))
        np.testing.assert_allclose(problem.op.mv(problem.b), np.full(3, 1.0 + t % 2), rtol=1e-6)
        assert float(problem.context) == t % 2 and carry.solution.shape == (3,)


FROM_SYSTEMS = (
    Bad(lambda _: linear.streams.from_systems(sp.eye_array(3), np.ones(3)), TypeError, "must be a list"),
    Bad(lambda _: linear.streams.from_systems([np.eye(3)], np.ones(3)), ValueError, "right_hand_sides"),
)
N = (4,)
BANDS = (3, 4)

ENTRIES = {
    "jaxsci.linear.operators.stencil7": Compiled(_entry(_stencil7, *[(2, 2, 3)] * 8), grad=(0, 1, 2, 3, 4, 5, 6, 7)),
    "jaxsci.linear.operators.sparse": Compiled(_entry(_sparse, (7,), N), grad=(0, 1)),
    "jaxsci.linear.operators.banded": Compiled(_entry(_banded, BANDS, N), grad=(0, 1)),
    "jaxsci.linear.operators.matrix_free": Compiled(_entry(_matrix_free, N, N), grad=(0, 1)),
    "jaxsci.linear.operators.shifted": Compiled(_entry(_shifted, BANDS, N, N), grad=(0, 1, 2)),
    "jaxsci.linear.operators.scaled": Compiled(_entry(_scaled, BANDS, (), N), grad=(0, 1, 2)),
    "jaxsci.linear.operators.add": Compiled(_entry(_add, BANDS, (4, 4), N), grad=(0, 1, 2)),
    "jaxsci.linear.operators.compose": Compiled(_entry(_compose, BANDS, (4, 4), N), grad=(0, 1, 2)),
    "jaxsci.linear.operators.as_sparse": Compiled(_entry(_as_sparse, SHAPE, SHAPE, (6,)), grad=(0, 1, 2)),
    "jaxsci.linear.operators.reordered": Compiled(_entry(_reordered, *[SHAPE] * 3), grad=(1, 2)),
    "jaxsci.linear.interop.from_bcoo": Compiled(_from_bcoo, grad=(0, 1)),
    "jaxsci.linear.interop.from_scipy": Driver(bad=FROM_SCIPY, works=_from_scipy),
    "jaxsci.linear.streams.from_systems": Driver(bad=FROM_SYSTEMS, works=_from_systems),
    "jaxsci.linear.methods.pipelined_sor": Family(_pipelined),
}
