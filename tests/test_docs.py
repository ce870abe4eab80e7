"""What is published runs: doctests of every module, the README's example, the notebooks at small size, the demo."""

import doctest
import importlib
import inspect
import os
import pathlib
import re
import runpy
import subprocess
import sys

import jax
import matplotlib.pyplot as plt
import pytest

import registry
from jaxsci import __main__, demo, sweep

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The notebooks need their sources only; a private folder, since they may write.
NOTEBOOKS = sorted(p for p in (ROOT / "notebooks").glob("*.py") if p.name != "build.py")


def _modules():
    """All modules, private ones too: the examples of a function stand where it is written."""
    files = [*(ROOT / "jaxsci").rglob("*.py"), *(ROOT / "pallas_kernels").rglob("*.py")]
    names = (".".join(p.relative_to(ROOT).with_suffix("").parts) for p in files if "Example" in p.read_text())
    return sorted(name.removesuffix(".__init__") for name in names)


class _Finder(doctest.DocTestFinder):
    """Takes a function where it is written, not where its wrapper is exported: no example runs twice."""

    def _from_module(self, module, object):
        return super()._from_module(module, inspect.unwrap(object) if callable(object) else object)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="printed forms are checked on one Python")
@pytest.mark.parametrize("name", _modules())
def test_doctests(name):
    module = importlib.import_module(name)
    given = {"jax": jax, "jnp": jax.numpy, **vars(module)}
    runner = doctest.DocTestRunner()
    for example in _Finder().find(module, name, extraglobs=given):
        runner.run(example)
    result = runner.summarize()
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.x64
def test_the_example_of_the_readme(capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("[1.")


@pytest.mark.full
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_at_small_size(path, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSCI_FAST", "1")
    monkeypatch.chdir(tmp_path)
    x64 = jax.config.jax_enable_x64
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        jax.config.update("jax_enable_x64", x64)
        plt.close("all")


@pytest.mark.full
def test_the_demo_runs_and_runs_again(tmp_path):
    """The fast demo in a process of its own: everything is written; a second run continues instead of starting over."""
    command = [sys.executable, "-m", "jaxsci", "demo", "--fast", "--out", "out"]
    flags = " ".join(f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f)
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    first = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "bit-identical" in first.stdout and "equal counts" in first.stdout and " 0 failed" in first.stdout
    written = {p.name for p in (tmp_path / "out").iterdir()}
    expected = {"index.html", "results.nc", "study.py", "photograph.png", "regret.png", "omega.png", "drift.png"}
    assert expected <= written
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and "ChebCB" in page
    second = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert second.returncode == 0 and _table(second.stdout) == _table(first.stdout)


def _table(text):
    return [line for line in text.splitlines() if line.startswith(("random shift", "heat equation", "photograph  "))]


def test_the_command_line(capsys):
    assert __main__.main([]) == 0
    assert "builds on" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        __main__.main(["nothing"])


def test_a_folder_of_other_versions_is_refused_in_words(capsys, monkeypatch):
    def refuse(*_, **__):
        raise sweep.SweepMismatch("version of jax: 1 in the folder, 2 here")

    monkeypatch.setattr(demo, "run", refuse)
    assert __main__.main(["demo", "--out", "somewhere"]) == 1
    told = capsys.readouterr().err
    assert "version of jax" in told and "delete somewhere" in told


def test_every_room_has_its_page():
    for room in (p.parent for p in (ROOT / "jaxsci").glob("*/__init__.py")):
        assert (room / "README.md").exists(), room


def test_registry_names_are_importable():
    assert len(registry.public_names()) > 50


# Shares of functions with an example below the usual 95 of 100; a room that reaches it leaves this table.
EXAMPLES: dict[str, float] = {}


def test_entry_points_have_examples():
    """Functions that users call show how, in a doctest that `test_doctests` runs; counted by room.

    The demo is left out: its examples are its commands, which run for a minute.
    """
    rooms: dict[str, list[tuple[str, bool]]] = {}
    for name, value in registry.public_names().items():
        if registry.inferred(value) is None and not name.startswith("jaxsci.demo."):
            room = "pallas_kernels" if name.startswith("pallas") else ".".join(name.split(".")[:2])
            rooms.setdefault(room, []).append((name, ">>>" in (inspect.getdoc(value) or "")))
    for room, entries in rooms.items():
        without = [name for name, has in entries if not has]
        share = 1 - len(without) / len(entries)
        assert share >= EXAMPLES.get(room, 0.95), "\n".join([f"{room}: {share:.0%} have an example; not:", *without])
