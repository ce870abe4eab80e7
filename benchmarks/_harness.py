"""How every benchmark is run: compile apart from run, interleaved samples, medians, rows, one table, one JSON form."""

import argparse
import datetime
import errno
import json
import math
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from benchmarks._peers import Failed, Missing, Outside, PeerError, Peers, trouble_with
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
    """A function of this process that needs no compilation."""
    return Candidate(lambda: function(*args))


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
    within: float | None = None,
    ok: bool | None = None,
    trouble: Missing | Failed | None = None,
    note: str = "",
) -> dict[str, Any]:
    """One row; unless `ok` is given it says whether the row's promises hold: `target` for `ratio`, `within` for
    `accuracy`. False where one is broken or the peer failed, None where there is none or one could not be judged."""
    if ok is None:
        kept = [None if ratio is None else ratio >= target] if target is not None else []
        kept += [None if accuracy is None else accuracy <= within] if within is not None else []
        kept += [False] if isinstance(trouble, Failed) else []
        ok = False if False in kept else None if None in kept or not kept else True
    notes = [str(trouble) if trouble else "", note, "" if within is None else f"accuracy to be within {within:g}"]
    values = (name, ours, peer_name, peer, ratio, unit, accuracy, target, ok, "; ".join(text for text in notes if text))
    return dict(zip(KEYS, (_plain(value) for value in values), strict=True))


def compare(
    name: str,
    ours: Candidate,
    peer: Candidate | Outside | Missing | Failed | None = None,
    *,
    peer_name: str | None = None,
    amount: float | None = None,
    unit: str = "s",
    accuracy: float | Callable[[Any, Any], float] | None = None,
    target: float | None = None,
    within: float | None = None,
    seconds: float = 1.0,
    note: str = "",
) -> dict[str, Any]:
    """Time ours against a peer, sample by sample in turn, and make the row.

    Args:
        name: what is done, with its size.
        ours: see `compiled` and `host`.
        peer: the same work done otherwise: here, or from `Peers.find` by another package in its own process. None: ours
            is measured alone.
        peer_name: what the peer is.
        amount: work of one call in units of ``unit`` × seconds; the figures are then rates. None: seconds a call.
        unit: "s", or the unit of the rate, e.g. "GB/s".
        accuracy: a figure, or a function of both outputs. The peer's is None if it is missing or failed; the function
            then returns what can be said without it, or None.
        target: what the ratio shall reach.
        within: what the accuracy shall not exceed.
        seconds: time to spend on samples of each side, beyond one warm-up call.
        note: what `accuracy` measures, and anything a reader must know.

    Returns:
        The row; ``ratio`` is the peer's median time over ours, so larger is better.
    """
    outputs, times, trouble = _measured(ours, peer, seconds)
    medians = [statistics.median(samples) for samples in times]
    figures = [median if amount is None else amount / median for median in medians] + [None]
    if callable(accuracy):
        accuracy, trouble = _compared(accuracy, *outputs, trouble)
    notes = [note, _compilation(ours, peer), f"{len(times[0])} samples, quartiles {_spread(times[0])}"]
    return row(
        name, figures[0], unit=unit, peer_name=peer_name, peer=figures[1],
        ratio=medians[1] / medians[0] if len(medians) == 2 else None, accuracy=accuracy, target=target, within=within,
        trouble=trouble, note="; ".join(text for text in notes if text),
    )  # fmt: skip


def _measured(ours, peer, seconds):
    """Outputs, samples, and what went wrong with the peer; its output is None and it has no samples then."""
    if isinstance(peer, (Candidate, Outside)):
        try:
            outputs = [jax.block_until_ready(ours.call()), jax.block_until_ready(peer.call())]
            return outputs, _interleaved([ours, peer], seconds), None
        except PeerError as error:
            peer = Failed(str(error))
    return [jax.block_until_ready(ours.call()), None], _interleaved([ours], seconds), peer


def _compared(accuracy, ours, theirs, trouble):
    """The accuracy, and the trouble if the outputs cannot be compared: a peer's nonsense does not end the run."""
    try:
        figure = accuracy(ours, theirs)
        figure = None if figure is None else float(figure)
    except Exception as error:
        if theirs is None:
            raise
        return None, Failed(f"its output cannot be compared ({type(error).__name__}: {error})")
    if figure is not None and not math.isfinite(figure):
        return None, trouble if theirs is None else Failed("its output cannot be compared (accuracy is not finite)")
    return figure, trouble


