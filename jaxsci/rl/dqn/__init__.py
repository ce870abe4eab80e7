"""Deep Q-learning: many environments at a time, replay, a slowly following target network.

Builds on: core, nn, rl.replay_buffer. Start reading at `_run.py`. The environment is a `core.protocols.Environment`.
"""

from jaxsci.core import entry
from jaxsci.rl.dqn._config import Config, config, epsilon, optimizer
from jaxsci.rl.dqn._network import Network, greedy, network
from jaxsci.rl.dqn._run import Record, Result, State, init, run, step
from jaxsci.rl.dqn._targets import target_of

__all__ = [
    "Config",
    "Network",
    "Record",
    "Result",
    "State",
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

entry.guard(globals())
