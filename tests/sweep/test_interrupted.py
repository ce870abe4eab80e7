"""Killed and repeated calls never mix results of different sweeps, and never lose or refuse what is right."""

import errno
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

from jaxsci import sweep
from jaxsci.sweep import _store


class Killed(BaseException):
    pass


def run(f, space, **options):
    return sweep.run(f, space, **{"progress": False, **options})


def one(x):
    return x * 1.0


def hundred(x):
    return x * 100.0


TEN = {"x": np.arange(10.0)}


def test_overwrite_killed_while_it_clears_leaves_nothing_for_the_next_run(tmp_path, monkeypatch):
    run(one, sweep.product(**TEN), out=tmp_path, lanes=2, chunk=2)

    def dying(*_, **__):
        raise Killed

    monkeypatch.setattr(_store.shutil, "rmtree", dying)
    with pytest.raises(Killed):
        run(hundred, sweep.product(**TEN), out=tmp_path, lanes=4, chunk=4, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(sweep.SweepMismatch, match="holds another sweep"):
        run(hundred, sweep.product(**TEN), out=tmp_path, lanes=4, chunk=4)
    found = run(hundred, sweep.product(**TEN), out=tmp_path, lanes=4, chunk=4, overwrite=True)
    np.testing.assert_array_equal(found["value"], 100 * TEN["x"])


def test_chunks_without_a_record_are_not_adopted(tmp_path):
    run(one, sweep.product(**TEN), out=tmp_path, lanes=2, chunk=2)
    for name in ("sweep.json", "results.nc"):
        (tmp_path / name).unlink()
    found = run(hundred, sweep.product(**TEN), out=tmp_path, lanes=4, chunk=4)
    np.testing.assert_array_equal(found["value"], 100 * TEN["x"])


def test_extend_killed_before_its_record_leaves_no_chunk_to_another_extend(tmp_path, monkeypatch):
    run(one, sweep.product(x=[10.0, 20.0, 30.0]), out=tmp_path)

    def dying(*_):
        raise Killed

    monkeypatch.setattr(_store.Store, "write_record", dying)
    with pytest.raises(Killed):
        sweep.extend(tmp_path, one, sweep.product(x=[1.0, 2.0, 10.0, 20.0, 30.0]), progress=False)
    monkeypatch.undo()
    x = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    found = sweep.extend(tmp_path, one, sweep.product(x=x), progress=False)
    assert found["value"].values.tolist() == x


def test_extend_into_another_folder_continues_after_an_interrupt(tmp_path):
    run(one, sweep.product(x=[1.0, 2.0]), out=tmp_path / "a", lanes=1)
    bigger = sweep.product(x=[1.0, 2.0, 3.0, 4.0, 5.0])

    def stop(done, *_):
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.extend(tmp_path / "a", one, bigger, out=tmp_path / "b", lanes=1, chunk=1, progress=stop)
    found = sweep.extend(tmp_path / "a", one, bigger, out=tmp_path / "b", lanes=1, chunk=1, progress=False)
    assert found["value"].values.tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(sweep.SweepMismatch, match="holds another sweep"):
        more = sweep.product(x=[1.0, 2.0, 9.0])
        sweep.extend(tmp_path / "a", one, more, out=tmp_path / "b", lanes=1, progress=False)


def test_nan_on_an_axis_resumes_and_extends(tmp_path):
    space = sweep.product(x=[1.0, np.nan])
    first = run(one, space, out=tmp_path, allow_nan="value")
    assert run(one, space, out=tmp_path, allow_nan="value").identical(first)
    more = sweep.extend(tmp_path, one, sweep.product(x=[1.0, 2.0, np.nan]), progress=False)
    np.testing.assert_array_equal(more["value"], [1, 2, np.nan])


def test_a_lambda_in_the_call_may_have_other_labels_next_time(tmp_path):
    sweep.run(lambda x: x**2, sweep.product(x=[1.0, 2.0]), out=tmp_path, progress=False)
    ds = sweep.run(lambda x: x**2, sweep.product(x=[1.0, 2.0]), out=tmp_path, progress=False, units={"x": "m"})
    assert ds["x"].attrs["units"] == "m"
    with pytest.raises(sweep.SweepMismatch, match=r"lambda x: x\*\*3"):
        sweep.run(lambda x: x**3, sweep.product(x=[1.0, 2.0]), out=tmp_path, progress=False)


def test_settings_of_jax_that_change_numbers_are_compared(tmp_path):
    run(one, sweep.product(x=[1.0, 2.0]), out=tmp_path)
    bigger = sweep.product(x=[1.0, 2.0, 3.0])
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        with pytest.raises(sweep.SweepMismatch, match="prng: threefry2x32, .*in the folder"):
            run(one, sweep.product(x=[1.0, 2.0]), out=tmp_path)
        with pytest.raises(sweep.SweepMismatch, match="prng: .*in the folder"):
            sweep.extend(tmp_path, one, bigger, progress=False)
    with jax.default_matmul_precision("bfloat16"), pytest.raises(sweep.SweepMismatch, match="matmul_precision"):
        sweep.extend(tmp_path, one, bigger, progress=False)


def test_a_file_that_cannot_be_opened_now_is_not_taken_for_damaged(tmp_path, monkeypatch):
    run(one, sweep.product(**TEN), out=tmp_path)
    chunks = sorted(tmp_path.rglob("*.npz"))

    def exhausted(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(_store.np, "load", exhausted)
    with pytest.raises(OSError, match="Too many open files"):
        run(one, sweep.product(**TEN), out=tmp_path)
    assert sorted(tmp_path.rglob("*.npz")) == chunks


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unknown(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with pytest.warns(UserWarning, match="has no locks"):
        found = run(one, sweep.product(**TEN), out=tmp_path)
    np.testing.assert_array_equal(found["value"], TEN["x"])


def test_clear_removes_the_record_last(tmp_path, monkeypatch):
    run(one, sweep.product(**TEN), out=tmp_path)
    seen, plain = [], pathlib.Path.unlink
    monkeypatch.setattr(pathlib.Path, "unlink", lambda p, **k: (seen.append(p.name), plain(p, **k))[1])
    rmtree = shutil.rmtree
    monkeypatch.setattr(_store.shutil, "rmtree", lambda p: (seen.append(p.name), rmtree(p))[1])
    _store.Store("run", tmp_path).clear()
    names = [n for n in seen if n.startswith(("sweep", "results"))]
    assert names == ["sweep-chunks", "results.nc", "sweep.json"]
