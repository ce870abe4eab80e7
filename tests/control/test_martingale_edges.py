"""Corners of the martingale methods: ridges, ergodic and weighted conditions, singular sums, first steps, misuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import control
from jaxsci.control import martingale
from jaxsci.core import status


def _affine(t, x):
    return jnp.stack([jnp.ones_like(x), x])


def _state(t, x):
    return x[None]


def _square(x):
    return x**2


VALUE = martingale.linear_value(_affine)
ERGODIC = martingale.condition(martingale.linear_value(_state), average=True)


def ou(key, num_steps=60, dt=0.1):
    path = control.exact.ornstein_uhlenbeck(key, num_steps=num_steps, dt=dt, mean=0.5)
    return path._replace(rs=path.xs[:-1])


# --- ridges: all three least-squares methods are drawn towards zero -----------------------------------------------


@pytest.mark.x64
def test_a_ridge_is_that_of_the_loss(key):
    """Least squares with a ridge is the minimum of loss / time + ridge |theta|^2 / 2, for ML and for MSTDE alike."""
    value = martingale.linear_value(_affine, terminal=_square, horizon=6.0)
    condition, path, ridge = martingale.condition(value, discount=0.4), ou(key), 0.3
    for make, loss in (
        (martingale.least_squares_ml, martingale.losses.martingale_loss),
        (martingale.least_squares_mstde, martingale.losses.mean_square_td_error),
    ):
        best = martingale.run(make(condition, ridge=ridge), jnp.zeros(2), control.transitions(path)).value

        def total(theta, loss=loss):
            return loss(condition, theta, path) / 6.0 + ridge * jnp.sum(theta**2) / 2

        np.testing.assert_allclose(jax.grad(total)(best), 0.0, atol=1e-12)
        assert float(jnp.abs(best).max()) > 1e-3


@pytest.mark.x64
@pytest.mark.parametrize("name", ["clstd", "least_squares_ml", "least_squares_mstde"])
def test_a_ridge_shrinks(name, key):
    steps = control.transitions(ou(key, num_steps=2000))
    condition = martingale.condition(VALUE, discount=0.5)

    def size(ridge):
        method = getattr(martingale, name)(condition, ridge=ridge)
        return float(jnp.linalg.norm(martingale.run(method, jnp.zeros(2), steps).value))

    sizes = [size(r) for r in (0.0, 0.1, 1.0, 10.0)]
    assert np.all(np.diff(sizes) < 0) and sizes[-1] < 0.3 * sizes[0], sizes


# --- singular systems ---------------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize(("num_steps", "dt"), [(100, 0.1), (4000, 0.05), (100_000, 0.01)])
def test_dependent_features_are_reported_however_long_the_data(num_steps, dt, key):
    """The rounding of long sums hides the exact zero of the smallest singular value."""
    dependent = martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x, 2 * x + 1]))
    steps = control.transitions(ou(key, num_steps, dt))
    for make in (martingale.clstd, martingale.least_squares_ml, martingale.least_squares_mstde):
        found = martingale.run(make(martingale.condition(dependent, discount=0.5)), jnp.ones(3), steps)
        assert int(found.status) == status.SINGULAR, make.__name__
        np.testing.assert_array_equal(found.value, 1.0)
    # Badly conditioned or badly scaled, but not singular.
    for scale in (np.ones(7), np.logspace(-9, 6, 7)):
        powers = martingale.linear_value(lambda t, x, scale=scale: scale * x ** jnp.arange(7))
        method = martingale.clstd(martingale.condition(powers, discount=0.5))
        assert int(martingale.run(method, jnp.zeros(7), steps).status) == status.OK


# --- ergodic conditions -------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_ergodic_moments_surrogate_and_sums_agree(key):
    path = ou(key)
    unknowns = martingale.Unknowns(jnp.array([0.7]), jnp.asarray(0.2))
    moments = martingale.moments(ERGODIC, unknowns, path)
    x, x_next, dt = (np.asarray(a) for a in (path.xs[:-1], path.xs[1:], path.dts))
    delta = 0.7 * (x_next - x) + (x - 0.2) * dt
    np.testing.assert_allclose(moments, [np.sum(x * delta), np.sum(delta)], rtol=1e-10)
    slope = jax.grad(lambda u: martingale.losses.temporal_difference(ERGODIC, u, path))(unknowns)
    np.testing.assert_allclose([slope.params[0], slope.average], -moments, rtol=1e-10)
    sums = martingale.run(martingale.clstd(ERGODIC), unknowns, control.transitions(path)).state
    np.testing.assert_allclose(sums.matrix @ np.array([0.7, 0.2]) + sums.vector, moments, rtol=1e-10)


@pytest.mark.x64
def test_ergodic_means_undiscounted(key):
    steps = control.transitions(ou(key))
    condition = martingale.condition(martingale.linear_value(_state), discount=0.5, average=True)
    for method in (
        martingale.ctd(condition, learning_rate=0.1),
        martingale.clstd(condition),
        martingale.cgtd2(condition, learning_rate=0.1, auxiliary_rate=0.1),
    ):
        assert int(martingale.run(method, jnp.zeros(1), steps).status) & status.OUT_OF_RANGE
    assert int(martingale.run(martingale.clstd(ERGODIC), jnp.zeros(1), steps).status) == status.OK


# --- weights, own test functions, traces ----------------------------------------------------------------------------


@pytest.mark.x64
def test_weighted_least_squares_minimises_the_weighted_loss(key):
    value = martingale.linear_value(_affine, terminal=_square, horizon=6.0)
    path, found = ou(key), []
    for weight in (False, True):
        condition = martingale.condition(value, discount=0.4, weight_by_discount=weight)
        method = martingale.least_squares_ml(condition)
        best = martingale.run(method, jnp.zeros(2), control.transitions(path)).value
        slope = jax.grad(lambda theta, c=condition: martingale.losses.martingale_loss(c, theta, path))(best)
        np.testing.assert_allclose(slope, 0.0, atol=1e-12)
        found.append(best)
    assert float(jnp.abs(found[0] - found[1]).max()) > 1e-3


@pytest.mark.x64
def test_own_test_functions_that_are_the_gradient_change_nothing(key):
    """Every method with ``test=features`` is the method without, CTDC's correction included."""
    steps = control.transitions(ou(key))
    plain = martingale.condition(VALUE, discount=0.5)
    own = martingale.condition(VALUE, discount=0.5, test=_affine)
    rates = {"learning_rate": 0.2, "auxiliary_rate": 0.1}
    for make in (
        lambda c: martingale.ctd(c, learning_rate=0.2, trace_decay=0.3),
        lambda c: martingale.cgtd(c, **rates),
        lambda c: martingale.ctdc(c, **rates),
        lambda c: martingale.clstd(c, trace_decay=0.3),
    ):
        a, b = (martingale.run(make(c), jnp.zeros(2), steps).value for c in (plain, own))
        np.testing.assert_allclose(a, b, rtol=1e-12)


