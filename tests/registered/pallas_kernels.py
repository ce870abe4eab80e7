"""Contract entries of the kernel package."""

import jax
import jax.numpy as jnp
import numpy as np

import contracts
import pallas_kernels
from pallas_kernels.permute import reference as reference_of_permute
from pallas_kernels.resample import reference


def _extrema(key, dtype):
    return pallas_kernels.extrema, (contracts.normal(key, (37,), dtype),)


def _log_weight_stats(key, dtype):
    def run(log_weights):
        # `largest` is held constant by the derivative, so what does not depend on it is compared.
        largest, total, squares, trouble = pallas_kernels.log_weight_stats(log_weights)
        return largest + jnp.log(total), total**2 / squares, trouble

    return run, (contracts.normal(key, (37,), dtype),)


def _resample(key, dtype):
    def run(log_weights, offset):
        return pallas_kernels.resample(log_weights, offset, 29)

    key, other = jax.random.split(key)
    return run, (contracts.normal(key, (37,), dtype), contracts.uniform(other, (), jnp.float32))


def _prefix(key, dtype):
    return lambda weights: reference.prefix(weights, 29), (contracts.uniform(key, (37,), dtype),)


def _ancestors(key, dtype):
    ends = np.sort(np.asarray(29 * contracts.uniform(key, (37,)), np.int32))
    ends[-1] = 29
    return lambda ends: reference.ancestors(ends, 29), (jnp.asarray(ends),)


def _permute(key, dtype):
    key, other = jax.random.split(key)
    ancestors = jnp.asarray(6 * contracts.uniform(other, (5,)), jnp.int32)

    def run(x, small):
        return pallas_kernels.permute(x, ancestors), pallas_kernels.permute(small, ancestors)

    return run, (contracts.normal(key, (6, 3, 200), dtype), contracts.normal(other, (6, 2), dtype))


def _settle(key, dtype):
    return reference_of_permute.settle, (jnp.asarray(9 * contracts.uniform(key, (9,)), jnp.int32),)


ENTRIES = {
    "pallas_kernels.permute": contracts.Compiled(_permute, grad=(0, 1)),
    "pallas_kernels.permute.settle": contracts.Compiled(_settle),
    "pallas_kernels.extrema": contracts.Compiled(_extrema, grad=(0,)),
    "pallas_kernels.log_weight_stats": contracts.Compiled(_log_weight_stats, grad=(0,)),
    "pallas_kernels.resample": contracts.Compiled(_resample),
    "pallas_kernels.resample.ancestors": contracts.Compiled(_ancestors),
    "pallas_kernels.resample.prefix": contracts.Compiled(_prefix, skip={"dtype": "fractions are float32"}),
}
