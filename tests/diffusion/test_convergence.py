"""Convergence of every solver on a mixture whose flow is known: errors, orders, and what costs an order."""

import functools

import jax
import numpy as np
import pytest

import contracts
from diffusion import mixture
from jaxsci import diffusion
from jaxsci.diffusion import grids, interop, rules, schedules, solvers, tables

PROBLEM = mixture.problem_a()
STEPS = (20, 40, 80, 160, 320, 640)
# name -> (builder, the last errors of STEPS, order between the last two), errors to three digits
TABLE = {
    "ddim": (solvers.ddim, "1.21e-1 5.87e-2 2.91e-2 1.45e-2 7.24e-3 3.62e-3", 1.00),
    "dpm++ 2m": (solvers.dpm_multistep, "3.57e-2 8.40e-3 2.25e-3 5.83e-4 1.48e-4 3.73e-5", 1.99),
    "dpm++ 3m, half D2": (
        lambda g: solvers.dpm_multistep(g, order=3, half_second=True, lower_order_final=False),
        "1.76e-2 3.64e-3 7.07e-4 1.46e-4 3.32e-5 7.94e-6", 2.06,
    ),
    "dpm++ 3m, exact": (
        lambda g: solvers.dpm_multistep(g, order=3, lower_order_final=False),
        "1.91e-2 3.31e-3 4.45e-4 5.34e-5 6.42e-6 7.83e-7", 3.03,
    ),
    "unip 4": (
        lambda g: solvers.unipc(g, order=4, corrector=False, lower_order_final=False),
        "1.55e-2 1.34e-3 7.03e-5 5.37e-6 4.17e-7 2.95e-8", 3.8,
    ),
    "lam-ab 2": (
        lambda g: solvers.deis(g, order=2, variable="lam"), "1.83e-2 4.05e-3 6.85e-4 9.65e-5 1.27e-5 1.62e-6", 2.97
    ),
    "t-ab 1": (lambda g: solvers.deis(g, order=1), "6.61e-5", 1.97),
    "t-ab 2": (lambda g: solvers.deis(g, order=2), "2.67e-6", 2.94),
    "t-ab 3": (lambda g: solvers.deis(g, order=3), "1.29e-7", 3.94),
    "rho-ab 1": (lambda g: solvers.deis(g, order=1, variable="rho"), "8.91e-5", 1.97),
    "rho-ab 2": (lambda g: solvers.deis(g, order=2, variable="rho"), "4.28e-6", 2.93),
    "rho-ab 3": (lambda g: solvers.deis(g, order=3, variable="rho"), "2.67e-7", 3.91),
    "unipc 1": (
        lambda g: solvers.unipc(g, order=1, lower_order_final=False),
        "4.84e-2 1.41e-2 3.88e-3 1.02e-3 2.62e-4 6.65e-5", 1.98,
    ),
    "unipc 2": (
        lambda g: solvers.unipc(g, order=2, lower_order_final=False),
        "1.95e-2 3.84e-3 6.00e-4 7.91e-5 9.99e-6 1.25e-6", 3.00,
    ),
    "unipc 2, bh1": (lambda g: solvers.unipc(g, order=2, relaxation="bh1", lower_order_final=False), "9.86e-7", 3.00),
    "unipc 3": (
        lambda g: solvers.unipc(g, order=3, lower_order_final=False),
        "1.53e-2 1.66e-3 9.26e-5 5.20e-6 3.63e-7 2.49e-8", 3.87,
    ),
    "ipndm 4": (solvers.ipndm, "1.36e-2 2.60e-3 5.67e-4 1.44e-4 3.61e-5 9.02e-6", 2.00),
    "rho heun": (solvers.heun, "2.59e-5", 2.01),
    "rho kutta3": (lambda g: solvers.runge_kutta(g, method="kutta3"), "7.88e-8", 3.02),
    "rho rk4": (lambda g: solvers.runge_kutta(g, method="rk4"), "8.90e-10", 3.99),
    "dpm-s 2": (lambda g: solvers.dpm_singlestep(g, order=2), "1.67e-5", 1.99),
    "dpm-s 3": (lambda g: solvers.dpm_singlestep(g, order=3), "6.87e-8", 2.97),
    "dpm++ s 2": (lambda g: solvers.dpm_singlestep(g, order=2, kind="data"), "2.43e-5", 1.98),
    "dpm++ s 3": (lambda g: solvers.dpm_singlestep(g, order=3, kind="data"), "1.59e-7", 2.96),
}  # fmt: skip


