r"""The bar distribution: K buckets with probabilities, uniform inside, and half-normal tails in place of the outer two.

Borders $b_0 < \dots < b_K$, widths $w_k = b_{k+1} - b_k$, $p = \mathrm{softmax}(\text{logits})$. Bounded: the density
in bucket k is $p_k / w_k$, and 0 outside. With full support the buckets 0 and K - 1 become half-normals that point
outwards from $b_1$ and $b_{K-1}$, with scales $s_L = w_0 / c$ and $s_R = w_{K-1} / c$, $c = \Phi^{-1}(3/4)$: half of
their mass lies inside the old bucket, and the whole of it stays $p_0$ and $p_{K-1}$.

Whatever concerns the upper end is computed from the upper end, by reflection: no probability is one minus another.

Reference: S. Müller, N. Hollmann, S. Pineda Arango, J. Grabocka, F. Hutter, "Transformers Can Do Bayesian Inference",
2022, arXiv:2112.10510, section 4. The tails of its published code are not followed: their moments, quantiles and
expected improvement disagree with their density.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import erf, erfc, ndtri
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import keys, tree
from jaxsci.core.keys import unrolled
from jaxsci.core.types import KeyArray, as_real

_UPPER_QUARTILE = 0.6744897501960817  # of the standard normal distribution
_HALF_NORMAL_MEAN = math.sqrt(2 / math.pi)


class BarDistribution(eqx.Module):
    """Probabilities of buckets; what a network predicts for each query. Made by `distribution`.

    Attributes:
        borders: of the K buckets, K + 1 increasing numbers.
        logits: of their probabilities, along the last axis; leading axes are queries.
        status: bits of the prediction that made it, int32; 0 = ok.
        full_support: whether the outer buckets are half-normals (static).
    """

    borders: Float[Array, " num_borders"]
    logits: Float[Array, "*batch K"]
    status: Int[Array, "..."]
    full_support: bool = eqx.field(static=True)


def distribution(
    borders: Float[ArrayLike, " num_borders"],
    logits: Float[ArrayLike, "*batch K"],
    *,
    full_support: bool = True,
    status: Int[Array, "..."] | int = 0,
) -> BarDistribution:
    """A validated `BarDistribution`.

    Args:
        borders: K + 1 increasing numbers, traced; `borders_from_sample` makes them.
        logits: K along the last axis, traced.
        full_support: half-normal tails in place of the outer buckets (static); False is bounded.
        status: bits to carry along.

    Raises:
        ValueError: shapes that do not fit, or fewer than two buckets with full support.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 3.0]), jnp.zeros(2), full_support=False)
        >>> print(float(bars.mean(dist)), float(bars.cdf(dist, 2.0)))
        1.25 0.75
    """
    borders, logits = jnp.asarray(borders), jnp.asarray(logits)
    if borders.ndim != 1 or logits.ndim < 1 or borders.shape[0] != logits.shape[-1] + 1:
        raise ValueError(
            "bars.distribution: borders must have one entry more than the last axis of logits, got shapes "
            f"{borders.shape} and {logits.shape}"
        )
    least = 2 if full_support else 1
    if logits.shape[-1] < least:
        raise ValueError(f"bars.distribution: expected at least {least} buckets, got {logits.shape[-1]}")
    return BarDistribution(borders, logits, jnp.asarray(status, jnp.int32), bool(full_support))


def checked(function: str, dist: Any) -> tuple[Array, Array]:
    """Borders and logits in one floating dtype of at least float32, or the error that says what was given instead."""
    if not isinstance(dist, BarDistribution):
        got = f"an array of shape {dist.shape}" if hasattr(dist, "shape") else type(dist).__name__
        raise TypeError(f"bars.{function}: expected a BarDistribution, got {got}; bars.distribution makes one")
    if dist.borders.ndim != 1:
        raise ValueError(
            f"bars.{function}: borders must have one axis, got shape {dist.borders.shape}; use jax.vmap over a stack "
            "of distributions"
        )
    dtype = jnp.promote_types(jnp.result_type(dist.borders, dist.logits), jnp.float32)
    return dist.borders.astype(dtype), dist.logits.astype(dtype)


def aligned(function: str, dist: BarDistribution, y: Any) -> tuple[Array, Array, Array]:
    """Borders, logits and y, the latter two with equal leading axes."""
    borders, logits = checked(function, dist)
    y = as_real(y, borders.dtype)
    try:
        shape = jnp.broadcast_shapes(y.shape, logits.shape[:-1])
    except ValueError as error:
        raise ValueError(
            f"bars.{function}: expected a shape that broadcasts with the leading axes of logits {logits.shape[:-1]}, "
            f"got {y.shape}"
        ) from error
    return borders, jnp.broadcast_to(logits, (*shape, logits.shape[-1])), jnp.broadcast_to(y, shape)


def tail_scales(borders: Array) -> tuple[Array, Array]:
    """Scales of the two half-normals."""
    return (borders[1] - borders[0]) / _UPPER_QUARTILE, (borders[-1] - borders[-2]) / _UPPER_QUARTILE


def _row(values: Array, like: Array) -> Array:
    """One entry a bucket, with leading axes of size 1."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)


