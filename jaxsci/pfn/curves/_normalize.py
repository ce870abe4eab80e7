r"""A metric on [0, 1], higher is better, whatever its bounds and direction.

With hard bounds $l_h \le x \le u_h$, which may be infinite, soft bounds $l_s < u_s$ between which most values lie, and
the logistic function S,

$$z(x) = 2\frac{x - l_s}{u_s - l_s} - 1, \qquad g(x) = \frac{S(z(x)) - S(z(l_h))}{S(z(u_h)) - S(z(l_h))},$$

reflected to $1 - g$ for a metric that is minimised. Quantiles map through the inverse; a density of g(x) times
$|g'(x)|$ is a density of x.

==================  =============  =============================  =========
metric              hard           soft                           minimised
==================  =============  =============================  =========
accuracy            (0, 1)         (0, 1)                         no
error rate          (0, 1)         (0, 1)                         yes
log-loss            (0, infinity)  (0, its value before training)  yes
==================  =============  =============================  =========

Reference: Adriaensen et al. 2023, Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks,
appendix A; the sign of the offset in its exponent is a misprint.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxsci.core import status
from jaxsci.core.types import as_real, as_scalar, float_dtype


class Normalizer(NamedTuple):
    """Bounds and direction of a metric; made by `normalizer`.

    Attributes:
        hard: bounds of the metric, which may be infinite.
        soft: bounds between which most values lie.
        minimize: whether lower is better.
    """

    hard: tuple[Float[Array, ""], Float[Array, ""]]
    soft: tuple[Float[Array, ""], Float[Array, ""]]
    minimize: Bool[Array, ""]


class Normalized(NamedTuple):
    """Values of a metric on [0, 1].

    Attributes:
        value: g(x).
        log_slope: log |g'(x)|, to be added to a log-density of g(x) to have one of x.
        status: of each value: out of range, or non-finite input for a NaN; such values are moved to the nearest
            bound, a NaN to the worst value. Out of range too where the bounds are in the wrong order.
    """

    value: Float[Array, "..."]
    log_slope: Float[Array, "..."]
    status: Int[Array, "..."]


def normalizer(
    *,
    hard: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
    soft: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
    minimize: bool | Bool[Array, ""] = False,
) -> Normalizer:
    """What is known of a metric.

    Args:
        hard: (lowest, highest) possible value, -inf and inf included; traced.
        soft: finite bounds between which most values lie, traced. For a loss, 0 and its value before training.
        minimize: lower is better, traced.

    Returns:
        A `Normalizer`; bounds in the wrong order show in the status of `normalize`.

    Raises:
        ValueError: what is no pair of scalars.

    Example:
        >>> from jaxsci.pfn import curves
        >>> loss = curves.normalizer(hard=(0.0, jnp.inf), soft=(0.0, 2.3), minimize=True)
        >>> print(*(f"{v:.3f}" for v in curves.normalize(loss, jnp.asarray([2.3, 0.5, 0.0])).value))
        0.368 0.872 1.000

    References: Adriaensen et al. 2023, appendix A.
    """
    for name, pair in (("hard", hard), ("soft", soft)):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"curves.normalizer: {name} must be a pair (low, high), got {pair!r}")
    name = "curves.normalizer"
    dtype = float_dtype(tuple(hard), tuple(soft))
    bounds = [tuple(as_scalar(part, name, n, dtype) for part in p) for n, p in (("hard", hard), ("soft", soft))]
    return Normalizer(*bounds, jnp.asarray(minimize, bool))


@eqx.filter_jit
def normalize(normalizer: Normalizer, x: Float[ArrayLike, "..."]) -> Normalized:
    """g(x) with the logarithm of its slope.

    Args:
        normalizer: from the function of that name.
        x: values of the metric, of any shape; traced.

    Returns:
        A `Normalized` of the shape of x.

    Differentiable in x and the finite bounds.

    Example:
        >>> from jaxsci.pfn import curves
        >>> found = curves.normalize(curves.normalizer(), jnp.asarray([0.25, 1.5]))
        >>> print(*(f"{v:.3f}" for v in found.value), found.status)
        0.235 1.000 [ 0 64]
    """
    (low, high), (soft_low, soft_high), minimize = normalizer
    x = as_real(x, float_dtype(x, normalizer.hard))
    low, high, soft_low, soft_high = (b.astype(x.dtype) for b in (low, high, soft_low, soft_high))
    ordered = (low < high) & (soft_low < soft_high) & jnp.isfinite(soft_high - soft_low)
    nan = jnp.isnan(x)
    code = status.flag(nan, status.NONFINITE_INPUT) | status.flag(
        ~nan & ~((x >= low) & (x <= high)), status.OUT_OF_RANGE
    )
    code = code | status.flag(~ordered, status.OUT_OF_RANGE)
    inside = _within(jnp.where(nan, jnp.where(minimize, high, low), x), low, high)
    width = jnp.where(ordered, soft_high - soft_low, 1)
    z = 2 * (inside - soft_low) / width - 1
    least, most = _ends(low, high, soft_low, width)
    span = jnp.where(ordered, most - least, 1)
    value = _within((jax.nn.sigmoid(z) - least) / span, 0, 1)
    log_slope = jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z) + jnp.log(2 / (width * span))
    return Normalized(jnp.where(minimize, 1 - value, value), log_slope, code)


@eqx.filter_jit
def denormalize(normalizer: Normalizer, value: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The metric whose `normalize` is `value`: quantiles of a prediction in the units of the metric.

    Args:
        normalizer: from the function of that name.
        value: on [0, 1], of any shape; what lies beyond, as tails of a prediction may, is moved to the bound. Traced.

    Returns:
        Values between the hard bounds, which may be infinite at 0 or 1.

    Differentiable inside (0, 1).

    Example:
        >>> from jaxsci.pfn import curves
        >>> accuracy = curves.normalizer()
        >>> print(f"{curves.denormalize(accuracy, curves.normalize(accuracy, 0.9).value):.3f}")
        0.900
    """
    (low, high), (soft_low, soft_high), minimize = normalizer
    value = as_real(value, float_dtype(value, normalizer.hard))
    low, high, soft_low, soft_high = (b.astype(value.dtype) for b in (low, high, soft_low, soft_high))
    value = jnp.clip(jnp.where(minimize, 1 - value, value), 0, 1)
    width = soft_high - soft_low
    least, most = _ends(low, high, soft_low, width)
    share = least + (most - least) * value
    return jnp.clip(soft_low + width * (1 + jnp.log(share) - jnp.log1p(-share)) / 2, low, high)


def _within(x, low, high):
    """x moved into [low, high]; unlike that of `jnp.clip`, the gradient at a bound is 1."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def _ends(low, high, soft_low, width):
    """The logistic function at the hard bounds: 0 or 1 at infinite ones, without a slope of infinity times 0 there."""

    def at(end):
        finite = jnp.isfinite(end)
        z = 2 * (jnp.where(finite, end, 0) - soft_low) / width - 1
        return jnp.where(finite, jax.nn.sigmoid(z), jnp.where(end > 0, 1, 0))

    return at(low), at(high)


__all__ = ["Normalized", "Normalizer", "denormalize", "normalize", "normalizer"]
