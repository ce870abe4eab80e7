"""Quadrature rules as (nodes, weights), classical and Bayesian, and what one does with them.

Builds on: core. Start reading at `rules.py`, then `_integrate.py`; `_bayesian.py` and `embeddings.py`
are one more rule.
`rules` build nodes and weights on the host in float64, `integrate` and `apply` use them in compiled code, `embeddings`
hold the kernels by which a Bayesian rule says what it believes of the integrand, `variance` how far it trusts the
result.
"""

from jaxsci.core import entry
from jaxsci.quadrature import embeddings, rules
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
    "embeddings",
    "integrate",
    "integration_matrix",
    "pad",
    "rules",
    "variance",
]

entry.guard(globals())
