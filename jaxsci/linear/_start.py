"""Start vectors of the iterations that look for eigenvalues, and the scale on which they run."""

import equinox as eqx
import jax.numpy as jnp

from jaxsci.core import tree
from jaxsci.core.precision import largest, powers_of_two
from jaxsci.core.types import float_dtype


def as_start(op, start, function: str):
    """`start` in the common dtype; ValueError unless it has the operator's shape."""
    start = jnp.asarray(start, float_dtype(start, eqx.filter(op, eqx.is_array)))
    # An object that has nothing but `mv` cannot say its shape.
    diagonal = eqx.filter_eval_shape(lambda op: getattr(op, "diagonal", None), op)
    if diagonal is not None and diagonal.shape != start.shape:
        raise ValueError(f"{function}: start must have the operator's shape {diagonal.shape}, got {start.shape}")
    return start


def scaled(op, start):
    """(product, v, up): the product of the operator divided by `up`, a power of two, and the start at length 1.

    `up` is about the size of A v, so that squares of products neither over- nor underflow where eigenvalues do not; a
    start of zeros stays.
    """
    start = start * powers_of_two(largest(start))[0]
    length = tree.norm(start).astype(start.dtype)
    v = start / jnp.where(length > 0, length, 1)
    down, up = powers_of_two(largest(op.mv(v)))
    return lambda x: down * op.mv(x), v, up
