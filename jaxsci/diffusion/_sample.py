r"""Run a solver table: one `lax.scan` over its rows, the same program for every solver of equal shape.

Per row: evaluate $(D, \varepsilon)$ at the state, apply the hooks, correct the state where the table says so, predict
the next one (equation in `tables`). Histories are tuples of arrays in the carry, so pushing is a renaming and the
whole update is one fused pass over the state.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core import keys, status, tree
from jaxsci.core.keys import unrolled
from jaxsci.core.static import as_partial
from jaxsci.core.types import KeyArray, as_real
from jaxsci.diffusion.predictions import at_least_single, called, check_guided, convert
from jaxsci.diffusion.tables import SolverTable


class Trajectory(NamedTuple):
    """Everything a run saw, node by node; padding rows repeat the last state and hold zero predictions.

    Attributes:
        x: states, corrected where the table corrects.
        data: data predictions D_i, after `denoised_hook`; a correction of the state leaves them as evaluated before it.
        noise: noise predictions eps_i that belong to `data`.
    """

    x: Float[Array, "N+1 *d"]
    data: Float[Array, "N *d"]
    noise: Float[Array, "N *d"]


class Result(NamedTuple):
    """A sample and how it was made.

    Attributes:
        value: the state at the last node.
        nfe: model calls made: the active rows that were evaluated.
        status: NONFINITE_INPUT (x_T), NONFINITE_RESULT (the last state, or any prediction on the way, before hooks),
            and what the builder found out about its table; 0 = ok.
        trajectory: states and predictions of all nodes with ``save="trajectory"``, else None.
    """

    value: Float[Array, "*d"]
    nfe: Int[Array, ""]
    status: Int[Array, ""]
    trajectory: Trajectory | None


def sample(
    key: KeyArray | None,
    denoiser: Callable[..., tuple[Array, Array]],
    table: SolverTable,
    x_T: Float[ArrayLike, "*d"],
    *,
    cond: PyTree = None,
    guidance_scale: ArrayLike = 1.0,
    denoised_hook: Callable[..., Array] | None = None,
    state_hook: Callable[..., Array] | None = None,
    save: str = "final",
) -> Result:
    """One sample by one solver; batches of seeds, conditions, guidance scales and tables are the caller's vmap.

    Args:
        key: one typed key; row i uses ``fold_in(key, i)``, so padding never shifts the noise. None for a table without
            noise and hooks that draw nothing.
        denoiser: ``denoiser(x, t, cond, w) -> (D, eps)``, traced once; see `predictions.denoiser`.
        table: from `solvers`, `tables.tabulate`, `tables.load` or the search; cast to the dtype of `x_T`, to float32 if
            that is a shorter one: times and coefficients are never in half precision.
        x_T: the state at node 0: unit normal for variance-preserving schedules, times sigma(node 0) for VE.
        cond: condition, any record; None is unconditional.
        guidance_scale: w, 1 is the conditional model: a number, one for each row of the table, or a function of the
            schedule's time, such as `predictions.within`; traced.
        denoised_hook: ``hook(D, x, t, key) -> D`` after every evaluation; eps is recomputed as (x - alpha D)/sigma.
            See `hooks`.
        state_hook: ``hook(x, t_next, key) -> x`` after every step.
        save: "final" or "trajectory" (static).

    Returns:
        `Result`; differentiable in `x_T`, `guidance_scale`, the table and what the denoiser holds.

    Raises:
        ValueError: no key though the table draws noise, an unknown `save`, coefficients that do not fit `x_T`, a
            guidance scale of another shape, or one that is not 1 for a denoiser made without guidance.
        TypeError: x_T is not floating, a key that is not typed, or a denoiser that does not give two arrays like x,
            or a hook one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> schedule = diffusion.schedules.vp_linear()
        >>> def model(x, t, cond):  # the exact noise prediction for data at 3
        ...     alpha, sigma = schedule.alpha_sigma(schedule.lam(t))
        ...     return (x - 3 * alpha) / sigma
        >>> denoiser = diffusion.predictions.denoiser(model, schedule, "epsilon")
        >>> table = diffusion.solvers.unipc(diffusion.grids.logsnr(schedule, 10), order=3)
        >>> result = diffusion.sample(None, denoiser, table, jnp.zeros(2))
        >>> print(result.value.round(2), int(result.nfe), int(result.status))
        [3. 3.] 10 0

    References: design of the table in `tables`; algorithm 1 of every solver in `solvers`.
    """
    x_T = _as_state("diffusion.sample", table, x_T)
    if save not in ("final", "trajectory"):
        raise ValueError(f"diffusion.sample: save must be 'final' or 'trajectory', got {save!r}")
    if key is None and _draws(table):
        raise ValueError("diffusion.sample: this table draws noise; pass a key, e.g. jax.random.key(0)")
    if key is not None:
        key = keys.as_typed_key(key, "diffusion.sample")
    w = _guidance("diffusion.sample", denoiser, table, guidance_scale, x_T)
    denoiser = as_partial(denoiser, "diffusion.sample", "denoiser")
    return _run(key, denoiser, table, x_T, cond, w, denoised_hook, state_hook, save)


class State(NamedTuple):
    """Where a run stands: all that its later rows need, for one sample or for a cloud along a leading axis.

    Attributes:
        x: the state at the next node to evaluate.
        states: earlier states, the latest first.
        data: earlier data predictions.
        noise: the noise predictions that belong to `data`.
        nfe: model calls made.
        status: as in `Result`, without the last state.
    """

    x: Float[Array, "*shape"]
    states: tuple[Array, ...]
    data: tuple[Array, ...]
    noise: tuple[Array, ...]
    nfe: Int[Array, "..."]
    status: Int[Array, "..."]


def init(table: SolverTable, x_T: Float[ArrayLike, "*shape"], *, cloud: bool = False) -> State:
    """The state at node 0, from which `step` goes on row by row; arguments as for `sample`.

    Args:
        table: the solver.
        x_T: one sample; with `cloud`, N of them along a leading axis.
        cloud: the samples share the keys, the table and the condition: one draw a step serves all of them, and
            nothing but the denoiser is vmapped. Static.

    Returns:
        A `State`: arrays that can be permuted, copied and resampled along the axis of the cloud, histories included.

    Raises:
        TypeError, ValueError: as `sample`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> vp = diffusion.schedules.vp_linear()
        >>> table = diffusion.solvers.ddim(diffusion.grids.logsnr(vp, 2))
        >>> print(int(diffusion.finish(diffusion.init(table, jnp.ones(2))).nfe))
        0
    """
    x_T = _as_state("diffusion.init", table, x_T)
    if cloud and x_T.ndim == 0:
        raise ValueError("diffusion.init: a cloud needs a leading axis, got x_T of shape ()")
    return _first(table, x_T, bool(cloud))


def step(
    key: KeyArray | None,
    denoiser: Callable[..., tuple[Array, Array]],
    table: SolverTable,
    state: State,
    i: Int[ArrayLike, ""],
    *,
    cond: PyTree = None,
    guidance_scale: ArrayLike = 1.0,
) -> State:
    """Row `i` of the table: one call of the denoiser at every sample, and the move to node i + 1.

    Args:
        key: the key of the whole run, the same at every step: i is folded in here.
        denoiser, table, cond, guidance_scale: as for `sample`.
        state: from `init` or `step`.
        i: number of the row, 0 to N - 1 in order (traced).

    Returns:
        The `State` at the next node. N steps of one sample give what `sample` gives.

    Raises:
        TypeError, ValueError: as `sample`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> denoiser = lambda x, t, cond, w: (0 * x + 3, 0 * x)
        >>> table = diffusion.solvers.sde_dpm(diffusion.grids.logsnr(diffusion.schedules.ve(), 10))
        >>> key, state = jax.random.key(0), diffusion.init(table, jnp.zeros((100, 2)), cloud=True)
        >>> for i in range(table.num_rows):
        ...     state = diffusion.step(key, denoiser, table, state, i)
        >>> result = diffusion.finish(state)
        >>> result.value.shape, result.status.shape
        ((100, 2), (100,))
    """
    if key is None and _draws(table):
        raise ValueError("diffusion.step: this table draws noise; pass a key, e.g. jax.random.key(0)")
    key = None if key is None else keys.as_typed_key(key, "diffusion.step")
    x = _as_state("diffusion.step", table, state.x)
    w = _guidance("diffusion.step", denoiser, table, guidance_scale, x)
    return _following(key, denoiser, table, state, jnp.asarray(i), cond, w)


def finish(state: State) -> Result:
    """The result of a run that was taken step by step, without a trajectory; of a cloud, one entry for each sample.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> vp = diffusion.schedules.vp_linear()
        >>> table = diffusion.solvers.ddim(diffusion.grids.logsnr(vp, 2))
        >>> print(int(diffusion.finish(diffusion.init(table, jnp.ones(2))).nfe))
        0
    """
    return Result(state.x, state.nfe, state.status | _trouble(state, state.x, status.NONFINITE_RESULT), None)


def _as_state(name, table, x):
    """A state that the table's coefficients fit."""
    if not isinstance(table, SolverTable):
        raise TypeError(
            f"{name}: table must be a SolverTable, got {type(table).__name__}; the order is denoiser, table, state; "
            "diffusion.solvers builds tables from grids"
        )
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name}: x_T must be floating, got {x.dtype}")
    shape = table.predictor.x.shape[2:]
    tail = x.shape[x.ndim - len(shape) :] if len(shape) <= x.ndim else ()
    if len(shape) > x.ndim or any(n not in (1, m) for n, m in zip(shape, tail)):
        raise ValueError(f"{name}: the table's coefficients have shape {shape}, x_T has {x.shape}")
    return x


