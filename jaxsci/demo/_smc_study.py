"""How likely is a series under 64 parameters, by particle filters? Edit me, then: python study.py"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxsci import smc, sweep

PARTICLES, MANY = 1000, 1_000_000
SLOPES, SCALES = np.linspace(0.6, 0.98, 8), np.linspace(0.3, 1.2, 8)


def series():
    """50 observations y of x_t = .9 x_{t-1} + e_t with noise of scale .5."""
    rng = np.random.default_rng(0)
    e, n = rng.standard_normal((2, 50))
    x = np.zeros(50)
    x[0] = e[0] / math.sqrt(1 - 0.81)
    for t in range(1, 50):
        x[t] = 0.9 * x[t - 1] + e[t]
    return (x + 0.5 * n).astype(np.float32)


def log_density(y, x, scale):
    """log N(y; x, scale^2)"""
    return -0.5 * ((y - x) / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)


def start(slope, scale, key, num, y):
    """The stationary law of the state, weighed by the first observation."""
    x = jax.random.normal(key, (num,)) / jnp.sqrt(1 - slope**2)
    return x, log_density(y, x, scale)


def move(slope, scale, key, x, log_weights, y):
    """One step of the whole cloud with one key, weighed by the next observation."""
    x = slope * x + jax.random.normal(key, x.shape)
    return x, log_density(y, x, scale), None


def moments(x, weights):
    """Mean and variance of the state given the observations so far."""
    mean = jnp.sum(weights * x)
    return mean, jnp.sum(weights * (x - mean) ** 2)


def run(key, slope, scale, num):
    """One filter."""
    model = smc.Model(Partial(start, slope, scale), Partial(move, slope, scale))
    return smc.run(key, model, jnp.asarray(series()), num_particles=num, statistics=moments)


def point(key, slope, scale):
    """Log-likelihood of the series under one pair of parameters, filtering moments and effective sample sizes."""
    result = run(key, slope, scale, PARTICLES)
    mean, variance = result.history.statistics
    found = {"log_z": result.log_z, "mean": mean, "variance": variance}
    return found | {"ess": result.history.ess, "status": result.status}


def study(**options):
    """All parameters as lanes of one program, into one labelled data set; `options` are those of `sweep.run`."""
    space = sweep.product(slope=SLOPES, scale=SCALES, key=sweep.keys(1))
    dims = {name: ("time",) for name in ("mean", "variance", "ess")}
    return sweep.run(point, space, dims=dims, **options)


if __name__ == "__main__":
    print(study().log_z.isel(key=0).to_pandas().round(1).to_string())
