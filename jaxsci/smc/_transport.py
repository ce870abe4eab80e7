"""Resamplers of other forms than ``(key, log_weights, num_out) -> ancestors``, told apart by their type.

An index form says of which particle each place is a copy; a transport form makes new particles, of which none need be
a copy of anything (a transport plan moves each to a weighted mean of many). `run` takes both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsci.smc import _checks, _weights
from pallas_kernels.log_weight_stats import ALL_ZERO, ANY_INFINITE, log_weight_stats


class Transport(NamedTuple):
    """A resampler in transport form: ``smc.run(..., resampler=smc.Transport(function))``.

    It must leave what it estimates unchanged in the mean, or log Z loses its law. Gradients flow through it, weights
    included. There are no ancestors: those recorded are each particle itself, and as descents are lost the single-run
    variances answer with COALESCED.

    Attributes:
        function: ``function(key, log_weights, particles) -> (particles, log_weights)``: from N particles and their
            log-weights, of mean weight 1, N others with log-weights up to a constant.
    """

    function: Callable[..., Any]


class Informed(NamedTuple):
    """A resampler that also sees the particles and the input they are to move with; told apart by its type.

    Attributes:
        function: ``function(key, log_weights, num_out, particles, input) -> ancestors``.
    """

    function: Callable[..., Any]


def transported(transport: Transport, key, cloud):
    """(particles, log-weights of mean weight 1, int32 bits) of a cloud; weights without a law become equal ones."""
    num = cloud.log_weights.shape[0]
    made = transport.function(key, cloud.log_weights, cloud.particles)
    if not (isinstance(made, tuple) and len(made) == 2):
        raise TypeError(
            f"smc.run: a Transport must return (particles, log_weights), got {type(made).__name__}; a resampler that "
            "returns ancestors is handed over without Transport"
        )
    particles, log_weights = jax.tree.map(jnp.asarray, made[0]), jnp.asarray(made[1])
    _checks.check_vector("the resampler", "log_weights", log_weights, num)
    _checks.check_cloud("the resampler", particles, num, cloud.particles)
    log_weights = log_weights.astype(cloud.log_weights.dtype)
    largest, total, _, trouble = log_weight_stats(log_weights)
    good = trouble & (ALL_ZERO | ANY_INFINITE) == 0
    mean = _weights.log_total(largest, jnp.where(good, total, 1)) - jnp.log(jnp.asarray(num, log_weights.dtype))
    clean = jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)
    return particles, jnp.where(good, clean - jnp.where(good, mean, 0), 0), _weights.code(trouble)


__all__ = ["Transport"]
