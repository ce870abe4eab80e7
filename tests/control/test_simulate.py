"""Simulation: orders against exact solutions, the step form, padding, common random numbers, statuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from contracts import count_compilations
from jaxsci import control
from jaxsci.control import simulate
from jaxsci.core import status


def _linear(t, x, u, args):
    return args[0] * x


def _proportional(t, x, u, args):
    return args[1] * x


def _state(t, x, u, args):
    return x


def _gbm(drift=0.4, volatility=0.6, **kwargs):
    return control.sde(_linear, _proportional, _state, args=(drift, volatility), **kwargs)


# --- truth -------------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_strong_order_one_half_on_common_increments(key):
    """RMS error at T = 1 of geometric Brownian motion against its solution on the same Brownian path."""
    fine, num_paths = 256, 2000
    keys = jax.random.split(key, num_paths)
    dw = jax.vmap(lambda k: control.increments(k, fine, 1 / fine))(keys)
    truth = jnp.exp(0.4 - 0.08 + 0.4 * dw.sum(1))
    errors = []
    for factor in (2, 4, 8, 16):
        coarse = jax.vmap(lambda w, factor=factor: control.coarsen(w, factor))(dw)

        def last(w, factor=factor):
            problem = _gbm(volatility=0.4, horizon=1.0)
            return control.euler_maruyama(None, problem, None, 1.0, num_steps=fine // factor, increments=w).xs[-1]

        errors.append(float(jnp.sqrt(jnp.mean((jax.vmap(last)(coarse) - truth) ** 2))))
    orders = np.diff(np.log2(errors))
    assert np.all(np.abs(orders - 0.5) < 0.1), (errors, orders)


@pytest.mark.x64
def test_brownian_motion_is_exact_and_equals_the_exact_sampler(key):
    problem = control.sde(_nothing, _unit, horizon=2.0)
    path = control.euler_maruyama(key, problem, None, 0.3, num_steps=20)
    exact = control.exact.brownian(key, 0.3, num_steps=20, dt=0.1)
    np.testing.assert_allclose(path.xs, exact.xs, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(path.ts, exact.ts, rtol=1e-12)
    np.testing.assert_allclose(jnp.diff(path.xs), control.increments(key, 20, 0.1), atol=1e-12)


@pytest.mark.x64
def test_matrix_noise_has_its_covariance(key):
    root = jnp.array([[1.0, 0.0, 0.5], [-0.3, 0.8, 0.0]])

    def noise(t, x, u, args):
        return root

    problem = control.sde(_nothing, noise, horizon=1.0)
    keys = jax.random.split(key, 20_000)
    ends = jax.vmap(lambda k: control.euler_maruyama(k, problem, None, jnp.zeros(2), num_steps=3).xs[-1])(keys)
    expected = root @ root.T
    products = ends[:, :, None] * ends[:, None, :]
    error = products.std(0) / np.sqrt(len(keys))
    assert bool(jnp.all(jnp.abs(products.mean(0) - expected) <= 5 * error))


@pytest.mark.x64
def test_a_policy_controls_and_its_rewards_sum_to_the_return(key):
    """dx = u dt with u = -x and reward -u^2: x = (1 - dt)^k exactly."""

    def drift(t, x, u, args):
        return u

    def reward(t, x, u, args):
        return -(u**2)

    problem = control.sde(drift, _none, reward, _square, discount=0.5, horizon=1.0)
    path = control.euler_maruyama(None, problem, _minus, 1.0, num_steps=10, increments=jnp.zeros(10))
    k = np.arange(11)
    np.testing.assert_allclose(path.xs, 0.9**k, rtol=1e-12)
    np.testing.assert_allclose(path.us, -(0.9 ** k[:-1]), rtol=1e-12)
    expected = np.sum(np.exp(-0.05 * k[:-1]) * -(0.81 ** k[:-1]) * 0.1) + np.exp(-0.5) * 0.81**10
    np.testing.assert_allclose(control.discounted_return(problem, path), expected, rtol=1e-12)
    np.testing.assert_allclose(control.rewarded(problem, path).rs, path.rs, rtol=1e-12)


def _none(t, x, u, args):
    return 0.0


def _nothing(t, x, u, args):
    return jnp.zeros_like(x)


def _unit(t, x, u, args):
    return 1.0


def _minus(key, t, x):
    return -x


def _square(x):
    return x**2


# --- the step form, padding, common random numbers ---------------------------------------------------------


def test_run_is_the_scan_of_step(key):
    problem = _gbm(horizon=1.0)

    def noisy(k, t, x):
        return jax.random.normal(k) * x

    state, rows = simulate.init(1.0), []
    for _ in range(6):
        state, row = simulate.step(key, problem, noisy, state, 1 / 6)
        rows.append(row)
    path = control.euler_maruyama(key, problem, noisy, 1.0, num_steps=6)
    np.testing.assert_allclose(path.xs[1:], jnp.stack([r.x_next for r in rows]), rtol=1e-6)
    np.testing.assert_allclose(path.us, jnp.stack([r.u for r in rows]), rtol=1e-6)
    np.testing.assert_allclose(path.rs, jnp.stack([r.reward for r in rows]), rtol=1e-6)
    assert [bool(r.first) for r in rows] == [True] + 5 * [False]
    steps = control.transitions(path)
    np.testing.assert_array_equal(steps.x, path.xs[:-1])
    np.testing.assert_array_equal(steps.t_next, path.ts[1:])


def test_a_longer_run_starts_with_the_shorter(key):
    problem = _gbm()
    long = control.euler_maruyama(key, problem, None, 1.0, num_steps=12, dt=0.1)
    short = control.euler_maruyama(key, problem, None, 1.0, num_steps=5, dt=0.1)
    np.testing.assert_array_equal(long.xs[:6], short.xs)


@pytest.mark.x64
def test_dt_is_a_vmapped_axis(key):
    """Padded runs over one horizon, three steps dt, one program; coarse paths follow the fine one's noise."""
    problem = control.sde(_nothing, _unit, _state, horizon=1.0)
    fine = control.increments(key, 12, 1 / 12)

    def run(factor):
        dw = control.coarsen(fine, factor, num_steps=12)
        return control.euler_maruyama(None, problem, None, 0.0, num_steps=12, dt=factor / 12, increments=dw)

    factors = jnp.array([1, 2, 3])
    paths = jax.vmap(run)(factors)
    for i, factor in enumerate((1, 2, 3)):
        steps = 12 // factor
        np.testing.assert_allclose(paths.xs[i, ::1][: steps + 1], paths.xs[0, ::factor], atol=1e-12)
        np.testing.assert_allclose(paths.ts[i, steps:], 1.0, rtol=0, atol=0)
        np.testing.assert_array_equal(paths.dts[i, steps:], 0)
        np.testing.assert_allclose(paths.dts[i].sum(), 1.0, rtol=1e-12)
        np.testing.assert_array_equal(paths.xs[i, steps:], paths.xs[i, -1])
    alone = control.euler_maruyama(None, problem, None, 0.0, num_steps=4, dt=0.25, increments=control.coarsen(fine, 3))
    padded = control.discounted_return(problem, jax.tree.map(lambda a: a[2], paths))
    np.testing.assert_allclose(padded, control.discounted_return(problem, alone), rtol=1e-12)


