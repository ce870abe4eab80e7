r"""What SOR theory predicts: Jacobi radius, Young's optimal parameter, and the rate at any parameter.

For a consistently ordered symmetric positive definite A with Jacobi radius $\beta = \rho(I - D^{-1}A) < 1$:
$\omega^* = 1 + (\beta / (1 + \sqrt{1 - \beta^2}))^2$; $\rho(\omega) = \frac14 (\omega\beta +
\sqrt{\omega^2\beta^2 - 4(\omega - 1)})^2$ below $\omega^*$ and $\omega - 1$ above.

Reference: Young 1954, Iterative methods for solving partial difference equations of elliptic type.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core.types import float_dtype


def laplacian_radius(shape: tuple[int, int], shift: ArrayLike = 0.0) -> Float[Array, "..."]:
    r"""Jacobi radius of `operators.shifted_laplacian`.

    $\beta = 2(\cos\frac{\pi}{m+1} + \cos\frac{\pi}{n+1}) / (4 + c)$ on an m x n grid.

    Args:
        shape: (rows, cols), static.
        shift: c, traced, any shape; beta < 1 exactly where the operator is positive definite.
    """
    shift = jnp.asarray(shift, float_dtype(shift))
    waves = 2.0 * float(np.cos(np.pi / (shape[0] + 1)) + np.cos(np.pi / (shape[1] + 1)))
    return waves / (4 + shift)


def young_omega(radius: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    r"""The relaxation parameter of fastest asymptotic decay, $1 + (\beta / (1 + \sqrt{1 - \beta^2}))^2$.

    Args:
        radius: Jacobi radius beta in [0, 1), traced, any shape; at beta >= 1 the result is 2, where nothing
            converges.
    """
    radius = jnp.asarray(radius, float_dtype(radius))
    inside = jnp.abs(radius) < 1
    root = jnp.sqrt(jnp.where(inside, 1 - radius**2, 1))
    return jnp.where(inside, 1 + (radius / (1 + root)) ** 2, 2)


def young_rate(omega: Float[ArrayLike, "..."], radius: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Spectral radius of the SOR iteration at `omega`, for Jacobi radius `radius`; shapes broadcast, traced."""
    dtype = float_dtype(omega, radius)
    omega, radius = jnp.asarray(omega, dtype), jnp.asarray(radius, dtype)
    under = (omega * radius) ** 2 - 4 * (omega - 1)
    real = under > 0  # below omega*; above it all eigenvalues have modulus omega - 1
    root = jnp.sqrt(jnp.where(real, under, 1))
    return jnp.where(real, (omega * radius + root) ** 2 / 4, jnp.abs(omega - 1))


__all__ = ["laplacian_radius", "young_omega", "young_rate"]
