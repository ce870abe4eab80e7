"""The harness: medians of interleaved samples, compilation apart, honest absences, one table and one JSON form."""

import json
import pathlib
import re
import subprocess
import sys
import types

import chex
import jax
import jax.numpy as jnp
import pytest

from benchmarks import __main__ as everything
from benchmarks import _harness
from benchmarks._peers import Failed, Missing

ROOT = pathlib.Path(__file__).parents[2]


class Clock:
    """A clock that moves only when a candidate says it worked, so that every figure is exact."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(_harness, "_clock", lambda: self.now)

    def candidate(self, name, seconds, compile_seconds=None):
        durations = iter(seconds) if hasattr(seconds, "__iter__") else None

        def call():
            self.log.append(name)
            self.now += next(durations) if durations else seconds
            return name

        return _harness.Candidate(call, compile_seconds)


def test_ratio_is_the_peers_time_over_ours(monkeypatch):
    clock = Clock(monkeypatch)
    ours, peer = clock.candidate("a", 0.01, 1.5), clock.candidate("b", 0.03, 0.25)
    line = _harness.compare(
        "solve", ours, peer, peer_name="other", target=2.5, accuracy=lambda a, b: len(a + b), note="digits", seconds=0.1
    )
    assert tuple(line) == _harness.KEYS
    assert line["ours"] == pytest.approx(0.01) and line["peer"] == pytest.approx(0.03) and line["unit"] == "s"
    assert line["ratio"] == pytest.approx(3.0) and line["ok"] is True and line["accuracy"] == 2
    expected = r"digits; compiled in 1.5 s, peer in 0.25 s; \d+ samples, quartiles 0.01 to 0.01 s"
    assert re.fullmatch(expected, line["note"])


def test_rates_and_missed_targets(monkeypatch):
    clock = Clock(monkeypatch)
    ours, peer = clock.candidate("a", 0.5), clock.candidate("b", 0.25)
    line = _harness.compare("copy", ours, peer, peer_name="other", amount=8.0, unit="GB/s", target=0.9)
    assert line["ours"] == pytest.approx(16) and line["peer"] == pytest.approx(32)
    assert line["ratio"] == pytest.approx(0.5) and line["ok"] is False and line["accuracy"] is None


def test_samples_are_interleaved_and_the_order_alternates(monkeypatch):
    clock = Clock(monkeypatch)
    _harness.compare("x", clock.candidate("a", 0.01), clock.candidate("b", 0.02), seconds=0.04)
    # one warm-up each, one call each to choose the repeats, then samples in turn
    assert "".join(clock.log).startswith("ab" + "ab" + "abbaab")


def test_short_calls_are_repeated_within_a_sample(monkeypatch):
    clock = Clock(monkeypatch)
    line = _harness.compare("x", clock.candidate("a", 1e-4), seconds=0.02)
    samples = int(re.search(r"(\d+) samples", line["note"])[1])
    assert line["ours"] == pytest.approx(1e-4) and len(clock.log) == 2 + 50 * samples


def test_one_slow_sample_does_not_move_the_median(monkeypatch):
    clock = Clock(monkeypatch)
    line = _harness.compare("x", clock.candidate("a", [1, 1, 1, 90, 1]), seconds=3)
    assert line["ours"] == 1


def test_a_missing_peer_gives_no_figure(monkeypatch):
    clock = Clock(monkeypatch)
    line = _harness.compare("x", clock.candidate("a", 0.01), Missing(("lineax",)), peer_name="lineax CG", target=1.0)
    assert line["peer"] is line["ratio"] is line["ok"] is None and line["ours"] == pytest.approx(0.01)
    expected = "not measured: no lineax here; name an interpreter that has it: --peer-python PYTHON;"
    assert line["note"].startswith(expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (dict(), None),  # nothing promised
        (dict(ratio=2.0, target=1.5), True),
        (dict(ratio=1.0, target=1.5), False),
        (dict(target=1.5), None),  # nothing to compare with
        (dict(accuracy=1e-9, within=1e-8), True),
        (dict(accuracy=1e-7, within=1e-8), False),
        (dict(accuracy=float("nan"), within=1e-8), False),
        (dict(accuracy=1e-9, within=1e-8, target=1.5), None),  # right, but how fast is not known
        (dict(accuracy=1e-7, within=1e-8, target=1.5), False),  # wrong, however fast
        (dict(ratio=2.0, target=1.5, within=1e-8), None),  # fast, but whether right is not known
        (dict(ratio=2.0, target=1.5, accuracy=1e-9, within=1e-8), True),
        (dict(accuracy=1e-9, within=1e-8, trouble=Missing(("p",))), True),  # right by itself, without the peer
        (dict(trouble=Missing(("p",))), None),
        (dict(trouble=Failed("e")), False),
        (dict(accuracy=1e-9, within=1e-8, trouble=Failed("e")), False),
        (dict(ratio=1.0, target=1.5, ok=True), True),  # said by the subject
    ],
)
def test_what_ok_means(given, expected):
    assert _harness.row("x", 1.0, unit="s", **given)["ok"] is expected


def test_outputs_that_cannot_be_compared_are_not_ok(monkeypatch):
    clock = Clock(monkeypatch)
    for accuracy in (lambda a, b: float("nan"), lambda a, b: 1 / 0):
        line = _harness.compare("x", clock.candidate("a", 1), clock.candidate("b", 2), peer_name="p", accuracy=accuracy)
        assert line["ok"] is False and line["accuracy"] is None and line["ratio"] == pytest.approx(2)
        assert line["note"].startswith("the peer failed: its output cannot be compared (")


def test_rows_are_counted_by_how_they_came_out():
    rows = [
        _harness.row("a", 1.0, unit="s", ok=True),
        _harness.row("b", 1.0, unit="s", ok=False, peer_name="p"),
        _harness.row("c", 1.0, unit="s", peer_name="p"),
        _harness.row("d", None, unit="s"),
        _harness.row("e", 1.0, unit="s", peer_name="p", peer=2.0),
    ]
    expected = "5 rows: 1 ok, 1 not ok, 2 not measured, 1 without a target (missing: p, q)"
    assert _harness.closing(rows, ["p", "q"]) == expected
    assert _harness.closing(rows[:1]) == "1 rows: 1 ok, 0 not ok, 0 not measured"


def test_compilation_is_timed_apart_and_happens_once():
    @chex.assert_max_traces(n=1)
    def function(x):
        return jnp.sin(x)

    candidate = _harness.compiled(function, jnp.ones(3))
    assert candidate.compile_seconds > 0
    line = _harness.compare("sin", candidate, _harness.compiled(jax.jit(jnp.sin), jnp.ones(3)), seconds=0.02)
    assert line["ratio"] > 0
    assert _harness.host(max, 1, 2).call() == 2 and _harness.host(max, 1, 2).compile_seconds is None


def test_figures_that_are_not_finite_become_null():
    line = _harness.row("x", jnp.float32(2), unit="s", accuracy=float("nan"), ratio=float("inf"))
    assert line["ours"] == 2.0 and type(line["ours"]) is float and line["accuracy"] is line["ratio"] is None


def _rows(fast, peers):
    ours = 1.0 if fast else 2.0
    yield _harness.row("first", ours, unit="s", peer_name="p", peer=3.0, ratio=3.0, target=2.0, note="n")
    yield _harness.row("second", 12345.678, unit="GB/s", ok=False)


def test_table_and_json(tmp_path, capsys):
    file = tmp_path / "deep" / "out.json"
    assert _harness.main("subject", _rows, ["--fast", "--json", str(file)]) == 0, "0 whatever the figures"
    out, err = capsys.readouterr()
    head, rule, first, second, note, closing = out.splitlines()
    assert head.split() == [key for key in _harness.KEYS if key != "note"] and set(rule) == {"-", " "}
    assert first.split() == ["first", "1", "p", "3", "3", "s", "-", "2", "yes"] and note == "  first: n"
    assert second.split() == ["second", "1.235e+04", "-", "-", "-", "GB/s", "-", "-", "NO"]
    assert "[subject] first: 1 s" in err and closing == "2 rows: 1 ok, 1 not ok, 0 not measured"
    found = json.loads(file.read_text())
    assert found["rows"] == list(_rows(True, None)) and found["command"] == "python -m benchmarks.subject --fast"
    assert found["peers"] == {} and set(found) == {"machine", "command", "peers", "rows"}
    assert {"platform", "kind", "processor", "cores", "jax", "jaxlib", "python", "date"} <= set(found["machine"])
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_row_with_other_keys_is_refused():
    with pytest.raises(ValueError, match="a row must have the keys"):
        _harness.main("subject", lambda fast, peers: [{"name": "x"}], [])


def test_rows_before_an_exception_are_kept(tmp_path, monkeypatch, capsys):
    def breaks(fast, peers):
        yield from _rows(fast, peers)
        raise RuntimeError("half-way")

    file = tmp_path / "out.json"
    with pytest.raises(RuntimeError, match="half-way"):
        _harness.main("subject", breaks, ["--json", str(file)])
    assert [line["name"] for line in json.loads(file.read_text())["rows"]] == ["first", "second"]
    monkeypatch.setattr(everything, "subjects", lambda: ["one"])
    monkeypatch.setattr(everything.importlib, "import_module", lambda _: types.SimpleNamespace(rows=breaks))
    assert everything.main(["--json", str(file)]) == 1
    assert [line["name"] for line in json.loads(file.read_text())["rows"]] == ["one: first", "one: second"]
    assert "did not run to the end: one" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    def never(fast, peers):
        raise AssertionError("ran")

    (tmp_path / "taken").touch()
    monkeypatch.setattr(everything, "subjects", lambda: ["one"])
    monkeypatch.setattr(everything.importlib, "import_module", lambda _: types.SimpleNamespace(rows=never))
    for file in (tmp_path / "taken" / "out.json", tmp_path):
        for call in (lambda a: _harness.main("subject", never, a), everything.main):
            with pytest.raises(SystemExit):
                call(["--json", str(file)])
            assert "cannot write --json" in capsys.readouterr().err


def test_all_subjects_run_and_a_failing_one_is_told(monkeypatch, capsys, tmp_path):
    def broken(fast, peers):
        raise RuntimeError("no such luck")

    modules = {f"benchmarks.{n}": types.SimpleNamespace(rows=f) for n, f in (("one", _rows), ("two", broken))}
    monkeypatch.setattr(everything, "subjects", lambda: ["one", "two"])
    monkeypatch.setattr(everything.importlib, "import_module", modules.__getitem__)
    file = tmp_path / "all.json"
    assert everything.main(["--fast", "--json", str(file)]) == 1
    out, err = capsys.readouterr()
    assert "no such luck" in err and "did not run to the end: two" in err and "one: first" in out
    assert [line["name"] for line in json.loads(file.read_text())["rows"]] == ["one: first", "one: second"]
    assert everything.main(["one"]) == 0
    with pytest.raises(SystemExit):
        everything.main(["three"])
    assert "no subject 'three'; there are one, two" in capsys.readouterr().err


@pytest.mark.full
def test_the_kernels_benchmark_runs_from_the_command_line(tmp_path):
    file = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "benchmarks", "kernels", "--fast", "--json", str(file)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [line["accuracy"] for line in rows if line["peer_name"] == "jnp.min, jnp.max"] == [0.0]
    assert all(line["ratio"] > 0 and "compiled in" in line["note"] for line in rows)
