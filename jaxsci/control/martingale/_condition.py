r"""The martingale condition: J is the value function iff $dJ + (r - \beta J)\,dt$ has mean zero against every test.

On a grid, with $\phi_k = \partial_\theta J^\theta(t_k, X_k)$ and left-endpoint test functions $\xi_k$,
$$E\sum_k \xi_k\delta_k = 0,\qquad \delta_k = J_{k+1} - J_k + (r_k - V)\Delta_k - \beta J_k\Delta_k,$$
V = 0 unless the problem is ergodic (then beta = 0 and V is the average reward, an unknown with test function 1).
Everything in this folder is this one condition: which tests, and how the equation is solved.

Reference: Y. Jia, X. Y. Zhou, "Policy Evaluation and Temporal-Difference Learning in Continuous Time and Space: A
Martingale Approach", JMLR 23(154), 2022.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.control.martingale._value import Value, weighted
from jaxsci.control.simulate import Path, Transition, transitions
from jaxsci.core import precision
from jaxsci.core.static import as_partial
from jaxsci.core.types import Scalar, as_float, float_dtype

_DISCOUNTINGS = ("additive", "multiplicative")
_SCALES = ("dt", "unit")


class Condition(eqx.Module):
    """What is to hold: a value family, the discount, and the test functions. Made by `condition`.

    Attributes:
        value: the family of value functions J.
        discount: rate beta >= 0 per unit of time; 0 for an ergodic problem.
        test: ``test(t, x) -> Float[m]``; None takes the gradient of J.
        discounting: "additive", -beta J dt, or "multiplicative", exp(-beta dt) on the next value.
        average: whether the problem is ergodic: the average reward V is then an unknown, with test function 1.
        weight_by_discount: whether the tests are weighted by exp(-beta t).
    """

    value: Value
    discount: Float[Array, ""]
    test: Callable | None
    discounting: str = eqx.field(static=True)
    average: bool = eqx.field(static=True)
    weight_by_discount: bool = eqx.field(static=True)


class Unknowns(NamedTuple):
    """What is solved for.

    Attributes:
        params: parameters of the value family.
        average: average reward V; None unless the condition is ergodic.
    """

    params: PyTree
    average: Float[Array, ""] | None = None


class Residual(NamedTuple):
    """The condition at one transition; vectors have the order of ``ravel_pytree(unknowns)``.

    Attributes:
        delta: martingale increment, the temporal-difference error of the step; it is O(sqrt(dt)).
        slope: derivative of delta by the n unknowns.
        test: the m test functions at the left end, by default the gradient of J.
    """

    delta: Float[Array, ""]
    slope: Float[Array, " n"]
    test: Float[Array, " m"]


def condition(
    value: Value,
    *,
    discount: Scalar = 0.0,
    discounting: str = "additive",
    average: bool = False,
    test: Callable | None = None,
    weight_by_discount: bool = False,
) -> Condition:
    r"""State the martingale condition.

    Args:
        value: the family, see `linear_value` and `mlp_value`.
        discount: rate beta >= 0, traced; 0 for an ergodic problem. The status of the methods reports any other.
        discounting: static. "additive" is the continuous form above; "multiplicative" is
            $\delta_k = r_k\Delta_k + e^{-\beta\Delta_k}J_{k+1} - J_k$, discrete TD with gamma = exp(-beta dt). They
            differ by O(dt^(3/2)) a step.
        average: ergodic problem, V is an unknown; static. J is then known up to a constant: a linear family must not
            hold one, or least squares is singular.
        test: test functions ``test(t, x) -> Float[m]``, None for the gradient of J. V has its own, 1.
        weight_by_discount: weigh the tests by exp(-beta t); static.

    Raises:
        ValueError: an unknown `discounting`.
        TypeError: `value` is no `Value`, or `test` cannot be called.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> print(float(control.martingale.condition(value, discount=0.5).discount))
        0.5
    """
    if discounting not in _DISCOUNTINGS:
        raise ValueError(f"condition: discounting must be one of {_DISCOUNTINGS}, got {discounting!r}")
    if not hasattr(value, "apply"):
        raise TypeError(f"condition: value must be a Value, got {type(value).__name__}; see linear_value")
    test = None if test is None else as_partial(test, "condition", "test")
    discount = as_float(discount)
    return Condition(value, discount, test, discounting, bool(average), bool(weight_by_discount))


def as_unknowns(cond: Condition, params: PyTree, dts: ArrayLike = ()) -> Unknowns:
    """Parameters as `Unknowns`, whole numbers as floats; with `average` the first V is 0 unless it is given."""
    if not isinstance(params, Unknowns):
        params = Unknowns(params)
    dtype = float_dtype(params, dts)

    def real_valued(leaf):
        leaf = jnp.asarray(leaf)
        return leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf.astype(dtype)

    params = jax.tree.map(real_valued, params)
    if cond.average == (params.average is not None):
        return params
    if cond.average:
        return params._replace(average=jnp.zeros((), float_dtype(params.params)))
    raise ValueError("martingale: the unknowns hold an average reward but the condition is not ergodic")


def real(data):
    """A `Path` or a `Transition` in one floating dtype: states may be whole numbers, the arithmetic may not."""
    names = ("ts", "xs", "rs", "dts") if isinstance(data, Path) else ("t", "x", "reward", "dt", "t_next", "x_next")
    values = {name: jnp.asarray(getattr(data, name)) for name in names}
    dtype = float_dtype(*(a for name, a in values.items() if name[0] != "t"))
    return data._replace(**{name: a.astype(dtype) for name, a in values.items()})


def time_weight(cond: Condition, t):
    """exp(-beta t) where the condition weighs times, else 1."""
    return jnp.exp(-cond.discount.astype(t.dtype) * t) if cond.weight_by_discount else jnp.ones_like(t)


def kept(cond: Condition, decay, dt):
    r"""What is left of a trace after dt, $(\lambda e^{-\beta})^{dt}$."""
    return jnp.exp(-cond.discount.astype(dt.dtype) * dt) * decay.astype(dt.dtype) ** dt


def scaled(dt, trace_scale: str):
    """What a test counts in a trace: dt, or 1, and nothing on a step of no length."""
    return dt if trace_scale == "dt" else (dt > 0).astype(dt.dtype)


def checked_scale(function: str, trace_scale: str) -> None:
    """Raise on an unknown scale."""
    if trace_scale not in _SCALES:
        raise ValueError(f"{function}: trace_scale must be one of {_SCALES}, got {trace_scale!r}")


def credit(cond: Condition, deltas, dts, decay, trace_scale: str):
    r"""What multiplies the test of step j: $\sum_k\xi_k\delta_k = \sum_j c_j\,\xi^0_j$ with the tests before any trace.

    Without a trace $c_j = \delta_j$; with one, the errors to come, $c_j = s_j D_j$ and
    $D_j = \delta_j + (\lambda e^{-\beta})^{\Delta_{j+1}} D_{j+1}$: scalars backward in place of vectors forward.
    """
    if decay is None:
        return deltas

    def back(later, now):
        delta, dt = now
        here = delta + later
        return kept(cond, decay, dt) * here, here

    _, ahead = jax.lax.scan(back, jnp.zeros((), deltas.dtype), (deltas, dts), reverse=True)
    return scaled(dts, trace_scale) * ahead


def residual(cond: Condition, params: PyTree, transition: Transition) -> Residual:
    r"""The increment $\delta_k$, its slope, and the test function at one transition.

    Args:
        cond: from `condition`.
        params: parameters of the family, or `Unknowns` for an ergodic condition.
        transition: one step of a path.

    For a linear family the rise of J is formed from differences of features, $\theta\cdot(\phi_{k+1} - \phi_k)$, which
    keeps the digits that J_{k+1} - J_k loses in float32 at small steps.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> path = control.exact.brownian(jax.random.key(0), 1.0, num_steps=3, dt=0.5)
        >>> first = jax.tree.map(lambda a: a[0], control.transitions(path))
        >>> found = control.martingale.residual(condition, jnp.array([1.0, 0.0]), first)
        >>> print(float(found.delta), found.test)
        -0.25 [1. 1.]
    """
    return _residual(cond, as_unknowns(cond, params, transition.dt), transition)


@eqx.filter_jit
def _residual(cond: Condition, unknowns: Unknowns, step: Transition) -> Residual:
    step = real(step)
    dtype = step.x.dtype
    level, level_next, rise, slope, slope_next, slope_rise = _jet(cond.value, unknowns.params, step)
    discount = cond.discount.astype(dtype)
    if cond.discounting == "additive":
        delta, slope_delta = rise - discount * step.dt * level, slope_rise - discount * step.dt * slope
    else:
        loss = jnp.expm1(-discount * step.dt)
        delta, slope_delta = rise + loss * level_next, slope_rise + loss * slope_next
    delta = delta + step.reward * step.dt
    test = slope if cond.test is None else jnp.asarray(cond.test(step.t, step.x), dtype)
    if cond.average:
        delta = delta - unknowns.average.astype(dtype) * step.dt
        slope_delta = jnp.append(slope_delta, -step.dt)
        test = jnp.append(test, jnp.ones((), dtype))
    return Residual(delta, slope_delta, time_weight(cond, step.t) * test)


def _jet(value: Value, params, step: Transition):
    """J and its gradient at both ends, and their rises."""
    dtype = step.x.dtype
    if value.features is not None:
        here, there = (_features(value, t, x) for t, x in ((step.t, step.x), (step.t_next, step.x_next)))
        rise, level, level_next = (weighted(params, a) for a in (there - here, here, there))
        if value.fixed is not None:
            fixed, fixed_next = value.fixed(step.t, step.x), value.fixed(step.t_next, step.x_next)
            rise, level, level_next = rise + (fixed_next - fixed), level + fixed, level_next + fixed_next
        return level, level_next, rise, here, there, there - here
    gradient = jax.value_and_grad(value.apply)
    level, here = gradient(params, step.t, step.x)
    level_next, there = gradient(params, step.t_next, step.x_next)
    here, there = (ravel_pytree(g)[0].astype(dtype) for g in (here, there))
    return level, level_next, level_next - level, here, there, there - here


def _features(value: Value, t, x):
    out = jnp.asarray(value.features(t, x), x.dtype)
    if out.ndim != 1:
        raise ValueError(f"martingale: features must return a vector, got shape {out.shape}")
    return out


def moments(
    cond: Condition,
    params: PyTree,
    path: Path,
    *,
    trace_decay: Scalar | None = None,
    trace_scale: str = "dt",
) -> Float[Array, " m"]:
    r"""$\sum_k \xi_k\delta_k$ along one path: the value function makes its mean over paths zero.

    Args:
        cond: from `condition`.
        params: parameters of the family, or `Unknowns`.
        path: one path. Its status is not looked at: check it before.
        trace_decay: lambda in [0, 1] per unit of time, traced: the tests are the traces of CTD(lambda), see `ctd`.
        trace_scale: "dt" or "unit", as in `ctd`; static.

    Raises:
        ValueError: an unknown `trace_scale`.

    Differentiable; nonlinear families are solved by any root finder on the mean of it over a batch.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> path = control.exact.ornstein_uhlenbeck(jax.random.key(0), num_steps=100, dt=0.05)
        >>> print(control.martingale.moments(condition, jnp.zeros(2), path).shape)
        (2,)
    """
    checked_scale("moments", trace_scale)
    decay = None if trace_decay is None else as_float(trace_decay)
    return _moments(cond, as_unknowns(cond, params, path.dts), path, decay, trace_scale)


@eqx.filter_jit
def _moments(cond, unknowns, path, decay, trace_scale: str):
    path = real(path)
    at = jax.vmap(lambda step: _residual(cond, unknowns, step))(transitions(path))
    weights = credit(cond, at.delta, path.dts, decay, trace_scale)
    return precision.einsum("k,km->m", weights, at.test)


__all__ = ["Condition", "Residual", "Unknowns", "Value", "condition", "moments", "residual"]
