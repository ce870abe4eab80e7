r"""Red-black SOR on a five-point grid, several sweeps in one call, with the residual norm of every sweep.

Cells with even i + j are red, the others black. The neighbours of a cell have the other colour, so all cells of one
colour are relaxed at once: :math:`u_c \leftarrow u_c + \omega D_c^{-1} (b - A u)_c` for red, then for black.

The same recurrence, in natural order of the cells, is sequential along rows and columns. By anti-diagonals it needs
rows + cols dependent steps a sweep (several sweeps pipelined: as many for all of them), each over one diagonal; here
two steps over half the grid do. For such a system both orders have the same spectral radius for every omega, so this
op has no natural order: that one belongs to callers who need its exact iterates.

Reference: Young 1971, Iterative Solution of Large Linear Systems, chapters 5 and 6.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pallas_kernels import _dispatch
from pallas_kernels.sor import reference

NONFINITE_RESULT, OUT_OF_RANGE, SINGULAR = 1 << 1, 1 << 6, 1 << 7  # positions as in jaxsci.core.status


class SORResult(NamedTuple):
    """What `sor` returns.

    Attributes:
        value: the grid after the last sweep.
        residuals: ||b - A u||_2 after every sweep; (0,) where they were not asked for.
        status: int32 bit set: 2 not finite, 64 omega outside (0, 2), 128 a zero on the diagonal; 0 = ok.
    """

    value: Float[Array, "rows cols"]
    residuals: Float[Array, " sweeps"]
    status: Int[Array, ""]


def sor(
    u: Float[Array | np.ndarray, "rows cols"],
    b: Float[Array | np.ndarray, "rows cols"],
    coefficients: Float[Array | np.ndarray, "5"] | Float[Array | np.ndarray, "5 rows cols"],
    omega: Float[Array | np.ndarray, ""] | float,
    *,
    num_sweeps: int = 1,
    residuals: bool = False,
    first: str = "red",
    implementation: str | None = None,
) -> SORResult:
    r"""Red-black SOR sweeps for A u = b on a grid that is zero beyond its border.

    (A u)[i,j] = d u[i,j] + n u[i-1,j] + s u[i+1,j] + w u[i,j-1] + e u[i,j+1]. A sweep relaxes the red cells
    (i + j even), then the black ones: u_c <- u_c + omega (b - A u)_c / d_c.

    Residual norms read nothing that a sweep does not: the red residual after a sweep is what the next one starts with,
    and relaxing multiplies a black one by 1 - omega. The last norm is computed from `value` itself. On a CPU they are
    not free all the same, because XLA computes a residual once for the update and once for the norm.
    They are never understated: what squares lose below the smallest normal number is added, 1e-19 times the root of the
    number of cells in float32, and where squares overflow a norm is infinite.

    Roofline, float32, for constant coefficients: 16 operations and 16 bytes a cell and sweep (own colour in and out,
    other colour, right-hand side, each half the grid, twice), for variable ones 48 bytes more: bound by memory
    bandwidth wherever the grid is not on chip. TPU: on chip for all sweeps of a call, so HBM moves 12 bytes a cell a
    call (constant) and the vector unit is the bound; the padding to 128 packed lanes counts as cells. GPU: one launch
    a half-sweep, which is the bound on small grids (an estimate, below about 1024 x 1024 cells; not measured here).

    Args:
        u: (rows, cols), start; traced. Any size, also 1 x n and none at all.
        b: (rows, cols), right-hand side; traced.
        coefficients: (5,) the same everywhere, or (5, rows, cols) for each cell: diagonal, north (i - 1), south
            (i + 1), west (j - 1), east (j + 1); finite; traced. What reaches over the border meets a zero.
        omega: relaxation parameter, in (0, 2) for convergence on a symmetric positive definite A; traced.
        num_sweeps: static; 0 leaves u.
        residuals: whether to return the norms ||b - A u||_2 after every sweep; static.
        first: "red" or "black", the colour that goes first; static. A sweep with each is a symmetric one.
        implementation: None picks by platform; "reference", "tpu", "gpu", "interpret" or "tpu_interpret"; static.

    Returns:
        SORResult(value (rows, cols) in the common dtype of the arrays, residuals (num_sweeps,) or (0,), status).
        Half precision is computed in float32, rounded once at the end; its residuals are float32.
        status: 0 if all is well, else the sum of 2 (value or norms not finite), 64 (omega outside (0, 2)) and 128
        (a zero on the diagonal: that cell keeps its value), as in `jaxsci.core.status`.

    Raises:
        ValueError: shapes that do not agree, num_sweeps below 0, `first` or implementation unknown, kernel refused.
        TypeError: an array that is not of a real floating dtype, num_sweeps not a Python integer.

    Differentiable in reverse mode, any number of times, except for `residuals` (constants). For u and b the gradient
    is as many sweeps with A^T in the reverse order of colours, by the same kernel: v after num_sweeps sweeps from 0
    with the cotangent c as right-hand side is that of b, and c - A^T v that of u, exact to the rounding of c. That of
    coefficients and omega runs through the reference and keeps every sweep. Forward mode raises TypeError.
    Several systems: `jax.vmap`; each becomes one step of the kernel's grid (TPU) or one more row of it (GPU).

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels import sor
        >>> laplacian = jnp.array([4.0, -1.0, -1.0, -1.0, -1.0])
        >>> out = sor(jnp.zeros((8, 8)), jnp.ones((8, 8)), laplacian, 1.5, num_sweeps=40, residuals=True)
        >>> out.value.shape, out.residuals.shape, bool(out.residuals[20] < 1e-4 < out.residuals[10]), int(out.status)
        ((8, 8), (40,), True, 0)

    References: Young 1971, chapters 5 and 6; Hageman and Young 1981, Applied Iterative Methods, chapter 9.
    """
    u, b, coefficients = (jnp.asarray(x) for x in (u, b, coefficients))
    num_sweeps = _check(u, b, coefficients, omega, num_sweeps, first)
    kept = jnp.result_type(u, b, coefficients)
    omega = jnp.asarray(omega, jnp.promote_types(kept, jnp.float32))
    # JAX 0.11 compiles anew what it traced while Pallas was first imported.
    _dispatch._module("_compat")
    return _compiled(u, b, coefficients, omega, _Static(num_sweeps, bool(residuals), first, implementation), kept)


class _Static(NamedTuple):
    num_sweeps: int
    sums: bool
    first: str
    implementation: str | None


def _check(u, b, coefficients, omega, num_sweeps, first) -> int:
    for name, x in (("u", u), ("b", b), ("coefficients", coefficients)):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"sor: {name} must have a real floating dtype, got {x.dtype}; cast it first")
    if u.ndim != 2 or b.shape != u.shape:
        raise ValueError(
            f"sor: u and b must be grids of one shape (rows, cols), got {u.shape} and {b.shape}; "
            "use jax.vmap(sor) over leading axes"
        )
    if coefficients.shape not in ((5,), (5, *u.shape)):
        raise ValueError(
            f"sor: coefficients must be (5,) or {(5, *u.shape)} (diagonal, north, south, west, east), got shape "
            f"{coefficients.shape}; jnp.stack five arrays of the grid's shape, or five numbers"
        )
    if jnp.ndim(omega) != 0:
        raise ValueError(f"sor: omega must be a scalar, got shape {jnp.shape(omega)}; use jax.vmap over several")
    if first not in reference.COLOUR:
        raise ValueError(f"sor: first must be 'red' or 'black', got {first!r}")
    try:
        num_sweeps = operator.index(num_sweeps)
    except TypeError as error:
        raise TypeError(
            f"sor: num_sweeps is static, a Python integer, got {type(num_sweeps).__name__}; for a traced number of "
            "sweeps call sor in a lax.while_loop"
        ) from error
    if num_sweeps < 0:
        raise ValueError(f"sor: num_sweeps must be 0 or more, got {num_sweeps}")
    return num_sweeps


@functools.partial(jax.jit, static_argnums=(4, 5))
def _compiled(u, b, coefficients, omega, static, kept):
    wide = [x.astype(omega.dtype) for x in (u, b, coefficients)]
    if u.size == 0 or static.num_sweeps == 0:
        value, norms = wide[0], jnp.zeros(static.num_sweeps if static.sums else 0, omega.dtype)
    else:
        # The norm of the last sweep comes from the value itself, so a single sweep needs no sums.
        value, squares = _relax(*wide, omega, static._replace(sums=static.sums and static.num_sweeps > 1))
        norms = _norms(value, squares, *wide[1:]) if static.sums else jnp.zeros(0, omega.dtype)
    finite = jnp.all(jnp.isfinite(value)) & jnp.all(jnp.isfinite(norms))
    status = (
        jnp.where(finite, 0, NONFINITE_RESULT)
        | jnp.where((omega > 0) & (omega < 2), 0, OUT_OF_RANGE)
        | jnp.where(jnp.any(wide[2][0] == 0), SINGULAR, 0)
    )
    return SORResult(value.astype(kept), norms, status.astype(jnp.int32))


def _norms(value, squares, b, coefficients):
    value, squares, b, coefficients = jax.lax.stop_gradient((value, squares, b, coefficients))
    last = b - reference.product(coefficients, value)
    earlier = squares[0, 1:] + squares[1, :-1]
    # Of every square that underflowed at most the smallest normal number is missing.
    lost = value.size * jnp.finfo(value.dtype).tiny
    return jnp.sqrt(jnp.concatenate([earlier, jnp.sum(last * last)[None]]) + lost)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _relax(u, b, coefficients, omega, static: _Static):
    return _dispatch.run("sor", u, b, coefficients, omega, **static._asdict())


def _forward(u, b, coefficients, omega, static):
    return _relax(u, b, coefficients, omega, static), (u, b, coefficients, omega)


def _backward(static, arrays, cotangents):
    c, _ = cotangents
    transposed = reference.transpose(arrays[2])
    reverse = static._replace(sums=False, first="black" if static.first == "red" else "red")
    v, _ = _relax(jnp.zeros_like(c), c, transposed, arrays[3], reverse)
    # Always traced and mostly dropped: the op is jitted, so what nobody asks for is dead code there.
    static = static._replace(sums=False)._asdict()
    del static["implementation"]
    pull = jax.vjp(lambda *matrix: reference.call(*arrays[:2], *matrix, **static)[0], *arrays[2:])[1]
    return c - reference.product(transposed, v), v, *pull(c)


_relax.defvjp(_forward, _backward)

__all__ = ["SORResult", "sor"]
