"""Adaptive time-stepping: a policy chooses the step parameter of an integrator of three gravitating bodies.

Builds on: core, rl.dqn. Start reading at `hermite.py` (the integrator, of use alone; `integrators.py` has others), then
`_env.py` (the decision process) and `_evaluate.py` (policies measured).
"""

from jaxsci.core import entry
from jaxsci.rl.three_body import hermite, integrators
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
from jaxsci.rl.three_body._pretrained import Pretrained, pretrained

__all__ = [
    "REWARDS",
    "STEP_PARAMETERS",
    "Config",
    "Pretrained",
    "Rollout",
    "State",
    "config",
    "environment",
    "fixed_actions",
    "hermite",
    "integrators",
    "observe",
    "pretrained",
    "published_start",
    "reset",
    "rollout",
    "start",
    "step",
]

entry.guard(globals())
