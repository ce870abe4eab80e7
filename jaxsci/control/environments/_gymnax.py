r"""Two gymnax environments in continuous time: $\dot q = v$, $\dot v = a(q, v, u)$ with a reward rate and walls.

Reference: R. T. Lange, gymnax: a JAX-based reinforcement learning environment library, 2022.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from jaxsci.control.environments._walled import WalledProblem
from jaxsci.control.problems import ode
from jaxsci.core import entry, extras
from jaxsci.core.types import Scalar


def pendulum(params: Any = None, *, discount: Scalar = 0.0) -> WalledProblem:
    r"""gymnax's Pendulum-v1: $\ddot\theta = \frac{3g}{2l}\sin\theta + \frac{3}{ml^2}u$.

    The reward rate is $-(\theta^2 + 0.1\dot\theta^2 + 0.001u^2)$ with theta in [-pi, pi); gymnax hands out the rate
    itself, whatever its dt, so its reward at dt is this one divided by dt. Torque and speed are clipped.

    Args:
        params: gymnax's ``EnvParams`` of Pendulum-v1, its defaults when None (needs gymnax); its fields are traced.
        discount: rate beta per second, traced.

    Raises:
        ImportError: gymnax is missing (extra "envs") and `params` is None.

    Example:
        >>> import jax.numpy as jnp
        >>> from types import SimpleNamespace
        >>> from jaxsci.control import environments
        >>> params = SimpleNamespace(max_speed=8.0, max_torque=2.0, g=10.0, m=1.0, l=1.0)
        >>> walled = environments.pendulum(params)
        >>> print(environments.step(walled, jnp.array([0.1, 0.0]), 0.0, dt=0.05).x.round(3))
        [0.104 0.075]
    """
    names = ("max_speed", "max_torque", "g", "m", "l")
    problem = ode(_pendulum_drift, _pendulum_reward, args=_named(params, "Pendulum-v1", names), discount=discount)
    return WalledProblem(
        problem,
        Partial(_pendulum_clip),
        Partial(_pendulum_reset),
        Partial(_pendulum_observe),
        Partial(_never),
        jnp.zeros(()),
    )


def mountain_car(params: Any = None, *, discount: Scalar = 0.0) -> WalledProblem:
    r"""gymnax's MountainCarContinuous-v0 in continuous time: $\dot v = 0.0015u - 0.0025\cos 3x$; its step is dt = 1.

    The reward rate is -0.1 u^2 with u clipped, and 100 once at the goal. Two differences from gymnax, on purpose: the
    speed is set to 0 when the car hits the left wall (gymnax does so at the goal instead), and only the clipped control
    is paid for (gymnax charges for the whole control, of which it clips a part away).

    Args:
        params: gymnax's ``EnvParams`` of MountainCarContinuous-v0, its defaults when None (needs gymnax).
        discount: rate beta per unit of time, traced.

    Raises:
        ImportError: gymnax is missing (extra "envs") and `params` is None.

    Example:
        >>> import jax.numpy as jnp
        >>> from types import SimpleNamespace
        >>> from jaxsci.control import environments
        >>> names = "min_action max_action min_position max_position max_speed goal_position goal_velocity "
        >>> names += "power gravity"
        >>> numbers = (-1.0, 1.0, -1.2, 0.6, 0.07, 0.45, 0.0, 0.0015, 0.0025)
        >>> walled = environments.mountain_car(SimpleNamespace(**dict(zip(names.split(), numbers))))
        >>> print(environments.step(walled, jnp.array([-0.5, 0.0]), 1.0, dt=1.0).x.round(4))
        [-0.4987  0.0013]
    """
    names = (
        *("min_action", "max_action", "min_position", "max_position", "max_speed"),
        *("goal_position", "goal_velocity", "power", "gravity"),
    )
    args = _named(params, "MountainCarContinuous-v0", names)
    return WalledProblem(
        ode(_car_drift, _car_reward, args=args, discount=discount),
        Partial(_car_clip),
        Partial(_car_reset),
        Partial(_identity),
        Partial(_car_terminated),
        jnp.full((), 100.0),
    )


def _named(params, name: str, fields) -> dict[str, Array]:
    """The fields of gymnax's parameters that the equations need, as arrays by name."""
    if params is None:
        params = extras.require("gymnax", "envs", f"environments ({name})").make(name)[1]
    missing = [field for field in fields if not hasattr(params, field)]
    if missing:
        raise TypeError(f"environments: params must be gymnax's EnvParams of {name}, got one without {missing}")
    return {field: jnp.asarray(getattr(params, field), float) for field in fields}


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


__all__ = ["mountain_car", "pendulum"]

entry.hold(
    globals(),
    "_car_clip",
    "_car_drift",
    "_car_reset",
    "_car_reward",
    "_car_terminated",
    "_pendulum_clip",
    "_pendulum_drift",
    "_pendulum_observe",
    "_pendulum_reset",
    "_pendulum_reward",
)
