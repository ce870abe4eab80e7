"""The cloud of decoding: a particle is a sequence with the states of the model and the reward after it.

A sequence that has ended is not propagated: neither tokens nor score change, while its model and its reward are handed
tokens that nobody reads (leaving their caches alone would copy them once more).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxsci.core import status
from jaxsci.core.keys import unrolled
from jaxsci.core.protocols import SequenceModel
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import as_scalar
from jaxsci.smc.decoding._reward import TARGETS, WEIGHTS, Reward, as_reward, log_weight


class Sequences(NamedTuple):
    """N weighted sequences that continue a prompt.

    Attributes:
        tokens: of each, L at most; beyond its length -1.
        lengths: how many tokens each has, the stop among them.
        log_weights: of mean weight 1; all 0 where no weight was positive.
        log_scores: log w(r) of the last token of each.
        log_probs: of each by the model, at the temperature it was drawn with.
        finished: whether the stop was drawn; without a stop, whether all L tokens are there.
    """

    tokens: Int[Array, "N L"]
    lengths: Int[Array, " N"]
    log_weights: Float[Array, " N"]
    log_scores: Float[Array, " N"]
    log_probs: Float[Array, " N"]
    finished: Bool[Array, " N"]


class Decoded(NamedTuple):
    """What decoding returns.

    Attributes:
        value: the sequences, weighted.
        best: which of them has the highest score.
        history: one entry of each step, see `smc.Step`.
        status: int32 bits of the whole run, 0 is ok.
        log_z: estimate of the log of the mean of the weights under the model; None where the method gives none.
    """

    value: Sequences
    best: Int[Array, ""]
    history: PyTree
    status: Int[Array, ""]
    log_z: Float[Array, ""] | None = None


class Particle(NamedTuple):
    """What is permuted when a cloud is resampled; `paid` is what the target has counted of the score so far."""

    state: PyTree
    memory: PyTree
    tokens: Array
    length: Array
    ended: Array
    alive: Array
    log_score: Array
    paid: Array
    log_prob: Array
    status: Array


class Task(eqx.Module):
    """What is decoded."""

    model: SequenceModel
    reward: Reward
    prompt: Array
    temperature: Array
    stop: int | None = eqx.field(static=True)
    max_tokens: int = eqx.field(static=True)
    weight: str = eqx.field(static=True)
    target: str = eqx.field(static=True)


class Step(NamedTuple):
    """The input of one step: its number, the token of a reference (-1 is none), the temperature of the reward."""

    number: Array
    forced: Array
    tau: Array


def task(name: str, model, reward, prompt, temperature, stop, max_tokens, weight, target) -> Task:
    """The arguments that all methods share, checked."""
    if not isinstance(model, SequenceModel):
        raise TypeError(f"{name}: model must be a core.protocols.SequenceModel, got {type(model).__name__}")
    model = SequenceModel(*(as_partial(f, name, f"model.{n}") for n, f in model._asdict().items()))
    for argument, value, allowed in (("weight", weight, WEIGHTS), ("target", target, TARGETS)):
        if value not in allowed:
            raise ValueError(f"{name}: {argument} must be one of {', '.join(allowed)}, got {value!r}")
    prompt = jnp.asarray(prompt)
    if prompt.ndim != 1 or not (prompt.size == 0 or jnp.issubdtype(prompt.dtype, jnp.integer)):
        raise ValueError(
            f"{name}: prompt must be one sequence of integers, possibly empty, got {prompt.dtype} of shape "
            f"{prompt.shape}; use jax.vmap over prompts"
        )
    max_tokens = check_size(name, "max_tokens", max_tokens)
    stop = None if stop is None else check_size(name, "stop", stop, least=0)
    temperature = as_scalar(temperature, name, "temperature")
    reward = as_reward(name, reward)
    return Task(model, reward, prompt.astype(jnp.int32), temperature, stop, max_tokens, weight, target)


def inputs(name: str, task: Task, reward_temperature, forced=None) -> Step:
    """The inputs of all steps."""
    tau = jnp.asarray(reward_temperature)
    tau = tau.astype(jnp.promote_types(tau.dtype, jnp.float32))
    if tau.shape not in ((), (task.max_tokens,)):
        raise ValueError(
            f"{name}: reward_temperature must be a scalar or one number for each of the {task.max_tokens} tokens, got "
            f"shape {tau.shape}"
        )
    numbers = jnp.arange(task.max_tokens, dtype=jnp.int32)
    forced = jnp.full(task.max_tokens, -1, jnp.int32) if forced is None else forced
    return Step(numbers, forced, jnp.broadcast_to(tau, numbers.shape))


def roots(task: Task, num: int) -> Particle:
    """A cloud of nothing but the prompt, which is read once."""
    state, memory = task.model.init(task.prompt), task.reward.init(task.prompt)
    logits = jax.eval_shape(task.model.logits, state)
    if logits.ndim != 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"decoding: logits of the model must be Float[V], got {logits.dtype}{list(logits.shape)}")
    score = jax.eval_shape(task.reward.score, memory)
    if score.shape != () or not jnp.issubdtype(score.dtype, jnp.floating):
        raise TypeError(f"decoding: score of the reward must be a float, got {score.dtype}{list(score.shape)}")
    dtype = jnp.promote_types(jnp.promote_types(logits.dtype, score.dtype), jnp.float32)
    zero = jnp.zeros(num, dtype)

    def repeated(a):
        a = jnp.asarray(a)
        return jnp.broadcast_to(a, (num, *a.shape))

    return Particle(
        jax.tree.map(repeated, state),
        jax.tree.map(repeated, memory),
        tokens=jnp.full((num, task.max_tokens), -1, jnp.int32),
        length=jnp.zeros(num, jnp.int32),
        ended=jnp.zeros(num, bool),
        alive=jnp.ones(num, bool),
        log_score=zero,
        paid=zero,
        log_prob=zero,
        status=repeated(_status(state)),
    )


def log_probs(task: Task, particles: Particle) -> tuple[Float[Array, "N V"], Bool[Array, " N"]]:
    """Log-probabilities of the next token, and whether they are a law: with no token possible a particle dies."""
    logits = jax.vmap(task.model.logits)(particles.state)
    logits = logits.astype(particles.log_prob.dtype) / task.temperature.astype(particles.log_prob.dtype)
    lawful = jnp.any(logits > -jnp.inf, axis=-1) & ~jnp.any(jnp.isnan(logits) | (logits == jnp.inf), axis=-1)
    return jax.nn.log_softmax(jnp.where(lawful[:, None], logits, 0)), lawful


def extended(task: Task, particles: Particle, token, law, lawful, input: Step) -> tuple[Particle, Array]:
    """The cloud with one more token each, and the log of the weight that the target gives it."""
    dtype = particles.log_prob.dtype
    lawful = lawful | particles.ended
    active = ~particles.ended & lawful
    state = jax.vmap(task.model.advance)(particles.state, token)
    memory = jax.vmap(task.reward.advance)(particles.memory, token)
    score, outside = log_weight(jax.vmap(task.reward.score)(memory).astype(dtype), task.weight)
    ends = input.number + 1 >= task.max_tokens
    stopped = active & ((token == task.stop) if task.stop is not None else ends)
    reads = active if task.target != "outcome" else active & (stopped | ends)
    score = jnp.where(reads, score, particles.log_score)
    tau = input.tau.astype(dtype)
    if task.target == "last":
        counted = score / tau
        increment = jnp.where(particles.paid == -jnp.inf, -jnp.inf, counted - particles.paid)
    else:
        counted = increment = jnp.where(reads, score / tau, 0)
    alive = particles.alive & lawful
    bad = jnp.where(outside & reads, status.OUT_OF_RANGE, 0) | jnp.where(lawful, 0, status.DEGENERATE)
    bad = bad.astype(jnp.int32)
    told = jnp.where(active, jax.vmap(_status)(state), 0) | bad
    column = jnp.where(active, token, -1)
    chosen = jnp.take_along_axis(law, token[:, None], axis=1)[:, 0]
    new = Particle(
        state,
        memory,
        particles.tokens.at[:, input.number].set(column),
        particles.length + active,
        particles.ended | stopped | ~lawful,
        alive,
        score,
        jnp.where(jnp.isnan(counted), -jnp.inf, counted),
        particles.log_prob + jnp.where(active, chosen, 0),
        particles.status | told,
    )
    return new, jnp.where(alive, increment, -jnp.inf)


def sampled(task: Task, key, particles: Particle, input: Step) -> tuple[Particle, Array]:
    """One token more for each, drawn from the model; that of particle 0 is the reference's where there is one."""
    law, lawful = log_probs(task, particles)
    token = jax.random.categorical(unrolled(key), law).astype(jnp.int32)
    token = token.at[0].set(jnp.where(input.forced >= 0, input.forced, token[0]))
    return extended(task, particles, token, law, lawful, input)


def decoded(task: Task, cloud, history, code, log_z=None) -> Decoded:
    """What is left of the last cloud."""
    particles, log_weights = cloud
    finished = particles.ended & particles.alive
    used = log_weights > -jnp.inf
    code = code | status.reduce(jnp.where(used, particles.status, 0))
    code = code | status.flag(jnp.any(used & ~finished), status.MAX_STEPS)
    ranked = jnp.where(used & ~jnp.isnan(particles.log_score), particles.log_score, -jnp.inf)
    sequences = Sequences(
        particles.tokens, particles.length, log_weights, particles.log_score, particles.log_prob, finished
    )
    return Decoded(sequences, jnp.argmax(ranked).astype(jnp.int32), history, code, log_z)


def _status(state: Any):
    """The bits that a state carries, if it carries any."""
    return jnp.asarray(getattr(state, "status", 0), jnp.int32)


__all__ = ["Decoded", "Sequences"]
