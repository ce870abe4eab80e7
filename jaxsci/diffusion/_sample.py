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
from jaxsci.core.types import KeyArray
from jaxsci.diffusion.predictions import checked, convert
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
        status: NONFINITE_INPUT (x_T), NONFINITE_RESULT (the last state, or any prediction on the way, before hooks); 0
            = ok.
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
        table: from `solvers`, `tables.tabulate`, `tables.load` or the search; cast to the dtype of `x_T`.
        x_T: the state at node 0: unit normal for variance-preserving schedules, times sigma(node 0) for VE.
        cond: condition, any record; None is unconditional.
        guidance_scale: w, traced; 1 is the conditional model. A denoiser made without guidance ignores it.
        denoised_hook: ``hook(D, x, t, key) -> D`` after every evaluation; eps is recomputed as (x - alpha D)/sigma.
            See `hooks`.
        state_hook: ``hook(x, t_next, key) -> x`` after every step.
        save: "final" or "trajectory" (static).

    Returns:
        `Result`; differentiable in `x_T`, `guidance_scale`, the table and what the denoiser holds.

    Raises:
        ValueError: no key though the table draws noise, an unknown `save`, or coefficients that do not fit `x_T`.
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
    x_T = jnp.asarray(x_T)
    if not jnp.issubdtype(x_T.dtype, jnp.floating):
        raise TypeError(f"diffusion.sample: x_T must be floating, got {x_T.dtype}")
    if save not in ("final", "trajectory"):
        raise ValueError(f"diffusion.sample: save must be 'final' or 'trajectory', got {save!r}")
    draws = any(rows is not None and rows.std is not None for rows in (table.predictor, table.corrector))
    if key is None and draws:
        raise ValueError("diffusion.sample: this table draws noise; pass a key, e.g. jax.random.key(0)")
    shape = table.predictor.x.shape[2:]
    tail = x_T.shape[x_T.ndim - len(shape) :] if len(shape) <= x_T.ndim else ()
    if len(shape) > x_T.ndim or any(n not in (1, m) for n, m in zip(shape, tail)):
        raise ValueError(f"diffusion.sample: the table's coefficients have shape {shape}, x_T has {x_T.shape}")
    if key is not None:
        key = keys.as_typed_key(key, "diffusion.sample")
    table = jax.tree.map(jnp.asarray, table)
    w = jnp.asarray(guidance_scale, x_T.dtype)
    return _run(key, denoiser, table, x_T, cond, w, denoised_hook, state_hook, save)


class State(NamedTuple):
    """Where a run stands: the state at a node and what later rows look back to; all arrays have the shape of `x`.

    Attributes:
        x: the state, one sample or a cloud of them along a leading axis.
        states: earlier states, the latest first.
        data: earlier data predictions.
        noise: the noise predictions that belong to `data`.
    """

    x: Float[Array, "*d"]
    states: tuple[Array, ...]
    data: tuple[Array, ...]
    noise: tuple[Array, ...]


def rows_of(table: SolverTable) -> dict:
    """What one step is told, for all rows along a leading axis of N."""
    # Padding stands at node 0: batched, it is evaluated too, and a node without noise would put NaN into gradients.
    here = lambda a: a[:-1] if table.active is None else jnp.where(table.active, a[:-1], a[0])  # noqa: E731
    return {
        "i": jnp.arange(table.num_rows), "t": here(table.t), "t_next": table.t[1:], "alpha": here(table.alpha),
        "sigma": here(table.sigma), "predictor": table.predictor, "corrector": table.corrector,
        "corrected": table.corrected, "active": table.active, "evaluate": table.evaluate,
    }  # fmt: skip


def _depths(row, axis: int) -> list[int]:
    """How many states, data and noise predictions the rows read; `axis` is that of the slots."""
    both = [rows for rows in (row["predictor"], row["corrector"]) if rows is not None]
    return [max(rows[k].shape[axis] for rows in both) for k in range(3)]


