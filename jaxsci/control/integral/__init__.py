"""Integral reinforcement learning: optimal control of x' = f(x) + g(x) u from trajectories, with f unknown.

Builds on: core, quadrature's rules as plain (nodes, weights). Start reading at `_problem.py`, then `_evaluate.py`.
`evaluate` finds the value of a policy, `evaluate_samples` does so from measured states, `policy` is the greedy one of
a value, `policy_iteration` alternates them, and `newton_bound` says what an integration error does to the limit.
"""

from jaxsci.control.integral._evaluate import (
    MISPLACED_RULE,
    RANK_LOST,
    UNSTABLE,
    Evaluation,
    evaluate,
    evaluate_samples,
)
from jaxsci.control.integral._iterate import Result, newton_bound, policy_iteration
from jaxsci.control.integral._problem import UNFIT_COSTS, ControlAffine, kronecker, linear_quadratic, policy, quadratic
from jaxsci.core import entry

__all__ = [
    "MISPLACED_RULE",
    "RANK_LOST",
    "UNFIT_COSTS",
    "UNSTABLE",
    "ControlAffine",
    "Evaluation",
    "Result",
    "evaluate",
    "evaluate_samples",
    "kronecker",
    "linear_quadratic",
    "newton_bound",
    "policy",
    "policy_iteration",
    "quadratic",
]

entry.guard(globals())
