"""DPM-Solver-v3: one-step exactness, its special cases, an independent algorithm 2, orders, and where it wins."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicHermiteSpline

from diffusion import mixture
from jaxsci import diffusion
from jaxsci.core.host import to_host
from jaxsci.diffusion import _regression, grids, schedules, solvers, statistics, tables, unified, v3

PROBLEM = mixture.problem_a()
VP = PROBLEM.schedule
DENOISER = mixture.denoiser(PROBLEM.mixture, VP)
MEAN, STD = np.array([0.7, -0.4]), np.array([0.5, 1.3])


@functools.cache
def _stats_a(num_lams, num_samples, common=True):
    """Statistics of problem A in float64 on the host."""
    draw = Partial(mixture.draw, PROBLEM.mixture)
    return to_host(
        statistics.estimate(
            jax.random.key(0),
            DENOISER,
            VP,
            draw,
            lams=num_lams,
            num_samples=num_samples,
            common_random_numbers=common,
            batch_size=256,
        )  # fmt: skip
    )


@functools.cache
def _template(num_rows, shape):
    """All slots that the solvers of this file use: one compiled program for each length."""
    grid = grids.logsnr(VP, num_rows)
    made = v3.dpm_v3(grid, statistics.constant(VP, np.ones(shape), lams=20), order=4, corrector="higher")
    return tables.unify([made, solvers.unipc(grid, order=4, kind="noise")])[0]


@jax.jit
def _program(denoiser, table, x):
    return jax.vmap(lambda x: diffusion.sample(None, denoiser, table, x).value)(x)


def _run(denoiser, table, x, num_rows=20):
    return np.asarray(_program(denoiser, tables.unify([table, _template(num_rows, x.shape[1:])])[0], x))


def _error(table, num_rows=20):
    return mixture.rmse(_run(DENOISER, table, PROBLEM.x_T, num_rows), mixture.truth("a"))


# --- exactness ----------------------------------------------------------------------------------------------


def _gaussian_stats(num_lams):
    """l, s = 0 and b = -l' m in closed form."""
    lam = statistics.constant(VP, lams=num_lams).lam
    alpha, sigma = VP.alpha_sigma(lam[:, None])
    level = sigma**2 / (alpha**2 * STD**2 + sigma**2)
    return statistics.Statistics(lam, level, 0 * level, 2 * level * (1 - level) * MEAN)


def _gaussian_step(grid, table, x):
    """The first row of a table by hand, in NumPy."""
    alpha, sigma = grid.alpha[0], grid.sigma[0]
    eps = sigma * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
    row = jax.tree.map(lambda a: a[0], table.predictor)
    return row.x[0] * x + row.data[0] * (x - sigma * eps) / alpha + row.noise[0] * eps + row.shift


def _gaussian_error(num_lams, quadrature):
    grid = grids.time(VP, 1)
    x = np.random.default_rng(0).standard_normal((64, 2))
    table = v3.dpm_v3(grid, _gaussian_stats(num_lams), order=1, quadrature=quadrature)
    ends = zip(grid.alpha, grid.sigma)
    return np.abs(_gaussian_step(grid, table, x) - mixture.gaussian_flow(MEAN, STD, x, *ends)).max()


@pytest.mark.parametrize(("num_lams", "published"), [(60, 8.0e-6), (120, 2.0e-6), (1200, 2.0e-8)])
def test_one_step_on_a_gaussian_is_exact_up_to_the_trapezoid_error(num_lams, published):
    np.testing.assert_allclose(_gaussian_error(num_lams, "trapezoid"), published, rtol=0.02)


@pytest.mark.parametrize(("num_lams", "bound"), [(60, 2e-7), (120, 1e-8), (1200, 2e-12)])
def test_one_step_on_a_gaussian_by_gauss_is_far_closer(num_lams, bound):
    assert _gaussian_error(num_lams, "gauss") < bound


