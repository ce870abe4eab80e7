"""Chunks handed to an executor: the same bits, whatever workers do."""

import json
import multiprocessing
import os
import pickle
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import sweep
from jaxsci.core import status
from jaxsci.sweep import _parcel, _worker
from jaxsci.sweep._dataset import POINT_RAISED


class Worker:
    """An executor in this process. Calls and answers are pickled, as on their way to another one; futures are done
    from the last to the first. `before` sees the points of every call and may raise what a lost worker raises."""

    def __init__(self, before=lambda local: None, settings=None):
        self.before, self.settings, self.futures, self.handed, self.sent = before, settings or {}, [], [], []

    def submit(self, function, *args):
        future = _Later(self.futures)
        self.futures.append(future)
        self.handed.append((args[1], args[2].tolist()))
        self.sent.append(len(args[5]))
        try:
            self.before(args[2])
            function, args = pickle.loads(pickle.dumps((function, args)))
            with jax.enable_x64(self.settings.get("x64", bool(jax.config.jax_enable_x64))):
                answer = pickle.dumps(function(*args))
            future.set_result(pickle.loads(answer))
        except Exception as error:
            future.set_exception(error)
        return future

    def times(self, point, position=0):
        """How often a point of a combination was handed out."""
        return sum(point in local for at, local in self.handed if at == position)


class _Later(Future):
    """Done once all that was handed out after it has been taken."""

    def __init__(self, futures):
        super().__init__()
        self._futures, self._taken = futures, False

    def done(self):
        return all(f._taken for f in self._futures[self._futures.index(self) + 1 :]) and super().done()

    def result(self, timeout=None):
        self._taken = True
        return super().result(timeout)


class Lost(Exception):
    """What an executor raises whose worker is gone."""


BIG = jnp.linspace(0.0, 1.0, 100_000)  # larger than what travels with every chunk
SPACE = sweep.product(
    x=np.linspace(0, 1, 11),
    table=sweep.stack({"a": {"w": jnp.float32([1, 2])}, "b": {"w": jnp.float32([3, 4])}}),
    n=sweep.static([1, 2]),
    key=sweep.keys(2),
)


def study(x, table, n, key):
    """Every kind of axis, a captured array, a loop of uneven length, a status."""
    start = BIG[:2] + jax.random.key_data(key)[-1] * jnp.exp(x) * table["w"]
    count, y = jax.lax.while_loop(lambda c: c[0] < 20 * x + n, lambda c: (c[0] + 1, jnp.sin(c[1])), (0.0, start))
    return {"y": y + BIG.sum(), "count": count, "status": status.flag(x > 0.95, status.MAX_STEPS)}


def run(point, space, **options):
    return sweep.run(point, space, **{"progress": False, **options})


@pytest.mark.parametrize("options", [{"batch": "vmap", "lanes": 5}, {}], ids=["vmap", "auto"])
def test_bits_are_those_of_one_process(options, tmp_path, monkeypatch):
    one, worker, compiled, plain = run(study, SPACE, **options), Worker(), [], _worker._runner
    monkeypatch.setattr(_worker, "_runner", lambda job, n: compiled.append(job.program is not None) or plain(job, n))
    found = run(study, SPACE, executor=worker, out=tmp_path, **options)
    assert found.equals(one) and json.loads(found.attrs["provenance"])["compile_seconds"] > 0
    assert compiled == [True, True] and len(worker.handed) > 2, "one program for each combination, and it travels"
    assert all(worker.times(i, n) == 1 for i in range(44) for n in (0, 1)) and not any(worker.sent)
    assert found.equals(sweep.load(tmp_path)) and not list(tmp_path.glob(".*")), "the files of large arrays are gone"
    lanes = json.loads(one.attrs["provenance"])["lanes"]
    assert all(local[0] % lanes == 0 for _, local in worker.handed), "whole dispatches"


@pytest.mark.x64
def test_settings_travel():
    space = sweep.product(x=np.linspace(0, 1, 5))

    def point(x):
        return jax.random.uniform(jax.random.key(3), (2,)) / 3 + x

    found = run(point, space, executor=Worker(settings={"x64": False}))
    assert found["value"].dtype == np.float64 and found.equals(run(point, space))


