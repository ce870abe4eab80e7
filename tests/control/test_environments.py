"""gymnax's environments in continuous time: equal to gymnax at its own step, and values that do not depend on dt."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import control
from jaxsci.control import environments
from jaxsci.core import status


@pytest.mark.x64
def test_pendulum_equals_gymnax_at_its_step(key):
    """States of 100 random (state, torque), and the reward rate; also where torque and speed are clipped."""
    gymnax = pytest.importorskip("gymnax")  # slow to import, so not while tests are collected
    from gymnax.environments.classic_control import pendulum

    peer, params = gymnax.make("Pendulum-v1")
    walled = environments.pendulum()
    keys = jax.random.split(key, 4)
    theta = jax.random.uniform(keys[0], (100,), minval=-np.pi, maxval=np.pi)
    speed = jax.random.uniform(keys[1], (100,), minval=-8.0, maxval=8.0)
    torque = jax.random.uniform(keys[2], (100,), minval=-3.0, maxval=3.0)

    def both(theta, speed, u):
        state = pendulum.EnvState(theta=theta, theta_dot=speed, last_u=jnp.zeros(()), time=0)
        observation, after, reward, *_ = peer.step(keys[3], state, u, params)
        mine = environments.step(walled, jnp.stack([theta, speed]), u, dt=0.05)
        observed = walled.observe(mine.x)
        return (observation, jnp.stack([after.theta, after.theta_dot]), reward), (observed, mine.x, mine.reward / 0.05)

    theirs, ours = jax.vmap(both)(theta, speed, torque)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert bool(jnp.any(jnp.abs(ours[1][:, 1]) == 8.0)) and bool(jnp.any(jnp.abs(torque) > 2.0))


@pytest.mark.x64
def test_mountain_car_equals_gymnax_at_unit_step(key):
    gymnax = pytest.importorskip("gymnax")
    from gymnax.environments.classic_control import continuous_mountain_car

    peer, params = gymnax.make("MountainCarContinuous-v0")
    walled = environments.mountain_car()
    keys = jax.random.split(key, 4)
    place = jax.random.uniform(keys[0], (100,), minval=-1.1, maxval=0.35)
    speed = jax.random.uniform(keys[1], (100,), minval=-0.05, maxval=0.05)
    force = jax.random.uniform(keys[2], (100,), minval=-1.0, maxval=1.0)

    def both(place, speed, u):
        state = continuous_mountain_car.EnvState(position=place, velocity=speed, time=0)
        _, after, reward, *_ = peer.step(keys[3], state, u, params)
        mine = environments.step(walled, jnp.stack([place, speed]), u, dt=1.0)
        return (jnp.stack([after.position, after.velocity]), reward), (mine.x, mine.reward)

    theirs, ours = jax.vmap(both)(place, speed, force)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_mountain_car_stops_at_the_wall_and_ends_at_the_goal():
    walled = environments.mountain_car()
    wall = environments.step(walled, jnp.array([-1.19, -0.06]), -1.0, dt=1.0)
    np.testing.assert_allclose(wall.x, [-1.2, 0.0], atol=1e-7)  # the position is clipped first, then the speed is lost
    goal = environments.step(walled, jnp.array([0.44, 0.05]), 1.0, dt=1.0)
    assert bool(goal.terminated) and float(goal.discount) == 0.0
    np.testing.assert_allclose(goal.reward, 100 - 0.1, rtol=1e-5)
    split = environments.step(walled, jnp.array([0.44, 0.05]), 1.0, dt=1.0, num_substeps=10)
    assert 99.9 < float(split.reward) < 100  # paid for the control until the goal alone
    after = environments.step(walled, goal.x, 1.0, dt=1.0)
    assert bool(after.terminated) and float(after.reward) == 0.0


@pytest.mark.x64
def test_values_do_not_depend_on_dt():
    """Return of one policy over 2 seconds: within 2 % at dt = .1, converging at order 1; sub-steps equal steps."""
    walled = environments.pendulum(discount=0.3)

    def policy(key, t, x):
        return -10.0 * x[0] - 3.0 * x[1]

    x0, key = jnp.array([0.1, 0.0]), jax.random.key(0)
    values = [
        float(environments.rollout(key, walled, policy, x0, num_steps=round(2 / dt), dt=dt).value)
        for dt in (0.1, 0.0125, 0.00625, 0.003125)
    ]
    gaps = np.abs(np.diff(values[1:]))
    assert abs(gaps[0] / gaps[1] - 2) < 0.1, values
    assert abs(values[0] - values[-1]) < 0.02 * abs(values[-1]), values

    def held(key, t, x):
        return jnp.asarray(0.7)

    one = environments.rollout(key, walled, held, x0, num_steps=10, dt=0.2, num_substeps=8)
    many = environments.rollout(key, walled, held, x0, num_steps=80, dt=0.025)
    np.testing.assert_allclose(one.value, many.value, rtol=1e-12)
    np.testing.assert_allclose(one.xs, many.xs[::8], rtol=1e-12)


@pytest.mark.x64
def test_a_small_step_follows_the_drift():
    """The walled problem and its ODE are one system: semi-implicit Euler converges to diffrax's solution, order 1."""
    walled = environments.pendulum()
    x0 = jnp.array([0.4, -0.3])

    def policy(key, t, x):
        return jnp.asarray(0.5)

    truth = control.rollout(walled.problem, policy, x0, times=jnp.array([0.0, 0.5]), rtol=1e-10, atol=1e-12).xs[-1]
    errors = [
        float(jnp.abs(environments.step(walled, x0, 0.5, dt=0.5, num_substeps=n).x - truth).max())
        for n in (50, 100, 200)
    ]
    assert np.all(np.abs(np.log2(errors[:-1]) - np.log2(errors[1:]) - 1) < 0.05), errors


