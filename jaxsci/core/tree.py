r"""Pytree arithmetic: vectors are pytrees of arrays; inner products are accumulated at full precision.

$\langle x, y\rangle = \sum_l \mathrm{Re}\,\bar x_l^\top y_l$ over the leaves $l$.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jaxsci.core import entry, precision


def dot(x: PyTree, y: PyTree) -> Float[Array, ""]:
    """Inner product over all leaves, in at least float32 and at `Precision.HIGHEST`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import tree
        >>> print(tree.dot({"a": jnp.ones(2)}, {"a": jnp.ones(2)}))
        2.0
    """

    def leaf(a, b):
        a, b = jnp.asarray(a), jnp.asarray(b)
        dtype = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
        a, b = a.astype(dtype).reshape(-1), b.astype(dtype).reshape(-1)
        return jnp.real(precision.vdot(a, b))

    terms = jax.tree.leaves(jax.tree.map(leaf, x, y))
    return sum(terms[1:], terms[0]) if terms else jnp.zeros(())


def norm(x: PyTree) -> Float[Array, ""]:
    """Euclidean norm over all leaves, the squares of which must fit the dtype; its gradient at 0 is 0, not NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import tree
        >>> print(tree.norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}))
        5.0
    """
    square = dot(x, x)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), square)


def axpy(alpha, x: PyTree, y: PyTree) -> PyTree:
    """alpha x + y, leaf by leaf, in the dtype of y.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import tree
        >>> print(tree.axpy(2.0, jnp.ones(2), jnp.ones(2)))
        [3. 3.]
    """
    return jax.tree.map(lambda a, b: (alpha * a + b).astype(jnp.result_type(b)), x, y)


def sub(x: PyTree, y: PyTree) -> PyTree:
    """x - y, leaf by leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import tree
        >>> print(tree.sub(jnp.ones(2), jnp.ones(2)))
        [0. 0.]
    """
    return jax.tree.map(jnp.subtract, x, y)


def where(condition: Bool[Array, ""], x: PyTree, y: PyTree) -> PyTree:
    """x if the scalar `condition` holds, else y; the two have equal structure, shapes and dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import tree
        >>> print(tree.where(jnp.array(True), {"a": jnp.ones(1)}, {"a": jnp.zeros(1)})["a"])
        [1.]
    """

    def pick(a, b):
        return jax.lax.select(jnp.broadcast_to(condition, jnp.shape(a)), jnp.asarray(a), jnp.asarray(b))

    return jax.tree.map(pick, x, y)


def zeros_like(x: PyTree) -> PyTree:
    """Zeros of the structure, shapes and dtypes of x.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import tree
        >>> print(tree.zeros_like({"a": jnp.ones(2)})["a"])
        [0. 0.]
    """
    return jax.tree.map(jnp.zeros_like, x)


def as_arrays(x: PyTree) -> PyTree:
    """`x` with its numbers as arrays, so that a jitted function traces them instead of compiling for each new value;
    functions and other leaves stay.

    Example:
        >>> from jaxsci.core import tree
        >>> print(tree.as_arrays({"x": 1.0})["x"].shape)
        ()
    """
    return jax.tree.map(lambda a: jnp.asarray(a) if eqx.is_array_like(a) else a, x)


def cast(x: PyTree, dtype) -> PyTree:
    """`x` with its real floating arrays in `dtype`; Python numbers, functions, integer and key arrays stay.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import tree
        >>> print(tree.cast(jnp.ones(2), jnp.bfloat16).dtype)
        bfloat16
    """

    def leaf(a):
        return a.astype(dtype) if eqx.is_inexact_array(a) and jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(leaf, x)


def all_finite(x: PyTree) -> Bool[Array, ""]:
    """True when no floating leaf holds a NaN or an infinity; integer and key leaves count as finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import tree
        >>> print(tree.all_finite({"x": jnp.array([1.0, jnp.inf])}))
        False
    """
    leaves = [a for a in map(jnp.asarray, jax.tree.leaves(x)) if jnp.issubdtype(a.dtype, jnp.inexact)]
    return jnp.stack([jnp.all(jnp.isfinite(a)) for a in leaves]).all() if leaves else jnp.asarray(True)


def dynamic_index(x: PyTree, i) -> PyTree:
    """Entry `i` (may be traced) along the leading axis of every leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import tree
        >>> print(tree.dynamic_index({"a": jnp.arange(3)}, 2)["a"])
        2
    """
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), x)


__all__ = ["all_finite", "as_arrays", "axpy", "cast", "dot", "dynamic_index", "norm", "sub", "where", "zeros_like"]

entry.guard(globals())
