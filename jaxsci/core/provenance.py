"""Where a result came from: versions, device, and fingerprints of functions and values that agree across processes.

A fingerprint hashes a canonical text: no addresses, no hash order, arrays by content. A function is its source, what
it closes over (cells, defaults, bound and partial arguments), and the module globals its code names; functions of the
user's own are followed, functions of installed libraries (and of this one) count by name, since `versions` tells the
rest. So a changed hyper-parameter in a Partial, a closure or a notebook global changes the fingerprint.
"""

import dataclasses
import enum
import functools
import hashlib
import inspect
import os
import pathlib
import platform
import sysconfig
import textwrap
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

_OWN = ("jaxsci", "pallas_kernels")
_SHOWN = 16  # arrays up to this size are written out, larger ones are hashed
_LIBRARIES = tuple({os.path.realpath(sysconfig.get_paths()[k]) for k in ("stdlib", "platstdlib", "purelib", "platlib")})
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)


def versions() -> dict[str, str]:
    """Versions of what computes: python, numpy, jax, jaxlib and jaxsci."""
    import jaxlib

    import jaxsci

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "jaxsci": jaxsci.__version__,
    }


def device_description(devices: Sequence[Any] | None = None) -> dict[str, Any]:
    """Platform, kind and number of `devices` (all local ones by default), and the host's processor and cores."""
    devices = jax.local_devices() if devices is None else list(devices)
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def source_of(function: Any) -> str:
    """Canonical text of a function: its source, then everything its behaviour depends on, line by line.

    Args:
        function: a Python function, lambda, method, `functools.partial`, `jax.tree_util.Partial`, jitted function or
            callable object.

    Returns:
        Lines fit for a diff: the source, then `closure`, `default`, `global` and bound values, then the source of
        every function of the user's own that it reaches.

    Raises:
        TypeError: `function` is not callable, or it closes over a traced value.

    Example:
        >>> from jaxsci.core import provenance
        >>> print(provenance.source_of(jax.tree_util.Partial(max, 3)))
        argument 0 = 3
        library builtins.max
    """
    if not callable(function):
        raise TypeError(f"source_of: expected a callable, got {type(function).__name__}")
    return "\n".join(_Describer().function_lines(function))


def fingerprint(x: Any) -> str:
    """Hexadecimal digest of a value, equal in every process and independent of the order of dictionaries.

    Args:
        x: any nest of numbers, strings, arrays, dtypes, typed keys, containers, records, Modules and functions.
            NumPy and JAX arrays of equal dtype, shape and content count as equal; 1, 1.0 and True do not.

    Returns:
        64 hexadecimal digits (SHA-256).

    Raises:
        TypeError: a leaf is a traced value.

    Example:
        >>> from jaxsci.core import provenance
        >>> provenance.fingerprint({"a": 1, "b": 2}) == provenance.fingerprint({"b": 2, "a": 1})
        True
    """
    return _digest(_Describer().value(x))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _processor() -> str:
    """The processor's model where the system tells it, else its architecture."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _is_library(x: Any) -> bool:
    """True for functions and classes of the standard library, of installed packages and of this project."""
    module, code = getattr(x, "__module__", None) or "builtins", getattr(x, "__code__", None)
    if module.split(".")[0] in _OWN or module == "builtins" and code is None:
        return True
    try:
        file = code.co_filename if code is not None else inspect.getfile(x)
    except (TypeError, OSError):
        return False
    return os.path.realpath(file).startswith(_LIBRARIES)


def _names(code: types.CodeType) -> list[str]:
    """Global and attribute names in a code object and in those nested in it, in order of appearance."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _names(constant)
    return list(dict.fromkeys(names))


