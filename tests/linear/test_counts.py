"""Iteration counts against published figures and against independent loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from jax.tree_util import Partial

from benchmarks.peers import linear as loops
from jaxsci import bandits, linear
from jaxsci.core.static import bind

# b_i = sin(i) on the 10 x 10 grid in natural order, x0 = 0, tol 1e-8: (c, omega*, SOR, CG, SSOR-PCG both orders).
OMEGAS = (1.0, 1.2, 1.4, None, 1.6, 1.8, 1.9, 1.95)
SSOR_OMEGAS = (1.0, 1.2, 1.4, 1.6, 1.8)
TABLE = [
    (0.0, 1.5603879213, (131, 90, 58, 37, 41, 86, 175, 361), 30, (14, 12, 12, 13, 16), (15, 13, 12, 13, 16)),
    (-0.15, 1.8535941504, (1239, 885, 607, 118, 379, 175, 177, 359), 35, (18, 16, 16, 17, 20), (18, 16, 15, 17, 20)),
    (0.45, 1.3279192323, (44, 30, 25, 23, 41, 84, 177, 360), 24, (10, 9, 9, 12, 16), (10, 9, 9, 12, 16)),
]


def rhs():
    return jnp.sin(jnp.arange(1.0, 101.0)).reshape(10, 10)


def steps(op, method, **kwargs):
    result = linear.solve(op, rhs(), method=method, **kwargs)
    assert int(result.status) == 0
    return int(result.steps)


@pytest.mark.x64
@pytest.mark.parametrize(("shift", "best", "sor", "cg", "backward", "forward"), TABLE)
def test_published_counts(shift, best, sor, cg, backward, forward):
    op = linear.operators.shifted_laplacian((10, 10), shift)
    omega = linear.theory.young_omega(linear.theory.laplacian_radius((10, 10), shift))
    np.testing.assert_allclose(omega, best, atol=2e-9)
    got = [steps(op, linear.methods.sor(w if w else omega)) for w in OMEGAS]
    np.testing.assert_allclose(got, sor, atol=1)
    assert abs(steps(op, linear.methods.cg()) - cg) <= 1
    for order, expected in (("backward", backward), ("forward", forward)):
        got = [steps(op, linear.methods.ssor_pcg(w, sweep_first=order)) for w in SSOR_OMEGAS]
        np.testing.assert_allclose(got, expected, atol=1)


def _matrix(shape, shift):
    """The same Laplacian assembled by SciPy: Kronecker sums of one-dimensional second differences."""

    def line(n):
        return sp.diags([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1])

    rows, cols = shape
    return (sp.kron(sp.eye(rows), line(cols)) + sp.kron(line(rows), sp.eye(cols)) + shift * sp.eye(rows * cols)).tocsr()


@pytest.mark.x64
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 6), (7, 4), *(pytest.param(s, marks=pytest.mark.slow) for s in ((6, 1), (3, 5), (10, 10)))]
)
@pytest.mark.parametrize("omega", [0.7, 1.0, 1.6])
def test_wavefront_equals_the_sequential_loop(shape, omega, key):
    """Ten sweeps against x_i <- x_i + omega ((b_i - sum a_ij x_j)/a_ii - x_i), cell by cell, and against `dense`."""
    a = _matrix(shape, 0.2).toarray()
    b = np.asarray(jax.random.normal(key, (a.shape[0],)))
    x, norms = np.zeros_like(b), [np.linalg.norm(b)]
    for _ in range(10):
        for i in range(len(b)):
            x[i] += omega * ((b[i] - a[i] @ x) / a[i, i])
        norms.append(np.linalg.norm(b - a @ x))
    grid = linear.operators.shifted_laplacian(shape, 0.2)
    options = dict(method=linear.methods.sor(omega), tol=0.0, max_steps=10, max_history=11)
    wave = linear.solve(grid, jnp.asarray(b).reshape(shape), **options)
    full = linear.solve(linear.operators.dense(jnp.asarray(a)), jnp.asarray(b), **options)
    scale = np.abs(x).max()
    np.testing.assert_allclose(wave.value.reshape(-1), x, atol=1e-12 * scale)
    np.testing.assert_allclose(full.value, x, atol=1e-12 * scale)
    k = int(wave.steps)  # fewer than 10 only where the residual became exactly 0
    assert k == 10 or norms[k] == 0
    np.testing.assert_allclose(wave.history[: k + 1], norms[: k + 1], rtol=1e-9, atol=1e-12 * norms[0])
    options |= dict(tol=1e-8, max_steps=10_000, max_history=0)
    wave = linear.solve(grid, jnp.asarray(b).reshape(shape), **options)
    full = linear.solve(linear.operators.dense(jnp.asarray(a)), jnp.asarray(b), **options)
    assert int(wave.steps) == int(full.steps) and int(wave.status) == int(full.status) == 0


@pytest.mark.x64
def test_cg_takes_as_many_iterations_as_scipy(key):
    a = _matrix((10, 10), 0.0)
    for i in range(5):
        b = np.asarray(jax.random.normal(jax.random.fold_in(key, i), (100,)))
        count = []
        x, info = spla.cg(a, b, rtol=1e-8, callback=lambda _, count=count: count.append(1))
        assert info == 0
        op = linear.operators.shifted_laplacian((10, 10))
        ours = linear.solve(op, jnp.asarray(b).reshape(10, 10), method=linear.methods.cg())
        assert int(ours.steps) == len(count)
        np.testing.assert_allclose(ours.value.reshape(-1), x, atol=1e-6)


def _cg_for(omega):
    return linear.methods.cg()


BACKWARD = Partial(bind(linear.methods.ssor_pcg, sweep_first="backward"))
# (cells, method) -> totals of 5000 Crank-Nicolson steps at each omega; CG has none.
HEAT = {
    (25, "cg"): {1.0: 85422},
    (25, "backward"): {
        1.0: 32800, 1.2: 30150, 1.3: 29802, 1.4: 29454, 1.5: 32296, 1.6: 35452, 1.75: 44898, 1.9: 58129, 1.95: 63050,
    },
    (25, "forward"): {1.5: 32318},
    (50, "cg"): {1.0: 164441},
    (50, "backward"): {
        1.0: 60725, 1.2: 53215, 1.3: 49743, 1.4: 46837, 1.5: 43952, 1.6: 42933, 1.75: 50776, 1.9: 74763, 1.95: 89195,
    },
    (50, "forward"): {1.5: 43978},
}  # fmt: skip


def _heat(cells, method, omega):
    methods = {"cg": _cg_for, "backward": BACKWARD, "forward": linear.methods.ssor_pcg}
    one, omega = bandits.policies.fixed(1, arm=0), jnp.asarray([omega])
    record = linear.tuned_sequence(
        jax.random.key(0), linear.streams.heat(cells), methods[method], one, omega, num_rounds=5000
    ).history
    assert not bool(jnp.any(record.status))
    return np.asarray(record.steps)


@pytest.mark.x64
def test_heat_totals():
    """The totals of three independent programs, here to 0.1 %; of CG every single count is SciPy's."""
    for method, omega in (("backward", 1.0), ("backward", 1.4)):
        total = HEAT[25, method][omega]
        assert abs(_heat(25, method, omega).sum() - total) <= 1e-3 * total
    counts = _heat(25, "cg", 1.0)
    assert abs(counts.sum() - 85422) <= 1e-3 * 85422
    scipys, _ = loops.heat(25, 1000, None)
    np.testing.assert_array_equal(counts[:1000], scipys)


