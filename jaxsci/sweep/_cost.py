"""A rough count of operations and memory of one point, from its jaxpr alone: the same for every run and machine.

Lanes are sized by it rather than by a stopwatch, so that two runs of one sweep choose the same lanes and agree
bit for bit.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsci.core.program import inner_jaxprs

_TRIPS = 100  # assumed for a loop whose length depends on data
_LEAST = 32  # an equation on a scalar costs about as much as one on this many elements


class Cost(NamedTuple):
    """What a point costs, a rough count from its jaxpr.

    Attributes:
        operations: operations; a loop of unknown length counts as 100 steps.
        bytes: bytes of the largest intermediate.
        uneven: whether a loop's length depends on data.
    """

    operations: float
    bytes: int
    uneven: bool


def _size(variables) -> int:
    return max((int(np.prod(getattr(v.aval, "shape", ()))) for v in variables), default=0)


def _bytes(variables) -> int:
    total = 0
    for v in variables:
        dtype = getattr(v.aval, "dtype", None)
        width = 8 if dtype is None or jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else dtype.itemsize
        total += int(np.prod(getattr(v.aval, "shape", ()))) * width
    return total


def cost_of(jaxpr: Any) -> Cost:
    """Sum over equations; loops by their length, branches by the dearer one."""
    operations, largest, uneven = 0.0, 0, False
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        parts = [cost_of(j) for j in inner_jaxprs(eqn)]
        if name == "while":
            work, uneven = _TRIPS * sum(p.operations for p in parts), True
        elif name == "scan":
            work = eqn.params["length"] * sum(p.operations for p in parts)
        elif name == "cond":
            work = max(p.operations for p in parts)
        elif parts:
            work = sum(p.operations for p in parts)
        elif name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            work = 2 * _size(eqn.outvars) * np.prod([eqn.invars[0].aval.shape[d] for d in contracted])
        else:
            work = max(_LEAST, _size(eqn.outvars), _size(eqn.invars))
        operations += float(work)
        largest = max([largest, _bytes(eqn.outvars), *(p.bytes for p in parts)])
        uneven = uneven or any(p.uneven for p in parts)
    return Cost(operations, largest, uneven)
