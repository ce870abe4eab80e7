r"""DPM-Solver-v3: the exponential integrator whose linear part is fitted to the model by empirical statistics.

With l, s, b of `statistics`, $L = \int l$, $S = \int s$ and $f = (1-l)e^{-\lambda}\varepsilon - lD$, the function
$g = e^{S_s - S}f - \int_{\lambda_s}^{\lambda} e^{S_s - S} b$ is nearly constant, and the flow from s to t is exactly

$$ x_t = \alpha_t e^{L_s - L_t}\Bigl[\tfrac{x_s}{\alpha_s} - \int_{\lambda_s}^{\lambda_t} e^{L + S - L_s - S_s}
   \Bigl(g + \int_{\lambda_s}^{\lambda} e^{S_s - S} b\Bigr) d\lambda\Bigr]. $$

g is replaced by its Taylor polynomial at s with derivatives from stored values, as in the other exponential rules
(`rules._exponential_row`); l = 1, s = b = 0 gives back data prediction, l = 0, s = -1, b = 0 noise prediction.
The integrals are in `_v3_integrals`.

References: K. Zheng, C. Lu, J. Chen, J. Zhu, "DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model
Statistics", 2023, equations 9 to 14, algorithms 1 and 2, appendices C and H.
"""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import ArrayLike, Bool

from jaxsci.core import entry
from jaxsci.core.host import namespace, to_host
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import concrete
from jaxsci.diffusion import _exponential as expo
from jaxsci.diffusion import grids, rules
from jaxsci.diffusion._judged import halved, judged
from jaxsci.diffusion._v3_integrals import Coefficients, OnGrid, coefficients, on_nodes, span, stretch_of
from jaxsci.diffusion.grids import TimeGrid
from jaxsci.diffusion.statistics import Statistics
from jaxsci.diffusion.tables import Row, SolverTable, tabulate

_INGRAPH = "use tables.tabulate(v3.v3(statistics, order, grid=grid), grid) inside compiled code"


# --- the row ------------------------------------------------------------------------------------------------


def v3_row(
    grid: TimeGrid,
    i: int,
    base: int,
    target: int,
    stencils: Sequence[Sequence[int]],
    coefficients: Coefficients | OnGrid,
    *,
    factors: Sequence[Any] | None = None,
) -> Row:
    r"""From slot `base` to node `target` by the Taylor polynomial of g; the sibling of `rules._exponential_row`.

    Args:
        grid: rising nodes, all that are used finite in lam; host float64 or traced.
        i: the row.
        base: slot of the expansion point: 0 for a multistep predictor, 1 for its corrector, others for singlestep.
        target: node to arrive at.
        stencils: for k = 1, 2, ... (4 at most) the slots, without `base`, that derivative k is made of.
        coefficients: from `coefficients`, or from `on_nodes` of this grid, which integrates once for all rows; placed
            on other nodes they are integrated again. Those of quadrature "trapezoid" need nodes on their levels
            (see `snap`).
        factors: multiplies derivative k (relaxation); None is 1.

    Returns:
        `Row` whose entries have the data's shape.
    """
    s, num = i - base, len(stencils) + 1
    used = [target, s, *(i - slot for stencil in stencils for slot in stencil)]
    on, index = stretch_of(coefficients, grid.lam, min(used), max(used))
    first = min(used) - index  # node 0 of `on`
    xp = namespace(grid, on)
    at = lambda n: (on.levels[n - first], *on.integrals[:, n - first])  # noqa: E731
    (_, L_s, S_s), (_, L_t, _) = at(s), at(target)
    step = span(xp, on, s - first, target - first)
    scale = grid.alpha[target] * xp.exp(L_s - L_t)
    shift = -scale * step.driven
    data, noise = {}, {}
    lams = [grid.lam[i - k] for k in range(i + 1)]
    for slot, w in expo.taylor_weights(lams, base, stencils, list(step.kernels[:num]), factors).items():
        n, q = i - slot, -scale * w
        l_n, _, S_n = at(n)
        grown = q * xp.exp(S_s - S_n)
        noise[slot] = grown * (1 - l_n) * (grid.sigma[n] / grid.alpha[n])
        data[slot] = -grown * l_n
        if n < s:
            shift = shift + grown * span(xp, on, n - first, s - first).drift
        elif n > s:
            shift = shift - q * span(xp, on, s - first, n - first).drift
    return Row({base: scale / grid.alpha[s]}, data, noise, shift)


def _stencils(slots, num, pseudo):
    """Slots of the derivatives 1 .. num: all of them, or the k nearest for derivative k."""
    return tuple(tuple(slots[:k] if pseudo else slots[:num]) for k in range(1, num + 1))


