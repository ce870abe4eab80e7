r"""A solver as a table: one row per model call, run by one scan (`sample`), whatever the solver is.

Row i stands at node i with the fresh predictions $(D_i, \varepsilon_i)$ and moves to node i + 1:

$$ x_{i+1} = \sum_k \left(a_{ik}\,x_{i-k} + w^D_{ik}\,D_{i-k} + w^\varepsilon_{ik}\,\varepsilon_{i-k}\right)
             + c_i + n_i\,\xi_i, \qquad \xi_i \sim N(0, I), $$

after an optional corrector of the same form has replaced $x_i$ (slot 0 then holds the new evaluation, and the stored
predictions stay as evaluated at the uncorrected point). A *rule* ``rule(grid, i) -> Step`` gives the coefficients of
row i; `tabulate` collects them, on the host in float64 or inside compiled code when the grid is traced. Tables are
pytrees: they cross jit, stack under vmap after `stack`, and are saved as plain arrays.

References: E. Liu et al., "A Unified Sampling Framework for Solver Searching of Diffusion
Probabilistic Models", 2024, section 4 (the unification); K. Zheng et al., "DPM-Solver-v3", 2023, algorithm 2.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxsci.core import arrays, entry, status
from jaxsci.core.host import namespace
from jaxsci.core.types import concrete
from jaxsci.diffusion.grids import TimeGrid

SINGULAR = status.register(
    "diffusion",
    17,
    "coefficients not finite",
    "a coefficient of the solver's table is not finite: nodes that were made inside compiled code repeat, or a row of "
    "order above 1 uses a node where lam is infinite",
    "make lam rise from node to node, as the builders of grids check outside compiled code; with_zero and order 1 at "
    "the ends serve pure noise and pure data",
)


class Row(NamedTuple):
    """Coefficients of one step, sparse: ``{slot: coefficient}``, slot k is k evaluations ago.

    Attributes:
        x: coefficients a of the states.
        data: coefficients w^D of the data predictions D.
        noise: coefficients w^eps of the noise predictions eps.
        shift: the constant c, of the data's shape; None is 0.
        std: standard deviation n of fresh noise; None is 0.
    """

    x: dict
    data: dict
    noise: dict
    shift: Any = None
    std: Any = None


class Step(NamedTuple):
    """What a rule says about row i.

    Attributes:
        predictor: coefficients of the move to node i + 1.
        corrector: coefficients that replace x_i once it is evaluated; None leaves it.
    """

    predictor: Row
    corrector: Row | None = None


class Rows(NamedTuple):
    """The coefficients of `Row` for all N rows, dense; slots that no row uses are not stored.

    Attributes:
        x: coefficients a of the states, KX slots; d is the shape of the data, or () when all entries share them.
        data: coefficients w^D of the data predictions, KD slots.
        noise: coefficients w^eps of the noise predictions, KE slots.
        shift: constants c; None is 0.
        std: standard deviations n of fresh noise; None is 0.
    """

    x: Float[Array, "N KX *d"]
    data: Float[Array, "N KD *d"]
    noise: Float[Array, "N KE *d"]
    shift: Float[Array, "N *d"] | None
    std: Float[Array, " N"] | None


class SolverTable(NamedTuple):
    """A solver on a grid of N + 1 nodes. `None` fields are features that this table does not use; `unify` makes them
    agree.

    Attributes:
        t: schedule times of the nodes.
        lam: log(alpha / sigma) of the nodes.
        alpha: signal scales of the nodes.
        sigma: noise scales of the nodes.
        predictor: coefficients of the moves; row i goes from node i to node i + 1.
        corrector: coefficients of the corrections; row i replaces x_i. None corrects nowhere.
        corrected: rows whose corrector applies; None where there is no corrector.
        active: False in padding rows, which are skipped; None is all True.
        evaluate: False where the analytic prediction replaces the model; None is all True.
        analytic: data prediction D of rows that are not evaluated, with eps = (x - alpha D) / sigma; None if all are.
        status: what its builder found, which results carry on; None is 0.
    """

    t: Float[Array, " N+1"]
    lam: Float[Array, " N+1"]
    alpha: Float[Array, " N+1"]
    sigma: Float[Array, " N+1"]
    predictor: Rows
    corrector: Rows | None
    corrected: Bool[Array, " N"] | None
    active: Bool[Array, " N"] | None
    evaluate: Bool[Array, " N"] | None
    analytic: Float[Array, "*d"] | None
    status: Int[Array, ""] | None = None

    @property
    def num_rows(self) -> int:
        """Rows of one table, padding included."""
        return self.t.shape[-1] - 1

    @staticmethod
    def unify(tables: Sequence["SolverTable"]) -> list["SolverTable"]:
        """Equal lengths, slots and features for all: what stacking and `jaxsci.sweep.stack` need."""
        return unify(tables)


# --- from rules to tables -----------------------------------------------------------------------------------


def tabulate(rule: Callable[..., Step], grid: TimeGrid) -> SolverTable:
    """Collect the rows of a rule on a grid.

    Args:
        rule: ``rule(grid, i) -> Step`` with i a Python int in [0, N).
        grid: of N + 1 nodes; NumPy values give a float64 host table, traced ones a table inside the graph
            (differentiable through nodes and coefficients; nodes must then be finite, and rise: a coefficient that is
            not finite sets the status `SINGULAR`, which results carry on).

    Returns:
        `SolverTable` of N rows; with a status unless it was made on the host.

    Raises:
        ValueError: a row reaches further back than the first evaluation, or a coefficient is not finite on the host.

    Example:
        >>> from jaxsci.diffusion import grids, rules, schedules, tables
        >>> grid = grids.logsnr(schedules.vp_linear(), 8)
        >>> table = tables.tabulate(rules.multistep(3, corrector=True), grid)
        >>> print(table.predictor.data.shape, table.corrector.data.shape, int(table.corrected.sum()))
        (8, 3) (8, 4) 7

    References: USF (Liu et al. 2024), section 4.
    """
    num_rows = grid.lam.shape[0] - 1
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # answered by the check below
        steps = [rule(grid, i) for i in range(num_rows)]
    for i, step in enumerate(steps):
        for name, row in (("predictor", step.predictor), ("corrector", step.corrector)):
            if row is not None and (slots := {*row.x, *row.data, *row.noise}) and max(slots) > i:
                raise ValueError(f"tabulate: the {name} of row {i} uses slot {max(slots)}, but only {i + 1} exist")
    xp = namespace(grid, [s.predictor for s in steps])
    dtype = np.float64 if xp is np else jnp.asarray(grid.lam).dtype
    predictor = _dense(xp, dtype, [step.predictor for step in steps])
    corrector = corrected = None
    if any(step.corrector is not None for step in steps):
        corrector = _dense(xp, dtype, [step.corrector or Row({}, {}, {}) for step in steps])
        corrected = np.asarray([step.corrector is not None for step in steps])
    bits = None
    if xp is np:
        _finite(predictor, "tabulate", "predictor of row")
        if corrector is not None:
            _finite(corrector, "tabulate", "corrector of row")
    else:
        total = sum(jnp.sum(a) for a in jax.tree.leaves((predictor, corrector)) if a.size)
        bits = jnp.where(jnp.isfinite(total), jnp.int32(status.OK), jnp.int32(SINGULAR))
    return SolverTable(*grid[:4], predictor, corrector, corrected, None, None, None, bits)


def _dense(xp, dtype, rows):
    """Sparse rows as arrays with the slots that are used."""
    coefficients = [c for row in rows for part in row[:3] for c in part.values()]
    coefficients += [row.shift for row in rows if row.shift is not None]
    shape = np.broadcast_shapes(*(np.shape(c) for c in coefficients)) if coefficients else ()

    def part(name):
        num_slots = max((slot + 1 for row in rows for slot in getattr(row, name)), default=0)
        dense = [
            [xp.broadcast_to(xp.asarray(getattr(row, name).get(k, 0.0), dtype), shape) for k in range(num_slots)]
            for row in rows
        ]
        if num_slots == 0:
            return np.zeros((len(rows), 0, *shape), dtype)
        return xp.stack([xp.stack(row) for row in dense])

    shift = std = None
    if any(row.shift is not None for row in rows):
        shift = xp.stack([xp.broadcast_to(xp.asarray(0.0 if r.shift is None else r.shift, dtype), shape) for r in rows])
    if any(row.std is not None for row in rows):
        std = xp.stack([xp.asarray(0.0 if row.std is None else row.std, dtype) for row in rows])
    return Rows(part("x"), part("data"), part("noise"), shift, std)


def _finite(rows, caller, name):
    """Refuse coefficients that are not finite, naming the first."""
    for field, values in rows._asdict().items():
        if values is not None and not np.isfinite(values).all():
            i = int(np.argwhere(~np.isfinite(values))[0][0])
            raise ValueError(
                f"{caller}: the {name} {i} has a coefficient of {field} that is not finite; "
                "are nodes repeated, or is an order above 1 asked for at a node with lam = +-inf?"
            )


def analytic_first(table: SolverTable, mean: Any = 0.0) -> SolverTable:
    r"""The same solver with its first model call replaced by $D = $ `mean`, $\varepsilon = (x - \alpha D)/\sigma$.

    At the noisy end the best prediction is nearly the mean of the data, so one call is saved.

    Args:
        table: from any builder; node 0 must have noise.
        mean: of the data, a number or an array of the data's shape.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers, tables
        >>> table = tables.analytic_first(solvers.ddim(grids.logsnr(schedules.vp_linear(), 3)))
        >>> print(int(table.evaluate.sum()))
        2

    References: T. Dockhorn et al., "GENIE: Higher-Order Denoising Diffusion Solvers", 2022, appendix (analytic first
    step).
    """
    xp = namespace(table, mean)
    evaluate = xp.ones(table.num_rows, bool) if table.evaluate is None else xp.asarray(table.evaluate)
    evaluate = xp.concatenate([xp.zeros(1, bool), evaluate[1:]])
    return table._replace(evaluate=evaluate, analytic=xp.asarray(mean, table.t.dtype))


# --- shapes of tables ---------------------------------------------------------------------------------------


def amplification(table: SolverTable) -> Float[Array, "*batch N"] | Float[np.ndarray, "*batch N"]:
    r"""$\sum_k |W_k| / |\sum_k W_k|$ of each row's predictions: 1 is harmless, above about 10 errors are blown up.

    Of one table or of a stack of them.

    Very unequal steps do that to high orders; ``lower_order_final`` is the usual remedy where the last step is long.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers, tables
        >>> print(tables.amplification(solvers.ddim(grids.logsnr(schedules.vp_linear(), 3))))
        [1. 1. 1.]
    """
    xp = namespace(table)
    rows = table.predictor
    slot = table.t.ndim  # after the axes of the stack and the rows
    over = tuple(range(slot, rows.data.ndim))
    size = sum(xp.abs(weights).sum(over) for weights in (rows.data, rows.noise))
    total = sum(xp.abs(weights.sum(slot)).sum(over[:-1]) for weights in (rows.data, rows.noise))
    return size / xp.where(total == 0, 1.0, total)


def pad(table: SolverTable, size: int) -> SolverTable:
    """The same solver in `size` rows: the others are inactive and are skipped without a model call.

    Raises:
        ValueError: `size` is below the number of rows.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers, tables
        >>> print(tables.pad(solvers.ddim(grids.logsnr(schedules.vp_linear(), 3)), 5).active)
        [ True  True  True False False]
    """
    have = table.num_rows
    if size < have:
        raise ValueError(f"tables.pad: size must be >= the {have} rows of the table, got {size}")
    xp, extra = namespace(table), size - have

    def fill(a, value=0):
        return xp.concatenate([xp.asarray(a), xp.full((extra, *a.shape[1:]), value, a.dtype)])

    def nodes(a):
        return xp.concatenate([xp.asarray(a), xp.broadcast_to(a[-1:], (extra,))])

    active = np.ones(have, bool) if table.active is None else table.active
    return SolverTable(
        *(nodes(a) for a in table[:4]),
        *jax.tree.map(fill, (table.predictor, table.corrector, table.corrected, active)),
        None if table.evaluate is None else fill(table.evaluate, True),
        table.analytic,
        table.status,
    )


def unify(tables: Sequence[SolverTable]) -> list[SolverTable]:
    """Tables of equal shapes and features: padded to the longest, with the union of slots and parts.

    Raises:
        ValueError: no tables, or coefficients of different data shapes.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers, tables
        >>> grid = grids.logsnr(schedules.vp_linear(), 3)
        >>> print([t.t.shape for t in tables.unify([solvers.ddim(grid), solvers.unipc(grid)])])
        [(4,), (4,)]
    """
    if not tables:
        raise ValueError("tables.unify: no tables")
    size = max(table.num_rows for table in tables)
    if any(table.num_rows != size or table.active is not None for table in tables):
        tables = [pad(table, size) for table in tables]
    shapes = {table.predictor.x.shape[2:] for table in tables} - {()}
    if len(shapes) > 1:
        raise ValueError(f"tables.unify: coefficients belong to data of different shapes: {sorted(shapes)}")
    shape = shapes.pop() if shapes else ()
    empty = _dense(np, tables[0].t.dtype, [Row({}, {}, {})] * size)
    correcting = any(table.corrector is not None for table in tables)
    evaluating = any(table.evaluate is not None for table in tables)
    if any(table.status is not None for table in tables):
        tables = [t._replace(status=np.int32(0)) if t.status is None else t for t in tables]
    tables = [
        table._replace(
            corrector=empty if correcting and table.corrector is None else table.corrector,
            corrected=np.zeros(size, bool) if correcting and table.corrected is None else table.corrected,
            evaluate=np.ones(size, bool) if evaluating and table.evaluate is None else table.evaluate,
        )
        for table in tables
    ]
    if evaluating:
        means = [np.asarray(0.0, table.t.dtype) if table.analytic is None else table.analytic for table in tables]
        common = np.broadcast_shapes(*(np.shape(m) for m in means))
        xp = namespace(means)
        tables = [t._replace(analytic=xp.broadcast_to(m, common)) for t, m in zip(tables, means)]
    for part in ("predictor", "corrector"):
        rows = [getattr(table, part) for table in tables]
        if rows[0] is not None:
            tables = [t._replace(**{part: r}) for t, r in zip(tables, _same_slots(rows, shape))]
    return tables


def _same_slots(rows, shape):
    """Rows of several tables with equal numbers of slots and equal optional parts."""
    slots = [max(getattr(r, name).shape[1] for r in rows) for name in ("x", "data", "noise")]
    any_shift, any_std = (any(getattr(r, name) is not None for r in rows) for name in ("shift", "std"))

    def grow(xp, a, num):
        a = xp.asarray(a)
        a = a.reshape(*a.shape[:2], *((1,) * (len(shape) + 2 - a.ndim)), *a.shape[2:])
        a = xp.broadcast_to(a, (*a.shape[:2], *shape))
        return xp.concatenate([a, xp.zeros((a.shape[0], num - a.shape[1], *shape), a.dtype)], axis=1)

    out = []
    for r in rows:
        xp, size = namespace(r), r.x.shape[0]
        shift = xp.zeros((size, 1), r.x.dtype) if r.shift is None else xp.asarray(r.shift)[:, None]
        shift = grow(xp, shift, 1)[:, 0] if any_shift else None
        std = (xp.zeros(size, r.x.dtype) if r.std is None else r.std) if any_std else None
        out.append(Rows(*(grow(xp, a, num) for a, num in zip(r[:3], slots)), shift, std))
    return out


def stack(tables: Sequence[SolverTable]) -> SolverTable:
    """One table with a leading axis over solvers, for `jax.vmap`; the tables are unified first.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers, tables
        >>> schedule = schedules.vp_linear()
        >>> stacked = tables.stack([solvers.ddim(grids.time(schedule, 5)), solvers.unipc(grids.time(schedule, 8))])
        >>> print(stacked.t.shape, stacked.active.sum(1))
        (2, 9) [5 8]
    """
    tables = unify(tables)
    xp = namespace(tables)
    return jax.tree.map(lambda *leaves: xp.stack(leaves), *tables)


# --- files --------------------------------------------------------------------------------------------------


def save(table: SolverTable, path: str | Path) -> None:
    """Write a table as one npz file (`core.arrays`), its arrays named by their path: ``predictor.x``, ``t``, ...

    Raises:
        TypeError: a traced table, or `path` is no path.

    Example:
        >>> import os, tempfile
        >>> from jaxsci.diffusion import grids, schedules, solvers, tables
        >>> path = os.path.join(tempfile.mkdtemp(), "t.npz")
        >>> tables.save(solvers.ddim(grids.logsnr(schedules.vp_linear(), 3)), path)
        >>> print(tables.load(path).t.shape)
        (4,)
    """
    concrete(table, "tables.save", "table", "return the table and save it outside")
    found = {}
    for field, value in table._asdict().items():
        parts = value._asdict() if isinstance(value, Rows) else {"": value}
        found |= {f"{field}.{name}".rstrip("."): a for name, a in parts.items() if a is not None}
    arrays.save(path, found, kind="solver table", caller="tables.save")


def load(path: str | Path) -> SolverTable:
    """Read what `save` wrote.

    Raises:
        ValueError: the file is no table, damaged, or written by a newer version.

    Example:
        >>> import os, tempfile
        >>> from jaxsci.diffusion import grids, schedules, solvers, tables
        >>> path = os.path.join(tempfile.mkdtemp(), "t.npz")
        >>> tables.save(solvers.ddim(grids.logsnr(schedules.vp_linear(), 3)), path)
        >>> print(tables.load(path).t.shape)
        (4,)
    """
    needed = ("t", "lam", "alpha", "sigma", "predictor.x")
    found = arrays.load(path, kind="solver table", names=needed, caller="tables.load")

    def rows(field):
        if f"{field}.x" not in found:
            return None
        return Rows(*(found.get(f"{field}.{name}") for name in Rows._fields))

    plain = {name: found.get(name) for name in SolverTable._fields}
    return SolverTable(**{**plain, "predictor": rows("predictor"), "corrector": rows("corrector")})


__all__ = [
    "Row",
    "Rows",
    "SolverTable",
    "Step",
    "amplification",
    "analytic_first",
    "load",
    "pad",
    "save",
    "stack",
    "tabulate",
    "unify",
]

entry.guard(globals())
