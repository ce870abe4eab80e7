"""Diffusion samplers: one core for every fast solver.

Builds on: core, nn, smc. A solver is a table (`tables`): a rule (`rules`) put on a grid (`grids`) of a noise schedule
(`schedules`); `sample` runs it for a denoiser (`predictions`), `correctors` a cloud for several. Start reading at
`tables.py`, then `_sample.py`.
"""

from jaxsci.core import entry
from jaxsci.diffusion import (
    adaptive,
    correctors,
    dense,
    diagnosis,
    grids,
    hooks,
    interop,
    likelihood,
    names,
    predictions,
    rules,
    schedules,
    search,
    solvers,
    statistics,
    tables,
    unified,
    v3,
)
from jaxsci.diffusion._sample import Result, Trajectory, finish, init, sample, step
from jaxsci.diffusion.diagnosis import Diagnosis, diagnose
from jaxsci.diffusion.interop import from_diffusers
from jaxsci.diffusion.tables import SolverTable

__all__ = [
    "Diagnosis",
    "Result",
    "SolverTable",
    "Trajectory",
    "adaptive",
    "correctors",
    "dense",
    "diagnose",
    "diagnosis",
    "finish",
    "from_diffusers",
    "grids",
    "hooks",
    "init",
    "interop",
    "likelihood",
    "names",
    "predictions",
    "rules",
    "sample",
    "schedules",
    "search",
    "solvers",
    "statistics",
    "step",
    "tables",
    "unified",
    "v3",
]

entry.guard(globals())
