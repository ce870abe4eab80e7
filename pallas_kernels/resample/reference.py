r"""The meaning of `resample`, and what runs on a CPU; its parts `prefix` and `ancestors` serve other schemes.

With corrected shares e' (`_fixed`) and :math:`P_i = \sum_{j \le i} e'_j`, particle i owns the slots k with
:math:`P_{i-1} \le k + u < P_i`, so its offspring end at :math:`C_i = \lceil P_i - u \rceil`. From the last particle
with a weight on, P is M exactly. A particle without weight has P unchanged, hence no offspring.

A CPU scans element after element: of five forms (blocks of four, `lax.associative_scan`, rows of 128 side by side, two
`jnp.cumsum`) the fastest from 1e4 to 1e7 elements and for 64 x 1e3 under vmap. Elsewhere it is two `lax.cumsum` and a
`lax.cummax`; sums are exact, so the bits are the same. (A tree of pairs takes minutes to compile for TPU at 2^24.)
Ancestors come by scatter and running maximum, many times faster there than by binary search.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pallas_kernels.resample import _fixed

_MOST_BY_HALVES = 2**15


@functools.partial(jax.jit, static_argnums=1)
def prefix(weights: jax.Array, num_out: int) -> tuple[jax.Array, jax.Array]:
    r"""Ends of the particles' shares in units of offspring, :math:`P_i = M \sum_{j \le i} w_j / \sum_j w_j`.

    Each share is rounded by itself, as a float of the weights' dtype and then to 2^-31; their sums are exact. So
    whole + fraction never decreases, stays the same where a weight is zero, and is `num_out` from the last positive
    weight on (one below 2^-32 offspring counts as zero). Floor and ceiling of differences are those of the shares.
    Measured against float64 for float32 weights of seven laws: off by at most 2.4e-4 offspring at n = 1e6, 1e-3 at 1e7.

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

    def at_most(pair):
        whole, fraction = _fixed.rounded(pair)
        return jnp.minimum(whole, num_out), jnp.where(whole < num_out, fraction, 0)

    return _scan(weights, *_plan(weights, num_out), num_out, at_most)


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
    return _by_platform(_running_max, lax.cummax, first_slots(ends, num_out))


def first_slots(ends, num_out: int):
    """(num_out,) int32: the index of each particle with offspring at the first of its slots, 0 elsewhere."""
    n = ends.shape[0]
    starts = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    # Of the particles that start at one slot the last alone has offspring; those that start at num_out are dropped.
    return jnp.zeros(num_out, jnp.int32).at[starts].max(jnp.arange(n, dtype=jnp.int32), mode="drop")


def call(log_weights: jax.Array, offset: jax.Array, *, num_out: int) -> jax.Array:
    """Ancestors (num_out,) int32 of log-weights (n,)."""
    x, largest, usable = prepare(log_weights)
    weights = lax.optimization_barrier(jnp.exp(x - largest))  # kept, or each of its readers would compute it anew
    plan = _plan(weights, num_out)
    ends = _scan(weights, *plan, num_out, lambda pair: _fixed.offspring_before(pair, offset, num_out))
    return choose(ancestors(ends, num_out), usable, log_weights.shape[0], num_out)


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


def _plan(weights, num_out):
    """(scale, excess, index of the last share that is not zero): what makes the shares sum to num_out."""
    scale = _fixed.coarse_scale(jnp.sum(weights), num_out).astype(weights.dtype)
    pairs = _fixed.shares(weights, scale)
    index = jnp.arange(weights.shape[0], dtype=jnp.int32)
    index = jnp.where((pairs[0] > 0) | (pairs[1] > 0), index, 0)
    if weights.shape[0] <= _MOST_BY_HALVES:  # plain sums, which a CPU vectorises
        total, last = _fixed.total(pairs, jnp.sum), jnp.max(index)
    else:  # one pass over memory
        *total, last = lax.reduce((*pairs, index), (np.int32(0),) * 3, _add_and_last, (0,))
    return scale, _fixed.excess_of(total, num_out, weights.dtype), last


def _add_and_last(a, b):
    return *_fixed.add(a[:2], b[:2]), lax.max(a[2], b[2])


def _scan(weights, scale, excess, last, num_out: int, finish):
    """finish(pair) of the running sums of corrected shares, whose end is (num_out, 0) from `last` on."""

    def in_order(*pairs):
        def step(pair, x):
            pair = _fixed.add(pair, x)
            return pair, finish(pair)

        return lax.scan(step, _fixed.zeros(), pairs)[1]

    def as_tree(*pairs):
        return finish(_fixed.running(pairs, lax.cumsum))

    running = _by_platform(in_order, as_tree, *_fixed.corrected(weights, scale, excess))
    at_end = finish((np.int32(num_out), np.int32(0)))
    ended = jnp.arange(weights.shape[0], dtype=jnp.int32) >= last
    return jax.tree.map(lambda r, e: jnp.where(ended, e, r), running, at_end)


def _running_max(x):
    def step(largest, x):
        largest = jnp.maximum(largest, x)
        return largest, largest

    return lax.scan(step, np.int32(0), x, unroll=4)[1]


def _by_platform(on_cpu, elsewhere, *arrays):
    return lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere)


__all__: list[str] = []