def test_large_arrays_travel_with_a_call_where_their_files_are_not_seen(monkeypatch, tmp_path):
    monkeypatch.setattr(_worker, "file_of", lambda folder, digest: tmp_path / "nowhere")
    one, worker = run(study, SPACE, lanes=4), Worker()
    assert run(study, SPACE, lanes=4, executor=worker).equals(one)
    assert sum(worker.sent) >= 1 and len([n for n in worker.sent if n]) < len(worker.sent) / 2


def test_functions_travel_where_there_is_no_program():
    big, module = np.arange(100_000.0), multiprocessing

    def raises(x, n):
        if x == 3:
            raise ZeroDivisionError("three is bad")
        return {"y": np.float32(x) / n + big[int(x)], "w": module.__name__ == "multiprocessing"}

    def calls(x, n):
        y = jax.pure_callback(lambda v: np.cos(v), jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")
        return {"y": y * n, "w": big.sum(dtype=np.float32) * x}

    space = sweep.product(x=np.arange(6.0), n=sweep.static([1, 2]))
    for point, options in ((raises, {"batch": "loop"}), (calls, {"lanes": 4})):
        one = run(point, space, **options)
        found = run(point, space, executor=Worker(), **options)
        assert found.equals(one) and found.attrs.get("errors") == one.attrs.get("errors")


# --- lost workers ------------------------------------------------------------------------------------------


def kills(*points, times=99):
    """A worker ends when it gets one of `points` of the first combination, the first `times` times."""
    ends = []

    def before(local):
        if set(points) & set(local.tolist()) and len(ends) < times:
            ends.append(local)
            raise Lost("the worker is gone")

    return before


def square(x):
    return {"y": jnp.exp(x) * jnp.ones(2), "n": jnp.int32(x > 0.5)}


FORTY = sweep.product(x=np.linspace(0, 1, 40))


def test_a_lost_chunk_is_handed_out_again(caplog):
    worker = Worker(kills(13, times=2))
    assert run(square, FORTY, lanes=4, executor=worker).equals(run(square, FORTY, lanes=4))
    assert worker.times(13) == 3 and worker.times(12) == 3 and worker.times(11) == 1
    assert "failed (Lost: the worker is gone); handed out again, 2 of 3 times" in caplog.text


@pytest.mark.parametrize("batch", ["vmap", "loop"])
def test_a_point_that_ends_every_worker_is_a_status(batch, tmp_path):
    def point(x):
        return {"y": 2 * x, "n": x > 0.5}

    options = {"batch": batch, "lanes": 4, "chunk": 12}
    one, worker = run(point, FORTY, **options), Worker(kills(13))
    found = run(point, FORTY, executor=worker, out=tmp_path, **options)
    bad = np.arange(40) == 13
    np.testing.assert_array_equal(found["status"] != 0, bad)
    assert found["status"][13] == POINT_RAISED and np.isnan(found["y"][13])
    assert found.isel(x=~bad).equals(one.isel(x=~bad))
    assert list(json.loads(found.attrs["errors"]).values()) == ["Lost: the worker is gone"]
    assert worker.times(13) == 4 and max(map(worker.times, range(40))) == 4
    index = np.concatenate([np.load(path)["index"] for path in tmp_path.rglob("*.npz")])
    assert sorted(index.tolist()) == list(range(40)), "every point once"
    again = run(point, FORTY, executor=Worker(), out=tmp_path, retry_failed=True, **options)
    assert again.equals(one)


def test_a_lone_point_keeps_the_bits_of_its_lane():
    """Vector code may round the last lanes in another way than the first ones."""
    space = sweep.product(x=np.linspace(0.1, 2, 27))

    def point(x):
        return jnp.sin(jnp.exp(x) * 7) / jnp.tanh(x) + jnp.log1p(x)

    one, worker = run(point, space, lanes=9), Worker(kills(26))
    found = run(point, space, lanes=9, executor=worker)
    assert found.isel(x=slice(26)).equals(one.isel(x=slice(26))) and found["status"].values.nonzero()[0] == [26]


def test_what_ends_all_workers_raises_and_the_folder_continues(tmp_path):
    worker = Worker(kills(*range(16, 40)))
    with pytest.raises(RuntimeError, match=r"all of 4 points, .*failed 4 times.*Lost: .*Finished points are in .*/a'"):
        run(square, FORTY, lanes=4, chunk=4, executor=worker, out=tmp_path / "a")
    done = set(np.flatnonzero(sweep.load(tmp_path / "a")["status"].values == 0))
    assert done <= set(range(16)) and not list((tmp_path / "a").glob(".sweep*"))
    rest = Worker()
    found = run(square, FORTY, lanes=4, chunk=4, executor=rest, out=tmp_path / "a")
    assert found.equals(run(square, FORTY, lanes=4)) and all(rest.times(i) == (i not in done) for i in range(40))


@pytest.mark.parametrize("where", ["result", "submit"])
def test_a_broken_executor_raises_and_a_new_one_continues(where, tmp_path):
    first = Worker()

    def breaks(local):
        if len(first.handed) > 5:
            raise BrokenExecutor("a process in the pool died")

    if where == "result":
        first.before = breaks
    else:
        plain = first.submit
        first.submit = lambda *a: plain(*a) if len(first.handed) < 5 else breaks(first.handed.append(0))
    with pytest.raises(
        RuntimeError, match=r"executor \(Worker\) is broken: .*died.*; it held \d+ points, from x=.*/a'"
    ):
        run(square, FORTY, lanes=4, chunk=4, executor=first, out=tmp_path / "a")
    done = sweep.load(tmp_path / "a")["status"].values == 0
    second = Worker()
    found = run(square, FORTY, lanes=4, chunk=4, executor=second, out=tmp_path / "a")
    assert found.equals(run(square, FORTY, lanes=4)) and all(second.times(i) == (not done[i]) for i in range(40))


def test_what_a_worker_cannot_do_another_may(monkeypatch, caplog):
    """An exception that is no matter of points: a device that fails, a package that is missing."""
    plain, trouble = _worker._runner, []

    def sick(job, position):
        trouble.append(position)
        if len(trouble) < 3:
            raise MemoryError("no memory here")
        return plain(job, position)

    monkeypatch.setattr(_worker, "_runner", sick)
    assert run(square, FORTY, lanes=20, executor=Worker()).equals(run(square, FORTY, lanes=20))
    assert "MemoryError: no memory here" in caplog.text
    monkeypatch.setattr(_worker, "_runner", lambda job, position: 1 / 0)
    with pytest.raises(
        RuntimeError, match="all of 10 points, from x=.* failed 4 times, .*ZeroDivisionError.*out='fold"
    ):
        run(square, FORTY, lanes=10, executor=Worker())


# --- the rest is one mechanism -----------------------------------------------------------------------------


def test_an_interrupt_calls_back_what_has_not_begun(tmp_path, capsys, monkeypatch):
    def stop(done, total, text):
        if done >= 8:
            raise KeyboardInterrupt

    worker, cancelled = Worker(), []
    monkeypatch.setattr(_Later, "cancel", lambda self: cancelled.append(self))
    with pytest.raises(KeyboardInterrupt):
        run(square, FORTY, lanes=4, chunk=4, executor=worker, out=tmp_path / "a", progress=stop)
    assert cancelled and "Run the same call again to continue" in capsys.readouterr().err
    told = []
    found = run(square, FORTY, lanes=4, executor=Worker(), out=tmp_path / "a", progress=lambda *a: told.append(a[:2]))
    counts = [done for done, total in told if total == 40]
    assert found.equals(run(square, FORTY, lanes=4)) and counts[-1] == 40 and min(filter(None, counts)) > 8


def test_fail_fast_and_extend(tmp_path):
    with pytest.raises(status.StatusError, match=r"1 of the 4 points .*\n  x=0.0.*: non-finite"):
        run(lambda x: 1 / x, FORTY, lanes=4, fail_fast=True, executor=Worker())
    small, worker = sweep.product(x=np.linspace(0, 1, 40)[:8]), Worker()
    run(square, small, lanes=4, out=tmp_path)
    found = sweep.extend(tmp_path, square, FORTY, progress=False, executor=worker)
    assert found.equals(run(square, FORTY, lanes=4)) and [worker.times(i) for i in (0, 7, 8)] == [0, 0, 1]


def test_a_worker_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(_worker, "versions", lambda: {"jax": "0.0.1"})
    with pytest.raises(RuntimeError, match=r"worker .*:\d+ has jax 0.0.1, here \d"):
        run(square, FORTY, executor=Worker())


def test_typed_keys_and_structures_pickle():
    class Node:
        def __init__(self, x):
            self.x = x

    jax.tree_util.register_pytree_node(Node, lambda n: ((n.x,), None), lambda _, c: Node(*c))
    blobs = _parcel.Blobs(None)
    key, tree, big = jax.random.key(5, impl="rbg"), jax.tree.structure([Node(1), None]), jnp.arange(1e5)
    packed = _parcel.pack((key, tree, [big, big], np.asarray([Node, None])), blobs)
    assert len(packed.data) < 5000 and len(packed.blobs) == 1
    contents = {digest: pickle.loads(data) for digest, data in blobs.read(packed.blobs).items()}
    found = _parcel.unpack(packed.data, contents.__getitem__)
    assert found[0] == key and jax.random.key_impl(found[0]) == jax.random.key_impl(key)
    assert str(found[1]).replace("Node", "") == str(tree).replace("Node", "")
    np.testing.assert_array_equal(found[2][1], big)
    folder = blobs.folder
    blobs.close()
    assert not folder.exists()


class Killing:
    """A pool of one process, which is killed once two chunks are done."""

    def __init__(self):
        self.pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self.futures = []

    def submit(self, *call):
        if len(self.futures) == 2:
            for future in self.futures:
                future.result()
            os.kill(next(iter(self.pool._processes)), 9)
        self.futures.append(self.pool.submit(*call))
        return self.futures[-1]


def test_a_process_pool(tmp_path):
    """Its process is killed: the pool breaks, a new one continues."""
    options = {"lanes": 11, "chunk": 11, "out": tmp_path / "a"}
    broken = Killing()
    with broken.pool, pytest.raises(RuntimeError, match=r"executor \(Killing\) is broken: BrokenProcessPool.*/a'"):
        run(study, SPACE, executor=broken, **options)
    assert (sweep.load(tmp_path / "a")["status"] != status.NOT_RUN).sum() == 22
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = run(study, SPACE, executor=pool, **options)
    assert found.equals(run(study, SPACE, lanes=11))


# --- bad input ---------------------------------------------------------------------------------------------


def _unpicklable():
    lock = multiprocessing.get_context("spawn").Lock()  # pickles to child processes only
    return lambda x: x if lock else 0


BAD = [
    (lambda: run(square, FORTY, executor=3), TypeError, r"executor must have a method submit.*got int"),
    (lambda: run(square, FORTY, executor=Worker), TypeError, "got the class Worker"),
    (lambda: run(square, FORTY, executor=Worker(), devices=jax.devices()), ValueError, "devices must be None or how"),
    (
        lambda: run(square, FORTY, executor=ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))),
        ValueError,
        'forks of a process in which JAX .*get_context."spawn"',
    ),
    (lambda: run(_unpicklable(), FORTY, batch="loop", executor=Worker()), TypeError, "cannot travel to workers"),
    (
        lambda: run(lambda x: np.ma.array([x], mask=[1]), FORTY, batch="loop", executor=Worker()),
        TypeError,
        "'value' .* a masked array",
    ),
    (
        lambda: run(lambda x: np.ones(1 + int(2 * x)), FORTY, batch="loop", executor=Worker()),
        ValueError,
        r"'value' is float64\[\d\] for earlier points and float64\[\d\] for x=",
    ),
    (lambda: run(lambda x: 1 / 0, FORTY, batch="loop", executor=Worker()), RuntimeError, "every point .*ZeroDivisionE"),
]  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=match):
        call()