@pytest.mark.x64
def test_a_last_step_takes_the_remainder(key):
    path = control.euler_maruyama(key, control.sde(_nothing, _unit, horizon=1.0), None, 0.0, num_steps=5, dt=0.3)
    np.testing.assert_allclose(path.ts, [0, 0.3, 0.6, 0.9, 1.0, 1.0], rtol=1e-12)
    np.testing.assert_allclose(path.dts, [0.3, 0.3, 0.3, 0.1, 0.0], atol=1e-12)


def test_float32_grids_end_on_the_horizon(key):
    problem = control.sde(_nothing, _unit, horizon=1.0)
    for steps in (7, 50, 1000):
        path = control.euler_maruyama(key, problem, None, 0.0, num_steps=steps)
        assert float(path.ts[-1]) == 1.0 and path.ts.dtype == jnp.float32
        np.testing.assert_allclose(path.dts, 1 / steps, rtol=1e-3)


@pytest.mark.x64
def test_given_times(key):
    times = jnp.array([0.5, 0.6, 1.0, 1.5])
    path = control.euler_maruyama(key, _gbm(), None, 1.0, times=times)
    np.testing.assert_array_equal(path.ts, times)
    np.testing.assert_allclose(path.dts, np.diff(times))
    keys = jax.random.split(key, 20_000)
    problem = control.sde(_nothing, _unit)
    xs = jax.vmap(lambda k: control.euler_maruyama(k, problem, None, 0.0, times=times).xs)(keys)
    variance = jnp.var(jnp.diff(xs, axis=1), axis=0)
    np.testing.assert_allclose(variance, np.diff(times), rtol=5 * np.sqrt(2 / 20_000))


