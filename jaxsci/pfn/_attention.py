r"""Attention of a set network: every token looks at the live context and at itself.

It costs O((N + Q) N): the keys are those of the context, and the token itself is one more term of the sum.

Reference: S. Müller et al. 2022, arXiv:2112.10510, section 3 and appendix E.1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

_MASKED = -1e30  # finite, so that no gradient meets infinity minus infinity


def attention(
    query: Float[Array, "T heads d"],
    key: Float[Array, "T heads d"],
    value: Float[Array, "T heads d"],
    num_context: Int[ArrayLike, ""],
    *,
    num_slots: int | None = None,
    context: tuple[Float[Array, "N heads d"], Float[Array, "N heads d"]] | None = None,
) -> Float[Array, "T heads d"]:
    r"""Attention to the live context and to the token itself; what `apply` uses unless another is given.

    $o_i = \sum_{j \in C_i} e^{s_{ij}} v_j / \sum_{j \in C_i} e^{s_{ij}}$ with $C_i = \{j < n\} \cup \{i\}$ and
    $s_{ij} = q_i \cdot k_j / \sqrt d$

    Args:
        query, key, value: of T tokens.
        num_context: n, how many slots count, cut to 0 ... N; traced.
        num_slots: N: the first tokens are the context's slots (static); all by default. Not with `context`.
        context: keys and values of N slots; all tokens are then queries.

    Returns:
        Weighted values; sums and softmax in at least float32. Differentiable in all but `num_context`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import pfn
        >>> x = jnp.arange(6.0).reshape(3, 1, 2)
        >>> print(pfn.attention(x, x, x, 0)[1], pfn.attention(x, x, x, 1, num_slots=1)[0])
        [[2. 3.]] [[0. 1.]]
    """
    slots = key.shape[0] if num_slots is None else num_slots
    keys_, values = (key[:slots], value[:slots]) if context is None else context
    num_context = jnp.clip(num_context, 0, keys_.shape[0])
    itself = jnp.arange(query.shape[0]) >= (num_context if context is None else 0)
    wide, scale = jnp.promote_types(query.dtype, jnp.float32), query.shape[-1] ** -0.5
    live = (jnp.arange(keys_.shape[0]) < num_context)[None, None]
    scores = jnp.einsum("thd,shd->hts", query, keys_, preferred_element_type=wide) * scale
    own = jnp.einsum("thd,thd->ht", query, key, preferred_element_type=wide) * scale
    scores, own = jnp.where(live, scores, _MASKED), jnp.where(itself[None], own, _MASKED)
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.max(scores, axis=-1, initial=_MASKED), own))
    weights = jnp.exp(scores - largest[..., None])
    own = jnp.exp(own - largest)
    total = jnp.sum(weights, axis=-1) + own
    out = jnp.einsum("hts,shd->thd", weights.astype(value.dtype), values, preferred_element_type=wide)
    out = out + own.T[..., None] * value.astype(wide)
    return (out / total.T[..., None]).astype(value.dtype)


__all__ = ["attention"]
