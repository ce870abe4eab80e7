"""Operators against dense and SciPy matrices: products, transposes, algebra, solves and their gradients, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental import sparse as jsparse
from jax.tree_util import Partial

from jaxsci import linear
from jaxsci.core import status
from jaxsci.linear import _algebra

O, M = linear.operators, linear.methods


@jax.jit
def _columns(op, eye):
    return jax.vmap(lambda x: (op.mv(x), op.transpose.mv(x)))(eye), op.diagonal


def _matrix(op):
    """The matrix of an operator, that of its transpose, and its diagonal; unknowns in row-major numbering."""
    like = jax.eval_shape(lambda op: op.diagonal, op)
    eye = np.eye(like.size, dtype=like.dtype).reshape(-1, *like.shape)
    columns, diagonal = _columns(op, eye)
    return *(np.asarray(c).reshape(len(eye), -1).T for c in columns), np.asarray(diagonal).reshape(-1)


def _random(size, density, seed):
    a = sp.random_array((size, size), density=density, rng=np.random.default_rng(seed)).tocsr()
    return a, np.asarray(a.todense())


def _check(op, a, rtol=1e-13):
    """Products, transpose and diagonal of `op` are those of the dense matrix `a`."""
    there, back, diagonal = _matrix(op)
    scale = np.abs(a).max(initial=1.0)
    np.testing.assert_allclose(there, a, atol=rtol * scale)
    np.testing.assert_allclose(back, a.T, atol=rtol * scale)
    np.testing.assert_allclose(diagonal, np.diag(a), atol=rtol * scale)


# --- matrices ----------------------------------------------------------------------------------------------


def _stencil_matrix(shape, parts):
    """Entry by entry, from the definition."""
    index = np.arange(np.prod(shape)).reshape(shape)
    a = np.zeros((index.size, index.size))
    axes = len(shape)
    for place in np.ndindex(*shape):
        i = index[place]
        a[i, i] = parts[0][place]
        for axis in range(axes):
            for side, step in ((0, -1), (1, 1)):
                near = list(place)
                near[axis] += step
                if 0 <= near[axis] < shape[axis]:
                    a[i, index[tuple(near)]] = parts[1 + 2 * axis + side][place]
    return a


@pytest.mark.x64
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
def test_stencils_against_their_definition(shape, key):
    """Arguments come in pairs (before, after) per axis: below and above, north and south, west and east."""
    parts = jax.random.normal(key, (1 + 2 * len(shape), *shape))
    op = (O.stencil5 if len(shape) == 2 else O.stencil7)(*parts)
    a = _stencil_matrix(shape, np.asarray(parts))
    _check(op, a)
    _check(O.as_sparse(op), a)
    constant = np.arange(1.0, 2 * len(shape) + 2)
    made = (O.stencil5 if len(shape) == 2 else O.stencil7)(*constant, shape=shape)
    _check(made, _stencil_matrix(shape, constant[(slice(None), *[None] * len(shape))] * np.ones((1, *shape))))
    laplacian = _matrix(O.shifted_laplacian(shape, 0.5))[0]
    np.testing.assert_array_equal(laplacian, laplacian.T)
    assert laplacian[0, 0] == 2 * len(shape) + 0.5 and laplacian[0, 1] == -1


@pytest.mark.x64
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6])
def test_sparse_against_scipy(density):
    """Unsorted rows, entries given twice, empty rows."""
    size, rng = 13, np.random.default_rng(1)
    count = int(density * size * size)
    rows, cols = rng.integers(0, size, (2, count))
    data = rng.standard_normal(count)
    rows.sort()
    indptr = np.searchsorted(rows, np.arange(size + 1))
    a = sp.coo_array((data, (rows, cols)), (size, size)).toarray()
    op = O.sparse(jnp.asarray(data), cols, indptr)
    _check(op, a)
    keep = jsparse.BCOO((jnp.asarray(data), jnp.asarray(np.stack([rows, cols], 1))), shape=(size, size))
    _check(linear.interop.from_bcoo(keep), a)


@pytest.mark.x64
def test_one_long_row_is_added_entry_by_entry(key):
    """An arrow: padding every row to the longest would take n^2; products still work, sweeps say what to do."""
    size = 1100
    arrow = sp.diags_array([3.0 * np.ones(size)], offsets=[0]).tolil()
    arrow[-1, :-1] = 0.01
    arrow = arrow.tocsr()
    op = linear.interop.from_scipy(arrow)
    x = jax.random.normal(key, (size,))
    np.testing.assert_allclose(op.mv(x), arrow @ np.asarray(x), rtol=1e-12)
    np.testing.assert_allclose(op.transpose.mv(x), arrow.T @ np.asarray(x), rtol=1e-12)
    with pytest.raises(ValueError, match="1099 of 1099 entries"):
        _ = op.ordered


@pytest.mark.x64
@pytest.mark.parametrize("form", ["dia", "csr", "csc", "coo", "bsr", "lil", "dok"])
def test_every_scipy_format(form):
    a, full = _random(9, 0.3, 2)
    for matrix, dense in ((a, full), (a + a.T, full + full.T), (sp.csr_array((9, 9)), np.zeros((9, 9)))):
        op = linear.interop.from_scipy(matrix.asformat(form))
        _check(op, dense)
        assert op.symmetric == (dense is not full)
    assert isinstance(op, O.Banded) == (form == "dia")


def test_dtypes_are_kept():
    assert linear.interop.from_scipy(sp.eye_array(3, dtype=np.float32)).mv(jnp.ones(3)).dtype == jnp.float32
    assert linear.interop.from_scipy(sp.eye_array(3, dtype=np.int64)).diagonal.dtype == jnp.float32


@pytest.mark.x64
def test_dtypes_are_kept_in_double_precision():
    for dtype in (np.float32, np.float64):
        op = linear.interop.from_scipy(sp.csr_array(sp.eye_array(3, dtype=dtype)))
        assert op.mv(jnp.ones(3, dtype)).dtype == dtype
        assert O.shifted(op, 1.0).diagonal.dtype == dtype and O.scaled(op, 2.0).entries.dtype == dtype
        assert op.ordered.lower(jnp.asarray(1.0, dtype))(jnp.ones(3, dtype)).dtype == dtype


@pytest.mark.x64
@pytest.mark.parametrize("offsets", [(), (0,), (-6, -4, 1, 0, 5), (2, -1, 3)])
def test_banded_against_its_definition(offsets):
    bands = np.random.default_rng(0).standard_normal((len(offsets), 5))
    a = np.zeros((5, 5))
    for band, offset in zip(bands, offsets):
        for i in range(5):
            if 0 <= i + offset < 5:
                a[i, i + offset] = band[i]
    op = O.banded(jnp.asarray(bands), offsets)
    _check(op, a)
    _check(O.as_sparse(op), a)


# --- algebra -----------------------------------------------------------------------------------------------


def _kinds():
    """One operator of every kind on vectors of 6, and its matrix."""
    rng = np.random.default_rng(3)
    full = rng.standard_normal((6, 6))
    sparse = linear.interop.from_scipy(sp.csr_array(np.where(np.abs(full) > 1, full, 0)))
    bands = O.banded(jnp.asarray(rng.standard_normal((3, 6))), (-2, 0, 1))
    scale = jnp.asarray(rng.standard_normal(6))
    free = O.matrix_free(Partial(jnp.multiply, scale), scale, symmetric=True)
    ops = {"dense": O.dense(jnp.asarray(full)), "sparse": sparse, "banded": bands, "free": free}
    ops["product"] = O.compose(ops["dense"], bands)
    return ops


@pytest.mark.x64
def test_algebra_against_matrices():
    ops = _kinds()
    matrices = {name: _matrix(op)[0] for name, op in ops.items()}
    np.testing.assert_allclose(matrices["product"], matrices["dense"] @ matrices["banded"], atol=1e-13)
    diagonal = jnp.arange(6.0)
    for name, op in ops.items():
        a = matrices[name]
        _check(op, a)
        for made in (O.shifted(op, diagonal), O.shifted(op, 0.0 * diagonal + 2.0)):
            _check(made, a + np.diag(made.diagonal - np.diag(a)))
        _check(O.scaled(op, -1.5), -1.5 * a)
        if name not in ("free", "product"):
            assert type(O.shifted(op, 1.0)) is type(op) is type(O.scaled(op, 2.0)) is type(O.add(op, op))
            assert O.shifted(op, 1.0).ordered is not None
    for one, two in (("dense", "dense"), ("sparse", "sparse"), ("banded", "sparse"), ("free", "dense")):
        _check(O.add(ops[one], ops[two]), matrices[one] + matrices[two])
    other = linear.interop.from_scipy(sp.csr_array(np.eye(6, k=3)))
    union = O.add(ops["sparse"], other)
    assert isinstance(union, O.Sparse)
    _check(union, matrices["sparse"] + np.eye(6, k=3))
    _check(O.compose(ops["sparse"], ops["free"]), matrices["sparse"] @ matrices["free"])


@pytest.mark.x64
def test_banded_operators_of_other_offsets_add_up():
    """Bands of both, in either order of offsets; the sum keeps its sweeps."""
    bands = jnp.asarray(np.random.default_rng(4).standard_normal((3, 6)))
    one, two, none = O.banded(bands, (-2, 0, 1)), O.banded(bands, (1, 4, -2)), O.banded(bands[:1], (0,))
    for a, b in ((one, two), (two, one), (one, none), (none, none)):
        made = O.add(a, b)
        assert isinstance(made, O.Banded)
        _check(made, _matrix(a)[0] + _matrix(b)[0])
        assert made.ordered is not None


def test_a_product_computes_its_diagonal_only_where_it_is_read(monkeypatch):
    probe = _algebra._probe

    def traced(mv, like):
        assert isinstance(like, jax.core.Tracer), "computed without being asked for"
        return probe(mv, like)

    monkeypatch.setattr(_algebra, "_probe", traced)
    product = O.compose(_free(), O.dense(jnp.eye(3)))
    made = O.scaled(O.shifted(O.add(product, product), 1.0), 2.0)
    result = linear.solve(O.add(made, _free()), jnp.full(3, 24.0), method=M.cg(), tol=1e-6)
    np.testing.assert_allclose(result.value, 2.0, rtol=1e-5)
    monkeypatch.undo()
    np.testing.assert_allclose(made.diagonal, 10.0)


@pytest.mark.x64
def test_matrix_free_transpose_and_captured_values(key):
    """JAX transposes the product; gradients flow into the leaves of a Partial."""
    a = jax.random.normal(key, (4, 4)) + 6 * jnp.eye(4)
    mv = Partial(lambda a, x: a @ x, a)
    _check(O.matrix_free(mv, jnp.diagonal(a)), np.asarray(a))
    _check(O.matrix_free(mv, jnp.diagonal(a), transpose_mv=Partial(lambda a, x: a.T @ x, a)), np.asarray(a))

    def loss(make, d):
        d = jnp.abs(d) + 1
        return linear.solve(make(d), jnp.ones(4), method=M.cg(), tol=1e-12).value.sum()

    d = a[0]
    free = jax.grad(lambda d: loss(lambda d: O.matrix_free(Partial(jnp.multiply, d), d, symmetric=True), d))(d)
    np.testing.assert_allclose(free, -jnp.sign(d) / (jnp.abs(d) + 1) ** 2, rtol=1e-8)


# --- solves ------------------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["dense", "sparse", "banded", "stencil7"])
def test_gradient_of_a_solve_in_the_coefficients(kind, key):
    """Nonsymmetric operators, so the transposed sweeps are needed; against differences."""
    a, full = _random(6, 0.3, 4)
    made = {
        "dense": lambda v: O.dense(jnp.asarray(full) * v[0] + 5 * jnp.eye(6)),
        "sparse": lambda v: O.shifted(O.sparse(a.data * v[: len(a.data)], a.indices, a.indptr), 5.0),
        "banded": lambda v: O.shifted(O.banded(v.reshape(3, 8)[:, :6], (-2, 0, 1)), 6.0),
        "stencil7": lambda v: O.stencil7(8.0, *v[:2], v[2:14].reshape(2, 3, 2), v[14], v[15], v[16], shape=(2, 3, 2)),
    }[kind]
    at, way = jax.random.normal(key, (2, 24))
    b = jax.random.normal(jax.random.fold_in(key, 1), made(at).diagonal.shape)

    @jax.jit
    def both(v):
        return jax.value_and_grad(lambda v: jnp.sum(linear.solve(made(v), b, method=M.sor(1.0), tol=1e-14).value ** 2))(
            v
        )

    slope = jnp.vdot(both(at)[1], way)
    h = 1e-5
    np.testing.assert_allclose(slope, (both(at + h * way)[0] - both(at - h * way)[0]) / (2 * h), rtol=1e-6)


@pytest.mark.x64
def test_vmap_over_values_of_one_pattern():
    a, full = _random(6, 0.3, 5)
    data = jnp.stack([jnp.asarray(a.data) * s for s in (0.5, 1.0, -1.0)])

    def run(data):
        op = O.shifted(O.sparse(data, a.indices, a.indptr), 5.0)
        return linear.solve(op, jnp.ones(6), method=M.sor(1.1), tol=1e-12)

    found = jax.jit(jax.vmap(run))(data)
    for s, x in zip((0.5, 1.0, -1.0), found.value):
        np.testing.assert_allclose(x, np.linalg.solve(s * full + 5 * np.eye(6), np.ones(6)), rtol=1e-10)
    # Operators of one pattern stack as they are.
    ops = [O.sparse(d, a.indices, a.indptr) for d in data]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ops)
    np.testing.assert_allclose(jax.vmap(lambda op: op.mv(jnp.ones(6)))(stacked)[2], -full.sum(1), atol=1e-14)


# --- bad input ---------------------------------------------------------------------------------------------


def test_zero_diagonal_is_a_status():
    """An empty row, and a grid whose diagonal is zero."""
    for op in (
        O.sparse(jnp.ones(2), [1, 0], [0, 1, 2, 2]),
        O.reordered(O.stencil5(0.0, -1.0, -1.0, -1.0, -1.0, shape=(3, 1)), "red-black"),
    ):
        result = linear.solve(op, jnp.ones(op.diagonal.shape), method=M.sor(1.0))
        assert int(result.status) & status.SINGULAR and int(result.steps) == 0
        assert bool(jnp.all(jnp.isfinite(result.value)))


def test_nan_is_a_status_and_one_unknown_is_solved():
    op = O.banded(jnp.array([[4.0]]), (0,))
    result = linear.solve(op, jnp.ones(1), method=M.sor(1.0), tol=1e-6)
    np.testing.assert_allclose(result.value, [0.25])
    bad = linear.solve(O.scaled(op, jnp.nan), jnp.ones(1), method=M.sor(1.0), tol=1e-6)
    assert int(bad.status) & status.NONFINITE_INPUT and bool(jnp.all(jnp.isfinite(bad.value)))


def _free():
    return O.matrix_free(lambda x: 2 * x, 2 * jnp.ones(3), symmetric=True)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: O.sparse(jnp.ones(2), [0, 1], [0]), "n >= 1"),
        (lambda: O.sparse(jnp.ones(2), [0, 2], [0, 1, 2]), "must be square, 2 x 2"),
        (lambda: O.sparse(jnp.ones(2), [0, -1], [0, 1, 2]), "an index outside"),
        (lambda: O.sparse(jnp.ones(3), [0, 1], [0, 1, 2]), "indptr from 0 to 2"),
        (lambda: O.sparse(jnp.ones(2), [0, 1], [0, 1, 3]), "indptr from 0 to 3"),
        (lambda: O.sparse(jnp.ones(2), [0, 1], [0, 3, 1, 2]), "must not decrease"),
        (lambda: O.banded(jnp.ones((2, 3)), (0,)), "k different offsets"),
        (lambda: O.banded(jnp.ones((2, 3)), (1, 1)), "k different offsets"),
        (lambda: O.banded(jnp.ones((0, 0)), ()), "n >= 1"),
        (lambda: O.stencil7(6.0, *[-1.0] * 6, shape=(2, 2)), "planes, rows, cols"),
        (lambda: O.stencil7(6.0, *[-1.0] * 6, shape=(2, 0, 2)), "at least one cell"),
        (lambda: O.shifted_laplacian((3,)), "planes, rows, cols"),
        (lambda: O.matrix_free(lambda x: x[:2], jnp.ones(3)), "to itself"),
        (lambda: O.matrix_free(lambda x: x.astype(jnp.float16), jnp.ones(3)), "dtype float32"),
        (lambda: O.shifted(O.dense(jnp.eye(3)), jnp.ones(2)), "scalar or shape"),
        (lambda: O.scaled(O.dense(jnp.eye(3)), jnp.ones(3)), "must be a scalar"),
        (lambda: O.add(O.dense(jnp.eye(3)), O.dense(jnp.eye(2))), "one shape"),
        (lambda: O.compose(O.dense(jnp.eye(3)), O.dense(jnp.eye(2))), "one shape"),
        (lambda: O.compose(_free(), _free(), diagonal=jnp.ones(2)), "a diagonal of shape"),
        (lambda: linear.solve(_free(), jnp.ones(3), method=M.sor(1.0)), "triangular solves"),
        (lambda: linear.solve(O.compose(_free(), _free()), jnp.ones(3), method=M.ssor_pcg(1.0)), "triangular solves"),
        (lambda: linear.solve(O.add(_free(), O.dense(jnp.eye(3))), jnp.ones(2), method=M.cg()), "operator's shape"),
        (lambda: linear.interop.from_scipy(sp.csr_array((0, 0))), "n >= 1"),
        (lambda: linear.interop.from_bcoo(jsparse.BCOO.fromdense(jnp.ones((2, 3)))), "square matrix"),
        (lambda: linear.interop.from_bcoo(jsparse.BCOO.fromdense(jnp.ones((2, 2, 2)), n_batch=1)), "jax.vmap"),
    ],
)
def test_static_misuse_raises(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.bad_input
def test_wrong_kinds_and_traced_patterns_name_the_remedy():
    with pytest.raises(TypeError, match="indices must be integers"):
        O.sparse(jnp.ones(2), [0.7, 1.2], [0, 1, 2])
    with pytest.raises(TypeError, match="stencil, banded or sparse"):
        O.as_sparse(O.dense(jnp.eye(2)))
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda indices: O.sparse(jnp.ones(2), indices, [0, 1, 2]).mv(jnp.ones(2)))(jnp.arange(2))
    bcoo = jsparse.BCOO.fromdense(jnp.eye(2))
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda m: linear.interop.from_bcoo(m).mv(jnp.ones(2)))(bcoo)
