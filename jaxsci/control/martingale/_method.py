"""What a method of policy evaluation is, and two drivers: `run` learns from a stream, `fit` from a batch of paths."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.control.martingale._condition import Unknowns
from jaxsci.control.simulate import Path, Transition, transitions
from jaxsci.core import status, tree
from jaxsci.core.static import as_partial
from jaxsci.core.types import as_float, float_dtype


class Method(NamedTuple):
    """A method: pure functions over a state of its own.

    Attributes:
        init: ``init(params) -> state``.
        update: ``update(state, transition) -> state``: one step of a path.
        finish: ``finish(state) -> Result``, at any time.
        absorb: ``absorb(state, transitions) -> state``: a block of steps at once, equal to updates one by one up to
            rounding. Methods that have it keep sums, and the sums of several paths add.
    """

    init: Callable[..., PyTree]
    update: Callable[..., PyTree]
    finish: Callable[..., "Result"]
    absorb: Callable[..., PyTree] | None = None


class Result(NamedTuple):
    """What a method has found.

    Attributes:
        value: parameters of the value family.
        state: the method's state, to go on from; states that are `Sums` of several batches add, by `merge`.
        history: None: the parameters on the way are not kept. To see them, run the stream piece by piece.
        status: bits of all that was learnt from; 0 = ok.
        average: average reward; None unless the condition is ergodic.
        steps: transitions seen, int32, including those of length 0 and those that were skipped.
    """

    value: PyTree
    state: PyTree
    history: None
    status: Int[Array, ""]
    average: Float[Array, ""] | None
    steps: Int[Array, ""]


class Clock(NamedTuple):
    """What has been learnt from so far.

    Attributes:
        elapsed: time, by Kahan's sum, which does not lose small steps in float32.
        lost: rounding error of that sum: elapsed - lost is nearer to the time.
        steps: transitions seen.
        status: bits of all of them; 0 = ok.
    """

    elapsed: Float[Array, ""]
    lost: Float[Array, ""]
    steps: Int[Array, ""]
    status: Int[Array, ""]


class Sums(NamedTuple):
    """What least squares keeps; states of several batches add.

    Attributes:
        unknowns: the first unknowns: their structure, and the answer when the system is singular.
        matrix: sum of the test times the derivative of delta by the unknowns, over all steps.
        vector: sum of the test times delta at zero unknowns: the solution theta makes matrix theta + vector = 0.
        trace: eligibility trace after the last step, for CLSTD(lambda); zero otherwise.
        clock: time, steps and status so far.
    """

    unknowns: Unknowns
    matrix: Float[Array, "m n"]
    vector: Float[Array, " m"]
    trace: Float[Array, " m"]
    clock: Clock


def clock(dtype) -> Clock:
    """The clock at 0."""
    return Clock(jnp.zeros((), dtype), jnp.zeros((), dtype), jnp.int32(0), jnp.int32(0))


def tick(now: Clock, dt, code) -> Clock:
    """One step later; Kahan's sum, since float32 would lose a step of 0.01 after 1e5 units of time."""
    step = jnp.maximum(jnp.where(jnp.isfinite(dt), dt, 0), 0) - now.lost
    elapsed = now.elapsed + step
    return Clock(elapsed, (elapsed - now.elapsed) - step, now.steps + 1, now.status | code)


def trouble(step: Transition, cond, *results) -> Int[Array, ""]:
    """Status of one transition and of what was computed from it."""
    data = (step.t, step.x, step.reward, step.dt, step.t_next, step.x_next)
    bad = ~tree.all_finite(data)
    code = status.flag(bad, status.NONFINITE_INPUT)
    code = code | status.flag(~bad & ~tree.all_finite(results), status.NONFINITE_RESULT)
    # Ergodic means undiscounted: with a discount the average reward and the level of J are one unknown.
    discount = ~(cond.discount >= 0) | (cond.average & (cond.discount > 0))
    return code | status.flag((step.dt < 0) | discount, status.OUT_OF_RANGE)


def as_rate(rate, function: str, argument: str):
    """A learning rate: a number as an array, a schedule as a Partial."""
    if callable(rate):
        return as_partial(rate, function, argument)
    rate = as_float(rate)
    if rate.ndim:
        raise ValueError(f"{function}: {argument} must be a scalar or a function, got shape {rate.shape}; use jax.vmap")
    return rate


def rate_at(rate, elapsed):
    """The rate at a time, in its dtype."""
    return jnp.asarray(rate(elapsed) if callable(rate) else rate).astype(elapsed.dtype)


def run(method: Method, params: PyTree, steps: Transition, *, state: PyTree | None = None) -> Result:
    """Learn from a stream of transitions in one compiled scan.

    Args:
        method: from `ctd`, `cgtd`, `ctdc`, `clstd`, ...; its rates are traced, so a sweep over them is a vmap.
        params: first parameters (numbers or arrays), or `Unknowns`; not read when `state` is given.
        steps: stacked transitions with one leading axis: ``control.transitions(path)``. Episodes may be joined end to
            end: traces start afresh where ``first`` is True. The status of the path is not among them: check it before.
        state: go on from here; the result is then that of one long run.

    Returns:
        A `Result`. A transition that is not finite, or of negative length, is skipped and reported in its status.

    Raises:
        ValueError: shapes that do not fit (the message says which).
        TypeError: `steps` is a `Path`.

    Differentiable in everything that is traced.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> def features(t, x): return jnp.stack([jnp.ones_like(x), x])
        >>> path = control.exact.ornstein_uhlenbeck(jax.random.key(0), num_steps=200, dt=0.05)
        >>> steps = control.transitions(path._replace(rs=path.xs[:-1]))
        >>> condition = control.martingale.condition(control.martingale.linear_value(features), discount=0.5)
        >>> method = control.martingale.ctd(condition, learning_rate=0.1)
        >>> result = control.martingale.run(method, jnp.zeros(2), steps)
        >>> result.value.shape, int(result.steps), int(result.status)
        ((2,), 200, 0)
    """
    if isinstance(steps, Path):
        raise TypeError("run: expected transitions, got a Path; pass control.transitions(path)")
    if jnp.ndim(steps.dt) != 1:
        raise ValueError(
            f"run: steps need one leading axis, got dt of shape {jnp.shape(steps.dt)}; jax.vmap for several streams, "
            "fit for a batch"
        )
    dtype = _dtype(params, steps)
    return _run(method, _as(params, dtype), tree.cast(tree.as_arrays(steps), dtype), state)


