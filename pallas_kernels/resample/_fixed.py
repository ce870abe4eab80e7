r"""Exact sums of weights: a number of offspring as (whole: int32, fraction: int32 in units of 2^-31).

A float32 prefix sum of many weights is neither monotone nor exact, and depends on the order of addition. These sums are
integers, so they are associative: every order, every block size and every implementation gives the same bits.

Shares :math:`e_i = w_i s` with a crude scale :math:`s \approx M / \sum w`, M the number of offspring, are rounded to
2^-31 each and added up exactly, to :math:`M + T`. With :math:`q = T / (M + T)` the corrected shares
:math:`e'_i = e_i - q e_i`, rounded to 2^-31 again, sum to M up to their roundings. A product of q in float32 is exact
to 2^-24 of something as small as T, which is why the correction is subtracted rather than put into the scale.

Everything here is elementwise and runs inside kernels too.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

MASK = np.int32(2**31 - 1)
_UNITS = 2.0**31


def add(a, b):
    """a + b of two pairs; associative, exact while the whole part fits 31 bits."""
    fraction = a[1] + b[1]  # wraps below zero where the sum is 1 or more
    return a[0] + b[0] + (fraction < 0).astype(jnp.int32), fraction & MASK


def subtract(a, b):
    """a - b of two pairs, a >= b."""
    fraction = a[1] - b[1]
    return a[0] - b[0] - (fraction < 0).astype(jnp.int32), fraction & MASK


def zeros(shape=()):
    """The pair of nothing."""
    return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32)


def from_float(x):
    """The pair nearest to x >= 0, below 2^31."""
    whole = jnp.floor(x)
    # Above 2^23 units floats are whole already; the largest fraction of a float32 is 2^31 - 2^7 units.
    units = jnp.minimum(jnp.floor((x - whole) * _UNITS + 0.5), _UNITS - (1.0 if x.dtype == jnp.float64 else 128.0))
    return whole.astype(jnp.int32), units.astype(jnp.int32)


def shares(weights, scale):
    """The pairs of weights · scale, before the correction."""
    return from_float(weights * scale)


def corrected(weights, scale, excess):
    """The pairs of e - excess · e for e = weights · scale; 0 for a weight of zero, never negative."""
    e = weights * scale
    pair, change = from_float(e), from_float(e * jnp.abs(excess))
    more, less = add(pair, change), subtract(pair, change)
    return tuple(jnp.where(excess < 0, m, l) for m, l in zip(more, less))


def coarse_scale(total, num_out: int):
    """num_out / total to 16 bits, as float32: sums of other implementations and orders give the same."""
    ratio = (num_out / total).astype(jnp.float32)
    bits = lax.bitcast_convert_type(ratio, jnp.int32)
    return lax.bitcast_convert_type((bits + 128) & np.int32(-256), jnp.float32)


def excess_of(total, num_out: int, dtype):
    """q = T / (M + T) from the exact total M + T of the uncorrected shares."""
    surplus = (total[0] - num_out).astype(dtype) + total[1].astype(dtype) * (1 / _UNITS)
    return surplus / (num_out + surplus)


def total(pair, add_up):
    """The sum of all, at most 2^15, pairs of an array, as scalars; each half of the fraction has room for so many.

    `add_up` makes a scalar of an array of int32.
    """
    whole, high, low = (add_up(part) for part in (pair[0], pair[1] >> 16, pair[1] & np.int32(0xFFFF)))
    high = high + (low >> 16)
    return whole + (high >> 15), ((high & np.int32(0x7FFF)) << 16) | (low & np.int32(0xFFFF))


def running(pair, cumsum):
    """Running sums of pairs by two of integers; `cumsum` wraps, and of the fractions its low 31 bits are right."""
    fraction = cumsum(pair[1]) & MASK
    return cumsum(pair[0] + (fraction < pair[1]).astype(jnp.int32)), fraction


def rounded(pair):
    """(whole, fraction in [0, 1)) of a pair rounded to 2^-24, half up: monotone, and what a float32 holds exactly.

    Rounding makes shares that should be whole, whole: they come out with errors below 2^-25 (of 5000 offspring by two
    equal weights, 2^-29).
    """
    whole, fraction = add(pair, (np.int32(0), np.int32(64)))
    return whole, (fraction >> 7).astype(jnp.float32) * np.float32(2.0**-24)


def offspring_before(pair, offset, num_out: int):
    """How many of the points k + offset, k = 0, 1, ..., lie before the position: ceil(position - offset)."""
    whole, fraction = rounded(pair)
    return jnp.minimum(whole + (fraction > offset).astype(jnp.int32), num_out)


__all__: list[str] = []
