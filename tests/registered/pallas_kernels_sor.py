"""Contract entries of the red-black SOR kernel."""

import jax
import jax.numpy as jnp

import contracts
import pallas_kernels


def _sor(key, dtype):
    def run(u, b, coefficients, omega):
        return pallas_kernels.sor(u, b, coefficients, omega, num_sweeps=3, residuals=False)

    keys = jax.random.split(key, 5)
    u, b = (contracts.normal(k, (3, 4), dtype) for k in keys[:2])
    around = -contracts.uniform(keys[2], (4, 3, 4), dtype, 0.5, 1.0)
    diagonal = contracts.uniform(keys[3], (1, 3, 4), dtype, 4.2, 5.0)
    return run, (u, b, jnp.concatenate([diagonal, around]), contracts.uniform(keys[4], (), dtype, 1.0, 1.6))


ENTRIES = {
    "pallas_kernels.sor": contracts.Compiled(_sor, grad=(0, 1, 2, 3)),
}
