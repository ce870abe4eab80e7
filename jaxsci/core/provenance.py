"""Where a result came from: versions, settings, devices, and fingerprints of values that agree across processes.

A fingerprint hashes a canonical text of a value: no addresses, no hash order, arrays by content. Compiled functions
are told apart by what they compute (`jaxsci.core.program`), not by this; a function that stands inside a value counts
by its source text, see `source_of`.
"""

import dataclasses
import enum
import hashlib
import os
import pathlib
import platform
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxsci.core import _source, entry

_SHOWN = 16  # arrays up to this size are written out, larger ones are hashed
_LONG = 2000  # longer texts are hashed: shared parts would make them grow exponentially
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice)


def versions() -> dict[str, str]:
    """Versions of what computes: python, numpy, jax, jaxlib and jaxsci.

    Example:
        >>> from jaxsci.core import provenance
        >>> print(sorted(provenance.versions()))
        ['jax', 'jaxlib', 'jaxsci', 'numpy', 'python']
    """
    import jaxlib

    import jaxsci

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "jaxsci": jaxsci.__version__,
    }


def settings() -> dict[str, Any]:
    """Settings of JAX that change numbers: double precision, random bits, precision of matrix products.

    Example:
        >>> from jaxsci.core import provenance
        >>> print(len(provenance.settings()) > 0)
        True
    """
    bits = "partitionable" if jax.config.jax_threefry_partitionable else "not partitionable"
    return {
        "x64": bool(jax.config.jax_enable_x64),
        "prng": f"{jax.config.jax_default_prng_impl}, {bits}",
        "matmul_precision": str(jax.config.jax_default_matmul_precision),
    }