def _guidance(name, denoiser, table, w, x):
    """w of every row, or the function of time that gives it."""
    if not callable(w):
        if jnp.shape(w) not in ((), (table.num_rows,)):
            raise ValueError(
                f"{name}: guidance_scale must be a number, one for each of {table.num_rows} rows, or a function of "
                f"time, got shape {jnp.shape(w)}; use jax.vmap over several runs"
            )
        check_guided(name, denoiser, w)
        return as_real(w, at_least_single(x))
    return as_partial(w, name, "guidance_scale")


def _scales(w, times):
    """One for each row."""
    if not callable(w):
        return jnp.broadcast_to(w, times.shape)
    found = jax.vmap(w)(times)
    if found.shape != times.shape:
        raise ValueError(f"diffusion.sample: guidance_scale(t) must return a number, got shape {found.shape[1:]}")
    return jnp.asarray(found, times.dtype)


def _draws(table):
    return any(rows is not None and rows.std is not None for rows in (table.predictor, table.corrector))


def _trouble(state: State, values, bit):
    """The bit for each sample whose values are not all finite."""
    axes = tuple(range(state.status.ndim, values.ndim))
    return jnp.where(jnp.all(jnp.isfinite(values), axis=axes), jnp.int32(0), jnp.int32(bit))


@eqx.filter_jit
def _first(table, x_T, cloud):
    return beginning(rows_of(table), x_T, 1, cloud)


