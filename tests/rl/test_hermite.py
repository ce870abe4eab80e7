"""The integrator against Kepler's orbit, derivatives, SciPy and conservation laws; landing, counts and statuses."""

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jaxsci.core import status
from jaxsci.rl.three_body import hermite


def pair(eccentricity, dtype=float, **kwargs):
    """Two bodies of mass 1/2 at the far point of an ellipse with semi-axis 1: the period is 2 pi."""
    far, speed = 1 + eccentricity, np.sqrt((1 - eccentricity) / (1 + eccentricity))
    x, v = np.asarray([[-far, 0.0], [far, 0.0]], dtype) / 2, np.asarray([[0.0, -speed], [0.0, speed]], dtype) / 2
    return hermite.init(np.full(2, 0.5, dtype), x, v, **kwargs)


def cloud(num, dim):
    rng = np.random.default_rng(10 * num + dim)
    return rng.uniform(0.2, 1.0, num), 2 * rng.standard_normal((num, dim)), 0.3 * rng.standard_normal((num, dim))


def slope(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


# --- truth -------------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_fourth_order_with_fixed_steps_on_an_ellipse():
    start, counts = pair(0.5), np.array([200, 400, 800])
    turn = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda _, b: hermite.step(b, 2 * np.pi / n), start))
    errors = [float(np.linalg.norm(turn(n).position - start.position)) for n in counts]
    assert abs(slope(1 / counts, errors) - 4) < 0.1


@pytest.mark.x64
def test_fourth_order_with_variable_steps_and_fifth_in_the_energy():
    """The steps shrink in proportion; on a closed orbit the energy error gains an order."""
    start, parameters = pair(0.5), np.array([0.04, 0.02, 0.01])
    results = [hermite.integrate(start, 2 * np.pi, mu) for mu in parameters]
    errors = [float(np.linalg.norm(r.value.position - start.position)) for r in results]
    assert abs(slope(parameters, errors) - 4) < 0.2
    assert abs(slope(parameters, [abs(float(r.error)) for r in results]) - 5) < 0.2


