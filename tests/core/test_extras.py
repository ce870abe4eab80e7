"""Optional packages: a missing one says which extra brings it."""

import sys

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
