"""What README files and the site's pages quote of measured speed: tables filled from the newest results of a CPU.

A block names the rows it quotes, one a line; where rows share a name, the peer stands after a bar:

    <!-- bench
    linear: CG, 25 x 25
    linear: 40 SOR solves, 10 x 10, omega 1 to 1.95: lane by lane | a loop of calls
    -->
    (the table, written by `python -m benchmarks --quote`)
    <!-- /bench -->

Docstrings hold no figures but name the row: benchmark "linear: CG, 25 x 25".
"""

import json
import math
import pathlib
import re
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = pathlib.Path(__file__).with_name("results")
_BLOCK = re.compile(r"^(<!-- bench\n)(.*?)(^-->\n)(.*?)^(<!-- /bench -->)$", re.S | re.M)
_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def newest() -> pathlib.Path | None:
    """The results file of a CPU with the latest date in its name, None if there is none."""
    return max(RESULTS.glob("cpu-*.json"), key=lambda file: file.name, default=None)


def documents() -> list[pathlib.Path]:
    """Files that may hold blocks: the README files, the rooms' own included, and the pages of the site."""
    folders = (ROOT / name for name in ("jaxsci", "pallas_kernels", "benchmarks", "notebooks"))
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *pages, *(file for folder in folders for file in sorted(folder.rglob("README.md")))]


def filled(text: str, file: pathlib.Path | None) -> str:
    """The text with every block as it should be; blocks are empty while there is no results file.

    Raises:
        LookupError: a row that the file does not have, or has several times.
    """
    results = None if file is None else json.loads(file.read_text())

    def fill(block):
        rows = [line.strip() for line in block[2].splitlines() if line.strip()]
        table = "" if results is None else _table([_row(results["rows"], name) for name in rows], results, file.name)
        return f"{block[1]}{block[2]}{block[3]}{table}{block[5]}"

    return _BLOCK.sub(fill, text)


def _row(rows: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    name, _, peer = (part.strip() for part in wanted.partition(" | "))
    found = [row for row in rows if row["name"] == wanted]  # some names tell the peer themselves
    found = found or [row for row in rows if row["name"] == name and peer in ("", row["peer_name"])]
    if len(found) != 1:
        peers = [row["peer_name"] for row in rows if row["name"] == name]
        raise LookupError(f"{len(found)} rows {wanted!r} in the results" + (f"; peers: {peers}" if peers else ""))
    return found[0]


def _table(rows, results, file):
    machine = results["machine"]
    out = ["| what | jaxsci | peer | it takes | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        ours, peer = (_figure(row[key], row["unit"]) for key in ("ours", "peer"))
        ratio = "–" if row["ratio"] is None else f"{_digits(row['ratio'])} ×"
        name = row["name"].partition(" | ")[0]  # what follows is the peer, which has a column
        out.append(f"| {name} | {ours} | {row['peer_name'] or '–'} | {peer} | {ratio} |")
    said = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, jax {machine['jax']}"
    out += ["", f"{said}; ratio: larger is better; all rows: `benchmarks/results/{file}`."]
    return "".join(line + "\n" for line in out)


def _figure(value: float | None, unit: str) -> str:
    """Two or three digits with the unit; a rate or a time with a prefix people read."""
    if value is None:
        return "not measured"
    if unit == "s" and value > 0:
        value = float(f"{value:.3g}")
        scale, prefix = next((pair for pair in _PREFIXES if value >= pair[0]), _PREFIXES[-1])
        return f"{_digits(value / scale)} {prefix}s"
    return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    """Three significant digits, never in powers of ten; thousands apart."""
    if value == 0:
        return "0"
    value = float(f"{value:.3g}")
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}".replace(",", " ")


def write() -> int:
    """Fill the blocks of all files; the exit status."""
    file = newest()
    if file is None:
        print(f"no cpu-*.json in {RESULTS.relative_to(ROOT)}; make one by --json", file=sys.stderr)
        return 1
    for path in documents():
        before = path.read_text()
        after = filled(before, file)
        if after != before:
            path.write_text(after)
            print(f"{path.relative_to(ROOT)}: figures of {file.name}")
    return 0
