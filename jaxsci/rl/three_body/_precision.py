"""Double precision is asked for once, here."""

import numpy as np


def require_double(function: str, dtype: np.dtype, allow_float32: bool) -> None:
    """Raise the TypeError that names the line to add, unless `dtype` is float64 or float32 is allowed."""
    if dtype != np.dtype("float64") and not allow_float32:
        raise TypeError(
            f"{function}: needs float64, got {dtype}; call jax.config.update('jax_enable_x64', True) before making the "
            "arrays, or pass allow_float32=True"
        )


__all__ = ["require_double"]
