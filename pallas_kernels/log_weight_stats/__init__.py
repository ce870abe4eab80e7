r"""What a particle cloud asks of its log-weights: the largest, :math:`\sum w` and :math:`\sum w^2`, and their troubles.

From these three follow the log of the total weight, :math:`m + \log s_1`, and the effective sample size,
:math:`s_1^2 / s_2`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pallas_kernels import _dispatch
from pallas_kernels._tangent import with_tangent
from pallas_kernels.log_weight_stats.reference import ALL_ZERO, ANY_INFINITE, ANY_NAN


def log_weight_stats(
    log_weights: Float[Array | np.ndarray, "n"], *, implementation: str | None = None
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
    r"""Largest log-weight and the first two power sums of the weights relative to it.

    .. math:: m = \max_i \ell_i, \qquad s_1 = \sum_i e^{\ell_i - m}, \qquad s_2 = \sum_i e^{2 (\ell_i - m)}

    A NaN counts as :math:`-\infty`, a weight of zero. Log of the total weight: ``largest + jnp.log(total)``; effective
    sample size: ``total**2 / squares``.

    Roofline: reads n·itemsize bytes once, writes less than 2 % of that, 7 operations and one exponential an element:
    bound by memory bandwidth. On TPU a length that is no multiple of the block is first padded, which costs two more
    passes. The kernels' sums differ from the reference's in the order of addition (2e-6 relative at the most).

    Args:
        log_weights: (n,), n ≥ 1, real floating, unnormalised; traced. -inf is a weight of zero.
        implementation: None picks by platform; "reference", "tpu", "gpu", "interpret" or "tpu_interpret"; static.

    Returns:
        (largest, total, squares, trouble), 0-d. The first three have the dtype of log_weights, but at least float32.
        trouble: int32, 0 = ok, else the sum of
        1 (some log-weight is NaN; it was taken as a weight of zero),
        2 (some is +inf: largest is +inf, total and squares are NaN),
        4 (all weights are zero: largest is -inf, total and squares are 0).

    Raises:
        ValueError: log_weights is not a vector or is empty; implementation is unknown or cannot run.
        TypeError: log_weights is not real floating.

    Differentiable any number of times, in forward and reverse mode, with `largest` held constant (its derivative is
    zero, those of total and squares are taken at fixed largest). So everything that does not depend on the shift has
    its true derivative: ``largest + jnp.log(total)`` that of log-sum-exp, which is the normalised weights, and
    ``total**2 / squares`` that of the effective sample size; `largest` alone has not (there use ``jnp.max``). A weight
    of zero has slope zero. Rows of a matrix: ``jax.vmap(log_weight_stats)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels import log_weight_stats
        >>> largest, total, squares, trouble = log_weight_stats(jnp.log(jnp.array([1.0, 2.0, 4.0, 0.0])))
        >>> round(float(largest + jnp.log(total)), 4), round(float(total**2 / squares), 4), int(trouble)
        (1.9459, 2.3333, 0)

    References: Chopin and Papaspiliopoulos 2020, An Introduction to Sequential Monte Carlo, chapters 8 and 10.
    """
    x = jnp.asarray(log_weights)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"log_weight_stats: log_weights must have a real floating dtype, got {x.dtype}; cast it first")
    if x.ndim != 1 or x.size == 0:
        raise ValueError(
            f"log_weight_stats: log_weights must be a vector of at least one element, got shape {x.shape}; "
            "use jax.vmap(log_weight_stats) over leading axes"
        )
    # JAX 0.11 compiles anew what it traced while Pallas was first imported.
    _dispatch._module("_compat")
    return _compiled(x, implementation=implementation)


def _tangent(primals, slopes, *, implementation):
    (x,), (slope,) = primals, slopes
    largest = jax.lax.stop_gradient(_stats(x, implementation=implementation)[0])
    wide, slope = x.astype(largest.dtype), slope.astype(largest.dtype)
    positive = wide > -jnp.inf  # False for NaN
    weight = jnp.exp(jnp.where(positive, wide - largest, -jnp.inf))
    change = weight * jnp.where(positive, slope, 0)
    return None, jnp.sum(change), 2 * jnp.sum(weight * change), None


@with_tangent(_tangent)
def _stats(x, *, implementation):
    return _dispatch.run("log_weight_stats", x, implementation=implementation)


# jit inside: an eager call would otherwise trace every implementation anew.
_compiled = jax.jit(_stats, static_argnames="implementation")

__all__ = ["ALL_ZERO", "ANY_INFINITE", "ANY_NAN", "log_weight_stats"]
