"""The derivative of `pfn_attention` on GPU (Triton): one launch over the rows, then one over the slots, as on TPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._compat import pl
from pallas_kernels.pfn_attention import gpu as forward
from pallas_kernels.pfn_attention._backward import reference
from pallas_kernels.pfn_attention.gpu import (
    Config,
    block,
    column,
    index,
    launch,
    num_live_blocks,
    power,
    product,
    walk,
    write,
)
from pallas_kernels.pfn_attention.reference import weight


def refusal(query, key, *_, scale: float) -> str | None:
    """Why the kernel cannot take the arrays, or None; the same as for the kernel forward."""
    return forward.refusal(query, key, scale=scale)


def default_config(rows: int, slots: int, size: int, dtype) -> Config:
    """32 by 32, and 16 by 16 in float32 for heads above 64, so that no registers spill."""
    low, long = dtype == jnp.bfloat16, size > 64
    most, warps, stages = 32 if low or not long else 16, 8 if low and long else 4, 2 if low else 1
    return Config(min(most, power(rows)), min(most, power(slots)), warps, stages)


def call(
    query, key, value, own_key, own_value, limits, slope, sums, *, scale: float, interpret: bool,
    config: Config | None = None,
):  # fmt: skip
    """As `reference.call`; `config` None takes `default_config`."""
    (rows, size), slots = query.shape, key.shape[0]
    config = config or default_config(rows, slots, size, query.dtype)
    static = dict(scale=scale, config=config, interpret=interpret)
    to_query, to_own_key, to_own_value = launch(
        functools.partial(_rows_body, **static),
        -(-rows // config.rows),
        (limits, query, own_key, own_value, slope, sums, key, value),
        [jax.ShapeDtypeStruct(query.shape, query.dtype)] * 3,
        "pfn_attention_rows",
        config,
        interpret,
    )
    to_key, to_value = launch(
        functools.partial(_slots_body, **static),
        -(-slots // config.slots),
        (limits, key, value, query, slope, sums),
        [jax.ShapeDtypeStruct(key.shape, key.dtype)] * 2,
        "pfn_attention_slots",
        config,
        interpret,
    )
    return to_query, to_key, to_value, to_own_key, to_own_value


def _rows_body(
    limits_ref, query_ref, own_key_ref, own_value_ref, slope_ref, sums_ref, key_ref, value_ref, to_query_ref,
    to_own_key_ref, to_own_value_ref, *, scale, config, interpret,
):  # fmt: skip
    i = pl.program_id(0)
    rows, slots = config.rows, config.slots
    query, own_key, own_value, slope = (
        block(ref, i, rows) for ref in (query_ref, own_key_ref, own_value_ref, slope_ref)
    )
    log_total, delta = (column(sums_ref, i, rows, which) for which in (0, 1))
    itself = index(i, rows)[:, None] >= limits_ref[0, 1]
    change, to_own_key, to_own_value = reference.own_terms(
        query, own_key, own_value, slope, log_total, delta, itself, scale
    )

    def step(j, out):
        key, value = block(key_ref, j, slots), block(value_ref, j, slots)
        score = scale * product(query, key, 1, 1, interpret)
        weights = jnp.where(index(j, slots)[None, :] < limits_ref[0, 0], weight(score, log_total), 0)
        changes = scale * weights * (product(slope, value, 1, 1, interpret) - delta)
        return out + product(changes.astype(key.dtype), key, 1, 0, interpret)

    out = walk(num_live_blocks(limits_ref, slots), step, change * own_key.astype(jnp.float32))
    for ref, x in ((to_query_ref, out), (to_own_key_ref, to_own_key), (to_own_value_ref, to_own_value)):
        write(ref, i, x)


def _slots_body(
    limits_ref, key_ref, value_ref, query_ref, slope_ref, sums_ref, to_key_ref, to_value_ref, *, scale, config,
    interpret,
):  # fmt: skip
    i = pl.program_id(0)
    rows, slots = config.rows, config.slots
    key, value = block(key_ref, i, slots), block(value_ref, i, slots)
    live = index(i, slots)[None, :] < limits_ref[0, 0]

    def step(j, carry):
        to_key, to_value = carry
        query, slope = block(query_ref, j, rows), block(slope_ref, j, rows)
        log_total, delta = (column(sums_ref, j, rows, which) for which in (0, 1))
        score = scale * product(query, key, 1, 1, interpret)
        weights = jnp.where(live, weight(score, log_total), 0)
        changes = scale * weights * (product(slope, value, 1, 1, interpret) - delta)
        to_key = to_key + product(changes.astype(query.dtype), query, 0, 0, interpret)
        return to_key, to_value + product(weights.astype(slope.dtype), slope, 0, 0, interpret)

    num_blocks = np.int32(-(-query_ref.shape[0] // rows))
    length = jnp.where(i * slots < limits_ref[0, 0], num_blocks, np.int32(0))
    zero = jnp.zeros(key.shape, jnp.float32)
    for ref, x in zip((to_key_ref, to_value_ref), walk(length, step, (zero, zero))):
        write(ref, i, x)


__all__: list[str] = []
