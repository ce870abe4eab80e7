"""Linear solvers, and sequences of solves whose parameters are tuned while they run.

Builds on: core and the kernel `sor`. Start reading at `_solve.py` (the driver), then `methods.py` (what it drives).
`operators` says what A is, `methods` how to iterate, `solve` does it; `streams` are sequences of related systems,
`tuned_sequence` solves one under a bandit policy in one scan; `theory` predicts the best parameter.
"""

from jaxsci.core import entry
from jaxsci.linear import bounds, interop, lanczos, methods, operators, streams, theory
from jaxsci.linear._physics import PhysicsState, physics_policy
from jaxsci.linear._solve import OUT_OF_REACH, Result, solve
from jaxsci.linear._tuned import (
    TunedRecord,
    TunedResult,
    TunedState,
    cost_table,
    iterations,
    tuned_init,
    tuned_sequence,
    tuned_step,
)

__all__ = [
    "OUT_OF_REACH",
    "PhysicsState",
    "Result",
    "TunedRecord",
    "TunedResult",
    "TunedState",
    "bounds",
    "cost_table",
    "interop",
    "iterations",
    "lanczos",
    "methods",
    "operators",
    "physics_policy",
    "solve",
    "streams",
    "theory",
    "tuned_init",
    "tuned_sequence",
    "tuned_step",
]

entry.guard(globals())
