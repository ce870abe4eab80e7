"""Arrays in an npz file with a header: what kind of thing they are, of which version and configuration, their shapes,
dtypes and checksums. Nothing is pickled.

What is read back is exactly what was written, or the file is refused with its path and the name of what is wrong: a
file of another kind, one written by a newer version, an array that is missing, left over, of another shape or dtype,
and any flipped bit.
"""

import errno
import hashlib
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxsci.core import entry, files, provenance

_HEADER, _FORMAT = "header", "jaxsci.arrays.1"
# of a zip file with flipped bits: also "encrypted" entries and unknown compressions; AttributeError: one bare array
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def save(
    path: str | os.PathLike,
    arrays: Mapping[str, Any],
    *,
    kind: str,
    version: int = 1,
    config: Any = None,
    caller: str = "arrays.save",
) -> None:
    """Write arrays under one header; the file appears whole or not at all.

    Args:
        path: of the npz file; its folder must be there.
        arrays: name -> array of numbers or Booleans, on any device.
        kind: what the arrays are, e.g. ``"diffusion.table"``.
        version: of the layout of this kind, from 1; readers refuse newer ones.
        config: what the arrays belong to; stored as its fingerprint (see `provenance.fingerprint`).
        caller: the function that messages name.

    Raises:
        TypeError: `path` is no path, or an array is traced or holds objects or strings.
        OSError: the file cannot be written.

    Example:
        >>> import jax.numpy as jnp
        >>> import os, tempfile
        >>> from jaxsci.core import arrays
        >>> path = os.path.join(tempfile.mkdtemp(), "a.npz")
        >>> arrays.save(path, {"x": jnp.arange(3.0)}, kind="example")
        >>> print(arrays.load(path, kind="example")["x"])
        [0. 1. 2.]
    """
    path = _path(caller, path)
    found = {name: _host(name, array) for name, array in arrays.items()}
    if _HEADER in found:
        raise ValueError(f"arrays.save: {_HEADER!r} is the name of the header; rename that array")
    header = {
        "format": _FORMAT,
        "kind": kind,
        "version": version,
        "config": None if config is None else provenance.fingerprint(config),
        "arrays": {name: [str(a.dtype), list(a.shape), _checksum(a)] for name, a in found.items()},
    }
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)

    def write(temporary: pathlib.Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, **{_HEADER: text}, **{name: _storable(a) for name, a in found.items()})

    files.write_atomic(path, write)


def load(
    path: str | os.PathLike,
    *,
    kind: str,
    version: int = 1,
    config: Any = None,
    names: Iterable[str] = (),
    caller: str = "arrays.load",
) -> dict[str, np.ndarray]:
    """Read what `save` wrote.

    Args:
        path: of the file.
        kind: what it must hold.
        version: the newest that the caller understands.
        config: what the arrays must belong to; None compares nothing.
        names: names that must be there.
        caller: the function that messages name.

    Returns:
        Name -> NumPy array, equal bit by bit to what was saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another kind, newer, of another configuration, or lacks an array; the
            message says the path and what is wrong.
        TypeError: `path` is no path.

    Example:
        >>> import jax.numpy as jnp
        >>> import os, tempfile
        >>> from jaxsci.core import arrays
        >>> path = os.path.join(tempfile.mkdtemp(), "a.npz")
        >>> arrays.save(path, {"x": jnp.arange(3.0)}, kind="example")
        >>> print(arrays.load(path, kind="example")["x"])
        [0. 1. 2.]
    """
    path = _path(caller, path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in archive.files}
        header = json.loads(stored.pop(_HEADER).tobytes())
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # not there, or not readable now
            raise
        raise ValueError(f"{caller}: {path} holds no {kind}, or is damaged ({error})") from error
    except _DAMAGED as error:
        raise ValueError(f"{caller}: {path} holds no {kind}, or is damaged ({error})") from error
    wrong = f"{caller}: {path} "
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ValueError(f"{wrong}holds no {kind}: its header has another format")
    if header["kind"] != kind:
        raise ValueError(f"{wrong}holds a {header['kind']}, expected a {kind}")
    if header["version"] > version:
        raise ValueError(f"{wrong}has version {header['version']} of {kind}, this program reads up to {version}")
    if config is not None and header["config"] != provenance.fingerprint(config):
        raise ValueError(f"{wrong}belongs to another configuration")
    for name in names:
        if name not in header["arrays"]:
            raise ValueError(f"{wrong}lacks the array {name!r}; it holds {', '.join(header['arrays']) or 'none'}")
    found = {}
    for name, (dtype, shape, checksum) in header["arrays"].items():
        if name not in stored:
            raise ValueError(f"{wrong}is damaged: the array {name!r} of its header is missing")
        array = stored.pop(name)
        if str(array.dtype) != dtype and array.dtype.itemsize == np.dtype(dtype).itemsize:
            array = array.view(dtype)
        if str(array.dtype) != dtype or list(array.shape) != shape or _checksum(array) != checksum:
            raise ValueError(f"{wrong}is damaged: the array {name!r} is not the one that was saved")
        found[name] = array
    if stored:
        raise ValueError(f"{wrong}is damaged: its header does not know the array {min(stored)!r}")
    return found


def _path(function: str, path: Any) -> pathlib.Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{function}: expected a path, got {type(path).__name__}")
    return pathlib.Path(files.named(function, path))


def _host(name: str, array: Any) -> np.ndarray:
    if isinstance(array, jax.core.Tracer):
        raise TypeError(f"arrays.save: array {name!r} is traced; return it and save it outside compiled code")
    array = np.asarray(array)
    if array.dtype.kind in "OUSMm":
        raise TypeError(f"arrays.save: array {name!r} must hold numbers or Booleans, got dtype {array.dtype}")
    return array


def _storable(array: np.ndarray) -> np.ndarray:
    """Small floats of JAX have no name in npz files: their bits travel as integers."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def _checksum(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


__all__ = ["load", "save"]

entry.guard(globals())
