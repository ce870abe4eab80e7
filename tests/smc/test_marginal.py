"""The marginal filter: weights against N x N sums in float64, an unbiased constant, less noise than the guided one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxsci import smc
from registered.smc import Normal
from smc.known import kalman, series
from tolerances import STANDARD_ERRORS

ROOT = 1 / math.sqrt(1 - 0.81)


def space(batched):
    return smc.state_space(
        lambda y: Normal(0.0, ROOT), lambda x, y: Normal(0.9 * x, 1.0), lambda x, y: Normal(x, 0.2), batched=batched
    )


def first(y):
    return Normal(y, 0.5)


def proposal(x, y):
    """Near the observation but too wide, and hardly aware of where it comes from."""
    return Normal(0.1 * x + 0.9 * y, 0.6)


@pytest.mark.parametrize("batched", [False, True])
def test_weights_are_those_of_the_mixtures(batched, key):
    """One step from weighted particles, one of them dead, 23 by blocks of 5; blocks change nothing."""
    num, y = 23, 0.7
    rng = np.random.default_rng(0)
    x = rng.standard_normal(num).astype(np.float32)
    log_weights = rng.standard_normal(num).astype(np.float32)
    log_weights[4] = -np.inf
    log_weights = (log_weights - scipy.special.logsumexp(log_weights) + math.log(num)).astype(np.float32)
    state = smc.State(smc.Cloud(x, log_weights), jnp.arange(num), *np.float32([0, 0, 20]), jnp.int32(1), jnp.int32(0))
    found = []
    for size in (5, 128):
        model = smc.marginal(space(batched), first, proposal, block_size=size)
        found.append(smc.step(key, model, state, jnp.float32(y), ess_threshold=0.0)[0])
    np.testing.assert_allclose(found[0].cloud.log_weights, found[1].cloud.log_weights, atol=2e-6)
    z = np.asarray(found[0].cloud.particles, np.float64)
    lw, before = np.asarray(log_weights, np.float64), np.asarray(x, np.float64)
    normal = scipy.stats.norm.logpdf
    alive = np.isfinite(lw)
    drawn = normal(z[:, None], 0.1 * before + 0.9 * np.float32(y), 0.6)[:, alive]
    there = normal(z[:, None], 0.9 * before, 1.0) + lw
    log_w = normal(np.float32(y), z, 0.2) + scipy.special.logsumexp(there, axis=1)
    log_w = np.where(alive, log_w - scipy.special.logsumexp(drawn, axis=1), -np.inf)
    increment = scipy.special.logsumexp(log_w) - math.log(num)
    np.testing.assert_allclose(found[0].log_z, increment, atol=1e-5)
    np.testing.assert_allclose(found[0].cloud.log_weights, log_w - increment, atol=2e-5)


def _run(key, model, y, num, threshold=0.5):
    return smc.run(key, model, y, num_particles=num, ess_threshold=threshold)


def test_the_constant_is_unbiased_and_less_noisy_than_the_guided_filters(key):
    """Against Kalman's, resampling seldom and always. Proposals far wider than the transition: the weight of the one
    ancestor says little, that of all a lot, so the variance of log Z is a fraction of the guided filter's."""
    y, runs, num = 0.3 * series()[:8], 400, 50
    start = 0.3 * ROOT
    hazy = smc.state_space(
        lambda y: Normal(0.0, start), lambda x, y: Normal(0.9 * x, 0.3), lambda x, y: Normal(x, 1.0), batched=True
    )
    laws = (lambda y: Normal(0.0, start)), (lambda x, y: Normal(0.45 * x + 0.1 * y, 0.7))
    marginal, guided = smc.marginal(hazy, *laws), smc.guided(hazy, *laws)
    run = jax.jit(
        jax.vmap(lambda k: [_run(k, m, y, num, t) for m, t in ((marginal, 0.5), (marginal, 1), (guided, 0.5))])
    )
    results = run(jax.random.split(key, runs))
    log_z = np.stack([np.asarray(r.log_z, np.float64) for r in results]) - kalman(y, (0.9, 0.3, 1.0))[1]
    ratio = np.exp(log_z)
    assert np.all(np.abs(ratio.mean(1) - 1) < STANDARD_ERRORS * ratio.std(1) / np.sqrt(runs)), ratio.mean(1)
    assert np.all(log_z[:2].var(1) < 0.7 * log_z[2].var()), log_z.var(1)
    assert not any(np.any(r.status) for r in results)


def test_with_the_models_own_laws_it_is_the_bootstrap_filter(key):
    """The mixtures cancel: one move of a resampled cloud."""
    plain, x = space(True), np.linspace(-2, 2, 30, dtype=np.float32)
    models = smc.marginal(plain, plain.init, plain.transition, block_size=7), smc.bootstrap(plain)
    one, two = jax.jit(lambda k, x: [m.move(k, x, jnp.zeros(30), 0.4)[:2] for m in models])(key, x)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_allclose(one[1], two[1], rtol=1e-6, atol=2e-5)


def test_memory_grows_with_the_block_not_with_the_square(key):
    """Temporary bytes of a compiled move, by XLA's own count."""
    num, needed = 2048, []
    for size in (num, 32):
        model = smc.marginal(space(True), first, proposal, block_size=size)
        move = jax.jit(lambda k, x, m=model: m.move(k, x, jnp.zeros(num), 0.4)[1])
        needed.append(move.lower(key, jnp.zeros(num)).compile().memory_analysis().temp_size_in_bytes)
    assert needed[1] < 0.2 * needed[0], needed


@pytest.mark.bad_input
def test_bad_calls():
    with pytest.raises(ValueError, match="marginal: block_size must be an int >= 1"):
        smc.marginal(space(True), first, proposal, block_size=0)
    with pytest.raises(TypeError, match="marginal: proposal must be a function"):
        smc.marginal(space(True), first, None)
