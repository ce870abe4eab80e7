r"""Gradient temporal differences: descent on $\tfrac12 m^\top\mathcal{A}m$, $m(\theta) = E\sum_k\xi_k\delta_k$, online.

Two time scales. The auxiliary vector u follows m (CGTD, $\mathcal{A} = I$) or, with
$C = E\sum\xi\xi^\top\Delta$, $C^{-1}m$ (CGTD2, CTDC); the parameters descend along
$\partial_\theta\delta_k(\xi_k\cdot u)$ with the u of before the step: the new one would correlate with
$\partial_\theta\delta_k$ and bias the limit. The minimum is the root of CTD, also when
there are more test functions than unknowns.

Reference: Jia and Zhou 2022, JMLR 23(154), section 4.2; R. S. Sutton et al., "Fast Gradient-Descent Methods for
Temporal-Difference Learning with Linear Function Approximation", 2009.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxsci.control.martingale._condition import Condition, Unknowns, as_unknowns, residual
from jaxsci.control.martingale._method import Clock, Method, Result, as_rate, clock, rate_at, tick, trouble
from jaxsci.core import entry, status
from jaxsci.core.static import bind


class GTDState(NamedTuple):
    """What gradient temporal differences carry from step to step.

    Attributes:
        unknowns: parameters, and the average reward of an ergodic condition.
        auxiliary: vector u, one entry for each test function.
        clock: time, steps and status so far.
    """

    unknowns: Unknowns
    auxiliary: Float[Array, " m"]
    clock: Clock


def cgtd(cond: Condition, *, learning_rate, auxiliary_rate, num_tests: int | None = None) -> Method:
    r"""CGTD(0): $u\leftarrow u+\alpha_u(\xi\delta-u\Delta)$, $\theta\leftarrow\theta-\alpha\partial\delta(\xi\cdot u)$.

    Online it has a bias of O(alpha_u), since u correlates with the state: prefer `cgtd2`, or let alpha_u fall.

    Args:
        cond: from `condition`.
        learning_rate, auxiliary_rate: alpha and alpha_u, numbers or functions of the elapsed time; traced.
        num_tests: number of the user's own test functions, static; one for each parameter by default.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> method = control.martingale.cgtd(condition, learning_rate=0.1, auxiliary_rate=0.05)
        >>> path = control.exact.ornstein_uhlenbeck(jax.random.key(0), num_steps=50, dt=0.1)
        >>> steps = control.transitions(path._replace(rs=path.xs[:-1]))
        >>> result = control.martingale.run(method, jnp.zeros(2), steps)
        >>> print(result.value.shape, int(result.status))
        (2,) 0
    """
    return _method("cgtd", cond, learning_rate, auxiliary_rate, num_tests)


def cgtd2(cond: Condition, *, learning_rate, auxiliary_rate, num_tests: int | None = None) -> Method:
    r"""CGTD2: $u \leftarrow u + \alpha_u(\xi\delta - \xi(\xi\cdot u)\Delta)$; the rest as in `cgtd`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> method = control.martingale.cgtd2(condition, learning_rate=0.1, auxiliary_rate=0.05)
        >>> path = control.exact.ornstein_uhlenbeck(jax.random.key(0), num_steps=50, dt=0.1)
        >>> steps = control.transitions(path._replace(rs=path.xs[:-1]))
        >>> result = control.martingale.run(method, jnp.zeros(2), steps)
        >>> print(result.value.shape, int(result.status))
        (2,) 0
    """
    return _method("cgtd2", cond, learning_rate, auxiliary_rate, num_tests)


def ctdc(cond: Condition, *, learning_rate, auxiliary_rate) -> Method:
    r"""CTDC: u as in `cgtd2`, $\theta\leftarrow\theta + \alpha[\xi\delta - (\partial\delta + \xi)(\xi\cdot u)\Delta]$.

    Temporal differences with a gradient correction: the same limit as `cgtd2`. In the mean its step is that of `cgtd2`
    times dt, so the learning rate that gives equal progress is larger by 1 / dt.

    Args:
        cond: from `condition`; test functions of the user's must be as many as unknowns.
        learning_rate, auxiliary_rate: as in `cgtd`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> method = control.martingale.ctdc(condition, learning_rate=0.1, auxiliary_rate=0.05)
        >>> path = control.exact.ornstein_uhlenbeck(jax.random.key(0), num_steps=50, dt=0.1)
        >>> steps = control.transitions(path._replace(rs=path.xs[:-1]))
        >>> result = control.martingale.run(method, jnp.zeros(2), steps)
        >>> print(result.value.shape, int(result.status))
        (2,) 0
    """
    return _method("ctdc", cond, learning_rate, auxiliary_rate, None)


def _method(kind: str, cond, learning_rate, auxiliary_rate, num_tests) -> Method:
    rates = as_rate(learning_rate, kind, "learning_rate"), as_rate(auxiliary_rate, kind, "auxiliary_rate")
    return Method(
        Partial(bind(_init, num_tests=num_tests), cond),
        Partial(bind(_update, kind=kind), cond, *rates),
        Partial(_finish),
    )


def _init(cond, params, *, num_tests):
    unknowns = as_unknowns(cond, params)
    flat = ravel_pytree(unknowns)[0]
    size = flat.size if num_tests is None else num_tests + cond.average
    return GTDState(unknowns, jnp.zeros(size, flat.dtype), clock(flat.dtype))


def _update(cond, rate, auxiliary_rate, state: GTDState, step, *, kind: str):
    here = residual(cond, state.unknowns, step)
    flat, unravel = ravel_pytree(state.unknowns)
    u = state.auxiliary
    if here.test.shape != u.shape or (kind == "ctdc" and u.shape != flat.shape):
        raise ValueError(f"{kind}: expected {u.size} test functions for {flat.size} unknowns, got {here.test.size}")
    along = jnp.sum(here.test * u)
    pull = u if kind == "cgtd" else here.test * along
    elapsed = state.clock.elapsed
    new_u = u + rate_at(auxiliary_rate, elapsed) * (here.test * here.delta - pull * step.dt)
    if kind == "ctdc":
        way = here.test * here.delta - (here.slope + here.test) * (along * step.dt)
    else:
        way = -here.slope * along
    new = flat + rate_at(rate, elapsed) * way
    code = trouble(step, cond, new, new_u)
    good = code == status.OK
    return GTDState(unravel(jnp.where(good, new, flat)), jnp.where(good, new_u, u), tick(state.clock, step.dt, code))


def _finish(state: GTDState) -> Result:
    unknowns, now = state.unknowns, state.clock
    return Result(unknowns.params, state, None, now.status, unknowns.average, now.steps)


__all__ = ["GTDState", "cgtd", "cgtd2", "ctdc"]

entry.hold(globals(), "_finish", "_init", "_update")