@eqx.filter_jit
def _run(method, params, steps, state):
    state = method.init(params) if state is None else state
    if method.absorb is not None:
        state = method.absorb(state, steps)
    else:
        state = jax.lax.scan(lambda state, step: (method.update(state, step), None), state, steps)[0]
    return method.finish(state)


def fit(method: Method, params: PyTree, paths: Path) -> Result:
    """Solve by least squares on a batch of paths: sums over all of them, then one solve.

    Args:
        method: one that keeps sums: `clstd`, `least_squares_ml`, `least_squares_mstde`.
        params: parameters of the family; only their structure and shapes matter.
        paths: a `Path` with one leading axis over the batch.

    Returns:
        A `Result`. States of several batches add: ``martingale.merge``.

    Raises:
        TypeError: the method learns step by step (use `run`, or `losses` with an optimiser).
        ValueError: no batch axis.

    Differentiable in everything that is traced.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> def features(t, x): return jnp.stack([jnp.ones_like(x), x])
        >>> keys = jax.random.split(jax.random.key(0), 64)
        >>> paths = jax.vmap(lambda k: control.exact.ornstein_uhlenbeck(k, num_steps=200, dt=0.05))(keys)
        >>> paths = paths._replace(rs=paths.xs[:, :-1])
        >>> condition = control.martingale.condition(control.martingale.linear_value(features), discount=0.5)
        >>> method = control.martingale.clstd(condition, allow_float32=True)
        >>> result = control.martingale.fit(method, jnp.zeros(2), paths)
        >>> round(float(result.value[1]), 1), int(result.status)  # slope 1 / (discount + rate) = 0.67
        (0.7, 0)
    """
    if method.absorb is None:
        raise TypeError("fit: expected a method that keeps sums, such as clstd; this one learns step by step, use run")
    if jnp.ndim(paths.dts) != 2:
        raise ValueError(f"fit: paths need one leading batch axis, got dts of shape {jnp.shape(paths.dts)}")
    dtype = _dtype(params, paths)
    return _fit(method, _as(params, dtype), tree.cast(tree.as_arrays(paths), dtype))


@eqx.filter_jit
def _fit(method, params, paths):
    states = jax.vmap(lambda path: method.absorb(method.init(params), transitions(path)))(paths)
    state = _merged(states)
    state = state._replace(clock=state.clock._replace(status=state.clock.status | status.reduce(paths.status)))
    return method.finish(state)


def merge(*states: PyTree) -> PyTree:
    """The sums of several batches as one state, from which ``method.finish`` gives the joint result.

    The trace of CLSTD(lambda) starts afresh: batches are different episodes. Sums that are not finite, or overflow
    together, put `status.NONFINITE_RESULT` into the status of the joint clock.

    Raises:
        TypeError: a state that is not made of sums, such as that of `ctd`, or none at all.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> method = control.martingale.clstd(control.martingale.condition(value, discount=0.5), allow_float32=True)
        >>> keys = jax.random.split(jax.random.key(0), (2, 8))
        >>> paths = jax.vmap(jax.vmap(lambda key: control.exact.ornstein_uhlenbeck(key, num_steps=50, dt=0.1)))(keys)
        >>> halves = [jax.tree.map(lambda a: a[i], paths._replace(rs=paths.xs[:, :, :-1])) for i in range(2)]
        >>> states = [control.martingale.fit(method, jnp.zeros(2), half).state for half in halves]
        >>> print(method.finish(control.martingale.merge(*states)).value.shape)
        (2,)
    """
    other = [type(state).__name__ for state in states if not isinstance(state, Sums)]
    if other or not states:
        raise TypeError(f"merge: expected states of least squares (Sums), got {other[0] if other else 'none'}")
    return _merged(jax.tree.map(lambda *a: jnp.stack(a), *states))


@eqx.filter_jit
def _merged(states):
    total = jax.tree.map(lambda a: jnp.sum(a, axis=0, dtype=a.dtype), states)
    finite = tree.all_finite((total.matrix, total.vector, total.clock))
    codes = status.reduce(states.clock.status, axis=0) | status.flag(~finite, status.NONFINITE_RESULT)
    first = jax.tree.map(lambda a: a[0], states.unknowns)
    return total._replace(unknowns=first, trace=jnp.zeros_like(total.trace), clock=total.clock._replace(status=codes))


def _dtype(params, data):
    return float_dtype(params, data.dts if isinstance(data, Path) else data.dt)


def _as(params, dtype):
    """Parameters in `dtype`, whole numbers too: what is learnt is real."""
    return jax.tree.map(lambda a: jnp.asarray(a).astype(dtype), params)


__all__ = ["Clock", "Method", "Result", "Sums", "fit", "merge", "run"]
