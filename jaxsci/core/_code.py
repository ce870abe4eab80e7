"""What a code object is and reaches: whose it is, what it names and imports, and its text.

For `provenance`, which turns that into fingerprints.
"""

import dis
import functools
import hashlib
import importlib.metadata
import inspect
import linecache
import os
import pathlib
import sysconfig
import types
from typing import Any

OWN = ("jaxsci", "pallas_kernels")
_LIBRARIES = tuple({os.path.realpath(sysconfig.get_paths()[k]) for k in ("stdlib", "platstdlib", "purelib", "platlib")})


def is_library(x: Any) -> bool:
    """True for modules, functions and classes of the standard library, of installed packages and of this project."""
    if isinstance(x, types.ModuleType):
        file = getattr(x, "__file__", None)
        return x.__name__.split(".")[0] in OWN or file is None or is_installed(file)
    module, code = getattr(x, "__module__", None) or "builtins", getattr(x, "__code__", None)
    if module.split(".")[0] in OWN or module == "builtins" and code is None:
        return True
    try:
        file = code.co_filename if code is not None else inspect.getfile(x)
    except (TypeError, OSError):
        return False
    return is_installed(file)


def is_installed(file: str) -> bool:
    """True for a file of the standard library or of an installed package."""
    path = os.path.realpath(file)
    return path.startswith(_LIBRARIES) or not {"site-packages", "dist-packages"}.isdisjoint(pathlib.Path(path).parts)


def names_of(code: types.CodeType) -> list[str]:
    """Global and attribute names in a code object and in those nested in it, in order of appearance."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += names_of(constant)
    return list(dict.fromkeys(names))


def imports(code: types.CodeType) -> list[str]:
    """Names of the modules that a code object and those nested in it import."""
    names = [i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME" and i.argval]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += imports(constant)
    return list(dict.fromkeys(names))


@functools.cache
def distributions() -> dict[str, list[str]]:
    """The installed distributions that bring each top-level module: ``sklearn`` comes with ``scikit-learn``."""
    return dict(importlib.metadata.packages_distributions())


def code_text(code: types.CodeType) -> str:
    """The code that runs, which the file may no longer show: instructions and constants."""
    nested = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    plain = [sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c) for c in code.co_consts]
    plain = [text for text, c in zip(plain, code.co_consts) if not isinstance(c, types.CodeType)]
    own = f"{hashlib.sha256(code.co_code).hexdigest()[:16]} {plain} {code.co_names} {code.co_varnames}"
    return "\n".join([f"bytecode {own}", *map(code_text, nested)])


def lambda_source(code: types.CodeType) -> list[str]:
    """The body of a lambda alone, not the statement around it: that may be the very call that asks."""
    spans = [p for p in code.co_positions() if None not in p and p[:1] + p[2:3] != p[1:2] + p[3:4]]
    lines = linecache.getlines(code.co_filename)
    if not spans or max(p[1] for p in spans) > len(lines):
        return []
    (first, start), (last, end) = min((p[0], p[2]) for p in spans), max((p[1], p[3]) for p in spans)
    found = [line.encode() for line in lines[first - 1 : last]]
    found[-1] = found[-1][:end]
    found[0] = found[0][start:]
    arguments = ", ".join(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    return [f"lambda {arguments}: " + " ".join(line.decode(errors="replace").strip() for line in found)]
