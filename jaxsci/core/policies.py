r"""What all policies share: choosing an arm under a mask, the rule of what an update may learn from, keys of rounds.

Choosing. `draw` samples an arm from probabilities, `choose_least` takes the arm of least score. Both respect a mask,
and both say by a log-probability of -inf that the mask left no arm; `played` reads that off.

Learning. `as_update` wraps the learning step of a policy in one rule: a round teaches only if an arm was played and
its loss, weight and context are finite and its weight is not 0; any other round returns the state unchanged, its count
of rounds included. A weight of w counts as w plays.

Keys. `round_key` derives the keys of a sequence of rounds from one key, so that two drivers that are given the same key
(the sequence of solves, and the replay of its costs) make the same choices.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree, Real

from jaxsci.core import entry, tree
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import COMPLEX, KeyArray, Size, as_real, float_dtype, is_complex

# Who draws: the number folded into the key of a sequence for the start, and into the key of a round in that round.
# Rounds fold in 0, 1, 2, ...; the starts take the other end of the range of uint32, which no round reaches.
_PURPOSES = {"stream": (0xFFFF_FFFE, 0), "policy": (0xFFFF_FFFF, 1)}
# What `as_update` lets through on request.
_TOLERABLE = {"infinite loss", "context"}


# --- choosing ----------------------------------------------------------------------------------------------


def allowed_arms(mask: Bool[ArrayLike, " K"] | None, num_arms: int) -> Bool[Array, " K"]:
    """Which arms may be played: `mask` itself, or all arms where there is no mask.

    Raises:
        ValueError: a mask of another shape or dtype than Bool[num_arms].

    Example:
        >>> from jaxsci.core import policies
        >>> print(policies.allowed_arms(None, 3))
        [ True  True  True]
    """
    if mask is None:
        return jnp.ones(num_arms, bool)
    mask = jnp.asarray(mask)
    if mask.shape != (num_arms,) or mask.dtype != bool:
        raise ValueError(
            f"select: mask must be Bool of shape ({num_arms},), the number of arms (num_arms, or that of scores or "
            f"probabilities), got {mask.dtype} of shape {mask.shape}"
        )
    return mask


def sleeping_arms(mask: Bool[ArrayLike, " K"] | None, num_arms: int) -> Bool[Array, " K"]:
    """Which arms the mask forbids. An adversarial policy keeps them in its decision, for its update charges them.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import policies
        >>> print(policies.sleeping_arms(jnp.array([True, False]), 2))
        [False  True]
    """
    return ~allowed_arms(mask, num_arms)


def draw(
    key: KeyArray, probabilities: Float[Array, " K"], mask: Bool[ArrayLike, " K"] | None = None, aux: PyTree = None
) -> Decision:
    """Sample an arm from `probabilities` restricted to the arms that `mask` allows.

    The restricted probabilities are normalised before the draw, so the log-probability returned always belongs to the
    distribution that was sampled. If the allowed arms have no probability at all, one of them is drawn uniformly. If
    no arm is allowed, the action is 0 and the log-probability -inf.

    Args:
        key: typed key, consumed.
        probabilities: of the K arms, not negative; they need not sum to 1.
        mask: True where an arm may be played; None allows all.
        aux: what the policy's update will need, handed on in the decision.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.core import policies
        >>> print(int(policies.draw(jax.random.key(0), jnp.array([0.0, 1.0])).action))
        1
    """
    key = as_typed_key(key, "select")
    allowed = allowed_arms(mask, probabilities.shape[0])
    kept = jnp.where(allowed, probabilities, 0)
    total = jnp.sum(kept)
    kept = jnp.where(total > 0, kept / jnp.where(total > 0, total, 1), allowed / jnp.maximum(jnp.sum(allowed), 1))
    logits = jnp.where(kept > 0, jnp.log(jnp.where(kept > 0, kept, 1)), -jnp.inf).astype(probabilities.dtype)
    action = jax.random.categorical(unrolled(key), logits).astype(jnp.int32)
    action = jnp.where(jnp.any(allowed), action, 0)
    return Decision(action, logits[action], aux)


def choose_least(
    scores: Float[Array, " K"],
    mask: Bool[ArrayLike, " K"] | None = None,
    aux: PyTree = None,
    key: KeyArray | None = None,
) -> Decision:
    """The allowed arm of least score. Of equal ones the lower index, a deterministic choice whose log-probability is 0;
    with a key one of them is drawn, and the log-probability is that of the draw.

    A NaN counts as an infinite score. If no arm is allowed, the action is 0 and the log-probability -inf.

    Args:
        scores: of the K arms.
        mask: True where an arm may be played; None allows all.
        aux: what the policy's update will need, handed on in the decision.
        key: typed key, consumed by the draw among equal scores.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import policies
        >>> print(int(policies.choose_least(jnp.array([2.0, 1.0, 3.0])).action))
        1
    """
    allowed = allowed_arms(mask, scores.shape[0])
    # A NaN would win the argmin. Only if every allowed score is NaN or infinite does the first allowed arm play.
    scores = jnp.where(allowed & ~jnp.isnan(scores), scores, jnp.inf)
    if key is not None:
        least = allowed & (scores == jnp.min(scores))
        return draw(key, least.astype(scores.dtype), mask, aux)
    first_allowed = jnp.argmax(allowed)
    action = jnp.where(jnp.any(scores < jnp.inf), jnp.argmin(scores), first_allowed).astype(jnp.int32)
    log_prob = jnp.where(jnp.any(allowed), 0, -jnp.inf).astype(scores.dtype)
    return Decision(action, log_prob, aux)


def played(decision: Decision) -> Bool[Array, ""]:
    """Whether an arm was played: False for a decision whose mask allowed none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import policies
        >>> print(policies.played(policies.choose_least(jnp.array([2.0, 1.0]))))
        True
    """
    return decision.log_prob > -jnp.inf


def as_select(select: Callable) -> Partial:
    """``select(key, state, context, mask) -> Decision`` as the `select` of a policy: jitted.

    Context and mask become arrays first. A Python number would be static under jit, and every new value of it would
    compile again.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.core import policies
        >>> select = policies.as_select(lambda key, state, context, mask: policies.choose_least(state, mask))
        >>> print(int(select(jax.random.key(0), jnp.array([2.0, 1.0])).action))
        1
    """
    return Partial(_choose, as_partial(select, "as_select", "select"))


def as_context(function: str, context, shape: tuple[int, ...], dtype=None) -> Array:
    """The context as an array of `shape`, of its own dtype unless one is given.

    Raises:
        ValueError: no array or number, or one of another shape: names `function`, what it expects and what it got.
        TypeError: complex numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import policies
        >>> print(policies.as_context("lin_ucb", jnp.array([1.0, 2.0]), (2,)))
        [1. 2.]
    """
    if is_complex(context):
        raise TypeError(f"{function}: context: {COMPLEX}")
    if eqx.is_array_like(context) and jnp.shape(context) == shape:
        return jnp.asarray(context, dtype)
    expected = f"an array of shape {shape}" if shape else "a number"
    if context is None:
        got = "none"
    elif eqx.is_array_like(context):
        got = f"one of shape {jnp.shape(context)}"
    else:
        got = f"a {type(context).__name__}; put it through jnp.asarray" if shape else f"a {type(context).__name__}"
    raise ValueError(f"{function}: context must be {expected}, got {got}")


def select_among(function: str, policy: Policy, key, state, context, num_arms: int | None, mask=None) -> Decision:
    """``policy.select`` where `num_arms` things are to be chosen from; None where nobody knows how many.

    Raises:
        ValueError: the policy was made for another number of arms; some would never be tried, or do not exist.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> from jaxsci.core import policies
        >>> policy = bandits.policies.fixed(3, arm=1)
        >>> state = policy.init(jax.random.key(0))
        >>> print(int(policies.select_among("tuned_step", policy, jax.random.key(1), state, None, 3).action))
        1
    """
    if mask is None and num_arms is not None:
        mask = jnp.ones(num_arms, bool)
    try:
        return policy.select(key, state, context, mask)
    except ValueError as error:
        if num_arms is None or "select: mask must be Bool of shape" not in str(error):
            raise
        raise ValueError(
            f"{function}: the policy must play as many arms as there are to choose from, {num_arms}; {error}"
        ) from error


# --- learning ----------------------------------------------------------------------------------------------


def as_update(
    learn: Callable, *, small: bool = True, unlearns: bool = True, tolerates: tuple[str, ...] = ()
) -> Partial:
    """``learn(state, decision, loss, context, weight) -> state`` as the `update` of a policy: jitted, and called under
    the rule at the head of this module.

    In a round that teaches nothing, `learn` is still called (there is no branch under `vmap`), with loss, weight and
    context 0, and its result is dropped.

    Args:
        learn: the loss and the weight that it gets have the dtype of the state's floating leaves.
        small: True drops the result by choosing between the former and the new state leaf by leaf, which copies the
            state. False is for large states: nothing is chosen here, and `learn` itself must return the state
            unchanged at weight 0.
        unlearns: True hands negative weights on, which take earlier plays back; False says that the policy cannot do
            that, and a round of negative weight teaches nothing.
        tolerates: "infinite loss" or "context": what `learn` makes sense of although the rule would refuse it. With
            "context", contexts that are not finite are handed on.

    Raises:
        ValueError: `tolerates` names something else.
    """
    if not set(tolerates) <= _TOLERABLE:
        raise ValueError(f"as_update: tolerates must name some of {sorted(_TOLERABLE)}, got {tolerates}")
    rule = bind(_learn, small=small, unlearns=unlearns, tolerates=tuple(tolerates))
    return Partial(rule, as_partial(learn, "as_update", "learn"))


def _choose(select, key: KeyArray, state, context=None, mask: Bool[ArrayLike, " K"] | None = None) -> Decision:
    return _chosen(select, key, state, tree.as_arrays(context), None if mask is None else jnp.asarray(mask))


@eqx.filter_jit
def _chosen(select, key, state, context, mask) -> Decision:
    return select(key, state, context, mask)


def _learn(
    learn,
    state,
    decision: Decision,
    loss: Real[ArrayLike, ""],
    context=None,
    weight: Real[ArrayLike, ""] = 1.0,
    **rule,
):
    dtype = float_dtype([a for a in jax.tree.leaves(state) if jnp.issubdtype(a.dtype, jnp.inexact)])
    loss, weight = (as_real(v, dtype) for v in (loss, weight))
    return _learnt(learn, state, decision, loss, tree.as_arrays(context), weight, **rule)


@eqx.filter_jit
def _learnt(learn, state, decision: Decision, loss, context, weight, *, small, unlearns, tolerates):
    finite = tree.all_finite((weight, None if "context" in tolerates else context))
    finite &= ~jnp.isnan(loss) if "infinite loss" in tolerates else jnp.isfinite(loss)
    teaches = played(decision) & finite & (weight != 0 if unlearns else weight > 0)

    def harmless(a):
        return jnp.where(teaches, a, 0).astype(a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a

    after = learn(state, decision, harmless(loss), jax.tree.map(harmless, context), harmless(weight))
    return tree.where(teaches, after, state) if small else after


# --- keys and sizes ----------------------------------------------------------------------------------------


def round_key(key: KeyArray, purpose: str, index: Int[ArrayLike, ""] | None = None) -> KeyArray:
    """The key with which the policy or the stream of problems draws in one round of a sequence, or at its start.

    The key of round i is ``fold_in(fold_in(key, i), p)`` with p = 0 for the stream and 1 for the policy; that of the
    start is ``fold_in(key, s)`` with s one of the two largest numbers of uint32, which no round index reaches. So
    stopping and going on shifts no draw, a policy's draws do not depend on what the stream draws, and all drivers that
    take their keys here make the same choices at the same key.

    Args:
        key: typed key of the whole sequence.
        purpose: "policy" or "stream", static.
        index: global index of the round, int32 from 0, traced; None is the start, before round 0.

    Raises:
        ValueError: another purpose.

    Example:
        >>> import jax
        >>> from jaxsci.core import policies
        >>> key = jax.random.key(0)
        >>> start, first = policies.round_key(key, "policy"), policies.round_key(key, "policy", 0)
        >>> bool(start == first)
        False
    """
    if purpose not in _PURPOSES:
        raise ValueError(f"round_key: purpose must be one of {sorted(_PURPOSES)}, got {purpose!r}")
    key, (start, inside) = as_typed_key(key, "round_key"), _PURPOSES[purpose]
    if index is None:
        return jax.random.fold_in(key, start)
    return jax.random.fold_in(jax.random.fold_in(key, index), inside)


def check_num_arms(function: str, num_arms: Size) -> int:
    """The number of arms as an int >= 1, or the ValueError that names `function`.

    Example:
        >>> from jaxsci.core import policies
        >>> print(policies.check_num_arms("ucb1", 3))
        3
    """
    return check_size(function, "num_arms", num_arms)


__all__ = [
    "allowed_arms",
    "as_context",
    "as_select",
    "as_update",
    "check_num_arms",
    "choose_least",
    "draw",
    "played",
    "round_key",
    "select_among",
    "sleeping_arms",
]

entry.guard(globals(), "_choose", "_learn")
