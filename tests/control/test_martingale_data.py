"""What the martingale methods do with whole numbers, weights by the discount, and traces along whole paths."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import control, nn
from jaxsci.control import martingale
from jaxsci.core import status


def _affine(t, x):
    return jnp.stack([jnp.ones_like(x), x])


def _state(t, x):
    return x[None]


def _square(x):
    return x**2


VALUE = martingale.linear_value(_affine)
CONDITION = martingale.condition(VALUE, discount=0.5)


def ou(key, num_steps=40, dt=0.1):
    path = control.exact.ornstein_uhlenbeck(key, num_steps=num_steps, dt=dt, mean=0.5)
    return path._replace(rs=path.xs[:-1])


def padded(path, at=20, num=3):
    """Steps of no length in the middle: an interval that did not pass."""

    def longer(a, more):
        return jnp.concatenate([a[:at], jnp.broadcast_to(more, (num,)), a[at:]])

    return path._replace(
        ts=longer(path.ts, path.ts[at]), xs=longer(path.xs, path.xs[at]), rs=longer(path.rs, 9.0),
        dts=longer(path.dts, 0.0),
    )  # fmt: skip


# --- whole numbers ------------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_parameters_may_be_whole_numbers(key):
    """An int array to start from is a float array to start from: the answer is not rounded."""
    path = ou(key)
    steps = control.transitions(path)
    for method in (
        martingale.clstd(CONDITION),
        martingale.ctd(CONDITION, learning_rate=0.1),
        martingale.cgtd2(CONDITION, learning_rate=0.1, auxiliary_rate=0.1),
    ):
        found = martingale.run(method, np.zeros(2, int), steps)
        np.testing.assert_array_equal(found.value, martingale.run(method, np.zeros(2), steps).value)
        assert found.value.dtype == jnp.float64 and float(jnp.abs(found.value % 1).max()) > 0
    method, paths = martingale.clstd(CONDITION), jax.tree.map(lambda a: a[None], path)
    np.testing.assert_array_equal(
        martingale.fit(method, np.zeros(2, int), paths).value, martingale.fit(method, np.zeros(2), paths).value
    )
    # The same without a driver, where the state alone knows the dtype.
    by_hand = method.finish(method.absorb(method.init(np.zeros(2, int)), steps))
    np.testing.assert_array_equal(by_hand.value, martingale.run(method, np.zeros(2), steps).value)
    ergodic = martingale.condition(martingale.linear_value(_state), average=True)
    method = martingale.ctd(ergodic, learning_rate=0.1)
    unknowns = martingale.Unknowns(np.zeros(1, int), 0)
    np.testing.assert_array_equal(
        martingale.run(method, unknowns, steps).average, martingale.run(method, np.zeros(1), steps).average
    )


def test_states_may_be_whole_numbers():
    """A walk on the integers as int32: the discount, the step and the time to the horizon stay fractions."""
    xs = jnp.array([0, 1, 2, 1, 3])
    whole = control.Path(0.25 * jnp.arange(5), xs, None, jnp.ones(4, jnp.int32), jnp.full(4, 0.25), jnp.int32(0))
    real = whole._replace(xs=xs.astype(jnp.float32), rs=jnp.ones(4))
    assert whole.xs.dtype == jnp.int32
    theta = jnp.array([0.3, 0.4])
    to_horizon = martingale.linear_value(_affine, terminal=_square, horizon=1.0)
    for value in (VALUE, to_horizon):
        condition = martingale.condition(value, discount=0.5)
        expected = martingale.moments(condition, theta, real)
        np.testing.assert_allclose(martingale.moments(condition, theta, whole), expected, rtol=1e-6)
        for name in martingale.losses.__all__:
            paths = [jax.tree.map(lambda a: a[None], p) if name == "orthogonality" else p for p in (whole, real)]
            loss = getattr(martingale.losses, name)
            np.testing.assert_allclose(*(loss(condition, theta, p) for p in paths), rtol=1e-6)
        for method in (
            martingale.ctd(condition, learning_rate=0.1, trace_decay=0.5),
            martingale.clstd(condition, ridge=0.1, allow_float32=True),
        ):
            found, same = (martingale.run(method, jnp.zeros(2), control.transitions(p)) for p in (whole, real))
            np.testing.assert_allclose(found.value, same.value, rtol=1e-6)
            assert int(found.status) == 0


# --- weights by the discount ----------------------------------------------------------------------------------------


@pytest.mark.x64
def test_the_mean_square_td_error_is_weighted_as_well(key):
    """Least squares is the minimum of the weighted loss, whose value is the sum of e^(-beta t) delta^2 / dt."""
    path, found = ou(key), []
    for weight in (False, True):
        condition = martingale.condition(VALUE, discount=0.5, weight_by_discount=weight)
        best = martingale.run(martingale.least_squares_mstde(condition), jnp.zeros(2), control.transitions(path)).value

        def loss(theta, condition=condition):
            return martingale.losses.mean_square_td_error(condition, theta, path)

        np.testing.assert_allclose(jax.grad(loss)(best), 0.0, atol=1e-12)
        found.append((best, loss(jnp.array([0.3, 0.4]))))
    assert float(jnp.abs(found[0][0] - found[1][0]).max()) > 1e-3
    x, dt = np.asarray(path.xs), 0.1
    delta = 0.4 * np.diff(x) + (x[:-1] - 0.5 * (0.3 + 0.4 * x[:-1])) * dt
    expected = np.sum(np.exp(-0.5 * dt * np.arange(40)) * delta**2 / dt) / 2
    np.testing.assert_allclose(found[1][1], expected, rtol=1e-12)


# --- traces along whole paths ---------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize(
    ("scale", "options"),
    [("dt", {}), ("unit", {"weight_by_discount": True, "discounting": "multiplicative"}), ("dt", {"test": _affine})],
)
def test_moments_with_a_trace_are_the_sums_of_least_squares(scale, options, key):
    """A theta + b of CLSTD(lambda), across steps of no length; the gradient of the surrogate is minus that."""
    condition = martingale.condition(VALUE, discount=0.5, **options)
    trace = {"trace_decay": 0.3, "trace_scale": scale}
    theta, path = jnp.array([0.3, 0.4]), padded(ou(key))
    sums = martingale.run(martingale.clstd(condition, **trace), theta, control.transitions(path)).state
    moments = martingale.moments(condition, theta, path, **trace)
    np.testing.assert_allclose(moments, sums.matrix @ theta + sums.vector, rtol=1e-11)
    slope = jax.grad(lambda p: martingale.losses.temporal_difference(condition, p, path, **trace))(theta)
    np.testing.assert_allclose(slope, -moments, rtol=1e-11)
    assert float(jnp.abs(moments - martingale.moments(condition, theta, path)).max()) > 0.1


@pytest.mark.x64
def test_a_network_learns_with_a_trace_offline(key):
    """One step of the surrogate's gradient is the sum of the online steps at parameters that hardly move."""
    cfg = nn.mlp.config(2, (4,), 1)
    condition = martingale.condition(martingale.mlp_value(cfg, terminal=_square, horizon=4.0), discount=0.5)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), nn.mlp.init(key, cfg))
    path = padded(ou(key))
    trace = {"trace_decay": 0.5, "trace_scale": "unit"}
    slope = jax.grad(lambda p: martingale.losses.temporal_difference(condition, p, path, **trace))(params)
    small = martingale.ctd(condition, learning_rate=1e-8, **trace)
    online = martingale.run(small, params, control.transitions(path)).value
    moved = jax.tree.map(lambda a, b: (a - b) / 1e-8, params, online)
    chex.assert_trees_all_close(moved, slope, rtol=1e-4, atol=1e-5)


