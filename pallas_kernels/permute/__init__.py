r"""Permutation of particles: row k of what comes out is row :math:`a_k` of what goes in, caches included.

Reference: Murray, Lee and Jacob 2016, Parallel Resampling in the Particle Filter, section 4.3 (survivors keep their
places, so that only the rows of the others are written).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from pallas_kernels import _dispatch
from pallas_kernels._tangent import with_tangent
from pallas_kernels.permute import reference
from pallas_kernels.permute.reference import settle


def permute(
    x: Shaped[Array | np.ndarray, "n *row"],
    ancestors: Int[Array | np.ndarray, " m"],
    *,
    in_place: bool = False,
    implementation: str | None = None,
) -> Shaped[Array, "m *row"]:
    r"""Rows of x by index: :math:`y_k = x_{a_k}`.

    Roofline, d bytes a row: 2 m d + 4 m bytes, no operation: bound by memory bandwidth. In place it is 2 m' d + 4 m
    with the m' rows that change their place, where x may be overwritten (as in the carry of a loop; otherwise it is
    copied first). Rows of less than 2 KiB are gathered by XLA on every platform, and on TPU also those of more than
    1 MiB.

    Args:
        x: (n, ...), any dtype but keys; traced.
        ancestors: (m,) integers in [0, n), traced; others are clipped to it.
        in_place: the ancestors are such that ``ancestors[ancestors] == ancestors`` and m = n, as `settle` makes them:
            no row that is read is one that changes. If they are not, the result is undefined. Static.
        implementation: None picks by platform; "reference", "tpu", "gpu", "interpret" or "tpu_interpret"; static.

    Returns:
        (m, ...) of the dtype of x.

    Raises:
        ValueError: shapes, implementation is unknown or cannot run.
        TypeError: ancestors are no integers, or x holds keys.

    Differentiable in x, any number of times, in forward and reverse mode. Batches: ``jax.vmap``.

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels import permute
        >>> permute(jnp.array([[1, 2], [3, 4], [5, 6]]), jnp.array([2, 2, 0])).tolist()
        [[5, 6], [5, 6], [1, 2]]

    References: Murray, Lee and Jacob 2016.
    """
    x, ancestors = jnp.asarray(x), jnp.asarray(ancestors)
    if not jnp.issubdtype(ancestors.dtype, jnp.integer):
        raise TypeError(f"permute: ancestors must be integers, got {ancestors.dtype}")
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise TypeError("permute: x holds typed keys; index them, x[ancestors], or permute jax.random.key_data(x)")
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"permute: x must have at least one row along its leading axis, got shape {x.shape}")
    if ancestors.ndim != 1 or ancestors.size == 0:
        raise ValueError(
            f"permute: ancestors must be a vector of at least one integer, got shape {ancestors.shape}; "
            "use jax.vmap(permute) over leading axes"
        )
    if in_place and ancestors.shape[0] != x.shape[0]:
        raise ValueError(
            f"permute: in place there are as many ancestors as rows, got {ancestors.shape[0]} and {x.shape[0]}"
        )
    if implementation is None and reference.row_bytes(x) < reference.SMALL:
        return reference.rows(x, ancestors)  # all implementations would do just that
    # JAX 0.11 compiles anew what it traced while Pallas was first imported.
    _dispatch._module("_compat")
    return _compiled(x, ancestors.astype(jnp.int32), in_place=bool(in_place), implementation=implementation)[0]


def _tangent(primals, slopes, **_):
    return (None if slopes[0] is None else reference.rows(slopes[0], primals[1]),)


@with_tangent(_tangent)
def _permute(x, ancestors, *, in_place, implementation):
    ancestors = jnp.clip(ancestors, 0, x.shape[0] - 1)
    return (_dispatch.run("permute", x, ancestors, implementation=implementation, in_place=in_place),)


# jit inside: an eager call would otherwise trace every implementation anew.
_compiled = jax.jit(_permute, static_argnames=("in_place", "implementation"))

__all__ = ["permute", "settle"]