def device_description(devices: Sequence[Any] | None = None) -> dict[str, Any]:
    """Platform, kind and number of `devices` (all local ones by default), and the host's processor and cores.

    Example:
        >>> from jaxsci.core import provenance
        >>> print(provenance.device_description()["platform"])
        cpu
    """
    devices = jax.local_devices() if devices is None else list(devices)
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    """The processor's model where the system tells it, else its architecture."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def source_of(function: Callable) -> str:
    """Source text of a function and of what it names, line by line, to explain to people what has changed.

    Args:
        function: a Python function, lambda, method, `functools.partial`, `jax.tree_util.Partial`, jitted function or
            callable object.

    Returns:
        Lines fit for a diff: the source; closures, defaults, bound and partial arguments; globals that the code names;
        the source of every function of the user's own that it names. Installed libraries count by name.

    Raises:
        TypeError: `function` is not callable.

    Example:
        >>> from jaxsci.core import provenance
        >>> print(provenance.source_of(jax.tree_util.Partial(max, 3)))
        argument 0 = 3
        library builtins.max
    """
    if not callable(function):
        raise TypeError(f"source_of: expected a callable, got {type(function).__name__}")
    return "\n".join(_source.lines(function, _Describer(traced="<traced>").value))


def fingerprint(x: Any) -> str:
    """Hexadecimal digest of a value, equal in every process and independent of the order of dictionaries.

    Args:
        x: any nest of numbers, strings, arrays, dtypes, typed keys, containers, records, Modules and functions.
            NumPy and JAX arrays of equal dtype, shape and content count as equal; 1, 1.0 and True do not. A function
            counts by its source text; of a bound method (also a built-in one) the object it is bound to counts too.

    Returns:
        64 hexadecimal digits (SHA-256).

    Raises:
        TypeError: a leaf is a traced value.

    Example:
        >>> from jaxsci.core import provenance
        >>> provenance.fingerprint({"a": 1, "b": 2}) == provenance.fingerprint({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(_Describer().value(x).encode()).hexdigest()


class _Describer:
    """Turns values into canonical text. An object met inside itself stands as its depth, so cycles end; finished texts
    are kept, so shared parts take no second time, and so are their objects: an address must not be used again."""

    def __init__(self, traced: str | None = None):
        self.traced = traced  # what stands for a traced value, which has no text
        self.within: dict[int, int] = {}
        self.texts: dict[int, tuple[str, Any]] = {}

    def value(self, x: Any) -> str:
        """One text for any value."""
        if isinstance(x, jax.core.Tracer):
            if self.traced is not None:
                return self.traced
            raise TypeError("fingerprint: expected concrete values, got a traced one; call it outside jit and vmap")
        if isinstance(x, enum.Enum):
            return f"{type(x).__qualname__}.{x.name} = {self.value(x.value)}"
        if type(x) in _PLAIN:
            return repr(x)
        if isinstance(x, (np.ndarray, np.generic, jax.Array)):
            return self._array(x)
        if isinstance(x, (np.dtype, types.ModuleType)):
            return x.__name__ if isinstance(x, types.ModuleType) else f"dtype {x}"
        if id(x) in self.within:
            return f"<inside {self.within[id(x)]}>"
        if id(x) not in self.texts:
            self.within[id(x)] = len(self.within)
            text = self._composed(x)
            del self.within[id(x)]
            text = text if len(text) <= _LONG else f"{text[:60]}... {hashlib.sha256(text.encode()).hexdigest()}"
            self.texts[id(x)] = (text, x)
        return self.texts[id(x)][0]

    def _composed(self, x: Any) -> str:
        if x is np.random.mtrand._rand:
            return "the global numpy.random"  # seeded anew in every process
        if _source.is_function(x):
            return f"<function {hashlib.sha256(chr(10).join(_source.lines(x, self.value)).encode()).hexdigest()[:16]}>"
        if isinstance(x, type):
            return f"class {x.__module__}.{x.__qualname__}"
        kind = "" if type(x) in (dict, list, tuple, set, frozenset) else self.value(type(x))
        if isinstance(x, dict):
            items = sorted((self.value(k), self.value(v)) for k, v in x.items())
            return kind + "{" + ", ".join(f"{k}: {v}" for k, v in items) + "}"
        if isinstance(x, (set, frozenset)):
            return kind + "set{" + ", ".join(sorted(map(self.value, x))) + "}"
        if isinstance(x, (list, tuple)):
            inside = ", ".join(map(self.value, x))
            return f"{kind}[{inside}]" if isinstance(x, list) else f"{kind}({inside})"
        return f"{kind}{self._contents(x)}"

    def _array(self, x: Any) -> str:
        if isinstance(x, np.ma.MaskedArray):
            return f"masked {self._array(np.ma.getdata(x))} {self._array(np.ma.getmaskarray(x))}"
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return f"{x.dtype}{self._array(jax.random.key_data(x))}"
        x = np.asarray(x)
        head = f"{x.dtype}{list(x.shape)}"
        if x.dtype.kind == "O":
            return f"{head} {[self.value(entry) for entry in x.ravel()]}"
        if x.size <= _SHOWN and x.dtype.kind in "biufc":
            return f"{head} {x.tolist()!r}"
        return f"{head} {hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:32]}"

    def _contents(self, x: Any) -> str:
        """A record or pytree by its fields, another object by what pickle would save, the rest by its type alone."""
        if dataclasses.is_dataclass(x):
            return self.value({f.name: getattr(x, f.name, None) for f in dataclasses.fields(x)})
        if not jax.tree_util.all_leaves([x]):
            return self.value(list(jax.tree_util.default_registry.flatten_one_level(x)))
        try:
            saved = x.__reduce_ex__(4)  # for objects of plain classes: their attributes and slots
        except Exception:  # anything may come from a foreign object that cannot be saved
            return "" if " at 0x" in repr(x) else f" {x!r}"
        plain = (str, tuple, dict, type(None))
        return self.value([part if isinstance(part, plain) else list(part) for part in saved[1:]])


__all__ = ["device_description", "fingerprint", "settings", "source_of", "versions"]

entry.guard(globals())
