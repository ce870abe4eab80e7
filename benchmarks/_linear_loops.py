"""Loops that Python users write for sequences of linear systems, with SciPy and pyamg: what ours is timed against."""

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla


def laplacian(rows: int, cols: int, shift: float = 0.0):
    """The 5-point Laplacian with diagonal 4 + shift, as CSR in row-major numbering."""

    def line(n):
        return sp.diags([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1])

    grid = sp.kron(sp.eye(rows), line(cols)) + sp.kron(line(rows), sp.eye(cols))
    return (grid + shift * sp.eye(rows * cols)).tocsr()


def sor_counts(systems, sweep, tol: float = 1e-8):
    """Sweeps that each (A, b, omega) needs: relax, recompute the residual, look at its norm."""
    counts = []
    for a, b, omega in systems:
        x, k, stop = np.zeros_like(b), 0, tol * np.linalg.norm(b)
        relax = sweep(a, b, omega)
        while True:
            x, k = relax(x), k + 1
            if np.linalg.norm(b - a @ x) < stop or k == 10_000:
                break
        counts.append(k)
    return np.asarray(counts)


def pyamg_sweep(relaxation):
    """pyamg's compiled sweep, in place."""

    def prepare(a, b, omega):
        def relax(x):
            relaxation.sor(a, x, b, omega=omega)
            return x

        return relax

    return prepare


def triangular_sweep(a, b, omega):
    """One triangular solve a sweep, as the method is written down."""
    lower = (sp.tril(a, -1) + sp.diags(a.diagonal() / omega)).tocsr()
    return lambda x: x + spla.spsolve_triangular(lower, b - a @ x, lower=True)


def _bump(points, centre, radius):
    squares = (points[:, None] - centre[0]) ** 2 + (points[None, :] - centre[1]) ** 2
    inside = 1 - np.minimum(1, squares / radius**2)
    return np.where(inside > 0, np.exp(1 - 1 / np.where(inside > 0, inside, 1)), 0)


def heat(num_cells: int, steps: int, omega: float | None):
    """Crank-Nicolson steps by SciPy's cg, preconditioned by SSOR with factored triangles unless omega is None.

    Returns the number of iterations of every step and the last solution.
    """
    dt, points = 1e-3, np.arange(1, num_cells) / num_cells
    n = (num_cells - 1) ** 2
    minus_laplacian, eye = laplacian(num_cells - 1, num_cells - 1) * num_cells**2, sp.eye(n, format="csr")
    u, counts = _bump(points, (0.5, 0.5), 0.25).ravel(), np.zeros(steps, int)

    for i in range(steps):

        def count(_, i=i):
            counts[i] += 1

        t = i * dt + dt / 2
        wave = np.sin(2 * np.pi * t)
        number, angle = 0.5 * max(0.1 * wave, -10 * wave) * dt, 16 * np.pi * t
        a = (eye + number * minus_laplacian).tocsr()
        source = 32 * _bump(points, (0.5 + np.cos(angle) / 4, 0.5 + np.sin(angle) / 4), 0.125).ravel()
        b = 2 * u - a @ u + dt * source
        preconditioner = None if omega is None else _ssor(a, omega)
        u, _ = spla.cg(a, b, x0=u, rtol=1e-8, atol=0.0, M=preconditioner, callback=count, maxiter=10_000)
    return counts, u


def _ssor(a, omega):
    """Backward solve, diagonal, forward solve."""
    d = a.diagonal()
    upper = spla.splu((sp.triu(a, 1) + sp.diags(d / omega)).tocsc(), permc_spec="NATURAL", diag_pivot_thresh=0)
    lower = spla.splu((sp.tril(a, -1) + sp.diags(d / omega)).tocsc(), permc_spec="NATURAL", diag_pivot_thresh=0)
    middle = (2 - omega) / omega * d
    return spla.LinearOperator(a.shape, lambda r: lower.solve(middle * upper.solve(r)))