def _quadratic(t, x):
    return jnp.stack([jnp.ones_like(x), x, x**2])


@pytest.mark.x64
def test_orthogonality_written_out(key):
    """m' m / 2 and m' C^-1 m / 2 with C = mean of sum xi xi' dt, three test functions for two unknowns.

    Test functions given twice add nothing to the second, and leave it finite."""
    condition = martingale.condition(VALUE, discount=0.5, test=_quadratic)
    paths = jax.vmap(ou)(jax.random.split(key, 8))
    theta = np.array([0.3, -0.8])
    x, x_next, dt = (np.asarray(a) for a in (paths.xs[:, :-1], paths.xs[:, 1:], paths.dts))
    delta = theta[1] * (x_next - x) + (x - 0.5 * (theta[0] + theta[1] * x)) * dt
    tests = np.stack([np.ones_like(x), x, x**2])
    mean = (tests * delta).sum((1, 2)) / 8
    metric = np.einsum("mik,nik,ik->mn", tests, tests, dt) / 8
    loss = martingale.losses.orthogonality
    np.testing.assert_allclose(loss(condition, theta, paths), mean @ mean / 2, rtol=1e-10)
    expected = mean @ np.linalg.solve(metric, mean) / 2
    np.testing.assert_allclose(loss(condition, theta, paths, metric="covariance"), expected, rtol=1e-10)

    def twice(t, x):
        return jnp.concatenate([_quadratic(t, x), _quadratic(t, x)])

    again = martingale.condition(VALUE, discount=0.5, test=twice)
    slope = jax.grad(loss, 1)(again, theta, paths, metric="covariance")
    np.testing.assert_allclose(loss(again, theta, paths, metric="covariance"), expected, rtol=1e-8)
    np.testing.assert_allclose(slope, jax.grad(loss, 1)(condition, theta, paths, metric="covariance"), rtol=1e-8)


