"""Simulation on a time grid: Euler-Maruyama for stochastic problems, adaptive Runge-Kutta for deterministic ones.

Start reading at `_path.py` (what comes out), then `_euler_maruyama.py`.
"""

from jaxsci.control.simulate._brownian import coarsen, increments
from jaxsci.control.simulate._euler_maruyama import SimulationState, euler_maruyama, init, step
from jaxsci.control.simulate._path import Path, Transition, discounted_return, rewarded, transitions
from jaxsci.control.simulate._rollout import rollout
from jaxsci.core import entry

__all__ = [
    "Path",
    "SimulationState",
    "Transition",
    "coarsen",
    "discounted_return",
    "euler_maruyama",
    "increments",
    "init",
    "rewarded",
    "rollout",
    "step",
    "transitions",
]

entry.guard(globals())
