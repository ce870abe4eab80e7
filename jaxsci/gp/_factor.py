r"""Cholesky factors that never hold a NaN, and the Gaussian log density with a cheap gradient.

$K = LL^\top$; where that fails the diagonal is raised step by step, from the rounding error of the factorisation up.
$\log p = -\frac12 y^\top K^{-1} y - \frac12\log\det K$, $\alpha = K^{-1} y$,
$d\log p = \frac12\mathrm{tr}((\alpha\alpha^\top - K^{-1})\,dK) - \alpha^\top dy$.

References: Rasmussen and Williams 2006, equation 5.9; Murray 2016, Differentiation of the Cholesky decomposition.
"""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from jaxsci.core import loops, precision, status, tree

JITTERED = status.register(
    "gp",
    16,
    "jitter raised",
    "the Gram matrix was not positive definite in this precision, so its diagonal was raised until it was",
    "float64, a larger noise or jitter, or fewer rows that coincide",
    notice=True,  # the numbers are those of the process with that diagonal
)

# Jitter is tried at 10^0 ... 10^6 times the rounding error of the factorisation, N eps max K_ii.
_TRIES = 7


@jax.custom_jvp
def factor(matrix):
    """Lower Cholesky factor and what the diagonal was raised by: 0 if all is well, inf (and I) if nothing helped."""
    n = matrix.shape[0]
    unit = n * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.diagonal(matrix))

    def failed(loop):
        return loop[3]

    def attempt(loop):
        _, _, tries, _ = loop
        extra = jnp.where(tries == 0, 0, unit * 10.0 ** (tries - 1))
        raised = matrix + extra * jnp.eye(n, dtype=matrix.dtype)
        chol = jax.lax.linalg.cholesky(raised, symmetrize_input=False)
        return chol, extra, tries + 1, ~tree.all_finite(chol)

    # The first attempt is inside the loop too, so that the factorisation is compiled once.
    zero = jnp.zeros((), matrix.dtype)
    start = (jnp.zeros_like(matrix), zero, zero, jnp.asarray(True))
    (chol, extra, _, lost), _ = loops.bounded_while(failed, attempt, start, max_steps=1 + _TRIES)
    return jnp.where(lost, jnp.eye(n, dtype=matrix.dtype), chol), jnp.where(lost, jnp.inf, extra)


@factor.defjvp
def _factor_jvp(primals, tangents):
    """dL = L phi(L^-1 dK L^-T), phi the lower triangle with half the diagonal; how far it was raised is constant."""
    chol, extra = factor(*primals)
    half = solve_triangular(chol, tangents[0], lower=True)
    whole = solve_triangular(chol, half.T, lower=True)
    phi = jnp.tril(whole) - jnp.diag(jnp.diagonal(whole) / 2)
    return (chol, extra), (precision.matmul(chol, phi), jnp.zeros_like(extra))


@jax.custom_jvp
def log_density(matrix, y):
    """-y^T K^-1 y / 2 - log det K / 2, and what `factor` added to the diagonal."""
    chol, extra = factor(matrix)
    fit = precision.vdot(y, cho_solve((chol, True), y))
    return -fit / 2 - jnp.sum(jnp.log(jnp.diagonal(chol))), extra


@log_density.defjvp
def _log_density_jvp(primals, tangents):
    """d = alpha^T dK alpha / 2 - tr(K^-1 dK) / 2 - alpha^T dy, from K^-1 itself: no solve per parameter."""
    (matrix, y), (d_matrix, d_y) = primals, tangents
    chol, extra = factor(matrix)
    inverse = solve_triangular(chol, jnp.eye(y.size, dtype=y.dtype), lower=True)
    inverse = precision.matmul(inverse.T, inverse)
    alpha = precision.matmul(inverse, y)
    value = -precision.vdot(y, alpha) / 2 - jnp.sum(jnp.log(jnp.diagonal(chol)))
    slope = jnp.sum((jnp.outer(alpha, alpha) - inverse) / 2 * d_matrix) - jnp.sum(alpha * d_y)
    return (value, extra), (slope, jnp.zeros_like(extra))


def factor_status(extra):
    """The status of a factorisation from the jitter it took: none, some, or as much as there is without success."""
    bad = jnp.isinf(extra)
    return status.flag(bad, status.SINGULAR) | status.flag((extra > 0) & ~bad, JITTERED)


__all__ = ["JITTERED", "factor", "factor_status", "log_density"]
