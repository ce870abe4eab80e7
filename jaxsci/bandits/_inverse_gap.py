r"""Inverse gap weighting over any regressor: SquareCB, FastCB, and the greedy policies to compare them with.

With predicted losses $\hat y$ of K arms and the best one b, an arm is played with probability

$$\text{SquareCB: } p_a = \frac{1}{K + \gamma_t(\hat y_a - \hat y_b)}, \qquad
\text{FastCB: } p_a = \frac{\hat y_b}{K\hat y_b + \gamma_t(\hat y_a - \hat y_b)},$$

and b with the remaining probability; $\gamma_t = g\,t^\rho$ after t learnt losses. FastCB is SquareCB with
$\gamma_t/\hat y_b$ in place of $\gamma_t$: it explores less where the best loss is small.

References: Foster and Rakhlin 2020, Beyond UCB, algorithm 1; Foster and Krishnamurthy 2021, Efficient first-order
contextual bandits, algorithm 1; Foster, Agarwal, Dudík, Luo, Schapire 2018, Practical contextual bandits with
regression oracles (elimination).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Int, PyTree

from jaxsci.bandits import probabilities
from jaxsci.bandits._ridge import Regressor
from jaxsci.core import entry
from jaxsci.core.policies import allowed_arms, as_select, as_update, draw
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind
from jaxsci.core.types import as_float


class InverseGapState(NamedTuple):
    """What inverse gap weighting has learnt.

    Attributes:
        regressor: the regressor's state.
        rounds: t, the number of losses learnt; it sets the exploration rate.
    """

    regressor: PyTree
    rounds: Int[Array, ""]


def square_cb(
    regressor: Regressor,
    *,
    exploration: ArrayLike = 10.0,
    exponent: ArrayLike = 0.5,
    eliminate: ArrayLike | None = None,
) -> Policy:
    r"""SquareCB: inverse gap weighting of the predicted losses, $\gamma_t = g\,t^\rho$.

    Args:
        regressor: a `Regressor`, e.g. from `ridge` or `network`; its context is the policy's.
        exploration: g >= 0, traced: 0 is uniform, large is greedy.
        exponent: $\rho$ in [0, 1], traced. t counts learnt losses, so the first round is uniform.
        eliminate: if given, arms play only when some loss inside their confidence interval is least:
            $\hat y_a - w_a \le \min_b \hat y_b + w_b$ with $w^2 = \Delta\,\phi^\top A^{-1}\phi$, $\Delta$ =
            `eliminate` $\times \ln(Kt)$, traced; needs a regressor with leverage.

    The meaning of `exploration` depends on the range of the losses: [0, 1] here, as in the literature. A loss or a
    context that is not finite teaches nothing.

    Raises:
        ValueError: `eliminate` with a regressor that has no leverage.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.square_cb(bandits.regressors.ridge(3, 2))
        >>> state = policy.init(jax.random.key(0))
        >>> decision = policy.select(jax.random.key(1), state, jnp.ones(2))
        >>> print(f"{jnp.exp(decision.log_prob):.4f}")
        0.3333

    References: Foster and Rakhlin 2020, algorithm 1.
    """
    return _policy("square_cb", regressor, exploration, exponent, 0.0, eliminate, relative=False)


def fast_cb(
    regressor: Regressor,
    *,
    exploration: ArrayLike = 10.0,
    exponent: ArrayLike = 0.5,
    floor: ArrayLike = 1e-3,
    eliminate: ArrayLike | None = None,
) -> Policy:
    r"""FastCB: inverse gap weighting with $\gamma_t/\hat y_b$, for losses in [0, 1] whose smallest are near 0.

    Args:
        regressor, exploration, exponent, eliminate: as in `square_cb`.
        floor: predictions are clipped to [floor, 1], floor > 0, traced: at $\hat y_b = 0$ the weights are 0/0.

    Raises:
        ValueError: `eliminate` with a regressor that has no leverage.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.fast_cb(bandits.regressors.ridge(3, 2))
        >>> decision = policy.select(jax.random.key(1), policy.init(jax.random.key(0)), jnp.ones(2))
        >>> print(0 <= int(decision.action) < 3)
        True

    References: Foster and Krishnamurthy 2021, algorithm 1.
    """
    return _policy("fast_cb", regressor, exploration, exponent, floor, eliminate, relative=True)


def greedy_cb(regressor: Regressor, *, epsilon: ArrayLike = 0.0) -> Policy:
    r"""Plays the arm of least predicted loss, any other with probability $\epsilon/K$; ties to the lower index.

    Args:
        regressor: a `Regressor`.
        epsilon: in [0, 1], traced; 0 never explores.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.greedy_cb(bandits.regressors.ridge(3, 2))
        >>> int(policy.select(jax.random.key(1), policy.init(jax.random.key(0)), jnp.ones(2)).action)
        0
    """
    epsilon = as_float(epsilon)
    return _over(regressor, Partial(_select_greedy, regressor, epsilon))


def _policy(function, regressor, exploration, exponent, floor, eliminate, *, relative) -> Policy:
    if eliminate is not None and regressor.leverage is None:
        raise ValueError(f"{function}: eliminate needs a regressor with leverage, such as ridge; got one without")
    numbers = [None if v is None else as_float(v) for v in (exploration, exponent, floor, eliminate)]
    select = Partial(bind(_select, relative=relative), regressor, *numbers)
    return _over(regressor, select)


def _over(regressor: Regressor, select) -> Policy:
    return Policy(Partial(_init, regressor), as_select(select), _learns(regressor), Partial(_status, regressor))


def _status(regressor: Regressor, state: InverseGapState) -> Int[Array, ""]:
    return regressor.status(state.regressor)


def _init(regressor: Regressor, key) -> InverseGapState:
    return InverseGapState(regressor.init(key), jnp.int32(0))


def _select(
    regressor: Regressor,
    exploration,
    exponent,
    floor,
    eliminate,
    key,
    state: InverseGapState,
    context,
    mask,
    *,
    relative: bool,
) -> Decision:
    predicted = regressor.predict(state.regressor, context)
    dtype = predicted.dtype
    exploration, exponent, floor = (v.astype(dtype) for v in (exploration, exponent, floor))
    allowed = allowed_arms(mask, predicted.shape[0])
    rounds = jnp.maximum(state.rounds, 1).astype(dtype)
    if eliminate is not None:
        spread = eliminate.astype(dtype) * jnp.log(predicted.shape[0] * rounds)
        width = jnp.sqrt(spread * regressor.leverage(state.regressor, context))
        allowed &= predicted - width <= jnp.min(jnp.where(allowed, predicted + width, jnp.inf))
    gamma = jnp.where(state.rounds > 0, exploration * rounds**exponent, 0)
    if relative:
        predicted = jnp.clip(predicted, floor, 1)
        gamma = gamma / jnp.min(jnp.where(allowed, predicted, 1))
    return draw(key, probabilities.inverse_gap(predicted, gamma, allowed), mask)


def _select_greedy(regressor: Regressor, epsilon, key, state: InverseGapState, context, mask) -> Decision:
    predicted = regressor.predict(state.regressor, context)
    num_arms, dtype = predicted.shape[0], predicted.dtype
    best = jnp.argmin(jnp.where(allowed_arms(mask, num_arms), predicted, jnp.inf))
    greedy = jax.nn.one_hot(best, num_arms, dtype=dtype)
    epsilon = epsilon.astype(dtype)
    return draw(key, epsilon / num_arms + (1 - epsilon) * greedy, mask)


def _learns(regressor: Regressor) -> Partial:
    return as_update(Partial(_learn, regressor), small=False, unlearns=False)


def _learn(regressor: Regressor, state: InverseGapState, decision, loss, context, weight) -> InverseGapState:
    learnt = regressor.update(state.regressor, context, decision.action, loss, weight)
    return InverseGapState(learnt, state.rounds + (weight > 0))


__all__ = ["InverseGapState", "fast_cb", "greedy_cb", "square_cb"]

entry.hold(globals(), "_init", "_learn", "_select", "_select_greedy", "_status")
