"""The driver: propose, tabulate on the host, evaluate in one compiled call, keep everything."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci import nn
from jaxsci.core import arrays, keys, status
from jaxsci.core.keys import unrolled
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import KeyArray, as_real
from jaxsci.diffusion import tables, unified
from jaxsci.diffusion._sample import sample
from jaxsci.diffusion.schedules import NoiseSchedule
from jaxsci.diffusion.search._predictor import _features, _fit, _scores
from jaxsci.diffusion.search._space import Space, _device, crossover, mutate, random
from jaxsci.diffusion.statistics import Statistics
from jaxsci.diffusion.tables import SolverTable
from jaxsci.diffusion.unified import Decisions

_KIND = "history of a search"

# --- objectives ---------------------------------------------------------------------------------------------


def _distance(denoiser, x_T, target, cond, guidance_scale, key, table):
    def one(i, x, cond):
        mine = None if key is None else jax.random.fold_in(key, i)
        return sample(mine, denoiser, table, x, cond=cond, guidance_scale=guidance_scale).value

    return jnp.sqrt(jnp.mean((jax.vmap(one)(jnp.arange(x_T.shape[0]), x_T, cond) - target) ** 2))


def matching(
    denoiser: Callable,
    x_T: Float[ArrayLike, "n *d"],
    target: Float[ArrayLike, "n *d"],
    *,
    cond: PyTree = None,
    guidance_scale: ArrayLike = 1.0,
    key: KeyArray | None = None,
) -> Partial:
    """An objective: root mean square distance per entry from the samples of a teacher, from the same noise.

    Args:
        denoiser: ``(x, t, cond, w) -> (D, eps)``.
        x_T: n starting points.
        target: where an accurate solver takes them.
        cond: conditions, with the same leading axis, or None.
        guidance_scale: w.
        key: for tables that draw noise; sample i uses ``fold_in(key, i)``.

    Returns:
        ``objective(table) -> scalar``, a Partial.

    Raises:
        ValueError: shapes of `x_T` and `target` differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> vp = diffusion.schedules.vp_linear()
        >>> denoise = diffusion.predictions.denoiser(lambda x, t, cond: jnp.zeros_like(x), vp, "sample")
        >>> objective = diffusion.search.matching(denoise, jnp.ones((3, 2)), jnp.zeros((3, 2)))
        >>> print(callable(objective))
        True
    """
    x_T, target = jnp.asarray(x_T), jnp.asarray(target)
    if x_T.shape != target.shape:
        raise ValueError(f"search.matching: x_T and target must have one shape, got {x_T.shape} and {target.shape}")
    denoiser = as_partial(denoiser, "search.matching", "denoiser")
    return Partial(_distance, denoiser, x_T, target, cond, as_real(guidance_scale, x_T.dtype), key)


# --- the search ---------------------------------------------------------------------------------------------


class History(NamedTuple):
    """All candidates in the order in which they were evaluated.

    Attributes:
        decisions: the n candidates, with a leading axis, NumPy.
        losses: value of the objective for each; inf where it was not finite.
    """

    decisions: Decisions
    losses: Float[Any, " n"]


class Result(NamedTuple):
    """What a search found.

    Attributes:
        value: the table of the lowest loss, as plain as any other: save it by `tables.save`.
        state: the `num_parents` best candidates, best first, with a leading axis, NumPy: the parents of the next
            children.
        history: all candidates with their losses.
        status: NONFINITE_RESULT when no candidate had a finite loss; 0 = ok.
        decisions: the decisions that `value` was made from.
        loss: the loss of `value`.
    """

    value: SolverTable
    state: Decisions
    history: History
    status: Int[Array, ""]
    decisions: Decisions
    loss: float


def starting_population(
    schedule: NoiseSchedule, where: Space, *, orders: Sequence[int] = (1, 2, 3), kinds: Sequence[str] | None = None
) -> list[Decisions]:
    """Uniform schedules: nodes even in lam or in time, every kind that `where` allows, with corrector and without.

    Example:
        >>> import jax
        >>> from jaxsci.diffusion import schedules, search
        >>> found = search.starting_population(schedules.vp_linear(), search.space(3, -4.0, 3.0))
        >>> print(len(jax.tree.leaves(found)) > 0)
        True
    """
    if kinds is None:
        kinds = [name for name, p in zip(unified.KINDS, np.asarray(where.kinds)) if p > 0]
    low, high = (float(a) for a in np.asarray(where.ends, np.float64))
    even = np.linspace(low, high, where.num_calls + 1)
    ends = (float(schedule.t_of_lam(np.float64(a))) for a in (low, high))
    times = np.linspace(*ends, even.size)
    in_time = np.asarray(schedule.lam(times), np.float64)
    in_time[[0, -1]] = low, high
    return [
        unified.uniform(lam, kind=kind, order=order, corrector=corrector, size=where.num_rows)
        for lam in (even, in_time)
        for kind in kinds
        for order in orders
        for corrector in (False, True)
    ]


def _stack(candidates: Sequence[Decisions]) -> Decisions:
    """Decisions with a leading axis over candidates, NumPy."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(a) for a in leaves]), *candidates)


