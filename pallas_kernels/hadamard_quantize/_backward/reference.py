r"""The trust estimator: :math:`\bar x = (m \odot \bar y)\,H`, as if what lies within reach were not quantised."""

import jax.numpy as jnp

from pallas_kernels.hadamard_quantize.reference import norm, rotate


def call(slope, mask, *, block: int):
    """Cotangent of x (rows, n) in the dtype of `slope`, from that of the values and from the mask (int8)."""
    wide = jnp.promote_types(slope.dtype, jnp.float32)
    return (rotate(jnp.where(mask != 0, slope.astype(wide), 0), block) * norm(block)).astype(slope.dtype)


__all__: list[str] = []
