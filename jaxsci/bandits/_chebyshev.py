r"""ChebCB: costs as Chebyshev series in a scalar context, one per arm, played by inverse gap weighting.

Features $\phi(c) = (T_0, \ldots, T_{m-1})(2(c - a)/(b - a) - 1)$. Arm i predicts $\hat y_i = \theta_i^\top\phi$, with
$\theta_i$ the least-squares fit to its losses in the box $|\theta_{ij}| \le u_j$ that a Lipschitz cost implies. With
$i^*$ the best prediction, $p_i = 1/(K + \eta(\hat y_i - \hat y_{i^*}))$ elsewhere and the rest on $i^*$.

The data are not kept. Each arm holds the triangular factor of its least-squares problem, and a round updates it by one
row of Givens rotations. This works in float32, in which normal equations would lose too many digits.

References: Khodak et al. 2024, Learning to Relax, section 4 and algorithm 2; Foster and Rakhlin 2020, Beyond UCB
(inverse gap weighting).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.bandits import features, probabilities
from jaxsci.bandits._rotations import append_row
from jaxsci.core import entry, precision
from jaxsci.core.policies import as_context, as_select, as_update, check_num_arms, draw
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Size, float_dtype

_SWEEPS = 50


class ChebyshevState(NamedTuple):
    r"""The least-squares fit of each arm and the exploration rate of `cheb_cb`; w is the weight of a play.

    Attributes:
        factor: upper triangular R of each arm, $R^\top R = \sum w\,\phi\phi^\top$ over its plays.
        target: z of each arm: the fit minimises $\|R\theta - z\|$; losses count above the floor.
        leftover: sum of squared losses that no coefficients can explain: the squared error of the best fit without a
            box.
        theta: coefficients of each arm in the box, fitted to losses divided by `largest` times a constant of m.
        eta: rate $\eta$ of the next choice; 0 at the start, which is uniform.
        largest: largest loss so far, 0 at the start; when it grows, every arm is fitted anew.
        sum_predicted2: $\sum w\,\hat y^2$, $\hat y$ the prediction for the arm played when it was chosen.
        sum_product: $\sum w\,\hat y\,\ell$ with the loss $\ell$ as paid.
        sum_loss2: $\sum w\,\ell^2$.
        rounds: sum of the weights of all plays.
    """

    factor: Float[Array, "K m m"]
    target: Float[Array, "K m"]
    leftover: Float[Array, " K"]
    theta: Float[Array, "K m"]
    eta: Float[Array, ""]
    largest: Float[Array, ""]
    sum_predicted2: Float[Array, ""]
    sum_product: Float[Array, ""]
    sum_loss2: Float[Array, ""]
    rounds: Float[Array, ""]


def cheb_cb(
    num_arms: Size, *, low: ArrayLike, high: ArrayLike, num_features: Size = 6, floor: ArrayLike = 0.0
) -> Policy:
    """Contextual bandit for costs that are smooth in a scalar context; adapts its scale to the range of the losses.

    Args:
        num_arms: K, static.
        low, high: range [a, b] of the context, traced; contexts outside are clipped. If the range is empty (a = b),
            every context counts as its middle.
        num_features: m, Chebyshev polynomials T_0 ... T_{m-1}, static.
        floor: least possible loss, subtracted before fitting, traced; losses are >= floor >= 0.

    Raises:
        ValueError: num_arms or num_features < 1.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.cheb_cb(3, low=0.0, high=1.0)
        >>> state = policy.init(jax.random.key(0))
        >>> decision = policy.select(jax.random.key(1), state, 0.4)
        >>> state = policy.update(state, decision, 7.0, 0.4)
        >>> int(state.rounds)
        1

    References: Khodak et al. 2024, Learning to Relax, algorithm 2.
    """
    num_arms, num_features = check_num_arms("cheb_cb", num_arms), check_size("cheb_cb", "num_features", num_features)
    low, high, floor = (jnp.asarray(v, float_dtype(low, high, floor)) for v in (low, high, floor))
    sizes = {"num_arms": num_arms, "num_features": num_features}
    return Policy(
        Partial(bind(_init, **sizes), floor),
        as_select(Partial(bind(_select, **sizes), low, high)),
        as_update(Partial(bind(_learn, **sizes), low, high, floor), unlearns=False),
    )


def _slack(num_features: int) -> float:
    """N such that losses divided by (largest loss times N) keep predictions and constraints below 1."""
    return 2 + 4 * (1 + math.log(num_features))


def _box(num_features: int, dtype) -> Float[Array, " m"]:
    n = _slack(num_features)
    return jnp.asarray([1 / n, *(2 / (n * j) for j in range(1, num_features))], dtype)


def _init(floor, key, *, num_arms, num_features) -> ChebyshevState:
    def zeros(*shape):
        return jnp.zeros(shape, floor.dtype)

    return ChebyshevState(
        zeros(num_arms, num_features, num_features),
        zeros(num_arms, num_features),
        zeros(num_arms),
        zeros(num_arms, num_features),
        zeros(),
        zeros(),
        zeros(),
        zeros(),
        zeros(),
        zeros(),
    )


def _features(low, high, context, num_features):
    context = as_context("cheb_cb", context, ())
    return features.chebyshev(context, low, high, num_features=num_features)


def _select(low, high, key, state: ChebyshevState, context, mask, *, num_arms, num_features) -> Decision:
    predicted = state.theta @ _features(low, high, context, num_features)
    decision = draw(key, probabilities.inverse_gap(predicted, state.eta, mask), mask)
    return decision._replace(aux=predicted[decision.action])


def _learn(
    low, high, floor, state: ChebyshevState, decision: Decision, loss, context, weight, *, num_arms, num_features
):
    dtype = state.eta.dtype
    arm, phi = decision.action, _features(low, high, context, num_features)
    root = jnp.sqrt(weight)
    before = jnp.concatenate([state.factor[arm], state.target[arm][:, None]], axis=1)
    after, _, rest = append_row(before, jnp.zeros_like(before), root * jnp.append(phi, loss - floor))
    factors, targets = state.factor.at[arm].set(after[:, :-1]), state.target.at[arm].set(after[:, -1])
    leftover = state.leftover.at[arm].add(rest**2)

    largest = jnp.maximum(state.largest, loss)
    scale = jnp.where(largest > 0, largest, 1) * _slack(num_features)
    box = _box(num_features, dtype)

    # A new largest loss rescales every arm's fit; otherwise only the played arm has changed. One loop over a range
    # of arms serves both, so the fit is compiled once.
    rescaled = largest > state.largest
    first, last = jnp.where(rescaled, 0, arm), jnp.where(rescaled, num_arms, arm + 1)

    def refit(i, theta):
        return theta.at[i].set(_box_least_squares(factors[i], targets[i] / scale, theta[i], box))

    theta = jax.lax.fori_loop(first, last, refit, state.theta)

    rounds = state.rounds + weight
    # A decision from a log has no aux: what would be predicted now takes the place of what was predicted then.
    predicted = state.theta[arm] @ phi if decision.aux is None else decision.aux.astype(dtype)
    sum_predicted2 = state.sum_predicted2 + weight * predicted**2
    sum_product = state.sum_product + weight * predicted * loss
    sum_loss2 = state.sum_loss2 + weight * loss**2
    regret = jnp.maximum(sum_predicted2 - 2 * sum_product / scale + sum_loss2 / scale**2, 0)
    constrained = jnp.any(jnp.abs(theta[arm]) >= box * (1 - 1e-6))
    fit = factors[arm] @ theta[arm] - targets[arm] / scale
    residual = jnp.where(constrained, jnp.sum(fit**2) + leftover[arm] / scale**2, 0)
    m = num_features
    alpha = (math.pi + 2 / math.pi * math.log(2 * m + 1)) / (2 * _slack(m) * (m + 1))
    below = jnp.maximum(regret - residual, 0) + 2 * alpha**2 * rounds
    eta = 2 * rounds * jnp.sqrt(num_arms * rounds / jnp.where(below > 0, below, 1))
    return ChebyshevState(
        factors, targets, leftover, theta, eta, largest, sum_predicted2, sum_product, sum_loss2, rounds
    )


def _box_least_squares(factor, target, theta, box):
    """Minimise ||R theta - z|| over |theta_j| <= u_j by cyclic coordinate descent from the last fit."""
    gram = precision.matmul(factor.T, factor)
    right = precision.matmul(factor.T, target)
    diagonal = jnp.diagonal(gram)
    live = diagonal > 0

    m = theta.shape[0]

    def descend(i, theta):
        j = i % m
        ahead = right[j] - jnp.sum(gram[j] * theta) + diagonal[j] * theta[j]
        best = jnp.clip(ahead / jnp.where(live[j], diagonal[j], 1), -box[j], box[j])
        return theta.at[j].set(jnp.where(live[j], best, theta[j]))

    return jax.lax.fori_loop(0, _SWEEPS * m, descend, theta)


__all__ = ["ChebyshevState", "cheb_cb"]

entry.hold(globals(), "_init", "_learn", "_select")
