"""Linear operators and solvers of other packages as ours, and ours as theirs.

lineax: `from_lineax` turns its operators into ours; `to_lineax` makes one of our methods a solver of
`lineax.linear_solve`, and with it of diffrax and optimistix.
SciPy and `jax.experimental.sparse`: `from_scipy`, `from_bcoo`.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jaxsci.core import entry, status, tree
from jaxsci.core.extras import require
from jaxsci.core.protocols import Solver
from jaxsci.core.types import Scalar, as_count
from jaxsci.linear import operators
from jaxsci.linear._foreign import from_bcoo, from_scipy
from jaxsci.linear._solve import solve


def from_lineax(operator, *, materialise: bool = False):
    """A square operator of lineax as one of `linear.operators`.

    Matrices become `operators.dense`, diagonal and tridiagonal operators `operators.banded`; both have the triangular
    solves of SOR and SSOR. Functions, Jacobians, sums and products are known by their product alone; their diagonal
    takes n products when a method asks for it. A function on one array keeps that array's shape. Matrices, diagonals,
    and operators on any other pytree act on vectors (n,) of all entries, in the order of
    `jax.flatten_util.ravel_pytree`.

    Args:
        operator: a `lineax.AbstractLinearOperator`, its arrays traced.
        materialise: write a function out as a dense matrix, by n products: that gives it triangular solves. Static.

    Raises:
        ValueError: an operator that is not square, or complex. Later, when a method with sweeps is given a function.
        ImportError: lineax is not installed.

    Differentiable in the operator's arrays.

    Example:
        >>> import lineax
        >>> from jaxsci import linear
        >>> op = linear.interop.from_lineax(lineax.DiagonalLinearOperator(jnp.array([1.0, 2.0])))
        >>> [float(v) for v in op.mv(jnp.ones(2))]
        [1.0, 2.0]
    """
    lx = require("lineax", "ode", "linear.interop.from_lineax")
    structure = operator.in_structure()
    leaves, like = jax.tree.leaves(structure), jax.tree.leaves(operator.out_structure())
    if [(a.shape, a.dtype) for a in leaves] != [(a.shape, a.dtype) for a in like] or not leaves:
        raise ValueError(f"from_lineax: expected a square operator, got {structure} -> {operator.out_structure()}")
    if any(jnp.issubdtype(a.dtype, jnp.complexfloating) for a in leaves):
        raise ValueError("from_lineax: expected a real operator, got a complex one; solve its real form")
    definite = lx.is_positive_semidefinite(operator) or lx.is_negative_semidefinite(operator)
    symmetric = bool(lx.is_symmetric(operator) or definite)
    plain = operator
    while isinstance(plain, lx.TaggedLinearOperator):
        plain = plain.operator
    if isinstance(plain, (lx.MatrixLinearOperator, lx.PyTreeLinearOperator)) or materialise:
        return operators.dense(operator.as_matrix(), symmetric=symmetric)
    if lx.is_diagonal(operator):
        return operators.banded(lx.diagonal(operator)[None], (0,), symmetric=True)
    if lx.is_tridiagonal(operator):
        main, below, above = lx.tridiagonal(operator)
        bands = jnp.stack([jnp.pad(below, (1, 0)), main, jnp.pad(above, (0, 1))])
        return operators.banded(bands, (-1, 0, 1), symmetric=symmetric)
    return _Function(lx.linearise(operator), symmetric=symmetric)


class _Function(eqx.Module):
    """A lineax operator of which only products are known; reading its diagonal computes it.

    Attributes:
        operator: the lineax operator, linearised.
        symmetric: whether lineax says that it is symmetric or definite.
    """

    operator: Any
    symmetric: bool = eqx.field(static=True)

    @property
    def mv(self):
        """x -> A x on an array, whatever pytree lineax's operator acts on."""
        return Partial(_mv, self.operator)

    @property
    def diagonal(self):
        """D, by n products."""
        lx = require("lineax", "ode", "linear.interop.from_lineax")
        return lx.diagonal(self.operator).reshape(_shape(self.operator))

    @property
    def transpose(self) -> "_Function":
        """A^T."""
        return self if self.symmetric else _Function(self.operator.transpose(), symmetric=False)

    @property
    def ordered(self):
        """A function of lineax has no triangular solves.

        Raises:
            ValueError: always; the message names what to use instead.
        """
        raise ValueError(
            "SOR, SSOR and their preconditioners need triangular solves, and of this lineax operator only products are "
            "known: pass materialise=True to from_lineax or to_lineax, or use cg, chebyshev or jacobi"
        )


def _shape(operator) -> tuple[int, ...]:
    structure = operator.in_structure()
    return structure.shape if isinstance(structure, jax.ShapeDtypeStruct) else (operator.in_size(),)


def _mv(operator, x):
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), operator.in_structure())
    _, unravel = ravel_pytree(zeros)
    return ravel_pytree(operator.mv(unravel(x.reshape(-1))))[0].reshape(x.shape)


