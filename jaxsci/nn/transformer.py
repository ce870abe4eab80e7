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

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxsci.core import keys
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray
from jaxsci.nn import layers
from jaxsci.nn.attention import attention as _attention

_NORMS, _ORDERS, _POSITIONS = ("layer", "rms"), ("pre", "post"), ("none", "learned", "rotary")
_FEED_FORWARD = {"gelu": layers.gelu, "relu": jax.nn.relu, "silu": jax.nn.silu, "swiglu": None}
_INITS = ("lecun", "torch", "normal")


class Config(eqx.Module):
    """Sizes and parts of a transformer; all static. Made by `config`.

    Attributes:
        width: entries of a token.
        num_layers: blocks.
        num_heads: heads of the queries.
        num_groups: heads of keys and values, shared by num_heads / num_groups queries each.
        hidden: width of the feed-forward part.
        norm: ``"layer"`` or ``"rms"``.
        order: ``"pre"`` or ``"post"``.
        positions: ``"none"``, ``"learned"`` (a table of `max_length` rows is added to the input) or ``"rotary"``.
        max_length: rows of the table, and of a `Cache`; None where neither is used.
        activation: of the feed-forward part: ``"gelu"``, ``"relu"``, ``"silu"`` or ``"swiglu"``.
        bias: whether products and layer norms have biases.
        eps: added to variances before they divide.
        base: of the rotary angles.
    """

    width: int = eqx.field(static=True)
    num_layers: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    num_groups: int = eqx.field(static=True)
    hidden: int = eqx.field(static=True)
    norm: str = eqx.field(static=True)
    order: str = eqx.field(static=True)
    positions: str = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    bias: bool = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    base: float = eqx.field(static=True)


class Cache(NamedTuple):
    """Keys and values of the tokens so far, so that the next ones need not compute them again.

    Attributes:
        keys: of every layer; rows from `length` on hold nothing yet.
        values: likewise.
        length: tokens so far, int32.
    """

    keys: Float[Array, "layers max_length groups d"]
    values: Float[Array, "layers max_length groups d"]
    length: Int[Array, ""]


def config(
    width: int,
    num_layers: int,
    num_heads: int,
    *,
    hidden: int | None = None,
    num_groups: int | None = None,
    norm: str = "layer",
    order: str = "pre",
    positions: str = "none",
    max_length: int | None = None,
    activation: str = "gelu",
    bias: bool = True,
    eps: float = 1e-5,
    base: float = 10_000.0,
) -> Config:
    """A validated configuration; every argument is static and means what `Config` says.

    Args:
        width, num_layers, num_heads: sizes.
        hidden: 4 times the width by default.
        num_groups: as many as heads by default.
        norm, order, positions, activation: names of the parts.
        max_length: needed for learned positions and for a cache.
        bias, eps, base: see `Config`.

    Raises:
        ValueError: a size below 1, a width that is no multiple of the heads, heads that are no multiple of the groups,
            an odd head with rotary positions, learned positions without `max_length`, an unknown name.
    """
    width, num_layers, num_heads = (
        check_size("transformer.config", name, value)
        for name, value in (("width", width), ("num_layers", num_layers), ("num_heads", num_heads))
    )
    hidden = check_size("transformer.config", "hidden", 4 * width if hidden is None else hidden)
    num_groups = check_size("transformer.config", "num_groups", num_heads if num_groups is None else num_groups)
    for name, value, known in (
        ("norm", norm, _NORMS), ("order", order, _ORDERS), ("positions", positions, _POSITIONS),
        ("activation", activation, _FEED_FORWARD),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"transformer.config: {name} must be one of {', '.join(known)}, got {value!r}")
    if width % num_heads:
        raise ValueError(f"transformer.config: width must be a multiple of num_heads, got {width} and {num_heads}")
    if num_heads % num_groups:
        raise ValueError(
            f"transformer.config: num_heads must be a multiple of num_groups, got {num_heads} and {num_groups}"
        )
    if positions == "rotary" and width // num_heads % 2:
        raise ValueError(f"transformer.config: rotary positions need an even head, got {width // num_heads}")
    if max_length is not None:
        max_length = check_size("transformer.config", "max_length", max_length)
    elif positions == "learned":
        raise ValueError("transformer.config: learned positions need max_length")
    return Config(
        width, num_layers, num_heads, num_groups, hidden, norm, order, positions, max_length, activation, bool(bias),
        float(eps), float(base),
    )  # fmt: skip


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


def empty_cache(cfg: Config, *, dtype=None) -> Cache:
    """A cache of `max_length` rows that holds no token yet.

    Raises:
        ValueError: the configuration has no `max_length`.
    """
    if cfg.max_length is None:
        raise ValueError("transformer.empty_cache: the configuration needs max_length, got None")
    shape = (cfg.num_layers, cfg.max_length, cfg.num_groups, cfg.width // cfg.num_heads)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.int32(0))


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
) -> Float[Array, "T width"] | tuple[Float[Array, "T width"], Cache]:
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

    Returns:
        Float[T, width]; with a cache ``(tokens, cache)``. Differentiable in `params` and `x`.

    Raises:
        ValueError: x or the mask has another shape, or more tokens than `max_length`.

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
        h, rows = _block(params[f"layer_{i}"], f"layer_{i}", cfg, h, positions, mask, before, dense, attention)
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


def _block(params, name, cfg: Config, h, positions, mask, before, dense, attention):
    """One block, and its keys and values (with a cache, all that are known now)."""

    def product(part, x):
        return dense(f"{name}.{part}", x, params[part]["kernel"], params[part]["bias"])

    def heads(part, x, count):
        return product(part, x).reshape(x.shape[0], count, cfg.width // cfg.num_heads)

    def attend(x):
        q, k = heads("query", x, cfg.num_heads), heads("key", x, cfg.num_groups)
        v = heads("value", x, cfg.num_groups)
        if cfg.positions == "rotary":
            q, k = (layers.rotary(a, positions, cfg.base) for a in (q, k))
        if before is not None:
            keys_before, values_before, at = before
            k = jax.lax.dynamic_update_slice_in_dim(keys_before, k.astype(keys_before.dtype), at, axis=0)
            v = jax.lax.dynamic_update_slice_in_dim(values_before, v.astype(values_before.dtype), at, axis=0)
        out = attention(q, k, v, mask)
        return product("out", out.reshape(out.shape[0], math.prod(out.shape[1:]))), (k, v)

    def feed_forward(x):
        up = product("up", x)
        if cfg.activation == "swiglu":
            return product("down", jax.nn.silu(product("gate", x)) * up)
        return product("down", _FEED_FORWARD[cfg.activation](up))

    if cfg.order == "pre":
        added, rows = attend(_norm(params["norm_1"], cfg, h))
        h = h + added
        return h + feed_forward(_norm(params["norm_2"], cfg, h)), rows
    added, rows = attend(h)
    h = _norm(params["norm_1"], cfg, h + added)
    return _norm(params["norm_2"], cfg, h + feed_forward(h)), rows


__all__ = ["Cache", "Config", "apply", "config", "empty_cache", "init"]
