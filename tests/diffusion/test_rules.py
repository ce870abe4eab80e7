"""Row rules: golden weights, exactness on polynomials, and equality of the traced and the host form."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from jaxsci.diffusion import _exponential as expo
from jaxsci.diffusion import grids, rules, schedules, tables

VP = schedules.vp_linear()
DELTAS, H = (0.0, -0.7, -1.5), 0.9  # nodes and step of the golden weights


def _row(rule, lams, i):
    """Row i of a rule on a grid of given lams, on the host."""
    return rule(grids.at_lams(VP, np.asarray(lams, np.float64)), i).predictor


def _golden_grid(start=0.0):
    return start + np.asarray([DELTAS[2], DELTAS[1], DELTAS[0], H])


def test_phi_functions():
    assert [float(expo.phi(k, 0.0)) for k in range(4)] == [1.0, 1.0, 0.5, 1 / 6]
    golden = {0.3: (1.3498588076, 1.1661960253, 0.5539867508, 0.1799558361)}
    golden[-2.5] = (0.0820849986, 0.3671660006, 0.2531335998, 0.0987465601)
    for z, values in golden.items():
        np.testing.assert_allclose([expo.phi(k, z) for k in range(4)], values, atol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_phi_is_its_integral_on_both_sides_of_the_switch(k):
    from math import factorial

    for z in (-12.0, -1.0000001, -0.9999999, -1e-9, 0.0, 1e-3, 0.9999999, 1.0, 5.0):
        value = quad(lambda u, z=z: np.exp((1 - u) * z) * u ** (k - 1) / factorial(k - 1), 0, 1, epsabs=1e-14)[0]
        np.testing.assert_allclose(expo.phi(k, z), value, rtol=2e-12)


@pytest.mark.x64
def test_phi_has_gradients_everywhere():
    z = jnp.asarray([-3.0, -1.0, 0.0, 1e-8, 1.0, 4.0])
    slopes = jax.vmap(jax.grad(lambda z: expo.phi(2, z)))(z)
    h = 1e-5
    expected = (expo.phi(2, np.asarray(z) + h) - expo.phi(2, np.asarray(z) - h)) / (2 * h)
    np.testing.assert_allclose(slopes, expected, rtol=1e-8)


def test_golden_weights_in_lambda():
    grid = grids.at_lams(VP, _golden_grid())
    alpha, sigma = grid.alpha[-1], grid.sigma[-1]
    data = _row(rules.multistep(3), _golden_grid(), 2).data
    np.testing.assert_allclose([data[k] / alpha for k in range(3)],
                               (1.42325313, -1.17270566, 0.34288287), atol=6e-9)  # fmt: skip
    half = _row(rules.multistep(3, half_second=True), _golden_grid(), 2).data
    np.testing.assert_allclose([half[k] / alpha for k in range(3)], (1.32950995, -0.9969372, 0.26085759), atol=6e-9)
    noise = _row(rules.multistep(3, kind="noise"), _golden_grid(), 2).noise
    np.testing.assert_allclose([noise[k] / -sigma for k in range(3)], (2.92658698, -2.05109087, 0.584107), atol=6e-9)
    sde = _row(rules.multistep(3, tau=1.0), _golden_grid(), 2)
    np.testing.assert_allclose(
        [sde.data[k] / alpha for k in range(3)], (2.15772905, -1.87736558, 0.55433764), atol=6e-9
    )
    np.testing.assert_allclose(sde.std, sigma * np.sqrt(-np.expm1(-2 * H)), rtol=1e-13)


def test_golden_weights_of_the_corrector():
    # UniC-2: start one node back, nodes (s, t, s - .7); slots count from the newest value, at t
    lams = np.asarray([-0.7, 0.0, H, 2.0])
    grid = grids.at_lams(VP, lams)
    step = rules.multistep(2, corrector=True)(grid, 2)
    got = [step.corrector.data[k] / grid.alpha[2] for k in (1, 0, 2)]
    np.testing.assert_allclose(got, (0.37827677, 0.28573572, -0.07058215), atol=6e-9)
    assert set(step.corrector.x) == {1}


def test_golden_weights_in_time():
    lams = _golden_grid(VP.lam(0.5))
    grid = grids.at_lams(VP, lams)
    row = _row(rules.adams_bashforth(3, variable="t"), lams, 2)
    got = [row.noise[k] / -grid.sigma[-1] for k in range(3)]
    np.testing.assert_allclose(got, (3.23096236, -2.65888239, 0.88752314), atol=6e-9)


def _kernel(r, h, mu, k):
    return np.exp(mu * (h - r)) * r**k


@pytest.mark.parametrize("points", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["data", "noise", "sde"])
def test_weights_integrate_polynomials_in_lambda_exactly(points, kind):
    mu, c = {"data": (-1, 1), "noise": (1, 1), "sde": (-2, 2)}[kind]
    for lams in np.cumsum(np.random.default_rng(points).uniform(0.05, 1.5, (5, 5)), axis=1) - 3:
        rule = rules.multistep(points, kind="noise" if kind == "noise" else "data", tau=float(kind == "sde"))
        grid, i = grids.at_lams(VP, lams), 3
        row = rule(grid, i).predictor
        h = lams[4] - lams[3]
        weights = row.noise if kind == "noise" else row.data
        scale = -grid.sigma[4] if kind == "noise" else grid.alpha[4]
        assert len(weights) == points
        for k in range(points):
            got = sum(w * (lams[i - slot] - lams[i]) ** k for slot, w in weights.items()) / scale
            exact = c * quad(_kernel, 0, h, args=(h, mu, k), epsabs=1e-13)[0]
            np.testing.assert_allclose(got, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("tau", "power"), [(1.0, 2.0), (0.0, 1.5), (2.0**0.5, 0.5), (1.0, 0.5)])
def test_a_power_of_a_point_is_solved_exactly(tau, power):
    """eps = P (x - alpha m) / sigma is linear: one step is two of half its length, in mean and in variance."""

    rule = rules.multistep(1, tau=tau, power=power)

    def moments(lams):
        grid, mean, variance = grids.at_lams(VP, np.asarray(lams)), 0.7, 0.3
        for i in range(len(lams) - 1):
            row, alpha = rule(grid, i).predictor, grid.alpha[i]
            slope = row.x[0] + row.data[0] * (1 - power) / alpha  # D = (x - sigma eps) / alpha
            mean = slope * mean + row.data[0] * power * 0.4  # of a point at 0.4
            variance = slope**2 * variance + (row.std or 0.0) ** 2
        return mean, variance

    np.testing.assert_allclose(moments([-1.0, 1.0]), moments([-1.0, 0.0, 1.0]), rtol=1e-12)
    assert abs(moments([-1.0, 1.0])[0] - 0.4 * VP.alpha_sigma(1.0)[0]) < 0.3, "it ends near the point"


@pytest.mark.parametrize("variable", ["t", "rho"])
def test_weights_integrate_polynomials_in_their_variable_exactly(variable):
    lams = np.asarray([-2.0, -1.4, -0.5, 0.3, 0.9])
    grid = grids.at_lams(VP, lams)
    u = VP.t_of_lam if variable == "t" else (lambda lam: np.exp(-lam))
    row = rules.adams_bashforth(4, variable=variable)(grid, 3).predictor
    h = lams[4] - lams[3]
    for k in range(4):
        got = sum(w * u(lams[3 - slot]) ** k for slot, w in row.noise.items()) / -grid.sigma[4]
        exact = quad(lambda r, k=k: np.exp(h - r) * u(lams[3] + r) ** k, 0, h, epsabs=1e-13)[0]
        np.testing.assert_allclose(got, exact, rtol=1e-9)


def test_corrector_weights_integrate_one_degree_more():
    lams = np.asarray([-2.0, -1.4, -0.5, 0.3, 0.9])
    grid = grids.at_lams(VP, lams)
    row = rules.multistep(3, corrector=True)(grid, 3).corrector
    h = lams[3] - lams[2]
    for k in range(4):
        got = sum(w * (lams[3 - slot] - lams[2]) ** k for slot, w in row.data.items()) / grid.alpha[3]
        exact = quad(lambda r, k=k: np.exp(-(h - r)) * r**k, 0, h, epsabs=1e-13)[0]
        np.testing.assert_allclose(got, exact, rtol=1e-9)


def test_relaxations():
    h, mu = 0.9, -1.0
    m0, m1 = expo.moments(h, mu, 2)
    np.testing.assert_allclose(expo.relaxation("bh2", h, mu) * m1, 0.5 * h * m0, rtol=1e-13)
    np.testing.assert_allclose(expo.relaxation("bh1", h, mu) * m1, 0.5 * h**2, rtol=1e-13)
    z = mu * h
    np.testing.assert_allclose(expo.relaxation("bh2", h, mu), 0.5 * z * np.expm1(z) / (np.expm1(z) - z), rtol=1e-12)
    np.testing.assert_allclose(expo.relaxation("bh1", h, mu), 0.5 * z**2 / (np.expm1(z) - z), rtol=1e-12)


def test_b_cancels_from_three_points_on():
    lams = np.linspace(-3, 3, 7)
    for i in (2, 4):
        grid = grids.at_lams(VP, lams)
        one, two = (rules.multistep(3, relaxation=b, corrector=True)(grid, i) for b in ("bh1", "bh2"))
        np.testing.assert_allclose(list(one.predictor.data.values()), list(two.predictor.data.values()), rtol=1e-13)
        if i > 2:
            np.testing.assert_allclose(list(one.corrector.data.values()), list(two.corrector.data.values()), rtol=1e-13)
    one, two = (_row(rules.multistep(2, relaxation=b), lams, 2).data for b in ("bh1", "bh2"))
    assert abs(one[1] / two[1] - 1) > 0.01


def test_orders_rise_at_the_start_and_fall_at_the_end():
    grid = grids.logsnr(VP, 6)
    for final, expected in ((False, [1, 2, 3, 3, 3, 3]), (True, [1, 2, 3, 3, 2, 1])):
        rule = rules.multistep(3, lower_order_final=final)
        assert [len(rule(grid, i).predictor.data) for i in range(6)] == expected


RULES = {
    "ddim": rules.ddim(0.5),
    "multistep": rules.multistep(3, corrector=True, relaxation="bh2"),
    "noise": rules.multistep(2, kind="noise", relaxation="bh1"),
    "sde": rules.multistep(2, tau=1.0),
    "t": rules.adams_bashforth(4, variable="t"),
    "rho": rules.adams_bashforth(3, variable="rho"),
    "ipndm": rules.ipndm(),
    "staged": rules._staged(((0, "noise", ()), (1, "noise", ((0,),), "bh2"))),
    "runge_kutta": rules._runge_kutta(((0, ((0, 1.0),), 2), (1, ((0, 0.5), (1, 0.5)), 2))),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", RULES)
def test_traced_equals_host(name):
    lams = np.asarray([-3.0, -1.9, -0.4, 0.2, 1.7, 2.0])[: 3 if name in ("staged", "runge_kutta") else 6]
    host = tables.tabulate(RULES[name], grids.at_lams(VP, lams))
    traced = jax.jit(lambda lams: tables.tabulate(RULES[name], grids.at_lams(VP, lams)))(lams)
    assert host.status is None and int(traced.status) == 0
    chex.assert_trees_all_close(traced._replace(status=None), host, rtol=1e-10, atol=1e-12)


def test_ancestral_rows_in_single_precision():
    """eta = 1 leaves sigma_t exp(-h) of eps: no square root of a rounded difference, and slopes in eta."""
    lams = np.linspace(-6, 9, 61)
    grid = grids.at_lams(VP, lams)

    def noise(eta, lams):
        return tables.tabulate(rules.ddim(eta), grids.at_lams(VP, lams)).predictor.noise[:, 0]

    got, slope = (f(jnp.float32(1), jnp.asarray(lams, jnp.float32)) for f in (jax.jit(noise), jax.jacfwd(noise)))
    np.testing.assert_allclose(got, grid.sigma[1:] * np.exp(-np.diff(lams)), rtol=1e-5)
    chex.assert_tree_all_finite(slope)


def test_rules_are_equal_by_value():
    chex.assert_trees_all_equal_structs(rules.multistep(3), rules.multistep(3))
    assert jax.tree.structure(rules.multistep(3)) != jax.tree.structure(rules.multistep(2))


@pytest.mark.bad_input
def test_bad_input():
    for call, match in (
        (lambda: rules.multistep(5), "multistep: order must be 1, 2, 3 or 4, got 5"),
        (lambda: rules.multistep(2, kind="v"), "kind must be 'data' or 'noise', got 'v'"),
        (lambda: rules.multistep(2, relaxation="bh3"), "relaxation must be"),
        (lambda: rules.multistep(2, tau=1.0, corrector=True), "tau > 0 needs kind='data' and no corrector"),
        (lambda: rules.multistep(2, tau=1.0, kind="noise"), "tau > 0 needs"),
        (lambda: rules.multistep(2, power=2.0, corrector=True), "power 2.0 needs kind='data', no corrector"),
        (lambda: rules.multistep(2, power=0.4, tau=1.0), r"with \(1 \+ tau\^2\) power >= 1"),
        (lambda: rules.adams_bashforth(0), "points must be 1, 2, 3 or 4"),
        (lambda: rules.adams_bashforth(2, variable="s"), "variable must be 't', 'rho' or 'lam'"),
        (lambda: rules.ipndm(7), "ipndm: order must be 1, 2, 3 or 4"),
        (lambda: rules.ddim(1.5), r"ddim: eta must be in \[0, 1\], got 1.5"),
        (lambda: rules.ddim(jnp.asarray(-0.1)), r"ddim: eta must be in \[0, 1\]"),
        (lambda: rules.ddim(np.nan), r"ddim: eta must be in \[0, 1\]"),
        (lambda: rules.multistep(1, tau=-1.0), "tau must be >= 0 and finite, got -1.0"),
        (lambda: rules.multistep(1, tau=np.inf), "tau must be >= 0 and finite"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
