r"""Least squares for linear families: sums over all transitions, then one linear system.

$\sum_k\xi_k\delta_k = A\theta + b$ with $A = \sum_k\xi_k(\partial_\theta\delta_k)^\top$, so $\theta = -A^{-1}b$.
The test functions decide what is found: gradients of J (CLSTD(0)), their traces (CLSTD(lambda)), traces with
lambda = 1 (the martingale loss), and $-\partial_\theta\delta_k/\Delta_k$, which looks ahead (the mean-square TD error,
a wrong one).

Reference: Jia and Zhou 2022, JMLR 23(154), section 4.2; J. A. Boyan, "Technical Update: Least-Squares Temporal
Difference Learning", 2002.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jaxsci.control.martingale._condition import Condition, as_unknowns, checked_scale, residual, time_weight
from jaxsci.control.martingale._method import Clock, Method, Result, Sums, clock, trouble
from jaxsci.control.martingale._temporal_difference import decayed, out_of_range
from jaxsci.core import entry, precision, status, tree
from jaxsci.core.static import bind
from jaxsci.core.types import Scalar, as_float, require_double


def clstd(
    cond: Condition,
    *,
    trace_decay: Scalar | None = None,
    trace_scale: str = "dt",
    ridge: Scalar = 0.0,
    allow_float32: bool = False,
) -> Method:
    r"""CLSTD(0), or CLSTD(lambda): the root of $\sum_k\xi_k\delta_k = 0$ over all that was seen.

    Args:
        cond: from `condition`, with a linear family. Test functions of the user's must be as many as unknowns.
        trace_decay, trace_scale: as in `ctd`; the scale only changes what `ridge` is compared with.
        ridge: added to the diagonal of -A per unit of time, traced; it draws the parameters towards 0.
        allow_float32: accumulate and solve in single precision instead of refusing; static.

    Returns:
        A `Method` for `run` (one stream) and `fit` (a batch). The result's status: singular (the first parameters
        come back), non-finite input or result, out of range.

    Raises:
        ValueError: the family is not linear, or `trace_scale` is unknown; while tracing, x64 is off.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> method = control.martingale.clstd(control.martingale.condition(value, discount=0.5), allow_float32=True)
        >>> path = control.exact.ornstein_uhlenbeck(jax.random.key(0), num_steps=2000, dt=0.05)
        >>> result = control.martingale.run(method, jnp.zeros(2), control.transitions(path._replace(rs=path.xs[:-1])))
        >>> print(0.4 < float(result.value[1]) < 0.9, int(result.status))  # truth 2/3
        True 0
    """
    checked_scale("clstd", trace_scale)
    decay = None if trace_decay is None else as_float(trace_decay)
    return _method("clstd", cond, decay, ridge, allow_float32, trace_scale, False)


def least_squares_ml(cond: Condition, *, ridge: Scalar = 0.0, allow_float32: bool = False) -> Method:
    r"""Martingale loss by least squares: $\min_\theta\frac12\sum_k\Delta_k(G_k - J^\theta_k)^2$, in one forward pass.

    The discounted return is telescoped, $G_k - J_k = \sum_{j\ge k}e^{-\beta(t_j - t_k)}\delta_j$ with multiplicative
    discounting, so the normal equations are those of CLSTD(1), whatever the discounting of `cond`. The end of a path
    counts with its value J, which is h if the terminal condition is built into the family. The result is the best
    mean-square approximation of J in the family. Arguments as in `clstd`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> method = control.martingale.least_squares_ml(condition, allow_float32=True)
        >>> keys = jax.random.split(jax.random.key(0), 32)
        >>> paths = jax.vmap(lambda key: control.exact.ornstein_uhlenbeck(key, num_steps=200, dt=0.1))(keys)
        >>> result = control.martingale.fit(method, jnp.zeros(2), paths._replace(rs=paths.xs[:, :-1]))
        >>> print(result.value.shape, int(result.status))
        (2,) 0
    """
    if cond.average or cond.test is not None:
        raise ValueError("least_squares_ml: expected a condition neither ergodic nor with its own test functions")
    cond = Condition(cond.value, cond.discount, None, "multiplicative", False, cond.weight_by_discount)
    return _method("least_squares_ml", cond, jnp.ones(()), ridge, allow_float32, "dt", False)


def least_squares_mstde(cond: Condition, *, ridge: Scalar = 0.0, allow_float32: bool = False) -> Method:
    r"""Mean-square TD error by least squares: $\min_\theta\frac12\sum_k\delta_k^2/\Delta_k$. A baseline: do not use it.

    Warning:
        As dt -> 0 it tends to half the quadratic variation of the martingale part, whose minimiser is the flattest J,
        not the value function: the bias does not vanish with more data or smaller steps. Arguments as in `clstd`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> method = control.martingale.least_squares_mstde(condition, allow_float32=True)
        >>> keys = jax.random.split(jax.random.key(0), 32)
        >>> paths = jax.vmap(lambda key: control.exact.ornstein_uhlenbeck(key, num_steps=200, dt=0.01))(keys)
        >>> result = control.martingale.fit(method, jnp.zeros(2), paths._replace(rs=paths.xs[:, :-1]))
        >>> print(abs(float(result.value[1])) < 0.4)  # far below the true slope, 2/3
        True

    References: Jia and Zhou 2022, section 3.1.
    """
    return _method("least_squares_mstde", cond, None, ridge, allow_float32, "unit", True)


def _method(name, cond, decay, ridge, allow_float32, trace_scale, squared) -> Method:
    if cond.value.features is None:
        raise ValueError(
            f"{name}: expected a value family that is linear in its parameters (linear_value), got one without "
            "features; use losses with an optimiser"
        )
    static = {"trace_scale": trace_scale, "squared": squared}
    return Method(
        Partial(bind(_init, name=name, allow_float32=allow_float32), cond),
        Partial(bind(_update, **static), cond, decay),
        Partial(_finish, as_float(ridge)),
        Partial(bind(_absorb, **static), cond, decay),
    )


def _init(cond, params, *, name: str, allow_float32: bool):
    widest = jnp.result_type(float)
    require_double(name, widest, allow_float32, "in which sums over many small steps lose their digits")
    unknowns = as_unknowns(cond, params)
    flat = ravel_pytree(unknowns)[0]
    # Sums over many small steps of both signs: double precision whatever the dtype of the data.
    zeros = jnp.zeros(flat.size, widest)
    return Sums(unknowns, jnp.zeros((flat.size, flat.size), widest), zeros, zeros, clock(widest))


def _update(cond, decay, state: Sums, step, *, trace_scale: str, squared: bool):
    block = jax.tree.map(lambda a: jnp.asarray(a)[None], step)
    return _absorb(cond, decay, state, block, trace_scale=trace_scale, squared=squared)


def _absorb(cond, decay, state: Sums, steps, *, trace_scale: str, squared: bool):
    """Residuals at zero unknowns, all at once; the trace alone is a scan."""
    dtype = state.matrix.dtype
    steps, unknowns = tree.cast(tree.as_arrays((steps, state.unknowns)), dtype)
    zero = tree.zeros_like(unknowns)

    def at(step):
        here = residual(cond, zero, step)
        return here, trouble(step, cond, here)

    here, codes = jax.vmap(at)(steps)
    # Steps of no length say nothing; bad ones are dropped and reported.
    use = (codes == status.OK) & (steps.dt > 0)
    here = jax.tree.map(lambda a: jnp.where(use.reshape(-1, *(1 for _ in a.shape[1:])), a, 0), here)
    dts = jnp.where(use, steps.dt, 0)
    trace = state.trace
    if squared:
        # With this sign -A is positive definite, as it is for the other tests, and a ridge adds to it.
        weight = time_weight(cond, jnp.where(use, steps.t, 0))
        tests = -here.slope / jnp.where(use, steps.dt, 1)[:, None] * weight[:, None]
    elif decay is None:
        tests = here.test
    else:

        def body(trace, now):
            trace = decayed(cond, decay, trace, *now, trace_scale)
            return trace, trace

        trace, tests = jax.lax.scan(body, trace, (here, steps._replace(dt=dts)))
    if tests.shape[1] != here.slope.shape[1]:
        raise ValueError(
            f"clstd: expected one test function for each of the {here.slope.shape[1]} unknowns, got {tests.shape[1]}"
        )
    now = state.clock
    code = status.reduce(codes) | out_of_range(decay)
    return Sums(
        state.unknowns,
        state.matrix + precision.einsum("km,kn->mn", tests, here.slope),
        state.vector + precision.einsum("km,k->m", tests, here.delta),
        trace,
        Clock(now.elapsed + jnp.sum(dts), now.lost, now.steps + codes.size, now.status | code),
    )


def _finish(ridge, state: Sums) -> Result:
    flat, unravel = ravel_pytree(state.unknowns)
    time = jnp.where(state.clock.elapsed > 0, state.clock.elapsed, 1)
    size = flat.size
    matrix = -state.matrix / time + ridge.astype(time.dtype) * jnp.eye(size, dtype=time.dtype)
    vector = state.vector / time
    finite = tree.all_finite((matrix, vector))
    safe = jax.lax.stop_gradient(jnp.where(finite, matrix, 0))
    spectrum = jnp.linalg.svd(_equilibrated(safe), compute_uv=False)
    # The sums cancel, and their rounding grows as the square root of the number of terms.
    noise = size * (1 + 2 * jnp.sqrt(state.clock.steps.astype(time.dtype))) * jnp.finfo(time.dtype).eps
    singular = ~(spectrum[-1] > noise * spectrum[0])
    solvable = finite & ~singular
    solution = jnp.linalg.solve(jnp.where(solvable, matrix, jnp.eye(size, dtype=time.dtype)), vector)
    solution = jnp.where(solvable, solution, flat.astype(time.dtype))
    code = state.clock.status | status.flag(singular & finite, status.SINGULAR)
    code = code | status.flag(~finite, status.NONFINITE_RESULT)
    unknowns = unravel(solution.astype(flat.dtype))
    return Result(unknowns.params, state, None, code, unknowns.average, state.clock.steps)


@eqx.filter_jit
def _equilibrated(matrix):
    """Rows and columns scaled to largest entries near 1, so that units of the features do not count as singular."""

    def scaled(_, matrix):
        rows, columns = (jnp.sqrt(jnp.abs(matrix).max(axis)) for axis in (1, 0))
        rows, columns = (jnp.where(a > 0, a, 1) for a in (rows, columns))
        return matrix / rows[:, None] / columns[None, :]

    return jax.lax.fori_loop(0, 12, scaled, matrix)  # each round halves the exponents


__all__ = ["Sums", "clstd", "least_squares_ml", "least_squares_mstde"]

entry.hold(globals(), "_absorb", "_finish", "_init", "_update")