def beginning(table: SolverTable, x: Array) -> State:
    """At node 0: nothing to look back to."""
    depths = _depths(table._asdict(), 1)
    return State(x, *((jnp.zeros_like(x),) * max(depth - 1, 0) for depth in depths))


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
        new = new + row["predictor"].std * jax.random.normal(key, x.shape, x.dtype)
    kept = (values[: max(n - 1, 0)] for values, n in ((xs, past), (datas, depth[0]), (noises, depth[1])))
    return State(new, *kept), x


@eqx.filter_jit
def _run(key, denoiser, table, x_T, cond, w, denoised_hook, state_hook, save):
    dtype, size = x_T.dtype, table.num_rows
    table = tree.cast(table, dtype)
    nothing = jnp.zeros_like(x_T)

    def predictions(x, row, key):
        def model(x):
            return checked("diffusion.sample", denoiser(x, row["t"], cond, w), x)

        if row["evaluate"] is None:
            data, noise = model(x)
        else:

            def known(x):
                return convert("sample", jnp.broadcast_to(table.analytic, x.shape), x, row["alpha"], row["sigma"])

            data, noise = choose(row["evaluate"], model, known, x)
        finite = jnp.all(jnp.isfinite(data) & jnp.isfinite(noise))  # hooks may hide it, and later rows overwrite it
        if denoised_hook is not None:
            data = _like(x, "denoised_hook", denoised_hook(data, x, row["t"], key))
            data, noise = convert("sample", data, x, row["alpha"], row["sigma"])
        return data, noise, finite

    def advance(carry, row):
        state, finite = carry
        keys = (None,) * 3
        if key is not None:
            mine = jax.random.fold_in(key, row["i"])
            keys = [jax.random.fold_in(mine, j) for j in range(3)]
        data, noise, good = predictions(state.x, row, keys[1])
        new, x = advanced(keys[0], row, state, data, noise)
        if state_hook is not None:
            new = new._replace(x=_like(x, "state_hook", state_hook(new.x, row["t_next"], keys[2])))
        return (new, finite & good), (x, data, noise)

    def stay(carry, _):
        return carry, (carry[0].x, nothing, nothing)

    def body(carry, row):
        if row["active"] is None:
            carry, seen = advance(carry, row)
        else:
            carry, seen = choose(row["active"], advance, stay, carry, row)
        return carry, seen if save == "trajectory" else None

    (state, finite), seen = jax.lax.scan(body, (beginning(table, x_T), jnp.asarray(True)), rows_of(table))
    x = state.x
    used = jnp.ones(size, bool) if table.active is None else table.active
    evaluated = used if table.evaluate is None else used & table.evaluate
    bits = status.merge(
        status.flag(~jnp.all(jnp.isfinite(x_T)), status.NONFINITE_INPUT),
        status.flag(~(finite & jnp.all(jnp.isfinite(x))), status.NONFINITE_RESULT),
    )
    trajectory = None
    if save == "trajectory":
        trajectory = Trajectory(jnp.concatenate([seen[0], x[None]]), *seen[1:])
    return Result(x, jnp.sum(evaluated, dtype=jnp.int32), bits, trajectory)


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
    new, old = jax.lax.cond(
        _any(mine),
        lambda *args: (wanted(*args), otherwise(*args)),
        lambda *args: (otherwise(*args),) * 2,
        *operands,
    )
    return jax.tree.map(lambda a, b: jnp.where(mine, a, b), new, old)


def combine(rows, xs, datas, noises):
    """The linear form of one row, dense or sparse; slots that it does not store are not read."""
    total = None
    for coefficients, history in ((rows.x, xs), (rows.data, datas), (rows.noise, noises)):
        for k in coefficients if isinstance(coefficients, dict) else range(coefficients.shape[0]):
            term = _fit(coefficients[k], history[k]) * history[k]
            total = term if total is None else total + term
    total = jnp.zeros_like(xs[0]) if total is None else total
    return total if rows.shift is None else total + _fit(rows.shift, total)


def _fit(coefficient, x):
    """A scalar or data-shaped coefficient against data with more leading axes."""
    return coefficient.reshape((1,) * (x.ndim - coefficient.ndim) + coefficient.shape)
