"""The meaning of `log_weight_stats`, and what runs on a CPU: a maximum, then two sums of exponentials.

Each sum computes its exponentials anew, so nothing is stored: fresh memory costs as much as it saves, except for small
clouds in batches. Sums by blocks of rows or of complex numbers are slower. XLA adds up by a tree: off by 7e-8 from
float64 at 1e6 and 1e7.
"""

import jax
import jax.numpy as jnp

ANY_NAN = 1
ANY_INFINITE = 2
ALL_ZERO = 4


def call(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(largest, total, squares, trouble) of log-weights x (n,)."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    nan = jnp.isnan(x)
    x = jnp.where(nan, -jnp.inf, x)
    largest = jnp.max(x)
    shifted = x - shift(largest)
    return finish(largest, jnp.sum(jnp.exp(shifted)), jnp.sum(jnp.exp(2 * shifted)), jnp.any(nan))


def shift(largest):
    """What is subtracted in the exponents: the largest log-weight, 0 where all are -inf."""
    return jnp.where(largest == -jnp.inf, 0, largest)


def finish(largest, total, squares, any_nan):
    """The results, with sums NaN where a weight is infinite, and their trouble."""
    infinite = largest == jnp.inf
    trouble = (
        jnp.where(any_nan, ANY_NAN, 0)
        | jnp.where(infinite, ANY_INFINITE, 0)
        | jnp.where(largest == -jnp.inf, ALL_ZERO, 0)
    )
    total, squares = (jnp.where(infinite, jnp.nan, s) for s in (total, squares))
    return largest, total, squares, trouble.astype(jnp.int32)


def merge(largest, total, squares, bad):
    """One result from those of parts (k,): sums are rescaled from the shift of their part to that of all."""
    overall = jnp.max(largest)
    scale = jnp.exp(largest - shift(overall))  # 0 for a part without weight
    scale = jnp.where(overall == jnp.inf, 0, scale)
    return finish(overall, jnp.sum(total * scale), jnp.sum(squares * scale * scale), jnp.any(bad > 0))


__all__: list[str] = []