@pytest.mark.x64
@pytest.mark.slow
@pytest.mark.parametrize(("cells", "method"), HEAT)
def test_all_heat_totals(cells, method):
    for omega, total in HEAT[cells, method].items():
        got = int(_heat(cells, method, omega).sum())
        assert abs(got - total) <= 1e-3 * total, (omega, got, total)


@pytest.mark.x64
@pytest.mark.slow
@pytest.mark.parametrize("omega", [None, 1.4])
def test_every_heat_count_is_scipys(omega):
    scipys, _ = loops.heat(25, 5000, omega)
    np.testing.assert_array_equal(_heat(25, "cg" if omega is None else "backward", omega or 1.0), scipys)


@pytest.mark.x64
@pytest.mark.slow
def test_best_arm_of_every_heat_step():
    """Row minima of the cost table of 20 arms; the solution fed back is the first arm's, good to the tolerance."""
    arms = jnp.linspace(1.0, 1.95, 20)
    table, _ = linear.cost_table(jax.random.key(0), linear.streams.heat(25), BACKWARD, arms, num_rounds=5000)
    assert abs(int(table.min(1).sum()) - 24158) <= 1e-3 * 24158


@pytest.mark.x64
def test_heat_step_against_a_direct_solve():
    stream = linear.streams.heat(25)
    carry = stream.init(jax.random.key(0))
    carry, problem = stream.next(jax.random.key(0), carry, jnp.int32(700))
    result = linear.solve(problem.op, problem.b, problem.x0, method=linear.methods.ssor_pcg(1.3))
    number = float(-problem.op.after[1])
    a = sp.eye(24 * 24) + number * _matrix((24, 24), 0.0)
    exact = spla.spsolve(a.tocsc(), np.asarray(problem.b).reshape(-1))
    assert np.abs(np.asarray(result.value).reshape(-1) - exact).max() <= 1e-6


