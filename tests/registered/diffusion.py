"""Entries of jaxsci.diffusion: schedules, grids, predictions, tables, rules and the sampler."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.tree_util import Partial

import contracts
from contracts import Bad, Builder, Compiled, Driver
from jaxsci import diffusion, smc
from jaxsci.diffusion import correctors, grids, predictions, rules, schedules, solvers, tables

VP, VE = schedules.vp_linear(), schedules.ve(0.1, 10.0)
SIZES_ONLY = {"tracer": "its arguments are names and sizes"}
LAMS = np.asarray([-2.0, -1.1, -0.3, 0.8, 1.4])


def numbers(key, dtype, num, low=0.1, high=0.9):
    return tuple(contracts.uniform(key, (num,), dtype, low, high))


def _lams(key, dtype, num=5):
    """Rising nodes, steps of .3 to 1."""
    return jnp.cumsum(contracts.uniform(key, (num,), dtype, 0.3, 1.0)) - 2


def alpha_sigma(lams):
    return 1 / np.sqrt(1 + np.exp(-2 * lams)), 1 / np.sqrt(1 + np.exp(2 * lams))


# --- schedules ----------------------------------------------------------------------------------------------


def _schedule(build, ranges):
    """All functions of a schedule whose parameters are traced."""

    def make(key, dtype):
        def run(t, *parameters):
            schedule = build(*parameters)
            lam = schedule.lam(t)
            return lam, schedule.t_of_lam(lam - 0.1), schedule.alpha_sigma(lam), schedule.rate(lam)

        keys = jax.random.split(key, len(ranges) + 1)
        parameters = (contracts.uniform(k, (), dtype, *r) for k, r in zip(keys[1:], ranges))
        return run, (contracts.uniform(keys[0], (), dtype, 0.3, 0.8), *parameters)

    return Compiled(make, grad=tuple(range(len(ranges) + 1)))


def _ve(key, dtype):
    def run(t, low, high):
        schedule = schedules.ve(low, high)
        return schedule.lam(t), schedule.t_of_lam(t), schedule.alpha_sigma(t), schedule.t_min, schedule.t_max

    return run, (*numbers(key, dtype, 2), jnp.asarray(80.0, dtype))


def _chain(betas):
    schedule = schedules.vp_discrete(betas)
    times = np.arange(1, 6) / 5
    return schedule.lam(times), schedule.model_time(times)


def _cumulative(bar):
    return schedules.from_alphas_cumprod(bar).lam(np.arange(1, 4) / 3)


def _chain_truth(betas):
    bar = np.cumprod(1 - betas)
    return 0.5 * np.log(bar / (1 - bar)), np.arange(5.0)


# --- grids --------------------------------------------------------------------------------------------------


def _grid_in_graph(build):
    def make(key, dtype):
        lams = _lams(key, dtype)
        return (lambda nodes: tuple(build(VP, nodes)[:4])), (lams if build is grids.at_lams else (3 - lams) / 6,)

    return Compiled(make, grad=(0,))


def _vp_lam(t):
    log_alpha = -0.25 * t**2 * 19.9 - 0.05 * t
    return log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha))


def _uniform(build, forward):
    """A grid of 4 steps from .8 to `low`, uniform in forward(lam)."""

    def truth(low):
        first, last = (forward(_vp_lam(t)) for t in (0.8, low))
        return np.linspace(first, last, 5)

    return Builder(lambda: ((lambda low: forward(build(VP, 4, t_min=low, t_max=0.8).lam)), (0.01,)), truth, tol=1e-9)


def _beta_grid(low):
    return np.exp(-grids.beta(VP, 4, t_min=low, t_max=0.8).lam)


def _beta_truth(low):
    first, last = (np.exp(-_vp_lam(t)) for t in (0.8, low))
    return last + (first - last) * scipy.stats.beta.isf(np.linspace(0, 1, 5), 0.6, 0.6)


_SECOND_BETA = 1e-4 + (0.02 - 1e-4) / 999  # the law of log alpha goes on to 0 with the slope of its first piece


def _steps(steps):
    return grids.from_timesteps(schedules.vp_discrete(schedules.betas("linear")), steps).t


def _start(key, dtype):
    grid = grids.logsnr(VP, 4)

    def run(key, image):
        return grids.start(key, grid, image, node=1)

    return run, (key, contracts.normal(key, (3,), dtype))


def _within(key, dtype):
    def run(scale, times):
        return jax.vmap(predictions.within(scale, 0.2, 0.6))(times)

    return run, (contracts.uniform(key, (), dtype, 2.0, 5.0), jnp.asarray([0.1, 0.4, 0.9], dtype))


# --- predictions --------------------------------------------------------------------------------------------


def _convert(key, dtype):
    def run(output, x, alpha, sigma):
        return [predictions.convert(kind, output, x, alpha, sigma) for kind in predictions.KINDS[:-1]]

    keys = jax.random.split(key, 3)
    pair = contracts.uniform(keys[2], (2,), dtype, 0.2, 0.9)
    return run, (contracts.normal(keys[0], (3,), dtype), contracts.normal(keys[1], (3,), dtype), *pair)


def _model(scale, x, t, cond):
    return jnp.sin(scale * x) * cond + t


def guided(scale):
    return predictions.denoiser(
        Partial(_model, scale), VP, "v_prediction", guidance="classifier_free", null=np.float32(0.0)
    )


def _denoiser(key, dtype):
    def run(scale, x, t, cond, w):
        return guided(scale)(x, t, cond, w)

    scale, t, cond, w = numbers(key, dtype, 4)
    return run, (scale, contracts.normal(key, (3,), dtype), t, cond, 3 * w)


# --- rules and tables in compiled code ----------------------------------------------------------------------


def _floats(table):
    return table._replace(active=None, corrected=None, evaluate=None)


def _rule(rule, num=4):
    """A rule tabulated in the graph, differentiated in the nodes."""

    def make(key, dtype):
        return (lambda lams: _floats(tables.tabulate(rule, grids.at_lams(VP, lams)))), (_lams(key, dtype, num),)

    return Compiled(make, grad=(0,))


def _ddim_rule(key, dtype):
    def run(lams, eta):
        return tables.tabulate(rules.ddim(eta), grids.at_lams(VP, lams))

    return run, (_lams(key, dtype), *numbers(key, dtype, 1))


def _table(lams):
    return tables.tabulate(rules.multistep(1, corrector=True), grids.at_lams(VP, lams))


def _of_table(function):
    def make(key, dtype):
        return (lambda lams: function(lams)), (_lams(key, dtype, 3),)

    return Compiled(make, grad=(0,))


def _two(lams):
    return [_table(lams), tables.tabulate(rules.ddim(), grids.at_lams(VP, lams[1:]))]


def _works_files(folder):
    table = solvers.unipc(grids.at_lams(VP, LAMS))
    assert table.num_rows == 4 and tables.pad(table, 7).num_rows == 7
    tables.save(table, folder / "table.npz")
    chex.assert_trees_all_equal(tables.load(folder / "table.npz"), table)


def _save_traced(folder):
    jax.jit(lambda lams: tables.save(_table(lams), folder / "table.npz"))(LAMS)


def _load_other(folder):
    np.savez(folder / "other.npz", a=np.ones(2))
    tables.load(folder / "other.npz")


# --- the sampler --------------------------------------------------------------------------------------------


def _sample(key, dtype):
    table = solvers.sde_dpm(grids.logsnr(VP, 2))

    def run(key, scale, x_T, w):
        return diffusion.sample(key, guided(scale), table, x_T, cond=0.5, guidance_scale=w, save="trajectory")

    scale, w = numbers(key, dtype, 2)
    return run, (key, scale, contracts.normal(key, (3,), dtype), w)


def _row_by_row(key, dtype):
    """Two steps of a cloud."""
    table = solvers.sde_dpm(grids.logsnr(VP, 2))

    def run(key, scale, x_T, w):
        state = diffusion.init(table, x_T, cloud=True)
        for i in range(2):
            state = diffusion.step(key, guided(scale), table, state, i, cond=0.5, guidance_scale=w)
        return diffusion.finish(state)

    scale, w = numbers(key, dtype, 2)
    return run, (key, scale, contracts.normal(key, (4, 3), dtype), w)


# --- correctors ---------------------------------------------------------------------------------------------


def _normal_denoiser(scale, x, t, cond, w):
    """Of N(cond, scale^2) under VE."""
    eps = t * (x - cond) / (scale**2 + t**2)
    return x - t * eps, eps


def _pair(scale):
    return (Partial(_normal_denoiser, scale),) * 2


def _reward(slope, x, t):
    return -slope * jnp.sum(x**2)


def _corrected(key, dtype):
    """Two powers and a reward, with no choice of ancestors, so that all is smooth."""
    grid = grids.at_lams(VE, np.asarray([-2.0, -1.0, 0.5, 2.0]))
    table = solvers.sde_dpm(grid, power=1.6)

    def run(key, scale, beta, slope, mean):
        options = dict(beta=beta, conds=(0.0, 0.5), reward=Partial(_reward, slope), ess_threshold=0.0)
        result = correctors.sample(key, _pair(scale), table, mean, num_particles=6, **options)
        return result.value, result.log_z, result.variance_ratio, result.kappa

    scale, slope = numbers(key, dtype, 2, 0.8, 1.2)
    beta = jnp.stack(numbers(jax.random.fold_in(key, 1), dtype, 2))
    return run, (key, scale, 0.5 + beta, slope, contracts.normal(key, (3,), dtype))


def _corrector_model(key, dtype):
    table = solvers.sde_dpm(grids.at_lams(VE, np.asarray([-2.0, -1.0, 0.5, 2.0])))

    def run(key, scale, mean):
        model, inputs, shares = correctors.model(
            _pair(scale), table, mean, beta=np.asarray([0.7, 0.6]), conds=(0.0, 0.5)
        )
        state, _ = smc.init(key, model, jax.tree.map(lambda a: a[0], inputs), num_particles=6)
        return state.cloud.particles.state.x, state.cloud.log_weights, shares

    scale = contracts.uniform(key, (), dtype, 0.8, 1.2)
    return run, (key, scale, contracts.normal(key, (3,), dtype))


R = "jaxsci.diffusion."


def _started():
    return (lambda lam: grids.started(grids.at_lams(VP, lam), 4).lam), (np.array([-2.0, -1.75, 1.0]),)


def _started_by_hand(lam):
    """Two halvings: log2(1/h) is 2, and p/2 - 1 is 1."""
    h = lam[1] - lam[0]
    return np.concatenate([lam[:1], lam[0] + h * np.array([0.25, 0.5]), lam[1:]])


ENTRIES = {
    R + "sample": Compiled(_sample, grad=(1, 2, 3)),
    R + "init": Compiled(_row_by_row),
    R + "step": Compiled(_row_by_row, grad=(1, 2, 3)),
    R + "finish": Compiled(_row_by_row),
    R + "correctors.sample": Compiled(_corrected, grad=(1, 2, 3, 4)),
    R + "correctors.model": Compiled(_corrector_model),
    R + "schedules.vp_linear": _schedule(schedules.vp_linear, [(0.05, 0.2), (10.0, 20.0)]),
    R + "schedules.vp_cosine": _schedule(schedules.vp_cosine, [(0.005, 0.02)]),
    R + "schedules.flow": _schedule(schedules.flow, [(1.0, 3.0)]),
    R + "schedules.ve": Compiled(_ve, grad=(0,)),
    R + "schedules.betas": Builder(
        lambda: ((lambda a, b: schedules.betas("scaled_linear", 4, beta_start=a, beta_end=b)), (0.01, 0.04)),
        lambda a, b: (0.1 + np.arange(4) / 3 * 0.1) ** 2,
    ),
    R + "schedules.vp_discrete": Builder(lambda: (_chain, (np.linspace(0.1, 0.5, 5),)), _chain_truth),
    R + "schedules.from_alphas_cumprod": Builder(
        lambda: (_cumulative, (np.array([0.9, 0.5, 0.1]),)),
        lambda bar: 0.5 * np.log(bar / (1 - bar)),
    ),
    R + "grids.at_lams": _grid_in_graph(grids.at_lams),
    R + "grids.at_times": _grid_in_graph(grids.at_times),
    R + "grids.time": Builder(
        lambda: ((lambda low: grids.time(VP, 4, t_min=low).t), (0.2,)), lambda low: np.asarray([1, 0.8, 0.6, 0.4, 0.2])
    ),
    R + "grids.logsnr": _uniform(grids.logsnr, lambda lam: lam),
    R + "grids.karras": _uniform(grids.karras, lambda lam: np.exp(-lam / 7)),
    R + "grids.beta": Builder(lambda: (_beta_grid, (0.01,)), _beta_truth, tol=1e-9),
    R + "grids.from_times": Builder(
        lambda: ((lambda t: grids.from_times(VP, t).lam), (np.asarray([0.9, 0.2]),)), lambda t: _vp_lam(t)
    ),
    R + "grids.from_sigmas": Builder(
        lambda: ((lambda s: grids.from_sigmas(VP, s).lam), (np.asarray([3.0, 0.1]),)), lambda s: -np.log(s)
    ),
    R + "grids.from_timesteps": Builder(
        lambda: (_steps, (np.asarray([999.0, 499.0]),)),
        lambda steps: np.asarray([1.0, 0.5, (1 - np.log1p(-1e-4) / np.log1p(-_SECOND_BETA)) / 1000]),
    ),
    R + "grids.spacing": Builder(
        lambda: ((lambda n: grids.spacing("leading", n, offset=1)), (4,)),
        lambda n: np.asarray([801, 601, 401, 201]),
        skip=SIZES_ONLY,
    ),
    R + "grids.with_zero": Builder(
        lambda: ((lambda lams: grids.with_zero(grids.at_lams(VP, lams)).lam), (LAMS,)),
        lambda lams: np.append(lams, np.inf),
    ),
    R + "grids.from_strength": Builder(
        lambda: ((lambda s: grids.from_strength(grids.at_lams(VP, LAMS), s).lam), (0.5,)), lambda s: LAMS[2:]
    ),
    R + "grids.started": Builder(_started, _started_by_hand, tol=1e-12),
    R + "grids.start": Compiled(_start, grad=(1,)),
    R + "predictions.convert": Compiled(_convert, grad=(0, 1, 2, 3)),
    R + "predictions.denoiser": Compiled(_denoiser, grad=(0, 1, 2, 3, 4)),
    R + "predictions.within": Compiled(_within, grad=(0,)),
    R + "tables.tabulate": _of_table(lambda lams: _floats(_table(lams))),
    R + "tables.amplification": _of_table(lambda lams: tables.amplification(_table(lams))),
    R + "tables.analytic_first": _of_table(lambda lams: _floats(tables.analytic_first(_table(lams), lams[0]))),
    R + "tables.pad": _of_table(lambda lams: _floats(tables.pad(_table(lams), 4))),
    R + "tables.unify": _of_table(lambda lams: [_floats(t) for t in tables.unify(_two(lams))]),
    R + "tables.stack": _of_table(lambda lams: _floats(tables.stack(_two(lams)))),
    R + "tables.save": Driver(bad=(Bad(_save_traced, TypeError, "concrete"),), works=_works_files),
    R + "tables.load": Driver(bad=(Bad(_load_other, ValueError, "holds no solver table"),), works=_works_files),
    R + "rules.ddim": Compiled(_ddim_rule, grad=(0, 1)),
    R + "rules.multistep": _rule(rules.multistep(3, relaxation="bh2", corrector=True)),
    R + "rules.adams_bashforth": _rule(rules.adams_bashforth(2)),
    R + "rules.ipndm": _rule(rules.ipndm()),
}
