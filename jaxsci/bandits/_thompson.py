r"""Thompson sampling: draw the mean loss of every arm from its posterior and play the least.

Three conjugate families: Bernoulli losses with Beta priors, normal losses of known spread, and normal losses whose
mean and variance are both unknown (normal-inverse-gamma prior). The probability with which an arm is drawn has no
closed form. So `log_prob` is 0, that of the choice given the draw, and importance weights cannot be taken from it.

References: Thompson 1933; Agrawal and Goyal 2013, Further optimal regret bounds for Thompson sampling; Gelman et al.
2013, Bayesian Data Analysis, 3rd edition, sections 2.4, 2.5 and 3.3 (posteriors); Marsaglia and Tsang 2000, A simple
method for generating gamma variables.
"""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.bandits._moments import Moments, init_moments, learning_moments
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.policies import as_select, check_num_arms, choose_least
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind
from jaxsci.core.types import Size, float_dtype


def _policy(num_arms, select, centre, *hyper) -> Policy:
    """The three policies differ only in how they draw; `centre` is subtracted from the losses before they are
    summed."""
    return Policy(
        Partial(bind(init_moments, num_arms=num_arms), centre),
        as_select(Partial(select, *hyper)),
        learning_moments(centre),
    )


def thompson_beta(num_arms: Size, *, ones: ArrayLike = 1.0, zeros: ArrayLike = 1.0) -> Policy:
    r"""Bernoulli losses: $\theta_i \sim \mathrm{Beta}(a + \sum\ell, b + n - \sum\ell)$, the least is played.

    A loss between 0 and 1 counts as that fraction of a loss of 1.

    Args:
        num_arms: K, static.
        ones, zeros: a, b > 0, traced: the prior counts as that many plays with loss 1 and with loss 0.

    The state is `Moments`, so `discounted` and `windowed` apply. The probability of the arm has no closed form:
    log_prob is 0, and importance weights cannot be taken from it.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.thompson_beta(3)
        >>> state = policy.init(jax.random.key(0))
        >>> state = policy.update(state, policy.select(jax.random.key(1), state), 1.0)
        >>> state.total.sum().item(), state.count.sum().item()
        (1.0, 1.0)

    References: Agrawal and Goyal 2013, algorithm 1.
    """
    num_arms = check_num_arms("thompson_beta", num_arms)
    dtype = float_dtype(ones, zeros)
    ones, zeros = (jnp.asarray(v, dtype) for v in (ones, zeros))
    return _policy(num_arms, _select_beta, jnp.zeros((), dtype), ones, zeros)


def thompson_gaussian(
    num_arms: Size, *, sigma: ArrayLike = 0.25, prior_mean: ArrayLike = 0.5, prior_count: ArrayLike = 1.0
) -> Policy:
    r"""Normal losses of known spread: $\theta_i \sim N((m_0\kappa_0 + \sum\ell)/\kappa_n, \sigma^2/\kappa_n)$, where
    $\kappa_n = \kappa_0 + n$.

    Args:
        num_arms: K, static.
        sigma: standard deviation of a loss, traced.
        prior_mean, prior_count: $m_0$ and $\kappa_0 > 0$, traced: the prior counts as $\kappa_0$ plays of mean loss
        $m_0$.

    Losses may have any range; the defaults suit [0, 1]. The state is `Moments` of the losses less `prior_mean`.
    The probability of the arm has no closed form: log_prob is 0, and importance weights cannot be taken from it.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from jaxsci import bandits
        >>> costs = np.tile(np.array([0.9, 0.1], np.float32), (100, 1))
        >>> played = bandits.replay(jax.random.key(0), costs, bandits.policies.thompson_gaussian(2))
        >>> bool(played.history.action[-50:].mean() > 0.9)
        True

    References: Gelman et al. 2013, section 2.5.
    """
    num_arms = check_num_arms("thompson_gaussian", num_arms)
    dtype = float_dtype(sigma, prior_mean, prior_count)
    sigma, mean, count = (jnp.asarray(v, dtype) for v in (sigma, prior_mean, prior_count))
    return _policy(num_arms, _select_gaussian, mean, sigma, count)


