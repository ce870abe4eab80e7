r"""Beam search by a reward: of all children of the beams the best go on.

At each token every beam has K children, its likeliest ones or draws of the model; of all these the M with the largest
$\frac1\tau \log w(r) + \lambda \log p$ are the beams of the next token. An ended sequence competes with the score it
ended with, as one child of its own.

Reference: C. Snell et al., Scaling LLM test-time compute optimally, arXiv 2408.03314 (2024), section 5 (beam search
against a process reward, with children that are drawn).
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike, Int

from jaxsci.core import entry
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.protocols import SequenceModel
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import KeyArray, Scalar, Size, as_scalar
from jaxsci.smc import _run
from jaxsci.smc._model import Model
from jaxsci.smc.decoding import _particles
from jaxsci.smc.decoding._particles import Decoded
from jaxsci.smc.decoding._reward import Reward


def beam_search(
    key: KeyArray | None,
    model: SequenceModel,
    reward: Reward,
    prompt: Int[ArrayLike, " T"] | Sequence[int],
    *,
    num_beams: Size,
    num_children: Size,
    max_tokens: Size,
    stop: Size | None = None,
    weight: str = "odds",
    temperature: Scalar = 1.0,
    reward_temperature: ArrayLike = 1.0,
    policy_weight: Scalar = 0.0,
) -> Decoded:
    """Keep the best prefixes by a process reward.

    A token costs as much as one of `particle_filter` with ``num_beams * num_children`` particles.

    Args:
        key: one typed key: the children are drawn from the model, with repetitions; None takes the likeliest ones, and
            nothing is left to chance.
        model, reward, prompt, max_tokens, stop, weight, reward_temperature: as for `particle_filter`.
        num_beams: M, static.
        num_children: K; without a key at most the number of tokens V, which miss nothing. Static.
        temperature: of the model's probabilities, above 0; traced.
        policy_weight: lambda: how much the log-probability of the sequence counts beside its score; traced.

    Returns:
        A `Decoded`: the M K candidates of the last token, with log-weights that hold what they were compared by, up to
        a constant; -inf for children of no beam. No `log_z`. Statuses as `particle_filter`.

    Raises:
        TypeError, ValueError: as `particle_filter`; more children than tokens without a key.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.smc import decoding
        >>> policy = [jnp.log(jnp.full((2**t, 2), 0.5)) for t in range(3)]
        >>> rewards = [jnp.tile(jnp.array([0.9, 0.1]), 2**t) for t in range(3)]
        >>> result = decoding.beam_search(
        ...     None, *decoding.tree(policy, rewards), [], num_beams=1, num_children=2, max_tokens=3
        ... )
        >>> print(result.value.tokens[result.best])
        [0 0 0]
    """
    name = "decoding.beam_search"
    task = _particles.task(name, model, reward, prompt, temperature, stop, max_tokens, weight, "product")
    steps = _particles.inputs(name, task, reward_temperature)
    share = as_scalar(policy_weight, name, "policy_weight")
    sizes = check_size(name, "num_beams", num_beams), check_size(name, "num_children", num_children)
    key, drawn = (jax.random.key(0), False) if key is None else (as_typed_key(key, name), True)
    return _search(key, task, steps, share, *sizes, drawn)


@eqx.filter_jit
def _search(key, task, steps, share, num_beams, num_children, drawn):
    sizes = dict(num_beams=num_beams, num_children=num_children, drawn=drawn)
    model = Model(Partial(bind(_init, **sizes), task, share), Partial(bind(_move, **sizes), task, share))
    result = _run.run(
        key,
        model,
        steps,
        num_particles=num_beams * num_children,
        num_resampled=num_beams,
        resampler=_best,
        ess_threshold=1.0,
    )
    found = _particles.decoded(task, result.value, result.history, result.status)
    return found._replace(best=jnp.argmax(result.value.log_weights).astype(jnp.int32))


@Partial
def _best(key, log_weights, num_out):
    return jax.lax.top_k(log_weights, num_out)[1].astype(jnp.int32)


def _init(task, share, key, num, input, num_beams, num_children, drawn):
    roots = _particles.roots(task, num_beams)
    roots = roots._replace(alive=jnp.arange(num_beams) == 0)  # one prompt, however many beams
    return _children(task, share, key, roots, input, num_children, drawn)


def _move(task, share, key, particles, log_weights, input, num_beams, num_children, drawn):
    return *_children(task, share, key, particles, input, num_children, drawn), None


def _children(task, share, key, beams, input, num_children, drawn):
    """Child c of beam b stands at place c M + b; an ended beam has one, itself."""
    law, lawful = _particles.log_probs(task, beams)
    if num_children > law.shape[1] and not drawn:
        raise ValueError(
            f"decoding.beam_search: num_children must be at most the {law.shape[1]} tokens, got {num_children}"
        )
    if drawn:
        tokens = jax.random.categorical(unrolled(key), law[:, None], shape=(law.shape[0], num_children))
        likely = jnp.take_along_axis(law, tokens, axis=1)
    else:
        likely, tokens = jax.lax.top_k(law, num_children)
    first = jnp.arange(num_children) == 0
    alive = beams.alive[:, None] & jnp.where(beams.ended[:, None], first, likely > -jnp.inf)

    def repeated(a):
        return jnp.tile(a, (num_children, *(1,) * (a.ndim - 1)))

    beams, law, lawful = jax.tree.map(repeated, (beams, law, lawful))
    beams = beams._replace(alive=alive.T.reshape(-1))
    new, _ = _particles.extended(task, beams, tokens.T.reshape(-1).astype(jnp.int32), law, lawful, input)
    dtype = new.log_score.dtype
    value = new.log_score / input.tau.astype(dtype)
    value = value + jnp.where(share == 0, 0, share.astype(dtype) * new.log_prob)
    return new, jnp.where(new.alive, value, -jnp.inf)


__all__ = ["beam_search"]

entry.hold(globals(), "_init", "_move")
