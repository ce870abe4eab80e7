"""Carries of loops: definite dtypes before, the body traced once, a message that names the leaf it changes."""

import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import PyTree


def is_weak(a) -> bool:
    """True for an array whose dtype JAX may still change, such as one made of a Python number."""
    return bool(getattr(jax.typeof(a), "weak_type", False))


def strong(carry: PyTree, like: PyTree | None = None) -> PyTree:
    """The carry with definite dtypes (those of `like`): a weak type would make JAX trace the body again."""

    def leaf(a, b):
        return jax.lax.convert_element_type(a, jnp.result_type(b)) if is_weak(a) else a

    carry = jax.tree.map(jnp.asarray, carry)
    return jax.tree.map(leaf, carry, carry if like is None else like)


def spec(a) -> str:
    """``float32[3]``, or what kind of thing it is if it is no array."""
    return f"{a.dtype}{list(a.shape)}" if hasattr(a, "dtype") else f"a {type(a).__name__}"


def check(function: str, argument: str, name: str, before: PyTree, after: PyTree) -> None:
    """Raise the TypeError that names the first leaf of the carry `name` whose shape or dtype `argument` changes.

    `after` holds arrays or `jax.ShapeDtypeStruct`s. A Python number takes the dtype of the carry, as in JAX.
    """
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise TypeError(
            f"{function}: {argument} must keep the structure of {name}, {jax.tree.structure(before)}, got "
            f"{jax.tree.structure(after)}"
        )
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after)):
        weak = b.weak_type and jnp.promote_types(a.dtype, jax.dtypes.scalar_type_of(b)) == a.dtype
        if a.shape != b.shape or (a.dtype != b.dtype and not weak):
            raise TypeError(
                f"{function}: {argument} must keep shapes and dtypes, but {name}{jax.tree_util.keystr(path)} was "
                f"{spec(a)} and came back as {spec(b)}; give it that shape and dtype beforehand, or convert it inside"
            )


def traced_body(function: str, body, carry: PyTree, *x):
    """Trace ``body(carry[, x])`` once and check what it does to the carry.

    Returns ``(step, out)``: `step` runs the body from its jaxpr and returns the carry in the dtypes it came in; `out`
    is what the body returns, as `jax.ShapeDtypeStruct`s. With an `x` the body returns ``(carry, y)``.
    """
    jaxpr, out = jax.make_jaxpr(body, return_shape=True)(carry, *x)
    if x and not (isinstance(out, tuple) and len(out) == 2):
        raise TypeError(f"{function}: body must return (carry, y), got {type(out).__name__}")
    check(function, "body", "carry", carry, out[0] if x else out)
    run, structure = jax.extend.core.jaxpr_as_fun(jaxpr), jax.tree.structure(out)

    def step(carry, *x):
        out = jax.tree.unflatten(structure, run(*jax.tree.leaves((carry, *x))))
        return (strong(out[0], carry), out[1]) if x else strong(out, carry)

    return step, out