def _v3(c, grid, i, *, order, pseudo, corrector, lower_order_final, mask):
    num_rows, fix = grid.lam.shape[0] - 1, None
    if mask is not None and len(mask) != num_rows:
        raise ValueError(f"v3.v3: corrector_mask must have one entry for each of the {num_rows} rows, got {len(mask)}")
    if i == 0:
        check_known_cover("v3.v3", grid, c)
    num_points = rules._order(order, i, num_rows, lower_order_final)
    row = rules._Expansion(0, "v3", _stencils(range(1, num_points), num_points - 1, pseudo))
    if corrector is not None and i > 0 and (mask is None or mask[i]):
        num = rules._order(order, i - 1, num_rows, lower_order_final) - (corrector == "same")
        if num > 0:
            fix = rules._Expansion(1, "v3", _stencils((0, *range(2, num + 1)), num, corrector == "pseudo"))
    return rules._step(grid, i, row, fix, v3=functools.partial(v3_row, coefficients=c))


def v3(
    statistics: Statistics,
    order: int = 3,
    *,
    pseudo: bool = False,
    corrector: str | None = "same",
    lower_order_final: bool = True,
    corrector_mask: Sequence[bool] | Bool[ArrayLike, " N"] | None = None,
    quadrature: str = "gauss",
    grid: TimeGrid | None = None,
) -> Partial:
    """The rule of DPM-Solver-v3: multistep with the statistics as leaves; options are static.

    Args:
        statistics: of the model; traced or host. Levels must cover the nodes, which is checked where both are
            concrete; beyond them the last piece goes on.
        order: 1 to 4: points of the predictor, fewer at the start.
        pseudo: derivative k from the k + 1 nearest points alone; steadier at very few steps.
        corrector: None; "same": as many points as the predictor that came before, the new one among them (none after
            a first-order step); "pseudo": one more point, of pseudo order; "higher": one more point, which with
            l = 1, s = b = 0 is UniC.
        lower_order_final: fall to first order at the last node.
        corrector_mask: for each row, whether the state of its node may be corrected; None is everywhere. For strong
            guidance half of the nodes are usual, such as ``grid.t[:-1] <= 0.5``.
        quadrature: "gauss" interpolates l, s and b by cubic pieces (fourth order in the spacing of the levels,
            continuous slope), "trapezoid" by straight ones with trapezoidal sums, as the published code does.
        grid: the grid that the rule is for, when it is known (traced or host): integrals are then shared by the rows.
            On other nodes they are made anew, as without it.

    Raises:
        ValueError: an order outside 1 to 4 or an unknown name; on a grid: a mask of another length, or concrete
            statistics that do not cover it or are not finite.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, statistics, tables, v3
        >>> vp = schedules.vp_linear()
        >>> grid = grids.logsnr(vp, 3)
        >>> rule = v3.v3(statistics.constant(vp), order=2, corrector=None, grid=grid)
        >>> print(tables.tabulate(rule, grid).t.shape)
        (4,)

    References: Zheng et al. 2023, algorithms 1 and 2, section 3.3 (pseudo order and half-corrector).
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"v3.v3: order must be 1, 2, 3 or 4, got {order}")
    if corrector not in (None, "same", "pseudo", "higher"):
        raise ValueError(f"v3.v3: corrector must be None, 'same', 'pseudo' or 'higher', got {corrector!r}")
    mask = None if corrector_mask is None else tuple(bool(m) for m in corrector_mask)
    c = coefficients(statistics, quadrature=quadrature)
    return Partial(
        bind(
            _v3, order=order, pseudo=bool(pseudo), corrector=corrector, lower_order_final=bool(lower_order_final),
            mask=mask,
        ),
        c if grid is None else on_nodes(c, grid.lam),
    )  # fmt: skip


# --- builders -----------------------------------------------------------------------------------------------


def snap(grid: TimeGrid, statistics: Statistics) -> TimeGrid:
    """The grid with every node moved to the nearest level, as the published code does; halves go to the even level.

    A node half-way between two levels may land on the other one there, since rounding decides.

    Raises:
        TypeError: a traced argument.
        ValueError: levels that do not cover the grid, or two nodes that meet: fewer steps or more levels.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, statistics, v3
        >>> vp = schedules.vp_linear()
        >>> print(v3.snap(grids.logsnr(vp, 3), statistics.constant(vp)).lam.shape)
        (4,)
    """
    concrete((grid, statistics), "v3.snap", "grid and statistics", "snap the grid outside and pass it in")
    grid, statistics = to_host(grid), to_host(statistics)
    check_cover("v3.snap", grid, statistics)
    finite = np.isfinite(grid.lam)
    index = np.round(np.interp(grid.lam[finite], statistics.lam, np.arange(len(statistics.lam)))).astype(int)
    if (np.diff(index) <= 0).any():
        n = int(np.argmax(np.diff(index) <= 0))
        raise ValueError(
            f"v3.snap: two nodes, from lam {grid.lam[finite][n]:.4f} on, meet at level {index[n]} of "
            f"{len(statistics.lam)}; use fewer steps, more levels or quadrature='gauss'"
        )
    lams = grid.lam.copy()
    lams[finite] = statistics.lam[index]
    return grids.at_lams(grid.schedule, lams)


def check_known_cover(name: str, grid: TimeGrid, coefficients: Coefficients | OnGrid) -> None:
    """`check_cover` where all values are known; traced ones go on beyond the levels by the last piece."""
    c = coefficients.coefficients if isinstance(coefficients, OnGrid) else coefficients
    if not any(isinstance(a, jax.core.Tracer) for a in (grid.lam, c.lam, c.values)):
        check_cover(name, to_host(grid), to_host(Statistics(c.lam, *c.values)))


def check_cover(name, grid, statistics):
    """Refuse statistics that do not reach all finite nodes."""
    lam, nodes = statistics.lam, grid.lam[np.isfinite(grid.lam)]
    if not np.all(np.diff(lam) > 0):
        raise ValueError(f"{name}: the levels of the statistics must rise, from noise to data")
    for field, value in zip(statistics._fields, statistics[:4]):
        if not np.isfinite(value).all():
            raise ValueError(f"{name}: statistics.{field} is not finite; was the model's output?")
    slack = 1e-5 * (1 + np.abs(lam).max())  # levels that went through float32
    if nodes[0] < lam[0] - slack or nodes[-1] > lam[-1] + slack:
        raise ValueError(
            f"{name}: the statistics cover lam in [{lam[0]:.4f}, {lam[-1]:.4f}], the grid needs [{nodes[0]:.4f}, "
            f"{nodes[-1]:.4f}]; estimate them between the grid's own t_max and t_min (those made for t_min = 1e-3 do "
            "not serve 1e-4)"
        )


def dpm_v3(
    grid: TimeGrid,
    statistics: Statistics,
    *,
    quadrature: str = "gauss",
    **options,
) -> SolverTable:
    """DPM-Solver-v3 with the statistics of this model: coefficients per dimension, otherwise an ordinary table.

    Args:
        grid: where to stand; a node without noise may follow the last level.
        statistics: from `statistics.estimate`; shape of the data, or scalars per level.
        **options: order, pseudo, corrector, lower_order_final and corrector_mask of `v3`; `preset` has published ones.
        quadrature: "gauss" is accurate at any node. "trapezoid" is the published code: nodes are moved to levels of
            the statistics (`snap`) and integrals are trapezoidal sums; for parity.

    Returns:
        `SolverTable`, float64 on the host; its coefficients have the data's shape, 2 order + 2 copies per row. Its
        status, which every result of it carries, has the notices "unresolved statistics", where the coefficients from
        half of the levels differ by more than 5 %, and "statistics explain little"; of quadrature "trapezoid" nobody
        knows. `v3` inside compiled code makes no such check.

    Raises:
        TypeError: a traced argument.
        ValueError: statistics that do not cover the grid, are not finite or do not fit together; see `v3`.

    Example:
        >>> import numpy as np
        >>> from jaxsci.diffusion import grids, schedules, solvers, statistics, v3
        >>> vp = schedules.vp_linear()
        >>> grid = grids.time(vp, 6)
        >>> table = v3.dpm_v3(grid, statistics.constant(vp, l=1.0), corrector=None)  # data prediction
        >>> peer = solvers.dpm_multistep(grid, order=3, relaxation="exact")
        >>> print(np.allclose(table.predictor.data, peer.predictor.data))
        True

    References: Zheng et al. 2023, algorithm 2.
    """
    concrete((grid, statistics, options), "v3.dpm_v3", "grid, statistics and options", _INGRAPH)
    grid, statistics = to_host(grid), to_host(statistics)
    check_cover("v3.dpm_v3", grid, statistics)
    if quadrature == "trapezoid":
        grid = snap(grid, statistics)
    made = lambda known: tabulate(v3(known, quadrature=quadrature, grid=grid, **options), grid)  # noqa: E731
    table = made(statistics)
    if quadrature == "trapezoid" or len(statistics.lam) < 5:
        return table
    return judged(table, made(halved(statistics)), statistics)


class Preset(NamedTuple):
    """Published settings of one model family at some number of calls.

    Attributes:
        max_calls: the largest number of calls that these settings are for; inf for any.
        grid: name of the function in `grids`.
        t_min: where sampling stops; None is the schedule's own end.
        options: keywords of `dpm_v3`.
    """

    max_calls: float
    grid: str
    t_min: float | None
    options: dict


_PRESETS = json.loads(pathlib.Path(__file__).with_name("v3.json").read_text())


def preset(name: str, num_calls: int) -> Preset:
    """Settings that the authors used for one of their models at this number of model calls.

    Args:
        name: "score_sde" and "edm" (pixels, CIFAR-10), "latent", "imagenet" or "stable_diffusion".
        num_calls: model calls.

    Raises:
        ValueError: an unknown name or no calls.

    Example:
        >>> from jaxsci.diffusion import v3
        >>> print(v3.preset("score_sde", 6).options["corrector"], v3.preset("score_sde", 20).t_min)
        same 0.0001

    References: Zheng et al. 2023, appendix G, and the scripts published with it.
    """
    if name not in _PRESETS:
        raise ValueError(f"v3.preset: name must be one of {sorted(_PRESETS)}, got {name!r}")
    num_calls = check_size("v3.preset", "num_calls", num_calls)
    return next(Preset(**entry) for entry in _PRESETS[name] if num_calls <= entry["max_calls"])


__all__ = ["Preset", "dpm_v3", "preset", "snap", "v3"]

entry.guard(globals(), "_v3")
