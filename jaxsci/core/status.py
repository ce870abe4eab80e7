"""Statuses: run-time trouble is an int32 bit set in the result, 0 = ok; exceptions happen on the host only.

A bit is a fault (the value is not what was asked for) or a notice (the value holds, and something on the way is worth
knowing); `check` raises on faults alone, `explain` tells of both. `core` owns bits 0 to 15, listed below. A room
registers its own from bit 16 with `register`, other bits than those of the rooms it builds on. Merging statuses over
time, lanes or nested solves is bitwise or, so nothing that went wrong on the way is forgotten.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxsci.core import entry

OK = 0
NONFINITE_INPUT = 1 << 0
NONFINITE_RESULT = 1 << 1
MAX_STEPS = 1 << 2
STAGNATED = 1 << 3
DIVERGED = 1 << 4
DEGENERATE = 1 << 5
OUT_OF_RANGE = 1 << 6
SINGULAR = 1 << 7
NOT_RUN = 1 << 8
NONFINITE_UPDATE = 1 << 9

FIRST_ROOM_BIT = 16
_LAST_BIT = 30  # bit 31 is the sign of an int32


class Bit(NamedTuple):
    """What one status bit means.

    Attributes:
        room: the room that owns it.
        name: what it is called in messages.
        cause: what has happened.
        remedy: what to do about it.
        notice: True if the value holds all the same.
    """

    room: str
    name: str
    cause: str
    remedy: str
    notice: bool = False


_TABLE: dict[tuple[str, int], Bit] = {}


def register(room: str, bit: int, name: str, cause: str, remedy: str, *, notice: bool = False) -> int:
    """Give bit number `bit` (16 to 30) of `room` its text; returns the mask ``1 << bit``.

    Args:
        room: its name.
        bit: its number.
        name, cause, remedy: what messages say.
        notice: the value holds; False is a fault.

    Raises:
        TypeError: `bit` is no integer or a text is none; nothing is stored.
        ValueError: a bit outside the rooms' range, or one that `room` already uses under another name.
    """
    if not isinstance(bit, int) or isinstance(bit, bool):
        raise TypeError(f"status.register: bit must be an int, got {bit!r}")
    if not all(isinstance(text, str) for text in (room, name, cause, remedy)):
        texts = (room, name, cause, remedy)
        raise TypeError(f"status.register: room, name, cause and remedy must be text, got {texts}")
    low = 0 if room == "core" else FIRST_ROOM_BIT
    high = FIRST_ROOM_BIT - 1 if room == "core" else _LAST_BIT
    if not low <= bit <= high:
        raise ValueError(f"status.register: bit of room {room!r} must lie in [{low}, {high}], got {bit}")
    known = _TABLE.get((room, bit))
    if known is not None and known.name != name:
        raise ValueError(f"status.register: bit {bit} of room {room!r} is {known.name!r} already, got {name!r}")
    _TABLE[room, bit] = Bit(room, name, cause, remedy, notice)
    return 1 << bit


for _bit, _name, _cause, _remedy in (
    (0, "non-finite input", "an input holds a NaN or an infinity", "look for it before the call"),
    (1, "non-finite result", "a NaN or an infinity arose on the way", "smaller steps, better scaling or float64"),
    (2, "step cap reached", "max_steps ran out before the tolerance was met", "raise max_steps or loosen tol"),
    (
        3,
        "stagnated",
        "the residual stopped falling above the tolerance",
        "the tolerance is below what this dtype reaches: loosen it or use float64",
    ),
    (4, "diverged", "the residual grew without bound", "the method does not converge for this problem"),
    (5, "degenerate weights", "all weights are zero, or every choice is masked", "check masks and scales"),
    (
        6,
        "out of range",
        "a value lies outside the range the algorithm is defined for",
        "see the function's docstring for the range",
    ),
    (
        7,
        "singular",
        "a pivot, diagonal entry or curvature is zero or of the wrong sign",
        "the matrix must be non-singular and, for symmetric methods, positive definite",
    ),
    (8, "not run", "this point has not been computed", "run the sweep again to continue it"),
    (
        9,
        "non-finite update",
        "loss and gradient were finite, but the new parameters or the new optimiser state were not",
        "the step was left out: lower the learning rate, clip the gradients, or use a wider dtype",
    ),
):
    register("core", _bit, _name, _cause, _remedy)


def flag(condition, bit: int | Int[Array, ""]) -> Int[Array, "..."]:
    """`bit` where `condition` holds, else 0, as int32 of its shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import status
        >>> print(status.flag(jnp.array(True), status.MAX_STEPS) == status.MAX_STEPS)
        True
    """
    return jnp.where(condition, jnp.int32(bit), jnp.int32(0))


def merge(*codes: Int[Array, "..."]) -> Int[Array, "..."]:
    """Bitwise or of statuses of equal shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import status
        >>> print(status.merge(jnp.int32(1), jnp.int32(4)))
        5
    """
    merged = jnp.asarray(codes[0], jnp.int32)
    for code in codes[1:]:
        merged = merged | jnp.asarray(code, jnp.int32)
    return merged


def reduce(codes: Int[Array, "..."], axis: int | tuple[int, ...] | None = None) -> Int[Array, "..."]:
    """Bitwise or over axes (all of them by default): the status of a batch or of a whole time series.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import status
        >>> print(status.reduce(jnp.array([0, 1, 4])))
        5
    """
    return jnp.bitwise_or.reduce(jnp.asarray(codes, jnp.int32), axis=axis)


def bits(room: str | None = None) -> list[tuple[int, Bit]]:
    """The registered bits in order: core's, then those of `room` (of every loaded room when None).

    Example:
        >>> from jaxsci.core import status
        >>> mask, text = status.bits("core")[0]
        >>> print(int(mask), text.name)
        0 non-finite input
    """
    return sorted(
        ((bit, text) for (owner, bit), text in _TABLE.items() if room is None or owner in ("core", room)),
        key=lambda entry: (entry[0], entry[1].room),
    )


def faults(code: int | np.ndarray | Array, room: str | None = None) -> int | np.ndarray:
    """A status without its notices, on the host: 0 where the value is what was asked for.

    Args:
        code: one status or an array of them, integers.
        room: whose bits from 16 on are meant; None: a bit is a notice if every loaded room that owns it says so.

    Example:
        >>> from jaxsci import gp
        >>> from jaxsci.core import status
        >>> status.faults(gp.JITTERED), status.faults(gp.JITTERED | status.MAX_STEPS)
        (0, 4)
    """
    kinds: dict[int, bool] = {}
    for bit, text in bits(room):
        kinds[bit] = kinds.get(bit, True) and text.notice
    mask = sum(1 << bit for bit, notice in kinds.items() if notice)
    return code & ~mask if isinstance(code, int) else np.asarray(np.asarray(code).astype(np.int64) & ~np.int64(mask))


def explain(code: int | np.ndarray | Array, room: str | None = None) -> str:
    """Say in words what a status means: name, cause and remedy of every bit that is set.

    Args:
        code: one integer status, or an array of them: then each bit is followed by how many entries have it.
        room: whose bits from 16 on are meant, e.g. ``"linear"``; None lists every loaded room's reading.

    Example:
        >>> import jaxsci
        >>> print(jaxsci.explain(4))
        step cap reached: max_steps ran out before the tolerance was met; raise max_steps or loosen tol

    Raises:
        TypeError: no integers.
    """
    codes = np.asarray(code)
    if codes.dtype.kind not in "iu":
        raise TypeError(f"explain: expected an integer status or an array of them, got {type(code).__name__}")
    code = int(np.bitwise_or.reduce(codes.astype(np.int64), axis=None)) if codes.size else OK
    if code == 0:
        return "ok"
    lines, known = [], 0
    for bit, text in bits(room):
        if code >> bit & 1:
            known |= 1 << bit
            owner = "" if text.room == "core" else f" [{text.room}]"
            notice = ", a notice" if text.notice else ""
            share = f" ({np.count_nonzero(codes >> bit & 1)} of {codes.size})" if codes.ndim else ""
            lines.append(f"{text.name}{owner}{notice}{share}: {text.cause}; {text.remedy}")
    unknown = code & ~known
    if unknown:
        lines.append(f"unknown bits {unknown:#x}: set by a room that is not loaded here")
    return "\n".join(lines)


class StatusError(RuntimeError):
    """Raised by `check`: some entry of a result carries a fault."""


def names_status(name: str) -> bool:
    """Whether a field of this name holds status bits: ``status``, or one that came through a protocol and keeps a field
    of its own, such as ``policy_status``; the last part of a dotted name counts.

    Example:
        >>> from jaxsci.core import status
        >>> print(status.names_status("policy_status"), status.names_status("value"))
        True False
    """
    last = name.split(".")[-1]
    return last == "status" or last.endswith("_status")


def _statuses(x: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that `names_status` in a nest of records, mappings and sequences, with its path."""
    if hasattr(x, "data_vars"):  # an xarray.Dataset, recognised without importing xarray
        for name in x.data_vars:
            if names_status(str(name)):
                yield str(name), x[name]
    elif hasattr(x, "_fields"):
        for name in x._fields:
            value = getattr(x, name)
            if names_status(str(name)):
                yield f"{path}{name}", value
            else:
                yield from _statuses(value, f"{path}{name}.")
    elif isinstance(x, dict):
        for name, value in x.items():
            if names_status(str(name)):
                yield f"{path}{name}", value
            else:
                yield from _statuses(value, f"{path}{name}.")
    elif dataclasses.is_dataclass(x) and not isinstance(x, type):
        fields = {f.name: getattr(x, f.name, None) for f in dataclasses.fields(x)}
        yield from _statuses(fields, path)
    elif isinstance(x, (list, tuple)):
        for i, value in enumerate(x):
            yield from _statuses(value, f"{path}{i}.")


