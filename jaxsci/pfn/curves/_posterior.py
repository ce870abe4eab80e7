r"""The posterior of a learning curve by simulation: what a network trained on `priors.curves` has to match.

The thirteen parameters $\xi$ of `priors.curves` (`priors.PARAMETERS`) have the density of the prior, rejection
included, times $\prod_{t \le n} N(y_t; f_\xi(t), \sigma^2)$. Walkers start at the best of many draws of the prior and
move by `stretch`; the predictive density of a later value is the mean of $N(y_t; f_\xi(t), \sigma^2)$ over their
places.

References: Domhan et al. 2015, Speeding Up Automatic Hyperparameter Optimization of Deep Neural Networks by
Extrapolation of Learning Curves; Adriaensen et al. 2023, Efficient Bayesian Learning Curve Extrapolation using
Prior-Data Fitted Networks, table 2.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import entry, status
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import KeyArray, Size, as_float, as_real
from jaxsci.pfn.curves._stretch import stretch
from jaxsci.pfn.priors import _curves as prior


class CurvePosterior(NamedTuple):
    """Draws of the parameters of a learning curve.

    Attributes:
        value: (S, 13), in the order of `priors.PARAMETERS`.
        acceptance: share of accepted moves.
        status: as of `stretch`, and non-finite input where an observed value is not finite: it does not count.
    """

    value: Float[Array, "S 13"]
    acceptance: Float[Array, ""]
    status: Int[Array, ""]


def posterior(
    key: KeyArray,
    y: Float[ArrayLike, " m"],
    num_observed: Int[ArrayLike, ""],
    *,
    preset: str = "code",
    num_walkers: Size = 100,
    num_steps: Size = 500,
    burn_in: Size = 500,
    thin: Size = 3,
    num_starts: Size = 4096,
) -> CurvePosterior:
    """Draw the parameters of a learning curve of which the first values are known; `jax.vmap` over curves.

    Args:
        key: one typed key.
        y: m values on [0, 1], of which the first n count; traced.
        num_observed: n in 0 ... m, traced.
        preset: of `priors.curves`, static.
        num_walkers: even, at least 26 = 2 x 13, static.
        num_steps, burn_in, thin: as for `stretch`, static.
        num_starts: draws of the prior, before the rejection, of which the most likely become the walkers; static.

    Returns:
        A `CurvePosterior` of num_steps x num_walkers draws.

    Raises:
        ValueError: y is no vector of at least two values, another preset, sizes that do not fit.

    No gradients.

    Example:
        >>> from jaxsci.pfn import curves, priors
        >>> curve = priors.draw_curve(jax.random.key(0), 20)
        >>> found = curves.posterior(jax.random.key(1), curve.y, 10, num_walkers=26, num_steps=10, burn_in=10)
        >>> print(found.value.shape, curves.mixture_log_density(found.value, curve.y).shape)
        (260, 13) (20,)

    References: Adriaensen et al. 2023, section 4.1 and table 2.
    """
    key, y = as_typed_key(key, "curves.posterior"), as_float(y)
    if y.ndim != 1 or y.size < 2:
        raise ValueError(f"curves.posterior: y must be a vector of at least two values, got shape {y.shape}")
    num_walkers = check_size("curves.posterior", "num_walkers", num_walkers, least=26)
    num_starts = check_size("curves.posterior", "num_starts", num_starts, least=num_walkers)
    law = prior.noise_law_of("curves.posterior", preset)
    seen = jnp.arange(y.size) < num_observed
    return _posterior(key, y, seen, law, preset, num_walkers, num_steps, burn_in, thin, num_starts)


@eqx.filter_jit
def _posterior(key, y, seen, law, preset, num_walkers, num_steps, burn_in, thin, num_starts):
    finite = jnp.isfinite(y)
    code = status.flag(jnp.any(seen & ~finite), status.NONFINITE_INPUT)
    seen = seen & finite
    y = jnp.where(seen, y, 0)
    keys = jax.random.split(key, 3)
    candidates = prior.candidates(keys[0], num_starts, y.dtype)
    log_scale = law[0] + law[1] * jax.random.normal(unrolled(keys[1]), (num_starts, 1), y.dtype)
    candidates = jnp.concatenate([candidates, log_scale.astype(y.dtype)], axis=1)
    density = Partial(bind(_log_density, preset=preset), y, seen)
    # The density of the prior does not count here: they are draws of it already.
    score = jax.vmap(lambda p: jnp.where(jnp.isfinite(prior.log_prior(p, y.size, preset)), _fit(p, y, seen), -jnp.inf))
    _, best = jax.lax.top_k(score(candidates), num_walkers)
    found = stretch(keys[2], density, candidates[best], num_steps=num_steps, burn_in=burn_in, thin=thin)
    return CurvePosterior(found.value.reshape(-1, found.value.shape[-1]), found.acceptance, found.status | code)


def _log_density(y, seen, parameters, *, preset):
    return prior.log_prior(parameters, y.size, preset) + _fit(parameters, y, seen)


def _fit(parameters, y, seen):
    return jnp.sum(jnp.where(seen, _each(parameters, y), 0))


def _each(parameters, y):
    """Log-density (m,) of each value given the parameters."""
    residual = y - prior.curve_mean(parameters, jnp.arange(1, y.size + 1))
    return -0.5 * (residual * jnp.exp(-parameters[12])) ** 2 - parameters[12] - math.log(2 * math.pi) / 2


@eqx.filter_jit
def mixture_log_density(parameters: Float[ArrayLike, "S 13"], y: Float[ArrayLike, " m"]) -> Float[Array, " m"]:
    """Log of the mean over draws of the density of each value of a curve, epoch by epoch.

    Args:
        parameters: S draws, as `posterior` gives them; traced.
        y: m values, traced.

    Returns:
        (m,); for the epochs after those observed it is the log-score of the prediction.

    Raises:
        ValueError: parameters that are not (S, 13).

    Differentiable.

    Example:
        >>> from jaxsci.pfn import curves, priors
        >>> curve = priors.draw_curve(jax.random.key(0), 20)
        >>> print(curves.mixture_log_density(curve.parameters[None], curve.y).shape)
        (20,)
    """
    parameters = as_float(parameters)
    if parameters.ndim != 2 or parameters.shape[1] != len(prior.PARAMETERS):
        raise ValueError(f"curves.mixture_log_density: parameters must be (draws, 13), got shape {parameters.shape}")
    y = as_real(y, parameters.dtype)
    return logsumexp(jax.vmap(_each, (0, None))(parameters, y), axis=0) - math.log(parameters.shape[0])


__all__ = ["CurvePosterior", "mixture_log_density", "posterior"]

entry.hold(globals(), "_log_density")
