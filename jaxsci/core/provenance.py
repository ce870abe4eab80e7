"""Where a result came from: versions, device, and fingerprints of functions and values that agree across processes.

A fingerprint hashes a canonical text: no addresses, no hash order, arrays by content. A function is its source and
bytecode, what it closes over (cells, defaults, bound and partial arguments), and what its code names in its module and
in other modules; functions and classes of the user's own are followed, those of installed libraries (and of this one)
count by name and version. So a changed hyper-parameter in a Partial, a closure or a notebook global changes the
fingerprint. Objects count by their fields, or by what pickle would save; only what has neither (a lock, an open file)
counts by its type alone.
"""

import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import pathlib
import platform
import sys
import textwrap
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxsci.core._code import OWN, code_text, distributions, imports, is_installed, is_library, lambda_source, names_of

_SHOWN = 16  # arrays up to this size are written out, larger ones are hashed
_LONG = 2000  # containers and objects with longer texts are hashed: shared parts would make it grow exponentially
_RULES = ("fwd", "bwd", "jvp", "nondiff_argnums")  # what `jax.custom_vjp` and `jax.custom_jvp` carry
_PLAIN = (bool, int, float, complex, str, bytes, tuple, list, dict, set, frozenset, np.ndarray, np.generic, jax.Array)
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
    describer = _Describer()
    return "\n".join([*describer.function_lines(function), *describer.library_versions()])


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
    describer = _Describer()
    return _digest("\n".join([describer.value(x), *describer.library_versions()]))


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


def _slots(x: type) -> list[str]:
    names = vars(x).get("__slots__", ())
    names = [names] if isinstance(names, str) else list(names)
    return [n for n in names if n not in ("__dict__", "__weakref__")]


