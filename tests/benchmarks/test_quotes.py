"""What is quoted of measured speed stands in the newest results file; docstrings hold no timings of their own."""

import json
import re

import pytest

from benchmarks import __main__ as everything
from benchmarks import _harness, _quotes

ROOT = _quotes.ROOT
NEWEST = _quotes.newest()
SOURCES = sorted(p for folder in ("jaxsci", "pallas_kernels") for p in (ROOT / folder).rglob("*.py"))
# A number with a unit of time, or how many times faster.
_FIGURE, _WORD = r"(?:\d+(?:\.\d+)?|\.\d+)", r"(?:half a|one|two|three|five|ten|fifteen|several|some)"
_UNIT = r"(?:s|ms|µs|us|ns|min|seconds?|minutes?|(?:milli|micro|nano)seconds?)\b"
_TIMES = r"\s+times\s+(?:faster|slower|as\s+fast|as\s+long)\b"
TIMING = re.compile(
    rf"(?<![\w.^{{:]){_FIGURE}(?:[mµun]s\b|(?: |-|\n *){_UNIT}|{_TIMES})|\b{_WORD}(?:(?: |-|\n *){_UNIT}|{_TIMES})"
    r"|\ban? (?:minute|millisecond|microsecond)\b"
)
# Limits that the project sets itself and intervals that the code keeps: no measurements.
NO_MEASUREMENTS = {
    ("README.md", "ten minutes"),  # what `make test` may take
    ("benchmarks/README.md", "60 s"),  # what --fast may take
    ("jaxsci/core/drive.py", "half a second"),  # between two looks at the clock
    ("jaxsci/demo/README.md", "fifteen seconds"),  # what a scene may take
    ("jaxsci/sweep/_prepare.py", "ten milliseconds"),  # what a dispatch shall last
}


def _timings(text):
    """Timings outside the blocks, which are generated."""
    return [re.sub(r"\s+", " ", m[0]) for m in TIMING.finditer(_quotes._BLOCK.sub("", text))]


def test_no_timing_is_quoted_by_hand():
    found = {}
    for path in [*_quotes.documents(), *SOURCES]:
        name = path.relative_to(ROOT).as_posix()
        found |= {(name, timing): None for timing in _timings(path.read_text())}
    assert set(found) - NO_MEASUREMENTS == set()
    assert NO_MEASUREMENTS <= set(found), "an exception that is no longer there"


@pytest.mark.parametrize(
    "text",
    ["took 3.0 ms on", "about .18 s\nfor", "in two minutes on", "measured 7 times faster", "3\ntimes as long", "5 µs."],
)
def test_a_timing_is_found(text):
    assert len(_timings(text)) == 1
    block = f"<!-- bench\na row\n-->\n{text}\n<!-- /bench -->"
    assert _timings(block) == [] and _timings(f"{text}\n{block}") != []


@pytest.mark.parametrize(
    "text",
    ["a second call", "2 states", "ten times as many", "1 - s", "{x:.1f} s", "10^3 s", "{y:.1f} times faster", "ones"],
)
def test_what_is_no_timing_is_left_alone(text):
    assert _timings(text) == []


def test_blocks_are_as_the_newest_results_say():
    """Empty while there are no results; `python -m benchmarks --quote` writes them."""
    blocks = 0
    for path in _quotes.documents():
        text = path.read_text()
        blocks += len(_quotes._BLOCK.findall(text))
        assert text.count("<!-- bench") == len(_quotes._BLOCK.findall(text)), f"{path}: a block is not closed"
        assert _quotes.filled(text, NEWEST) == text, f"{path}: run python -m benchmarks --quote"
    assert blocks


def _named():
    """Rows that sources and README files name: benchmark "subject: row"."""
    for path in [*_quotes.documents(), *SOURCES]:
        for match in re.finditer(r'benchmark\s+"([^"]+)"', path.read_text()):
            yield path.relative_to(ROOT).as_posix(), re.sub(r"\s+", " ", match[1])


def test_rows_that_are_named_are_there():
    named = dict.fromkeys(_named())
    assert len(named) > 5
    for path, name in named:
        assert name.partition(": ")[0] in everything.subjects(), f"{path}: no subject of {name!r}"
        if NEWEST is not None:
            rows = {row["name"] for row in json.loads(NEWEST.read_text())["rows"]}
            assert name in rows, f"{path}: no row {name!r} in {NEWEST.name}"


