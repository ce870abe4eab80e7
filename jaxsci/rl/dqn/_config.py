"""Settings of deep Q-learning: sizes and hyper-parameters, the rate of exploration, the optimiser."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import extras
from jaxsci.core.static import check_size
from jaxsci.core.types import as_count, float_dtype


class Config(eqx.Module):
    """Sizes (static) and hyper-parameters (leaves) of the learner. Made by `config`, which says more of each.

    Attributes:
        num_envs: environments that run side by side.
        capacity: rows of the replay buffer.
        batch_size: windows in an update.
        num_updates: updates after every step of the environments.
        num_returns: n of the n-step targets.
        double: whether the online network chooses the next action.
        batch: how the environments step together, "vmap" or "map".
        discount: gamma.
        epsilon_start: probability of a random action at the first transition.
        epsilon_end: its limit.
        epsilon_decay: transitions in which the difference falls to 1/e.
        target_rate: tau.
        huber: where the loss turns from quadratic to linear.
        warm_up: rows in the buffer before the first update.
    """

    num_envs: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    num_updates: int = eqx.field(static=True)
    num_returns: int = eqx.field(static=True)
    double: bool = eqx.field(static=True)
    batch: str = eqx.field(static=True)
    discount: Array
    epsilon_start: Array
    epsilon_end: Array
    epsilon_decay: Array
    target_rate: Array
    huber: Array
    warm_up: Array


def config(
    *,
    num_envs: int = 1,
    capacity: int = 10_000,
    batch_size: int = 128,
    num_updates: int = 1,
    num_returns: int = 1,
    double: bool = True,
    batch: str = "vmap",
    discount: ArrayLike = 0.99,
    epsilon_start: ArrayLike = 0.9,
    epsilon_end: ArrayLike = 0.05,
    epsilon_decay: ArrayLike = 10_000,
    target_rate: ArrayLike = 0.005,
    huber: ArrayLike = 1.0,
    warm_up: ArrayLike | None = None,
) -> Config:
    """A validated configuration.

    Args:
        num_envs: environments that run side by side (static).
        capacity: rows of the replay buffer, each with one transition of every environment (static).
        batch_size: windows in an update (static).
        num_updates: updates after every step of the environments (static).
        num_returns: n of the n-step targets (static). Beyond 1 they are those of the behaviour, uncorrected.
        double: choose the next action by the online network instead of the target network (static).
        batch: how the environments step together (static): "vmap", or "map", one after the other, which is faster
            where the cost of a step depends on the action, since under vmap all wait for the slowest.
        discount: gamma, traced.
        epsilon_start, epsilon_end, epsilon_decay: see `epsilon`; traced.
        target_rate: tau, traced.
        huber: where the loss turns from quadratic to linear, > 0, traced.
        warm_up: rows in the buffer before the first update, from `num_returns` to `capacity`, which limit a traced one;
            100 by default, or the nearest of these two.

    Raises:
        ValueError: a size below 1, more returns than the buffer has rows, an unknown batch; a number, unless it is
            traced, that is not finite or out of its range.

    Example:
        >>> from jaxsci.rl import dqn
        >>> print(dqn.config(num_envs=4, discount=0.9).num_envs)
        4
    """
    sizes = {
        "num_envs": num_envs,
        "capacity": capacity,
        "batch_size": batch_size,
        "num_updates": num_updates,
        "num_returns": num_returns,
    }
    for name, size in sizes.items():
        check_size("dqn.config", name, size)
    if num_returns > capacity:
        raise ValueError(f"dqn.config: num_returns must be <= capacity {capacity}, got {num_returns}")
    if batch not in ("vmap", "map"):
        raise ValueError(f"dqn.config: batch must be 'vmap' or 'map', got {batch!r}")
    floats = (discount, epsilon_start, epsilon_end, epsilon_decay, target_rate, huber)
    dtype = float_dtype(*(a for a in floats if hasattr(a, "dtype")))
    if warm_up is None:
        warm_up = max(num_returns, min(100, capacity))
    checks = {
        "discount": (discount, np.isfinite, "finite"),
        "epsilon_start": (epsilon_start, np.isfinite, "finite"),
        "epsilon_end": (epsilon_end, np.isfinite, "finite"),
        "epsilon_decay": (epsilon_decay, lambda a: np.isfinite(a) & (a > 0), "finite and > 0"),
        "target_rate": (target_rate, np.isfinite, "finite"),
        "huber": (huber, lambda a: a > 0, "> 0"),
        "warm_up": (
            warm_up,
            lambda a: (num_returns <= a) & (a <= capacity),
            f"between num_returns {num_returns} and capacity {capacity}",
        ),
    }
    for name, (value, good, expected) in checks.items():
        if not isinstance(value, jax.core.Tracer) and not np.all(good(np.asarray(value))):
            raise ValueError(f"dqn.config: {name} must be {expected}, got {value}")
    floats = (jnp.asarray(a, dtype) for a in floats)
    return Config(*sizes.values(), double, batch, *floats, as_count(warm_up, "dqn.config", "warm_up"))


def epsilon(cfg: Config, num_transitions: Int[ArrayLike, ""]) -> Float[Array, ""]:
    r"""Probability of a random action, $\epsilon_1 + (\epsilon_0 - \epsilon_1) e^{-n/d}$.

    n counts the transitions of the whole training and never starts again, so the exploration does fade. (The
    published three-body code counts within the episode: there epsilon stays above .82 and the data are all but random.)

    Example:
        >>> from jaxsci.rl import dqn
        >>> cfg = dqn.config(epsilon_start=0.9, epsilon_end=0.1, epsilon_decay=100)
        >>> print(dqn.epsilon(cfg, 0), dqn.epsilon(cfg, 100000).round(2))
        0.9 0.099999994
    """
    fade = jnp.exp(-jnp.asarray(num_transitions, cfg.discount.dtype) / cfg.epsilon_decay)
    return cfg.epsilon_end + (cfg.epsilon_start - cfg.epsilon_end) * fade


def optimizer(
    learning_rate: ArrayLike | Callable[[Any], Any] = 1e-3, *, weight_decay: float = 0.01, clip: float = 100.0
) -> Any:
    """AdamW with AMSGrad behind a clip of every gradient entry to [-clip, clip], as optax's triple.

    Args:
        learning_rate: a number, or a schedule of the update's index (static).
        weight_decay: decoupled from the gradient (static).
        clip: static.

    Raises:
        ImportError: optax is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl import dqn
        >>> optimizer = dqn.optimizer(0.01)
        >>> state = optimizer.init({"w": jnp.zeros(2)})
        >>> updates, state = optimizer.update({"w": jnp.ones(2)}, state, {"w": jnp.zeros(2)})
        >>> print(bool((updates["w"] < 0).all()))
        True
    """
    optax = extras.require("optax", "nets", "dqn.optimizer")
    return optax.chain(
        optax.clip(clip),
        optax.scale_by_amsgrad(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


__all__ = ["Config", "config", "epsilon", "optimizer"]
