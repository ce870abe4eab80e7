"""Deep Q-learning: many environments at a time, replay, a slowly following target network.

Builds on: core, nn, rl.replay_buffer. Start reading at `_run.py`.
"""

from jaxsci.rl.dqn._network import Network, greedy, network
from jaxsci.rl.dqn._run import (
    Config,
    Environment,
    Record,
    Result,
    State,
    TimeStep,
    config,
    epsilon,
    init,
    optimizer,
    run,
    step,
    target_of,
)

__all__ = [
    "Config",
    "Environment",
    "Network",
    "Record",
    "Result",
    "State",
    "TimeStep",
    "config",
    "epsilon",
    "greedy",
    "init",
    "network",
    "optimizer",
    "run",
    "step",
    "target_of",
]
