r"""Attention: $o_i = \sum_j \mathrm{softmax}_j(q_i\cdot k_j/\sqrt d)\,v_j$ over the keys that a mask lets through.

Reference: A. Vaswani et al. 2017, arXiv:1706.03762, section 3.2; grouped heads: J. Ainslie et al. 2023,
arXiv:2305.13245.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxsci.core import entry


def attention(
    q: Float[Array, "T heads d"],
    k: Float[Array, "S groups d"],
    v: Float[Array, "S groups d"],
    mask: Bool[Array, "#T S"] | None = None,
) -> Float[Array, "T heads d"]:
    """Softmax attention of one example; what the transformer uses unless another function of this form is given.

    Args:
        q: queries.
        k, v: keys and values; their heads are shared by groups of heads / groups queries each.
        mask: True where a query may look; None is everywhere. A query that may look nowhere gets 0.

    Returns:
        Weighted values; the softmax is computed in at least float32.

    Raises:
        ValueError: the heads of `q` are no multiple of those of `k`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.nn.attention import attention, causal_mask
        >>> x = jnp.arange(6.0).reshape(3, 1, 2)
        >>> print(attention(x, x, x, causal_mask(3))[0].round(3))
        [[0. 1.]]
    """
    (num, heads, size), groups = q.shape, k.shape[1]
    if heads % groups:
        raise ValueError(f"attention: the heads of q must be a multiple of those of k, got {heads} and {groups}")
    wide = jnp.promote_types(q.dtype, jnp.float32)
    q = q.reshape(num, groups, heads // groups, size)
    scores = jnp.einsum("tghd,sgd->ghts", q, k, preferred_element_type=wide) * size**-0.5
    if mask is not None:
        scores = jnp.where(jnp.broadcast_to(mask, scores.shape[-2:])[None, None], scores, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    # a row without any key has no largest score, and weights that sum to 0
    weights = jnp.exp(scores - jnp.where(jnp.isfinite(largest), largest, 0))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1)
    out = jnp.einsum("ghts,sgd->tghd", weights.astype(v.dtype), v)
    return out.reshape(num, heads, v.shape[-1])


def causal_mask(num: int) -> Bool[Array, "T T"]:
    """The mask by which each position sees itself and those before it.

    Example:
        >>> from jaxsci import nn
        >>> print(nn.attention.causal_mask(3).astype(int))
        [[1 0 0]
         [1 1 0]
         [1 1 1]]
    """
    return jnp.tri(num, dtype=bool)


__all__ = ["attention", "causal_mask"]

entry.guard(globals())
