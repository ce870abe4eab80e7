"""Steps of a cloud, by the sampler and by correctors: histories, padding, shortcuts and their bit, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import contracts
import jaxsci
from jaxsci import diffusion, smc
from jaxsci.core import status
from jaxsci.diffusion import correctors, grids, schedules, solvers, tables

VE = schedules.ve(0.01, 10.0)
KEY, ZERO = jax.random.key(0), np.zeros(2, np.float32)


def _toy(x, t, cond, w):
    """The exact denoiser of N(cond, 1) under VE."""
    cond = 0.0 if cond is None else cond
    eps = t * (x - cond) / (1 + t**2)
    return x - t * eps, eps


GRID = grids.logsnr(VE, 8)
TABLE = solvers.sde_dpm(GRID, power=1.7)


def _run(table=TABLE, denoisers=_toy, mean=ZERO, num=32, beta=1.7, ess_threshold=0.9, conds=(0.0,), **options):
    """A run in NumPy; what is left at its default compiles nothing again."""
    return contracts.host(
        correctors.sample(
            KEY, denoisers, table, mean, num_particles=num, beta=np.asarray(beta, np.float32), conds=conds,
            ess_threshold=ess_threshold, **options,
        )
    )  # fmt: skip


# --- the sampler, step by step ------------------------------------------------------------------------------


def test_steps_of_one_sample_are_its_run():
    table = tables.pad(solvers.unipc(grids.logsnr(VE, 5), order=3), 7)
    x_T = 10 * np.float32([0.3, -0.7])
    state = diffusion.init(table, x_T)
    for i in range(7):
        state = diffusion.step(None, _toy, table, state, i)
    by_hand, run = contracts.host(diffusion.finish(state)), contracts.host(diffusion.sample(None, _toy, table, x_T))
    np.testing.assert_allclose(by_hand.value, run.value, rtol=1e-6)
    assert by_hand.nfe == run.nfe == 5 and by_hand.status == run.status == 0


def test_a_cloud_shares_its_draws_and_permutes_with_its_histories():
    table = solvers.sde_dpm(grids.logsnr(VE, 4), order=2)
    x_T = 10 * np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    x_T[2, 1] = np.nan
    whole = diffusion.init(table, x_T, cloud=True)
    for i in range(4):
        whole = diffusion.step(KEY, _toy, table, whole, i)
    result = contracts.host(diffusion.finish(whole))
    np.testing.assert_array_equal(result.nfe, np.full(6, 4))
    trouble = status.NONFINITE_INPUT | status.NONFINITE_RESULT
    np.testing.assert_array_equal(result.status, [0, 0, trouble, 0, 0, 0])
    drawn = contracts.host(diffusion.sample(KEY, jax.vmap(_toy, (0, None, None, None)), table, x_T)).value
    np.testing.assert_allclose(result.value, drawn, rtol=1e-5)
    ode = solvers.unipc(grids.logsnr(VE, 4), order=3)
    order = np.asarray([3, 3, 0, 5, 1, 1])
    state = diffusion.init(ode, x_T, cloud=True)
    for i in range(2):
        state = diffusion.step(None, _toy, ode, state, i)
    permuted = jax.tree.map(lambda a: np.asarray(a)[order], state)
    for i in range(2, 4):
        state, permuted = (diffusion.step(None, _toy, ode, s, i) for s in (state, permuted))
    np.testing.assert_array_equal(permuted.x, np.asarray(state.x)[order])


@pytest.mark.bad_input
def test_misuse_of_steps():
    table = solvers.sde_dpm(grids.logsnr(VE, 2))
    with pytest.raises(TypeError, match="diffusion.init: x_T must be floating"):
        diffusion.init(table, np.ones(2, int))
    with pytest.raises(ValueError, match="a cloud needs a leading axis"):
        diffusion.init(table, np.float32(0), cloud=True)
    with pytest.raises(ValueError, match="diffusion.step: this table draws noise"):
        diffusion.step(None, _toy, table, diffusion.init(table, ZERO), 0)


# --- correctors ---------------------------------------------------------------------------------------------


def test_what_needs_no_correction_gets_none():
    """beta = 1, and guidance between equal models: log Z = 0, all weights equal; powers and models may be permuted."""
    two = dict(denoisers=(_toy, _toy), ess_threshold=0.0)
    plain = _run(beta=1.0, ess_threshold=0.0)
    equal = _run(conds=(0.0, 0.0), beta=(-0.5, 1.5), **two)
    for result in (plain, equal):
        np.testing.assert_allclose(result.log_z, 0, atol=1e-5)
        np.testing.assert_allclose(result.value.log_weights, 0, atol=1e-5)
    np.testing.assert_allclose(equal.value.particles, plain.value.particles, rtol=1e-4, atol=1e-5)
    one, other = _run(conds=(0.0, 1.0), beta=(0.3, 0.9), **two), _run(conds=(1.0, 0.0), beta=(0.9, 0.3), **two)
    np.testing.assert_allclose(one.log_z, other.log_z, rtol=1e-4)
    assert one.value.log_weights.std() > 0.01


def test_histories_stay_with_their_particles():
    """A multistep ODE resampled at every step: each particle ends where the one it descends from ends alone."""
    table = solvers.unipc(GRID, order=3)
    alone, resampled = _run(table, ess_threshold=0.0), _run(table, ess_threshold=1.0)
    assert resampled.history.resampled[1:].all() and len(set(resampled.state.eves)) < 32
    expected = alone.value.particles[resampled.state.eves]
    np.testing.assert_allclose(resampled.value.particles, expected, rtol=2e-4, atol=1e-4)
    assert resampled.kappa == 0 and alone.variance_ratio == 0


def test_padding_changes_nothing():
    table = solvers.sde_dpm(grids.with_zero(grids.logsnr(VE, 7)), order=2)
    plain, padded = _run(table), _run(tables.pad(table, 11))
    np.testing.assert_allclose(padded.value.particles, plain.value.particles, rtol=1e-6)
    np.testing.assert_allclose(padded.log_z, plain.log_z, rtol=1e-6)
    assert padded.nfe == plain.nfe == 8 and not padded.history.resampled[9:].any()


def test_the_model_runs_by_hand_and_in_batches():
    whole = _run()
    model, inputs, shares = correctors.model(_toy, TABLE, ZERO, beta=np.float32(1.7), ess_threshold=0.9, conds=(0.0,))
    state, _ = smc.init(KEY, model, jax.tree.map(lambda a: a[0], inputs), num_particles=32)
    for i in range(1, 9):
        now = jax.tree.map(lambda a, i=i: a[i], inputs)
        state, _ = smc.step(KEY, model, state, now, ess_threshold=shares[i])
    np.testing.assert_allclose(state.cloud.particles.state.x, whole.value.particles, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.log_z, whole.log_z, rtol=1e-5)
    batches = smc.run(KEY, smc.in_batches(model, 8), inputs, num_particles=32, ess_threshold=shares)
    assert batches.value.particles.state.x.shape == (32, 2) and not int(batches.status)


def test_shortcuts_are_told_when_they_act():
    def run(window=(-9.0, 9.0), clip=1e3, **options):
        return _run(ess_threshold=1.0, window=window, clip=clip, **options)

    plain, idle, late = _run(ess_threshold=1.0), run(), run(window=(0.0, 9.0))
    assert plain.status == 0 and plain.history.aux is None
    assert idle.status == 0
    np.testing.assert_array_equal(idle.value.log_weights, plain.value.log_weights)
    for result in (run(clip=0.05), late, run(centre=True)):
        assert result.status == correctors.BIASED
        assert "notice" in jaxsci.explain(int(result.status), "diffusion")
        jaxsci.check(result)
        assert result.log_z != plain.log_z
    np.testing.assert_array_equal(late.history.resampled[1:], GRID.lam[:-1] >= 0)
    sparse = _run(ess_threshold=1.0, interval=3)
    np.testing.assert_array_equal(sparse.history.resampled[1:], np.arange(8) % 3 == 0)
    assert sparse.status == 0, "fewer resamplings bias nothing"


def test_traced_trouble_sets_bits():
    def run(value=0.0, **options):
        return _run(reward=Partial(_constant, np.float32(value)), **options)

    for power in (-1, 0):  # no proper start
        assert run(beta=power).status & status.OUT_OF_RANGE
    nan, nothing = run(np.nan), run(-np.inf)
    assert nan.status & status.NONFINITE_INPUT and nan.status & status.DEGENERATE
    assert nothing.status == status.DEGENERATE and nothing.log_z == -np.inf
    assert np.isfinite(nothing.value.particles).all() and np.isfinite(nothing.value.log_weights).all()
    pure = solvers.sde_dpm(grids.time(schedules.flow(), 8))  # its first node has no signal
    assert run(table=pure).status & status.OUT_OF_RANGE
    single = run(num=1)
    assert single.status == 0 and single.value.particles.shape == (1, 2) and np.isfinite(single.log_z)


def _constant(value, x, t):
    return value + 0 * x[0]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (ValueError, "one or several, got none", dict(denoisers=())),
        (TypeError, "denoisers must be a function", dict(denoisers=3)),
        (TypeError, "SolverTable or a TimeGrid, got int", dict(table=3)),
        (TypeError, "mean must be floating", dict(mean=np.zeros(2, np.int32))),
        (TypeError, "of the shape of one sample", dict(denoisers=(_toy, _toy), mean=(ZERO, ZERO[:1]), beta=np.ones(2))),
        (ValueError, "mean must be one for each of 1 denoisers, got 2", dict(mean=(ZERO, ZERO))),
        (ValueError, "beta must be one for each of 2 denoisers", dict(denoisers=(_toy, _toy))),
        (ValueError, "conds must be one for each of 1 denoisers, got 2", dict(conds=(1, 2))),
        (ValueError, "beta that changes with lambda needs log_densities", dict(beta=lambda lam: 1 + lam)),
        (ValueError, "exact=True needs log_densities", dict(exact=True)),
        (ValueError, "reward_scale must be a number", dict(reward_scale=np.ones(2))),
        (ValueError, "a table without noise", dict(
            exact=True, log_densities=lambda x, t, c: 0.0, table=solvers.unipc(GRID))),
        (ValueError, "analytic predictions", dict(table=tables.analytic_first(TABLE))),
        (ValueError, "window must be .low, high.", dict(window=(0.0,))),
        (ValueError, "clip must be a scalar", dict(clip=np.ones(2))),
        (ValueError, "interval must be an int >= 1", dict(interval=0)),
        (ValueError, "num_particles must be an int >= 1", dict(num_particles=0)),
        (ValueError, "num_particles must be an int >= 1", dict(num_particles=2.5)),
        (TypeError, "denoiser must return .D, eps.", dict(denoisers=lambda x, t, c, w: x)),
        (TypeError, "must return a number for one state", dict(reward=lambda x, t: x)),
        (TypeError, "key must be a typed key", dict(key=3)),
    ],
)  # fmt: skip
def test_static_misuse(error, match, change):
    call = dict(key=KEY, denoisers=_toy, table=TABLE, mean=ZERO, num_particles=4) | change
    with pytest.raises(error, match=match):
        correctors.sample(**call)


@pytest.mark.bad_input
def test_a_traced_grid_is_refused():
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda lam: correctors.sample(KEY, _toy, grids.at_lams(VE, lam), ZERO, num_particles=2))(
            jnp.arange(3.0)
        )
