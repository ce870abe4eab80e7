"""Running sums and offspring at sizes where float32 sums fail, published noise of the schemes, the conditional law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import smc
from pallas_kernels.resample import ancestors, prefix
from tolerances import STANDARD_ERRORS

R = smc.resamplers
PREFIX = jax.jit(prefix, static_argnums=1)


def _conditional(keys, log_weights, num_out, pivot, slot):
    return jax.vmap(lambda k: R.conditional_systematic(k, log_weights, num_out, pivot=pivot, slot=slot))(keys)


CONDITIONAL = jax.jit(_conditional, static_argnums=2)


def weight_laws(rng, size):
    half = rng.random(size)
    half[rng.random(size) < 0.5] = 0
    tilted = np.exp(-2 * (rng.standard_normal(size) - 2) ** 2)
    laws = {"uniform": np.ones(size), "gamma": rng.gamma(0.1, size=size), "half": half, "tilted": tilted}
    return {name: weights.astype(np.float32) for name, weights in laws.items()}


def exact_shares(log_weights, num_out):
    weights = np.exp(log_weights.astype(np.float64))
    return weights * (num_out / weights.sum())


def check_offspring(weights, num_out):
    """Monotone sums that stand still at zero weights and end at M; systematic counts are floors or ceilings."""
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    whole, fraction = map(np.asarray, PREFIX(weights, num_out))
    assert whole.dtype == np.int32 and fraction.dtype == np.float32 and np.all((fraction >= 0) & (fraction < 1))
    sums = whole + fraction.astype(np.float64)
    steps = np.diff(np.concatenate([[0.0], sums]))
    assert np.all(steps >= 0) and not steps[weights == 0].any() and sums[-1] == num_out
    drawn = R.systematic(jax.random.key(3), log_weights, num_out)
    offspring = np.bincount(drawn, minlength=len(weights))
    shares = exact_shares(log_weights, num_out)
    assert np.all((offspring >= np.floor(shares)) & (offspring <= np.ceil(shares)))  # |O - M W| < 1, exactly
    assert not offspring[weights == 0].any()


def test_offspring_of_a_hundred_thousand_in_float32():
    rng = np.random.default_rng(0)
    for weights in weight_laws(rng, 100_000).values():
        check_offspring(weights, 100_000)


@pytest.mark.full
@pytest.mark.parametrize("size", [1_000_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_offspring_of_millions_in_float32(size):
    for weights in weight_laws(np.random.default_rng(0), size).values():
        check_offspring(weights, size)


def test_running_sums_of_few_weights():
    for weights in ([1.0], [0.0, 1.0], [1.0, 0.0], [1e-30, 1e30], [3.0, 1.0, 0.0, 4.0]):
        weights = np.asarray(weights, np.float32)
        check_offspring(weights, 7)


def test_ancestors_are_what_a_search_finds():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(50, rng.dirichlet(np.full(30, 0.2)))
    found = ancestors(jnp.asarray(np.cumsum(counts), jnp.int32), 50)
    np.testing.assert_array_equal(found, np.repeat(np.arange(30), counts))


TOTAL_VARIATION = {  # of counts / N from W with x ~ N(0, 1), log w = -tau (1 - x)^2 / 2, N = 10^4, tau = 1, 5, 10
    "multinomial": (0.3695, 0.2796, 0.2380),
    "residual": (0.2591, 0.1523, 0.1081),
    "stratified": (0.2136, 0.1331, 0.0976),
    "systematic": (0.1719, 0.1071, 0.0751),
    "ssp": (0.1720, 0.1075, 0.0750),
}


@pytest.mark.parametrize("name", TOTAL_VARIATION)
def test_noise_of_the_schemes_is_that_of_the_particles_package(name, key):
    """Means over 20 runs of `particles` 0.4, which agree with ours within 2 %."""
    size, runs = 10_000, 20
    x = np.random.default_rng(1).standard_normal((runs, 1, size))
    log_weights = (-np.array([1.0, 5.0, 10.0])[:, None] * (1 - x) ** 2 / 2).astype(np.float32)
    run = jax.jit(jax.vmap(jax.vmap(lambda k, w: getattr(R, name)(k, w, size), (None, 0))))
    drawn = np.asarray(run(jax.random.split(key, runs), log_weights)).reshape(-1, size)
    shares = np.exp(log_weights.astype(np.float64)).reshape(-1, size)
    shares /= shares.sum(1, keepdims=True)
    counts = np.stack([np.bincount(row, minlength=size) for row in drawn])
    distance = np.abs(counts / size - shares).sum(1).reshape(runs, 3).mean(0) / 2
    np.testing.assert_allclose(distance, TOTAL_VARIATION[name], rtol=0.02)


@jax.jit
def _in_any_order(keys, log_weights):
    return jax.vmap(lambda k: R.multinomial(k, log_weights, 2, ordered=False))(keys)


def test_independent_draws_in_the_order_in_which_they_fell(key):
    """The joint law of two draws is the product of the weights, as it must be for proposals of a Markov chain."""
    weights, draws = np.array([0.5, 0.2, 0.3]), 20_000
    first, second = np.asarray(_in_any_order(jax.random.split(key, draws), np.log(weights))).T
    found = np.bincount(3 * first + second, minlength=9) / draws
    law = np.outer(weights, weights).ravel()
    assert np.all(np.abs(found - law) < STANDARD_ERRORS * np.sqrt(law * (1 - law) / draws)), found


@pytest.mark.parametrize("pivot", [0, 1, 2])
def test_conditional_systematic_has_the_conditional_law(pivot, key):
    """All outcomes on a fine grid of the uniform number, turned around, given the ancestor at a slot."""
    weights, size, slot, grid = np.array([0.55, 0.15, 0.3]), 3, 2, 3000
    outcomes = {}
    for u in (np.arange(grid) + 0.5) / grid:
        found = np.searchsorted(np.cumsum(weights), (np.arange(size) + u) / size, side="right")
        for turn in range(size):
            turned = tuple(np.roll(found, turn))
            if turned[slot] == pivot:
                outcomes[turned] = outcomes.get(turned, 0) + 1
    total, draws = sum(outcomes.values()), 20_000

    drawn = np.asarray(CONDITIONAL(jax.random.split(key, draws), np.log(weights), size, pivot, slot))
    kinds, counts = np.unique(drawn, axis=0, return_counts=True)
    found = {tuple(kind): count / draws for kind, count in zip(kinds.tolist(), counts)}
    assert set(found) <= set(outcomes)
    for kind, count in outcomes.items():
        p = count / total
        assert abs(found.get(kind, 0) - p) <= STANDARD_ERRORS * np.sqrt(p * (1 - p) / draws) + 1 / grid
