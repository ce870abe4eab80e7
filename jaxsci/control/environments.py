r"""Two gymnax environments as control problems in continuous time, with any step and sub-steps.

Both are mechanical systems $\dot q = v$, $\dot v = a(q, v, u)$ with a reward *rate* r, advanced by semi-implicit Euler,
$v' = v + a h$, $q' = q + v' h$, clipped as in gymnax. A step of length dt in n sub-steps of h = dt/n returns the reward
$\sum_i e^{-\beta i h} r_i h$ and the discount $e^{-\beta dt}$, so that values do not depend on dt.

Reference: R. T. Lange, gymnax: a JAX-based reinforcement learning environment library, 2022.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from jaxsci.control.problems import ODE, ode
from jaxsci.core import extras, keys, status, tree
from jaxsci.core.types import KeyArray, float_dtype


class Environment(NamedTuple):
    """A deterministic problem with its walls; the state is (q, v)."""

    problem: ODE
    """Drift and reward rate between the walls; `args` holds gymnax's parameters by name."""
    clip: Callable
    """``clip(x, args) -> x``: what gymnax does to speed and position after a step."""
    reset: Callable
    """``reset(key) -> x``: gymnax's initial law."""
    observe: Callable
    """``observe(x) -> observation``, as in gymnax."""
    terminated: Callable
    """``terminated(x, args) -> Bool``."""
    bonus: Float[Array, ""]
    """Reward, not a rate, that the step into a terminal state earns."""


class Step(NamedTuple):
    """What one step of an environment returns."""

    x: Float[Array, "2"]
    reward: Float[Array, ""]
    """Discounted integral of the reward rate over the step, and the bonus."""
    discount: Float[Array, ""]
    """exp(-beta dt), 0 when terminated: what the value of x is multiplied by."""
    terminated: Bool[Array, ""]
    status: Int[Array, ""]


class Rollout(NamedTuple):
    """An episode of K steps; after termination the state stands still and earns nothing."""

    xs: Float[Array, "K+1 2"]
    us: PyTree
    rewards: Float[Array, " K"]
    value: Float[Array, ""]
    """Discounted return."""
    terminated: Bool[Array, ""]
    status: Int[Array, ""]


def pendulum(params: Any = None, *, discount: ArrayLike = 0.0) -> Environment:
    r"""gymnax's Pendulum-v1: $\ddot\theta = \frac{3g}{2l}\sin\theta + \frac{3}{ml^2}u$.

    The reward rate is $-(\theta^2 + 0.1\dot\theta^2 + 0.001u^2)$ with theta in [-pi, pi); gymnax hands out the rate
    itself, whatever its dt, so its reward at dt is this one divided by dt. Torque and speed are clipped.

    Args:
        params: gymnax's ``EnvParams`` of Pendulum-v1, its defaults when None (needs gymnax); its fields are traced.
        discount: rate beta per second, traced.

    Raises:
        ImportError: gymnax is missing (extra "rl") and `params` is None.
    """
    names = ("max_speed", "max_torque", "g", "m", "l")
    problem = ode(_pendulum_drift, _pendulum_reward, args=_named(params, "Pendulum-v1", names), discount=discount)
    return Environment(
        problem,
        Partial(_pendulum_clip),
        Partial(_pendulum_reset),
        Partial(_pendulum_observe),
        Partial(_never),
        jnp.zeros(()),
    )


def mountain_car(params: Any = None, *, discount: ArrayLike = 0.0) -> Environment:
    r"""gymnax's MountainCarContinuous-v0 in continuous time: $\dot v = 0.0015u - 0.0025\cos 3x$; its step is dt = 1.

    The reward rate is -0.1 u^2 with u clipped, and 100 once at the goal. Two differences from gymnax, on purpose: the
    speed is set to 0 when the car hits the left wall (gymnax does so at the goal instead), and the control that is
    paid for is the one that acts (gymnax charges for the part that it clips away).

    Args:
        params: gymnax's ``EnvParams`` of MountainCarContinuous-v0, its defaults when None (needs gymnax).
        discount: rate beta per unit of time, traced.

    Raises:
        ImportError: gymnax is missing (extra "rl") and `params` is None.
    """
    names = (
        *("min_action", "max_action", "min_position", "max_position", "max_speed"),
        *("goal_position", "goal_velocity", "power", "gravity"),
    )
    args = _named(params, "MountainCarContinuous-v0", names)
    return Environment(
        ode(_car_drift, _car_reward, args=args, discount=discount),
        Partial(_car_clip),
        Partial(_car_reset),
        Partial(_identity),
        Partial(_car_terminated),
        jnp.full((), 100.0),
    )


