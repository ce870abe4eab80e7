"""What a rule is, and the checks its builders share."""

import numbers
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from jaxsci.core.types import concrete

_ALTERNATIVE = "build the rule on [0, 1] and let quadrature.integrate(f, rule, a, b) move it to a traced interval"


class Rule(NamedTuple):
    r"""A quadrature rule $\int_a^b f \approx \sum_j w_j f(t_j)$.

    Rules of equal n stack (`jax.tree.map(jnp.stack, ...)`) and vmap; `pad` makes n equal.

    Attributes:
        nodes: points t_j in [a, b], increasing.
        weights: weights w_j, in the unit of the nodes.
    """

    nodes: Float[ArrayLike, "*batch n"]
    weights: Float[ArrayLike, "*batch n"]


class ConditioningWarning(UserWarning):
    """A linear system on the way to the weights is so ill-conditioned that fewer than three digits are certain."""


def size_and_interval(function: str, num_nodes: Any, a: Any, b: Any, least: int) -> tuple[int, float, float]:
    """Validated (n, a, b) of a builder."""
    values = concrete((num_nodes, a, b), function, "num_nodes, a and b", _ALTERNATIVE)
    if not isinstance(num_nodes, numbers.Integral) and not (
        np.ndim(num_nodes) == 0 and np.issubdtype(values[0].dtype, np.integer)
    ):
        raise TypeError(f"{function}: num_nodes must be an integer, got {num_nodes!r}")
    if int(values[0]) < least:
        raise ValueError(f"{function}: num_nodes must be >= {least}, got {int(values[0])}")
    return int(values[0]), *interval(function, *values[1:])


def interval(function: str, a: Any, b: Any) -> tuple[float, float]:
    """Validated ends, finite and a < b."""
    a, b = concrete((a, b), function, "a and b", _ALTERNATIVE)
    if a.shape != () or b.shape != ():
        raise ValueError(f"{function}: a and b must be scalars, got shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a) and np.isfinite(b) and a < b):
        raise ValueError(
            f"{function}: expected finite a < b, got a = {a}, b = {b}; for a reversed interval negate the weights"
        )
    return float(a), float(b)


def checked_nodes(function: str, nodes: Any, a: float, b: float) -> np.ndarray:
    """Validated nodes: one axis, finite, strictly increasing, inside [a, b]; float64."""
    nodes = np.asarray(concrete(nodes, function, "nodes", _ALTERNATIVE), np.float64)
    if nodes.ndim != 1 or nodes.size == 0:
        raise ValueError(f"{function}: nodes must have shape (n,) with n >= 1, got {nodes.shape}")
    if not np.isfinite(nodes).all():
        raise ValueError(f"{function}: nodes must be finite, got {nodes}")
    if not (np.diff(nodes) > 0).all():
        raise ValueError(
            f"{function}: nodes must be strictly increasing (sorted, no duplicates), got {nodes}; use numpy.unique"
        )
    if nodes[0] < a or nodes[-1] > b:
        raise ValueError(f"{function}: nodes must lie in [{a}, {b}], got [{nodes[0]}, {nodes[-1]}]")
    return nodes


__all__ = ["ConditioningWarning", "Rule", "checked_nodes", "interval", "size_and_interval"]
