r"""Smallest and largest element in one pass: :math:`(\min_i x_i, \max_i x_i)`.

The smallest op of the package and the pattern for the others: shape checks, dispatch, gradient.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from pallas_kernels import _dispatch


def extrema(
    x: Num[Array | np.ndarray, "n"], *, implementation: str | None = None
) -> tuple[Num[Array, ""], Num[Array, ""]]:
    r"""Smallest and largest element of a vector, read once: :math:`(\min_i x_i, \max_i x_i)`.

    A NaN anywhere makes both results NaN, as in ``jnp.min`` and ``jnp.max``. Which zero is returned among zeros of
    both signs is not specified. The kernels take float32, bfloat16 and int32, the GPU kernel float64 too; other real
    dtypes run by the reference.

    Roofline: reads n·itemsize bytes, writes less than 2 % of that, 5 operations an element (two comparisons, the NaN
    test and its select, a count): bound by memory bandwidth on every device. On TPU a length that is not a multiple
    of the block is first padded, which costs two more passes.

    Args:
        x: (n,), n ≥ 1, any real dtype; traced.
        implementation: None picks by platform; "reference", "tpu", "gpu", "interpret" or "tpu_interpret"; static.

    Returns:
        (smallest, largest), 0-d arrays in the dtype of x.

    Raises:
        ValueError: x is not a vector or is empty; implementation is unknown or cannot run.
        TypeError: x is Boolean, complex or not numeric.

    Differentiable in reverse mode for floating x; elements that tie share the slope evenly, as in ``jnp.min``; with a
    NaN in x every slope is NaN. The second derivative is zero. Forward mode (``jax.jvp``) raises TypeError: there use
    ``jnp.min`` and ``jnp.max``. Rows of a matrix: ``jax.vmap(extrema)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels import extrema
        >>> low, high = extrema(jnp.array([3.0, -1.0, 2.0]))
        >>> float(low), float(high)
        (-1.0, 3.0)
    """
    x = jnp.asarray(x)
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(f"extrema: x must have a real dtype, got {x.dtype}; cast it first")
    if x.ndim != 1 or x.size == 0:
        raise ValueError(
            f"extrema: x must be a vector of at least one element, got shape {x.shape}; "
            "flatten with x.ravel(), or use jax.vmap(extrema) over the leading axes"
        )
    # JAX 0.11 compiles anew what it traced while Pallas was first imported.
    _dispatch._module("_compat")
    return _compiled(x, implementation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _extrema(x, implementation):
    return _dispatch.run("extrema", x, implementation=implementation)


def _forward(x, implementation):
    low, high = _extrema(x, implementation)
    return (low, high), (x, low, high)


def _backward(implementation, residuals, slopes):
    x, low, high = residuals
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return (None,)
    return (_shared(x, low, slopes[0]) + _shared(x, high, slopes[1]),)


def _shared(x, value, slope):
    """`slope` spread evenly over the elements equal to `value`; NaN everywhere if `value` is NaN."""
    hit = x == value
    share = slope / jnp.sum(hit, dtype=jnp.int32).astype(x.dtype)
    # Written out, because XLA may turn 0 * (slope / 0) into 0.
    return jnp.where(jnp.isnan(value), value, jnp.where(hit, share, 0))


_extrema.defvjp(_forward, _backward)

# jit inside: an eager call would otherwise trace every implementation anew.
_compiled = jax.jit(_extrema, static_argnums=1)

__all__ = ["extrema"]
