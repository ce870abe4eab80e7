"""Dense output: the curve between the nodes, its order, and its ends."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import mixture
from jaxsci import diffusion
from jaxsci.diffusion import dense, grids, rules, statistics, tables, unified, v3
from jaxsci.diffusion.tables import Row, Step

PROBLEM = mixture.problem_a()
VP = PROBLEM.schedule
DENOISER = mixture.denoiser(PROBLEM.mixture, VP)
X = PROBLEM.x_T[:32]
SEVEN = grids.logsnr(VP, 7)
_LAMS = statistics.constant(VP, lams=20).lam
_LEVEL = VP.alpha_sigma(_LAMS)[1] ** 2  # 1 in noise, where the steps of lower order at the start must do no harm
STATS = statistics.Statistics(_LAMS, _LEVEL, -0.2 * (1 - _LEVEL), 0.3 * _LEVEL * (1 - _LEVEL))
RULES = {
    "ddim": (rules.ddim(), 1),
    "2m": (rules.multistep(2), 2),
    "unipc": (rules.multistep(3, relaxation="bh2", corrector=True), 3),
    "noise": (rules.multistep(3, kind="noise"), 3),
    "t-ab": (rules.adams_bashforth(3), 3),
    "v3": (v3.v3(STATS, 3, grid=SEVEN), 3),
}
_DECISIONS = unified.uniform(SEVEN.lam, kind="v3", order=3, corrector=True)
OF_SEVEN = {name: rule for name, (rule, _) in RULES.items()} | {"unified": unified.rule(_DECISIONS, STATS, SEVEN)}


def _curve(rule, grid, lams):
    table = tables.tabulate(rule, grid)
    points = dense.outputs(rule, grid, lams)
    run = jax.jit(jax.vmap(lambda x: diffusion.sample(None, DENOISER, table, x, save="trajectory").trajectory))
    trajectory = run(X)
    return np.asarray(jax.vmap(dense.evaluate, (None, 0))(points, trajectory)), trajectory


@pytest.mark.x64
@pytest.mark.parametrize("name", RULES)
def test_order_between_the_nodes(name):
    rule, order = RULES[name]
    lams = np.asarray([-0.77, 0.11, 1.23])
    truth = np.stack([mixture.reference(PROBLEM.mixture, VP, X, lam_end=lam) for lam in lams], axis=1)
    errors = [mixture.rmse(_curve(rule, grids.logsnr(VP, n), lams)[0], truth) for n in (60, 240)]
    assert np.log(errors[0] / errors[1]) / np.log(4) > order - 0.3, errors
    assert errors[1] < (2e-2 if order == 1 else 1e-3)


@pytest.mark.x64
@pytest.mark.parametrize("name", OF_SEVEN)
def test_nodes_come_back(name):
    curve, trajectory = _curve(OF_SEVEN[name], SEVEN, SEVEN.lam)
    np.testing.assert_allclose(curve, trajectory.x, rtol=1e-10, atol=1e-12)


@pytest.mark.x64
def test_rules_placed_on_a_grid_serve_any_other():
    """Integrals made for one grid are not those of another: rows equal those of a rule that knows no grid."""
    pairs = (
        (v3.v3(STATS, 3, grid=SEVEN), v3.v3(STATS, 3)),
        (OF_SEVEN["unified"], unified.rule(_DECISIONS, STATS)),
    )
    for placed, free in pairs:
        for grid in (grids.time(VP, 7), grids.with_zero(grids.logsnr(VP, 6)), SEVEN):
            one, other = (tables.tabulate(rule, grid) for rule in (placed, free))
            chex.assert_trees_all_close(one, other, rtol=1e-9, atol=1e-12)
        points = [dense.outputs(rule, SEVEN, [SEVEN.lam[2] + 0.3]).rows for rule in (placed, free)]
        chex.assert_trees_all_close(*points, rtol=1e-9, atol=1e-12)
    in_graph = jax.jit(lambda rule, lams: tables.tabulate(rule, grids.at_lams(VP, lams)).predictor.data)
    other = grids.time(VP, 2)
    expected = tables.tabulate(pairs[0][1], other).predictor.data
    np.testing.assert_allclose(in_graph(pairs[0][0], other.lam), expected, rtol=1e-7, atol=1e-10)


@pytest.mark.x64
def test_it_equals_a_table_with_one_node_more():
    """A predictor without corrector: the point is what a run would have had, had it stopped there."""
    rule, grid, lam = rules.multistep(3), grids.logsnr(VP, 6), 0.4
    i = int(np.searchsorted(grid.lam, lam)) - 1
    shorter = tables.tabulate(rule, grids.at_lams(VP, np.append(grid.lam[: i + 1], lam)))
    stopped = diffusion.sample(None, DENOISER, shorter, X[0]).value
    np.testing.assert_allclose(_curve(rule, grid, [lam])[0][0, 0], stopped, rtol=1e-11)


@pytest.mark.x64
def test_a_last_interval_without_noise_and_data_shaped_coefficients():
    grid = grids.with_zero(grids.logsnr(VP, 6, t_min=0.05))
    curve, trajectory = _curve(RULES["2m"][0], grid, [grid.lam[-2] + 0.5, np.inf])
    chex.assert_tree_all_finite(curve)
    np.testing.assert_allclose(curve[:, 1], trajectory.data[:, -1], rtol=1e-12)

    def rule(grid, i):
        share = grid.lam[i + 1] - grid.lam[i]
        return Step(Row({0: np.ones(2)}, {0: share * np.asarray([1.0, 2.0])}, {}, shift=np.asarray([0.0, share])))

    curve, trajectory = _curve(rule, grids.logsnr(VP, 3), [grids.logsnr(VP, 3).lam[1] + 0.25])
    expected = trajectory.x[:, 1] + 0.25 * jnp.asarray([[1.0, 2.0]]) * trajectory.data[:, 1]
    np.testing.assert_allclose(curve[:, 0], expected + jnp.asarray([[0.0, 0.25]]), rtol=1e-12)


@pytest.mark.bad_input
def test_bad_input():
    grid = grids.logsnr(VP, 4)
    for call, match in (
        (lambda: dense.outputs(rules.multistep(2), grid, [9.0]), "lams must lie in"),
        (lambda: dense.outputs(rules.ddim(1.0), grid, [0.0]), "the rule draws noise"),
        (
            lambda: dense.outputs(rules._staged(((1, "data", ()),) * 4), grid, [0.0]),
            "must start at the newest node",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            call()