@pytest.mark.x64
def test_a_path_with_a_hole_has_no_loss_of_zero(key):
    """The pseudo-inverse of a matrix of NaN keeps no direction; the sum over none of them would be perfect."""
    condition = martingale.condition(VALUE, discount=0.5, test=_quadratic)
    paths = jax.vmap(ou)(jax.random.split(key, 8))
    paths = paths._replace(xs=paths.xs.at[2, 3].set(jnp.nan))
    for metric in ("identity", "covariance"):
        assert np.isnan(martingale.losses.orthogonality(condition, np.array([0.3, -0.8]), paths, metric=metric))


@pytest.mark.x64
@pytest.mark.parametrize("weight", [False, True])
def test_the_surrogate_takes_own_test_functions(weight, key):
    """Its negative gradient is the sum of tests times increments, whatever the tests."""

    def test(t, x):
        return jnp.stack([jnp.cos(x), x**3])

    condition = martingale.condition(VALUE, discount=0.5, test=test, weight_by_discount=weight)
    path, theta = ou(key), jnp.array([0.3, -0.8])
    slope = jax.grad(lambda p: martingale.losses.temporal_difference(condition, p, path))(theta)
    x, x_next, dt = (np.asarray(a) for a in (path.xs[:-1], path.xs[1:], path.dts))
    delta = -0.8 * (x_next - x) + (x - 0.5 * (0.3 - 0.8 * x)) * dt
    delta = delta * (np.exp(-0.5 * np.asarray(path.ts[:-1])) if weight else 1)
    np.testing.assert_allclose(slope, [-np.sum(np.cos(x) * delta), -np.sum(x**3 * delta)], rtol=1e-9)


@pytest.mark.x64
def test_an_episode_that_begins_with_a_bad_step_begins_afresh(key):
    """The trace of the episode before must not leak over a first transition that is skipped."""
    one, two = (control.transitions(ou(jax.random.fold_in(key, i))) for i in range(2))
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), one, two)
    bad = joined._replace(reward=joined.reward.at[60].set(jnp.nan))
    # The same without the bad step: its successor is then the first.
    dropped = jax.tree.map(lambda a: jnp.delete(a, 60, axis=0), joined)
    dropped = dropped._replace(first=dropped.first.at[60].set(True))
    condition = martingale.condition(VALUE, discount=0.5)
    for method in (
        martingale.ctd(condition, learning_rate=0.1, trace_decay=0.9),
        martingale.clstd(condition, trace_decay=0.9),
    ):
        found, expected = (martingale.run(method, jnp.zeros(2), s) for s in (bad, dropped))
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-12)
        assert int(found.status) == status.NONFINITE_INPUT and int(expected.status) == status.OK


# --- misuse ---------------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_misuse_is_named(key):
    condition = martingale.condition(VALUE, discount=0.5)
    path = ou(key)
    steps = control.transitions(path)
    methods = martingale.ctd(condition, learning_rate=0.1), martingale.clstd(condition, allow_float32=True)
    for method in methods:
        for wrong in (jnp.zeros(3), jnp.zeros(()), jnp.zeros((2, 1))):
            with pytest.raises(ValueError, match=r"expected parameters of shape \(2,\), one for each feature"):
                martingale.run(method, wrong, steps)
        with pytest.raises(TypeError, match=r"pass control.transitions\(path\)"):
            martingale.run(method, jnp.zeros(2), path)
        with pytest.raises(ValueError, match="one leading axis"):
            martingale.run(method, jnp.zeros(2), jax.tree.map(lambda a: a[None], steps))
    with pytest.raises(ValueError, match="one for each feature"):
        martingale.losses.martingale_loss(condition, jnp.zeros(3), path)
    with pytest.raises(ValueError, match="one for each feature, got list"):
        VALUE.apply([0.0, 1.0], 0.0, jnp.ones(()))