def _code_text(code: types.CodeType) -> str:
    """Stands in for source that cannot be read (typed at a prompt, made by exec): the instructions and constants."""
    nested = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    plain = [sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c) for c in code.co_consts]
    plain = [text for text, c in zip(plain, code.co_consts) if not isinstance(c, types.CodeType)]
    own = f"{hashlib.sha256(code.co_code).hexdigest()[:16]} {plain} {code.co_names} {code.co_varnames}"
    return "\n".join([f"bytecode {own}", *map(_code_text, nested)])


class _Describer:
    """Turns values into canonical text; `seen` numbers what is being described, so that cycles end.

    Objects met are kept alive in `seen`: an address that is reused would be taken for a cycle.
    """

    def __init__(self):
        self.seen: dict[int, tuple[int, Any]] = {}

    def _once(self, x: Any, describe: Callable[[], Any], again: Callable[[int], Any]):
        if id(x) in self.seen:
            return again(self.seen[id(x)][0])
        self.seen[id(x)] = (len(self.seen), x)
        return describe()

    # --- values ------------------------------------------------------------------------------------------

    def value(self, x: Any) -> str:
        """One text for any value."""
        if (
            x is None
            or isinstance(x, (bool, int, float, complex, str, bytes, type(...), range, slice))
            and not (isinstance(x, (enum.Enum, np.generic)))
        ):
            return repr(x)
        if isinstance(x, jax.core.Tracer):
            raise TypeError("fingerprint: expected concrete values, got a traced one; call it outside jit and vmap")
        if isinstance(x, enum.Enum):
            return f"{type(x).__qualname__}.{x.name}"
        if isinstance(x, (np.ndarray, np.generic, jax.Array)):
            return self._array(x)
        if isinstance(x, np.dtype):
            return f"dtype {x}"
        if isinstance(x, types.ModuleType):
            return f"module {x.__name__}"
        if isinstance(x, type):
            return self._class(x)
        if isinstance(x, (dict, list, tuple, set, frozenset)):
            before = dict(self.seen)
            text = self._once(x, lambda: self._container(x), lambda n: f"<seen {n}>")
            self.seen = before  # only a true cycle counts: the same list twice is described twice
            return text
        if isinstance(x, _FUNCTIONS) or callable(getattr(x, "__wrapped__", None)):
            return f"<function {_digest(chr(10).join(_Describer._nested(self, x)))[:16]}>"
        if isinstance(x, (types.BuiltinFunctionType, np.ufunc)):
            return f"library {getattr(x, '__module__', None) or 'numpy'}.{x.__name__}"
        before = dict(self.seen)
        text = self._once(x, lambda: self._object(x), lambda n: f"<seen {n}>")
        self.seen = before
        return text

    def _nested(self, x: Any) -> list[str]:
        inner = _Describer()
        inner.seen = dict(self.seen)
        return inner.function_lines(x)

    def _array(self, x: Any) -> str:
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return f"{x.dtype}{self._array(jax.random.key_data(x))}"
        x = np.asarray(x)
        head = f"{x.dtype}{list(x.shape)}"
        if x.dtype.kind == "O":
            return f"{head} {[self.value(entry) for entry in x.ravel()]}"
        if x.size <= _SHOWN and x.dtype.kind in "biufc":
            return f"{head} {x.tolist()!r}"
        return f"{head} {hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:32]}"

    def _container(self, x: Any) -> str:
        if isinstance(x, dict):
            pairs = sorted((self.value(k), self.value(v)) for k, v in x.items())
            return "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
        if isinstance(x, (set, frozenset)):
            return "set{" + ", ".join(sorted(map(self.value, x))) + "}"
        if hasattr(x, "_fields"):
            return f"{type(x).__qualname__}({', '.join(f'{n}={self.value(v)}' for n, v in zip(x._fields, x))})"
        inside = ", ".join(map(self.value, x))
        return f"[{inside}]" if isinstance(x, list) else f"({inside})"

    def _class(self, x: type) -> str:
        if _is_library(x):
            return f"class {x.__module__}.{x.__qualname__}"
        try:
            return f"class {x.__qualname__} {_digest(inspect.getsource(x))[:16]}"
        except (OSError, TypeError):
            return f"class {x.__qualname__}"

    def _object(self, x: Any) -> str:
        """Records and objects by type and fields; what has no readable fields by its text without addresses."""
        kind = self._class(type(x))
        if dataclasses.is_dataclass(x):
            fields = {f.name: getattr(x, f.name, None) for f in dataclasses.fields(x)}
        elif hasattr(x, "__array__"):
            return f"{kind} {self._array(np.asarray(x))}"
        elif not _is_library(type(x)) and hasattr(x, "__dict__"):
            fields = vars(x)
        else:
            text = repr(x)
            return kind if " at 0x" in text else f"{kind} {text}"
        return f"{kind}({', '.join(f'{n}={self.value(v)}' for n, v in sorted(fields.items()))})"

    # --- functions ---------------------------------------------------------------------------------------

    def function_lines(self, f: Callable) -> list[str]:
        """Source, dependences and, below, the sources of the user's functions it reaches."""
        return self._once(f, lambda: self._function_lines(f), lambda n: [f"<function seen {n}>"])

    def _function_lines(self, f: Callable) -> list[str]:
        if isinstance(f, functools.partial):  # jax.tree_util.Partial is one too
            lines = [f"argument {i} = {self.value(a)}" for i, a in enumerate(f.args)]
            lines += [f"argument {n} = {self.value(a)}" for n, a in sorted(f.keywords.items())]
            return lines + self.function_lines(f.func)
        if isinstance(f, types.MethodType):
            return [f"bound to {self.value(f.__self__)}", *self.function_lines(f.__func__)]
        if isinstance(f, types.FunctionType):
            return self._plain_function_lines(f)
        wrapped = getattr(f, "__wrapped__", None)
        if callable(wrapped):  # jitted, custom_jvp, ...: the wrapper's kind and the function inside
            return [f"wrapped by {type(f).__module__}.{type(f).__qualname__}", *self.function_lines(wrapped)]
        return [self.value(f)]

    def _plain_function_lines(self, f: types.FunctionType) -> list[str]:
        library = _is_library(f)
        lines = [f"library {f.__module__}.{f.__qualname__}"] if library else self._source_lines(f)
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
            try:
                lines += self._named("closure", name, cell.cell_contents)
            except ValueError:  # a cell that is filled only later
                lines.append(f"closure {name} is empty")
        if library and f.__closure__ is None:
            return lines  # its defaults and globals belong to its version
        parameters = f.__code__.co_varnames[: f.__code__.co_argcount]
        defaults = f.__defaults__ or ()
        for name, value in zip(parameters[len(parameters) - len(defaults) :], defaults):
            lines += self._named("default", name, value)
        for name, value in sorted((f.__kwdefaults__ or {}).items()):
            lines += self._named("default", name, value)
        if not library:
            for name in _names(f.__code__):
                if name in f.__globals__:
                    lines += self._named("global", name, f.__globals__[name])
        return lines

    @staticmethod
    def _source_lines(f: types.FunctionType) -> list[str]:
        try:
            text = textwrap.dedent(inspect.getsource(f.__code__))  # the code's, not that of what it wraps
        except (OSError, TypeError):
            return _code_text(f.__code__).splitlines()
        if f.__name__ == "<lambda>":  # the source is the whole statement, and two lambdas may stand in one
            text += f"\n{_code_text(f.__code__)}"
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    def _named(self, kind: str, name: str, x: Any) -> list[str]:
        if isinstance(x, types.ModuleType):
            return []
        if isinstance(x, _FUNCTIONS):
            return [f"{kind} {name}:", *(f"    {line}" for line in self.function_lines(x))]
        return [f"{kind} {name} = {self.value(x)}"]


__all__ = ["device_description", "fingerprint", "source_of", "versions"]
