"""Free solver schedules: published solvers as special cases, mixed rows against an independent loop, refusals."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import mixture
from jaxsci import diffusion
from jaxsci.diffusion import _exponential, grids, rules, solvers, statistics, tables, unified

SCHEDULE = mixture.problem_a().schedule


def states(table, num=8, save="trajectory"):
    problem = mixture.problem_a()
    denoiser = mixture.denoiser(problem.mixture, SCHEDULE)
    run = lambda x: diffusion.sample(None, denoiser, table, x, save=save)  # noqa: E731
    return jax.vmap(run)(problem.x_T[:num])


def grid(num=7):
    return grids.logsnr(SCHEDULE, num)


@pytest.mark.x64
@pytest.mark.parametrize(
    ("options", "usual"),
    [
        ({"order": 2, "relaxation": "bh2"}, lambda g: solvers.dpm_multistep(g, order=2)),
        ({"order": 2, "relaxation": "bh1"}, lambda g: solvers.unipc(g, order=2, relaxation="bh1", corrector=False)),
        ({"order": 3, "kind": "noise"}, lambda g: solvers.dpm_multistep(g, order=3, kind="noise", relaxation="exact")),
        ({"order": 3, "corrector": True}, lambda g: solvers.unipc(g, order=3, relaxation="exact")),
        (
            {"order": 4, "kind": "noise", "corrector": True, "lower_order_final": False},
            lambda g: solvers.unipc(g, order=4, kind="noise", relaxation="exact", lower_order_final=False),
        ),
    ],
)
def test_usual_solvers_are_uniform_decisions(options, usual):
    ours = states(unified.solver(SCHEDULE, unified.uniform(grid().lam, **options))).value
    np.testing.assert_allclose(ours, states(usual(grid())).value, atol=1e-12)


@pytest.mark.x64
@pytest.mark.parametrize(("kind", "values"), [("data", (1.0, 0.0, 0.0)), ("noise", (0.0, -1.0, 0.0))])
def test_v3_rows_with_constant_statistics_are_the_other_kinds(kind, values):
    g = grid()
    levels = np.linspace(g.lam[0], g.lam[-1], 41)
    stats = statistics.Statistics(levels, *(np.full((41, 2), v) for v in values))
    options = {"order": 3, "corrector": True}
    v3_table = unified.solver(SCHEDULE, unified.uniform(g.lam, kind="v3", **options), statistics=stats)
    plain = unified.solver(SCHEDULE, unified.uniform(g.lam, kind=kind, **options))
    np.testing.assert_allclose(states(v3_table).value, states(plain).value, atol=1e-9)


def mixed():
    """Five rows: kinds, orders, stencils, starts and relaxations all different, three correctors."""
    lam = np.array([-5.0, -3.1, -1.7, 0.2, 1.5, 4.0])
    d = unified.uniform(lam, order=1)
    points = d.points.copy()
    points[1, 0, 1] = True
    points[2, 0, 1] = points[2, 1, [1, 2]] = True  # first derivative of low order
    points[3, 0, 0] = True  # singlestep: starts one evaluation back, slope through the newest
    points[4, 0, [1, 3]] = points[4, 1, [1, 3]] = True  # a gap in the history
    return d._replace(
        kind=np.array([0, 1, 0, 1, 1]), order=np.array([1, 2, 3, 2, 3]), start=np.array([0, 0, 0, 1, 0]), points=points,
        relaxation=np.array([0, 5, 3, 2, 4]), coefficient=np.array([0, -0.05, 0, 0, 0]),
        corrector=np.array([True, False, True, True, False]),
    )  # fmt: skip


def by_hand(d, x, predict):
    """The same schedule written as a loop over points, with quadrature for the exponential integrals."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    lam, alpha_sigma = d.lam, SCHEDULE.alpha_sigma
    history = []  # (lam, x, D, eps), newest first; x is replaced by correction

    def relax(name, c, h, z):
        return {
            "exact": 1.0, "linear": 1 + c * h,
            "plus_exp": 1 + 0.5 * math.expm1(z), "minus_exp": 1 - 0.5 * math.expm1(z),
            "bh2": 0.5 * z * math.expm1(z) / (math.expm1(z) - z), "bh1": 0.5 * z**2 / (math.expm1(z) - z),
        }[name]  # fmt: skip

    def step(kind, base, stencils, to, factor):
        s, x_s = history[base][0], history[base][1]
        h, which = to - s, 2 if kind == "data" else 3
        (a_s, s_s), (a_t, s_t) = alpha_sigma(s), alpha_sigma(to)
        r = h * (nodes + 1) / 2
        series = np.zeros((len(nodes), *x.shape)) + history[base][which]
        for k, stencil in enumerate(stencils, start=1):
            deltas = np.array([history[p][0] - s for p in stencil])
            matrix = np.array([deltas**i / math.factorial(i) for i in range(1, len(stencil) + 1)])
            a = np.linalg.solve(matrix, np.eye(len(stencil))[k - 1])
            d_k = sum(w * (history[p][which] - history[base][which]) for w, p in zip(a, stencil))
            d_k = d_k * (factor if k == 1 else 1.0)
            series = series + (r**k / math.factorial(k)).reshape(-1, *(1,) * x.ndim) * d_k
        kernel = np.exp(-(h - r)) if kind == "data" else np.exp(h - r)
        integral = np.tensordot(h / 2 * weights * kernel, series, 1)
        return s_t / s_s * x_s + a_t * integral if kind == "data" else a_t / a_s * x_s - s_t * integral

    for i in range(int(d.num_rows)):
        data, noise = predict(x, *alpha_sigma(lam[i]))
        history.insert(0, [lam[i], x, data, noise])
        plan = [[tuple(np.flatnonzero(d.points[j, k])) for k in range(d.order[j] - 1)] for j in range(i + 1)]
        if i and d.corrector[i - 1]:
            moved = [(0, *(p + 1 for p in stencil)) for stencil in plan[i - 1]]
            moved.append(moved[-1] if moved else (0,))
            history[0][1] = step(unified.KINDS[d.kind[i - 1]], d.start[i - 1] + 1, moved, lam[i], 1.0)
        kind, base = unified.KINDS[d.kind[i]], d.start[i]
        h = lam[i + 1] - history[base][0]
        name = _exponential.RELAXATIONS[d.relaxation[i]]
        factor = relax(name, d.coefficient[i], h, -h if kind == "data" else h)
        x = step(kind, base, plan[i], lam[i + 1], factor)
    return x


