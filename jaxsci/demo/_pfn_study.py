"""How near does a network come to the exact posterior of a Gaussian process? Edit me, then: python study.py"""

import jax.numpy as jnp
import numpy as np

from jaxsci import gp, pfn, sweep

SETS, MANY = 1024, 1000
SIZES, POINTS = np.array([0, 1, 2, 5, 10, 20]), 5
KERNEL, NOISE = gp.kernels.scale(gp.kernels.rbf(0.2), 1.0), 0.01
PRIOR, MODEL = pfn.priors.gp(KERNEL, noise=NOISE), pfn.load("gp-1d-small")


def point(key, num_context):
    """Mean log-density of the exact posterior after some points, and by how much the network's is lower."""
    return pfn.scores.gp_gap(key, MODEL, KERNEL, num_context, noise=NOISE, num_sets=SETS)._asdict()


def densities(key):
    """One data set, and what network and exact posterior expect of y (rows) at x (columns) after the first points."""
    x, y = PRIOR(key, 20, 1)
    queries, values = jnp.linspace(0, 1, 160)[:, None], jnp.linspace(3, -3, 120)[:, None]
    dist = pfn.predict(MODEL, x, y, POINTS, queries)
    law = pfn.priors.posterior(KERNEL, x, y, POINTS, queries, noise=NOISE)
    exact = -0.5 * (values - law.mean[None]) ** 2 / law.variance[None] - 0.5 * jnp.log(2 * jnp.pi * law.variance)[None]
    return x[:POINTS, 0], y[:POINTS], jnp.exp(pfn.bars.log_prob(dist, values)), jnp.exp(exact)


def means(key):
    """The network's predicted means for one data set of 20 points at 20 queries."""
    x, y = PRIOR(key, 40, 1)
    return pfn.bars.mean(pfn.predict(MODEL, x[:20], y[:20], 20, x[20:]))


def study(**options):
    """All numbers of known points as one labelled data set; `options` are those of `sweep.run`."""
    space = sweep.product(num_context=SIZES, key=sweep.keys(1))
    return sweep.run(point, space, devices=1, **options)  # a point is a batch of many data sets already


if __name__ == "__main__":
    print(study().isel(key=0)[["exact", "gap", "error", "coverage"]].to_dataframe().round(3).to_string())
