r"""Particle decoding: sequences drawn token by token from a model, weighed by a reward, resampled on the way.

The cloud moves by `smc.run`: its law after the last token is $p(s)\,w(s) / Z$ up to an error of order 1/N in the mean,
with $E[\hat Z] = Z$; means under the self-normalised weights are biased at finite N, $\hat Z$ times them is not.
Best-of-n is the cloud that is never resampled. Particle Gibbs keeps one sequence through each cloud (`smc.conditional`
tells how) and draws the next one from it.

References: I. Puri et al., A probabilistic inference approach to inference-time scaling of LLMs using particle-based
Monte Carlo methods, arXiv 2502.01618 (2025); S. Zhao et al., arXiv 2404.17546 (2024).
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import entry, status
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.protocols import SequenceModel
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import KeyArray, Scalar, Size, as_scalar
from jaxsci.smc import _run
from jaxsci.smc._model import Model
from jaxsci.smc.decoding import _particles
from jaxsci.smc.decoding._particles import Decoded
from jaxsci.smc.decoding._reward import Reward
from jaxsci.smc.resamplers import conditional_systematic, systematic


def particle_filter(
    key: KeyArray,
    model: SequenceModel,
    reward: Reward,
    prompt: Int[ArrayLike, " T"] | Sequence[int],
    *,
    num_particles: Size,
    max_tokens: Size,
    stop: Size | None = None,
    weight: str = "odds",
    target: str = "product",
    temperature: Scalar = 1.0,
    reward_temperature: ArrayLike = 1.0,
    resampler: Callable = systematic,
    ess_threshold: Scalar = 0.5,
) -> Decoded:
    """Draw sequences from a model tilted by a reward.

    Args:
        key: one typed key; token t is drawn with ``fold_in(key, t)``, one draw for the cloud.
        model: any `core.protocols.SequenceModel`; its states, caches included, are permuted with the particles. It must
            have room for the prompt and `max_tokens` more.
        reward: a `Reward`.
        prompt: tokens to begin with, possibly none; its length is static. Read once for the whole cloud.
        num_particles: N, static.
        max_tokens: L, the cap, static.
        stop: the token that ends a sequence; None: all have L tokens. Static.
        weight: "probability", "exponential" or "odds", static.
        target: "product", "last" or "outcome", see `_reward.py`; static.
        temperature: of the draws, above 0: logits are divided by it; traced.
        reward_temperature: tau, by which log w is divided: a number, or one for each token, as in annealing from a
            flat weight to the full one; the law of the targets "last" and "outcome" knows its last number only; traced.
        resampler, ess_threshold: as for `smc.run`; traced.

    Returns:
        A `Decoded`. Status: MAX_STEPS (a sequence of positive weight met the cap before the stop), OUT_OF_RANGE (a
        reward outside [0, 1] counted as zero; or the model ran out of room), DEGENERATE (no sequence had a positive
        weight at some time, or no token was possible), NONFINITE_INPUT (a reward was NaN: it counts as zero), and what
        states of the model report in a field `status`.

    Raises:
        TypeError: `model` or `reward` is not what it must be.
        ValueError: an unknown `weight` or `target`, a size below 1, a prompt that is no sequence of integers, or
            `reward_temperature` of another length.

    Not differentiable: tokens are drawn.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.smc import decoding
        >>> policy = [jnp.log(jnp.full((2**t, 2), 0.5)) for t in range(3)]
        >>> rewards = [jnp.tile(jnp.array([0.9, 0.1]), 2**t) for t in range(3)]
        >>> model, reward = decoding.tree(policy, rewards)
        >>> result = decoding.particle_filter(
        ...     jax.random.key(0), model, reward, [], num_particles=100, max_tokens=3
        ... )
        >>> print(result.value.tokens.shape, float(result.value.tokens[:, 0].mean()) < 0.1, int(result.status))
        (100, 3) True 0
    """
    name = "decoding.particle_filter"
    task = _particles.task(name, model, reward, prompt, temperature, stop, max_tokens, weight, target)
    steps = _particles.inputs(name, task, reward_temperature)
    threshold = as_scalar(ess_threshold, name, "ess_threshold")
    num_particles = check_size(name, "num_particles", num_particles)
    resampler = as_partial(resampler, name, "resampler")
    return _filtered(as_typed_key(key, name), task, steps, resampler, threshold, num_particles)


def best_of_n(
    key: KeyArray,
    model: SequenceModel,
    reward: Reward,
    prompt: Int[ArrayLike, " T"] | Sequence[int],
    *,
    num_particles: Size,
    max_tokens: Size,
    stop: Size | None = None,
    weight: str = "odds",
    target: str = "outcome",
    temperature: Scalar = 1.0,
) -> Decoded:
    """Draw N independent sequences and name the one of the highest reward.

    Arguments and errors as `particle_filter`; the weights are those of importance sampling.

    Returns:
        A `Decoded`; `best` is the answer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.smc import decoding
        >>> policy = [jnp.log(jnp.full((2**t, 2), 0.5)) for t in range(2)]
        >>> rewards = [jnp.tile(jnp.array([0.9, 0.1]), 2**t) for t in range(2)]
        >>> model, reward = decoding.tree(policy, rewards)
        >>> result = decoding.best_of_n(jax.random.key(0), model, reward, [], num_particles=20, max_tokens=2)
        >>> print(result.value.tokens.shape, int(result.status))
        (20, 2) 0

    References: N. Stiennon et al., Learning to summarize with human feedback, arXiv 2009.01325 (2020).
    """
    name = "decoding.best_of_n"
    task = _particles.task(name, model, reward, prompt, temperature, stop, max_tokens, weight, target)
    num_particles = check_size(name, "num_particles", num_particles)
    steps, never = _particles.inputs(name, task, 1.0), jnp.float32(0)
    return _filtered(as_typed_key(key, name), task, steps, Partial(systematic), never, num_particles)


def particle_gibbs(
    key: KeyArray,
    model: SequenceModel,
    reward: Reward,
    prompt: Int[ArrayLike, " T"] | Sequence[int],
    *,
    num_particles: Size,
    num_steps: Size,
    max_tokens: Size,
    stop: Size | None = None,
    weight: str = "odds",
    target: str = "product",
    temperature: Scalar = 1.0,
    reward_temperature: ArrayLike = 1.0,
    ess_threshold: Scalar = 1.0,
) -> Decoded:
    """A Markov chain of sequences whose law is the tilted one: each step runs a cloud through the last sequence.

    The reference is particle 0 at every token and competes with its weight of that token; others may branch off it.
    Tokens before a branch cannot be rescored cheaply in a model of whole sequences, so the new sequence is traced.

    Args:
        key, model, reward, prompt, max_tokens, stop, weight, target, temperature, reward_temperature: as for
            `particle_filter`.
        num_particles: N, at least 2, the reference among them; static.
        num_steps: steps of the chain after the first cloud, which has no reference; static.
        ess_threshold: as for `smc.conditional`; 1, always, is the default.

    Returns:
        A `Decoded` whose `value` holds the sequence of each step, equally weighted, and whose `history` holds the whole
        clouds of the steps as `Sequences` with axes ``num_steps, N``; no `log_z`. Statuses as `particle_filter`.

    Raises:
        TypeError, ValueError: as `particle_filter`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.smc import decoding
        >>> policy = [jnp.log(jnp.full((2**t, 2), 0.5)) for t in range(2)]
        >>> rewards = [jnp.tile(jnp.array([0.9, 0.1]), 2**t) for t in range(2)]
        >>> model, reward = decoding.tree(policy, rewards)
        >>> result = decoding.particle_gibbs(
        ...     jax.random.key(0), model, reward, [], num_particles=8, num_steps=3, max_tokens=2)
        >>> print(jax.tree.leaves(result.value)[0].shape[0])
        3

    References: C. Andrieu, A. Doucet, R. Holenstein, J. R. Statist. Soc. B 72 (2010), 269-342.
    """
    name = "decoding.particle_gibbs"
    task = _particles.task(name, model, reward, prompt, temperature, stop, max_tokens, weight, target)
    steps = _particles.inputs(name, task, reward_temperature)
    threshold = as_scalar(ess_threshold, name, "ess_threshold")
    sizes = check_size(name, "num_particles", num_particles, least=2), check_size(name, "num_steps", num_steps)
    return _chain(as_typed_key(key, name), task, steps, threshold, *sizes)


@eqx.filter_jit
def _filtered(key, task, steps, resampler, threshold, num_particles):
    model = Model(Partial(_init, task), Partial(_move, task))
    result = _run.run(
        key, model, steps, num_particles=num_particles, resampler=resampler, ess_threshold=threshold, in_place=True
    )
    lost = (result.status == status.OK) & jnp.any(jnp.isnan(result.value.log_weights))
    code = result.status | status.flag(lost, status.NONFINITE_RESULT)
    return _particles.decoded(task, result.value, result.history, code, result.log_z)


def _init(task, key, num, input):
    return _particles.sampled(task, key, _particles.roots(task, num), input)


def _move(task, key, particles, log_weights, input):
    return *_particles.sampled(task, key, particles, input), None


@Partial
def _kept(key, log_weights, num_out):
    return conditional_systematic(key, log_weights, num_out, pivot=0, slot=0)


@eqx.filter_jit
def _chain(key, task, steps, threshold, num_particles, num_steps):
    key_start, key_steps = jax.random.split(key)

    def cloud(key, reference, resampler):
        first, second = jax.random.split(key)
        now = steps._replace(forced=reference)
        result = _filtered(first, task, now, resampler, threshold, num_particles)
        chosen = jax.random.categorical(unrolled(second), result.value.log_weights)
        return jax.tree.map(lambda a: a[chosen], result.value), result

    def step(reference, i):
        chosen, result = cloud(jax.random.fold_in(key_steps, i), reference, _kept)
        return chosen.tokens, (chosen, result.value, result.status)

    first, begun = cloud(key_start, steps.forced, Partial(systematic))
    _, (chain, clouds, codes) = jax.lax.scan(step, first.tokens, jnp.arange(num_steps, dtype=jnp.int32))
    best = jnp.argmax(jnp.where(jnp.isnan(chain.log_scores), -jnp.inf, chain.log_scores)).astype(jnp.int32)
    chain = chain._replace(log_weights=jnp.zeros_like(chain.log_weights))
    return Decoded(chain, best, clouds, begun.status | status.reduce(codes))


def majority(
    answers: Int[ArrayLike, " N"] | Sequence[int], log_weights: Float[ArrayLike, " N"], num_answers: Size
) -> Float[Array, " num_answers"]:
    r"""Weighted majority: the share of the weight that each answer has, $\sum_i W_i [a_i = k]$.

    Args:
        answers: that of each sequence, from 0; others than ``0 ... num_answers - 1`` are no answer and have no vote.
        log_weights: of the sequences; zeros give the vote of self-consistency. A NaN counts as zero.
        num_answers: K, static.

    Returns:
        K shares that sum to 1; all 0 where there was no vote.

    Raises:
        ValueError: vectors of different lengths or none, or `num_answers` below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.smc import decoding
        >>> print(decoding.majority(jnp.array([0, 2, 2, -1]), jnp.log(jnp.array([3.0, 1.0, 1.0, 9.0])), 3))
        [0.6 0.  0.4]

    References: X. Wang et al., Self-consistency improves chain of thought reasoning, arXiv 2203.11171 (2022).
    """
    num_answers = check_size("decoding.majority", "num_answers", num_answers)
    answers, log_weights = jnp.asarray(answers), jnp.asarray(log_weights)
    if answers.ndim != 1 or answers.shape != log_weights.shape or answers.size == 0:
        raise ValueError(
            f"decoding.majority: answers and log_weights must be vectors of one length >= 1, got shapes "
            f"{answers.shape} and {log_weights.shape}; use jax.vmap over clouds"
        )
    votes = (answers >= 0) & (answers < num_answers)
    log_weights = log_weights.astype(jnp.promote_types(log_weights.dtype, jnp.float32))
    log_weights = jnp.where(votes & ~jnp.isnan(log_weights), log_weights, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(log_weights))
    weights = jnp.exp(log_weights - jnp.where(jnp.isfinite(largest), largest, 0))
    shares = jnp.zeros(num_answers, weights.dtype).at[jnp.where(votes, answers, num_answers)].add(weights, mode="drop")
    total = jnp.sum(shares)
    return jnp.where(total > 0, shares / jnp.where(total > 0, total, 1), 0)


__all__ = ["best_of_n", "majority", "particle_filter", "particle_gibbs"]

entry.hold(globals(), "_init", "_move")
