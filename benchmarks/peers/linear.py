"""Solves, and loops that Python users write for sequences of them, with SciPy, pyamg and lineax."""

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla


def laplacian(rows: int, cols: int, shift: float = 0.0):
    """The 5-point Laplacian with diagonal 4 + shift, as CSR in row-major numbering."""

    def line(n):
        return sp.diags([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1])

    grid = sp.kron(sp.eye(rows), line(cols)) + sp.kron(line(rows), sp.eye(cols))
    return (grid + shift * sp.eye(rows * cols)).tocsr()


def cg(rows, cols, shift, b, tol):
    """One solve by SciPy."""
    a = laplacian(rows, cols, shift)
    return lambda: spla.cg(a, b, rtol=tol)[0]


def lineax_cg(shift, b, steps):
    """So many steps of lineax's CG, compiled: its stopping tests are computed and never met. Value and steps taken."""
    import jax
    import jax.numpy as jnp
    import lineax as lx

    jax.config.update("jax_enable_x64", True)

    def mv(x):
        p = jnp.pad(x, 1)
        return (4 + shift) * x - p[:-2, 1:-1] - p[2:, 1:-1] - p[1:-1, :-2] - p[1:-1, 2:]

    def solve(b):
        operator = lx.FunctionLinearOperator(mv, jax.eval_shape(lambda: b), lx.positive_semidefinite_tag)
        found = lx.linear_solve(operator, b, lx.CG(rtol=1e-30, atol=1e-30, max_steps=steps), throw=False)
        return found.value, found.stats["num_steps"]

    return solve, jnp.asarray(b)


def sor_sweeps(rows, cols, shift, b, omega, count):
    """pyamg's sweeps in natural order, as a Python user counts them: relax, recompute the residual, take its norm."""
    from pyamg.relaxation.relaxation import sor

    a = laplacian(rows, cols, shift)

    def run():
        x, norms = np.zeros_like(b), []
        for _ in range(count):
            sor(a, x, b, omega=omega)
            norms.append(np.linalg.norm(b - a @ x))
        return x, np.asarray(norms)

    return run


def sor_counts(rows, cols, shifts, bs, omegas, tol, sweep):
    """Sweeps that each system needs: relax, recompute the residual, look at its norm. Sweeps by "pyamg" or "scipy"."""
    prepare = {"pyamg": _pyamg_sweep, "scipy": _triangular_sweep}[sweep]
    systems = [(laplacian(rows, cols, c), b, w) for c, b, w in zip(shifts, bs, omegas)]

    def run():
        counts = []
        for a, b, omega in systems:
            x, k, stop = np.zeros_like(b), 0, tol * np.linalg.norm(b)
            relax = prepare(a, b, omega)
            while True:
                x, k = relax(x), k + 1
                if np.linalg.norm(b - a @ x) < stop or k == 10_000:
                    break
            counts.append(k)
        return np.asarray(counts)

    return run


def _pyamg_sweep(a, b, omega):
    """pyamg's compiled sweep, in place."""
    from pyamg.relaxation.relaxation import sor

    def relax(x):
        sor(a, x, b, omega=omega)
        return x

    return relax


def _triangular_sweep(a, b, omega):
    """One triangular solve a sweep, as the method is written down."""
    lower = (sp.tril(a, -1) + sp.diags(a.diagonal() / omega)).tocsr()
    return lambda x: x + spla.spsolve_triangular(lower, b - a @ x, lower=True)


def heat_loop(num_cells, steps, omega):
    """`heat`; omega 0 is plain CG."""
    return lambda: heat(num_cells, steps, omega or None)


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


def csr_cg(data, indices, indptr, b, steps):
    """So many steps of SciPy's CG on any matrix: its stopping tests are computed and never met. Value and steps."""
    a = sp.csr_matrix((data, indices, indptr))

    def run():
        taken = []
        return spla.cg(a, b, rtol=0.0, atol=0.0, maxiter=steps, callback=lambda _: taken.append(1))[0], len(taken)

    return run


def csr_sweeps(data, indices, indptr, b, omega, count):
    """pyamg's sweeps of any matrix as in `sor_sweeps`: relax, recompute the residual, take its norm."""
    from pyamg.relaxation.relaxation import sor

    a = sp.csr_matrix((data, indices, indptr))

    def run():
        x, norms = np.zeros_like(b), []
        for _ in range(count):
            sor(a, x, b, omega=omega)
            norms.append(np.linalg.norm(b - a @ x))
        return x, np.asarray(norms)

    return run
