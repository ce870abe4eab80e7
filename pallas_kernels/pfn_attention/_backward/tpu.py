"""The derivative of `pfn_attention` on TPU: one launch over the rows, then one over the slots.

In the first a block of rows walks over the live slots, for what belongs to rows; in the second a block of slots walks
over all rows, for the cotangents of keys and values. A block of dead slots only writes zeros.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._compat import call_tpu, pl
from pallas_kernels.pfn_attention import tpu as forward
from pallas_kernels.pfn_attention._backward import reference
from pallas_kernels.pfn_attention.reference import weight
from pallas_kernels.pfn_attention.tpu import (
    all_of,
    at,
    block,
    is_itself,
    is_live,
    num_live_blocks,
    padded,
    product,
    walk,
)


def refusal(query, key, *_, scale: float) -> str | None:
    """Why the kernel cannot take the arrays, or None; the same as for the kernel forward."""
    return forward.refusal(query, key, scale=scale)


def call(
    query, key, value, own_key, own_value, limits, slope, sums, *, scale: float, interpret, sizes=None
):  # fmt: skip
    """As `reference.call`; `interpret` is False, True or the parameters of the TPU interpreter."""
    (rows, size), slots = query.shape, key.shape[0]
    num_rows, num_slots = forward.blocks(rows, slots) if sizes is None else sizes
    query, own_key, own_value, slope, sums = (padded(x, num_rows) for x in (query, own_key, own_value, slope, sums))
    key, value = (padded(x, num_slots) for x in (key, value))
    common = dict(interpret=interpret, vmem_limit_bytes=forward._MAX_BYTES + 32 * 2**20)
    part, stats = block(num_rows, size), block(num_rows, 2)
    to_query, to_own_key, to_own_value = call_tpu(
        functools.partial(_rows_body, scale=scale, num_slots=num_slots, interpret=interpret),
        grid=(query.shape[0] // num_rows,),
        in_specs=[forward.LIMITS, part, part, part, part, stats, all_of(key), all_of(value)],
        out_specs=[part] * 3,
        out_shape=[jax.ShapeDtypeStruct(query.shape, query.dtype)] * 3,
        name="pfn_attention_rows",
        **common,
    )(limits, query, own_key, own_value, slope, sums, key, value)
    part = block(num_slots, size)
    to_key, to_value = call_tpu(
        functools.partial(_slots_body, scale=scale, num_rows=num_rows, interpret=interpret),
        grid=(key.shape[0] // num_slots,),
        in_specs=[forward.LIMITS, part, part, all_of(query), all_of(slope), all_of(sums)],
        out_specs=[part] * 2,
        out_shape=[jax.ShapeDtypeStruct(key.shape, key.dtype)] * 2,
        name="pfn_attention_slots",
        **common,
    )(limits, key, value, query, slope, sums)
    return to_query[:rows], to_key[:slots], to_value[:slots], to_own_key[:rows], to_own_value[:rows]


def _rows_body(
    limits_ref, query_ref, own_key_ref, own_value_ref, slope_ref, sums_ref, key_ref, value_ref, to_query_ref,
    to_own_key_ref, to_own_value_ref, *, scale, num_slots, interpret,
):  # fmt: skip
    query, own_key, slope = query_ref[...], own_key_ref[...], slope_ref[...]
    log_total, delta = sums_ref[...][:, :1], sums_ref[...][:, 1:]
    itself = is_itself(limits_ref, query.shape[0])
    change, to_own_key, to_own_value = reference.own_terms(
        query, own_key, own_value_ref[...], slope, log_total, delta, itself, scale
    )

    def step(j, out):
        key, value = key_ref[at(j, num_slots), :], value_ref[at(j, num_slots), :]
        score = scale * product(query, key, 1, 1, interpret)
        weights = jnp.where(is_live(limits_ref, j, score.shape), weight(score, log_total), 0)
        changes = scale * weights * (product(slope, value, 1, 1, interpret) - delta)
        return out + product(changes.astype(key.dtype), key, 1, 0, interpret)

    out = walk(num_live_blocks(limits_ref[0, 0], num_slots), step, change * own_key.astype(jnp.float32))
    for ref, x in ((to_query_ref, out), (to_own_key_ref, to_own_key), (to_own_value_ref, to_own_value)):
        ref[...] = x.astype(ref.dtype)


def _slots_body(
    limits_ref, key_ref, value_ref, query_ref, slope_ref, sums_ref, to_key_ref, to_value_ref, *, scale, num_rows,
    interpret,
):  # fmt: skip
    key, value = key_ref[...], value_ref[...]
    num_slots, i = key.shape[0], pl.program_id(0)

    def step(j, carry):
        to_key, to_value = carry
        query, slope, sums = (ref[at(j, num_rows), :] for ref in (query_ref, slope_ref, sums_ref))
        score = scale * product(query, key, 1, 1, interpret)
        live = is_live(limits_ref, i, score.shape)
        weights = jnp.where(live, weight(score, sums[:, :1]), 0)
        changes = scale * weights * (product(slope, value, 1, 1, interpret) - sums[:, 1:])
        to_key = to_key + product(changes.astype(query.dtype), query, 0, 0, interpret)
        return to_key, to_value + product(weights.astype(slope.dtype), slope, 0, 0, interpret)

    any_live = i * num_slots < limits_ref[0, 0]
    length = jnp.where(any_live, np.int32(query_ref.shape[0] // num_rows), np.int32(0))
    zero = jnp.zeros(key.shape, jnp.float32)
    to_key_ref[...], to_value_ref[...] = (x.astype(key.dtype) for x in walk(length, step, (zero, zero)))


__all__: list[str] = []
