"""What travels to workers: small things with every chunk, large arrays once.

A job is pickled with its large arrays left out. Each of them is a file, named by its contents, in the folder of the
sweep or in a temporary one; a worker that sees the folder reads it there, once. One that does not says so and gets the
bytes with its chunk. Files end when the run ends; those of a run that was killed go with the next run.
"""

import hashlib
import io
import os
import pathlib
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci.core.extras import require
from jaxsci.core.keys import generator, wrap

LARGE = 1 << 18  # bytes that do not travel with every chunk


class Packed(NamedTuple):
    """A pickled value.

    Attributes:
        data: the pickle.
        blobs: digests of what it leaves out.
    """

    data: bytes
    blobs: tuple[str, ...]


def file_of(folder: str | pathlib.Path, digest: str) -> pathlib.Path:
    """Where a large thing is; the name is one that `Store.tidy` clears away."""
    return pathlib.Path(folder) / f".sweep-{digest}.tmp"


class Blobs:
    """Large things as files, for the time of a run."""

    def __init__(self, folder: pathlib.Path | None):
        self._temporary = None if folder is not None else tempfile.mkdtemp(prefix="jaxsci-sweep-")
        self.folder = pathlib.Path(folder or self._temporary).absolute()
        self._written: set[str] = set()
        self._seen: dict[int, tuple[Any, str]] = {}

    def put(self, data: bytes) -> str:
        """The digest by which some bytes are found; equal ones are written once."""
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._written:
            path = file_of(self.folder, digest)
            half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            half.write_bytes(data)  # it need not outlive this process, so nothing waits for the disk
            self._written.add(digest)
            os.replace(half, path)
        return digest

    def put_array(self, array: Any) -> str:
        """The same of an array; one that is met again is not read again."""
        if id(array) not in self._seen:
            self._seen[id(array)] = array, self.put(pickle.dumps(np.asarray(array), protocol=5))
        return self._seen[id(array)][1]

    def read(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Contents for a worker that does not see the files."""
        return {digest: file_of(self.folder, digest).read_bytes() for digest in digests}

    def close(self) -> None:
        """Remove the files."""
        for digest in self._written:
            file_of(self.folder, digest).unlink(missing_ok=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree)


def pack(value: Any, blobs: Blobs) -> Packed:
    """Pickle anything that cloudpickle takes, and what it does not: structures of pytrees, typed keys."""
    cloudpickle = require("cloudpickle", "distributed", "sweep.run(executor=...)")
    left_out: dict[str, None] = {}

    class Pickler(cloudpickle.Pickler):
        def persistent_id(self, x):
            # objects hide in arrays of dtype object, whose bytes are addresses
            if type(x) is np.ndarray and x.nbytes > LARGE and not x.dtype.hasobject:
                kind = "numpy"
            elif _is_plain(x) and x.nbytes > LARGE:
                kind = "jax"
            else:
                return None
            digest = blobs.put_array(x)
            left_out[digest] = None
            return kind, digest

        def reducer_override(self, x):
            if isinstance(x, jax.tree_util.PyTreeDef):  # pickles by itself only where all nodes are Python's own
                return _structure, (jax.tree.unflatten(x, [0] * x.num_leaves),)
            if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return wrap, (np.asarray(jax.random.key_data(x)), generator(x))
            return super().reducer_override(x)

    buffer = io.BytesIO()
    Pickler(buffer, protocol=5).dump(value)
    return Packed(buffer.getvalue(), tuple(left_out))


def _is_plain(x: Any) -> bool:
    """Whether `x` is an array of JAX that NumPy can hold."""
    return isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.extended)


def unpack(data: bytes, blob: Callable[[str], np.ndarray]) -> Any:
    """What was packed; `blob` gives an array that was left out."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, found):
            kind, digest = found
            return blob(digest) if kind == "numpy" else jnp.asarray(blob(digest))

    return Unpickler(io.BytesIO(data)).load()