def test_a_row_solves_the_model_whose_f_is_linear():
    # df/dlam = s f + b exactly: one first-order step over any distance equals the ODE of (x/alpha, f)
    rng = np.random.default_rng(1)
    lam = np.linspace(-2.0, 2.5, 10)
    stats = statistics.Statistics(lam, *(rng.uniform(low, high, (10, 1)) for low, high in ((0, 1), (-2, 1), (-1, 1))))
    l, s, b = (CubicHermiteSpline(lam, a, _regression.slopes(lam, a)) for a in stats[1:4])  # noqa: E741
    grid = grids.at_lams(VP, np.array([-1.93, 2.41]))  # inside cells
    row = v3.dpm_v3(grid, stats, order=1).predictor
    start = np.array([0.8, -0.6])  # x/alpha and f
    path = solve_ivp(
        lambda t, y: [-l(t)[0] * y[0] - y[1], s(t)[0] * y[1] + b(t)[0]], grid.lam, start, rtol=1e-11, atol=1e-11,
        method="DOP853",
    )  # fmt: skip
    x = start[0] * grid.alpha[0]
    level = l(grid.lam[0])[0]
    eps = (start[1] + level * start[0]) * grid.alpha[0] / grid.sigma[0]  # f = (sigma eps - l x)/alpha
    data = (x - grid.sigma[0] * eps) / grid.alpha[0]
    found = row.x[0, 0] * x + row.data[0, 0] * data + row.noise[0, 0] * eps + row.shift[0]
    np.testing.assert_allclose(found / grid.alpha[1], path.y[0, -1], atol=1e-8)  # 5 Gauss points in cells of .5


# --- special cases and an independent implementation --------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize(("l", "s", "kind"), [(1.0, 0.0, "data"), (0.0, -1.0, "noise")])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_data_and_noise_prediction_are_special_cases(l, s, kind, order):  # noqa: E741
    stats = statistics.constant(VP, np.full(2, l), s)
    for grid in (grids.time(VP, 10), grids.logsnr(VP, 10)):
        for corrector in (None, "higher"):
            mine = v3.dpm_v3(grid, stats, order=order, corrector=corrector)
            peer = solvers.unipc(grid, order=order, relaxation="exact", kind=kind, corrector=corrector is not None)
            same = [_run(DENOISER, table, PROBLEM.x_T[:8]) for table in (mine, peer)]
            np.testing.assert_allclose(*same, atol=1e-11)


def _waves(num_lams, seed):
    """Statistics of natural size that no special case hides behind."""
    rng = np.random.default_rng(seed)
    lam = statistics.constant(VP, lams=num_lams).lam
    wave = np.sin(lam[:, None] * rng.uniform(0.3, 1.0, (3, 1, 2)) + rng.uniform(0, 6, (3, 1, 2)))
    return statistics.Statistics(lam, 0.5 + 0.4 * wave[0], wave[1], 0.3 * wave[2])


def _cumulative(lam, values):
    steps = np.diff(lam)[:, None] * (values[1:] + values[:-1]) / 2
    return np.concatenate([np.zeros_like(values[:1]), np.cumsum(steps, 0)])


