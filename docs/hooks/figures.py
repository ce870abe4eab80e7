"""The page of measured speed, made from the newest results file of each device; nothing in it is typed by hand."""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import _quotes  # noqa: E402

_LEAD = """# Benchmarks

Each row is ours against the package one would otherwise take, measured in the same run on the same machine: medians of
samples taken in turn, compilation apart. **Ratio** is larger where we are faster. **Accuracy** stands beside every
speed; the note says what it measures. A row that promises something says under *holds* whether the promise was kept.

The tables are made from the files in `benchmarks/results` when this site is built. Rows run again by
`python -m benchmarks SUBJECT --fast`.
"""


def page() -> str:
    """Markdown of the page: a section for each results file, newest of each device, and a table for each subject."""
    parts = [_LEAD]
    for file in _files():
        results = json.loads(file.read_text())
        machine = results["machine"]
        what = machine["processor"] if machine["platform"] == "cpu" else machine["kind"]
        parts.append(f"## {machine['platform'].upper()}: {what}\n")
        parts.append(
            f"{machine['cores']} cores, Python {machine['python']}, jax {machine['jax']}, jaxlib {machine['jaxlib']}; "
            f"`benchmarks/results/{file.name}`.\n"
        )
        subjects: dict[str, list] = {}
        for row in results["rows"]:
            subject, _, name = row["name"].partition(": ")
            subjects.setdefault(subject, []).append((name.partition(" | ")[0] or subject, row))
        for subject, rows in subjects.items():
            parts.append(f"### {subject}\n\n" + "\n".join(_table(rows)) + "\n")
    return "\n".join(parts)


def _files() -> list[pathlib.Path]:
    newest: dict[str, pathlib.Path] = {}
    for file in sorted(_quotes.RESULTS.glob("*.json"), key=lambda f: f.name):
        newest[file.name.rsplit("-", 3)[0]] = file  # <device>-<year>-<month>-<day>.json
    return list(newest.values())


def _figure(value, unit) -> str:
    """As README files print it, but small errors as powers of ten."""
    if value and unit != "s" and abs(value) < 1e-3:
        return f"{value:.1e} {unit}"
    return _quotes._figure(value, unit)


def _table(rows) -> list[str]:
    out = ["| what | jaxsci | peer | it takes | ratio | holds |", "|---|---|---|---|---|---|"]
    notes = ['??? note "Accuracy and notes"', ""]
    for name, row in rows:
        ours, peer = (_figure(row[key], row["unit"]) for key in ("ours", "peer"))
        ratio = "–" if row["ratio"] is None else f"{_quotes._digits(row['ratio'])} ×"
        holds = {True: "yes", False: "**no**", None: "–"}[row["ok"]]
        out.append(f"| {name} | {ours} | {row['peer_name'] or '–'} | {peer} | {ratio} | {holds} |")
        accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.2g}; "
        note = re.sub(r"([*_|<\[\]$])", r"\\\1", row["note"] or "")
        notes.append(f"    - **{name}**: {accuracy}{note}")
    return [*out, "", *notes]
