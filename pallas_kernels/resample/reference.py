r"""The meaning of `resample`, and what runs on a CPU; its parts `prefix` and `ancestors` serve other schemes.

With the stretched sums of shares P (`_fixed`), particle i owns the slots k with :math:`P_{i-1} \le k + u < P_i`, so
its offspring end at :math:`C_i = \lceil P_i - u \rceil`. From the last particle with a weight on, P is M exactly. A
particle without weight has P unchanged, hence no offspring.

A CPU adds up element after element, in one loop for all lanes of a batch: XLA compiles a loop with a small carry as a
whole, while one that carries an axis of lanes makes some ten calls a turn. (The sums of a lane are then differences,
and ancestors are numbered over all lanes.) Elsewhere it is two `lax.cumsum` and a `lax.cummax`; sums are exact, so the
bits are the same. (A tree of pairs takes minutes to compile for TPU at 2^24.) Ancestors come by scatter and running
maximum, many times faster there than by binary search.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pallas_kernels.resample import _fixed

_MOST_TOGETHER = 2**31 - 1  # places over all lanes, counted in int32


@functools.partial(jax.jit, static_argnums=1)
def prefix(weights: jax.Array, num_out: int) -> tuple[jax.Array, jax.Array]:
    r"""Ends of the particles' shares in units of offspring, :math:`P_i = M \sum_{j \le i} w_j / \sum_j w_j`.

    Each share is rounded by itself, as a float of the weights' dtype and then to 2^-31; their sums are exact. So
    whole + fraction never decreases, stays the same where a weight is zero, and is `num_out` from the last positive
    weight on (one below 2^-32 offspring counts as zero). Floor and ceiling of differences are those of the shares.
    Measured against float64 for float32 weights of seven laws: off by at most 2e-4 offspring at n = 1e6, 7e-4 at 1e7.

    Args:
        weights: (n,), not negative, in sum between 1e-30 and 1e30. Where all are zero the first gets all offspring.
        num_out: M, below 2^30; static.

    Returns:
        (whole (n,) int32, fraction (n,) float32 in [0, 1), a multiple of 2^-24).

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels.resample import prefix
        >>> whole, fraction = prefix(jnp.array([1.0, 0.0, 3.0]), 4)
        >>> print(whole, fraction)
        [1 1 4] [0. 0. 0.]
    """
    weights = weights.astype(jnp.promote_types(weights.dtype, jnp.float32))
    weights = jnp.where(jnp.any(weights > 0), weights, jnp.zeros_like(weights).at[0].set(1))
    before, pairs, by = _sums(weights, num_out)
    whole, fraction = _fixed.stretched(_fixed.add(before, pairs), by, num_out)
    fraction = jnp.where(whole < num_out, fraction, 0).astype(jnp.float32) * np.float32(2.0**-24)
    return jnp.minimum(whole, num_out), fraction


@functools.partial(jax.jit, static_argnums=1)
def ancestors(ends: jax.Array, num_out: int) -> jax.Array:
    r"""The particle that owns each slot: :math:`a_k = \min \{i : k < C_i\}`.

    Args:
        ends: (n,) int32, C: cumulative offspring, from 0 on never decreasing, the last one num_out.
        num_out: number of slots; static.

    Returns:
        (num_out,) int32, never decreasing. A particle without offspring (C_i = C_{i-1}) owns none.

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels.resample import ancestors
        >>> print(ancestors(jnp.array([1, 1, 4]), 4))
        [0 2 2 2]
    """
    return _spread(starts_of(ends), num_out)


def call(log_weights: jax.Array, offset: jax.Array, *, num_out: int) -> jax.Array:
    """Ancestors (num_out,) int32 of log-weights (n,)."""
    x, largest, usable = prepare(log_weights)
    before, _, by = _sums(jnp.exp(x - largest), num_out)
    starts = _fixed.offspring_before(_fixed.stretched(before, by, num_out), offset, num_out)
    return choose(_spread(starts, num_out), usable, log_weights.shape[0], num_out)


def prepare(log_weights):
    """(log-weights in at least float32 with NaN as -inf, what to subtract, whether any is finite and none +inf)."""
    x = log_weights.astype(jnp.promote_types(log_weights.dtype, jnp.float32))
    x = jnp.where(jnp.isnan(x), -jnp.inf, x)
    largest = jnp.max(x)
    usable = jnp.isfinite(largest)
    return x, jnp.where(usable, largest, 0), usable


def choose(drawn, usable, n: int, num_out: int):
    """The ancestors, or k modulo n where the weights are of no use."""
    in_turn = jnp.arange(num_out, dtype=jnp.int32)
    return jnp.where(usable, drawn, in_turn % np.int32(n) if num_out > n else in_turn)  # divisions are slow


def first_slots(starts, num_out: int):
    """(num_out,) int32: the index of each particle with offspring at the first of its slots, 0 elsewhere."""
    index = jnp.arange(starts.shape[0], dtype=jnp.int32)
    # Of the particles that start at one slot the last alone has offspring; those that start at num_out are dropped.
    return jnp.zeros(num_out, jnp.int32).at[starts].max(index, mode="drop")


def starts_of(ends):
    """Where the slots of each particle start, of where they end."""
    return jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])


def _sums(weights, num_out: int):
    """Sums of the shares before each particle, the shares, and by how much the sums must be stretched."""
    pairs = _fixed.shares(weights, _fixed.coarse_scale(jnp.sum(weights), num_out).astype(weights.dtype))

    def as_tree(*pairs):
        after = _fixed.running(pairs, lax.cumsum)
        return _fixed.subtract(after, pairs), tuple(a[-1] for a in after)

    before, total = lax.platform_dependent(*pairs, cpu=_vectors(_before), default=as_tree)
    return before, pairs, _fixed.stretch(total, num_out, weights.dtype)


def _spread(starts, num_out: int):
    """The particle that owns each slot, by where the slots of each start."""

    def by_rows(starts):
        num, n = starts.shape
        lane = jnp.arange(num, dtype=jnp.int32)[:, None]

        def write(carry, start):
            index, first = carry
            first = lax.dynamic_update_slice(first, index[None], (start,), allow_negative_indices=False)
            return (index + 1, first), None

        # As `first_slots`, in order; where nothing is left in a row it is the next that starts, or the place too many.
        first = jnp.zeros(num * num_out + 1, jnp.int32)
        (_, first), _ = lax.scan(write, (np.int32(0), first), (starts + lane * num_out).ravel(), unroll=4)
        owners = lax.scan(_larger, np.int32(0), first[:-1], unroll=4)[1].reshape(num, num_out) - lane * n
        return jnp.maximum(owners, 0)  # of a row before it where no particle starts at slot 0: an offset below zero

    def elsewhere(starts):
        return lax.cummax(first_slots(starts, num_out))

    return lax.platform_dependent(starts, cpu=_vectors(_row_by_row(by_rows)), default=elsewhere)


def _larger(largest, x):
    largest = jnp.maximum(largest, x)
    return largest, largest


def _vectors(by_rows):
    """A function of matrices, row by row, as one of vectors."""
    return lambda *vectors: jax.tree.map(lambda a: a[0], by_rows(*(v[None] for v in vectors)))


def _row_by_row(function):
    """`function` of matrices, row by row: under `jax.vmap` the lanes are further rows, however deep."""
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    def _merge(num, in_batched, *arrays):
        lanes = [a if b else jnp.broadcast_to(a, (num, *a.shape)) for a, b in zip(arrays, in_batched)]
        out = jax.eval_shape(function, *arrays_of(lanes))
        if num == 0:
            out = jax.tree.map(lambda a: jnp.zeros((0, *a.shape), a.dtype), out)
        elif num * max(a.size for a in (*arrays_of(lanes), *jax.tree.leaves(out))) >= _MOST_TOGETHER:
            out = lax.map(lambda lane: batched(*lane), tuple(lanes))
        else:
            rows = batched(*(a.reshape(-1, *a.shape[2:]) for a in lanes))
            out = jax.tree.map(lambda a, row: row.reshape(num, *a.shape), out, rows)
        return out, jax.tree.map(lambda _: True, out)

    def arrays_of(lanes):
        return [jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in lanes]

    return batched


@_row_by_row
def _before(whole, fraction):
    """Sums of the pairs before each, row by row, and of all of a row."""

    def step(pair, x):
        return _fixed.add(pair, x), pair

    last, flat = lax.scan(step, _fixed.zeros(), (whole.ravel(), fraction.ravel()), unroll=2)
    sums = tuple(a.reshape(whole.shape) for a in flat)
    start = tuple(a[:, 0] for a in sums)
    end = tuple(jnp.append(a[1:], b) for a, b in zip(start, last))
    return _fixed.subtract(sums, tuple(a[:, None] for a in start)), _fixed.subtract(end, start)


__all__: list[str] = []
