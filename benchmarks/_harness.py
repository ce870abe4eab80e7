"""How every benchmark is run: compile apart from run, interleaved samples, medians, rows, one table, one JSON form."""

import argparse
import datetime
import errno
import importlib
import json
import math
import os
import pathlib
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from jaxsci.core import provenance

KEYS = ("name", "ours", "peer_name", "peer", "ratio", "unit", "accuracy", "target", "ok", "note")
_SAMPLE_SECONDS = 5e-3  # a sample repeats its call until it lasts this long: far above the clock's resolution
_clock = time.perf_counter


class Candidate(NamedTuple):
    """Something to time: `call()` does the work once; `compile_seconds` were spent beforehand, None if nothing was."""

    call: Callable[[], Any]
    compile_seconds: float | None = None


def compiled(function: Callable, *args: Any) -> Candidate:
    """Lower and compile `function` for `args`, with the seconds that took. `function` may be jitted already."""
    start = _clock()
    program = (function if hasattr(function, "lower") else jax.jit(function)).lower(*args).compile()
    seconds = _clock() - start
    return Candidate(lambda: program(*args), seconds)


def host(function: Callable, *args: Any) -> Candidate:
    """A function that needs no compilation: NumPy, SciPy, a peer with its own runtime."""
    return Candidate(lambda: function(*args))