def search(
    key: KeyArray,
    objective: Callable[[SolverTable], Float[Array, ""]],
    where: Space,
    schedule: NoiseSchedule,
    *,
    statistics: Statistics | None = None,
    mean: ArrayLike = 0.0,
    start: Sequence[Decisions] | None = None,
    num_evaluations: int = 400,
    batch: int = 20,
    num_parents: int = 15,
    crossover_rate: float = 0.3,
    predictor: bool = True,
    warm_up: int = 100,
    proposals: int = 16,
    out: str | Path | None = None,
    report: Callable[[int, float], None] | None = None,
) -> Result:
    """Look for a solver of ``where.num_calls`` calls that makes `objective` small. A driver: a host loop.

    Args:
        key: one typed key; the batch after n evaluations uses ``fold_in(key, n)``. So a search that goes on equals one
            that never stopped, if `key`, the counts and rates are the same and it was stopped after a whole batch.
        objective: ``objective(table) -> scalar``, vmapped over a batch of tables and compiled once; see `matching`.
            A value that is not finite counts as infinite.
        where: from `space`.
        schedule: the noise schedule.
        statistics: of the model; needed when `where` allows the kind "v3".
        mean: of the data, for analytic first steps of kind "mean".
        start: candidates to begin with; `starting_population` by default.
        num_evaluations: candidates in all, those of `start` included.
        batch: candidates per compiled call.
        num_parents: children come from that many best.
        crossover_rate: probability of two parents.
        predictor: use the learned predictor after `warm_up` evaluations; needs the extra ``nets``.
        proposals: children per evaluated candidate, once the predictor chooses.
        out: npz file of all candidates, written after every batch; an existing one is continued if it is of the same
            space, schedule, statistics and mean, and the first batch has the same losses under `objective`.
        report: ``report(evaluated, best_loss)`` after every batch.

    Returns:
        `Result`.

    Raises:
        ValueError: "v3" without statistics, `out` of another search (the message says what differs), a candidate of
            `start` that is not of this space, or counts below 1.

    References: see the module.
    """
    counts = {"num_evaluations": num_evaluations, "batch": batch, "num_parents": num_parents, "proposals": proposals}
    for name, count in counts.items():
        check_size("search.search", name, count)
    if float(where.kinds[unified.KINDS.index("v3")]) > 0 and statistics is None:
        raise ValueError("search.search: the space allows kind 'v3', which needs statistics; or kinds=(p, 1 - p, 0)")
    key = keys.as_typed_key(key, "search.search")
    evaluate = eqx.filter_jit(lambda objective, stacked: jax.vmap(objective)(stacked))

    def losses_of(candidates):
        """Of all candidates, `batch` at a time, the last call padded."""
        found = []
        for i in range(0, len(candidates), batch):
            part = candidates[i : i + batch]
            made = [unified.solver(schedule, d, statistics=statistics, mean=mean, pad=True) for d in part]
            made += made[:1] * (batch - len(made))
            values = np.asarray(evaluate(objective, tables.stack(made)), np.float64)[: len(part)]
            found.append(np.where(np.isfinite(values), values, np.inf))
        return np.concatenate(found)

    identity = _identity(where, schedule, statistics, mean)
    if out is not None and Path(out).exists():
        history = load_history(out)
        _same_search(out, identity)
        count = min(batch, len(history.losses))
        now = losses_of([jax.tree.map(lambda a, i=i: a[i], history.decisions) for i in range(count)])
        if not np.allclose(now, history.losses[:count], rtol=1e-3, atol=0):
            raise ValueError(f"search.search: {out} belongs to another objective, by its first losses; name another")
    else:
        first = list(starting_population(schedule, where) if start is None else start)[:num_evaluations]
        for j, d in enumerate(first):
            rows, calls = np.shape(d.kind), int(d.num_calls)
            if rows != (where.num_rows,) or calls != where.num_calls:
                raise ValueError(
                    f"search.search: start must be of {where.num_calls} calls in {where.num_rows} rows, candidate {j} "
                    f"has {calls} in {rows}; pass size={where.num_rows} to unified.uniform"
                )
        first = first or [random(jax.random.fold_in(key, 2**31 - 1), where)]
        history = History(_stack(first), losses_of(first))
        _keep(out, history, report, identity)
    while (done := len(history.losses)) < num_evaluations:
        mine = jax.random.fold_in(key, done)
        wanted = min(batch, num_evaluations - done)
        chosen = _propose(
            mine, where, history, batch, num_parents, crossover_rate,
            proposals if predictor and done >= warm_up else 1, num_evaluations,
        )  # fmt: skip
        chosen = jax.tree.map(lambda a, n=wanted: a[:n], chosen)
        found = losses_of([jax.tree.map(lambda a, i=i: a[i], chosen) for i in range(wanted)])
        both = jax.tree.map(lambda a, b: np.concatenate([a, b]), history.decisions, chosen)
        history = History(both, np.concatenate([history.losses, found]))
        _keep(out, history, report, identity)
    parents, loss = _parents(history, num_parents), float(history.losses.min())
    best = jax.tree.map(lambda a: a[0], parents)
    table = unified.solver(schedule, best, statistics=statistics, mean=mean)
    bits = status.flag(not np.isfinite(loss), status.NONFINITE_RESULT)
    return Result(table, parents, history, bits, best, loss)


