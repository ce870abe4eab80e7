r"""Exploratory linear-quadratic control: the closed form, and two learners that find it from one noisy trajectory.

$dX = (AX + Ba)\,dt + (CX + Da)\,dW$ earns $r = -(\frac12 Mx^2 + Rxa + \frac12 Na^2 + Px + Qa)$ a unit of time, and
$\lambda$ times the entropy of the policy that draws the actions. `solution` is the optimum, `average_reward` the truth
for any Gaussian policy; `actor_critic` and `q_learning` learn online (`run`), `q_learning` from any recorded data too
(`run_offline`). Parameter sets, temperatures and seeds are axes of `jax.vmap`.

References: Jia and Zhou 2022, Policy Gradient and Actor-Critic Learning in Continuous Time and Space (JMLR 23:275),
section 5.2; Jia and Zhou 2023, q-Learning in Continuous Time (JMLR 24:161).
"""

from jaxsci.control.exploratory._data import Experience, simulate
from jaxsci.control.exploratory._learners import (
    Learner,
    Parameters,
    actor_critic,
    log_decay,
    power_decay,
    q_learning,
)
from jaxsci.control.exploratory._problem import (
    NO_STATIONARY_LAW,
    ExploratoryLQ,
    GaussianPolicy,
    Solution,
    Stationary,
    average_reward,
    solution,
)
from jaxsci.control.exploratory._run import History, OnlineState, init, run, run_offline, step
from jaxsci.core import entry

__all__ = [
    "NO_STATIONARY_LAW",
    "Experience",
    "ExploratoryLQ",
    "GaussianPolicy",
    "History",
    "Learner",
    "OnlineState",
    "Parameters",
    "Solution",
    "Stationary",
    "actor_critic",
    "average_reward",
    "init",
    "log_decay",
    "power_decay",
    "q_learning",
    "run",
    "run_offline",
    "simulate",
    "solution",
    "step",
]

entry.guard(globals())