def _coordinates(status: Any, index: tuple[int, ...]) -> str:
    """Name one failing entry: by coordinate for a DataArray, else by index."""
    if hasattr(status, "dims"):
        # A coordinate without a dimension is where `isel` or `sel` has cut.
        names = [f"{name}={c.values}" for name, c in status.coords.items() if not c.dims]
        for dim, i in zip(status.dims, index):
            along = [name for name, c in status.coords.items() if c.dims == (dim,)]  # zipped axes share a dimension
            names += [f"{name}={status.coords[name].values[i]}" for name in along] or [f"{dim}={i}"]
        return ", ".join(names) or "the result"
    return f"[{', '.join(map(str, index))}]" if index else "the result"


def _is_status(x: Any) -> bool:
    """Whether `x` is a status or an array of them itself."""
    return hasattr(x, "dtype") and hasattr(x, "shape") and jnp.issubdtype(x.dtype, jnp.integer)


def check(x: Any, *, room: str | None = None, max_listed: int = 5) -> Any:
    """Return `x` unchanged if no status in it holds a fault, else raise on the host and name the failing entries.

    Notices pass: `explain` tells them.

    Args:
        x: a result (a record with a field ``status`` or, e.g., ``policy_status``), a batch of them, a nest of them, an
            `xarray.Dataset`, or the statuses themselves.
        room: passed to `explain`.
        max_listed: how many failing entries the message names.

    Raises:
        StatusError: some status holds a fault; the message names the entries by coordinate or index.
        ValueError: `x` holds no status at all.
        TypeError: `x` is traced; inside a compiled function read ``status`` instead.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import check, linear
        >>> op = linear.operators.shifted_laplacian((4, 4))
        >>> result = linear.solve(op, jnp.ones((4, 4)), method=linear.methods.sor(1.5), tol=1e-4)
        >>> print(check(result) is result)
        True
    """
    found = [("status", x)] if _is_status(x) else list(_statuses(x))
    if not found:
        raise ValueError(f"check: expected a result with a field 'status', got {type(x).__name__} without one")
    lines = []
    for path, status in found:
        values = getattr(status, "values", status)
        if isinstance(values, jax.core.Tracer):
            raise TypeError("check: runs on the host; inside jit or vmap read the field 'status' of the result")
        codes = np.asarray(values).astype(np.int64)
        failing = np.argwhere(faults(codes, room) != 0)
        if len(failing):
            lines.append(f"{path}: {len(failing)} of {codes.size} failed")
            for index in failing[:max_listed]:
                code = int(codes[tuple(index)])
                text = explain(code, room).replace("\n", " | ")
                lines.append(f"  {_coordinates(status, tuple(int(i) for i in index))}: {text}")
            if len(failing) > max_listed:
                lines.append(f"  and {len(failing) - max_listed} more")
    if lines:
        raise StatusError("\n".join(lines))
    return x


__all__ = [
    "DEGENERATE",
    "DIVERGED",
    "MAX_STEPS",
    "NONFINITE_INPUT",
    "NONFINITE_RESULT",
    "NONFINITE_UPDATE",
    "NOT_RUN",
    "OK",
    "OUT_OF_RANGE",
    "SINGULAR",
    "STAGNATED",
    "Bit",
    "StatusError",
    "bits",
    "check",
    "explain",
    "faults",
    "flag",
    "merge",
    "names_status",
    "reduce",
    "register",
]

entry.guard(globals())
