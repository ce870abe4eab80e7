r"""Products at full precision, for residuals, Gram matrices and error control.

On accelerators a plain product of float32 matrices rounds its factors to fewer bits: bfloat16 on TPUs, TF32 on recent
GPUs. These functions are jax.numpy's, with `Precision.HIGHEST`, in which the factors keep all of their bits. On a CPU
they give the same numbers as the plain ones.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Inexact

_HIGHEST = jax.lax.Precision.HIGHEST


def matmul(a: Inexact[ArrayLike, "..."], b: Inexact[ArrayLike, "..."]) -> Inexact[Array, "..."]:
    """The product a b by the rules of `jnp.matmul`: of matrices, vectors or stacks of matrices."""
    return jnp.matmul(a, b, precision=_HIGHEST)


def vdot(a: Inexact[ArrayLike, "..."], b: Inexact[ArrayLike, "..."]) -> Inexact[Array, ""]:
    r"""$\sum_i \bar a_i b_i$ over all entries of two arrays of one size, as `jnp.vdot`; for pytrees see `tree.dot`."""
    return jnp.vdot(a, b, precision=_HIGHEST)


def tensordot(a: Inexact[ArrayLike, "..."], b: Inexact[ArrayLike, "..."], axes) -> Inexact[Array, "..."]:
    """Sums of products over `axes`, by the rules of `jnp.tensordot`; `axes` is static."""
    return jnp.tensordot(a, b, axes=axes, precision=_HIGHEST)


def einsum(subscripts: str, *operands: Inexact[ArrayLike, "..."]) -> Inexact[Array, "..."]:
    """Sums of products by Einstein's convention, by the rules of `jnp.einsum`; `subscripts` is static."""
    return jnp.einsum(subscripts, *operands, precision=_HIGHEST)


__all__ = ["einsum", "matmul", "tensordot", "vdot"]
