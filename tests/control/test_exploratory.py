"""Exploratory LQ control: closed forms against the equations they solve, learners against the closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
import tolerances
from jaxsci.control import exploratory as ex
from jaxsci.core import status

# The published setting: no drift through the action, noise through the action alone.
PUBLISHED = ex.ExploratoryLQ(A=-1.0, B=0.0, C=0.0, D=1.0, M=2.0, N=2.0, R=1.0, P=1.0, Q=2.0, temperature=0.1)
# One in which every coefficient acts.
FULL = ex.ExploratoryLQ(A=-0.6, B=0.7, C=0.3, D=0.5, M=1.5, N=1.0, R=0.4, P=-0.6, Q=0.8, temperature=0.3, discount=0.0)
BEHAVIOUR = ex.GaussianPolicy(1.0, 1.0, 0.0)
LEARNERS = {"actor_critic": ex.actor_critic, "q_learning": ex.q_learning}


def many(key, num):
    """Problems of all kinds: stable and unstable drift, every coefficient of either sign, with and without discount."""
    draw = jax.random.uniform(key, (11, num), minval=-1.0, maxval=1.0)
    a, b, c, d, m, n, r, p, q, temperature, discount = draw
    m, n = 1.5 + m, 1.5 + n
    r = 0.9 * r * jnp.sqrt(m * n)
    return ex.ExploratoryLQ(a, b, c, d, m, n, r, p, q, 1.1 + temperature, jnp.where(discount > 0, discount, 0))


# --- closed forms ------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_published_truths():
    best = ex.solution(PUBLISHED)
    expected = (-0.822876, -0.291503, 0.633374, -0.354249, -0.708497, np.log(0.0354249))
    np.testing.assert_allclose([best.quadratic, best.linear, best.value, *best.policy], expected, atol=1e-6)
    assert float(best.quadratic) == pytest.approx((1 - np.sqrt(7)) / 2, abs=1e-14)
    with_entropy = ex.average_reward(PUBLISHED, best.policy)
    without = ex.average_reward(PUBLISHED, best.policy, entropy=False)
    np.testing.assert_allclose([with_entropy.value, without.value], [0.633374, 0.658497], atol=1e-6)
    # Exploring costs half the temperature: without it the same mean policy earns .708497.
    still = ex.average_reward(PUBLISHED, best.policy._replace(log_variance=-80.0), entropy=False)
    np.testing.assert_allclose(still.value, 0.708497, atol=1e-6)
    discounted = ex.solution(PUBLISHED._replace(discount=1.0))
    got = [discounted.quadratic, discounted.linear, *discounted.policy]
    np.testing.assert_allclose(got, [-0.535184, -0.105551, -0.394449, -0.788897, np.log(0.0394449)], atol=1e-6)


def advantage(problem, best, dt, x, a):
    """(E J(x') - J(x)) / dt + r - rho J - V for one action; two values of the noise give its second moment exactly."""

    def value(x):
        return best.quadratic * x**2 / 2 + best.linear * x

    drift, noise = problem.A * x + problem.B * a, problem.C * x + problem.D * a
    cost = problem.M * x**2 / 2 + problem.R * x * a + problem.N * a**2 / 2 + problem.P * x + problem.Q * a
    if dt:
        ends = [value(x + drift * dt + sign * noise * jnp.sqrt(dt)) for sign in (1, -1)]
        gain = (sum(ends) / 2 - value(x)) / dt
    else:
        gain = drift * jax.grad(value)(x) + noise**2 / 2 * jax.grad(jax.grad(value))(x)
    return gain - cost - problem.discount * value(x) - best.value


@pytest.mark.x64
@pytest.mark.parametrize("dt", [0.0, 0.05, 0.3])
def test_the_solution_solves_its_bellman_equation(key, dt):
    """Under the optimum the advantage of every action is temperature times its log-density, at every state."""

    def residual(problem, key):
        best = ex.solution(problem, dt=dt)
        x, a = 3 * jax.random.normal(key, (2,))
        mean, variance = best.policy.slope * x + best.policy.intercept, jnp.exp(best.policy.log_variance)
        log_density = -((a - mean) ** 2) / (2 * variance) - jnp.log(2 * jnp.pi * variance) / 2
        left, right = advantage(problem, best, dt, x, a), problem.temperature * log_density
        growth = 2 * (problem.A + problem.B * best.policy.slope) + (problem.C + problem.D * best.policy.slope) ** 2
        growth = growth + dt * (problem.A + problem.B * best.policy.slope) ** 2 - problem.discount
        return jnp.abs(left - right) / (1 + jnp.abs(right)), growth, best

    problems = many(key, 400)
    wrong, growth, best = jax.vmap(residual)(problems, jax.random.split(key, 400))
    ok = np.asarray(best.status == 0)
    assert 0.4 < ok.mean() < 1
    assert wrong[ok].max() < 1e-9
    assert growth[ok].max() < 0, "the root is the one under which second moments decay"
    assert bool(jnp.all(best.quadratic[ok] < 0)), "M N > R^2 here"
    assert bool(jnp.all(jnp.isnan(best.value[~ok])))


@pytest.mark.x64
def test_no_solution_is_reported_only_where_no_linear_policy_is_stable(key):
    """`NO_STATIONARY_LAW` against a search: the least growth rate over slopes, minimised by hand."""
    problems = many(key, 400)
    best = jax.vmap(ex.solution)(problems)
    slopes = jnp.linspace(-200, 200, 200_001)[None]
    p = jax.tree.map(lambda a: a[:, None], problems)
    growth = 2 * (p.A + p.B * slopes) + (p.C + p.D * slopes) ** 2 - p.discount
    least = growth.min(1)
    clear = jnp.abs(least) > 1e-2
    refused = (best.status & ex.NO_STATIONARY_LAW) != 0
    np.testing.assert_array_equal(refused[clear], least[clear] > 0)


@pytest.mark.x64
def test_the_optimum_beats_its_neighbours():
    """The long-run average has its maximum at the solution, and there equals V, in continuous time and for steps."""
    for problem in (PUBLISHED, FULL):
        for dt in (0.0, 0.1):
            best = ex.solution(problem, dt=dt)

            def value(policy, problem=problem, dt=dt):
                return ex.average_reward(problem, policy, dt=dt).value

            np.testing.assert_allclose(value(best.policy), best.value, rtol=1e-12)
            np.testing.assert_allclose(jnp.stack(jax.tree.leaves(jax.grad(value)(best.policy))), 0, atol=1e-12)
            hessian = jax.hessian(lambda w, v=value: v(ex.GaussianPolicy(*w)))(jnp.stack(best.policy))
            assert np.linalg.eigvalsh(hessian).max() < 0


@pytest.mark.x64
@pytest.mark.parametrize("problem", [PUBLISHED, FULL], ids=["published", "full"])
def test_average_reward_is_that_of_simulated_paths(key, problem):
    """256 long paths at a coarse step, whose stationary law is known exactly: 5 standard errors."""
    policy, dt = ex.GaussianPolicy(-0.2, -0.3, -1.0), 0.1

    def path(key):
        data, _, _, bad = ex.simulate(key, problem, policy, num_steps=4000, dt=dt)
        kept = jax.tree.map(lambda a: a[200:], data)
        return kept.reward.mean(), kept.state.mean(), (kept.state**2).mean(), bad

    *means, bad = jax.vmap(path)(jax.random.split(key, 256))
    assert not bool(jnp.any(bad))
    truth = ex.average_reward(problem, policy, dt=dt, entropy=False)
    continuous = ex.average_reward(problem, policy, entropy=False)
    for samples, expected in zip(means, truth[:3]):
        error = samples.std() / np.sqrt(256)
        assert abs(float(samples.mean() - expected)) <= tolerances.STANDARD_ERRORS * float(error)
    error = means[2].std() / np.sqrt(256)
    assert abs(truth.second_moment - continuous.second_moment) > tolerances.STANDARD_ERRORS * error, (
        "the step must matter here, or the test would not see it"
    )


@pytest.mark.x64
def test_time_step_is_a_first_order_effect():
    exact = ex.solution(FULL).policy.slope
    errors = [float(abs(ex.solution(FULL, dt=dt).policy.slope - exact)) for dt in (0.02, 0.01)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.05)


# --- increments --------------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize("name", LEARNERS)
def test_increments_are_test_functions_times_delta(key, name):
    """Against automatic differentiation of J, ln pi, entropy and q."""
    temperature, discount, dt = 0.3, 0.2, 0.05
    w = jax.random.normal(key, (6,))
    x, a, r, x_next = jax.random.normal(jax.random.fold_in(key, 1), (4,))
    rates = {"critic_rate": 0.2, "value_rate": 0.3, "scale_rate": 0.5}
    own = {"actor_rate": 0.4} if name == "actor_critic" else {"q_rate": 0.4}
    learner = LEARNERS[name](**rates, **own, schedule=ex.power_decay(scale=2.0, power=0.5), test_scale=1.5)

    def value(w, x):
        return w[0] * x**2 / 2 + w[1] * x

    def log_policy(w):
        return -((a - w[3] * x - w[4]) ** 2) / (2 * jnp.exp(w[5])) - (jnp.log(2 * jnp.pi) + w[5]) / 2

    def entropy(w):
        return (jnp.log(2 * jnp.pi) + 1 + w[5]) / 2

    def q(w):
        mean = w[3] * x + w[4]
        return -jnp.exp(-w[5]) * (a - mean) ** 2 / 2 - temperature / 2 * (jnp.log(2 * jnp.pi * temperature) + w[5])

    bonus = temperature * entropy(w) if name == "actor_critic" else -q(w)
    delta = value(w, x_next) - value(w, x) + (r + bonus - discount * value(w, x) - w[2]) * dt
    expected = jax.grad(value)(w, x) * delta + delta * jnp.eye(6)[2]
    if name == "actor_critic":
        expected = expected + jax.grad(log_policy)(w) * delta + temperature * jax.grad(entropy)(w) * dt
    else:
        expected = expected + jax.grad(q)(w) * delta
    expected = expected * jnp.asarray([0.2, 0.2, 0.3, 0.4, 0.4, 0.5]) / jnp.sqrt(1 + 3 / 2) / (1 + (x / 1.5) ** 2) ** 2
    got = learner.change(
        ex.Parameters(*w), ex.Experience(x, a, r, x_next), jnp.asarray(3.0), jnp.asarray(temperature),
        jnp.asarray(discount), jnp.asarray(dt),
    )  # fmt: skip
    np.testing.assert_allclose(jnp.stack(got), expected, rtol=1e-12)


def _mean_change(key, problem, learner, truth, behaviour, dt, discount=0.0):
    """Mean increments of a learner held at `truth`, with standard errors from 512 paths."""
    scale = truth.policy.log_variance - (jnp.log(problem.temperature) if learner.off_policy else 0)
    level = ex.Parameters(*truth[:3], truth.policy.slope, truth.policy.intercept, scale)
    scalars = [jnp.asarray(s, scale.dtype) for s in (0.0, problem.temperature, discount, dt)]

    def path(key):
        data = ex.simulate(key, problem, behaviour, num_steps=1000, dt=dt).value
        return jnp.stack(jax.vmap(lambda t: jnp.stack(learner.change(level, t, *scalars)))(data)).mean(0)

    changes = jax.jit(jax.vmap(path))(jax.random.split(key, 512))
    return changes.mean(0), changes.std(0) / np.sqrt(512)


@pytest.mark.x64
@pytest.mark.parametrize("discount", [0.0, 0.4])
@pytest.mark.parametrize("name", LEARNERS)
def test_the_solution_is_the_fixed_point_on_policy(key, name, discount):
    problem = FULL._replace(discount=discount)
    truth = ex.solution(problem, dt=0.1)
    mean, error = _mean_change(key, problem, LEARNERS[name](), truth, truth.policy, 0.1, discount)
    assert bool(jnp.all(jnp.abs(mean) <= tolerances.STANDARD_ERRORS * error)), mean / error
    wrong = truth._replace(policy=truth.policy._replace(slope=truth.policy.slope + 0.3))
    mean, error = _mean_change(key, problem, LEARNERS[name](), wrong, wrong.policy, 0.1, discount)
    assert float(mean[3]) < -tolerances.STANDARD_ERRORS * float(error[3]), "a slope that is too large must fall"


@pytest.mark.x64
def test_foreign_actions_keep_the_fixed_point_of_q_learning_alone(key):
    truth, behaviour = ex.solution(FULL, dt=0.1), ex.GaussianPolicy(-0.2, 0.5, 0.3)
    mean, error = _mean_change(key, FULL, ex.q_learning(test_scale=2.0), truth, behaviour, 0.1)
    assert bool(jnp.all(jnp.abs(mean) <= tolerances.STANDARD_ERRORS * error)), mean / error
    mean, error = _mean_change(key, FULL, ex.actor_critic(test_scale=2.0), truth, behaviour, 0.1)
    assert float(jnp.abs(mean / error).max()) > 4 * tolerances.STANDARD_ERRORS


# --- runs --------------------------------------------------------------------------------------------------


def short(key, learner=None, problem=PUBLISHED, num_steps=60, record_every=10, dt=0.05, **more):
    learner = ex.q_learning() if learner is None else learner
    return ex.run(key, problem, learner, num_steps=num_steps, dt=dt, record_every=record_every, **more)


@pytest.mark.x64
@pytest.mark.parametrize("name", LEARNERS)
def test_run_is_the_scan_of_step(key, name):
    learner = LEARNERS[name]()
    state, rewards = ex.init(PUBLISHED, learner, x0=0.5), []
    for _ in range(20):
        state, transition = ex.step(key, state, PUBLISHED, learner, dt=0.05)
        rewards.append(float(transition.reward))
    _, end, history, _ = short(key, learner, num_steps=20, x0=0.5)
    contracts.assert_close(end, state, 1e-12, "state")
    np.testing.assert_allclose(history.reward, np.reshape(rewards, (2, 10)).mean(1), rtol=1e-12)
    np.testing.assert_allclose(history.time, [0.5, 1.0])
    np.testing.assert_allclose(history.parameters.slope[-1], end.parameters.slope)


@pytest.mark.x64
def test_stopping_and_going_on_changes_nothing(key):
    whole = short(key)
    first = short(key, num_steps=20)
    second = short(key, num_steps=40, state=first.state)
    contracts.assert_close(second.state, whole.state, 0.0, "state")
    contracts.assert_close(second.value, whole.value, 0.0, "value")
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first.history, second.history)
    contracts.assert_close(joined, whole.history, 0.0, "history")


@pytest.mark.x64
def test_vmap_over_seeds_and_temperatures_equals_separate_runs(key):
    keys, temperatures = jax.random.split(key, 3), jnp.asarray([0.05, 0.2])

    def one(key, temperature):
        return short(key, ex.actor_critic(), PUBLISHED._replace(temperature=temperature))

    batch = jax.vmap(jax.vmap(one, (0, None)), (None, 0))(keys, temperatures)
    for i, temperature in enumerate(temperatures):
        for j in range(3):
            lane = jax.tree.map(lambda a, i=i, j=j: a[i, j], batch)
            contracts.assert_close(lane, one(keys[j], temperature), 1e-12, "lane")


def test_new_values_compile_nothing(key):
    short(key, ex.actor_critic(critic_rate=0.1))
    ex.solution(PUBLISHED)
    with contracts.count_compilations() as events:
        short(key, ex.actor_critic(critic_rate=0.3, test_scale=2.0), PUBLISHED._replace(Q=1.0), dt=0.02, x0=1.0)
        ex.solution(PUBLISHED._replace(temperature=0.3), dt=0.1)
    assert not events


@pytest.mark.x64
def test_q_learning_is_actor_critic_with_rates_over_the_temperature(key):
    """On its own actions: the two share noise, start and rates, and part by the noise of the bonus alone, O(dt)."""
    temperature = PUBLISHED.temperature
    start = ex.Parameters(log_scale=-1.0)
    actor = ex.actor_critic(actor_rate=0.01, scale_rate=0.3, start=start)
    twin = ex.q_learning(q_rate=0.1, scale_rate=3.0, start=start._replace(log_scale=-1.0 - np.log(temperature)))
    gaps = []
    for dt in (0.04, 0.01):

        def end(learner, dt=dt):
            found = jax.vmap(lambda k: short(k, learner, num_steps=round(40 / dt), dt=dt))(jax.random.split(key, 8))
            policy = learner.policy(found.value, temperature)
            return jnp.stack(policy)

        gaps.append(float(jnp.abs(end(actor) - end(twin)).mean()))
        moved = float(jnp.abs(end(actor) - jnp.asarray([0.0, 0.0, -1.0])[:, None]).mean())
        assert gaps[-1] < 0.2 * moved
    assert gaps[1] < 0.75 * gaps[0]


def test_schedule_may_be_a_bare_function(key):
    frozen = ex.q_learning(schedule=lambda t: 0 * t)
    assert all(float(p) == 0 for p in short(key, frozen).value)


def test_box_and_clip_hold(key):
    low, high = ex.Parameters(*(-0.05,) * 6), ex.Parameters(*(0.01,) * 6)
    history = short(key, ex.actor_critic(low=low, high=high), record_every=1).history
    values = jnp.stack(history.parameters)
    assert float(values.min()) == np.float32(-0.05) and float(values.max()) == np.float32(0.01)
    history = short(key, ex.actor_critic(max_change=1e-4), record_every=1).history
    steps = jnp.diff(jnp.stack(history.parameters), axis=1)
    assert float(jnp.abs(steps).max()) == pytest.approx(1e-4, rel=1e-2)


# --- trouble -----------------------------------------------------------------------------------------------


def test_ill_posed_problems_carry_a_status():
    cases = {
        "a reward unbounded in the action": (PUBLISHED._replace(D=0.0, N=-1.0), status.SINGULAR),
        "no cost of the action": (PUBLISHED._replace(D=0.0, N=0.0), status.SINGULAR),
        "noise that no control can tame": (PUBLISHED._replace(A=1.0, B=1.0), ex.NO_STATIONARY_LAW),
        "an unstable state out of reach": (PUBLISHED._replace(A=1.0, D=0.0), ex.NO_STATIONARY_LAW),
        "no real root": (PUBLISHED._replace(R=-4.0, D=0.0, B=1.0), ex.NO_STATIONARY_LAW),
        "no temperature": (PUBLISHED._replace(temperature=0.0), status.OUT_OF_RANGE),
        "negative temperature": (PUBLISHED._replace(temperature=-0.1), status.OUT_OF_RANGE),
        "negative discount": (PUBLISHED._replace(discount=-0.1), status.OUT_OF_RANGE),
        "a NaN": (PUBLISHED._replace(P=jnp.nan), status.NONFINITE_INPUT),
    }
    for what, (problem, bit) in cases.items():
        best = ex.solution(problem)
        assert int(best.status) & bit, what
        assert all(bool(jnp.isnan(a)) for a in jax.tree.leaves(best[:4])), what
    # No control over the state at all is no trouble: D = 0, B = 0, stable.
    assert int(ex.solution(PUBLISHED._replace(D=0.0)).status) == 0


def test_an_average_that_overflows_carries_a_status():
    found = ex.average_reward(PUBLISHED, ex.GaussianPolicy(1.0, 1.0, 1000.0))
    assert int(found.status) == status.NONFINITE_RESULT


def test_average_reward_of_an_unstable_policy_carries_a_status():
    result = ex.average_reward(PUBLISHED, ex.GaussianPolicy(1.5, 0.0, 0.0))
    assert int(result.status) == ex.NO_STATIONARY_LAW and bool(jnp.isnan(result.value))
    assert int(ex.average_reward(PUBLISHED, ex.GaussianPolicy(1.3, 0.0, 0.0)).status) == 0
    assert "no stationary law" in status.explain(ex.NO_STATIONARY_LAW, "control")


def test_divergence_stops_one_lane_and_says_so(key):
    """Rates far too large: the lane keeps its last finite state, its neighbour is untouched."""

    def one(key, rate):
        return short(key, ex.actor_critic(actor_rate=rate), num_steps=2000, record_every=100)

    rates = jnp.asarray([0.01, 50.0])
    value, _, history, code = jax.vmap(one, (None, 0))(key, rates)
    assert code.tolist() == [0, status.DIVERGED]
    assert all(bool(jnp.all(jnp.isfinite(a))) for a in jax.tree.leaves(value))
    assert bool(jnp.isnan(history.reward[1, -1])) and bool(jnp.all(jnp.isfinite(history.reward[0])))
    np.testing.assert_allclose(history.reward[0], one(key, rates[0]).history.reward, rtol=1e-4)


def test_a_policy_too_wide_to_learn_from_is_divergence(key):
    """Offline q-learning with too large rates: the spread runs off until no action moves the parameters any more."""
    data = ex.simulate(key, PUBLISHED, BEHAVIOUR, num_steps=2000, dt=0.1).value
    learner = ex.q_learning(critic_rate=1.0, q_rate=0.2, scale_rate=10.0, test_scale=1.0)
    sizes = {"num_steps": 300, "dt": 0.1, "batch_size": 100, "record_every": 100}
    end = ex.run_offline(key, learner, data, temperature=0.1, **sizes)
    assert int(end.status) == status.DIVERGED and abs(float(end.value.log_scale)) < 30


@pytest.mark.parametrize(
    ("change", "bit"),
    [
        ({"problem": PUBLISHED._replace(temperature=-0.1)}, status.OUT_OF_RANGE),
        ({"problem": PUBLISHED._replace(M=np.nan)}, status.NONFINITE_INPUT),
        ({"x0": np.nan}, status.NONFINITE_INPUT),
        ({"dt": -0.1}, status.OUT_OF_RANGE),
        ({"dt": np.nan}, status.OUT_OF_RANGE),
    ],
    ids=["temperature", "NaN coefficient", "NaN start", "negative dt", "NaN dt"],
)
def test_bad_values_stop_a_run_before_it_learns(key, change, bit):
    end = short(key, **change)
    assert int(end.status) == bit
    assert all(float(p) == 0 for p in end.value) and bool(jnp.all(jnp.isnan(end.history.reward)))


def test_bad_values_in_records_stop_offline_learning(key):
    data, _, _, bad = ex.simulate(key, PUBLISHED, BEHAVIOUR, num_steps=50, dt=0.1)
    sizes = {"num_steps": 10, "batch_size": 5, "record_every": 5, "dt": 0.1}
    holed = data._replace(reward=data.reward.at[3].set(jnp.nan))
    end = ex.run_offline(key, ex.q_learning(), holed, temperature=0.1, **sizes)
    assert int(bad) == 0 and int(end.status) == status.NONFINITE_INPUT
    end = ex.run_offline(key, ex.q_learning(), data, temperature=-1.0, **sizes)
    assert int(end.status) == status.OUT_OF_RANGE and float(end.value.value) == 0
    left = ex.simulate(key, PUBLISHED, ex.GaussianPolicy(30.0, 1.0, 0.0), num_steps=500, dt=0.1)
    assert int(left.status) & status.DIVERGED


@pytest.mark.bad_input
def test_static_misuse_raises(key):
    with pytest.raises(ValueError, match=r"problem\.A must be a scalar, got shape \(3,\)"):
        ex.solution(PUBLISHED._replace(A=jnp.ones(3)))
    with pytest.raises(ValueError, match=r"policy\.slope must be a scalar"):
        ex.average_reward(PUBLISHED, BEHAVIOUR._replace(slope=jnp.ones(2)))
    with pytest.raises(ValueError, match="use jax.vmap"):
        short(key, x0=jnp.zeros(2))
    with pytest.raises(ValueError, match="multiple of record_every = 7"):
        short(key, record_every=7)
    with pytest.raises(ValueError, match="record_every must be an int >= 1"):
        short(key, record_every=0)
    with pytest.raises(ValueError, match=">= 0"):
        short(key, num_steps=-10)
    with pytest.raises(TypeError, match="typed key"):
        short(jnp.zeros(2, jnp.uint32))
    with pytest.raises(ValueError, match="critic_rate must be a scalar"):
        ex.actor_critic(critic_rate=jnp.ones(2))
    with pytest.raises(ValueError, match=r"low\.slope must be a scalar"):
        ex.q_learning(low=ex.Parameters(slope=jnp.ones(2)))
    data = ex.simulate(key, PUBLISHED, BEHAVIOUR, num_steps=5, dt=0.1).value
    sizes = {"temperature": 0.1, "num_steps": 2, "record_every": 1, "dt": 0.1}
    with pytest.raises(ValueError, match="use q_learning"):
        ex.run_offline(key, ex.actor_critic(), data, batch_size=2, **sizes)
    with pytest.raises(ValueError, match="four arrays of one shape"):
        ex.run_offline(key, ex.q_learning(), data._replace(action=data.action[1:]), batch_size=2, **sizes)
    with pytest.raises(ValueError, match="batch_size must be an int >= 1"):
        ex.run_offline(key, ex.q_learning(), data, batch_size=0, **sizes)


# --- learning ----------------------------------------------------------------------------------------------

LOW, HIGH = ex.Parameters(-3.0, -3.0, -3.0, -1.0, -2.0, -6.0), ex.Parameters(3.0, 3.0, 3.0, 1.0, 2.0, 4.0)


@pytest.mark.parametrize("name", LEARNERS)
def test_short_runs_come_near(key, name):
    """T = 1000 at dt = .05, 32 seeds, slopes kept where the state is stable. Everything starts at 0."""
    own = {"actor_rate": 0.02} if name == "actor_critic" else {"q_rate": 0.2}
    learner = LEARNERS[name](**own, low=LOW, high=HIGH)

    def one(key):
        return short(key, learner, num_steps=20_000, record_every=1000)

    value, _, history, code = jax.vmap(one)(jax.random.split(key, 32))
    best = ex.solution(PUBLISHED, dt=0.05)
    got = learner.policy(value, jnp.float32(PUBLISHED.temperature))
    errors = {field: float(getattr(got, field).mean() - getattr(best.policy, field)) for field in got._fields}
    earned = float(history.reward[:, -2:].mean())
    print(name, errors, float(value.value.mean() - best.value), earned)
    assert not bool(jnp.any(code))
    assert abs(errors["slope"]) < 0.17 and abs(errors["intercept"]) < 0.15 and abs(errors["log_variance"]) < 0.7
    assert abs(float(value.value.mean() - best.value)) < 0.08
    truth = ex.average_reward(PUBLISHED, best.policy, dt=0.05, entropy=False).value
    assert abs(earned - float(truth)) < 0.08


def test_every_temperature_finds_its_own_variance(key):
    """q-learning offline from the same foreign records at four temperatures, one vmap: no acting, any price.

    Between sets of records the estimates scatter by .015.
    """
    data = ex.simulate(key, PUBLISHED, BEHAVIOUR, num_steps=1_000_000, dt=0.1).value
    temperatures = jnp.asarray([0.05, 0.1, 0.2, 0.4])
    learner = ex.q_learning(critic_rate=1.0, value_rate=1.0, q_rate=0.2, scale_rate=0.1,
                            schedule=ex.power_decay(scale=100.0), test_scale=1.0)  # fmt: skip

    def one(temperature):
        return ex.run_offline(
            key, learner, data, temperature=temperature, num_steps=15_000, dt=0.1, batch_size=256, record_every=5000
        )

    value, _, _, code = jax.vmap(one)(temperatures)
    got = jax.vmap(learner.policy)(value, temperatures)
    truth = jax.vmap(lambda t: ex.solution(PUBLISHED._replace(temperature=t), dt=0.1))(temperatures)
    print([np.asarray(a - b) for a, b in zip(got, truth.policy)], value.value - truth.value)
    assert not bool(jnp.any(code))
    np.testing.assert_allclose(got.slope, truth.policy.slope, atol=0.07)
    np.testing.assert_allclose(got.intercept, truth.policy.intercept, atol=0.07)
    np.testing.assert_allclose(got.log_variance, truth.policy.log_variance, atol=0.1)
    np.testing.assert_allclose(value.quadratic, truth.quadratic, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_learners_reach_the_optimum(key, name):
    """dt = .01, T = 20 000, 64 seeds from zero: slope and intercept within .05, the last tenth within .03 of .6585."""
    learner = LEARNERS[name]()

    def one(key):
        return ex.run(key, PUBLISHED, learner, num_steps=2_000_000, dt=0.01, record_every=2000)

    value, _, history, code = jax.vmap(one)(jax.random.split(key, 64))
    best = ex.solution(PUBLISHED)
    slope, intercept = value.slope, value.intercept
    earned = float(history.reward[:, -100:].mean())
    print(name, float(slope.mean()), float(slope.std()), float(intercept.mean()), float(intercept.std()), earned)
    assert not bool(jnp.any(code))
    assert abs(float(slope.mean() - best.policy.slope)) < 0.05
    assert abs(float(intercept.mean() - best.policy.intercept)) < 0.05
    assert abs(earned - 0.658497) < 0.03
