r"""A Gaussian process of a fixed number of rows: condition, append, log marginal likelihood.

$f \sim \mathcal{GP}(0, k)$, $y_i = f(x_i) + \varepsilon_i$, $\varepsilon_i \sim N(0, \sigma_i^2)$. With
$K = (k(x_i, x_j)) + \mathrm{diag}(\sigma_i^2 + \text{jitter}) = LL^\top$ and $\alpha = K^{-1}y$ the posterior at x has
mean $k_x^\top\alpha$ and variance $k(x, x) - \|L^{-1}k_x\|^2$.

A row that the mask leaves out is a row of the identity in K, with target 0: it changes nothing, the shapes never
change, and the whole lives in the carry of a scan. The mean is zero: centre the targets, or add a constant kernel.

When the factorisation fails (float32, or rows that nearly coincide without noise) more jitter is tried and reported;
when no jitter helps, the result is the prior, and says so. No number in it is ever NaN.

Reference: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, algorithm 2.1 and sections 5.4, A.4.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from jaxsci.core import precision, status, tree
from jaxsci.core.static import check_size
from jaxsci.core.types import Scalar, as_real, float_dtype
from jaxsci.gp._factor import JITTERED, factor, factor_status, log_density
from jaxsci.gp.kernels import Kernel, as_tree, gram

FULL = status.register(
    "gp", 17, "no room", "append found every row in use and changed nothing", "condition with a larger size"
)

_HALF_LOG_2PI = math.log(2 * math.pi) / 2


class GP(NamedTuple):
    """A Gaussian process conditioned on the rows that `mask` names; N rows, some of them dead.

    Attributes:
        kernel: covariance ``kernel(x, x')`` of a pair of inputs.
        x: inputs, N along the leading axis of every array; zero in dead rows.
        y: targets; zero in dead rows.
        mask: True where a row counts.
        noise: noise variance of each row, finite and >= 0; `append` takes that of the dead row which it fills, unless
            told another.
        jitter: what the diagonal of K holds besides the noise: the jitter asked for, and what had to be added for the
            factor.
        chol: lower Cholesky factor L of K; dead rows are rows of the identity.
        alpha: K^-1 y.
        status: bits of everything that happened so far; 0 = ok.
    """

    kernel: Kernel
    x: PyTree
    y: Float[Array, " N"]
    mask: Bool[Array, " N"]
    noise: Float[Array, " N"]
    jitter: Float[Array, ""]
    chol: Float[Array, "N N"]
    alpha: Float[Array, " N"]
    status: Int[Array, ""]


def condition(
    kernel: Kernel,
    x: PyTree,
    y: Float[ArrayLike, " n"],
    mask: Bool[ArrayLike, " n"] | None = None,
    *,
    noise: ArrayLike,
    jitter: Scalar = 0.0,
    size: int | None = None,
) -> GP:
    """The Gaussian process given targets `y` at inputs `x`, O(N^3).

    Args:
        kernel: from `gp.kernels`, or any function of a pair of inputs.
        x: n inputs, (n, d) or any record of arrays with n along the leading axis; traced.
        y: (n,) targets, traced.
        mask: rows that count, all by default; traced.
        noise: variance of the observation noise, one for all or (n,), traced; 0 interpolates.
        jitter: added to the diagonal too, but no part of the model's noise; traced.
        size: number of rows N >= n of the result, static; n by default. The others are dead, room for `append`.

    Returns:
        A `GP`. Status: non-finite input, out of range for negative noise (such rows are dead) or jitter (0 is used),
        non-finite result (K^-1 y does not fit the dtype and is 0), jitter raised, singular (no jitter helped, or a
        non-finite kernel: all rows are dead and predictions are the prior's).

    Raises:
        ValueError: shapes that do not fit, a kernel whose value is no scalar, size < n.

    Differentiable in the kernel's hyper-parameters, x, y, noise and jitter, any order.

    Example:
        >>> from jaxsci import gp
        >>> x = jnp.asarray([[0.0], [1.0]])
        >>> process = gp.condition(gp.kernels.rbf(1.0), x, jnp.asarray([1.0, 2.0]), noise=0.01, size=4)
        >>> process = gp.append(process, jnp.asarray([2.0]), 1.0)
        >>> mean, variance, status = gp.predict(process, jnp.asarray([1.5]))
        >>> print(f"{mean:.2f} {variance:.3f} {status}")
        1.68 0.025 0

    References: Rasmussen and Williams 2006, algorithm 2.1.
    """
    kernel = as_tree(kernel)
    x, y, mask, noise, jitter = checked_data(
        "gp.condition", float_dtype(x, y, noise, jitter, kernel), x, y, mask, noise, jitter
    )
    n = y.shape[0]
    size = check_size("gp.condition", "size", n if size is None else size, least=max(n, 1))
    return _condition(kernel, x, y, mask, noise, jitter, size)


def checked_data(function, dtype, x, y, mask, noise, jitter):
    """Data as arrays of one dtype, or the ValueError that says which shape does not fit."""
    x = tree.cast(tree.as_arrays(x), dtype)
    y, noise, jitter = (as_real(a, dtype) for a in (y, noise, jitter))
    mask = jnp.ones(y.shape, bool) if mask is None else jnp.asarray(mask)
    if y.ndim != 1:
        raise ValueError(f"{function}: y must have shape (n,), got {y.shape}; use jax.vmap for several outputs")
    n = y.shape[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        if leaf.ndim == 0 or leaf.shape[0] != n:
            name = f"x{jax.tree_util.keystr(path)}"
            raise ValueError(f"{function}: {name} must have n = {n} rows as y has, got shape {leaf.shape}")
    if mask.shape != (n,) or mask.dtype != bool:
        raise ValueError(f"{function}: mask must be Bool of shape ({n},), got {mask.dtype} of shape {mask.shape}")
    if noise.shape not in ((), (n,)) or jitter.shape != ():
        raise ValueError(
            f"{function}: noise must be a scalar or of shape ({n},) and jitter a scalar, got {noise.shape} and "
            f"{jitter.shape}"
        )
    return x, y, mask, noise, jitter


@eqx.filter_jit
def _condition(kernel, x, y, mask, noise, jitter, size: int) -> GP:
    n = y.shape[0]
    # The rows to come have the one noise, or the mean of those that count, as have rows whose own is no variance.
    usable = _is_variance(noise)
    counted = mask & usable
    to_come = noise if noise.ndim == 0 else jnp.sum(jnp.where(counted, noise, 0)) / jnp.maximum(jnp.sum(counted), 1)
    to_come = jnp.where(_is_variance(to_come), to_come, 0)
    filled = jnp.broadcast_to(jnp.where(usable, noise, to_come), (n,))
    told = jnp.concatenate([jnp.broadcast_to(noise, (n,)), jnp.broadcast_to(to_come, (size - n,))])
    noise = jnp.concatenate([filled, jnp.broadcast_to(to_come, (size - n,))])
    x, y, mask = jax.tree.map(lambda a: jnp.pad(a, [(0, size - n)] + [(0, 0)] * (a.ndim - 1)), (x, y, mask))
    x, y, live, matrix, code = _system(kernel, x, y, mask, told, jitter)
    chol, extra = factor(matrix)
    singular = jnp.isinf(extra)
    live = live & ~singular
    x, y = _keep_rows(live, (x, y))
    alpha, lost = _solved(chol, y)
    jitter = jitter + jnp.where(singular, 0, extra)
    return GP(kernel, x, y, live, noise, jitter, chol, alpha, code | factor_status(extra) | lost)


def _solved(chol, y):
    """alpha = K^-1 y and its status: solved at the scale of y, and 0 with a status if it does not fit the dtype."""
    down, up = precision.powers_of_two(precision.largest(y))
    alpha = up * cho_solve((chol, True), down * y)
    lost = ~tree.all_finite(alpha)
    return jnp.where(lost, 0, alpha), status.flag(lost, status.NONFINITE_RESULT)


def evidence(kernel, x, y, mask, noise, jitter):
    """(log_marginal(condition(...)), status), with a gradient that costs one more triangular solve."""
    noise = jnp.broadcast_to(noise, y.shape).astype(y.dtype)
    _, y, live, matrix, code = _system(kernel, x, y, mask, noise, jitter)
    value, extra = log_density(matrix, y)
    return value - jnp.sum(live) * _HALF_LOG_2PI, code | factor_status(extra)


def _system(kernel, x, y, mask, noise, jitter):
    """Inputs, targets and mask without the rows that are dead or not finite, the matrix K, and a status."""
    _check_kernel(kernel, x)
    finite = jnp.isfinite(noise) & jax.vmap(tree.all_finite)((x, y))
    live = mask & finite & _is_variance(noise)
    code = status.flag(jnp.any(mask & ~finite), status.NONFINITE_INPUT)
    code = code | status.flag(jnp.any(mask & (noise < 0)) | (jitter < 0), status.OUT_OF_RANGE)
    jitter = jnp.maximum(jitter, 0)
    x, y = _keep_rows(live, (x, y))
    covariance = jnp.where(live[:, None] & live[None, :], gram(kernel, x, x).astype(y.dtype), 0)
    return x, y, live, covariance + jnp.diag(jnp.where(live, noise + jitter, 1)), code


def _is_variance(noise):
    return jnp.isfinite(noise) & (noise >= 0)


@eqx.filter_jit
def append(gp: GP, x: PyTree, y: Scalar, *, noise: Scalar | None = None) -> GP:
    """The Gaussian process given one more observation, in the row after the last live one; O(N^2).

    Equal to `condition` on all rows, to rounding error.

    Args:
        gp: from `condition` or `append`.
        x: one input. y: its target, a scalar; traced.
        noise: variance of its noise, traced; what `condition` was told by default.

    Returns:
        A `GP`. Status: no room (every row up to the last is in use; nothing changes), non-finite input or result, out
        of range for negative noise (nothing changes), jitter raised (f(x) was known to rounding error: its row's
        diagonal is that error).

    Raises:
        ValueError: x has not the shape of the inputs of the process; y or noise is no scalar.

    Differentiable as `condition`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> x = jnp.array([[0.0], [1.0]])
        >>> process = gp.condition(gp.kernels.rbf(1.0), x, jnp.array([0.0, 1.0]), noise=0.01, size=3)
        >>> process = gp.append(process, jnp.array([2.0]), 2.0)
        >>> print(process.mask)
        [ True  True  True]

    References: Golub and Van Loan 2013, Matrix Computations, section 4.2 (bordered Cholesky factor).
    """
    num_rows = gp.y.shape[0]
    last = jnp.max(jnp.where(gp.mask, jnp.arange(1, num_rows + 1), 0))
    full, slot = last >= num_rows, jnp.minimum(last, num_rows - 1)
    check_one("gp.append", gp, x)
    x, y = jax.tree.map(lambda a, b: as_real(a, b.dtype), x, gp.x), as_real(y, gp.y.dtype)
    noise = gp.noise[slot] if noise is None else as_real(noise, gp.y.dtype)
    if y.shape != () or noise.shape != ():
        raise ValueError(f"gp.append: y and noise must be scalars, got shapes {y.shape} and {noise.shape}")
    finite = tree.all_finite((x, y, noise))
    good = finite & (noise >= 0)
    x, y, noise = jax.tree.map(lambda a: jnp.where(good, a, jnp.zeros_like(a)), (x, y, noise))

    row = solve_triangular(gp.chol, _against(gp, x), lower=True)
    variance = gp.kernel(x, x).astype(y.dtype) + noise + gp.jitter
    pivot = variance - precision.vdot(row, row)
    least = num_rows * jnp.finfo(y.dtype).eps * variance
    known = pivot < least
    row = row.at[slot].set(jnp.sqrt(jnp.where(known, least, pivot)))
    usable = good & ~full & tree.all_finite(row)

    def put(rows, new):
        return rows.at[slot].set(jnp.where(usable, new, rows[slot]))

    chol, targets = put(gp.chol, row), put(gp.y, y)
    code = status.flag(~finite, status.NONFINITE_INPUT) | status.flag(full, FULL)
    code = code | status.flag(finite & ~good, status.OUT_OF_RANGE)
    code = code | status.flag(good & ~full & ~usable, status.NONFINITE_RESULT) | status.flag(usable & known, JITTERED)
    alpha, lost = _solved(chol, targets)
    return GP(
        gp.kernel,
        jax.tree.map(put, gp.x, x),
        targets,
        put(gp.mask, True),
        put(gp.noise, noise),
        gp.jitter,
        chol,
        alpha,
        gp.status | code | lost,
    )


@eqx.filter_jit
def log_marginal(gp: GP) -> Float[Array, ""]:
    r"""Log marginal likelihood of the live rows, $-\frac12 y^\top\alpha - \sum\log L_{ii} - \frac n2\log 2\pi$.

    Look at the GP's status: of a singular one no row is live and this is 0. Differentiable in everything.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> x, y = jnp.arange(4.0)[:, None], jnp.sin(jnp.arange(4.0))
        >>> print(bool(gp.log_marginal(gp.condition(gp.kernels.rbf(1.5), x, y, noise=0.01)) > -4.0))
        True

    References: Rasmussen and Williams 2006, algorithm 2.1.
    """
    fit = precision.vdot(gp.y, gp.alpha)
    volume = jnp.sum(jnp.log(jnp.diagonal(gp.chol)))
    return -fit / 2 - volume - jnp.sum(gp.mask) * _HALF_LOG_2PI


def check_one(function: str, gp: GP, x) -> None:
    """Refuse an x that is no single input of the process."""
    _check_inputs(function, gp, x, "one input", ())


def check_several(function: str, gp: GP, xs) -> None:
    """Refuse xs that are no inputs of the process along one leading axis."""
    lead = {jnp.shape(a)[:1] for a in jax.tree.leaves(xs)}
    _check_inputs(function, gp, xs, "m inputs", lead.pop() if len(lead) == 1 else (-1,))


def _check_inputs(function: str, gp: GP, x, what: str, lead: tuple) -> None:
    """The ValueError for inputs that would be broadcast against those of the process; a TypeError for complex ones."""
    float_dtype(x)
    rows = [a.shape[1:] for a in jax.tree.leaves(gp.x)]
    same = jax.tree.structure(x) == jax.tree.structure(gp.x)
    got = [jnp.shape(a) for a in jax.tree.leaves(x)]
    if not same or got != [(*lead, *row) for row in rows]:
        raise ValueError(
            f"{function}: expected {what}, each of shape {rows} as those of the process, got {got}; for several "
            "inputs use gp.marginals or gp.joint"
        )


def _against(gp: GP, x):
    """k(x_i, x) for all rows, 0 in dead ones."""
    return jnp.where(gp.mask, jax.vmap(lambda row: gp.kernel(row, x))(gp.x).astype(gp.y.dtype), 0)


def _check_kernel(kernel, x):
    kernel = as_tree(kernel)
    if all(leaf.shape[0] for leaf in jax.tree.leaves(x)):
        row = jax.tree.map(lambda a: a[0], x)
        value = jax.eval_shape(kernel, row, row)
        if value.shape != ():
            raise ValueError(f"gp.condition: the kernel must give a scalar for a pair of inputs, got {value.shape}")


def _keep_rows(live, rows):
    """Zeros where a row is dead, so that what stood there reaches neither values nor gradients."""
    return jax.tree.map(lambda a: jnp.where(live.reshape(-1, *[1] * (a.ndim - 1)), a, jnp.zeros_like(a)), rows)


__all__ = ["FULL", "GP", "JITTERED", "append", "check_one", "check_several", "condition", "evidence", "log_marginal"]
