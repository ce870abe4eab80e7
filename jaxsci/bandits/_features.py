r"""Features between a context and a policy: any map, and the block encoding $x \otimes e_a$ of an arm.

Reference: Li, Chu, Langford, Schapire 2010, section 3.2 (disjoint models); Zhou, Li, Gu 2020, Neural contextual
bandits with UCB-based exploration, section 7 (the encoding for classification data).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core.policies import as_select, as_update, check_num_arms
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.types import Size


def disjoint_features(context: Float[ArrayLike, " d"], *, num_arms: Size) -> Float[Array, "K Kd"]:
    r"""Row a is $x \otimes e_a$: the context in block a, zeros elsewhere. A model of the arms' features then has
    parameters of its own for every arm.

    Args:
        context: Float[d].
        num_arms: K, static.

    Returns:
        Float[K, K d].

    Raises:
        ValueError: num_arms < 1; the context is not a vector.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> print(bandits.disjoint_features(jnp.array([1.0, 2.0]), num_arms=2))
        [[1. 2. 0. 0.]
         [0. 0. 1. 2.]]
    """
    num_arms = check_num_arms("disjoint_features", num_arms)
    context = jnp.asarray(context)
    if context.ndim != 1:
        raise ValueError(f"disjoint_features: context must be a vector, got shape {context.shape}")
    return jnp.kron(jnp.eye(num_arms, dtype=context.dtype), context[None, :])


def encoded(policy: Policy, features: Callable) -> Policy:
    """`policy` behind a feature map: it sees ``features(context)`` wherever the caller gives a context.

    Args:
        policy: a contextual policy.
        features: context -> what `policy` expects. A `Partial` of a module-level function is traced (its arguments
            may change without a compilation); a bare closure is static.

    Example:
        >>> import jax
        >>> from jax.tree_util import Partial
        >>> from jaxsci import bandits
        >>> from jaxsci.core.static import bind
        >>> series = Partial(bind(bandits.chebyshev_features, num_features=6), low=-0.15, high=0.65)
        >>> policy = bandits.encoded(bandits.lin_ucb(20, 6), series)
        >>> int(policy.select(jax.random.key(1), policy.init(jax.random.key(0)), 0.3).action)
        0
    """
    features = features if isinstance(features, Partial) else Partial(features)
    return Policy(
        policy.init,
        as_select(Partial(_select, policy, features)),
        as_update(Partial(_update, policy, features), small=False),
    )


def _select(policy: Policy, features, key, state, context, mask) -> Decision:
    return policy.select(key, state, features(context), mask)


def _update(policy: Policy, features, state, decision, loss, context, weight):
    return policy.update(state, decision, loss, features(context), weight)


__all__ = ["disjoint_features", "encoded"]
