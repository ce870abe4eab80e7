r"""Recorded data: one step of an Euler-Maruyama trajectory under a Gaussian policy, and whole trajectories of them.

$X_{i+1} = X_i + (AX_i + Ba_i)dt + (CX_i + Da_i)\sqrt{dt}\,\xi_i$ with $a_i$ drawn from the policy; the noise of
step i comes from ``fold_in(key, i)``.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsci.control.exploratory._problem import ExploratoryLQ, GaussianPolicy, as_scalars, reward, trouble
from jaxsci.core import status, tree
from jaxsci.core.keys import as_typed_key, per_item, unrolled
from jaxsci.core.protocols import Result
from jaxsci.core.static import check_size
from jaxsci.core.types import Scalar, as_real, float_dtype

# A state or parameter of this size will not come back, and float32 still holds its square. Nor does a policy whose
# standard deviation is that wide or that narrow: nothing that it does moves its parameters any more.
LARGEST = 1e6


class Experience(NamedTuple):
    """What one step taught, or several along a leading axis.

    Attributes:
        state: state x of the system before the step.
        action: action a.
        reward: reward rate at (x, a), per unit of time.
        next_state: state x' after dt.
    """

    state: Float[Array, "*T"]
    action: Float[Array, "*T"]
    reward: Float[Array, "*T"]
    next_state: Float[Array, "*T"]


def move(problem, policy: GaussianPolicy, dt, x, noise) -> Experience:
    """Draw an action and take one Euler-Maruyama step."""
    action = policy.slope * x + policy.intercept + jnp.exp(policy.log_variance / 2) * noise[0]
    drift = problem.A * x + problem.B * action
    diffusion = problem.C * x + problem.D * action
    return Experience(x, action, reward(problem, x, action), x + drift * dt + diffusion * jnp.sqrt(dt) * noise[1])


def normals(key, start, num: int, dtype):
    """Two standard normals for each of the steps start, ..., start + num - 1."""
    return jax.vmap(lambda k: jax.random.normal(unrolled(k), (2,), dtype))(per_item(key, num, start=start))


def simulate(
    key, problem: ExploratoryLQ, policy: GaussianPolicy, *, num_steps: int, dt: Scalar, x0: Scalar = 0.0
) -> Result:
    """Record a trajectory under a fixed Gaussian policy: data for `run_offline`.

    Args:
        key: typed key; step i draws from ``fold_in(key, i)``.
        problem: the system, scalars, traced.
        policy: slope, intercept, log_variance, scalars, traced.
        num_steps: T, static.
        dt: time step > 0, traced.
        x0: start, traced.

    Returns:
        A `core.protocols.Result`. value: `Experience` with leading axis T. state: where the system ended. history:
        None. status: diverged when the state left ±1e6, out of range, non-finite input.

    Raises:
        ValueError: num_steps is negative, or an argument is not a scalar.

    Example:
        >>> import jax
        >>> from jaxsci.control import exploratory
        >>> problem = exploratory.ExploratoryLQ(A=-1., B=0., C=0., D=1., M=2., N=2., R=1., P=1., Q=2., temperature=.1)
        >>> behaviour = exploratory.GaussianPolicy(1., 1., 0.)
        >>> data = exploratory.simulate(jax.random.key(0), problem, behaviour, num_steps=100, dt=.1)
        >>> data.value.reward.shape, int(data.status)
        ((100,), 0)
    """
    function = "exploratory.simulate"
    check_steps(function, num_steps, 1)
    key = as_typed_key(key, function)
    problem, _, dt, x0 = prepare(function, problem, None, dt, x0)
    policy = as_scalars(function, "policy", policy, x0.dtype)
    return _simulate(key, problem, policy, dt, x0, num_steps)


@eqx.filter_jit
def _simulate(key, problem, policy, dt, x0, num_steps: int):
    def one(x, noise):
        transition = move(problem, policy, dt, x, noise)
        return transition.next_state, transition

    end, data = jax.lax.scan(one, x0, normals(key, jnp.int32(0), num_steps, dt.dtype))
    left = ~jnp.all(jnp.abs(data.next_state) <= LARGEST)
    bad = trouble(problem, dt, x0, policy) | status.flag(~(dt > 0), status.OUT_OF_RANGE)
    return Result(data, end, None, bad | status.flag(left, status.DIVERGED))


def check_steps(function: str, num_steps: int, record_every: int) -> None:
    """Raise unless the steps make up whole records; no step at all is allowed."""
    check_size(function, "record_every", record_every)
    if num_steps < 0 or num_steps % record_every:
        raise ValueError(
            f"{function}: num_steps must be >= 0 and a multiple of record_every = {record_every}, got {num_steps}"
        )


def prepare(function: str, problem, learner, *scalars):
    """Problem, learner and scalars as arrays in the dtype of the problem."""
    dtype = float_dtype(problem)
    problem = as_scalars(function, "problem", problem, dtype)
    for value in scalars:
        if jnp.shape(value) != ():
            raise ValueError(f"{function}: dt and x0 must be scalars, got shape {jnp.shape(value)}; use jax.vmap")
    return problem, tree.cast(learner, dtype), *(as_real(value, dtype) for value in scalars)


__all__ = ["LARGEST", "Experience", "check_steps", "move", "normals", "prepare", "simulate"]
