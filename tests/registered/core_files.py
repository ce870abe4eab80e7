"""Entries of jaxsci.core.arrays and jaxsci.core.files."""

import numpy as np

from contracts import Bad, Driver
from jaxsci.core import arrays, files


def _saved(folder):
    arrays.save(folder / "a.npz", {"x": np.arange(3)}, kind="test")
    assert arrays.load(folder / "a.npz", kind="test")["x"].tolist() == [0, 1, 2]


def _written(folder):
    files.write_json(folder / "a.json", {"a": 1})
    assert (folder / "a.json").read_text() == '{"a": 1}'


def _locked(folder):
    with files.locked("here", folder / "new", "lock"):
        assert (folder / "new" / "lock").read_text().strip().isdecimal()


ENTRIES = {
    "jaxsci.core.arrays.save": Driver(
        bad=(Bad(lambda folder: arrays.save(3, {}, kind="test"), TypeError, "expected a path, got int"),), works=_saved
    ),
    "jaxsci.core.arrays.load": Driver(
        bad=(Bad(lambda folder: arrays.load(folder / "none", kind="test"), FileNotFoundError, "none"),), works=_saved
    ),
    "jaxsci.core.files.inside": Driver(
        bad=(Bad(lambda folder: files.inside("here", folder, "../x"), ValueError, "leads out of the folder"),)
    ),
    "jaxsci.core.files.locked": Driver(
        bad=(Bad(lambda folder: files.locked("here", "", "lock").__enter__(), ValueError, "here: .* empty text"),),
        works=_locked,
    ),
    "jaxsci.core.files.named": Driver(
        bad=(Bad(lambda folder: files.named("here", ""), ValueError, "here: expected a path, got empty text"),),
        works=lambda folder: files.named("here", "."),
    ),
    "jaxsci.core.files.write_atomic": Driver(works=_written),
    "jaxsci.core.files.write_json": Driver(works=_written),
}
