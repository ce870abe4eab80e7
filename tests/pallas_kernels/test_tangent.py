"""Ops with a rule of their own for the derivative keep it in loops, in lanes, and for derivatives of derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import log_weight_stats, permute

ORDERS = {
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f)),
    "reverse over reverse": lambda f: jax.grad(jax.grad(f)),
}
ANCESTORS = np.array([2, 0, 0, 1])
WIDE = np.ones((1, 600), np.float32)  # rows of 2 KiB and more go through the op; smaller ones are indexed


def stats(x):
    largest, total, squares, _ = log_weight_stats(x)
    return largest + jnp.log(total) + squares * total


def stats_plainly(x):
    largest = jax.lax.stop_gradient(jnp.max(x))
    weights = jnp.exp(x - largest)
    return largest + jnp.log(weights.sum()) + (weights**2).sum() * weights.sum()


def permuted(rows):
    def f(x):
        moved = rows(x[:, None] * WIDE)
        return (moved[:, 0] ** 3 * jnp.arange(1.0, 5)).sum()

    return f


PAIRS = {
    "log_weight_stats": (stats, stats_plainly),
    "permute": (permuted(lambda x: permute(x, ANCESTORS)), permuted(lambda x: x[ANCESTORS])),
}


def loop(f):
    def step(carry, x):
        return jnp.sin(carry + f(carry * x)), None

    return lambda t: jax.lax.scan(step, t, jnp.array([[0.3, -0.2, 0.5, 0.1], [0.4, 0.1, -0.6, 0.2]]))[0]


@pytest.mark.parametrize(
    "order", ["forward over reverse", pytest.param("reverse over reverse", marks=pytest.mark.full)]
)
@pytest.mark.parametrize("name", PAIRS)
def test_second_derivatives_of_a_loop_in_lanes(name, order):
    points = jnp.array([0.3, 0.7])
    got, expected = (jax.jit(jax.vmap(ORDERS[order](loop(f))))(points) for f in PAIRS[name])
    np.testing.assert_allclose(got, expected, rtol=2e-4)
    outside = ORDERS[order](lambda t: jax.vmap(loop(PAIRS[name][0]))(t * points).sum())(1.0)
    np.testing.assert_allclose(outside, points**2 @ expected, rtol=2e-4)
