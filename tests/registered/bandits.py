"""Entries of jaxsci.bandits."""

import jax
import jax.numpy as jnp

import contracts
from contracts import Compiled, Family, Record
from jaxsci import bandits


def _policy(make, *, hyper, context=None, losses=(0.0, 1.0)):
    def check(key, dtype):
        given = None if context is None else jnp.asarray(context, dtype)
        contracts.check_policy(make, key, 4, hyper=hyper, context=given, losses=losses, dtype=dtype)

    return Family(check)


def _binned(low, floor):
    return bandits.binned(bandits.tsallis_inf(4, floor=floor), 3, low=low, high=low + 2)


def _chosen(index, floor):
    several = (
        bandits.uniform(4),
        bandits.tsallis_inf(4, floor=floor),
        bandits.cheb_cb(4, low=0.0, high=1.0, floor=floor),
    )
    return bandits.choose(several, index.astype("int32"))


def _probabilities(key, dtype):
    return bandits.tsallis_probabilities, (3 * jax.random.uniform(key, (6,), dtype), jnp.asarray(0.3, dtype))


def _weights(key, dtype):
    return bandits.inverse_gap_weights, (jax.random.uniform(key, (6,), dtype), jnp.asarray(20.0, dtype))


def _features(key, dtype):
    def run(context, low, high):
        return bandits.chebyshev_features(context, low, high, num_features=5)

    return run, (jax.random.uniform(key, (), dtype), jnp.asarray(-1.0, dtype), jnp.asarray(2.0, dtype))


ENTRIES = {
    "jaxsci.bandits.fixed": _policy(lambda arm: bandits.fixed(4, arm=arm.astype("int32")), hyper=(2.0,)),
    "jaxsci.bandits.uniform": _policy(lambda: bandits.uniform(4), hyper=()),
    "jaxsci.bandits.epsilon_greedy": _policy(lambda c: bandits.epsilon_greedy(4, exploration=c), hyper=(2.0,)),
    "jaxsci.bandits.tsallis_inf": _policy(
        lambda floor: bandits.tsallis_inf(4, floor=floor), hyper=(1.0,), losses=(2.0, 50.0)
    ),
    "jaxsci.bandits.binned": _policy(_binned, hyper=(-1.0, 1.0), context=0.2, losses=(2.0, 50.0)),
    "jaxsci.bandits.cheb_cb": _policy(
        lambda low, floor: bandits.cheb_cb(4, low=low, high=low + 2, floor=floor),
        hyper=(-1.0, 1.0),
        context=0.2,
        losses=(2.0, 50.0),
    ),
    "jaxsci.bandits.choose": _policy(_chosen, hyper=(1.0, 1.0), context=0.2, losses=(2.0, 50.0)),
    "jaxsci.bandits.tsallis_probabilities": Compiled(_probabilities, grad=(0, 1)),
    "jaxsci.bandits.inverse_gap_weights": Compiled(_weights, grad=(0, 1)),
    "jaxsci.bandits.chebyshev_features": Compiled(_features, grad=(0, 1, 2)),
    "jaxsci.bandits.TsallisState": Record(),
    "jaxsci.bandits.ChebyshevState": Record(),
    "jaxsci.bandits.Nothing": Record(),
}
