"""Optional packages: imported where they are used; a missing one says which extra brings it."""

import importlib
from types import ModuleType

from jaxsci.core import entry


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import `module` or raise the ImportError that names the extra to install.

    Args:
        module: dotted name, e.g. ``"xarray"``.
        extra: the extra of jaxsci that holds it, e.g. ``"sweep"``.
        purpose: what needs it, e.g. ``"sweep.run"``.

    Raises:
        ImportError: `module` is not installed; the message holds the pip command.

    Example:
        >>> from jaxsci.core import extras
        >>> print(extras.require("json", "sweep", "this example").dumps([1]))
        [1]
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the package is there and something that it needs is not: its own message says more
        raise ImportError(
            f"{purpose} needs {error.name!r}, which is not installed: pip install 'jaxsci[{extra}]'"
        ) from error


__all__ = ["require"]

entry.guard(globals())
