"""What wrappers share: rounds kept in arrays of fixed size, to be learnt or taken back later, and the inner status."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import entry
from jaxsci.core.protocols import Decision, Policy


class Stored(NamedTuple):
    """Decisions with everything that their updates need. The leading axis of each array counts the places.

    Attributes:
        decision: the decision.
        loss: its loss; 0 while it is unknown.
        context: what it was made on; None for policies without contexts.
        weight: how many plays it counts as; 0 in a place that was never filled.
    """

    decision: Decision
    loss: Float[Array, " places"]
    context: PyTree
    weight: Float[Array, " places"]


def empty(policy: Policy, key, state: PyTree, context: PyTree, places: int) -> Stored:
    """Empty places for decisions of `policy` with contexts like `context`: zeros, so that their weight is 0."""
    decision = jax.eval_shape(policy.select, key, state, context)
    number = jax.ShapeDtypeStruct((), decision.log_prob.dtype)
    example = Stored(decision, number, context, number)
    return jax.tree.map(lambda a: jnp.zeros((places, *jnp.shape(a)), jnp.result_type(a)), example)


def put(stored: Stored, place, decision: Decision, loss, context, weight) -> Stored:
    """`stored` with one place overwritten.

    Raises:
        ValueError: a decision or a context of another structure, shape or kind of dtype than the places hold.
    """
    new = Stored(decision, loss, context, weight)
    if decision.aux is None and stored.decision.aux is not None:
        raise ValueError(
            "update: this wrapper stores decisions as the policy's own select makes them, with their aux; got one "
            "without, e.g. from a log. Learn the log with the policy itself, then wrap it"
        )
    if jax.tree.structure(new) != jax.tree.structure(stored):
        raise ValueError(
            "update: decision and context must have the structure of those the policy was built for; name an example "
            f"of the context, context=..., when wrapping; expected {jax.tree.structure(stored.context)}, got "
            f"{jax.tree.structure(context)}"
        )
    for (path, kept), a in zip(jax.tree_util.tree_leaves_with_path(stored), jax.tree.leaves(new)):
        rounded = jnp.issubdtype(kept.dtype, jnp.integer) and not jnp.issubdtype(jnp.result_type(a), jnp.integer)
        if jnp.shape(a) != kept.shape[1:] or rounded:
            raise ValueError(
                f"update: {jax.tree_util.keystr(path)[1:]} must match the example that the policy was built for, "
                f"{kept.dtype} of shape {kept.shape[1:]}, got {jnp.result_type(a)} of shape {jnp.shape(a)}"
            )
    return jax.tree.map(lambda kept, a: kept.at[place].set(a), stored, new)


def status_inside(policy: Policy, state) -> Int[Array, ""]:
    """The status of the wrapped policy, whose state the wrapper keeps in its field ``policy``."""
    return policy.status(state.policy)


__all__ = ["Stored", "empty", "put", "status_inside"]

entry.hold(globals(), "status_inside")
