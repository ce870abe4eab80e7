r"""Probabilities of arms from their scores: the rules by which randomised policies play.

Each rule takes one score per arm (a cumulative or a predicted loss, so small is good), a rate $\eta$ that says how
strongly the scores count, and a mask. It returns probabilities that sum to 1 over the arms that may be played and are 0
elsewhere. Adding a constant to all scores changes nothing.

- `exponential`: $p_i \propto e^{-\eta L_i}$, mixed with the uniform distribution (EXP3 and its variants).
- `tsallis`: $p_i = 4/(\eta(L_i - x))^2$ with the normaliser x (Tsallis-INF).
- `inverse_gap`: $p_i = 1/(K + \eta(\hat y_i - \min\hat y))$, the rest on the minimum (SquareCB, ChebCB).

References: Auer, Cesa-Bianchi, Freund and Schapire 2002, The nonstochastic multiarmed bandit problem; Zimmert and
Seldin 2021, Tsallis-INF (JMLR 22:28), section 3; Foster and Rakhlin 2020, Beyond UCB, algorithm 1.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from jaxsci.core import entry
from jaxsci.core.policies import allowed_arms
from jaxsci.core.types import as_real, float_dtype

# Newton steps of `tsallis`. From its start, 12 reach rounding error for 512 arms, whatever the losses and dtype.
_NEWTON_STEPS = 15


def exponential(
    losses: Real[Array, " K"],
    eta: Float[ArrayLike, ""],
    mask: Bool[Array, " K"] | None = None,
    *,
    mixing: Float[ArrayLike, ""] = 0.0,
) -> Float[Array, " K"]:
    r"""$p = (1 - \gamma)\,\mathrm{softmax}(-\eta L) + \gamma/K$ over the arms that may be played; the others get 0.

    Args:
        losses: cumulative losses, any finite values; only differences matter.
        eta: learning rate >= 0.
        mask: arms that may be played, all by default.
        mixing: $\gamma$ in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> print(bandits.probabilities.exponential(jnp.array([0.0, 1.0, 1.0]), 1.0).round(2))
        [0.58 0.21 0.21]
    """
    dtype = float_dtype(losses, eta, mixing)
    losses, eta, mixing = (as_real(v, dtype) for v in (losses, eta, mixing))
    return _exponential(losses, eta, mixing, allowed_arms(mask, losses.shape[0]))


@eqx.filter_jit
def _exponential(losses, eta, mixing, allowed):
    # The least loss is subtracted before the rate multiplies: products of large numbers would lose their digits.
    gaps = jnp.where(allowed, losses - jnp.min(jnp.where(allowed, losses, jnp.inf)), 0)
    weights = jnp.where(allowed, jnp.exp(-eta * gaps), 0)
    total, num_allowed = jnp.sum(weights), jnp.maximum(jnp.sum(allowed), 1).astype(losses.dtype)
    return (1 - mixing) * weights / jnp.where(total > 0, total, 1) + mixing * allowed / num_allowed


def tsallis(
    losses: Real[Array, " K"], eta: Float[ArrayLike, ""], mask: Bool[Array, " K"] | None = None
) -> Float[Array, " K"]:
    r"""$p_i = 4/(\eta(L_i - x))^2$ with the x that makes the probabilities sum to 1; masked arms get 0.

    Newton's method for x starts at $x_0 = \min L - 2/\eta$, where the sum is at least 1. The sum is convex and
    increasing in x, so the iterates fall monotonically onto the root and never meet the pole at $\min L$.

    Args:
        losses: cumulative losses, any finite values; only differences matter.
        eta: learning rate > 0.
        mask: arms that may be played, all by default.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> print(bandits.probabilities.tsallis(jnp.array([0.0, 1.0, 1.0]), 1.0).sum().round(4))
        1.0
    """
    dtype = float_dtype(losses, eta)
    losses = as_real(losses, dtype)
    return _tsallis(losses, as_real(eta, dtype), allowed_arms(mask, losses.shape[0]))


@jax.jit
def _tsallis(losses, eta, allowed):
    least = jnp.min(jnp.where(allowed, losses, jnp.inf))
    gaps = jnp.where(allowed, losses - least, jnp.inf)

    def newton(_, x):
        w = 4 / (eta * (gaps - x)) ** 2
        return x - (jnp.sum(w) - 1) / (eta * jnp.sum(w * jnp.sqrt(w)))

    x = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, -2 / eta)
    p = 4 / (eta * (gaps - x)) ** 2
    p = jnp.where(allowed, p, 0)
    total = jnp.sum(p)
    return jnp.where(total > 0, p / jnp.where(total > 0, total, 1), 0)


def inverse_gap(
    scores: Float[Array, " K"], eta: Float[ArrayLike, ""], mask: Bool[Array, " K"] | None = None
) -> Float[Array, " K"]:
    r"""$p_i = 1/(K + \eta(\hat y_i - \min\hat y))$, the rest on the minimum; K counts the arms that may be played.

    Args:
        scores: predicted losses, any finite values; only differences matter.
        eta: how strongly a gap counts, >= 0; 0 is uniform.
        mask: arms that may be played, all by default.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> print(bandits.probabilities.inverse_gap(jnp.array([0.0, 1.0]), 2.0).round(2))
        [0.75 0.25]
    """
    float_dtype(scores, eta)  # refuses complex numbers
    allowed = allowed_arms(mask, scores.shape[0])
    scores = jnp.where(allowed, scores, jnp.inf)
    best = jnp.argmin(scores)
    gaps = jnp.where(allowed, scores - jnp.min(scores), 0)
    p = jnp.where(allowed, 1 / (jnp.maximum(jnp.sum(allowed), 1) + eta * gaps), 0)
    others = jnp.sum(p.at[best].set(0))
    return p.at[best].set(jnp.maximum(1 - others, 0) * jnp.any(allowed)).astype(scores.dtype)


__all__ = ["exponential", "inverse_gap", "tsallis"]

entry.guard(globals())
