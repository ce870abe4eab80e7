"""Arrays with a header and files that appear whole: bit-identical or refused by path and name."""

import json
import os
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.core import arrays, files

NAMED = {
    "float": np.linspace(0, 1, 7), "single": jnp.arange(3.0), "half": jnp.arange(4, dtype=jnp.bfloat16),
    "int": np.int32(3), "bool": np.array([True, False]), "complex": np.array([1j]), "empty": np.zeros((0, 2)),
}  # fmt: skip


def test_what_is_read_is_what_was_written(tmp_path):
    arrays.save(tmp_path / "a.npz", NAMED, kind="test.kind", config={"width": 3})
    found = arrays.load(tmp_path / "a.npz", kind="test.kind", config={"width": 3}, names=["half"])
    assert list(found) == list(NAMED)
    for name, a in NAMED.items():
        assert found[name].dtype == a.dtype and found[name].tobytes() == np.asarray(a).tobytes(), name


def test_every_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    arrays.save(path, {"x": np.arange(50.0)}, kind="test.kind")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, 8 * len(whole), 80):
        data = bytearray(whole)
        data[at // 8] ^= 1 << at % 8
        path.write_bytes(bytes(data))
        try:
            assert np.array_equal(arrays.load(path, kind="test.kind")["x"], np.arange(50.0)), "a bit of the container"
        except ValueError as error:
            assert str(path) in str(error)


def rewritten(path, change):
    """The file with another header."""
    with np.load(path) as archive:
        stored = {name: archive[name] for name in archive.files}
    header = json.loads(stored.pop("header").tobytes())
    change(header, stored)
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **stored)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h, a: h.update(kind="other"), "holds a other, expected a test.kind"),
        (lambda h, a: h.update(version=2), "has version 2 of test.kind, this program reads up to 1"),
        (lambda h, a: h.update(format="x"), "its header has another format"),
        (lambda h, a: h.update(config="f"), "belongs to another configuration"),
        (lambda h, a: a.pop("x"), "the array 'x' of its header is missing"),
        (lambda h, a: h["arrays"].pop("x"), "lacks the array 'x'; it holds y"),
        (lambda h, a: a.update(z=np.ones(1)), "does not know the array 'z'"),
        (lambda h, a: a.update(x=np.ones(3)), "the array 'x' is not the one that was saved"),
        (lambda h, a: a.update(x=a["x"].astype(np.float32)), "the array 'x' is not the one"),
    ],
)
def test_wrong_content_is_refused_by_path_and_name(tmp_path, change, match):
    path = tmp_path / "a.npz"
    arrays.save(path, {"x": np.arange(3.0), "y": np.ones(2)}, kind="test.kind", config=1)
    rewritten(path, change)
    with pytest.raises(ValueError, match=match) as raised:
        arrays.load(path, kind="test.kind", config=1, names=["x", "y"])
    assert str(path) in str(raised.value)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    for write in (
        lambda: path.write_text("text"), lambda: path.write_bytes(b""), lambda: np.save(path.open("wb"), np.ones(2)),
        lambda: np.savez(path, x=np.ones(2)), lambda: np.savez(path, header=np.array({"a": 1}, object)),
        lambda: zipfile.ZipFile(path, "w").close(),
    ):  # fmt: skip
        write()
        with pytest.raises(ValueError, match="holds no test.kind, or is damaged") as raised:
            arrays.load(path, kind="test.kind")
        assert str(path) in str(raised.value)
    with pytest.raises(FileNotFoundError):
        arrays.load(tmp_path / "none.npz", kind="test.kind")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_atomic(path, lambda p: p.write_text("old"))

    def broken(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, broken)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.bad_input
def test_bad_input(tmp_path):
    for name in ("../a", "/a", "b/../../a", ""):
        with pytest.raises(ValueError, match=f"here: .* names the path {name!r}, which leads out of the folder"):
            files.inside("here", tmp_path, name)
    assert files.inside("here", tmp_path, "b/c") == tmp_path / "b" / "c"
    with pytest.raises(TypeError, match="arrays.save: expected a path, got int"):
        arrays.save(3, {}, kind="k")
    with pytest.raises(TypeError, match="arrays.load: expected a path, got int"):
        arrays.load(3, kind="k")
    with pytest.raises(TypeError, match="array 'x' must hold numbers or Booleans, got dtype <U1"):
        arrays.save(tmp_path / "a", {"x": "a"}, kind="k")
    with pytest.raises(TypeError, match="array 'x' is traced"):
        jax.jit(lambda x: arrays.save(tmp_path / "a", {"x": x}, kind="k"))(1.0)
    with pytest.raises(ValueError, match="'header' is the name of the header"):
        arrays.save(tmp_path / "a", {"header": 1}, kind="k")
    with files.locked("here", tmp_path, "lock"), pytest.raises(RuntimeError, match=f"here: process {os.getpid()} is"):
        with files.locked("here", tmp_path, "lock"):
            pass