def thompson_normal_inverse_gamma(
    num_arms: Size,
    *,
    prior_mean: ArrayLike = 0.5,
    prior_count: ArrayLike = 1.0,
    prior_shape: ArrayLike = 1.0,
    prior_scale: ArrayLike = 0.1,
) -> Policy:
    r"""Normal losses of unknown mean and variance: $\sigma_i^2 \sim \mathrm{IG}(\alpha_n, \beta_n)$, $\theta_i \sim
    N(m_n, \sigma_i^2/\kappa_n)$.

    With $S_1, S_2$ the sums of $\ell - m_0$ and of its square: $\kappa_n = \kappa_0 + n$, $m_n = m_0 + S_1/\kappa_n$,
    $\alpha_n = \alpha_0 + n/2$, $\beta_n = \beta_0 + (S_2 - S_1^2/\kappa_n)/2$.

    Args:
        num_arms: K, static.
        prior_mean, prior_count: $m_0$ and $\kappa_0 > 0$, traced.
        prior_shape, prior_scale: $\alpha_0, \beta_0 > 0$ of the variance, traced. A $\beta_0$ far above or below the
            true variances costs rounds, since the variance of an arm is learnt only by playing it.

    Losses may have any range; the defaults suit [0, 1]. The state is `Moments` of the losses less `prior_mean`.
    The probability of the arm has no closed form: log_prob is 0, and importance weights cannot be taken from it.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from jaxsci import bandits
        >>> costs = np.tile(np.array([0.9, 0.1], np.float32), (100, 1))
        >>> played = bandits.replay(jax.random.key(0), costs, bandits.policies.thompson_normal_inverse_gamma(2))
        >>> bool(played.history.action[-50:].mean() > 0.9)
        True

    References: Gelman et al. 2013, section 3.3.
    """
    num_arms = check_num_arms("thompson_normal_inverse_gamma", num_arms)
    dtype = float_dtype(prior_mean, prior_count, prior_shape, prior_scale)
    mean, *hyper = (jnp.asarray(v, dtype) for v in (prior_mean, prior_count, prior_shape, prior_scale))
    return _policy(num_arms, _select_normal_inverse_gamma, mean, *hyper)


def _log_gamma(key, shape: Float[Array, "*k"]) -> Float[Array, "*k"]:
    r"""Logarithms of gamma variables: Marsaglia and Tsang's rejection for shape + 1, times $U^{1/shape}$.

    At least one of five proposals is accepted with probability above 1 - 1e-6, so five are made at once, without a loop
    in which the draws of a batch would wait for the slowest. All random numbers come from one call of the generator,
    because that call is most of the compilation time.
    """
    trials = 5
    tiny = jnp.finfo(shape.dtype).tiny
    u = jax.random.uniform(unrolled(key), (2 * trials + 1, *shape.shape), shape.dtype, tiny)
    x, log_u = jnp.sqrt(2) * jax.scipy.special.erfinv(2 * u[:trials] - 1), jnp.log(u[trials:])
    d = jnp.broadcast_to(shape + 2 / 3, x.shape)
    root = 1 + x / (3 * jnp.sqrt(d))
    log_cube = 3 * jnp.log(jnp.where(root > 0, root, 1))
    accepted = (root > 0) & (log_u[:trials] < x**2 / 2 + d * (1 - root**3 + log_cube))
    first = jnp.argmax(accepted, axis=0, keepdims=True)
    return jnp.log(d[0]) + jnp.take_along_axis(log_cube, first, axis=0)[0] + log_u[trials] / shape


def _select_beta(ones, zeros, key, state: Moments, context, mask) -> Decision:
    # Sums from which a window has taken plays back may be negative by a rounding error.
    shapes = jnp.stack([ones + jnp.maximum(state.total, 0), zeros + jnp.maximum(state.count - state.total, 0)])
    gammas = _log_gamma(as_typed_key(key, "select"), shapes)
    # theta = g / (g + h) grows with log g - log h; unlike theta, that difference is never rounded to a bound.
    return choose_least(gammas[0] - gammas[1], mask)


def _select_gaussian(sigma, prior_count, key, state: Moments, context, mask) -> Decision:
    count = prior_count + state.count
    noise = jax.random.normal(as_typed_key(key, "select"), count.shape, count.dtype)
    return choose_least(state.total / count + sigma * noise / jnp.sqrt(count), mask)


def _select_normal_inverse_gamma(prior_count, prior_shape, prior_scale, key, state: Moments, context, mask) -> Decision:
    precision_key, mean_key = jax.random.split(as_typed_key(key, "select"))
    count = prior_count + state.count
    scale = prior_scale + jnp.maximum(state.squares - state.total**2 / count, 0) / 2
    sigma = jnp.exp((jnp.log(scale) - _log_gamma(precision_key, prior_shape + state.count / 2)) / 2)
    noise = jax.random.normal(unrolled(mean_key), count.shape, count.dtype)
    return choose_least(state.total / count + sigma * noise / jnp.sqrt(count), mask)


__all__ = ["thompson_beta", "thompson_gaussian", "thompson_normal_inverse_gamma"]
