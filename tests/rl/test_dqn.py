"""Deep Q-learning against value iteration; time limits, n-step targets, exploration, replay, resuming."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
from jaxsci import control
from jaxsci.core import status, tree
from jaxsci.core.protocols import Environment, TimeStep
from jaxsci.rl import dqn, replay_buffer, three_body

DISCOUNT = 0.9
LENGTH = 5


# --- small worlds ------------------------------------------------------------------------------------------


def chain_moves():
    """State and reward after every (state, action): left pays .2 at the wall, right 1 at the other end, which ends."""
    state, action = np.arange(LENGTH)[:, None], np.array([-1, 1])[None]
    following = np.clip(state + action, 0, LENGTH - 1)
    reward = np.where((state == 0) & (action < 0), 0.2, 0.0) + np.where((state == LENGTH - 1) & (action > 0), 1.0, 0.0)
    return following, reward, (state == LENGTH - 1) & (action > 0)


def chain_values(discount):
    following, reward, ends = chain_moves()
    q = np.zeros((LENGTH, 2))
    for _ in range(500):
        q = reward + discount * np.where(ends, 0, q.max(1)[following])
    return q


def chain_reset(key):
    state = jax.random.randint(key, (), 0, LENGTH, jnp.int32)
    return state, TimeStep(jax.nn.one_hot(state, LENGTH))


def chain_step(key, state, action):
    following, reward, ends = (jnp.asarray(a)[state, action] for a in chain_moves())
    following = following.astype(jnp.int32)
    observation = jax.nn.one_hot(following, LENGTH)
    return following, TimeStep(observation, reward.astype(jnp.float32), terminated=ends)


CHAIN = Environment(chain_reset, chain_step)
TABLE = dqn.network(LENGTH, 2, hidden=())
SMALL = {"discount": DISCOUNT, "epsilon_start": 1.0, "epsilon_end": 1.0, "target_rate": 0.05, "warm_up": 20}
EXACT = dqn.optimizer(0.02, weight_decay=0.0)


def table_of(params, network=TABLE, size=LENGTH):
    return np.asarray(jax.vmap(lambda x: network.apply(params, x))(jnp.eye(size)))


def limit_env(limit, terminal):
    """Pays 1 a step and stops after `limit` steps, as a time limit or for good; the clock is not observed."""

    def reset(key):
        return jnp.int32(0), TimeStep(jnp.ones(1))

    def step(key, state, action):
        end = state + 1 >= limit
        return state + 1, TimeStep(
            jnp.ones(1), jnp.float32(1), terminated=end & terminal, truncated=end & (not terminal)
        )

    return Environment(reset, step)


# --- truth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("double", "dueling"), [(True, False), (False, True)])
def test_finds_the_values_of_value_iteration_for_many_seeds_at_a_time(key, double, dueling):
    cfg = dqn.config(num_envs=4, capacity=250, batch_size=32, double=double, **SMALL)
    net = dqn.network(LENGTH, 2, hidden=(), dueling=dueling)

    @jax.jit
    @jax.vmap
    def learn(key):
        return dqn.run(key, CHAIN, net, cfg=cfg, optimizer=EXACT, num_steps=3000)

    result = learn(jax.random.split(key, 4))
    assert not bool(jnp.any(result.status))
    for i in range(4):
        got = table_of(tree.dynamic_index(result.value, i), net)
        np.testing.assert_allclose(got, chain_values(DISCOUNT), atol=0.01)
    assert not np.allclose(result.value["kernel_0"][0], result.value["kernel_0"][1])


def test_longer_returns_find_the_values_of_the_behaviour(key):
    """Three steps of a behaviour that is all random, then the best value: not corrected, and not optimal."""
    following, reward, ends = chain_moves()
    q = np.zeros((LENGTH, 2))
    for _ in range(500):
        value = q.max(1)
        for _ in range(3):
            target = reward + DISCOUNT * np.where(ends, 0, value[following])
            value = target.mean(1)
        q = target
    cfg = dqn.config(num_envs=8, capacity=500, batch_size=64, num_returns=3, **SMALL)
    # These targets are random, those of one step are not: the rate must fall.
    slow = dqn.optimizer(lambda i: 0.02 * 0.5 ** (i / 600), weight_decay=0.0)
    result = dqn.run(key, CHAIN, TABLE, cfg=cfg, optimizer=slow, num_steps=5000)
    np.testing.assert_allclose(table_of(result.value), q, atol=0.03)
    assert np.abs(q - chain_values(DISCOUNT)).max() > 0.1


@pytest.mark.parametrize("terminal", [False, True])
def test_a_time_limit_is_looked_beyond_and_an_end_is_not(key, terminal):
    """Truth 1 / (1 - gamma) = 10 across the limit of 4; if every fourth step is the last, 1 / (1 - 3 gamma / 4)."""
    # Quadratic loss throughout: without a clock the ends look random, and Huber's kink would not take their mean.
    cfg = dqn.config(num_envs=4, capacity=200, batch_size=64, huber=1e6, **SMALL | {"target_rate": 0.2})
    net = dqn.network(1, 2, hidden=())
    slow = dqn.optimizer(lambda i: 0.1 * 0.5 ** (i / 300), weight_decay=0.0)
    result = dqn.run(key, limit_env(4, terminal), net, cfg=cfg, optimizer=slow, num_steps=3000)
    values = np.asarray(net.apply(result.value, jnp.ones(1)))
    expected = 1 / (1 - DISCOUNT * 0.75) if terminal else 10.0
    np.testing.assert_allclose(values, expected, rtol=0.05 if terminal else 0.01)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        ((0, 0, 0), (0, 0, 0), 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 30),
        ((0, 1, 0), (0, 0, 0), 1 + 0.5 * 2),
        ((0, 0, 0), (0, 1, 0), 1 + 0.5 * 2 + 0.25 * 20),
        ((0, 0, 1), (0, 0, 0), 1 + 0.5 * 2 + 0.25 * 4),
        ((0, 0, 1), (1, 0, 0), 1 + 0.5 * 10),
        ((1, 0, 0), (0, 0, 0), 1),
    ],
)
def test_targets_by_hand(terminated, truncated, expected):
    flags = (jnp.array(f, bool) for f in (terminated, truncated))
    reward, following = jnp.array([1.0, 2.0, 4.0]), jnp.array([10.0, 20.0, 30.0])
    window = (reward, following, jnp.ones(3), *flags)
    assert float(dqn.target_of(window, lambda s: s, 0.5)) == pytest.approx(expected)


def test_the_discounts_of_the_environment_multiply_those_of_the_learner():
    """Three steps of unequal length: 1 + .5 (.9) 2 + .25 (.9)(.8) 4 + .125 (.9)(.8)(.7) 30."""
    reward, following = jnp.array([1.0, 2.0, 4.0]), jnp.array([10.0, 20.0, 30.0])
    no = jnp.zeros(3, bool)
    window = (reward, following, jnp.array([0.9, 0.8, 0.7]), no, no)
    assert float(dqn.target_of(window, lambda s: s, 0.5)) == pytest.approx(1 + 0.9 + 0.72 + 0.063 * 30)
    # An episode that is cut after its first step looks beyond it with that step's discount.
    window = (reward, following, jnp.array([0.9, 0.8, 0.7]), no, no.at[0].set(True))
    assert float(dqn.target_of(window, lambda s: s, 0.5)) == pytest.approx(1 + 0.5 * 0.9 * 10)


def test_an_environment_that_discounts_is_worth_what_it_says(key):
    """Pays 1 a step for ever and discounts by .9: with a learner that does not discount, 1 / (1 - .9) = 10."""

    def step(key, state, action):
        return state, TimeStep(jnp.ones(1), 1.0, discount=0.9, status=8)

    env, net = Environment(lambda key: (jnp.int32(0), TimeStep(jnp.ones(1))), step), dqn.network(1, 2, hidden=())
    cfg = dqn.config(num_envs=2, capacity=50, batch_size=16, huber=1e6, **SMALL | {"target_rate": 0.2, "discount": 1.0})
    slow = dqn.optimizer(lambda i: 0.1 * 0.5 ** (i / 300), weight_decay=0.0)
    result = dqn.run(key, env, net, cfg=cfg, optimizer=slow, num_steps=2000)
    np.testing.assert_allclose(net.apply(result.value, jnp.ones(1)), 10.0, rtol=0.01)
    # What goes wrong in the environment is told apart from what goes wrong in the learning.
    assert (int(result.status), int(result.env_status)) == (0, 8)
    assert bool(jnp.all(result.history.env_status == 8))


def test_the_first_update_by_hand(key):
    """One state, reward 3, terminal: loss = Huber(q - 3) at the start, and the target follows by tau."""

    def step(key, state, action):
        return state, TimeStep(jnp.ones(1), jnp.float32(3), terminated=True)

    env = Environment(lambda key: (jnp.int32(0), TimeStep(jnp.ones(1))), step)
    net = dqn.network(1, 1, hidden=())
    cfg = dqn.config(batch_size=4, warm_up=1, target_rate=0.25, huber=0.5)
    start = dqn.init(key, env, net, cfg=cfg, optimizer=EXACT)
    after, record = dqn.step(key, env, net, start, cfg=cfg, optimizer=EXACT)
    error = abs(float(net.apply(start.target, jnp.ones(1))[0]) - 3)
    assert float(record.loss) == pytest.approx(0.5 * (error - 0.25), rel=1e-5)
    assert (int(record.finished), float(record.total), float(after.total[0])) == (1, 3.0, 0.0)
    moved = jax.tree.map(lambda t, p: 0.75 * t + 0.25 * p, start.target, after.learner.params)
    contracts.assert_close(after.target, moved, 1e-6, "target")
    assert float(after.learner.params["bias_0"][0]) == pytest.approx(0.02, rel=1e-3)  # Adam's first step is its rate


# --- exploration and networks ------------------------------------------------------------------------------


def test_exploration_fades_over_the_whole_training(key):
    """The rate falls on across episodes, and that share of the actions is random."""
    options = {"epsilon_start": 0.9, "epsilon_end": 0.1, "epsilon_decay": 2000, "warm_up": 501}  # nothing is learnt
    cfg = dqn.config(num_envs=16, capacity=501, discount=DISCOUNT, **options)
    result = dqn.run(key, CHAIN, TABLE, cfg=cfg, optimizer=EXACT, num_steps=500)
    n = 16 * np.arange(500)
    np.testing.assert_allclose(result.history.epsilon, 0.1 + 0.8 * np.exp(-n / 2000), rtol=1e-5)
    assert int(result.history.finished.sum()) > 20
    state, action = result.state.buffer.data[0], result.state.buffer.data[1]
    best = np.argmax(np.einsum("tls,sa->tla", state, table_of(result.value)), -1)
    late = slice(300, 500)
    share = np.mean(np.asarray(action)[late] != best[late])
    expected = np.mean(np.asarray(result.history.epsilon)[late]) / 2
    assert abs(share - expected) < 5 * np.sqrt(expected / (200 * 16))


def test_tied_layers_and_dueling_heads(key):
    net = dqn.network(3, 2, hidden=(8, 8), repeats=9)
    params = net.init(key)
    assert sum(a.size for a in jax.tree.leaves(params)) == 4 * 8 + 9 * 8 + 9 * 2
    x = jax.random.normal(key, (3,))
    h = jax.nn.relu(x @ params["kernel_0"] + params["bias_0"])
    for _ in range(9):
        h = jax.nn.relu(h @ params["kernel_1"] + params["bias_1"])
    np.testing.assert_allclose(net.apply(params, x), h @ params["kernel_2"] + params["bias_2"], rtol=1e-4, atol=1e-6)
    two = dqn.network(3, 4, hidden=(8,), dueling=True)
    params = two.init(key)
    h = jax.nn.relu(x @ params["kernel_0"]) @ params["kernel_1"]
    np.testing.assert_allclose(jnp.mean(two.apply(params, x)), h[-1], rtol=1e-4, atol=1e-6)


def test_the_greedy_policy_takes_the_largest_value(key):
    params = TABLE.init(key)
    policy = dqn.greedy(TABLE, params)
    got = [int(policy(None, x)) for x in jnp.eye(LENGTH)]
    assert got == table_of(params).argmax(1).tolist()


# --- replay ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("added", "length"), [(3, 2), (7, 1), (12, 3), (23, 7)])
def test_windows_are_consecutive_in_one_lane_and_all_occur(key, added, length):
    buffer = replay_buffer.init((jnp.int32(0), jnp.int32(0)), 7, num_lanes=3)
    for t in range(added):
        buffer = replay_buffer.add(buffer, (jnp.full(3, t), jnp.arange(3)))
    time, lane = replay_buffer.sample(key, buffer, 4000, length=length)
    assert time.shape == (4000, length) and bool(jnp.all(lane == lane[:, :1]))
    assert bool(jnp.all(time == time[:, :1] + jnp.arange(length)[None]))
    starts = np.arange(max(0, added - 7), added - length + 1)
    counts = np.array([[np.sum((time[:, 0] == t) & (lane[:, 0] == e)) for e in range(3)] for t in starts])
    share = 1 / counts.size
    assert counts.sum() == 4000
    assert np.all(np.abs(counts / 4000 - share) <= 5 * np.sqrt(share * (1 - share) / 4000))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("warm_up", 11),
        ("warm_up", 1),
        ("huber", 0.0),
        ("huber", np.nan),
        ("epsilon_decay", 0),
        ("epsilon_end", np.nan),
        ("epsilon_start", np.inf),
        ("discount", np.nan),
        ("target_rate", np.array([0.1, np.nan])),
    ],
)
def test_settings_with_which_nothing_is_learnt_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be"):
        dqn.config(**({"capacity": 10, "num_returns": 2} | {option: value}))


def test_learning_starts_however_small_the_buffer(key):
    """100 rows to warm up, or as many as there are; a traced number is limited by the buffer."""
    sizes = {"batch_size": 4, "discount": DISCOUNT}
    assert [int(dqn.config(capacity=n, **sizes).warm_up) for n in (10, 1000)] == [10, 100]
    assert int(dqn.config(capacity=1000, num_returns=200, **sizes).warm_up) == 200

    def losses(warm_up):
        cfg = dqn.config(capacity=5, warm_up=warm_up, **sizes)
        return dqn.run(key, CHAIN, TABLE, cfg=cfg, optimizer=EXACT, num_steps=8).history.loss

    np.testing.assert_array_equal(jax.jit(losses)(50) != 0, np.arange(8) >= 4)


def _nothing(*args):
    return jnp.zeros(2)


def test_a_problem_in_continuous_time_is_learnt_on_once_its_steps_are_fixed(key):
    """The two kinds of environment: one is refused by name, the other is what `discrete` makes of it."""
    problem = control.ode(_nothing, jnp.sum)
    walled = control.environments.WalledProblem(problem, _nothing, _nothing, _nothing, _nothing, jnp.zeros(()))
    net, cfg = dqn.network(2, 3, hidden=()), dqn.config(num_envs=2, capacity=4, batch_size=2)
    for call in (dqn.init, partial(dqn.run, num_steps=1), partial(dqn.step, state=None)):
        with pytest.raises(TypeError, match="must be a core.protocols.Environment .* got WalledProblem; .*discrete"):
            call(key, walled, net, cfg=cfg, optimizer=EXACT)
    params = SimpleNamespace(max_speed=8.0, max_torque=2.0, g=10.0, m=1.0, l=1.0)
    walled = control.environments.pendulum(params, discount=0.1)
    env = control.environments.discrete(walled, 0.05, controls=[-2.0, 0.0, 2.0], num_steps=3)
    net = dqn.network(3, 3, hidden=())
    result = jax.eval_shape(lambda k: dqn.run(k, env, net, cfg=cfg, optimizer=EXACT, num_steps=5), key)
    assert result.history.reward.shape == (5,) and result.state.env.x.shape == (2, 2)


@pytest.mark.bad_input
def test_bad_rows_and_windows(key):
    buffer = replay_buffer.init(jnp.zeros(2), 4)
    with pytest.raises(ValueError, match="expected leaves of shape"):
        replay_buffer.add(buffer, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"length must lie in \[1, 4\]"):
        replay_buffer.sample(key, buffer, 2, length=5)
    with pytest.raises(ValueError, match="capacity must be an int >= 1"):
        replay_buffer.init(jnp.zeros(2), 0)
    with pytest.raises(ValueError, match="num_steps must be an int >= 0"):
        dqn.run(key, CHAIN, TABLE, cfg=dqn.config(), optimizer=EXACT, num_steps=-1)
    with pytest.raises(TypeError, match="typed key"):
        dqn.init(jnp.zeros(2, jnp.uint32), CHAIN, TABLE, cfg=dqn.config(), optimizer=EXACT)


# --- one program -------------------------------------------------------------------------------------------


def short(key, num_steps=60, state=None, **options):
    cfg = dqn.config(num_envs=2, capacity=20, batch_size=8, num_returns=2, warm_up=5, **options)
    return dqn.run(key, CHAIN, TABLE, cfg=cfg, optimizer=EXACT, num_steps=num_steps, state=state)


def test_stopping_and_going_on_changes_nothing(key):
    whole, first = short(key), short(key, 25)
    second = short(key, 35, state=first.state)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first.history, second.history)
    contracts.assert_close(joined, whole.history, 1e-6, "history")
    contracts.assert_close(second.state, whole.state, 1e-6, "state")
    assert short(key, 0).history.loss.shape == (0,)


def test_environments_one_after_the_other_are_those_side_by_side(key):
    contracts.assert_close(short(key, batch="map").state, short(key, batch="vmap").state, 1e-5, "state")


def test_other_hyper_parameters_compile_nothing(key):
    short(key, discount=0.9, target_rate=0.1)
    with contracts.count_compilations() as events:
        short(key, discount=0.8, target_rate=0.2)
    assert not events


def test_a_reward_that_is_no_number_is_reported(key):
    def step(key, state, action):
        state, answer = chain_step(key, state, action)
        return state, answer._replace(reward=answer.reward + jnp.where(state == 3, jnp.nan, 0))

    cfg = dqn.config(num_envs=2, capacity=50, batch_size=8, warm_up=5, discount=DISCOUNT)
    result = dqn.run(key, Environment(chain_reset, step), TABLE, cfg=cfg, optimizer=EXACT, num_steps=60)
    assert int(result.status) == status.NONFINITE_RESULT
    assert bool(jnp.all(jnp.isfinite(table_of(result.value))))


# --- the three bodies --------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.slow
def test_learns_to_beat_the_best_fixed_step_parameter():
    """Seeds 0-9: the best fixed action earns 168.7. A shorter training than that of the benchmark."""
    cfg = three_body.config(step_parameters=three_body.STEP_PARAMETERS[4:], observation="pairs", clock=True)
    env = three_body.environment(cfg, reward_scale=0.1, reward_floor=-100.0)
    net = dqn.network(cfg.num_features, cfg.num_actions, hidden=(128, 128), dtype="float32")
    learner = dqn.config(num_envs=32, capacity=6000, batch_size=256, num_returns=3, batch="map", epsilon_end=0.02,
                         epsilon_decay=50_000)  # fmt: skip
    rate = dqn.optimizer(lambda i: 1e-3 * 0.5 ** (i / 1500), weight_decay=1e-4, clip=10.0)
    result = dqn.run(jax.random.key(0), env, net, cfg=learner, optimizer=rate, num_steps=6000)
    assert int(result.status) == 0

    @jax.jit
    def play(corners):
        state = three_body.start(cfg, corners)
        return three_body.rollout(jax.random.key(0), cfg, dqn.greedy(net, result.value), state)

    episodes = [play(three_body.published_start(seed)) for seed in range(10)]
    assert np.mean([e.total for e in episodes]) > 168.7
    assert np.median([abs(e.value.error) for e in episodes]) < 1e-5
