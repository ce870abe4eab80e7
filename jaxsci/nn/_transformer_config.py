"""Sizes and parts of a transformer, and what it keeps of the tokens so far."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsci.core.static import check_size

_NORMS, _ORDERS, _POSITIONS = ("layer", "rms"), ("pre", "post"), ("none", "learned", "rotary")
_ACTIVATIONS = ("gelu", "relu", "silu", "swiglu")


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

    Example:
        >>> from jaxsci import nn
        >>> cfg = nn.transformer.config(64, 2, 4, norm="rms", positions="rotary", activation="swiglu")
        >>> print(cfg.width, cfg.hidden)
        64 256
    """
    width, num_layers, num_heads = (
        check_size("transformer.config", name, value)
        for name, value in (("width", width), ("num_layers", num_layers), ("num_heads", num_heads))
    )
    hidden = check_size("transformer.config", "hidden", 4 * width if hidden is None else hidden)
    num_groups = check_size("transformer.config", "num_groups", num_heads if num_groups is None else num_groups)
    for name, value, known in (
        ("norm", norm, _NORMS), ("order", order, _ORDERS), ("positions", positions, _POSITIONS),
        ("activation", activation, _ACTIVATIONS),
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


def empty_cache(cfg: Config, *, dtype=None) -> Cache:
    """A cache of `max_length` rows that holds no token yet.

    Raises:
        ValueError: the configuration has no `max_length`.

    Example:
        >>> from jaxsci import nn
        >>> cache = nn.transformer.empty_cache(nn.transformer.config(8, 1, 2, positions="rotary", max_length=16))
        >>> print(int(cache.length))
        0
    """
    if cfg.max_length is None:
        raise ValueError("transformer.empty_cache: the configuration needs max_length, got None")
    shape = (cfg.num_layers, cfg.max_length, cfg.num_groups, cfg.width // cfg.num_heads)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.int32(0))


__all__ = ["Cache", "Config", "config", "empty_cache"]
