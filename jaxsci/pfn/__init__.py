"""Prior-data fitted networks: a network trained on data sets drawn from a prior predicts the posterior in one pass.

Builds on: core, gp, nn. Start reading at `priors` (what a data set is), then `_bars.py` (what is predicted).
"""

from jaxsci.core import entry
from jaxsci.pfn import bars, curves, priors, scores
from jaxsci.pfn._network import Config, Context, apply, apply_sequence, config, encode, init, query
from jaxsci.pfn._predict import OUTSIDE, Classes, Model, classify, model, predict
from jaxsci.pfn._store import about, load, names, save
from jaxsci.pfn._train import batch, loss, prior_borders, train
from jaxsci.pfn.bars import BarDistribution

__all__ = [
    "OUTSIDE",
    "BarDistribution",
    "Classes",
    "Config",
    "Context",
    "Model",
    "about",
    "apply",
    "apply_sequence",
    "bars",
    "batch",
    "classify",
    "config",
    "curves",
    "encode",
    "init",
    "load",
    "loss",
    "model",
    "names",
    "predict",
    "prior_borders",
    "priors",
    "query",
    "save",
    "scores",
    "train",
]

entry.guard(globals())