def test_an_unknown_scale_is_refused(key):
    path = ou(key)
    for function in (martingale.moments, martingale.losses.temporal_difference):
        with pytest.raises(ValueError, match="trace_scale must be one of"):
            function(CONDITION, jnp.zeros(2), path, trace_decay=0.5, trace_scale="half")


# --- sums of several batches ------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_merge_takes_sums_alone(key):
    """The state of a step-by-step method would be added to nonsense; the trace of another episode is no one's."""
    steps = control.transitions(ou(key))
    states = [
        martingale.run(method, jnp.zeros(2), steps).state
        for method in (martingale.ctd(CONDITION, learning_rate=0.1), martingale.clstd(CONDITION, trace_decay=0.5))
    ]
    with pytest.raises(TypeError, match="got TDState"):
        martingale.merge(states[0], states[0])
    with pytest.raises(TypeError, match="got none"):
        martingale.merge()
    method = martingale.clstd(CONDITION, trace_decay=0.5)
    joined = martingale.merge(states[1], states[1])
    np.testing.assert_array_equal(joined.trace, 0.0)
    far = states[1]._replace(vector=jnp.full_like(states[1].vector, 1e308))
    assert int(martingale.merge(far).clock.status) == status.OK
    assert int(martingale.merge(far, far).clock.status) == status.NONFINITE_RESULT
    on = martingale.run(method, jnp.zeros(2), steps._replace(first=jnp.zeros(40, bool)), state=joined).state
    np.testing.assert_allclose(on.matrix, 3 * states[1].matrix, rtol=1e-12)
    assert int(method.finish(on).status) == status.OK
