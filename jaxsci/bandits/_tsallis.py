r"""Tsallis-INF: optimal up to constants against an adversary and in stochastic worlds alike, without tuning.

The arm is drawn from $p = \arg\min_p \langle p, \hat L\rangle - \frac{4}{\eta_t}\sum_i \sqrt{p_i}$, that is $p_i = 4 /
(\eta_t (\hat L_i - x))^2$ with the normaliser $x < \min \hat L$ that makes them sum to 1, $\eta_t = 2/\sqrt t$, and
$\hat L$ the cumulative importance-weighted losses. The reduced-variance estimator applies importance weights only to
the difference from a baseline: $\hat\ell_i = B_i + 1[i = a](\ell - B_i)/p_i$, $B_i = \frac12 1[p_i \ge \eta_t^2]$, with
$\eta_t = 4/\sqrt t$. A mask puts arms to sleep. A sleeping arm is charged the loss that was paid meanwhile, so it has
no regret while it sleeps, and it wakes with the standing that it had when it fell asleep.

References: Zimmert and Seldin 2021, Tsallis-INF (JMLR 22:28), section 3 and algorithm 1; Freund, Schapire, Singer,
Warmuth 1997, Using and combining predictors that specialize (sleeping arms).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.bandits import probabilities
from jaxsci.core import entry
from jaxsci.core.policies import allowed_arms, as_select, as_update, check_num_arms, draw, sleeping_arms
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind
from jaxsci.core.types import Size, as_float


class TsallisState(NamedTuple):
    """What Tsallis-INF remembers; losses count above the floor.

    Attributes:
        losses: cumulative estimated losses of the arms.
        total: sum of weight times the loss paid: by `rounds` it gives the running mean that losses are scaled by.
        rounds: sum of the weights of the rounds learnt.
    """

    losses: Float[Array, " K"]
    total: Float[Array, ""]
    rounds: Float[Array, ""]


def tsallis_inf(
    num_arms: Size, *, floor: ArrayLike = 0.0, normalize: bool | None = None, estimator: str = "iw"
) -> Policy:
    """Tsallis-INF (power 1/2).

    Args:
        num_arms: K, static.
        floor: least possible loss, subtracted first, traced; e.g. 1 for iteration counts.
        normalize: divide losses by their running mean above the floor, so that costs of any scale may be given;
            False expects losses in [floor, floor + 1]. By default True for "iw"; "rv" has none. Static.
        estimator: "iw", importance weighting, or "rv", reduced variance: for losses in [floor, floor + 1]. Static.

    Raises:
        ValueError: an unknown estimator; "rv" with `normalize`.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.tsallis_inf(3)
        >>> state = policy.init(jax.random.key(0))
        >>> decision = policy.select(jax.random.key(1), state)
        >>> state = policy.update(state, decision, 0.3)
        >>> state.losses.shape, int(state.rounds)
        ((3,), 1)

    References: Zimmert and Seldin 2021, algorithm 1; Khodak et al. 2024, Learning to Relax, algorithm 1 (running
    scale).
    """
    num_arms = check_num_arms("tsallis_inf", num_arms)
    if estimator not in ("iw", "rv"):
        raise ValueError(f"tsallis_inf: estimator must be 'iw' or 'rv', got {estimator!r}")
    if estimator == "rv" and normalize:
        raise ValueError("tsallis_inf: the baseline of 'rv' is for losses in [floor, floor + 1]; scale them instead")
    normalize = estimator == "iw" if normalize is None else normalize
    floor = as_float(floor)
    return Policy(
        Partial(bind(_init, num_arms=num_arms), floor),
        as_select(Partial(bind(_select, normalize=normalize, estimator=estimator))),
        as_update(Partial(_learn, floor)),
    )


def _init(floor, key, *, num_arms: int) -> TsallisState:
    zero = jnp.zeros((), floor.dtype)
    return TsallisState(jnp.zeros(num_arms, floor.dtype), zero, zero)


def _select(key, state: TsallisState, context, mask, *, normalize, estimator) -> Decision:
    losses = state.losses
    if normalize:
        mean = state.total / jnp.where(state.rounds > 0, state.rounds, 1)
        # If all losses were at the floor, they are 0 above it, and any positive scale gives the same probabilities.
        losses = losses / jnp.where(mean > 0, mean, 1)
    eta = (2 if estimator == "iw" else 4) / jnp.sqrt(state.rounds + 1)
    p = probabilities.tsallis(losses, eta, allowed_arms(mask, losses.shape[0]))
    # A late update needs the baseline of its own round, and which arms were asleep then.
    baseline = None if estimator == "iw" else jnp.where(p >= eta**2, 0.5, 0).astype(losses.dtype)
    return draw(key, p, mask, aux=(baseline, sleeping_arms(mask, p.size)))


def _learn(floor, state: TsallisState, decision: Decision, loss, context, weight) -> TsallisState:
    above, probability = loss - floor, jnp.exp(decision.log_prob)
    # A decision made by hand has no aux: then the estimate is importance weighting, and all arms were awake.
    baseline, sleeping = (None, False) if decision.aux is None else decision.aux
    baseline = jnp.zeros_like(state.losses) if baseline is None else baseline.astype(above.dtype)
    excess = (above - baseline[decision.action]) / jnp.where(probability > 0, probability, 1).astype(above.dtype)
    estimate = jnp.where(sleeping, above, baseline.at[decision.action].add(excess))
    return TsallisState(state.losses + weight * estimate, state.total + weight * above, state.rounds + weight)


__all__ = ["TsallisState", "tsallis_inf"]

entry.hold(globals(), "_init", "_learn", "_select")
