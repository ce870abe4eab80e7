r"""A policy that learns the physics of relaxation from costs alone, and plays the parameter it then predicts best.

The unknowns are few, because theory says how a count depends on $\omega$ once the Jacobi radius is known. With x the
context scaled to [0, 1], a pencil $A(c) = M + cN$ has

$$\frac{\beta}{1 - \beta} = \frac{b_0 (1 - x) + b_1 x}{(1 - x) + a_1 x}.$$

SOR, with Young's two real eigenvalues $\lambda_+ \ge \lambda_-$ below the optimum, equal moduli above it:
$k = k_0 + \frac{L}{-\ln\rho(\omega, \beta)} (1 - s\sqrt{1 - \lambda_-/\lambda_+})$. Below the optimum one slow mode is
left and a random start has little of it (s); $k_0$ sweeps are lost to the Jordan-like growth before the decay.
SSOR-PCG, with the condition number $\kappa = (1 + \frac{(2-\omega)^2}{4\omega(1-\beta)} -
\frac{\omega(1-\beta)}{4})/(2 - \omega)$: $\ln k = \ln L - g \ln(-\ln\frac{\sqrt\kappa - 1}{\sqrt\kappa + 1})$.

Beliefs about the unknowns are an ensemble of parameter vectors. A round plays the arm that is best for a randomly drawn
member (Thompson sampling). The cost that it meets moves the ensemble by a square-root Kalman step with the ensemble's
own covariances, so nothing is differentiated, and kinks of the formulas do no harm. What the theory misses is kept as
mean residuals, one for each bin of the context and each arm (a cell). They correct the predictions. They also cap how
much repeated costs of one cell may teach the ensemble: without that cap, a systematic error of the theory would make
the ensemble certain of wrong constants. The prediction of an arm whose residual is unknown is lowered by one standard
deviation, so that such arms are tried. If even that fails, a second policy given by the user, which is played side by
side, takes over.

References: Young 1954 (radius and rate); Axelsson 1972, A generalized SSOR method (BIT 12), for the condition number;
Khodak et al. 2024, Learning to Relax (the task); Evensen 2003, The ensemble Kalman filter; Whitaker and Hamill 2002
(its deterministic form).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core import entry, status, tree
from jaxsci.core.keys import as_typed_key
from jaxsci.core.policies import allowed_arms, as_context, as_select, as_update
from jaxsci.core.protocols import Decision, Policy, finite_status
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Scalar, float_dtype
from jaxsci.linear.theory import young_rate

# Costs enter by their logarithm, which is clipped to this range: half an iteration to a million.
_LEAST_LOG, _LARGEST_LOG = math.log(0.5), math.log(1e6)
# A surprise beyond this many standard deviations is weighted down (Huber).
_OUTLIER = 3.0
# A cell's residual is a mean over about this many last visits: it must follow the ensemble while that still moves.
_VISITS_KEPT = 30.0
_NOISE_START, _NOISE_LEAST, _NOISE_WINDOW = 0.5, 0.02, 200.0


class PhysicsState(NamedTuple):
    """Beliefs of the physics policy: an ensemble, residuals of the cells (bin of the context, arm), the noise; and how
    the fallback compares.

    Attributes:
        members: N vectors of the p unknowns of the theory, mostly logarithms.
        visits: weighted visits of each cell, at most 30.
        residual: mean of ln cost less the ensemble's mean prediction, of each cell.
        noise: variance of ln cost within a cell.
        repeats: repeated visits of cells, from which `noise` is estimated.
        excess: importance-weighted costs of the fallback less those of the theory; 0 without a fallback.
        paid: sum of all costs; 0 without a fallback.
        rounds: rounds learnt.
        fallback: state of the fallback policy; None without one.
    """

    members: Float[Array, "N p"]
    visits: Float[Array, "bins K"]
    residual: Float[Array, "bins K"]
    noise: Float[Array, ""]
    repeats: Float[Array, ""]
    excess: Float[Array, ""]
    paid: Float[Array, ""]
    rounds: Int[Array, ""]
    fallback: PyTree


class _Advice(NamedTuple):
    """What the update needs to know about a choice between theory and fallback.

    Attributes:
        by_fallback: whether the fallback chose.
        share: probability with which the one that chose was given the choice.
        log_expected: ln of the cost, in units, that the theory predicted for its own arm.
        decision: the fallback's decision.
    """

    by_fallback: Array
    share: Array
    log_expected: Array
    decision: Any


def physics_policy(
    arms: Float[ArrayLike, " K"],
    *,
    low: Scalar,
    high: Scalar,
    method: str = "sor",
    fallback: Policy | None = None,
    tol: Scalar = 1e-8,
    unit: Scalar = 1.0,
    misfit: Scalar = 0.1,
    num_members: int = 64,
    num_bins: int = 32,
) -> Policy:
    r"""Contextual policy for tuned SOR or SSOR-PCG that knows the theory but none of its constants.

    It learns from every round about all arms, so many arms cost nothing: a fine grid serves as a continuous omega.

    Args:
        arms: omega of every arm, the ones given to `linear.tuned_sequence`, traced.
        low, high: range of the scalar context, traced; contexts outside are clipped, a NaN is the middle.
        method: which theory, "sor" or "ssor_pcg", static.
        fallback: a policy over the same arms that needs no theory, e.g. Tsallis-INF (`bandits.policies`). It is
            played with the probability $w/(1 + w)$, $w = (1 + D/\sqrt t)^{-2}$. D is the importance-weighted excess of
            the fallback's costs over those of the theory, in units of the mean cost; if D < 0, the probabilities of
            theory and fallback are exchanged with |D| in place of D. So the fallback is hardly played where the theory
            works, and takes over where it does not. None: the theory and its residuals decide alone.
        tol: tolerance of the solves, traced; it only sets where the search for the constants starts, and is clipped
            to (0, 1/e].
        unit: cost of one iteration if costs are no counts, traced.
        misfit: standard deviation of the theory's systematic error in ln cost, traced.
        num_members: N, size of the ensemble, static.
        num_bins: bins of the context for the residuals, static.

    Returns:
        A policy; its losses are costs >= 0. A NaN teaches nothing, an infinite cost counts as 1e6 units. With a
        fallback, `log_prob` is that of the pair (who chose, arm).

    Raises:
        ValueError: arms not of shape (K,); an unknown method; fewer than 2 members; no bin.

    Example:
        >>> import jax
        >>> from jaxsci import linear
        >>> arms = jnp.linspace(1.0, 1.95, 39)
        >>> policy = linear.physics_policy(arms, low=-0.15, high=0.65, tol=1e-4)
        >>> result = linear.tuned_sequence(
        ...     jax.random.key(0), linear.streams.shifted_laplacian((4, 4)), linear.methods.sor, policy, arms,
        ...     num_rounds=3, tol=1e-4)
        >>> result.history.steps.shape, result.state.policy.members.shape
        ((3,), (64, 6))

    References: Khodak et al. 2024, Learning to Relax, section 4 (the task; the policy is this package's).
    """
    dtype = float_dtype(arms, low, high, tol, unit, misfit)
    arms = jnp.asarray(arms, dtype)
    if arms.ndim != 1 or arms.shape[0] < 1:
        raise ValueError(f"physics_policy: arms must have shape (K,) with K >= 1, got {arms.shape}")
    if method not in _THEORIES:
        raise ValueError(f"physics_policy: method must be one of {sorted(_THEORIES)}, got {method!r}")
    num_members = check_size("physics_policy", "num_members", num_members, least=2)
    num_bins = check_size("physics_policy", "num_bins", num_bins)
    low, high, tol, unit, misfit = (jnp.asarray(v, dtype) for v in (low, high, tol, unit, misfit))
    theory = {"arms": arms, "low": low, "high": high, "misfit": misfit, "unit": unit, "fallback": fallback}
    return Policy(
        Partial(bind(_init, method=method, num_members=num_members, num_bins=num_bins), theory, tol),
        as_select(Partial(bind(_select, method=method), theory)),
        as_update(Partial(bind(_learn, method=method), theory), unlearns=False, tolerates=("infinite loss", "context")),
        Partial(_status, fallback),
    )


# --- theory ------------------------------------------------------------------------------------------------


def _odds(theta, x):
    """beta / (1 - beta) from the logarithms a_1, b_0, b_1, the first three parameters."""
    a1, b0, b1 = (jnp.exp(jnp.clip(theta[..., i], -15, 15)) for i in range(3))
    return (b0 * (1 - x) + b1 * x) / (1 - x + a1 * x)


def _log_sor(theta, x, omega):
    """ln of the sweeps SOR needs; theta = ln a_1, ln b_0, ln b_1, ln L, logit s, ln k_0."""
    odds = _odds(theta, x)
    # A Python-float bound would be 1 in float32, so the logarithm is kept from 0 instead.
    rho = jnp.maximum(young_rate(omega, odds / (1 + odds)), 1e-6)
    rate = jnp.maximum(-jnp.log(rho), 1e-6)
    ratio = jnp.minimum(((omega - 1) / rho) ** 2, 1)  # lambda_- / lambda_+, as their product is (omega - 1)^2
    digits = jnp.exp(jnp.clip(theta[..., 3], -15, 15)) * (1 - jax.nn.sigmoid(theta[..., 4]) * jnp.sqrt(1 - ratio))
    return jnp.log(jnp.exp(jnp.clip(theta[..., 5], -15, 15)) + digits / rate)


def _log_ssor_pcg(theta, x, omega):
    """ln of the iterations SSOR-PCG needs; theta = ln a_1, ln b_0, ln b_1, ln L, ln g."""
    over = 1 + _odds(theta, x)  # 1 / (1 - beta)
    kappa = (1 + (2 - omega) ** 2 * over / (4 * omega) - omega / (4 * over)) / (2 - omega)
    root = jnp.sqrt(jnp.maximum(kappa, 1.00001))
    rate = -jnp.log((root - 1) / (root + 1))
    return theta[..., 3] - jnp.exp(jnp.clip(theta[..., 4], -15, 15)) * jnp.log(rate)


# Function, prior means and standard deviations; the fourth mean is relative to ln(-ln tol). The radius is known to
# orders of magnitude only, and starts slow: from above the optimum the count falls predictably towards it.
_THEORIES = {
    "sor": (_log_sor, (0.0, 4.0, 2.0, 0.0, -1.0, 1.0), (1.5, 2.0, 2.0, 0.3, 1.0, 1.0)),
    "ssor_pcg": (_log_ssor_pcg, (0.0, 0.0, 2.0, math.log(0.75), 0.3), (1.5, 3.0, 2.0, 0.3, 0.2)),
}


def _predict(method, theta, x, omega):
    return _THEORIES[method][0](theta, x, jnp.clip(omega, 1e-3, 2 - 1e-3))


# --- policy ------------------------------------------------------------------------------------------------


def _init(theory, tol, key, *, method, num_members, num_bins) -> PhysicsState:
    key = as_typed_key(key, "init")
    dtype, fallback = theory["arms"].dtype, theory["fallback"]
    _, mean, spread = _THEORIES[method]
    # fmin and fmax rather than clip: a NaN becomes an end of the range too.
    tol = jnp.fmin(jnp.fmax(tol, jnp.finfo(dtype).tiny), math.exp(-1))
    mean = jnp.asarray(mean, dtype).at[3].add(jnp.log(-jnp.log(tol)))
    draws = jax.random.normal(jax.random.fold_in(key, 0), (num_members, len(spread)), dtype)
    cells = jnp.zeros((num_bins, theory["arms"].shape[0]), dtype)
    zero = jnp.zeros((), dtype)
    return PhysicsState(
        mean[None, :] + draws * jnp.asarray(spread, dtype)[None, :],
        cells,
        cells,
        jnp.asarray(_NOISE_START**2, dtype),
        zero,
        zero,
        zero,
        jnp.int32(0),
        None if fallback is None else fallback.init(jax.random.fold_in(key, 1)),
    )


def _status(fallback, state: PhysicsState) -> Int[Array, ""]:
    own = finite_status(state._replace(fallback=None))
    return own if fallback is None else status.merge(own, fallback.status(state.fallback))


def _place(theory, context, num_bins):
    """Context scaled to [0, 1], and its bin."""
    context = as_context("physics_policy", context, (), theory["low"].dtype)
    x = (context - theory["low"]) / (theory["high"] - theory["low"])
    x = jnp.clip(jnp.where(jnp.isnan(x), 0.5, x), 0, 1)
    return x, jnp.minimum((x * num_bins).astype(jnp.int32), num_bins - 1)


def _select(theory, key, state: PhysicsState, context, mask, *, method) -> Decision:
    key = as_typed_key(key, "select")
    arms, fallback = theory["arms"], theory["fallback"]
    allowed = allowed_arms(mask, arms.shape[0])
    x, b = _place(theory, context, state.visits.shape[0])
    # Posterior of the cells' residuals; optimism of one standard deviation tries arms the theory is unsure of.
    information = state.visits[b] / state.noise + 1 / theory["misfit"] ** 2
    correction = state.visits[b] / state.noise / information * state.residual[b] - 1 / jnp.sqrt(information)
    predicted = _predict(method, state.members[:, None, :], x, arms[None, :]) + correction[None, :]
    predicted = jnp.where(allowed[None, :], predicted, jnp.inf)
    votes = jnp.argmin(predicted, axis=1).astype(jnp.int32)
    member = jax.random.randint(jax.random.fold_in(key, 0), (), 0, votes.shape[0])
    action, log_expected = votes[member], jnp.min(predicted[member])
    share = jnp.mean((votes == action).astype(arms.dtype))
    log_prob = jnp.where(jnp.any(allowed), jnp.log(share), -jnp.inf)
    if fallback is None:
        return Decision(action, log_prob)

    other = fallback.select(jax.random.fold_in(key, 1), state.fallback, context, mask)
    share = _fallback_share(state)
    by_fallback = jax.random.uniform(jax.random.fold_in(key, 2), dtype=arms.dtype) < share
    share = jnp.where(by_fallback, share, 1 - share)
    action = jnp.where(by_fallback, other.action, action)
    log_prob = jnp.where(by_fallback, other.log_prob.astype(arms.dtype), log_prob)
    return Decision(action, log_prob + jnp.log(share), _Advice(by_fallback, share, log_expected, other))


def _fallback_share(state: PhysicsState):
    """Probability of playing the fallback: 1/2 at equal costs; of order 1/t, or 1 less that, once one of the two is
    better."""
    mean = state.paid / jnp.maximum(state.rounds, 1)
    gap = state.excess / jnp.where(mean > 0, mean, 1)
    w = (1 + jnp.abs(gap) / jnp.sqrt((state.rounds + 1).astype(gap.dtype))) ** -2
    return jnp.where(gap > 0, w, 1) / (1 + w)


def _learn(theory, state: PhysicsState, decision: Decision, loss, context, weight, *, method) -> PhysicsState:
    # A fallback of a wider dtype widens the numbers of the round.
    arm, (loss, weight) = decision.action, (v.astype(state.noise.dtype) for v in (loss, weight))
    x, b = _place(theory, context, state.visits.shape[0])
    y = jnp.clip(jnp.log(jnp.maximum(loss / theory["unit"], 1e-9)), _LEAST_LOG, _LARGEST_LOG)
    omega, noise, visits = theory["arms"][arm], state.noise, state.visits[b, arm]
    misfit = theory["misfit"] ** 2

    variance = _cell_variance(visits, jnp.maximum(weight, 1e-9), misfit, noise)
    members = _kalman(state.members, _predict(method, state.members, x, omega), y, variance)
    # A decision from a log has no aux: it teaches the theory, and says nothing of how theory and fallback compare.
    advised = theory["fallback"] is not None and decision.aux is not None
    if advised:
        # The theory need only hold near the arms that it would choose: rounds of the fallback do not teach it.
        members = jnp.where(decision.aux.by_fallback, state.members, members)

    # The residual of the cell, and from its changes the noise.
    error = y - jnp.mean(_predict(method, members, x, omega))
    kept = jnp.minimum(visits + weight, _VISITS_KEPT)
    before = state.residual[b, arm]
    residual = before + (error - before) * jnp.minimum(weight / jnp.maximum(kept, 1e-9), 1)
    again = (visits > 0) & (weight > 0)
    repeats = state.repeats + again
    step = again / jnp.minimum(10 + repeats, _NOISE_WINDOW)
    noise = jnp.maximum(noise + step * ((error - before) * (error - residual) - noise), _NOISE_LEAST**2)

    learnt = state._replace(
        members=members,
        visits=state.visits.at[b, arm].set(kept),
        residual=state.residual.at[b, arm].set(residual),
        noise=noise,
        repeats=repeats,
        rounds=state.rounds + 1,
    )
    if advised:
        paid = theory["unit"] * jnp.exp(y)
        learnt = _compare(theory["fallback"], theory["unit"], learnt, decision.aux, paid, context, weight)
    return learnt


def _cell_variance(visits, weight, misfit, noise):
    """Variance for the next observation of a cell, such that all observations of the cell together teach as much as a
    single one of variance misfit + noise / visits."""
    return ((visits + weight) * misfit + noise) * (visits * misfit + noise) / (noise * weight)


def _kalman(members, predicted, y, variance):
    """Kalman step for one scalar observation y: mean and covariance of the ensemble are updated exactly, without
    draws."""
    deviations, anomalies = predicted - jnp.mean(predicted), members - jnp.mean(members, axis=0)[None, :]
    scale = 1 / (members.shape[0] - 1)
    covariance = scale * jnp.sum(anomalies * deviations[:, None], axis=0)
    spread = scale * jnp.sum(deviations**2)
    innovation = y - jnp.mean(predicted)
    variance = variance * jnp.maximum(1, jnp.abs(innovation) / jnp.sqrt(spread + variance) / _OUTLIER)
    total = spread + variance
    move = innovation - deviations / (1 + jnp.sqrt(variance / total))
    return members + move[:, None] * (covariance / total)[None, :]


def _compare(fallback, unit, state: PhysicsState, advice: _Advice, loss, context, weight) -> PhysicsState:
    """Teach the fallback the rounds in which it chose, and update the estimate of how much dearer it is than the
    theory.

    The estimate is importance-weighted by the share of who chose. The cost expected in this context is subtracted
    first: whatever was expected before the draw cancels on average, and a good expectation leaves little variance.
    """
    mean = jnp.where(state.rounds > 1, state.paid / jnp.maximum(state.rounds - 1, 1), loss)
    expected = jnp.minimum(unit * jnp.exp(jnp.minimum(advice.log_expected, _LARGEST_LOG)), 3 * mean)
    sign = jnp.where(advice.by_fallback, 1, -1)
    taught = fallback.update(state.fallback, advice.decision, loss, context, weight)
    return state._replace(
        excess=state.excess + weight * sign * (loss - expected) / advice.share,
        paid=state.paid + loss,
        fallback=tree.where(advice.by_fallback, taught, state.fallback),
    )


__all__ = ["PhysicsState", "physics_policy"]

entry.hold(globals(), "_init", "_learn", "_select", "_status")