@pytest.mark.x64
def test_three_bodies_as_scipy_moves_them():
    mass = np.array([1.0, 0.5, 0.7])
    x, v = np.array([[0.0, 0.0], [2.0, 0.3], [-1.0, 2.0]]), np.array([[0.0, 0.1], [-0.2, 0.5], [0.4, 0.0]])

    def slopes(t, y):
        x, v = y.reshape(2, 3, 2)
        r = x[None] - x[:, None]
        cubed = np.sum(r * r, -1) ** 1.5 + np.eye(3)
        return np.concatenate([v, np.einsum("j,ijk->ik", mass, r / cubed[..., None])]).ravel()

    y = solve_ivp(slopes, (0, 3), np.concatenate([x, v]).ravel(), method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
    result = hermite.integrate(hermite.init(mass, x, v), 3.0, 1e-3)
    np.testing.assert_allclose(np.stack([*result.value[1:3]]), y.reshape(2, 3, 2), atol=1e-9)


@pytest.mark.x64
@pytest.mark.parametrize(("num", "dim"), [(1, 2), (2, 3), (3, 2), (4, 2), (5, 3)])
def test_forces_are_the_double_sum_and_the_jerk_its_derivative(num, dim):
    mass, x, v = cloud(num, dim)

    m, y, u, times = *(np.asarray(a) for a in (mass, x, v)), [np.inf]

    def acceleration(x):
        r = x[None] - x[:, None]
        cubed = (np.sum(r * r, -1) + np.eye(num)) ** 1.5
        return np.sum(m[None, :, None] * r / cubed[..., None] * (1 - np.eye(num))[..., None], 1)

    # the derivative along the velocity by a complex step: exact to rounding
    expected, jerk = acceleration(y), acceleration(y + 1e-30j * u).imag / 1e-30
    for i in range(num):
        for j in range(i):
            r, w = np.linalg.norm(y[i] - y[j]), np.linalg.norm(u[i] - u[j])
            times += [r / w, np.sqrt(r**3 / (m[i] + m[j]))]
    got = hermite.forces(mass, x, v)
    np.testing.assert_allclose(got[0], expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got[1], jerk, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got[2], min(times), rtol=1e-13)


@pytest.mark.x64
@pytest.mark.parametrize(("num", "dim"), [(3, 2), (4, 3)])
def test_what_physics_conserves(num, dim):
    start = hermite.init(*cloud(num, dim))
    end = hermite.integrate(start, 1.0, 1e-2).value
    np.testing.assert_allclose(hermite.momentum(end), hermite.momentum(start), atol=1e-12)
    drift = hermite.center_of_mass(start) + hermite.momentum(start) / np.sum(start.mass)
    np.testing.assert_allclose(hermite.center_of_mass(end), drift, atol=1e-12)
    np.testing.assert_allclose(hermite.energy(end), hermite.energy(start), rtol=1e-6)
    np.testing.assert_allclose(hermite.angular_momentum(end), hermite.angular_momentum(start), rtol=1e-6, atol=1e-6)
    assert float(np.linalg.norm(end.position - start.position)) > 0.1


@pytest.mark.x64
def test_quantities_of_two_bodies_on_a_circle():
    bodies = pair(0.0)
    np.testing.assert_allclose(hermite.energy(bodies), -0.125)
    np.testing.assert_allclose(hermite.angular_momentum(bodies), 0.25)
    flat = [np.pad(a, ((0, 0), (0, 1))) for a in (bodies.position, bodies.velocity)]
    np.testing.assert_allclose(hermite.angular_momentum(hermite.init(bodies.mass, *flat)), [0, 0, 0.25])
    assert hermite.integrate(bodies, 0.0, 0.1).steps == 0


def test_units_of_the_study():
    """Three solar masses, astronomical units and years: time is 1/(2 pi sqrt 3); in SI a year comes out."""
    assert hermite.units(1.0, 3.0, gravity=4 * np.pi**2).time == pytest.approx(1 / (2 * np.pi * np.sqrt(3)), rel=1e-14)
    solar = hermite.units(1.495978707e11, 1.98841e30)
    assert 2 * np.pi * solar.time == pytest.approx(365.25 * 86400, rel=1e-4)
    assert solar.velocity == pytest.approx(29.785e3, rel=1e-4)


# --- landing, counting, batching ---------------------------------------------------------------------------


@pytest.mark.x64
def test_bodies_at_rest_have_derivatives():
    """They meet by falling, t_c^2 = |r|^(3/2) / (m_i + m_j)^(1/2): the crossing time, infinite, adds nothing."""
    x = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])

    def collision_time(x, v):
        return hermite.forces(np.array([0.3, 0.3, 0.4]), x, v)[-1]

    by_position, by_velocity = jax.grad(collision_time, (0, 1))(x, np.zeros((3, 2)))
    expected = 1.5 * np.sqrt(2.0**3 / 0.6) / 2.0
    np.testing.assert_allclose(by_position, [[-expected, 0], [expected, 0], [0, 0]], rtol=1e-12)
    np.testing.assert_array_equal(by_velocity, 0.0)


@pytest.mark.x64
def test_lands_exactly_and_counts_every_evaluation():
    """The same steps taken by hand: all but the last of size mu t_c, the last what is left."""
    bodies, left, count = pair(0.3), 2.5, 0
    result = hermite.integrate(bodies, 2.5, 0.1)
    while left > 0:
        size = min(0.1 * float(bodies.collision_time), left)
        bodies, left, count = hermite.step(bodies, size), left - size, count + 1
    assert int(result.steps) == count > 20
    np.testing.assert_allclose(result.value.position, bodies.position, rtol=1e-13)


@pytest.mark.x64
def test_going_on_from_a_result_needs_no_new_start():
    start = pair(0.3)
    half = hermite.integrate(start, 1.0, 0.01).value
    fresh = hermite.init(*half[:3])
    np.testing.assert_allclose(half.acceleration, fresh.acceleration, rtol=1e-6)
    end = hermite.integrate(half, 1.0, 0.01).value
    np.testing.assert_allclose(end.position, hermite.integrate(start, 2.0, 0.01).value.position, atol=1e-7)


