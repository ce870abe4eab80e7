r"""The attention of a prior-data fitted network: every token looks at the live context tokens and at itself.

.. math:: o_i = \sum_{j \in C \cup \{i\}} p_{ij} v_j, \qquad p_{ij} \propto e^{q_i \cdot k_j / \sqrt d}, \qquad
          C = \{j : j < n\}

A query that is no context token adds one term of its own to a softmax over the context, so a pass over N context and Q
query tokens costs (N + Q) n products, not (N + Q)^2, and the number n of live ones is an array, not a shape.

Reference: Mueller, Hollmann, Arango, Grabocka and Hutter 2022, Transformers Can Do Bayesian Inference; the running
softmax and its derivative: Dao, Fu, Ermon, Rudra and Re 2022, FlashAttention.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pallas_kernels import _dispatch
from pallas_kernels.pfn_attention._backward import reference as _backward_reference

_TAME = 1e12  # its square times the size of a head stays finite in float32


def pfn_attention(
    query: Float[Array | np.ndarray, "tokens heads size"],
    key: Float[Array | np.ndarray, "tokens heads size"],
    value: Float[Array | np.ndarray, "tokens heads size"],
    num_context: Int[Array | np.ndarray, ""] | int,
    *,
    num_slots: int | None = None,
    context: tuple[
        Float[Array | np.ndarray, "slots heads size"], Float[Array | np.ndarray, "slots heads size"]
    ] | None = None,
    implementation: str | None = None,
) -> Float[Array, "tokens heads size"]:  # fmt: skip
    r"""Attention of every token to the first `num_context` tokens and to itself.

    Two forms. Without `context` the first `num_slots` tokens are the context's slots, the others queries; slots from
    `num_context` on are dead: nobody else looks at them, their own outputs mean nothing. With ``context=(keys,
    values)``, rows that an earlier call was given for its slots, all tokens are queries: encode once, query many.

    A dead slot may hold anything, NaN included: its entries beyond 1e12 or NaN count as 0, so its output is finite,
    no other output depends on it, and its gradients are 0 where its output is not used. With ``num_context = 0``
    every token returns its own value.

    Roofline, for T tokens, n live slots, H heads of size d, b bytes a number: 4 T n d H operations and T n H
    exponentials forward, 14 T n d H backward; 4 T d H b + 2 N d H b bytes, so above n of about b times the device's
    operations a byte it is bound by arithmetic. Blocks of dead slots are not visited. On TPU the context of a head
    stays on chip (and backward all rows of a head); what does not fit there goes by the reference.

    Args:
        query, key, value: (T, H, d) of the tokens, T, H, d ≥ 1, one real floating dtype; traced.
        num_context: n, integer, clipped to 0 ... number of slots; traced.
        num_slots: N from 1 to T, how many of the first tokens are slots of the context; None is all; static. Not with
            `context`.
        context: (keys, values), each (N, H, d), N ≥ 1; traced.
        implementation: None picks by platform; "reference", "tpu", "gpu", "interpret" or "tpu_interpret"; static.

    Returns:
        (T, H, d) in the dtype of the arrays. Softmax and sums are in at least float32.

    Raises:
        ValueError: shapes that do not agree, num_slots out of range or beside a context, implementation is unknown or
            cannot run.
        TypeError: an array that is not of a real floating dtype, or of another one; num_context is no integer.

    Differentiable in reverse mode, any number of times, in query, key, value and context; the first derivative by
    kernels that compute the weights anew, further ones by the reference. Forward mode raises TypeError. Data sets in
    batches, each with its own `num_context`: ``jax.vmap``.

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels import pfn_attention
        >>> x = jnp.arange(12.0).reshape(6, 1, 2) / 10
        >>> joint = pfn_attention(x, x, x, 2, num_slots=4)
        >>> cached = pfn_attention(x[4:], x[4:], x[4:], 2, context=(x[:4], x[:4]))
        >>> joint.shape, bool(jnp.allclose(joint[4:], cached))
        ((6, 1, 2), True)

    References: Mueller et al. 2022, section 4 and appendix E; Dao et al. 2022, algorithms 1 and 4.
    """
    arrays = {"query": jnp.asarray(query), "key": jnp.asarray(key), "value": jnp.asarray(value)}
    if context is not None:
        context = tuple(jnp.asarray(x) for x in context)
        arrays |= dict(zip(("context's keys", "context's values"), context, strict=True))
    num_slots = _check(arrays, num_context, num_slots, context)
    num_context = jnp.asarray(num_context).astype(jnp.int32)
    # JAX 0.11 compiles anew what it traced while Pallas was first imported.
    _dispatch._module("_compat")
    return _compiled(*list(arrays.values())[:3], context, num_context, num_slots, implementation)


def _check(arrays, num_context, num_slots, context) -> int:
    for name, x in arrays.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"pfn_attention: {name} must have a real floating dtype, got {x.dtype}; cast it first")
        if x.dtype != arrays["query"].dtype:
            raise TypeError(
                f"pfn_attention: all arrays must have one dtype, got {arrays['query'].dtype} for query and {x.dtype} "
                f"for {name}; cast them to one"
            )
    shape = arrays["query"].shape
    if len(shape) != 3 or 0 in shape or any(arrays[name].shape != shape for name in ("key", "value")):
        raise ValueError(
            "pfn_attention: query, key and value must have one shape (tokens, heads, size) with nothing of length 0, "
            f"got {[arrays[name].shape for name in ('query', 'key', 'value')]}; use jax.vmap over leading axes"
        )
    if not jnp.issubdtype(jnp.result_type(num_context), jnp.integer):
        raise TypeError(f"pfn_attention: num_context must be an integer, got {jnp.result_type(num_context)}")
    if jnp.ndim(num_context) != 0:
        raise ValueError(
            f"pfn_attention: num_context must be a scalar, got shape {jnp.shape(num_context)}; use jax.vmap over data "
            "sets that have one each"
        )
    if context is not None:
        if num_slots is not None:
            raise ValueError(
                "pfn_attention: num_slots tells which tokens are the context and goes without `context`, got "
                f"num_slots={num_slots} and a context; leave one of them out"
            )
        slots = context[0].shape
        if len(slots) != 3 or slots[1:] != shape[1:] or slots[0] == 0 or context[1].shape != slots:
            raise ValueError(
                f"pfn_attention: the context's keys and values must have one shape (slots, {shape[1]}, {shape[2]}) "
                f"with at least one slot, got {slots} and {context[1].shape}"
            )
        return 0
    try:
        num_slots = shape[0] if num_slots is None else operator.index(num_slots)
    except TypeError as error:
        raise TypeError(
            f"pfn_attention: num_slots is static, a Python integer, got {type(num_slots).__name__}; num_context is "
            "what may be traced"
        ) from error
    if not 1 <= num_slots <= shape[0]:
        raise ValueError(f"pfn_attention: num_slots must lie between 1 and the {shape[0]} tokens, got {num_slots}")
    return num_slots


@functools.partial(jax.jit, static_argnums=(5, 6))
def _compiled(query, key, value, context, num_context, num_slots, implementation):
    keys, values = (key[:num_slots], value[:num_slots]) if context is None else context
    n = jnp.clip(num_context, 0, keys.shape[0])
    if context is None:
        token = jnp.arange(query.shape[0], dtype=jnp.int32)[:, None, None]
        dead = (token >= n) & (token < num_slots)
        query, key, value = (jnp.where(dead & _wild(x), 0, x) for x in (query, key, value))
    live = jnp.arange(keys.shape[0], dtype=jnp.int32)[:, None, None] < n
    keys, values = (jnp.where(live, x, 0) for x in (keys, values))
    # A live slot of the tokens is among the keys already; queries with a cache all add themselves.
    limits = jnp.stack([n, n if context is None else jnp.zeros_like(n)]).reshape(1, 2)
    attend = functools.partial(_attend, (query.shape[2] ** -0.5, implementation))
    heads = jax.vmap(attend, in_axes=(1, 1, 1, 1, 1, None), out_axes=1)
    return heads(query, keys, values, key, value, limits)[0]


def _wild(x):
    return ~(jnp.abs(x.astype(jnp.promote_types(x.dtype, jnp.float32))) <= _TAME)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static, *arrays):
    """(output, log of the weights' sum) of one head."""
    scale, implementation = static
    return _dispatch.run("pfn_attention", *arrays, implementation=implementation, scale=scale)


def _attend_forward(static, *arrays):
    out, log_total = _attend(static, *arrays)
    return (out, log_total), (arrays, out, log_total)


def _attend_backward(static, kept, cotangents):
    arrays, out, log_total = kept
    slope, to_log_total = cotangents
    wide = log_total.dtype
    delta = jnp.sum(slope.astype(wide) * out.astype(wide), axis=1, keepdims=True) - to_log_total
    to_query, to_key, to_value, to_own_key, to_own_value = _pull(
        static, *arrays, slope, jnp.concatenate([log_total, delta], axis=1)
    )
    return to_query, to_key, to_value, to_own_key, to_own_value, None


_attend.defvjp(_attend_forward, _attend_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pull(static, *arrays):
    scale, implementation = static
    return _dispatch.run("pfn_attention._backward", *arrays, implementation=implementation, scale=scale)


def _pull_forward(static, *arrays):
    return _pull(static, *arrays), arrays


def _pull_backward(static, arrays, cotangents):
    floats, limits = (*arrays[:5], *arrays[6:]), arrays[5]

    def again(*floats):
        return _backward_reference.call(*floats[:5], limits, *floats[5:], scale=static[0])

    slopes = jax.vjp(again, *floats)[1](cotangents)
    return (*slopes[:5], None, *slopes[5:])


_pull.defvjp(_pull_forward, _pull_backward)

__all__ = ["pfn_attention"]
