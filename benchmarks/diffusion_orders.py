"""Measured orders of the solvers: error at 640 and 1280 steps on a mixture whose flow is known, in double precision.

The end points come from `solvers.runge_kutta` of order 4 with 6000 steps; the grid is uniform in log-SNR. An order is
the logarithm to base 2 of the ratio of two errors; ``started`` cuts the first step (`grids.started`), ``final`` falls
to first order at the last one. ``--fast`` takes 80 and 160 steps.

A last row of first order adds C h^2 to the error of the rows before it. C is so small, since D hardly changes where
little noise is left, that C h^2 exceeds the C' h^3 of third-order rows only beyond several thousand steps. For the
solvers of `LATE` the order of the last row is therefore measured by itself: the distance to the run without it.
"""

import sys

import numpy as np

from benchmarks._harness import main, row
from jaxsci.diffusion import grids, interop, schedules, solvers

VP = schedules.vp_linear()
WEIGHTS, WIDTHS = np.array([0.3, 0.25, 0.2, 0.15, 0.1]), np.array([0.3, 0.25, 0.35, 0.2, 0.4])
MEANS = np.array([[1.5, 0.0], [-1.0, 1.2], [-0.8, -1.4], [0.6, 1.6], [1.2, -1.5]])


def _denoise(x, t, alpha, sigma):
    """Exact D and eps of the mixture, x of shape (n, 2)."""
    v = alpha**2 * WIDTHS**2 + sigma**2
    gap = x[:, None] - alpha * MEANS
    logits = np.log(WEIGHTS) - np.log(v) - (gap**2).sum(-1) / (2 * v)
    r = np.exp(logits - logits.max(1, keepdims=True))
    r /= r.sum(1, keepdims=True)
    data = (r[..., None] * (MEANS + (alpha * WIDTHS**2 / v)[:, None] * gap)).sum(1)
    return data, (r[..., None] * (sigma / v)[:, None] * gap).sum(1)


def _multistep(order, started=False, **options):
    def make(grid):
        return solvers.dpm_multistep(grids.started(grid, order + 1) if started else grid, order=order, **options)

    return make


_OPEN = {"lower_order_final": False}

SOLVERS = {
    "ddim": (solvers.ddim, 1), "heun": (solvers.heun, 2),
    "runge_kutta kutta3": (lambda grid: solvers.runge_kutta(grid, method="kutta3"), 3),
    "runge_kutta rk4": (lambda grid: solvers.runge_kutta(grid, method="rk4"), 4),
    "dpm_singlestep 2": (solvers.dpm_singlestep, 2),
    "dpm_singlestep 3": (lambda grid: solvers.dpm_singlestep(grid, order=3), 3),
    "dpm_multistep 2": (_multistep(2, relaxation="bh2", **_OPEN), 2),
    "dpm_multistep 3": (_multistep(3, **_OPEN), 3), "dpm_multistep 3 final": (_multistep(3), None),
    "dpm_multistep 3 half_second": (_multistep(3, half_second=True, **_OPEN), 2),
    "dpm_multistep 4": (_multistep(4, **_OPEN), None), "dpm_multistep 4 started": (_multistep(4, True, **_OPEN), 4),
    "unipc 1": (_multistep(1, relaxation="bh2", corrector=True, **_OPEN), 2),
    "unipc 2": (_multistep(2, relaxation="bh2", corrector=True, **_OPEN), 3),
    "unipc 2 final": (_multistep(2, relaxation="bh2", corrector=True), None),
    "unipc 3": (_multistep(3, corrector=True, **_OPEN), None),
    "unipc 3 started": (_multistep(3, True, corrector=True, **_OPEN), 4),
    "unipc 3 final": (_multistep(3, corrector=True), 2),
    "unipc 4 started": (_multistep(4, True, corrector=True, **_OPEN), 5),
    "deis t 2": (lambda grid: solvers.deis(grid, order=1), 2),
    "deis t 3": (lambda grid: solvers.deis(grid, order=2), 3),
    "deis t 4": (lambda grid: solvers.deis(grid, order=3), None),
    "deis rho 4": (lambda grid: solvers.deis(grid, order=3, variable="rho"), None),
    "deis lam 4": (lambda grid: solvers.deis(grid, order=3, variable="lam"), None),
    "ipndm": (solvers.ipndm, 2),
}  # fmt: skip
"""Builder from a grid, and the order that theory gives the whole run; None where first rows decide."""

LATE = {"dpm_multistep 3 final": "dpm_multistep 3", "unipc 2 final": "unipc 2"}
"""Solvers whose last row of first order decides later than at 1280 steps, and the same ones without it."""


def rows(fast, peers):
    """One row a solver."""
    start = np.random.default_rng(0).standard_normal((64, 2))
    run = lambda make, num: interop.run_plain(_denoise, make(grids.logsnr(VP, num)), start)  # noqa: E731
    truth = run(SOLVERS["runge_kutta rk4"][0], 1500 if fast else 6000)
    counts = (80, 160) if fast else (640, 1280)
    for name, (make, order) in SOLVERS.items():
        ends = [run(make, num) for num in counts]
        note = "no target: the last row decides beyond several thousand steps" if name in LATE else f"expected {order}"
        yield _order(name, ends, [truth, truth], counts, order, note, fast)
        if name in LATE:
            others = [run(SOLVERS[LATE[name]][0], num) for num in counts]
            note = f"the distance to {LATE[name]}; expected 2"
            yield _order(f"{name}, last row alone", ends, others, counts, 2, note, fast)


def _order(name, ends, truths, counts, order, note, fast):
    errors = [float(np.sqrt(np.mean(np.sum((a - b) ** 2, 1)))) for a, b in zip(ends, truths)]
    found = float(np.log2(errors[0] / errors[1]))
    return row(
        f"order: {name}", found, unit="order", accuracy=None if order is None else abs(found - order),
        within=None if order is None or fast else 0.25,
        note=f"errors {errors[0]:.2e} and {errors[1]:.2e} at {counts[0]} and {counts[1]} steps; {note}",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("diffusion_orders", rows))
