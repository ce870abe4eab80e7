"""Entries of jaxsci.rl.three_body."""

import jax
import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Bad, Builder, Compiled, Driver
from jaxsci.rl import three_body
from jaxsci.rl.three_body import hermite, integrators

# --- the integrator ----------------------------------------------------------------------------------------


def _bodies(key, dtype, num=3, dim=2):
    """Well apart, so that single precision holds."""
    keys = jax.random.split(key, 3)
    mass = contracts.uniform(keys[0], (num,), dtype, 0.2, 0.5)
    position = 3 * jnp.arange(num * dim, dtype=dtype).reshape(num, dim) ** 1.2
    position = position + contracts.uniform(keys[1], (num, dim), dtype)
    return mass, position, 0.3 * contracts.normal(keys[2], (num, dim), dtype)


def _forces(key, dtype):
    return hermite.forces, _bodies(key, dtype, num=4)


def _made(*args):
    return hermite.init(*args, allow_float32=True)


def _of_bodies(function, dim=2):
    def entry(key, dtype):
        return lambda *args: function(_made(*args)), _bodies(key, dtype, dim=dim)

    return entry


def _step(key, dtype):
    return lambda size, *args: hermite.step(_made(*args), size), (jnp.asarray(0.2, dtype), *_bodies(key, dtype))


def _integrate(key, dtype):
    def run(parameter, *args):
        result = hermite.integrate(_made(*args), 2.0, parameter)
        return result.value.position, result.steps, result.status  # the energy error is all rounding

    return run, (contracts.uniform(key, (), dtype, 0.02, 0.04), *_bodies(key, dtype))


def _rule(name):
    def entry(key, dtype):
        def run(parameter, *args):
            result = integrators.named(name)(_made(*args), 1.0, parameter, variable=False)
            return result.value.position, result.evaluations, result.status

        return run, (contracts.uniform(key, (), dtype, 0.11, 0.12), *_bodies(key, dtype))

    return Compiled(entry)


def _units_truth(length, mass):
    return length, mass, (length**3 / (6.6743e-11 * mass)) ** 0.5, (6.6743e-11 * mass / length) ** 0.5


# --- the environment ---------------------------------------------------------------------------------------


def _config(dtype, **kwargs):
    """Without the part of the reward that is the logarithm of rounding errors over so short a time."""
    steps = jnp.asarray(three_body.STEP_PARAMETERS[6:], dtype)
    return three_body.config(step_parameters=steps, weights=(0.0, 0.0, 4.0), allow_float32=True, **kwargs)


def _corners(key, dtype):
    return jnp.asarray((8.0, 3.0, -4.0, 9.0), dtype) + contracts.uniform(key, (4,), dtype)


def _start(key, dtype):
    return lambda c: three_body.start(_config(dtype), c), (_corners(key, dtype),)


def _reset(key, dtype):
    return lambda k: three_body.reset(k, _config(dtype)), (key,)


def _env_step(key, dtype):
    cfg = _config(dtype)

    def run(corners, action):
        state, answer = three_body.step(cfg, three_body.start(cfg, corners), action)
        _, second = three_body.step(cfg, state, action)
        return state.position, state.velocity, state.evaluations, answer.observation[:-1], second.reward

    return run, (_corners(key, dtype), jax.random.randint(key, (), 0, 4))


def _observe(key, dtype):
    cfg = _config(dtype, observation="pairs", clock=True)
    return lambda c: three_body.observe(cfg, three_body.start(cfg, c)), (_corners(key, dtype),)


def _constant(key, observation):
    return jnp.int32(2)


def _outcome(episode):
    return episode.value.position, episode.reward, episode.action, episode.running, episode.total, episode.status


def _rollout(key, dtype):
    cfg = _config(dtype)

    def run(key, corners):
        return _outcome(three_body.rollout(key, cfg, _constant, three_body.start(cfg, corners), num_steps=3))

    return run, (key, _corners(key, dtype))


def _fixed(key, dtype):
    def run(corners):
        return _outcome(three_body.fixed_actions(_config(dtype), corners, num_steps=2))

    return run, (_corners(key, dtype)[None] + jnp.arange(2, dtype=dtype)[:, None],)


