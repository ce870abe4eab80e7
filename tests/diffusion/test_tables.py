"""Solver tables: what tabulate collects and refuses, padding, stacking, files, and use without JAX."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import mixture
from jaxsci import diffusion
from jaxsci.diffusion import grids, rules, schedules, solvers, tables
from jaxsci.diffusion.tables import Row, Step

VP = schedules.vp_linear()
PROBLEM = mixture.problem_a()


def _grid(num_steps=6):
    return grids.logsnr(VP, num_steps)


def test_tables_are_float64_without_x64():
    assert not jax.config.jax_enable_x64
    for table in (solvers.unipc(_grid()), solvers.deis(_grid()), solvers.heun(_grid()), solvers.sde_dpm(_grid())):
        for leaf in jax.tree.leaves(table):
            assert isinstance(leaf, np.ndarray) and leaf.dtype in (np.float64, np.bool_)


def test_only_used_slots_and_features_are_stored():
    ddim, unipc, sde = solvers.ddim(_grid()), solvers.unipc(_grid()), solvers.sde_dpm(_grid())
    assert [a.shape for a in ddim.predictor[:3]] == [(6, 0), (6, 1), (6, 1)]
    assert [a.shape for a in unipc.predictor[:3]] == [(6, 1), (6, 3), (6, 0)]
    assert unipc.corrector.x.shape == (6, 2) and unipc.corrector.data.shape == (6, 4)
    np.testing.assert_array_equal(unipc.corrected, [False, True, True, True, True, True])
    assert ddim.corrector is None and ddim.predictor.std is None and ddim.evaluate is None and ddim.active is None
    assert sde.predictor.std.shape == (6,)


@pytest.mark.x64
def test_the_table_is_enough_for_a_plain_loop(key):
    """The recursion in its docstring, in NumPy: a corrected, an inserted-node and a noisy table."""
    denoiser = mixture.denoiser(PROBLEM.mixture, VP)
    x_T = PROBLEM.x_T[0]
    for table in (solvers.unipc(_grid()), solvers.dpm_singlestep(_grid(3), order=3), solvers.sde_dpm(_grid())):
        x, xs, datas, noises = mixture.plain_loop(
            table,
            lambda x, i, t=table: mixture.predict(PROBLEM.mixture, x, t.alpha[i], t.sigma[i]),
            x_T,
            lambda i: np.asarray(jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, i), 0), (2,))),
        )
        result = diffusion.sample(key, denoiser, table, x_T, save="trajectory")
        np.testing.assert_allclose(result.value, x, rtol=1e-11)
        np.testing.assert_allclose(result.trajectory.x[:-1], xs, rtol=1e-11)
        np.testing.assert_allclose(result.trajectory.data, datas, rtol=1e-11)
        np.testing.assert_allclose(result.trajectory.noise, noises, rtol=1e-10)


def test_padding_keeps_rows_and_repeats_the_last_node():
    table = solvers.unipc(_grid())
    padded = tables.pad(table, 9)
    assert padded.num_rows == 9
    np.testing.assert_array_equal(padded.active, [True] * 6 + [False] * 3)
    np.testing.assert_array_equal(padded.t[6:], table.t[-1])
    np.testing.assert_array_equal(padded.predictor.data[:6], table.predictor.data)
    assert not padded.predictor.data[6:].any()
    again = tables.pad(padded, 10)
    np.testing.assert_array_equal(again.active, [True] * 6 + [False] * 4)


def test_stacking_is_unify_and_an_axis():
    singles = [solvers.ddim(_grid(4)), solvers.unipc(_grid(6)), solvers.sde_dpm(_grid(5))]
    stacked = tables.stack(singles)
    assert stacked.t.shape == (3, 7) and stacked.active.sum(1).tolist() == [4, 6, 5]
    assert stacked.predictor.x.shape == (3, 6, 1) and stacked.corrector.data.shape == (3, 6, 4)
    assert stacked.predictor.std.shape == (3, 6) and not stacked.predictor.std[:2].any()
    chex.assert_trees_all_equal_structs(tables.SolverTable.unify(singles), tables.unify(singles))


def test_stacking_broadcasts_to_coefficients_of_the_data_shape():
    def rule(grid, i):
        return Step(Row({0: np.full(2, 0.5)}, {0: np.asarray([0.1, 0.2])}, {}, shift=np.asarray([1.0, 2.0])))

    def scalar_shift(grid, i):
        return Step(Row({0: 0.5}, {}, {}, shift=3.0))

    wide, shifted = (tables.tabulate(r, _grid(2)) for r in (rule, scalar_shift))
    plain = solvers.ddim(_grid(3))
    assert wide.predictor.data.shape == (2, 1, 2)
    stacked = tables.stack([wide, plain, shifted])
    assert stacked.predictor.data.shape == (3, 3, 1, 2) and stacked.predictor.shift.shape == (3, 3, 2)
    np.testing.assert_array_equal(stacked.predictor.shift[2, 0], [3.0, 3.0])
    denoiser = lambda x, t, cond, w: (x, x)  # noqa: E731
    x = jnp.asarray([1.0, -1.0])
    many = jax.vmap(lambda t: diffusion.sample(None, denoiser, t, x).value)(stacked)
    for row, table in zip(many, (wide, plain, shifted)):
        np.testing.assert_allclose(row, diffusion.sample(None, denoiser, table, x).value, rtol=1e-6)


def test_amplification():
    table = solvers.dpm_multistep(_grid(), order=1)
    np.testing.assert_allclose(tables.amplification(table), 1.0)
    weights = solvers.dpm_multistep(_grid(), order=2, lower_order_final=False).predictor.data
    expected = np.abs(weights).sum(1) / np.abs(weights.sum(1))
    got = tables.amplification(solvers.dpm_multistep(_grid(), order=2, lower_order_final=False))
    np.testing.assert_allclose(got, expected)
    assert got[3] > 1.5
    many = [solvers.unipc(_grid()), solvers.deis(_grid(), variable="lam")]
    np.testing.assert_allclose(tables.amplification(tables.stack(many)), [tables.amplification(t) for t in many])


@pytest.mark.x64
def test_files_keep_everything(tmp_path):
    clean = grids.with_zero(_grid())
    for i, table in enumerate(
        (
            solvers.unipc(clean),
            solvers.sde_dpm(_grid()),
            tables.pad(solvers.heun(_grid()), 20),
            tables.analytic_first(solvers.unipc(_grid()), 0.3),
            tables.stack([solvers.ddim(_grid()), solvers.unipc(_grid())]),
        )
    ):
        tables.save(table, tmp_path / f"{i}.npz")
        loaded = tables.load(tmp_path / f"{i}.npz")
        chex.assert_trees_all_equal(loaded, table, strict=True)
    with np.load(tmp_path / "0.npz") as file:  # plain arrays under readable names
        assert {"t", "lam", "predictor.x", "predictor.data", "corrector.data", "corrected"} <= set(file.files)


@pytest.mark.x64
def test_a_table_made_in_the_graph_has_gradients():
    """d error / d nodes, through the table and the sampler, against differences: a learned grid."""
    denoiser = mixture.denoiser(PROBLEM.mixture, VP)
    truth, x_T = mixture.truth("a")[:8], PROBLEM.x_T[:8]
    lams = jnp.asarray(_grid(4).lam)

    @jax.jit
    @jax.value_and_grad
    def loss(inner):
        nodes = jnp.concatenate([lams[:1], inner, lams[-1:]])
        table = tables.tabulate(rules.multistep(3, relaxation="bh2", corrector=True), grids.at_lams(VP, nodes))
        ends = jax.vmap(lambda x: diffusion.sample(None, denoiser, table, x).value)(x_T)
        return jnp.mean((ends - truth) ** 2)

    inner = lams[1:-1]
    value, slope = loss(inner)
    for i in range(3):
        h = 1e-5 * jnp.eye(3)[i]
        np.testing.assert_allclose(slope[i], (loss(inner + h)[0] - loss(inner - h)[0]) / 2e-5, rtol=1e-5, atol=1e-9)
    better = inner
    for _ in range(20):
        better = better - 0.3 * loss(better)[1]
    assert loss(better)[0] < 0.8 * value


@pytest.mark.bad_input
def test_bad_input(tmp_path):
    def too_far(grid, i):
        return Step(Row({0: 1.0}, {1: 0.5}, {}))

    def infinite(grid, i):
        return Step(Row({0: np.inf}, {}, {}))

    for call, match in (
        (lambda: tables.tabulate(too_far, _grid()), "the predictor of row 0 uses slot 1, but only 1 exist"),
        (lambda: tables.tabulate(infinite, _grid()), "predictor of row 0 has a coefficient of x that is not finite"),
        (lambda: tables.pad(solvers.ddim(_grid()), 3), "size must be >= the 6 rows of the table, got 3"),
        (lambda: tables.unify([]), "no tables"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    # nodes repeated behind the builders' back: the weights are singular, and the message asks
    lam = np.asarray([-1.0, 0.0, 0.0, 1.0])
    for order in (2, 3):
        with pytest.raises(ValueError, match="row 2 has a coefficient of data that is not finite; are nodes repeated"):
            tables.tabulate(rules.multistep(order), grids.at_lams(VP, lam))
    with pytest.raises(ValueError, match="different shapes"):
        wide = [tables.tabulate(lambda g, i, n=n: Step(Row({0: np.ones(n)}, {}, {})), _grid()) for n in (2, 3)]
        tables.unify(wide)
    np.save(tmp_path / "bare.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("t, lam")
    for file in ("bare.npy", "text.npz"):
        with pytest.raises(ValueError, match="tables.load: .* holds no solver table, or is damaged"):
            tables.load(tmp_path / file)
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(ValueError, match="holds no solver table, or is damaged"):
        tables.load(tmp_path / "other.npz")


@pytest.mark.bad_input
def test_builders_refuse_tracers_and_wrong_options():
    for build in (solvers.ddim, solvers.unipc, solvers.deis, solvers.heun, solvers.dpm_singlestep, solvers.sde_dpm):
        with pytest.raises(TypeError, match="concrete.*tables.tabulate"):
            jax.jit(lambda lams, build=build: build(grids.at_lams(VP, lams)).t)(_grid().lam)
    flow = grids.time(schedules.flow(), 4)
    for call, match in (
        (lambda: solvers.ddim(_grid(), eta=1.5), r"eta must be in \[0, 1\], got 1.5"),
        (lambda: solvers.dpm_multistep(_grid(), relaxation="half"), "must be 'exact', 'bh1' or 'bh2', got 'half'"),
        (lambda: solvers.dpm_multistep(_grid(), order=5), "order must be 1, 2, 3 or 4, got 5"),
        (lambda: solvers.sde_dpm(_grid(), tau=-1.0), "tau must be >= 0"),
        (lambda: solvers.deis(_grid(), order=4), "order must be 0, 1, 2 or 3"),
        (lambda: solvers.runge_kutta(_grid(), method="rk45"), "method must be one of .* got 'rk45'"),
        (lambda: solvers.heun(flow), "sigma/alpha is infinite at the first node"),
        (lambda: solvers.dpm_singlestep(_grid(), orders=(2, 2)), "needs 6 orders of 1, 2 or 3"),
        (lambda: solvers.dpm_singlestep(_grid(), kind="v"), "kind must be 'data' or 'noise'"),
        (lambda: solvers.dpm_orders(0, 2), "num_calls >= 1"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_orders_within_a_budget():
    assert solvers.dpm_orders(6, 3) == (3, 2, 1)
    assert solvers.dpm_orders(7, 3) == (3, 3, 1)
    assert solvers.dpm_orders(8, 3) == (3, 3, 2)
    assert solvers.dpm_orders(7, 2) == (2, 2, 2, 1)
    for calls in range(1, 21):
        for order in (1, 2, 3):
            orders = solvers.dpm_orders(calls, order)
            assert sum(orders) == calls
            table = solvers.dpm_singlestep(_grid(len(orders)), orders=orders)
            assert table.num_rows == calls