@eqx.filter_jit
def _following(key, denoiser, table, state, i, cond, w):
    rows, table = _cast_rows(table, w, state.x)
    return _taken(key, denoiser, table.analytic, tree.dynamic_index(rows, i), state, cond)[0]


# --- one step, shared with the correctors -------------------------------------------------------------------


def rows_of(table: SolverTable) -> dict:
    """What one step is told, for all rows along a leading axis of N."""
    # Padding stands at node 0: batched, it is evaluated too, and a node without noise would put NaN into gradients.
    here = lambda a: a[:-1] if table.active is None else jnp.where(table.active, a[:-1], a[0])  # noqa: E731
    return {
        "i": jnp.arange(table.num_rows), "t": here(table.t), "t_next": table.t[1:], "alpha": here(table.alpha),
        "sigma": here(table.sigma), "predictor": table.predictor, "corrector": table.corrector,
        "corrected": table.corrected, "active": table.active, "evaluate": table.evaluate,
        "status": None if table.status is None else jnp.broadcast_to(table.status, table.num_rows),
    }  # fmt: skip


def _cast_rows(table, w, x):
    """Rows with the guidance scale of each, and the table: at least float32, whatever the state is."""
    table = tree.cast(jax.tree.map(jnp.asarray, table), at_least_single(x))
    rows = rows_of(table)
    return {**rows, "w": _scales(w, rows["t"])}, table


def _depths(row, axis: int) -> list[int]:
    """How many states, data and noise predictions the rows read; `axis` is that of the slots."""
    both = [rows for rows in (row["predictor"], row["corrector"]) if rows is not None]
    return [max(rows[k].shape[axis] for rows in both) for k in range(3)]


def beginning(rows: dict, x: Array, axis: int, cloud: bool) -> State:
    """At node 0: nothing to look back to. `axis` is that of the slots: 1 of all rows, 0 of one."""
    counts = jnp.zeros(x.shape[:1] if cloud else (), jnp.int32)
    state = State(x, *((jnp.zeros_like(x),) * max(depth - 1, 0) for depth in _depths(rows, axis)), counts, counts)
    return state._replace(status=_trouble(state, x, status.NONFINITE_INPUT))


def advanced(key: KeyArray | None, row: dict, state: State, data: Array, noise: Array) -> tuple[State, Array]:
    """The state at the next node, and the one at this node after its correction, from fresh predictions.

    One draw serves a whole cloud: a leading axis needs no vmap.
    """
    x, (past, *depth) = state.x, _depths(row, 0)
    datas, noises = (data, *state.data)[: depth[0]], (noise, *state.noise)[: depth[1]]
    if row["corrector"] is not None:
        x = jnp.where(row["corrected"], combine(row["corrector"], (x, *state.states), datas, noises), x)
    xs = (x, *state.states)[: max(past, 1)]
    new = combine(row["predictor"], xs, datas, noises)
    if row["predictor"].std is not None:
        new = (new + row["predictor"].std * jax.random.normal(unrolled(key), x.shape, x.dtype)).astype(x.dtype)
    kept = (values[: max(n - 1, 0)] for values, n in ((xs, past), (datas, depth[0]), (noises, depth[1])))
    return State(new, *kept, state.nfe, state.status), x


