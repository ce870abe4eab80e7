r"""A decoder: $p(s_{t+1}\,|\,s_{\le t}) = \mathrm{softmax}(W h_t)$, $h$ from a causal transformer of their vectors.

Blocks of `nn.transformer` with rms norms, gated feed-forward parts and no biases; embedding and head are not tied. The
layout of the parameters is the one that `nn.transformer.sequence_model` reads.

Reference: H. Touvron et al., "LLaMA", 2023, arXiv:2302.13971, section 2.2.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import keys
from jaxsci.core.types import KeyArray
from jaxsci.models.language import _text
from jaxsci.nn import attention, layers, transformer
from jaxsci.quantization import LayerSpec, dense

_STD = 0.02  # of fresh parameters; products that end a residual part are smaller, by one over the root of their number


def config(
    *,
    width: int = 128,
    num_layers: int = 2,
    num_heads: int = 4,
    hidden: int = 384,
    context: int = 64,
    positions: str = "rotary",
) -> transformer.Config:
    """Sizes of the decoder, all static.

    Args:
        width, num_layers, num_heads, hidden: of the transformer.
        context: symbols that it is trained on at once; with learned positions it can see no further.
        positions: "rotary" or "learned".

    Raises:
        ValueError: positions of another kind, or see `nn.transformer.config`.

    Example:
        >>> from jaxsci.models import language
        >>> cfg = language.config()
        >>> print(cfg.width, cfg.norm, cfg.activation, cfg.positions)
        128 rms swiglu rotary
    """
    if positions not in ("rotary", "learned"):
        raise ValueError(f"language.config: positions must be rotary or learned, got {positions!r}")
    return transformer.config(
        width, num_layers, num_heads, hidden=hidden, norm="rms", positions=positions, max_length=context,
        activation="swiglu", bias=False,
    )  # fmt: skip


def init(key: KeyArray, cfg: transformer.Config) -> PyTree:
    """Parameters, float32: those of `nn.transformer.init` with ``embedding`` and ``head`` added.

    Args:
        key: one typed key.
        cfg: from `config` (static).

    Example:
        >>> import jax
        >>> from jaxsci.models import language
        >>> cfg = language.config(width=16, num_layers=1, num_heads=2, hidden=16)
        >>> print(language.init(jax.random.key(0), cfg)["embedding"].shape)
        (94, 16)
    """
    return _init(keys.as_typed_key(key, "language.init"), cfg)


@eqx.filter_jit
def _init(key, cfg):
    num_symbols = len(_text.data().symbols)
    params = transformer.init(jax.random.fold_in(key, 0), cfg, kind="normal", dtype="float32")
    for i in range(cfg.num_layers):
        for part in ("out", "down"):
            kernel = params[f"layer_{i}"][part]
            kernel["kernel"] = kernel["kernel"] * (2 * cfg.num_layers) ** -0.5
    table, head = (
        _STD * jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32)
        for i, shape in ((1, (num_symbols, cfg.width)), (2, (cfg.width, num_symbols)))
    )
    return params | {"embedding": table, "head": {"kernel": head, "bias": None}}


@eqx.filter_jit
def apply(
    params: PyTree, cfg: transformer.Config, tokens: Int[Array, " T"], *, dense: Callable = layers.affine
) -> Float[Array, "T symbols"]:
    """Logits of the symbol after each of a sequence; batches by `jax.vmap`.

    Args:
        params: from `init`.
        cfg: the same configuration (static).
        tokens: numbers of symbols, traced; more than `context` need rotary positions and another `config`.
        dense: product of the blocks and, under the name "head", of the head (static unless a Partial).

    Raises:
        ValueError: tokens that are no sequence of integers, or more than `context`.

    Example:
        >>> import jax
        >>> from jaxsci.models import language
        >>> cfg = language.config()
        >>> params = language.init(jax.random.key(0), cfg)
        >>> print(language.apply(params, cfg, language.encode("import ")).shape)
        (7, 94)
    """
    tokens = jnp.asarray(tokens)
    if tokens.ndim != 1 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            f"language.apply: tokens must be one sequence of integers, got {tokens.dtype}[{tokens.shape}]; vmap batches"
        )
    x = jnp.asarray(params["embedding"])[tokens]
    h = transformer.apply(params, cfg, x, mask=attention.causal_mask(tokens.shape[0]), dense=dense)
    return dense("head", h, params["head"]["kernel"], params["head"]["bias"])


def rules(spec: LayerSpec | None) -> dict[str, LayerSpec | None]:
    """Formats of all layers from that of the blocks: the head is left as it is, as embeddings and norms are.

    Args:
        spec: of every product of the blocks, as from `quantization.quest`; None for none.

    Example:
        >>> from jaxsci import quantization
        >>> from jaxsci.models import language
        >>> print(sorted(language.rules(quantization.quest(2, 2))))
        ['*', 'head']
    """
    return {"head": None, "*": spec}


def products(spec: LayerSpec | None) -> Callable:
    """The ``dense`` that belongs to the format of the blocks; None multiplies as ever.

    Example:
        >>> from jaxsci import quantization
        >>> from jaxsci.models import language
        >>> print(language.products(None) is not None, callable(language.products(quantization.quest(2, 2))))
        True True
    """
    return layers.affine if spec is None else dense(rules(spec))


__all__ = ["apply", "config", "init", "products", "rules"]
