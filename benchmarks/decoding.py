"""Particle decoding of a small decoder: with and without a cache, and what resampling its caches costs."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from benchmarks._harness import compare, compiled, main
from jaxsci import nn
from jaxsci.core.protocols import SequenceModel
from jaxsci.smc import decoding

LENGTH, WIDTH, VOCABULARY = 64, 64, 32


def decoder(key):
    """(parameters, configuration) of two layers with random weights."""
    cfg = nn.transformer.config(WIDTH, 2, 2, positions="rotary", max_length=LENGTH)
    keys = jax.random.split(key, 3)
    params = nn.transformer.init(keys[0], cfg)
    head = {"kernel": 0.3 * jax.random.normal(keys[2], (WIDTH, VOCABULARY)), "bias": None}
    return params | {"embedding": jax.random.normal(keys[1], (VOCABULARY, WIDTH)), "head": head}, cfg


def without_cache(params, cfg):
    """The same decoder as one writes it first: all places are passed again for each token."""

    def begin(prompt):
        return jnp.zeros(LENGTH, jnp.int32).at[: prompt.shape[0]].set(prompt), jnp.int32(prompt.shape[0])

    def logits(state):
        tokens, length = state
        h = nn.transformer.apply(params, cfg, params["embedding"][tokens], mask=nn.attention.causal_mask(LENGTH))
        return (h @ params["head"]["kernel"])[length - 1]

    def advance(state, token):
        tokens, length = state
        return tokens.at[length].set(token), length + 1

    return SequenceModel(begin, logits, advance)


def _tally(memory, token):
    return 0.8 * memory + jnp.sin(token.astype(jnp.float32))


REWARD = decoding.Reward(lambda prompt: jnp.float32(0), Partial(_tally), jax.nn.sigmoid)


def _filter(model, num, threshold):
    def run(key):
        return decoding.particle_filter(
            key, model, REWARD, jnp.array([0]), num_particles=num, max_tokens=LENGTH - 1, target="last",
            ess_threshold=threshold,
        ).value  # fmt: skip

    return run


def _apart(ours, theirs):
    """Share of the tokens that differ."""
    return float(np.mean(np.asarray(ours.tokens) != np.asarray(theirs.tokens)))


def rows(fast, peers):
    """All rows."""
    params, cfg = decoder(jax.random.key(0))
    cached, seconds = nn.transformer.sequence_model(params, cfg), 1.0 if fast else 6.0
    for num in (16,) if fast else (16, 64):
        tokens = dict(amount=num * (LENGTH - 1), unit="tokens/s", seconds=seconds)
        ours = compiled(_filter(cached, num, 0.5), jax.random.key(1))
        yield compare(
            f"particle filter, {num} sequences of {LENGTH}, cache", ours,
            compiled(_filter(without_cache(params, cfg), num, 0.5), jax.random.key(1)),
            peer_name="jaxsci without cache", accuracy=_apart, within=0.0, target=5.0,
            note="accuracy: share of the tokens that differ", **tokens,
        )  # fmt: skip
        yield compare(
            f"particle filter, {num} sequences of {LENGTH}, resampled at every token",
            compiled(_filter(cached, num, 1.0), jax.random.key(1)),
            compiled(_filter(cached, num, 0.0), jax.random.key(1)),
            peer_name="jaxsci, never resampled", note="ratio: what is left of the speed", **tokens,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("decoding", rows))
