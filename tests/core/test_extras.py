"""Optional packages: a missing one says which extra brings it, and an extra brings what the package imports."""

import ast
import pathlib
import re
import sys
import tomllib

import jax.numpy as jnp
import pytest

from jaxsci.core import checkpoint, extras, train


def test_a_present_package_is_returned():
    assert extras.require("json", "none", "test").dumps([1]) == "[1]"


@pytest.mark.parametrize("module", ["orbax.checkpoint", "orbax"])
def test_a_missing_package_names_the_extra(module, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "orbax"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "orbax", None)  # what Python does for a module that is not installed
    message = r"checkpoint\.save needs 'orbax(\.checkpoint)?', which is not installed: pip install 'jaxsci\[nets\]'"
    with pytest.raises(ImportError, match=message):
        extras.require(module, "nets", "checkpoint.save")


def test_callers_name_their_extra(monkeypatch, tmp_path, key):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"train\.fit\(progress=True\) needs 'tqdm'.*jaxsci\[sweep\]"):
        optimizer = type("Still", (), {"init": lambda p: (), "update": lambda g, s, p: (g, s)})
        train.fit(key, lambda p, b, k: p, 1.0, lambda k, i: (), optimizer=optimizer, num_steps=1)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"checkpoint\.save needs 'orbax\.checkpoint'.*jaxsci\[nets\]"):
        checkpoint.save(tmp_path, jnp.zeros(1), 1)


def test_a_broken_package_keeps_its_own_message(monkeypatch, tmp_path):
    (tmp_path / "half_there.py").write_text("import something_it_needs")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="No module named 'something_it_needs'"):
        extras.require("half_there", "nets", "test")


# --- what the extras list ----------------------------------------------------------------------------------

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
IMPORTED_AS = {"orbax-checkpoint": "orbax", "scikit-learn": "sklearn", "pillow": "PIL"}
FOR_DEVELOPERS = {"peers", "diffusers"}  # compared with by benchmarks and tests
# Required by distrax, see pyproject.toml; made by users, who hand it to `sweep.run`.
BROUGHT_ALONG = {"tfp-nightly", "dask", "distributed"}


def _modules(requirements, expand=True) -> set[str]:
    """What requirements are imported as, with what our own extras among them list if `expand`."""
    names = [re.match(r"[\w-]+(\[[\w,]+\])?", r)[0] for r in requirements]
    found = {IMPORTED_AS.get(n.split("[")[0], n.split("[")[0]) for n in names if not n.startswith("jaxsci")}
    ours = [extra for n in names if n.startswith("jaxsci") for extra in n[7:-1].split(",")]
    return found.union(*(_modules(EXTRAS[extra]) for extra in ours if expand))


def _uses(folder: str):
    """(module, extra) of every `require(module, extra, ...)` and (module, None) of every import below a folder."""
    for node in (node for path in (ROOT / folder).rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0], None
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("require", "extras.require"):
            yield node.args[0].value.split(".")[0], node.args[1].value


def test_an_extra_lists_what_the_package_imports_and_nothing_else():
    uses = set(_uses("jaxsci"))
    required = {extra: {module for module, of in uses if of == extra} for extra in EXTRAS}
    assert {extra for extra in EXTRAS if not required[extra]} == {"all"} | FOR_DEVELOPERS
    for extra in {of for _, of in uses if of}:
        listed = _modules(EXTRAS[extra], expand=False) - BROUGHT_ALONG
        assert listed <= required[extra] <= _modules(EXTRAS[extra]), f"{extra}: {listed}, required {required[extra]}"
    plain = {module for module, of in uses if of is None} - set(sys.stdlib_module_names)
    core, ours = _modules(PROJECT["dependencies"]), {"jaxsci", "pallas_kernels"}
    assert plain - ours <= core | _modules(EXTRAS["all"]) and core - {"jaxlib"} <= plain


def test_all_is_all_but_what_developers_compare_with():
    rest = set(EXTRAS) - FOR_DEVELOPERS - {"all"}
    assert _modules(EXTRAS["all"]) == set().union(*(_modules(EXTRAS[extra]) for extra in rest))
    text = "".join(p.read_text() for folder in ("benchmarks", "tests") for p in (ROOT / folder).rglob("*.py"))
    peers = _modules([r for extra in FOR_DEVELOPERS for r in EXTRAS[extra]])
    assert not [name for name in peers if not re.search(rf"""["']{name}["'.]|^\s*(import|from) {name}\b""", text, re.M)]
