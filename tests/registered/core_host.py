"""Entries of jaxsci.core.host."""

import jax.numpy as jnp
import numpy as np

from contracts import Driver
from jaxsci.core import host


def _chosen(folder):
    assert host.namespace({"a": 1.0}, np.ones(2)) is np and host.namespace(1.0, [jnp.ones(1)]) is jnp
    assert host.as_leaf(2).dtype == np.int64 and host.as_leaf(jnp.float32(2)).dtype == jnp.float32
    found = host.to_host({"x": jnp.ones(2), "n": 3})
    assert type(found["x"]) is np.ndarray and found["x"].dtype == np.float64 and found["n"].dtype == np.int64


ENTRIES = {f"jaxsci.core.host.{name}": Driver(works=_chosen) for name in ("namespace", "as_leaf", "to_host")}
