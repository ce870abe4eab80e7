"""Folders: kill and resume bit for bit, refusal of another sweep, reading unfinished runs, bounded memory."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from jaxsci import sweep
from jaxsci.core import status
from jaxsci.sweep import _store

STUDY = '''
    """A sweep that kills itself while it writes its third chunk: the data is on disk, the name is not."""
    import os, signal, sys
    import jax, jax.numpy as jnp
    from jaxsci import sweep

    def point(key, lr, n):
        x0 = 0.1 + 0.001 * jax.random.key_data(key)[-1].astype(lr.dtype)
        step = lambda c: (c[0] + 1, (3.6 + lr) * c[1] * (1 - c[1]))  # chaotic: a differing bit grows
        count, x = jax.lax.while_loop(lambda c: c[0] < 100 * n, step, (jnp.int32(0), x0))
        return {"x": jnp.stack([x, x * n]), "count": count}

    space = sweep.product(lr=[0.1, 0.2, 0.3], n=sweep.static([1, 2]), key=sweep.keys(7))

    def options(folder):
        return dict(out=folder, lanes=3, chunk=6, progress=False, dims={"x": ("part",)})

    if __name__ == "__main__":
        written, rename = [], os.replace

        def dying(source, target):
            if str(target).endswith(".npz"):
                written.append(target)
                if len(written) == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        os.replace = dying
        sweep.run(point, space, **options(sys.argv[1]))
'''


def load_study(path):
    spec = importlib.util.spec_from_file_location("killed_study", path)
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    return study


def chunks(folder):
    return sorted((folder / _store.CHUNKS).glob("*.npz"))


def test_killed_and_resumed_is_bit_identical_to_an_uninterrupted_run(tmp_path):
    script, folder, whole = tmp_path / "study.py", tmp_path / "killed", tmp_path / "whole"
    script.write_text(textwrap.dedent(STUDY))
    killed = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(chunks(folder)) == 2 and len(list((folder / _store.CHUNKS).glob(".*.tmp"))) == 1
    dead = int((folder / "sweep.lock").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(dead, 0)

    study = load_study(script)
    unfinished = sweep.load(folder)
    assert int((unfinished["status"] == status.NOT_RUN).sum()) == 42 - 12
    told = []
    options = study.options(folder) | {"progress": lambda *a: told.append(a[0])}
    resumed = sweep.run(study.point, study.space, **options, devices=1)  # the killed run used two devices
    assert told[0] == 15, "the finished chunks are not computed again"
    assert not list((folder / _store.CHUNKS).glob(".*.tmp"))
    uninterrupted = sweep.run(study.point, study.space, **study.options(whole))
    for name in ("x", "count", "status"):
        assert resumed[name].values.tobytes() == uninterrupted[name].values.tobytes(), name
    ran = unfinished["status"].values == 0
    assert unfinished["x"].values[ran].tobytes() == uninterrupted["x"].values[ran].tobytes()
    for ds in (sweep.load(folder), sweep.run(study.point, study.space, **study.options(folder))):
        assert ds.equals(resumed)
    with xarray.open_dataset(folder / "results.nc", engine="h5netcdf") as saved:
        assert saved.equals(resumed)


def square(x, n):
    return {"y": x**n, "many": x * jnp.arange(3.0)}


SPACE = {"x": np.arange(1.0, 9.0), "n": [1, 2]}


def space(**changed):
    axes = SPACE | changed
    return sweep.product(
        x=axes["x"], n=axes["n"] if isinstance(axes["n"], sweep._axes.Static) else sweep.static(axes["n"])
    )


def run(folder, point=square, where=None, **options):
    return sweep.run(point, where or space(), out=folder, lanes=2, chunk=4, progress=False, **options)


def test_damaged_and_missing_chunks_are_computed_again(tmp_path):
    first = run(tmp_path)
    truncated, flipped, missing, *_ = files = chunks(tmp_path)
    assert len(files) == 4
    whole = truncated.read_bytes()
    truncated.write_bytes(whole[: len(whole) // 2])
    data = bytearray(flipped.read_bytes())
    at = data.find(first["y"].isel(n=1).values[:4].tobytes())  # one bit of a stored result
    assert at > 0
    data[at] ^= 1
    flipped.write_bytes(bytes(data))
    missing.unlink()
    assert int((sweep.load(tmp_path)["status"] == status.NOT_RUN).sum()) == 12
    told = []
    again = sweep.run(square, space(), out=tmp_path, progress=lambda *a: told.append(a[0]))
    assert again.equals(first) and told == [8, 12, 16]


def test_a_finished_run_is_read_not_compiled(tmp_path, monkeypatch):
    first = run(tmp_path)
    monkeypatch.setattr("jaxsci.sweep._answers.compile_chunk", lambda *a: pytest.fail("compiled again"))
    assert run(tmp_path).equals(first)


def test_labels_may_change_and_the_rest_may_not(tmp_path):
    first = run(tmp_path, dims={"many": ("a",)})
    second = run(tmp_path, dims={"many": ("b",)}, units={"y": "m"}, meta="note")
    assert second["many"].dims == ("x", "n", "b") and sweep.load(tmp_path)["y"].attrs["units"] == "m"
    np.testing.assert_array_equal(first["many"], second["many"])


SCALE = 1.0


def scaled(x, n):
    return {"y": SCALE * x**n}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: run(f, where=space(x=np.arange(1.0, 10.0))), r"axis 'x': \[1.0, .*, 8.0\] \(8\) float64 .* \(9\)"),
        (lambda f: run(f, where=space(n=[1, 3])), r"axis 'n': \[1, 2\] int64 .*\[1, 3\]"),
        (lambda f: run(f, where=space(x=np.arange(1.0, 9.0, dtype=np.float32))), "float64 over .*float32 over"),
        (lambda f: run(f, where=space(n=sweep.static({1: 1, 2: 5}))), "program at n=2, though .* value behind a label"),
        (lambda f: run(f, where=sweep.product(n=sweep.static([1, 2]), x=SPACE["x"])), "order of dimensions"),
        (lambda f: run(f, lambda x, n, z: x, sweep.product(space(), z=[1.0])), "axis 'z' is new"),
        (lambda f: run(f, lambda x: {"y": x}, sweep.product(x=SPACE["x"])), "axis 'n' is in the folder and not"),
        (lambda f: run(f, lambda x, n: {"y": x}), r"\+ *.*lambda x, n: \{\"y\": x\}"),
        (lambda f: sweep.run(square, space(), out=f, lanes=3, progress=False), "lanes: 2 in the folder, 3 here"),
        (lambda f: run(f, batch="map"), "batch: vmap in the folder, map here"),
        (lambda f: run(f, allow_nan="y"), r"allow_nan: \[\] in the folder, \['y'\] here"),
    ],
)  # fmt: skip
def test_another_sweep_is_refused_with_what_differs(tmp_path, change, match):
    first = run(tmp_path)
    with pytest.raises(sweep.SweepMismatch, match=match) as raised:
        change(tmp_path)
    assert "another folder, pass overwrite=True" in str(raised.value) and isinstance(raised.value, ValueError)
    assert sweep.load(tmp_path).equals(first)


def test_changed_globals_versions_and_precision_are_refused(tmp_path, monkeypatch):
    run(tmp_path, scaled)
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "SCALE", 2.0)
        with pytest.raises(sweep.SweepMismatch, match=r"-global SCALE = 1.0\n *\+global SCALE = 2.0"):
            run(tmp_path, scaled)
    with monkeypatch.context() as patch:
        patch.setattr("jaxsci.sweep._identity.versions", lambda: {"jax": "99.0"})
        with pytest.raises(sweep.SweepMismatch, match=f"version of jax: {jax.__version__} in the folder, 99.0 here"):
            run(tmp_path, scaled)
    with jax.enable_x64(True):
        with pytest.raises(sweep.SweepMismatch, match="x64: False in the folder, True here"):
            run(tmp_path, scaled)


def test_overwrite_starts_afresh_and_spares_the_old_results_from_a_broken_point(tmp_path):
    first = run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, lambda x, n: x / 0 if isinstance(x, int) else 1 / 0, overwrite=True)
    assert sweep.load(tmp_path).equals(first)
    other = run(tmp_path, lambda x, n: {"z": x + n}, overwrite=True)
    assert set(sweep.load(tmp_path).data_vars) == set(other.data_vars) == {"z", "status"}
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_one_writer_at_a_time(tmp_path):
    with _store.Store("run", tmp_path), pytest.raises(RuntimeError, match=f"process {os.getpid()} is writing into"):
        run(tmp_path)
    run(tmp_path)


def test_load_while_the_run_is_writing(tmp_path):
    seen = []

    def watch(done, total, text):
        if done:
            ds = sweep.load(tmp_path)
            left = ds["status"] == status.NOT_RUN
            assert not (ds["y"].isnull() & ~left).any() and ds["y"].isnull().where(left, True).all()
            seen.append((done, int((~left).sum())))

    sweep.run(square, space(), out=tmp_path, lanes=2, chunk=4, progress=watch)
    assert seen == [(4, 4), (8, 8), (12, 12), (16, 16)]


def test_an_interrupt_keeps_what_is_finished_and_says_how_to_continue(tmp_path, capsys):
    def stop(done, total, text):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run(square, space(), out=tmp_path, lanes=2, progress=stop)  # one chunk a second: none is due yet
    assert "Run the same call again to continue" in capsys.readouterr().err
    assert int((sweep.load(tmp_path)["status"] == 0).sum()) == 12
    assert run(tmp_path).equals(sweep.load(tmp_path))


def test_fail_fast_keeps_the_good_chunks_and_fails_again(tmp_path):
    def bad(x, n):
        return jnp.log(x - 5.5 * (x == 6.0) * n)

    for _ in range(2):
        with pytest.raises(status.StatusError, match="x=6.0, n=2: non-finite result"):
            run(tmp_path, bad, fail_fast=True)
        assert int((sweep.load(tmp_path)["status"] == status.NOT_RUN).sum()) == 4
    run(tmp_path, bad)
    with pytest.raises(status.StatusError, match="holds failed points, e.g. x=6.0, n=2"):
        run(tmp_path, bad, fail_fast=True)


def test_a_loop_resumes_and_keeps_its_errors(tmp_path):
    def point(x, folder=tmp_path):
        if x in (0.0, 3.0):
            raise ValueError("no")
        if x == 4.0 and not (folder / "go").exists():
            raise KeyboardInterrupt
        return {"y": x, "n": 1}

    options = {"batch": "loop", "chunk": 2, "progress": False, "out": tmp_path}
    axis = sweep.product(x=np.arange(6.0))
    with pytest.raises(KeyboardInterrupt):
        sweep.run(point, axis, **options)
    assert int((sweep.load(tmp_path)["status"] == status.NOT_RUN).sum()) == 2
    (tmp_path / "go").touch()
    ds = sweep.run(point, axis, **options)
    np.testing.assert_array_equal(ds["y"], [np.nan, 1, 2, np.nan, 4, 5])
    assert ds["n"].values.tolist() == [0, 1, 1, 0, 1, 1]
    assert json.loads(ds.attrs["errors"]) == {"x=0.0": "ValueError: no", "x=3.0": "ValueError: no"}
    assert ds.equals(sweep.load(tmp_path))


def test_a_hundred_thousand_points_in_bounded_memory(tmp_path):
    points, width = 100_000, 100
    held, live = [], []
    before = sum(a.nbytes for a in jax.live_arrays())  # what other tests of this process keep

    def watch(done, total, text):
        held.append(tracemalloc.get_traced_memory()[0])
        live.append(sum(a.nbytes for a in jax.live_arrays()) - before)

    grid = sweep.product(x=np.linspace(0, 1, 1000), y=np.linspace(0, 1, 100))
    tracemalloc.start()
    try:
        ds = sweep.run(lambda x, y: x * jnp.arange(float(width)) + y, grid, out=tmp_path, chunk=5000, progress=watch)
    finally:
        tracemalloc.stop()
    assert ds["value"].nbytes == points * width * 4 and not ds["status"].any()
    np.testing.assert_allclose(ds["value"][999, 99], np.arange(width) + 1.0, rtol=1e-6)
    # 40 MB of results; 5000 points are 2 MB, and a dispatch of 2 x 1024 lanes another
    assert max(held) - held[0] < 6e6 and max(live) < 2e6
    assert len(chunks(tmp_path)) >= 15


def test_a_record_cannot_name_chunks_outside_its_folder(tmp_path):
    run(tmp_path / "a")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("mine")
    record = json.loads((tmp_path / "a" / "sweep.json").read_text())
    (tmp_path / "a" / "sweep.json").write_text(json.dumps(record | {"chunks": "../victim"}))
    for call in (lambda: run(tmp_path / "a"), lambda: sweep.load(tmp_path / "a")):
        with pytest.raises(ValueError, match="names the path '../victim', which leads out of the folder"):
            call()
    assert (tmp_path / "victim" / "file").read_text() == "mine"


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_bad_folders(tmp_path):
    (tmp_path / "file").write_text("")
    traced = []
    with pytest.raises(OSError, match="sweep.run: cannot write into .*Not a directory.*choose another"):
        sweep.run(lambda x: traced.append(x) or x, sweep.product(x=[1.0]), out=tmp_path / "file" / "sub")
    assert not traced, "the folder is tried before anything is computed"
    with pytest.raises(ValueError, match="sweep.load: .* holds no sweep"):
        sweep.load(tmp_path)
    (tmp_path / "results.nc").write_text("somebody's")
    with pytest.raises(ValueError, match="holds a results.nc that no sweep here has written"):
        run(tmp_path)
    (tmp_path / "sweep.json").write_text('{"format": 99}')
    with pytest.raises(sweep.SweepMismatch, match="has another format"):
        run(tmp_path)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "text",
    ["", "{", "\x00\xff", "[]", "3", '{"format": 2}', '{"format": 2, "identity": {}}', '{"format": 2, "identity": 3}'],
)
def test_a_damaged_record_is_told_with_its_path_and_replaced_on_demand(tmp_path, text):
    (tmp_path / "sweep.json").write_bytes(text.encode("latin-1"))
    for call in (run, sweep.load):
        with pytest.raises(ValueError, match=r"sweep.json is damaged \(.*overwrite=True"):
            call(tmp_path)
    assert run(tmp_path, overwrite=True).equals(sweep.load(tmp_path))
