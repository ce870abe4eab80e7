"""Entries of jaxsci.rl.dqn and jaxsci.rl.replay_buffer."""

import jax
import jax.numpy as jnp

import contracts
from contracts import Bad, Compiled, Driver
from jaxsci.core.protocols import Environment, TimeStep
from jaxsci.rl import dqn, replay_buffer


def _walk_reset(key):
    return jax.random.randint(key, (), 0, 3, jnp.int32), TimeStep(jnp.ones(3))


def _walk_step(key, state, action):
    state = (state + action) % 3
    return state, TimeStep(jax.nn.one_hot(state, 3), 1.0 * state, terminated=state == 2)


WALK = Environment(_walk_reset, _walk_step)


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

    return run, (key, net.init(key), contracts.normal(key, (3,), dtype))


def _network(key, dtype):
    net = dqn.network(3, 2, hidden=(4, 4), repeats=3, dueling=True, activation="tanh", dtype=dtype)
    return net.apply, (net.init(key), contracts.normal(key, (3,), dtype))


def _epsilon(key, dtype):
    cfg = dqn.config(discount=jnp.asarray(0.9, dtype))
    return lambda n: dqn.epsilon(cfg, n), (jax.random.randint(key, (), 0, 10_000),)


def _target(key, dtype):
    def run(reward, following, discount, kept):
        no = jnp.zeros(3, bool)
        return dqn.target_of((reward, following, kept, no, no.at[1].set(True)), jnp.sum, discount)

    keys = jax.random.split(key, 3)
    reward, following = contracts.normal(keys[0], (3,), dtype), contracts.normal(keys[1], (3, 2), dtype)
    kept = contracts.uniform(jax.random.fold_in(key, 1), (3,), dtype, 0.5, 1.0)
    return run, (reward, following, contracts.uniform(keys[2], (), dtype), kept)


def _buffer(dtype):
    return replay_buffer.init({"x": jnp.zeros(2, dtype), "i": jnp.int32(0)}, 3, num_lanes=2)


def _replay_init(key, dtype):
    return lambda x: replay_buffer.init(x, 3), (contracts.normal(key, (2,), dtype),)


def _replay_add(key, dtype):
    row = {"x": contracts.normal(key, (2, 2), dtype), "i": jnp.arange(2, dtype=jnp.int32)}
    return lambda row: replay_buffer.add(_buffer(dtype), row), (row,)


def _replay_sample(key, dtype):
    def run(key, x):
        buffer = _buffer(dtype)
        for i in range(4):
            buffer = replay_buffer.add(buffer, {"x": x + i, "i": jnp.full(2, i, jnp.int32)})
        return replay_buffer.sample(key, buffer, 5, length=2)

    return run, (key, contracts.normal(key, (2, 2), dtype))


def _a_working_optimizer(folder):
    state = OPTIMIZER.init(jnp.ones(2))
    update, _ = OPTIMIZER.update(jnp.array([1e6, -1.0]), state, jnp.ones(2))
    assert update[0] < 0 < update[1] and abs(float(update[0])) < 0.02


ENTRIES = {
    "jaxsci.rl.dqn.config": Driver(
        bad=(
            Bad(lambda _: dqn.config(num_envs=0), ValueError, "num_envs must be an int >= 1"),
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
    "jaxsci.rl.dqn.target_of": Compiled(_target, grad=(0, 1, 2, 3)),
    "jaxsci.rl.replay_buffer.add": Compiled(_replay_add),
    "jaxsci.rl.replay_buffer.init": Compiled(_replay_init),
    "jaxsci.rl.replay_buffer.sample": Compiled(_replay_sample),
}
