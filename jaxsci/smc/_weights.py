r"""Log-weights: one pass gives their largest, the two sums that all else follows from, and what is wrong with them.

With $m = \max_i \ell_i$, $s_1 = \sum_i e^{\ell_i - m}$ and $s_2 = \sum_i e^{2(\ell_i - m)}$ the logarithm of the total
is $m + \log s_1$ and the effective sample size $s_1^2 / s_2$ (Kong, Liu and Wong 1994).
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import status
from pallas_kernels.log_weight_stats import ALL_ZERO, ANY_INFINITE, ANY_NAN, log_weight_stats


def as_log_weights(function: str, log_weights: ArrayLike) -> Float[Array, " N"]:
    """A vector of at least one log-weight, in float32 or wider."""
    log_weights = jnp.asarray(log_weights)
    if log_weights.ndim != 1 or log_weights.size == 0:
        raise ValueError(
            f"{function}: log_weights must be a vector of at least one number, got shape {log_weights.shape}; "
            "use jax.vmap over clouds"
        )
    return log_weights.astype(jnp.promote_types(log_weights.dtype, jnp.float32))


def shift(largest: Float[Array, ""]) -> Float[Array, ""]:
    """What is subtracted before exponentials are taken: the largest, or 0 where that is infinite."""
    return jnp.where(jnp.isfinite(largest), largest, 0)


def code(trouble: Int[Array, ""]) -> Int[Array, ""]:
    """The bits that `log_weight_stats` tells of trouble, as house statuses."""
    return (
        status.flag(trouble & ANY_NAN != 0, status.NONFINITE_INPUT)
        | status.flag(trouble & ANY_INFINITE != 0, status.NONFINITE_RESULT)
        | status.flag(trouble & ALL_ZERO != 0, status.DEGENERATE)
    )


def log_mean_exp(log_weights: Float[ArrayLike, " N"]) -> Float[Array, ""]:
    r"""$\log \frac1N \sum_i e^{\ell_i}$: the logarithm of the mean of numbers given by their logarithms.

    Of the log-densities that N particles give an observation it is the log-density of a forecast; of the weights of
    a cloud the log of an estimated ratio of constants.

    Args:
        log_weights: N numbers; -inf is a zero.

    Returns:
        A number; -inf if all are -inf, NaN if one is NaN or +inf. Differentiable; the gradient is that of softmax, and
        0 where all are -inf.

    Raises:
        ValueError: no vector, or an empty one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import smc
        >>> print(smc.log_mean_exp(jnp.log(jnp.array([1.0, 2.0, 6.0]))).round(4), round(float(jnp.log(3.0)), 4))
        1.0986 1.0986
    """
    log_weights = as_log_weights("smc.log_mean_exp", log_weights)
    largest, total, _, trouble = log_weight_stats(log_weights)
    value = log_total(largest, total) - jnp.log(jnp.asarray(log_weights.size, log_weights.dtype))
    return jnp.where(trouble & (ANY_NAN | ANY_INFINITE) != 0, jnp.nan, value)


def log_total(largest: Float[Array, ""], total: Float[Array, ""]) -> Float[Array, ""]:
    """m + log s1; -inf without mass."""
    some = largest > -jnp.inf
    return jnp.where(some, shift(largest) + jnp.log(jnp.where(some, total, 1)), -jnp.inf)


def effective_sample_size(log_weights: Float[ArrayLike, " N"]) -> Float[Array, ""]:
    r"""$(\sum_i w_i)^2 / \sum_i w_i^2$, between 1 and N; 0 if no weight is positive, NaN if one is +inf.

    Args:
        log_weights: log w_i, unnormalised; a NaN counts as a zero weight.

    Returns:
        A number. Differentiable.

    Raises:
        ValueError: no vector, or an empty one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import smc
        >>> print(smc.effective_sample_size(jnp.log(jnp.array([1.0, 1.0, 2.0, 0.0]))).round(4))
        2.6667

    References: A. Kong, J. S. Liu, W. H. Wong, J. Amer. Statist. Assoc. 89 (1994), 278-288.
    """
    _, total, squares, trouble = log_weight_stats(as_log_weights("smc.effective_sample_size", log_weights))
    return ess(total, squares, trouble)


def ess(total: Array, squares: Array, trouble: Array) -> Float[Array, ""]:
    """s1^2 / s2; 0 without mass, NaN if a weight is infinite."""
    some = trouble & (ALL_ZERO | ANY_INFINITE) == 0
    value = jnp.where(some, total, 0) ** 2 / jnp.where(some, squares, 1)
    return jnp.where(trouble & ANY_INFINITE != 0, jnp.nan, value)


__all__ = ["effective_sample_size", "log_mean_exp"]
