r"""Exact sums of weights: a number of offspring as (whole: int32, fraction: int32 in units of 2^-31).

A float32 prefix sum of many weights is neither monotone nor exact, and depends on the order of addition. These sums are
integers, so they are associative: every order, every block size and every implementation gives the same bits.

Shares :math:`e_i = w_i s` with a crude scale s, a little below :math:`M / \sum w` for M offspring, are rounded to
2^-31 each and added up exactly, to :math:`S_n`, which falls short of M by some millionths of it and by what rounding
took off n shares (up to 2^-32 each, which is the error of a position too: much for few slots of a vast cloud). The sums
are then stretched, :math:`P_i = S_i + q S_i` with :math:`q = (M - S_n) / S_n`: by q rounded down to 2^-31, as a product
of integers, and by what that leaves over, in floating point. P never decreases, because what is added never does; taken
away from sums too large it would. It is rounded to 2^-24 in the end: it is M exactly from the last share that is not
zero on, and what should be whole is.

Everything here is elementwise and runs inside kernels too.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

MASK = np.int32(2**31 - 1)
_UNITS = 2.0**31
_MOST = 2**15 - 1


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
    """The pairs of weights · scale; their sum is a little below the number of offspring."""
    return from_float(weights * scale)


def coarse_scale(total, num_out: int):
    """num_out / total, less 2 to 9 millionths of it, as float32: sums of other orders of addition give the same.

    They may be off by 2e-6 of themselves; the least and the most that is taken off leave room for that.
    """
    ratio = (num_out / total).astype(jnp.float32)
    bits = lax.bitcast_convert_type(ratio, jnp.int32)
    return lax.bitcast_convert_type((bits & np.int32(-32)) - np.int32(40), jnp.float32)


def stretch(total, num_out: int, dtype):
    """(int32, float) by which a sum must grow for each 1 that it has: units, and what is wanting after that."""
    size = _size(total, dtype)
    coarse = jnp.minimum(_missing(total, num_out, dtype) / size, _MOST).astype(jnp.int32)
    grown = add(total, _growth(total, (coarse, dtype.type(0)), num_out))
    # A little too much rather than too little: a sum beyond num_out is cut off.
    return coarse, _missing(grown, num_out, dtype) / jnp.where(size > 0, size, 1) * (1 + 2.0**-20)


def stretched(sums, by, num_out: int):
    """Sums of shares as sums of offspring (whole, fraction in units of 2^-24): never decreasing, rounded half up."""
    whole, fraction = add(sums, _growth(sums, by, num_out, 64))
    return whole, fraction >> 7


def offspring_before(position, offset, num_out: int):
    """How many of the points k + offset, k = 0, 1, ..., lie before the position: ceil(position - offset)."""
    whole, fraction = position
    return jnp.minimum(whole + (fraction > jnp.floor(offset * 2.0**24).astype(jnp.int32)).astype(jnp.int32), num_out)


def _size(pair, dtype):
    """A pair as a float: rounded, and never less for a larger pair."""
    return pair[0].astype(dtype) + pair[1].astype(dtype) * (1 / _UNITS)


def _missing(total, num_out, dtype):
    """How far a total falls short of num_out, in units."""
    whole, fraction = subtract((np.int32(num_out), np.int32(0)), total)
    return jnp.maximum(whole.astype(dtype) * _UNITS + fraction.astype(dtype), 0)


def _growth(sums, by, num_out, more=0):
    (whole, fraction), (coarse, fine) = sums, by
    units = (whole & np.int32(_MOST)) * coarse + (((fraction >> 16) * coarse) >> 15)
    units = units + jnp.minimum(_size(sums, fine.dtype) * fine, 2.0**30 + 2**12).astype(jnp.int32) + np.int32(more)
    if num_out <= _MOST:
        return np.int32(0), units
    upper = (whole >> 15) * coarse
    return add((np.int32(0), units), (upper >> 16, (upper & np.int32(0xFFFF)) << 15))


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


__all__: list[str] = []
