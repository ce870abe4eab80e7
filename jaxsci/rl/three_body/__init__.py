"""Adaptive time-stepping: a policy chooses the step parameter of an integrator of three gravitating bodies.

Builds on: core. Start reading at `hermite.py` (the integrator, of use alone), then `_env.py` (the decision
process) and `_evaluate.py` (policies measured).
"""

from jaxsci.core import entry
from jaxsci.rl.three_body import hermite
from jaxsci.rl.three_body._env import (
    REWARDS,
    STEP_PARAMETERS,
    Config,
    State,
    config,
    environment,
    observe,
    published_start,
    reset,
    start,
    step,
)
from jaxsci.rl.three_body._evaluate import Rollout, fixed_actions, rollout

__all__ = [
    "REWARDS",
    "STEP_PARAMETERS",
    "Config",
    "Rollout",
    "State",
    "config",
    "environment",
    "fixed_actions",
    "hermite",
    "observe",
    "published_start",
    "reset",
    "rollout",
    "start",
    "step",
]

entry.guard(globals())
