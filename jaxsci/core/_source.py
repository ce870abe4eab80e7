"""The source text of a function with what its behaviour hangs on, for `provenance.source_of`."""

import functools
import hashlib
import inspect
import linecache
import os
import sysconfig
import textwrap
import types
from collections.abc import Callable
from typing import Any

from jaxsci.core import entry

_OWN = ("jaxsci", "pallas_kernels")
_LIBRARIES = tuple({os.path.realpath(sysconfig.get_paths()[k]) for k in ("stdlib", "platstdlib", "purelib", "platlib")})
_BUILTINS = (types.BuiltinFunctionType, types.MethodWrapperType, types.MethodDescriptorType)


def is_function(x: Any) -> bool:
    """True for what `lines` describes: functions of Python and of C, methods, partials, jitted and other wrappers."""
    if isinstance(x, (types.FunctionType, types.MethodType, functools.partial, *_BUILTINS)):
        return True
    return not isinstance(x, type) and callable(x) and hasattr(x, "__qualname__") | hasattr(x, "__wrapped__")


def lines(function: Callable, value: Callable[[Any], str], seen: tuple = ()) -> list[str]:
    """Source, closures, defaults, bound arguments, globals; `value` describes the values among them."""
    if isinstance(function, functools.partial):  # jax.tree_util.Partial is one too
        found = [f"argument {i} = {value(a)}" for i, a in enumerate(function.args)]
        found += [f"argument {n} = {value(a)}" for n, a in sorted(function.keywords.items())]
        return found + lines(function.func, value, seen)
    if entry.is_guarded(function):
        function = function.__wrapped__
    if isinstance(function, types.FunctionType):
        return ["<seen>"] if function in seen else _plain(function, value, (*seen, function))
    if isinstance(function, types.MethodType):
        return [f"bound to {value(function.__self__)}", *lines(function.__func__, value, seen)]
    if callable(getattr(function, "__wrapped__", None)):  # jitted, custom_jvp, ...
        kind = type(function)
        return [f"wrapped by {kind.__module__}.{kind.__qualname__}", *lines(function.__wrapped__, value, seen)]
    if not is_function(function):
        call = type(function).__call__
        text = lines(call, value, seen) if isinstance(call, types.FunctionType) else []
        return [f"object {value(function)}", *text]
    owner = getattr(function, "__self__", None)
    bound = [] if owner is None or isinstance(owner, types.ModuleType) else [f"bound to {value(owner)}"]
    return [*bound, f"library {getattr(function, '__module__', None) or 'numpy'}.{function.__qualname__}"]


def _is_library(file: str | None, module: str) -> bool:
    """The standard library, this project, and installed packages, also of another environment (by a `.pth` file)."""
    if module.split(".")[0] in _OWN or file is None:
        return module.split(".")[0] in _OWN
    file = os.path.realpath(file)
    return file.startswith(_LIBRARIES) or not {"site-packages", "dist-packages"}.isdisjoint(file.split(os.sep))


def _plain(f: types.FunctionType, value, seen) -> list[str]:
    library = _is_library(f.__code__.co_filename, f.__module__ or "")
    found = [f"library {f.__module__}.{f.__qualname__}"] if library else _text(f.__code__)
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
        try:
            found += _named("closure", name, cell.cell_contents, value, seen)
        except ValueError:  # a cell that is filled only later
            found.append(f"closure {name} is empty")
    if library:
        return found  # its defaults and globals belong to its version
    for name, p in inspect.signature(f, follow_wrapped=False).parameters.items():
        if p.default is not p.empty:
            found += _named("default", name, p.default, value, seen)
    names = _names(f.__code__)
    for name in names:
        if name in f.__globals__ and not name.startswith("__"):  # __file__ differs between folders
            found += _global(name, f.__globals__[name], names, value, seen)
    return found


def _global(name: str, x: Any, names: list[str], value, seen) -> list[str]:
    """A global of the user's; of a module of the user's own, the attributes that the code names."""
    if not isinstance(x, types.ModuleType):
        return _named("global", name, x, value, seen)
    if _is_library(getattr(x, "__file__", None), x.__name__) or not hasattr(x, "__file__"):
        return []
    members = [(n, vars(x)[n]) for n in names if n in vars(x) and not isinstance(vars(x)[n], types.ModuleType)]
    return [line for n, member in members for line in _named(name, n, member, value, seen)]


def _named(kind: str, name: str, x: Any, value, seen) -> list[str]:
    if is_function(x):
        return [f"{kind} {name}:", *(f"    {line}" for line in lines(x, value, seen))]
    return [f"{kind} {name} = {value(x)}"]


def _names(code: types.CodeType) -> list[str]:
    """Global and attribute names in a code object and in those nested in it, in order of appearance."""
    nested = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return list(dict.fromkeys([*code.co_names, *(n for c in nested for n in _names(c))]))


def _text(code: types.CodeType) -> list[str]:
    """The lines of a function; of a lambda its body alone, not the statement around it; else a hash of the bytecode."""
    try:
        found = inspect.getsource(code) if code.co_name != "<lambda>" else _lambda(code)
    except (OSError, TypeError):
        found = ""
    instructions = hashlib.sha256(repr((code.co_code, code.co_consts, code.co_names)).encode()).hexdigest()
    return textwrap.dedent(found).splitlines() or [f"bytecode {instructions[:16]}"]


def _lambda(code: types.CodeType) -> str:
    spans = [p for p in code.co_positions() if None not in p and p[:1] + p[2:3] != p[1:2] + p[3:4]]
    file = linecache.getlines(code.co_filename)
    if not spans or max(p[1] for p in spans) > len(file):
        return ""
    (first, start), (last, end) = min((p[0], p[2]) for p in spans), max((p[1], p[3]) for p in spans)
    found = [line.encode() for line in file[first - 1 : last]]  # positions count bytes
    found[-1] = found[-1][:end]
    found[0] = found[0][start:]
    arguments = ", ".join(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    return f"lambda {arguments}: " + " ".join(line.decode(errors="replace").strip() for line in found)
