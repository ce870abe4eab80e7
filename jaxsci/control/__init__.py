"""Continuous-time control and reinforcement learning.

Builds on: quadrature, nn. A problem is dynamics, rewards and a horizon (`sde`, `ode`); `simulate` and `exact` make
paths of it; `martingale` finds the value of a policy from paths; `integral` evaluates and improves policies from
integrals of the running cost, by any rule of `quadrature`; `riccati` holds the linear-quadratic truths, `exploratory`
the entropy-regularised learners. Learning in discrete time is the room `rl`.
Start reading at `problems.py`, then `martingale/_condition.py` or `integral/_problem.py`.
"""

from jaxsci.control import (
    environments,
    exact,
    exploratory,
    integral,
    martingale,
    problems,
    riccati,
    simulate,
)
from jaxsci.control.problems import ODE, SDE, ode, sde
from jaxsci.control.simulate import (
    Path,
    Transition,
    coarsen,
    discounted_return,
    euler_maruyama,
    increments,
    rewarded,
    rollout,
    transitions,
)
from jaxsci.core import entry

__all__ = [
    "ODE",
    "SDE",
    "Path",
    "Transition",
    "coarsen",
    "discounted_return",
    "environments",
    "euler_maruyama",
    "exact",
    "exploratory",
    "increments",
    "integral",
    "martingale",
    "ode",
    "problems",
    "rewarded",
    "riccati",
    "rollout",
    "sde",
    "simulate",
    "transitions",
]

entry.guard(globals())