def _parents(history, num):
    """The `num` best candidates, best first."""
    best = np.argsort(history.losses, kind="stable")[:num]
    return jax.tree.map(lambda a: a[best], history.decisions)


def _propose(key, where, history, wanted, num_parents, crossover_rate, ratio, capacity):
    """`wanted` children of the best, the most promising of `ratio` times as many."""
    k_children, k_fit = jax.random.split(key)
    parents = _device(_parents(history, num_parents), where)
    children = _children(jax.random.split(k_children, ratio * wanted), parents, where, crossover_rate)
    if ratio > 1:
        features = jax.vmap(lambda d: _features(d, where))
        inputs = np.asarray(features(_device(history.decisions, where)))
        room = capacity - len(inputs)
        inputs = np.concatenate([inputs, np.zeros((room, inputs.shape[1]), inputs.dtype)])
        seen = np.concatenate([history.losses, np.full(room, np.nan)]).astype(inputs.dtype)
        cfg = nn.mlp.config(inputs.shape[1], (64, 64), 1, activation="silu")
        params = _fit(k_fit, cfg, inputs, seen, 300)
        scores = np.asarray(_scores(params, cfg, features(children)))
        keep = np.argsort(scores, kind="stable")[:wanted]
        children = jax.tree.map(lambda a: a[keep], children)
    return jax.tree.map(np.asarray, children)


@eqx.filter_jit
def _children(ks, parents, where, rate):
    def one(key):
        k_pair, k_cross, k_mutate = jax.random.split(key, 3)
        u = jax.random.uniform(unrolled(k_pair), (3,))
        i, j = jnp.floor(u[:2] * parents.kind.shape[0]).astype(jnp.int32)
        a, b = (jax.tree.map(lambda leaf, i=i: leaf[i], parents) for i in (i, j))
        child = crossover(k_cross, a, b, where)
        child = jax.tree.map(lambda x, y: jnp.where(u[2] < rate, x, y), child, a)
        return mutate(k_mutate, child, where)

    return jax.vmap(one)(ks)


# --- files --------------------------------------------------------------------------------------------------


def _identity(where, schedule, statistics, mean):
    """What a history belongs to, by name, as vectors that survive a change of precision."""
    flat = lambda tree: [np.ravel(np.asarray(a, np.float64)) for a in jax.tree.leaves(tree)]  # noqa: E731
    lams = np.linspace(*np.asarray(where.ends, np.float64), 7)
    times = schedule.t_of_lam(lams)
    probe = (times, schedule.alpha_sigma(lams), schedule.model_time(times))

    def digest(tree):  # may be large, and comes as it is from a file
        text = b"".join(a.astype(np.float32).tobytes() for a in flat(tree))
        return np.frombuffer(hashlib.sha256(text).digest(), np.uint8)

    return {
        "space": np.concatenate([np.atleast_1d(where.num_calls), *flat(where)]),
        "schedule": np.concatenate(flat(probe)),
        "statistics": digest(statistics),
        "mean": digest(mean),
    }


def _same_search(path, identity):
    """Refuse a file whose search was another one."""
    names = [f"identity.{name}" for name in identity]
    found = arrays.load(path, kind=_KIND, names=names, caller="search.search")
    for name, mine in identity.items():
        theirs = found[f"identity.{name}"]
        if theirs.shape != mine.shape or not np.allclose(theirs, mine, rtol=1e-4, atol=1e-6):
            raise ValueError(f"search.search: {path} belongs to another search: its {name} differs; name another")


def _keep(out, history, report, identity):
    """One npz file: a kill leaves the old one or the new one."""
    if out is not None:
        found = {f"decisions.{name}": a for name, a in history.decisions._asdict().items()}
        found |= {f"identity.{name}": a for name, a in identity.items()}
        arrays.save(out, {"losses": history.losses, **found}, kind=_KIND, caller="search.search")
    if report is not None:
        report(len(history.losses), float(history.losses.min()))


def load_history(path: str | Path) -> History:
    """All candidates that a search with this `out` has evaluated so far.

    Raises:
        ValueError: another file, or a damaged one.
    """
    names = [f"decisions.{name}" for name in Decisions._fields]
    found = arrays.load(path, kind=_KIND, names=["losses", *names], caller="search.load_history")
    return History(Decisions(*(found[name] for name in names)), found["losses"])