class _Describer:
    """Turns values into canonical text; `seen` numbers what is being described, so that cycles end.

    `texts` keeps the text of what is described already, so that a graph takes time in proportion to its size. Objects
    met are kept alive: an address that is reused would be taken for the object that had it before.
    """

    def __init__(self):
        self.seen: dict[int, tuple[int, Any]] = {}
        self.texts: dict[int, tuple[str, Any]] = {}
        self.libraries: set[str] = set()

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
            return f"{type(x).__qualname__}.{x.name} = {self.value(x.value)}"
        if isinstance(x, np.ma.MaskedArray):
            return f"masked {self._array(np.ma.getdata(x))} {self._array(np.ma.getmaskarray(x))}"
        if isinstance(x, (np.ndarray, np.generic, jax.Array)):
            return self._array(x)
        if isinstance(x, np.dtype):
            return f"dtype {x}"
        if isinstance(x, types.ModuleType):
            return f"module {x.__name__}"
        if isinstance(x, _FUNCTIONS) or callable(getattr(x, "__wrapped__", None)) and not isinstance(x, type):
            return f"<function {_digest(chr(10).join(self._nested(x)))[:16]}>"
        if isinstance(x, (types.BuiltinFunctionType, np.ufunc)):
            return self._library(getattr(x, "__module__", None) or "numpy", x.__name__)
        if id(x) in self.texts:
            return self.texts[id(x)][0]
        describe = self._object
        if isinstance(x, type):
            describe = self._class
        elif isinstance(x, (dict, list, tuple, set, frozenset)):
            describe = self._container
        if id(x) in self.seen:
            return f"<seen {self.seen[id(x)][0]}>"
        before = dict(self.seen)
        self.seen[id(x)] = (len(before), x)
        text = describe(x)
        self.seen = before  # only a true cycle counts: the same list twice is described twice
        text = text if len(text) <= _LONG else f"{text[:60]}... {_digest(text)}"
        self.texts[id(x)] = (text, x)
        return text

    def _nested(self, x: Any) -> list[str]:
        inner = _Describer()
        inner.seen, inner.texts, inner.libraries = dict(self.seen), self.texts, self.libraries
        return inner.function_lines(x)

    def _library(self, module: str, name: str) -> str:
        self.libraries.add(module.split(".")[0])
        return f"library {module}.{name}"

    def library_versions(self) -> list[str]:
        """A line for every installed library met that `versions` does not list."""
        found = []
        for name in sorted(self.libraries - {*versions(), *OWN, *sys.stdlib_module_names}):
            for distribution in [name, *distributions().get(name, [])]:  # not __version__: it needs the import
                try:
                    found.append(f"version of {name} {importlib.metadata.version(distribution)}")
                    break
                except importlib.metadata.PackageNotFoundError:
                    continue
        return found

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
        kind = "" if type(x) in (dict, list, tuple, set, frozenset) else self.value(type(x))
        if isinstance(x, dict):
            keys = sorted(((self.value(k), k) for k in x), key=lambda pair: pair[0])
            return kind + "{" + ", ".join(f"{text}: {self.value(x[k])}" for text, k in keys) + "}"
        if isinstance(x, (set, frozenset)):
            return kind + "set{" + ", ".join(sorted(map(self.value, x))) + "}"
        if hasattr(x, "_fields"):
            return f"{kind}({', '.join(f'{n}={self.value(v)}' for n, v in zip(x._fields, x))})"
        inside = ", ".join(map(self.value, x))
        return f"{kind}[{inside}]" if isinstance(x, list) else f"{kind}({inside})"

    def _class(self, x: type) -> str:
        """A library's class by name; the user's by the functions and plain values of it and of its user's bases."""
        if is_library(x):
            self._library(x.__module__, x.__qualname__)
            return f"class {x.__module__}.{x.__qualname__}"
        lines = []
        for base in x.__mro__:
            if is_library(base):
                lines.append(self.value(base))
                continue
            lines.append(base.__qualname__)
            for name, member in sorted(vars(base).items()):
                for part in ("__func__", "method", "fget", "func"):  # static and class methods, properties, Modules
                    member = getattr(member, part, None) or member
                if isinstance(member, types.FunctionType) and not member.__code__.co_filename.startswith("<string>"):
                    lines += [name, *self._nested(member)]
                elif not name.startswith("__") and isinstance(member, _PLAIN):
                    lines.append(f"{name} = {self.value(member)}")
        return f"class {x.__qualname__} {_digest(chr(10).join(lines))[:16]}"

    def _object(self, x: Any) -> str:
        """Records, pytrees and objects by their type and fields; the rest by its text, if that has no address."""
        kind = self.value(type(x))
        if x is np.random.mtrand._rand:
            return "the global numpy.random"  # seeded anew in every process
        if dataclasses.is_dataclass(x):
            fields = {f.name: getattr(x, f.name, None) for f in dataclasses.fields(x)}
        elif not jax.tree_util.all_leaves([x]):
            children, aux = jax.tree_util.default_registry.flatten_one_level(x)
            fields = {"children": list(children), "aux": aux}
        elif type(x).__reduce_ex__ is object.__reduce_ex__ and type(x).__reduce__ is object.__reduce__ and (
            not is_library(type(x))
        ):
            names = [n for c in type(x).__mro__ for n in _slots(c)]
            fields = {**{n: getattr(x, n) for n in names if hasattr(x, n)}, **getattr(x, "__dict__", {})}
        else:
            try:
                saved = x.__reduce_ex__(4)
            except Exception:  # anything may come from a foreign object that cannot be saved
                text = repr(x)
                return kind if " at 0x" in text else f"{kind} {text}"
            if isinstance(saved, str):
                return f"{kind} {saved}"
            _, arguments, state, items, pairs = [*saved, None, None, None][:5]
            fields = {"arguments": arguments, "state": state}
            fields |= {"items": None if items is None else list(items), "pairs": None if pairs is None else [*pairs]}
        return f"{kind}({', '.join(f'{n}={self.value(v)}' for n, v in sorted(fields.items()) if v is not None)})"

    # --- functions ---------------------------------------------------------------------------------------

    def function_lines(self, f: Callable) -> list[str]:
        """Source, dependences and, below, the sources of the user's functions it reaches."""
        if not isinstance(f, _FUNCTIONS) and not callable(getattr(f, "__wrapped__", None)):
            return [self.value(f)]  # a callable object, a class, a built-in
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
        # jitted, custom_jvp, ...: the wrapper's kind and the function inside
        lines = [f"wrapped by {type(f).__module__}.{type(f).__qualname__}", *self.function_lines(wrapped)]
        for name in _RULES:
            if getattr(f, name, None) is not None:
                lines += self._named("rule", name, getattr(f, name))
        return lines

    def _plain_function_lines(self, f: types.FunctionType) -> list[str]:
        library = is_library(f)
        lines = [self._library(f.__module__ or "builtins", f.__qualname__)] if library else self._source_lines(f)
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
            names = names_of(f.__code__)
            for name in names:
                if name in f.__globals__:
                    lines += self._named("global", name, f.__globals__[name], names)
            for name in imports(f.__code__):
                lines += self._imported(name, f.__globals__.get("__package__") or "", names)
        return lines

    @staticmethod
    def _source_lines(f: types.FunctionType) -> list[str]:
        if f.__name__ == "<lambda>":
            return [*lambda_source(f.__code__), *code_text(f.__code__).splitlines()]
        try:
            text = textwrap.dedent(inspect.getsource(f.__code__))  # the code's, not that of what it wraps
        except (OSError, TypeError):
            text = ""
        # The source is for people who read a difference. A file edited after the import shows what does not run.
        return [line.rstrip() for line in [*text.splitlines(), *code_text(f.__code__).splitlines()] if line.strip()]

    def _named(self, kind: str, name: str, x: Any, names: Sequence[str] = ()) -> list[str]:
        if isinstance(x, types.ModuleType):
            return self._module_lines(name, x, names)
        if isinstance(x, _FUNCTIONS):
            return [f"{kind} {name}:", *(f"    {line}" for line in self.function_lines(x))]
        return [f"{kind} {name} = {self.value(x)}"]

    def _module_lines(self, name: str, module: types.ModuleType, names: Sequence[str], above: tuple = ()) -> list[str]:
        """What code that names a module of the user's own may reach in it: every attribute whose name it holds."""
        if is_library(module):
            self.libraries.add(module.__name__.split(".")[0])
            return []
        lines, above = [], (*above, module)
        for attribute in names:
            inner = vars(module).get(attribute, module)
            if isinstance(inner, types.ModuleType):
                lines += [] if inner in above else self._module_lines(attribute, inner, names, above)
            else:
                lines += self._named(name, attribute, inner)
        return lines

    def _imported(self, name: str, package: str, names: Sequence[str]) -> list[str]:
        """A module that a function imports when it runs: imported now, if it is the user's own."""
        for candidate in [name, f"{package}.{name}"] if package else [name]:
            try:
                spec = importlib.util.find_spec(candidate)
                if spec is None or spec.origin is None:
                    continue
                own = candidate.split(".")[0] in OWN
                if not own and os.path.exists(spec.origin) and not is_installed(spec.origin):
                    return self._module_lines(name, importlib.import_module(candidate), names)
            except (ImportError, ValueError, AttributeError):
                continue
            self.libraries.add(candidate.split(".")[0])
            return []
        return []


__all__ = ["device_description", "fingerprint", "source_of", "versions"]