def _domain(shape, n):
    """MATLAB's delsq(numgrid(shape, n)): the square S, or L without its lower left quarter, numbered by columns."""
    inside = np.ones((n - 2, n - 2), bool)
    if shape == "L":
        inside[(n - 2) // 2 :, : (n - 2) // 2] = False
    number = np.full((n, n), -1)
    number[1:-1, 1:-1].T[inside.T] = np.arange(inside.sum())
    a = 4 * sp.eye_array(inside.sum(), format="lil")
    for down, right in ((0, 1), (1, 0)):
        pairs = np.stack([number[: n - down, : n - right].ravel(), number[down:, right:].ravel()])
        i, j = pairs[:, (pairs >= 0).all(0)]
        a[i, j] = a[j, i] = -1
    return a.tocsr()


@pytest.mark.x64
@pytest.mark.parametrize(
    ("shape", "n", "shift", "size", "cg", "first", "least", "best", "last"),
    [
        ("L", 32, 0.0, 675, 92, 40, 20, 1.6, 25),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("S", 32, 0.0, 900, 94, 45, 22, 1.74, 26),
                ("S", 12, 0.0, 100, 33, 17, 13, None, 18),
                ("S", 32, 0.5, 900, 36, 16, 9, 1.35, 22),
            )
        ),
    ],
    ids=str,
)
def test_published_counts_on_domains(shape, n, shift, size, cg, first, least, best, last):
    """CG, and SSOR-PCG from omega 2 sqrt(2) - 2 over its least count to 1.9; the right-hand side is random: +-2."""
    a = _domain(shape, n)
    op = linear.interop.from_scipy(a + shift * sp.eye_array(a.shape[0]))
    assert op.diagonal.shape == (size,) and op.symmetric
    omegas = jnp.asarray([2 * np.sqrt(2) - 2, *np.linspace(1.0, 1.85, 18), best or 1.4, 1.9])
    bs = jax.random.normal(jax.random.key(0), (3, size))

    def count(b, method):
        return linear.solve(op, b, method=method).steps

    found = jax.vmap(lambda b: jax.vmap(lambda w: count(b, BACKWARD(w)))(omegas))(bs)
    plain = jax.vmap(lambda b: count(b, linear.methods.cg()))(bs)
    mean = jnp.mean(found, axis=0)
    np.testing.assert_allclose([jnp.mean(plain), mean[0], mean.min(), mean[-1]], [cg, first, least, last], atol=2)
    assert best is None or float(mean[-2] - mean.min()) <= 1
