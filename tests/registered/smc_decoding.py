"""Entries of jaxsci.smc.decoding: trees of three tokens and depth two."""

import jax
import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Builder, Compiled
from jaxsci.smc import decoding

SIZES = dict(num_particles=6, max_tokens=2)


def _tables(key, dtype):
    policy = [contracts.normal(jax.random.fold_in(key, t), (3**t, 3), dtype) for t in range(2)]
    rewards = [contracts.uniform(jax.random.fold_in(key, 2 + t), (3 ** (t + 1),), dtype) for t in range(2)]
    return policy, rewards


def _on_tree(method):
    """An entry for `method(model, reward)`; the key is fixed, so that all it takes are the tables."""
    return Compiled(lambda key, dtype: (lambda *tables: method(*decoding.tree(*tables)), _tables(key, dtype)))


def _filter(model, reward):
    return decoding.particle_filter(jax.random.key(7), model, reward, [], target="last", **SIZES)


def _chain(model, reward):
    return decoding.particle_gibbs(jax.random.key(7), model, reward, [], num_steps=2, **SIZES)


def _best(model, reward):
    return decoding.best_of_n(jax.random.key(7), model, reward, [], **SIZES)


def _beams(model, reward):
    return decoding.beam_search(None, model, reward, [], num_beams=2, num_children=3, max_tokens=2, policy_weight=0.5)


def _walk(model, reward):
    state, memory = model.init(jnp.array([2])), reward.init(jnp.array([2]))
    return model.logits(state), model.advance(state, 1), reward.score(reward.advance(memory, 1))


def _posterior():
    rng = np.random.default_rng(0)
    tables = [rng.standard_normal((2**t, 2)) for t in range(2)], [rng.random(2 ** (t + 1)) for t in range(2)]
    return lambda policy, rewards: decoding.tree_posterior(policy, rewards, weight="probability"), tables


def _enumerated(policy, rewards):
    """Leaf by leaf."""
    joint = []
    for a in range(2):
        for b in range(2):
            p = np.exp(policy[0][0]) / np.exp(policy[0][0]).sum()
            q = np.exp(policy[1][a]) / np.exp(policy[1][a]).sum()
            joint.append(p[a] * rewards[0][a] * q[b] * rewards[1][2 * a + b])
    return float(np.log(np.sum(joint))), np.array(joint) / np.sum(joint)


def _majority(key, dtype):
    log_weights = contracts.normal(key, (5,), dtype)
    return lambda a, w: decoding.majority(a, w, 3), (jax.random.randint(key, (5,), -1, 4), log_weights)


def _law(key, dtype):
    def run(success, prior, soundness):
        return decoding.resampling_law(success, prior, 4, completeness=0.9, soundness=soundness, cost=0.5)

    success, prior = contracts.uniform(key, (2, 3), dtype)
    return run, (success, prior / prior.sum(), contracts.uniform(jax.random.fold_in(key, 1), (), dtype))


ENTRIES = {
    "jaxsci.smc.decoding.particle_filter": _on_tree(_filter),
    "jaxsci.smc.decoding.particle_gibbs": _on_tree(_chain),
    "jaxsci.smc.decoding.best_of_n": _on_tree(_best),
    "jaxsci.smc.decoding.beam_search": _on_tree(_beams),
    "jaxsci.smc.decoding.tree": _on_tree(_walk),
    "jaxsci.smc.decoding.tree_posterior": Builder(_posterior, _enumerated),
    "jaxsci.smc.decoding.majority": Compiled(_majority, grad=(1,)),
    "jaxsci.smc.decoding.resampling_law": Compiled(_law, grad=(0, 1, 2)),
}
