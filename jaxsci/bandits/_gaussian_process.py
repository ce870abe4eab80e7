r"""GP-UCB and GP-TS: losses as a Gaussian process of context and arm together, over any finite set of arms.

$\ell = f(s, a) + \varepsilon$, $f \sim \mathcal{GP}(c, k)$. With posterior mean $\mu$ and deviation $\sigma$ at s,
GP-UCB plays $\arg\min_a \mu(a) - \beta\,\sigma(a)$, GP-TS $\arg\min_a \tilde f(a)$ for one joint draw $\tilde f$ of the
posterior over all arms. The parameters are fitted again every few rounds; between fits a round is one appended row.

The default kernel is that of the bandit over interface conditions, with arms that are binary vectors:
$k = \exp(-\|s - s'\|^2/\lambda)\,\exp(g\,\mathrm{mean}_j(1 - |a_j - a'_j|))$,
noise $1/\tau$, $\tau \sim \Gamma(100, 1)$.
The program published with that paper takes, as "Thompson sampling", the best of 20 independent draws at every arm. This
ignores how arms are correlated, and the best of 20 draws is about $\mu - 1.87\,\sigma$ with some noise: an optimistic
rule rather than a draw from the posterior. It is available as ``marginal_max=20``; the default here is the joint draw.
The published program also fits the parameters after every round, to convergence. Here they are fitted every few rounds,
by a fixed number of steps from the same start.

References: Srinivas et al. 2010, Gaussian Process Optimization in the Bandit Setting, algorithm 1; Krause and Ong 2011,
Contextual Gaussian Process Bandit Optimization, section 3 (product kernels); Zhang et al. 2023, Meta Learning of
Interface Conditions for Multi-Domain PINNs, section 4.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Real

from jaxsci import gp
from jaxsci.core import entry, status, tree
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.policies import allowed_arms, as_context, as_select, as_update, draw
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Size, as_count, float_dtype


class GPSurrogate(eqx.Module):
    """The model of the losses under a GP policy, and when its parameters are fitted; made by `gp_surrogate`.

    Attributes:
        arms: what the kernel sees of each arm, p numbers.
        model: ``model(params) -> (kernel, noise)``: kernel on inputs (context, arm), noise variance of one play.
        params: positive parameters before the first fit; every fit starts from them.
        log_prior: ``log_prior(params) -> scalar``, added to the likelihood in a fit; None is flat.
        center: prior mean of the losses.
        jitter: added to the diagonal of the kernel matrix, see `gp.condition`.
        warmup: number of first plays that are uniformly random.
        refit_every: plays stored between two fits; the first one comes after `warmup` plays.
        refit_steps: evaluations of the likelihood in one fit; 0 never fits.
        capacity: T, plays that are remembered.
        context_size: q, entries of a context; 0 for no context.
    """

    arms: Float[Array, "K p"]
    model: Callable
    params: PyTree
    log_prior: Callable | None
    center: Float[Array, ""]
    jitter: Float[Array, ""]
    warmup: Int[Array, ""]
    refit_every: Int[Array, ""]
    refit_steps: Int[Array, ""]
    capacity: int = eqx.field(static=True)
    context_size: int = eqx.field(static=True)


class GPState(NamedTuple):
    """What a GP policy has learnt.

    Attributes:
        process: posterior of the losses less `center` over T rows, one for each stored play; inputs (context, arm).
        params: parameters of the model as last fitted.
        weight: weight of each stored play; 1 in free rows.
        rounds: plays learnt from, those that came after the T rows were full included.
    """

    process: gp.GP
    params: PyTree
    weight: Float[Array, " T"]
    rounds: Int[Array, ""]


def interface_model(params: dict) -> tuple[gp.kernels.Kernel, Float[Array, ""]]:
    r"""Kernel and noise of the bandit over interface conditions, on inputs (s, a).

    $k = \exp(-\|s - s'\|^2/\lambda)\,\exp(g\,m(a, a'))$, m the share of coordinates that agree; noise $1/\tau$.

    Args:
        params: positive "length" $\lambda$, "coupling" g and "precision" $\tau$, traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> surrogate = bandits.regressors.gp_surrogate(jnp.linspace(0.0, 1.0, 5)[:, None], capacity=4)
        >>> kernel, noise = bandits.regressors.interface_model(surrogate.params)
        >>> print(float(noise) > 0)
        True

    References: Zhang et al. 2023, section 4.
    """
    context = gp.kernels.part(gp.kernels.rbf(jnp.sqrt(params["length"] / 2)), 0)
    arm = gp.kernels.part(gp.kernels.hamming(params["coupling"]), 1)
    return gp.kernels.multiply(context, arm), 1 / params["precision"]


def interface_prior(params: dict) -> Float[Array, ""]:
    r"""Log density of the precision's prior $\Gamma(100, 1)$, $99\log\tau - \tau$ flat in the rest.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> surrogate = bandits.regressors.gp_surrogate(jnp.linspace(0.0, 1.0, 5)[:, None], capacity=4)
        >>> print(jnp.isfinite(bandits.regressors.interface_prior(surrogate.params)))
        True
    """
    return 99 * jnp.log(params["precision"]) - params["precision"]


def gp_surrogate(
    arms: Real[ArrayLike, "K p"],
    *,
    capacity: Size,
    context_size: Size = 0,
    model: Callable[[PyTree], tuple[Any, Any]] = interface_model,
    params: PyTree = None,
    log_prior: Callable[[PyTree], Any] | None = interface_prior,
    center: ArrayLike = 0.0,
    warmup: ArrayLike = 5,
    refit_every: ArrayLike = 10,
    refit_steps: ArrayLike = 20,
    jitter: ArrayLike = 1e-5,
) -> GPSurrogate:
    """The Gaussian-process model of losses for `gp_ucb` and `gp_ts`, and how it is fitted.

    Args:
        arms: (K, p), what the kernel sees of each arm, traced.
        capacity: T, how many plays are remembered, static. Memory T^2, a round O(T^2 K), a fit O(T^3) a step. When
            T plays are stored, later plays teach nothing: the policy goes on with the posterior that it has, and
            ``state.process.status`` says `gp.FULL`.
        context_size: q; contexts are (q,) arrays (scalars too when q = 1), none when 0; static. Standardise them.
        model: ``model(params) -> (kernel, noise)``, the kernel on inputs (s, a) of a context (q,) and an arm (p,),
            the noise a scalar. A module-level function or `Partial`.
        params: positive parameters, from which each fit starts, traced; all 1 for the default model.
        log_prior: ``log_prior(params) -> scalar``, or None for none. The default belongs to the default model and is
            left out with any other.
        center: prior mean of the losses, traced; losses of any range.
        warmup: number of first plays that are uniformly random, traced.
        refit_every: the first fit follows when `warmup` plays are stored, another after every so many more, traced.
        refit_steps: evaluations of the likelihood in one fit, traced; 0 never fits and keeps `params`.
        jitter: see `gp.condition`, traced.

    Under `jax.vmap` each round pays for a fit, due or not; run many seeds by `jax.lax.map`.

    Raises:
        ValueError: shapes or sizes that make no sense; another model without params.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> surrogate = bandits.regressors.gp_surrogate(jnp.linspace(0.0, 1.0, 5)[:, None], capacity=10)
        >>> type(surrogate).__name__
        'GPSurrogate'

    References: Zhang et al. 2023, section 4.
    """
    if params is None:
        if model is not interface_model:
            raise ValueError("gp_surrogate: params must be given with a model of your own, as a pytree of floats")
        params = {"length": 1.0, "coupling": 1.0, "precision": 1.0}
    if model is not interface_model and log_prior is interface_prior:
        log_prior = None
    capacity = check_size("gp_surrogate", "capacity", capacity)
    context_size = check_size("gp_surrogate", "context_size", context_size, least=0)
    if jnp.ndim(arms) != 2 or jnp.shape(arms)[0] < 1:
        raise ValueError(f"gp_surrogate: arms must have shape (K, p) with K >= 1, got {jnp.shape(arms)}")
    dtype = float_dtype(arms, params, center)

    def number(value):
        return jnp.asarray(value, dtype)

    return GPSurrogate(
        number(arms),
        gp.kernels.as_tree(model),
        jax.tree.map(number, params),
        None if log_prior is None else gp.kernels.as_tree(log_prior),
        number(center),
        number(jitter),
        *(
            as_count(v, "gp_surrogate", name)
            for name, v in (("warmup", warmup), ("refit_every", refit_every), ("refit_steps", refit_steps))
        ),
        capacity,
        context_size,
    )


def gp_ucb(surrogate: GPSurrogate, *, exploration: ArrayLike = 1.0) -> Policy:
    r"""Plays the arm of least lower confidence bound, $\arg\min_a \mu(a) - \beta\,\sigma(a)$, first index at ties.

    Args:
        surrogate: from `gp_surrogate`.
        exploration: beta, traced; 0 is greedy. A state that was learnt with one value may be used with another.

    The state is a `GPState`, the decision's aux the predicted loss of the arm. After the warm-up the choice is
    deterministic: log_prob is 0, and importance weights cannot be taken from it.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> arms = jnp.asarray([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> policy = bandits.policies.gp_ucb(bandits.regressors.gp_surrogate(arms, capacity=20))
        >>> def play(state, i):
        ...     decision = policy.select(jax.random.fold_in(jax.random.key(0), i), state)
        ...     loss = arms[decision.action].sum() / 2  # the first arm is best
        ...     return policy.update(state, decision, loss), decision.action
        >>> state, actions = jax.lax.scan(play, policy.init(jax.random.key(1)), jnp.arange(20))
        >>> actions[-3:].tolist(), int(state.process.status)
        ([0, 0, 0], 0)

    References: Srinivas et al. 2010, algorithm 1.
    """
    return _policy(surrogate, Partial(_select_ucb, surrogate, jnp.asarray(exploration, surrogate.arms.dtype)))


def gp_ts(surrogate: GPSurrogate, *, marginal_max: Size | None = None) -> Policy:
    r"""Thompson sampling: draws the losses of all arms from their joint posterior and plays the least.

    Args:
        surrogate: from `gp_surrogate`; a round costs O(K^3) more than that of `gp_ucb`.
        marginal_max: m >= 1 takes instead the best of m independent draws at each arm, as one published program does;
            static. Not Thompson sampling, see the head of this module.

    The state and aux are those of `gp_ucb`. The probability of the arm has no closed form: log_prob is 0, and
    importance weights cannot be taken from it.

    Raises:
        ValueError: marginal_max < 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> arms = jnp.linspace(0.0, 1.0, 5)[:, None]
        >>> policy = bandits.policies.gp_ts(bandits.regressors.gp_surrogate(arms, capacity=10))
        >>> decision = policy.select(jax.random.key(1), policy.init(jax.random.key(0)))
        >>> print(0 <= int(decision.action) < 5)
        True

    References: Chowdhury and Gopalan 2017, On Kernelized Multi-armed Bandits, algorithm 2; Zhang et al. 2023.
    """
    if marginal_max is not None:
        marginal_max = check_size("gp_ts", "marginal_max", marginal_max)
    return _policy(surrogate, Partial(bind(_select_ts, marginal_max=marginal_max), surrogate))


def _policy(surrogate, select):
    learn = as_update(Partial(_learn, surrogate), small=False, unlearns=False)
    return Policy(Partial(_init, surrogate), as_select(select), learn, Partial(_status))


def _status(state: GPState) -> Int[Array, ""]:
    """The bits of the Gaussian process: appended rows, factorisations, fits, and `gp.FULL`."""
    return state.process.status


@eqx.filter_jit
def _init(surrogate: GPSurrogate, key) -> GPState:
    dtype, rows = surrogate.arms.dtype, surrogate.capacity
    x = jnp.zeros((rows, surrogate.context_size), dtype), jnp.zeros((rows, surrogate.arms.shape[1]), dtype)
    kernel, noise = surrogate.model(surrogate.params)
    process = gp.condition(
        kernel, x, jnp.zeros(rows, dtype), jnp.zeros(rows, bool), noise=noise, jitter=surrogate.jitter
    )
    return GPState(process, surrogate.params, jnp.ones(rows, dtype), jnp.int32(0))


def _context(surrogate: GPSurrogate, context):
    size = surrogate.context_size
    if context is None and size == 0:
        context = jnp.zeros(0)
    elif size == 1 and eqx.is_array_like(context):
        context = jnp.atleast_1d(context)
    return as_context("gp policy", context, (size,), surrogate.arms.dtype)


def _candidates(surrogate: GPSurrogate, context):
    """The inputs (s, a) of all arms at one context."""
    context = _context(surrogate, context)
    return jnp.broadcast_to(context, (surrogate.arms.shape[0], context.size)), surrogate.arms


def _predict(process: gp.GP, candidates):
    mean, variance, _ = gp.marginals(process, candidates)
    return mean, jnp.sqrt(variance)


def _select_ucb(surrogate, exploration, key, state: GPState, context, mask) -> Decision:
    mean, deviation = _predict(state.process, _candidates(surrogate, context))
    return _decide(key, surrogate, state, mean - exploration * deviation, mean, mask)


def _select_ts(surrogate, key, state: GPState, context, mask, *, marginal_max) -> Decision:
    key = as_typed_key(key, "select")
    candidates = _candidates(surrogate, context)
    noise_key, key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    mean, deviation = _predict(state.process, candidates)
    if marginal_max is None:
        scores = gp.sample(noise_key, state.process, candidates).value
    else:
        drawn = jax.random.normal(unrolled(noise_key), (marginal_max, mean.size), mean.dtype)
        scores = mean + deviation * drawn.min(axis=0)
    return _decide(key, surrogate, state, scores, mean, mask)


def _decide(key, surrogate: GPSurrogate, state: GPState, scores, mean, mask) -> Decision:
    """The arm of least score that the mask allows, any such arm during warm-up."""
    num_arms = scores.size
    best = jnp.argmin(jnp.where(allowed_arms(mask, num_arms), scores, jnp.inf))
    certain = jax.nn.one_hot(best, num_arms, dtype=scores.dtype)
    decision = draw(key, jnp.where(state.rounds < surrogate.warmup, 1 / num_arms, certain), mask)
    return decision._replace(aux=surrogate.center + mean[decision.action])


def _learn(surrogate: GPSurrogate, state: GPState, decision: Decision, loss, context, weight) -> GPState:
    useful = weight > 0
    x = _context(surrogate, context), surrogate.arms[decision.action]
    before = state.process
    noise = surrogate.model(state.params)[1] / jnp.where(useful, weight, 1)
    process = tree.where(useful, gp.append(before, x, loss - surrogate.center, noise=noise), before)
    weights = jnp.where(process.mask & ~before.mask, weight, state.weight)
    stored = jnp.sum(process.mask)
    due = (stored > jnp.sum(before.mask)) & (stored >= surrogate.warmup)
    due = due & ((stored - surrogate.warmup) % jnp.maximum(surrogate.refit_every, 1) == 0)
    process, params = jax.lax.cond(
        due & (surrogate.refit_steps > 0), _refit, lambda *same: same[1:3], surrogate, process, state.params, weights
    )
    return GPState(process, params, weights, state.rounds + useful)


def _refit(surrogate: GPSurrogate, process: gp.GP, params, weights):
    # Every fit starts from the first parameters. A few early plays may lead a fit to a length or coupling of zero,
    # where the likelihood is flat, and a fit that started there would never leave.
    model = Partial(_weighted, surrogate.model, weights)
    data = process.x, process.y, process.mask
    fitted = gp.fit(
        model,
        surrogate.params,
        *data,
        log_prior=surrogate.log_prior,
        jitter=surrogate.jitter,
        max_steps=surrogate.refit_steps,
        tol=1e-2,
    )
    kernel, noise = model(fitted.value)
    after = gp.condition(kernel, *data, noise=noise, jitter=surrogate.jitter)
    # Fits are cut short on purpose, so that is not reported.
    bits = process.status | after.status | fitted.status & ~(status.MAX_STEPS | status.STAGNATED)
    return after._replace(status=bits), fitted.value


def _weighted(model, weights, params):
    """The model with the noise variance of each play divided by its weight."""
    kernel, noise = model(params)
    return kernel, noise / weights


__all__ = [
    "GPState",
    "GPSurrogate",
    "gp_surrogate",
    "gp_ts",
    "gp_ucb",
    "interface_model",
    "interface_prior",
]

entry.hold(globals(), "_init", "_learn", "_select_ts", "_select_ucb", "_status")
