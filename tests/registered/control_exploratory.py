"""Entries of jaxsci.control.exploratory."""

import jax
import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Compiled, Family
from jaxsci.control import exploratory

NAMES = ("critic_rate", "value_rate", "scale_rate")


def _problem(key, dtype):
    """A problem with noise and drift in state and action alike, near the published one."""
    base = jnp.asarray([-1.0, 0.3, 0.2, 0.8, 2.0, 2.0, 1.0, 1.0, 2.0, 0.1, 0.3], dtype)
    return exploratory.ExploratoryLQ(*(base * (1 + 0.1 * contracts.uniform(key, (11,), dtype))))


def _gaussian(key, dtype):
    values = contracts.uniform(jax.random.fold_in(key, 7), (3,), dtype, -0.5, 0.5)
    return exploratory.GaussianPolicy(*values)


def _solution(key, dtype):
    return lambda problem: exploratory.solution(problem)[:4], (_problem(key, dtype),)


def _average(key, dtype):
    def run(problem, policy):
        return exploratory.average_reward(problem, policy, dt=0.05)

    return run, (_problem(key, dtype), _gaussian(key, dtype))


def _power_decay(key, dtype):
    def run(scale, power, t):
        return exploratory.power_decay(scale=scale, power=power)(t)

    values = contracts.uniform(key, (3,), dtype, 0.5, 1.0)
    return run, (10 * values[0], values[1], 100 * values[2])


def _log_decay(key, dtype):
    return lambda t: exploratory.log_decay()(t), (contracts.uniform(key, (), dtype, 5.0, 9.0),)


def _learning(act):
    def entry(key, dtype):
        def run(key, problem, rate):
            learner = exploratory.actor_critic(critic_rate=rate, max_change=rate * 0 + 0.5)
            return act(key, problem, learner, jnp.asarray(0.05, dtype))

        return run, (key, _problem(key, dtype), jnp.asarray(0.1, dtype))

    return entry


def _init(key, problem, learner, dt):
    return exploratory.init(problem, learner, x0=dt)


def _step(key, problem, learner, dt):
    state = exploratory.init(problem, learner, x0=dt)
    return exploratory.step(key, state, problem, learner, dt=dt)


def _run(key, problem, learner, dt):
    return exploratory.run(key, problem, learner, num_steps=12, dt=dt, record_every=4)


def _simulate(key, dtype):
    def run(key, problem, policy, x0):
        return exploratory.simulate(key, problem, policy, num_steps=10, dt=x0 * 0 + 0.05, x0=x0)

    return run, (key, _problem(key, dtype), _gaussian(key, dtype), jnp.asarray(0.3, dtype))


def _offline(key, dtype):
    def run(key, data, rate, temperature):
        learner = exploratory.q_learning(critic_rate=rate, test_scale=rate * 0 + 1)
        sizes = {"num_steps": 6, "batch_size": 4, "record_every": 2}
        return exploratory.run_offline(key, learner, data, temperature=temperature, dt=rate * 0 + 0.1, **sizes)

    data = exploratory.Experience(*contracts.normal(key, (4, 9), dtype))
    return run, (key, data, jnp.asarray(0.1, dtype), jnp.asarray(0.2, dtype))


def check_learner(make, key, dtype):
    """Increments keep dtype and structure, rates are traced and may be vmapped, and no rate means no change."""
    transition = exploratory.Experience(*contracts.normal(key, (4,), dtype))
    scalars = [jnp.asarray(value, dtype) for value in (3.0, 0.1, 0.2, 0.05)]

    def change(rate):
        learner = make(**dict.fromkeys(NAMES, rate))
        policy = learner.policy(learner.start, scalars[1])
        return learner.change(learner.start, transition, *scalars), policy

    jitted, rates = jax.jit(change), jnp.asarray([0.1, 0.2, 0.0], dtype)
    loop = jax.tree.map(lambda *a: jnp.stack(a), *[jitted(rate) for rate in rates])
    contracts.assert_close(jax.vmap(change)(rates), loop, 1e-5 if dtype == "float32" else 1e-12, "vmap = loop")
    for leaf in jax.tree.leaves(loop):
        assert leaf.dtype == np.dtype(dtype)
    one, two, none = (jax.tree.map(lambda a, i=i: a[i], loop[0]) for i in range(3))
    for name in ("quadratic", "linear", "value", "log_scale"):
        assert getattr(none, name) == 0 and getattr(one, name) != 0
        np.testing.assert_allclose(getattr(two, name), 2 * getattr(one, name), rtol=1e-5)
    with contracts.count_compilations() as events:
        jax.block_until_ready(jitted(rates[1]))
    assert not events


def _learner(make):
    return Family(lambda key, dtype: check_learner(make, key, dtype))


_ROOM = "jaxsci.control.exploratory."
ENTRIES = {
    _ROOM + "solution": Compiled(_solution, grad=(0,)),
    _ROOM + "average_reward": Compiled(_average, grad=(0, 1)),
    _ROOM + "power_decay": Compiled(_power_decay, grad=(0, 1, 2)),
    _ROOM + "log_decay": Compiled(_log_decay, grad=(0,)),
    _ROOM + "actor_critic": _learner(exploratory.actor_critic),
    _ROOM + "q_learning": _learner(exploratory.q_learning),
    _ROOM + "init": Compiled(_learning(_init)),
    _ROOM + "step": Compiled(_learning(_step)),
    _ROOM + "run": Compiled(_learning(_run)),
    _ROOM + "simulate": Compiled(_simulate),
    _ROOM + "run_offline": Compiled(_offline),
}
