"""Choosing an arm, under a mask: drawn from probabilities, or the one of least score."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxsci.core.keys import as_typed_key
from jaxsci.core.protocols import Decision


def allowed_or_all(mask: Bool[Array, " K"] | None, num_arms: int) -> Bool[Array, " K"]:
    """The mask, or all arms when there is none."""
    if mask is None:
        return jnp.ones(num_arms, bool)
    mask = jnp.asarray(mask)
    if mask.shape != (num_arms,) or mask.dtype != bool:
        raise ValueError(f"select: mask must be Bool of shape ({num_arms},), got {mask.dtype} of shape {mask.shape}")
    return mask


def draw(key, probabilities: Float[Array, " K"], mask: Bool[Array, " K"] | None, aux=None) -> Decision:
    """Sample an arm from `probabilities` restricted to `mask`.

    Normalises first, so the log-probability always belongs to the distribution that was sampled. Where the mask
    leaves no probability the allowed arms are drawn uniformly; where it leaves no arm the action is 0 at
    log-probability -inf, which `update` takes for "nothing was played".
    """
    key = as_typed_key(key, "select")
    allowed = allowed_or_all(mask, probabilities.shape[0])
    kept = jnp.where(allowed, probabilities, 0)
    total = jnp.sum(kept)
    kept = jnp.where(total > 0, kept / jnp.where(total > 0, total, 1), allowed / jnp.maximum(jnp.sum(allowed), 1))
    logits = jnp.where(kept > 0, jnp.log(jnp.where(kept > 0, kept, 1)), -jnp.inf).astype(probabilities.dtype)
    action = jax.random.categorical(key, logits).astype(jnp.int32)
    action = jnp.where(jnp.any(allowed), action, 0)
    return Decision(action, logits[action], aux)


def least(scores: Float[Array, " K"], mask: Bool[Array, " K"] | None, aux=None) -> Decision:
    """The allowed arm of least score, ties to the lower index: a deterministic choice, log-probability 0.

    Where the mask leaves no arm the action is 0 at log-probability -inf, as in `draw`.
    """
    allowed = allowed_or_all(mask, scores.shape[0])
    # A NaN score would win the argmin; it is as good as infinite, and both lose to any number.
    scores = jnp.where(allowed & ~jnp.isnan(scores), scores, jnp.inf)
    first_allowed = jnp.argmax(allowed)
    action = jnp.where(jnp.any(scores < jnp.inf), jnp.argmin(scores), first_allowed).astype(jnp.int32)
    log_prob = jnp.where(jnp.any(allowed), 0, -jnp.inf).astype(scores.dtype)
    return Decision(action, log_prob, aux)


def played(decision: Decision) -> Bool[Array, ""]:
    """False when the mask had left no arm."""
    return decision.log_prob > -jnp.inf


def check_num_arms(function: str, num_arms: int) -> None:
    """Raise the ValueError of every policy factory."""
    if not isinstance(num_arms, int) or num_arms < 1:
        raise ValueError(f"{function}: num_arms must be an int >= 1, got {num_arms!r}")
