"""Entries of jaxsci.bandits: policies over features, linear and neural."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import contracts
from contracts import Compiled, Family
from jaxsci import bandits
from jaxsci.core.static import bind

CONTEXT = (0.6, -0.8)
ROWS = ((0.6, -0.8), (1.0, 0.0), (0.0, 1.0), (-0.6, 0.8))
DISJOINT = Partial(bind(bandits.features.disjoint, num_arms=4))


def _policy(make, *, hyper, context=CONTEXT):
    def check(key, dtype):
        contracts.check_policy(make, key, 4, hyper=hyper, context=jnp.asarray(context, dtype), dtype=dtype)

    return Family(check)


def _regressor(make, *, hyper, rows=ROWS):
    """Structure and dtype kept, weight 0 teaches nothing, another hyper-parameter compiles nothing."""

    def run(key, context, *hyper):
        regressor = make(*hyper)
        state = regressor.init(key)
        ignored = regressor.update(state, context, 2, 0.5, 0.0)
        learnt = regressor.update(state, context, 2, 0.5, 1.0)
        return learnt, [regressor.predict(s, context) for s in (state, ignored, learnt)]

    def check(key, dtype):
        hypers, context = [jnp.asarray(h, dtype) for h in hyper], jnp.asarray(rows, dtype)
        jitted = jax.jit(run)
        state, (before, ignored, after) = jitted(key, context, *hypers)
        assert jax.eval_shape(make(*hypers).init, key) == jax.eval_shape(lambda s: s, state)
        assert before.shape == (4,) and before.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(ignored, before)
        assert abs(float(after[2]) - 0.5) < abs(float(before[2]) - 0.5) + 1e-6
        others = [jnp.asarray(1.1 * h, dtype) for h in hyper]
        with contracts.count_compilations() as events:
            jax.block_until_ready(jitted(key, context, *others))
        assert not events, "a new hyper-parameter value compiled again"

    return Family(check)


def _lin(make, alpha, regularization):
    return make(4, 2, alpha=alpha, regularization=regularization)


def _shared(alpha, regularization):
    return bandits.policies.lin_ts(4, 2, alpha=alpha, regularization=regularization, shared=True)


def _square(regularization, exploration, exponent):
    regressor = bandits.regressors.ridge(4, 2, regularization=regularization)
    return bandits.policies.square_cb(regressor, exploration=exploration, exponent=exponent)


def _fast(regularization, exploration, floor):
    regressor = bandits.regressors.ridge(4, 2, regularization=regularization)
    return bandits.policies.fast_cb(regressor, exploration=exploration, floor=floor)


def _greedy(regularization, epsilon):
    return bandits.policies.greedy_cb(bandits.regressors.ridge(4, 2, regularization=regularization), epsilon=epsilon)


def _neural(make, rate, exploration, perturbation, radius):
    more = {"learning_rate": rate, "exploration": exploration, "perturbation": perturbation, "radius": radius}
    return make(4, 2, hidden=(5,), **more)


def _network(rate, perturbation, radius):
    more = {"learning_rate": rate, "perturbation": perturbation, "radius": radius}
    return bandits.regressors.network(4, 2, hidden=(5,), num_perturbations=2, **more)


def _encoded(exploration):
    return bandits.wrappers.encoded(bandits.policies.epsilon_greedy(4, exploration=exploration), DISJOINT)


def _scaled(alpha):
    return bandits.wrappers.scaled(bandits.policies.lin_ucb(4, 2, alpha=alpha), 2)


def _disjoint(key, dtype):
    return DISJOINT, (contracts.normal(key, (3,), dtype),)


ENTRIES = {
    "jaxsci.bandits.policies.lin_ucb": _policy(lambda *h: _lin(bandits.policies.lin_ucb, *h), hyper=(1.0, 0.5)),
    "jaxsci.bandits.policies.lin_ts": _policy(_shared, hyper=(1.0, 0.5), context=ROWS),
    "jaxsci.bandits.policies.square_cb": _policy(_square, hyper=(1.0, 10.0, 0.5)),
    "jaxsci.bandits.policies.fast_cb": _policy(_fast, hyper=(1.0, 10.0, 1e-3)),
    "jaxsci.bandits.policies.greedy_cb": _policy(_greedy, hyper=(1.0, 0.1)),
    "jaxsci.bandits.policies.neu_square_cb": _policy(
        lambda *h: _neural(bandits.policies.neu_square_cb, *h), hyper=(1.0, 3.0, 0.1, 2.0), context=ROWS
    ),
    "jaxsci.bandits.policies.neu_fast_cb": _policy(
        lambda *h: _neural(bandits.policies.neu_fast_cb, *h), hyper=(3.0, 10.0, 0.1, 2.0), context=ROWS
    ),
    "jaxsci.bandits.wrappers.encoded": _policy(_encoded, hyper=(1.0,)),
    "jaxsci.bandits.wrappers.scaled": _policy(_scaled, hyper=(1.0,)),
    "jaxsci.bandits.regressors.ridge": _regressor(
        lambda reg: bandits.regressors.ridge(4, 2, regularization=reg, shared=True), hyper=(1.0,)
    ),
    "jaxsci.bandits.regressors.network": _regressor(_network, hyper=(0.5, 0.1, 2.0)),
    "jaxsci.bandits.features.disjoint": Compiled(_disjoint, grad=(0,)),
}
