"""Peers in other interpreters: which one answers, whose clock is read, and that what goes wrong there is told."""

import json
import os
import pathlib
import platform
import re
import sys
import types
import venv

import numpy as np
import pytest

from benchmarks import __main__ as everything
from benchmarks import _harness, _peers

PEER = "__version__ = '1'\ndef scale(x, factor):\n    print('chatter')\n    return factor * x\n"
FUNCTIONS = """
import os, signal, sys, time
import numpy as np

def scaled(x, factor):
    import fakepeer
    return lambda: fakepeer.scale(x, factor)

def pair(text):
    return lambda: (np.asarray([len(text)]), np.asarray(text))

def environment():
    return lambda: {"threads": np.asarray(os.environ["OMP_NUM_THREADS"]), "prefix": np.asarray(sys.prefix),
                    "path": np.asarray(os.environ.get("PYTHONPATH", ""))}

def slow():  # four seconds a call, by this process's clock alone
    now = [0.0]
    time.perf_counter = lambda: now[0]
    def call():
        now[0] += 4.0
        return np.zeros(1)
    return call

def raises():
    raise OSError("cannot open\\n/secret/folder/lib.so")

def raises_later():
    return lambda: 1 / 0

def leaves():
    return lambda: os._exit(3)

def dies():
    return lambda: os.kill(os.getpid(), signal.SIGKILL)

def dies_when_timed():
    calls = []
    return lambda: calls.append(0) or (np.zeros(1) if len(calls) < 2 else os._exit(4))

def hangs():
    return lambda: time.sleep(60)

def nonsense():
    return lambda: object()
"""


