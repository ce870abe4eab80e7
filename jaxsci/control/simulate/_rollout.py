"""Adaptive Runge-Kutta (diffrax) for deterministic problems, sampled where steps end.

Reference: C. Tsitouras 2011, Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption,
Computers & Mathematics with Applications 62.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

from jaxsci.control.problems import ODE
from jaxsci.control.simulate._path import Path, num_intervals, rewarded, shaped
from jaxsci.core import extras, status, tree
from jaxsci.core.types import Scalar, as_real, float_dtype


def rollout(
    problem: ODE,
    policy: Callable | None,
    x0: Float[ArrayLike, "*d"],
    *,
    times: Float[ArrayLike, " num_times"],
    rtol: Scalar = 1e-6,
    atol: Scalar = 1e-9,
    max_steps: int = 16_384,
) -> Path:
    """Follow a deterministic problem to a tolerance; every sample time is the end of a step of the integrator.

    Interpolated samples would be of lower order than the integrator (Tsit5, order 5), so its steps are cut at `times`.

    Args:
        problem: from `control.ode`.
        policy: ``policy(key, t, x) -> u``, called with the key None at every stage; None for no control.
        x0: initial state, traced.
        times: K + 1 ascending sample times, traced.
        rtol, atol: tolerances of the adaptive steps, traced. float32 wants rtol of 1e-5 or more.
        max_steps: cap on the integrator's steps, static.

    Returns:
        A `Path` with reward rates at the left ends. Status bits: non-finite input, cap reached, non-finite result, out
        of range (times that do not ascend, a negative discount); the path then stands still at the last good sample.
        A reward or a control that is not finite is reported as a non-finite result and stays where it is.

    Raises:
        ValueError: `times` is not a vector of at least two, or a function gives the wrong shape.
        ImportError: diffrax is missing (extra "ode").

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import control
        >>> problem = control.ode(lambda t, x, u, args: -x)
        >>> path = control.rollout(problem, None, 1.0, times=jnp.array([0.0, 0.5, 1.0]), rtol=1e-5)
        >>> print(path.xs.round(2), int(path.status))
        [1.   0.61 0.37] 0

    References: Tsitouras 2011, Runge-Kutta pairs of order 5(4).
    """
    dtype = float_dtype(x0)
    num_intervals(times, "rollout")
    x0, times, rtol, atol = (as_real(a, dtype) for a in (x0, times, rtol, atol))
    return _rollout(problem, policy, x0, times, rtol, atol, max_steps)


@eqx.filter_jit
def _rollout(problem, policy, x0, times, rtol, atol, max_steps: int):
    dfx = extras.require("diffrax", "ode", "control.rollout")
    unsorted = ~jnp.all(jnp.diff(times) > 0) | ~(problem.discount >= 0)
    bad = ~tree.all_finite((x0, times))
    code = status.flag(bad, status.NONFINITE_INPUT) | status.flag(~bad & unsorted, status.OUT_OF_RANGE)
    # The integrator must not see them: run it on something harmless and report.
    x0 = tree.where(bad, tree.zeros_like(x0), x0)
    times = jnp.where(code != status.OK, jnp.arange(times.shape[0], dtype=times.dtype), times)

    def field(t, x, _):
        u = None if policy is None else policy(None, t, x)
        return shaped(problem.drift(t, x, u, problem.args), x.shape, x.dtype, "drift")

    solution = dfx.diffeqsolve(
        dfx.ODETerm(field),
        dfx.Tsit5(),
        times[0],
        times[-1],
        None,
        x0,
        saveat=dfx.SaveAt(ts=times),
        stepsize_controller=dfx.ClipStepSizeController(dfx.PIDController(rtol=rtol, atol=atol), step_ts=times),
        max_steps=max_steps,
        throw=False,
    )
    capped = solution.result == dfx.RESULTS.max_steps_reached
    failed = solution.result != dfx.RESULTS.successful
    code = code | status.flag(capped, status.MAX_STEPS) | status.flag(failed & ~capped, status.NONFINITE_RESULT)
    good = jnp.isfinite(solution.ys.reshape(times.shape[0], -1)).all(1)
    code = code | status.flag(~good.all() & ~failed, status.NONFINITE_RESULT)
    # Samples after a failure are infinite: repeat the last good one.
    last = jnp.maximum(jnp.sum(jnp.cumprod(good)) - 1, 0)
    index = jnp.where(code & ~(status.MAX_STEPS | status.NONFINITE_RESULT) != 0, 0, last)
    index = jnp.minimum(jnp.arange(times.shape[0]), index)
    ts, xs = times[index], jnp.where(good[0], solution.ys[index], x0)
    us = None if policy is None else jax.vmap(lambda t, x: policy(None, t, x))(ts[:-1], xs[:-1])
    dts = jnp.diff(ts)
    us = jax.tree.map(lambda u: jnp.where((dts != 0).reshape(-1, *(1 for _ in u.shape[1:])), u, 0), us)
    code = code | status.flag(~tree.all_finite(us), status.NONFINITE_RESULT)
    return rewarded(problem, Path(ts, xs, us, jnp.zeros_like(ts[1:]), dts, code))
