r"""Continuous-time temporal differences: CTD(0) and CTD(lambda), online.

$\theta \leftarrow \theta + \alpha\,\xi_k\delta_k$ with $\xi_k = \partial_\theta J_k$ for CTD(0), and for CTD($\lambda$)
the trace $\xi_k = (\lambda e^{-\beta})^{\Delta_k}\xi_{k-1} + \partial_\theta J_k\,s$, $s = \Delta_k$ or 1.

Nothing is divided by dt: per unit of time the parameters drift by O(alpha) with noise of variance O(alpha^2), so one
learning rate serves all dt.

Reference: Jia and Zhou 2022, JMLR 23(154), section 4.2.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxsci.control.martingale._condition import (
    Condition,
    Unknowns,
    as_unknowns,
    checked_scale,
    kept,
    residual,
    scaled,
)
from jaxsci.control.martingale._method import Clock, Method, Result, as_rate, clock, rate_at, tick, trouble
from jaxsci.core import entry, status
from jaxsci.core.static import bind
from jaxsci.core.types import Scalar, as_float


class TDState(NamedTuple):
    """What temporal differences carry from step to step.

    Attributes:
        unknowns: parameters, and the average reward of an ergodic condition.
        trace: eligibility trace; None for CTD(0).
        clock: time, steps and status so far.
    """

    unknowns: Unknowns
    trace: Float[Array, " m"] | None
    clock: Clock


def ctd(
    cond: Condition,
    *,
    learning_rate,
    trace_decay: Scalar | None = None,
    trace_scale: str = "dt",
) -> Method:
    r"""CTD(0), or CTD(lambda) with a trace.

    Args:
        cond: from `condition`. With test functions of the user's, as many as unknowns.
        learning_rate: alpha, a number or a function of the elapsed time; traced.
        trace_decay: lambda in [0, 1] per unit of time, traced; None for CTD(0). With lambda = 1 the limit is that of
            the martingale loss. As lambda -> 0 with the scale "dt" the steps become those of CTD(0) times dt.
        trace_scale: "dt" adds the test times dt to the trace (the integral of the theory), "unit" the test itself
            (discrete TD(lambda) with decay lambda^dt); static.

    Raises:
        ValueError: an unknown `trace_scale`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> method = control.martingale.ctd(condition, learning_rate=lambda t: 0.2 / (1 + t))
        >>> path = control.exact.ornstein_uhlenbeck(jax.random.key(0), num_steps=50, dt=0.1)
        >>> steps = control.transitions(path._replace(rs=path.xs[:-1]))
        >>> result = control.martingale.run(method, jnp.zeros(2), steps)
        >>> print(result.value.shape, int(result.status))
        (2,) 0

    References: Jia and Zhou 2022, section 4.2, algorithms of CTD(0) and CTD(lambda).
    """
    checked_scale("ctd", trace_scale)
    rate = as_rate(learning_rate, "ctd", "learning_rate")
    decay = None if trace_decay is None else as_float(trace_decay)
    return Method(
        Partial(_init, cond, decay),
        Partial(bind(_update, trace_scale=trace_scale), cond, rate, decay),
        Partial(_finish),
    )


def decayed(cond: Condition, decay, trace, here, step, trace_scale: str):
    """The trace one step on."""
    left = jnp.where(step.first, 0, kept(cond, decay, step.dt))
    return left * trace + here.test * scaled(step.dt, trace_scale)


def out_of_range(decay):
    """Status of a trace decay."""
    return jnp.int32(0) if decay is None else status.flag(~((decay >= 0) & (decay <= 1)), status.OUT_OF_RANGE)


def _init(cond, decay, params):
    unknowns = as_unknowns(cond, params)
    flat = ravel_pytree(unknowns)[0]
    return TDState(unknowns, None if decay is None else jnp.zeros_like(flat), clock(flat.dtype))


def _update(cond, rate, decay, state: TDState, step, *, trace_scale: str):
    here = residual(cond, state.unknowns, step)
    flat, unravel = ravel_pytree(state.unknowns)
    if here.test.shape != flat.shape:
        raise ValueError(
            f"ctd: expected one test function for each of the {flat.size} unknowns, got {here.test.size}; "
            "cgtd takes more of them"
        )
    trace = None if decay is None else decayed(cond, decay, state.trace, here, step, trace_scale)
    alpha = rate_at(rate, state.clock.elapsed)
    new = flat + alpha * here.delta * (here.test if trace is None else trace)
    code = trouble(step, cond, new) | out_of_range(decay)
    good = code == status.OK
    new = jnp.where(good, new, flat)
    if trace is not None:  # a bad step is skipped, but it still begins an episode
        trace = jnp.where(good, trace, jnp.where(step.first, 0, state.trace))
    return TDState(unravel(new), trace, tick(state.clock, step.dt, code))


def _finish(state: TDState) -> Result:
    unknowns, now = state.unknowns, state.clock
    return Result(unknowns.params, state, None, now.status, unknowns.average, now.steps)


__all__ = ["TDState", "ctd"]

entry.hold(globals(), "_finish", "_init", "_update")
