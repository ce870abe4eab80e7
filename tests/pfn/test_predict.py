"""Predictions of models: statuses, ensembles, classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci
from jaxsci import pfn
from jaxsci.core import status

CFG = pfn.config(2, 6, width=8, num_layers=1, num_heads=2)
BORDERS = np.linspace(-2, 2, 7)
PARAMS = jax.vmap(lambda key: pfn.init(key, CFG))(jax.random.split(jax.random.key(0), 3))
RNG = np.random.default_rng(0)
X, Y = RNG.uniform(size=(5, 2)).astype(np.float32), RNG.normal(size=5).astype(np.float32)


def member(i):
    return pfn.model(jax.tree.map(lambda a: a[i], PARAMS), CFG, BORDERS)


def test_a_prediction_is_that_of_the_network():
    dist = pfn.predict(member(0), X[:4], Y[:4], 3, X[4:])
    logits = pfn.apply(member(0).params, CFG, X[:4], Y[:4], 3, X[4:])
    np.testing.assert_allclose(dist.logits, logits, atol=1e-6)
    assert dist.full_support and int(dist.status) == 0 and jaxsci.check(dist) is dist


def test_statuses():
    """What stands in the slots that do not count is no fault."""

    def code(x=X, y=Y, n=3, query=X[:2]):
        return int(pfn.predict(member(0), x, y, n, query).status)

    hole, far = Y.copy(), X.copy()
    hole[4], far[4] = np.nan, 7
    assert code(y=hole, x=far) == 0
    assert code(y=hole, n=5) == status.NONFINITE_INPUT
    assert code(query=X[:2] * np.nan) & status.NONFINITE_INPUT
    assert code(n=6) == code(n=-1) == status.OUT_OF_RANGE
    assert code(x=far, n=5) == code(query=X[:2] + 1) == pfn.OUTSIDE
    assert status.faults(pfn.OUTSIDE) == 0 and "outside the range of training" in jaxsci.explain(pfn.OUTSIDE, "pfn")
    with pytest.raises(status.StatusError, match="non-finite input"):
        jaxsci.check(pfn.predict(member(0), X, hole, 5, X))
    assert np.isfinite(pfn.predict(member(0), X, np.full(5, 3.0, np.float32), 5, X).logits).all()  # constant targets


def test_an_ensemble_is_the_mean_of_its_members():
    stack = jax.vmap(lambda params: pfn.model(params, CFG, jnp.asarray(BORDERS, jnp.float32)))(PARAMS)
    dists = jax.vmap(pfn.predict, (0, None, None, None, None))(stack, X, Y, 4, X)
    whole = pfn.bars.mixture(dists, BORDERS.astype(np.float32))
    each = [np.asarray(pfn.bars.cdf(pfn.predict(member(i), X, Y, 4, X), np.float32(0.3))) for i in range(3)]
    np.testing.assert_allclose(pfn.bars.cdf(whole, np.float32(0.3)), np.mean(each, axis=0), atol=2e-6)


def test_classes():
    """Classes that the context lacks have probability 0; scale and origin of the inputs do not matter."""
    classes = pfn.model(jax.tree.map(lambda a: a[0], PARAMS), CFG)
    y = np.array([0, 2, 2, 0, 5], np.float32)
    found = pfn.classify(classes, X, y, 4, X[3:])
    p = np.exp(found.log_prob)
    assert int(found.status) == 0 and (p[:, [1, 3, 4, 5]] == 0).all()
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    moved = pfn.classify(classes, 3 * X + 5, y, 4, 3 * X[3:] + 5)
    np.testing.assert_allclose(np.exp(moved.log_prob), p, atol=1e-4)
    assert int(pfn.classify(classes, X, y + 0.5, 4, X[3:]).status) == status.OUT_OF_RANGE
    assert (np.exp(pfn.classify(classes, X, y, 0, X[3:]).log_prob) > 0).all()


@pytest.mark.bad_input
def test_what_is_refused():
    classes = pfn.model(member(0).params, CFG)
    for call, error, match in (
        (lambda: pfn.predict(PARAMS, X, Y, 3, X), TypeError, "model must be a Model, got dict"),
        (lambda: pfn.predict(classes, X, Y, 3, X), ValueError, "use pfn.classify"),
        (lambda: pfn.classify(member(0), X, Y, 3, X), ValueError, "use pfn.predict"),
        (lambda: pfn.predict(member(0), np.ones((5, 3)), Y, 3, X), ValueError, "at most the 2 features"),
        (lambda: pfn.model(PARAMS, CFG, BORDERS[:-1]), ValueError, r"borders must have shape \(7,\)"),
        (lambda: pfn.model(PARAMS, CFG, BORDERS[::-1]), ValueError, "finite and increase"),
        (lambda: pfn.model(PARAMS, None, BORDERS), TypeError, "config must come from pfn.config"),
    ):
        with pytest.raises(error, match=match):
            call()
