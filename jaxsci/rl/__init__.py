"""Value-based reinforcement learning in discrete time: deep Q-learning, and a decision process of its own.

Builds on: bandits, nn. An environment is a `core.protocols.Environment` (``reset``, ``step``). `dqn` learns action
values on any environment, from the transitions that `replay_buffer` keeps. `three_body` is an environment: its action
is the step parameter of an integrator. Start reading at `core/protocols.py`, then `dqn/_run.py`.
"""

from jaxsci.core import entry
from jaxsci.rl import dqn, replay_buffer, three_body

__all__ = ["dqn", "replay_buffer", "three_body"]

entry.guard(globals())
