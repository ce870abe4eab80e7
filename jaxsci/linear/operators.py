r"""Linear operators as data: what A is. A solver asks an operator for products, its diagonal and triangular solves.

A splits as D + L + U: the diagonal D, and the entries of each row for unknowns that are updated before (L) and after
(U) the row's own. An operator is an `equinox.Module` of arrays, so it crosses jit, stacks under vmap and is
differentiated with respect to its entries; patterns, offsets and orders are static.

Grids: `stencil5`, `stencil7`, `shifted_laplacian`, `diffusion`. Matrices: `dense`, `sparse`, `banded`. Functions:
`matrix_free`. From others: `shifted`, `scaled`, `add`, `compose`, `as_sparse`; `reordered` changes the order of sweeps.
"""

from typing import Protocol

from jax.tree_util import Partial
from jaxtyping import Array

from jaxsci.core import entry
from jaxsci.linear._algebra import (
    MatrixFree,
    Product,
    add,
    as_sparse,
    compose,
    matrix_free,
    reordered,
    scaled,
    shifted,
)
from jaxsci.linear._dense import Dense, dense
from jaxsci.linear._sparse import Banded, Sparse, banded, sparse
from jaxsci.linear._stencil import Stencil, diffusion, shifted_laplacian, stencil5, stencil7


class Ordered(Protocol):
    """An operator in the storage of its sweeps, in which a vector may have another shape than the operator's.

    ``pack(x)`` brings a vector into that storage, ``unpack(y)`` brings it back. The storage may have more places than
    there are unknowns: the others hold zeros, in ``diagonal`` too. ``mv(y)`` is A y, ``lower_mv(y)`` L y,
    ``upper_mv(y)`` U y. ``lower(omega)`` and
    ``upper(omega)`` are functions r -> (D/omega + L)^-1 r and r -> (D/omega + U)^-1 r, linear in r.
    """

    diagonal: Array
    pack: Partial
    unpack: Partial
    mv: Partial
    lower_mv: Partial
    upper_mv: Partial
    lower: Partial
    upper: Partial


class LinearOperator(Protocol):
    """What every solver asks of an operator on arrays of one fixed shape.

    ``mv(x)`` is A x; ``diagonal`` is D in the shape of x; ``transpose`` is the operator A^T; ``symmetric`` is a
    static promise. ``ordered`` is the same operator for methods with sweeps; an operator without triangular solves
    raises ValueError there. Work that does not depend on x is done when a property is read, not at every call.
    """

    symmetric: bool
    diagonal: Array
    mv: Partial
    transpose: "LinearOperator"
    ordered: Ordered


__all__ = [
    "Banded",
    "Dense",
    "LinearOperator",
    "MatrixFree",
    "Ordered",
    "Product",
    "Sparse",
    "Stencil",
    "add",
    "as_sparse",
    "banded",
    "compose",
    "dense",
    "diffusion",
    "matrix_free",
    "reordered",
    "scaled",
    "shifted",
    "shifted_laplacian",
    "sparse",
    "stencil5",
    "stencil7",
]

entry.guard(globals())