def test_one_compilation_for_all_values(key):
    def run(x0, dt, drift, key):
        return control.euler_maruyama(key, _gbm(drift, horizon=2.0), None, x0, num_steps=9, dt=dt)

    jax.block_until_ready(run(1.0, 0.1, 0.2, key))
    with count_compilations() as events:
        jax.block_until_ready(run(2.0, 0.2, 0.3, jax.random.fold_in(key, 1)))
    assert not events


# --- deterministic problems --------------------------------------------------------------------------------


def _oscillator(t, x, u, args):
    return jnp.stack([x[1], -args * x[0] + (0.0 if u is None else u)])


@pytest.mark.x64
def test_rollout_of_an_oscillator():
    problem = control.ode(_oscillator, _energy, args=4.0)
    times = jnp.array([0.0, 0.1, 0.75, 2.0, 5.0])
    path = control.rollout(problem, None, jnp.array([1.0, 0.0]), times=times, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(path.xs[:, 0], np.cos(2 * times), atol=1e-8)
    np.testing.assert_allclose(path.xs[:, 1], -2 * np.sin(2 * times), atol=1e-8)
    np.testing.assert_allclose(path.rs, 2.0, atol=1e-8)
    assert int(path.status) == 0 and path.us is None


@pytest.mark.x64
def test_sample_times_are_step_ends():
    """At a loose tolerance, samples in the middle of a step would be interpolated: then they would depend on which
    other samples are asked for only by rounding. As step ends, every prefix of the samples is reproduced exactly."""
    problem = control.ode(_oscillator, args=4.0)
    times = jnp.linspace(0.0, 3.0, 13)
    whole = control.rollout(problem, None, jnp.array([1.0, 0.0]), times=times, rtol=1e-2, atol=1e-2)
    ends = control.rollout(problem, None, jnp.array([1.0, 0.0]), times=times[:5], rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(ends.xs, whole.xs[:5], rtol=1e-13)
    coarse = control.rollout(problem, None, jnp.array([1.0, 0.0]), times=times[::3], rtol=1e-2, atol=1e-2)
    assert float(jnp.abs(coarse.xs[-1] - whole.xs[-1]).max()) > 1e-6


@pytest.mark.x64
def test_rollout_under_a_policy_is_differentiable():
    """u = -k x2 damps: d/dk of the end agrees with differences."""
    problem = control.ode(_oscillator, _energy, args=4.0)

    def end(k):
        policy, x0 = Partial(_damping, k), jnp.array([1.0, 0.0])
        return control.rollout(problem, policy, x0, times=jnp.array([0.0, 1.0]), rtol=1e-9, max_steps=64).xs[-1, 0]

    slope = jax.grad(end)(0.5)
    np.testing.assert_allclose(slope, (end(0.5 + 1e-5) - end(0.5 - 1e-5)) / 2e-5, rtol=1e-5)


def _damping(k, key, t, x):
    return -k * x[1]


def _energy(t, x, u, args):
    return 2 * x[0] ** 2 + x[1] ** 2 / 2


def _blow_up(t, x, u, args):
    return x**2


def test_rollout_statuses():
    problem = control.ode(_oscillator, args=4.0)
    x0, times = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0, 2.0])
    unsorted = control.rollout(problem, None, x0, times=times[::-1])
    assert int(unsorted.status) == status.OUT_OF_RANGE and bool(jnp.all(jnp.isfinite(unsorted.xs)))
    nan = control.rollout(problem, None, x0 * jnp.nan, times=times)
    assert int(nan.status) & status.NONFINITE_INPUT and bool(jnp.all(jnp.isfinite(nan.xs)))
    capped = control.rollout(problem, None, x0, times=1e6 * times)
    assert int(capped.status) & status.MAX_STEPS and bool(jnp.all(jnp.isfinite(capped.xs)))
    burst = control.rollout(control.ode(_blow_up), None, jnp.array([2.0]), times=times, rtol=1e-5)
    assert int(burst.status) != 0 and bool(jnp.all(jnp.isfinite(burst.xs)))
    np.testing.assert_array_equal(burst.xs[1:], burst.xs[:-1])
    negative = control.rollout(control.ode(_oscillator, args=4.0, discount=-1.0), None, x0, times=times)
    assert int(negative.status) == status.OUT_OF_RANGE


