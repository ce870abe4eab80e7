"""Sweeps: a function at every point of a space, on every device, into a labelled and resumable data set.

Builds on: core. A space is named axes (`product`, `zip`, `static`, `stack`, `keys`); `run` evaluates a function of
them and returns an `xarray.Dataset`; `plan` before it, `load`, `extend` and `summary` after it. Traced axes are vmapped
lanes of one program per combination of static axes, split over the local devices by ``shard_map(vmap(f))``, or handed
in chunks to the workers of an executor (docs/distributed.md).
"""

from jaxsci.core import entry
from jaxsci.sweep._axes import keys, stack, static
from jaxsci.sweep._extend import extend
from jaxsci.sweep._plan import Plan, plan
from jaxsci.sweep._run import load, run
from jaxsci.sweep._space import Space, product
from jaxsci.sweep._space import zip_axes as zip
from jaxsci.sweep._store import SweepMismatch
from jaxsci.sweep._summary import Summary, summary

__all__ = [
    "Plan",
    "Space",
    "Summary",
    "SweepMismatch",
    "extend",
    "keys",
    "load",
    "plan",
    "product",
    "run",
    "stack",
    "static",
    "summary",
    "zip",
]

entry.guard(globals())
