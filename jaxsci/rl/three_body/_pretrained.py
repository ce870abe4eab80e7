"""A learnt policy that ships with the package: of what it sees nothing belongs to one integrator."""

import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsci.core import arrays
from jaxsci.rl import dqn
from jaxsci.rl.three_body._env import STEP_PARAMETERS, Config, config

_FILE, _KIND = pathlib.Path(__file__).parent / "policy.npz", "rl.three_body policy"
_NAMES = tuple(f"{kind}_{i}" for i in range(3) for kind in ("kernel", "bias"))
_WIDTHS = (128, 128)


class Pretrained(NamedTuple):
    """A policy and the environment it plays in.

    Attributes:
        config: what `rollout` and `start` take.
        policy: ``policy(key, observation) -> action``.
    """

    config: Config
    policy: Partial


def pretrained(**options: Any) -> Pretrained:
    """The policy of the benchmark "three_body: DQN, training seed 0: mean return, seeds 0-9": its last parameters.

    It was trained with Hermite's integrator and sees distances and speeds of the pairs, the energy error and the clock,
    none of which belong to an integrator, so that it can be carried to another one without training: benchmark
    "three_body: carried to runge_kutta, variable steps: mean return, seeds 0-9" and the rows beside it, which say where
    that holds: with variable steps of fourth order, not with second order, not with fixed steps.

    Args:
        options: of `config` but `observation` and `clock`; six step parameters, those of
            ``STEP_PARAMETERS[4:]`` unless given.

    Raises:
        ValueError: other than six step parameters, or what `config` refuses.
        TypeError: an observation or a clock.

    Example:
        >>> import jax
        >>> from jaxsci.rl import three_body
        >>> cfg, policy = three_body.pretrained(integrator="yoshida", allow_float32=True)
        >>> state = three_body.start(cfg, three_body.published_start(0))
        >>> episode = three_body.rollout(jax.random.key(0), cfg, policy, state, num_steps=3)
        >>> int(episode.status), episode.action.shape
        (0, (3,))
    """
    for name in ("observation", "clock"):
        if name in options:
            raise TypeError(f"three_body.pretrained: {name} is part of the policy and cannot be given")
    cfg = config(**{"step_parameters": STEP_PARAMETERS[4:], **options}, observation="pairs", clock=True)
    if cfg.num_actions != 6:
        raise ValueError(f"three_body.pretrained: expected six step_parameters, got {cfg.num_actions}")
    found = arrays.load(_FILE, kind=_KIND, names=_NAMES, caller="three_body.pretrained")
    net = dqn.network(cfg.num_features, cfg.num_actions, hidden=_WIDTHS, dtype="float32")
    return Pretrained(cfg, dqn.greedy(net, {name: jnp.asarray(found[name]) for name in _NAMES}))


__all__ = ["Pretrained", "pretrained"]
