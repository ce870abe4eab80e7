"""What every prior checks, and how hyper-parameters become leaves."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsci.core.keys import as_typed_key
from jaxsci.core.static import check_size
from jaxsci.core.types import as_float

Prior: TypeAlias = Callable[..., tuple[Float[Array, "T F"], Float[Array, " T"]]]
"""``prior(key, num_points, num_features) -> (x, y)``: one data set, a pure function of the key; sizes are static."""


def checked(name, key, num_points, num_features, *, least_points=1):
    """Key and sizes as every prior takes them, or the error that names the prior."""
    name = f"priors.{name}"
    num_points = check_size(name, "num_points", num_points, least=least_points)
    return as_typed_key(key, name), num_points, check_size(name, "num_features", num_features)


def leaf(value):
    """A hyper-parameter as a leaf; a Python number stays weakly typed, so that one array settles the dtype of all."""
    return jnp.asarray(float(value)) if isinstance(value, (int, float)) else as_float(value)
