"""Arrays moved by whole cells with zeros let in: neighbours on grids and bands."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def shift(u: Float[Array, "..."], axis: int, by: int) -> Float[Array, "..."]:
    """Entry i along `axis` is u[i - by], zero where i - by lies outside."""
    config = [(0, 0, 0)] * u.ndim
    config[axis] = (by, -by, 0)
    return jax.lax.pad(u, jnp.zeros((), u.dtype), config)


__all__ = ["shift"]
