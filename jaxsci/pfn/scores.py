r"""How good a network is: its log-density on fresh data of the prior, and its distance from an exact posterior.

The expected difference of the two log-densities, $E[\log p(y \mid D_n) - \log q_\theta(y \mid D_n)]$, is the divergence
of the exact predictive distribution from the network's, in nats. Both are taken at the same draws, so that the error of
the mean is that of the difference.

Reference: S. Müller et al. 2022, arXiv:2112.10510, section 3 (corollary 1.1) and figure 4.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import entry, keys, loops
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import KeyArray, Scalar
from jaxsci.gp import kernels
from jaxsci.pfn import _network, _predict, bars, priors


class Gap(NamedTuple):
    """A network against the exact Gaussian process; means over data sets and queries, in nats.

    Attributes:
        exact: log-density of the exact posterior predictive distribution.
        gap: by how much the network's is lower.
        error: standard error of `gap`.
        coverage: share of the targets within the network's central 90 per cent.
    """

    exact: Float[Array, ""]
    gap: Float[Array, ""]
    error: Float[Array, ""]
    coverage: Float[Array, ""]


def gp_gap(
    key: KeyArray,
    model: _predict.Model,
    kernel: kernels.Kernel,
    num_context: Int[ArrayLike, ""],
    *,
    noise: Scalar,
    max_context: int = 20,
    num_queries: int = 20,
    num_sets: int = 1024,
) -> Gap:
    """The gap of a network that was trained on a Gaussian process with a fixed kernel.

    Args:
        key: one typed key; the same for every `num_context` is best.
        model: from `train` or `load`.
        kernel, noise: of the prior (see `priors.gp`), traced.
        num_context: n, traced.
        max_context, num_queries, num_sets: slots, queries and data sets (static).

    Returns:
        `Gap`.

    Example:
        >>> import jax
        >>> from jaxsci import gp, pfn
        >>> gap = pfn.scores.gp_gap(
        ...     jax.random.key(0), pfn.load("gp-1d-small"), gp.kernels.rbf(0.2), 3,
        ...     noise=0.01, num_queries=4, num_sets=32)
        >>> print(type(gap).__name__)
        Gap
    """
    key = keys.as_typed_key(key, "scores.gp_gap")
    sizes = (("max_context", max_context), ("num_queries", num_queries), ("num_sets", num_sets))
    sizes = [check_size("scores.gp_gap", name, size) for name, size in sizes]
    return _gp_gap(key, model, kernels.as_tree(kernel), jnp.asarray(num_context), jnp.asarray(noise), *sizes)


@eqx.filter_jit
def _gp_gap(key, model, kernel, num_context, noise, slots, queries, num_sets):
    prior = priors.gp(kernel, noise=noise)

    def one(key):
        x, y = prior(key, slots + queries, model.config.num_features)
        x, asked = loops.after(x, y), y[slots:]  # two factorisations, one after the other
        law = priors.posterior(kernel, x[:slots], y[:slots], num_context, x[slots:], noise=noise)
        exact = -0.5 * ((asked - law.mean) ** 2 / law.variance + jnp.log(2 * math.pi * law.variance))
        dist = _predict.predict(model, x[:slots], y[:slots], num_context, x[slots:])
        below = bars.cdf(dist, asked)
        covered = jnp.mean((below > 0.05) & (below < 0.95), dtype=y.dtype)
        return jnp.mean(exact), jnp.mean(exact - bars.log_prob(dist, asked)), covered

    exact, gap, covered = jax.vmap(one)(keys.per_item(key, num_sets))
    return Gap(jnp.mean(exact), jnp.mean(gap), jnp.std(gap) / math.sqrt(num_sets), jnp.mean(covered))


def log_score(
    key: KeyArray,
    model: _predict.Model,
    prior: Callable,
    num_context: Int[ArrayLike, ""],
    *,
    num_points: int,
    num_sets: int = 1024,
) -> Float[Array, " num_sets"]:
    """Mean log-density of the points after the known ones, for fresh data sets of a prior.

    Args:
        key: one typed key; the same for every `num_context` is best.
        model: from `train` or `load`.
        prior: ``prior(key, num_points, num_features) -> (x, y)``.
        num_context: n, traced.
        num_points, num_sets: T and how many data sets (static).

    Returns:
        One mean a data set; higher is better.

    Example:
        >>> import jax
        >>> from jaxsci import pfn
        >>> score = pfn.scores.log_score(
        ...     jax.random.key(0), pfn.load("gp-1d-small"), pfn.priors.gp(), 2, num_points=5, num_sets=16)
        >>> print(jax.tree.leaves(score)[0].shape)
        (16,)
    """
    key = keys.as_typed_key(key, "scores.log_score")
    num_points, num_sets = (
        check_size("scores.log_score", name, size)
        for name, size in (("num_points", num_points), ("num_sets", num_sets))
    )
    prior = as_partial(prior, "scores.log_score", "prior")
    return _log_score(key, model, prior, jnp.asarray(num_context), num_points, num_sets)


@eqx.filter_jit
def _log_score(key, model, prior, num_context, num_points, num_sets):
    def one(key):
        x, y = prior(key, num_points, model.config.num_features)
        logits = _network.apply_sequence(model.params, model.config, x, y, num_context)
        if model.borders is None:
            found = jnp.take_along_axis(jax.nn.log_softmax(logits), y.astype(int)[:, None], axis=1)[:, 0]
        else:
            found = bars.log_prob(bars.distribution(model.borders, logits, full_support=model.full_support), y)
        later = jnp.arange(num_points) >= num_context
        return jnp.sum(jnp.where(later, found, 0)) / jnp.maximum(jnp.sum(later), 1)

    return jax.vmap(one)(keys.per_item(key, num_sets))


__all__ = ["Gap", "gp_gap", "log_score"]

entry.guard(globals())