def _interpreter(folder, modules):
    """An environment of its own: nothing of this one but NumPy, and the modules given."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    numpy = pathlib.Path(np.__file__).parent
    for part in (numpy, numpy.with_name("numpy.libs")):
        if part.exists():
            (site / part.name).symlink_to(part)
    for name, text in modules.items():
        (site / f"{name}.py").write_text(text)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def pythons(tmp_path_factory):
    """An interpreter without the peer and one with it."""
    folder = tmp_path_factory.mktemp("interpreters")
    return [_interpreter(folder / "bare", {}), _interpreter(folder / "full", {"fakepeer": PEER})]


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """A file of peer functions where those of the benchmarks are looked for."""
    (tmp_path / "fake.py").write_text(FUNCTIONS)
    monkeypatch.setattr(_peers, "FOLDER", tmp_path)


def _ours():
    return _harness.Candidate(lambda: np.zeros(1))


def test_the_first_interpreter_that_has_the_package_answers(functions, pythons):
    with _peers.Peers(pythons) as peers:
        peer = peers.find("fakepeer", "fake:scaled", x=np.arange(3.0), factor=2)
        np.testing.assert_array_equal(peer.call(), [0.0, 2.0, 4.0])
        version = {"version": None, "python": platform.python_version()}
        assert peers.versions == {"fakepeer": version | {"interpreter": "--peer-python number 2"}}
        length, text = peers.find("fakepeer", "fake:pair", text="four").call()
        assert length.tolist() == [4] and str(text) == "four"
        there = peers.find("fakepeer", "fake:environment").call()
        assert there["threads"] == "1" and there["path"] == "" and str(there["prefix"]) != sys.prefix
        assert peers.missing == []


def test_without_one_this_interpreter_answers(functions, pythons, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "ownpeer.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "here"))
    with _peers.Peers(pythons) as peers:
        there = peers.find("ownpeer", "fake:environment").call()
        assert str(there["prefix"]) == sys.prefix and there["threads"] == "1"
        peers.find("scipy", "fake:environment")  # which jaxsci needs itself: never another interpreter's
        assert {v["interpreter"] for v in peers.versions.values()} == {"this interpreter"}
        assert peers.versions["scipy"]["version"]


def test_seconds_are_those_of_the_peers_own_clock(functions, pythons, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_harness, "_clock", lambda: now[0])

    def ours():
        now[0] += 0.5
        return np.zeros(1)

    with _peers.Peers(pythons) as peers:
        peer = peers.find("fakepeer", "fake:slow")
        assert peer.sample(3) == 12.0
        line = _harness.compare("x", _harness.Candidate(ours), peer, peer_name="fakepeer", target=3, seconds=0.1)
    assert (line["ours"], line["peer"], line["ratio"], line["ok"]) == (0.5, 4.0, 8.0, True)


def test_a_missing_peer_is_null_and_counted(functions, pythons, tmp_path, capsys):
    def rows(fast, peers):
        peer = peers.find("fakepeer", "fake:scaled", x=np.zeros(1), factor=1)
        yield _harness.compare("one", _ours(), peer, peer_name="fake peer", target=1.0, seconds=0.02)
        yield _harness.row("two", 1.0, unit="s", ok=True)

    file = tmp_path / "out.json"
    assert _harness.main("subject", rows, ["--peer-python", pythons[0], "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["rows"][0]["peer"] is found["rows"][0]["ok"] is None and found["rows"][0]["ours"] is not None
    assert found["rows"][0]["note"].startswith("not measured: no fakepeer here; name an interpreter")
    closing = capsys.readouterr().out.splitlines()[-1]
    assert closing == "2 rows: 1 ok, 0 not ok, 1 not measured (missing: fakepeer)"


TROUBLES = {
    "raises": r"OSError: cannot open lib\.so",
    "raises_later": "ZeroDivisionError: division by zero",
    "leaves": "its process ended with status 3",
    "dies": "its process died: Killed",
    "dies_when_timed": "its process ended with status 4",
    "nonsense": "TypeError: expected an array, or a tuple or dictionary of arrays; output 0 is none",
    "hangs": "no answer within 2 s",
    "no_such": "AttributeError: .*no_such.*",
}


def test_what_goes_wrong_there_is_told_and_does_not_stop_the_rest(functions, pythons, capsys):
    with _peers.Peers(pythons[1:], limit=2.0) as peers:
        for name, expected in TROUBLES.items():
            peer = peers.find("fakepeer", f"fake:{name}")
            line = _harness.compare("x", _ours(), peer, peer_name="fake peer", seconds=0.02)
            assert line["peer"] is line["ratio"] is None and line["ours"] > 0 and line["ok"] is False, name
            assert re.match(rf"the peer failed: {expected};", line["note"]), (name, line["note"])
        again = peers.find("fakepeer", "fake:scaled", x=np.ones(2), factor=3)
        assert again.call().tolist() == [3.0, 3.0] and peers.missing == []
    assert "Traceback" in capsys.readouterr().err
    peer = _peers.Peers(["/no/such/python"]).find("fakepeer", "fake:scaled")
    assert str(peer) == "the peer failed: its interpreter does not start (No such file or directory)"


def test_several_interpreters_and_no_path_in_what_is_written(functions, pythons, tmp_path, monkeypatch):
    def rows(fast, peers):
        peer = peers.find("fakepeer", "fake:scaled", x=np.zeros(1), factor=1)
        yield _harness.compare("one", _ours(), peer, peer_name="fake peer", seconds=0.02)

    file, options = tmp_path / "all.json", [word for python in pythons for word in ("--peer-python", python)]
    monkeypatch.setattr(everything, "subjects", lambda: ["subject"])
    monkeypatch.setattr(everything.importlib, "import_module", lambda _: types.SimpleNamespace(rows=rows))
    assert everything.main(["--fast", "--json", str(file), *options]) == 0
    found = json.loads(file.read_text())
    assert found["command"] == "python -m benchmarks --fast --peer-python PYTHON --peer-python PYTHON"
    assert found["rows"][0]["ratio"] > 0 and found["peers"]["fakepeer"]["interpreter"] == "--peer-python number 2"
    assert str(tmp_path) not in file.read_text() and os.sep + "python" not in file.read_text()


def test_an_interpreter_that_does_not_run_is_refused_before_anything_runs(tmp_path, capsys):
    def never(fast, peers):
        raise AssertionError("ran")

    for python in (str(tmp_path / "none"), str(tmp_path), "/bin/true"):
        with pytest.raises(SystemExit):
            _harness.main("subject", never, ["--peer-python", python])
        assert f"cannot run --peer-python {python!r}" in capsys.readouterr().err
