r"""Closed-form limits of the martingale methods, on population moments to rounding and on simulated paths.

A: Brownian motion, h = x, family x (1 + theta (T - t)). B: Brownian motion, h = x^2. C: stationary Ornstein-Uhlenbeck,
r = x, discounted. D: the same with r = 1 and a family that does not contain the truth. E: finite-horizon OU with
quadratic costs.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxsci import control
from jaxsci.control import martingale

pytestmark = pytest.mark.x64

# Equal weights, exact to degree 5 for a standard normal (the three-point Gauss-Hermite rule by multiplicities).
POINTS = np.array([-np.sqrt(3), 0, 0, 0, 0, np.sqrt(3)])


def population(rows):
    """Transitions from tuples (t, x, dt, x_next, reward): sums over them are moments."""
    t, x, dt, x_next, reward = (jnp.asarray(a, float) for a in zip(*rows))
    return control.Transition(t, x, None, reward, dt, t + dt, x_next, jnp.ones(len(t), bool))


def brownian_moments(steps, x0=0.0):
    """All transitions of a Brownian path on [0, 1], each law by its cubature."""
    dt = 1 / steps
    return population(
        (k * dt, x0 + np.sqrt(k * dt) * z, dt, x0 + np.sqrt(k * dt) * z + np.sqrt(dt) * w, 0.0)
        for k in range(steps)
        for z, w in itertools.product(POINTS, POINTS)
    )


def ou_moments(dt, kappa=1.0, mean=0.5, sigma=1.0, reward=None):
    """One transition of the stationary process."""
    rho, spread = np.exp(-kappa * dt), sigma / np.sqrt(2 * kappa)
    rows = []
    for z, w in itertools.product(POINTS, POINTS):
        x = mean + spread * z
        x_next = mean + rho * (x - mean) + spread * np.sqrt(1 - rho**2) * w
        rows.append((0.0, x, dt, x_next, x if reward is None else reward))
    return population(rows)


def solved(method, num_params, steps):
    estimate = martingale.run(method, jnp.zeros(num_params), steps)
    assert int(estimate.status) == 0
    return estimate.value


def _itself(x):
    return x


def _square(x):
    return x**2


def _x(t, x):
    return x[None]


def _one_square(t, x):
    return jnp.stack([jnp.ones_like(x), x**2])


def _one_centred(t, x):
    return jnp.stack([jnp.ones_like(x), x - 0.5])


A = martingale.linear_value(_x, terminal=_itself, horizon=1.0)
B = martingale.linear_value(_one_square, terminal=_square, horizon=1.0)
C = martingale.linear_value(_one_centred)


def brownian_paths(key, num_paths, steps):
    keys = jax.random.split(key, num_paths)
    return jax.vmap(lambda k: control.exact.brownian(k, 0.0, num_steps=steps, dt=1 / steps))(keys)


def ou_paths(key, seeds, time, dt, mean=0.5, reward=None):
    """Long stationary paths, reward x or a constant."""

    def one(key):
        path = control.exact.ornstein_uhlenbeck(key, num_steps=round(time / dt), dt=dt, mean=mean)
        return path._replace(rs=path.xs[:-1] if reward is None else jnp.full_like(path.dts, reward))

    return jax.vmap(one)(jax.random.split(key, seeds))


def each(method, num_params, paths):
    """The estimate from every path alone."""

    def one(path):
        return martingale.run(method, jnp.zeros(num_params), control.transitions(path))

    estimate = jax.vmap(one)(paths)
    assert not bool(jnp.any(estimate.status))
    return np.asarray(estimate.value)


# --- A and B: the mean-square TD error minimises quadratic variation ----------------------------------------


@pytest.mark.parametrize(("steps", "expected"), [(10, -1.3636364), (100, -1.4851485)])
def test_a_population(steps, expected):
    condition, moments = martingale.condition(A), brownian_moments(steps)
    found = solved(martingale.least_squares_mstde(condition), 1, moments)
    np.testing.assert_allclose(found, -1.5 * steps / (steps + 1), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    np.testing.assert_allclose(solved(martingale.clstd(condition), 1, moments), 0.0, atol=1e-10)


def test_a_population_away_from_zero():
    """The closed form with x0 = 0.7: theta = -sum tau' dt / (sum tau'^2 dt + dt^2 sum (x0^2 + t_k))."""
    steps, x0 = 20, 0.7
    dt, t = 1 / steps, np.arange(steps) / steps
    tau = 1 - t - dt
    expected = -np.sum(tau * dt) / (np.sum(tau**2 * dt) + dt**2 * np.sum(x0**2 + t))
    method = martingale.least_squares_mstde(martingale.condition(A))
    np.testing.assert_allclose(solved(method, 1, brownian_moments(steps, x0)), expected, atol=1e-10)


@pytest.mark.parametrize("steps", [10, 100])
def test_a_simulated(steps, key):
    paths = brownian_paths(key, 20_000, steps)
    estimate = martingale.fit(martingale.least_squares_mstde(martingale.condition(A)), jnp.zeros(1), paths)
    assert abs(float(estimate.value[0]) + 1.5 * steps / (steps + 1)) <= 0.02


@pytest.mark.parametrize(("steps", "expected"), [(10, -1.570248), (25, -1.812130), (100, -1.950789)])
def test_b_population(steps, expected):
    condition, moments = martingale.condition(B), brownian_moments(steps)
    found = solved(martingale.least_squares_mstde(condition), 2, moments)
    np.testing.assert_allclose(found, [1.0, -steps * (2 * steps - 1) / (steps + 1) ** 2], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found[1], expected, atol=1e-6)
    np.testing.assert_allclose(solved(martingale.clstd(condition), 2, moments), [1.0, 0.0], atol=1e-9)


def test_b_simulated(key):
    """Mean of 16 batches of 16 384 paths: one batch has standard deviations up to (.015, .048), measured over 24."""
    condition = martingale.condition(B)
    keys = jax.random.split(key, 16)

    def mean(method):
        def one(k):
            return martingale.fit(method, jnp.zeros(2), brownian_paths(k, 16_384, 25)).value

        return jax.jit(lambda keys: jax.lax.map(one, keys))(keys).mean(0)

    for method in (martingale.clstd(condition), martingale.least_squares_ml(condition)):
        found = mean(method)
        assert abs(float(found[0]) - 1) <= 0.04 and abs(float(found[1])) <= 0.06, found
    wrong = martingale.fit(
        martingale.least_squares_mstde(condition), jnp.zeros(2), brownian_paths(key, 16_384, 25)
    ).value
    assert abs(float(wrong[1]) + 1.8121) <= 0.02


def test_a_left_endpoint_matters():
    """With the test function at the right end the root moves from 0 to -3 + O(1/K), by the covariation."""
    for steps in (50, 200):
        moments = brownian_moments(steps)
        reversed_time = moments._replace(t=moments.t_next, x=moments.x_next)

        def root(tests_at, moments=moments):
            def parts(step, at):
                here = martingale.residual(martingale.condition(A), jnp.zeros(1), step)
                test = A.features(at.t, at.x)
                return test[0] * here.slope[0], test[0] * here.delta

            slope, constant = jax.vmap(parts)(moments, tests_at)
            return float(-constant.sum() / slope.sum())

        np.testing.assert_allclose(root(moments), 0.0, atol=1e-10)
        assert abs(root(reversed_time) + 3) < 10 / steps


# --- C: discounted, stationary ------------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [0.2, 0.1, 0.05, 0.02])
def test_c_population(dt):
    rho, beta = np.exp(-dt), 0.5
    moments = ou_moments(dt)
    additive = martingale.condition(C, discount=beta)
    np.testing.assert_allclose(
        solved(martingale.clstd(additive), 2, moments), [1.0, dt / (1 - rho + beta * dt)], rtol=1e-10
    )
    multiplicative = martingale.condition(C, discount=beta, discounting="multiplicative")
    slope = solved(martingale.clstd(multiplicative), 2, moments)[1]
    np.testing.assert_allclose(slope, dt / (1 - rho * np.exp(-beta * dt)), rtol=1e-10)
    a = 1 - rho + beta * dt
    wrong = solved(martingale.least_squares_mstde(additive), 2, moments)
    np.testing.assert_allclose(wrong, [1.0, a * dt / (a**2 + 1 - rho**2)], rtol=1e-10)


def test_c_published_digits_and_order():
    dts = np.array([0.2, 0.1, 0.05, 0.02])
    condition = martingale.condition(C, discount=0.5)
    slopes = np.array([solved(martingale.clstd(condition), 2, ou_moments(dt))[1] for dt in dts])
    np.testing.assert_allclose(slopes, [0.711062, 0.688883, 0.677777, 0.671111], atol=1e-6)
    errors = slopes - 2 / 3
    orders = np.log(errors[:-1] / errors[1:]) / np.log(dts[:-1] / dts[1:])
    assert np.all(np.abs(orders - 1) <= 0.05), orders


@pytest.mark.parametrize("dt", [0.2, 0.1, 0.05])
def test_c_simulated(dt, key):
    paths = ou_paths(key, 4, 20_000.0, dt)
    found = each(martingale.clstd(martingale.condition(C, discount=0.5)), 2, paths)
    expected = dt / (1 - np.exp(-dt) + 0.5 * dt)
    assert abs(found[:, 1].mean() - expected) <= 0.01, found
    # m / beta from the time average: standard error sqrt(2 tau / T) sigma_x / beta = 0.01 over the four paths.
    assert abs(found[:, 0].mean() - 1) <= 0.05
    if dt == 0.1:
        wrong = each(martingale.least_squares_mstde(martingale.condition(C, discount=0.5)), 2, paths)
        assert abs(wrong[:, 1].mean() - 0.071741) <= 0.001, wrong


def test_c_ergodic():
    """Average reward m as an unknown, J = (x - m) / kappa: slope dt / (1 - rho) exactly."""
    value, dt = martingale.linear_value(_centred), 0.1
    condition = martingale.condition(value, average=True)
    estimate = martingale.run(martingale.clstd(condition), jnp.zeros(1), ou_moments(dt))
    np.testing.assert_allclose(estimate.average, 0.5, rtol=1e-10)
    np.testing.assert_allclose(estimate.value, dt / (1 - np.exp(-dt)), rtol=1e-10)


def test_c_ergodic_online(key):
    paths = ou_paths(key, 8, 5000.0, 0.05)
    condition = martingale.condition(martingale.linear_value(_centred), average=True)
    method = martingale.ctd(condition, learning_rate=Partial(_falling, jnp.asarray(0.3)))

    def one(path):
        return martingale.run(method, jnp.zeros(1), control.transitions(path))

    estimate = jax.vmap(one)(paths)
    for found, expected in ((estimate.average, 0.5), (estimate.value[:, 0], 0.05 / (1 - np.exp(-0.05)))):
        error = float(found.std()) / np.sqrt(8)
        assert abs(float(found.mean()) - expected) <= 5 * error + 0.01, (found, expected)
        assert error < 0.05


def _centred(t, x):
    return (x - 0.5)[None]


def _falling(rate, t):
    return rate / (1 + t / 10) ** 0.67


# --- D: outside the family, test functions decide the limit -------------------------------------------------


D = martingale.linear_value(lambda t, x: (x**2)[None])
LIMITS = {None: 0.363636, 0.5: 0.844490, 1.0: 1.333333}


def limit(decay):
    """theta = 1 / (v [beta + 2 (2 kappa + beta) c / (c + 2 kappa)]), c = beta - ln lambda."""
    v, beta, kappa = 0.5, 0.5, 1.0
    ratio = 1.0 if decay is None else (beta - np.log(decay)) / (beta - np.log(decay) + 2 * kappa)
    return 1 / (v * (beta + 2 * (2 * kappa + beta) * ratio))


def test_d_formula():
    for decay, expected in LIMITS.items():
        np.testing.assert_allclose(limit(decay), expected, atol=1e-6)


@pytest.mark.slow
def test_d_limits(key):
    """Within 3 % at dt = .02 over 20 000 units of time, four paths."""
    paths = ou_paths(key, 4, 20_000.0, 0.02, mean=0.0, reward=1.0)
    for decay in LIMITS:
        method = martingale.clstd(martingale.condition(D, discount=0.5), trace_decay=decay)
        found = each(method, 1, paths).mean()
        assert abs(found / limit(decay) - 1) <= 0.03, (decay, found, limit(decay))


def test_d_limits_short(key):
    """The same over 1500 units: within 5 standard errors of 8 paths and 2 % for dt."""
    paths = ou_paths(key, 8, 1500.0, 0.02, mean=0.0, reward=1.0)
    means = []
    for decay in LIMITS:
        method = martingale.clstd(martingale.condition(D, discount=0.5), trace_decay=decay)
        found = each(method, 1, paths)[:, 0]
        means.append(found.mean())
        assert abs(found.mean() - limit(decay)) <= 5 * found.std() / np.sqrt(8) + 0.02 * limit(decay), (decay, found)
    assert means[0] < 0.6 < means[1] < 1.05 < means[2]


def test_d_martingale_loss_is_the_projection(key):
    """Least squares of the return, and the projection 1 / (3 beta v), which is lambda = 1."""
    paths = ou_paths(key, 8, 1500.0, 0.02, mean=0.0, reward=1.0)
    condition = martingale.condition(D, discount=0.5)
    found = each(martingale.least_squares_ml(condition), 1, paths)[:, 0]
    assert abs(found.mean() - 4 / 3) <= 5 * found.std() / np.sqrt(8) + 0.02


# --- E: finite-horizon OU-LQ --------------------------------------------------------------------------------


def ou_lq(t, x, kappa=1.0, sigma=0.5, q=2.0, m=3.0):
    """J of dX = -kappa X dt + sigma dW, r = -q x^2 / 2, h = -m x^2 / 2, T = 1."""
    tau, level = 1 - t, q / (2 * kappa)
    gone = -np.expm1(-2 * kappa * tau)
    p = level + (m - level) * (1 - gone)
    c = sigma**2 * (level * tau + (m - level) * gone / (2 * kappa))
    return -(p * x**2 + c) / 2


def _half_square(x):
    return -1.5 * x**2


def _quadratic(t, x):
    return jnp.stack([jnp.ones_like(x), x**2, t, t * x**2])


def _cost(t, x, u, args):
    return -(x**2)


def _reverting(t, x, u, args):
    return -x


def _half(t, x, u, args):
    return 0.5


def test_e_quadratic_costs(key):
    np.testing.assert_allclose(ou_lq(0.0, 1.0), -0.868418, atol=1e-6)
    problem = control.sde(_reverting, _half, _cost, _half_square, horizon=1.0)
    value = martingale.linear_value(_quadratic, terminal=_half_square, horizon=1.0)
    condition = martingale.condition(value)

    def path(key):
        start = 1 + 0.3 * jax.random.normal(jax.random.fold_in(key, 1))
        one = control.exact.ornstein_uhlenbeck(key, start, num_steps=100, dt=0.01, volatility=0.5)
        return control.rewarded(problem, one)

    points = ((0.0, 1.0), (0.0, 0.6), (0.5, 0.8))
    truth = np.array([ou_lq(t, x) for t, x in points])
    for method in (martingale.clstd(condition), martingale.least_squares_ml(condition)):

        def batch(key, method=method):
            params = martingale.fit(method, jnp.zeros(4), jax.vmap(path)(jax.random.split(key, 1024))).value
            return jnp.stack([value.apply(params, jnp.asarray(t), jnp.asarray(x)) for t, x in points])

        found = np.asarray(jax.jit(lambda keys, batch=batch: jax.lax.map(batch, keys))(jax.random.split(key, 16)))
        error = found.std(0) / 4
        assert np.all(error <= 0.02 * np.abs(truth)), error
        assert np.all(np.abs(found.mean(0) - truth) <= 5 * error + 0.01 * np.abs(truth)), (found.mean(0), truth)


# --- I: online sweep over learning rates and seeds ----------------------------------------------------------


def test_i_vmapped_sweep(key):
    """5 rates x 8 seeds x 200 000 steps of CTD(0) in one program; the fixed point is (1, .677777)."""
    rates = jnp.array([0.01, 0.05, 0.1, 0.5, 1.0])
    condition = martingale.condition(C, discount=0.5)

    def learn(path, rate):
        method = martingale.ctd(condition, learning_rate=Partial(_falling, rate))
        return martingale.run(method, jnp.zeros(2), control.transitions(path))

    paths = ou_paths(key, 8, 10_000.0, 0.05)
    estimate = jax.jit(jax.vmap(jax.vmap(learn, (None, 0)), (0, None)))(paths, rates)
    assert not bool(jnp.any(estimate.status)) and bool(jnp.all(estimate.steps == 200_000))
    mean = estimate.value.mean(0)
    assert abs(float(mean[2, 0]) - 1) <= 0.03 and abs(float(mean[2, 1]) - 0.678) <= 0.015, mean
    assert float(mean[0, 1]) < 0.63  # the smallest rate is still far
