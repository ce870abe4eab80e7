r"""The trust estimator: :math:`\bar x = (m \odot \bar y)\,H`, as if what lies within reach were not quantised."""

import jax.numpy as jnp

from pallas_kernels.hadamard_quantize.reference import norm, rotate, rotate_columns


def call(slope, mask, *, block: int, columns: bool = False):
    """Cotangent of x (rows, n), or (n, rows), in the dtype of `slope`, from that of the values and the mask (int8)."""
    kept = jnp.where(mask != 0, slope.astype(jnp.promote_types(slope.dtype, jnp.float32)), 0)
    return ((rotate_columns if columns else rotate)(kept, block) * norm(block)).astype(slope.dtype)


__all__: list[str] = []
