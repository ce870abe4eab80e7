"""Networks for action values, and the greedy policy of one: `rl.dqn.run` shows them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from jaxsci.core import entry
from jaxsci.core.static import bind
from jaxsci.nn import mlp


class Network(NamedTuple):
    """The action values as two pure functions.

    Attributes:
        init: ``init(key) -> params``.
        apply: ``apply(params, observation) -> values``, one for every action.
    """

    init: Callable[..., PyTree]
    apply: Callable[..., Float[Array, " num_actions"]]


def network(
    num_in: int,
    num_actions: int,
    *,
    hidden: Sequence[int] = (64, 64),
    repeats: int = 1,
    dueling: bool = False,
    activation: str = "relu",
    dtype: Any = None,
) -> Network:
    r"""A perceptron for the action values of a vector observation.

    Args:
        num_in: entries of the observation (static).
        num_actions: entries of the output (static).
        hidden: widths (static).
        repeats: apply the last hidden layer so many times with the same weights (static); ``hidden=(200, 200),
            repeats=9`` is the network of the three-body paper. The parameters are those of a plain perceptron with
            that layer once: tying is how the kernel is used, not another module.
        dueling: $Q = V + A - \bar A$ from one output more (static).
        activation: of `nn.mlp` (static).
        dtype: of the parameters, and so of all that is learnt (static).

    Raises:
        ValueError: repeats below 1, or above 1 with a last hidden layer that is not square.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.rl import dqn
        >>> network = dqn.network(2, 3, hidden=(4,))
        >>> print(network.apply(network.init(jax.random.key(0)), jnp.ones(2)).shape)
        (3,)

    References: Z. Wang et al. 2016, Dueling network architectures, equation 9.
    """
    if repeats < 1 or (repeats > 1 and (len(hidden) < 2 or hidden[-1] != hidden[-2])):
        raise ValueError(
            f"dqn.network: repeats must be >= 1, and above 1 the last two hidden widths must be equal, got {repeats} "
            f"and hidden {tuple(hidden)}"
        )
    cfg = mlp.config(num_in, tuple(hidden), num_actions + dueling, activation=activation)
    tied = mlp.config(num_in, (*hidden, *hidden[-1:] * (repeats - 1)), num_actions + dueling, activation=activation)
    return Network(
        Partial(bind(_init_network, cfg=cfg, dtype=dtype)),
        Partial(bind(_apply_network, cfg=tied, last=len(hidden) - 1, repeats=repeats, dueling=dueling)),
    )


def _init_network(key, *, cfg, dtype):
    return mlp.init(key, cfg, dtype=dtype)


def _apply_network(params, observation, *, cfg, last, repeats, dueling):
    def untied(i):
        return i if i <= last else max(last, i - repeats + 1)

    layers = range(len(cfg.hidden) + 1)
    weights = {f"{kind}_{i}": params[f"{kind}_{untied(i)}"] for i in layers for kind in ("kernel", "bias")}
    out = mlp.apply(weights, cfg, jnp.asarray(observation).astype(params["kernel_0"].dtype))
    if not dueling:
        return out
    advantage = out[:-1]
    return out[-1:] + advantage - jnp.mean(advantage, keepdims=True)


def greedy(network: Network, params: PyTree) -> Partial:
    """The policy ``(key, observation) -> action`` that takes the action of largest value; the key is not used.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.rl import dqn
        >>> network = dqn.network(2, 3, hidden=())
        >>> policy = dqn.greedy(network, network.init(jax.random.key(0)))
        >>> print(0 <= int(policy(jax.random.key(1), jnp.ones(2))) < 3)
        True
    """
    return Partial(_greedy, network.apply, params)


def _greedy(apply, params, key, observation):
    return jnp.argmax(apply(params, observation)).astype(jnp.int32)


__all__ = ["Network", "greedy", "network"]

entry.hold(globals(), "_apply_network", "_greedy", "_init_network")
