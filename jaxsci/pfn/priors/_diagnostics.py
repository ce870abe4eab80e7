"""Looking at a prior before a network is trained on it: many data sets at once, and the quantiles of their targets."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core import keys
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import KeyArray, Size, as_real
from jaxsci.pfn.priors._check import Prior


def draw(
    key: KeyArray, prior: Prior, num_sets: Size, num_points: Size, num_features: Size = 1
) -> tuple[Float[Array, "B T F"], Float[Array, "B T"]]:
    """Many data sets: set i is ``prior(fold_in(key, i), num_points, num_features)``.

    Args:
        key: one typed key.
        prior: any prior.
        num_sets, num_points, num_features: B, T and F, static.

    Returns:
        x (B, T, F) and y (B, T).

    Raises:
        ValueError: a size below 1, or one that the prior refuses.

    Example:
        >>> from jaxsci.pfn import priors
        >>> x, y = priors.draw(jax.random.key(0), priors.ridge(), 3, 8, 2)
        >>> print(x.shape, y.shape)
        (3, 8, 2) (3, 8)
    """
    sizes = {"num_sets": num_sets, "num_points": num_points, "num_features": num_features}
    sizes = [check_size("priors.draw", name, size) for name, size in sizes.items()]
    return _draw(keys.as_typed_key(key, "priors.draw"), as_partial(prior, "priors.draw", "prior"), *sizes)


@eqx.filter_jit
def _draw(key, prior, num_sets, num_points, num_features):
    return jax.vmap(lambda k: prior(k, num_points, num_features))(keys.per_item(key, num_sets))


def quantiles(
    key: KeyArray,
    prior: Prior,
    probabilities: Float[ArrayLike, " q"],
    num_sets: Size,
    num_points: Size,
    num_features: Size = 1,
) -> Float[Array, " q"]:
    """Quantiles of all targets of many data sets: where the buckets of a predictive distribution belong.

    Args:
        key, prior, num_sets, num_points, num_features: as for `draw`.
        probabilities: in [0, 1], traced.

    Returns:
        (q,), interpolated linearly; targets that are not finite do not count.

    Raises:
        ValueError: as for `draw`.

    Example:
        >>> from jaxsci.pfn import priors
        >>> found = priors.quantiles(jax.random.key(0), priors.gp(), [0.05, 0.5, 0.95], 1000, 10)
        >>> print(found.shape)
        (3,)
    """
    _, y = draw(key, prior, num_sets, num_points, num_features)
    return _quantiles(y, as_real(probabilities, y.dtype))


@eqx.filter_jit
def _quantiles(y, probabilities):
    return jnp.nanquantile(jnp.where(jnp.isfinite(y), y, jnp.nan), probabilities)


__all__ = ["draw", "quantiles"]
