r"""Shape of the tail of importance weights: how many of their moments exist.

The largest $M = \min(N / 5, 3\sqrt N)$ weights above the next one are fitted by a generalised Pareto law; its shape k
says that moments up to order 1 / k are finite. The fit is the empirical Bayes one of Zhang and Stephens, with the weak
prior of Vehtari et al. that pulls k towards 1/2.

References: J. Zhang, M. A. Stephens, Technometrics 51 (2009), 316-325; A. Vehtari, D. Simpson, A. Gelman, Y. Yao,
J. Gabry, J. Mach. Learn. Res. 25 (2024), 72.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxsci.smc._weights import as_log_weights, shift
from pallas_kernels.log_weight_stats import ALL_ZERO, ANY_INFINITE, log_weight_stats

_SCALE, _WEIGHT = 3, 10  # of the priors for scale and shape
_FEWEST = 5


def pareto_k(log_weights: Float[ArrayLike, " N"]) -> Float[Array, ""]:
    r"""Estimated shape k of the tail of N weights: above .7 their averages are not to be trusted.

    Args:
        log_weights: unnormalised; a NaN counts as a zero weight.

    Returns:
        k; -inf if the largest weights are all equal (there is no tail), NaN if no weight is positive or one infinite.

    Raises:
        ValueError: no vector, or fewer than 25 weights: a tail needs five.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import smc
        >>> u = (jnp.arange(4000) + 0.5) / 4000
        >>> bool(abs(smc.pareto_k(-0.5 * jnp.log(u)) - 0.5) < 0.05)
        True
    """
    log_weights = as_log_weights("smc.pareto_k", log_weights)
    tail = min(log_weights.size // 5, math.ceil(3 * math.sqrt(log_weights.size)))
    if tail < _FEWEST:
        raise ValueError(f"smc.pareto_k: log_weights must be 25 or more, got {log_weights.size}")
    return _pareto_k(log_weights, tail)


@eqx.filter_jit
def _pareto_k(log_weights, tail):
    largest, _, _, trouble = log_weight_stats(log_weights)
    clean = jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)
    weights = jnp.exp(jax.lax.top_k(clean, tail + 1)[0] - shift(largest))[::-1]
    x = weights[1:] - weights[0]  # ascending
    there = x[-1] > 0
    x = jnp.where(there, x, jnp.linspace(0.1, 1, tail, dtype=x.dtype))
    num = 30 + int(math.sqrt(tail))
    quartile = jnp.maximum(x[int(tail / 4 + 0.5) - 1], 1e-6 * x[-1])
    grid = 1 - jnp.sqrt(num / (jnp.arange(1, num + 1, dtype=x.dtype) - 0.5))
    grid = grid / (_SCALE * quartile) + 1 / x[-1]
    shapes = jnp.mean(jnp.log1p(-grid[:, None] * x[None, :]), axis=1)
    fit = tail * (jnp.log(-grid / shapes) - shapes - 1)
    rate = jnp.sum(grid * jax.nn.softmax(fit))
    shape = jnp.mean(jnp.log1p(-rate * x))
    shape = (tail * shape + 0.5 * _WEIGHT) / (tail + _WEIGHT)
    known = jnp.where(there, shape, -jnp.inf)
    return jnp.where(trouble & (ALL_ZERO | ANY_INFINITE) == 0, known, jnp.nan)


__all__ = ["pareto_k"]
