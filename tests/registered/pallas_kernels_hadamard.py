"""Contract entries of the Hadamard quantisation kernel."""

import contracts
import pallas_kernels
from pallas_kernels.hadamard_quantize import transform

_WHY = "a step function; the derivative is the trust estimator, which its own test compares with the formula"


def _hadamard_quantize(key, dtype):
    def run(x):
        codes = pallas_kernels.hadamard_quantize(x, 2.5, bits=4, output="packed")
        return codes, pallas_kernels.hadamard_quantize(x[:, :16], 2.5, bits=2, block=16, output="values", mask=True)

    return run, (contracts.normal(key, (3, 256), dtype),)


def _transform(key, dtype):
    return lambda x: transform(x, 16), (contracts.normal(key, (2, 32), dtype),)


ENTRIES = {
    "pallas_kernels.hadamard_quantize": contracts.Compiled(_hadamard_quantize, skip={"grad": _WHY}),
    "pallas_kernels.hadamard_quantize.transform": contracts.Compiled(_transform, grad=(0,)),
}
