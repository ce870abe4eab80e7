r"""Writing: tokens drawn one after the other, $s_{t+1} \sim \mathrm{softmax}(\mathrm{logits}_t / \tau)$."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import keys
from jaxsci.core.protocols import SequenceModel
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray


def write(
    key: KeyArray,
    model: SequenceModel,
    prompt: Int[Array, " T"],
    num_tokens: int,
    *,
    temperature: Float[ArrayLike, ""] = 1.0,
) -> Int[Array, " num_tokens"]:
    """Continue a prompt.

    Args:
        key: one typed key; token i is drawn with ``fold_in(key, i)``.
        model: any `core.protocols.SequenceModel`.
        prompt: tokens to begin with; the model must have room for them and for `num_tokens` more.
        num_tokens: static.
        temperature: of the draws, traced; 0 takes the most likely token.

    Returns:
        The tokens after the prompt, int32.

    Raises:
        ValueError: `num_tokens` below 1.

    Example:
        >>> import jax
        >>> from jaxsci import nn
        >>> from jaxsci.models import language
        >>> cfg = language.config(num_layers=1, width=16, hidden=16)
        >>> params = language.init(jax.random.key(0), cfg)
        >>> model = nn.transformer.sequence_model(params, cfg)
        >>> print(language.write(jax.random.key(1), model, language.encode("if "), 5).shape)
        (5,)
    """
    num_tokens = check_size("language.write", "num_tokens", num_tokens)
    return _write(keys.as_typed_key(key, "language.write"), model, prompt, num_tokens, temperature)


@eqx.filter_jit
def _write(key, model, prompt, num_tokens, temperature):
    def step(state, i):
        logits = model.logits(state)
        tau = jnp.asarray(temperature, logits.dtype)
        noise = jax.random.gumbel(jax.random.fold_in(key, i), logits.shape, logits.dtype)
        token = jnp.argmax(logits + tau * noise).astype(jnp.int32)
        return model.advance(state, token), token

    return jax.lax.scan(step, model.init(prompt), jnp.arange(num_tokens))[1]


__all__ = ["write"]
