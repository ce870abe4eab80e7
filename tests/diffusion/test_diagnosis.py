"""The usual mistakes of putting a denoiser together are found and named, and a right one is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxsci import diffusion
from jaxsci.diffusion import predictions, schedules

CHAIN = schedules.vp_discrete(schedules.betas("linear"))
DATA = np.random.default_rng(0).normal(0.5, 0.5, (400, 6)).astype(np.float32)


def _network(chain, of_whole_steps, x, time, cond):
    """The exact v of N(.5, .25), which knows the chain by its number of the step."""
    if of_whole_steps:
        time = jnp.floor(time)
    lam = chain.lam((time + 1) / 1000)
    alpha, sigma = (jnp.asarray(a, x.dtype) for a in chain.alpha_sigma(lam))
    variance = alpha**2 * 0.25 + sigma**2
    gap = x - alpha * 0.5
    return alpha * sigma / variance * gap - sigma * (0.5 + alpha * 0.25 / variance * gap)


def _network_of_whole_steps(chain, x, time, cond):
    return _network(chain, True, x, time, cond)


def _network_of_any(chain, x, time, cond):
    return _network(chain, False, x, time, cond)


def _diagnosed(network=_network_of_any, kind="v_prediction", schedule=CHAIN):
    return diffusion.diagnose(predictions.denoiser(Partial(network, CHAIN), schedule, kind), schedule, DATA)


def test_a_right_denoiser_is_left_alone_and_its_loss_is_the_closed_form():
    found = _diagnosed()
    assert found.findings == () and (found.relative < 1.1).all()
    alpha, sigma = CHAIN.alpha_sigma(found.lam)
    # E|eps - z|^2 = alpha^2 Var(x0|x)/sigma^2, over 256 draws of 6 entries: 5 standard errors of a mean of squares
    exact = alpha**2 * 0.25 / (alpha**2 * 0.25 + sigma**2)
    np.testing.assert_allclose(found.loss, exact, rtol=5 * np.sqrt(2 / (256 * 6)) + 0.1)


def test_a_wrong_kind_is_named():
    assert _diagnosed(kind="epsilon").findings == (
        "it predicts 'v_prediction' and not 'epsilon': pass kind='v_prediction'",
    )


def test_a_wrong_scale_of_time_is_named():
    fractions = schedules.vp_discrete(schedules.betas("linear"), time_scale=1.0)
    (finding,) = _diagnosed(schedule=fractions).findings
    assert finding.startswith("its times are 1000 times those it is given") and "time_scale" in finding


def test_fractional_times_for_an_embedding_of_whole_steps_are_named():
    (finding,) = _diagnosed(_network_of_whole_steps).findings
    assert "reads whole time steps only" in finding and "grids.from_timesteps" in finding


def test_a_schedule_that_is_noise_all_along_is_named():
    # what cumulative products make when they are taken for betas; falling ones the builder refuses at once
    bar = 1 / (1 + np.exp(-2 * CHAIN.lam(np.arange(1, 1001) / 1000)))
    with pytest.raises(ValueError, match="pass those to schedules.from_alphas_cumprod"):
        schedules.vp_discrete(bar)
    finding, *_ = _diagnosed(schedule=schedules.vp_discrete(np.full(1000, bar[0]))).findings
    assert "not from noise (below 0) to data" in finding and "schedules.from_alphas_cumprod" in finding


def test_a_useless_network_is_no_other_kind():
    (finding,) = diffusion.diagnose(lambda x, t, cond, w: (10 + 0 * x, x), CHAIN, DATA).findings
    assert "no better than the mean of the data" in finding


@pytest.mark.bad_input
def test_bad_input():
    denoiser = predictions.denoiser(Partial(_network_of_any, CHAIN), CHAIN, "epsilon")
    with pytest.raises(TypeError, match="schedule must be a NoiseSchedule, got ndarray"):
        diffusion.diagnose(denoiser, DATA, CHAIN)
    with pytest.raises(ValueError, match="num_samples must be an int >= 1"):
        diffusion.diagnose(denoiser, CHAIN, DATA, num_samples=0)
    with pytest.raises(TypeError, match="must be concrete"):
        traced = lambda a: predictions.denoiser(Partial(_network, CHAIN, a), CHAIN, "sample")  # noqa: E731
        jax.jit(lambda a: diffusion.diagnose(traced(a), CHAIN, DATA))(1.0)
