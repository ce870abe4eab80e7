"""Statistics that check themselves: how many levels they need, how much they explain, and the status that says so."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import mixture
from jaxsci import diffusion
from jaxsci.core import status
from jaxsci.diffusion import _judged, _regression, grids, solvers, statistics, tables, v3

PROBLEM = mixture.problem_a()
VP = PROBLEM.schedule
DENOISER = mixture.denoiser(PROBLEM.mixture, VP)
DRAW32 = Partial(mixture.draw, jax.tree.map(np.float32, PROBLEM.mixture))
V3 = dict(order=2, pseudo=True, corrector="pseudo")


def _rippled(ripple, x, t, cond, w):
    """The exact denoiser, with a ripple in eps that is far shorter than the spacing of any levels."""
    alpha, sigma = (jnp.asarray(a, x.dtype) for a in VP.alpha_sigma(VP.lam(t)))
    eps = DENOISER(x, t, cond, w)[1] + ripple * jnp.sin(1000 * t)
    return (x - sigma * eps) / alpha, eps


@functools.cache
def _rippled_stats(ripple, derivative, lams=120):
    return statistics.estimate(
        jax.random.key(0), Partial(_rippled, jnp.float32(ripple)), VP, DRAW32, lams=lams, num_samples=512,
        derivative=derivative, batch_size=128,
    )  # fmt: skip


def _codes(stats, calls=(5, 8, 10)):
    return {int(v3.dpm_v3(grids.logsnr(VP, n), stats, **V3).status) for n in calls}


def test_secants_are_the_derivative_where_the_model_is_smooth_in_time():
    # spacing .1 and second order: h^2/24 times a third derivative, and l' is as far off in both
    for name in ("s", "b"):
        exact, secant = (np.asarray(getattr(_rippled_stats(0.0, kind), name)) for kind in ("exact", "secant"))
        assert 0 < np.abs(exact - secant).max() < 0.02 * np.abs(exact).max()


def test_a_rough_response_in_time_is_filtered_by_secants_and_noticed_by_the_table():
    smooth, rough = _rippled_stats(0.0, "secant"), _rippled_stats(0.01, "secant")
    aliased = _rippled_stats(0.01, "exact")
    # b of the exact derivative has the ripple's own, .01 * 1000 dt/dlam; that of secants, .02 / dlam, at neighbouring
    # levels of opposite sign: in the integral of b nothing but the ripple itself is left
    size = lambda stats: float(np.abs(np.cumsum(np.asarray(stats.b - smooth.b)[1:-1], axis=0)).max())  # noqa: E731
    assert size(aliased) > 3 * size(rough)
    assert _codes(smooth) == {0}
    assert all(code & _judged.UNRESOLVED for code in _codes(aliased)) and max(_codes(rough)) & _judged.UNRESOLVED
    table = v3.dpm_v3(grids.logsnr(VP, 5), aliased)
    result = diffusion.sample(None, Partial(_rippled, jnp.float32(0.01)), table, jnp.zeros(2))
    assert int(result.status) == int(table.status) and int(result.status) & _judged.UNRESOLVED
    assert "take solvers.unipc" in status.explain(int(result.status), "diffusion")


def test_what_a_rough_response_costs_is_told():
    """Errors at 8 calls: a second-order solver hardly notices the ripple, v3 does, and its tables say so."""
    grid = grids.logsnr(VP, 8)
    made = [v3.dpm_v3(grid, _rippled_stats(0.01, kind), **V3) for kind in ("secant", "exact")]
    stacked = tables.stack([solvers.dpm_multistep(grid), *made])

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def run(table, x):
        result = diffusion.sample(None, Partial(_rippled, jnp.float32(0.01)), table, x)
        return result.value, result.status

    ends, codes = run(stacked, PROBLEM.x_T.astype(np.float32))
    errors = [mixture.rmse(np.asarray(end), mixture.truth("a")) for end in ends]
    np.testing.assert_allclose(errors, [0.147, 0.367, 4.76], rtol=0.02)
    assert [int(code[0]) & _judged.UNRESOLVED for code in codes] == [0, _judged.UNRESOLVED, _judged.UNRESOLVED]


def test_without_levels_as_many_are_taken_as_the_check_asks_for():
    stats = statistics.estimate(
        jax.random.key(0), Partial(_rippled, jnp.float32(0.0)), VP, DRAW32, num_samples=512, batch_size=128
    )
    num = stats.lam.shape[0] - 1
    assert num in (120, 240)
    coefficients = lambda stats: v3.dpm_v3(grids.logsnr(VP, 8), stats, order=2, corrector=None)  # noqa: E731
    assert coefficients(stats).status == 0
    assert coefficients(_rippled_stats(0.0, "secant", num // 2)).status == _judged.UNRESOLVED
    with pytest.raises(TypeError, match="inside compiled code pass lams"):
        jax.jit(lambda key: statistics.estimate(key, DENOISER, VP, DRAW32))(jax.random.key(0))
    with pytest.raises(ValueError, match="derivative must be"):
        statistics.estimate(jax.random.key(0), DENOISER, VP, DRAW32, lams=2, derivative="parabola")


def _unexplainable(x, t, cond, w):
    """eps that turns with time as much as with x: no regression on f knows its rate."""
    alpha, sigma = (jnp.asarray(a, x.dtype) for a in VP.alpha_sigma(VP.lam(t)))
    eps = jnp.sin(6 * VP.lam(t) + 40 * x[::-1])
    return (x - sigma * eps) / alpha, eps


def test_statistics_say_how_much_they_explain():
    known, unknown = _rippled_stats(0.0, "secant"), statistics.estimate(
        jax.random.key(0), _unexplainable, VP, DRAW32, lams=60, num_samples=128, batch_size=128
    )  # fmt: skip
    assert known.unexplained.shape == known.lam.shape
    assert float(known.unexplained.mean()) < 0.35 < 0.9 < float(unknown.unexplained.mean())
    assert all(code & _judged.POOR_FIT for code in _codes(unknown))


def test_half_of_the_levels_are_every_second_one_and_survive_a_file(tmp_path):
    stats = _rippled_stats(0.01, "secant")
    chex.assert_trees_all_equal(stats.coarse.lam, stats.lam[::2])
    assert stats.coarse.b.shape == (61, 2) and stats.coarse.coarse is None
    statistics.save(stats, tmp_path / "stats.npz")
    chex.assert_trees_all_equal(statistics.load(tmp_path / "stats.npz"), jax.tree.map(np.asarray, stats))
    np.testing.assert_array_equal(_regression.every_second(np.zeros(6)), [0, 2, 4, 5])


def test_the_status_of_a_table_survives_shapes_and_files(tmp_path):
    table = v3.dpm_v3(grids.logsnr(VP, 5), _rippled_stats(0.01, "exact"), **V3)
    plain = solvers.ddim(grids.logsnr(VP, 7))
    padded, other = tables.unify([table, plain])
    assert padded.status == table.status != 0 == other.status
    tables.save(table, tmp_path / "table.npz")
    assert tables.load(tmp_path / "table.npz").status == table.status
    assert v3.dpm_v3(grids.logsnr(VP, 5), statistics.constant(VP)).status == 0
