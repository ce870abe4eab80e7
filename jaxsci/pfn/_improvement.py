r"""What Bayesian optimisation asks of a bar distribution, in closed form; the largest value is sought.

Expected improvement over $\tau$ is $\sum_k p_k r_k$ with $r_k = E_k[(y - \tau)^+]$: inside a bucket
$(b_{k+1} - c)((b_{k+1} - \tau) + (c - \tau)) / 2w_k$ with $c = \mathrm{clip}(\tau, b_k, b_{k+1})$; in a tail from the
half-normal's $G(a, s) = E[(s|Z| - a)^+] = 2s(\varphi(a/s) - (a/s)\Phi(-a/s))$.

Reference: S. Müller, M. Feurer, N. Hollmann, F. Hutter, "PFNs4BO: In-Context Learning for Bayesian Optimization", 2023,
arXiv:2305.17535, section 3; expected improvement: P. I. Frazier 2018, arXiv:1807.02811, section 4.1.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core import status, tree
from jaxsci.core.types import as_real
from jaxsci.pfn import _bars
from jaxsci.pfn._bars import BarDistribution


def expected_improvement(dist: BarDistribution, best: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Expected amount by which a value exceeds `best`; to minimise, `reflect` the distribution and negate `best`.

    Args:
        dist: the distribution.
        best: largest value so far; broadcasts with the leading axes of the logits; traced.

    Returns:
        Values >= 0; differentiable, with slope -survival(best) in `best`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(float(bars.expected_improvement(dist, 1.0)))
        0.25
    """
    return _expected_improvement(dist, tree.as_arrays(best))


@eqx.filter_jit
def _expected_improvement(dist, best):
    borders, logits, best = _bars.aligned("expected_improvement", dist, best)
    tau = best[..., None]
    low, high = (b.reshape((1,) * best.ndim + b.shape) for b in (borders[:-1], borders[1:]))
    c = jnp.clip(tau, low, high)
    gains = (high - c) * ((high - tau) + (c - tau)) / (2 * (high - low))
    if dist.full_support:
        s_low, s_high = _bars.tail_scales(borders)
        means = _bars.bucket_means(borders, True)
        right = jnp.where(best < borders[-2], means[-1] - best, _excess(best - borders[-2], s_high))
        room = borders[1] - best
        left = jnp.where(room > 0, means[0] - best + _excess(room, s_low), 0)
        gains = gains.at[..., -1].set(right).at[..., 0].set(left)
    return jnp.sum(jax.nn.softmax(logits) * jnp.maximum(gains, 0), axis=-1)


def _excess(a, scale):
    """E[(scale |Z| - a)^+] for a >= 0; smaller a count as 0."""
    x = jnp.where(a >= 0, a, 0) / scale  # its slope is 1 at 0, that of a maximum one half
    return 2 * scale * jnp.maximum(jnp.exp(-0.5 * x**2) / math.sqrt(2 * math.pi) - x * ndtr(-x), 0)


def probability_of_improvement(dist: BarDistribution, best: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Probability of a value above `best`, which is `survival`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(bars.probability_of_improvement(dist, 1.5))
        0.25
    """
    return _bars.survival(dist, best)


def upper_confidence_bound(dist: BarDistribution, beta: ArrayLike = 1.0) -> Float[Array, "..."]:
    r"""The quantile at $\Phi(\beta)$: of a normal distribution its mean and beta standard deviations.

    Args:
        dist: the distribution.
        beta: how many; broadcasts with the leading axes of the logits; traced. Negative ones are lower bounds.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(f"{bars.upper_confidence_bound(dist):.2f}")  # the quantile at 0.84
        1.68
    """
    return _upper_confidence_bound(dist, tree.as_arrays(beta))


@eqx.filter_jit
def _upper_confidence_bound(dist, beta):
    borders, _ = _bars.checked("upper_confidence_bound", dist)
    return _bars.quantile(dist, ndtr(as_real(beta, borders.dtype)))


def mixture(
    dists: BarDistribution, borders: Float[Array, " num_borders"], *, weights: Float[Array, " M"] | None = None
) -> BarDistribution:
    """The mean of M distributions, on other borders: each new bucket gets the probability that lies in it.

    Args:
        dists: a stack: both `borders` and `logits` with a leading axis M, as `jax.vmap` over models gives it.
        borders: of the result, traced; the distributions' own, if all have the same, lose nothing.
        weights: of the M distributions, traced; equal by default; they need not sum to 1.

    Returns:
        A `BarDistribution` with the leading axes of ``logits[0]`` and the support of `dists`; what lies beyond the
        outer borders goes into the outer buckets. Its status is that of all M together.

    Raises:
        ValueError: `dists` is no stack, or there are not M weights.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> borders = jnp.array([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
        >>> dists = jax.vmap(lambda b: bars.distribution(b, jnp.zeros(2), full_support=False))(borders)
        >>> print(bars.mean(bars.mixture(dists, jnp.array([0.0, 1.0, 2.0, 3.0]))).round(2))
        1.5
    """
    if dists.borders.ndim != 2 or dists.logits.ndim < 2 or dists.borders.shape[0] != dists.logits.shape[0]:
        raise ValueError(
            "bars.mixture: expected a stack of distributions, borders and logits with one leading axis, got shapes "
            f"{dists.borders.shape} and {dists.logits.shape}"
        )
    num = dists.borders.shape[0]
    weights = jnp.ones(num) if weights is None else jnp.asarray(weights)
    if weights.shape != (num,):
        raise ValueError(f"bars.mixture: weights must have shape ({num},), got {weights.shape}")
    return _mixture(dists, jnp.asarray(borders), weights)


@eqx.filter_jit
def _mixture(dists, borders, weights):
    num = dists.borders.shape[0]
    single = BarDistribution(dists.borders[0], dists.logits[0], dists.status, dists.full_support)
    dtype = _bars.checked("mixture", single)[0].dtype
    borders, batch = borders.astype(dtype), dists.logits.ndim - 2
    inner = borders[1:-1].reshape((-1,) + (1,) * batch)

    def masses(dist):
        """Probabilities of the new buckets, from whichever end is nearer."""
        edge = jnp.zeros((1, *dist.logits.shape[:-1]), dtype)
        below = jnp.concatenate([edge, _bars.cdf(dist, inner), edge + 1])
        above = jnp.concatenate([edge + 1, _bars.survival(dist, inner), edge])
        return jnp.moveaxis(jnp.where(below[1:] < 0.5, jnp.diff(below, axis=0), -jnp.diff(above, axis=0)), 0, -1)

    unmarked = BarDistribution(dists.borders, dists.logits, jnp.zeros(num, jnp.int32), dists.full_support)
    each = jax.vmap(masses)(unmarked)
    shares = (weights / jnp.sum(weights)).astype(dtype).reshape((-1,) + (1,) * (each.ndim - 1))
    p = jnp.sum(shares * each, axis=0)
    logits = jnp.log(jnp.maximum(p, jnp.finfo(dtype).tiny))
    code = jnp.bitwise_or.reduce(jnp.atleast_1d(dists.status).reshape(-1))
    code = code | status.flag(~tree.all_finite((borders, logits)), status.NONFINITE_RESULT)
    return BarDistribution(borders, logits, code, dists.full_support)
