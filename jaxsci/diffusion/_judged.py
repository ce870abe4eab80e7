r"""Whether a table of DPM-Solver-v3 can be believed: its coefficients from half of the levels, and the fit itself.

With the rows $r_i$ of a table (all coefficients of row i, of all dimensions) and those of every second level $r_i'$,
the change is $\max_i |r_i - r_i'| / |r_i|$. The statistics are unresolved when it exceeds `TOLERANCE`. They do not fit
the model when the rate of change of g that they leave is nearly as large as that of the data prediction itself, which
solvers of a second order interpolate without any statistics.

Reference: K. Zheng et al., "DPM-Solver-v3", 2023, section 3 (what the statistics minimise).
"""

import numpy as np

from jaxsci.core import status
from jaxsci.diffusion._regression import every_second
from jaxsci.diffusion.statistics import Statistics
from jaxsci.diffusion.tables import SolverTable

TOLERANCE = 0.05
"""Largest change of the coefficients by which levels count as dense enough."""

FIT = 0.7
"""Largest mean of `Statistics.unexplained` that counts as a fit: half of the variance."""

UNRESOLVED = status.register(
    "diffusion",
    16,
    "unresolved statistics",
    "coefficients of DPM-Solver-v3 change by more than 5 % when every second level of its statistics is left out",
    "estimate them on more levels (lams=None doubles these until it suffices) with derivative='secant'; if that does "
    "not help, the model is rough in time: take solvers.unipc or dpm_multistep of order 2 on grids.logsnr",
    notice=True,
)

POOR_FIT = status.register(
    "diffusion",
    18,
    "statistics explain little",
    "the statistics of DPM-Solver-v3 know less than half of how fast the model changes: it may lose to plain solvers",
    "compare with solvers.unipc or dpm_multistep of order 2 on grids.logsnr",
    notice=True,
)


def halved(statistics: Statistics) -> Statistics:
    """What was estimated on every second level, or these levels of what there is."""
    if statistics.coarse is not None:
        return statistics.coarse
    return Statistics(*(np.asarray(a)[every_second(statistics.lam)] for a in statistics[:4]))


def change(table: SolverTable, other: SolverTable) -> float:
    """Largest relative change of a row of the predictor or corrector between two host tables of one solver."""
    worst = 0.0
    for mine, theirs in ((table.predictor, other.predictor), (table.corrector, other.corrector)):
        if mine is None:
            continue
        pairs = [(a, b) for a, b in zip(mine, theirs) if a is not None]
        total = lambda arrays: sum((a**2).reshape(len(a), -1).sum(1) for a in arrays)  # noqa: E731
        size = total([a for a, _ in pairs])
        moved = total([a - b for a, b in pairs])
        worst = max(worst, float(np.sqrt(np.max(moved / np.where(size == 0, 1.0, size)))))
    return worst


def judged(table: SolverTable, from_half: SolverTable, statistics: Statistics) -> SolverTable:
    """The table with its status: `UNRESOLVED`, `POOR_FIT`, or 0."""
    code = UNRESOLVED if change(table, from_half) > TOLERANCE else status.OK
    if statistics.unexplained is not None and np.mean(statistics.unexplained) > FIT:
        code |= POOR_FIT
    return table._replace(status=np.int32(code))
