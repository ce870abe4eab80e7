"""Models with known answers: a hidden Markov chain and a linear-Gaussian state-space model."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxsci import smc

PI = np.array([0.5, 0.3, 0.2])
CHAIN = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.25, 0.25, 0.5]])
EMISSION = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
SYMBOLS = np.array([0, 1, 1, 2, 0, 2], np.int32)
HMM_LOG_Z = -7.127140258211201  # forward algorithm and enumeration of 729 paths


def forward_filter():
    """P(x_t | y_0 ... y_t) of the hidden Markov chain and log Z, in float64."""
    alpha, rows, log_z = PI, [], 0.0
    for t, y in enumerate(SYMBOLS):
        alpha = (alpha if t == 0 else alpha @ CHAIN) * EMISSION[:, y]
        log_z += math.log(alpha.sum())
        alpha = alpha / alpha.sum()
        rows.append(alpha)
    return np.array(rows), log_z


def _hmm_init(key, num, y):
    x = jax.random.categorical(key, jnp.log(jnp.asarray(PI, jnp.float32)), shape=(num,)).astype(jnp.int32)
    return x, jnp.log(jnp.asarray(EMISSION, jnp.float32))[x, y]


def _hmm_move(key, x, log_weights, y):
    x = jax.random.categorical(key, jnp.log(jnp.asarray(CHAIN, jnp.float32))[x]).astype(jnp.int32)
    return x, jnp.log(jnp.asarray(EMISSION, jnp.float32))[x, y], None


HMM = smc.Model(_hmm_init, _hmm_move)

THETA = (0.9, 1.0, 0.2)  # slope, scale of the states, scale of the observations
LINEAR_LOG_Z = -146.32293396051224  # Kalman filter and dense multivariate normal


@functools.cache
def series():
    """100 observations of the linear-Gaussian model."""
    rng = np.random.default_rng(0)
    e, n = rng.standard_normal(100), rng.standard_normal(100)
    x = np.zeros(100)
    x[0] = e[0] / math.sqrt(1 - 0.81)
    for t in range(1, 100):
        x[t] = 0.9 * x[t - 1] + e[t]
    y = x + 0.2 * n
    assert abs(y[0] - 0.38898148) < 1e-8 and abs(y.sum() - 93.93496017) < 1e-7
    return y.astype(np.float32)


def kalman(y, theta=THETA):
    """Filtering means and variances and log Z in float64; an observation that is NaN is missing."""
    rho, sx, sy = theta
    mean, variance, log_z, rows = 0.0, sx**2 / (1 - rho**2), 0.0, []
    for t, value in enumerate(np.asarray(y, np.float64)):
        if t:
            mean, variance = rho * mean, rho**2 * variance + sx**2
        if not math.isnan(value):
            total = variance + sy**2
            log_z -= 0.5 * (math.log(2 * math.pi * total) + (value - mean) ** 2 / total)
            gain = variance / total
            mean, variance = mean + gain * (value - mean), (1 - gain) * variance
        rows.append((mean, variance))
    return np.array(rows), log_z


def _density(y, x, scale):
    return -0.5 * ((y - x) / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)


def _linear_init(theta, key, num, y):
    rho, sx, sy = theta
    x = sx / jnp.sqrt(1 - rho**2) * jax.random.normal(key, (num,))
    return x, _density(y, x, sy)


def _linear_move(theta, key, x, log_weights, y):
    rho, sx, sy = theta
    x = rho * x + sx * jax.random.normal(key, x.shape)
    return x, _density(y, x, sy), None


def linear(theta=THETA):
    """The bootstrap filter of the linear-Gaussian model."""
    theta = tuple(jnp.asarray(a, jnp.float32) for a in theta)
    return smc.Model(Partial(_linear_init, theta), Partial(_linear_move, theta))


def moments(x, weights):
    """Weighted mean and variance."""
    mean = jnp.sum(weights * x)
    return mean, jnp.sum(weights * (x - mean) ** 2)
