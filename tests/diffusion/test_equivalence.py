"""One core, many names: solvers that are the same method agree to 1e-10, and exactness that needs no small step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import mixture
from jaxsci import diffusion
from jaxsci.diffusion import grids, predictions, schedules, solvers, tables

PROBLEM = mixture.problem_a()
VP, VE, FLOW = PROBLEM.schedule, schedules.ve(), schedules.flow()
X = PROBLEM.x_T[:16]
LAMS = np.linspace(-4.0, 4.0, 9) + 0.2 * np.sin(np.arange(9))
WEIGHTS = np.linspace(0.5, 1.0, 9)


# One shape for all tables of this file: one program per schedule.
_LONG = grids.at_lams(VP, np.linspace(-4.0, 4.0, 11))
TEMPLATE = tables.unify(
    [
        solvers.runge_kutta(_LONG, method="rk4"),
        solvers.dpm_singlestep(_LONG, order=3, kind="data"),
        solvers.unipc(_LONG, order=4),
        solvers.unipc(_LONG, order=4, kind="noise"),
    ]
)[0]


@jax.jit
def _one_program(denoiser, table, x):
    return jax.vmap(lambda x: diffusion.sample(None, denoiser, table, x))(x)


def _run(denoiser, table, x):
    return np.asarray(_one_program(denoiser, tables.unify([table, TEMPLATE])[0], x).value)


def _final(table, schedule=VP, x=X):
    return _run(mixture.denoiser(PROBLEM.mixture, schedule), table, x)


def _same(a, b, tol=1e-10):
    chex.assert_trees_all_close(a, b, rtol=tol, atol=tol)


@pytest.mark.x64
def test_first_order_methods_are_one_step():
    grid = grids.at_lams(VP, LAMS)
    expected = _final(solvers.ddim(grid))
    for table in (
        solvers.unipc(grid, order=1, corrector=False),
        solvers.deis(grid, order=0, variable="lam"),
        solvers.deis(grid, order=0, variable="t"),
        solvers.deis(grid, order=0, variable="rho"),
        solvers.dpm_singlestep(grid, order=1),
        solvers.dpm_singlestep(grid, order=1, kind="data"),
        solvers.runge_kutta(grid, method="euler"),
        solvers.ipndm(grid, order=1),
        solvers.dpm_multistep(grid, order=1, kind="noise"),
    ):
        _same(_final(table), expected)


SOLVERS = {
    "ddim": solvers.ddim,
    "2m": solvers.dpm_multistep,
    "noise 3m": lambda g: solvers.dpm_multistep(g, order=3, kind="noise"),
    "unipc": solvers.unipc,
    "rho-ab": lambda g: solvers.deis(g, order=3, variable="rho"),
    "heun": solvers.heun,
    "rk4": lambda g: solvers.runge_kutta(g, method="rk4"),
    "dpm-s 3": lambda g: solvers.dpm_singlestep(g, order=3),
    "ipndm": solvers.ipndm,
}


@pytest.mark.x64
@pytest.mark.parametrize("name", SOLVERS)
def test_schedules_are_changes_of_scale(name):
    """With equal lam, x/alpha is the same under VP, VE and flow: Euler in sigma, DDIM and flow Euler are one method."""
    results = []
    for schedule in (VP, VE, FLOW):
        grid = grids.at_lams(schedule, LAMS)
        end = _final(SOLVERS[name](grid), schedule, grid.alpha[0] * 30 * X)
        results.append(end / grid.alpha[-1])
    _same(results[1], results[0])
    _same(results[2], results[0])


@pytest.mark.x64
def test_explicit_loops_of_the_classics():
    """Euler in sigma, Heun of EDM, flow Euler, and DPM-Solver++ 2M, written out as loops."""
    grid = grids.at_lams(VE, LAMS)
    predict = lambda x, a, s: mixture.predict(PROBLEM.mixture, x, a, s)  # noqa: E731
    x0 = 30 * X
    x = x0
    for s, t in zip(grid.sigma[:-1], grid.sigma[1:]):
        x = x + (t - s) * predict(x, 1.0, s)[1]
    _same(_final(solvers.ddim(grid), VE, x0), x)
    x = x0
    for s, t in zip(grid.sigma[:-1], grid.sigma[1:]):
        slope = predict(x, 1.0, s)[1]
        x = x + (t - s) * (slope + predict(x + (t - s) * slope, 1.0, t)[1]) / 2
    _same(_final(solvers.heun(grid), VE, x0), x)
    flow = grids.at_lams(FLOW, LAMS)
    x = X
    for s, t in zip(flow.sigma[:-1], flow.sigma[1:]):
        data, noise = predict(x, 1 - s, s)
        x = x + (t - s) * (noise - data)
    _same(_final(solvers.ddim(flow), FLOW), x)
    vp = grids.at_lams(VP, LAMS)
    x, before = X, None
    for i in range(8):
        data = predict(x, vp.alpha[i], vp.sigma[i])[0]
        h = LAMS[i + 1] - LAMS[i]
        mixed = data
        if 0 < i < 7:  # first order at both ends
            r = (LAMS[i] - LAMS[i - 1]) / h
            mixed = (1 + 1 / (2 * r)) * data - 1 / (2 * r) * before
        x = vp.sigma[i + 1] / vp.sigma[i] * x - vp.alpha[i + 1] * np.expm1(-h) * mixed
        before = data
    _same(_final(solvers.dpm_multistep(vp)), x)


@pytest.mark.x64
def test_third_order_unipc_has_one_variant():
    grid = grids.at_lams(VP, LAMS)
    tables_ = [solvers.unipc(grid, order=3, relaxation=v, lower_order_final=False) for v in ("bh1", "bh2")]
    # rows of one and two points differ between the variants; from the third on they are one
    for part in ("predictor", "corrector"):
        rows = [jax.tree.map(lambda a: a[3:], getattr(t, part)) for t in tables_]
        _same(*rows, tol=1e-13)


@pytest.mark.x64
@pytest.mark.parametrize("order", [1, 2, 3])
def test_no_noise_is_the_ode(order):
    grid = grids.at_lams(VP, LAMS)
    _same(_final(solvers.sde_dpm(grid, order=order, tau=0.0)), _final(solvers.dpm_multistep(grid, order=order)))


@pytest.mark.x64
def test_ancestral_sampling_is_the_first_order_sde(key):
    grid = grids.at_lams(VP, LAMS)
    one, two = solvers.ddim(grid, eta=1.0), solvers.sde_dpm(grid, order=1)
    np.testing.assert_allclose(one.predictor.std, two.predictor.std, rtol=1e-12)
    denoiser = mixture.denoiser(PROBLEM.mixture, VP)
    run = jax.vmap(lambda t: diffusion.sample(key, denoiser, t, X[0]).value)
    _same(*run(tables.stack([one, two])))


@pytest.mark.x64
def test_adams_in_rho_is_the_linear_multistep_method():
    """On a grid uniform in sigma the weights are the classical 55, -59, 37, -9."""
    grid = grids.from_sigmas(VE, np.arange(10.0, 1.0, -1.0))
    table = solvers.deis(grid, order=3, variable="rho")
    np.testing.assert_allclose(table.predictor.noise[5], -np.asarray([55, -59, 37, -9]) / 24, rtol=1e-11)
    _same(_final(table, VE, 30 * X), _final(solvers.ipndm(grid), VE, 30 * X))


# --- exactness ----------------------------------------------------------------------------------------------

DATA_SOLVERS = {
    "ddim": solvers.ddim,
    "3m": lambda g: solvers.dpm_multistep(g, order=3),
    "unipc 4": lambda g: solvers.unipc(g, order=4),
    "++s3": lambda g: solvers.dpm_singlestep(g, order=3, kind="data"),
}
NOISE_SOLVERS = {
    "3m": lambda g: solvers.dpm_multistep(g, order=3, kind="noise"),
    "unipc 3": lambda g: solvers.unipc(g, order=3, kind="noise"),
    "t-ab": solvers.deis,
    "rho-ab": lambda g: solvers.deis(g, variable="rho"),
    "ipndm": solvers.ipndm,
    "rk4": lambda g: solvers.runge_kutta(g, method="rk4"),
    "s3": lambda g: solvers.dpm_singlestep(g, order=3),
}
POINT = np.asarray([0.7, -1.3])


def _to_point(x, t, cond):
    return jnp.asarray(POINT)


def _constant_noise(x, t, cond):
    return jnp.asarray(POINT)


ALL = {**{f"data {k}": v for k, v in DATA_SOLVERS.items()}, **{f"noise {k}": v for k, v in NOISE_SOLVERS.items()}}


@pytest.mark.x64
@pytest.mark.parametrize("name", ALL)
def test_a_point_mass_and_constant_noise_are_exact_on_any_grid(name):
    """Both predictions are constant along both flows, so every solver is exact however few its steps."""
    point = predictions.denoiser(Partial(_to_point), VP, "sample")
    noise = predictions.denoiser(Partial(_constant_noise), VP, "epsilon")
    for num_steps in (1, 2, 7):
        grid = grids.time(VP, num_steps, t_max=0.8)
        (a, b), (s, t) = grid.alpha[[0, -1]], grid.sigma[[0, -1]]
        table = ALL[name](grid)
        _same(_run(point, table, X), b * POINT + t * (X - a * POINT) / s)
        _same(_run(noise, table, X), t * POINT + b * (X - s * POINT) / a)


@pytest.mark.x64
def test_one_gaussian_converges_to_its_closed_form():
    gauss = mixture.single_gaussian(std=0.5)
    denoiser = mixture.denoiser(gauss, VP)
    grid = grids.logsnr(VP, 60)
    ends = [(grid.alpha[i], grid.sigma[i]) for i in (0, -1)]
    exact = mixture.gaussian_flow(gauss.means[0], 0.5, X, *ends)
    errors = {}
    for table in tables.unify([build(grid) for build in ALL.values()]):
        errors[len(errors)] = mixture.rmse(_one_program(denoiser, table, X).value, exact)
    errors = dict(zip(ALL, errors.values()))
    assert errors.pop("data ddim") < 0.03
    assert max(errors.values()) < 3e-3, errors
    assert min(errors.values()) > 1e-12  # one linear D, and still no solver is exact


@pytest.mark.x64
def test_a_last_node_without_noise_is_one_evaluation():
    """sigma = 0: x = D of the last evaluation for every solver, no step of higher order, no noise, nothing infinite."""
    grid = grids.with_zero(grids.logsnr(VP, 6, t_min=0.02))
    build = {**SOLVERS, "sde": solvers.sde_dpm, "t-ab": solvers.deis, "ancestral": lambda g: solvers.ddim(g, eta=1.0)}
    denoiser = mixture.denoiser(PROBLEM.mixture, VP)
    plain = [builder(grid) for builder in build.values()]
    stacked = tables.stack(plain)
    run = jax.vmap(lambda t: diffusion.sample(jax.random.key(1), denoiser, t, X[0], save="trajectory"))
    result = run(stacked)
    for j, (name, table) in enumerate(zip(build, plain)):
        assert int(result.status[j]) == 0, name
        last = result.trajectory.data[j, table.num_rows - 1]
        np.testing.assert_allclose(result.value[j], last, rtol=1e-12, err_msg=name)
    assert solvers.heun(grid).num_rows == 2 * 7 - 1


@pytest.mark.x64
def test_a_first_node_of_pure_noise():
    """alpha = 0: the first step needs the data form; with a velocity model nothing is infinite."""
    grid = grids.time(FLOW, 12, t_min=1e-3)
    assert np.isneginf(grid.lam[0])

    def model(x, t, cond):
        D, eps = mixture.predict(PROBLEM.mixture, x, 1 - t, t)
        return eps - D

    denoiser = predictions.denoiser(model, FLOW, "flow_prediction")
    build = {**DATA_SOLVERS, "noise 3m": NOISE_SOLVERS["3m"], "t-ab": solvers.deis, "ipndm": solvers.ipndm}
    for name, table in zip(build, tables.unify([builder(grid) for builder in build.values()])):
        assert not np.any(_one_program(denoiser, table, X).status), name
    near = grids.time(FLOW, 400, t_min=1e-3, t_max=1 - 1e-6)
    fine = grids.time(FLOW, 400, t_min=1e-3)
    truth = _one_program(denoiser, solvers.unipc(near), X).value
    for builder, error in ((solvers.unipc, 1e-4), (solvers.ipndm, 1e-3)):
        assert mixture.rmse(_one_program(denoiser, builder(fine), X).value, truth) < error


# --- the reverse SDE ----------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_variance_of_the_first_order_sde(tau, key):
    """Gaussian data make D linear, so mean and variance follow a recursion in closed form: 5 standard errors."""
    num, mean, std = 100_000, 0.7, 0.5
    gauss = mixture.Mixture(np.ones(1), np.full((1, 1), mean), np.full(1, std))
    grid = grids.logsnr(VP, 6)
    table = solvers.sde_dpm(grid, order=1, tau=tau)
    denoiser = mixture.denoiser(gauss, VP)
    x_T = jax.random.normal(jax.random.fold_in(key, 1), (num, 1))
    keys = jax.random.split(key, num)
    values = np.asarray(jax.vmap(lambda k, x: diffusion.sample(k, denoiser, table, x).value)(keys, x_T))[:, 0]
    m, v = 0.0, 1.0
    for i in range(6):
        a, s = grid.alpha[i], grid.sigma[i]
        gain = a * std**2 / (a**2 * std**2 + s**2)  # D = mean + gain (x - a mean)
        h = grid.lam[i + 1] - grid.lam[i]
        keep = grid.sigma[i + 1] / s * np.exp(-(tau**2) * h)
        weight = grid.alpha[i + 1] * -np.expm1(-(1 + tau**2) * h)
        slope = keep + weight * gain
        m = slope * m + weight * mean * (1 - gain * a)
        v = slope**2 * v + grid.sigma[i + 1] ** 2 * -np.expm1(-2 * tau**2 * h)
    assert abs(values.mean() - m) < 5 * np.sqrt(v / num)
    assert abs(values.var() - v) < 5 * v * np.sqrt(2 / num)


@pytest.mark.x64
def test_higher_order_sde_keeps_the_law_of_the_data(key):
    """Many steps of the second- and third-order SDE solver give the mixture's own mean and variance."""
    num = 20_000
    denoiser = mixture.denoiser(PROBLEM.mixture, VP)
    grid = grids.logsnr(VP, 60)
    stacked = tables.stack([solvers.sde_dpm(grid, order=2), solvers.sde_dpm(grid, order=3)])
    x_T = jax.random.normal(jax.random.fold_in(key, 1), (num, 2), jnp.float32)
    keys = jax.random.split(key, num)
    run = jax.vmap(lambda k, x, t: diffusion.sample(k, denoiser, t, x).value, (0, 0, None))
    values = np.asarray(jax.vmap(run, (None, None, 0))(keys, x_T, stacked), np.float64)
    w, mu, s = PROBLEM.mixture
    mean = w @ mu
    var = w @ (s[:, None] ** 2 + mu**2) - mean**2
    fourth = 3 * var**2  # an upper bound here: the marginals are flatter than a normal law
    for sample in values:
        assert np.all(np.abs(sample.mean(0) - mean) < 5 * np.sqrt(var / num) + 2e-3)
        assert np.all(np.abs(sample.var(0) - var) < 5 * np.sqrt(fourth / num) + 4e-3)