def to_lineax(method: Solver, *, tol: Scalar = 1e-6, max_steps: Scalar = 10_000, materialise: bool = False) -> Any:
    """One of `linear.methods` as a solver for `lineax.linear_solve`, and so for diffrax and optimistix.

    Args:
        method: from `linear.methods`; its hyper-parameters are traced. For the Krylov methods, SOR and SSOR the
            operator must be symmetric and definite, which is not checked; a negative definite one, as implicit ODE
            steps have, is solved as -A x = -b.
        tol: of `linear.solve`, relative to ||b||_2, traced.
        max_steps: step cap, traced.
        materialise: write functions and Jacobians out as matrices, which SOR and SSOR need; see `from_lineax`. Static.

    Returns:
        A `lineax.AbstractLinearSolver`. Its ``options`` may hold the first iterate ``y0``. ``stats`` of the solution:
        num_steps, max_steps, and residual and status of `linear.Result`; ``result`` says max_steps_reached, singular,
        stagnation, nonfinite_input, or breakdown for divergence and parameters out of range. Gradients are lineax's
        own; the transposed solves run the same method on the transposed operator.

    Raises:
        ImportError: lineax is not installed.
        ValueError: while tracing, an operator that `from_lineax` or the method refuses, or a ``preconditioner`` option.

    Example:
        >>> import lineax
        >>> from jaxsci import linear
        >>> matrix = jnp.array([[4.0, -1.0], [-1.0, 4.0]])
        >>> solver = linear.interop.to_lineax(linear.methods.sor(1.05), tol=1e-5)
        >>> found = lineax.linear_solve(lineax.MatrixLinearOperator(matrix), jnp.array([3.0, 3.0]), solver)
        >>> [float(v) for v in found.value.round(3)], int(found.stats["num_steps"])
        ([1.0, 1.0], 5)
    """
    make = _solver_class()
    tol, max_steps = jnp.asarray(tol, float), as_count(max_steps, "to_lineax", "max_steps")
    return make(method, tol, max_steps, materialise)


def _times(sign, op):
    """sign times A, as an operator of the same kind."""
    if isinstance(op, _Function):
        return _Function(op.operator * sign, symmetric=op.symmetric)
    return operators.scaled(op, sign)


class _State(eqx.Module):
    """An operator whose leaves are arrays only: diffrax differentiates through the states of linear solvers.

    Attributes:
        arrays: the operator's arrays, with None elsewhere.
        rest: all else of it.
    """

    arrays: Any
    rest: Any = eqx.field(static=True)


def _hold(op) -> _State:
    return _State(*eqx.partition(op, eqx.is_array))


def _held(state: _State):
    return eqx.combine(state.arrays, state.rest)


@functools.cache
def _solver_class():
    """The class, made once when lineax is first needed."""
    lx = require("lineax", "ode", "linear.interop.to_lineax")

    class IterativeSolver(lx.AbstractLinearSolver):
        """`linear.solve` behind lineax's interface; the state is the operator in our form."""

        method: Solver
        tol: Any
        max_steps: Any
        materialise: bool = eqx.field(static=True)

        def init(self, operator, options):
            return _hold(from_lineax(operator, materialise=self.materialise))

        def compute(self, state, vector, options):
            if "preconditioner" in options:
                raise ValueError(
                    "to_lineax: expected the preconditioner inside the method, got the option 'preconditioner'; "
                    "use linear.methods.pcg or ssor_pcg"
                )
            op = _held(state)
            flat, unravel = ravel_pytree(vector)
            shape = eqx.filter_eval_shape(lambda op: op.diagonal, op).shape
            b = flat.reshape(shape)
            y0 = options.get("y0")
            x0 = None if y0 is None else ravel_pytree(y0)[0].reshape(shape)
            # The Jacobian of an implicit ODE step is negative definite: -A x = -b is as good.
            sign = jnp.where(tree.dot(b, op.mv(b)) < 0, -1, 1).astype(b.dtype)
            op, b = _times(sign, op), sign * b
            found = solve(op, b, x0, method=self.method, tol=self.tol, max_steps=self.max_steps)
            stats = {
                "num_steps": found.steps,
                "max_steps": self.max_steps,
                "residual": found.residual,
                "status": found.status,
            }
            return unravel(found.value.reshape(-1)), _result(lx.RESULTS, found.status), stats

        def transpose(self, state, options):
            return _hold(_held(state).transpose), {}

        def conj(self, state, options):
            return state, options

        def assume_full_rank(self):
            return True

    return IterativeSolver


def _result(results, code):
    """Status bits as one of lineax's results; of several bits the gravest counts."""
    found = results.successful
    for bits, name in (
        (status.MAX_STEPS, "max_steps_reached"),
        (status.STAGNATED, "stagnation"),
        (status.DIVERGED | status.OUT_OF_RANGE | status.NONFINITE_RESULT, "breakdown"),
        (status.SINGULAR, "singular"),
        (status.NONFINITE_INPUT, "nonfinite_input"),
    ):
        found = results.where((code & bits) != 0, getattr(results, name), found)
    return found


__all__ = ["from_bcoo", "from_lineax", "from_scipy", "to_lineax"]

entry.guard(globals(), "_mv")