def _interleaved(sides, seconds):
    """Seconds a call, as samples of each side in turn; who goes first alternates, so a drift of the machine cancels."""
    repeats = []
    for side in sides:
        once = _timed(side, 1)
        repeats.append(max(1, math.ceil(_SAMPLE_SECONDS / max(once, 1e-9))))
    times = [[] for _ in sides]
    spent = turn = 0
    while turn < 3 or spent < seconds * len(sides):
        order = range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))
        for i in order:
            elapsed = _timed(sides[i], repeats[i])
            times[i].append(elapsed / repeats[i])
            spent += elapsed
        turn += 1
    return times


def _timed(side, repeats):
    if isinstance(side, Outside):
        return side.sample(repeats)
    start = _clock()
    for _ in range(repeats):
        output = side.call()
    jax.block_until_ready(output)
    return _clock() - start


def _spread(samples):
    low, _, high = statistics.quantiles(samples, n=4)
    return f"{low:.3g} to {high:.3g} s"


def _compilation(ours, peer):
    parts = [f"{side.compile_seconds:.3g} s" for side in (ours, peer) if getattr(side, "compile_seconds", None)]
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


def closing(rows: Iterable[dict[str, Any]], missing: Iterable[str] = ()) -> str:
    """How many rows there are, how they came out, and which packages would have been needed."""
    outcomes = [_outcome(line) for line in rows]
    counts = [(text, outcomes.count(text)) for text in ("ok", "not ok", "not measured", "without a target")]
    shown = ", ".join(f"{count} {text}" for text, count in counts if count or text != "without a target")
    names = ", ".join(missing)
    return f"{len(outcomes)} rows: {shown}" + (f" (missing: {names})" if names else "")


def _outcome(line):
    if line["ok"] is not None:
        return "ok" if line["ok"] else "not ok"
    absent = line["ours"] is None or line["peer_name"] is not None and line["peer"] is None
    return "not measured" if absent else "without a target"


class Report:
    """The machine as it was before anything ran, the command, and the rows as they come."""

    def __init__(self, module: str, options: argparse.Namespace, peers: Peers):
        words = [f"python -m {module}"] + ["--fast"] * options.fast
        self.command = " ".join(words + ["--peer-python PYTHON"] * len(options.peer_python))  # whose path is nobody's
        self.file, self.peers, self.machine, self.rows = options.json, peers, machine(), []

    def show(self) -> None:
        """Print the table and the closing line, and write the JSON file if one is asked for."""
        print(table(self.rows))
        print(closing(self.rows, self.peers.missing))
        if self.file:
            self.write()

    def write(self) -> None:
        """Machine, command, versions of the peers and rows; the file appears complete or not at all."""
        path = pathlib.Path(self.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _draft(path)
        data = {"machine": self.machine, "command": self.command, "peers": self.peers.versions, "rows": self.rows}
        draft.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
        draft.replace(path)


Rows = Callable[[bool, Peers], Iterable[dict[str, Any]]]


def main(subject: str, rows: Rows, argv: list[str] | None = None) -> int:
    """The command line of one subject; 0 when it ran, whatever the figures."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{subject}")
    add_options(parser)
    options = parser.parse_args(argv)
    check_options(parser, options)
    with Peers(options.peer_python) as peers:
        report = Report(f"benchmarks.{subject}", options, peers)
        try:
            collect(subject, rows, options.fast, report)
        finally:  # a subject that raises half-way has measured something
            if report.rows or sys.exc_info()[0] is None:
                report.show()
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--fast``, ``--json`` and ``--peer-python``, the same for one subject and for all."""
    parser.add_argument("--fast", action="store_true", help="small sizes, within 60 s on two cores")
    parser.add_argument("--json", metavar="FILE", help="write machine, versions and rows to FILE")
    parser.add_argument(
        "--peer-python", metavar="PYTHON", action="append", default=[],
        help="an interpreter that has packages to compare with; several are tried in order, then this one",
    )  # fmt: skip


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse a FILE that cannot be written and a PYTHON that does not run before minutes are spent, not after."""
    for python in options.peer_python:
        if (trouble := trouble_with(python)) is not None:
            parser.error(f"cannot run --peer-python {python!r} ({trouble})")
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


def collect(subject: str, rows: Rows, fast: bool, report: Report, prefix: str = "") -> None:
    """Add all rows of a subject to the report, with a sign of life for each; those there stay if the next one raises.

    Double precision, which some subjects switch on, and the processes of their peers end with the subject.
    """
    x64 = jax.config.jax_enable_x64
    try:
        for line in rows(fast, report.peers):
            if tuple(line) != KEYS:
                raise ValueError(f"benchmarks.{subject}: a row must have the keys {KEYS}, got {tuple(line)}")
            print(f"[{subject}] {line['name']}: {_cell(line['ours'])} {line['unit']}", file=sys.stderr, flush=True)
            report.rows.append({**line, "name": prefix + line["name"]})
    finally:
        report.peers.close()
        jax.config.update("jax_enable_x64", x64)
