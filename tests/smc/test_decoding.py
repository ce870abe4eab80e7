"""Decoding on trees whose laws are enumerated; caches; ends of sequences; what cannot be decoded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxsci import nn
from jaxsci.core import status
from jaxsci.core.protocols import SequenceModel
from jaxsci.smc import decoding
from smc import trees
from smc.trees import DEPTH, LOG_POLICY, MODEL, REWARD, REWARDS, RIGHT, V
from tolerances import STANDARD_ERRORS


@functools.partial(jax.jit, static_argnums=1, static_argnames=("weight", "target"))
def filtered(keys, num, model=MODEL, reward=REWARD, **options):
    def one(key):
        return decoding.particle_filter(key, model, reward, [], num_particles=num, max_tokens=DEPTH, **options)

    return jax.vmap(one)(keys)


def within(found, exact):
    """The mean of independent numbers is the exact one."""
    found = np.asarray(found, np.float64)
    return abs(found.mean() - exact) <= STANDARD_ERRORS * found.std(ddof=1) / np.sqrt(found.size)


# --- the law -----------------------------------------------------------------------------------------------

PUBLISHED = {  # log Z and P(answer 0)
    ("odds", "product"): (4.680869, 0.862607),
    ("odds", "last"): (1.055175, 0.413986),
    ("odds", "outcome"): (1.055175, 0.413986),
    ("probability", "product"): (None, 0.401059),
    ("exponential", "product"): (None, 0.334933),
}


@pytest.mark.parametrize(("weight", "target"), PUBLISHED)
def test_posterior_of_the_tree_has_the_published_figures(weight, target):
    log_z, law = decoding.tree_posterior(LOG_POLICY, REWARDS, weight=weight, target=target)
    expected, right = PUBLISHED[weight, target]
    assert expected is None or abs(log_z - expected) < 1e-6
    assert abs(law.sum() - 1) < 1e-12 and abs(law[RIGHT].sum() - right) < 1e-6
    assert abs(trees.policy_law()[RIGHT].sum() - 0.305097) < 1e-6


@pytest.mark.parametrize(
    ("weight", "target"), [("odds", "last"), *(pytest.param(*c, marks=pytest.mark.full) for c in list(PUBLISHED)[2:])]
)
def test_means_times_the_constant_are_unbiased(weight, target, key):
    log_z, law = decoding.tree_posterior(LOG_POLICY, REWARDS, weight=weight, target=target)
    result = filtered(jax.random.split(key, 4000), 16, weight=weight, target=target)
    assert not np.asarray(result.status).any()
    weights = np.exp(np.asarray(result.value.log_weights)) / 16
    z = np.exp(np.asarray(result.log_z) - log_z)
    right = (weights * RIGHT[trees.leaves(result.value.tokens)]).sum(1)
    assert within(z, 1) and within(z * right, law[RIGHT].sum())


def test_annealing_of_the_reward_leaves_the_target_of_the_last_weight(key):
    tau = np.linspace(4, 1, DEPTH)
    log_z, law = decoding.tree_posterior(LOG_POLICY, REWARDS, target="last")
    result = filtered(jax.random.split(key, 4000), 16, target="last", reward_temperature=jnp.asarray(tau, jnp.float32))
    z = np.exp(np.asarray(result.log_z) - log_z)
    weights = np.exp(np.asarray(result.value.log_weights)) / 16
    right = (weights * RIGHT[trees.leaves(result.value.tokens)]).sum(1)
    assert within(z, 1) and within(z * right, law[RIGHT].sum())
    annealed, _ = decoding.tree_posterior(LOG_POLICY, REWARDS, reward_temperature=tau)
    z = np.exp(np.asarray(filtered(jax.random.split(key, 4000), 16, reward_temperature=jnp.asarray(tau)).log_z))
    assert within(z / np.exp(annealed), 1) and annealed < 4.68


def squared_error(key, num, runs):
    """Mean squared distance of the weighted leaves to the exact law."""
    _, law = decoding.tree_posterior(LOG_POLICY, REWARDS, weight="probability")
    value = filtered(jax.random.split(key, runs), num, weight="probability").value
    weights = np.exp(np.asarray(value.log_weights, np.float64)) / num
    place = (np.arange(runs)[:, None] * V**DEPTH + trees.leaves(value.tokens)).ravel()
    found = np.bincount(place, weights.ravel(), minlength=runs * V**DEPTH).reshape(runs, -1)
    return np.mean(np.sum((found - law) ** 2, axis=1))


def test_squared_distance_to_the_law_falls_as_one_over_the_particles(key):
    sizes = np.array([32, 128, 512])
    errors = [squared_error(key, int(num), 19200 // int(num) + 200) for num in sizes]
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert abs(slope + 1) < 0.1, (slope, errors)


def test_particle_gibbs_has_the_law_of_the_tree(key):
    log_z, law = decoding.tree_posterior(LOG_POLICY, REWARDS)

    @jax.jit
    @jax.vmap
    def chain(key):
        return decoding.particle_gibbs(key, MODEL, REWARD, [], num_particles=8, num_steps=150, max_tokens=DEPTH)

    result = chain(jax.random.split(key, 60))
    assert not np.asarray(result.status).any()
    found = trees.leaves(result.value.tokens)[:, 30:]
    assert within(RIGHT[found].mean(1), law[RIGHT].sum())
    assert within((found == np.argmax(law)).mean(1), law.max())
    # The reference is particle 0 of the next cloud.
    clouds = trees.leaves(result.history.tokens)
    np.testing.assert_array_equal(clouds[:, 1:, 0], trees.leaves(result.value.tokens)[:, :-1])


# --- baselines against brute force -------------------------------------------------------------------------


def test_best_of_n_is_the_brute_force_one(key):
    @jax.jit
    @jax.vmap
    def run(key):
        return decoding.best_of_n(key, MODEL, REWARD, [], num_particles=4, max_tokens=DEPTH)

    result = run(jax.random.split(key, 4000))
    value, found = result.value, trees.leaves(result.value.tokens)
    logits = trees.REWARD_LOGITS[-1]
    np.testing.assert_allclose(value.log_scores, logits[found], atol=1e-4)
    np.testing.assert_allclose(value.log_probs, np.log(trees.policy_law())[found], atol=1e-4)
    np.testing.assert_array_equal(result.best, np.argmax(logits[found], axis=1))
    # The best of four independent leaves: F(s)^4 - F(s-)^4 of the scores.
    order = np.argsort(logits)
    below = np.cumsum(trees.policy_law()[order])
    law = np.empty_like(below)
    law[order] = np.diff(np.r_[0, below] ** 4)
    winners = found[np.arange(4000), np.asarray(result.best)]
    p = law[RIGHT].sum()
    assert abs(RIGHT[winners].mean() - p) <= STANDARD_ERRORS * np.sqrt(p * (1 - p) / 4000)
    assert np.asarray(value.finished).all() and (np.asarray(value.lengths) == DEPTH).all()


def brute_force_beam(num_beams, num_children, tau, policy_weight):
    """[(value, leaf)] of the last candidates, best first."""
    beams = [(0.0, 0, 0.0)]
    for t in range(DEPTH):
        candidates = []
        for _, prefix, log_p in beams:
            for a in np.argsort(-LOG_POLICY[t][prefix], kind="stable")[:num_children]:
                child, p = prefix * V + a, log_p + LOG_POLICY[t][prefix, a]
                candidates.append((trees.REWARD_LOGITS[t][child] / tau + policy_weight * p, child, p))
        candidates.sort(key=lambda c: -c[0])
        beams = candidates[:num_beams]
    return [(value, leaf) for value, leaf, _ in candidates]


@pytest.mark.parametrize(
    ("num_beams", "num_children"), [(3, 4), *(pytest.param(*c, marks=pytest.mark.full) for c in ((1, 4), (4, 2)))]
)
def test_beam_search_is_the_brute_force_one(num_beams, num_children):
    for tau, policy_weight in ((1.0, 0.0), (1.0, 1.0), (2.5, 0.3)):
        result = decoding.beam_search(
            None, MODEL, REWARD, [], num_beams=num_beams, num_children=num_children, max_tokens=DEPTH,
            reward_temperature=tau, policy_weight=policy_weight,
        )  # fmt: skip
        expected = brute_force_beam(num_beams, num_children, tau, policy_weight)
        log_weights, found = np.asarray(result.value.log_weights), trees.leaves(result.value.tokens)
        order = np.argsort(-log_weights)[: len(expected)]
        np.testing.assert_array_equal(found[order], [leaf for _, leaf in expected])
        values = np.array([value for value, _ in expected])
        np.testing.assert_allclose(log_weights[order] - log_weights[order[0]], values - values[0], atol=1e-4)
        assert int(result.status) == 0 and found[result.best] == expected[0][1]


def winners(p, scores, draws):
    """Law of the highest of some draws from p."""
    order = np.argsort(scores)
    law = np.empty(len(p))
    law[order] = np.diff(np.r_[0, np.cumsum(p[order])] ** draws)
    return law


def test_beam_search_with_drawn_children_has_the_enumerated_law(key):
    """One beam of three children, two tokens: the best of three draws, twice."""
    found = jax.jit(
        jax.vmap(lambda k: decoding.beam_search(k, MODEL, REWARD, [], num_beams=1, num_children=3, max_tokens=2))
    )(jax.random.split(key, 4000))
    tokens = np.asarray(found.value.tokens)[np.arange(4000), np.asarray(found.best)]
    law = winners(trees.POLICY[0][0], trees.REWARD_LOGITS[0], 3)[:, None] * np.stack(
        [winners(trees.POLICY[1][a], trees.REWARD_LOGITS[1][V * a : V * a + V], 3) for a in range(V)]
    )
    shares = np.bincount(tokens @ [V, 1], minlength=V * V) / 4000
    law = law.ravel()
    assert (np.abs(shares - law) <= STANDARD_ERRORS * np.sqrt(law * (1 - law) / 4000) + 1e-9).all()


def test_weighted_majority_is_the_brute_force_one(key):
    log_weights = np.array([0.3, -1.0, 2.0, np.nan, -np.inf, 0.1], np.float32)
    answers = np.array([0, 2, 2, 1, 1, 7])
    weights = np.array([np.exp(0.3), 0, np.exp(-1) + np.exp(2)])
    np.testing.assert_allclose(decoding.majority(answers, log_weights, 3), weights / weights.sum(), rtol=1e-5)
    np.testing.assert_array_equal(decoding.majority(answers, np.full(6, -np.inf, np.float32), 3), np.zeros(3))
    np.testing.assert_allclose(decoding.majority([1, 1, 0], np.zeros(3) - 500, 2), [1 / 3, 2 / 3], rtol=1e-5)


# --- equal budget, noisy reward ----------------------------------------------------------------------------


def goal_tree():
    """Log-policy, log-odds of the perfect reward, results: +1, times 2, -3, +5, five times from 1; right is 15.

    A fifth of what the policy draws is right by intention, the rest is drawn uniformly.
    """
    results = np.array([1])
    for _ in range(5):
        results = np.stack([results + 1, 2 * results, results - 3, results + 5], axis=1).reshape(-1)
    right = results == 15
    mass = [0.8 / right.size + 0.2 * right / right.sum()]
    for _ in range(5):
        mass.insert(0, mass[0].reshape(-1, 4).sum(1))
    policy = [b.reshape(-1, 4) / a[:, None] for a, b in zip(mass, mass[1:])]
    value = [right.astype(float)]
    for p in policy[:0:-1]:
        value.insert(0, (value[0].reshape(-1, 4) * p).sum(1))
    odds = [np.log(v / (1 - v)) for v in (np.clip(v, 0.02, 0.98) for v in value)]
    return trees.as_float32(map(np.log, policy)), trees.as_float32(odds), results


@pytest.mark.full
def test_at_equal_budget_the_filter_beats_best_of_n_and_beam_search_under_noise_and_loses_where_it_must(key):
    """Eight sequences; the log-odds of the reward are off by normal numbers, drawn anew for every run."""
    policy, odds, results = goal_tree()
    answers, num_answers = jnp.asarray(results - results.min()), int(np.ptp(results)) + 1
    runs, budget = 600, dict(max_tokens=5)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def rights(key, sigma):
        keys = jax.random.split(key, 3)
        errors = [jax.random.normal(jax.random.fold_in(keys[0], t), a.shape) for t, a in enumerate(odds)]
        tree = decoding.tree(policy, [jax.nn.sigmoid(a + sigma * e) for a, e in zip(odds, errors)])

        def answer(result):
            return answers[result.value.tokens @ jnp.asarray(trees.PLACES)]

        def filtered(tau):
            options = dict(num_particles=8, reward_temperature=tau, **budget)
            result = decoding.particle_filter(keys[1], *tree, [], **options)
            return jnp.argmax(decoding.majority(answer(result), result.value.log_weights, num_answers))

        beams = dict(num_beams=2, num_children=4, **budget)
        rivals = (
            decoding.best_of_n(keys[2], *tree, [], num_particles=8, **budget),
            decoding.beam_search(keys[2], *tree, [], **beams),
            decoding.beam_search(None, *tree, [], **beams),
        )
        found = [*jax.vmap(filtered)(jnp.stack([1 + sigma**2 / 4, jnp.ones(())])), *(answer(r)[r.best] for r in rivals)]
        return jnp.stack(found) == 15 - int(results.min())

    keys = jax.random.split(key, runs)
    for sigma in (0.0, 3.0, 6.0):
        tempered, plain, best, drawn, everything = np.asarray(rights(keys, jnp.float32(sigma))).mean(0)
        print(sigma, tempered, plain, best, drawn, everything)
        error = STANDARD_ERRORS * np.sqrt(0.25 / runs)  # 0.1
        if sigma == 0:
            assert everything == 1 and tempered > best + 0.05  # nothing speaks against taking the best
        elif sigma == 3:
            assert tempered >= max(best, drawn, everything) + 0.05
        else:
            assert tempered > max(best, drawn, everything) + error
            assert plain < best  # a reward trusted beyond its worth: copies of lucky errors


# --- zero weights, caches, ends ----------------------------------------------------------------------------


def test_branches_of_weight_zero_are_never_taken(key):
    """Half of all tokens are impossible, and half of all prefixes have a reward of zero: no child of either."""
    rng = np.random.default_rng(5)
    log_policy = [np.where(rng.random(p.shape) < 0.4, -np.inf, p) for p in LOG_POLICY]
    for p in log_policy:
        p[np.all(p == -np.inf, axis=1), 0] = 0.0
    rewards = [np.where(rng.random(r.size) < 0.4, 0.0, r) for r in REWARDS]
    tree = decoding.tree(trees.as_float32(log_policy), trees.as_float32(rewards))
    result = filtered(jax.random.split(key, 200), 64, *tree, weight="probability", ess_threshold=1.0)
    tokens, alive = np.asarray(result.value.tokens), np.exp(np.asarray(result.value.log_weights)) > 0
    failed = np.asarray(result.status) & status.DEGENERATE != 0
    assert not np.asarray(result.status)[~failed].any() and failed.mean() < 0.2
    prefix = np.zeros(tokens.shape[:2], int)
    for t in range(DEPTH):
        assert (log_policy[t][prefix, tokens[..., t]] > -np.inf).all(), "an impossible token was drawn"
        prefix = prefix * V + tokens[..., t]
        if t + 1 < DEPTH:
            assert (rewards[t][prefix][~failed] > 0).all(), "a prefix of weight zero has a child"
    np.testing.assert_array_equal((rewards[-1][prefix] > 0)[~failed], alive[~failed])


def _tally(memory, token):
    return 0.8 * memory + jnp.sin(token.astype(jnp.float32))


TALLY = decoding.Reward(lambda prompt: jnp.float32(0), Partial(_tally), lambda memory: jax.nn.sigmoid(memory))


def test_decoding_with_a_cache_is_decoding_without(key):
    params, cfg = trees.decoder(key)
    options = dict(num_particles=12, max_tokens=20, stop=3, target="last", ess_threshold=1.0)
    prompt = jnp.array([1, 5, 2])
    cached = nn.transformer.sequence_model(params, cfg)
    results = [
        decoding.particle_filter(key, model, TALLY, prompt, **options)
        for model in (cached, trees.without_cache(params, cfg, 32))
    ]
    np.testing.assert_array_equal(results[0].value.tokens, results[1].value.tokens)
    for name in ("log_weights", "log_scores", "log_probs"):
        np.testing.assert_allclose(*(getattr(r.value, name) for r in results), atol=2e-4)
    # Every permuted cache is that of its own tokens: log-probabilities of a single pass over them.
    tokens, lengths = np.asarray(results[0].value.tokens), np.asarray(results[0].value.lengths)
    assert len(set(lengths)) > 1 and np.asarray(results[0].history.resampled)[1:].all()

    @jax.jit
    @jax.vmap
    def pass_over(row):
        tokens = jnp.concatenate([prompt, jnp.maximum(row, 0)])
        h = nn.transformer.apply(params, cfg, params["embedding"][tokens], mask=nn.attention.causal_mask(tokens.size))
        law = jax.nn.log_softmax(h @ params["head"]["kernel"])[prompt.size - 1 : -1]
        return jnp.sum(jnp.where(row >= 0, jnp.take_along_axis(law, jnp.maximum(row, 0)[:, None], 1)[:, 0], 0))

    np.testing.assert_allclose(pass_over(tokens), results[0].value.log_probs, atol=2e-3)
    for row, length, done in zip(tokens, lengths, np.asarray(results[0].value.finished)):
        assert (row[:length] >= 0).all() and (row[length:] == -1).all()
        assert done == (row[length - 1] == 3) and (row[: length - 1] != 3).all()
    assert (np.asarray(results[0].value.finished).all()) == (int(results[0].status) & status.MAX_STEPS == 0)


def test_a_stop_that_never_comes_is_told_and_one_at_once_is_a_sequence_of_one():
    uniform = [np.zeros((V**t, V), np.float32) for t in range(DEPTH)]
    never = [p.copy() for p in uniform]
    at_once = [p.copy() for p in uniform]
    for p, q in zip(never, at_once):
        p[:, 3] = -np.inf
        q[:, :3] = -np.inf
    found = {}
    for name, policy in (("never", never), ("at once", at_once), ("mixed", uniform)):
        model, reward = decoding.tree(policy, trees.as_float32(REWARDS))
        options = dict(num_particles=32, max_tokens=DEPTH, stop=3)
        found[name] = decoding.particle_filter(jax.random.key(0), model, reward, [], **options)
    assert int(found["never"].status) == status.MAX_STEPS and not np.asarray(found["never"].value.finished).any()
    assert int(found["at once"].status) == 0 and (np.asarray(found["at once"].value.lengths) == 1).all()
    lengths, finished = (np.asarray(a) for a in found["mixed"].value[1:6:4])
    assert (finished == (np.asarray(found["mixed"].value.tokens) == 3).any(1)).all() and len(set(lengths)) > 2
    beam = decoding.beam_search(None, model, reward, [], num_beams=4, num_children=4, max_tokens=DEPTH, stop=3)
    tokens = np.asarray(beam.value.tokens)[np.asarray(beam.value.log_weights) > -np.inf]
    assert len({tuple(row) for row in tokens.tolist()}) == len(tokens), "an ended beam stands for itself once"


def _constant(value):
    return decoding.Reward(lambda prompt: jnp.float32(value), lambda memory, token: memory, lambda memory: memory)


@pytest.mark.parametrize(
    ("value", "weight", "expected"),
    [
        (np.nan, "odds", status.NONFINITE_INPUT | status.DEGENERATE),
        (-np.inf, "exponential", status.DEGENERATE),
        (-np.inf, "odds", status.OUT_OF_RANGE | status.DEGENERATE),
        (1.5, "probability", status.OUT_OF_RANGE | status.DEGENERATE),
        (np.inf, "exponential", status.NONFINITE_RESULT),
        (1.0, "odds", 0),
    ],
)
def test_rewards_that_hold_no_law_are_told(value, weight, expected):
    options = dict(num_particles=8, max_tokens=DEPTH, weight=weight)
    result = decoding.particle_filter(jax.random.key(0), MODEL, _constant(value), [], **options)
    assert int(result.status) == expected
    assert np.isfinite(np.asarray(result.value.log_weights)).all()
    assert np.isfinite(float(result.log_z)) == (expected == 0)


def test_a_model_without_a_possible_token_kills_the_particle():
    policy = [p.copy() for p in LOG_POLICY]
    policy[1][3] = -np.inf  # nothing follows the token 3
    model, reward = decoding.tree(trees.as_float32(policy), trees.as_float32(REWARDS))
    result = decoding.particle_filter(
        jax.random.key(0), model, reward, [], num_particles=64, max_tokens=DEPTH, ess_threshold=0.0
    )
    first = np.asarray(result.value.tokens)[:, 0]
    np.testing.assert_array_equal(np.asarray(result.value.log_weights) == -np.inf, first == 3)
    assert int(result.status) == 0 and (first == 3).any()


# --- imperfect verifiers -----------------------------------------------------------------------------------

TYPES = dict(success=[0.87, 0.13], prior=[0.58, 0.42], soundness=0.75)


@functools.cache
def verified(cost, survival="exact"):
    return decoding.resampling_law(num_attempts=200, cost=cost, survival=survival, **TYPES)


def test_resampling_with_an_imperfect_verifier_has_the_published_figures():
    law, places = verified(0.0), np.array([1, 2, 5, 10, 100]) - 1
    np.testing.assert_allclose(law.right[places], [0.5592, 0.644025, 0.697647, 0.714038, 0.716236], atol=1e-6)
    np.testing.assert_allclose(law.wrong[places], [0.1102, 0.171644, 0.252671, 0.280087, 0.283764], atol=1e-6)
    for cost, exact, published in (
        (0.0, (None, 0.716236), (None, 0.869923)),
        (0.7, (3, 0.524567), (3, 0.554134)),
        (1.0, (2, 0.472381), (2, 0.488433)),
        (2.0, (1, 0.338800), (1, 0.338800)),
    ):
        for survival, (best, reward) in (("exact", exact), ("published", published)):
            law = verified(cost, survival)
            assert best is None or int(law.best) == best
            assert abs(float(jnp.max(law.reward)) - reward) < 2e-6
    assert abs(float(verified(1.0).reward[4]) - 0.444976) < 2e-6
    assert abs(float(verified(1.0, "published").reward[4]) - 0.424946) < 2e-6


def test_resampling_law_is_that_of_simulated_attempts():
    rng = np.random.default_rng(2)
    runs, attempts, c, s = 400_000, 4, 0.9, 0.6
    success, prior = np.array([0.8, 0.3, 0.05]), np.array([0.5, 0.3, 0.2])
    kind = rng.choice(3, runs, p=prior)
    right = rng.random((runs, attempts)) < success[kind][:, None]
    accepted = rng.random((runs, attempts)) < np.where(right, c, 1 - s)
    first = np.where(accepted.any(1), accepted.argmax(1), attempts)
    answered = right[np.arange(runs), first.clip(max=attempts - 1)]
    law = decoding.resampling_law(success, prior, attempts, completeness=c, soundness=s, cost=0.5)
    for k in range(attempts):
        for value, outcome in ((law.right, True), (law.wrong, False)):
            share, p = np.mean((first <= k) & (answered == outcome)), float(value[k])
            assert abs(share - p) <= STANDARD_ERRORS * np.sqrt(p * (1 - p) / runs) + 1e-6
    perfect = decoding.resampling_law([0.8, 0.3], [0.5, 0.5], 200, soundness=1.0)
    assert abs(float(perfect.right[-1]) - 1) < 1e-6 and float(perfect.wrong[-1]) == 0
    hopeless = decoding.resampling_law([0.1], [1.0], 3, soundness=0.2, cost=9.0)
    assert int(hopeless.best) == 0 and float(hopeless.ceiling[0]) < 0.2


# --- bad input ---------------------------------------------------------------------------------------------

KEY = jax.random.key(0)
SIZES = dict(num_particles=4, max_tokens=3)


def _filter(model=MODEL, reward=REWARD, prompt=(), **options):
    return decoding.particle_filter(KEY, model, reward, jnp.asarray(prompt, jnp.int32), **(SIZES | options))


BAD = {
    "model": (lambda: _filter(model=3), TypeError, "SequenceModel, got int"),
    "reward": (lambda: _filter(reward=MODEL), TypeError, "decoding.Reward, got SequenceModel"),
    "prompts": (lambda: _filter(prompt=[[1]]), ValueError, "vmap over prompts"),
    "nothing to draw": (lambda: _filter(max_tokens=0), ValueError, "max_tokens must be an int >= 1"),
    "no particles": (lambda: _filter(num_particles=0), ValueError, "num_particles must be an int >= 1"),
    "weight": (lambda: _filter(weight="prob"), ValueError, "probability, exponential, odds"),
    "target": (lambda: _filter(target="all"), ValueError, "product, last, outcome"),
    "temperatures": (lambda: _filter(reward_temperature=jnp.ones(2)), ValueError, "each of the 3 tokens"),
    "logits": (
        lambda: _filter(model=SequenceModel(lambda p: jnp.int32(0), lambda s: s, lambda s, t: s)),
        TypeError,
        "must be Float",
    ),
    "one in a chain": (
        lambda: decoding.particle_gibbs(KEY, MODEL, REWARD, [], num_particles=1, num_steps=2, max_tokens=3),
        ValueError,
        "int >= 2",
    ),
    "children": (
        lambda: decoding.beam_search(None, MODEL, REWARD, [], num_beams=1, num_children=5, max_tokens=2),
        ValueError,
        "at most the 4 tokens, got 5",
    ),
    "votes": (lambda: decoding.majority([0, 1], [0.0], 2), ValueError, "vectors of one length"),
    "tree": (lambda: decoding.tree(LOG_POLICY[1:], REWARDS[1:]), ValueError, r"arrays \[V\^t, V\]"),
    "no leaf": (
        lambda: decoding.tree_posterior(LOG_POLICY[:1], [np.zeros(V)]),
        ValueError,
        "positive and finite weight",
    ),
    "survival": (
        lambda: decoding.resampling_law([0.5], [1.0], 2, soundness=0.5, survival="printed"),
        ValueError,
        "exact, published",
    ),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=match):
        call()
