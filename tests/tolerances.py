"""The tolerances of the suite, by dtype, in one place; a test that needs a wider one names its measured worst case."""

import numpy as np

VALUE = {np.dtype("float32"): 1e-5, np.dtype("float64"): 1e-12}
"""Same mathematics in another order: jit against eager, vmap against a loop."""

GRADIENT = {np.dtype("float32"): 2e-3, np.dtype("float64"): 1e-5}
"""Derivatives against central differences."""

STANDARD_ERRORS = 5
"""Statistical gates: the mean may miss its target by this many standard errors."""


def of(table, *trees) -> float:
    """The loosest tolerance among the floating leaves of `trees`."""
    import jax

    dtypes = [np.dtype(a.dtype) for a in jax.tree.leaves(trees) if hasattr(a, "dtype") and a.dtype in table]
    return max((table[d] for d in dtypes), default=min(table.values()))
