r"""Priors: samplers of data sets, ``prior(key, num_points, num_features) -> (x (T, F), y (T,))``.

A factory takes the hyper-parameters by keyword and returns the sampler, a `jax.tree_util.Partial` whose leaves they
are: it crosses jit, new values compile nothing, and a sweep stacks it. Any function of that signature is a prior too.
The dtype of the data is that of the hyper-parameters. The points of a data set are exchangeable except in `curves`,
whose points are the epochs 1, ..., T in order, so the first n of them are a context for any n.

==============  =======================================================  ===========================================
prior           a data set                                               inputs
==============  =======================================================  ===========================================
gp              Gaussian process of one kernel, with noise               uniform on [0, 1]
gp_hyper        Matern-5/2, its scales drawn for each data set           uniform on [0, 1]
ridge           linear in the features                                   uniform on [0, 1]
tabular         classes from a random perceptron                         standardised, the unused are 0
curves          learning curves: mixtures of three laws, with noise      epoch t as t/(T + 1)
==============  =======================================================  ===========================================

Truths: `posterior` is the exact predictive law under `gp` and `ridge`. Diagnostics: `draw`, `quantiles`, `acceptance`.

References: Muller et al. 2022, Transformers Can Do Bayesian Inference (gp, ridge, tabular); Adriaensen et al. 2023,
Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks (curves).
"""

from jaxsci.core import entry
from jaxsci.pfn.priors._check import Prior
from jaxsci.pfn.priors._curves import (
    PARAMETERS,
    REJECTED,
    Curve,
    acceptance,
    curve_mean,
    curves,
    draw_curve,
    log_prior,
)
from jaxsci.pfn.priors._diagnostics import draw, quantiles
from jaxsci.pfn.priors._gp import gp, gp_hyper, posterior, ridge
from jaxsci.pfn.priors._tabular import pad_features, tabular

__all__ = [
    "PARAMETERS",
    "REJECTED",
    "Curve",
    "Prior",
    "acceptance",
    "curve_mean",
    "curves",
    "draw",
    "draw_curve",
    "gp",
    "gp_hyper",
    "log_prior",
    "pad_features",
    "posterior",
    "quantiles",
    "ridge",
    "tabular",
]

entry.guard(globals())
