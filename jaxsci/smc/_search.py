"""Binary search in running sums that are pairs (whole, fraction): which particle's cell holds a point."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def search(
    whole: Int[Array, " N"],
    fraction: Float[Array, " N"],
    point_whole: Int[Array, " M"],
    point_fraction: Float[Array, " M"],
) -> Int[Array, " M"]:
    """How many P_i are at most each point: the particle whose cell holds it; a binary search in pairs."""
    size = whole.shape[0]

    def halve(_, bounds):
        low, high = bounds  # P at low - 1 is at most the point, P at high is above
        middle = (low + high) // 2
        w, f = whole[middle], fraction[middle]
        above = (w > point_whole) | ((w == point_whole) & (f > point_fraction))
        return jnp.where(above, low, jnp.minimum(middle + 1, high)), jnp.where(above, middle, high)

    start = jnp.zeros_like(point_whole), jnp.full_like(point_whole, size - 1)
    return jax.lax.fori_loop(0, size.bit_length(), halve, start)[1]


__all__ = ["search"]