def test_discount_and_random_starts(key):
    walled = environments.pendulum(discount=0.5)
    np.testing.assert_allclose(environments.step(walled, jnp.zeros(2), 0.0, dt=0.2).discount, np.exp(-0.1), rtol=1e-6)

    def rest(key, t, x):
        return jnp.zeros(())

    keys = jax.random.split(key, 500)
    starts = jax.vmap(lambda k: environments.rollout(k, walled, rest, num_steps=1, dt=0.05).xs[0])(keys)
    assert float(jnp.abs(starts[:, 0]).max()) <= np.pi and float(jnp.abs(starts[:, 1]).max()) <= 1
    assert abs(float(starts[:, 0].std()) - np.pi / np.sqrt(3)) < 0.2


def test_own_parameters_are_traced():
    _, params = pytest.importorskip("gymnax").make("Pendulum-v1")

    def angle(g):
        walled = environments.pendulum(params.replace(g=g))
        return environments.step(walled, jnp.array([0.5, 0.0]), 0.0, dt=0.1).x[1]

    expected = 1.5 * np.array([5, 10]) * np.sin(0.5) * 0.1
    np.testing.assert_allclose(jax.vmap(angle)(jnp.array([5.0, 10.0])), expected, rtol=1e-5)
    assert abs(float(jax.grad(angle)(10.0)) - 0.15 * np.sin(0.5)) < 1e-5


def test_a_discrete_environment_plays_the_same_episode(key):
    """Equal to `rollout` under the same torques; its return discounts by the time steps' own discounts."""
    walled = environments.pendulum(discount=0.5)
    torques, actions = jnp.array([-2.0, 0.0, 1.0]), jnp.array([2, 2, 0, 1, 2], jnp.int32)
    env = environments.discrete(walled, 0.1, controls=torques, num_steps=5, num_substeps=2)

    def policy(key, t, x):
        return torques[actions[jnp.round(t / 0.1).astype(jnp.int32)]]

    @jax.jit
    def both(key):
        state, first = env.reset(key)
        (end, _), steps = jax.lax.scan(lambda carry, a: _play(env, carry, a), (state, jnp.ones(())), actions)
        whole = environments.rollout(key, walled, policy, state.x, num_steps=5, dt=0.1, num_substeps=2)
        return first, end, steps, whole, walled.observe(state.x)

    first, end, (answers, worth), whole, seen = both(key)
    np.testing.assert_array_equal(first.observation, seen)
    assert (float(first.reward), float(first.discount), bool(first.terminated | first.truncated)) == (0.0, 1.0, False)
    np.testing.assert_allclose(end.x, whole.xs[-1], rtol=1e-5)
    np.testing.assert_allclose(answers.reward, whole.rewards, rtol=1e-5)
    np.testing.assert_allclose(answers.discount, np.exp(-0.05), rtol=1e-6)
    np.testing.assert_allclose(worth.sum(), whole.value, rtol=1e-5)
    assert answers.truncated.tolist() == [False] * 4 + [True] and not bool(answers.terminated.any())


def _play(env, carry, action):
    state, weight = carry
    state, answer = env.step(None, state, action)
    return (state, weight * answer.discount), (answer, weight * answer.reward)


def test_a_discrete_environment_ends_at_the_goal_and_where_a_step_fails():
    """With no table of controls the action is the control; an episode that ends is never truncated as well."""
    env = environments.discrete(environments.mountain_car(), 1.0, num_steps=1)
    state = env.reset(jax.random.key(0))[0]
    _, goal = env.step(None, state._replace(x=jnp.array([0.44, 0.05])), 1.0)
    assert bool(goal.terminated) and not bool(goal.truncated) and int(goal.status) == 0
    np.testing.assert_allclose(goal.reward, 100 - 0.1, rtol=1e-5)
    kept, lost = env.step(None, state, jnp.nan)
    assert bool(lost.terminated) and float(lost.reward) == 0 and int(lost.status) == status.NONFINITE_RESULT
    np.testing.assert_array_equal(kept.x, state.x)


@pytest.mark.bad_input
def test_the_two_kinds_of_environment_are_told_apart():
    walled = environments.pendulum()
    env = environments.discrete(walled, 0.1)
    with pytest.raises(TypeError, match="expected a WalledProblem .* got Environment; a core.protocols.Env"):
        environments.step(env, jnp.zeros(2), 0.0, dt=0.1)
    with pytest.raises(TypeError, match="expected a WalledProblem"):
        environments.rollout(jax.random.key(0), env, None, num_steps=1, dt=0.1)
    with pytest.raises(TypeError, match="expected a WalledProblem"):
        environments.discrete(env, 0.1)
    with pytest.raises(ValueError, match=r"controls must have shape \(num_actions,\)"):
        environments.discrete(walled, 0.1, controls=0.0)
    with pytest.raises(ValueError, match="num_substeps must be an int >= 1"):
        environments.discrete(walled, 0.1, num_substeps=0)


@pytest.mark.bad_input
def test_bad_input():
    walled = environments.pendulum()
    bad = environments.step(walled, jnp.array([jnp.nan, 0.0]), 0.0, dt=0.1)
    assert int(bad.status) & status.NONFINITE_RESULT and float(bad.reward) == 0
    assert int(environments.step(walled, jnp.zeros(2), 0.0, dt=-0.1).status) == status.OUT_OF_RANGE
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        environments.step(walled, jnp.zeros(3), 0.0, dt=0.1)
    with pytest.raises(ValueError, match="num_substeps must be an int >= 1"):
        environments.step(walled, jnp.zeros(2), 0.0, dt=0.1, num_substeps=0)
    with pytest.raises(TypeError, match="EnvParams"):
        environments.pendulum(object())
