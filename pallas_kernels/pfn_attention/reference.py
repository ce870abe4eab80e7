"""The meaning of `pfn_attention` for one head, and what runs on a CPU: two products and a softmax with a column more.

The kernels share its formulas, so that all of them round alike.
"""

import jax
import jax.numpy as jnp

MASKED = -1e30
"""Stands for minus infinity in scores: the difference of two of them is a number."""


def call(query, key, value, own_key, own_value, limits, *, scale: float):
    """Outputs (rows, size) and logs of the weights' sums (rows, 1) of one head.

    query, own_key, own_value: (rows, size) of the rows; key, value: (slots, size) of the context, 0 where dead;
    limits: (1, 2) int32, the live slots come before the first, the second is the first row that adds itself.
    """
    live, itself = masks(limits, key.shape[0], query.shape[0])
    scores = jnp.where(live, scale * product(query, key, 1, 1), MASKED)
    own = jnp.where(itself, scale * own_score(query, own_key), MASKED)
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.max(scores, axis=1, keepdims=True), own))
    weight, own_weight = jnp.exp(scores - largest), jnp.exp(own - largest)
    total = jnp.sum(weight, axis=1, keepdims=True) + own_weight
    out = product(weight.astype(value.dtype), value, 1, 0) + own_weight * own_value.astype(total.dtype)
    return (out / total).astype(query.dtype), largest + jnp.log(total)


def masks(limits, slots: int, rows: int):
    """(which slots are live (1, slots), which rows add themselves (rows, 1))."""
    live = jnp.arange(slots, dtype=jnp.int32)[None, :] < limits[0, 0]
    return live, jnp.arange(rows, dtype=jnp.int32)[:, None] >= limits[0, 1]


def product(a, b, along_a: int, along_b: int):
    """The sum of a b over one axis of each, in at least float32, to which products of bfloat16 are exact."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    sums = (((along_a,), (along_b,)), ((), ()))
    return jax.lax.dot_general(a.astype(wide), b.astype(wide), sums, precision=jax.lax.Precision.HIGHEST)


def own_score(query, own_key):
    """The product of every row with itself (rows, 1), in at least float32."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    return jnp.sum(query.astype(wide) * own_key.astype(wide), axis=1, keepdims=True)


def weight(score, log_total):
    """exp(score - log_total), never above 1: rounding of large scores shall not let it grow."""
    return jnp.exp(jnp.minimum(score - log_total, 0))


__all__: list[str] = []
