"""What this room asks of a distribution: `sample` and `log_prob`, as distrax and numpyro have them.

A law of a single number asked about a vector may answer with a vector, one entry for each component: they are summed.
A component of an observation that is NaN is missing: it is left out where the law keeps the component axis or is a
multivariate normal one; else the density is NaN unless all components are missing.
"""

import inspect
import math

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxsci.core.keys import unrolled

_STAND_IN = 0.5  # in the support of the usual laws; its density is computed and not used


def sample(law, key, shape=()):
    """Draws of `shape` with one key: distrax calls it `seed`, numpyro `key`."""
    seed = "seed" if "seed" in inspect.signature(law.sample).parameters else "key"
    return law.sample(sample_shape=shape, **{seed: unrolled(key)})


def log_density(law, x, num_batch: int = 0):
    """log p(x), components summed; `num_batch` leading axes are kept."""
    value = law.log_prob(x)
    return value.sum(tuple(range(num_batch, value.ndim)))


def log_observed(law, y, num_batch: int = 0):
    """log p(y) of an observation without batch axes whose NaN components are missing; 0 if all are."""
    y = jnp.asarray(y)
    if not jnp.issubdtype(y.dtype, jnp.inexact):
        return log_density(law, _broadcast(law, y, num_batch), num_batch)
    missing = jnp.isnan(y)
    if y.ndim == 1 and _is_normal(law):
        mean, covariance = _moments(law)
        marginal = _log_normal
        for _ in range(num_batch):
            marginal = jax.vmap(marginal, (0 if mean.ndim > 1 else None, 0 if covariance.ndim > 2 else None, None))
        return marginal(mean, covariance, y)
    value = law.log_prob(_broadcast(law, jnp.where(missing, _STAND_IN, y), num_batch))
    if value.ndim == num_batch + y.ndim:
        kept = jnp.where(jnp.broadcast_to(missing, value.shape), 0, value)
        return kept.sum(tuple(range(num_batch, value.ndim)))
    value = jnp.where(jnp.all(missing), 0, value)
    return jnp.where(jnp.any(missing) & ~jnp.all(missing), jnp.nan, value)


def _broadcast(law, y, num_batch):
    """`y` for each member of a batch, so that no rank is promoted inside the law."""
    return jnp.broadcast_to(y, (*law.batch_shape[:num_batch], *y.shape)) if num_batch else y


def _is_normal(law) -> bool:
    return type(law).__name__.startswith("MultivariateNormal")


def _moments(law):
    """Mean and covariance: methods of distrax, properties of numpyro, which leaves axes of length one on the latter."""
    covariance = law.covariance() if hasattr(law, "covariance") else law.covariance_matrix
    if math.prod(covariance.shape[:-2]) == 1:
        covariance = covariance.reshape(covariance.shape[-2:])
    return law.mean() if callable(law.mean) else law.mean, covariance


def _log_normal(mean, covariance, y):
    """Log-density of the components of y that are no NaN; the rows of the others are rows of the identity."""
    seen = ~jnp.isnan(y)
    gap = jnp.where(seen, jnp.where(seen, y, 0) - mean, 0)
    chol = jnp.linalg.cholesky(jnp.where(seen[:, None] & seen[None, :], covariance, jnp.eye(y.size, dtype=gap.dtype)))
    white = solve_triangular(chol, gap, lower=True)
    half_volume = jnp.log(jnp.diagonal(chol)).sum() + 0.5 * math.log(2 * math.pi) * seen.sum()
    return -0.5 * (white * white).sum() - half_volume
