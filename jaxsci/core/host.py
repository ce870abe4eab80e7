"""Formulas written once for the host and for compiled code: NumPy for concrete values, jax.numpy for arrays of JAX.

Tables and rules are built on the host in float64 whatever JAX's precision is; the same formula inside a compiled loop
serves adaptive steps and learned parameters.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxsci.core import entry
from jaxsci.core.types import COMPLEX, is_complex


def namespace(*values: PyTree) -> ModuleType:
    """`jax.numpy` when any leaf of `values` is a JAX array, else `numpy`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import host
        >>> print(host.namespace(1.0, [2.0]).__name__, host.namespace(jnp.ones(1)).__name__)
        numpy jax.numpy

    Raises:
        TypeError: complex values, whose imaginary parts a real grid or table would cut off.
    """
    if is_complex(values):
        raise TypeError(COMPLEX)
    return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(values)) else np


def as_leaf(value: Any) -> Any:
    """A parameter as an array, so that compiled code traces it: NumPy in float64, or the JAX array itself.

    Example:
        >>> from jaxsci.core import host
        >>> print(host.as_leaf(3).dtype)
        int64

    Raises:
        TypeError: a complex value.
    """
    if is_complex(value):
        raise TypeError(COMPLEX)
    return value if isinstance(value, jax.Array) else np.asarray(value)[()]


def to_host(tree: PyTree) -> PyTree:
    """The same tree with float64 (or integer) NumPy leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import host
        >>> print(type(host.to_host(jnp.ones(2))).__name__)
        ndarray
    """
    return jax.tree.map(lambda a: np.asarray(a, np.float64) if np.asarray(a).dtype.kind == "f" else np.asarray(a), tree)


__all__ = ["as_leaf", "namespace", "to_host"]

entry.guard(globals())
