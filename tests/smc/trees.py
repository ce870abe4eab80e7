"""The tree with known laws, a model that keeps no cache, and lookups of leaves."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxsci import nn
from jaxsci.core.protocols import SequenceModel
from jaxsci.smc import decoding

V, DEPTH = 4, 5
_RNG = np.random.default_rng(3)
POLICY = [_RNG.dirichlet(0.7 * np.ones(V), size=V**t) for t in range(DEPTH)]
REWARD_LOGITS = [_RNG.normal(0, 1.5, V ** (t + 1)) for t in range(DEPTH)]
ANSWERS = _RNG.integers(0, 3, V**DEPTH)
LOG_POLICY = [np.log(p) for p in POLICY]
REWARDS = [1 / (1 + np.exp(-logits)) for logits in REWARD_LOGITS]
RIGHT = ANSWERS == 0
PLACES = V ** np.arange(DEPTH - 1, -1, -1)


def as_float32(arrays):
    """The arrays of a tree in single precision."""
    return [jnp.asarray(a, jnp.float32) for a in arrays]


MODEL, REWARD = decoding.tree(as_float32(LOG_POLICY), as_float32(REWARDS))


def leaves(tokens):
    """The number of each leaf."""
    return np.asarray(tokens) @ PLACES


def policy_law():
    """Probability of each leaf under the policy."""
    law = np.ones(1)
    for row in POLICY:
        law = (law[:, None] * row).reshape(-1)
    return law


def _empty(size, prompt):
    tokens = jnp.zeros(size.shape[0], jnp.int32)
    prompt = jnp.asarray(prompt, jnp.int32)
    return tokens.at[: prompt.shape[0]].set(prompt), jnp.int32(prompt.shape[0])


def _passed(params, cfg, state):
    tokens, length = state
    h = nn.transformer.apply(params, cfg(), params["embedding"][tokens], mask=nn.attention.causal_mask(tokens.shape[0]))
    head = params["head"]
    return (h @ head["kernel"] + (0 if head["bias"] is None else head["bias"]))[length - 1]


def _appended(state, token):
    tokens, length = state
    return tokens.at[length].set(token), length + 1


def without_cache(params, cfg, size):
    """A decoder that passes all `size` places again for each token."""
    return SequenceModel(
        Partial(_empty, jnp.zeros(size)), Partial(_passed, params, Partial(lambda: cfg)), Partial(_appended)
    )


def decoder(key, vocabulary=7, width=16, num_layers=2, max_length=32):
    """(parameters, configuration) of a small decoder with random weights."""
    cfg = nn.transformer.config(width, num_layers, 2, positions="rotary", max_length=max_length)
    keys = jax.random.split(key, 3)
    params = nn.transformer.init(keys[0], cfg)
    embedding = jax.random.normal(keys[1], (vocabulary, width))
    head = {"kernel": 0.4 * jax.random.normal(keys[2], (width, vocabulary)), "bias": None}
    return params | {"embedding": embedding, "head": head}, cfg
