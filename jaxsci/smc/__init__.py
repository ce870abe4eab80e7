"""Sequential Monte Carlo: Feynman-Kac models, resampling, particle filters in one scan.

Builds on: core. Start reading at `_model.py` (what a model is), then `_step.py` (the order of one step).
"""

from jaxsci.smc import resamplers
from jaxsci.smc._model import FeynmanKac, Model, lift
from jaxsci.smc._run import Result, finish, init, run, step
from jaxsci.smc._step import UNEVEN_LOOK_AHEAD, Cloud, State, Step
from jaxsci.smc._weights import effective_sample_size, log_mean_exp

__all__ = [
    "UNEVEN_LOOK_AHEAD",
    "Cloud",
    "FeynmanKac",
    "Model",
    "Result",
    "State",
    "Step",
    "effective_sample_size",
    "finish",
    "init",
    "lift",
    "log_mean_exp",
    "resamplers",
    "run",
    "step",
]
