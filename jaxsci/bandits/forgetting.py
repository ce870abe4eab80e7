r"""Worlds that change: forget old losses, gradually or all at once.

`discounted` multiplies what is remembered by $\gamma$ before each update, so the last $1/(1 - \gamma)$ plays or so
count; `windowed` remembers the last W plays alone. Both wrap any policy whose state is `Moments`: `epsilon_greedy`,
`ucb1`, `ucb_v`, the Thompson policies, and `binned` ones of these.

Reference: Garivier and Moulines 2011, On upper-confidence bound policies for switching bandit problems.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike, PyTree

from jaxsci.bandits import _stored
from jaxsci.bandits._draw import played
from jaxsci.bandits._moments import Moments
from jaxsci.core import tree
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind
from jaxsci.core.types import float_dtype


class WindowedState(NamedTuple):
    """The wrapped policy's state, and the rounds in the window, a ring."""

    policy: Moments
    window: _stored.Stored


def discounted(policy: Policy, *, discount: ArrayLike = 0.99) -> Policy:
    r"""`policy` with the moments of all arms multiplied by $\gamma$ before each update; D-UCB out of `ucb1`.

    Args:
        policy: a policy whose state is `Moments`.
        discount: $\gamma$ in (0, 1], traced; 1 forgets nothing.

    Raises:
        TypeError: a policy with another state, when it is initialised.

    References: Garivier and Moulines 2011 (D-UCB).
    """
    discount = jnp.asarray(discount, float_dtype(discount))
    return Policy(Partial(_init_discounted, policy), policy.select, Partial(_update_discounted, policy, discount))


def windowed(policy: Policy, length: int, *, context: PyTree = None) -> Policy:
    """`policy` over the last `length` rounds: each update takes back the one that leaves; SW-UCB out of `ucb1`.

    Args:
        policy: a policy whose state is `Moments`.
        length: W >= 1, rounds remembered, static.
        context: an example of the contexts, for its shapes and dtypes; None for policies without.

    Raises:
        ValueError: length < 1; a context unlike the example.
        TypeError: a policy with another state, when it is initialised.

    References: Garivier and Moulines 2011 (SW-UCB).
    """
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"windowed: length must be an int >= 1, got {length!r}")
    return Policy(
        Partial(bind(_init_windowed, length=length), policy, context),
        Partial(_select_windowed, policy),
        Partial(_update_windowed, policy),
    )


def _moments(function: str, policy: Policy, key) -> Moments:
    state = policy.init(key)
    if not isinstance(state, Moments):
        raise TypeError(
            f"{function}: expected a policy whose state is Moments (epsilon_greedy, ucb1, thompson_*, binned ones of "
            f"these), got {type(state).__name__}; apply {function} first and other wrappers to what it returns"
        )
    return state


def _init_discounted(policy, key) -> Moments:
    return _moments("discounted", policy, key)


def _update_discounted(policy, discount, state: Moments, decision, loss, context=None, weight=1.0) -> Moments:
    # A round without a play forgets nothing.
    factor = jnp.where(played(decision), discount, 1).astype(state.total.dtype)
    faded = state._replace(total=factor * state.total, squares=factor * state.squares, count=factor * state.count)
    return policy.update(faded, decision, loss, context, weight)


def _init_windowed(policy, context, key, *, length) -> WindowedState:
    state = _moments("windowed", policy, key)
    return WindowedState(state, _stored.empty(policy, key, state, context, length))


def _select_windowed(policy, key, state: WindowedState, context=None, mask=None) -> Decision:
    return policy.select(key, state.policy, context, mask)


def _update_windowed(policy, state: WindowedState, decision, loss, context=None, weight=1.0) -> WindowedState:
    dtype = state.window.loss.dtype
    loss, weight = (jnp.asarray(v, dtype) for v in (loss, weight))
    return _slide(policy, state, decision, loss, context, weight)


@eqx.filter_jit
def _slide(policy, state: WindowedState, decision, loss, context, weight) -> WindowedState:
    # Bins count their own rounds; the ring turns with all of them.
    place = jnp.sum(state.policy.rounds) % state.window.weight.shape[0]
    leaving = tree.dynamic_index(state.window, place)
    grown = policy.update(state.policy, decision, loss, context, weight)
    shrunk = policy.update(grown, leaving.decision, leaving.loss, leaving.context, -leaving.weight)
    # What rounding leaves of an arm that has left the window is no play.
    here = shrunk.count > jnp.sqrt(jnp.finfo(shrunk.count.dtype).eps)
    total, squares, count = (jnp.where(here, a, 0) for a in (shrunk.total, shrunk.squares, shrunk.count))
    # A round without a play keeps its place in the window, with weight 0.
    real = played(decision)
    kept = decision._replace(log_prob=jnp.where(real, decision.log_prob, 0))
    window = _stored.put(state.window, place, kept, loss, context, jnp.where(real, weight, 0))
    return WindowedState(Moments(total, jnp.maximum(squares, 0), count, grown.rounds), window)


__all__ = ["WindowedState", "discounted", "windowed"]