@pytest.mark.x64
def test_finished_lanes_are_frozen():
    start, parameters = pair(0.5), np.array([0.3, 0.1, 0.03])
    batch = jax.jit(jax.vmap(lambda mu: hermite.integrate(start, 3.0, mu)))(parameters)
    for i, mu in enumerate(parameters):
        one = hermite.integrate(start, 3.0, mu)
        assert int(one.steps) == int(batch.steps[i])
        np.testing.assert_allclose(batch.value.position[i], one.value.position, rtol=1e-12)
    assert int(batch.steps[0]) < int(batch.steps[1]) < int(batch.steps[2])


# --- trouble -----------------------------------------------------------------------------------------------


def code(bodies, *args, **kwargs):
    result = hermite.integrate(bodies, *args, **kwargs)
    assert not bool(np.isnan(result.error))
    return result, int(result.status)


@pytest.mark.x64
def test_statuses_of_the_arguments():
    start = pair(0.5)
    for args, bit in (((-1.0, 0.1), status.OUT_OF_RANGE), ((1.0, 0.0), status.OUT_OF_RANGE),
                      ((np.nan, 0.1), status.NONFINITE_INPUT), ((1.0, np.nan), status.NONFINITE_INPUT)):  # fmt: skip
        result, bits = code(start, *args)
        assert bits == bit and int(result.steps) == 0
        np.testing.assert_array_equal(result.value.position, start.position)
    lost = start._replace(position=start.position.at[0, 0].set(np.nan))
    assert code(lost, 1.0, 0.1)[1] == status.NONFINITE_INPUT


@pytest.mark.x64
def test_status_of_the_step_cap():
    result, bits = code(pair(0.5), 10.0, 0.01, max_steps=7)
    assert bits == status.MAX_STEPS and int(result.steps) == 7 and bool(np.all(np.isfinite(result.value.position)))
    needed = int(hermite.integrate(pair(0.5), 1.0, 0.1).steps)
    assert code(pair(0.5), 1.0, 0.1, max_steps=needed)[1] == 0


@pytest.mark.x64
def test_status_of_a_collision():
    """Two bodies let go at rest meet after pi/(2 sqrt 2); two in one place have met already."""
    mass, rest = np.full(2, 0.5), np.zeros((2, 2))
    falling = hermite.init(mass, np.array([[-0.5, 0.0], [0.5, 0.0]]), rest)
    result, bits = code(falling, 2.0, 0.01)
    assert bits == hermite.COLLISION and bool(np.all(np.isfinite(result.value.position)))
    assert float(np.linalg.norm(result.value.position[0])) < 1e-6
    assert code(falling, 1.0, 0.01)[1] == 0
    met = hermite.init(mass, rest, np.array([[0.0, 1.0], [1.0, 0.0]]))
    result, bits = code(met, 1.0, 0.1)
    assert bits == hermite.COLLISION and int(result.steps) == 0
    assert "collision" in status.explain(bits, "rl")


@pytest.mark.x64
def test_status_of_an_explosion():
    """A step parameter beyond all reason: the bodies that come back are those that went in."""
    start = pair(0.9)
    result, bits = code(start, 1e200, 1e190)
    assert bits & status.NONFINITE_RESULT
    np.testing.assert_array_equal(result.value.position, start.position)


@pytest.mark.bad_input
def test_float32_is_refused_and_says_what_to_add():
    with pytest.raises(ValueError, match=r'jax.config.update\("jax_enable_x64", True\)'):
        pair(0.5, np.float32)
    with pytest.raises(ValueError, match="allow_float32"):
        jax.jit(lambda m, x, v: hermite.init(m, x, v))(np.ones(1), np.ones((1, 2)), np.ones((1, 2)))
    assert pair(0.5, np.float32, allow_float32=True).jerk.dtype == np.float32


@pytest.mark.bad_input
def test_wrong_shapes_and_units():
    for shapes in (((2,), (2, 4), (2, 4)), ((3,), (2, 2), (2, 2)), ((2,), (2, 2), (2, 3)), ((), (1, 2), (1, 2))):
        with pytest.raises(ValueError, match="hermite.init: expected mass"):
            hermite.init(*(np.ones(s) for s in shapes), allow_float32=True)
    with pytest.raises(ValueError, match="positive"):
        hermite.units(1.0, -1.0)
