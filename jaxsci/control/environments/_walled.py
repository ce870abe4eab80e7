r"""Mechanical systems with walls in continuous time, advanced by steps of any length with sub-steps.

$\dot q = v$, $\dot v = a(q, v, u)$ with a reward *rate* r, by semi-implicit Euler, $v' = v + a h$, $q' = q + v' h$,
clipped at the walls. A step of length dt in n sub-steps of h = dt/n returns the reward $\sum_i e^{-\beta i h} r_i h$
and the discount $e^{-\beta dt}$, so that values do not depend on dt.

Reference: E. Hairer, C. Lubich, G. Wanner, Geometric Numerical Integration, 2006, section I.1.2 (symplectic Euler).
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from jaxsci.control.problems import ODE
from jaxsci.core import keys, status, tree
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray, Scalar, as_real, float_dtype


class WalledProblem(NamedTuple):
    """A deterministic problem in continuous time with its walls; the state is (q, v).

    It has no step of its own: `step` and `rollout` take one of any length, `discrete` fixes it.

    Attributes:
        problem: drift and reward rate between the walls; its `args` hold gymnax's parameters by name.
        clip: ``clip(x, args) -> x``: what gymnax does to speed and position after a step.
        reset: ``reset(key) -> x``: gymnax's initial law.
        observe: ``observe(x) -> observation``, as in gymnax.
        terminated: ``terminated(x, args) -> Bool``.
        bonus: reward, not a rate, that the step into a terminal state earns.
    """

    problem: ODE
    clip: Callable
    reset: Callable
    observe: Callable
    terminated: Callable
    bonus: Float[Array, ""]


class Step(NamedTuple):
    """What one step of a `WalledProblem` returns.

    Attributes:
        x: the state reached.
        reward: discounted integral of the reward rate over the step, plus the bonus when the step terminates.
        discount: what the value of x is multiplied by: exp(-beta dt), 0 when terminated.
        terminated: whether x is terminal.
        status: NONFINITE_RESULT, OUT_OF_RANGE (dt or the discount rate is negative); x is then kept; 0 = ok.
    """

    x: Float[Array, "2"]
    reward: Float[Array, ""]
    discount: Float[Array, ""]
    terminated: Bool[Array, ""]
    status: Int[Array, ""]


class Rollout(NamedTuple):
    """An episode of K steps; after termination the state stands still and earns nothing.

    Attributes:
        xs: states (q, v).
        us: controls, one held over each step.
        rewards: what each step earns, discounted to the start of that step.
        value: return of the episode, discounted to its start.
        terminated: whether the episode ended in a terminal state.
        status: bitwise or over the steps.
    """

    xs: Float[Array, "K+1 2"]
    us: PyTree
    rewards: Float[Array, " K"]
    value: Float[Array, ""]
    terminated: Bool[Array, ""]
    status: Int[Array, ""]


def step(
    walled: WalledProblem,
    x: Float[ArrayLike, "2"],
    u: Scalar,
    *,
    dt: Scalar,
    num_substeps: int = 1,
    t: Scalar = 0.0,
) -> Step:
    """One step of length dt under a constant control, in sub-steps.

    Args:
        walled: from `pendulum` or `mountain_car`.
        x: state (q, v), traced.
        u: control, scalar, clipped to what the environment allows, traced.
        dt: length of the step, traced. Pendulum with 0.05 and mountain car with 1 are gymnax's steps.
        num_substeps: static.
        t: time at the start, traced; neither environment depends on it.

    Returns:
        A `Step`. Status bits: non-finite result, out of range (dt < 0, or a negative discount rate); x is then kept.

    Raises:
        ValueError: `num_substeps` below 1, or shapes other than (2,) and ().

    Differentiable between the clips.

    Example:
        >>> from jaxsci import control
        >>> walled = control.environments.pendulum(discount=0.1)
        >>> out = control.environments.step(walled, jnp.array([1.0, 0.0]), 0.5, dt=0.05)
        >>> [round(float(v), 3) for v in out.x], round(float(out.discount), 4)
        ([1.035, 0.706], 0.995)
    """
    check_kind("step", walled)
    num_substeps = check_size("environments.step", "num_substeps", num_substeps)
    dtype = float_dtype(x)
    x, u, dt, t = (as_real(a, dtype) for a in (x, u, dt, t))
    if x.shape != (2,) or u.shape != ():
        raise ValueError(
            f"environments.step: expected x of shape (2,) and u of shape (), got {x.shape} and {u.shape}; use jax.vmap"
        )
    return _step(walled, x, u, dt, t, num_substeps)


@eqx.filter_jit
def _step(walled, x, u, dt, t, num_substeps: int):
    dtype = x.dtype
    args, discount = tree.cast((walled.problem.args, walled.problem.discount), dtype)
    problem = walled.problem._replace(args=args, discount=discount)
    h = dt / num_substeps

    def body(carry, i):
        x, reward, over = carry
        since = i.astype(dtype) * h
        rate = jnp.asarray(problem.reward(t + since, x, u, problem.args), dtype)
        velocity = x[1] + jnp.asarray(problem.drift(t + since, x, u, problem.args), dtype)[1] * h
        velocity = walled.clip(jnp.stack([x[0], velocity]), problem.args)[1]
        new = walled.clip(jnp.stack([x[0] + velocity * h, velocity]), problem.args)
        weight = jnp.exp(-problem.discount * since)
        arrived = walled.terminated(new, problem.args)
        earned = weight * rate * h + jnp.where(arrived, weight * walled.bonus.astype(dtype), 0)
        # Once terminated, the rest of the step changes nothing.
        return (jnp.where(over, x, new), reward + jnp.where(over, 0, earned), over | arrived), None

    start = (x, jnp.zeros((), dtype), jnp.asarray(walled.terminated(x, problem.args)))
    (new, reward, over), _ = jax.lax.scan(body, start, jnp.arange(num_substeps))
    code = status.flag(~(dt >= 0) | ~(problem.discount >= 0), status.OUT_OF_RANGE)
    code = code | status.flag(~tree.all_finite((new, reward)), status.NONFINITE_RESULT)
    lost = code != status.OK
    discount = jnp.where(over, 0, jnp.exp(-problem.discount * dt))
    return Step(jnp.where(lost, x, new), jnp.where(lost, 0, reward), jnp.where(lost, 0, discount), ~lost & over, code)


def rollout(
    key: KeyArray,
    walled: WalledProblem,
    policy: Callable,
    x0: Float[ArrayLike, "2"] | None = None,
    *,
    num_steps: int,
    dt: Scalar,
    num_substeps: int = 1,
) -> Rollout:
    """Play one episode of K steps.

    Args:
        key: typed key; step k gives the policy ``fold_in(key, k)``.
        walled: see `step`.
        policy: ``policy(key, t, x) -> u``, held over each step.
        x0: start, drawn from gymnax's law when None.
        num_steps, num_substeps: static.
        dt: traced.

    Returns:
        A `Rollout`; its value is invariant under dt to the order of the integrator, 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from types import SimpleNamespace
        >>> from jaxsci.control import environments
        >>> walled = environments.pendulum(SimpleNamespace(max_speed=8.0, max_torque=2.0, g=10.0, m=1.0, l=1.0))
        >>> episode = environments.rollout(
        ...     jax.random.key(0), walled, lambda key, t, x: -x[1], jnp.array([0.5, 0.0]), num_steps=20, dt=0.05)
        >>> print(episode.xs.shape, int(episode.status))
        (21, 2) 0
    """
    check_kind("rollout", walled)
    num_steps = check_size("environments.rollout", "num_steps", num_steps, least=0)
    num_substeps = check_size("environments.rollout", "num_substeps", num_substeps)
    dtype = float_dtype(*([] if x0 is None else [x0]), *([dt] if x0 is None else []))
    x0 = None if x0 is None else as_real(x0, dtype)
    key = keys.as_typed_key(key, "environments.rollout")
    return _rollout(key, walled, policy, x0, as_real(dt, dtype), num_steps, num_substeps)


@eqx.filter_jit
def _rollout(key, walled, policy, x0, dt, num_steps: int, num_substeps: int):
    dtype = dt.dtype
    x0 = jnp.asarray(walled.reset(jax.random.fold_in(key, 0xFFFF_FFFF)), dtype) if x0 is None else x0

    def body(carry, k):
        x, weight, over, code = carry
        t = k.astype(dtype) * dt
        u = jnp.asarray(policy(jax.random.fold_in(key, k), t, x), dtype)
        out = step(walled, x, u, dt=dt, num_substeps=num_substeps, t=t)
        over = over | out.terminated
        code = code | out.status
        x = out.x
        return (x, weight * out.discount, over, code), (x, u, out.reward, weight * out.reward)

    bad = ~tree.all_finite(x0)
    x0 = tree.where(bad, tree.zeros_like(x0), x0)
    start = (x0, jnp.ones((), dtype), jnp.asarray(False), status.flag(bad, status.NONFINITE_INPUT))
    (_, _, over, code), (xs, us, rewards, weighted) = jax.lax.scan(body, start, jnp.arange(num_steps, dtype=jnp.int32))
    return Rollout(jnp.concatenate([x0[None], xs]), us, rewards, jnp.sum(weighted), over, code)


def check_kind(function: str, walled) -> None:
    """Raise the TypeError that names what was expected if `walled` is another kind of environment."""
    if not isinstance(walled, WalledProblem):
        raise TypeError(
            f"environments.{function}: expected a WalledProblem (from pendulum or mountain_car), which has no step "
            f"length yet, got {type(walled).__name__}; a core.protocols.Environment has a reset and a step of its own"
        )


__all__ = ["Rollout", "Step", "WalledProblem", "check_kind", "rollout", "step"]
