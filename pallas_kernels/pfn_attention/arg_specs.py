"""Shapes, inputs and costs of `pfn_attention`, shared by its tests and its benchmark."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.pfn_attention import pfn_attention


def _tokens(num: int, heads: int, size: int, dtype: str = "float32"):
    return (*(jax.ShapeDtypeStruct((num, heads, size), dtype) for _ in range(3)), jax.ShapeDtypeStruct((), "int32"))


SPECS = {
    "one": _tokens(1, 1, 1),
    "prime_bfloat16": _tokens(131, 3, 24, "bfloat16"),
    "several_steps": _tokens(603, 1, 16),
    "large": _tokens(2048, 8, 64, "bfloat16"),
    "large_ragged": _tokens(2000, 4, 72),
    "wide_bfloat16": _tokens(1024, 2, 128, "bfloat16"),
}
"""Name -> the arrays of one call: query, key, value, number of live slots."""

TESTED = ("one", "prime_bfloat16", "several_steps")
"""Small enough for the interpreters."""

TIMED = ("large", "large_ragged")
"""Large enough that a timing measures arithmetic, not the launch."""


def make(key: jax.Array, name: str) -> tuple[jax.Array, ...]:
    """Random arguments for the spec `name`, drawn by NumPy; three quarters of the slots are live."""
    *tokens, n = SPECS[name]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    live = -(-3 * num_slots(tokens[0].shape[0]) // 4)
    return (*(jnp.asarray(rng.standard_normal(x.shape), x.dtype) for x in tokens), jnp.asarray(live, n.dtype))


def num_slots(tokens: int) -> int:
    """Half of the tokens are slots of the context."""
    return -(-tokens // 2)


def halves(query, key, value, num_context, *, implementation=None):
    """The op with half of the tokens as the context's slots."""
    slots = num_slots(query.shape[0])
    return pfn_attention(query, key, value, num_context, num_slots=slots, implementation=implementation)


def slopes(query, key, value, num_context, *, implementation=None):
    """Gradients of a weighted sum of what `halves` returns, in query, key and value."""

    def total(*tokens):
        out = halves(*tokens, num_context, implementation=implementation).astype(jnp.float32)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    return jax.grad(total, (0, 1, 2))(query, key, value)


def cost(name: str) -> tuple[int, int]:
    """(bytes moved, operations) that `halves` needs at least for the spec `name`; an exponential counts as one."""
    query = SPECS[name][0]
    tokens, heads, size = query.shape
    live = -(-3 * num_slots(tokens) // 4)
    return 4 * query.size * query.dtype.itemsize, heads * tokens * live * (4 * size + 1)


__all__: list[str] = []