@pytest.mark.x64
def test_mixed_rows_equal_a_loop_written_by_hand():
    problem = mixture.problem_a()
    expected = by_hand(mixed(), problem.x_T[:8], lambda x, a, s: mixture.predict(problem.mixture, x, a, s))
    np.testing.assert_allclose(states(unified.solver(SCHEDULE, mixed())).value, expected, atol=1e-11)


@pytest.mark.x64
@pytest.mark.parametrize("first", ["zero", "mean"])
def test_an_analytic_first_step_saves_a_call(first):
    mean = np.array([0.4, -0.2])
    d = unified.uniform(grid(4).lam, order=2, first=first)
    table = unified.solver(SCHEDULE, d, mean=mean)
    result = states(table)
    assert set(result.nfe.tolist()) == {3} and int(d.num_calls) == 3 and not result.status.any()
    known = mean if first == "mean" else np.zeros(2)
    x = mixture.problem_a().x_T[:8]
    np.testing.assert_allclose(result.trajectory.data[:, 0], np.broadcast_to(known, (8, 2)), atol=1e-12)
    np.testing.assert_allclose(result.trajectory.noise[:, 0], (x - table.alpha[0] * known) / table.sigma[0], rtol=1e-9)


@pytest.mark.x64
def test_padded_tables_have_one_shape_and_the_same_results():
    shorter = [unified.uniform(grid(4).lam, order=3, corrector=True, size=5), unified.uniform(grid(3).lam, size=5)]
    made = [mixed(), *shorter]
    stacked = tables.stack([unified.solver(SCHEDULE, d, pad=True) for d in made])
    problem = mixture.problem_a()
    denoiser = mixture.denoiser(problem.mixture, SCHEDULE)
    found = jax.vmap(lambda t: diffusion.sample(None, denoiser, t, problem.x_T[0]))(stacked)
    assert found.nfe.tolist() == [5, 4, 3]
    for value, d in zip(found.value, made):
        np.testing.assert_allclose(value, states(unified.solver(SCHEDULE, d), num=1).value[0], atol=1e-12)


@pytest.mark.x64
def test_a_table_of_decisions_saves_and_loads(tmp_path):
    table = unified.solver(SCHEDULE, mixed())
    tables.save(table, tmp_path / "found.npz")
    chex.assert_trees_all_equal(table, tables.load(tmp_path / "found.npz"))


