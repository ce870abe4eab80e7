"""What all policies share: choosing an arm under a mask, drawn from probabilities or the one of least score; and the
rule of what an update may learn from.

The rule: an update in which nothing was played, or whose loss, weight or context is not finite, or whose weight is 0,
changes nothing, clocks included. A weight w counts as w plays.
"""

import operator
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, PyTree

from jaxsci.core import tree
from jaxsci.core.keys import as_typed_key
from jaxsci.core.protocols import Decision
from jaxsci.core.static import bind
from jaxsci.core.types import float_dtype


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


def asleep(mask: Bool[Array, " K"] | None, num_arms: int) -> Bool[Array, " K"]:
    """The arms that could not be played, which a decision takes along to its update."""
    return ~allowed_or_all(mask, num_arms)


def as_arrays(context: PyTree) -> PyTree:
    """The context with its numbers as arrays, which a jitted part traces: other values compile nothing."""
    return jax.tree.map(jnp.asarray, context)


def choosing(select: Callable) -> Partial:
    """``select(key, state, context, mask)`` as that of a policy: jitted, after its numbers became arrays."""
    return Partial(_choose, _as_tree(select))


def learning(learn: Callable, *, small: bool = True, unlearns: bool = True) -> Partial:
    """``learn(state, decision, loss, context, weight)`` as the update of a policy, by the rule above: jitted.

    In a round that teaches nothing `learn` is called with loss, weight and context 0.

    Args:
        learn: of the state's dtype are the loss and the weight that it gets.
        small: the former state is kept here, leaf by leaf; a large state is not copied so, and False says that
            `learn` itself keeps it where the weight is 0.
        unlearns: a negative weight takes back; False is a policy that cannot, to which it teaches nothing.
    """
    return Partial(bind(_learn, small=small, unlearns=unlearns), _as_tree(learn))


def _as_tree(function: Callable) -> Partial:
    # A bare function would be a leaf, and no policy would cross jit.
    return function if isinstance(function, Partial) else Partial(function)


def _choose(select, key, state, context=None, mask=None) -> Decision:
    return _chosen(select, key, state, as_arrays(context), None if mask is None else jnp.asarray(mask))


@eqx.filter_jit
def _chosen(select, key, state, context, mask) -> Decision:
    return select(key, state, context, mask)


def _learn(learn, state, decision: Decision, loss, context=None, weight=1.0, *, small: bool, unlearns: bool):
    dtype = float_dtype([a for a in jax.tree.leaves(state) if jnp.issubdtype(a.dtype, jnp.inexact)])
    loss, weight = (jnp.asarray(v, dtype) for v in (loss, weight))
    return _learnt(learn, state, decision, loss, as_arrays(context), weight, small=small, unlearns=unlearns)


@eqx.filter_jit
def _learnt(learn, state, decision: Decision, loss, context, weight, *, small, unlearns):
    real = played(decision) & tree.all_finite((loss, weight, context)) & (weight != 0 if unlearns else weight > 0)

    def harmless(a):
        return jnp.where(real, a, 0).astype(a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a

    after = learn(state, decision, harmless(loss), jax.tree.map(harmless, context), harmless(weight))
    return tree.where(real, after, state) if small else after


def check_size(function: str, name: str, value, *, least: int = 1) -> int:
    """A static size as an int, or the ValueError of every factory."""
    try:
        size = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        size = None
    if size is None or size < least:
        raise ValueError(f"{function}: {name} must be an int >= {least}, got {value!r}")
    return size


def check_num_arms(function: str, num_arms) -> int:
    """The number of arms as an int, or its ValueError."""
    return check_size(function, "num_arms", num_arms)
