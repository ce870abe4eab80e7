r"""What theory predicts about SOR and SSOR-PCG: the best parameter, rates, and bounds on iteration counts.

For a consistently ordered symmetric positive definite A with Jacobi radius $\beta = \rho(I - D^{-1}A) < 1$:
$\omega^* = 1 + (\beta / (1 + \sqrt{1 - \beta^2}))^2$; $\rho(\omega) = \frac14 (\omega\beta +
\sqrt{\omega^2\beta^2 - 4(\omega - 1)})^2$ below $\omega^*$ and $\omega - 1$ above.

The asymptotic estimate $\ln\epsilon/\ln\rho$ is too small near $\omega^*$, where the iteration is far from normal.
The near-asymptotic surrogate $U(\omega) = 1 + \ln\epsilon / \ln(\rho + \tau(1 - \rho))$ corrects that: $\tau$ says how
far the k-th power of the residual map still is from its spectral radius when the solve ends.

References: Young 1954, Iterative methods for solving partial difference equations of elliptic type; Khodak et al.
2024, Learning to Relax (ICLR), sections 2 and 3 (surrogate, SSOR-PCG bound).
"""

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core import entry
from jaxsci.core.types import as_float, as_real, concrete, float_dtype
from jaxsci.linear._system import check_square


def laplacian_radius(shape: tuple[int, ...], shift: ArrayLike = 0.0) -> Float[Array, "..."]:
    r"""Jacobi radius of the Laplacian of a grid with a shift, $\Delta + cI$ with the diagonal $2d + c$.

    $\beta = 2\sum_{a=1}^d \cos\frac{\pi}{n_a+1} / |2d + c|$ on an $n_1 \times \dots \times n_d$ grid: that of
    `operators.shifted_laplacian` for d = 2.

    Args:
        shape: cells along each axis, e.g. (rows, cols), static.
        shift: c, traced, any shape; beta < 1 exactly where the operator is positive or negative definite.

    Raises:
        ValueError: no axis, or an axis without cells.

    Example:
        >>> from jaxsci.linear import theory
        >>> print(f"{theory.laplacian_radius((10, 10), 0.1):.3f}")
        0.936
    """
    if len(shape) < 1 or min(shape) < 1:
        raise ValueError(f"laplacian_radius: expected a shape of at least one cell, got {tuple(shape)}")
    shift = as_float(shift)
    waves = 2.0 * float(np.sum(np.cos(np.pi / (np.asarray(shape) + 1))))
    diagonal = jnp.abs(2 * len(shape) + shift)
    zero = diagonal == 0
    return jnp.where(zero, jnp.inf, waves / jnp.where(zero, 1, diagonal))


