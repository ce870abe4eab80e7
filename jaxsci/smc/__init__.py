"""Sequential Monte Carlo: Feynman-Kac models, resampling, particle filters in one scan.

Builds on: core. Start reading at `_model.py` (what a model is), then `_step.py` (the order of one step).
"""

from jaxsci.core import entry
from jaxsci.smc import decoding, interop, resamplers
from jaxsci.smc._batches import in_batches
from jaxsci.smc._conditional import PathDraw, conditional, lineage
from jaxsci.smc._filters import StateSpace, auxiliary, bootstrap, forecast, guided, state_space
from jaxsci.smc._gibbs import gibbs
from jaxsci.smc._lag import Remembering, with_lag
from jaxsci.smc._marginal import marginal
from jaxsci.smc._model import FeynmanKac, Model, lift
from jaxsci.smc._pareto import pareto_k
from jaxsci.smc._run import Result, finish, init, run, step
from jaxsci.smc._step import UNEVEN_LOOK_AHEAD, Cloud, State, Step
from jaxsci.smc._transport import Transport
from jaxsci.smc._variance import COALESCED, Variance, log_z_variance, mean_variance, resample_to_uniform
from jaxsci.smc._weights import effective_sample_size, log_mean_exp

__all__ = [
    "COALESCED",
    "UNEVEN_LOOK_AHEAD",
    "Cloud",
    "FeynmanKac",
    "Model",
    "PathDraw",
    "Remembering",
    "Result",
    "State",
    "StateSpace",
    "Step",
    "Transport",
    "Variance",
    "auxiliary",
    "bootstrap",
    "conditional",
    "decoding",
    "effective_sample_size",
    "finish",
    "forecast",
    "gibbs",
    "guided",
    "in_batches",
    "init",
    "interop",
    "lift",
    "lineage",
    "log_mean_exp",
    "log_z_variance",
    "marginal",
    "mean_variance",
    "pareto_k",
    "resample_to_uniform",
    "resamplers",
    "run",
    "state_space",
    "step",
    "with_lag",
]

entry.guard(globals())
