"""One of several policies, picked by a traced index, so that a comparison of policies compiles one program.

If policies are compared along a static axis, the whole program around each policy is compiled again, and in short
studies that is most of the time. Here all policies are branches of one program. `jax.lax.switch` runs the chosen branch
alone; under `vmap` over the index it runs all branches.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike

from jaxsci.core import entry, status
from jaxsci.core.policies import as_select, as_update
from jaxsci.core.protocols import Decision, Policy


def choose(policies: Sequence[Policy], index: ArrayLike) -> Policy:
    """Policy number `index` of `policies`, as a policy.

    The state is a tuple of the states of all policies, of which only the chosen one changes. The `aux` of a decision is
    a tuple too, with zeros for the other policies.

    Args:
        policies: policies over the same arms.
        index: in [0, len(policies)), traced; values outside are clipped.

    Raises:
        ValueError: no policy.

    Example:
        >>> import jax
        >>> from jaxsci import bandits
        >>> policies = [bandits.policies.fixed(3, arm=0), bandits.policies.fixed(3, arm=2)]
        >>> policy = bandits.wrappers.choose(policies, 1)
        >>> int(policy.select(jax.random.key(1), policy.init(jax.random.key(0))).action)
        2
    """
    policies = tuple(policies)
    if not policies:
        raise ValueError("choose: expected at least one policy, got none")
    index = jnp.clip(jnp.asarray(index, jnp.int32), 0, len(policies) - 1)
    return Policy(
        Partial(_init, policies),
        as_select(Partial(_select, policies, index)),
        as_update(Partial(_update, policies, index), small=False),
        Partial(_status, policies),
    )


def _init(policies, key):
    return tuple(policy.init(key) for policy in policies)


def _select(policies, index, key, state, context, mask) -> Decision:
    def asked(policy, own):
        return policy.select(key, own, context, mask)

    shapes = [jax.eval_shape(asked, policy, own) for policy, own in zip(policies, state)]
    empty = tuple(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shape.aux) for shape in shapes)
    dtype = jnp.result_type(*(shape.log_prob.dtype for shape in shapes))

    def branch(j):
        def run(state):
            decision = asked(policies[j], state[j])
            return decision._replace(
                log_prob=decision.log_prob.astype(dtype), aux=(*empty[:j], decision.aux, *empty[j + 1 :])
            )

        return run

    return jax.lax.switch(index, [branch(j) for j in range(len(policies))], state)


def _update(policies, index, state, decision: Decision, loss, context, weight):
    def branch(j):
        def run(state):
            own = decision if decision.aux is None else decision._replace(aux=decision.aux[j])
            after = policies[j].update(state[j], own, loss, context, weight)
            return (*state[:j], after, *state[j + 1 :])

        return run

    return jax.lax.switch(index, [branch(j) for j in range(len(policies))], state)


def _status(policies, state):
    # Of the policies that are not played only their initial states are looked at, in which nothing went wrong.
    return status.merge(*(policy.status(own) for policy, own in zip(policies, state)))


__all__ = ["choose"]

entry.hold(globals(), "_init", "_select", "_status", "_update")
