"""Online and offline methods against each other, invariants, statuses and bad input."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.tree_util import Partial

from contracts import count_compilations
from jaxsci import control, nn
from jaxsci.control import martingale
from jaxsci.core import status


def _features(t, x):
    return jnp.stack([jnp.ones_like(x), x])


def _square(x):
    return x**2


def _vector(t, x):
    return jnp.stack([jnp.ones_like(x), x, x**2])


VALUE = martingale.linear_value(_features)


def ou(key, num_steps=60, dt=0.1):
    path = control.exact.ornstein_uhlenbeck(key, num_steps=num_steps, dt=dt)
    return path._replace(rs=path.xs[:-1])


def batch(key, num_paths=16, **kwargs):
    return jax.vmap(lambda k: ou(k, **kwargs))(jax.random.split(key, num_paths))


def arrays(steps):
    """A stack of transitions as NumPy float64."""
    return {name: np.asarray(a, float) for name, a in steps._asdict().items() if a is not None}


# --- equality with formulas written out -------------------------------------------------------------------


def lambda_errors(rewards, gamma, values, next_values, decay):
    """Errors G^lambda - V of the forward view: err_k = delta_k + gamma lambda err_{k+1}."""
    errors, last = np.zeros(len(rewards)), 0.0
    for k in reversed(range(len(rewards))):
        last = rewards[k] + gamma * next_values[k] - values[k] + gamma * decay * last
        errors[k] = last
    return errors


def forward_backward(key, rtol):
    """sum_k e_k delta_k, unit trace and multiplicative discount, equals sum_j g_j (G_j^lambda - J_j)."""
    dt, beta, decay = 0.1, 0.7, 0.4
    steps = control.transitions(ou(key, dt=dt))
    theta = jnp.array([0.3, -0.8])
    condition = martingale.condition(VALUE, discount=beta, discounting="multiplicative")
    method = martingale.clstd(condition, trace_decay=decay, trace_scale="unit", allow_float32=True)
    sums = martingale.run(method, theta, steps).state
    backward = sums.matrix @ theta.astype(sums.matrix.dtype) + sums.vector
    s = arrays(steps)
    values, after = (np.asarray(theta) @ np.stack([np.ones_like(x), x]) for x in (s["x"], s["x_next"]))
    errors = lambda_errors(s["reward"] * dt, np.exp(-beta * dt), values, after, decay**dt)
    forward = np.array([errors.sum(), (errors * s["x"]).sum()])
    np.testing.assert_allclose(backward, forward, rtol=rtol, atol=rtol * np.abs(forward).max())


def test_forward_view_equals_backward_view_float32(key):
    forward_backward(key, 1e-5)


@pytest.mark.x64
def test_forward_view_equals_backward_view_float64(key):
    forward_backward(key, 1e-12)


@pytest.mark.x64
def test_ctd_written_out(key):
    """CTD(0) and CTD(lambda) with both scales against a NumPy loop."""
    steps, beta = control.transitions(ou(key)), 0.5
    condition = martingale.condition(VALUE, discount=beta)
    s = arrays(steps)
    for decay, scale in ((None, "dt"), (0.3, "dt"), (0.3, "unit")):
        method = martingale.ctd(condition, learning_rate=Partial(_falling, 0.2), trace_decay=decay, trace_scale=scale)
        found = martingale.run(method, jnp.array([0.1, 0.2]), steps)
        theta, trace, elapsed = np.array([0.1, 0.2]), np.zeros(2), 0.0
        for x, x_next, reward, dt in zip(s["x"], s["x_next"], s["reward"], s["dt"]):
            g, g_next = np.array([1, x]), np.array([1, x_next])
            delta = theta @ g_next - theta @ g + (reward - beta * theta @ g) * dt
            if decay is not None:
                trace = (decay * np.exp(-beta)) ** dt * trace + g * (dt if scale == "dt" else 1)
            theta = theta + 0.2 / (1 + elapsed) * (g if decay is None else trace) * delta
            elapsed += dt
        np.testing.assert_allclose(found.value, theta, rtol=1e-12)
        np.testing.assert_allclose(found.state.clock.elapsed, elapsed, rtol=1e-12)


def _falling(rate, t):
    return rate / (1 + t)


@pytest.mark.x64
def test_gradient_methods_written_out(key):
    """CGTD, CGTD2 and CTDC against a NumPy loop; theta moves along the u of before the step."""
    steps, beta, a, au = control.transitions(ou(key)), 0.5, 0.3, 0.2
    condition = martingale.condition(VALUE, discount=beta)
    s = arrays(steps)
    for make in (martingale.cgtd, martingale.cgtd2, martingale.ctdc):
        theta, u = np.array([0.1, 0.2]), np.zeros(2)
        for x, x_next, reward, dt in zip(s["x"], s["x_next"], s["reward"], s["dt"]):
            g, g_next = np.array([1, x]), np.array([1, x_next])
            delta = theta @ g_next - theta @ g + (reward - beta * theta @ g) * dt
            slope, old = g_next - g - beta * g * dt, u
            u = u + au * (g * delta - (u if make is martingale.cgtd else g * (g @ u)) * dt)
            if make is martingale.ctdc:
                theta = theta + a * (g * delta - (g_next - beta * g * dt) * (g @ old) * dt)
            else:
                theta = theta - a * slope * (g @ old)
        found = martingale.run(make(condition, learning_rate=a, auxiliary_rate=au), jnp.array([0.1, 0.2]), steps)
        np.testing.assert_allclose(found.value, theta, rtol=1e-11)


@pytest.mark.x64
def test_martingale_loss_written_out(key):
    """G_k by the double sum; least squares finds its minimum; its gradient at T is finite."""
    value = martingale.linear_value(_features, terminal=_square, horizon=1.0)
    condition = martingale.condition(value, discount=0.4)
    paths = batch(key, num_steps=10)
    theta = jnp.array([0.5, -0.2])
    path = jax.tree.map(lambda a: a[0], paths)
    t, x, r, dt = (np.asarray(a) for a in (path.ts, path.xs, path.rs, path.dts))
    returns = [
        np.sum(np.exp(-0.4 * (t[k:-1] - t[k])) * r[k:] * dt[k:]) + np.exp(-0.4 * (1 - t[k])) * x[-1] ** 2
        for k in range(10)
    ]
    level = [x[k] ** 2 + (1 - t[k]) * (0.5 - 0.2 * x[k]) for k in range(10)]
    expected = 0.5 * np.sum(dt * (np.array(returns) - level) ** 2)
    np.testing.assert_allclose(martingale.losses.martingale_loss(condition, theta, path), expected, rtol=1e-12)

    def mean_loss(theta):
        return jnp.mean(jax.vmap(lambda p: martingale.losses.martingale_loss(condition, theta, p))(paths))

    best = martingale.fit(martingale.least_squares_ml(condition), theta, paths).value
    np.testing.assert_allclose(jax.grad(mean_loss)(best), 0.0, atol=1e-12)


@pytest.mark.x64
def test_losses_are_the_methods(key):
    """Gradients of the offline losses vanish at, or equal, what the online methods and least squares use."""
    condition = martingale.condition(VALUE, discount=0.5)
    paths, theta = batch(key), jnp.array([0.4, 0.9])
    path = jax.tree.map(lambda a: a[0], paths)
    moments = martingale.moments(condition, theta, path)
    sums = martingale.run(martingale.clstd(condition), theta, control.transitions(path)).state
    np.testing.assert_allclose(moments, sums.matrix @ theta + sums.vector, rtol=1e-10)
    slope = jax.grad(lambda p: martingale.losses.temporal_difference(condition, p, path))(theta)
    np.testing.assert_allclose(slope, -moments, rtol=1e-10)

    def td_error(theta):
        return jnp.mean(jax.vmap(lambda p: martingale.losses.mean_square_td_error(condition, theta, p))(paths))

    worst = martingale.fit(martingale.least_squares_mstde(condition), theta, paths).value
    np.testing.assert_allclose(jax.grad(td_error)(worst), 0.0, atol=1e-10)


@pytest.mark.x64
@pytest.mark.parametrize("metric", ["identity", "covariance"])
def test_offline_gradient_td_is_least_squares(metric, key):
    """J: gradient descent on the quadratic form of a batch ends at the CLSTD solution of that batch, to 1e-6."""
    value = martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x - 0.5]))
    condition = martingale.condition(value, discount=0.5)

    def one(k):
        path = control.exact.ornstein_uhlenbeck(k, num_steps=400, dt=0.05, mean=0.5)
        return path._replace(rs=path.xs[:-1])

    paths = jax.vmap(one)(jax.random.split(key, 32))
    target = martingale.fit(martingale.clstd(condition), jnp.zeros(2), paths).value

    def loss(theta):
        return martingale.losses.orthogonality(condition, theta, paths, metric=metric)

    rate = 1 / np.linalg.eigvalsh(jax.hessian(loss)(target))[-1]

    @jax.jit
    def descend(theta):
        return jax.lax.fori_loop(0, 400, lambda _, theta: theta - rate * jax.grad(loss)(theta), theta)

    np.testing.assert_allclose(descend(jnp.zeros(2)), target, atol=1e-6)


@pytest.mark.x64
def test_more_test_functions_than_unknowns(key):
    """The quadratic form takes them; its minimum is that of least squares on the moments."""
    condition = martingale.condition(VALUE, discount=0.5, test=_vector)
    paths = batch(key, num_paths=64)
    theta = jnp.array([0.0, 0.5])

    def loss(theta):
        return martingale.losses.orthogonality(condition, theta, paths)

    best = theta - jnp.linalg.solve(jax.hessian(loss)(theta), jax.grad(loss)(theta))

    def mean(theta):
        return jnp.mean(jax.vmap(lambda p: martingale.moments(condition, theta, p))(paths), axis=0)

    matrix, vector = jax.jacobian(mean)(theta), mean(jnp.zeros(2))
    np.testing.assert_allclose(best, np.linalg.lstsq(matrix, -vector, rcond=None)[0], rtol=1e-9)
    method = martingale.cgtd2(condition, learning_rate=0.1, auxiliary_rate=0.1, num_tests=3)
    estimate = martingale.run(method, theta, control.transitions(ou(key)))
    assert estimate.value.shape == (2,) and estimate.state.auxiliary.shape == (3,) and int(estimate.status) == 0


@pytest.mark.x64
def test_online_gradient_td_finds_the_fixed_point(key):
    """J: CGTD2 and CTDC on 400 000 steps, 8 seeds; CGTD keeps its bias of the order of its auxiliary rate."""
    value = martingale.linear_value(lambda t, x: x[None])
    condition = martingale.condition(value, discount=0.5)
    paths = batch(key, num_paths=8, num_steps=400_000, dt=0.05)
    target = 0.05 / (1 - np.exp(-0.05) + 0.025)

    def learn(method):
        def one(path):
            return martingale.run(method, jnp.zeros(1), control.transitions(path)).value[0]

        return np.asarray(jax.vmap(one)(paths))

    slow, fast = Partial(_slowing, 0.5), Partial(_slowing, 1.0)
    for method in (
        martingale.cgtd2(condition, learning_rate=slow, auxiliary_rate=fast),
        martingale.ctdc(condition, learning_rate=Partial(_slowing, 2.0), auxiliary_rate=fast),
    ):
        found = learn(method)
        assert abs(found.mean() - target) <= 5 * found.std() / np.sqrt(8) + 0.01, found
        assert found.std() < 0.05
    biased = learn(martingale.cgtd(condition, learning_rate=slow, auxiliary_rate=1.0)).mean()
    assert biased > target + 0.05, biased


def _slowing(rate, t):
    return rate / jnp.sqrt(1 + t)


# --- invariants ---------------------------------------------------------------------------------------------


@pytest.mark.x64
@settings(max_examples=25, deadline=None)
@given(
    theta=st.lists(st.floats(-50, 50), min_size=2, max_size=2),
    x=st.floats(-20, 20),
    horizon=st.floats(0.1, 20),
)
def test_terminal_condition_holds_for_all_parameters(theta, x, horizon):
    value = martingale.linear_value(_features, terminal=_square, horizon=horizon)
    x = jnp.asarray(x)
    np.testing.assert_allclose(value.apply(jnp.asarray(theta), jnp.asarray(horizon), x), x**2, rtol=1e-12)


def test_terminal_condition_of_a_network(key):
    cfg = nn.mlp.config(3, (8,), 1)
    value = martingale.mlp_value(cfg, terminal=jnp.sum, horizon=2.0)
    params = nn.mlp.init(key, cfg)
    x = jnp.array([1.0, -0.3])
    assert float(value.apply(params, jnp.asarray(2.0), x)) == pytest.approx(0.7)
    assert float(value.apply(params, jnp.asarray(1.0), x)) != pytest.approx(0.7)
    free = martingale.mlp_value(nn.mlp.config(2, (8,), 1))
    assert free.apply(nn.mlp.init(key, nn.mlp.config(2, (8,), 1)), 0.0, x).shape == ()


@pytest.mark.x64
def test_permuting_and_splitting_a_batch_changes_nothing(key):
    paths, zeros = batch(key), jnp.zeros(2)
    for decay in (None, 0.5):
        method = martingale.clstd(martingale.condition(VALUE, discount=0.5), trace_decay=decay)
        whole = martingale.fit(method, zeros, paths)
        shuffled = martingale.fit(method, zeros, jax.tree.map(lambda a: a[::-1], paths)).state
        quarters = [jax.tree.map(lambda a, i=i: a[i : i + 4], paths) for i in range(0, 16, 4)]
        parts = [martingale.fit(method, zeros, quarter).state for quarter in quarters]
        joined = martingale.merge(*parts)
        for other in (shuffled, joined):
            np.testing.assert_allclose(other.matrix, whole.state.matrix, rtol=1e-11, atol=1e-11)
            np.testing.assert_allclose(other.vector, whole.state.vector, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(method.finish(joined).value, whole.value, rtol=1e-9)
        assert int(method.finish(joined).steps) == int(whole.steps) == 16 * 60


@pytest.mark.x64
def test_blocks_equal_single_updates_and_runs_continue(key):
    steps = control.transitions(ou(key))
    first, rest = (jax.tree.map(lambda a, cut=cut: a[cut], steps) for cut in (slice(0, 25), slice(25, None)))
    condition = martingale.condition(VALUE, discount=0.5)
    for method in (
        martingale.clstd(condition, trace_decay=0.3),
        martingale.least_squares_mstde(condition),
        martingale.ctd(condition, learning_rate=0.1, trace_decay=0.3),
        martingale.cgtd2(condition, learning_rate=0.1, auxiliary_rate=0.2),
    ):
        whole = martingale.run(method, jnp.zeros(2), steps)
        state = martingale.run(method, jnp.zeros(2), first).state
        again = martingale.run(method, jnp.zeros(2), rest, state=state)
        np.testing.assert_allclose(again.value, whole.value, rtol=1e-10)
        update = jax.jit(method.update)
        state = method.init(jnp.zeros(2))
        for k in range(60):
            state = update(state, jax.tree.map(lambda a, k=k: a[k], steps))
        np.testing.assert_allclose(method.finish(state).value, whole.value, rtol=1e-10)


@pytest.mark.x64
def test_joined_episodes_restart_the_trace(key):
    """Two paths end to end, marked by `first`, give the sums of the two paths."""
    paths = batch(key, num_paths=2)
    method = martingale.clstd(martingale.condition(VALUE, discount=0.5), trace_decay=0.5)
    steps = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), jax.vmap(control.transitions)(paths))
    joined, apart = martingale.run(method, jnp.zeros(2), steps).state, martingale.fit(method, jnp.zeros(2), paths).state
    np.testing.assert_allclose(joined.matrix, apart.matrix, rtol=1e-11)


@pytest.mark.x64
def test_vmap_equals_a_loop(key):
    paths, rates = batch(key, num_paths=3), jnp.array([0.05, 0.2])
    condition = martingale.condition(VALUE, discount=0.5)

    def learn(path, rate):
        method = martingale.ctd(condition, learning_rate=rate)
        return martingale.run(method, jnp.zeros(2), control.transitions(path)).value

    together = jax.vmap(jax.vmap(learn, (None, 0)), (0, None))(paths, rates)
    for i in range(3):
        for j in range(2):
            one = learn(jax.tree.map(lambda a, i=i: a[i], paths), rates[j])
            np.testing.assert_allclose(together[i, j], one, rtol=1e-12)


@pytest.mark.x64
def test_the_unit_of_time_does_not_matter(key):
    """Hours for minutes: dt, 1/r, 1/beta scale together; the value function stays, with every test function."""
    path, c = ou(key, num_steps=300), 60.0
    slow = path._replace(ts=c * path.ts, dts=c * path.dts, rs=path.rs / c)
    for decay in (None, 0.5):
        for discounting in ("additive", "multiplicative"):
            found = []
            for one, beta, power in ((path, 0.5, 1.0), (slow, 0.5 / c, 1 / c)):
                condition = martingale.condition(VALUE, discount=beta, discounting=discounting)
                method = martingale.clstd(condition, trace_decay=None if decay is None else decay**power)
                found.append(martingale.run(method, jnp.zeros(2), control.transitions(one)).value)
            np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


@pytest.mark.x64
def test_padding_changes_nothing(key):
    """Steps of length 0 leave every method where it is."""
    path = ou(key, num_steps=20)

    def padded(path):
        def repeat(a):
            return jnp.concatenate([a, jnp.repeat(a[-1:], 7, axis=0)])

        more = jnp.zeros(7)
        return path._replace(
            ts=repeat(path.ts), xs=repeat(path.xs), rs=repeat(path.rs), dts=jnp.concatenate([path.dts, more])
        )

    condition = martingale.condition(VALUE, discount=0.5)
    for method in (
        martingale.clstd(condition),
        martingale.clstd(condition, trace_decay=0.5),
        martingale.least_squares_mstde(condition),
        martingale.ctd(condition, learning_rate=0.1),
        martingale.ctd(condition, learning_rate=0.1, trace_decay=0.5, trace_scale="unit"),
        martingale.cgtd(condition, learning_rate=0.1, auxiliary_rate=0.1),
        martingale.ctdc(condition, learning_rate=0.1, auxiliary_rate=0.1),
    ):
        short = martingale.run(method, jnp.zeros(2), control.transitions(path))
        long = martingale.run(method, jnp.zeros(2), control.transitions(padded(path)))
        np.testing.assert_allclose(long.value, short.value, rtol=1e-12)
        assert int(long.status) == 0
    for loss in (martingale.losses.martingale_loss, martingale.losses.mean_square_td_error):
        theta = jnp.array([0.3, 0.4])
        np.testing.assert_allclose(loss(condition, theta, padded(path)), loss(condition, theta, path), rtol=1e-12)


def test_differences_of_features_keep_digits(key):
    """float32, dt = 1e-4: delta from features loses less than the difference of two values far from zero."""
    x = jax.random.normal(key, (500,))
    x_next = x + 1e-2 * jax.random.normal(jax.random.fold_in(key, 1), (500,))
    theta = jnp.array([1000.0, 1.0])
    condition = martingale.condition(VALUE)

    def delta(x, x_next):
        zero = jnp.zeros(())
        step = control.Transition(zero, x, None, zero, jnp.full((), 1e-4), zero, x_next, jnp.asarray(True))
        return martingale.residual(condition, theta, step).delta

    truth = np.asarray(x_next, float) - np.asarray(x, float)
    ours = np.abs(np.asarray(jax.vmap(delta)(x, x_next)) - truth).max()
    plain = np.abs(np.asarray((1000 + x_next) - (1000 + x)) - truth).max()
    assert ours < 1e-6 < 1e-5 < plain


@pytest.mark.x64
def test_one_learning_rate_serves_all_dt(key):
    """CTD(0) at dt = .1 and .01 with the same rate: equal drift per unit of time, so equal progress after 20 units."""
    condition = martingale.condition(VALUE, discount=0.5)
    method = martingale.ctd(condition, learning_rate=0.05)
    means = []
    for dt in (0.1, 0.01):
        paths = batch(key, num_paths=512, num_steps=round(20 / dt), dt=dt)
        steps = jax.vmap(control.transitions)(paths)
        values = jax.vmap(lambda s: martingale.run(method, jnp.zeros(2), s).value)(steps)
        means.append(float(values[:, 1].mean()))
        assert 0.1 < means[-1] < 0.5
    assert abs(means[0] / means[1] - 1) < 0.15, means


@pytest.mark.x64
def test_weighting_by_the_discount(key):
    """The weight exp(-beta t) multiplies the tests."""
    path, theta = ou(key), jnp.array([0.3, 0.4])
    plain = martingale.condition(VALUE, discount=0.5)
    weighted = martingale.condition(VALUE, discount=0.5, weight_by_discount=True)
    steps = control.transitions(path)
    a, b = (jax.vmap(lambda s, c=c: martingale.residual(c, theta, s))(steps) for c in (plain, weighted))
    np.testing.assert_allclose(b.test, a.test * np.exp(-0.5 * np.asarray(steps.t))[:, None], rtol=1e-12)
    slope = jax.grad(lambda p: martingale.losses.temporal_difference(weighted, p, path))(theta)
    np.testing.assert_allclose(slope, -martingale.moments(weighted, theta, path), rtol=1e-10)


def test_new_values_compile_nothing(key):
    def learn(rate, beta, path):
        method = martingale.ctd(martingale.condition(VALUE, discount=beta), learning_rate=rate, trace_decay=beta)
        return martingale.run(method, jnp.zeros(2), control.transitions(path)).value

    paths = [ou(key), ou(jax.random.fold_in(key, 1))]
    jax.block_until_ready(learn(0.1, 0.5, paths[0]))
    with count_compilations() as events:
        jax.block_until_ready(learn(0.2, 0.25, paths[1]))
    assert not events


# --- statuses and bad input ---------------------------------------------------------------------------------


@pytest.mark.x64
def test_bad_transitions_are_skipped_and_reported(key):
    path = ou(key)
    good = control.transitions(path)
    nan = good._replace(reward=good.reward.at[10].set(jnp.nan))
    back = good._replace(dt=good.dt.at[10].set(-0.1))
    dropped = jax.tree.map(lambda a: jnp.delete(a, 10, axis=0), good)
    condition = martingale.condition(VALUE, discount=0.5)
    for method in (
        martingale.clstd(condition),
        martingale.ctd(condition, learning_rate=0.1),
        martingale.cgtd2(condition, learning_rate=0.1, auxiliary_rate=0.1),
    ):
        expected = martingale.run(method, jnp.zeros(2), dropped)
        for steps, bit in ((nan, status.NONFINITE_INPUT), (back, status.OUT_OF_RANGE)):
            found = martingale.run(method, jnp.zeros(2), steps)
            assert int(found.status) == bit
            np.testing.assert_allclose(found.value, expected.value, rtol=1e-10)


@pytest.mark.x64
def test_statuses(key):
    path = ou(key)
    steps, zeros = control.transitions(path), jnp.zeros(2)

    def code(method, params=zeros, steps=steps):
        estimate = martingale.run(method, params, steps)
        assert bool(jnp.all(jnp.isfinite(estimate.value)))
        return int(estimate.status)

    negative = martingale.condition(VALUE, discount=-0.5)
    assert code(martingale.ctd(negative, learning_rate=0.1)) == status.OUT_OF_RANGE
    assert code(martingale.clstd(negative)) & status.OUT_OF_RANGE
    condition = martingale.condition(VALUE, discount=0.5)
    assert code(martingale.ctd(condition, learning_rate=0.1, trace_decay=1.5)) == status.OUT_OF_RANGE
    assert code(martingale.ctd(condition, learning_rate=1e300), zeros + 1) == status.NONFINITE_RESULT
    twice = martingale.linear_value(lambda t, x: jnp.stack([x, x]))
    singular = martingale.clstd(martingale.condition(twice, discount=0.5))
    estimate = martingale.run(singular, jnp.array([3.0, 4.0]), steps)
    assert int(estimate.status) == status.SINGULAR
    np.testing.assert_array_equal(estimate.value, [3.0, 4.0])
    ridged = martingale.clstd(martingale.condition(twice, discount=0.5), ridge=1e-3)
    assert code(ridged) == 0
    # Units of the features are no singularity.
    scaled = martingale.linear_value(lambda t, x: jnp.stack([1e-9 * jnp.ones_like(x), 1e6 * x]))
    plain = martingale.run(martingale.clstd(condition), zeros, steps).value
    found = martingale.run(martingale.clstd(martingale.condition(scaled, discount=0.5)), zeros, steps)
    assert int(found.status) == 0
    np.testing.assert_allclose(found.value * np.array([1e-9, 1e6]), plain, rtol=1e-8)


def test_a_failed_path_is_reported_by_fit(key):
    paths = batch(key)
    paths = paths._replace(status=paths.status.at[3].set(status.NONFINITE_RESULT))
    method = martingale.clstd(martingale.condition(VALUE, discount=0.5), allow_float32=True)
    assert int(martingale.fit(method, jnp.zeros(2), paths).status) == status.NONFINITE_RESULT


@pytest.mark.bad_input
def test_float32_is_refused(key):
    condition = martingale.condition(VALUE, discount=0.5)
    steps = control.transitions(ou(key))
    for make in (martingale.clstd, martingale.least_squares_ml, martingale.least_squares_mstde):
        with pytest.raises(ValueError, match="jax_enable_x64"):
            martingale.run(make(condition), jnp.zeros(2), steps)
        estimate = martingale.run(make(condition, allow_float32=True), jnp.zeros(2), steps)
        assert estimate.value.dtype == jnp.float32


@pytest.mark.bad_input
def test_static_misuse_raises(key):
    condition = martingale.condition(VALUE, discount=0.5)
    ergodic = martingale.condition(VALUE, average=True)
    path, zeros = ou(key), jnp.zeros(2)
    steps = control.transitions(path)
    with pytest.raises(ValueError, match="discounting must be one of"):
        martingale.condition(VALUE, discounting="exponential")
    with pytest.raises(TypeError, match="value must be a Value"):
        martingale.condition(_features)
    with pytest.raises(ValueError, match="go together"):
        martingale.linear_value(_features, terminal=_square)
    with pytest.raises(ValueError, match="got both"):
        martingale.linear_value(_features, _features, terminal=_square, horizon=1.0)
    with pytest.raises(ValueError, match="num_out 1"):
        martingale.mlp_value(nn.mlp.config(1, (4,), 2))
    with pytest.raises(ValueError, match="trace_scale"):
        martingale.ctd(condition, learning_rate=0.1, trace_scale="time")
    with pytest.raises(ValueError, match="scalar or a function"):
        martingale.ctd(condition, learning_rate=jnp.ones(2))
    with pytest.raises(ValueError, match="linear in its parameters"):
        martingale.clstd(martingale.condition(martingale.mlp_value(nn.mlp.config(1, (4,), 1))))
    with pytest.raises(ValueError, match="not ergodic|neither ergodic"):
        martingale.least_squares_ml(ergodic)
    with pytest.raises(ValueError, match="ergodic"):
        martingale.losses.martingale_loss(ergodic, zeros, path)
    with pytest.raises(ValueError, match="not ergodic"):
        martingale.residual(condition, martingale.Unknowns(zeros, jnp.zeros(())), jax.tree.map(lambda a: a[0], steps))
    own = martingale.condition(VALUE, test=_vector)
    with pytest.raises(ValueError, match="one test function for each"):
        martingale.run(martingale.ctd(own, learning_rate=0.1), zeros, steps)
    with pytest.raises(ValueError, match="one test function for each"):
        martingale.run(martingale.clstd(own, allow_float32=True), zeros, steps)
    with pytest.raises(ValueError, match="test functions"):
        martingale.run(martingale.cgtd(own, learning_rate=0.1, auxiliary_rate=0.1), zeros, steps)
    with pytest.raises(TypeError, match="keeps sums"):
        martingale.fit(martingale.ctd(condition, learning_rate=0.1), zeros, batch(key))
    with pytest.raises(ValueError, match="batch axis"):
        martingale.fit(martingale.clstd(condition, allow_float32=True), zeros, path)
    with pytest.raises(ValueError, match="metric must be one of"):
        martingale.losses.orthogonality(condition, zeros, batch(key), metric="fisher")
    with pytest.raises(ValueError, match="batch axis"):
        martingale.losses.orthogonality(condition, zeros, path)
