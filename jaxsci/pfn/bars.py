"""Functions of a bar distribution: density, moments, quantiles, draws, improvement, mixtures, and the borders' builder.

Each takes a `BarDistribution` and is compiled; `borders_from_sample` runs on the host.
"""

from jaxsci.core import entry
from jaxsci.pfn._bars import (
    BarDistribution,
    cdf,
    distribution,
    entropy,
    log_prob,
    mean,
    mode,
    quantile,
    reflect,
    sample,
    survival,
    variance,
)
from jaxsci.pfn._borders import borders_from_sample
from jaxsci.pfn._improvement import (
    expected_improvement,
    mixture,
    probability_of_improvement,
    upper_confidence_bound,
)

__all__ = [
    "BarDistribution",
    "borders_from_sample",
    "cdf",
    "distribution",
    "entropy",
    "expected_improvement",
    "log_prob",
    "mean",
    "mixture",
    "mode",
    "probability_of_improvement",
    "quantile",
    "reflect",
    "sample",
    "survival",
    "upper_confidence_bound",
    "variance",
]

entry.guard(globals())
