r"""Features of a context: what a linear model or a network sees instead of the context itself.

`chebyshev` turns a scalar into the Chebyshev polynomials $T_0, \ldots, T_{m-1}$; `disjoint` gives every arm a block of
its own, $x \otimes e_a$. `wrappers.encoded` puts either in front of a policy.

References: Khodak et al. 2024, Learning to Relax, section 4 (Chebyshev series of costs); Li, Chu, Langford, Schapire
2010, section 3.2 (disjoint models); Zhou, Li, Gu 2020, Neural contextual bandits with UCB-based exploration, section 7
(the block encoding for classification data).
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core import entry
from jaxsci.core.policies import check_num_arms
from jaxsci.core.static import check_size
from jaxsci.core.types import Size


def chebyshev(context: Float[ArrayLike, ""], low, high, *, num_features: Size) -> Float[Array, " m"]:
    """T_0 ... T_{m-1} at the context, which is mapped from [low, high] to [-1, 1] and clipped to that interval.

    Args:
        context: a scalar, traced.
        low, high: range of the context, traced; if it is empty (low = high), every context counts as its middle.
        num_features: m, static.

    Raises:
        ValueError: num_features < 1.

    Example:
        >>> from jaxsci import bandits
        >>> print(bandits.features.chebyshev(0.5, -1.0, 1.0, num_features=4))
        [ 1.   0.5 -0.5 -1. ]
    """
    span = jnp.asarray(high - low)
    x = jnp.clip(jnp.where(span != 0, 2 * (context - low) / jnp.where(span != 0, span, 1) - 1, 0 * context), -1, 1)
    # The recurrence, since cos(n arccos x) loses digits at the ends, where it has no derivative either.
    num_features = check_size("chebyshev", "num_features", num_features)
    terms = [jnp.ones_like(x), x]
    for _ in range(2, num_features):
        terms.append(2 * x * terms[-1] - terms[-2])
    return jnp.stack(terms[:num_features])


def disjoint(context: Float[ArrayLike, " d"], *, num_arms: Size) -> Float[Array, "K Kd"]:
    r"""Row a is $x \otimes e_a$: the context in block a, zeros elsewhere. With these features one linear model, or one
    network, has separate parameters for every arm.

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
        >>> print(bandits.features.disjoint(jnp.array([1.0, 2.0]), num_arms=2))
        [[1. 2. 0. 0.]
         [0. 0. 1. 2.]]
    """
    num_arms = check_num_arms("disjoint", num_arms)
    context = jnp.asarray(context)
    if context.ndim != 1:
        raise ValueError(f"disjoint: context must be a vector, got shape {context.shape}")
    return jnp.kron(jnp.eye(num_arms, dtype=context.dtype), context[None, :])


__all__ = ["chebyshev", "disjoint"]

entry.guard(globals(), "disjoint")
