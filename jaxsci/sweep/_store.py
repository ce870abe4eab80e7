"""The folder of a sweep: a record of what is swept, and chunk files that appear whole or not at all.

``sweep.json`` holds the space, the settings that were chosen and the fingerprint; chunks are npz files written under
another name, flushed to the disk and renamed, with a checksum on every array. Whatever moment a process is killed at,
the next one finds a set of whole chunks. ``sweep.lock`` is held by the running process and falls when it dies.
"""

import errno
import json
import os
import pathlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxsci.core import files

_RECORD, _LOCK, RESULTS = "sweep.json", "sweep.lock", "results.nc"
CHUNKS = "sweep-chunks"
_FORMAT = 2


class SweepMismatch(ValueError):
    """The folder holds another sweep: another space, function, version or dtype. The message says what differs."""


class Identity(NamedTuple):
    """All that must agree for two runs to be the same sweep.

    Attributes:
        space: the space as plain data.
        programs: digest of the program for each combination of static values (of the values themselves in a loop), by
            its labels as JSON text.
        function: source text of the point function; it decides only in a loop, which has no program.
        version: text of the user's own; None where none was given.
        versions: versions of Python, NumPy, JAX and this package.
        settings: settings of JAX that change numbers, and the platform.
        allow_nan: outputs whose NaN or infinite entries are no trouble, sorted.
    """

    space: dict[str, Any]
    programs: dict[str, str]
    function: str
    version: str | None
    versions: dict[str, str]
    settings: dict[str, Any]
    allow_nan: list[str]


class Record(NamedTuple):
    """What ``sweep.json`` says of a folder.

    Attributes:
        identity: whose chunks there are.
        batch: "vmap", "map" or "loop".
        lanes: points per device and dispatch; kept on resume, so that results are bit-identical.
        variables: [shape, dtype] of each output; None in a loop whose outputs are not known yet.
        chunks: name of the subfolder with the chunk files.
        presentation: labels as plain data, see `_dataset.Presentation`.
        provenance: where the numbers come from: function, versions, device, seeds, edits, start and end.
    """

    identity: Identity
    batch: str
    lanes: int
    variables: dict[str, Any] | None
    chunks: str
    presentation: dict[str, Any]
    provenance: dict[str, Any]


# --- chunks ------------------------------------------------------------------------------------------------


def read_chunk(path: pathlib.Path) -> dict[str, Any] | None:
    """Arrays of a chunk with its notes, or None if the file is not whole (every array carries a CRC) or not there.

    A file that the system does not let us read now (rights, too many open files, a failing disk) raises: it may be
    whole, and what is taken for damaged is removed.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        notes = json.loads(found.pop("notes").tobytes())
        values = {n[2:]: a for n, a in found.items() if n.startswith("v.")}
        return {"index": found["index"], "status": found["status"], "values": values, "notes": notes}
    except OSError as error:
        if error.errno not in (None, errno.EINVAL, errno.ENOENT):
            raise
        return None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return None


# --- the folder --------------------------------------------------------------------------------------------


class Store:
    """A folder opened for writing. Context manager: the lock is held until it is left."""

    def __init__(self, function: str, folder: str | os.PathLike):
        self.function, self.folder = function, pathlib.Path(files.named(f"sweep.{function}", folder))
        self._lock = files.locked(f"sweep.{function}", self.folder, _LOCK)

    def __enter__(self) -> "Store":
        self._lock.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._lock.__exit__(*error)

    def record(self) -> Record | None:
        """What ``sweep.json`` says, None in a new folder."""
        return read_record(self.folder)

    def begun(self, overwrite: bool) -> Record | None:
        """The record to go on from, None to start afresh; foreign results are replaced only with `overwrite`."""
        record = None if overwrite else self.record()
        if record is None and not overwrite and (self.folder / RESULTS).exists():
            raise ValueError(
                f"sweep.{self.function}: {str(self.folder)!r} holds a {RESULTS} that no sweep here has written; choose "
                "another folder, or pass overwrite=True to replace it"
            )
        return record

    def write_record(self, record: Record) -> None:
        """Replace ``sweep.json`` and drop what it no longer refers to."""
        plain = {**record._asdict(), "identity": record.identity._asdict()}
        files.write_json(self.folder / _RECORD, {"format": _FORMAT, **plain})
        self.chunks(record).mkdir(exist_ok=True)
        self.tidy(record)

    def tidy(self, record: Record) -> None:
        """Remove half-written files and chunk folders that belong to no record."""
        for path in self.folder.glob(f"{CHUNKS}*"):
            if path.name != record.chunks:
                shutil.rmtree(path, ignore_errors=True)
        for path in [*self.folder.glob(".*.tmp"), *self.chunks(record).glob(".*.tmp")]:
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget the sweep: remove its own files and nothing else. The record goes last: chunks that a kill leaves
        behind must not be without the record that says whose they are."""
        for path in self.folder.glob(f"{CHUNKS}*"):
            shutil.rmtree(path)
        (self.folder / RESULTS).unlink(missing_ok=True)
        (self.folder / _RECORD).unlink(missing_ok=True)

    def empty_chunks(self, record: Record) -> None:
        """Make the chunk folder of a record that is not written yet, without what a killed run has left there."""
        path = self.chunks(record)
        if path.exists():
            shutil.rmtree(path)
        path.mkdir()

    def chunks(self, record: Record) -> pathlib.Path:
        """Where the chunk files of a record are."""
        return files.inside(f"sweep.{self.function}", self.folder, record.chunks)

    def write_chunk(
        self, record, index: np.ndarray, values: dict[str, np.ndarray], codes: np.ndarray, notes: dict
    ) -> None:
        """One chunk file, named after its first point and its size."""
        path = self.chunks(record) / f"{int(index[0]):010d}-{len(index)}.npz"
        text = np.frombuffer(json.dumps(notes).encode(), np.uint8)
        arrays = {f"v.{name}": array for name, array in values.items()}

        def write(temporary):
            with open(temporary, "wb") as f:
                np.savez(f, index=index, status=codes, notes=text, **arrays)

        path.parent.mkdir(exist_ok=True)
        files.write_atomic(path, write)


def read_record(folder: str | os.PathLike) -> Record | None:
    """The record of a sweep's folder, None if there is none."""
    path = pathlib.Path(files.named("sweep", folder)) / _RECORD
    if not path.exists():
        return None
    try:
        plain = json.loads(path.read_text())
        known = plain.pop("format", None)
    except (ValueError, AttributeError, TypeError) as error:  # no text, no JSON, no dictionary
        raise _damaged(path, error) from error
    if known != _FORMAT:
        raise SweepMismatch(f"sweep: {path} has another format; this version reads {_FORMAT}. Use another folder")
    try:
        return Record(**{**plain, "identity": Identity(**plain["identity"])})
    except (TypeError, KeyError) as error:  # fields that are missing or unknown
        raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, error: Exception) -> ValueError:
    return ValueError(
        f"sweep: {path} is damaged ({type(error).__name__}: {error}); use a copy of it, choose another folder, "
        "or pass overwrite=True to compute anew"
    )


def read_chunks(folder: str | os.PathLike, record: Record) -> Iterator[dict[str, Any]]:
    """Whole chunks of a folder, in order; files that are damaged or vanish meanwhile are passed over."""
    for path in sorted(files.inside("sweep.load", folder, record.chunks).glob("*.npz")):
        chunk = read_chunk(path)
        if chunk is not None:
            yield chunk
