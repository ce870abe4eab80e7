r"""Products at full precision, for residuals, Gram matrices and error control, and scaling that rounds nothing.

On accelerators a plain product of float32 matrices rounds its factors to fewer bits: bfloat16 on TPUs, TF32 on recent
GPUs. These functions are jax.numpy's, with `Precision.HIGHEST`, in which the factors keep all of their bits. On a CPU
they give the same numbers as the plain ones.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Inexact

from jaxsci.core import entry

_HIGHEST = jax.lax.Precision.HIGHEST


def matmul(a: Inexact[ArrayLike, "..."], b: Inexact[ArrayLike, "..."]) -> Inexact[Array, "..."]:
    """The product a b by the rules of `jnp.matmul`: of matrices, vectors or stacks of matrices.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import precision
        >>> print(precision.matmul(jnp.eye(2), jnp.array([1.0, 2.0])))
        [1. 2.]
    """
    return jnp.matmul(a, b, precision=_HIGHEST)


def vdot(a: Inexact[ArrayLike, "..."], b: Inexact[ArrayLike, "..."]) -> Inexact[Array, ""]:
    r"""$\sum_i \bar a_i b_i$ over all entries of two arrays of one size, as `jnp.vdot`; for pytrees see `tree.dot`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import precision
        >>> print(precision.vdot(jnp.ones(3), jnp.ones(3)))
        3.0
    """
    return jnp.vdot(a, b, precision=_HIGHEST)


def tensordot(a: Inexact[ArrayLike, "..."], b: Inexact[ArrayLike, "..."], axes) -> Inexact[Array, "..."]:
    """Sums of products over `axes`, by the rules of `jnp.tensordot`; `axes` is static.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import precision
        >>> print(precision.tensordot(jnp.ones((2, 3)), jnp.ones(3), 1))
        [3. 3.]
    """
    return jnp.tensordot(a, b, axes=axes, precision=_HIGHEST)


def einsum(subscripts: str, *operands: Inexact[ArrayLike, "..."]) -> Inexact[Array, "..."]:
    """Sums of products by Einstein's convention, by the rules of `jnp.einsum`; `subscripts` is static.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import precision
        >>> print(precision.einsum("ij,j->i", jnp.eye(2), jnp.array([1.0, 2.0])))
        [1. 2.]
    """
    return jnp.einsum(subscripts, *operands, precision=_HIGHEST)


def largest(x: Inexact[Array, "..."]) -> Inexact[Array, ""]:
    """The largest modulus of the entries, 0 where there are none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import precision
        >>> print(precision.largest(jnp.array([1.0, -3.0])))
        3.0
    """
    return jnp.max(jnp.abs(x), initial=0)


def powers_of_two(size: Inexact[Array, ""]) -> tuple[Inexact[Array, ""], Inexact[Array, ""]]:
    """The power of two that brings `size` near 1, and its inverse: scaling by them rounds nothing.

    For sums of squares and products that would over- or underflow although their result fits the dtype. Both are 1 for
    size 0. An infinite size, which has overflowed, is treated as the largest number of the dtype.

    Example:
        >>> from jaxsci.core import precision
        >>> [float(p) for p in precision.powers_of_two(jnp.float32(5.0))]
        [0.125, 8.0]
    """
    limits = jnp.finfo(size.dtype)
    exponent = jnp.frexp(jnp.where(size > 0, jnp.minimum(size, limits.max), jnp.where(size == 0, 1, limits.max)))[1]
    most = -limits.minexp
    exponent = jnp.clip(exponent, -most, most)
    return jnp.ldexp(jnp.ones_like(size), -exponent), jnp.ldexp(jnp.ones_like(size), exponent)


__all__ = ["einsum", "largest", "matmul", "powers_of_two", "tensordot", "vdot"]

entry.guard(globals())
