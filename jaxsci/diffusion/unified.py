r"""A free solver schedule: for every step its own prediction, order, stencils, relaxation and corrector.

Row i expands G = eps, D or g (DPM-Solver-v3) at the node of slot ``start`` into a Taylor polynomial of `order` terms,

$$ x_{t} = (\text{exact linear part}) + \sum_{k < n} m_k\,\rho_k\,d_k, \qquad
   d_k = \sum_p a_{kp}(G_p - G_s),\quad \rho_1 = \text{relaxation},\ \rho_{k>1} = 1, $$

where derivative k has a stencil of its own (fewer points than there are is "low-order estimation"). Every published
solver of the exponential family is a choice of these decisions, and `search` looks for better ones. `Decisions` is a
record of arrays of fixed shape, so a population is one stacked record; `solver` makes a plain table of it.

Reference: E. Liu, X. Ning, H. Yang, Y. Wang, "A Unified Sampling Framework for Solver Searching of Diffusion
Probabilistic Models", 2024, sections 4 and 5.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxsci.core import entry
from jaxsci.core.host import to_host
from jaxsci.core.static import bind
from jaxsci.core.types import concrete
from jaxsci.diffusion import _exponential as expo
from jaxsci.diffusion import grids, rules, tables, v3
from jaxsci.diffusion.schedules import NoiseSchedule
from jaxsci.diffusion.statistics import Statistics
from jaxsci.diffusion.tables import Rows, SolverTable

KINDS = ("noise", "data", "v3")
"""What a row interpolates; `Decisions.kind` indexes it."""
# Where the first prediction comes from; the last two save a model call.
_FIRST = ("model", "zero", "mean")

_MAX_ORDER = 4
_SLOTS = 4  # history that a predictor may reach back to; a corrector sees one more


class Decisions(NamedTuple):
    """One schedule of N rows at most, or a stack of them. Rows from `num_rows` on are ignored.

    Attributes:
        lam: nodes, rising; entries after node `num_rows` repeat it.
        kind: what the row interpolates, an index of `KINDS`.
        order: terms of the Taylor polynomial, 1 to 4.
        start: slot of the expansion point: 0 is multistep, 1 and 2 are singlestep.
        points: ``points[i, k - 1, p]``: derivative k of row i uses slot p.
        relaxation: factor on the first derivative, an index of ("exact", "bh1", "bh2", "plus_exp", "minus_exp",
            "linear"); "linear" is 1 + coefficient h.
        coefficient: coefficient of the relaxation "linear"; the others ignore it.
        corrector: whether the state at which row i arrives is corrected, at no further call; never at the last node.
        first: where the first prediction comes from, an index of ("model", "zero", "mean").
        num_rows: rows that count, at most N.
    """

    lam: Float[Array, " N+1"]
    kind: Int[Array, " N"]
    order: Int[Array, " N"]
    start: Int[Array, " N"]
    points: Bool[Array, "N 3 4"]
    relaxation: Int[Array, " N"]
    coefficient: Float[Array, " N"]
    corrector: Bool[Array, " N"]
    first: Int[Array, ""]
    num_rows: Int[Array, ""]

    @property
    def num_calls(self) -> Int[ArrayLike, ""]:
        """Model calls: rows, one fewer when the first prediction is analytic."""
        return self.num_rows - (self.first > 0)


def nearest(order: int, *, size: int | None = None, start: int = 0) -> np.ndarray:
    """Stencils [3, 4] of one row: all derivatives from the `size` (default order - 1) slots next to `start`.

    Example:
        >>> import numpy as np
        >>> from jaxsci.diffusion import unified
        >>> print(np.shape(unified.nearest(2)))
        (3, 4)
    """
    size = order - 1 if size is None else size
    slots = [p for p in range(_SLOTS) if p != start][:size]
    points = np.zeros((_MAX_ORDER - 1, _SLOTS), bool)
    for k in range(1, order):
        points[k - 1, slots if len(slots) >= k else [p for p in range(_SLOTS) if p != start][: order - 1]] = True
    return points


def uniform(
    lam: Float[ArrayLike, " nodes"],
    *,
    kind: str = "data",
    order: int = 2,
    relaxation: str = "exact",
    corrector: bool = False,
    lower_order_final: bool = True,
    first: str = "model",
    size: int | None = None,
) -> Decisions:
    """The same decision for every row, as ordinary multistep solvers have it: where a search starts.

    Args:
        lam: n + 1 finite nodes, rising.
        kind, relaxation, first: names of `KINDS`, and of relaxations and firsts as in `Decisions`.
        order: 1 to 4, less at the start.
        corrector: correct every node but the last.
        lower_order_final: fall to first order at the last node.
        size: N, rows of the record; n by default.

    Returns:
        `Decisions` of NumPy arrays.

    Raises:
        TypeError: traced nodes.
        ValueError: an unknown name, an order outside 1 to 4, or `size` below n.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, unified
        >>> grid = grids.logsnr(schedules.vp_linear(), 5)
        >>> decisions = unified.uniform(grid.lam, kind="data", order=2, relaxation="bh2")  # DPM-Solver++ 2M
        >>> decisions.order.tolist(), int(decisions.num_calls)
        ([1, 2, 2, 2, 1], 5)
    """
    concrete(lam, "unified.uniform", "lam", "decisions are made on the host; stack them for jax.vmap")
    for name, value, known in (
        ("kind", kind, KINDS),
        ("relaxation", relaxation, expo.RELAXATIONS),
        ("first", first, _FIRST),
    ):
        if value not in known:
            raise ValueError(f"unified.uniform: {name} must be one of {known}, got {value!r}")
    if order not in range(1, _MAX_ORDER + 1):
        raise ValueError(f"unified.uniform: order must be 1 to {_MAX_ORDER}, got {order}")
    lam = np.asarray(lam, np.float64)
    n = lam.size - 1
    size = n if size is None else size
    if size < n:
        raise ValueError(f"unified.uniform: size must be >= the {n} rows, got {size}")
    orders = np.array([min(order, i + 1, n - i if lower_order_final else order) for i in range(n)] + [1] * (size - n))
    return Decisions(
        np.concatenate([lam, np.full(size - n, lam[-1])]),
        np.full(size, KINDS.index(kind)),
        orders,
        np.zeros(size, int),
        np.stack([nearest(int(o)) for o in orders]),
        np.full(size, expo.RELAXATIONS.index(relaxation)),
        np.zeros(size),
        (np.arange(size) < n - 1) & corrector,
        np.asarray(_FIRST.index(first)),
        np.asarray(n),
    )


# --- from decisions to a table ------------------------------------------------------------------------------


def _row(coefficient, c, grid, i, *, plan):
    if i == 0 and any(row.kind == "v3" for row, _ in plan):
        v3.check_known_cover("unified.rule", grid, c)
    writer = functools.partial(v3.v3_row, coefficients=c)
    return rules._step(grid, i, *plan[i], v3=writer, coefficient=coefficient[i])


def _plan(decisions: Decisions) -> tuple:
    """The discrete part, hashable: of each row its expansion, and its corrector or None."""
    d, plan, fix = jax.tree.map(np.asarray, decisions), [], None
    for i in range(int(d.num_rows)):
        kind, start = KINDS[int(d.kind[i])], int(d.start[i])
        stencils = tuple(tuple(int(p) for p in np.flatnonzero(d.points[i, k])) for k in range(int(d.order[i]) - 1))
        row = rules._Expansion(start, kind, stencils, expo.RELAXATIONS[int(d.relaxation[i])])
        plan.append((row, fix))
        moved = [(0, *(p + 1 for p in stencil)) for stencil in stencils]  # with one derivative more
        moved.append(moved[-1] if moved else (0,))
        fix = rules._Expansion(start + 1, kind, tuple(moved)) if d.corrector[i] else None
    return tuple(plan)


def _check(decisions: Decisions, statistics: Statistics | None = None) -> None:
    """Refuse decisions that are no solver, with the row and the reason; the list is in `rule`."""
    concrete(decisions, "unified", "decisions", "they are discrete: only coefficients and nodes may be traced")
    d = jax.tree.map(np.asarray, decisions)
    n, size = int(d.num_rows), d.kind.shape[0]
    if not 1 <= n <= size or d.lam.shape != (size + 1,):
        raise ValueError(f"unified: num_rows must be in [1, {size}] with lam [{size + 1}], got {n} and {d.lam.shape}")
    lam = d.lam[: n + 1]
    if not np.isfinite(lam[:-1]).all() or not (np.diff(lam) > 0).all():
        raise ValueError(f"unified: nodes must be finite (but the last) and rise strictly in lam, got {lam}")
    if not 0 <= d.first < len(_FIRST):
        raise ValueError(f"unified: first must be in [0, {len(_FIRST)}), got {d.first}")
    for i in range(n):
        for name, value, num in (("kind", d.kind[i], 3), ("relaxation", d.relaxation[i], 6), ("start", d.start[i], 3)):
            if not 0 <= value < num:
                raise ValueError(f"unified: {name} of row {i} must be in [0, {num}), got {value}")
        if not 1 <= d.order[i] <= _MAX_ORDER:
            raise ValueError(f"unified: order of row {i} must be 1 to {_MAX_ORDER}, got {d.order[i]}")
        if d.start[i] > i:
            raise ValueError(f"unified: row {i} starts {d.start[i]} evaluations back, but only {i} lie before it")
        if KINDS[int(d.kind[i])] == "v3" and statistics is None:
            raise ValueError(f"unified: row {i} is of kind 'v3', which needs statistics")
        for k in range(1, int(d.order[i])):
            slots = np.flatnonzero(d.points[i, k - 1])
            if len(slots) < k or slots.max() > i or d.start[i] in slots:
                raise ValueError(
                    f"unified: derivative {k} of row {i} needs at least {k} slots among 0..{i} without its start "
                    f"{d.start[i]}, got {slots.tolist()}"
                )


def rule(decisions: Decisions, statistics: Statistics | None = None, grid: grids.TimeGrid | None = None) -> Partial:
    """The row rule of a schedule, for `tables.tabulate`: `coefficient` and the statistics are leaves, the rest static.

    `first` is no part of it: see `tables.analytic_first`.

    Args:
        decisions: concrete but for `coefficient`; the nodes are taken from the grid and not from here.
        statistics: of the model, for rows of kind "v3"; traced or host.
        grid: the grid that the rule will stand on, if it is known: integrals of the statistics are then made once. On
            other nodes they are made anew.

    Raises:
        TypeError: traced decisions.
        ValueError: decisions that are no solver: nodes not rising or not finite, an index out of its range, a stencil
            that is too small or reaches back before the first node, or rows of kind "v3" without statistics.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, tables, unified
        >>> grid = grids.logsnr(schedules.vp_linear(), 3)
        >>> print(tables.tabulate(unified.rule(unified.uniform(grid.lam)), grid).t.shape)
        (4,)
    """
    _check(decisions._replace(coefficient=np.zeros(np.shape(decisions.kind))), statistics)
    c = None if statistics is None else v3.coefficients(statistics)
    c = c if c is None or grid is None else v3.on_nodes(c, grid.lam)
    return Partial(bind(_row, plan=_plan(decisions._replace(coefficient=0.0))), decisions.coefficient, c)


def solver(
    schedule: NoiseSchedule,
    decisions: Decisions,
    *,
    statistics: Statistics | None = None,
    mean: Any = 0.0,
    pad: bool = False,
) -> SolverTable:
    """The table of a schedule of decisions: a builder, float64 on the host.

    Args:
        schedule: the noise schedule that the nodes belong to.
        decisions: from `uniform`, `search` or by hand.
        statistics: of the model, for rows of kind "v3".
        mean: mean of the data, of the data's shape; for ``first`` "mean".
        pad: give every table of the same N and statistics equal shapes, whatever its decisions, so that one compiled
            program runs them all; otherwise unused parts are left out.

    Returns:
        `SolverTable`: saves, loads, stacks like any other.

    Raises:
        TypeError: a traced argument; use ``tables.tabulate(unified.rule(...), grid)`` inside compiled code.
        ValueError: see `rule`; statistics that do not cover the nodes.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, unified
        >>> vp = schedules.vp_linear()
        >>> print(unified.solver(vp, unified.uniform(grids.logsnr(vp, 3).lam)).predictor.data.round(2)[-1])
        [0.96 0.  ]
    """
    alternative = "use tables.tabulate(unified.rule(decisions), grid)"
    concrete((schedule, decisions, statistics), "unified.solver", "schedule, decisions and statistics", alternative)
    _check(decisions, statistics)
    statistics = None if statistics is None else to_host(statistics)
    grid = grids.at_lams(to_host(schedule), np.asarray(decisions.lam, np.float64)[: int(decisions.num_rows) + 1])
    if KINDS.index("v3") in np.asarray(decisions.kind)[: int(decisions.num_rows)]:
        v3.check_cover("unified.solver", grid, statistics)
    table = tables.tabulate(rule(jax.tree.map(np.asarray, decisions), statistics, grid), grid)
    if int(decisions.first):
        by_mean = _FIRST[int(decisions.first)] == "mean"
        table = tables.analytic_first(table, np.asarray(mean if by_mean else 0.0, np.float64))
    if not pad:
        return table
    shape = () if statistics is None else np.shape(statistics.l)[1:]
    return tables.unify([_everything(np.shape(decisions.kind)[0], shape, np.shape(mean)), table])[1]


def _everything(size, shape, mean_shape):
    """A table with all features and slots that decisions can ask for; what others are unified with."""
    rows = Rows(
        *(np.zeros((size, _SLOTS + 1, *shape)) for _ in range(3)), np.zeros((size, *shape)) if shape else None, None
    )
    nodes = np.zeros(size + 1)
    flags = np.zeros(size, bool)
    return SolverTable(nodes, nodes, nodes, nodes, rows, rows, flags, flags, ~flags, np.zeros(mean_shape))


__all__ = [
    "KINDS",
    "Decisions",
    "nearest",
    "rule",
    "solver",
    "uniform",
]

entry.guard(globals(), "_row")
