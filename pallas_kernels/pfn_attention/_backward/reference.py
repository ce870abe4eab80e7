r"""Cotangents of one head: :math:`p = e^{s - L}`, :math:`\bar s = p\,(\bar o \cdot v - \delta)`.

Here :math:`\delta = \bar o \cdot o - \bar L`, with the cotangents :math:`\bar o` of the output and :math:`\bar L` of
the log of the sum. The row's own term enters by the same formula.
"""

import jax.numpy as jnp

from pallas_kernels.pfn_attention.reference import masks, own_score, product, weight


def call(query, key, value, own_key, own_value, limits, slope, sums, *, scale: float):
    """Cotangents of query, key, value, own_key and own_value, in their dtypes.

    slope: (rows, size), the cotangent of the output; sums: (rows, 2), the logs of the weights' sums and delta.
    """
    log_total, delta = sums[:, :1], sums[:, 1:]
    live, itself = masks(limits, key.shape[0], query.shape[0])
    weights = jnp.where(live, weight(scale * product(query, key, 1, 1), log_total), 0)
    change = scale * weights * (product(slope, value, 1, 1) - delta)
    narrow = change.astype(query.dtype)
    own_change, *own = own_terms(query, own_key, own_value, slope, log_total, delta, itself, scale)
    to_query = product(narrow, key, 1, 0) + own_change * own_key.astype(own_change.dtype)
    to_key = product(narrow, query, 0, 0)
    to_value = product(weights.astype(slope.dtype), slope, 0, 0)
    return tuple(x.astype(query.dtype) for x in (to_query, to_key, to_value, *own))


def own_terms(query, own_key, own_value, slope, log_total, delta, itself, scale):
    """(cotangent of the row's own score times scale (rows, 1), those of own_key and own_value (rows, size))."""
    wide = log_total.dtype
    own = jnp.where(itself, weight(scale * own_score(query, own_key), log_total), 0)
    change = scale * own * (own_score(slope, own_value) - delta)
    return change, change * query.astype(wide), own * slope.astype(wide)


__all__: list[str] = []
