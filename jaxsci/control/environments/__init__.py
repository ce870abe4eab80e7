"""gymnax's pendulum and mountain car in continuous time, with any step and sub-steps, and as discrete environments.

Builds on: control.problems, core. Start reading at `_walled.py` (a problem with its walls, one step of it), then
`_gymnax.py` (the two problems) and `_discrete.py` (a `core.protocols.Environment` of one).
"""

from jaxsci.control.environments._discrete import discrete
from jaxsci.control.environments._gymnax import mountain_car, pendulum
from jaxsci.control.environments._walled import Rollout, Step, WalledProblem, rollout, step
from jaxsci.core import entry

__all__ = ["Rollout", "Step", "WalledProblem", "discrete", "mountain_car", "pendulum", "rollout", "step"]

entry.guard(globals())
