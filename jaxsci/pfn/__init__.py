"""Prior-data fitted networks: a network trained on data sets drawn from a prior predicts the posterior in one pass.

Builds on: core, gp, nn. Start reading at `priors` (what a data set is), then `_bars.py` (what is predicted).
"""

from jaxsci.pfn import bars, curves, priors
from jaxsci.pfn._network import Config, Context, apply, apply_sequence, attention, config, encode, init, query
from jaxsci.pfn.bars import BarDistribution

__all__ = [
    "BarDistribution",
    "Config",
    "Context",
    "apply",
    "apply_sequence",
    "attention",
    "bars",
    "config",
    "curves",
    "encode",
    "init",
    "priors",
    "query",
]
