"""Files that appear whole or not at all, one writer a folder, and paths that stay inside their folder."""

import contextlib
import errno
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from jaxsci.core import entry


def write_atomic(path: str | os.PathLike, write: Callable[[pathlib.Path], Any]) -> None:
    """Let `write(temporary path)` make a file, then give it its name: readers see all of it or nothing.

    The data and the name have reached the disk when this returns. A kill on the way leaves the file that was there
    before and one named ``.NAME.PID.tmp``; an error removes the latter.

    Args:
        path: of the file.
        write: gets the path of a file beside it.

    Raises:
        OSError: the file cannot be written, e.g. on a full disk; the message names it.

    Example:
        >>> import os, tempfile
        >>> from jaxsci.core import files
        >>> path = os.path.join(tempfile.mkdtemp(), "a.txt")
        >>> _ = files.write_atomic(path, lambda temporary: temporary.write_text("whole"))
        >>> print(os.path.getsize(path))
        5
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"cannot write ({error.strerror or error}); what was written before is kept", str(path)
        ) from error
    except Exception:
        temporary.unlink(missing_ok=True)
        raise
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)  # the name itself must reach the disk
    finally:
        os.close(handle)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Plain data as JSON text, written by `write_atomic`.

    Example:
        >>> import os, tempfile
        >>> from jaxsci.core import files
        >>> path = os.path.join(tempfile.mkdtemp(), "a.json")
        >>> files.write_json(path, {"x": 1})
        >>> print(os.path.exists(path))
        True
    """
    write_atomic(path, lambda temporary: temporary.write_text(json.dumps(value)))


def named(function: str, path: str | os.PathLike) -> str | os.PathLike:
    """The path of a file or folder as the user gave it; empty text is none, though the system takes it for ``"."``.

    Raises:
        ValueError: empty text.

    Example:
        >>> from jaxsci.core import files
        >>> print(files.named("load", "a.npz"))
        a.npz
    """
    if os.fspath(path) == "":
        raise ValueError(f"{function}: expected a path, got empty text; '.' is the folder where Python runs")
    return path


def inside(function: str, folder: str | os.PathLike, name: str) -> pathlib.Path:
    """The path of `name`, as a file says it, in the folder where that file lies.

    Args:
        function: named by the error.
        folder: the folder.
        name: a relative path.

    Raises:
        ValueError: the path is absolute or leads out of the folder.

    Example:
        >>> from jaxsci.core import files
        >>> print(files.inside("load", "folder", "part/a.npz").name)
        a.npz
    """
    folder, path = pathlib.Path(folder), pathlib.PurePath(str(name))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{function}: {str(folder)!r} names the path {str(name)!r}, which leads out of the folder")
    return folder / path


@contextlib.contextmanager
def locked(function: str, folder: str | os.PathLike, name: str) -> Iterator[None]:
    """Make a folder and hold its lock: one writer at a time.

    The system drops the lock of a process that died, so none is ever left behind; the file `name` stays, since removing
    it would race with the next process. Where the file system has no locks, that is a warning.

    Args:
        function: named by messages.
        folder: is made if it is not there.
        name: of the lock file.

    Raises:
        ValueError: `folder` is empty text.
        OSError: the folder cannot be written; the message names it.
        RuntimeError: another process holds the lock; the message names it.

    Example:
        >>> import os, tempfile
        >>> from jaxsci.core import files
        >>> folder = tempfile.mkdtemp()
        >>> with files.locked("run", folder, "run.lock"):
        ...     print(os.listdir(folder))
        ['run.lock']
    """
    folder = pathlib.Path(named(function, folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"{function}: cannot write into {str(folder)!r} ({error.strerror or error}); choose another folder"
        ) from error
    handle = _take(function, folder, name)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _take(function: str, folder: pathlib.Path, name: str) -> int | None:
    try:
        import fcntl
    except ImportError:  # no such locks on this system: two writers would compute twice, not corrupt
        return None
    handle = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(handle, 64).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            warnings.warn(
                f"{function}: the file system of {str(folder)!r} has no locks ({error.strerror}): make sure that no "
                "other process writes there",
                stacklevel=6,
            )
            return None
        raise RuntimeError(
            f"{function}: process {owner} is writing into {str(folder)!r}; wait, stop it, or choose another folder"
        ) from error
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    return handle


__all__ = ["inside", "locked", "named", "write_atomic", "write_json"]

entry.guard(globals())
