r"""Block-diagonal Hadamard transform: $y = x\,H$, in a block $H_{ij} = (-1)^{\mathrm{popcount}(i \wedge j)} / \sqrt B$.

Symmetric, orthonormal and therefore its own inverse. A block of size B is the Kronecker product of blocks of at most
16, so that the transform is a few small products with tables of signs; signs are exact in every dtype, and the one
factor $1/\sqrt B$ comes last.

Reference: J. J. Sylvester, "Thoughts on inverse orthogonal matrices", Phil. Mag. 34 (1867), 461-475.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core import precision
from jaxsci.core.types import as_float

_LARGEST = 16  # of one factor


def _signs(size: int) -> np.ndarray:
    i = np.arange(size)
    bits = np.bitwise_count(i[:, None] & i[None])
    return 1.0 - 2.0 * (bits & 1)


def check_block(function: str, block: int, size: int, axis: int) -> None:
    """Refuse a block that is no power of two, or that does not divide an axis: a rotation is never left out silently.

    Raises:
        ValueError: with the largest block that would do.
    """
    if isinstance(block, bool) or not isinstance(block, (int, np.integer)) or block < 1 or block & (block - 1):
        raise ValueError(f"{function}: block must be a power of two, got {block!r}")
    if size % block:
        raise ValueError(
            f"{function}: block {block} must divide the {size} entries of axis {axis}; the largest that does is "
            f"{size & -size}"
        )


@eqx.filter_jit
def hadamard_transform(x: Float[ArrayLike, "..."], block: int = 128, axis: int = -1) -> Float[Array, "..."]:
    r"""Rotate consecutive blocks of an axis by the orthonormal Hadamard matrix.

    Args:
        x: any shape, traced; computed in at least float32.
        block: entries of a block, a power of two that divides the axis (static).
        axis: static.

    Returns:
        The shape and dtype of `x`; applying it twice gives `x` again. Linear, so its gradient is itself.

    Raises:
        ValueError: a block that is no power of two or does not divide the axis, or an axis that `x` does not have.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.quantization import hadamard_transform
        >>> print(hadamard_transform(jnp.array([1.0, 0.0, 0.0, 0.0]), 2))
        [0.70710677 0.70710677 0.         0.        ]
    """
    x = as_float(x)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"hadamard_transform: axis must lie within the {x.ndim} axes of x, got {axis}")
    axis %= x.ndim
    check_block("hadamard_transform", block, x.shape[axis], axis)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    factors, left = [], block
    while left > 1:
        factors.append(min(left, _LARGEST))
        left //= factors[-1]
    y = x.astype(wide).reshape(*x.shape[:axis], x.shape[axis] // block, *factors, *x.shape[axis + 1 :])
    for i, size in enumerate(factors):
        at = axis + 1 + i
        y = jnp.moveaxis(precision.tensordot(y, jnp.asarray(_signs(size), wide), ((at,), (0,))), -1, at)
    return (y * wide.type(block**-0.5)).reshape(x.shape).astype(x.dtype)


__all__ = ["check_block", "hadamard_transform"]
