r"""Rewards for a step of adaptive integration: keep the energy error low, and use large steps.

$\epsilon_k$ is the relative energy error after step $k = 1, 2, \dots$, $\mu$ the step parameter used, $W$ the weights,
$l_k = \log_{10}|\epsilon_k|$, $\Delta = l_k - l_{k-1}$, $\beta = W_2/|\log_{10}\mu|$, and n the number of force
evaluations of the step:

=====  =================  =====================================================
index  name               reward
=====  =================  =====================================================
0      squared            $-W_0 (l_k + 8)/(l_k^2 k) - W_1\Delta + \beta$
1      seconds            $-W_0 (l_k + 8) - W_1\Delta + W_2/\log_{10}(n/10^6)$
2      product            $-(W_0 l_k + W_1\Delta)\,\beta$
3      logarithm          $-W_0 l_k + \beta$
4      over_index         $-W_0 (l_k + 8)/k - W_1\Delta + \beta$
5      cubed              $-W_0 (l_k + 10)/(|l_k|^3 k) + \beta$
6      hyperbolic         $-W_0 \tanh(l_k + 10)/k + \beta$
=====  =================  =====================================================

The first step of an episode earns 0 under each. 5 is the one of the published models. 1 had the seconds of wall-clock
time in place of $n/10^6$, which no two runs share. Near $|\epsilon| = 1$ the denominators of 0 and 5 vanish: there
$|l_k|$, $|\log_{10}\mu|$ and $|\log_{10}(n/10^6)|$ count as .1 at least.

Reference: V. Saz Ulibarrena, S. Portegies Zwart, "Reinforcement learning for adaptive time-stepping in the chaotic
gravitational three-body problem", 2025.
"""

import jax.numpy as jnp

NAMES = ("squared", "seconds", "product", "logarithm", "over_index", "cubed", "hyperbolic")
_LEAST = 0.1


def index_of(reward: int | str) -> int:
    """The index of a reward given by index or name; raises the ValueError that lists them."""
    if reward in NAMES:
        return NAMES.index(reward)
    if isinstance(reward, int) and 0 <= reward < len(NAMES):
        return reward
    raise ValueError(f"three_body.config: reward must be 0 to {len(NAMES) - 1} or one of {NAMES}, got {reward!r}")


def reward(index: int, weights, error, previous, parameter, k, evaluations):
    """The reward of step k for the energy errors after it and before it; see the module."""
    dtype = weights.dtype
    k = k.astype(dtype)
    level, change = jnp.log10(jnp.abs(error)), jnp.log10(jnp.abs(error)) - jnp.log10(jnp.abs(previous))
    size = jnp.maximum(jnp.abs(level), _LEAST)
    bonus = weights[2] / jnp.maximum(jnp.abs(jnp.log10(parameter)), _LEAST)
    growth = weights[1] * change
    if index == 0:
        value = -weights[0] * (level + 8) / (size**2 * k) - growth + bonus
    elif index == 1:
        million = jnp.log10(evaluations.astype(dtype) / 1e6)
        million = jnp.where(million < 0, jnp.minimum(million, -_LEAST), jnp.maximum(million, _LEAST))
        value = -weights[0] * (level + 8) - growth + weights[2] / million
    elif index == 2:
        value = -(weights[0] * level + growth) * bonus
    elif index == 3:
        value = -weights[0] * level + bonus
    elif index == 4:
        value = -weights[0] * (level + 8) / k - growth + bonus
    elif index == 5:
        value = -weights[0] * (level + 10) / (size**3 * k) + bonus
    else:
        value = -weights[0] * jnp.tanh(level + 10) / k + bonus
    return jnp.where(k > 1, value, 0)


__all__ = ["NAMES", "index_of", "reward"]
