"""Diffusion samplers: one core for every fast solver.

Builds on: core, nn. A solver is a table (`tables`): a rule (`rules`) put on a grid (`grids`) of a noise schedule
(`schedules`); `sample` runs it for a denoiser (`predictions`). Start reading at `tables.py`, then `_sample.py`.
"""

from jaxsci.diffusion import (
    adaptive,
    dense,
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
from jaxsci.diffusion._sample import Result, Trajectory, sample
from jaxsci.diffusion.interop import from_diffusers
from jaxsci.diffusion.tables import SolverTable

__all__ = [
    "Result",
    "SolverTable",
    "Trajectory",
    "adaptive",
    "dense",
    "from_diffusers",
    "grids",
    "hooks",
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
    "tables",
    "unified",
    "v3",
]