def _environment(key, dtype):
    def run(key, scale):
        env = three_body.environment(_config(dtype), reward_scale=scale, reward_floor=-1.0)
        state, _ = env.reset(key)
        state, _ = env.step(key, state, jnp.int32(3))
        _, answer = env.step(key, state, jnp.int32(3))
        return answer.reward, answer.observation[:-1]

    return run, (key, contracts.uniform(key, (), dtype))


def _published_truth(seed):
    draw = np.random.RandomState(seed)
    return (np.array([draw.uniform(5, 20), draw.uniform(0, 10), draw.uniform(0, -10), draw.uniform(5, 20)]),)


_DOUBLE = {"float32": "refused in single precision unless asked for, and slow to compile"}

ENTRIES = {
    "jaxsci.rl.three_body.hermite.angular_momentum": Compiled(
        _of_bodies(hermite.angular_momentum, dim=3), grad=(0, 1, 2)
    ),
    "jaxsci.rl.three_body.hermite.center_of_mass": Compiled(_of_bodies(hermite.center_of_mass), grad=(0, 1)),
    "jaxsci.rl.three_body.hermite.energy": Compiled(_of_bodies(hermite.energy), grad=(0, 1, 2)),
    "jaxsci.rl.three_body.hermite.forces": Compiled(_forces, grad=(0, 1, 2)),
    "jaxsci.rl.three_body.hermite.init": Compiled(_of_bodies(lambda bodies: bodies), grad=(0, 1, 2)),
    "jaxsci.rl.three_body.hermite.integrate": Compiled(_integrate),
    "jaxsci.rl.three_body.hermite.momentum": Compiled(_of_bodies(hermite.momentum), grad=(0, 2)),
    "jaxsci.rl.three_body.hermite.step": Compiled(_step, grad=(0, 1, 2, 3)),
    "jaxsci.rl.three_body.hermite.units": Builder(
        lambda: (hermite.units, (1.495978707e11, 5.96e30)), truth=_units_truth
    ),
    **{f"jaxsci.rl.three_body.integrators.{name}": _rule(name) for name in integrators.NAMES},
    "jaxsci.rl.three_body.integrators.named": Driver(
        bad=(
            Bad(lambda _: integrators.named("euler"), ValueError, "name must be one of"),
            Bad(lambda _: integrators.named(["hermite"]), ValueError, "name must be one of"),
        )
    ),
    "jaxsci.rl.three_body.pretrained": Driver(
        bad=(
            Bad(lambda _: three_body.pretrained(clock=False), TypeError, "clock is part of the policy"),
            Bad(
                lambda _: three_body.pretrained(step_parameters=(0.1, 0.2), allow_float32=True),
                ValueError,
                "expected six",
            ),
        )
    ),
    "jaxsci.rl.three_body.config": Driver(
        bad=(
            Bad(lambda _: three_body.config(reward="cubic", allow_float32=True), ValueError, "reward must be 0 to 6"),
            Bad(lambda _: three_body.config(reward=7, allow_float32=True), ValueError, "reward must be 0 to 6"),
            Bad(lambda _: three_body.config(observation="norm"), ValueError, "observation must be one of"),
            Bad(lambda _: three_body.config(weights=(1.0, 2.0), allow_float32=True), ValueError, r"weights \[3\]"),
            Bad(lambda _: three_body.config(step_parameters=(), allow_float32=True), ValueError, "num_actions"),
            Bad(lambda _: three_body.config(interval=np.float32(0.1)), ValueError, "jax_enable_x64"),
        )
    ),
    "jaxsci.rl.three_body.environment": Compiled(_environment, grad=(1,), skip=_DOUBLE),
    "jaxsci.rl.three_body.fixed_actions": Compiled(_fixed, skip=_DOUBLE),
    "jaxsci.rl.three_body.observe": Compiled(_observe, grad=(0,)),
    "jaxsci.rl.three_body.published_start": Builder(lambda: (three_body.published_start, (7,)), truth=_published_truth),
    "jaxsci.rl.three_body.reset": Compiled(_reset),
    "jaxsci.rl.three_body.rollout": Compiled(_rollout, skip=_DOUBLE),
    "jaxsci.rl.three_body.start": Compiled(_start, grad=(0,)),
    "jaxsci.rl.three_body.step": Compiled(_env_step, skip=_DOUBLE),
}
