r"""Control-affine regulation problems, quadratic features, and the greedy policy of a value function.

$\dot x = f(x) + g(x)u$, cost $\int_0^\infty (x^\top Q x + u^\top R u)\,dt$. With $V_w(x) = w^\top\varphi(x)$ the greedy
policy is $u = -\frac12 R^{-1} g(x)^\top \nabla\varphi(x)^\top w$: it needs g, never f.

Reference: Vrabie and Lewis 2009, Neural network approach to continuous-time direct adaptive optimal control for
partially unknown nonlinear systems, Neural Networks 22, section 3.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core import entry, precision, status
from jaxsci.core.types import float_dtype

UNFIT_COSTS = status.register(
    "control",
    27,
    "unfit costs",
    "the cost matrix Q or R is not symmetric, or R has a negative eigenvalue",
    "pass symmetric matrices, (M + M.T) / 2, and a positive R",
)

Matrix: TypeAlias = ArrayLike | Sequence


class ControlAffine(NamedTuple):
    """A regulation problem x' = f(x) + g(x) u, autonomous and deterministic, with the origin as its rest point.

    The functions are Partials of module-level functions, or bare functions (static).

    Attributes:
        drift: ``drift(x, args) -> f(x)``.
        input_matrix: ``input_matrix(x, args) -> g(x)``.
        state_cost: Q of the cost x^T Q x: symmetric, not negative.
        control_cost: R of the cost u^T R u: symmetric, positive definite.
        args: any pytree, handed to both functions.
    """

    drift: Callable[..., Float[Array, " d"]]
    input_matrix: Callable[..., Float[Array, "d m"]]
    state_cost: Float[Array, "d d"]
    control_cost: Float[Array, "m m"]
    args: PyTree = None


def linear_quadratic(A: Matrix, B: Matrix, Q: Matrix, R: Matrix) -> ControlAffine:
    """The problem x' = A x + B u with cost x^T Q x + u^T R u.

    Args:
        A, B, Q, R: (d, d), (d, m), (d, d), (m, m), traced.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.control import integral
        >>> problem = integral.linear_quadratic([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], jnp.eye(2), [[1.0]])
        >>> print(problem.drift(jnp.array([1.0, 2.0]), problem.args))
        [2. 0.]
    """
    A, B, Q, R = checked_matrices("linear_quadratic", A, B, Q, R)
    return ControlAffine(Partial(_linear_drift), Partial(_constant_input), Q, R, (A, B))


def checked_matrices(function: str, A, B, Q, R) -> tuple[Array, Array, Array, Array]:
    """The four matrices in one dtype, after their shapes were checked against each other."""
    dtype = float_dtype(A, B, Q, R)
    A, B, Q, R = (jnp.asarray(M, dtype) for M in (A, B, Q, R))
    d, m = B.shape if B.ndim == 2 else (-1, -1)
    for name, M, shape in (("A", A, (d, d)), ("B", B, (d, m)), ("Q", Q, (d, d)), ("R", R, (m, m))):
        if M.ndim != 2 or M.shape != shape:
            expected = "two axes (d, m)" if name == "B" else str(shape)
            raise ValueError(f"{function}: {name} must have shape {expected} with B of shape (d, m), got {M.shape}")
    return A, B, Q, R


def cost_trouble(Q, R):
    """Status of the two cost matrices: not finite; not symmetric, or R negative somewhere; R singular."""
    Q, R = jax.lax.stop_gradient((Q, R))
    finite = jnp.all(jnp.isfinite(Q)) & jnp.all(jnp.isfinite(R))
    few = 100 * jnp.finfo(R.dtype).eps

    def skewed(M):
        return jnp.max(jnp.abs(M - M.T)) > few * jnp.max(jnp.abs(M))

    values = jnp.linalg.eigvalsh(R)
    size = jnp.max(jnp.abs(values), initial=0)
    negative = jnp.any(values < -few * size)
    singular = ~negative & jnp.any(values <= few * size)
    code = status.flag(~finite, status.NONFINITE_INPUT)
    code = code | status.flag(finite & (skewed(Q) | skewed(R) | negative), UNFIT_COSTS)
    return code | status.flag(finite & singular, status.SINGULAR)


def quadratic(x: Float[Array, " d"]) -> Float[Array, " p"]:
    """Features x_i x_j for i <= j, row by row: d (d + 1) / 2 independent monomials.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.control import integral
        >>> print(integral.quadratic(jnp.array([2.0, 3.0])))
        [4. 6. 9.]
    """
    rows, columns = jnp.triu_indices(x.shape[0])
    return x[rows] * x[columns]


def kronecker(x: Float[Array, " d"]) -> Float[Array, " p"]:
    """Features x_i x_j for all i, j: d^2 of them, rank d (d + 1) / 2; least squares then gives the symmetric matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.control import integral
        >>> print(integral.kronecker(jnp.array([2.0, 3.0])))
        [4. 6. 6. 9.]
    """
    return jnp.outer(x, x).reshape(-1)


def policy(
    problem: ControlAffine, features: Callable[[Array], Array], weights: Float[Array, " p"], x: Float[Array, " d"]
) -> Float[Array, " m"]:
    r"""The greedy control $u = -\frac12 R^{-1} g(x)^\top \nabla V(x)$ of $V = w^\top\varphi$: policy improvement.

    Args:
        problem: `ControlAffine`; its drift is not used.
        features: ``x -> (p,)``.
        weights: w, (p,), traced.
        x: the state, (d,), traced.

    Differentiable in everything.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.control import integral
        >>> problem = integral.linear_quadratic([[0.0]], [[1.0]], [[1.0]], [[1.0]])
        >>> print(integral.policy(problem, integral.quadratic, jnp.ones(1), jnp.array([3.0])))
        [-3.]
    """
    slope = jax.grad(lambda y: precision.matmul(weights, features(y)))(x)
    g = problem.input_matrix(x, problem.args)
    return -jnp.linalg.solve(problem.control_cost, precision.matmul(g.T, slope)) / 2


def _linear_drift(x, args):
    return precision.matmul(args[0], x)


def _constant_input(x, args):
    return args[1]


__all__ = [
    "UNFIT_COSTS",
    "ControlAffine",
    "Matrix",
    "checked_matrices",
    "cost_trouble",
    "kronecker",
    "linear_quadratic",
    "policy",
    "quadratic",
]

entry.hold(globals(), "_linear_drift")