def _taken(key, denoiser, analytic, row, state, cond, denoised_hook=None, state_hook=None):
    """One row: predictions, hooks, correction and move; also (x, D, eps) of this node."""

    def advance(state):
        cloud = state.status.ndim == 1
        keys = (None,) * 3
        if key is not None:
            mine = jax.random.fold_in(key, row["i"])
            keys = [jax.random.fold_in(mine, j) for j in range(3)]

        def model(x):
            one = lambda x: called("diffusion.sample", denoiser, x, row["t"], cond, row["w"])  # noqa: E731
            return (jax.vmap(one) if cloud else one)(x)

        def pair(data, x):
            found = convert("sample", data, x, row["alpha"], row["sigma"])
            return tuple(a.astype(x.dtype) for a in found)

        def known(x):
            return pair(jnp.broadcast_to(analytic, x.shape), x)

        x, evaluate = state.x, row["evaluate"]
        data, noise = model(x) if evaluate is None else choose(evaluate, model, known, x)
        # hooks may hide what is not finite, and later rows overwrite it
        trouble = _trouble(state, data, status.NONFINITE_RESULT) | _trouble(state, noise, status.NONFINITE_RESULT)
        if denoised_hook is not None:
            data = _like(x, "denoised_hook", denoised_hook(data, x, row["t"], keys[1]))
            data, noise = pair(data, x)
        new, x = advanced(keys[0], row, state, data, noise)
        if state_hook is not None:
            new = new._replace(x=_like(x, "state_hook", state_hook(new.x, row["t_next"], keys[2])))
        trouble = trouble if row["status"] is None else trouble | row["status"]
        calls = 1 if evaluate is None else evaluate.astype(jnp.int32)
        return new._replace(nfe=state.nfe + calls, status=state.status | trouble), (x, data, noise)

    def stay(state):
        return state, (state.x, jnp.zeros_like(state.x), jnp.zeros_like(state.x))

    return advance(state) if row["active"] is None else choose(row["active"], advance, stay, state)


@eqx.filter_jit
def _run(key, denoiser, table, x_T, cond, w, denoised_hook, state_hook, save):
    rows, table = _cast_rows(table, w, x_T)

    def body(state, row):
        state, seen = _taken(key, denoiser, table.analytic, row, state, cond, denoised_hook, state_hook)
        return state, seen if save == "trajectory" else None

    state, seen = jax.lax.scan(body, beginning(rows, x_T, 1, False), rows)
    result = finish(state)
    if save == "trajectory":
        result = result._replace(trajectory=Trajectory(jnp.concatenate([seen[0], state.x[None]]), *seen[1:]))
    return result


def _like(x, name, value):
    """What a hook gave, in the dtype of the state."""
    if jnp.shape(value) != x.shape:
        raise TypeError(f"diffusion.sample: {name} must return an array of shape {x.shape}, got {jnp.shape(value)}")
    return jnp.asarray(value, x.dtype)


# A `cond` on a batched flag becomes a select that gives every lane a copy of all the model holds, weights included.
# So the branch is taken when any lane of a batch of tables wants it, and each lane then selects by its own flag.


@jax.custom_batching.custom_vmap
def _any(flags):
    return flags


@_any.def_vmap
def _any_of_batch(axis_size, in_batched, flags):
    return _any(jnp.any(flags, axis=0)), False


def choose(mine, wanted, otherwise, *operands):
    """``wanted(*operands)`` where `mine`, else ``otherwise``; in a batch the former runs only if some lane wants it."""
    new, old = jax.lax.cond(
        _any(mine),
        lambda *args: (wanted(*args), otherwise(*args)),
        lambda *args: (otherwise(*args),) * 2,
        *operands,
    )
    return jax.tree.map(lambda a, b: jnp.where(mine, a, b), new, old)


def combine(rows, xs, datas, noises):
    """The linear form of one row, dense or sparse, in the dtype of the states; slots that it does not store are not
    read."""
    total = None
    for coefficients, history in ((rows.x, xs), (rows.data, datas), (rows.noise, noises)):
        for k in coefficients if isinstance(coefficients, dict) else range(coefficients.shape[0]):
            term = _fit(coefficients[k], history[k]) * history[k]
            total = term if total is None else total + term
    newest = next(iter(xs.values())) if isinstance(xs, dict) else xs[0]
    total = jnp.zeros_like(newest) if total is None else total
    total = total if rows.shift is None else total + _fit(rows.shift, total)
    return total.astype(newest.dtype)


def _fit(coefficient, x):
    """A scalar or data-shaped coefficient against data with more leading axes."""
    return coefficient.reshape((1,) * (x.ndim - coefficient.ndim) + coefficient.shape)
