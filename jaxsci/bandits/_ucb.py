r"""Upper confidence bounds, written for losses: play the arm whose loss may still be the least.

UCB1 plays $\arg\min_i \hat\mu_i - \alpha\sqrt{2\ln N/n_i}$, UCB-V $\arg\min_i \hat\mu_i - \sqrt{2 v_i\zeta/n_i} -
3b\zeta/n_i$ with $\zeta = c\ln N$, from the $n_i$ plays of arm i, their mean $\hat\mu_i$ and variance $v_i$. N is the
number of all plays before the present round, $\sum_i n_i$. Arms without plays come first, in the order of their index.

References: Auer, Cesa-Bianchi and Fischer 2002, Finite-time analysis of the multiarmed bandit problem, figure 1;
Audibert, Munos and Szepesvari 2009, Exploration-exploitation tradeoff using variance estimates in
multi-armed bandits.
"""

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike

from jaxsci.bandits._moments import Moments, init_moments, learning_moments
from jaxsci.core import entry
from jaxsci.core.policies import as_select, check_num_arms, choose_least
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind
from jaxsci.core.types import Size, as_float, float_dtype


def ucb1(num_arms: Size, *, alpha: ArrayLike = 1.0, random_ties: bool = False) -> Policy:
    r"""UCB1: plays the arm of least $\hat\mu_i - \alpha\sqrt{2 \ln N/n_i}$, N all plays so far. Losses in [0, 1].

    Args:
        num_arms: K, static.
        alpha: width of the bound, >= 0, traced; losses in [0, b] need b times as much.
        random_ties: draw among arms of equal bound, those without plays too, instead of the first of them; static.

    The choice is deterministic but for ties, so log_prob is 0 or that of the draw among them; importance weights cannot
    be taken from it. The state is `Moments`, so `discounted` and `windowed` apply.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.ucb1(3)
        >>> state = policy.init(jax.random.key(0))
        >>> for loss in (0.9, 0.1, 0.5):
        ...     state = policy.update(state, policy.select(jax.random.key(1), state), loss)
        >>> int(policy.select(jax.random.key(1), state).action), state.count.tolist()
        (1, [1.0, 1.0, 1.0])

    References: Auer et al. 2002, figure 1.
    """
    num_arms = check_num_arms("ucb1", num_arms)
    alpha = as_float(alpha)
    return Policy(
        Partial(bind(init_moments, num_arms=num_arms), alpha),
        as_select(Partial(bind(_select_ucb1, random_ties=bool(random_ties)), alpha)),
        learning_moments(jnp.zeros_like(alpha)),
    )


def ucb_v(
    num_arms: Size, *, exploration: ArrayLike = 1.2, loss_range: ArrayLike = 1.0, random_ties: bool = False
) -> Policy:
    r"""UCB-V: bounds from the variance of each arm's losses; arms whose losses hardly vary need fewer plays.

    Args:
        num_arms: K, static.
        exploration: c in $\zeta = c \ln N$, > 0, traced.
        loss_range: b, losses lie in an interval of this length that starts at 0, traced.
        random_ties: as in `ucb1`.

    The choice is deterministic, so log_prob is 0, and importance weights cannot be taken from it. The state is
    `Moments`.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from jaxsci import bandits
        >>> costs = np.tile(np.array([0.9, 0.1], np.float32), (100, 1))
        >>> played = bandits.replay(jax.random.key(0), costs, bandits.policies.ucb_v(2))
        >>> bool(played.history.action[-50:].mean() > 0.7)
        True

    References: Audibert et al. 2009 (the constant of the last term is 1).
    """
    num_arms = check_num_arms("ucb_v", num_arms)
    dtype = float_dtype(exploration, loss_range)
    exploration, loss_range = (jnp.asarray(v, dtype) for v in (exploration, loss_range))
    return Policy(
        Partial(bind(init_moments, num_arms=num_arms), exploration),
        as_select(Partial(bind(_select_ucb_v, random_ties=bool(random_ties)), exploration, loss_range)),
        learning_moments(jnp.zeros_like(exploration)),
    )


def _plays(state: Moments):
    """Plays of each arm (1 for an arm without plays), and ln N (0 if discounts or weights left less than one play)."""
    return jnp.where(state.count > 0, state.count, 1), jnp.log(jnp.maximum(jnp.sum(state.count), 1))


def _select_ucb1(alpha, key, state: Moments, context, mask, *, random_ties) -> Decision:
    count, log_plays = _plays(state)
    bound = state.mean - alpha * jnp.sqrt(2 * log_plays / count)
    return choose_least(jnp.where(state.count > 0, bound, -jnp.inf), mask, key=key if random_ties else None)


def _select_ucb_v(exploration, loss_range, key, state: Moments, context, mask, *, random_ties) -> Decision:
    count, log_plays = _plays(state)
    variance = jnp.maximum(state.squares / count - state.mean**2, 0)
    zeta = exploration * log_plays
    bound = state.mean - jnp.sqrt(2 * variance * zeta / count) - 3 * loss_range * zeta / count
    return choose_least(jnp.where(state.count > 0, bound, -jnp.inf), mask, key=key if random_ties else None)


__all__ = ["ucb1", "ucb_v"]

entry.hold(globals(), "_select_ucb1", "_select_ucb_v")
