"""Start vectors of the iterations that look for eigenvalues."""

import equinox as eqx
import jax.numpy as jnp

from jaxsci.core.types import float_dtype


def as_start(op, start, function: str):
    """`start` in the common dtype; ValueError unless it has the operator's shape."""
    start = jnp.asarray(start, float_dtype(start, eqx.filter(op, eqx.is_array)))
    # An object that has nothing but `mv` cannot say its shape.
    diagonal = eqx.filter_eval_shape(lambda op: getattr(op, "diagonal", None), op)
    if diagonal is not None and diagonal.shape != start.shape:
        raise ValueError(f"{function}: start must have the operator's shape {diagonal.shape}, got {start.shape}")
    return start
