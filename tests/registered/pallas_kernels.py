"""Contract entries of the kernel package."""

import jax

import contracts
import pallas_kernels


def _extrema(key, dtype):
    return pallas_kernels.extrema, (jax.random.normal(key, (37,), dtype),)


ENTRIES = {"pallas_kernels.extrema": contracts.Compiled(_extrema, grad=(0,))}
