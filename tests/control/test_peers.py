"""Against rlax and python-control on the same data; left out where the extra "peers" is not installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import control
from jaxsci.control import martingale, riccati


def _affine(t, x):
    return jnp.stack([jnp.ones_like(x), x])


def _difference(key, dtype):
    """Largest relative difference between the sums of CLSTD(lambda) and the features times rlax's errors."""
    rlax = pytest.importorskip("rlax", reason='rlax is not installed; the extra "peers" holds it')
    dt, beta, decay = 0.1, 0.7, 0.4
    theta = jnp.array([0.3, -0.8], dtype)
    path = control.exact.ornstein_uhlenbeck(key, jnp.asarray(0.2, dtype), num_steps=200, dt=dt)
    path = path._replace(rs=path.xs[:-1])
    condition = martingale.condition(martingale.linear_value(_affine), discount=beta, discounting="multiplicative")
    trace = {"trace_decay": decay, "trace_scale": "unit"}
    method = martingale.clstd(condition, allow_float32=True, **trace)
    sums = martingale.run(method, theta, control.transitions(path)).state
    features = jax.vmap(_affine)(path.ts, path.xs)
    gamma = jnp.full(200, np.exp(-beta * dt), dtype)
    values = features @ theta
    errors = rlax.td_lambda(values[:-1], path.rs * path.dts, gamma, values[1:], decay**dt)
    theirs = features[:-1].T @ errors
    ours = [sums.matrix @ theta + sums.vector, martingale.moments(condition, theta, path, **trace)]
    return max(float(jnp.abs(a - theirs).max() / jnp.abs(theirs).max()) for a in ours)


@pytest.mark.x64
def test_rlax_finds_the_same_update(key):
    assert _difference(key, jnp.float64) < 1e-12


def test_rlax_finds_the_same_update_in_single_precision(key):
    assert _difference(key, jnp.float32) < 1e-5


@pytest.mark.x64
def test_python_control_finds_the_same_regulator():
    # By a module of it: this folder alone, called control, would do for the package.
    peer = pytest.importorskip("control.statefbk", reason='python-control is not installed; the extra "peers" holds it')
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(4, 4)) - 3 * np.eye(4), rng.normal(size=(4, 2))
    K, P, _ = peer.lqr(A, B, np.eye(4), np.eye(2))
    for ours in (riccati.solve(A, B, np.eye(4), np.eye(2)), riccati.kleinman(A, B, np.eye(4), np.eye(2))):
        np.testing.assert_allclose(ours.P if ours.P.ndim == 2 else ours.P[-1], P, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours.K if ours.K.ndim == 2 else ours.K[-1], K, rtol=1e-10, atol=1e-12)
