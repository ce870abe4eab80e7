r"""Worlds that change: forget old losses, gradually or all at once.

`discounted` multiplies the sums that a policy remembers by $\gamma$ before each update, so that about the last
$1/(1 - \gamma)$ plays count. The round counts of adversarial policies are sums too; they approach $1/(1 - \gamma)$, and
with them the learning rates approach a constant instead of 0. Ridge regression fades towards its prior,
$A \leftarrow \gamma A + (1 - \gamma)\lambda I$. `windowed` remembers the last W plays and no others. In a round that
teaches nothing, nothing is forgotten either.

References: Garivier and Moulines 2011, On upper-confidence bound policies for switching bandit problems; Russac,
Vernade, Cappe 2019, Weighted linear bandits for non-stationary environments (discounted LinUCB).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Int, PyTree

from jaxsci.bandits import _ridge, _stored
from jaxsci.bandits._exponential import ExponentialState
from jaxsci.bandits._moments import Moments
from jaxsci.bandits._ridge import RidgeState
from jaxsci.bandits._tsallis import TsallisState
from jaxsci.core import entry, tree
from jaxsci.core.policies import as_select, as_update
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Size, as_float


class DiscountedState(NamedTuple):
    """The state of a policy that fades.

    Attributes:
        policy: the state of the wrapped policy; its sums are multiplied by the discount before each update.
    """

    policy: PyTree


class WindowedState(NamedTuple):
    """The state of a policy that remembers the last plays alone.

    Attributes:
        policy: moments of the plays in the window, the wrapped policy's state.
        window: the plays in the window, a ring buffer: the oldest is overwritten; places never filled have weight 0.
        plays: plays so far; the next one goes to place ``plays % length``.
    """

    policy: Moments
    window: _stored.Stored
    plays: Int[Array, ""]


def discounted(policy: Policy, *, discount: ArrayLike = 0.99) -> Policy:
    r"""`policy` whose memory of all arms is faded by $\gamma$ before each update; `discounted(ucb1(K))` is D-UCB.

    Args:
        policy: one whose state is `Moments` (`epsilon_greedy`, `ucb1`, `ucb_v`, the Thompson policies),
            `ExponentialState`, `TsallisState`, or `RidgeState` (`lin_ucb`, `lin_ts`; a round then costs d^3 for every
            arm), or such a policy wrapped by `binned`.
        discount: $\gamma$ in (0, 1], traced; 1 forgets nothing.

    The state is a `DiscountedState`.

    Raises:
        TypeError: a policy with another state, when it is initialised.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policy = bandits.wrappers.discounted(bandits.policies.ucb1(2), discount=0.5)
        >>> state = policy.init(jax.random.key(0))
        >>> for _ in range(2):
        ...     state = policy.update(state, policy.select(jax.random.key(1), state), 1.0)
        >>> float(state.policy.count.sum())
        1.5

    References: Garivier and Moulines 2011 (D-UCB); Russac, Vernade, Cappe 2019, algorithm 1.
    """
    discount = as_float(discount)
    return Policy(
        Partial(_init_discounted, policy),
        as_select(Partial(_select_wrapped, policy)),
        as_update(Partial(_learn_discounted, policy, discount)),
        Partial(_stored.status_inside, policy),
    )


def windowed(policy: Policy, length: Size, *, context: PyTree = None) -> Policy:
    """`policy` that remembers the last `length` plays: each update takes back the play that leaves the window.

    `windowed(ucb1(K), W)` is SW-UCB.

    Args:
        policy: a policy whose state is `Moments`, or such a policy wrapped by `binned`.
        length: W >= 1, plays remembered, static; rounds that teach nothing are not counted.
        context: an example of the contexts, for its shapes and dtypes; None for policies without.

    Raises:
        ValueError: length < 1; a context unlike the example.
        TypeError: a policy with another state, when it is initialised.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policy = bandits.wrappers.windowed(bandits.policies.ucb1(2), 1)
        >>> state = policy.init(jax.random.key(0))
        >>> for _ in range(3):
        ...     state = policy.update(state, policy.select(jax.random.key(1), state), 1.0)
        >>> float(state.policy.count.sum())
        1.0

    References: Garivier and Moulines 2011 (SW-UCB).
    """
    length = check_size("windowed", "length", length)
    return Policy(
        Partial(bind(_init_windowed, length=length), policy, context),
        as_select(Partial(_select_wrapped, policy)),
        as_update(Partial(_slide, policy)),
        Partial(_stored.status_inside, policy),
    )


def _fade_sums(state, policy, discount):
    """All floating leaves times the discount; integer leaves count rounds and stay."""
    return jax.tree.map(lambda a: (discount * a).astype(a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a, state)


def _fade_ridge(state: RidgeState, policy, discount):
    # The initial state of ridge regression is its prior and depends on no key.
    return _ridge.faded(state, policy.init(jax.random.key(0)), discount.astype(state.theta.dtype))


_FADES = {Moments: _fade_sums, ExponentialState: _fade_sums, TsallisState: _fade_sums, RidgeState: _fade_ridge}


def _initial(function: str, policy: Policy, key, kinds):
    state = policy.init(key)
    if type(state) not in kinds:
        raise TypeError(
            f"{function}: expected a policy whose state is {' or '.join(kind.__name__ for kind in kinds)}, got "
            f"{type(state).__name__}; apply {function} first and other wrappers to what it returns, and `discounted` "
            "or `windowed`, not both"
        )
    return state


def _init_discounted(policy, key) -> DiscountedState:
    return DiscountedState(_initial("discounted", policy, key, tuple(_FADES)))


def _select_wrapped(policy, key, state, context, mask) -> Decision:
    return policy.select(key, state.policy, context, mask)


def _learn_discounted(policy, discount, state: DiscountedState, decision, loss, context, weight) -> DiscountedState:
    faded = _FADES[type(state.policy)](state.policy, policy, discount)
    return DiscountedState(policy.update(faded, decision, loss, context, weight))


def _init_windowed(policy, context, key, *, length) -> WindowedState:
    state = _initial("windowed", policy, key, (Moments,))
    return WindowedState(state, _stored.empty(policy, key, state, context, length), jnp.int32(0))


def _slide(policy, state: WindowedState, decision, loss, context, weight) -> WindowedState:
    place = state.plays % state.window.weight.shape[0]
    leaving = tree.dynamic_index(state.window, place)
    grown = policy.update(state.policy, decision, loss, context, weight)
    shrunk = policy.update(grown, leaving.decision, leaving.loss, leaving.context, -leaving.weight)
    # An arm whose plays have all left the window keeps rounding errors in its sums: they are set to 0.
    here = shrunk.count > jnp.sqrt(jnp.finfo(shrunk.count.dtype).eps)
    total, squares, count = (jnp.where(here, a, 0) for a in (shrunk.total, shrunk.squares, shrunk.count))
    window = _stored.put(state.window, place, decision, loss, context, weight)
    return WindowedState(Moments(total, jnp.maximum(squares, 0), count, grown.rounds), window, state.plays + 1)


__all__ = ["DiscountedState", "WindowedState", "discounted", "windowed"]

entry.hold(globals(), "_init_discounted", "_init_windowed", "_learn_discounted", "_select_wrapped")
