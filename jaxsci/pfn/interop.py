"""To other libraries: a bar distribution as one of distrax's.

The record stays what programs carry; the view has distrax's methods and names.
"""

import functools
from typing import Any

import jax

from jaxsci.core import entry
from jaxsci.core.extras import require
from jaxsci.pfn import bars


def to_distrax(dist: bars.BarDistribution) -> Any:
    """A view with distrax's methods: `sample`, `log_prob`, `mean`, `variance`, `mode`, `entropy`, `cdf`, ...

    Args:
        dist: a distribution; its leading axes are the batch shape of the view.

    Returns:
        A ``distrax.Distribution`` of scalar events.

    Raises:
        ImportError: distrax is missing (extra "dist").
        TypeError: `dist` is no `BarDistribution`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.pfn import bars, interop
        >>> view = interop.to_distrax(bars.distribution(jnp.array([0.0, 1.0, 3.0]), jnp.zeros((5, 2))))
        >>> print(view.batch_shape, view.log_prob(0.5).shape)
        (5,) (5,)
    """
    bars.mean(dist)  # refuses what is none, by name
    return _view()(dist)


@functools.cache
def _view():
    distrax = require("distrax", "dist", "pfn.interop.to_distrax")

    class Bars(distrax.Distribution):
        """A bar distribution."""

        def __init__(self, dist):
            self._dist = dist

        @property
        def event_shape(self):
            return ()

        @property
        def batch_shape(self):
            return self._dist.logits.shape[:-1]

        def _sample_n(self, key, n):
            return bars.sample(key, self._dist, (n,))

        def log_prob(self, value):
            return bars.log_prob(self._dist, value)

        def cdf(self, value):
            return bars.cdf(self._dist, value)

        def survival_function(self, value):
            return bars.survival(self._dist, value)

        def quantile(self, value):
            return bars.quantile(self._dist, value)

        def mean(self):
            return bars.mean(self._dist)

        def variance(self):
            return bars.variance(self._dist)

        def stddev(self):
            return jax.numpy.sqrt(bars.variance(self._dist))

        def mode(self):
            return bars.mode(self._dist)

        def entropy(self):
            return bars.entropy(self._dist)

    return Bars


__all__ = ["to_distrax"]

entry.guard(globals())
