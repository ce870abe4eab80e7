"""Shapes of known tails, and weights without one."""

import jax
import numpy as np
import pytest

from jaxsci import smc

PARETO = jax.jit(jax.vmap(smc.pareto_k))


def test_the_shape_of_generalised_pareto_weights_is_found():
    """Weights ((1 - u)^-k - 1) / k, of which N = 20 000 tell k within about .05; a factor changes nothing."""
    shapes = np.array([0.1, 0.4, 0.7, 1.0, 1.5])
    u = np.random.default_rng(0).random((5, 20_000))
    log_weights = np.log(np.expm1(-shapes[:, None] * np.log1p(-u)) / shapes[:, None])
    found = np.asarray(PARETO(log_weights.astype(np.float32)))
    np.testing.assert_allclose(found, shapes, atol=0.2)
    np.testing.assert_allclose(PARETO((log_weights + 50).astype(np.float32)), found, atol=1e-3)
    bounded = np.asarray(PARETO(np.log(u).astype(np.float32)))
    assert np.all(bounded < 0)  # uniform weights have k = -1


def test_weights_without_a_tail():
    rows = np.zeros((5, 40), np.float32)
    rows[1] = -np.inf
    rows[2, 3] = np.inf
    rows[3, 3] = np.nan
    rows[4, 3] = 5.0
    found = np.asarray(PARETO(rows))
    np.testing.assert_array_equal(found[:4], [-np.inf, np.nan, np.nan, -np.inf])
    assert not np.isnan(found[4])
    with pytest.raises(ValueError, match="25 or more"):
        smc.pareto_k(rows[0, :20])
