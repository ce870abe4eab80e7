"""Bandit policies over losses, never rewards: how to make them, combine them, and play them.

Builds on: core, gp, nn. A policy is a `core.protocols.Policy`, a triple (init, select, update) of pure functions.
`policies` makes them, `wrappers` makes policies out of other policies, `regressors` are what contextual policies
predict losses with, `features` encode contexts, `probabilities` are the rules by which randomised policies play.
`replay` plays a policy on a table of costs, `regret` measures what it paid beyond the best arm, `update_batch` learns
many decisions at once. Start reading at `_simple.py`.
"""

from jaxsci.bandits import features, policies, probabilities, regressors, wrappers
from jaxsci.bandits._regret import Regret, regret
from jaxsci.bandits._replay import ReplayRecord, ReplayResult, ReplayState, replay, update_batch
from jaxsci.core import entry

__all__ = [
    "Regret",
    "ReplayRecord",
    "ReplayResult",
    "ReplayState",
    "features",
    "policies",
    "probabilities",
    "regressors",
    "regret",
    "replay",
    "update_batch",
    "wrappers",
]

entry.guard(globals())
