r"""Policy evaluation by martingale conditions: the value of a policy from its paths, in continuous time.

`condition` says what is to hold (a value family, the discount, test functions); methods solve it: `ctd`, `cgtd`,
`cgtd2`, `ctdc` step by step with `run`, `clstd`, `least_squares_ml` by sums with `run` or `fit`, and `losses` with any
optimiser. `least_squares_mstde` is the baseline that fails. Start reading at `_condition.py`.

Reference: Y. Jia, X. Y. Zhou, "Policy Evaluation and Temporal-Difference Learning in Continuous Time and Space: A
Martingale Approach", JMLR 23(154), 2022.
"""

from jaxsci.control.martingale import losses
from jaxsci.control.martingale._condition import Condition, Residual, Unknowns, condition, moments, residual
from jaxsci.control.martingale._gradient_td import GTDState, cgtd, cgtd2, ctdc
from jaxsci.control.martingale._least_squares import Sums, clstd, least_squares_ml, least_squares_mstde
from jaxsci.control.martingale._method import Clock, Method, Result, fit, merge, run
from jaxsci.control.martingale._temporal_difference import TDState, ctd
from jaxsci.control.martingale._value import Value, linear_value, mlp_value
from jaxsci.core import entry

__all__ = [
    "Clock",
    "Condition",
    "GTDState",
    "Method",
    "Residual",
    "Result",
    "Sums",
    "TDState",
    "Unknowns",
    "Value",
    "cgtd",
    "cgtd2",
    "clstd",
    "condition",
    "ctd",
    "ctdc",
    "fit",
    "least_squares_ml",
    "least_squares_mstde",
    "linear_value",
    "losses",
    "merge",
    "mlp_value",
    "moments",
    "residual",
    "run",
]

entry.guard(globals())
