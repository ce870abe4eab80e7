"""A feature map between the caller's context and a policy, such as those of `features`.

Reference: Li, Chu, Langford, Schapire 2010, section 3.2 (contexts as features of the arms).
"""

from collections.abc import Callable

from jax.tree_util import Partial

from jaxsci.core import entry
from jaxsci.core.policies import as_select, as_update
from jaxsci.core.protocols import Decision, Policy
from jaxsci.core.static import as_partial


def encoded(policy: Policy, features: Callable) -> Policy:
    """`policy` behind a feature map: where the caller gives a context, `policy` sees ``features(context)``.

    Args:
        policy: a contextual policy.
        features: context -> what `policy` expects. A `Partial` of a module-level function is traced (its arguments
            may change without a compilation); a bare closure is static.

    Example:
        >>> import jax
        >>> from jax.tree_util import Partial
        >>> from jaxsci import bandits
        >>> from jaxsci.core.static import bind
        >>> series = Partial(bind(bandits.features.chebyshev, num_features=6), low=-0.15, high=0.65)
        >>> policy = bandits.wrappers.encoded(bandits.policies.lin_ucb(20, 6), series)
        >>> int(policy.select(jax.random.key(1), policy.init(jax.random.key(0)), 0.3).action)
        0
    """
    features = as_partial(features, "encoded", "features")
    return Policy(
        policy.init,
        as_select(Partial(_select, policy, features)),
        as_update(Partial(_update, policy, features), small=False),
        policy.status,
    )


def _select(policy: Policy, features, key, state, context, mask) -> Decision:
    return policy.select(key, state, features(context), mask)


def _update(policy: Policy, features, state, decision, loss, context, weight):
    return policy.update(state, decision, loss, features(context), weight)


__all__ = ["encoded"]

entry.hold(globals(), "_select", "_update")
