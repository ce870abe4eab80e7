"""Quadrature rules as (nodes, weights), classical and Bayesian, and what one does with them.

Builds on: core. Start reading at `rules.py`, then `_integrate.py`; `_bayesian.py` and `kernels.py` are one more rule.
`rules` build nodes and weights on the host in float64, `integrate` and `apply` use them in compiled code, `kernels`
say what a Bayesian rule believes about the integrand, `variance` how far it trusts the result.
"""

from jaxsci.quadrature import kernels, rules
from jaxsci.quadrature._bayesian import variance
from jaxsci.quadrature._integrate import (
    apply,
    cumulative_simpson,
    cumulative_trapezoid,
    integrate,
    integration_matrix,
    pad,
)
from jaxsci.quadrature._rule import ConditioningWarning, Rule

__all__ = [
    "ConditioningWarning",
    "Rule",
    "apply",
    "cumulative_simpson",
    "cumulative_trapezoid",
    "integrate",
    "integration_matrix",
    "kernels",
    "pad",
    "rules",
    "variance",
]
