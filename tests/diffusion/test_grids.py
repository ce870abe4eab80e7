"""Time grids: uniform where they say so, validated, never silently changed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.diffusion import grids, schedules

VP = schedules.vp_linear()


def _steps(values):
    return np.diff(values)


def test_each_grid_is_uniform_in_its_variable():
    for build, variable in (
        (lambda: grids.time(VP, 8), lambda g: g.t),
        (lambda: grids.time(VP, 8, power=2.0), lambda g: np.sqrt(g.t)),
        (lambda: grids.logsnr(VP, 8), lambda g: g.lam),
        (lambda: grids.karras(VP, 8), lambda g: np.exp(-g.lam / 7)),
        (lambda: grids.karras(VP, 8, power=3.0), lambda g: np.exp(-g.lam / 3)),
    ):
        grid = build()
        steps = _steps(variable(grid))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
        assert all(a.dtype == np.float64 and a.shape == (9,) for a in grid[:4])
        np.testing.assert_allclose(grid.t[[0, -1]], (1.0, 1e-3), rtol=1e-9)
        np.testing.assert_allclose(np.log(grid.alpha / grid.sigma), grid.lam, atol=1e-12)


def test_beta_grid_has_the_quantiles_of_its_law():
    import scipy.stats

    grid = grids.beta(schedules.ve(), 6, a=0.6, b=0.6)
    shares = scipy.stats.beta.cdf((grid.sigma - 0.002) / (80 - 0.002), 0.6, 0.6)
    np.testing.assert_allclose(shares, np.linspace(1, 0, 7), atol=1e-9)


def test_ends_can_be_chosen():
    grid = grids.logsnr(VP, 3, t_min=1e-4, t_max=0.9)
    np.testing.assert_allclose(grid.t[[0, -1]], (0.9, 1e-4), rtol=1e-9)


def test_given_nodes_are_kept():
    times = [0.9, 0.31, 0.3, 0.01]
    np.testing.assert_array_equal(grids.from_times(VP, times).t, times)
    sigmas = [80.0, 14.464, 3.352, 1.4173, 0.2277, 0.05816, 0.0022281]
    grid = grids.from_sigmas(VP, sigmas)
    np.testing.assert_allclose(grid.sigma / grid.alpha, sigmas, rtol=1e-12)
    zero = grids.from_sigmas(VP, [*sigmas, 0.0])
    assert np.isposinf(zero.lam[-1]) and zero.sigma[-1] == 0 and zero.alpha[-1] == 1 and zero.t[-1] == 0


def test_with_zero_adds_one_node_once():
    grid = grids.with_zero(grids.logsnr(VP, 3))
    assert grid.lam.shape == (5,) and np.isposinf(grid.lam[-1])
    assert grids.with_zero(grid).lam.shape == (5,)


def test_timesteps_of_a_chain():
    chain = schedules.vp_discrete(schedules.betas("scaled_linear"))
    grid = grids.from_timesteps(chain, grids.ALIGN_YOUR_STEPS["sd"])
    np.testing.assert_allclose(chain.model_time(grid.t)[:-1], grids.ALIGN_YOUR_STEPS["sd"], atol=1e-9)
    assert grid.t.shape == (11,) and np.isposinf(grid.lam[-1])
    last = grids.from_timesteps(chain, [999, 500], last=0)
    np.testing.assert_allclose(last.t, [1.0, 0.501, 0.001])


def test_spacings():
    np.testing.assert_array_equal(grids.spacing("linspace", 4), [999, 749, 500, 250])
    np.testing.assert_array_equal(grids.spacing("leading", 4, offset=1), [801, 601, 401, 201])
    np.testing.assert_array_equal(grids.spacing("trailing", 4), [999, 749, 499, 249])
    np.testing.assert_array_equal(grids.spacing("trailing", 1000), np.arange(1000)[::-1])
    assert grids.spacing("linspace", 3, num_used=900)[0] == 899


@pytest.mark.x64
def test_a_traced_grid_equals_the_host_one_and_has_gradients():
    host = grids.logsnr(VP, 5)
    traced = jax.jit(lambda lams: grids.at_lams(VP, lams))(jnp.asarray(host.lam))
    chex.assert_trees_all_close(traced[:4], host[:4], rtol=1e-11)
    back = jax.jit(lambda times: grids.at_times(VP, times))(jnp.asarray(host.t))
    np.testing.assert_allclose(back.lam, host.lam, rtol=1e-11)
    slopes = jax.jacfwd(lambda lams: grids.at_lams(VP, lams).t)(jnp.asarray(host.lam))
    h = 1e-6
    np.testing.assert_allclose(
        jnp.diag(slopes), (VP.t_of_lam(host.lam + h) - VP.t_of_lam(host.lam - h)) / (2 * h), rtol=1e-6
    )


@pytest.mark.bad_input
def test_bad_nodes_are_refused_by_name():
    with pytest.raises(ValueError, match="from_times: nodes must go from noise to data.* node 2 is repeated"):
        grids.from_times(VP, [0.9, 0.5, 0.5, 0.1])
    with pytest.raises(ValueError, match="node 2 is out of order"):
        grids.from_times(VP, [0.9, 0.5, 0.6, 0.1])
    with pytest.raises(ValueError, match="at least 2 nodes"):
        grids.from_times(VP, [0.9])
    with pytest.raises(ValueError, match=r"lam is NaN at nodes \[1\]"):
        grids.from_times(schedules.ve(), [2.0, -1.0])
    with pytest.raises(ValueError, match="node 1 is out of order"):
        grids.from_sigmas(VP, [0.1, 0.2])
    with pytest.raises(ValueError, match="node 2 is repeated"):
        grids.from_sigmas(VP, [0.1, 0.0, 0.0])
    with pytest.raises(ValueError, match="sigmas must be >= 0"):
        grids.from_sigmas(VP, [0.1, -0.2])
    chain = schedules.vp_discrete(schedules.betas("linear"))
    with pytest.raises(ValueError, match="from_timesteps: nodes .* repeated"):
        grids.from_timesteps(chain, [999, 500, 500])


@pytest.mark.bad_input
def test_bad_ends_and_kinds():
    with pytest.raises(ValueError, match="num_steps must be an int >= 1, got 0"):
        grids.time(VP, 0)
    with pytest.raises(ValueError, match="num_steps must be an int >= 1, got 2.5"):
        grids.karras(VP, 2.5)
    with pytest.raises(ValueError, match="needs 0 <= t_min < t_max"):
        grids.time(VP, 3, t_min=0.5, t_max=0.2)
    with pytest.raises(ValueError, match=r"logsnr: lam is \S+ and inf at the ends"):
        grids.logsnr(VP, 3, t_min=0.0)
    with pytest.raises(ValueError, match="karras: lam is -inf and"):
        grids.karras(schedules.flow(), 3)
    with pytest.raises(ValueError, match="kind must be 'linspace'"):
        grids.spacing("middle", 3)
    with pytest.raises(ValueError, match=r"num_steps must be in \[1, 1000\]"):
        grids.spacing("linspace", 1001)
    with pytest.raises(ValueError, match="num_steps=1000 of 'linspace' in a chain of 1000 repeats steps"):
        grids.spacing("linspace", 1000)
    for power in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="power must be positive"):
            grids.time(VP, 3, power=power)
        with pytest.raises(ValueError, match="karras: power must be positive"):
            grids.karras(VP, 3, power=power)


@pytest.mark.bad_input
def test_tracers_are_sent_to_the_graph():
    for build in (
        lambda t: grids.time(VP, 3, t_min=t),
        lambda t: grids.from_times(VP, jnp.stack([t * 9, t])),
        lambda t: grids.from_sigmas(VP, jnp.stack([t * 9, t])),
        lambda t: grids.logsnr(schedules.vp_linear(t), 3),
    ):
        with pytest.raises(TypeError, match="concrete.*at_times"):
            jax.jit(lambda t, build=build: build(t).lam)(0.1)


@pytest.mark.bad_input
def test_a_start_needs_a_finite_first_step():
    grid = grids.logsnr(schedules.vp_linear(), 40)
    assert len(grids.started(grid, 2).lam) == len(grid.lam)  # second order needs nothing
    pure = grids.at_lams(schedules.flow(), np.array([-np.inf, -1.0, 2.0]))
    with pytest.raises(ValueError, match="start at a little signal"):
        grids.started(pure, 4)