@jax.jit
def _run(x_T, denoiser, table):
    return jax.vmap(lambda x: diffusion.sample(None, denoiser, table, x).value)(x_T)


def _errors(all_tables, schedule, x_T, truth):
    """Errors of many tables by one program: they are unified, so that one compilation serves all."""
    denoiser = mixture.denoiser(PROBLEM.mixture, schedule)
    with contracts.count_compilations() as events:
        runs = [_run(x_T, denoiser, table) for table in tables.unify(all_tables)]
    assert len(events) <= 1
    return [mixture.rmse(run, truth) for run in runs]


@functools.cache
def _convergence():
    jobs = [(name, n) for name, (_, errors, _) in TABLE.items() for n in STEPS[-max(2, len(errors.split())) :]]
    on = {n: grids.logsnr(PROBLEM.schedule, n) for n in STEPS}
    errors = _errors([TABLE[name][0](on[n]) for name, n in jobs], PROBLEM.schedule, PROBLEM.x_T, mixture.truth("a"))
    return dict(zip(jobs, errors))


def test_the_truth_itself():
    np.testing.assert_allclose(mixture.truth("a")[:2], PROBLEM.golden, atol=5e-9)


@pytest.mark.x64
@pytest.mark.parametrize("name", TABLE)
def test_errors_and_order(name):
    found = _convergence()
    _, printed, order = TABLE[name]
    errors = [float(e) for e in printed.split()]
    got = [found[name, n] for n in STEPS[-len(errors) :]]
    np.testing.assert_allclose(got, errors, rtol=0.01)
    assert abs(np.log2(found[name, 320] / found[name, 640]) - order) <= 0.15


@pytest.mark.x64
def test_half_the_second_derivative_costs_an_order():
    found = _convergence()
    orders = [np.log2(found[name, 320] / found[name, 640]) for name in ("dpm++ 3m, half D2", "dpm++ 3m, exact")]
    assert abs(orders[0] - 2) < 0.15 and abs(orders[1] - 3) < 0.15


@pytest.mark.x64
def test_all_tableaux_have_their_order():
    """The tableaux beyond the printed ones: order between 40 and 80 steps, and that of the singlestep Taylor form."""
    orders = {"euler": 1, "midpoint2": 2, "ralston3": 3, "heun3": 3, "vdhouwen3": 3, "ssprk3": 3, "rk4": 4}
    build = {name: functools.partial(solvers.runge_kutta, method=name) for name in orders}
    orders |= {"taylor2": 2, "taylor3": 3}
    build["taylor2"] = functools.partial(solvers.dpm_singlestep, order=2, solver="taylor")
    build["taylor3"] = functools.partial(solvers.dpm_singlestep, order=3, solver="taylor")
    on = [grids.logsnr(PROBLEM.schedule, n) for n in (160, 320)]
    found = _errors([build[name](g) for name in orders for g in on], PROBLEM.schedule, PROBLEM.x_T, mixture.truth("a"))
    for i, (name, order) in enumerate(orders.items()):
        assert np.log2(found[2 * i] / found[2 * i + 1]) > order - 0.15, name


@pytest.mark.x64
def test_variance_exploding():
    """The same data under VE from sigma = 80: orders between 160 and 320 steps."""
    schedule = schedules.ve()
    x_T = 80 * PROBLEM.x_T
    truth = mixture.reference(PROBLEM.mixture, schedule, x_T)
    build = {
        "euler": (solvers.ddim, 1.01),
        "heun": (solvers.heun, 2.05),
        "2m": (solvers.dpm_multistep, 1.97),
        "unipc": (lambda g: solvers.unipc(g, order=3, lower_order_final=False), 4.0),
        "lms": (lambda g: solvers.deis(g, order=3, variable="rho"), 3.8),
    }
    on = [grids.logsnr(schedule, n) for n in (160, 320)]
    found = _errors([make(g) for make, _ in build.values() for g in on], schedule, x_T, truth)
    for i, (name, (_, order)) in enumerate(build.items()):
        assert abs(np.log2(found[2 * i] / found[2 * i + 1]) - order) <= 0.15, (name, found[2 * i : 2 * i + 2])


