r"""Running sums of weights in units of offspring, exact at any number of particles in float32, and ancestors from them.

$P_i = M \sum_{j \le i} w_j / \sum_j w_j$ for M offspring. A float32 running sum is not monotone from about $10^5$
particles on, and every search in it is undefined. Here each share is rounded once, to a multiple of $2^{-24}$ of an
offspring, and what follows is integer arithmetic: the order of summation cannot matter, a zero weight adds nothing,
and the total is M exactly. Shares are first made too small by one part in a million; the deficit is given back in
proportion to $P_i$, so that a sum of two monotone integers remains.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_BITS = 24  # a fraction of so many bits is a float32
_ONE = 1 << _BITS
_MARGIN = 2.0**-20  # above the relative error of a float32 sum; M _MARGIN offspring must fit into 2^31 / 2^24


def prefix(weights: Float[Array, " N"], num_out) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    """Inclusive running sums P_i as ``(whole, fraction)``, fraction in [0, 1) and a multiple of 2^-24.

    Args:
        weights: finite, none negative, one at least positive.
        num_out: offspring M in all, at most 10^8; may be traced.
    """
    total = jnp.sum(weights)
    count = jnp.asarray(num_out, weights.dtype)
    shares = weights * (jnp.where(total > 0, count / jnp.where(total > 0, total, 1), 0) * (1 - _MARGIN))
    floor = jnp.floor(shares)
    units = jnp.round((shares - floor) * _ONE).astype(jnp.uint32)
    low = (jnp.cumsum(units, dtype=jnp.uint32) & (_ONE - 1)).astype(jnp.int32)  # wrapping at 2^32 keeps the low bits
    carried = low < jnp.concatenate([jnp.zeros(1, jnp.int32), low[:-1]])  # less than before: it passed a whole one
    carried = carried | (units == _ONE)
    whole = jnp.cumsum(floor.astype(jnp.int32) + carried, dtype=jnp.int32)
    last = (whole == whole[-1]) & (low == low[-1])
    # The deficit in units, and everyone's part of it.
    missing = jnp.clip(num_out - whole[-1], 0, 127) * _ONE - low[-1]
    position = whole.astype(weights.dtype) + low.astype(weights.dtype) / _ONE
    part = jnp.floor(jnp.maximum(missing, 0).astype(weights.dtype) * (position / jnp.maximum(position[-1], 1)))
    low = low + jnp.where(position[-1] > 0, part, 0).astype(jnp.int32)
    whole, low = whole + (low >> _BITS), low & (_ONE - 1)
    done = last | (whole >= num_out)
    return jnp.where(done, num_out, whole).astype(jnp.int32), jnp.where(done, 0, low).astype(jnp.float32) / _ONE


def ancestors(ends: Int[Array, " N"], num_out: int) -> Int[Array, " M"]:
    """Which particle each of M places descends from, when the places before ``ends[i]`` belong to particles 0 ... i.

    A scatter of the starts and a running maximum; no search. A particle without offspring shares its start with a
    later one, which wins.
    """
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]])
    index = jnp.arange(ends.shape[0], dtype=jnp.int32)
    return jax.lax.cummax(jnp.zeros(num_out, jnp.int32).at[starts].max(index, mode="drop"))


def search(
    whole: Int[Array, " N"],
    fraction: Float[Array, " N"],
    point_whole: Int[Array, " M"],
    point_fraction: Float[Array, " M"],
) -> Int[Array, " M"]:
    """How many P_i are at most each point: the particle whose cell holds it; a binary search in pairs."""
    size = whole.shape[0]

    def halve(_, bounds):
        low, high = bounds  # P at low - 1 is at most the point, P at high is above
        middle = (low + high) // 2
        w, f = whole[middle], fraction[middle]
        above = (w > point_whole) | ((w == point_whole) & (f > point_fraction))
        return jnp.where(above, low, jnp.minimum(middle + 1, high)), jnp.where(above, middle, high)

    start = jnp.zeros_like(point_whole), jnp.full_like(point_whole, size - 1)
    return jax.lax.fori_loop(0, size.bit_length(), halve, start)[1]


__all__ = ["ancestors", "prefix", "search"]
