"""Linear contextual bandits: equal to a plain statement in NumPy, to dense algebra, and to the laws they sample."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxsci
import tolerances
from jaxsci import bandits, linear
from jaxsci.core import status
from jaxsci.core.protocols import Decision
from jaxsci.core.static import bind

ARMS, FEATURES, ROUNDS = 5, 6, 300
# The arms of MABWiser 2.7.4, LinUCB(alpha=1, l2_lambda=1), on table(1) with rewards -loss, one partial_fit a round.
MABWISER = (
    "010203331311031103402230320224003203043012333000001432030213034023040241320344341430021220032044234224230423"
    "442320420200424332302342331202130303033043422443124022230324423333322224134333100322224443042200032322402323"
    "142440230223233423143043220304204212443024030442420240224204220313344222034220041032"
)
DISJOINT = Partial(bind(bandits.features.disjoint, num_arms=ARMS))


def follow(policy, contexts, losses):
    """The arms played on a fixed table of contexts and losses, and the last state."""
    _, state, record, _ = bandits.replay(jax.random.key(0), losses, policy, contexts)
    assert not bool(jnp.any(record.status))
    return record.action, state.policy


def table(seed, num_rounds=ROUNDS):
    """Contexts, and losses that are linear in them up to noise."""
    rng = np.random.default_rng(seed)
    contexts = rng.standard_normal((num_rounds, FEATURES))
    truth = rng.standard_normal((ARMS, FEATURES))
    return contexts, contexts @ truth.T + 0.3 * rng.standard_normal((num_rounds, ARMS))


def plain_lin_ucb(contexts, losses, alpha, regularization):
    """Disjoint LinUCB as it is written down, with a dense inverse in every round."""
    num_arms, d = losses.shape[1], contexts.shape[1]
    grams, moments = [regularization * np.eye(d) for _ in range(num_arms)], np.zeros((num_arms, d))
    arms = []
    for x, loss in zip(contexts, losses):
        bounds = []
        for a in range(num_arms):
            inverse = np.linalg.inv(grams[a])
            bounds.append(x @ inverse @ moments[a] - alpha * np.sqrt(x @ inverse @ x))
        a = int(np.argmin(bounds))
        grams[a] += np.outer(x, x)
        moments[a] += loss[a] * x
        arms.append(a)
    return np.array(arms), grams, moments


# --- LinUCB ------------------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize(("alpha", "regularization"), [(1.0, 1.0), (0.3, 0.01)])
def test_lin_ucb_plays_the_arms_of_a_plain_statement(alpha, regularization):
    """300 rounds, identical arms; the triangular root kept by rotations is that of the matrix."""
    contexts, losses = table(1)
    expected, grams, moments = plain_lin_ucb(contexts, losses, alpha, regularization)
    policy = bandits.policies.lin_ucb(ARMS, FEATURES, alpha=alpha, regularization=regularization)
    arms, state = follow(policy, contexts, losses)
    np.testing.assert_array_equal(arms, expected)
    assert len(np.unique(expected)) == ARMS
    if alpha == regularization == 1:
        assert "".join(map(str, arms.tolist())) == MABWISER
    np.testing.assert_allclose(state.theta, np.linalg.solve(np.array(grams), moments[..., None])[..., 0], rtol=1e-9)
    root = np.asarray(state.factor[..., :-1])
    np.testing.assert_allclose(root.transpose(0, 2, 1) @ root, grams, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(root, np.triu(root))


@functools.partial(jax.jit, static_argnames="block")
def fit(model, contexts, arms, losses, block):
    """Predictions and leverages of a ridge in the course of learning from given plays, before each of them."""

    def step(state, row):
        context, arm, loss = row
        context = DISJOINT(context) if block else context
        seen = model.predict(state, context), model.leverage(state, context)
        return model.update(state, context, arm, loss), seen

    return jax.lax.scan(step, model.init(jax.random.key(0)), (contexts, arms, losses))[1]


@pytest.mark.x64
def test_shared_parameters_on_block_features_are_disjoint_parameters():
    contexts, losses = table(2, 60)
    arms = np.random.default_rng(6).integers(0, ARMS, 60)
    plays = contexts, arms, losses[np.arange(60), arms]
    own = fit(bandits.regressors.ridge(ARMS, FEATURES), *plays, block=False)
    joint = fit(bandits.regressors.ridge(ARMS, ARMS * FEATURES, shared=True), *plays, block=True)
    chex.assert_trees_all_close(joint, own, rtol=1e-9, atol=1e-12)


@jax.jit
def _fitted(contexts, losses):
    model = bandits.regressors.ridge(1, contexts.shape[1])
    start = model.init(jax.random.key(0))
    state, _ = jax.lax.scan(lambda s, row: (model.update(s, row[0], 0, row[1]), None), start, (contexts, losses))
    return jax.vmap(model.predict, (None, 0))(state, contexts)[:, 0], model.status(state)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0))
def _predictions(scale, row):
    """1000 rounds in single precision over features of the sizes 1, 50 and `scale`."""
    contexts, losses = row
    return _fitted(contexts * jnp.stack([jnp.ones_like(scale), 50, scale])[None, :], losses)


def test_features_of_very_unequal_size_keep_their_digits_in_float32():
    """Predictions against those of double precision: features up to 1e5, then 1e19, whose squares overflow."""
    rng = np.random.default_rng(1)
    scales = np.array([1e2, 1e3, 1e4, 1e5, 1e19])
    unit = np.concatenate([np.ones((1000, 1)), rng.uniform(0.5, 1, (1000, 2))], axis=1).astype(np.float32)
    losses = (unit @ [0.2, 0.15, 0.4] + rng.normal(0, 0.05, 1000)).astype(np.float32)
    rows = np.broadcast_to(unit, (5, 1000, 3)), np.broadcast_to(losses, (5, 1000))
    got, bits = _predictions(jnp.asarray(scales, jnp.float32), jax.tree.map(jnp.asarray, rows))
    for i, scale in enumerate(scales):
        x = unit.astype(float) * [1, 50, float(np.float32(scale))]
        sizes = np.linalg.norm(x, axis=0)  # equal columns, so that the normal equations are exact enough
        theta = np.linalg.solve(np.diag(sizes**-2.0) + (x / sizes).T @ (x / sizes), (x / sizes).T @ losses)
        exact = x / sizes @ theta
        np.testing.assert_allclose(got[i], exact, rtol=2e-6)  # measured 3e-7; by rank-one steps of the inverse > 1
    assert not bits.any()


def test_one_large_context_leaves_the_prediction_in_reach():
    model = bandits.regressors.ridge(1, 3)
    x = jnp.array([1.0, 50.0, 1e5], jnp.float32)
    state = model.update(model.init(jax.random.key(0)), x, 0, jnp.float32(0.5))
    np.testing.assert_allclose(model.predict(state, x), 0.5, rtol=1e-6)


METRES = np.random.default_rng(0).normal(2000, 500, 3000)
HEIGHTS = np.c_[np.ones(3000), METRES, 3.28084 * METRES].astype(np.float32)  # metres and feet: one column too many
HEIGHT_COSTS = np.stack([METRES > 2000, METRES <= 2000], 1).astype(np.float32)


def test_a_duplicated_raw_column_is_played_as_in_double_precision(key):
    """The mean loss is .018333 by a dense inverse in double precision too; a float32 inverse was NaN from the start."""
    result = bandits.replay(key, HEIGHT_COSTS, bandits.policies.lin_ucb(2, 3), HEIGHTS)
    arms = plain_lin_ucb(HEIGHTS.astype(float), HEIGHT_COSTS.astype(float), 1.0, 1.0)[0]
    assert np.mean(np.asarray(result.history.action) == arms) > 0.99
    np.testing.assert_allclose(result.value / 3000, HEIGHT_COSTS[np.arange(3000), arms].mean(), atol=2e-3)
    played = HEIGHT_COSTS[np.arange(3000), result.history.action]
    assert played[1000:].mean() <= 0.012  # .0085, as in double precision: the first thousand rounds are for learning
    assert not result.history.policy_status.any()
    jaxsci.check(result)


def test_what_went_wrong_in_the_regression_is_said(key):
    """Features that the regularisation cannot tell apart, and a play whose sums overflow: left out, and said."""
    policy = bandits.policies.lin_ucb(2, 2)
    ones = np.ones((50, 2), np.float32)
    result = bandits.replay(key, np.zeros((50, 2), np.float32), policy, ones * 1e8)
    assert result.history.policy_status[-1] == status.SINGULAR and result.status == 0
    with pytest.raises(status.StatusError, match="(?s)policy_status.*singular"):
        jaxsci.check(result)
    state = policy.init(key)
    after = policy.update(state, Decision(jnp.int32(0), jnp.float32(0)), 1.0, jnp.full(2, 1e20), 1e38)
    assert int(policy.status(after)) == status.NONFINITE_UPDATE
    chex.assert_trees_all_equal(after[:3], state[:3])


@pytest.mark.x64
def test_weight_two_is_two_rounds_and_bad_losses_teach_nothing(key):
    policy = bandits.policies.lin_ucb(3, 2)
    x, arm = jnp.array([0.5, -2.0]), Decision(jnp.int32(1), jnp.asarray(0.0))
    state = policy.update(policy.init(key), arm, 0.7, jnp.array([1.0, 0.3]))
    twice = policy.update(policy.update(state, arm, 0.4, x), arm, 0.4, x)
    once = policy.update(state, arm, 0.4, x, 2.0)
    chex.assert_trees_all_close((twice.factor, twice.theta), (once.factor, once.theta), rtol=1e-12)
    hole = x.at[0].set(jnp.nan)
    for loss, context, weight in ((jnp.nan, x, 1.0), (jnp.inf, x, 1.0), (0.4, hole, 1.0), (0.4, x, 0.0)):
        after = policy.update(state, arm, loss, context, weight)
        chex.assert_trees_all_equal(after[:4], state[:4])
    blind = policy.select(key, state, jnp.full(2, jnp.nan), jnp.array([False, True, True]))
    assert int(blind.action) == 1 and float(blind.log_prob) == 0


# --- linear Thompson sampling ------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize("shared", [False, True])
def test_sampled_losses_have_the_mean_and_the_covariance_of_the_posterior(shared, key):
    """Predictions by drawn parameters ~ N(Phi theta, alpha^2 Phi A^-1 Phi^T); independent arms when disjoint."""
    num_arms, d, alpha, count = 3, 2, 0.7, 20_000
    rng = np.random.default_rng(4)
    phi, y = rng.standard_normal((num_arms, d)), rng.standard_normal(num_arms)
    context = jnp.asarray(phi if shared else phi[0])
    model = bandits.regressors.ridge(num_arms, d, regularization=0.5, shared=shared)
    state = model.init(key)
    for arm in range(num_arms):
        state = model.update(state, context, arm, y[arm])
    draws = np.asarray(
        jax.jit(jax.vmap(lambda k: model.sample(k, state, context, alpha)))(jax.random.split(key, count))
    )
    if shared:
        inverse = np.linalg.inv(0.5 * np.eye(d) + phi.T @ phi)
        mean, covariance = phi @ inverse @ phi.T @ y, alpha**2 * phi @ inverse @ phi.T
    else:
        inverse = np.linalg.inv(0.5 * np.eye(d) + np.outer(phi[0], phi[0]))
        lever = phi[0] @ inverse @ phi[0]
        mean, covariance = lever * y, alpha**2 * lever * np.eye(num_arms)
    spread = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(draws.mean(0) - mean) <= tolerances.STANDARD_ERRORS * spread / np.sqrt(count))
    # Var of a sample covariance of normal numbers: (s_ii s_jj + s_ij^2) / n.
    error = np.sqrt((np.outer(spread, spread) ** 2 + covariance**2) / count)
    assert np.all(np.abs(np.cov(draws.T) - covariance) <= tolerances.STANDARD_ERRORS * error)


@pytest.mark.x64
def test_lin_ts_learns_and_without_spread_is_greedy():
    """Regret of the second half is far below that of the first; with alpha = 0 it is LinUCB with alpha = 0."""
    contexts, losses = table(5)
    losses = jnp.asarray(losses)
    arms, _ = follow(bandits.policies.lin_ts(ARMS, FEATURES, alpha=0.3), contexts, losses)
    regret = losses[jnp.arange(ROUNDS), arms] - losses.min(1)
    assert float(regret[150:].mean()) < 0.5 * float(regret[:50].mean())
    greedy, _ = follow(bandits.policies.lin_ts(ARMS, FEATURES, alpha=0.0), contexts, losses)
    np.testing.assert_array_equal(
        greedy, follow(bandits.policies.lin_ucb(ARMS, FEATURES, alpha=0.0), contexts, losses)[0]
    )


# --- the stream of linear systems --------------------------------------------------------------------------

OMEGAS = np.linspace(1.0, 1.95, 20)
SERIES = Partial(bind(bandits.features.chebyshev, num_features=6), low=-0.15, high=0.65)


def scaled(result, parameter, context):
    """Iterations as a loss in [0, 1]."""
    return jnp.clip((result.steps - 1) / 500.0, 0, 1)


def total(seed, beta, policy, num_rounds):
    """Iterations that the policy pays on the shifted Laplacians of a seed."""
    stream = linear.streams.shifted_laplacian((10, 10), beta=beta)
    record = linear.tuned_sequence(
        jax.random.key(seed),
        stream,
        linear.methods.sor,
        policy,
        jnp.asarray(OMEGAS),
        num_rounds=num_rounds,
        cost=scaled,
    ).history
    return float(record.steps.sum())


def over_series():
    """The three linear policies on six Chebyshev polynomials of the shift."""
    model = bandits.regressors.ridge(20, 6, regularization=0.01)
    return {
        "LinUCB": bandits.wrappers.encoded(bandits.policies.lin_ucb(20, 6, alpha=0.1, regularization=0.01), SERIES),
        "FastCB": bandits.wrappers.encoded(bandits.policies.fast_cb(model, exploration=10.0), SERIES),
        "SquareCB": bandits.wrappers.encoded(bandits.policies.square_cb(model, exploration=10.0), SERIES),
    }


@pytest.mark.x64
@pytest.mark.slow
@pytest.mark.parametrize(
    ("beta", "best", "published"),
    [
        ((0.5, 1.5), 16, {"LinUCB": (0.642, 0.010), "FastCB": (0.667, 0.012), "SquareCB": (0.850, 0.014)}),
        ((2.0, 6.0), 13, {"LinUCB": (0.794, 0.006), "FastCB": (0.816, 0.011), "SquareCB": (1.048, 0.009)}),
    ],
    ids=["high", "low"],
)
def test_ratios_to_the_best_fixed_omega(beta, best, published):
    """Total iterations over those of the best fixed omega, 5000 solves, mean of 8 seeds: within 5 of the spreads."""
    ratios = {name: [] for name in published}
    for seed in range(8):
        fixed = total(seed, beta, bandits.policies.fixed(20, arm=best), 5000)
        for name, policy in over_series().items():
            ratios[name].append(total(seed, beta, policy, 5000) / fixed)
    print({name: (round(np.mean(r), 4), round(np.std(r, ddof=1), 4)) for name, r in ratios.items()})
    for name, (mean, spread) in published.items():
        assert abs(np.mean(ratios[name]) - mean) <= 5 * spread, (name, ratios[name])


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: bandits.policies.lin_ucb(0, 2), "num_arms must be an int >= 1"),
        (lambda: bandits.policies.lin_ts(2, 0), "num_features must be an int >= 1"),
        (lambda: _select(bandits.policies.lin_ucb(3, 2)), r"shape \(2,\), got none"),
        (lambda: _select(bandits.policies.lin_ts(3, 2), jnp.ones(3)), r"shape \(2,\), got one of shape \(3,\)"),
        (lambda: _select(bandits.policies.lin_ucb(3, 2, shared=True), jnp.ones(2)), r"an array of shape \(3, 2\)"),
        (lambda: bandits.features.disjoint(jnp.ones((2, 2)), num_arms=2), "must be a vector"),
        (lambda: bandits.features.disjoint(jnp.ones(2), num_arms=0), "num_arms must be an int"),
    ],
)
def test_static_misuse_raises(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def _select(policy, context=None):
    key = jax.random.key(0)
    return policy.select(key, policy.init(key), context)
