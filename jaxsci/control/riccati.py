r"""Linear-quadratic truths: the Riccati equation, Kleinman's iteration, its integral form with any quadrature rule.

$A^\top P + PA - PBR^{-1}B^\top P + Q = 0$, $K = R^{-1}B^\top P$, value $x^\top P x$ under $u = -Kx$. Kleinman: with
$A_c = A - BK$ solve $A_c^\top P + P A_c = -(Q + K^\top R K)$, then K from P; that is Newton's method. Measured over an
interval $\Delta$ by a rule $(t_j, w_j)$, with $E = e^{A_c\Delta}$, an evaluation is exactly
$P - E^\top P E = \sum_j w_j\, e^{A_c^\top t_j}(Q + K^\top R K)\,e^{A_c t_j}$.

References: Kleinman 1968, On an iterative technique for Riccati equation computations, IEEE TAC 13; Lancaster and
Rodman 1995, Algebraic Riccati Equations, chapter 7.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
import scipy.linalg
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.control.integral import UNSTABLE, ControlAffine
from jaxsci.control.integral._evaluate import checked_rule, rule_trouble
from jaxsci.control.integral._problem import Matrix, checked_matrices, cost_trouble
from jaxsci.core import entry, loops, status, tree
from jaxsci.core.precision import matmul, tensordot
from jaxsci.core.static import check_size
from jaxsci.core.types import Scalar, as_count, as_real, concrete, require_double

_SOLVED = 1e-8  # largest residual of the Riccati equation relative to its terms that `solve` accepts
_AT_REST = 1e-6  # real parts above minus this share of the fastest mode: double precision cannot tell them from 0
_NEGATIVE = 1e-6  # an eigenvalue of P below minus this share of the largest: the policy before was not stable


class Solution(NamedTuple):
    """The optimum of a linear-quadratic problem.

    Attributes:
        P: matrix of the value x^T P x.
        K: gain of the policy u = -K x.
    """

    P: Float[Array, "d d"]
    K: Float[Array, "m d"]


class History(NamedTuple):
    """Kleinman's iterates; entry i of each array comes after i + 1 evaluations.

    Attributes:
        P: value matrices.
        K: the gains R^-1 B^T P that they give.
        residual: Frobenius norm of A^T P + P A - P B R^-1 B^T P + Q.
        status: bits of the whole iteration; 0 = ok.
    """

    P: Float[Array, "num d d"]
    K: Float[Array, "num m d"]
    residual: Float[Array, " num"]
    status: Int[Array, ""]


class FixedPoint(NamedTuple):
    """Where integral policy iteration ends.

    Attributes:
        value: the last value matrix P.
        K: gain of the policy u = -K x that is greedy for `value`.
        steps: evaluations done, int32.
        residual: relative norm of the last change of P.
        status: 0 = the change fell below tol.
    """

    value: Float[Array, "d d"]
    K: Float[Array, "m d"]
    steps: Int[Array, ""]
    residual: Float[Array, ""]
    status: Int[Array, ""]


def solve(A: Matrix, B: Matrix, Q: Matrix, R: Matrix) -> Solution:
    """The stabilising solution of the Riccati equation, on the host by SciPy.

    Args:
        A, B, Q, R: (d, d), (d, m), (d, d), (m, m), built.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, Q or R not symmetric, R not positive, or no
            stabilising solution.
        TypeError: a traced argument; `kleinman` is the in-graph alternative.

    Example:
        >>> from jaxsci.control import riccati
        >>> P, K = riccati.solve([[-1.0]], [[1.0]], [[1.0]], [[1.0]])
        >>> print(P.round(6), K.round(6))
        [[0.414214]] [[0.414214]]
    """
    alternative = "riccati.kleinman solves it in compiled code"
    A, B, Q, R = (np.asarray(concrete(M, "riccati.solve", "A, B, Q, R", alternative), np.float64) for M in (A, B, Q, R))
    d, m = B.shape if B.ndim == 2 else (-1, -1)
    if (A.shape, Q.shape, R.shape) != ((d, d), (d, d), (m, m)):
        raise ValueError(
            f"riccati.solve: expected A (d, d), B (d, m), Q (d, d), R (m, m), got {A.shape}, {B.shape}, {Q.shape}, "
            f"{R.shape}"
        )
    if np.isfinite(R).all() and np.array_equal(R, R.T) and not np.linalg.eigvalsh(R).min(initial=1) > 0:
        raise ValueError(f"riccati.solve: R must be positive definite, got eigenvalues {np.linalg.eigvalsh(R)}")
    missing = (
        "riccati.solve: found no stabilising solution; (A, B) must be stabilisable, Q must weigh every mode of A "
        "that is not stable, and R must be positive"
    )
    try:
        P = scipy.linalg.solve_continuous_are(A, B, Q, R)
    except ValueError as error:  # a LinAlgError is one too
        # SciPy's own messages say what is wrong with the arguments; the others speak of its Schur form.
        if not isinstance(error, np.linalg.LinAlgError) and "Schur" not in str(error):
            raise
        raise ValueError(missing) from error
    K = np.linalg.solve(R, B.T @ P)
    # The library's answer is looked at: near a mode at rest that Q does not weigh, it returns numbers of no meaning.
    terms = A.T @ P + P @ A, P @ B @ K, Q
    residual, size = (np.linalg.norm(v) for v in (terms[0] - terms[1] + Q, sum(map(np.abs, terms))))
    modes = np.linalg.eigvals(A - B @ K)
    if not residual <= _SOLVED * size:
        raise ValueError(f"{missing}; SciPy's P has a relative residual of {residual / size:.1e}")
    if modes.size and not modes.real.max() < -_AT_REST * max(np.abs(modes).max(), np.linalg.norm(A)):
        raise ValueError(f"{missing}; SciPy's P leaves a closed-loop eigenvalue of real part {modes.real.max():.1e}")
    return Solution(P, K)


def kleinman(
    A: Matrix, B: Matrix, Q: Matrix, R: Matrix, K0: Matrix | None = None, *, num_iterations: int = 12
) -> History:
    """Kleinman's iteration: exact policy iteration, quadratically convergent from any stabilising K0.

    Args:
        A, B, Q, R: (d, d), (d, m), (d, d), (m, m), traced. The Lyapunov equations cost d^6: meant for d up to 20.
        K0: first gain, (m, d), traced; 0 by default.
        num_iterations: static.

    Returns:
        A `History`, entry i after i + 1 evaluations. Status: non-finite input or result; unfit costs (Q or R not
        symmetric, R negative); singular (R); unstable policy when some P is not positive, or not finite: with Q
        positive, exactly when the gain before did not stabilise; step cap when the last residual is above the square
        root of the rounding unit, relative to the terms of the equation.

    Raises:
        ValueError: shapes that do not fit, or no iteration.

    Differentiable in all matrices.

    Example:
        >>> from jaxsci.control import riccati
        >>> history = riccati.kleinman([[-1.0]], [[1.0]], [[1.0]], [[1.0]], num_iterations=3)
        >>> print(*[f"{p:.5f}" for p in history.P[:, 0, 0]], history.status)
        0.50000 0.41667 0.41422 0

    References: Kleinman 1968.
    """
    A, B, Q, R = checked_matrices("kleinman", A, B, Q, R)
    num_iterations = check_size("kleinman", "num_iterations", num_iterations)
    return _kleinman(A, B, Q, R, _first_gain("kleinman", B, K0), num_iterations)


@eqx.filter_jit
def _kleinman(A, B, Q, R, K0, num_iterations: int) -> History:
    def step(K, _):
        closed = A - matmul(B, K)
        eye = jnp.eye(A.shape[0], dtype=A.dtype)
        # Row-major: A^T P is (A^T x I) vec P, P A is (I x A^T) vec P.
        operator = jnp.kron(closed.T, eye) + jnp.kron(eye, closed.T)
        P = _symmetric(jnp.linalg.solve(operator, -_paid(Q, R, K).reshape(-1)).reshape(A.shape))
        K = jnp.linalg.solve(R, matmul(B.T, P))
        terms = (matmul(A.T, P) + matmul(P, A), matmul(matmul(P, B), K), Q)
        residual = jnp.linalg.norm(terms[0] - terms[1] + Q)
        size = sum(jnp.linalg.norm(jax.lax.stop_gradient(term)) for term in terms)
        return K, (P, K, residual, _indefinite(P), size)

    _, (P, K, residual, negative, size) = jax.lax.scan(step, K0, None, length=num_iterations)
    code = _trouble((A, B, K0), (Q, R), P) | status.flag(jnp.any(negative), UNSTABLE)
    far = residual[-1] > jnp.sqrt(jnp.finfo(A.dtype).eps) * size[-1]
    return History(P, K, residual, code | status.flag(far & (code == status.OK), status.MAX_STEPS))


def integral_fixed_point(
    A: Matrix,
    B: Matrix,
    Q: Matrix,
    R: Matrix,
    rule: tuple[ArrayLike, ArrayLike],
    interval: Scalar,
    *,
    K0: Matrix | None = None,
    tol: Scalar = 1e-13,
    max_steps: Scalar = 50,
    allow_float32: bool = False,
) -> FixedPoint:
    r"""Where integral policy iteration with a rule ends: discrete Lyapunov equations, no trajectory, no conditioning.

    $P - E^\top P E = \sum_j w_j\,e^{A_c^\top t_j}(Q + K^\top R K)\,e^{A_c t_j}$, $K \leftarrow R^{-1}B^\top P$.
    Leading error with n equispaced nodes, $h = \Delta/(n - 1)$ and $\mathcal L(X) = A_c^\top X + X A_c$: trapezoid
    $-\frac{h^2}{12}\mathcal L(M)$, Simpson $-\frac{h^4}{180}\mathcal L^3(M)$, $M = Q + K^\top R K$ at the optimum.

    Args:
        A, B, Q, R: (d, d), (d, m), (d, d), (m, m), traced; d up to 20.
        rule: (nodes, weights) on [0, interval], each (n,), traced; padded rules (`quadrature.pad`) vmap over n.
        interval: Delta > 0, traced.
        K0: first gain, (m, d), traced; 0 by default; must stabilise.
        tol: on the relative change of P, traced. max_steps: cap, traced.
        allow_float32: run in float32 nevertheless, static.

    Returns:
        A `FixedPoint`; status: non-finite input or result, out of range (an interval that is not positive), rule
        elsewhere (nodes that are not increasing or leave it, weights whose sum misses it by more than a tenth), unfit
        costs (Q or R not symmetric, R
        negative), singular (R), unstable policy, step cap.

    Raises:
        ValueError: shapes that do not fit; float32 without `allow_float32`.

    Not differentiable in reverse (a while loop); forward mode works.

    Example:
        >>> from jaxsci import quadrature
        >>> from jaxsci.control import riccati
        >>> rule = quadrature.rules.trapezoid(2, 0.0, 0.1)
        >>> found = riccati.integral_fixed_point([[-1.0]], [[1.0]], [[1.0]], [[1.0]], rule, 0.1, tol=1e-5,
        ...     allow_float32=True)
        >>> print(f"{found.value[0, 0]:.3f} {found.status}")
        0.417 0

    References: Kleinman 1968; Lancaster and Rodman 1995, section 5.3 (discrete Lyapunov equation).
    """
    A, B, Q, R = checked_matrices("integral_fixed_point", A, B, Q, R)
    reason = "in which the costs of a short interval drown in rounding errors"
    require_double("integral_fixed_point", A.dtype, allow_float32, reason)
    rule = checked_rule("integral_fixed_point", rule, A.dtype, interval)
    numbers = (
        as_real(interval, A.dtype),
        as_real(tol, A.dtype),
        as_count(max_steps, "integral_fixed_point", "max_steps"),
    )
    return _fixed_point(A, B, Q, R, _first_gain("integral_fixed_point", B, K0), rule, numbers)


class _Loop(NamedTuple):
    """What the iteration of `integral_fixed_point` carries.

    Attributes:
        P: value matrix of the last evaluation.
        K: gain that follows from it.
        change: relative norm of the last change of P; infinite at the start.
        negative: whether some P was indefinite: the gain before did not stabilise.
    """

    P: Array
    K: Array
    change: Array
    negative: Array


@eqx.filter_jit
def _fixed_point(A, B, Q, R, K0, rule, numbers) -> FixedPoint:
    nodes, weights = rule
    interval, tol, max_steps = numbers
    times = jnp.append(nodes, interval)

    def step(loop: _Loop) -> _Loop:
        closed = A - matmul(B, loop.K)
        flows = jax.vmap(lambda t: jax.scipy.linalg.expm(closed * t))(times)
        paid = jax.vmap(lambda E: matmul(matmul(E.T, _paid(Q, R, loop.K)), E))(flows[:-1])
        cost = tensordot(weights, paid, axes=1)
        E = flows[-1]
        operator = jnp.eye(A.size, dtype=A.dtype) - jnp.kron(E.T, E.T)
        P = _symmetric(jnp.linalg.solve(operator, cost.reshape(-1)).reshape(A.shape))
        change, size = jnp.linalg.norm(P - loop.P), jnp.linalg.norm(P)
        change = jnp.where(change > 0, change / jnp.where(size > 0, size, 1), jnp.where(change == 0, 0, change))
        return _Loop(P, jnp.linalg.solve(R, matmul(B.T, P)), change, loop.negative | _indefinite(P))

    _, misplaced = rule_trouble(rule, interval)

    def unfinished(loop: _Loop):
        # A NaN ends it, that of a tolerance at the cap.
        return ~(loop.change <= tol) & ~jnp.isnan(loop.change) & ~loop.negative

    first = _Loop(jnp.zeros_like(A), K0, jnp.asarray(jnp.inf, A.dtype), jnp.asarray(False))
    end, steps = loops.bounded_while(unfinished, step, first, max_steps=max_steps)
    code = _trouble((A, B, K0, rule, interval, tol), (Q, R), end.P) | status.flag(end.negative, UNSTABLE)
    code = code | misplaced
    code = code | status.flag(~(end.change <= tol) & (code == status.OK), status.MAX_STEPS)
    return FixedPoint(end.P, end.K, steps, end.change, code)


def hjb_residual(value: Callable[[Array], Array], problem: ControlAffine, x: Float[Array, " d"]) -> Float[Array, ""]:
    r"""$\nabla V^\top f - \frac14 \nabla V^\top g R^{-1} g^\top \nabla V + x^\top Q x$ at x: 0 for the optimal V.

    Args:
        value: V, ``x -> scalar``.
        problem: `ControlAffine`.
        x: the state, (d,), traced.

    Differentiable in everything.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.control import integral, riccati
        >>> problem = integral.linear_quadratic([[0.0]], [[1.0]], [[1.0]], [[1.0]])
        >>> print(riccati.hjb_residual(lambda x: x @ x, problem, jnp.array([3.0])))
        0.0
    """
    slope = jax.grad(value)(x)
    into = matmul(problem.input_matrix(x, problem.args).T, slope)
    gain = matmul(into, jnp.linalg.solve(problem.control_cost, into)) / 4
    return matmul(slope, problem.drift(x, problem.args)) - gain + matmul(x, matmul(problem.state_cost, x))


def _paid(Q, R, K):
    """Q + K^T R K, the cost of a state under u = -K x."""
    return Q + matmul(matmul(K.T, R), K)


def _symmetric(P):
    return (P + P.T) / 2


def _indefinite(P):
    values = jnp.linalg.eigvalsh(P)
    return values[0] < -_NEGATIVE * jnp.maximum(jnp.abs(values[0]), jnp.abs(values[-1]))


def _trouble(inputs, costs, result):
    """Bits of inputs that are not finite, of the cost matrices, and of a result that is not finite.

    Where the inputs are sound, it is the equation for P that has no solution: two modes of the closed loop, or one
    twice, sum to 0, so the gain does not stabilise.
    """
    code = status.flag(~tree.all_finite(inputs), status.NONFINITE_INPUT) | cost_trouble(*costs)
    lost = ~jnp.all(jnp.isfinite(result))
    return code | status.flag(lost, jnp.where(code == status.OK, UNSTABLE, status.NONFINITE_RESULT))


def _first_gain(function, B, K0):
    d, m = B.shape
    K0 = jnp.zeros((m, d), B.dtype) if K0 is None else as_real(K0, B.dtype)
    if K0.shape != (m, d):
        raise ValueError(f"{function}: K0 must have shape (m, d) = {(m, d)}, got {K0.shape}")
    return K0


__all__ = ["FixedPoint", "History", "Solution", "hjb_residual", "integral_fixed_point", "kleinman", "solve"]

entry.guard(globals())
