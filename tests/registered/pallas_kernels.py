"""Contract entries of the kernel package."""


import contracts
import pallas_kernels


def _extrema(key, dtype):
    return pallas_kernels.extrema, (contracts.normal(key, (37,), dtype),)


ENTRIES = {"pallas_kernels.extrema": contracts.Compiled(_extrema, grad=(0,))}
