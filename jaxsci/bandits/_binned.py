"""A contextual policy out of any other policy: the range of the context is cut into bins, each with a copy of its own.

Reference: Khodak et al. 2024, Learning to Relax, section 4 (discretised contexts).
"""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike

from jaxsci.core import entry, status, tree
from jaxsci.core.policies import as_context, as_select, as_update
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Size, float_dtype


def binned(policy: Policy, num_bins: Size, *, low: ArrayLike, high: ArrayLike) -> Policy:
    """Independent copies of `policy`, one for each bin of a scalar context; the copy of the context's bin plays.

    The bins divide [low, high] equally, with centres at low + (high - low)(j + 1/2)/m. A context on the border of two
    bins belongs to the lower one. A context outside the range belongs to the nearest bin.

    Args:
        policy: any policy; it is called without a context.
        num_bins: m, static.
        low, high: range of the context, traced; if the range is empty (low = high), the middle bin always plays.

    Raises:
        ValueError: num_bins < 1.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policy = bandits.wrappers.binned(bandits.policies.ucb1(3), 4, low=0.0, high=1.0)
        >>> decision = policy.select(jax.random.key(1), policy.init(jax.random.key(0)), 0.3)
        >>> print(0 <= int(decision.action) < 3)
        True
    """
    num_bins = check_size("binned", "num_bins", num_bins)
    low, high = (jnp.asarray(v, float_dtype(low, high)) for v in (low, high))
    return Policy(
        Partial(bind(_init, num_bins=num_bins), policy),
        as_select(Partial(bind(_select, num_bins=num_bins), policy, low, high)),
        as_update(Partial(bind(_update, num_bins=num_bins), policy, low, high), small=False),
        Partial(_status, policy),
    )


def _init(policy: Policy, key, *, num_bins):
    return jax.vmap(lambda j: policy.init(jax.random.fold_in(key, j)))(jnp.arange(num_bins))


def _bin(low, high, context, num_bins):
    context = as_context("binned", context, ())
    span = high - low
    position = jnp.where(span != 0, (context - low) / jnp.where(span != 0, span, 1), 0.5) * num_bins
    # ceil - 1 rather than floor: the border between two bins belongs to the lower one.
    return jnp.clip(jnp.nan_to_num(jnp.ceil(position) - 1), 0, num_bins - 1).astype(jnp.int32)


def _select(policy: Policy, low, high, key, state, context, mask, *, num_bins) -> Decision:
    here = tree.dynamic_index(state, _bin(low, high, context, num_bins))
    return policy.select(key, here, None, mask)


def _update(policy: Policy, low, high, state, decision, loss, context, weight, *, num_bins):
    j = _bin(low, high, context, num_bins)
    after = policy.update(tree.dynamic_index(state, j), decision, loss, None, weight)
    return jax.tree.map(lambda a, b: a.at[j].set(b), state, after)


def _status(policy: Policy, state):
    return status.reduce(jax.vmap(policy.status)(state))


__all__ = ["binned"]

entry.hold(globals(), "_init", "_select", "_status", "_update")
