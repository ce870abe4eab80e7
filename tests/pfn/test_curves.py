"""Normalising, stopping and replaying learning curves: closed forms, small cases by hand, and a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxsci import pfn
from jaxsci.core import status
from jaxsci.pfn import bars, curves

# Accuracy, error rate, a log-loss that begins at 2.3, a metric in percent, one without any bounds.
METRICS = [
    ((0.0, 1.0), (0.0, 1.0), False),
    ((0.0, 1.0), (0.0, 1.0), True),
    ((0.0, np.inf), (0.0, 2.3), True),
    ((0.0, 100.0), (50.0, 90.0), False),
    ((-np.inf, np.inf), (-1.0, 4.0), True),
]
INSIDE = np.array([[0.0, 0.3, 0.999], [0.0, 0.3, 0.999], [0.01, 1.0, 9.0], [0.0, 70.0, 99.0], [-6.0, 0.0, 6.0]])


@jax.jit
def round_trip(normalizer, x):
    def one(normalizer, x):
        found = curves.normalize(normalizer, x)
        back = curves.denormalize(normalizer, found.value)
        return found, back, jax.vmap(jax.grad(lambda v: curves.normalize(normalizer, v).value))(x)

    return jax.vmap(one)(normalizer, x)


def each_normalizer():
    made = [curves.normalizer(hard=hard, soft=soft, minimize=minimize) for hard, soft, minimize in METRICS]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *made)


@pytest.mark.x64
def test_the_normaliser_is_the_published_formula_with_its_inverse_and_slope():
    found, back, slope = round_trip(each_normalizer(), INSIDE)
    for row, (hard, soft, minimize) in enumerate(METRICS):
        z = [2 * (x - soft[0]) / (soft[1] - soft[0]) - 1 for x in (INSIDE[row], *hard)]
        s, low, high = map(scipy.special.expit, z)
        expected = (s - low) / (high - low)
        np.testing.assert_allclose(found.value[row], 1 - expected if minimize else expected, rtol=1e-12, atol=1e-15)
        assert np.all(np.sign(slope[row]) == (-1 if minimize else 1))
    np.testing.assert_allclose(back, INSIDE, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.exp(found.log_slope), np.abs(slope), rtol=1e-9)
    assert not np.any(found.status)


def test_values_outside_the_bounds_are_reported_and_moved_to_them():
    x = np.array(
        [
            [-0.5, 1.5, np.nan],
            [-0.5, 1.5, np.nan],
            [-1.0, np.inf, np.nan],
            [-1.0, 101.0, np.nan],
            [-np.inf, np.inf, np.nan],
        ]
    )
    found, back, _ = round_trip(each_normalizer(), jnp.asarray(x, jnp.float32))
    low, high = [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]  # a NaN is the worst value in both directions
    np.testing.assert_allclose(found.value, [low, high, high, low, high], atol=1e-6)
    outside, nan = status.OUT_OF_RANGE, status.NONFINITE_INPUT
    expected = [[outside, outside, nan]] * 2 + [[outside, 0, nan], [outside, outside, nan], [0, 0, nan]]
    np.testing.assert_array_equal(found.status, expected)
    np.testing.assert_allclose(back[:2], [[0, 1, 0], [0, 1, 1]], atol=1e-6)
    reversed_ = curves.normalize(curves.normalizer(soft=(1.0, 0.0)), jnp.array([0.5]))
    assert int(reversed_.status[0]) == status.OUT_OF_RANGE and np.isfinite(reversed_.value[0])
    with pytest.raises(ValueError, match="hard must be a pair"):
        curves.normalizer(hard=(0.0,))
    with pytest.raises(ValueError, match="must be a scalar"):
        curves.normalizer(soft=(jnp.zeros(2), 1.0))


def test_stopping_asks_for_the_best_chance_to_come(key):
    chances = jax.random.uniform(key, (50, 9))
    n = jnp.arange(50) % 9
    deltas = jnp.linspace(0, 1, 21)
    run = jax.jit(
        jax.vmap(jax.vmap(lambda c, n, b, d: curves.stop(c, n, b, delta=d), (None, None, None, 0)), (0, 0, None, None))
    )
    found = np.asarray(run(chances, n, 0.5, deltas))
    expected = [[np.max(np.asarray(c)[int(k) :]) <= float(d) for d in deltas] for c, k in zip(chances, n)]
    np.testing.assert_array_equal(found, expected)
    assert np.all(np.diff(found.astype(int), axis=1) >= 0), "monotone in delta"
    assert not np.any(run(chances, n, -jnp.inf, deltas)), "nothing seen, nothing stopped"
    assert not curves.stop(jnp.array([0.0, jnp.nan]), 1, 0.5) and bool(curves.stop(jnp.array([0.9]), 1, 0.5))
    with pytest.raises(ValueError, match="must be a vector"):
        curves.stop(chances, 1, 0.5)


def test_schedules():
    np.testing.assert_array_equal(1 + np.flatnonzero(curves.coarse(100)), [10, 20, 40, 80])
    np.testing.assert_array_equal(1 + np.flatnonzero(curves.coarse(7)), [1, 2, 3, 6])
    np.testing.assert_array_equal(1 + np.flatnonzero(curves.fine(6)), [2, 3, 4, 5])
    with pytest.raises(ValueError, match="num_epochs"):
        curves.fine(0)


def uniform_to_come(y, num_observed):
    """A law over twenty buckets, uniform from the last value on."""
    borders = jnp.linspace(0, 1, 21)
    logits = jnp.where(borders[1:] > y[num_observed - 1], 0.0, -30.0)
    return bars.distribution(borders, jnp.broadcast_to(logits, (*y.shape, 20)), full_support=False)


NET = pfn.config(1, 10, width=8, num_layers=1, num_heads=2, y_range=(0.0, 1.0))


def test_a_network_is_asked_at_the_epochs_of_its_training():
    """A run of 30 epochs is the beginning of one of 100: epoch t enters as t/101, and later values say nothing."""
    params = jax.tree.map(lambda a: a + 0.3, pfn.init(jax.random.key(2), NET))
    model = pfn.model(params, NET, jnp.linspace(0, 1, 11))
    y = jnp.linspace(0.1, 0.5, 30)
    x = (jnp.arange(1, 31) / 101)[:, None]
    found = curves.predict(model, y.at[12:].set(jnp.nan), 12)
    expected = pfn.predict(model, x[:12], y[:12], 12, x[12:])
    np.testing.assert_allclose(found.logits[12:], expected.logits, atol=1e-5)
    np.testing.assert_allclose(curves.survival_of(model)(y, 12, 0.4)[12:], bars.survival(expected, 0.4), atol=1e-5)
    assert int(found.status) == 0 and int(curves.predict(model, 100 * y, 12).status) == pfn.OUTSIDE
    expected = status.NONFINITE_INPUT | status.OUT_OF_RANGE | pfn.OUTSIDE
    assert int(curves.predict(model, y.at[3].set(jnp.inf), 31).status) == expected
    with pytest.raises(ValueError, match="at most 20 values.*evenly spread"):
        curves.predict(model, y, 3, num_trained=20)
    with pytest.raises(ValueError, match="predicts classes"):
        curves.predict(pfn.model(params, NET), y, 3)
    with pytest.raises(TypeError, match="must be a Model"):
        curves.predict(params, y, 3)


RULES = {
    "no stop": curves.no_stop(),
    "patience 0": curves.patience(0),
    "patience 2": curves.patience(2),
    "predictive": curves.predictive(curves.survival_of(uniform_to_come), delta=0.3, schedule=curves.fine(8)),
}


def replay(runs, order, rule, budget):
    """`curves.evaluate` by a plain loop over runs."""
    regret, epochs, best = [], np.zeros(len(runs), int), -np.inf
    for place, run in enumerate(order):
        for n in range(1, runs.shape[1] + 1):
            if len(regret) == budget:
                return np.array(regret), epochs
            best = max(best, runs[run, n - 1])
            regret.append(runs.max() - best)
            epochs[place] += 1
            if rule(np.where(np.arange(runs.shape[1]) < n, runs[run], 0), n, best):
                break
    return np.array(regret + [regret[-1]] * (budget - len(regret))), epochs


def plain(name):
    def patience(k, y, n):
        return n - (1 + np.argmax(y[:n])) >= k

    def predictive(y, n, best):
        low = np.floor(y[n - 1] * 20) / 20  # buckets from that of the last value on are equally likely
        return 2 <= n <= 7 and (1 - max(best, low)) / (1 - low) <= 0.3

    return {
        "no stop": lambda y, n, best: False,
        "patience 0": lambda y, n, best: patience(0, y, n),
        "patience 2": lambda y, n, best: patience(2, y, n),
        "predictive": predictive,
    }[name]


@pytest.mark.parametrize("name", RULES)
def test_a_replay_is_that_of_a_plain_loop(name):
    rng = np.random.default_rng(3)
    runs = np.round(np.sort(rng.uniform(0, 0.99, (6, 8)), axis=1) + 0.05 * rng.standard_normal((6, 8)), 3).clip(
        0.001, 0.989
    )
    runs = runs.astype("float32")
    orders = np.stack([rng.permutation(6) for _ in range(12)])
    found = jax.jit(jax.vmap(lambda order: curves.evaluate(runs, order, RULES[name], budget=40)))(orders)
    for row, order in enumerate(orders):
        regret, epochs = replay(runs, order, plain(name), 40)
        np.testing.assert_array_equal(found.epochs[row], epochs)
        np.testing.assert_allclose(found.regret[row], regret, atol=1e-6)
    assert not np.any(found.status) and np.all(np.diff(found.regret, axis=1) <= 0)
    if name == "predictive":
        assert 0 < (np.asarray(found.epochs) < 8).mean() < 1, "some runs are stopped, some are not"


def test_an_oracle_saves_epochs_and_loses_nothing():
    """With the truth for a prediction, every run that will not beat the best so far ends after two epochs."""
    runs = jnp.asarray(np.random.default_rng(5).uniform(0.1, 0.9, (30, 1)) * (1 - 0.5 ** np.arange(1, 11)), jnp.float32)

    def truth(y, num_observed, level):
        which = jnp.argmin(jnp.abs(runs[:, 0] - y[0]))
        return (runs[which] > level).astype(y.dtype)

    orders = np.stack([np.random.default_rng(i).permutation(30) for i in range(20)])

    @jax.jit
    @jax.vmap
    def both(order):
        rules = (curves.no_stop(), curves.predictive(truth, schedule=curves.fine(10)))
        return [curves.evaluate(runs, order, rule, budget=300) for rule in rules]

    whole, stopped = both(orders)
    np.testing.assert_array_equal(whole.regret[:, -1], stopped.regret[:, -1])
    ended = np.asarray(stopped.epochs)
    assert set(np.unique(ended)) == {2, 10} and np.all(ended[:, 0] == 10)
    reach = jax.jit(jax.vmap(curves.epochs_to_reach, (0, None)))
    assert reach(stopped.regret, 1e-6).mean() <= 0.5 * reach(whole.regret, 1e-6).mean()


def test_bad_runs_and_orders():
    runs = jnp.asarray([[0.1, 0.2], [0.3, jnp.nan]])
    found = curves.evaluate(runs, jnp.array([0, 0]), curves.no_stop(), budget=3)
    assert int(found.status) == status.NONFINITE_INPUT | status.OUT_OF_RANGE

    def found_of(runs, best=None):
        return curves.evaluate(jnp.asarray(runs, jnp.float32), jnp.arange(2), curves.no_stop(), budget=4, best=best)

    infinite, far = found_of([[0.1, 0.2], [np.inf, 0.0]]), found_of([[-3e38, 0.0], [3e38, 0.0]])
    assert int(infinite.status) == int(found_of(np.ones((2, 2)), np.inf).status) == status.NONFINITE_INPUT
    assert int(far.status) == status.NONFINITE_RESULT and np.array_equal(far.regret[1:], np.float32([3e38, 0, 0]))
    assert int(curves.epochs_to_reach(jnp.array([0.5, 0.4]), 0.1)) == 3
    for call, match in (
        (lambda: curves.evaluate(runs, jnp.arange(3), curves.no_stop(), budget=3), "expected runs"),
        (lambda: curves.evaluate(runs, jnp.arange(2), curves.no_stop(), budget=0), "budget"),
        (lambda: curves.epochs_to_reach(runs, 0.1), "must be a vector"),
        (
            lambda: curves.predictive(lambda y, n, b: y, schedule=curves.fine(3))(runs[0], 1, 0.1),
            "an entry for each epoch",
        ),
        (lambda: curves.patience(jnp.zeros(2)), "must be a scalar"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="survival must be a function"):
        curves.predictive(3)
