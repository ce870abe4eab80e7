r"""The network: a set of pairs (x, y) and queries x in, logits of buckets out; a configuration of `nn.transformer`.

$h_i = W_x \tilde x_i + b_x + [i \text{ is context}](W_y \tilde y_i + b_y)$, post-norm blocks without positions, and a
head $W_2\,\mathrm{gelu}(W_1 h + b_1) + b_2$ on the queries. A token looks at every live context token and at itself:
queries never see each other, nothing depends on the order of the context, and no softmax is empty, not even without
context. $\tilde x$ and $\tilde y$ have mean 0 and variance 1 over the configured ranges.

The number of context points is traced: N slots are computed, of which the first `num_context` count. What stands in
the others has no influence, whatever it is.

Reference: S. Müller et al. 2022, arXiv:2112.10510, section 3 and appendix E.1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci import nn
from jaxsci.core import entry, keys, tree
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import KeyArray, as_real, float_dtype
from jaxsci.nn import layers
from pallas_kernels import pfn_attention


class Config(eqx.Module):
    """Sizes and input ranges of a network; all static. Made by `config`.

    Attributes:
        num_features: entries of x.
        num_buckets: logits of a query.
        x_range: smallest and largest input of the prior, by which x is standardised; None takes x as it is.
        y_range: likewise of the targets.
        transformer: the blocks.
    """

    num_features: int = eqx.field(static=True)
    num_buckets: int = eqx.field(static=True)
    x_range: tuple[float, float] | None = eqx.field(static=True)
    y_range: tuple[float, float] | None = eqx.field(static=True)
    transformer: nn.transformer.Config


class Context(NamedTuple):
    """An encoded context: what queries need of it.

    Attributes:
        keys: of every layer and slot.
        values: likewise.
        num_context: how many slots count, int32.
    """

    keys: Float[Array, "layers N heads d"]
    values: Float[Array, "layers N heads d"]
    num_context: Int[Array, ""]


def config(
    num_features: int,
    num_buckets: int,
    *,
    width: int = 64,
    num_layers: int = 3,
    num_heads: int = 4,
    hidden: int | None = None,
    x_range: tuple[float, float] | None = (0.0, 1.0),
    y_range: tuple[float, float] | None = None,
) -> Config:
    """A validated configuration; every argument is static.

    Args:
        num_features, num_buckets: F and K.
        width, num_layers, num_heads: of the transformer.
        hidden: width of the feed-forward parts and of the head; twice the width by default.
        x_range, y_range: ends of the intervals over which inputs and targets are standardised, as if uniform there;
            None takes them as they are.

    Raises:
        ValueError: a size below 1, a width that is no multiple of the heads, or a range without length.

    Example:
        >>> from jaxsci import pfn
        >>> cfg = pfn.config(1, 200)
        >>> params = pfn.init(jax.random.key(0), cfg)
        >>> print(sum(a.size for a in jax.tree.leaves(params)))
        134792
    """
    num_features = check_size("pfn.config", "num_features", num_features)
    num_buckets = check_size("pfn.config", "num_buckets", num_buckets)
    ranges = [_range(name, given) for name, given in (("x_range", x_range), ("y_range", y_range))]
    hidden = 2 * check_size("pfn.config", "width", width) if hidden is None else hidden
    blocks = nn.transformer.config(width, num_layers, num_heads, hidden=hidden, order="post", activation="gelu")
    return Config(num_features, num_buckets, *ranges, blocks)


def _range(name, given):
    if given is None:
        return None
    low, high = map(float, given)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"pfn.config: {name} must be two finite numbers, the smaller first, or None, got {given}")
    return low, high


def init(key: KeyArray, cfg: Config, *, dtype=None) -> dict[str, PyTree]:
    """Parameters: uniform in ±1/sqrt(inputs), the last product of both parts of a block zero.

    Args:
        key: one typed key.
        cfg: from `config` (static).
        dtype: of the parameters; JAX's default floating dtype when None (static).

    Returns:
        A dict with ``encoder_x``, ``encoder_y``, ``head_1`` and ``head_2``, each with ``kernel`` and ``bias``, and the
        blocks under ``transformer``.

    Example:
        >>> import jax
        >>> from jaxsci import pfn
        >>> params = pfn.init(jax.random.key(0), pfn.config(1, 10, width=8, num_layers=1))
        >>> print(sum(a.size for a in jax.tree.leaves(params)))
        946
    """
    dtype = jnp.dtype(dtype) if dtype is not None else jnp.result_type(float)
    return _init(keys.as_typed_key(key, "pfn.init"), cfg, dtype)


@eqx.filter_jit
def _init(key, cfg: Config, dtype):
    width, hidden = cfg.transformer.width, cfg.transformer.hidden
    shapes = {
        "encoder_x": (cfg.num_features, width),
        "encoder_y": (1, width),
        "head_1": (width, hidden),
        "head_2": (hidden, cfg.num_buckets),
    }
    params = {}
    for i, (name, shape) in enumerate(shapes.items()):
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(key, i))
        bound = shape[0] ** -0.5
        kernel = jax.random.uniform(kernel_key, shape, dtype, -bound, bound)
        params[name] = {"kernel": kernel, "bias": jax.random.uniform(bias_key, shape[1:], dtype, -bound, bound)}
    blocks = jax.random.fold_in(key, len(shapes))
    params["transformer"] = nn.transformer.init(blocks, cfg.transformer, kind="torch", zero_residual=True, dtype=dtype)
    return params


def _attend(num_context, hook, q, k, v, mask, *, num_slots, cached):
    """Attention as the transformer calls it; with a cache the rows of `k` before the queries' own are the context's."""
    del mask
    if num_slots == 0:
        return v  # nothing but the token itself is there
    if cached or q.shape[0] < k.shape[0]:  # the last block asks for the queries alone
        return hook(q, k[num_slots:], v[num_slots:], num_context, context=(k[:num_slots], v[:num_slots]))
    return hook(q, k, v, num_context, num_slots=num_slots)


def _features(function, cfg: Config, x, name):
    """Inputs standardised and padded to the features that the network has."""
    x = jnp.asarray(x)
    if x.ndim != 2 or x.shape[1] > cfg.num_features or x.shape[1] == 0:
        raise ValueError(
            f"{function}: {name} must have shape (points, features) with at most the {cfg.num_features} features the "
            f"network was made for, got {x.shape}; a single example has no batch axis: use jax.vmap"
        )
    x = _standard(x, cfg.x_range)
    return jnp.pad(x, ((0, 0), (0, cfg.num_features - x.shape[1])))


def _standard(x, interval):
    if interval is None:
        return x
    low, high = interval
    return (x - (low + high) / 2) * (math.sqrt(12) / (high - low))


def _points(function, cfg: Config, x, y, num_context):
    """Context points as the network takes them: standardised, floating, zero in the slots that do not count."""
    y = jnp.asarray(y)
    if y.ndim != 1 or jnp.ndim(x) != 2 or jnp.shape(x)[0] != y.shape[0]:
        raise ValueError(
            f"{function}: x and y must have shapes (N, features) and (N,), got {jnp.shape(x)} and {y.shape}"
        )
    if jnp.shape(num_context) != ():
        raise ValueError(f"{function}: num_context must be a scalar, got shape {jnp.shape(num_context)}")
    dtype = float_dtype(x, y)
    x, y = _features(function, cfg, as_real(x, dtype), "x"), _standard(y.astype(dtype), cfg.y_range)
    return x, y, jnp.clip(jnp.asarray(num_context, jnp.int32), 0, y.shape[0])


def _embed(params, dense, x, y, num_context):
    h = dense("encoder_x", x, params["encoder_x"]["kernel"], params["encoder_x"]["bias"])
    if y is None:
        return h
    live = (jnp.arange(y.shape[0]) < num_context)[:, None]
    values = jnp.where(live, y[:, None], 0).astype(x.dtype)
    added = dense("encoder_y", values, params["encoder_y"]["kernel"], params["encoder_y"]["bias"])
    head = h[: y.shape[0]] + jnp.where(live, added, 0)
    return head if y.shape[0] == h.shape[0] else jnp.concatenate([head, h[y.shape[0] :]])


def _head(params, dense, h):
    h = layers.gelu(dense("head_1", h, params["head_1"]["kernel"], params["head_1"]["bias"]))
    logits = dense("head_2", h, params["head_2"]["kernel"], params["head_2"]["bias"])
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _lowered(params, compute_dtype, *arrays):
    """Parameters and tokens in the dtype of the products."""
    if compute_dtype is None:
        return params, *arrays
    dtype = jnp.dtype(compute_dtype)
    return tree.cast(params, dtype), *(a.astype(dtype) for a in arrays)


def _hook(given):
    return as_partial(pfn_attention if given is None else given, "pfn", "attention")


def apply(
    params: PyTree,
    cfg: Config,
    x: Float[ArrayLike, "N F"],
    y: Float[ArrayLike, " N"],
    num_context: Int[ArrayLike, ""],
    x_query: Float[ArrayLike, "Q F"],
    *,
    dense: Callable = layers.affine,
    attention: Callable | None = None,
    compute_dtype=None,
) -> Float[Array, "Q K"]:
    """Logits of the buckets for Q queries given one data set; batches by `jax.vmap`.

    Args:
        params: from `init`.
        cfg: the same configuration (static).
        x, y: N context slots; fewer features than the network has count as features in the middle of their range.
        num_context: how many of them count, the first ones; traced, cut to 0 ... N.
        x_query: the queries; none of them influences another.
        dense: ``dense(name, x, kernel, bias)``, see `nn.transformer` (static unless a Partial).
        attention: a function like `pallas_kernels.pfn_attention`, which is the default (static unless a Partial).
        compute_dtype: of products and activations, e.g. ``jnp.bfloat16`` (static); None keeps that of the inputs.
            Softmaxes, norms and the logits stay in at least float32.

    Returns:
        Float[Q, K], differentiable in params, x, y and x_query.

    Raises:
        ValueError: shapes that do not fit, or more features than the network has.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import pfn
        >>> cfg = pfn.config(1, 10, width=16)
        >>> params = pfn.init(jax.random.key(0), cfg)
        >>> print(pfn.apply(params, cfg, jnp.ones((5, 1)), jnp.ones(5), 3, jnp.ones((2, 1))).shape)
        (2, 10)
    """
    return _apply(
        params,
        cfg,
        *tree.as_arrays((x, y, num_context, x_query)),
        dense=dense,
        attention=attention,
        compute_dtype=compute_dtype,
    )


@eqx.filter_jit
def _apply(params, cfg, x, y, num_context, x_query, *, dense, attention, compute_dtype):
    x, y, num_context = _points("pfn.apply", cfg, x, y, num_context)
    slots = y.shape[0]
    x = jnp.where((jnp.arange(slots) < num_context)[:, None], x, 0)
    queries = _features("pfn.apply", cfg, as_real(x_query, x.dtype), "x_query")
    params, tokens, y = _lowered(params, compute_dtype, jnp.concatenate([x, queries]), y)
    h = _embed(params, dense, tokens, y, num_context)
    attend = Partial(bind(_attend, num_slots=slots, cached=False), num_context, _hook(attention))
    last = queries.shape[0] or None
    h = nn.transformer.apply(params["transformer"], cfg.transformer, h, dense=dense, attention=attend, num_last=last)
    return _head(params, dense, h[h.shape[0] - queries.shape[0] :])


def apply_sequence(
    params: PyTree,
    cfg: Config,
    x: Float[ArrayLike, "T F"],
    y: Float[ArrayLike, " T"],
    num_context: Int[ArrayLike, ""],
    *,
    max_context: int | None = None,
    dense: Callable = layers.affine,
    attention: Callable | None = None,
    compute_dtype=None,
) -> Float[Array, "T K"]:
    """Logits at every point of one series: the first `num_context` points are the context of all that follow.

    What training uses: rows n, n + 1, ... of ``apply(params, cfg, x, y, n, x)``, at half the cost.

    Args:
        params, cfg: as in `apply`.
        x, y: T points, all finite; y counts only in the first `num_context`.
        num_context: n, traced; cut to 0 ... max_context.
        max_context: the most context that will ever be asked for (static), which saves attention; T by default.
        dense, attention, compute_dtype: as in `apply`.

    Returns:
        Float[T, K]; the rows before n are of context points and mean nothing.

    Raises:
        ValueError: shapes that do not fit, or more features than the network has.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import pfn
        >>> cfg = pfn.config(1, 10, width=8, num_layers=1)
        >>> params = pfn.init(jax.random.key(0), cfg)
        >>> print(pfn.apply_sequence(params, cfg, jnp.zeros((5, 1)), jnp.zeros(5), 3).shape)
        (5, 10)
    """
    given, options = tree.as_arrays((x, y, num_context)), (dense, attention, compute_dtype)
    return _apply_sequence(params, cfg, *given, max_context, *options)


@eqx.filter_jit
def _apply_sequence(params, cfg, x, y, num_context, max_context, dense, attention, compute_dtype):
    num = jnp.shape(y)[0] if jnp.ndim(y) else 0
    slots = num if max_context is None else min(check_size("pfn.apply_sequence", "max_context", max_context), num)
    x, y, num_context = _points("pfn.apply_sequence", cfg, x, y, num_context)
    num_context = jnp.minimum(num_context, slots)
    params, x, y = _lowered(params, compute_dtype, x, y)
    h = _embed(params, dense, x, y, num_context)
    attend = Partial(bind(_attend, num_slots=slots, cached=False), num_context, _hook(attention))
    h = nn.transformer.apply(params["transformer"], cfg.transformer, h, dense=dense, attention=attend)
    return _head(params, dense, h)


def encode(
    params: PyTree,
    cfg: Config,
    x: Float[ArrayLike, "N F"],
    y: Float[ArrayLike, " N"],
    num_context: Int[ArrayLike, ""],
    *,
    dense: Callable = layers.affine,
    attention: Callable | None = None,
    compute_dtype=None,
) -> Context:
    """What queries need of a context: encode once, `query` as often as wanted. Arguments as those of `apply`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import pfn
        >>> cfg = pfn.config(1, 10, width=8, num_layers=1)
        >>> params = pfn.init(jax.random.key(0), cfg)
        >>> context = pfn.encode(params, cfg, jnp.zeros((4, 1)), jnp.zeros(4), 3)
        >>> print(pfn.query(params, cfg, context, jnp.ones((2, 1))).shape)
        (2, 10)
    """
    return _encode(
        params, cfg, *tree.as_arrays((x, y, num_context)), dense=dense, attention=attention, compute_dtype=compute_dtype
    )


@eqx.filter_jit
def _encode(params, cfg, x, y, num_context, *, dense, attention, compute_dtype):
    x, y, num_context = _points("pfn.encode", cfg, x, y, num_context)
    x = jnp.where((jnp.arange(y.shape[0]) < num_context)[:, None], x, 0)
    params, x, y = _lowered(params, compute_dtype, x, y)
    h = _embed(params, dense, x, y, num_context)
    attend = Partial(bind(_attend, num_slots=y.shape[0], cached=False), num_context, _hook(attention))
    blocks = cfg.transformer
    empty = jnp.zeros((blocks.num_layers, y.shape[0], blocks.num_heads, blocks.width // blocks.num_heads), h.dtype)
    cache = nn.transformer.Cache(empty, empty, jnp.int32(0))
    _, found = nn.transformer.apply(params["transformer"], blocks, h, cache=cache, dense=dense, attention=attend)
    return Context(found.keys, found.values, num_context)


def query(
    params: PyTree,
    cfg: Config,
    context: Context,
    x_query: Float[ArrayLike, "Q F"],
    *,
    dense: Callable = layers.affine,
    attention: Callable | None = None,
    compute_dtype=None,
) -> Float[Array, "Q K"]:
    """Logits for Q queries given an encoded context, equal to those of `apply`.

    Args:
        params, cfg: those that encoded it.
        context: from `encode`.
        x_query: the queries.
        dense, attention, compute_dtype: as in `apply`.

    Returns:
        Float[Q, K].

    Raises:
        ValueError: more features than the network has.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import pfn
        >>> cfg = pfn.config(1, 10, width=8, num_layers=1)
        >>> params = pfn.init(jax.random.key(0), cfg)
        >>> context = pfn.encode(params, cfg, jnp.zeros((4, 1)), jnp.zeros(4), 3)
        >>> print(pfn.query(params, cfg, context, jnp.ones((2, 1))).shape)
        (2, 10)
    """
    return _query(
        params, cfg, *tree.as_arrays((context, x_query)), dense=dense, attention=attention, compute_dtype=compute_dtype
    )


@eqx.filter_jit
def _query(params, cfg, context, x_query, *, dense, attention, compute_dtype):
    queries = _features("pfn.query", cfg, jnp.asarray(x_query, float_dtype(x_query)), "x_query")
    params, queries = _lowered(params, compute_dtype, queries)
    h, slots = _embed(params, dense, queries, None, None), context.keys.shape[1]
    room = ((0, 0), (0, queries.shape[0]), (0, 0), (0, 0))  # the queries' own keys and values follow the context's
    cache = nn.transformer.Cache(jnp.pad(context.keys, room), jnp.pad(context.values, room), jnp.int32(slots))
    attend = Partial(bind(_attend, num_slots=slots, cached=True), context.num_context, _hook(attention))
    h, _ = nn.transformer.apply(params["transformer"], cfg.transformer, h, cache=cache, dense=dense, attention=attend)
    return _head(params, dense, h)


__all__ = ["Config", "Context", "apply", "apply_sequence", "config", "encode", "init", "query"]

entry.hold(globals(), "_attend")
