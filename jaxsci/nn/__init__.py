"""Networks as pure functions: ``init(key, cfg) -> params`` and ``apply(params, cfg, x)``.

Builds on: core. Quantised products and kernels enter by the arguments ``dense`` and ``attention``; modules of flax by
`flax.named_dense`.
"""

from jaxsci.core import entry
from jaxsci.nn import attention, flax, layers, mlp, transformer

__all__ = ["attention", "flax", "layers", "mlp", "transformer"]

entry.guard(globals())
