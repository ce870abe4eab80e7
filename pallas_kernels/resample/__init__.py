r"""Systematic resampling: which particle each slot of the next cloud is a copy of, exact for clouds of any size.

In offspring units particle i owns the interval :math:`[P_{i-1}, P_i)`, :math:`P_i = M \sum_{j \le i} W_j`, and the
slot k holds the particle in whose interval :math:`k + u` falls. Float32 sums of many weights are not monotone and off
by whole offspring from a million particles on; here they are integers (`_fixed`).

Reference: Murray, Lee and Jacob 2016, Parallel Resampling in the Particle Filter, on the bias of float32 prefix sums.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pallas_kernels import _dispatch
from pallas_kernels.resample.reference import ancestors, prefix

_MOST = 2**30


def resample(
    log_weights: Float[Array | np.ndarray, "n"],
    offset: Float[Array | np.ndarray, ""] | float,
    num_out: int,
    *,
    implementation: str | None = None,
) -> Int[Array, " num_out"]:
    r"""Systematic resampling: the ancestor of each of `num_out` slots.

    .. math:: a_k = \min \{i : k + u < P_i\}, \qquad P_i = M \sum_{j \le i} W_j, \qquad W = \mathrm{softmax}(\ell)

    Particle i gets floor(M W_i) or ceil(M W_i) slots, M W_i in the mean over u uniform on [0, 1); one of weight zero
    gets none. In float32 that holds at ten million particles too: sums are exact in units of 2^-31, so all that is
    rounded is each weight by itself. The reference and the kernels give equal ancestors, except where their
    exponentials differ in the last bit and a slot lies within that of a border.

    Roofline, float32, n = num_out: 24 bytes a particle (the log-weight read three times, the end of its share written
    and read, the ancestor written), about 60 operations: bound by memory bandwidth on GPU (with a binary search of
    log2(n) cached reads a slot). On TPU two kernels find the ends of the shares and spread the ancestors over
    their slots; between them XLA scatters one index for each particle, which is the bound.

    Args:
        log_weights: (n,), n ≥ 1, real floating, unnormalised; traced. NaN counts as -inf, a weight of zero.
        offset: u in [0, 1), the one random number; traced.
        num_out: M, from 1 to 2^30, may differ from n; static.
        implementation: None picks by platform; "reference", "tpu", "gpu", "interpret" or "tpu_interpret"; static.

    Returns:
        (num_out,) int32, never decreasing. Where all weights are zero or one is infinite, k modulo n: every particle
        is kept (`log_weight_stats` tells of both).

    Raises:
        ValueError: shapes, num_out out of range, implementation is unknown or cannot run.
        TypeError: log_weights is not real floating, num_out is not a Python integer.

    Not differentiable: ancestors are integers, constants to a derivative. Rows of a matrix: ``jax.vmap``.

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels.resample import resample
        >>> resample(jnp.log(jnp.array([0.5, 0.0, 0.375, 0.125])), 0.25, 8).tolist()
        [0, 0, 0, 0, 2, 2, 2, 3]

    References: Kitagawa 1996, Monte Carlo Filter and Smoother for Non-Gaussian Nonlinear State Space Models, appendix;
    Murray, Lee and Jacob 2016.
    """
    x = jnp.asarray(log_weights)
    num_out = _check(x, offset, num_out)
    offset = jnp.asarray(offset, jnp.float32)
    # JAX 0.11 compiles anew what it traced while Pallas was first imported.
    _dispatch._module("_compat")
    return _compiled(*jax.lax.stop_gradient((x, offset)), num_out, implementation)


def _check(x, offset, num_out) -> int:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"resample: log_weights must have a real floating dtype, got {x.dtype}; cast it first")
    if x.ndim != 1 or not 0 < x.size <= _MOST:
        raise ValueError(
            f"resample: log_weights must be a vector of 1 to 2**30 elements, got shape {x.shape}; "
            "use jax.vmap(resample) over leading axes"
        )
    if jnp.ndim(offset) != 0:
        raise ValueError(
            f"resample: offset must be a scalar, got shape {jnp.shape(offset)}; for a number a slot (stratified) use "
            "prefix and ancestors of pallas_kernels.resample"
        )
    try:
        num_out = operator.index(num_out)
    except TypeError as error:
        raise TypeError(
            f"resample: num_out is static, a Python integer, got {type(num_out).__name__}; draw the most slots that "
            "may be needed, and mask"
        ) from error
    if not 0 < num_out <= _MOST:
        raise ValueError(f"resample: num_out must lie between 1 and 2**30, got {num_out}")
    return num_out


@functools.partial(jax.jit, static_argnums=(2, 3))
def _compiled(x, offset, num_out, implementation):
    return _dispatch.run("resample", x, offset, implementation=implementation, num_out=num_out)


__all__ = ["ancestors", "prefix", "resample"]
