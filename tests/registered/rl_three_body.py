"""Entries of jaxsci.rl."""

import jax
import jax.numpy as jnp
import numpy as np

from contracts import Bad, Builder, Compiled, Constant, Driver, Record
from jaxsci.rl import dqn, replay_buffer, three_body
from jaxsci.rl.three_body import hermite

# --- the integrator ----------------------------------------------------------------------------------------


def _bodies(key, dtype, num=3, dim=2):
    """Well apart, so that single precision holds."""
    keys = jax.random.split(key, 3)
    mass = jax.random.uniform(keys[0], (num,), dtype, 0.2, 0.5)
    position = 3 * jnp.arange(num * dim, dtype=dtype).reshape(num, dim) ** 1.2
    position = position + jax.random.uniform(keys[1], (num, dim), dtype)
    return mass, position, 0.3 * jax.random.normal(keys[2], (num, dim), dtype)


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

    return run, (jax.random.uniform(key, (), dtype, 0.02, 0.04), *_bodies(key, dtype))


def _units_truth(length, mass):
    return length, mass, (length**3 / (6.6743e-11 * mass)) ** 0.5, (6.6743e-11 * mass / length) ** 0.5


# --- the environment ---------------------------------------------------------------------------------------


def _config(dtype, **kwargs):
    """Without the part of the reward that is the logarithm of rounding errors over so short a time."""
    steps = jnp.asarray(three_body.STEP_PARAMETERS[6:], dtype)
    return three_body.config(step_parameters=steps, weights=(0.0, 0.0, 4.0), allow_float32=True, **kwargs)


def _corners(key, dtype):
    return jnp.asarray((8.0, 3.0, -4.0, 9.0), dtype) + jax.random.uniform(key, (4,), dtype)


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

    return run, (key, jax.random.uniform(key, (), dtype))


def _published_truth(seed):
    draw = np.random.RandomState(seed)
    return (np.array([draw.uniform(5, 20), draw.uniform(0, 10), draw.uniform(0, -10), draw.uniform(5, 20)]),)


# --- learning ----------------------------------------------------------------------------------------------


def _walk_reset(key):
    return jax.random.randint(key, (), 0, 3, jnp.int32), jnp.ones(3)


def _walk_step(key, state, action):
    state = (state + action) % 3
    return state, dqn.TimeStep(jax.nn.one_hot(state, 3), 1.0 * state, state == 2, jnp.asarray(False))


WALK = dqn.Environment(_walk_reset, _walk_step)


def _parts(dtype):
    sizes = {"num_envs": 2, "capacity": 8, "batch_size": 4, "num_returns": 2, "warm_up": 2}
    net = dqn.network(3, 2, hidden=(4,), activation="tanh", dtype=dtype)
    return net, dqn.config(**sizes, discount=jnp.asarray(0.9, dtype))


def _learning(make):
    def entry(key, dtype):
        net, cfg = _parts(dtype)
        return lambda k: make(k, net, cfg), (key,)

    return entry


OPTIMIZER = dqn.optimizer(0.01)


def _init(key, net, cfg):
    return dqn.init(key, WALK, net, cfg=cfg, optimizer=OPTIMIZER)


def _dqn_step(key, net, cfg):
    return dqn.step(key, WALK, net, _init(key, net, cfg), cfg=cfg, optimizer=OPTIMIZER)


def _run(key, net, cfg):
    return dqn.run(key, WALK, net, cfg=cfg, optimizer=OPTIMIZER, num_steps=6)


def _greedy(key, dtype):
    net, _ = _parts(dtype)

    def run(key, params, x):
        return dqn.greedy(net, params)(key, x)

    return run, (key, net.init(key), jax.random.normal(key, (3,), dtype))


def _network(key, dtype):
    net = dqn.network(3, 2, hidden=(4, 4), repeats=3, dueling=True, activation="tanh", dtype=dtype)
    return net.apply, (net.init(key), jax.random.normal(key, (3,), dtype))


def _epsilon(key, dtype):
    cfg = dqn.config(discount=jnp.asarray(0.9, dtype))
    return lambda n: dqn.epsilon(cfg, n), (jax.random.randint(key, (), 0, 10_000),)


def _target(key, dtype):
    def run(reward, following, discount):
        no = jnp.zeros(3, bool)
        return dqn.target_of((reward, following, no, no.at[1].set(True)), jnp.sum, discount)

    keys = jax.random.split(key, 3)
    reward, following = jax.random.normal(keys[0], (3,), dtype), jax.random.normal(keys[1], (3, 2), dtype)
    return run, (reward, following, jax.random.uniform(keys[2], (), dtype))


def _buffer(dtype):
    return replay_buffer.init({"x": jnp.zeros(2, dtype), "i": jnp.int32(0)}, 3, num_lanes=2)


def _replay_init(key, dtype):
    return lambda x: replay_buffer.init(x, 3), (jax.random.normal(key, (2,), dtype),)


def _replay_add(key, dtype):
    row = {"x": jax.random.normal(key, (2, 2), dtype), "i": jnp.arange(2, dtype=jnp.int32)}
    return lambda row: replay_buffer.add(_buffer(dtype), row), (row,)