def young_omega(radius: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    r"""The relaxation parameter of fastest asymptotic decay, $1 + (\beta / (1 + \sqrt{1 - \beta^2}))^2$.

    Args:
        radius: Jacobi radius beta in [0, 1), traced, any shape; at beta >= 1 the result is 2, where nothing
            converges. The result for a NaN is a NaN, as it is for the other functions of this module.

    Example:
        >>> from jaxsci.linear import theory
        >>> print(f"{theory.young_omega(0.96):.4f}")
        1.5625
    """
    radius = as_float(radius)
    outside = jnp.abs(radius) >= 1
    root = jnp.sqrt(jnp.where(outside, 1, 1 - radius**2))
    return jnp.where(outside, 2, 1 + (radius / (1 + root)) ** 2)


def young_rate(omega: Float[ArrayLike, "..."], radius: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Spectral radius of the SOR iteration at `omega`, for Jacobi radius `radius`; shapes broadcast, traced.

    Example:
        >>> from jaxsci.linear import theory
        >>> print(f"{theory.young_rate(1.0, 0.9):.2f} {theory.young_rate(1.6, 0.96):.2f}")
        0.81 0.60
    """
    dtype = float_dtype(omega, radius)
    omega, radius = as_real(omega, dtype), as_real(radius, dtype)
    under = (omega * radius) ** 2 - 4 * (omega - 1)
    paired = under <= 0  # above omega*: all eigenvalues have modulus omega - 1
    root = jnp.sqrt(jnp.where(paired, 1, under))
    return jnp.where(paired, jnp.abs(omega - 1), (omega * radius + root) ** 2 / 4)


def surrogate(
    rate: Float[ArrayLike, "..."], slack: Float[ArrayLike, "..."], tol: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    r"""Near-asymptotic bound on an iteration count, $U = 1 + \ln\epsilon / \ln(\rho + \tau(1 - \rho))$.

    Args:
        rate: spectral radius rho in [0, 1), e.g. from `young_rate`; traced. The result is infinite at rho >= 1.
        slack: tau in [0, 1), e.g. from `surrogate_slack`; 0 gives the asymptotic estimate plus 1. Traced.
        tol: epsilon in (0, 1), relative to the first residual; traced. Shapes broadcast.

    Example:
        >>> from jaxsci.linear import theory
        >>> print(f"{theory.surrogate(0.9, 0.0, 1e-4):.1f}")
        88.4

    References: Khodak et al. 2024, Learning to Relax, section 2.
    """
    dtype = float_dtype(rate, slack, tol)
    rate, slack, tol = (as_real(v, dtype) for v in (rate, slack, tol))
    base = rate + slack * (1 - rate)
    outside = base >= 1
    return jnp.where(outside, jnp.inf, 1 + jnp.log(tol) / jnp.log(jnp.where(outside, 0.5, jnp.maximum(base, 1e-30))))


def surrogate_slack(matrix, omegas, counts) -> np.ndarray:
    r"""tau of the surrogate, from the iteration counts of one right-hand side at several omega.

    $\tau = \max_\omega (\|C_\omega^{k-1}\|_2^{1/(k-1)} - \rho_\omega) / (1 - \rho_\omega)$ with the residual map
    $C_\omega = I - A(D/\omega + L)^{-1}$, its spectral radius $\rho_\omega$ and the count k at $\omega$. Then
    `surrogate` is at least the count at each of them: the residual after k - 1 sweeps was still above the tolerance.

    Args:
        matrix: A, (n, n), concrete: this builder works on the host in float64.
        omegas, counts: (m,) each, concrete; counts below 2 say nothing and are left out.

    Raises:
        ValueError: shapes that do not fit, a NaN or an infinity, no count of 2 or more; a zero on the diagonal, or an
            omega at which SOR does not converge, which has no count.
        TypeError: a traced argument.

    Example:
        >>> import numpy as np
        >>> from jaxsci.linear import theory
        >>> A = 2.5 * np.eye(4) - np.eye(4, k=1) - np.eye(4, k=-1)
        >>> slack = theory.surrogate_slack(A, np.array([1.0, 1.2]), np.array([12, 9]))
        >>> print(0 <= float(np.max(slack)) < 1)
        True

    References: Khodak et al. 2024, Learning to Relax, section 2.
    """
    a = _square(matrix, "surrogate_slack")
    omegas = np.atleast_1d(_host(omegas, "surrogate_slack", "omegas"))
    counts = np.atleast_1d(_host(counts, "surrogate_slack", "counts"))
    if omegas.shape != counts.shape or omegas.ndim != 1:
        shapes = f"{omegas.shape} and {counts.shape}"
        raise ValueError(f"surrogate_slack: expected omegas and counts of one shape (m,), got {shapes}")
    _omegas(omegas, "surrogate_slack")
    if np.any(np.diag(a) == 0):
        raise ValueError("surrogate_slack: expected a matrix without zeros on its diagonal")
    found = [_slack(a, omega, int(count) - 1) for omega, count in zip(omegas, counts) if count >= 2]
    if not found:
        raise ValueError("surrogate_slack: expected a count of 2 or more, got none; solve to a smaller tolerance")
    return np.asarray(max(found))


def _slack(a, omega, power: int):
    n = len(a)
    residual_map = np.eye(n) - scipy.linalg.solve_triangular(_sweep(a, omega), a.T, lower=True, trans="T").T
    rate = np.abs(np.linalg.eigvals(residual_map)).max()
    if rate >= 1:
        raise ValueError(f"surrogate_slack: SOR does not converge at omega {omega}: its spectral radius is {rate:.6g}")
    size = np.linalg.norm(np.linalg.matrix_power(residual_map, power), 2) ** (1 / power)
    return (size - rate) / (1 - rate)


def energy_bound(matrix, omega) -> np.ndarray:
    r"""Bound on the factor by which one SOR sweep shrinks the error in the energy norm.

    $\sqrt{1 - 2\Omega\gamma / (s + \gamma/\omega)}$ with $\Omega = (2-\omega)/(2\omega)$, $\gamma = 1 -
    \rho(D^{-1}(L + L^\top)) > 0$ and $s = \Omega^2 + \rho(D^{-1}LD^{-1}L^\top) - 1/4$; where s < 0, $s\gamma/(2 -
    \gamma)$ takes its place, for then D must be bounded from below. A is symmetric positive definite.

    Args:
        matrix: A, (n, n), concrete: this builder works on the host in float64.
        omega: relaxation parameters in (0, 2), concrete, any shape.

    Raises:
        ValueError: a matrix that is not symmetric positive definite, or with $\gamma \le 0$, where the bound says
            nothing; omega outside (0, 2).
        TypeError: a traced argument.

    Example:
        >>> import numpy as np
        >>> from jaxsci.linear import theory
        >>> A = np.array([[2.0, -1.0], [-1.0, 2.0]])
        >>> print(round(float(theory.energy_bound(A, 1.0)), 2))
        0.58

    References: Young 1971, Iterative Solution of Large Linear Systems, chapter 4; Khodak et al. 2024, section 2.
    """
    a = _definite(matrix, "energy_bound")
    omega = _omegas(omega, "energy_bound")
    root = 1 / np.sqrt(np.diag(a))
    # Similar symmetric matrices: their eigenvalues are real and well conditioned.
    scaled = root[:, None] * a * root[None, :]
    lower = np.tril(scaled, -1)
    gap = 1 - np.abs(np.linalg.eigvalsh(lower + lower.T)).max()
    if gap <= 0:
        raise ValueError(f"energy_bound: expected a Jacobi radius below 1, got {1 - gap:.6g}")
    product = np.linalg.eigvalsh(lower @ lower.T).max()
    half = (2 - omega) / (2 * omega)
    # A^-1/2 M D^-1 M^T A^-1/2 = A^-1/2 (s D) A^-1/2 + I/omega at most, M = D/omega + L; gamma D <= A <= (2 - gamma) D.
    excess = half**2 + product - 0.25
    excess = np.where(excess >= 0, excess, excess * gap / (2 - gap))
    # 0 where a diagonal matrix meets omega = 1, but for rounding.
    return np.asarray(np.sqrt(np.maximum(1 - 2 * half * gap / (excess + gap / omega), 0)))


def ssor_pcg_bound(matrix, omega, tol) -> np.ndarray:
    r"""Bound on the iteration count of SSOR-preconditioned conjugate gradients.

    With $\kappa = \mathrm{cond}_2(A)$, $\alpha = \lambda_{max}(DA^{-1})$, $\beta = \lambda_{max}((LD^{-1}L^\top -
    D/4)A^{-1})$: the preconditioned matrix has condition number at most $1/c$, $c = (2-\omega) / (1 + (2-\omega)^2
    \alpha/(4\omega) + \beta\omega)$, and $k \le 1 + \ln(\sqrt\kappa/\epsilon + \sqrt{\kappa/\epsilon^2 - 1}) /
    -\ln(1 - 2/(1 + \sqrt{1/c}))$.

    Args:
        matrix: symmetric positive definite A, (n, n), concrete: this builder works on the host in float64.
        omega: relaxation parameters in (0, 2), concrete, any shape.
        tol: epsilon in (0, 1), relative to ||b||, concrete.

    Raises:
        ValueError: a matrix that is not symmetric positive definite; omega outside (0, 2), or tol outside (0, 1).
        TypeError: a traced argument.

    Example:
        >>> import numpy as np
        >>> from jaxsci.linear import theory
        >>> A = np.array([[2.0, -1.0], [-1.0, 2.0]])
        >>> print(float(theory.ssor_pcg_bound(A, 1.0, 1e-3)) < 20)
        True

    References: Axelsson 1994, Iterative Solution Methods, chapter 7; Khodak et al. 2024, section 3.
    """
    a = _definite(matrix, "ssor_pcg_bound")
    omega = _omegas(omega, "ssor_pcg_bound")
    tol = _host(tol, "ssor_pcg_bound", "tol")
    if not np.all((tol > 0) & (tol < 1)):
        raise ValueError(f"ssor_pcg_bound: tol must lie in (0, 1), got {tol}")
    diagonal, lower = np.diag(np.diag(a)), np.tril(a, -1)
    spectrum = np.linalg.eigvalsh(a)
    condition = spectrum[-1] / spectrum[0]
    alpha = scipy.linalg.eigh(diagonal, a, eigvals_only=True)[-1]
    beta = scipy.linalg.eigh(lower / np.diag(a) @ lower.T - diagonal / 4, a, eigvals_only=True)[-1]
    inverse = (1 + (2 - omega) ** 2 * alpha / (4 * omega) + beta * omega) / (2 - omega)
    inverse = np.maximum(inverse, 1)  # a condition number, but for rounding
    reach = np.log(np.sqrt(condition) / tol + np.sqrt(condition / tol**2 - 1))
    with np.errstate(divide="ignore"):  # a diagonal matrix at omega = 1: one iteration
        return 1 + reach / -np.log(1 - 2 / (1 + np.sqrt(inverse)))


def _host(value, function: str, argument: str) -> np.ndarray:
    alternative = "in a compiled function use young_rate and surrogate"
    value = np.asarray(concrete(value, function, argument, alternative), np.float64)
    if not np.all(np.isfinite(value)):
        raise ValueError(f"{function}: expected finite numbers for {argument}, got a NaN or an infinity")
    return value


def _square(matrix, function: str) -> np.ndarray:
    a = _host(matrix, function, "matrix")
    check_square(function, a.shape)
    return a


def _definite(matrix, function: str) -> np.ndarray:
    """A symmetric positive definite matrix."""
    a = _square(matrix, function)
    if not np.allclose(a, a.T, rtol=0, atol=1e-12 * np.abs(a).max()) or np.linalg.eigvalsh(a)[0] <= 0:
        raise ValueError(f"{function}: expected a symmetric positive definite matrix")
    return a


def _omegas(omega, function: str) -> np.ndarray:
    omega = _host(omega, function, "omega")
    if not np.all((omega > 0) & (omega < 2)):
        raise ValueError(f"{function}: omega must lie in (0, 2), got {omega}")
    return omega


def _sweep(a, omega) -> np.ndarray:
    """D/omega + L."""
    return np.diag(np.diag(a) / omega) + np.tril(a, -1)


__all__ = [
    "energy_bound",
    "laplacian_radius",
    "ssor_pcg_bound",
    "surrogate",
    "surrogate_slack",
    "young_omega",
    "young_rate",
]

entry.guard(globals())