# --- statuses and bad input --------------------------------------------------------------------------------


def test_a_path_that_explodes_stands_still_and_says_so(key):
    def cubic(t, x, u, args):
        return x**3

    problem = control.sde(cubic, _none, _state)
    path = control.euler_maruyama(key, problem, None, 10.0, num_steps=30, dt=1.0)
    assert int(path.status) == status.NONFINITE_RESULT
    chex.assert_tree_all_finite(path[:2] + path[3:5])
    moved = int(jnp.sum(path.dts > 0))
    assert 0 < moved < 30
    np.testing.assert_array_equal(path.xs[moved:], path.xs[-1])
    np.testing.assert_array_equal(path.ts[moved:], path.ts[-1])


def test_padding_never_looks_past_the_horizon(key):
    """A Brownian bridge, with a pole of drift, reward and policy at the horizon: steps of length 0 change nothing."""

    def bridge(t, x, u, args):
        return -x / (1 - t)

    def reward(t, x, u, args):
        return 1 / (1 - t)

    def policy(key, t, x):
        return 1 / (1 - t)

    problem = control.sde(bridge, _unit, reward, horizon=1.0)
    path = control.euler_maruyama(key, problem, policy, 0.0, num_steps=8, dt=0.25)
    short = control.euler_maruyama(key, problem, policy, 0.0, num_steps=4, dt=0.25)
    assert int(path.status) == status.OK
    np.testing.assert_array_equal(path.xs, jnp.concatenate([short.xs, jnp.repeat(short.xs[-1:], 4)]))
    np.testing.assert_array_equal(path.us[4:], 0.0)
    np.testing.assert_allclose(path.rs, [1, 4 / 3, 2, 4, 0, 0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(
        control.discounted_return(problem, path), control.discounted_return(problem, short), rtol=1e-6
    )


@pytest.mark.x64
def test_gradients_do_not_look_past_the_horizon_either(key):
    """The same bridge, differentiated through drift, policy and reward: padded steps add exactly nothing."""

    def bridge(t, x, u, args):
        return args * (u - x) / (1 - t)

    def reward(t, x, u, args):
        return args * x / (1 - t)

    def policy(key, t, x):
        return 1 / (1 - t)

    def total(args, end, x0, num_steps):
        problem = control.sde(bridge, _unit, reward, _square, args=args, horizon=end)
        path = control.euler_maruyama(key, problem, policy, x0, num_steps=num_steps, dt=0.25)
        again = control.rewarded(problem, path)
        return jnp.stack([control.discounted_return(problem, p) for p in (path, again)])

    slopes = [jax.jacrev(total, (0, 1, 2))(1.0, 1.0, 0.3, n) for n in (8, 4)]
    assert np.all(np.isfinite(slopes[0])) and np.all(slopes[0][0] != 0)
    np.testing.assert_allclose(*slopes, rtol=1e-12)

    def at_times(times):
        return control.euler_maruyama(key, control.sde(_nothing, _unit), None, 0.0, times=times).xs[-1]

    chex.assert_tree_all_finite(jax.grad(at_times)(jnp.array([0.0, 0.5, 0.5, 1.0])))


@pytest.mark.parametrize("horizon", [-1.0, jnp.nan])
def test_a_horizon_that_is_none_is_reported(horizon):
    problem = control.sde(_nothing, _unit, _state, horizon=horizon)
    for grid in ({"num_steps": 3, "dt": 0.5}, {"num_steps": 3}, {"times": jnp.arange(4.0)}):
        path = control.euler_maruyama(jax.random.key(0), problem, None, 1.0, **grid)
        assert int(path.status) == status.OUT_OF_RANGE
        np.testing.assert_array_equal(path.dts, 0)
        np.testing.assert_array_equal(path.xs, 1.0)
        chex.assert_tree_all_finite(path.ts)


def _root_of(t, x, u, args):
    return jnp.sqrt(0.5 - t)


def test_rewards_that_are_not_finite_are_reported():
    """A reward of NaN from t = .75 on, at the samples of a rollout and on a path that was there before."""
    times = jnp.linspace(0.0, 1.0, 5)
    path = control.rollout(control.ode(_linear, _root_of, args=(-1.0,)), None, 1.0, times=times)
    assert int(path.status) == status.NONFINITE_RESULT and np.isnan(path.rs[-1])
    before = control.exact.brownian(jax.random.key(0), 0.0, num_steps=4, dt=0.25)
    after = control.rewarded(control.ode(_linear, _root_of), before)
    assert int(before.status) == status.OK and int(after.status) == status.NONFINITE_RESULT
    # Steps of length 0 earn nothing, not even what cannot be said.
    still = before._replace(dts=before.dts.at[3:].set(0.0), ts=before.ts.at[4:].set(0.75))
    after = control.rewarded(control.ode(_linear, _root_of), still)
    assert int(after.status) == status.OK
    np.testing.assert_allclose(after.rs, [np.sqrt(0.5), 0.5, 0.0, 0.0], rtol=1e-6)


def test_the_terminal_reward_is_paid_at_the_horizon_alone(key):
    """Paths that end before it, or that failed on the way, have earned their rewards so far."""

    def breaking(t, x, u, args):
        return jnp.where(t >= 0.5, jnp.nan, 0.0)

    def value(drift, horizon=1.0, **grid):
        problem = control.sde(drift, _none, _state, _square, horizon=horizon)
        path = control.euler_maruyama(key, problem, None, 2.0, **grid)
        return float(control.discounted_return(problem, path))

    assert value(_nothing, num_steps=4) == 2 + 4
    assert value(_nothing, num_steps=12, dt=0.1) == pytest.approx(2 + 4, rel=1e-6)
    assert value(_nothing, num_steps=3, dt=0.25) == 1.5
    assert value(_nothing, horizon=jnp.inf, num_steps=4, dt=0.25) == 2
    assert value(breaking, num_steps=4) == 1
    assert value(_nothing, horizon=0.0, num_steps=4, dt=0.25) == 4


@pytest.mark.bad_input
def test_blocks_of_no_steps(key):
    fine = control.increments(key, 12, 0.1)
    for factor in (0, -1, 1.5):
        for num_steps in (None, 12):
            with pytest.raises(ValueError, match="factor must be an integer >= 1"):
                control.coarsen(fine, factor, num_steps=num_steps)
    coarse = jax.jit(lambda factor: control.coarsen(fine, factor, num_steps=12))(0)
    problem = control.sde(_nothing, _unit)
    path = control.euler_maruyama(None, problem, None, 0.0, num_steps=12, dt=0.1, increments=coarse)
    assert int(path.status) == status.NONFINITE_RESULT


@pytest.mark.parametrize("what", ["reward", "policy"])
def test_a_nan_reward_or_control_ends_the_path(what, key):
    def reward(t, x, u, args):
        return jnp.where((t > 0.25) & (what == "reward"), jnp.nan, x)

    def policy(key, t, x):
        return jnp.where((t > 0.25) & (what == "policy"), jnp.nan, 0.0)

    path = control.euler_maruyama(key, control.sde(_nothing, _unit, reward), policy, 0.0, num_steps=6, dt=0.1)
    assert int(path.status) == status.NONFINITE_RESULT
    assert int(jnp.sum(path.dts > 0)) == 3
    chex.assert_tree_all_finite((path.rs, path.us))


def test_statuses_of_inputs(key):
    problem = control.sde(_nothing, _unit)

    def code_at(problem):
        return control.euler_maruyama(key, problem, None, 0.0, num_steps=3).status

    def code(problem=problem, x0=0.0, **kwargs):
        path = control.euler_maruyama(key, problem, None, x0, **kwargs)
        chex.assert_tree_all_finite((path.xs, path.ts))
        return int(path.status)

    assert code(x0=jnp.nan, num_steps=3, dt=0.1) & status.NONFINITE_INPUT
    assert code(times=jnp.array([0.0, 0.2, 0.1])) & status.OUT_OF_RANGE
    assert code(num_steps=3, dt=-0.1) & status.OUT_OF_RANGE
    assert jax.jit(lambda end: code_at(control.sde(_nothing, _unit, horizon=end)))(jnp.inf) & status.OUT_OF_RANGE
    with pytest.raises(ValueError, match="dt must be given"):  # no dt and no horizon, and nothing is traced
        code(num_steps=3)
    assert code(control.sde(_nothing, _unit, discount=-0.1), num_steps=3, dt=0.1) & status.OUT_OF_RANGE
    assert code(num_steps=3, dt=0.1, increments=jnp.array([0.1, jnp.nan, 0.1])) & status.NONFINITE_RESULT
    assert code(num_steps=3, dt=0.1) == 0


@pytest.mark.bad_input
def test_static_misuse_raises(key):
    problem = _gbm(horizon=1.0)

    def wrong(t, x, u, args):
        return jnp.ones(3)

    with pytest.raises(ValueError, match="either num_steps"):
        control.euler_maruyama(key, problem, None, 1.0)
    with pytest.raises(ValueError, match="either num_steps"):
        control.euler_maruyama(key, problem, None, 1.0, times=jnp.arange(3.0), dt=0.1)
    with pytest.raises(ValueError, match="leading axis 4"):
        control.euler_maruyama(key, problem, None, 1.0, num_steps=4, increments=jnp.zeros(3))
    with pytest.raises(ValueError, match="vector of at least two"):
        control.euler_maruyama(key, problem, None, 1.0, times=jnp.zeros((2, 2)))
    with pytest.raises(TypeError, match="typed key"):
        control.euler_maruyama(0, problem, None, 1.0, num_steps=4)
    with pytest.raises(TypeError, match="noise must be drawn"):
        control.euler_maruyama(None, problem, None, 1.0, num_steps=4)
    with pytest.raises(ValueError, match="drift must return shape"):
        control.euler_maruyama(key, control.sde(wrong, _unit), None, jnp.ones(2), num_steps=4, dt=0.1)
    with pytest.raises(ValueError, match="diffusion must return shape"):
        control.euler_maruyama(key, control.sde(_nothing, wrong), None, jnp.ones(2), num_steps=4, dt=0.1)
    with pytest.raises(ValueError, match="do not fit"):
        control.euler_maruyama(
            key, control.sde(_nothing, _unit), None, jnp.ones(2), num_steps=4, dt=0.1, increments=jnp.ones((4, 3))
        )
    with pytest.raises(ValueError, match="must divide"):
        control.coarsen(jnp.ones(10), 3)
    with pytest.raises(ValueError, match="at least two"):
        control.rollout(control.ode(_oscillator, args=1.0), None, jnp.ones(2), times=jnp.zeros(1))
