"""Entries of jaxsci.bandits."""

import jax.numpy as jnp

import contracts
from contracts import Compiled, Family
from jaxsci import bandits


def _policy(make, *, hyper, context=None, losses=(0.0, 1.0)):
    def check(key, dtype):
        given = None if context is None else jnp.asarray(context, dtype)
        contracts.check_policy(make, key, 4, hyper=hyper, context=given, losses=losses, dtype=dtype)

    return Family(check)


def _binned(low, floor):
    return bandits.wrappers.binned(bandits.policies.tsallis_inf(4, floor=floor), 3, low=low, high=low + 2)


def _chosen(index, floor):
    several = (
        bandits.policies.uniform(4),
        bandits.policies.tsallis_inf(4, floor=floor),
        bandits.policies.cheb_cb(4, low=0.0, high=1.0, floor=floor),
    )
    return bandits.wrappers.choose(several, index.astype("int32"))


def _probabilities(key, dtype):
    return bandits.probabilities.tsallis, (3 * contracts.uniform(key, (6,), dtype), jnp.asarray(0.3, dtype))


def _weights(key, dtype):
    return bandits.probabilities.inverse_gap, (contracts.uniform(key, (6,), dtype), jnp.asarray(20.0, dtype))


def _features(key, dtype):
    def run(context, low, high):
        return bandits.features.chebyshev(context, low, high, num_features=5)

    return run, (contracts.uniform(key, (), dtype), jnp.asarray(-1.0, dtype), jnp.asarray(2.0, dtype))


ENTRIES = {
    "jaxsci.bandits.policies.fixed": _policy(
        lambda arm: bandits.policies.fixed(4, arm=arm.astype("int32")), hyper=(2.0,)
    ),
    "jaxsci.bandits.policies.uniform": _policy(lambda: bandits.policies.uniform(4), hyper=()),
    "jaxsci.bandits.policies.epsilon_greedy": _policy(
        lambda c: bandits.policies.epsilon_greedy(4, exploration=c), hyper=(2.0,)
    ),
    "jaxsci.bandits.policies.tsallis_inf": _policy(
        lambda floor: bandits.policies.tsallis_inf(4, floor=floor), hyper=(1.0,), losses=(2.0, 50.0)
    ),
    "jaxsci.bandits.wrappers.binned": _policy(_binned, hyper=(-1.0, 1.0), context=0.2, losses=(2.0, 50.0)),
    "jaxsci.bandits.policies.cheb_cb": _policy(
        lambda low, floor: bandits.policies.cheb_cb(4, low=low, high=low + 2, floor=floor),
        hyper=(-1.0, 1.0),
        context=0.2,
        losses=(2.0, 50.0),
    ),
    "jaxsci.bandits.wrappers.choose": _policy(_chosen, hyper=(1.0, 1.0), context=0.2, losses=(2.0, 50.0)),
    "jaxsci.bandits.probabilities.tsallis": Compiled(_probabilities, grad=(0, 1)),
    "jaxsci.bandits.probabilities.inverse_gap": Compiled(_weights, grad=(0, 1)),
    "jaxsci.bandits.features.chebyshev": Compiled(_features, grad=(0, 1, 2)),
}