def _bucket(borders: Array, y: Array) -> Array:
    """Index of the bucket of y; a border belongs to the bucket below it."""
    return jnp.clip(jnp.searchsorted(borders, y, side="left") - 1, 0, borders.shape[0] - 2)


def _entry(table: Array, k: Array) -> Array:
    return jnp.take_along_axis(table, k[..., None], axis=-1)[..., 0]


def _density_logs(borders: Array, full_support: bool) -> Array:
    """Log of the density of each bucket's own law, at the inner border for the half-normals."""
    logs = -jnp.log(jnp.diff(borders))
    if full_support:
        low, high = (jnp.log(_HALF_NORMAL_MEAN) - jnp.log(s) for s in tail_scales(borders))
        logs = logs.at[0].set(low).at[-1].set(high)
    return logs


def log_prob(dist: BarDistribution, y: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    r"""Log-density: $\log p_k - \log w_k$, in the tails $\log p_k + \log(\sqrt{2/\pi}/s) - z^2/2s^2$.

    Args:
        dist: the distribution.
        y: values that broadcast with the leading axes of the logits; traced.

    Returns:
        Log-densities; -inf outside the borders of a bounded distribution. Differentiable in y, borders and logits
        everywhere: the gradient in y is 0 inside a bucket, at its borders and where the density is 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(f"{bars.log_prob(dist, 0.5):.3f}")  # log 1/2
        -0.693
    """
    return _log_prob(dist, tree.as_arrays(y))


@eqx.filter_jit
def _log_prob(dist, y):
    borders, logits, y = aligned("log_prob", dist, y)
    k, last = _bucket(borders, y), logits.shape[-1] - 1
    out = _entry(jax.nn.log_softmax(logits), k) + _density_logs(borders, dist.full_support)[k]
    if not dist.full_support:
        return jnp.where((y >= borders[0]) & (y <= borders[-1]), out, jnp.where(jnp.isnan(y), y, -jnp.inf))
    low, high = tail_scales(borders)
    below, above = _beyond(borders, y, k, last)
    return out - 0.5 * ((below / low) ** 2 + (above / high) ** 2)


def _beyond(borders, y, k, last):
    """How far y lies in the left and in the right tail; 0 elsewhere, with gradient 0."""
    below, above = jnp.where(k == 0, borders[1] - y, 0), jnp.where(k == last, y - borders[-2], 0)
    return jnp.maximum(below, 0), jnp.maximum(above, 0)


def bucket_means(borders: Array, full_support: bool) -> Array:
    """Mean of each bucket's own law."""
    means = (borders[:-1] + borders[1:]) / 2
    if full_support:
        low, high = tail_scales(borders)
        means = means.at[0].set(borders[1] - low * _HALF_NORMAL_MEAN).at[-1].set(borders[-2] + high * _HALF_NORMAL_MEAN)
    return means


@eqx.filter_jit
def mean(dist: BarDistribution) -> Float[Array, "*batch"]:
    """The mean: of the buckets' means, by their probabilities; differentiable.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(bars.mean(dist))
        1.0
    """
    borders, logits = checked("mean", dist)
    return jnp.sum(jax.nn.softmax(logits) * _row(bucket_means(borders, dist.full_support), logits), axis=-1)


@eqx.filter_jit
def variance(dist: BarDistribution) -> Float[Array, "*batch"]:
    r"""The variance $\sum_k p_k (v_k + (m_k - \mu)^2)$, whose terms do not cancel; differentiable.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(f"{bars.variance(dist):.3f}")  # 1/3
        0.333
    """
    borders, logits = checked("variance", dist)
    inside = jnp.diff(borders) ** 2 / 12
    if dist.full_support:
        low, high = tail_scales(borders)
        inside = inside.at[0].set(low**2 * (1 - 2 / math.pi)).at[-1].set(high**2 * (1 - 2 / math.pi))
    p, means = jax.nn.softmax(logits), _row(bucket_means(borders, dist.full_support), logits)
    centre = jnp.sum(p * means, axis=-1, keepdims=True)
    return jnp.sum(p * (_row(inside, logits) + (means - centre) ** 2), axis=-1)


@eqx.filter_jit
def mode(dist: BarDistribution) -> Float[Array, "*batch"]:
    """Where the density is largest: the middle of that bucket, the inner border of a tail.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 1.0]), full_support=False)
        >>> print(bars.mode(dist))
        1.5
    """
    borders, logits = checked("mode", dist)
    places = (borders[:-1] + borders[1:]) / 2
    if dist.full_support:
        places = places.at[0].set(borders[1]).at[-1].set(borders[-2])
    density = jax.nn.log_softmax(logits) + _row(_density_logs(borders, dist.full_support), logits)
    return places[jnp.argmax(density, axis=-1)]


@eqx.filter_jit
def entropy(dist: BarDistribution) -> Float[Array, "*batch"]:
    """The differential entropy, that of the buckets and the mean of their own laws', in nats; differentiable.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(f"{bars.entropy(dist):.3f}")  # log 2
        0.693
    """
    borders, logits = checked("entropy", dist)
    own = -_density_logs(borders, dist.full_support)
    if dist.full_support:
        own = own.at[0].add(0.5).at[-1].add(0.5)
    logs = jax.nn.log_softmax(logits)
    p = jnp.exp(logs)
    return jnp.sum(p * (_row(own, logits) - jnp.where(p > 0, logs, 0)), axis=-1)


def reflect(dist: BarDistribution) -> BarDistribution:
    """The distribution of -y: what is maximised becomes what is minimised.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(bars.reflect(dist).borders)
        [-2. -1. -0.]
    """
    return BarDistribution(-dist.borders[::-1], dist.logits[..., ::-1], dist.status, dist.full_support)


def cdf(dist: BarDistribution, y: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Probability of a value below `y`, accurate where it is small.

    Args:
        dist: the distribution.
        y: values that broadcast with the leading axes of the logits; traced.

    Returns:
        Probabilities; differentiable.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(bars.cdf(dist, 0.5))
        0.25
    """
    return _cdf(dist, tree.as_arrays(y))


@eqx.filter_jit
def _cdf(dist, y):
    borders, logits, y = aligned("cdf", dist, y)
    k, last = _bucket(borders, y), logits.shape[-1] - 1
    p = jax.nn.softmax(logits)
    before, mine = _entry(_before(p), k), _entry(p, k)
    share = jnp.clip((y - borders[k]) / jnp.diff(borders)[k], 0, 1)
    if dist.full_support:
        low, high = (s * math.sqrt(2) for s in tail_scales(borders))
        below, above = _beyond(borders, y, k, last)
        # a border belongs to the bucket below it: with two buckets the left tail comes first
        share = jnp.where(k == last, erf(above / high), share)
        share = jnp.where(k == 0, erfc(below / low), share)
    return before + mine * share


def _before(p: Array) -> Array:
    """Probability of the buckets below each."""
    return jnp.concatenate([jnp.zeros_like(p[..., :1]), jnp.cumsum(p, axis=-1)[..., :-1]], axis=-1)


def survival(dist: BarDistribution, y: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Probability of a value above `y`, accurate where it is small; see `cdf`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(bars.survival(dist, 0.5))
        0.75
    """
    return _survival(dist, tree.as_arrays(y))


@eqx.filter_jit
def _survival(dist, y):
    return _cdf(reflect(dist), -jnp.asarray(y))


def quantile(dist: BarDistribution, u: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    r"""The value below which the probability is u: linear inside a bucket, $b_1 + s_L\Phi^{-1}(u / 2p_0)$ in the tail.

    Args:
        dist: the distribution.
        u: probabilities that broadcast with the leading axes of the logits; traced.

    Returns:
        Values; infinite at 0 and 1 with full support, NaN outside [0, 1]. Differentiable in all arguments, so that
        ``quantile(dist, uniform)`` is a draw that can be differentiated.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.zeros(2), full_support=False)
        >>> print(bars.quantile(dist, 0.25))
        0.5
    """
    return _quantile(dist, tree.as_arrays(u))


@eqx.filter_jit
def _quantile(dist, u):
    borders, logits, u = aligned("quantile", dist, u)
    upper = u > 0.5
    mirrored = _lower_quantile(-borders[::-1], logits[..., ::-1], jnp.where(upper, 1 - u, 0.5), dist.full_support)
    value = jnp.where(upper, -mirrored, _lower_quantile(borders, logits, jnp.where(upper, 0.5, u), dist.full_support))
    return jnp.where((u >= 0) & (u <= 1), value, jnp.nan)


def _lower_quantile(borders, logits, u, full_support):
    """Quantiles of probabilities up to a half."""
    p = jax.nn.softmax(logits)
    before = _before(p)
    k, last = jnp.sum(before[..., 1:] < u[..., None], axis=-1), logits.shape[-1] - 1
    mine = jnp.maximum(_entry(p, k), jnp.finfo(p.dtype).tiny)
    share = jnp.clip((u - _entry(before, k)) / mine, 0, 1)
    value = borders[k] + jnp.diff(borders)[k] * share
    if full_support:
        low, high = tail_scales(borders)
        right = borders[-2] + high * ndtri(jnp.where(k == last, (1 + share) / 2, 0.5))
        left = borders[1] + low * ndtri(jnp.where(k == 0, share / 2, 0.5))
        value = jnp.where(k == 0, left, jnp.where(k == last, right, value))
    return value


def sample(key: KeyArray, dist: BarDistribution, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
    """Independent draws: a bucket by its logits, then a value by its own law, so that rare buckets are drawn too.

    Args:
        key: one typed key.
        dist: the distribution.
        shape: leading axes of the result (static); the leading axes of the logits follow.

    Returns:
        Draws. For draws that can be differentiated see `quantile`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.pfn import bars
        >>> dist = bars.distribution(jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, -jnp.inf]), full_support=False)
        >>> print(bool(bars.sample(jax.random.key(0), dist, (100,)).max() <= 1))
        True
    """
    return _sample(keys.as_typed_key(key, "bars.sample"), dist, tuple(shape))


@eqx.filter_jit
def _sample(key, dist, shape):
    borders, logits = checked("sample", dist)
    key_bucket, key_inside, key_tail = jax.random.split(unrolled(key), 3)
    k = jax.random.categorical(key_bucket, logits, shape=(*shape, *logits.shape[:-1]))
    value = borders[k] + jnp.diff(borders)[k] * jax.random.uniform(key_inside, k.shape, borders.dtype)
    if not dist.full_support:
        return value
    away = jnp.abs(jax.random.normal(key_tail, k.shape, borders.dtype))
    low, high = tail_scales(borders)
    value = jnp.where(k == logits.shape[-1] - 1, borders[-2] + high * away, value)
    return jnp.where(k == 0, borders[1] - low * away, value)
