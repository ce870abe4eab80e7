"""The shipped network of tables, trained on its prior alone, on real ones: as good as a regression fitted to each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import pfn as benchmark
from jaxsci import pfn


def _fitted(x, y, x_query):
    linear_model = pytest.importorskip("sklearn.linear_model")
    mean, spread = x.mean(0), x.std(0) + 1e-6
    regression = linear_model.LogisticRegression(max_iter=2000).fit((x - mean) / spread, y)
    return regression.predict_proba((x_query - mean) / spread)


def _predicted(name, num_known, num_splits):
    """Targets asked for, and the probabilities of the network and of the regression; (splits, rows[, classes])."""
    x, y, x_query, asked = benchmark.splits(name, num_known, num_splits)
    model, known = pfn.load("tabular-small"), y.shape[1]
    ours = jax.vmap(lambda *table: jnp.exp(pfn.classify(model, *table[:2], known, table[2]).log_prob))(x, y, x_query)
    return asked, np.asarray(ours), np.stack([_fitted(*table) for table in zip(x, y, x_query)])


def test_the_area_under_the_curve_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    y, prob = rng.integers(0, 3, (2, 40)).astype(float), rng.dirichlet(np.ones(3), (2, 40)).round(1)
    theirs = [metrics.roc_auc_score(a, p / p.sum(1, keepdims=True), multi_class="ovr") for a, p in zip(y, prob)]
    np.testing.assert_allclose(benchmark.roc_auc(y, prob / prob.sum(2, keepdims=True)), theirs, rtol=1e-12)


@pytest.mark.full
def test_the_shipped_network_is_near_a_regression_that_was_fitted():
    found = []
    for name in benchmark.TABLES:
        asked, ours, fitted = _predicted(name, None, 20)
        found.append([benchmark.roc_auc(asked, prob).mean() for prob in (ours, fitted)])
    ours, fitted = np.mean(found, axis=0)
    print(found)
    assert ours >= fitted - 0.01


@pytest.mark.full
def test_probabilities_are_calibrated_with_thirty_rows_known():
    """Two classes, 30 rows: how far the mean probability of each tenth is from its share of successes."""
    gaps, lower = [], []
    for name in benchmark.TABLES:
        x, y, x_query, asked = benchmark.splits(name, 30, 20)
        y, asked = (np.asarray(a == 0, np.float32) for a in (y, asked))
        model = pfn.load("tabular-small")
        ours = jax.vmap(lambda *table, m=model: jnp.exp(pfn.classify(m, *table[:2], 30, table[2]).log_prob))
        prob = np.asarray(ours(x, y, x_query))
        lower.append(np.mean(benchmark.roc_auc(asked, np.stack([_fitted(*t) for t in zip(x, y, x_query)]))))
        lower[-1] -= np.mean(benchmark.roc_auc(asked, prob))
        p, hit = prob[..., 1].ravel(), asked.ravel()
        which = np.minimum((p * 10).astype(int), 9)
        gaps.append(sum(abs(np.sum(p[which == i] - hit[which == i])) for i in range(10)) / p.size)
    print(lower, gaps)
    assert max(lower) <= 0.03 and np.mean(gaps) <= 0.08
