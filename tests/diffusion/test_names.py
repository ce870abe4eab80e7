"""Solvers by their usual names."""

import chex
import jax
import numpy as np
import pytest

from diffusion import mixture
from jaxsci import diffusion
from jaxsci.diffusion import grids, names, schedules, solvers, tables

VP = schedules.vp_linear()
equal = chex.assert_trees_all_equal


def test_a_name_is_its_solver_on_its_grid():
    """The pieces, put together by hand."""
    karras = grids.with_zero(grids.karras(VP, 7))
    equal(names.named("DPM++ 2M Karras", VP, 8), solvers.dpm_multistep(karras, order=2))
    equal(names.named("LMS Karras", VP, 8), solvers.deis(karras, order=3, variable="rho"))
    uniform = grids.with_zero(grids.time(VP, 7))
    equal(names.named("Euler a", VP, 8), solvers.ddim(uniform, eta=1.0))
    equal(names.named("Heun", VP, 8), solvers.heun(uniform))
    exponential = grids.with_zero(grids.logsnr(VP, 7))
    equal(names.named("DPM++ 3M SDE Exponential", VP, 8), solvers.sde_dpm(exponential, order=3))
    equal(names.named("UniPC", uniform), solvers.unipc(uniform, order=3))
    equal(names.named("UniPC", uniform, order=2, relaxation="bh1"), solvers.unipc(uniform, order=2, relaxation="bh1"))
    equal(names.named("  dpm++ 2m   KARRAS ", VP, 8), names.named("DPM++ 2M Karras", VP, 8))


@pytest.mark.parametrize("grid", names._GRIDS)
@pytest.mark.parametrize("name", names._SOLVERS)
def test_every_name_gives_a_table(name, grid):
    """Finite rows from the noisy end to a node without noise, also of one step."""
    for num_steps in (1, 5):
        table = names.named(f"{name} {grid}".strip(), VP, num_steps)
        rows = 2 * num_steps - 1 if name in ("Heun", "DPM2", "DPM++ 2S") else num_steps
        assert table.t.shape == (rows + 1,)
        assert table.sigma[-1] == 0 and table.alpha[-1] == 1
        np.testing.assert_allclose(table.t[0], VP.t_max)
        chex.assert_tree_all_finite(table.predictor)


def test_numbers_of_steps_may_come_from_an_array():
    for num_steps in np.asarray([3, 5]):
        assert names.named("DPM++ 2M", VP, num_steps).t.shape == (num_steps + 1,)


@pytest.mark.x64
def test_below_fifteen_calls_the_builder_that_the_module_names_is_better():
    problem, truth = mixture.problem_a(), mixture.truth("a")
    schedule, denoiser = problem.schedule, mixture.denoiser(problem.mixture, problem.schedule)
    made = [
        solvers.unipc(grids.logsnr(schedule, 8), order=2), names.named("UniPC Exponential", schedule, 8, order=2),
        names.named("UniPC", schedule, 8),
    ]  # fmt: skip
    run = jax.vmap(lambda table, x: diffusion.sample(None, denoiser, table, x).value, (None, 0))
    ends = jax.jit(jax.vmap(run, (0, None)))(tables.stack(made), problem.x_T)
    errors = [mixture.rmse(np.asarray(end), truth) for end in ends]
    np.testing.assert_allclose(errors, [0.1468, 0.2147, 1.0347], rtol=0.01)


@pytest.mark.bad_input
def test_bad_names():
    """Unknown names list the known ones; grids are not given twice."""
    for name in ("DPM++ 2N", "Karras", "", "Euler Karras Karras"):
        with pytest.raises(ValueError, match=r"unknown name .*Euler, Euler a, Heun, LMS, .*UniPC.*Karras, Exponential"):
            names.named(name, VP, 5)
    grid = grids.time(VP, 5)
    with pytest.raises(ValueError, match="a grid was passed"):
        names.named("Euler Karras", grid)
    with pytest.raises(ValueError, match="a grid was passed"):
        names.named("Euler", grid, 5)
    with pytest.raises(ValueError, match="num_steps must be an int >= 1, got None"):
        names.named("Euler", VP)
    with pytest.raises(TypeError, match="must be a NoiseSchedule or a TimeGrid, got int"):
        names.named("Euler", 5)