def _check(file):
    """A results file has the form of the harness and tells nothing of where it was made."""
    assert re.fullmatch(r"[a-z0-9]+-\d{4}-\d{2}-\d{2}\.json", file.name)
    text = file.read_text()
    data = json.loads(text)
    assert set(data) == {"machine", "command", "peers", "rows"} and data["rows"]
    told = {"platform", "processor", "cores", "python", "numpy", "jax", "jaxlib", "date", "load"}
    assert told <= set(data["machine"])
    assert data["command"].startswith("python -m benchmarks")
    assert all(set(peer) == {"version", "python", "interpreter"} for peer in data["peers"].values())
    for row in data["rows"]:
        assert tuple(row) == _harness.KEYS and row["ok"] in (True, False, None), row
        figures = [row[key] for key in ("ours", "peer", "ratio", "accuracy", "target")]
        assert all(isinstance(figure, (int, float, type(None))) for figure in figures), row
        assert row["peer"] is None or row["peer_name"], row
    assert not re.search(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|opt|var|Users)/", text), "a path of the machine"


def test_results_have_their_form(tmp_path):
    for file in _quotes.RESULTS.glob("*.json"):
        _check(file)
    made, told = tmp_path / "cpu-2020-01-31.json", []

    def rows(fast, peers):
        yield _harness.row("x", 1.0, unit="s", peer_name="p", peer=2.0, note="; ".join(told))

    assert _harness.main("subject", rows, ["--json", str(made)]) == 0
    _check(made)
    told.append("/home/somebody/file")
    assert _harness.main("subject", rows, ["--json", str(made)]) == 0
    with pytest.raises(AssertionError, match="a path of the machine"):
        _check(made)


# --- the generator -----------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    rows = [
        _harness.row("one: a", 1.2345e-3, unit="s", peer_name="p", peer=0.0456, ratio=36.94),
        _harness.row("one: b", 123456.0, unit="rounds/s", peer_name="q", ok=None),
        _harness.row("one: c", 9.9996e-4, unit="s", peer_name="q", peer=5e-9, ratio=0.000005),
        _harness.row("one: c", 2.0, unit="s", peer_name="r", peer=0.5, ratio=0.25),
    ]
    machine = {"processor": "a processor", "cores": 2, "python": "3.11.9", "jax": "0.10.2"}
    (tmp_path / "cpu-2020-01-31.json").write_text("{}")
    (tmp_path / "h200-2030-01-31.json").write_text("{}")
    file = tmp_path / "cpu-2020-02-01.json"
    file.write_text(json.dumps({"machine": machine, "command": "", "peers": {}, "rows": rows}))
    return file


TEXT = "before\n<!-- bench\none: a\none: b\none: c | r\n-->\nold\n<!-- /bench -->\nafter\n"
TABLE = """| what | jaxsci | peer | it takes | ratio |
|---|---|---|---|---|
| one: a | 1.23 ms | p | 45.6 ms | 36.9 × |
| one: b | 123 000 rounds/s | q | not measured | – |
| one: c | 2.00 s | r | 500 ms | 0.250 × |

a processor, 2 cores, Python 3.11.9, jax 0.10.2; ratio: larger is better; all rows: `benchmarks/results/cpu-2020-02-01.json`.
"""  # noqa: E501


def test_blocks_are_filled_and_filled_again(results):
    once = _quotes.filled(TEXT, results)
    assert once == TEXT.replace("old\n", TABLE) and _quotes.filled(once, results) == once
    assert _quotes.filled(once, None) == TEXT.replace("old\n", "")
    assert _quotes.filled("no block\n", results) == "no block\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one: d", "0 rows 'one: d'"),
        ("one: c", r"2 rows 'one: c' in the results; peers: \['q', 'r'\]"),
        ("one: a | z", r"0 rows 'one: a \| z' in the results; peers: \['p'\]"),
    ],
)
def test_a_row_that_is_not_there_or_not_alone_is_refused(results, name, message):
    with pytest.raises(LookupError, match=message):
        _quotes.filled(f"<!-- bench\n{name}\n-->\n<!-- /bench -->\n", results)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (9.9996e-4, "s", "1.00 ms"),
        (5e-9, "s", "5.00 ns"),
        (12.34, "s", "12.3 s"),
        (0, "s", "0 s"),
        (99.96, "GB/s", "100 GB/s"),
    ],
)
def test_figures_have_three_digits(value, unit, text):
    assert _quotes._figure(value, unit) == text


def test_the_command_writes_the_files(results, tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(TEXT)
    monkeypatch.setattr(_quotes, "ROOT", tmp_path)
    monkeypatch.setattr(_quotes, "RESULTS", tmp_path)
    assert _quotes.newest() == results and _quotes.documents() == [readme]
    assert everything.main(["--quote"]) == 0 and readme.read_text() == TEXT.replace("old\n", TABLE)
    assert capsys.readouterr().out == "README.md: figures of cpu-2020-02-01.json\n"
    results.unlink(), (tmp_path / "cpu-2020-01-31.json").unlink()
    assert everything.main(["--quote"]) == 1 and "no cpu-*.json" in capsys.readouterr().err
