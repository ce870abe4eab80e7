r"""Fitting the hyper-parameters: climb the log marginal likelihood, with a prior if wanted, on the log scale.

Maximises $\log p(y \mid \theta) + \log p(\theta)$ over positive parameters $\theta = e^u$ by BFGS in u, one evaluation
of value and gradient a step: the trial is accepted if the value fell enough (Armijo), else the step is shortened. So
the cost is fixed by the number of steps, lanes of a vmap do equal work, and nothing is nested in the loop.

References: Rasmussen and Williams 2006, section 5.4.1; Nocedal and Wright 2006, Numerical Optimization, section 6.1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from jaxsci.core import loops, precision, status, tree
from jaxsci.core.types import Scalar, as_count, as_real, float_dtype
from jaxsci.gp._gp import checked_data, evidence

FAR_OFF = status.register(
    "gp",
    22,
    "parameter far off",
    "the fit took a parameter more than ten thousand times away from its start: the data hardly determine it (a length "
    "far beyond the inputs, a noise of 0)",
    "give a log_prior, hold the parameter fixed in the model, or start elsewhere",
    notice=True,  # the objective is as large as it says
)

_ARMIJO = 1e-4
_FAR = 1e4
_NOISE = 1000  # rounding errors of the value, in units of the last place
_SHORTEN = 0.25
_SHORTEST = 1e-6
_LARGEST_MOVE = 1.0  # of any log-parameter in one step: a factor e


class FitResult(NamedTuple):
    """Fitted parameters and how good they are.

    Attributes:
        value: the parameters, of the structure given.
        objective: log marginal likelihood plus log prior there; -inf if it could not be computed.
        residual: largest slope of the objective in a log-parameter; infinite if it could not be computed.
        steps: evaluations of the objective, int32.
        status: OUT_OF_RANGE (a parameter), MAX_STEPS, STAGNATED, SINGULAR, NONFINITE_RESULT, FAR_OFF (a notice), see
            `fit`; 0 = ok.
    """

    value: PyTree
    objective: Float[Array, ""]
    residual: Float[Array, ""]
    steps: Int[Array, ""]
    status: Int[Array, ""]


class _Loop(NamedTuple):
    """What the minimisation of -objective carries.

    Attributes:
        u: log-parameters of the best point, flat.
        value: minus the objective there; infinite before the first evaluation.
        slope: its gradient.
        inverse: BFGS estimate of the inverse Hessian.
        length: share of the full step that is tried next.
        stuck: whether no step improves any more, or the start could not be evaluated.
        bits: status of the evaluation at the best point.
    """

    u: Array
    value: Array
    slope: Array
    inverse: Array
    length: Array
    stuck: Array
    bits: Array


def fit(
    model: Callable[[PyTree], tuple[Any, Any]],
    params: PyTree,
    x: PyTree,
    y: Float[ArrayLike, " n"],
    mask: Bool[ArrayLike, " n"] | None = None,
    *,
    log_prior: Callable[[PyTree], Any] | None = None,
    jitter: Scalar = 0.0,
    max_steps: Scalar = 50,
    tol: Scalar = 1e-3,
) -> FitResult:
    r"""Maximise the log marginal likelihood plus a log prior over positive parameters.

    Args:
        model: ``model(params) -> (kernel, noise)``, what `condition` takes: it names the parameters, ties them, or
            holds some fixed. A module-level function or `Partial` (static otherwise: a new closure compiles again).
        params: where to start: a pytree of positive floats, traced; `jax.vmap` over several starts.
        x, y, mask, jitter: as for `condition`.
        log_prior: ``log_prior(params) -> scalar``, added as it is (no Jacobian of the logarithm); none by default.
        max_steps: most evaluations of value and gradient, O(N^3) each, traced.
        tol: stop when no slope in a log-parameter exceeds this, traced; in float32 rounding noise may be above it.

    Returns:
        A `FitResult`. Status: out of range (a parameter is not positive and finite; nothing was done), cap reached,
        stagnated (no step improves any more: rounding error, or a kink), singular or non-finite result (the objective
        cannot be computed at the start), and as a notice far off (a parameter has run more than ten thousand times away
        from its start, as it does where the evidence is flat). `value` is always finite if `params` is.

    Raises:
        ValueError: as `condition`; no parameters; a log prior that is not a scalar.

    Not differentiable: differentiate `log_marginal`.

    Example:
        >>> from jaxsci import gp
        >>> def model(params):
        ...     return gp.kernels.rbf(params["length"]), params["noise"]
        >>> x = jnp.linspace(0.0, 6.0, 20)[:, None]
        >>> start = {"length": jnp.asarray(0.5), "noise": jnp.asarray(0.1)}
        >>> result = gp.fit(model, start, x, jnp.sin(x[:, 0]), log_prior=lambda p: -100 * p["noise"], tol=0.1)
        >>> bool(result.value["length"] > 1.0), bool(result.value["noise"] < 0.01)
        (True, True)

    References: Rasmussen and Williams 2006, section 5.4.1; W. W. Hager, H. Zhang, SIAM J. Optim. 16 (2005), 170-192.
    """
    dtype = float_dtype(params, x, y)
    params = jax.tree.map(lambda a: as_real(a, dtype), params)
    if not jax.tree.leaves(params):
        raise ValueError("gp.fit: params holds no numbers; expected a pytree of positive floats to fit")
    # The model's noise is checked where it arises, in the loop.
    x, y, mask, _, jitter = checked_data("gp.fit", dtype, x, y, mask, 0.0, jitter)
    limits = as_count(max_steps, "gp.fit", "max_steps"), as_real(tol, dtype)
    return _fit(model, params, x, y, mask, log_prior, jitter, limits)


@eqx.filter_jit
def _fit(model, params, x, y, mask, log_prior, jitter, limits) -> FitResult:
    max_steps, tol = limits
    flat, unravel = ravel_pytree(params)
    outside = ~jnp.all((flat > 0) & (flat < jnp.inf))
    u = jnp.log(jnp.where(outside, 1, flat))
    size, eps = u.size, jnp.finfo(u.dtype).eps

    def loss(u):
        params = unravel(jnp.exp(u))
        kernel, noise = model(params)
        *data, noise, _ = checked_data("gp.fit", y.dtype, x, y, mask, noise, jitter)
        value, bits = evidence(kernel, *data, noise, jitter)
        if log_prior is not None:
            extra = jnp.asarray(log_prior(params))
            if extra.shape != ():  # once, while tracing
                raise ValueError(f"gp.fit: log_prior must return a scalar, got shape {extra.shape}")
            value = value + extra.astype(value.dtype)
        return -value, bits

    def unfinished(loop: _Loop):
        return ~loop.stuck & ((loop.value == jnp.inf) | (jnp.max(jnp.abs(loop.slope)) > tol))

    def advance(loop: _Loop) -> _Loop:
        direction = -precision.matmul(loop.inverse, loop.slope)
        largest = jnp.max(jnp.abs(direction))
        direction = direction * jnp.minimum(1, _LARGEST_MOVE / jnp.maximum(largest, eps))
        move = loop.length * direction
        (value, bits), slope = jax.value_and_grad(loss, has_aux=True)(loop.u + move)
        finite = jnp.isfinite(value) & tree.all_finite(slope)
        # Near the optimum true progress is below the value's rounding error, which the condition of the Gram matrix
        # enlarges: there a step is as good as the slope it leads to (Hager and Zhang 2005, section 2).
        target = loop.value + _ARMIJO * jnp.vdot(loop.slope, move) + 4 * eps * jnp.abs(value)
        flatter = jnp.max(jnp.abs(slope)) < jnp.max(jnp.abs(loop.slope))
        level = (value <= loop.value + _NOISE * eps * (1 + jnp.abs(value))) & flatter
        good = finite & (bits & status.SINGULAR == 0) & ((value <= target) | level)
        first = loop.value == jnp.inf
        # The start is the first trial, with no move: the objective is then traced once.
        inverse = jnp.where(first, jnp.eye(size, dtype=u.dtype), _bfgs(loop.inverse, move, slope - loop.slope))
        length = jnp.where(good, 1, _SHORTEN * loop.length)
        bits = bits | status.flag(~finite, status.NONFINITE_RESULT)
        after = _Loop(loop.u + move, value, slope, inverse, length, jnp.asarray(False), bits)
        kept = loop._replace(length=length, stuck=first | (length < _SHORTEST), bits=jnp.where(first, bits, loop.bits))
        return tree.where(good, after, kept)

    start = _Loop(
        u,
        jnp.asarray(jnp.inf, u.dtype),
        jnp.zeros_like(u),
        jnp.eye(size, dtype=u.dtype),
        jnp.ones((), u.dtype),
        outside,
        jnp.int32(status.OK),
    )
    end, steps = loops.bounded_while(unfinished, advance, start, max_steps=max_steps)
    residual = jnp.max(jnp.abs(end.slope))
    known = end.value < jnp.inf
    code = end.bits | status.flag(outside, status.OUT_OF_RANGE)
    code = code | status.flag(known & end.stuck, status.STAGNATED)
    code = code | status.flag(~outside & ~end.stuck & ~(known & (residual <= tol)), status.MAX_STEPS)
    code = code | status.flag(known & jnp.any(jnp.abs(end.u - u) > jnp.log(_FAR)), FAR_OFF)
    value = tree.where(known, unravel(jnp.exp(end.u)), params)
    return FitResult(value, -end.value, jnp.where(known, residual, jnp.inf), steps, code)


def _bfgs(inverse, move, change):
    """The inverse Hessian after a move that changed the slope; unchanged where the curvature is not positive."""
    curvature = precision.vdot(move, change)
    convex = curvature > jnp.finfo(move.dtype).eps * jnp.vdot(change, change)
    rho = 1 / jnp.where(convex, curvature, 1)
    left = jnp.eye(move.size, dtype=move.dtype) - rho * jnp.outer(move, change)
    updated = precision.einsum("ij,jk,kl->il", left, inverse, left.T)
    return jnp.where(convex, updated + rho * jnp.outer(move, move), inverse)


__all__ = ["FAR_OFF", "FitResult", "fit"]