def step(
    env: Environment,
    x: Float[ArrayLike, "2"],
    u: ArrayLike,
    *,
    dt: ArrayLike,
    num_substeps: int = 1,
    t: ArrayLike = 0.0,
) -> Step:
    """One step of length dt under a constant control, in sub-steps.

    Args:
        env: from `pendulum` or `mountain_car`.
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
        >>> env = control.environments.pendulum(discount=0.1)
        >>> out = control.environments.step(env, jnp.array([1.0, 0.0]), 0.5, dt=0.05)
        >>> [round(float(v), 3) for v in out.x], round(float(out.discount), 4)
        ([1.035, 0.706], 0.995)
    """
    if num_substeps < 1:
        raise ValueError(f"environments.step: num_substeps must be >= 1, got {num_substeps}")
    dtype = float_dtype(x)
    x, u, dt, t = (jnp.asarray(a, dtype) for a in (x, u, dt, t))
    if x.shape != (2,) or u.shape != ():
        raise ValueError(
            f"environments.step: expected x of shape (2,) and u of shape (), got {x.shape} and {u.shape}; use jax.vmap"
        )
    return _step(env, x, u, dt, t, num_substeps)


@eqx.filter_jit
def _step(env, x, u, dt, t, num_substeps: int):
    dtype = x.dtype
    problem = env.problem._replace(**_cast((env.problem.args, env.problem.discount), dtype))
    h = dt / num_substeps

    def body(carry, i):
        x, reward, over = carry
        since = i.astype(dtype) * h
        rate = jnp.asarray(problem.reward(t + since, x, u, problem.args), dtype)
        velocity = x[1] + jnp.asarray(problem.drift(t + since, x, u, problem.args), dtype)[1] * h
        velocity = env.clip(jnp.stack([x[0], velocity]), problem.args)[1]
        new = env.clip(jnp.stack([x[0] + velocity * h, velocity]), problem.args)
        weight = jnp.exp(-problem.discount * since)
        arrived = env.terminated(new, problem.args)
        earned = weight * rate * h + jnp.where(arrived, weight * env.bonus.astype(dtype), 0)
        # Once terminated, the rest of the step changes nothing.
        return (jnp.where(over, x, new), reward + jnp.where(over, 0, earned), over | arrived), None

    start = (x, jnp.zeros((), dtype), jnp.asarray(env.terminated(x, problem.args)))
    (new, reward, over), _ = jax.lax.scan(body, start, jnp.arange(num_substeps))
    code = status.flag(~(dt >= 0) | ~(problem.discount >= 0), status.OUT_OF_RANGE)
    code = code | status.flag(~tree.all_finite((new, reward)), status.NONFINITE_RESULT)
    lost = code != status.OK
    discount = jnp.where(over, 0, jnp.exp(-problem.discount * dt))
    return Step(
        jnp.where(lost, x, new), jnp.where(lost, 0, reward), jnp.where(lost, 0, discount), ~lost & over, code
    )


def rollout(
    key: KeyArray,
    env: Environment,
    policy: Callable,
    x0: Float[ArrayLike, "2"] | None = None,
    *,
    num_steps: int,
    dt: ArrayLike,
    num_substeps: int = 1,
) -> Rollout:
    """Play one episode of K steps.

    Args:
        key: typed key; step k gives the policy ``fold_in(key, k)``.
        env: see `step`.
        policy: ``policy(key, t, x) -> u``, held over each step.
        x0: start, drawn from gymnax's law when None.
        num_steps, num_substeps: static.
        dt: traced.

    Returns:
        A `Rollout`; its value is invariant under dt to the order of the integrator, 1.
    """
    if num_steps < 0 or num_substeps < 1:
        raise ValueError(
            f"environments.rollout: num_steps must be >= 0 and num_substeps >= 1, got {num_steps} and {num_substeps}"
        )
    dtype = float_dtype(*([] if x0 is None else [x0]), *([dt] if x0 is None else []))
    x0 = None if x0 is None else jnp.asarray(x0, dtype)
    key = keys.as_typed_key(key, "environments.rollout")
    return _rollout(key, env, policy, x0, jnp.asarray(dt, dtype), num_steps, num_substeps)


