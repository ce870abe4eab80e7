"""Layouts of general sparse matrices: products and sweeps against SciPy, sizes refused before anything is allocated."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from jaxsci import linear
from jaxsci.linear._jagged import jagged
from jaxsci.linear._levels import schedule
from jaxsci.linear._pattern import Kept

O, M = linear.operators, linear.methods


def _arrow(n, dtype=float):
    """Diagonal 3, and .001 in the first row and the first column."""
    near, zero = np.arange(1, n), np.zeros(n - 1, int)
    rows, cols = np.concatenate([np.arange(n), near, zero]), np.concatenate([np.arange(n), zero, near])
    data = np.concatenate([np.full(n, 3.0), np.full(2 * n - 2, 1e-3)]).astype(dtype)
    return sp.coo_array((data, (rows, cols)), shape=(n, n)).tocsr()


def _rows_of_lengths(lengths, seed):
    """Row i holds lengths[i] entries at random places, and a diagonal that dominates."""
    rng, n = np.random.default_rng(seed), len(lengths)
    cols = np.concatenate([rng.choice(n, size, replace=False) for size in lengths])
    rows = np.repeat(np.arange(n), lengths)
    a = sp.coo_array((rng.standard_normal(len(cols)), (rows, cols)), shape=(n, n)).tocsr()
    return a + sp.diags_array(2.0 * np.max(lengths) * np.ones(n))


# --- products ----------------------------------------------------------------------------------------------


@jax.jit
def _products(op, x):
    def scalar(op):
        return jnp.sum(op.mv(x) ** 3)

    return op.mv(x), op.transpose.mv(x), jax.grad(scalar)(op)


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["even", "uneven", "a few very long rows", "empty rows"])
def test_products_and_slopes_of_every_layout(kind):
    n, rng = 400, np.random.default_rng(5)
    lengths = {
        "even": np.full(n, 11),
        "uneven": rng.integers(1, 62, n),
        "a few very long rows": np.where(np.arange(n) % 90 == 7, 350, 3),
        "empty rows": np.where(np.arange(n) < 5, 40, 0),
    }[kind]
    a = _rows_of_lengths(lengths, 3)
    op, x = linear.interop.from_scipy(a), rng.standard_normal(n)
    plan = jagged(op.pattern)
    blocks = plan.blocks if plan.pieces is None else (*plan.blocks, plan.pieces)
    padded, held = sum(block.slots.size for block in blocks), len(op.pattern.rows)
    assert (plan.places is None) == (kind == "even")
    assert (plan.pieces is None) == (kind == "even")
    assert padded <= held + 10 * n
    there, back, slope = _products(op, x)
    scale = np.abs(a).max() * np.abs(x).max()
    np.testing.assert_allclose(there, a @ x, atol=1e-13 * scale)
    np.testing.assert_allclose(back, a.T @ x, atol=1e-13 * scale)
    # d/da_ij sum (A x)^3 = 3 (A x)_i^2 x_j
    outer = 3 * (a @ x) ** 2
    np.testing.assert_allclose(slope.entries, outer[op.pattern.rows] * x[op.pattern.cols], rtol=1e-10)
    np.testing.assert_allclose(slope.diagonal, outer * x, rtol=1e-10)


# --- sweeps ------------------------------------------------------------------------------------------------


@jax.jit
def _sweeps(op, r):
    ordered = op.ordered
    r = ordered.pack(r)
    return [ordered.unpack(x) for x in (ordered.lower(1.4)(r), ordered.upper(1.4)(r), ordered.mv(r))]


@pytest.mark.x64
@pytest.mark.parametrize("reach", [1, 3, 7])
def test_sweeps_whose_windows_read_a_part_of_the_vector(reach):
    """Triangular solves of a band of random entries against SciPy's."""
    n, rng = 600, np.random.default_rng(reach)
    rows = np.repeat(np.arange(n), 3)
    cols = np.clip(rows + rng.integers(-reach, reach + 1, len(rows)), 0, n - 1)
    a = sp.coo_array((rng.standard_normal(len(rows)), (rows, cols)), shape=(n, n)).tocsr()
    a = (a + sp.diags_array(8.0 + rng.random(n))).tocsr()
    op, r = linear.interop.from_scipy(a), rng.standard_normal(n)
    plan = schedule(op.pattern, "natural")
    assert plan.reach[0] + plan.width < n and plan.reach[1] + plan.width < n
    down, up, product = _sweeps(op, r)
    pivots = sp.diags_array(a.diagonal() / 1.4)
    for got, part, lower in ((down, sp.tril(a, -1), True), (up, sp.triu(a, 1), False)):
        np.testing.assert_allclose(got, spla.spsolve_triangular((part + pivots).tocsr(), r, lower=lower), rtol=1e-11)
    np.testing.assert_allclose(product, a @ r, atol=1e-12)


# --- memory ------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize("method", [M.sor(1.0), M.ssor(1.0), M.ssor_pcg(1.0)])
def test_sweeps_that_would_need_too_much_memory_are_refused_before_it_is_taken(method):
    """Padded to its longest row this arrow would take 20 GB."""
    n = 50_000
    op, b = linear.interop.from_scipy(_arrow(n, np.float32)), np.ones(n, np.float32)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"one has 49999 of 99998 entries in 50000 rows.*cg"):
            linear.solve(op, b, method=method)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_long_row_costs_a_product_no_memory():
    n = 50_000
    op, b = linear.interop.from_scipy(_arrow(n, np.float32)), np.ones(n, np.float32)
    found = linear.solve(op, b, method=M.cg(), tol=1e-5)
    assert int(found.status) == 0
    left = np.linalg.norm(b - _arrow(n) @ np.asarray(found.value, float))
    assert left <= 1.1 * 1e-5 * np.linalg.norm(b)


def test_plans_are_kept_as_far_as_memory_goes():
    made = []

    def plan(size):
        made.append(size)
        return np.zeros(size, np.int8), (np.zeros(size, np.int8), size)

    kept = Kept(plan, limit=1000)
    for size, bytes_held in (
        (100, 200),
        (300, 800),
        (100, 800),
        (200, 600),
        (300, 1000),
        (5000, 10_000),
        (5000, 10_000),
    ):
        assert kept(size)[1][1] == size and kept.bytes == bytes_held
    # 100 was used after 300, so 300 goes first and is made again; what is larger than the limit stays while it is new
    assert made == [100, 300, 200, 300, 5000]