def _algorithm_2(stats, index, x, order, pseudo, correct, extra, lower_order_final):
    """The published recursion on g, written from the equations with cumulative trapezoids; nodes are levels."""
    lam, l, s, b = stats[:4]  # noqa: E741
    L, S = _cumulative(lam, l), _cumulative(lam, s)
    E, B = np.exp(L + S), _cumulative(lam, np.exp(-S) * b)
    I, C = _cumulative(lam, E), _cumulative(lam, E * B)  # noqa: E741
    alphas, sigmas = VP.alpha_sigma(lam)

    def update(at, xs, fs, s, t, n, pseudo):
        """From level s to t by the values at levels `at`, that of s first."""
        g = [np.exp(S[s] - S[j]) * f - np.exp(S[s]) * (B[j] - B[s]) for j, f in zip(at, fs)]
        derivatives = []
        for k in range(1, n):
            used = range(k + 1) if pseudo else range(n)
            powers = np.array([[(lam[at[j]] - lam[s]) ** m for m in used] for j in used])
            fit = np.linalg.solve(powers, np.stack([g[j] for j in used]).reshape(len(used), -1))
            derivatives.append(np.prod(np.arange(1, k + 1)) * fit[k].reshape(x.shape))
        weights = E[s : t + 1] / E[s]
        total = np.exp(-L[s]) * (C[t] - C[s] - B[s] * (I[t] - I[s])) + np.exp(-L[s] - S[s]) * (I[t] - I[s]) * g[0]
        for k, d in enumerate(derivatives, start=1):
            r = ((lam[s : t + 1] - lam[s]) ** k / np.prod(np.arange(1, k + 1)))[:, None]
            total = total + _cumulative(lam[s : t + 1], weights * r)[-1] * d
        return alphas[t] * np.exp(L[s] - L[t]) * (xs / alphas[s] - total)

    levels, states, fs, last = [], [], [], 0
    num = len(index) - 1
    for i in range(num):
        n = index[i]
        eps = mixture.predict(PROBLEM.mixture, x, alphas[n], sigmas[n])[1]
        levels, states, fs = [n, *levels], [x, *states], [(sigmas[n] * eps - l[n] * x) / alphas[n], *fs]
        points = last + extra
        if correct and points > 1:
            slots = [1, 0, *range(2, points)]
            at, used = [levels[k] for k in slots], [fs[k] for k in slots]
            x = update(at, states[1], used, levels[1], n, points, bool(extra))
            states[0] = x
        last = min(order, i + 1, num - i if lower_order_final else order)
        x = update(levels[:last], states[0], fs[:last], n, index[i + 1], last, pseudo)
    return x