def _replay_sample(key, dtype):
    def run(key, x):
        buffer = _buffer(dtype)
        for i in range(4):
            buffer = replay_buffer.add(buffer, {"x": x + i, "i": jnp.full(2, i, jnp.int32)})
        return replay_buffer.sample(key, buffer, 5, length=2)

    return run, (key, jax.random.normal(key, (2, 2), dtype))


def _a_working_optimizer(folder):
    state = OPTIMIZER.init(jnp.ones(2))
    update, _ = OPTIMIZER.update(jnp.array([1e6, -1.0]), state, jnp.ones(2))
    assert update[0] < 0 < update[1] and abs(float(update[0])) < 0.02


_DOUBLE = {"float32": "refused in single precision unless asked for, and slow to compile"}

ENTRIES = {
    "jaxsci.rl.three_body.hermite.COLLISION": Constant(),
    "jaxsci.rl.three_body.hermite.Bodies": Record(),
    "jaxsci.rl.three_body.hermite.Result": Record(),
    "jaxsci.rl.three_body.hermite.Units": Record(),
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
    "jaxsci.rl.three_body.REWARDS": Constant(),
    "jaxsci.rl.three_body.STEP_PARAMETERS": Constant(),
    "jaxsci.rl.three_body.Config": Record(),
    "jaxsci.rl.three_body.Rollout": Record(),
    "jaxsci.rl.three_body.State": Record(),
    "jaxsci.rl.three_body.config": Driver(
        bad=(
            Bad(lambda _: three_body.config(reward="cubic", allow_float32=True), ValueError, "reward must be 0 to 6"),
            Bad(lambda _: three_body.config(reward=7, allow_float32=True), ValueError, "reward must be 0 to 6"),
            Bad(lambda _: three_body.config(observation="norm"), ValueError, "observation must be one of"),
            Bad(lambda _: three_body.config(weights=(1.0, 2.0), allow_float32=True), ValueError, r"weights \[3\]"),
            Bad(lambda _: three_body.config(step_parameters=(), allow_float32=True), ValueError, "num_actions"),
            Bad(lambda _: three_body.config(interval=np.float32(0.1)), TypeError, "jax_enable_x64"),
        )
    ),
    "jaxsci.rl.three_body.environment": Compiled(_environment, grad=(1,), skip=_DOUBLE),
    "jaxsci.rl.three_body.fixed_actions": Compiled(_fixed, skip=_DOUBLE),
    "jaxsci.rl.three_body.observe": Compiled(_observe, grad=(0,)),
    "jaxsci.rl.three_body.published_start": Builder(
        lambda: (three_body.published_start, (7,)), truth=_published_truth
    ),
    "jaxsci.rl.three_body.reset": Compiled(_reset),
    "jaxsci.rl.three_body.rollout": Compiled(_rollout, skip=_DOUBLE),
    "jaxsci.rl.three_body.start": Compiled(_start, grad=(0,)),
    "jaxsci.rl.three_body.step": Compiled(_env_step, skip=_DOUBLE),
    "jaxsci.rl.dqn.Config": Record(),
    "jaxsci.rl.dqn.Environment": Record(),
    "jaxsci.rl.dqn.Network": Record(),
    "jaxsci.rl.dqn.Record": Record(),
    "jaxsci.rl.dqn.Result": Record(),
    "jaxsci.rl.dqn.State": Record(),
    "jaxsci.rl.dqn.TimeStep": Record(),
    "jaxsci.rl.dqn.config": Driver(
        bad=(
            Bad(lambda _: dqn.config(num_envs=0), ValueError, "num_envs must be an integer >= 1"),
            Bad(lambda _: dqn.config(capacity=2, num_returns=3), ValueError, "num_returns must be <= capacity"),
            Bad(lambda _: dqn.config(batch="pmap"), ValueError, "batch must be 'vmap' or 'map'"),
            Bad(lambda _: dqn.network(3, 2, hidden=(8, 4), repeats=2), ValueError, "hidden widths must be equal"),
        )
    ),
    "jaxsci.rl.dqn.epsilon": Compiled(_epsilon),
    "jaxsci.rl.dqn.greedy": Compiled(_greedy),
    "jaxsci.rl.dqn.init": Compiled(_learning(_init)),
    "jaxsci.rl.dqn.network": Compiled(_network, grad=(0, 1)),
    "jaxsci.rl.dqn.optimizer": Driver(works=_a_working_optimizer),
    "jaxsci.rl.dqn.run": Compiled(_learning(_run)),
    "jaxsci.rl.dqn.step": Compiled(_learning(_dqn_step)),
    "jaxsci.rl.dqn.target_of": Compiled(_target, grad=(0, 1, 2)),
    "jaxsci.rl.replay_buffer.Buffer": Record(),
    "jaxsci.rl.replay_buffer.add": Compiled(_replay_add),
    "jaxsci.rl.replay_buffer.init": Compiled(_replay_init),
    "jaxsci.rl.replay_buffer.sample": Compiled(_replay_sample),
}