@pytest.mark.x64
def test_lower_order_final_is_a_stability_device():
    """On the time grid the last step is long: the exact third-order weights blow up there."""
    for n, without, with_it in ((10, 3.31, 0.131), (20, 1.44, 0.082)):
        grid = grids.time(PROBLEM.schedule, n)
        both = [tables.tabulate(rules.multistep(3, lower_order_final=final), grid) for final in (False, True)]
        found = _errors(both, PROBLEM.schedule, PROBLEM.x_T, mixture.truth("a"))
        np.testing.assert_allclose(found, (without, with_it), rtol=0.01)
        if n == 10:
            np.testing.assert_allclose(np.diff(grid.lam)[-1] / np.diff(grid.lam)[-2], 4.7, rtol=0.01)
            np.testing.assert_allclose(tables.amplification(both[0])[-1], 54, rtol=0.01)
            assert tables.amplification(both[1]).max() < 10


@pytest.mark.x64
def test_error_against_calls_on_the_time_grid():
    """Printed errors at 5 to 20 model calls."""
    printed = {
        solvers.ddim: (0.395, 0.311, 0.220, 0.171, 0.141, 0.112, 0.084),
        solvers.dpm_multistep: (0.337, 0.244, 0.154, 0.120, 0.104, 0.089, 0.066),
        solvers.unipc: (0.316, 0.226, 0.152, 0.130, 0.117, 0.102, 0.073),
    }
    calls = (5, 6, 8, 10, 12, 15, 20)
    found = _errors(
        [build(grids.time(PROBLEM.schedule, n)) for build in printed for n in calls],
        PROBLEM.schedule, PROBLEM.x_T, mixture.truth("a"),
    )  # fmt: skip
    np.testing.assert_allclose(np.reshape(found, (3, 7)), list(printed.values()), atol=6e-4)


@pytest.mark.x64
def test_digits():
    """64-dimensional real data with the exact denoiser: printed errors per pixel, two grids."""
    problem = mixture.digits_mixture()
    printed = {
        ("time", "ddim"): (0.232, 0.146),
        ("time", "t-ab 3"): (0.227, 0.096),
        ("time", "2m"): (0.211, 0.109),
        ("time", "unipc"): (0.206, 0.113),
        ("logsnr", "ddim"): (0.268, 0.142),
        ("logsnr", "t-ab 3"): (0.190, 0.074),
        ("logsnr", "2m"): (0.202, 0.088),
        ("logsnr", "unipc"): (0.187, 0.089),
    }
    build = {"ddim": solvers.ddim, "t-ab 3": solvers.deis, "2m": solvers.dpm_multistep, "unipc": solvers.unipc}
    denoiser = mixture.denoiser(problem.mixture, problem.schedule)
    jobs = [build[s](getattr(grids, g)(problem.schedule, n)) for g, s in printed for n in (5, 10)]
    runs = [_run(problem.x_T, denoiser, table) for table in tables.unify(jobs)]
    truth = mixture.truth("digits")
    np.testing.assert_allclose(truth.std(), 0.805, atol=6e-4)
    found = [mixture.rmse(run, truth, per_entry=True) for run in runs]
    np.testing.assert_allclose(np.reshape(found, (8, 2)), list(printed.values()), atol=6e-4)


def test_a_cut_first_step_keeps_the_order_that_first_rows_lose():
    """From the middle of the noise levels, where the first step is as hard as any other; 40 and 80 steps."""
    schedule, mean, std, start = schedules.vp_linear(), 0.7, 0.5, np.array([0.9, -0.4])
    low, high = (np.asarray(schedule.alpha_sigma(lam)) for lam in (-1.0, 2.0))
    spread = lambda scales: np.hypot(scales[0] * std, scales[1])  # noqa: E731
    truth = high[0] * mean + (start - low[0] * mean) * spread(high) / spread(low)

    def denoise(x, t, alpha, sigma):
        data = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        return data, (x - alpha * data) / sigma

    def order(**options):
        errors = []
        for num in (40, 80):
            grid = grids.at_lams(schedule, np.linspace(-1.0, 2.0, num + 1))
            grid = grids.started(grid, 4) if options.get("started") else grid
            table = solvers.dpm_multistep(grid, order=4, lower_order_final=options.get("final", False))
            errors.append(np.abs(interop.run_plain(denoise, table, start) - truth).max())
        return np.log2(errors[0] / errors[1])

    assert order() < 2.6 and order(started=True) > 3.5
    assert order(started=True, final=True) < 2.6