def installed(module: str) -> types.ModuleType | None:
    """A peer's module, None if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the peer is there and something that it needs is not
        return None


def row(
    name: str,
    ours: float | None,
    *,
    unit: str,
    peer_name: str | None = None,
    peer: float | None = None,
    ratio: float | None = None,
    accuracy: float | None = None,
    target: float | None = None,
    ok: bool | None = None,
    note: str = "",
) -> dict[str, Any]:
    """One row; `ok` follows from `ratio` and `target` unless it is given."""
    if ok is None and target is not None and ratio is not None:
        ok = bool(ratio >= target)
    values = (name, ours, peer_name, peer, ratio, unit, accuracy, target, ok, note)
    return dict(zip(KEYS, (_plain(value) for value in values), strict=True))


def compare(
    name: str,
    ours: Candidate,
    peer: Candidate | None = None,
    *,
    peer_name: str | None = None,
    amount: float | None = None,
    unit: str = "s",
    accuracy: float | Callable[[Any, Any], float] | None = None,
    target: float | None = None,
    seconds: float = 1.0,
    note: str = "",
) -> dict[str, Any]:
    """Time ours against a peer, sample by sample in turn, and make the row.

    Args:
        name: what is done, with its size.
        ours: see `compiled` and `host`.
        peer: the same work done otherwise; None if it is not installed.
        peer_name: what the peer is, with its version if it matters.
        amount: work of one call in units of ``unit`` × seconds; the figures are then rates. None: seconds a call.
        unit: "s", or the unit of the rate, e.g. "GB/s".
        accuracy: a figure, or a function of both outputs (the peer's is None without a peer).
        target: what the ratio shall reach.
        seconds: time to spend on samples of each side, beyond one warm-up call.
        note: what `accuracy` measures, and anything a reader must know.

    Returns:
        The row; ``ratio`` is the peer's median time over ours, so larger is better.
    """
    candidates = [ours] if peer is None else [ours, peer]
    outputs = [jax.block_until_ready(candidate.call()) for candidate in candidates]
    times = _interleaved([candidate.call for candidate in candidates], seconds)
    medians = [statistics.median(samples) for samples in times]
    figures = [median if amount is None else amount / median for median in medians]
    notes = [note, _compilation(ours, peer), f"{len(times[0])} samples, quartiles {_spread(times[0])}"]
    if peer is None and peer_name is not None:
        notes.insert(0, f"{peer_name} is not installed here")
    if callable(accuracy):
        accuracy = float(accuracy(outputs[0], outputs[1] if peer is not None else None))
    return row(
        name, figures[0], unit=unit, peer_name=peer_name, peer=figures[1] if peer is not None else None,
        ratio=medians[1] / medians[0] if peer is not None else None, accuracy=accuracy, target=target,
        note="; ".join(text for text in notes if text),
    )  # fmt: skip


def _interleaved(calls, seconds):
    """Seconds a call, as samples of each side in turn; who goes first alternates, so a drift of the machine cancels."""
    repeats = []
    for call in calls:
        once = _timed(call, 1)
        repeats.append(max(1, math.ceil(_SAMPLE_SECONDS / max(once, 1e-9))))
    times = [[] for _ in calls]
    spent = turn = 0
    while turn < 3 or spent < seconds * len(calls):
        order = range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls)))
        for i in order:
            elapsed = _timed(calls[i], repeats[i])
            times[i].append(elapsed / repeats[i])
            spent += elapsed
        turn += 1
    return times


def _timed(call, repeats):
    start = _clock()
    for _ in range(repeats):
        output = call()
    jax.block_until_ready(output)
    return _clock() - start


def _spread(samples):
    low, _, high = statistics.quantiles(samples, n=4)
    return f"{low:.3g} to {high:.3g} s"


def _compilation(ours, peer):
    parts = [f"{c.compile_seconds:.3g} s" for c in (ours, peer) if c is not None and c.compile_seconds is not None]
    return f"compiled in {', peer in '.join(parts)}" if ours.compile_seconds is not None else ""


def _plain(value):
    """Python's own numbers, which JSON knows; what is not finite becomes None."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        **provenance.device_description(),
        **provenance.versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows as aligned text, the notes below."""
    head = [key for key in KEYS if key != "note"]
    lines = [head] + [[_cell(line[key]) for key in head] for line in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    out = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    out.insert(1, "  ".join("-" * width for width in widths))
    out += [f"  {line['name']}: {line['note']}" for line in rows if line["note"]]
    return "\n".join(out)


def _cell(value):
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)


def _draft(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.tmp")


def write_json(file: str | pathlib.Path, command: str, rows: list[dict[str, Any]]) -> None:
    """Write machine, command and rows; the file appears complete or not at all."""
    path = pathlib.Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    draft.write_text(json.dumps({"machine": machine(), "command": command, "rows": rows}, indent=1, allow_nan=False))
    draft.replace(path)


def main(subject: str, rows: Callable[[bool], Iterable[dict[str, Any]]], argv: list[str] | None = None) -> int:
    """The command line of one subject; 0 when it ran, whatever the figures."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{subject}")
    add_options(parser)
    options = parser.parse_args(argv)
    check_writable(parser, options)
    done = []
    try:
        collect(subject, rows, options.fast, done)
    finally:  # a subject that raises half-way has measured something
        if done or sys.exc_info()[0] is None:
            report(f"benchmarks.{subject}", done, options)
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--fast`` and ``--json``, the same for one subject and for all."""
    parser.add_argument("--fast", action="store_true", help="small sizes, within 60 s on two cores")
    parser.add_argument("--json", metavar="FILE", help="write machine and rows to FILE")


def check_writable(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse a FILE that cannot be written before minutes are spent, not after."""
    if options.json is None:
        return
    path = pathlib.Path(options.json)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        probe = _draft(path)
        probe.touch()
        probe.unlink()
    except OSError as error:
        parser.error(f"cannot write --json {options.json!r} ({error.strerror})")


def collect(
    subject: str, rows: Callable[[bool], Iterable[dict[str, Any]]], fast: bool, done: list[dict[str, Any]]
) -> None:
    """Append all rows of a subject to `done`, with a sign of life for each; those there stay if the next one raises."""
    for line in rows(fast):
        if tuple(line) != KEYS:
            raise ValueError(f"benchmarks.{subject}: a row must have the keys {KEYS}, got {tuple(line)}")
        print(f"[{subject}] {line['name']}: {_cell(line['ours'])} {line['unit']}", file=sys.stderr, flush=True)
        done.append(line)


def report(module: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table and write the JSON file if one is asked for."""
    print(table(rows))
    if options.json:
        write_json(options.json, f"python -m {module}{' --fast' if options.fast else ''}", rows)
