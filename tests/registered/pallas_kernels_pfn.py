"""Contract entries of the attention of prior-data fitted networks."""

import jax
import jax.numpy as jnp

import contracts
import pallas_kernels


def _pfn_attention(key, dtype):
    def run(tokens, context, n):
        joint = pallas_kernels.pfn_attention(*tokens, n, num_slots=4)
        return joint, pallas_kernels.pfn_attention(*tokens, n, context=context)

    keys = jax.random.split(key, 5)
    tokens = tuple(contracts.normal(k, (7, 2, 3), dtype) for k in keys[:3])
    context = tuple(contracts.normal(k, (5, 2, 3), dtype) for k in keys[3:])
    return run, (tokens, context, jnp.int32(3))


ENTRIES = {
    "pallas_kernels.pfn_attention": contracts.Compiled(_pfn_attention, grad=(0, 1)),
}
