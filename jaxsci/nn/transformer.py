r"""A transformer of blocks $h \leftarrow h + \mathrm{attention}(N h)$, $h \leftarrow h + \mathrm{feed\ forward}(N h)$.

With ``order="pre"`` the norm N stands before each part, as written, and once more at the end; with ``"post"`` it
stands after each sum, $h \leftarrow N(h + f(h))$. The feed-forward part is $W_2\,\phi(W_1 h)$, or with "swiglu"
$W_2\,(\mathrm{silu}(W_g h)\odot W_1 h)$. Embeddings and heads are the caller's: the transformer maps T vectors to T
vectors of the same width.

Every product goes through ``dense(name, x, kernel, bias)``, attention through ``attention(q, k, v, mask)``: quantised
products and kernels enter by these two arguments, and a kernel may be any record that `dense` understands.

Reference: A. Vaswani et al. 2017, arXiv:1706.03762; pre-norm: R. Xiong et al. 2020, arXiv:2002.04745; gated unit:
N. Shazeer 2020, arXiv:2002.05202.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxsci.core import entry, keys, status
from jaxsci.core.protocols import SequenceModel
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import KeyArray, Size
from jaxsci.nn import layers
from jaxsci.nn._transformer_config import Cache, Config, config, empty_cache
from jaxsci.nn.attention import attention as _attention

_FEED_FORWARD = {"gelu": layers.gelu, "relu": jax.nn.relu, "silu": jax.nn.silu}
_INITS = ("lecun", "torch", "normal")


def _products(cfg: Config) -> dict[str, tuple[int, int]]:
    """Name -> (inputs, outputs) of the products of one block."""
    shared = cfg.width // cfg.num_heads * cfg.num_groups
    gate = {"gate": (cfg.width, cfg.hidden)} if cfg.activation == "swiglu" else {}
    return {
        "query": (cfg.width, cfg.width),
        "key": (cfg.width, shared),
        "value": (cfg.width, shared),
        "out": (cfg.width, cfg.width),
        **gate,
        "up": (cfg.width, cfg.hidden),
        "down": (cfg.hidden, cfg.width),
    }


def init(
    key: KeyArray, cfg: Config, *, kind: str = "lecun", zero_residual: bool = False, dtype=None
) -> dict[str, PyTree]:
    """Parameters.

    Args:
        key: one typed key.
        cfg: from `config` (static).
        kind: of the kernels: ``"lecun"``: normal of variance 1 / inputs; ``"torch"``: uniform in ±1/sqrt(inputs),
            biases too; ``"normal"``: normal of standard deviation 0.02. Other biases are 0, scales of norms 1, learned
            positions normal of standard deviation 0.02.
        zero_residual: start the last product of both parts of a block (``out`` and ``down``) at 0, bias included: the
            blocks are then the identity (with "post", a norm).
        dtype: of the parameters; JAX's default floating dtype when None (static).

    Returns:
        A dict with ``layer_i`` for every block, in it ``query``, ``key``, ``value``, ``out``, ``up``, ``down`` (with
        swiglu ``gate``), each a dict of ``kernel`` Float[inputs, outputs] and ``bias`` (None without), and the norms
        ``norm_1`` and ``norm_2`` with ``scale`` and ``bias``; ``norm`` at the end with order "pre"; ``positions``.

    Raises:
        ValueError: an unknown `kind`.

    Example:
        >>> import jax
        >>> from jaxsci import nn
        >>> params = nn.transformer.init(jax.random.key(0), nn.transformer.config(8, 1, 2))
        >>> print(sum(array.size for array in jax.tree.leaves(params)))
        888
    """
    if kind not in _INITS:
        raise ValueError(f"transformer.init: kind must be one of {', '.join(_INITS)}, got {kind!r}")
    dtype = jnp.dtype(dtype) if dtype is not None else jnp.result_type(float)
    return _init(keys.as_typed_key(key, "transformer.init"), cfg, kind, zero_residual, dtype)


@eqx.filter_jit
def _init(key, cfg: Config, kind, zero_residual, dtype):
    def product(key, name, inputs, outputs):
        kernel_key, bias_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
        bias = jnp.zeros(outputs, dtype)
        if zero_residual and name in ("out", "down"):
            kernel = jnp.zeros((inputs, outputs), dtype)
        elif kind == "torch":
            bound = inputs**-0.5
            kernel = jax.random.uniform(kernel_key, (inputs, outputs), dtype, -bound, bound)
            bias = jax.random.uniform(bias_key, (outputs,), dtype, -bound, bound)
        else:
            scale = 0.02 if kind == "normal" else inputs**-0.5
            kernel = scale * jax.random.normal(kernel_key, (inputs, outputs), dtype)
        return {"kernel": kernel, "bias": bias if cfg.bias else None}

    def norm():
        bias = jnp.zeros(cfg.width, dtype) if cfg.bias and cfg.norm == "layer" else None
        return {"scale": jnp.ones(cfg.width, dtype), "bias": bias}

    params = {}
    for i in range(cfg.num_layers):
        layer_key = jax.random.fold_in(key, i)
        parts = _products(cfg).items()
        layer = {n: product(jax.random.fold_in(layer_key, j), n, *shape) for j, (n, shape) in enumerate(parts)}
        params[f"layer_{i}"] = layer | {"norm_1": norm(), "norm_2": norm()}
    if cfg.order == "pre":
        params["norm"] = norm()
    if cfg.positions == "learned":
        table_key = jax.random.fold_in(key, cfg.num_layers)
        params["positions"] = 0.02 * jax.random.normal(table_key, (cfg.max_length, cfg.width), dtype)
    return params


@eqx.filter_jit
def apply(
    params: PyTree,
    cfg: Config,
    x: Float[Array, "T width"],
    *,
    mask: Bool[Array, "#T S"] | None = None,
    cache: Cache | None = None,
    dense: Callable = layers.affine,
    attention: Callable = _attention,
    num_last: Size | None = None,
) -> Float[Array, "num width"] | tuple[Float[Array, "num width"], Cache]:
    """The tokens after all blocks; one sequence, batches by `jax.vmap`.

    Args:
        params: from `init`.
        cfg: the same configuration (static).
        x: T tokens, embedded by the caller.
        mask: True where a token (row) may look; None is everywhere, and with a cache at the tokens up to its own.
            Without a cache S = T, with one S = max_length.
        cache: keys and values of the tokens before these, from `empty_cache` or the last call. The caller sees to it
            that ``cache.length + T <= max_length``: later tokens would replace the last rows.
        dense: ``dense(name, x, kernel, bias)`` with names like ``"layer_0.query"`` (static unless a Partial).
        attention: ``attention(q, k, v, mask)``, see `nn.attention.attention` (static unless a Partial).
        num_last: how many tokens at the end are wanted (static), all by default: the last block then computes of the
            others keys and values alone, and `attention` gets fewer rows of q than of k.

    Returns:
        Float[T, width] or Float[num_last, width]; with a cache ``(tokens, cache)``. Differentiable in `params` and `x`.

    Raises:
        ValueError: x or the mask has another shape, more tokens than `max_length`, or fewer than `num_last`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import nn
        >>> cfg = nn.transformer.config(16, 2, 4, positions="rotary")
        >>> params = nn.transformer.init(jax.random.key(0), cfg)
        >>> x = jnp.ones((5, 16))
        >>> print(nn.transformer.apply(params, cfg, x, mask=nn.attention.causal_mask(5)).shape)
        (5, 16)
    """
    x = jnp.asarray(x)
    if x.ndim != 2 or x.shape[1] != cfg.width:
        raise ValueError(f"transformer.apply: x must have shape (T, {cfg.width}), got {x.shape}")
    num = x.shape[0]
    if num_last is not None and check_size("transformer.apply", "num_last", num_last) > num:
        raise ValueError(f"transformer.apply: num_last must be at most the {num} tokens of x, got {num_last}")
    if cfg.max_length is not None and num > cfg.max_length:
        raise ValueError(f"transformer.apply: x must have at most {cfg.max_length} tokens (max_length), got {num}")
    length = num if cache is None else cache.keys.shape[1]
    positions = jnp.arange(num, dtype=jnp.int32) + (0 if cache is None else cache.length)
    if mask is None and cache is not None:
        mask = jnp.arange(length)[None] <= positions[:, None]
    if mask is not None and (mask.ndim != 2 or mask.shape[0] not in (1, num) or mask.shape[1] != length):
        raise ValueError(
            f"transformer.apply: mask must have shape ({num}, {length}) or (1, {length}), got {mask.shape}"
        )
    h, found = x, []
    if cfg.positions == "learned":
        h = h + jnp.take(params["positions"], positions, axis=0, mode="clip").astype(h.dtype)
    for i in range(cfg.num_layers):
        before = None if cache is None else (cache.keys[i], cache.values[i], cache.length)
        wanted = num if num_last is None or i + 1 < cfg.num_layers else int(num_last)
        h, rows = _block(params[f"layer_{i}"], f"layer_{i}", cfg, h, positions, mask, before, dense, attention, wanted)
        found.append(rows)
    h = _norm(params["norm"], cfg, h) if cfg.order == "pre" else h
    if cache is None:
        return h
    stacked_keys, stacked_values = (jnp.stack(part) for part in zip(*found))
    return h, Cache(stacked_keys, stacked_values, cache.length + num)


def _norm(params, cfg: Config, h):
    if cfg.norm == "rms":
        return layers.rms_norm(h, params["scale"], cfg.eps)
    return layers.layer_norm(h, params["scale"], params["bias"], cfg.eps)


def _block(params, name, cfg: Config, h, positions, mask, before, dense, attention, num_last):
    """One block at the last `num_last` tokens, and its keys and values (with a cache, all that are known now)."""

    def last(x):
        return x[x.shape[0] - num_last :]

    def product(part, x):
        return dense(f"{name}.{part}", x, params[part]["kernel"], params[part]["bias"])

    def heads(part, x, count):
        return product(part, x).reshape(x.shape[0], count, cfg.width // cfg.num_heads)

    def attend(x):
        q, k = heads("query", last(x), cfg.num_heads), heads("key", x, cfg.num_groups)
        v = heads("value", x, cfg.num_groups)
        if cfg.positions == "rotary":
            q, k = (layers.rotary(a, at, cfg.base) for a, at in ((q, last(positions)), (k, positions)))
        if before is not None:
            keys_before, values_before, at = before
            k = jax.lax.dynamic_update_slice_in_dim(keys_before, k.astype(keys_before.dtype), at, axis=0)
            v = jax.lax.dynamic_update_slice_in_dim(values_before, v.astype(values_before.dtype), at, axis=0)
        out = attention(q, k, v, mask if mask is None or mask.shape[0] == 1 else last(mask))
        return product("out", out.reshape(out.shape[0], math.prod(out.shape[1:]))), (k, v)

    def feed_forward(x):
        up = product("up", x)
        if cfg.activation == "swiglu":
            return product("down", jax.nn.silu(product("gate", x)) * up)
        return product("down", _FEED_FORWARD[cfg.activation](up))

    if cfg.order == "pre":
        added, rows = attend(_norm(params["norm_1"], cfg, h))
        h = last(h) + added
        return h + feed_forward(_norm(params["norm_2"], cfg, h)), rows
    added, rows = attend(h)
    h = _norm(params["norm_1"], cfg, last(h) + added)
    return _norm(params["norm_2"], cfg, h + feed_forward(h)), rows


# --- one token after the other ------------------------------------------------------------------------------


class SequenceState(NamedTuple):
    """Where `sequence_model` stands in a sequence.

    Attributes:
        cache: keys and values of the tokens so far, and their number.
        logits: of the token that comes next.
        status: OUT_OF_RANGE where a token was refused: there was no row left, or it is none of the symbols.
    """

    cache: Cache
    logits: Float[Array, " V"]
    status: Int[Array, ""]


def sequence_model(
    params: PyTree,
    cfg: Config,
    *,
    max_length: int | None = None,
    dense: Callable = layers.affine,
    attention: Callable = _attention,
) -> SequenceModel:
    r"""A decoder as ``SequenceModel(init, logits, advance)``: each token is computed once, the cache keeps the rest.

    The logits after tokens $s_{\le t}$ are those of a causal pass over all of them, $h_t W + b$ with the embedding of
    the tokens before and the head behind the transformer.

    Args:
        params: from `init`, with two entries more: ``embedding`` Float[V, width] and ``head``, a dict of ``kernel``
            Float[width, V] and ``bias`` (None without); leaves.
        cfg: of the transformer (static).
        max_length: tokens that a state can hold (static); that of `cfg` when None. Rotary positions allow any number.
        dense: product of the blocks and, under the name ``"head"``, of the head (static unless a Partial). It must
            treat each token by itself, as formats with a unit for each row do.
        attention: see `apply` (static unless a Partial).

    Returns:
        Partials with the parameters as leaves, and states `SequenceState`. An empty prompt leaves all logits 0: every
        token is as likely as any other. Once `max_length` tokens are in, and for a token outside [0, V), ``advance``
        changes nothing but the status.

    Raises:
        ValueError: parameters without embedding or head, no `max_length` anywhere, or one beyond the table of learned
            positions; ``init``: a prompt that is no sequence of integers, or longer than `max_length`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import nn
        >>> cfg = nn.transformer.config(8, 1, 2, positions="rotary")
        >>> params = nn.transformer.init(jax.random.key(0), cfg)
        >>> params |= {"embedding": jnp.eye(5, 8), "head": {"kernel": jnp.eye(8, 5), "bias": None}}
        >>> model = nn.transformer.sequence_model(params, cfg, max_length=16)
        >>> state = model.advance(model.init(jnp.array([0, 3])), 2)
        >>> print(model.logits(state).shape, state.cache.length)
        (5,) 3
    """
    for name in ("embedding", "head"):
        if name not in params:
            raise ValueError(
                f"transformer.sequence_model: params must have an entry {name!r} beside those of transformer.init, got "
                f"{', '.join(params)}"
            )
    if max_length is None and cfg.max_length is None:
        raise ValueError("transformer.sequence_model: give max_length, the configuration has none")
    size = cfg.max_length if max_length is None else check_size("transformer.sequence_model", "max_length", max_length)
    if cfg.positions == "learned" and size > cfg.max_length:
        raise ValueError(
            f"transformer.sequence_model: max_length must be at most the {cfg.max_length} learned positions, got {size}"
        )
    cfg = dataclasses.replace(cfg, max_length=size)
    dense = as_partial(dense, "transformer.sequence_model", "dense")
    attention = as_partial(attention, "transformer.sequence_model", "attention")
    return SequenceModel(
        Partial(bind(_begin, cfg=cfg), params, dense, attention),
        Partial(_logits_of),
        Partial(bind(_advance, cfg=cfg), params, dense, attention),
    )


@eqx.filter_jit
def _begin(params, dense, attention, prompt, *, cfg: Config):
    prompt = jnp.asarray(prompt)
    if prompt.ndim != 1 or not (prompt.size == 0 or jnp.issubdtype(prompt.dtype, jnp.integer)):
        raise ValueError(
            f"transformer.sequence_model: a prompt must be one sequence of integers, got {prompt.dtype} of shape "
            f"{prompt.shape}; vmap several"
        )
    if prompt.shape[0] > cfg.max_length:
        raise ValueError(
            f"transformer.sequence_model: a prompt must have at most {cfg.max_length} tokens (max_length), got "
            f"{prompt.shape[0]}"
        )
    table = jnp.asarray(params["embedding"])
    cache = empty_cache(cfg, dtype=table.dtype)
    if prompt.shape[0] == 0:
        return SequenceState(cache, jnp.zeros(table.shape[0], table.dtype), jnp.int32(0))
    known = (prompt >= 0) & (prompt < table.shape[0])
    logits, cache = _after(params, dense, attention, jnp.where(known, prompt, 0), cache, cfg)
    return SequenceState(cache, logits, status.flag(~jnp.all(known), status.OUT_OF_RANGE))


@eqx.filter_jit
def _advance(params, dense, attention, state, token, *, cfg: Config):
    token = jnp.asarray(token)
    num_symbols = params["embedding"].shape[0]
    takes = (state.cache.length < cfg.max_length) & (token >= 0) & (token < num_symbols)
    logits, cache = _after(params, dense, attention, jnp.where(takes, token, 0)[None], state.cache, cfg)
    code = state.status | status.flag(~takes, status.OUT_OF_RANGE)
    return SequenceState(_taken(takes, cache, state.cache), jnp.where(takes, logits, state.logits), code)


def _taken(takes, new: Cache, old: Cache) -> Cache:
    """The new cache or the old one: they differ in one row, and the others need not be read."""
    at = jnp.minimum(old.length, old.keys.shape[1] - 1)

    def rows(a, b):
        mine, before = (jax.lax.dynamic_slice_in_dim(c, at, 1, axis=1) for c in (a, b))
        return jax.lax.dynamic_update_slice_in_dim(a, jnp.where(takes, mine, before), at, axis=1)

    return Cache(rows(new.keys, old.keys), rows(new.values, old.values), jnp.where(takes, new.length, old.length))


def _after(params, dense, attention, tokens, cache, cfg: Config):
    """Logits behind the last of some tokens, and the cache with all of them."""
    x, options = jnp.asarray(params["embedding"])[tokens], {"dense": dense, "attention": attention, "num_last": 1}
    h, cache = apply(params, cfg, x, cache=cache, **options)
    return dense("head", h, params["head"]["kernel"], params["head"]["bias"])[0], cache


def _logits_of(state):
    return state.logits


__all__ = ["Cache", "Config", "SequenceState", "apply", "config", "empty_cache", "init", "sequence_model"]

entry.guard(globals(), "_advance", "_begin", "_logits_of")