@eqx.filter_jit
def _rollout(key, env, policy, x0, dt, num_steps: int, num_substeps: int):
    dtype = dt.dtype
    x0 = jnp.asarray(env.reset(jax.random.fold_in(key, 0xFFFF_FFFF)), dtype) if x0 is None else x0

    def body(carry, k):
        x, weight, over, code = carry
        t = k.astype(dtype) * dt
        u = jnp.asarray(policy(jax.random.fold_in(key, k), t, x), dtype)
        out = step(env, x, u, dt=dt, num_substeps=num_substeps, t=t)
        over = over | out.terminated
        code = code | out.status
        x = out.x
        return (x, weight * out.discount, over, code), (x, u, out.reward, weight * out.reward)

    bad = ~tree.all_finite(x0)
    x0 = tree.where(bad, tree.zeros_like(x0), x0)
    start = (x0, jnp.ones((), dtype), jnp.asarray(False), status.flag(bad, status.NONFINITE_INPUT))
    (_, _, over, code), (xs, us, rewards, weighted) = jax.lax.scan(body, start, jnp.arange(num_steps, dtype=jnp.int32))
    return Rollout(jnp.concatenate([x0[None], xs]), us, rewards, jnp.sum(weighted), over, code)


def _named(params, name: str, fields) -> dict[str, Array]:
    """The fields of gymnax's parameters that the equations need, as arrays by name."""
    if params is None:
        params = extras.require("gymnax", "rl", f"environments ({name})").make(name)[1]
    missing = [field for field in fields if not hasattr(params, field)]
    if missing:
        raise TypeError(f"environments: params must be gymnax's EnvParams of {name}, got one without {missing}")
    return {field: jnp.asarray(getattr(params, field), float) for field in fields}


def _cast(pair, dtype):
    args, discount = jax.tree.map(lambda a: a.astype(dtype), pair)
    return {"args": args, "discount": discount}


def _pendulum_drift(t, x, u, p):
    torque = jnp.clip(u, -p["max_torque"], p["max_torque"])
    pull = 3 * p["g"] / (2 * p["l"]) * jnp.sin(x[0]) + 3 / (p["m"] * p["l"] ** 2) * torque
    return jnp.stack([x[1], pull])


def _pendulum_reward(t, x, u, p):
    torque = jnp.clip(u, -p["max_torque"], p["max_torque"])
    angle = (x[0] + jnp.pi) % (2 * jnp.pi) - jnp.pi
    return -(angle**2 + 0.1 * x[1] ** 2 + 0.001 * torque**2)


def _pendulum_clip(x, p):
    return jnp.stack([x[0], jnp.clip(x[1], -p["max_speed"], p["max_speed"])])


def _pendulum_reset(key):
    high = jnp.array([jnp.pi, 1.0])
    return jax.random.uniform(key, (2,), minval=-high, maxval=high)


def _pendulum_observe(x):
    return jnp.stack([jnp.cos(x[0]), jnp.sin(x[0]), x[1]])


def _car_drift(t, x, u, p):
    force = jnp.clip(u, p["min_action"], p["max_action"])
    return jnp.stack([x[1], force * p["power"] - jnp.cos(3 * x[0]) * p["gravity"]])


def _car_reward(t, x, u, p):
    return -0.1 * jnp.clip(u, p["min_action"], p["max_action"]) ** 2


def _car_clip(x, p):
    speed = jnp.clip(x[1], -p["max_speed"], p["max_speed"])
    position = jnp.clip(x[0], p["min_position"], p["max_position"])
    return jnp.stack([position, jnp.where((x[0] <= p["min_position"]) & (speed < 0), 0, speed)])


def _car_terminated(x, p):
    return (x[0] >= p["goal_position"]) & (x[1] >= p["goal_velocity"])


def _car_reset(key):
    return jnp.stack([jax.random.uniform(key, (), minval=-0.6, maxval=-0.4), jnp.zeros(())])


def _never(x, p):
    return jnp.asarray(False)


def _identity(x):
    return x


__all__ = ["Environment", "Rollout", "Step", "mountain_car", "pendulum", "rollout", "step"]
