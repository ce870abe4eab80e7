"""Files of models: what comes back, and what is refused."""

import io
import json
import sys

import chex
import jax
import numpy as np
import pytest

from jaxsci import pfn
from jaxsci.core import arrays

CFG = pfn.config(1, 6, width=8, num_layers=1, num_heads=2, y_range=(0.0, 1.0))
MODEL = pfn.model(pfn.init(jax.random.key(0), CFG), CFG, np.linspace(0, 1, 7), full_support=False)
X, Y = np.linspace(0, 1, 5, dtype=np.float32)[:, None], np.linspace(0, 0.5, 5, dtype=np.float32)


def test_what_is_saved_comes_back(tmp_path):
    pfn.save(tmp_path / "m.npz", MODEL, about={"steps": 3})
    found = pfn.load(tmp_path / "m.npz", config=CFG)
    chex.assert_trees_all_equal(found, MODEL)
    assert found.config == CFG and not found.full_support and pfn.about(tmp_path / "m.npz") == {"steps": 3}
    whole = pfn.predict(MODEL, X[:3], Y[:3], 2, X[3:]).logits
    cached = pfn.query(found.params, found.config, pfn.encode(found.params, found.config, X[:3], Y[:3], 2), X[3:])
    np.testing.assert_allclose(cached, whole, atol=1e-5)
    classes = pfn.model(MODEL.params, CFG)
    pfn.save(tmp_path / "c.npz", classes)
    assert pfn.load(tmp_path / "c.npz").borders is None


def test_the_models_of_the_package_need_no_extra(monkeypatch):
    for name in ("optax", "flax", "orbax", "orbax.checkpoint", "tqdm", "xarray"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in pfn.names():
        model = pfn.load(name)
        assert pfn.about(name)["figures"] and model.config.num_buckets == model.params["head_2"]["bias"].size


def _repacked(path, change):
    """The same file with another header or arrays."""
    with np.load(path) as archive:
        stored = {name: archive[name] for name in archive.files}
    change(stored)
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    path.write_bytes(buffer.getvalue())


def _edited(entry, old, new):
    def change(stored):
        text = stored[entry].tobytes().replace(old, new)
        assert text != stored[entry].tobytes()
        stored[entry] = np.frombuffer(text, np.uint8)
        if entry != "header":  # a forger who also corrects the checksum is still found
            header = json.loads(stored["header"].tobytes())
            header["arrays"][entry] = ["uint8", [len(text)], arrays._checksum(stored[entry])]
            stored["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)

    return change


@pytest.mark.bad_input
def test_what_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "m.npz"
    for change, match in (
        (_edited("about", b'"eps": 1e-05', b'"eps": 1e-06'), "belongs to another configuration"),
        (_edited("header", b'"version": 1', b'"version": 2'), "has version 2 of pfn.model, this program reads up to 1"),
        (_edited("header", b'"pfn.model"', b'"pfn.other"'), "holds a pfn.other, expected a pfn.model"),
        (lambda stored: stored.pop("borders"), "the array 'borders' of its header is missing"),
    ):
        pfn.save(path, MODEL)
        _repacked(path, change)
        with pytest.raises(ValueError, match=match):
            pfn.load(path)
    pfn.save(path, MODEL)
    with pytest.raises(ValueError, match="belongs to another configuration"):
        pfn.load(path, config=pfn.config(1, 6, width=8, num_layers=1, num_heads=2))
    with pytest.raises(FileNotFoundError, match="there is no model 'nothing'; there are: "):
        pfn.load("nothing")
    with pytest.raises(TypeError, match="model must be a Model, got dict"):
        pfn.save(path, MODEL.params)
    # killed in the middle of a save: the file that was there stays whole
    monkeypatch.setattr(np, "savez", lambda file, **_: file.write(b"PK half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pfn.save(path, MODEL, about={"new": 1})
    monkeypatch.undo()
    assert pfn.about(path) == {} and [p.name for p in tmp_path.iterdir()] == ["m.npz"]
