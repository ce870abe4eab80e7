r"""Best grids for a standard normal variable, as exact roots in float64.

With levels $g_1 < \dots < g_L$, boundaries $b_i = (g_i + g_{i+1})/2$ and the normal density $\varphi$ and distribution
$\Phi$, the mean squared error is $\sum_i M_{2,i} - 2 g_i M_{1,i} + g_i^2 P_i$ with $P_i = \Phi(b_i) - \Phi(b_{i-1})$,
$M_{1,i} = \varphi(b_{i-1}) - \varphi(b_i)$ and $M_{2,i} = P_i + b_{i-1}\varphi(b_{i-1}) - b_i\varphi(b_i)$. Levels of a
fixed shape, $g_i = u l_i$, are best at the root of $\sum_i 2 l_i (g_i P_i - M_{1,i})$; free levels are best where every
level is the mean of its cell, $g_i P_i = M_{1,i}$ (Lloyd-Max). A minimiser would stop where the error is flat, half of
the digits short of the root.

Reference: J. Max, "Quantizing for minimum distortion", IRE Trans. Inf. Theory 6 (1960), 7-12.
"""

import functools

import numpy as np
import scipy.optimize
import scipy.special

REFERENCE_CLIPS = {
    2: 0.7978845587,
    3: 1.2240089519,
    4: 1.4935346200,
    8: 2.0510683541,
    16: 2.5139305786,
    32: 2.9160938835,
    64: 3.2765972826,
    128: 3.6010497188,
    256: 3.8849386788,
}
"""Number of uniform levels -> last level of the published QuEST code: slightly off the roots, by 1 % at 256."""


def _density(b):
    with np.errstate(over="ignore"):
        return np.where(np.isfinite(b), np.exp(-0.5 * np.where(np.isfinite(b), b, 0) ** 2), 0) / np.sqrt(2 * np.pi)


def _cells(levels: np.ndarray):
    """Boundaries with both infinities, and P, M1 and M2 of every cell."""
    b = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    upper, density = scipy.special.ndtr(-np.abs(b)), _density(b)
    # From the nearer tail, so that far cells keep their digits.
    left, right = b[:-1], b[1:]
    p = np.where(right <= 0, upper[1:] - upper[:-1], upper[:-1] - upper[1:])
    p = np.where((left < 0) & (right > 0), 1 - upper[:-1] - upper[1:], p)
    moment = np.where(np.isfinite(b), b, 0) * density
    return b, p, density[:-1] - density[1:], p + moment[:-1] - moment[1:]


def error(levels: np.ndarray) -> float:
    """Mean squared error of a standard normal variable on `levels` (ascending)."""
    _, p, m1, m2 = _cells(levels)
    return float(np.sum(m2 - 2 * levels * m1 + levels**2 * p))


def best_unit(levels: np.ndarray) -> float:
    """The u at which ``u * levels`` has the least error; levels ascending, the last one positive."""

    def slope(unit):
        _, p, m1, _ = _cells(unit * levels)
        return float(np.sum(levels * (unit * levels * p - m1)))

    top = levels[-1]
    return scipy.optimize.brentq(slope, 0.2 / top, 10 / top, xtol=1e-300, rtol=4 * np.finfo(float).eps)


def _off_centre(levels: np.ndarray) -> np.ndarray:
    """Levels less the means of their cells, g - M1 / P."""
    _, p, m1, _ = _cells(levels)
    return levels - m1 / p


def _newton(levels: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Newton's step for g - M1 / P = 0. Each boundary moves by half of what its two levels move."""
    b, p, m1, _ = _cells(levels)
    inner, mean, rows = b[1:-1], m1 / p, np.arange(len(levels) - 1)
    below = (inner - mean[:-1]) * _density(inner) / p[:-1] / 2  # d(M1 / P) of the cell below a boundary
    above = (mean[1:] - inner) * _density(inner) / p[1:] / 2
    jacobian = np.eye(len(levels))
    jacobian[rows, rows] -= below
    jacobian[rows, rows + 1] -= below
    jacobian[rows + 1, rows] -= above
    jacobian[rows + 1, rows + 1] -= above
    return np.linalg.solve(jacobian, off)


@functools.cache
def lloyd_max(count: int) -> tuple[float, ...]:
    """The `count` levels of least error, ascending, by Newton's method from the levels of the high-rate limit."""
    levels = np.sqrt(3) * scipy.special.ndtri((np.arange(count) + 0.5) / count)
    off = _off_centre(levels)
    for _ in range(100):
        step, share = _newton(levels, off), 1.0
        while True:  # a full step may leave the region where cells have weight: then every level is a root
            trial = levels - share * step
            trial = (trial - trial[::-1]) / 2  # the law is symmetric
            if np.all(np.diff(trial) > 0) and np.abs(trial_off := _off_centre(trial)).max() < np.abs(off).max():
                break
            share /= 2
            if share < 1e-6:  # rounding: no shorter residual exists
                return tuple(levels.tolist())
        levels, off = trial, trial_off
    return tuple(levels.tolist())


__all__ = ["REFERENCE_CLIPS", "best_unit", "error", "lloyd_max"]