@pytest.mark.x64
def test_nodes_and_coefficients_are_differentiable():
    problem, d = mixture.problem_a(), mixed()
    denoiser = mixture.denoiser(problem.mixture, SCHEDULE)
    target = jnp.asarray(mixture.truth("a")[0])

    def loss(lam, coefficient):
        table = tables.tabulate(unified.rule(d._replace(coefficient=coefficient)), grids.at_lams(SCHEDULE, lam))
        return jnp.sum((diffusion.sample(None, denoiser, table, problem.x_T[0]).value - target) ** 2)

    lam, coefficient = jnp.asarray(d.lam), jnp.asarray(d.coefficient)
    slopes = jax.grad(loss, (0, 1))(lam, coefficient)
    for i, (x, h) in enumerate(((lam.at[2], 1e-6), (coefficient.at[1], 1e-6))):
        moved = [lam, coefficient]
        high, low = list(moved), list(moved)
        high[i], low[i] = x.add(h), x.add(-h)
        expected = (loss(*high) - loss(*low)) / (2 * h)
        np.testing.assert_allclose(slopes[i][(2, 1)[i]], expected, rtol=1e-5)
        assert abs(expected) > 1e-4


def test_a_clean_last_node_and_pure_noise_at_the_first():
    g = grids.at_lams(SCHEDULE, np.array([-4.0, -1.0, 1.0, np.inf]))
    table = unified.solver(SCHEDULE, unified.uniform(g.lam, order=3, corrector=True))
    peer = solvers.unipc(g, order=3, relaxation="exact")
    np.testing.assert_allclose(states(table).value, states(peer).value, rtol=1e-4)
    flow = diffusion.schedules.flow()
    g = grids.at_lams(flow, np.array([-np.inf, -1.0, 0.5, 2.0]))
    d = unified.uniform(np.array([-9.0, -1.0, 0.5, 2.0]), order=2, relaxation="exact", lower_order_final=False)
    pure = tables.tabulate(unified.rule(d), g)
    usual = tables.tabulate(rules.multistep(2, lower_order_final=False), g)
    chex.assert_trees_all_close(pure.predictor[:3], usual.predictor[:3], rtol=1e-7, atol=1e-14)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": np.array([-5.0, -3.0, -3.0, 0.2, 1.5, 4.0])}, "rise strictly"),
        ({"lam": np.array([-5.0, np.nan, -2.0, 0.2, 1.5, 4.0])}, "finite"),
        ({"kind": np.array([0, 1, 7, 1, 1])}, "kind of row 2"),
        ({"kind": np.array([0, 1, 2, 1, 1])}, "needs statistics"),
        ({"order": np.array([1, 2, 5, 2, 3])}, "order of row 2"),
        ({"order": np.array([2, 2, 3, 2, 3])}, "derivative 1 of row 0"),
        ({"start": np.array([1, 0, 0, 1, 0])}, "row 0 starts"),
        ({"start": np.array([0, 1, 0, 1, 0])}, "without its start 1"),
        ({"relaxation": np.array([0, 5, 9, 2, 4])}, "relaxation of row 2"),
        ({"num_rows": np.array(6)}, "num_rows"),
        ({"first": np.array(3)}, "first must be in"),
        ({"first": np.array(-1)}, "first must be in"),
    ],
)
def test_decisions_that_are_no_solver_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        unified.solver(SCHEDULE, mixed()._replace(**change))


@pytest.mark.bad_input
def test_statistics_must_reach_all_nodes():
    stats = statistics.Statistics(np.linspace(-4, 4, 9), *(np.zeros((9, 2)) for _ in range(3)))
    with pytest.raises(ValueError, match="unified.solver: the statistics cover"):
        unified.solver(SCHEDULE, unified.uniform(np.array([-5.0, 0.0, 3.0]), kind="v3"), statistics=stats)


@pytest.mark.bad_input
def test_names_and_tracers():
    with pytest.raises(ValueError, match="kind must be one of"):
        unified.uniform(grid().lam, kind="eps")
    with pytest.raises(ValueError, match="order must be 1 to 4"):
        unified.uniform(grid().lam, order=5)
    with pytest.raises(ValueError, match="size must be >= the 7 rows"):
        unified.uniform(grid().lam, size=3)
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda lam: unified.uniform(lam).lam)(jnp.arange(3.0))
