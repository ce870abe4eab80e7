r"""Lanczos tridiagonalisation of a symmetric operator, and the extreme eigenvalues, which converge first.

From a start $v_1$: $w = A v_j - \beta_{j-1} v_{j-1}$, $\alpha_j = w^\top v_j$, $\beta_j v_{j+1} = w - \alpha_j v_j$.
After m steps $V^\top A V = T$, tridiagonal; the eigenvalues $\theta$ of T (Ritz values) approach the ends of the
spectrum first, and some eigenvalue of A lies within $\beta_m |s_m|$ of each, s its eigenvector in T.

In floating point the $v_j$ lose orthogonality as soon as a Ritz value has converged, and copies of it appear. Full
reorthogonalisation prevents that at the price of keeping all $v_j$.

Reference: Saad 2011, Numerical Methods for Large Eigenvalue Problems, section 6.6; Parlett 1980, The Symmetric
Eigenvalue Problem, chapter 13.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsci.core import entry, precision, status, tree
from jaxsci.core.static import check_size
from jaxsci.linear._start import as_start, scaled


class Tridiagonal(NamedTuple):
    """The tridiagonal matrix T of m Lanczos steps; all arrays are 0 where status is not 0.

    Once the Krylov space is exhausted, after `steps` steps, the diagonal stays at alpha_1 and the off-diagonal at 0:
    such rows repeat a value from inside the spectrum and leave the extremes alone.

    Attributes:
        diagonal: alpha_1 .. alpha_m.
        off_diagonal: beta_1 .. beta_m; the last one couples to what was not computed.
        basis: the v_j, (m, *shape), with zeros past `steps`; None where they were not kept.
        steps: steps before the Krylov space was exhausted, at most m, int32.
        status: NONFINITE_INPUT, OUT_OF_RANGE (a start of zeros); 0 = ok.
    """

    diagonal: Float[Array, " m"]
    off_diagonal: Float[Array, " m"]
    basis: Array | None
    steps: Int[Array, ""]
    status: Int[Array, ""]


class Extremes(NamedTuple):
    """Extreme Ritz values, which lie inside the spectrum.

    Attributes:
        low: smallest Ritz value.
        high: largest Ritz value.
        low_error: some eigenvalue lies within this distance of `low`.
        high_error: some eigenvalue lies within this distance of `high`.
        steps: Lanczos steps before the Krylov space was exhausted, int32.
        status: as in `Tridiagonal`.
    """

    low: Float[Array, ""]
    high: Float[Array, ""]
    low_error: Float[Array, ""]
    high_error: Float[Array, ""]
    steps: Int[Array, ""]
    status: Int[Array, ""]


class _Carry(NamedTuple):
    """What the recurrence carries from step to step.

    Attributes:
        v: v_j.
        before: v_{j-1}.
        beta: beta_{j-1}.
        basis: all v so far; None where they are not kept.
        first: alpha_1.
        scale: largest |alpha_j| + beta_j so far.
        alive: whether the Krylov space still grows.
    """

    v: Array
    before: Array
    beta: Array
    basis: Array | None
    first: Array
    scale: Array
    alive: Array


def tridiagonal(op, start: Float[Array, "..."], *, num_steps: int, reorthogonalize: bool = True) -> Tridiagonal:
    """Lanczos coefficients of a symmetric operator.

    Args:
        op: a `linear.operators` operator, symmetric, or any object with ``mv``.
        start: v_1 up to its length, in the operator's shape, traced; a random one sees every eigenvector.
        num_steps: m >= 1, static.
        reorthogonalize: make every new vector orthogonal to all before it, twice, and keep them: O(m n) memory and
            O(m^2 n) work, orthogonal to rounding. Static.

    Returns:
        `Tridiagonal`.

    Raises:
        ValueError: `num_steps` below 1; a start that does not have the operator's shape.

    Example:
        >>> from jaxsci import linear
        >>> op = linear.operators.shifted_laplacian((3, 3))
        >>> t = linear.lanczos.tridiagonal(op, jnp.ones((3, 3)), num_steps=3)
        >>> t.diagonal.shape, t.basis.shape, int(t.steps)  # a start with the grid's symmetry sees 3 eigenvalues
        ((3,), (3, 3, 3), 3)

    References: Saad 2011, algorithm 6.5.
    """
    num_steps = check_size("tridiagonal", "num_steps", num_steps)
    start = as_start(op, start, "tridiagonal")
    return _tridiagonal(op, start, num_steps, reorthogonalize)


@eqx.filter_jit
def _tridiagonal(op, start, num_steps: int, reorthogonalize: bool) -> Tridiagonal:
    bad = ~tree.all_finite(eqx.filter((op, start), eqx.is_array))
    start = jnp.where(bad, 0, start)
    nothing = ~jnp.any(start != 0)
    product, v, up = scaled(op, start)
    zero = jnp.zeros((), start.dtype)
    basis = jnp.zeros((num_steps, *start.shape), start.dtype) if reorthogonalize else None
    carry = _Carry(v, jnp.zeros_like(v), zero, basis, zero, zero, ~bad & ~nothing)
    tiny = 10 * jnp.finfo(start.dtype).eps

    def step(c: _Carry, j):
        basis = c.basis
        if reorthogonalize:
            basis = basis.at[j].set(jnp.where(c.alive, c.v, 0))
        w = product(c.v) - c.beta * c.before
        alpha = tree.dot(w, c.v).astype(w.dtype)
        w = w - alpha * c.v
        if reorthogonalize:
            for _ in range(2):  # one pass leaves rounding errors of the cancellation; two are enough (Parlett, 6.9)
                w = w - _project(basis, w)
        beta = tree.norm(w).astype(w.dtype)
        scale = jnp.maximum(c.scale, jnp.abs(alpha) + beta)
        first = jnp.where(j == 0, alpha, c.first)
        # A vector of rounding errors alone says that the Krylov space is invariant: the process ends.
        go_on = c.alive & (beta > tiny * scale)
        alpha, out = jnp.where(c.alive, alpha, jnp.where(bad, 0, first)), jnp.where(go_on, beta, 0)
        v = jnp.where(go_on, w / jnp.where(beta > 0, beta, 1), 0)
        return _Carry(v, c.v, out, basis, first, scale, go_on), (alpha, out, c.alive)

    last, (alphas, betas, alive) = jax.lax.scan(step, carry, jnp.arange(num_steps))
    code = status.flag(bad, status.NONFINITE_INPUT) | status.flag(~bad & nothing, status.OUT_OF_RANGE)
    return Tridiagonal(up * alphas, up * betas, last.basis, jnp.sum(alive, dtype=jnp.int32), code)


def _project(basis, w):
    """V V^T w at full precision."""
    axes = tuple(range(w.ndim))
    inner = precision.tensordot(basis, w, (tuple(a + 1 for a in axes), axes))
    return precision.tensordot(inner, basis, 1)


def extreme_eigenvalues(op, start: Float[Array, "..."], *, num_steps: int, reorthogonalize: bool = False) -> Extremes:
    r"""Smallest and largest Ritz value after `num_steps` Lanczos steps, with their error bounds.

    Args:
        op, start, num_steps, reorthogonalize: as in `tridiagonal`. Without reorthogonalisation copies of converged
            eigenvalues appear, which leave the extreme values as they are, so the vectors need not be kept.

    Returns:
        `Extremes`; low and high lie inside the spectrum. The errors are $\beta_m|s_m|$; they hold for the eigenvalue
        next to each Ritz value, which is the extreme one unless the start missed it.

    Example:
        >>> import jax
        >>> from jaxsci import linear
        >>> op = linear.operators.shifted_laplacian((10, 10))
        >>> e = linear.lanczos.extreme_eigenvalues(op, jax.random.normal(jax.random.key(0), (10, 10)), num_steps=40)
        >>> print(f"{e.low:.3f} {e.high:.3f}")
        0.162 7.838

    References: Saad 2011, section 6.6; Parlett 1980, section 13.2.
    """
    t = tridiagonal(op, start, num_steps=num_steps, reorthogonalize=reorthogonalize)
    return _extremes(t)


@eqx.filter_jit
def _extremes(t: Tridiagonal) -> Extremes:
    inside = t.off_diagonal[:-1]
    values, vectors = jnp.linalg.eigh(jnp.diag(t.diagonal) + jnp.diag(inside, 1) + jnp.diag(inside, -1))
    error = t.off_diagonal[-1] * jnp.abs(vectors[-1])
    return Extremes(values[0], values[-1], error[0], error[-1], t.steps, t.status)


__all__ = ["Extremes", "Tridiagonal", "extreme_eigenvalues", "tridiagonal"]

entry.guard(globals())
