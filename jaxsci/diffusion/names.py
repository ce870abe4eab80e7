r"""Solvers by the names that users of image generators know: ``named("DPM++ 2M Karras", schedule, 20)``.

A name is a solver's name, and after it, if wished, the grid's: Karras, Exponential or Beta; without one the grid is
uniform in time. Grids made here end at a node without noise, so the last step is x = D.

The names are habits, made for 20 steps and more. **Below 15 calls build the table instead**:
``solvers.unipc(grids.logsnr(schedule, n), order=2)``, whose steps are uniform in log-SNR and which goes no further than
the schedule's own end. On a mixture of five Gaussians with 8 calls it leaves .15 where "UniPC" leaves 1.03, and still
.21 with "UniPC Exponential" and ``order=2``.

References: those of `solvers` and `grids`; the names are the ones of k-diffusion and the programs built on it.
"""

import json
import pathlib

from jaxsci.core import entry
from jaxsci.core.static import check_size
from jaxsci.core.types import Size
from jaxsci.diffusion import grids, solvers
from jaxsci.diffusion.grids import TimeGrid
from jaxsci.diffusion.schedules import NoiseSchedule
from jaxsci.diffusion.tables import SolverTable

# Builder in `solvers` and its options behind every name, without the grid's.
_SOLVERS = json.loads(pathlib.Path(__file__).with_name("names.json").read_text())

# Grid behind the last word of a name.
_GRIDS = {
    "": grids.time,
    "Karras": grids.karras,
    "Exponential": grids.logsnr,
    "Beta": grids.beta,
}

# Whole name -> builder in `solvers`, its options, grid.
_NAMES = {
    f"{stem} {grid}".strip().lower(): (builder, options, grid)
    for stem, (builder, options) in _SOLVERS.items()
    for grid in _GRIDS
}


def named(name: str, where: NoiseSchedule | TimeGrid, num_steps: Size | None = None, **options) -> SolverTable:
    """A solver table by its usual name, upper and lower case alike. A builder.

    Below 15 calls ``solvers.unipc(grids.logsnr(where, num_steps), order=2)`` is the better one; see the module.

    Args:
        name: Euler, Euler a, Heun, LMS, DPM2, DPM++ 2S, 2M, 3M, 2M SDE, 3M SDE, UniPC, DDIM, DDPM, DEIS, PLMS or iPNDM,
            with Karras, Exponential or Beta after it if wished.
        where: a noise schedule; or a grid of your own, with a name that names none.
        num_steps: steps on the grid made from a schedule (built). "Heun", "DPM2" and "DPM++ 2S" make two calls a step,
            one in the last.
        **options: other options for the solver, e.g. ``lower_order_final=False``.

    Raises:
        TypeError: a traced argument, or `where` is neither.
        ValueError: an unknown name (the message lists the known ones), a missing number of steps, or two grids.

    Example:
        >>> from jaxsci.diffusion import names, schedules
        >>> table = names.named("DPM++ 2M Karras", schedules.vp_linear(), 4)
        >>> print(table.sigma.round(3))
        [1.    0.999 0.778 0.01  0.   ]
    """
    words = " ".join(str(name).split()).lower()
    if words not in _NAMES:
        raise ValueError(
            f"names.named: unknown name {name!r}; known are {', '.join(_SOLVERS)}, each alone or followed by "
            f"{', '.join(grid for grid in _GRIDS if grid)}"
        )
    builder, extra, grid = _NAMES[words]
    solver = getattr(solvers, builder)
    if isinstance(where, TimeGrid):
        if grid or num_steps is not None:
            raise ValueError(f"names.named: a grid was passed, so neither a grid in {name!r} nor num_steps can be")
        return solver(where, **extra | options)
    if not isinstance(where, NoiseSchedule):
        raise TypeError(f"names.named: where must be a NoiseSchedule or a TimeGrid, got {type(where).__name__}")
    num_steps = check_size("names.named", "num_steps", num_steps)
    levels = _GRIDS[grid](where, max(num_steps - 1, 1))
    return solver(grids.with_zero(levels._replace(lam=levels.lam[:num_steps])), **extra | options)


__all__ = ["named"]

entry.guard(globals())
