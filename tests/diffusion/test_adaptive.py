"""Adaptive DPM-Solver-12 and -23: equal to a plain loop, errors under control, calls counted, trouble reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
from diffusion import mixture
from jaxsci.core import status
from jaxsci.diffusion import adaptive, predictions, schedules

PROBLEM = mixture.problem_a()
VP = PROBLEM.schedule
DENOISER = mixture.denoiser(PROBLEM.mixture, VP)
X = PROBLEM.x_T[:24]


def _plain(x, *, order, kind, atol=0.0078, rtol=0.05, h=0.05, safety=0.9):
    """The algorithm as published, one particle, in NumPy float64, with its own formulas."""
    lam, end = float(VP.lam(1.0)), float(VP.lam(1e-3))
    before, accepted, rejected = x, 0, 0

    def predict(x, lam):
        return mixture.predict(PROBLEM.mixture, x, *VP.alpha_sigma(np.float64(lam)))

    def first(x, s, t, values):
        (a, b), (c, d) = VP.alpha_sigma(np.float64(s)), VP.alpha_sigma(np.float64(t))
        h = t - s
        return c / a * x - d * np.expm1(h) * values if kind == "noise" else d / b * x - c * np.expm1(-h) * values

    def scale(t, h):  # of a further difference
        a, s = VP.alpha_sigma(np.float64(t))
        return -s * np.expm1(h) if kind == "noise" else -a * np.expm1(-h)

    def second_moment(t, h):
        a, s = VP.alpha_sigma(np.float64(t))
        return -s * (np.expm1(h) / h - 1) if kind == "noise" else a * (np.expm1(-h) / h + 1)

    pick = 1 if kind == "noise" else 0
    while lam < end - 1e-12:
        target, here = lam + h, predict(x, lam)[pick]
        if order == 2:
            lower = first(x, lam, target, here)
            middle = predict(first(x, lam, lam + h / 2, here), lam + h / 2)[pick]
            higher = lower + scale(target, h) * (middle - here)
        else:
            one = predict(first(x, lam, lam + h / 3, here), lam + h / 3)[pick]
            base = first(x, lam, target, here)
            lower = base + 1.5 * scale(target, h) * (one - here)
            two_at = lam + 2 * h / 3
            two = first(x, lam, two_at, here) + 2 * second_moment(two_at, 2 * h / 3) * (one - here)
            two = predict(two, two_at)[pick]
            higher = base + 1.5 * second_moment(target, h) * (two - here)
        delta = np.maximum(atol, rtol * np.maximum(np.abs(lower), np.abs(before)))
        error = np.sqrt(np.mean(((higher - lower) / delta) ** 2))
        if error <= 1:
            x, before, lam, accepted = higher, lower, target, accepted + 1
        else:
            rejected += 1
        h = min(safety * h * error ** (-1 / order), end - lam)
    return x, accepted, rejected


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["noise", "data"])
@pytest.mark.parametrize("order", [2, 3])
def test_it_is_the_published_loop(order, kind):
    for atol, rtol in ((0.0078, 0.05), (1e-4, 1e-4)):
        result = adaptive.sample(DENOISER, VP, X[0], order=order, kind=kind, atol=atol, rtol=rtol)
        value, accepted, rejected = _plain(X[0], order=order, kind=kind, atol=atol, rtol=rtol)
        np.testing.assert_allclose(result.value, value, rtol=1e-8, atol=1e-9)
        assert (int(result.accepted), int(result.rejected)) == (accepted, rejected)
        assert int(result.nfe) == accepted + (order - 1) * (accepted + rejected)
        assert int(result.status) == 0 and float(result.lam) == float(VP.lam(1e-3))


@pytest.mark.x64
def test_tighter_tolerances_cost_calls_and_give_accuracy():
    truth = mixture.truth("a")[: len(X)]
    run = jax.jit(jax.vmap(lambda x, tol: adaptive.sample(DENOISER, VP, x, atol=tol, rtol=tol), (0, None)))
    results = [run(X, tol) for tol in (1e-2, 1e-4, 1e-6)]
    errors = [mixture.rmse(r.value, truth) for r in results]
    assert errors[0] < 0.1 and errors[1] < 2e-3 and errors[2] < 5e-5 and errors[0] > errors[1] > errors[2]
    calls = [float(r.nfe.mean()) for r in results]
    assert calls[0] < calls[1] < calls[2]


@pytest.mark.x64
def test_calls_are_those_made():
    calls = []

    def counted(x, t, cond, w):
        jax.debug.callback(lambda: calls.append(1))
        return DENOISER(x, t, cond, w)

    result = adaptive.sample(counted, VP, X[1], h_init=3.0)
    jax.effects_barrier()
    assert int(result.rejected) > 0 and len(calls) == int(result.nfe)


def test_lanes_choose_their_own_steps():
    run = jax.vmap(lambda x: adaptive.sample(DENOISER, VP, x, order=2))
    many = run(X)
    assert many.value.dtype == jnp.float32 and len(set(many.accepted.tolist())) > 1
    for j in range(3):
        one = adaptive.sample(DENOISER, VP, X[j], order=2)
        np.testing.assert_allclose(many.value[j], one.value, rtol=1e-4, atol=1e-5)
        assert int(many.nfe[j]) == int(one.nfe)


def test_one_compilation_for_all_numbers():
    adaptive.sample(DENOISER, VP, X[0]).value.block_until_ready()
    with contracts.count_compilations() as events:
        for tol in (0.01, 0.02):
            result = adaptive.sample(
                DENOISER, VP, X[1], atol=tol, rtol=tol, safety=0.8, h_init=0.1, t_min=2e-3, max_steps=50
            )
            result.value.block_until_ready()
    assert not events


@pytest.mark.x64
def test_variance_exploding():
    ve = schedules.ve()
    x = 80 * X[0]
    result = adaptive.sample(mixture.denoiser(PROBLEM.mixture, ve), ve, x, kind="data", atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(result.value, mixture.reference(PROBLEM.mixture, ve, x), atol=2e-3)


def test_trouble_is_reported():
    capped = adaptive.sample(DENOISER, VP, X[0], atol=1e-5, rtol=1e-5, max_steps=5)
    assert int(capped.status) == status.MAX_STEPS and int(capped.accepted + capped.rejected) == 5
    assert float(capped.lam) < float(VP.lam(1e-3)) and bool(jnp.all(jnp.isfinite(capped.value)))
    nan = adaptive.sample(DENOISER, VP, jnp.asarray([jnp.nan, 0.0]))
    assert int(nan.status) & status.NONFINITE_INPUT and int(nan.nfe) == 0
    broken = predictions.denoiser(lambda x, t, cond: jnp.where(t < 0.5, jnp.nan, x), VP, "epsilon")
    result = adaptive.sample(broken, VP, X[0])
    assert int(result.status) == status.NONFINITE_RESULT and bool(jnp.all(jnp.isfinite(result.value)))


def test_ends_without_a_way_between_them_are_reported():
    """Reversed, equal or NaN ends, and ends of pure noise or pure data: no state is claimed to be a sample."""
    flow = schedules.flow()  # lam(1) = -inf, lam(0) = inf
    for schedule, ends in (
        (VP, dict(t_min=0.9, t_max=0.1)), (VP, dict(t_min=0.5, t_max=0.5)), (VP, dict(t_min=jnp.nan)),
        (flow, dict(t_max=1.0, t_min=0.1)), (flow, dict(t_max=0.9, t_min=0.0)),
    ):  # fmt: skip
        result = adaptive.sample(DENOISER, schedule, X[0], **ends)
        assert int(result.status) == status.OUT_OF_RANGE and int(result.nfe) == 0
        assert bool(jnp.all(jnp.isnan(result.value)))


@pytest.mark.bad_input
def test_bad_input():
    for keywords, match in ((dict(order=1), "order must be 2 or 3, got 1"), (dict(kind="v"), "kind must be 'data'")):
        with pytest.raises(ValueError, match=match):
            adaptive.sample(DENOISER, VP, X[0], **keywords)
    with pytest.raises(TypeError, match="x_T must be floating"):
        adaptive.sample(DENOISER, VP, np.asarray([1, 2]))
