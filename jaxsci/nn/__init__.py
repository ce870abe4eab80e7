"""Networks as pure functions: ``init(key, cfg) -> params`` and ``apply(params, cfg, x)``.

Builds on: core. Flax inside; quantised products and kernels enter by the argument ``dense``.
"""

from jaxsci.nn import attention, flax, layers, mlp, transformer

__all__ = ["attention", "flax", "layers", "mlp", "transformer"]
