r"""Losses that arrive late: decisions wait in a queue of fixed size until their loss is known.

The policy goes on choosing with what it has learnt so far. A decision carries the probability and the scores of its own
round, so a late update is weighted by the distribution that the arm was drawn from, not by the present one.

`delayed` simulates delays: each loss arrives a given number of rounds after its choice. If losses come from outside at
unknown times, `delayed_hold` queues a decision under a ticket and `delayed_settle` learns the loss of that ticket.

Reference: Joulani, Gyorgy and Szepesvari 2013, Online learning under delayed feedback.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Int, PyTree

from jaxsci.bandits import _stored
from jaxsci.core import entry, tree
from jaxsci.core.policies import as_select, as_update, played
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Size, as_real

_FREE, _NEVER = -1, jnp.iinfo(jnp.int32).max


class DelayedState(NamedTuple):
    """The wrapped policy's state, and the decisions whose losses are still to come.

    Attributes:
        policy: the wrapped policy's state.
        pending: the waiting decisions; the leading axis counts the places of the queue.
        due: round in which the loss arrives; -1 where the place is free, the largest int32 where nobody knows.
        ticket: round in which the decision was made.
        rounds: rounds so far, without those that teach nothing.
        dropped: decisions whose loss is never learnt because the queue was full.
    """

    policy: PyTree
    pending: _stored.Stored
    due: Int[Array, " capacity"]
    ticket: Int[Array, " capacity"]
    rounds: Int[Array, ""]
    dropped: Int[Array, ""]


def delayed(policy: Policy, capacity: Size, *, delay: ArrayLike = 1, context: PyTree = None) -> Policy:
    """`policy` with delayed losses: the loss of round t is learnt at the end of round t + delay.

    Losses that arrive in the same round are learnt in the order of their decisions. A decision that finds the queue
    full is dropped: its loss is never learnt, and the state counts it in `dropped`.

    Args:
        policy: any policy.
        capacity: decisions that can wait at once, the present one included, static: delay + 1 for a constant delay.
        delay: rounds >= 0, an int, or an array (D,) of the delays of rounds 0, 1, ..., repeated from its start when it
            ends; traced, so random delays are drawn beforehand. Only rounds that teach something are counted: a round
            without a play, of weight 0, or with a loss, weight or context that is not finite changes nothing.
        context: an example of the contexts, for its shapes and dtypes; None for policies without.

    Raises:
        ValueError: capacity < 1; delays of more than one axis or that are no integers; a context unlike the example.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policy = bandits.wrappers.delayed(bandits.policies.ucb1(3), 3, delay=2)
        >>> state = policy.init(jax.random.key(0))
        >>> for loss in (0.9, 0.1, 0.5, 0.5):
        ...     state = policy.update(state, policy.select(jax.random.key(1), state), loss)
        >>> state.policy.total.tolist(), int(state.dropped)
        ([1.0, 0.0, 0.0], 0)

    References: Joulani et al. 2013.
    """
    capacity = check_size("delayed", "capacity", capacity)
    if not jnp.issubdtype(jnp.result_type(delay), jnp.integer):
        raise ValueError(f"delayed: delay must be of an integer dtype, got {jnp.result_type(delay)}")
    delay = jnp.asarray(delay, jnp.int32)
    if delay.ndim > 1 or 0 in delay.shape:
        raise ValueError(f"delayed: delay must be a number or an array of one axis, got shape {delay.shape}")
    return Policy(
        Partial(bind(_init, capacity=capacity), policy, context),
        as_select(Partial(_select, policy)),
        as_update(Partial(_advance, policy, delay), small=False),
        Partial(_stored.status_inside, policy),
    )


def _init(policy, context, key, *, capacity) -> DelayedState:
    inner = policy.init(key)
    free = jnp.full(capacity, _FREE, jnp.int32)
    pending = _stored.empty(policy, key, inner, context, capacity)
    return DelayedState(inner, pending, free, free, jnp.int32(0), jnp.int32(0))


def _select(policy, key, state: DelayedState, context, mask) -> Decision:
    return policy.select(key, state.policy, context, mask)


def _advance(policy, delay, state, decision, loss, context, weight) -> DelayedState:
    # A round that teaches nothing reaches this function with weight 0. It is not counted.
    now, real = state.rounds, weight != 0
    wait = delay if delay.ndim == 0 else delay[now % delay.shape[0]]
    state = tree.where(real, _enqueue(state, decision, loss, context, weight, now + jnp.maximum(wait, 0)), state)

    def arrived(state):
        return (state.due != _FREE) & (state.due <= now) & real

    def learn_oldest(state):
        place = jnp.argmin(jnp.where(arrived(state), state.ticket, _NEVER))
        return _learn(policy, state, place, state.pending.loss[place])

    return jax.lax.while_loop(lambda state: jnp.any(arrived(state)), learn_oldest, state)


def _enqueue(state: DelayedState, decision, loss, context, weight, due) -> DelayedState:
    """Put a decision into a free place, or drop it if there is none, and count the round."""
    place = jnp.argmin(state.due)
    free = state.due[place] == _FREE
    pending = _stored.put(state.pending, place, decision, loss, context, weight)
    return state._replace(
        pending=tree.where(free, pending, state.pending),
        due=jnp.where(free, state.due.at[place].set(due), state.due),
        ticket=jnp.where(free, state.ticket.at[place].set(state.rounds), state.ticket),
        rounds=state.rounds + 1,
        dropped=state.dropped + ~free,
    )


def _learn(policy, state: DelayedState, place, loss) -> DelayedState:
    decision, _, context, weight = tree.dynamic_index(state.pending, place)
    learnt = policy.update(state.policy, decision, loss, context, weight)
    return state._replace(policy=learnt, due=state.due.at[place].set(_FREE))


def delayed_hold(
    state: DelayedState, decision: Decision, context: PyTree = None, weight: ArrayLike = 1.0
) -> tuple[DelayedState, Int[Array, ""]]:
    """Queue a decision whose loss is not known yet; returns the state and the ticket of the decision.

    The ticket is -1 and the state unchanged if the round can teach nothing: no arm was played, the weight is 0, or the
    weight or the context is not finite.

    Args:
        state: of a policy made by `delayed`.
        decision, context, weight: as given to its `update`.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> ucb = bandits.policies.ucb1(3)
        >>> policy = bandits.wrappers.delayed(ucb, 5)
        >>> state = policy.init(jax.random.key(0))
        >>> state, first = bandits.wrappers.delayed_hold(state, policy.select(jax.random.key(1), state))
        >>> state, second = bandits.wrappers.delayed_hold(state, policy.select(jax.random.key(2), state))
        >>> state = bandits.wrappers.delayed_settle(ucb, state, second, 0.3)
        >>> print(state.policy.count, state.ticket[state.due >= 0])
        [1. 0. 0.] [0]
    """
    return _hold(state, decision, tree.as_arrays(context), as_real(weight, state.pending.weight.dtype))


@eqx.filter_jit
def _hold(state, decision, context, weight):
    unknown = jnp.zeros((), state.pending.loss.dtype)
    queued = _enqueue(state, decision, unknown, context, weight, jnp.int32(_NEVER))
    real = played(decision) & tree.all_finite((weight, context)) & (weight != 0)
    return tree.where(real, queued, state), jnp.where(real, state.rounds, -1)


def delayed_settle(policy: Policy, state: DelayedState, ticket: ArrayLike, loss: ArrayLike) -> DelayedState:
    """Learn the loss of the decision that was queued under `ticket`; an unknown or settled ticket changes nothing.

    Args:
        policy: the policy that was wrapped.
        state: as `delayed_hold` returned it, or a later one.
        ticket: which decision, traced.
        loss: its loss, traced.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> inner = bandits.policies.ucb1(2)
        >>> state = bandits.wrappers.delayed(inner, capacity=4).init(jax.random.key(0))
        >>> decision = inner.select(jax.random.key(1), state.policy)
        >>> state, ticket = bandits.wrappers.delayed_hold(state, decision)
        >>> state = bandits.wrappers.delayed_settle(inner, state, ticket, 0.5)
        >>> float(state.policy.count.sum())
        1.0
    """
    return _settle(policy, state, jnp.asarray(ticket, jnp.int32), as_real(loss, state.pending.loss.dtype))


@eqx.filter_jit
def _settle(policy, state, ticket, loss):
    waiting = (state.due != _FREE) & (state.ticket == ticket)
    return tree.where(jnp.any(waiting), _learn(policy, state, jnp.argmax(waiting), loss), state)


__all__ = ["DelayedState", "delayed", "delayed_hold", "delayed_settle"]

entry.hold(globals(), "_advance", "_init", "_select")
