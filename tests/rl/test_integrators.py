"""Rules of one signature: orders on Kepler's ellipse, costs, conservation, statuses; the environment takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.core import status
from jaxsci.rl import three_body
from jaxsci.rl.three_body import hermite, integrators

RULES = {"hermite": (4, 1), "leapfrog": (2, 1), "yoshida": (4, 3), "runge_kutta": (4, 4)}


def pair():
    """Two bodies of mass 1/2 at the far point of an ellipse of eccentricity 1/2: the period is 2 pi."""
    far, speed = 1.5, np.sqrt(0.5 / 1.5)
    x, v = np.array([[-far, 0.0], [far, 0.0]]) / 2, np.array([[0.0, -speed], [0.0, speed]]) / 2
    return hermite.init(np.full(2, 0.5), x, v)


@pytest.mark.x64
@pytest.mark.parametrize("variable", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_orders_and_costs_on_an_ellipse(name, variable):
    start, (order, cost) = pair(), RULES[name]
    # The fixed ones do not divide the period, so that the cut last step is in it.
    sizes = np.array([0.04, 0.02, 0.01]) if variable else 2 * np.pi / np.array([200.5, 400.5, 800.5])
    rule = jax.jit(lambda size: integrators.named(name)(start, 2 * np.pi, size, variable=variable))
    results = [rule(size) for size in sizes]
    errors = [float(np.linalg.norm(r.value.position - start.position)) for r in results]
    assert abs(np.polyfit(np.log(sizes), np.log(errors), 1)[0] - order) < 0.2
    assert all(int(r.status) == 0 and int(r.evaluations) == cost * int(r.steps) for r in results)
    if not variable:
        assert [int(r.steps) for r in results] == [201, 401, 801]


@pytest.mark.x64
def test_a_symplectic_rule_keeps_the_energy_with_fixed_steps_alone():
    """Over the hundredth turn the leapfrog errs as over the first; with a variable step its energy has drifted."""
    start, parts = pair(), np.arange(1, 17) / 16
    worst = {}
    for variable, size in ((True, 0.04), (False, 2 * np.pi / 200)):
        turn = jax.jit(
            jax.vmap(lambda t, v=variable, h=size: integrators.leapfrog(start, 2 * np.pi * t, h, variable=v).error)
        )
        worst[variable] = [float(np.abs(turn(first + parts)).max()) for first in (0, 99)]
    assert worst[True][1] > 5 * worst[True][0]
    assert worst[False][1] < 1.2 * worst[False][0]


@pytest.mark.x64
def test_a_result_can_be_carried_on_by_another_rule():
    start = pair()
    half = integrators.yoshida(start, np.pi, 0.01).value
    np.testing.assert_allclose(half.jerk, hermite.init(*half[:3]).jerk, rtol=1e-14)
    end = integrators.hermite(half, np.pi, 0.01).value
    np.testing.assert_allclose(end.position, start.position, atol=1e-5)


@pytest.mark.x64
def test_a_collision_or_a_hole_has_its_status():
    start = hermite.init(np.full(2, 0.5), np.array([[-0.5, 0.0], [0.5, 0.0]]), np.zeros((2, 2)))
    for name in RULES:
        rule = integrators.named(name)
        fallen = rule(start, 10.0, 0.05)
        assert int(fallen.status) & (hermite.COLLISION | status.NONFINITE_RESULT | status.MAX_STEPS), name
        assert bool(jnp.all(jnp.isfinite(fallen.value.position))), name
        assert int(rule(start, np.nan, 0.05).status) == status.NONFINITE_INPUT
        assert int(rule(start, 1.0, 0.0, variable=False).status) == status.OUT_OF_RANGE
        assert int(rule(start, 0.1, 1e-3, variable=False, max_steps=5).status) == status.MAX_STEPS


@pytest.mark.x64
@pytest.mark.parametrize("name", RULES)
def test_the_environment_counts_what_a_rule_costs(name):
    cfg = three_body.config(integrator=name, variable=False, step_parameters=(0.01,))
    state, _ = three_body.step(cfg, three_body.start(cfg, three_body.published_start(0)), 0)
    steps = int(np.ceil(float(cfg.interval) / 0.01))
    assert int(state.evaluations) == RULES[name][1] * steps + 1 and int(state.status) == 0
    assert abs(float(state.error)) < 1e-6


@pytest.mark.bad_input
def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="name must be one of .*'yoshida'.* got 'euler'"):
        three_body.config(integrator="euler", allow_float32=True)
