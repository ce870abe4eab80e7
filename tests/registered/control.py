"""Entries of jaxsci.control: problems, simulation, exact samplers, environments."""

import jax
import jax.numpy as jnp

import contracts
from contracts import Compiled
from jaxsci import control
from jaxsci.control import environments, exact, simulate

K = 5


def _drift(t, x, u, args):
    return -args * x + (0.0 if u is None else u)


def _diffusion(t, x, u, args):
    return 0.3 + 0.1 * x


def _reward(t, x, u, args):
    return jnp.sum(-(x**2))


def _terminal(x):
    return jnp.sum(x)


def _policy(key, t, x):
    return 0.1 * t * x


def _sde(args, discount):
    return control.sde(_drift, _diffusion, _reward, _terminal, args=args, discount=discount, horizon=1.0)


def _numbers(key, dtype):
    keys = jax.random.split(key, 3)
    return (
        contracts.normal(keys[0], (2,), dtype),
        contracts.uniform(keys[1], (), dtype, 0.1, 1.0),
        contracts.uniform(keys[2], (), dtype, 0.1, 1.0),
    )


def _simulated(key, dtype):
    def run(key, x0, args, discount):
        return control.euler_maruyama(key, _sde(args, discount), _policy, x0, num_steps=K)

    return run, (key, *_numbers(key, dtype))


def _valued(key, dtype):
    """`sde` through the return of a simulated path."""

    def run(key, x0, args, discount):
        problem = _sde(args, discount)
        path = control.euler_maruyama(key, problem, None, x0, num_steps=K)
        return control.discounted_return(problem, path)

    return run, (key, *_numbers(key, dtype))


def _rewarded(key, dtype):
    def run(key, x0, args, discount):
        path = exact.brownian(key, x0, num_steps=K, dt=0.2)
        return control.rewarded(_sde(args, discount), path).rs

    return run, (key, *_numbers(key, dtype))


def _step(key, dtype):
    def run(key, x0, args, discount):
        problem = _sde(args, discount)
        state, _ = simulate.step(key, problem, _policy, simulate.init(x0), 0.1)
        return simulate.step(key, problem, _policy, state, 0.2)

    return run, (key, *_numbers(key, dtype))


def _init(key, dtype):
    return simulate.init, (contracts.normal(key, (2,), dtype),)


def _transitions(key, dtype):
    def run(key, x0):
        return control.transitions(exact.brownian(key, x0, num_steps=K, dt=0.1))

    return run, (key, contracts.normal(key, (2,), dtype))


def _increments(key, dtype):
    return lambda key, dt: control.increments(key, K, dt, (2,)), (key, contracts.uniform(key, (), dtype))


def _coarsen(key, dtype):
    def run(fine, factor):
        return control.coarsen(fine, factor, num_steps=4)

    return run, (contracts.normal(key, (6, 2), dtype), jax.random.randint(key, (), 2, 4))


def _rollout(key, dtype):
    def run(x0, args):
        problem = control.ode(_drift, _reward, args=args)
        times = jnp.asarray([0.0, 0.3, 0.5], dtype)
        path = control.rollout(problem, _policy, x0, times=times, rtol=1e-4, atol=1e-6, max_steps=64)
        return path.xs, path.rs, path.status

    return run, _numbers(key, dtype)[:2]


def _ode(key, dtype):
    """`ode` through its own functions."""

    def run(x0, args):
        problem = control.ode(_drift, _reward, args=args)
        return problem.drift(0.0, x0, None, problem.args), problem.reward(0.0, x0, None, problem.args)

    return run, _numbers(key, dtype)[:2]


def _exact(make):
    def entry(key, dtype):
        def run(key, x0, dt, spread):
            return make(key, x0, num_steps=K, dt=dt, volatility=spread)

        return run, (key, *_numbers(key, dtype))

    return entry


def _maximum(key, dtype):
    def run(x):
        zero = jnp.zeros(K, dtype)
        return exact.running_maximum(control.Path(x, x, None, zero, zero, jnp.int32(0))).xs

    return run, (contracts.normal(key, (K + 1,), dtype),)


def _environment(make):
    def entry(key, dtype):
        def run(x, u, discount):
            walled = make(discount=discount)
            out = environments.step(walled, x, u, dt=0.1, num_substeps=2)
            return out, walled.observe(out.x)

        x = jnp.asarray([-0.5, 0.0], dtype) + 0.01 * contracts.normal(key, (2,), dtype)
        u = contracts.uniform(jax.random.fold_in(key, 1), (), dtype, -0.9, 0.9)
        return run, (x, u, jnp.asarray(0.1, dtype))

    return entry


def _episode(key, dtype):
    def run(key, x, discount):
        walled = environments.pendulum(discount=discount)
        return environments.rollout(key, walled, _torque, x, num_steps=4, dt=0.05)

    return run, (key, 0.1 * contracts.normal(key, (2,), dtype), jnp.asarray(0.1, dtype))


def _discrete(key, dtype):
    def run(key, controls, dt, discount):
        walled = environments.pendulum(discount=discount)
        env = environments.discrete(walled, dt, controls=controls, num_steps=2, num_substeps=2)
        state, _ = env.reset(key)
        state, first = env.step(key, state, jnp.int32(2))
        return first, env.step(key, state, jnp.int32(0))

    controls = contracts.uniform(key, (3,), dtype, -1.5, 1.5)
    return run, (key, controls, jnp.asarray(0.1, dtype), jnp.asarray(0.2, dtype))


def _torque(key, t, x):
    return -x[0] + 0.1 * contracts.normal(key, (), x.dtype)


ENTRIES = {
    "jaxsci.control.sde": Compiled(_valued, grad=(1, 2, 3)),
    "jaxsci.control.ode": Compiled(_ode, grad=(0, 1)),
    "jaxsci.control.euler_maruyama": Compiled(_simulated, grad=(1, 2)),
    "jaxsci.control.discounted_return": Compiled(_valued, grad=(1, 2, 3)),
    "jaxsci.control.rewarded": Compiled(_rewarded, grad=(1,)),
    "jaxsci.control.transitions": Compiled(_transitions, grad=(1,)),
    "jaxsci.control.increments": Compiled(_increments, grad=(1,)),
    "jaxsci.control.coarsen": Compiled(_coarsen, grad=(0,)),
    "jaxsci.control.rollout": Compiled(_rollout, grad=(0, 1)),
    "jaxsci.control.simulate.init": Compiled(_init),
    "jaxsci.control.simulate.step": Compiled(_step, grad=(1, 2)),
    "jaxsci.control.exact.brownian": Compiled(_exact(exact.brownian), grad=(1, 2, 3)),
    "jaxsci.control.exact.geometric_brownian": Compiled(_exact(exact.geometric_brownian), grad=(1, 2, 3)),
    "jaxsci.control.exact.ornstein_uhlenbeck": Compiled(_exact(exact.ornstein_uhlenbeck), grad=(1, 2, 3)),
    "jaxsci.control.exact.running_maximum": Compiled(_maximum, grad=(0,)),
    "jaxsci.control.environments.discrete": Compiled(_discrete, grad=(1, 2, 3)),
    "jaxsci.control.environments.pendulum": Compiled(_environment(environments.pendulum), grad=(0, 1, 2)),
    "jaxsci.control.environments.mountain_car": Compiled(_environment(environments.mountain_car), grad=(0, 1, 2)),
    "jaxsci.control.environments.step": Compiled(_environment(environments.pendulum), grad=(0, 1, 2)),
    "jaxsci.control.environments.rollout": Compiled(_episode, grad=(1, 2)),
}
