"""Entries of the classical policies of jaxsci.bandits, their wrappers, replay and regret."""

import jax
import jax.numpy as jnp

import contracts
from contracts import Compiled, Family
from jaxsci import bandits


def _policy(make, *, hyper, context=None):
    def check(key, dtype):
        given = None if context is None else jnp.asarray(context, dtype)
        contracts.check_policy(make, key, 4, hyper=hyper, context=given, dtype=dtype)

    return Family(check)


def _delayed(alpha, low):
    inner = bandits.wrappers.binned(bandits.policies.ucb1(4, alpha=alpha), 3, low=low, high=low + 2)
    return bandits.wrappers.delayed(inner, 3, delay=jnp.array([0, 2, 5]), context=low)


def _windowed(alpha, low):
    inner = bandits.wrappers.binned(bandits.policies.ucb1(4, alpha=alpha), 3, low=low, high=low + 2)
    return bandits.wrappers.windowed(inner, 7, context=low)


def _weights(key, dtype):
    def run(losses, eta, mixing):
        return bandits.probabilities.exponential(losses, eta, mixing=mixing)

    return run, (contracts.uniform(key, (6,), dtype), jnp.asarray(3.0, dtype), jnp.asarray(0.1, dtype))


def _replay(key, dtype):
    def run(key, costs, mixing):
        return bandits.replay(key, costs, bandits.policies.exp3(3, mixing=mixing))

    mixing = contracts.uniform(key, (), dtype, 0, 0.2)
    return run, (key, contracts.uniform(key, (9, 3), dtype), mixing)


def _held(key, dtype):
    """A delayed policy with two decisions in its queue."""
    ucb = bandits.policies.ucb1(3, alpha=jnp.asarray(1.0, dtype))
    policy = bandits.wrappers.delayed(ucb, 4)
    state = policy.init(key)
    decision = policy.select(key, state)
    state, _ = bandits.wrappers.delayed_hold(state, decision)
    state, _ = bandits.wrappers.delayed_hold(state, decision)
    return ucb, state, decision


def _hold(key, dtype):
    _, state, decision = _held(key, dtype)
    return bandits.wrappers.delayed_hold, (state, decision, None, contracts.uniform(key, (), dtype))


def _settle(key, dtype):
    ucb, state, _ = _held(key, dtype)

    def run(state, ticket, loss):
        return bandits.wrappers.delayed_settle(ucb, state, ticket, loss)

    return run, (state, jax.random.randint(key, (), 0, 3), contracts.uniform(key, (), dtype))


def _batch(key, dtype):
    policy = bandits.policies.tsallis_inf(3, floor=jnp.asarray(0.1, dtype))
    state = policy.init(key)
    decisions = jax.vmap(policy.select, (0, None))(jax.random.split(key, 5), state)

    def run(state, decisions, losses):
        return bandits.update_batch(policy, state, decisions, losses)

    return run, (state, decisions, contracts.uniform(key, (5,), dtype, 0.1, 1.0))


def _regret(key, dtype):
    def run(actions, costs):
        return bandits.regret(actions, costs)

    return run, (jax.random.randint(key, (7,), 0, 3), contracts.uniform(key, (7, 3), dtype))


ENTRIES = {
    "jaxsci.bandits.policies.ucb1": _policy(lambda alpha: bandits.policies.ucb1(4, alpha=alpha), hyper=(1.0,)),
    "jaxsci.bandits.policies.ucb_v": _policy(
        lambda c, b: bandits.policies.ucb_v(4, exploration=c, loss_range=b),
        hyper=(1.2, 1.0),
    ),
    "jaxsci.bandits.policies.thompson_beta": _policy(
        lambda a, b: bandits.policies.thompson_beta(4, ones=a, zeros=b),
        hyper=(1.0, 1.0),
    ),
    "jaxsci.bandits.policies.thompson_gaussian": _policy(
        lambda s, m, n: bandits.policies.thompson_gaussian(4, sigma=s, prior_mean=m, prior_count=n),
        hyper=(0.25, 0.5, 1.0),
    ),
    "jaxsci.bandits.policies.thompson_normal_inverse_gamma": _policy(
        lambda m, n, a, b: bandits.policies.thompson_normal_inverse_gamma(
            4, prior_mean=m, prior_count=n, prior_shape=a, prior_scale=b
        ),
        hyper=(0.5, 1.0, 1.0, 0.1),
    ),
    "jaxsci.bandits.policies.exp3": _policy(lambda gamma: bandits.policies.exp3(4, mixing=gamma), hyper=(0.05,)),
    "jaxsci.bandits.policies.exp3_ix": _policy(lambda c: bandits.policies.exp3_ix(4, rate=c), hyper=(1.0,)),
    "jaxsci.bandits.policies.exp3_p": _policy(
        lambda t, d: bandits.policies.exp3_p(4, horizon=t, failure=d),
        hyper=(400.0, 0.05),
    ),
    "jaxsci.bandits.wrappers.delayed": _policy(_delayed, hyper=(1.0, -1.0), context=0.2),
    "jaxsci.bandits.wrappers.discounted": _policy(
        lambda c, gamma: bandits.wrappers.discounted(bandits.policies.epsilon_greedy(4, exploration=c), discount=gamma),
        hyper=(1.0, 0.8),
    ),
    "jaxsci.bandits.wrappers.windowed": _policy(_windowed, hyper=(1.0, -1.0), context=0.2),
    "jaxsci.bandits.probabilities.exponential": Compiled(_weights, grad=(0, 1, 2)),
    "jaxsci.bandits.replay": Compiled(_replay),
    "jaxsci.bandits.wrappers.delayed_hold": Compiled(_hold),
    "jaxsci.bandits.wrappers.delayed_settle": Compiled(_settle),
    "jaxsci.bandits.update_batch": Compiled(_batch, grad=(2,)),
    "jaxsci.bandits.regret": Compiled(_regret, grad=(1,)),
}
