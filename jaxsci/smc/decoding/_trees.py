r"""Small trees of tokens, of which every law of decoding is known by enumeration.

Node i of V children has the children V i + 1, ..., V i + V; the root is 0. A path to depth D is a sequence of D tokens.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import ArrayLike, Float

from jaxsci.core import entry
from jaxsci.core.protocols import SequenceModel
from jaxsci.core.types import concrete
from jaxsci.smc.decoding._reward import TARGETS, WEIGHTS, Reward


def tree(
    log_policy: Sequence[Float[ArrayLike, "_ _"]], rewards: Sequence[Float[ArrayLike, " _"]]
) -> tuple[SequenceModel, Reward]:
    """A model and a reward that look up a tree of V tokens and depth D.

    Args:
        log_policy: D arrays, the t-th ``[V^t, V]``: log-probabilities (or logits) of the next token after each prefix
            of t tokens, prefixes numbered as numbers in base V; -inf is a branch that is never drawn. Traced.
        rewards: D arrays, the t-th ``[V^(t + 1)]``: the reward of each prefix of t + 1 tokens. Traced.

    Returns:
        ``(model, reward)`` for sequences of at most D tokens, prompt included.

    Raises:
        ValueError: arrays of other shapes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.smc import decoding
        >>> model, reward = decoding.tree([jnp.zeros((1, 2)), jnp.zeros((2, 2))], [jnp.ones(2), jnp.ones(4)])
        >>> print(model.logits(model.init(jnp.array([1]))))
        [0. 0.]
    """
    log_policy, rewards = [jnp.asarray(a) for a in log_policy], [jnp.asarray(a) for a in rewards]
    _check("decoding.tree", log_policy, rewards)
    table, scores = jnp.concatenate(log_policy), jnp.concatenate(rewards)
    num = table.shape[1]
    model = SequenceModel(Partial(_descend, table), Partial(_row, table), Partial(_child, jnp.int32(num)))
    return model, Reward(Partial(_descend, table), Partial(_child, jnp.int32(num)), Partial(_score, scores))


def _check(name, log_policy, rewards):
    num = log_policy[0].shape[-1] if log_policy and log_policy[0].ndim == 2 else 0
    depth = len(log_policy)
    wanted = [(num**t, num) for t in range(depth)], [(num ** (t + 1),) for t in range(depth)]
    got = [jnp.shape(a) for a in log_policy], [jnp.shape(a) for a in rewards]
    if not num or got != wanted:
        raise ValueError(
            f"{name}: log_policy must hold arrays [V^t, V] and rewards [V^(t + 1)] for t = 0 ... D - 1, got shapes "
            f"{got[0]} and {got[1]}"
        )


def _child(num, node, token):
    return num * node + 1 + token


@jax.jit
def _descend(table, prompt):
    node = jnp.int32(0)
    for i in range(prompt.shape[0]):
        node = _child(table.shape[1], node, prompt[i])
    return node


def _row(table, node):
    return table[jnp.minimum(node, table.shape[0] - 1)]


def _score(scores, node):
    return scores[jnp.clip(node - 1, 0, scores.shape[0] - 1)]


def tree_posterior(
    log_policy: Sequence[Float[ArrayLike, "_ _"]],
    rewards: Sequence[Float[ArrayLike, " _"]],
    *,
    weight: str = "odds",
    target: str = "product",
    reward_temperature: ArrayLike | Sequence[float] = 1.0,
) -> tuple[float, Float[np.ndarray, " leaves"]]:
    r"""The law that decoding of a tree aims at, by enumeration: $\log Z$ and $p(s) w(s) / Z$ of each of its V^D leaves.

    Args:
        log_policy, rewards: as for `tree`, concrete; built in float64.
        weight, target, reward_temperature: as for `particle_filter`.

    Returns:
        ``(log_z, probabilities)``, leaves numbered in base V.

    Raises:
        ValueError: arrays of other shapes, an unknown `weight` or `target`, or no leaf of positive weight.
        TypeError: traced arguments.

    Example:
        >>> import numpy as np
        >>> from jaxsci.smc import decoding
        >>> log_z, law = decoding.tree_posterior([np.log([[0.5, 0.5]])], [np.array([0.3, 0.6])], weight="probability")
        >>> print(round(np.exp(log_z), 4), law.round(4))
        0.45 [0.3333 0.6667]
    """
    name = "decoding.tree_posterior"
    remedy = "the in-graph estimate is particle_filter's"
    log_policy = [np.asarray(concrete(a, name, "log_policy", remedy), np.float64) for a in log_policy]
    rewards = [np.asarray(concrete(a, name, "rewards", remedy), np.float64) for a in rewards]
    _check(name, log_policy, rewards)
    for argument, value, allowed in (("weight", weight, WEIGHTS), ("target", target, TARGETS)):
        if value not in allowed:
            raise ValueError(f"{name}: {argument} must be one of {', '.join(allowed)}, got {value!r}")
    num = log_policy[0].shape[1]
    tau = np.broadcast_to(np.asarray(concrete(reward_temperature, name, "reward_temperature", remedy)), len(rewards))
    total = np.zeros(1)
    with np.errstate(divide="ignore"):
        for t, (logits, reward) in enumerate(zip(log_policy, rewards)):
            largest = logits.max(1, keepdims=True)
            law = logits - largest - np.log(np.exp(logits - largest).sum(1, keepdims=True))
            total = (np.repeat(total, num).reshape(-1, num) + law).reshape(-1)
            log_w = reward if weight == "exponential" else np.log(reward)
            if weight == "odds":
                log_w = log_w - np.log1p(-reward)
            if target == "product" or t == len(rewards) - 1:
                total = total + log_w / tau[t]
            elif target == "last":
                total = np.where(log_w == -np.inf, -np.inf, total)
    largest = total.max()
    if not np.isfinite(largest):
        raise ValueError(f"{name}: some leaf must have a positive and finite weight, the largest is exp({largest})")
    log_z = largest + np.log(np.exp(total - largest).sum())
    return float(log_z), np.exp(total - log_z)


__all__ = ["tree", "tree_posterior"]

entry.hold(globals(), "_child", "_descend", "_row")
