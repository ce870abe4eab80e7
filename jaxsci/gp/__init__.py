"""Gaussian processes of a fixed number of rows: kernels, conditioning, prediction, sampling, fitting.

Builds on: core. One GP serves bandits, Bayesian optimisation, quadrature and priors: shapes never change, a mask says
which rows count, a dead row is a row of the identity. Start reading at `kernels.py`, then `_gp.py`.
"""

from jaxsci.core import entry
from jaxsci.gp import kernels
from jaxsci.gp._fit import FAR_OFF, FitResult, fit
from jaxsci.gp._gp import FULL, GP, JITTERED, append, condition, log_marginal
from jaxsci.gp._posterior import Joint, Prediction, Sample, joint, leave_one_out, marginals, predict, sample

__all__ = [
    "FAR_OFF",
    "FULL",
    "GP",
    "JITTERED",
    "FitResult",
    "Joint",
    "Prediction",
    "Sample",
    "append",
    "condition",
    "fit",
    "joint",
    "kernels",
    "leave_one_out",
    "log_marginal",
    "marginals",
    "predict",
    "sample",
]

entry.guard(globals())
