r"""Exponential weights against an adversary: EXP3, EXP3-IX and EXP3.P, for losses in [0, 1].

All three play $p = (1 - \gamma)\,\mathrm{softmax}(-\eta \hat L) + \gamma/K$ with $\hat L$ a sum of estimated losses,
and differ in the estimate. Importance weighting $\ell/p$ is unbiased (EXP3). Implicit exploration $\ell/(p + \eta/2)$
trades bias for variance (EXP3-IX). EXP3.P sums gains $g = 1 - \ell$ with a bonus $\beta/p_i$ for every arm, so that its
regret bound holds with high probability.

A mask puts arms to sleep. A sleeping arm is charged the loss $\ell$ that was paid meanwhile; EXP3.P credits it with the
mean gain of the n arms that are awake, $g + n\beta$. So an arm has no regret while it sleeps, and it wakes with the
standing that it had when it fell asleep.

References: Auer, Cesa-Bianchi, Freund and Schapire 2002, The nonstochastic multiarmed bandit problem; Bubeck and
Cesa-Bianchi 2012, Regret analysis of bandit problems, sections 3.1 and 3.2; Neu 2015, Explore no more; Freund,
Schapire, Singer, Warmuth 1997, Using and combining predictors that specialize (sleeping arms).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.bandits import probabilities
from jaxsci.core import entry
from jaxsci.core.policies import as_select, as_update, check_num_arms, draw, played, sleeping_arms
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind
from jaxsci.core.types import Size, as_float, float_dtype


class ExponentialState(NamedTuple):
    """What exponential weights remember.

    Attributes:
        losses: cumulative estimated losses of the arms; for EXP3.P minus the cumulative estimated gains.
        rounds: sum of the weights of the rounds learnt.
    """

    losses: Float[Array, " K"]
    rounds: Float[Array, ""]


def exp3(num_arms: Size, *, mixing: ArrayLike = 0.0) -> Policy:
    r"""EXP3 without a horizon: $\eta_t = \sqrt{\ln K/(K t)}$, estimates $\ell/p$.

    Args:
        num_arms: K, static.
        mixing: $\gamma$ in [0, 1], the part of the plays that is uniform, traced; above 0 it bounds the estimates.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.exp3(4)
        >>> state = policy.init(jax.random.key(0))
        >>> decision = policy.select(jax.random.key(1), state)
        >>> state = policy.update(state, decision, 0.5)
        >>> print(f"{state.losses.sum():.3f}")
        2.000

    References: Bubeck and Cesa-Bianchi 2012, section 3.1 (anytime form).
    """
    num_arms = check_num_arms("exp3", num_arms)
    mixing = as_float(mixing)
    return _policy(num_arms, mixing, Partial(_select_exp3, mixing), _learn_weighted)


def exp3_ix(num_arms: Size, *, rate: ArrayLike = 1.0) -> Policy:
    r"""EXP3-IX: $\eta_t = c\sqrt{2 \ln K/(K t)}$, estimates $\ell/(p + \eta_t/2)$ with the rate of the choice.

    Args:
        num_arms: K, static.
        rate: c > 0, traced. At 1 the rate is that of the analysis for a known number of rounds T, with t in place of
            T; $1/\sqrt 2$ gives the rate of the analysis without a horizon.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from jaxsci import bandits
        >>> costs = np.tile(np.array([0.9, 0.1], np.float32), (200, 1))
        >>> played = bandits.replay(jax.random.key(0), costs, bandits.policies.exp3_ix(2))
        >>> bool(played.history.action[-50:].mean() > 0.8)
        True

    References: Neu 2015, algorithm 1 and theorem 1.
    """
    num_arms = check_num_arms("exp3_ix", num_arms)
    rate = as_float(rate)
    return _policy(num_arms, rate, Partial(_select_ix, rate), _learn_weighted)


def exp3_p(num_arms: Size, *, horizon: ArrayLike, failure: ArrayLike = 0.05) -> Policy:
    r"""EXP3.P for a known number of rounds: low regret with probability $1 - \delta$, not only on average.

    $\beta = \sqrt{\ln(K/\delta)/(KT)}$, $\eta = 0.95\sqrt{\ln K/(KT)}$, $\gamma = 1.05\sqrt{K \ln K/T}$ ($\beta$ and
    $\gamma$ at most 1).

    Args:
        num_arms: K, static.
        horizon: T, the number of rounds planned, traced.
        failure: $\delta$ in (0, 1), traced.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from jaxsci import bandits
        >>> costs = np.tile(np.array([0.9, 0.1], np.float32), (200, 1))
        >>> played = bandits.replay(jax.random.key(0), costs, bandits.policies.exp3_p(2, horizon=200))
        >>> bool(played.history.action[-50:].mean() > 0.5)
        True

    References: Bubeck and Cesa-Bianchi 2012, section 3.2 (figure 3.2 and theorem 3.2).
    """
    num_arms = check_num_arms("exp3_p", num_arms)
    dtype = float_dtype(horizon, failure)
    horizon, failure = (jnp.asarray(v, dtype) for v in (horizon, failure))
    return _policy(num_arms, horizon, Partial(_select_p, horizon), Partial(_learn_p, horizon, failure))


def _policy(num_arms, like, select, learn) -> Policy:
    return Policy(Partial(bind(_init, num_arms=num_arms), like), as_select(select), as_update(learn))


def _init(like, key, *, num_arms: int) -> ExponentialState:
    return ExponentialState(jnp.zeros(num_arms, like.dtype), jnp.zeros((), like.dtype))


def _anytime(state: ExponentialState):
    """sqrt(ln K / (K t)) in round t = rounds + 1."""
    num_arms, dtype = state.losses.shape[0], state.losses.dtype
    return jnp.sqrt(jnp.log(jnp.asarray(num_arms, dtype)) / (num_arms * (state.rounds + 1)))


# An update may come late, so each decision carries in `aux` what its update needs: the arms that were asleep, and for
# EXP3 and EXP3-IX the number that is added to p in the estimate, for EXP3.P the probabilities of all arms.


def _select_exp3(mixing, key, state: ExponentialState, context, mask) -> Decision:
    eta = _anytime(state)
    p = probabilities.exponential(state.losses, eta, mask, mixing=mixing)
    return draw(key, p, mask, aux=(jnp.zeros_like(eta), sleeping_arms(mask, p.size)))


def _select_ix(rate, key, state: ExponentialState, context, mask) -> Decision:
    eta = rate * jnp.sqrt(2) * _anytime(state)
    p = probabilities.exponential(state.losses, eta, mask)
    return draw(key, p, mask, aux=(eta / 2, sleeping_arms(mask, p.size)))


def _select_p(horizon, key, state: ExponentialState, context, mask) -> Decision:
    num_arms = state.losses.shape[0]
    log_arms = jnp.log(jnp.asarray(num_arms, horizon.dtype))
    eta = 0.95 * jnp.sqrt(log_arms / (num_arms * horizon))
    mixing = jnp.minimum(1.05 * jnp.sqrt(num_arms * log_arms / horizon), 1)
    p = probabilities.exponential(state.losses, eta, mask, mixing=mixing)
    return draw(key, p, mask, aux=(p, sleeping_arms(mask, num_arms)))


def _learn_weighted(state: ExponentialState, decision: Decision, loss, context, weight) -> ExponentialState:
    # A decision from a log has no aux: then the estimate is importance weighting, and all arms were awake.
    added, sleeping = (0, False) if decision.aux is None else decision.aux
    share = jnp.where(played(decision), jnp.exp(decision.log_prob) + added, 1)
    estimate = (weight * loss / share).astype(state.losses.dtype)
    charged = state.losses + jnp.where(sleeping, weight * loss, 0)
    return ExponentialState(charged.at[decision.action].add(estimate), state.rounds + weight)


def _learn_p(horizon, failure, state: ExponentialState, decision: Decision, loss, context, weight) -> ExponentialState:
    if decision.aux is None:
        raise ValueError(
            "exp3_p: its update needs the probabilities of all arms, which its own select keeps in decision.aux; got a "
            "decision without aux, e.g. from a log. Learn logs with exp3, exp3_ix or tsallis_inf"
        )
    num_arms, (p, sleeping) = state.losses.shape[0], decision.aux
    bonus = jnp.minimum(jnp.sqrt(jnp.log(num_arms / failure) / (num_arms * horizon)), 1)
    gain = jnp.full(num_arms, bonus).at[decision.action].add(1 - loss)
    estimate = jnp.where(p > 0, gain / jnp.where(p > 0, p, 1), 0)
    # A sleeping arm gets the mean of the estimates under p: the gain, and a bonus for each arm that was awake.
    estimate = jnp.where(sleeping, jnp.sum(jnp.where(p > 0, gain, 0)), estimate)
    return ExponentialState(state.losses - (weight * estimate).astype(state.losses.dtype), state.rounds + weight)


__all__ = ["ExponentialState", "exp3", "exp3_ix", "exp3_p"]

entry.hold(globals(), "_init", "_learn_p", "_learn_weighted", "_select_exp3", "_select_ix", "_select_p")
