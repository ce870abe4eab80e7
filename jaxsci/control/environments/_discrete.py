r"""A walled problem with a fixed step as a decision process in discrete time, for learners of the room `rl`.

One step earns $\sum_i e^{-\beta i h} r_i h$ and what follows is discounted by $e^{-\beta dt}$, so values tend to those
of the problem in continuous time as dt -> 0.

Reference: C. Tallec, L. Blier, Y. Ollivier 2019, Making Deep Q-learning Methods Robust to Time Discretization.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.control.environments._walled import WalledProblem, check_kind, step
from jaxsci.core import entry, status
from jaxsci.core.protocols import Environment, TimeStep
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Scalar, as_count, as_real, float_dtype


def discrete(
    walled: WalledProblem,
    dt: Scalar,
    *,
    controls: Float[ArrayLike, " num_actions"] | None = None,
    num_steps: Scalar | None = None,
    num_substeps: int = 1,
) -> Environment:
    r"""The decision process of steps of length dt: reward and discount are those of `step`.

    Args:
        walled: from `pendulum` or `mountain_car`.
        dt: length of a step, traced.
        controls: action i holds ``controls[i]`` over the step; traced. With None the action is the control itself.
        num_steps: an episode is truncated after so many steps, traced; never when None.
        num_substeps: static.

    Returns:
        A `core.protocols.Environment`. A step whose status is not 0 keeps the state, earns nothing and terminates.

    Raises:
        TypeError: `walled` is an `Environment` already.
        ValueError: `num_substeps` below 1, or controls that are no vector.

    Example:
        >>> from types import SimpleNamespace
        >>> from jaxsci.control import environments
        >>> params = SimpleNamespace(max_speed=8.0, max_torque=2.0, g=10.0, m=1.0, l=1.0)
        >>> env = environments.discrete(environments.pendulum(params), 0.05, controls=[-2.0, 0.0, 2.0])
        >>> state, first = env.reset(jax.random.key(0))
        >>> state, answer = env.step(jax.random.key(1), state, 2)
        >>> answer.observation.shape, bool(answer.terminated), float(answer.discount)
        ((3,), False, 1.0)
    """
    check_kind("discrete", walled)
    num_substeps = check_size("environments.discrete", "num_substeps", num_substeps)
    dtype = float_dtype(dt, *([] if controls is None else [controls]))
    dt = as_real(dt, dtype)
    controls = None if controls is None else as_real(controls, dtype)
    if controls is not None and controls.ndim != 1:
        raise ValueError(f"environments.discrete: controls must have shape (num_actions,), got {controls.shape}")
    num_steps = None if num_steps is None else as_count(num_steps, "environments.discrete", "num_steps")
    return Environment(
        Partial(_discrete_reset, walled, dt),
        Partial(bind(_discrete_step, num_substeps=num_substeps), walled, dt, controls, num_steps),
    )


class _Place(NamedTuple):
    """State of an episode in discrete time.

    Attributes:
        x: state of the walled problem.
        step: steps done in this episode, int32.
    """

    x: Array
    step: Array


def _discrete_reset(walled, dt, key):
    x = jnp.asarray(walled.reset(key), dt.dtype)
    return _Place(x, jnp.int32(0)), TimeStep(walled.observe(x), reward=jnp.zeros_like(dt), discount=jnp.ones_like(dt))


def _discrete_step(walled, dt, controls, num_steps, key, place, action, *, num_substeps):
    del key  # nothing is drawn
    u = action if controls is None else controls[action]
    out = step(walled, place.x, u, dt=dt, num_substeps=num_substeps, t=place.step.astype(dt.dtype) * dt)
    after = _Place(out.x, place.step + 1)
    terminated = out.terminated | (out.status != status.OK)
    late = jnp.asarray(False) if num_steps is None else after.step >= num_steps
    return after, TimeStep(
        observation=walled.observe(out.x),
        reward=out.reward,
        discount=out.discount,
        terminated=terminated,
        truncated=late & ~terminated,
        status=out.status,
    )


__all__ = ["discrete"]

entry.hold(globals(), "_discrete_reset", "_discrete_step")
