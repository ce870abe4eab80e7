"""What every room stands on: types, pytree arithmetic, statuses, loops, keys, protocols, what policies share,
long loops, training, checkpoints.

Builds on: jax, numpy, jaxtyping and equinox alone; optax is never imported, orbax and tqdm inside the functions that
need them. Start reading at `status` (how results tell of trouble) and `protocols` (what users plug in).

Symbols: ``T`` steps or rounds, ``K`` arms, ``n`` unknowns; a "carry" or "record" is a pytree of arrays whose structure,
shapes and dtypes never change; a "key" is one typed key.
"""

import importlib

# The modules, and the functions with the module that each comes from; all lazy, see __getattr__.
__all__ = [  # noqa: F822
    "arrays",
    "check",
    "checkpoint",
    "drive",
    "entry",
    "explain",
    "extras",
    "files",
    "host",
    "keys",
    "loops",
    "policies",
    "precision",
    "program",
    "progress",
    "protocols",
    "provenance",
    "static",
    "status",
    "train",
    "tree",
    "types",
]
_FUNCTIONS = {"check": "status", "explain": "status"}


def __getattr__(name: str):
    """Load a module of this room, ``check`` or ``explain`` at its first use (PEP 562)."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"jaxsci.core.{_FUNCTIONS[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"jaxsci.core.{name}")
    raise AttributeError(f"module 'jaxsci.core' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__():
    return sorted(__all__)
