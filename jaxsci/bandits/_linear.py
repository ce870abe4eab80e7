r"""LinUCB and linear Thompson sampling: losses that are linear in features, explored where the fit is uncertain.

With the ridge fit $\hat\theta = A^{-1}b$ of every arm (disjoint) or of all arms together (shared),

$$\text{LinUCB: } \arg\min_a \hat\theta_a^\top\phi_a - \alpha\sqrt{\phi_a^\top A_a^{-1}\phi_a}, \qquad
\text{LinTS: } \arg\min_a \tilde\theta_a^\top\phi_a, \quad \tilde\theta \sim N(\hat\theta, \alpha^2 A^{-1}).$$

References: Li, Chu, Langford, Schapire 2010, A contextual-bandit approach to personalized news article
recommendation, algorithm 1; Agrawal and Goyal 2013, Thompson sampling for contextual bandits with linear payoffs.
"""

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike

from jaxsci.bandits._ridge import Regressor, learns, ridge
from jaxsci.core import entry
from jaxsci.core.keys import as_typed_key
from jaxsci.core.policies import as_select, choose_least
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind
from jaxsci.core.types import Size, as_float, float_dtype


def lin_ucb(
    num_arms: Size, num_features: Size, *, alpha: ArrayLike = 1.0, random_ties: bool = False, **options
) -> Policy:
    r"""LinUCB: plays the arm of least optimistic loss, $\hat\theta_a^\top\phi - \alpha\sqrt{\phi^\top A_a^{-1}\phi}$.

    Args:
        num_arms: K, static.
        num_features: d, static.
        alpha: width of the confidence bound, >= 0, traced.
        random_ties: draw among arms of equal bound, as all are at the start, instead of the lowest index; static.
        options: further arguments of `ridge`: regularization (traced), shared (static). With
            ``shared=True`` there is one $\theta$ for all arms and the context is Float[K, d]; else Float[d].

    Losses have any range. The fit starts from the prediction 0. If losses are positive, an unknown arm thus looks
    better than the known ones and is explored; if they are negative (minus a reward), exploration is left to `alpha`.
    A loss or a context that is not finite teaches nothing. The choice is deterministic but for ties, so log_prob is 0
    or that of the draw among them; importance weights cannot be taken from it. `discounted` applies;
    `wrappers.scaled` brings features of different sizes to one.

    Raises:
        ValueError: a size below 1; a context of another shape, when it is used.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.lin_ucb(3, 2, alpha=0.5)
        >>> state = policy.init(jax.random.key(0))
        >>> context = jnp.array([1.0, 0.2])
        >>> decision = policy.select(jax.random.key(1), state, context)
        >>> state = policy.update(state, decision, 0.8, context)
        >>> int(decision.action), int(policy.select(jax.random.key(2), state, context).action)
        (0, 1)

    References: Li et al. 2010, algorithm 1 (disjoint); Chu, Li, Reyzin, Schapire 2011 (shared).
    """
    alpha = as_float(alpha)
    regressor = ridge(num_arms, num_features, **options)
    select = as_select(Partial(bind(_select_optimistic, random_ties=bool(random_ties)), regressor, alpha))
    return Policy(regressor.init, select, learns(regressor), regressor.status)


def lin_ts(num_arms: Size, num_features: Size, *, alpha: ArrayLike = 1.0, **options) -> Policy:
    r"""Linear Thompson sampling: draws $\tilde\theta \sim N(\hat\theta, \alpha^2 A^{-1})$ and plays its best arm.

    Shared parameters are drawn through the Cholesky factor of A. If every arm has its own parameters, only their
    product with $\phi$ matters; that is drawn directly, with the same law and without a factorisation.

    Args:
        num_arms, num_features, options: as in `lin_ucb`.
        alpha: spread of the draw, >= 0, traced.

    The probability of the arm has no closed form: log_prob is 0, and importance weights cannot be taken from it.

    Raises:
        ValueError: a size below 1; a context of another shape, when it is used.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.lin_ts(3, 2)
        >>> decision = policy.select(jax.random.key(1), policy.init(jax.random.key(0)), jnp.ones(2))
        >>> print(0 <= int(decision.action) < 3)
        True

    References: Agrawal and Goyal 2013, algorithm 1.
    """
    alpha = as_float(alpha)
    regressor = ridge(num_arms, num_features, **options)
    select = as_select(Partial(_select_sampled, regressor, alpha))
    return Policy(regressor.init, select, learns(regressor), regressor.status)


def _select_optimistic(regressor: Regressor, alpha, key, state, context, mask, *, random_ties) -> Decision:
    predicted = regressor.predict(state, context)
    width = jnp.sqrt(regressor.leverage(state, context))
    bound = predicted - alpha.astype(predicted.dtype) * width
    return choose_least(bound, mask, key=key if random_ties else None)


def _select_sampled(regressor: Regressor, alpha, key, state, context, mask) -> Decision:
    key = as_typed_key(key, "select")
    return choose_least(regressor.sample(key, state, context, alpha.astype(float_dtype(state))), mask)


__all__ = ["lin_ts", "lin_ucb"]

entry.hold(globals(), "_select_optimistic", "_select_sampled")
