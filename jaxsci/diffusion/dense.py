r"""Dense output: the state between the nodes of a run, without a further model call.

The row that moves from node i to node i + 1 is built for any target $\lambda \in [\lambda_i, \lambda_{i+1}]$ instead:
the same polynomial, integrated to there. So a run of N calls gives a curve, of the order of its predictor.

References: E. Hairer, S. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", section II.6 (continuous
extensions); C. Lu et al. 2022, equation 3.4 (the integral up to any lambda).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsci.core import entry
from jaxsci.core.host import to_host
from jaxsci.core.types import concrete
from jaxsci.diffusion import tables
from jaxsci.diffusion._sample import Trajectory, combine
from jaxsci.diffusion.grids import TimeGrid
from jaxsci.diffusion.predictions import at_least_single
from jaxsci.diffusion.tables import Rows, Step


class Outputs(NamedTuple):
    """Rows that lead to M points between nodes.

    Attributes:
        index: the node that each row starts from.
        lam: the points.
        rows: coefficients; slot k is node ``index - k``.
    """

    index: Int[Array, " M"]
    lam: Float[Array, " M"]
    rows: Rows


def outputs(rule: Callable[..., Step], grid: TimeGrid, lams: Any) -> Outputs:
    """Rows from a rule to given points, in float64 on the host.

    Args:
        rule: the rule that the table was tabulated from, e.g. ``rules.multistep(3, corrector=True)``.
        grid: its grid.
        lams: points in [lam_0, lam_N]; at a node the state of the run comes back.

    Returns:
        `Outputs` for `evaluate`.

    Raises:
        TypeError: a traced argument.
        ValueError: a point outside the grid, a rule that draws noise, or one whose rows start at an older node than
            the newest (singlestep and Runge-Kutta stages are no path).

    Example:
        >>> from jaxsci.diffusion import dense, grids, rules, schedules
        >>> grid = grids.logsnr(schedules.vp_linear(), 5)
        >>> print(dense.outputs(rules.ddim(), grid, grid.lam[1:3]).index)
        [1 2]
    """
    alternative = "put the points into the grid as nodes inside compiled code"
    concrete((grid, lams), "dense.outputs", "grid and lams", alternative)
    grid, lams = to_host(grid), np.atleast_1d(np.asarray(lams, np.float64))
    num_steps = len(grid.lam) - 1
    if not np.all((lams >= grid.lam[0]) & (lams <= grid.lam[-1])):
        raise ValueError(f"dense.outputs: lams must lie in [{grid.lam[0]:.6g}, {grid.lam[-1]:.6g}], got {lams}")
    index = np.clip(np.searchsorted(grid.lam, lams, side="right") - 1, 0, num_steps - 1)
    alpha, sigma = (np.asarray(a, np.float64) for a in grid.schedule.alpha_sigma(lams))
    times = np.asarray(grid.schedule.t_of_lam(lams), np.float64)

    def row(i, j):
        """The rule's row i on the grid whose node i + 1 is point j."""

        def moved(nodes, value):
            nodes = nodes.copy()
            nodes[i + 1] = value
            return nodes

        nodes = (moved(a, b[j]) for a, b in zip(grid[:4], (times, lams, alpha, sigma)))
        predictor = rule(TimeGrid(*nodes, grid.schedule), i).predictor
        if predictor.std is not None:
            raise ValueError("dense.outputs: the rule draws noise; between the nodes its path is random")
        if set(predictor.x) - {0}:
            raise ValueError("dense.outputs: the rule's rows must start at the newest node, as those of multistep do")
        return predictor

    with np.errstate(divide="ignore", invalid="ignore"):  # answered by the check below
        rows = tables._dense(np, np.float64, [row(int(i), j) for j, i in enumerate(index)])
    tables._finite(rows, "dense.outputs", "row to point")
    return Outputs(index, lams, rows)


@eqx.filter_jit
def evaluate(points: Outputs, trajectory: Trajectory) -> Float[Array, "M *d"]:
    """States at the points of `outputs`.

    Args:
        points: from `outputs`.
        trajectory: of the run, ``sample(..., save="trajectory").trajectory``; one sample, vmap for more.

    Returns:
        The states, of the trajectory's dtype; differentiable in the trajectory.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> from jaxsci.diffusion import dense
        >>> schedule = diffusion.schedules.vp_linear()
        >>> denoiser = diffusion.predictions.denoiser(lambda x, t, cond: 3 + 0 * x, schedule, "sample")
        >>> grid, rule = diffusion.grids.logsnr(schedule, 4), diffusion.rules.multistep(2)
        >>> table = diffusion.tables.tabulate(rule, grid)
        >>> run = diffusion.sample(None, denoiser, table, jnp.zeros(1), save="trajectory")
        >>> points = dense.outputs(rule, grid, [0.0, 1.0])
        >>> print(dense.evaluate(points, run.trajectory)[:, 0].round(2))
        [2.11 2.81]
    """

    def at(index, rows):
        return combine(rows, *([a[jnp.maximum(index - k, 0)] for k in range(depth)] for a in trajectory))

    depth = max(part.shape[1] for part in points.rows[:3])
    wide = at_least_single(trajectory.x)
    return jax.vmap(at)(points.index, jax.tree.map(lambda a: a.astype(wide), points.rows))


__all__ = ["Outputs", "evaluate", "outputs"]

entry.guard(globals())
