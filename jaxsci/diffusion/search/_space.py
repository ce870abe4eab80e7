"""The space of decisions and its operators: draw, mutate, cross over; all compiled, for one record at a time.

The number of model calls is kept: an analytic first step buys one node more. Nodes stay rising and apart, orders within
the history, so that every record is a solver.

Reference: E. Liu et al. 2024, section 5 and appendix (evolutionary operators and their probabilities).
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsci.core import keys
from jaxsci.core.keys import unrolled
from jaxsci.core.types import KeyArray, Scalar
from jaxsci.diffusion import _exponential
from jaxsci.diffusion.unified import Decisions

_GAP = 1e-3  # least distance of two nodes, in units of the mean distance
_LINEAR = _exponential.RELAXATIONS.index("linear")


class Space(eqx.Module):
    """What may be chosen and how often it changes; made by `space`.

    Attributes:
        num_calls: model calls of every candidate.
        ends: first and last node, lam.
        kinds: probabilities of the predictions `unified.KINDS`.
        orders: probabilities of 1 to 4 Taylor terms.
        starts: probabilities of expansion points 0, 1 and 2 evaluations back.
        firsts: probabilities of ("model", "zero", "mean").
        corrector: probability that a row is corrected.
        low_order: probability that the first derivative uses fewer points than there are.
        change: probability that `mutate` draws a decision again or shifts it.
        move: probability that `mutate` takes one node away and puts it elsewhere.
        node_scale: standard deviation of a node's shift, in units of the mean distance of nodes.
        relaxation_scale: standard deviation of a change of the relaxation's coefficient.
    """

    num_calls: int = eqx.field(static=True)
    ends: Float[Array, " 2"]
    kinds: Float[Array, " 3"]
    orders: Float[Array, " 4"]
    starts: Float[Array, " 3"]
    firsts: Float[Array, " 3"]
    corrector: Float[Array, ""]
    low_order: Float[Array, ""]
    change: Float[Array, ""]
    move: Float[Array, ""]
    node_scale: Float[Array, ""]
    relaxation_scale: Float[Array, ""]

    @property
    def num_rows(self) -> int:
        """Rows of every record: one more than calls, for an analytic first step."""
        return self.num_calls + 1


def space(
    num_calls: int,
    lam_start: Scalar,
    lam_end: Scalar,
    *,
    kinds: Sequence[float] = (0.3, 0.3, 0.4),
    orders: Sequence[float] = (0.2, 0.4, 0.3, 0.1),
    starts: Sequence[float] = (1.0, 0.0, 0.0),
    firsts: Sequence[float] = (0.3, 0.3, 0.4),
    corrector: float = 0.5,
    low_order: float = 0.3,
    change: float = 0.3,
    move: float = 0.2,
    node_scale: float = 0.1,
    relaxation_scale: float = 0.03,
) -> Space:
    """A search space.

    Args:
        num_calls: model calls of every candidate (static).
        lam_start, lam_end: first and last node, finite.
        kinds: probabilities of the predictions `unified.KINDS`; 0 for "v3" without statistics.
        orders: of Taylor polynomials of 1 to 4 terms.
        starts: of expansion points 0, 1 and 2 evaluations back; the published search has multistep rows alone.
        firsts: of ("model", "zero", "mean"); (1, 0, 0) keeps all calls for the model.
        corrector: probability that a row is corrected.
        low_order: probability that the first derivative uses fewer points than there are.
        change: probability that `mutate` draws a decision again.
        move: probability that it takes one node away and puts it elsewhere.
        node_scale: standard deviation of a node's shift, in units of the mean distance of nodes.
        relaxation_scale: standard deviation of a change of the relaxation's coefficient.

    Raises:
        ValueError: no calls, ends that do not rise or are not finite, or weights that are negative or all zero.

    Example:
        >>> from jaxsci.diffusion import search
        >>> print(search.space(3, -5.0, 3.0).num_calls)
        3

    References: probabilities: Liu et al. 2024, the released search configuration.
    """
    ends = np.asarray([lam_start, lam_end], np.float64)
    if num_calls < 1 or not np.isfinite(ends).all() or not ends[0] < ends[1]:
        raise ValueError(f"search.space: needs num_calls >= 1 and finite lam_start < lam_end, got {num_calls}, {ends}")
    chances = {}
    for name, value, size in (("kinds", kinds, 3), ("orders", orders, 4), ("starts", starts, 3), ("firsts", firsts, 3)):
        value = np.asarray(value, np.float64)
        if value.shape != (size,) or not (value >= 0).all() or not value.sum() > 0:
            raise ValueError(f"search.space: {name} must be {size} weights >= 0, not all zero, got {value}")
        chances[name] = jnp.asarray(value / value.sum(), float)
    numbers = (corrector, low_order, change, move, node_scale, relaxation_scale)
    return Space(int(num_calls), jnp.asarray(ends, float), *chances.values(), *(jnp.asarray(v, float) for v in numbers))


def _device(decisions, where):
    """On the device in the dtypes of compiled code."""
    dtypes = Decisions(*(where.ends.dtype if f in ("lam", "coefficient") else jnp.int32 for f in Decisions._fields))
    dtypes = dtypes._replace(points=jnp.bool_, corrector=jnp.bool_)
    return jax.tree.map(lambda a, dtype: jnp.asarray(a, dtype), decisions, dtypes)


# --- operators ----------------------------------------------------------------------------------------------


def _uniforms(key, shape, dtype):
    """Uniform numbers in (0, 1) from which all decisions of one operator come: a single draw compiles quickly."""
    return jax.random.uniform(unrolled(key), shape, dtype, minval=jnp.finfo(dtype).tiny)


def _choose(u, probabilities):
    """Index by inversion of the distribution function."""
    return jnp.searchsorted(jnp.cumsum(probabilities)[:-1], u).astype(jnp.int32)


def _sizes(u_low, u_size, low_order, order):
    """Points of the first derivative: order - 1, or fewer."""
    most = jnp.maximum(order - 1, 1)
    fewer = 1 + jnp.floor(u_size * most).astype(jnp.int32)
    return jnp.where(u_low < low_order, fewer, most)


def _stencils(order, size, start):
    """`unified.nearest` for all rows: the slots next to the start that exist."""
    slots, row = jnp.arange(4), jnp.arange(order.shape[0])
    there = (slots[None] <= row[:, None]) & (slots[None] != start[:, None])
    rank = jnp.cumsum(there, axis=1)
    count = jnp.stack([size, order - 1, order - 1], axis=1)  # low-order estimation is for the first derivative
    used = jnp.arange(1, 4)[None] < order[:, None]
    return there[:, None] & (rank[:, None] <= count[..., None]) & used[..., None]


def _repair(d: Decisions, size, ends) -> Decisions:
    """Nodes in order and apart, orders that the history allows, nothing in rows that do not exist."""
    num, row = d.kind.shape[0], jnp.arange(d.kind.shape[0])
    n, (low, high) = d.num_rows, ends
    gap = _GAP * (high - low) / num
    node = jnp.arange(num + 1)
    lam = jnp.where(node == 0, low, jnp.where(node >= n, high, d.lam))
    inner = jnp.clip(lam, low + node * gap, high - (n - node) * gap)
    inner = jax.lax.cummax(jnp.where(node < n, inner, low) - node * gap) + node * gap
    lam = jnp.where(node == 0, low, jnp.where(node >= n, high, inner))
    live = row < n
    start = jnp.where(live, jnp.minimum(d.start, row), 0).astype(jnp.int32)
    order = jnp.where(live, jnp.clip(d.order, 1, jnp.minimum(row, 3) + 1), 1).astype(jnp.int32)
    size = jnp.clip(size, 1, jnp.maximum(order - 1, 1))
    return d._replace(
        lam=lam, start=start, order=order, points=_stencils(order, size, start), corrector=d.corrector & (row < n - 1)
    )


_FRESH = 7  # numbers that a row needs


def _fresh(u, where: Space):
    """Rows drawn anew from u [7, N]: kind, order, size, start, coefficient, corrector."""
    order = 1 + _choose(u[1], where.orders)
    coefficient = where.relaxation_scale * jax.scipy.special.ndtri(u[5])
    return (
        _choose(u[0], where.kinds), order, _sizes(u[2], u[3], where.low_order, order), _choose(u[4], where.starts),
        coefficient, u[6] < where.corrector,
    )  # fmt: skip


@eqx.filter_jit
def random(key: KeyArray, where: Space) -> Decisions:
    """Decisions drawn at random, nodes uniform in lam.

    Args:
        key: one typed key.
        where: from `space` (traced, its number of calls static).

    Example:
        >>> import jax
        >>> from jaxsci.diffusion import search
        >>> print(search.random(jax.random.key(0), search.space(3, -5.0, 3.0)).lam.shape)
        (5,)
    """
    key = keys.as_typed_key(key, "search.random")
    num, (low, high) = where.num_rows, where.ends
    u = _uniforms(key, (_FRESH + 2, num), where.ends.dtype)
    first = _choose(u[-1, 0], where.firsts)
    n = where.num_calls + (first > 0).astype(jnp.int32)
    nodes = low + (high - low) * u[-2]
    nodes = jnp.sort(jnp.where(jnp.arange(num) == 0, low, jnp.where(jnp.arange(num) < n, nodes, jnp.inf)))
    kind, order, size, start, coefficient, corrector = _fresh(u, where)
    d = Decisions(
        jnp.append(nodes, high), kind, order, start, jnp.zeros((num, 3, 4), bool),
        jnp.full(num, _LINEAR, jnp.int32), coefficient, corrector, first, n,
    )  # fmt: skip
    return _repair(d, size, where.ends)


@eqx.filter_jit
def mutate(key: KeyArray, decisions: Decisions, where: Space) -> Decisions:
    """A neighbour: every decision drawn again or shifted with probability ``where.change``; calls are kept.

    Args:
        key: one typed key.
        decisions: of ``where.num_rows`` rows.
        where: from `space`.

    Raises:
        ValueError: decisions of another number of rows.

    Example:
        >>> import jax
        >>> from jaxsci.diffusion import search
        >>> where = search.space(3, -5.0, 3.0)
        >>> parent = search.random(jax.random.key(0), where)
        >>> print(search.mutate(jax.random.key(1), parent, where).lam.shape)
        (5,)

    References: Liu et al. 2024, appendix.
    """
    if jnp.shape(decisions.kind)[-1] != where.num_rows:
        raise ValueError(f"search.mutate: needs {where.num_rows} rows, got {jnp.shape(decisions.kind)[-1]}")
    key, d = keys.as_typed_key(key, "search.mutate"), _device(decisions, where)
    num, (low, high) = where.num_rows, where.ends
    row = jnp.arange(num)
    u = _uniforms(key, ((_FRESH + 8) * num + 5,), where.ends.dtype)
    single, u = u[:5], u[5:].reshape(-1, num)
    again, shift = u[_FRESH : _FRESH + 7] < where.change, u[-1]

    first = jnp.where(single[0] < where.change, _choose(single[1], where.firsts), d.first)
    target, n = where.num_calls + (first > 0).astype(jnp.int32), d.num_rows
    moving = single[2] < where.move
    nodes = jnp.where(row < n, d.lam[:-1], jnp.inf)
    # Take a node away: its row goes with it.
    away = (target < n) | moving
    which = 1 + jnp.floor(single[3] * jnp.maximum(n - 1, 1)).astype(jnp.int32)
    away = away & (n > 1)
    nodes = jnp.where(away & (row == which), jnp.inf, nodes)
    n = n - away.astype(jnp.int32)
    # Put one in, with a fresh row, into a free entry.
    put = target > n
    free = jnp.argmax(jnp.isinf(nodes))
    placed = low + (high - low) * single[4]
    new = put & (row == free)
    nodes = jnp.where(new, placed, nodes)
    shift = where.node_scale * (high - low) / where.num_calls * jax.scipy.special.ndtri(shift)
    nodes = jnp.where(again[0] & (row > 0) & jnp.isfinite(nodes), jnp.clip(nodes + shift, low, high), nodes)
    nodes = nodes.at[0].set(low)

    kind, order, size, start, coefficient, corrector = _fresh(u, where)
    old_size = jnp.maximum(jnp.sum(d.points[:, 0], axis=-1), 1).astype(jnp.int32)
    redo = again[2] | new
    mine = dict(
        kind=jnp.where(again[1] | new, kind, d.kind),
        order=jnp.where(redo, order, d.order),
        start=jnp.where(redo, start, d.start),
        relaxation=jnp.where(again[4] | new, _LINEAR, d.relaxation),
        coefficient=jnp.where(new, coefficient, d.coefficient + jnp.where(again[5], coefficient, 0)),
        corrector=jnp.where(again[3] | new, corrector, d.corrector),
        size=jnp.where(redo | again[6], size, old_size),
    )
    order_of_nodes = jnp.argsort(nodes)
    mine = {name: value[order_of_nodes] for name, value in mine.items()}
    size = mine.pop("size")
    d = d._replace(lam=jnp.append(nodes[order_of_nodes], high), first=first, num_rows=target, **mine)
    return _repair(d, size, where.ends)


@eqx.filter_jit
def crossover(key: KeyArray, a: Decisions, b: Decisions, where: Space) -> Decisions:
    """A child of two: nodes, rows and options from either, half of the time row by row. Parents of unequal length
    are not mixed: one of the two comes back.

    Args:
        key: one typed key.
        a, b: of ``where.num_rows`` rows.
        where: from `space`.

    Example:
        >>> import jax
        >>> from jaxsci.diffusion import search
        >>> where = search.space(3, -5.0, 3.0)
        >>> a, b = (search.random(jax.random.key(i), where) for i in range(2))
        >>> print(search.crossover(jax.random.key(2), a, b, where).lam.shape)
        (5,)
    """
    key, a, b = keys.as_typed_key(key, "search.crossover"), _device(a, where), _device(b, where)
    heads = jax.random.bernoulli(unrolled(key), 0.5, (8 + where.num_rows,))
    coin, deep, whose, by_row = heads[:6], heads[6], heads[7], heads[8:]
    pick = lambda c, name: jnp.where(c, getattr(a, name), getattr(b, name))  # noqa: E731
    of_rows = jnp.where(deep, by_row, coin[1])  # order and stencils go together
    child = Decisions(
        pick(coin[0], "lam"), pick(jnp.where(deep, by_row, coin[2]), "kind"), pick(of_rows, "order"),
        pick(of_rows, "start"), pick(of_rows[:, None, None], "points"), pick(coin[3], "relaxation"),
        pick(coin[3], "coefficient"), pick(coin[4], "corrector"), pick(coin[5], "first"), a.num_rows,
    )  # fmt: skip
    same = (a.num_rows == b.num_rows) & ((a.first > 0) == (b.first > 0))
    one = jax.tree.map(lambda x, y: jnp.where(whose, x, y), a, b)
    child = jax.tree.map(lambda x, y: jnp.where(same, x, y), child, one)
    return _repair(child, jnp.maximum(jnp.sum(child.points[:, 0], axis=-1), 1), where.ends)