@pytest.mark.x64
@pytest.mark.parametrize(
    ("order", "pseudo", "corrector", "lower"),
    [(3, False, "same", True), (3, True, "same", False), (2, False, "pseudo", True), (3, False, "pseudo", False)],
)
def test_the_published_algorithm(order, pseudo, corrector, lower):
    stats = _waves(150, 2)
    grid = grids.time(VP, 8)
    table = v3.dpm_v3(
        grid, stats, order=order, pseudo=pseudo, corrector=corrector, lower_order_final=lower, quadrature="trapezoid"
    )
    index = np.abs(grid.lam[:, None] - stats.lam).argmin(1)
    np.testing.assert_array_equal(table.lam, stats.lam[index])
    expected = _algorithm_2(stats, index, PROBLEM.x_T[:8], order, pseudo, True, corrector == "pseudo", lower)
    np.testing.assert_allclose(_run(DENOISER, table, PROBLEM.x_T[:8]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.x64
@pytest.mark.parametrize(
    ("kind", "num", "options", "golden"),
    [
        ("time", 8, {}, [2.78169441325, 1.94989639492, 2.7173886563, 1.79511623915]),
        (
            "logsnr", 5, {"pseudo": True, "lower_order_final": False},
            [0.147162511766, 0.720624024299, -1.82776142439, 1.93018509501],
        ),
        (
            "time", 10, {"order": 2, "corrector": "pseudo"},
            [3.0266906183, 1.31621577575, 3.04216954089, 1.87700649315],
        ),
        ("logsnr", 7, {"corrector": None}, [-2.2678244682, -0.822903341967, -5.99359589569, 4.25663459139]),
    ],
)  # fmt: skip
def test_golden_results_of_the_published_code(kind, num, options, golden):
    # made by running the authors' solver in double precision on this model and these statistics
    table = v3.dpm_v3(getattr(grids, kind)(VP, num), _waves(149, 3), quadrature="trapezoid", **options)
    found = _run(DENOISER, table, PROBLEM.x_T[:8])[:2].ravel()
    np.testing.assert_allclose(found, golden, rtol=1e-10)


# --- in the graph -------------------------------------------------------------------------------------------


def _smooth_stats(num_lams=12):
    lam = statistics.constant(VP, lams=num_lams).lam
    level = 1 / (1 + np.exp(2 * lam[:, None] * np.array([1.0, 0.8])))
    return statistics.Statistics(lam, level, np.sin(lam)[:, None] * np.ones(2), 0.2 * level)


@pytest.mark.x64
def test_traced_nodes_and_statistics_give_the_host_table_and_its_derivative():
    stats, lams = _smooth_stats(), np.array([-5.0, -2.0, 0.3, 4.0])

    @jax.jit
    def make(lams, stats):
        grid = grids.at_lams(VP, lams)
        return tables.tabulate(v3.v3(stats, 3, corrector="pseudo", grid=grid), grid)

    host_table = tables.tabulate(v3.v3(stats, 3, corrector="pseudo"), grids.at_lams(VP, lams))  # without a grid
    assert host_table.status is None
    chex.assert_trees_all_close(make(lams, stats), host_table._replace(status=0), rtol=1e-11, atol=1e-11)

    @jax.jit
    def total(lams, stats):
        table = make(lams, stats)
        return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves((table.predictor, table.corrector)))

    way = jax.tree.map(lambda a: np.cos(np.arange(a.size)).reshape(a.shape), (lams, stats._replace(lam=np.zeros(1))))
    moved = lambda h: total(lams + h * way[0], stats._replace(l=stats.l + h * way[1].l, b=stats.b + h * way[1].b))  # noqa: E731
    slope = jax.jit(jax.grad(total, (0, 1)))(lams, stats)
    expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
    found = slope[0] @ way[0] + (slope[1].l * way[1].l).sum() + (slope[1].b * way[1].b).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_float32_inside_the_graph_keeps_its_relative_accuracy():
    # noise prediction: e^{L+S} falls by e^9 over the grid, where differences of one cumulative integral lose all digits
    stats, grid = statistics.constant(VP, 0.0, -1.0, lams=12), grids.logsnr(VP, 6)
    lams = jnp.asarray(grid.lam, jnp.float32)
    traced = jax.jit(lambda lams, stats: tables.tabulate(v3.v3(stats, 1), grids.at_lams(VP, lams)))(lams, stats)
    assert traced.predictor.noise.dtype == jnp.float32
    expected = v3.dpm_v3(grid, stats, order=1).predictor.noise
    np.testing.assert_allclose(traced.predictor.noise, expected, rtol=2e-5)


# --- what the options mean ----------------------------------------------------------------------------------


def test_corrected_rows_follow_the_mask_and_the_order():
    stats, grid = _smooth_stats(), grids.time(VP, 6)
    corrected = lambda **options: v3.dpm_v3(grid, stats, **options).corrected  # noqa: E731
    # a corrector of as many points needs a predictor of two before it; at node 1 there was one point
    np.testing.assert_array_equal(corrected(), [0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(corrected(corrector="pseudo"), [0, 1, 1, 1, 1, 1])
    assert v3.dpm_v3(grid, stats, corrector=None).corrector is None
    late = grid.t[:-1] <= 0.5
    np.testing.assert_array_equal(corrected(corrector="pseudo", corrector_mask=late), late)


def test_pseudo_order_uses_the_nearest_points():
    assert v3._stencils((2, 3, 5), 3, True) == ((2,), (2, 3), (2, 3, 5))
    assert v3._stencils((2, 3, 5), 2, False) == ((2, 3), (2, 3))


def test_ends_of_pure_noise_and_pure_data():
    flow = schedules.flow()
    grid = grids.from_times(flow, [1.0, 0.8, 0.5, 0.2, 0.0])
    stats = statistics.constant(flow, lams=np.linspace(-1.5, 1.5, 31))
    table = v3.dpm_v3(grid, stats)
    peer = solvers.unipc(grid, order=3, relaxation="exact")
    for rows in (table.predictor, peer.predictor):
        np.testing.assert_allclose(rows.data[0, 0], 0.2, rtol=1e-12)  # alpha of node 1: the data step
        np.testing.assert_allclose(rows.data[-1, 0], 1.0, rtol=1e-12)  # x = D
    # between them data prediction with as much history
    np.testing.assert_allclose(table.predictor.data, peer.predictor.data[:, :3], atol=1e-9)


def test_presets_are_usable():
    for name in v3._PRESETS:
        for num_calls in (1, 5, 6, 8, 10, 12, 25):
            chosen = v3.preset(name, num_calls)
            grid = getattr(grids, chosen.grid)(VP, num_calls, t_min=chosen.t_min)
            stats = statistics.constant(VP, lams=grids.logsnr(VP, 20, t_min=chosen.t_min).lam)
            assert v3.dpm_v3(grid, stats, **chosen.options).num_rows == num_calls
    assert v3.preset("score_sde", 5).options == {
        "order": 3, "pseudo": True, "corrector": "same", "lower_order_final": False,
    }  # fmt: skip
    assert v3.preset("score_sde", 9).options["corrector"] is None and v3.preset("score_sde", 12).t_min == 1e-4
    assert v3.preset("edm", 7).options["corrector"] is None and v3.preset("imagenet", 10).options["order"] == 2


@pytest.mark.bad_input
def test_bad_input():
    grid, stats = grids.time(VP, 6), statistics.constant(VP, lams=20)
    with pytest.raises(ValueError, match=r"statistics cover lam in \[-5.02.*the grid needs \[-5.0250, 5.75\d+\]"):
        v3.dpm_v3(grids.time(VP, 6, t_min=1e-4), stats)
    with pytest.raises(ValueError, match="statistics.b is not finite"):
        v3.dpm_v3(grid, stats._replace(b=np.full(21, np.nan)))
    with pytest.raises(ValueError, match="l, s and b must have shape"):
        v3.dpm_v3(grid, stats._replace(l=np.ones((21, 2))))
    with pytest.raises(ValueError, match="levels of the statistics must rise"):
        v3.dpm_v3(grid, stats._replace(lam=stats.lam[::-1]))
    with pytest.raises(ValueError, match="order must be 1, 2, 3 or 4, got 5"):
        v3.dpm_v3(grid, stats, order=5)
    with pytest.raises(ValueError, match="corrector must be None, 'same', 'pseudo' or 'higher'"):
        v3.dpm_v3(grid, stats, corrector="full")
    with pytest.raises(ValueError, match="quadrature must be one of"):
        v3.dpm_v3(grid, stats, quadrature="simpson")
    with pytest.raises(ValueError, match="one entry for each of the 6 rows"):
        v3.dpm_v3(grid, stats, corrector_mask=[True])
    with pytest.raises(ValueError, match="one entry for each of the 6 rows, got 5"):
        tables.tabulate(v3.v3(stats, corrector_mask=[True] * 5), grid)
    beyond, d = grids.time(VP, 6, t_min=1e-4), unified.uniform(grid.lam, kind="v3")
    for rule in (v3.v3(stats), v3.v3(jax.tree.map(jnp.asarray, stats)), unified.rule(d, stats)):
        with pytest.raises(ValueError, match="the statistics cover lam in"):
            tables.tabulate(rule, beyond)
    with pytest.raises(ValueError, match="statistics.s is not finite"):
        tables.tabulate(v3.v3(stats._replace(s=np.full(21, np.nan))), grid)
    with pytest.raises(ValueError, match="meet at level"):
        v3.dpm_v3(grids.time(VP, 40), stats, quadrature="trapezoid")
    with pytest.raises(TypeError, match="concrete.*v3.v3"):
        jax.jit(lambda b: v3.dpm_v3(grid, stats._replace(b=b)))(stats.b)
    with pytest.raises(ValueError, match="name must be one of"):
        v3.preset("nobody", 5)
    wide = v3.dpm_v3(grid, statistics.constant(VP, np.ones(3), lams=20))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        diffusion.sample(None, DENOISER, wide, jnp.zeros(2))


# --- orders and errors --------------------------------------------------------------------------------------


@pytest.mark.x64
def test_third_order_and_better_than_unipc_on_problem_a():
    stats = _stats_a(120, 1024)
    options = dict(corrector=None, lower_order_final=False)
    errors = [_error(v3.dpm_v3(grids.logsnr(VP, n), stats, **options), 120) for n in (60, 120)]
    assert abs(np.log2(errors[0] / errors[1]) - 3.07) < 0.15
    np.testing.assert_allclose(errors, [8.5e-4, 1.0e-4], rtol=0.1)
    for calls, share in ((6, 1.0), (8, 0.85), (10, 0.75), (12, 0.75), (15, 0.75), (20, 0.75)):
        grid = grids.time(VP, calls)
        assert _error(v3.dpm_v3(grid, stats)) <= share * _error(solvers.unipc(grid, order=3))


@pytest.mark.x64
@pytest.mark.slow
def test_orders_and_plateaus_on_problem_a():
    fine, loose = _stats_a(1200, 1024), _stats_a(1200, 1024, False)
    options = dict(corrector=None, lower_order_final=False)

    def errors(stats, order, nums, **more):
        made = [v3.dpm_v3(grids.logsnr(VP, n), stats, order=order, **options, **more) for n in nums]
        return np.array([_error(table, 480) for table in made])

    third = errors(fine, 3, (60, 120, 240, 480))
    np.testing.assert_allclose(np.log2(third[:-1] / third[1:]), [3.07, 3.05, 3.05], atol=0.15)  # no plateau
    published = errors(fine, 3, (60, 120, 480), quadrature="trapezoid")
    np.testing.assert_allclose(published[:2], [8.5e-4, 1.0e-4], rtol=0.1)
    assert 1e-6 < published[2] < 4e-6  # the trapezoid's plateau at 2e-6
    second = errors(fine, 2, (60, 120))
    assert abs(np.log2(second[0] / second[1]) - 2) < 0.15
    # independent draws at each level: l, s and b are noisy functions and the order is gone
    rough = errors(loose, 3, (60, 120))
    assert rough[1] > 1e-3 and rough[1] > 10 * third[1]


@pytest.mark.x64
@pytest.mark.slow
def test_problem_b_halves_the_error_of_unipc():
    problem = mixture.digits_mixture()
    denoiser, truth = mixture.denoiser(problem.mixture, problem.schedule), mixture.truth("digits")
    draw = Partial(mixture.draw, problem.mixture)
    stats = to_host(statistics.estimate(jax.random.key(0), denoiser, VP, draw, lams=120, num_samples=512))
    means = [np.interp(lam, stats.lam, stats.l.mean(1)) for lam in (-0.23, 1.36, 2.96)]
    np.testing.assert_allclose(means, [0.875, 0.418, 0.029], atol=0.005)

    def error(table):
        return mixture.rmse(_run(denoiser, table, problem.x_T), truth, per_entry=True)

    published = {5: (0.206, 0.115), 6: (0.174, 0.089), 8: (0.136, 0.052), 10: (0.113, 0.041)}
    for calls, (unipc, third) in published.items():
        grid = grids.time(VP, calls)
        peer, mine = error(solvers.unipc(grid, order=3)), error(v3.dpm_v3(grid, stats))
        np.testing.assert_allclose(peer, unipc, atol=6e-4)
        np.testing.assert_allclose(mine, third, rtol=0.1)
        assert mine <= 0.65 * peer
    for calls in (5, 6, 8, 10, 12):
        grid = grids.time(VP, calls)
        assert error(v3.dpm_v3(grid, stats, order=1)) <= 0.8 * error(solvers.ddim(grid))
