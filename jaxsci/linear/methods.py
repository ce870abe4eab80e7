r"""Iterative methods for A x = b, each a `core.protocols.Solver`: four pure functions that `linear.solve` drives.

Stationary: `jacobi`, `gauss_seidel`, `sor`, `ssor`; `pipelined_sor` is `sor` with several sweeps at once, for large
grids on accelerators. With a known interval of eigenvalues: `chebyshev`. Krylov: `cg`, `pcg` with any preconditioner,
`ssor_pcg` in both sweep orders and in Eisenstat's form. `refined` runs any of these except `pipelined_sor` in a smaller
precision. Hyper-parameters are traced leaves: a new value never compiles again, and vmap may sweep them.

`cg`, `pcg` and `chebyshev` need only the operator's product, `jacobi` its diagonal too; the others need triangular
solves in the operator's order.

Reference: Saad 2003, Iterative Methods for Sparse Linear Systems.
"""

from jaxsci.core import entry
from jaxsci.linear._chebyshev import ChebyshevState, Interval, chebyshev
from jaxsci.linear._krylov import CGState, EisenstatState, Factors, KrylovState, cg, pcg, ssor_pcg
from jaxsci.linear._pipelined import Chunk, PipelinedState, pipelined_sor
from jaxsci.linear._refined import RefinedState, refined
from jaxsci.linear._stationary import StationaryState, gauss_seidel, jacobi, sor, ssor
from jaxsci.linear._system import System

__all__ = [
    "CGState",
    "ChebyshevState",
    "Chunk",
    "EisenstatState",
    "Factors",
    "Interval",
    "KrylovState",
    "PipelinedState",
    "RefinedState",
    "StationaryState",
    "System",
    "cg",
    "chebyshev",
    "gauss_seidel",
    "jacobi",
    "pcg",
    "pipelined_sor",
    "refined",
    "sor",
    "ssor",
    "ssor_pcg",
]

entry.guard(globals())
