"""Conditional SMC: the kernel enumerated, smoothing of a hidden chain by particle Gibbs, genealogies, misuse."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxsci import smc
from jaxsci.core import status
from smc import known
from tolerances import STANDARD_ERRORS

DRAWS = ("trace", "backward", "ancestor")


# --- the kernel, enumerated --------------------------------------------------------------------------------
# Two states, three times, three particles; G depends on the state before, so that no draw may leave it out.

START, STEP = np.array([0.6, 0.4]), np.array([[0.7, 0.3], [0.2, 0.8]])
FIRST_WEIGHT = np.array([0.9, 0.4])
WEIGHT = np.array([[[1.0, 0.3], [0.5, 0.8]], [[0.2, 0.9], [0.6, 0.35]]])  # of time 1 and 2, [before, now]
PATHS = list(itertools.product(range(2), repeat=3))


def path_law():
    """Probability of each of the eight paths."""
    law = [
        START[a] * FIRST_WEIGHT[a] * STEP[a, b] * WEIGHT[0, a, b] * STEP[b, c] * WEIGHT[1, b, c] for a, b, c in PATHS
    ]
    return np.array(law) / np.sum(law)


def resampling_law(weights):
    """Probability of every (a_0, a_1, a_2) of systematic ancestors turned around by a uniform number of places."""
    ends = 3 * np.cumsum(weights / np.sum(weights))
    borders = np.unique(np.concatenate([[0.0, 1.0], ends % 1]))
    law = {}
    for low, high in itertools.pairwise(borders):
        found = np.searchsorted(ends, np.arange(3) + (low + high) / 2, side="right").clip(max=2)
        for turn in range(3):
            key = tuple(np.roll(found, turn).tolist())
            law[key] = law.get(key, 0.0) + (high - low) / 3
    return law


def resamplings(weights, joint, draw):
    """(probability, ancestors) given that place 0 copies 0, or a particle drawn by weight times `joint`."""
    law = resampling_law(weights)
    pivots = np.array([1.0, 0.0, 0.0])
    if draw == "ancestor":
        pivots = weights * joint / np.sum(weights * joint)
    for ancestors, p in law.items():
        share = sum(q for other, q in law.items() if other[0] == ancestors[0])
        if pivots[ancestors[0]]:
            yield pivots[ancestors[0]] * p / share, ancestors


def new_paths(reference, draw):
    """Probability of each new path given the reference, by enumeration."""
    law = dict.fromkeys(PATHS, 0.0)
    free = list(itertools.product(range(2), repeat=2))
    for x0 in free:
        x0 = np.array([reference[0], *x0])
        p0, w0 = np.prod(START[x0[1:]]), FIRST_WEIGHT[x0]
        joint0 = STEP[x0, reference[1]] * WEIGHT[0, x0, reference[1]]
        for (pa, a1), x1 in itertools.product(resamplings(w0, joint0, draw), free):
            x1, a1 = np.array([reference[1], *x1]), np.array(a1)
            p1, w1 = pa * np.prod(STEP[x0[a1[1:]], x1[1:]]), WEIGHT[0, x0[a1], x1]
            joint1 = STEP[x1, reference[2]] * WEIGHT[1, x1, reference[2]]
            for (pb, a2), x2 in itertools.product(resamplings(w1, joint1, draw), free):
                x2, a2 = np.array([reference[2], *x2]), np.array(a2)
                p2, w2 = pb * np.prod(STEP[x1[a2[1:]], x2[1:]]), WEIGHT[1, x1[a2], x2]
                for k in range(3):
                    p = p0 * p1 * p2 * w2[k] / w2.sum()
                    if draw != "backward":
                        law[x0[a1[a2[k]]], x1[a2[k]], x2[k]] += p
                        continue
                    later = w1 * STEP[x1, x2[k]] * WEIGHT[1, x1, x2[k]]
                    for j in range(3):
                        first = w0 * STEP[x0, x1[j]] * WEIGHT[0, x0, x1[j]]
                        for i in range(3):
                            law[x0[i], x1[j], x2[k]] += p * later[j] / later.sum() * first[i] / first.sum()
    return np.array(list(law.values()))


@functools.cache
def kernel(draw):
    return np.array([new_paths(path, draw) for path in PATHS])


def _tiny_init(key, t):
    return jax.random.categorical(key, jnp.log(jnp.asarray(START, jnp.float32))).astype(jnp.int32)


def _tiny_next(key, x, t):
    return jax.random.categorical(key, jnp.log(jnp.asarray(STEP, jnp.float32))[x]).astype(jnp.int32)


def _tiny_weight(before, x, t):
    first = jnp.log(jnp.asarray(FIRST_WEIGHT, jnp.float32))[x]
    return first if before is None else jnp.log(jnp.asarray(WEIGHT, jnp.float32))[t - 1, before, x]


def _tiny_density(before, x, t):
    return jnp.log(jnp.asarray(STEP, jnp.float32))[before, x]


TINY = smc.FeynmanKac(_tiny_init, _tiny_next, _tiny_weight, log_propagate=_tiny_density)
TIMES = jnp.arange(3, dtype=jnp.int32)


@functools.partial(jax.jit, static_argnums=2)
def chains(keys, references, draw):
    def one(key, reference):
        result = smc.conditional(key, TINY, TIMES, reference, num_particles=3, draw=draw)
        return result.value @ jnp.array([4, 2, 1], jnp.int32), result.status

    return jax.vmap(one)(keys, references)


@pytest.mark.parametrize("draw", DRAWS)
def test_kernel_is_the_enumerated_one_and_leaves_the_law_of_paths_invariant(draw, key):
    exact = kernel(draw)
    np.testing.assert_allclose(exact.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(path_law() @ exact, path_law(), atol=1e-12)
    starts = np.repeat(np.arange(8), 6000)
    ends, codes = map(np.asarray, chains(jax.random.split(key, starts.size), jnp.array(PATHS)[starts], draw))
    assert not codes.any()
    found = np.histogram2d(starts, ends, bins=(np.arange(9) - 0.5,) * 2)[0] / 6000
    assert (np.abs(found - exact) <= STANDARD_ERRORS * np.sqrt(exact * (1 - exact) / 6000) + 1e-9).all()


def test_the_check_of_invariance_finds_draws_that_forget_the_weight():
    """Ancestors drawn from the transition alone: wrong here, where G depends on the state before."""
    global WEIGHT
    right, flat = WEIGHT, np.ones_like(WEIGHT)
    exact = kernel("backward")
    law = path_law()
    try:
        WEIGHT = flat
        wrong = np.array([new_paths(path, "backward") for path in PATHS])
    finally:
        WEIGHT = right
    assert np.abs(law @ exact - law).max() < 1e-12 < 1e-3 < np.abs(law @ wrong - law).max()


# --- particle Gibbs of a hidden chain ----------------------------------------------------------------------


def smoothing():
    """P(x_t | all observations), forward and backward in float64."""
    filtered, _ = known.forward_filter()
    rows = [filtered[-1]]
    for alpha in filtered[-2::-1]:
        joint = alpha[:, None] * known.CHAIN
        rows.append((joint / joint.sum(0)) @ rows[-1])
    return np.array(rows[::-1])


class Categorical:
    """The least of a law on whole numbers."""

    def __init__(self, probs):
        self.log_probs = jnp.log(jnp.asarray(probs, jnp.float32))
        self.batch_shape = self.log_probs.shape[:-1]

    def sample(self, *, seed, sample_shape=()):
        shape = (*sample_shape, *self.batch_shape)
        return jax.random.categorical(seed, self.log_probs, shape=shape).astype(jnp.int32)

    def log_prob(self, x):
        return jnp.take_along_axis(self.log_probs, jnp.asarray(x)[..., None], axis=-1)[..., 0]


HMM = smc.state_space(
    lambda y: Categorical(known.PI),
    lambda x, y: Categorical(jnp.asarray(known.CHAIN)[x]),
    lambda x, y: Categorical(jnp.asarray(known.EMISSION)[x]),
    batched=True,
)


@functools.partial(jax.jit, static_argnums=1)
def gibbs_chains(keys, draw):
    def one(key):
        result = smc.gibbs(key, HMM, jnp.asarray(known.SYMBOLS), num_particles=4, num_steps=300, draw=draw)
        return jax.nn.one_hot(result.value[1][50:], 3).mean(0), result.status

    return jax.vmap(one)(keys)


@pytest.mark.parametrize(
    "draw", ["backward", *(pytest.param(d, marks=pytest.mark.full) for d in ("trace", "ancestor"))]
)
def test_particle_gibbs_smooths_a_hidden_chain(draw, key):
    exact = smoothing()
    np.testing.assert_allclose(exact[:, 0], [0.710460, 0.299518, 0.164549, 0.146624, 0.379146, 0.226176], atol=1e-6)
    means, codes = map(np.asarray, gibbs_chains(jax.random.split(key, 100), draw))
    error = means.std(0, ddof=1) / 10  # of independent chains
    assert not codes.any() and (np.abs(means.mean(0) - exact) <= STANDARD_ERRORS * error).all()


SEQUENCES = np.array(list(itertools.product(range(3), repeat=6)))


def sequence_law():
    """P(x_0 ... x_5 | all observations) of all 729 sequences."""
    x = SEQUENCES
    law = known.PI[x[:, 0]] * known.EMISSION[x[:, 0], known.SYMBOLS[0]]
    for t in range(1, 6):
        law = law * known.CHAIN[x[:, t - 1], x[:, t]] * known.EMISSION[x[:, t], known.SYMBOLS[t]]
    assert abs(np.log(law.sum()) - known.HMM_LOG_Z) < 1e-12
    return law / law.sum()


@pytest.mark.full
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("num_particles", [2, 5])
def test_one_step_from_the_law_of_all_sequences_stays_in_it(num_particles, draw, key):
    law, num = sequence_law(), 100_000
    starts = np.random.default_rng(1).choice(729, num, p=law)

    @jax.jit
    @jax.vmap
    def once(key, path):
        return smc.conditional(key, HMM, known.SYMBOLS, path, num_particles=num_particles, draw=draw).value

    paths = np.asarray(once(jax.random.split(key, num), jnp.asarray(SEQUENCES, jnp.int32)[starts]))
    counts = np.bincount(paths @ 3 ** np.arange(5, -1, -1), minlength=729)
    # Sequences that are expected less than five times count as one: some have a probability of 1e-8.
    rare = num * law < 5
    counts, expected = (np.append(a[~rare], a[rare].sum()) for a in (counts, num * law))
    freedom = counts.size - 1
    chi2 = np.sum((counts - expected) ** 2 / expected)
    assert chi2 / freedom < 1 + STANDARD_ERRORS * np.sqrt(2 / freedom)
    # Between times 0 and 5 nearly all ancestors of two particles are those of the reference.
    changed = np.mean(paths[:, 0] != SEQUENCES[starts, 0])
    assert changed < 0.05 if (num_particles, draw) == (2, "trace") else changed > 0.05


# --- parameters, genealogy, thresholds ---------------------------------------------------------------------


def _next_mean(mean, key, x, y):
    return mean + jax.random.normal(key)


def _gaussian(mean):
    return smc.FeynmanKac(
        Partial(lambda m, key, y: m + jax.random.normal(key), mean),
        Partial(_next_mean, mean),
        lambda before, x, y: -0.5 * (y - x) ** 2,
        log_propagate=Partial(lambda m, before, x, y: -0.5 * (x - m) ** 2, mean),
    )


def _conjugate(key, mean, path, inputs):
    """m ~ N(0, 1) given independent x_t ~ N(m, 1)."""
    variance = 1 / (1 + path.shape[0])
    return variance * jnp.sum(path) + jnp.sqrt(variance) * jax.random.normal(key)


def test_parameters_and_path_are_drawn_from_their_joint_law(key):
    """x_t ~ N(m, 1), y_t ~ N(x_t, 1), m ~ N(0, 1): given T observations m ~ N(sum y / (T + 2), 2 / (T + 2))."""
    y = jnp.array([0.5, 2.0, 1.0, 3.0])

    def one(key):
        options = dict(num_particles=5, num_steps=200, parameters=jnp.float32(0), update=_conjugate)
        return smc.gibbs(key, _gaussian, y, **options).value[0][40:]

    means = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, 60)))
    for found, exact in ((means, 6.5 / 6), ((means - 6.5 / 6) ** 2, 2 / 6)):
        per_chain = found.mean(1)
        assert abs(per_chain.mean() - exact) <= STANDARD_ERRORS * per_chain.std(ddof=1) / np.sqrt(60)


def test_parameters_that_are_not_finite_are_told(key):
    options = dict(num_particles=3, num_steps=2)

    def bits(start, update):
        return int(smc.gibbs(key, _gaussian, jnp.zeros(3), parameters=start, update=update, **options).status)

    assert bits(jnp.float32(0), None) == 0
    assert bits(jnp.float32(jnp.inf), lambda *_: jnp.float32(0)) & status.NONFINITE_INPUT
    assert bits(jnp.float32(0), lambda key, mean, path, inputs: mean + jnp.inf) & status.NONFINITE_RESULT


def test_lineage_is_the_path_that_particles_remember(key):
    options = dict(num_particles=50, ess_threshold=0.7, store=("particles", "ancestors"))
    y = jnp.asarray(known.series()[:12])
    result = smc.run(key, smc.with_lag(known.linear(), 11), y, **options)
    indices = np.asarray(smc.lineage(result.history.ancestors, jnp.arange(50)))
    now = np.asarray(result.history.particles.now)
    paths = np.take_along_axis(now, indices, axis=1)
    np.testing.assert_array_equal(paths[-2::-1].T, result.value.particles.past)
    np.testing.assert_array_equal(indices[0], result.state.eves)
    distinct = [len(set(row)) for row in indices]
    assert distinct == sorted(distinct) and distinct[-1] == 50


@pytest.mark.full
def test_a_low_threshold_keeps_the_law(key):
    @jax.jit
    def one(key):
        options = dict(num_particles=3, num_steps=400, ess_threshold=0.6)
        return jax.vmap(lambda k: smc.gibbs(k, TINY, TIMES, **options).value[1])(jax.random.split(key, 60))

    paths = np.asarray(one(key))[:, 30:] @ np.array([4, 2, 1])
    shares = np.stack([(paths == i).mean(1) for i in range(8)], 1)
    error = shares.std(0, ddof=1) / np.sqrt(60)
    assert (np.abs(shares.mean(0) - path_law()) <= STANDARD_ERRORS * error).all()


# --- bad input ---------------------------------------------------------------------------------------------


def test_a_reference_without_weight_is_told():
    model = TINY._replace(log_potential=lambda before, x, t: jnp.where(x == 0, 0.0, -jnp.inf))
    result = smc.conditional(jax.random.key(0), model, TIMES, jnp.array([0, 1, 0], jnp.int32), num_particles=4)
    assert int(result.status) & status.OUT_OF_RANGE


KEY = jax.random.key(0)
BAD = {
    "draw": (lambda: smc.conditional(KEY, TINY, TIMES, num_particles=3, draw="forward"), ValueError, "draw must be"),
    "one particle": (lambda: smc.conditional(KEY, TINY, TIMES, num_particles=1), ValueError, "int >= 2"),
    "model": (lambda: smc.conditional(KEY, known.HMM, TIMES, num_particles=3), TypeError, "FeynmanKac or an smc.State"),
    "no density": (
        lambda: smc.gibbs(KEY, TINY._replace(log_propagate=None), TIMES, num_particles=3, num_steps=1),
        ValueError,
        "give the model's log_propagate, or take draw='trace'",
    ),
    "lengths": (
        lambda: smc.conditional(KEY, TINY, TIMES, jnp.zeros(2, jnp.int32), num_particles=3),
        ValueError,
        "one length T",
    ),
    "no parameters": (
        lambda: smc.gibbs(KEY, TINY, TIMES, num_particles=3, num_steps=1, update=_conjugate),
        ValueError,
        "none to start from",
    ),
    "ancestors": (lambda: smc.lineage(jnp.zeros(3, jnp.int32), 0), ValueError, r"T and N, got shape \(3,\)"),
    "real ancestors": (lambda: smc.lineage(jnp.zeros((3, 3)), 0), TypeError, "must be integers"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=match):
        call()
