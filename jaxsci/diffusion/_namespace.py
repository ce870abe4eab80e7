"""NumPy for concrete host values, jax.numpy for tracers and device arrays: formulas are written once for both.

Tables are built on the host in float64 whatever JAX's precision is; the same formula inside a compiled loop serves
adaptive steps and learned grids.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np


def namespace(*values):
    """`jax.numpy` when any leaf of `values` is a JAX array, else `numpy`."""
    return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(values)) else np


def leaf(value):
    """A parameter as an array, so that compiled code traces it: NumPy in float64, or the JAX array itself."""
    return value if isinstance(value, jax.Array) else np.asarray(value)[()]


def host(tree):
    """The same tree with float64 (or integer) NumPy leaves."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64) if np.asarray(a).dtype.kind == "f" else np.asarray(a), tree)


PUBLISHED = json.loads(pathlib.Path(__file__).with_name("published.json").read_text())
"""Settings known by name: solvers as image generators call them, and the presets of DPM-Solver-v3's authors."""
