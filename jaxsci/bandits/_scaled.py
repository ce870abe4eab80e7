r"""Features brought to the size 1 before a policy sees them, by the largest that each of them has been so far.

A policy over features of the sizes 1 and $10^4$ regularises, explores and rounds them alike, though it should not. Here
feature j is divided by $2^{\lceil\log_2 m_j\rceil}$, $m_j$ the largest $|x_j|$ so far. Powers of two leave every digit
of a feature as it is, and they change seldom: what was learnt at another scale is wrong at most in the few rounds
before a feature has shown its size.

Reference: Ross, Mineiro and Langford 2013, Normalized online learning, section 2 (scales learnt online).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import entry
from jaxsci.core.policies import as_context, as_select, as_update
from jaxsci.core.precision import powers_of_two
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Size, float_dtype


class ScaledState(NamedTuple):
    """What `scaled` remembers.

    Attributes:
        policy: state of the policy behind.
        largest: largest absolute value of each feature in the rounds learnt so far.
    """

    policy: PyTree
    largest: Float[Array, " d"]


def scaled(policy: Policy, num_features: Size, *, per_arm: int | None = None) -> Policy:
    r"""`policy` behind features of the size 1: feature j is divided by a power of two just above its largest so far.

    Args:
        policy: a policy with contexts Float[d], or Float[K, d] if `per_arm` is K.
        num_features: d, static.
        per_arm: K where the context holds features of each arm, static; a feature has one scale for all arms.

    Multiplying a feature by a power of two in all rounds changes no decision. A feature that is always 0 stays 0.

    Raises:
        ValueError: a size below 1; a context of another shape, when it is used.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> policy = bandits.wrappers.scaled(bandits.policies.lin_ucb(2, 3), 3)
        >>> state = policy.init(jax.random.key(0))
        >>> context = jnp.array([1.0, 3000.0, 1e-4])
        >>> state = policy.update(state, policy.select(jax.random.key(1), state, context), 0.7, context)
        >>> int(policy.select(jax.random.key(2), state, context).action)
        1

    References: Ross, Mineiro and Langford 2013.
    """
    num_features = check_size("scaled", "num_features", num_features)
    per_arm = None if per_arm is None else check_size("scaled", "per_arm", per_arm)
    shape = (num_features,) if per_arm is None else (per_arm, num_features)
    return Policy(
        Partial(bind(_init, num_features=num_features), policy.init),
        as_select(Partial(bind(_select, shape=shape), policy.select)),
        as_update(Partial(bind(_update, shape=shape), policy.update), small=False),
        Partial(_status, policy.status),
    )


def _init(init, key, *, num_features) -> ScaledState:
    state = init(key)
    return ScaledState(state, jnp.zeros(num_features, _dtype(state)))


def _dtype(state: PyTree):
    return float_dtype([a for a in jax.tree.leaves(state) if jnp.issubdtype(a.dtype, jnp.inexact)])


def _met(state: ScaledState, context, shape) -> tuple[Array, Array]:
    """The context at the scales that hold with it, and the largest features with it."""
    context = as_context("scaled", context, shape, state.largest.dtype)
    largest = jnp.maximum(state.largest, jnp.max(jnp.abs(context).reshape(-1, shape[-1]), axis=0))
    return jnp.broadcast_to(powers_of_two(largest)[0], shape) * context, largest


def _select(select, key, state: ScaledState, context, mask, *, shape) -> Decision:
    return select(key, state.policy, _met(state, context, shape)[0], mask)


def _update(update, state: ScaledState, decision, loss, context, weight, *, shape) -> ScaledState:
    context, largest = _met(state, context, shape)
    learnt = update(state.policy, decision, loss, context, weight)
    return ScaledState(learnt, jnp.where(weight != 0, largest, state.largest))


def _status(status, state: ScaledState) -> Int[Array, ""]:
    return status(state.policy)


__all__ = ["ScaledState", "scaled"]

entry.hold(globals(), "_init", "_select", "_status", "_update")
