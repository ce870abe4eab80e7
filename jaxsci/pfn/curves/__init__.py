r"""Learning curves: any metric on [0, 1], when to stop a run, what stopping saves, and the posterior by simulation.

`normalizer` maps a metric onto [0, 1], higher is better, as networks trained on `priors.curves` expect, and `predict`
asks one. `stop` decides from the predicted probabilities of beating the best value so far; `no_stop`, `patience` and
`predictive` are rules made of such decisions, and `evaluate` measures a rule over many recorded runs. `posterior`
samples the thirteen parameters of a curve by an ensemble of walkers (`stretch`): the yardstick for a network.

Reference: Adriaensen et al. 2023, Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks.
"""

from jaxsci.core import entry
from jaxsci.pfn.curves._evaluation import Evaluation, epochs_to_reach, evaluate
from jaxsci.pfn.curves._normalize import Normalized, Normalizer, denormalize, normalize, normalizer
from jaxsci.pfn.curves._posterior import CurvePosterior, mixture_log_density, posterior
from jaxsci.pfn.curves._predict import predict
from jaxsci.pfn.curves._stopping import Rule, coarse, fine, no_stop, patience, predictive, stop, survival_of
from jaxsci.pfn.curves._stretch import Ensemble, stretch

__all__ = [
    "CurvePosterior",
    "Ensemble",
    "Evaluation",
    "Normalized",
    "Normalizer",
    "Rule",
    "coarse",
    "denormalize",
    "epochs_to_reach",
    "evaluate",
    "fine",
    "mixture_log_density",
    "no_stop",
    "normalize",
    "normalizer",
    "patience",
    "posterior",
    "predict",
    "predictive",
    "stop",
    "stretch",
    "survival_of",
]

entry.guard(globals())
