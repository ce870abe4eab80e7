r"""Resampling until a verifier accepts: what more attempts gain, and where they hurt, if the verifier errs.

Tasks of type i (prior $p_i$) are solved with probability $r_i$; a verifier accepts what is right with probability c
(completeness) and rejects what is wrong with probability s (soundness). With $\beta_i = (1 - c) r_i + s (1 - r_i)$, the
probability of a rejection, K attempts end in a right answer with probability
$A(K) = \sum_i p_i \frac{1 - \beta_i^K}{1 - \beta_i}\, c\, r_i$, in a wrong one with probability F(K), the same with
$(1 - s)(1 - r_i)$, and otherwise in none. The reward is $R(K) = A(K) - \mathrm{cost} \cdot F(K)$: after many rejections
the tasks left are hard ones, of which an acceptance is mostly wrong, so R may fall with K.

The published value of attempt k weighs what it gains in the mean over types given k - 1 rejections by
$\sum_i \beta_i^{k-1}\, q_{ik}$ with these posterior probabilities $q_{ik} \propto p_i \beta_i^{k-1}$, where the
probability of getting there, $\sum_i \beta_i^{k-1} p_i$, has the prior ones.

Reference: B. Stroebl, S. Kapoor, A. Narayanan, Inference scaling fLaws: the limits of LLM resampling with imperfect
verifiers, arXiv 2411.17501 (2024).
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core.static import check_size
from jaxsci.core.types import Scalar, Size, as_scalar, float_dtype

_SURVIVALS = ("exact", "published")


class ResamplingLaw(NamedTuple):
    """What up to K attempts come to, for 1 ... K attempts.

    Attributes:
        right: probability that a right answer has been accepted.
        wrong: that a wrong one has.
        reward: expected reward.
        ceiling: share of right ones among the accepted after any number of attempts; of each type.
        best: number of attempts of the highest reward, 0 if all lose.
    """

    right: Float[Array, " K"]
    wrong: Float[Array, " K"]
    reward: Float[Array, " K"]
    ceiling: Float[Array, " types"]
    best: Int[Array, ""]


def resampling_law(
    success: Float[ArrayLike, " types"] | Sequence[float],
    prior: Float[ArrayLike, " types"] | Sequence[float],
    num_attempts: Size,
    *,
    completeness: Scalar = 1.0,
    soundness: Scalar,
    cost: Scalar = 0.0,
    survival: str = "exact",
) -> ResamplingLaw:
    """Answers accepted by an imperfect verifier within K attempts, in closed form.

    Args:
        success: r_i in [0, 1], probability of a right attempt at a task of type i; traced, as all below.
        prior: p_i, shares of the types; they sum to 1.
        num_attempts: K, static.
        completeness: c, probability that the verifier accepts a right answer.
        soundness: s, probability that it rejects a wrong one.
        cost: of a wrong answer, in units of a right one.
        survival: "exact", or "published": the reward as it was printed; static.

    Returns:
        A `ResamplingLaw`. Differentiable in all probabilities and the cost.

    Raises:
        ValueError: vectors of different lengths, an unknown `survival`, or `num_attempts` below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.smc import decoding
        >>> law = decoding.resampling_law([0.87, 0.13], [0.58, 0.42], 10, soundness=0.75, cost=1.0)
        >>> print([round(float(reward), 4) for reward in law.reward[:3]], int(law.best))
        [0.449, 0.4724, 0.4614] 2

    References: B. Stroebl, S. Kapoor, A. Narayanan, arXiv 2411.17501 (2024), section 4.
    """
    name = "decoding.resampling_law"
    dtype = float_dtype(success, prior, completeness, soundness, cost)
    success, prior = jnp.asarray(success, dtype), jnp.asarray(prior, dtype)
    if success.ndim != 1 or success.shape != prior.shape or success.size == 0:
        raise ValueError(
            f"{name}: success and prior must be vectors of one length >= 1, got shapes {success.shape} and "
            f"{prior.shape}; use jax.vmap over more axes"
        )
    if survival not in _SURVIVALS:
        raise ValueError(f"{name}: survival must be one of {', '.join(_SURVIVALS)}, got {survival!r}")
    scalars = {"completeness": completeness, "soundness": soundness, "cost": cost}
    scalars = [as_scalar(value, name, argument, dtype) for argument, value in scalars.items()]
    return _law(success, prior, *scalars, check_size(name, "num_attempts", num_attempts), survival)


@eqx.filter_jit
def _law(success, prior, completeness, soundness, cost, num_attempts, survival):
    accepted, mistaken = completeness * success, (1 - soundness) * (1 - success)
    beta = (1 - completeness) * success + soundness * (1 - success)
    reached = jnp.concatenate(
        [jnp.ones((1, beta.size), beta.dtype), jnp.broadcast_to(beta, (num_attempts - 1, beta.size))]
    )
    reached = jnp.cumprod(reached, axis=0)  # beta^(k - 1); a power has no gradient at 0
    right, wrong = (jnp.cumsum(reached @ (prior * gain)) for gain in (accepted, mistaken))
    reward = right - cost * wrong
    if survival == "published":
        joint = reached * prior[None]
        total = jnp.sum(joint, axis=1, keepdims=True)
        posterior = joint / jnp.where(total > 0, total, 1)
        gain = posterior @ (accepted - cost * mistaken)
        reward = jnp.cumsum(gain * jnp.sum(reached * posterior, axis=1))
    both = accepted + mistaken
    ceiling = jnp.where(both > 0, accepted / jnp.where(both > 0, both, 1), 0)
    best = jnp.where(jnp.max(reward) < 0, 0, jnp.argmax(reward) + 1).astype(jnp.int32)
    return ResamplingLaw(right, wrong, reward, ceiling, best)


__all__ = ["ResamplingLaw", "resampling_law"]
