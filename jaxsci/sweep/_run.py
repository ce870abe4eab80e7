"""`run`, `load`: a space and a function in, a labelled Dataset out, with a folder that survives interruptions."""

import datetime
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsci.core import status
from jaxsci.core.extras import require
from jaxsci.core.progress import reporting
from jaxsci.core.provenance import device_description, settings, versions
from jaxsci.sweep import _dataset, _points
from jaxsci.sweep._axes import Keys
from jaxsci.sweep._dataset import POINT_RAISED
from jaxsci.sweep._execute import Batch, Sink, run_points
from jaxsci.sweep._identity import compare, identify
from jaxsci.sweep._prepare import Options, Study, prepare
from jaxsci.sweep._space import Space, coords_of, describe
from jaxsci.sweep._store import CHUNKS, RESULTS, Identity, Record, Store, read_chunk, read_chunks, read_record
from jaxsci.sweep._trace import Variable, check_same, variables_of

_MAX_SOURCE = 8000  # characters of a source text that an attribute of a netCDF file has room for


def run(
    point: Callable,
    space: Space,
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
    batch: str = "auto",
    lanes: int | None = None,
    chunk: int | None = None,
    devices: int | Sequence[Any] | None = None,
    allow_nan: str | Sequence[str] = (),
    fail_fast: bool = False,
    progress: bool | Callable = True,
    meta: Any = None,
    version: str | None = None,
    accept_changes: bool = False,
    retry_failed: bool = False,
    executor: Any = None,
) -> Any:
    """Evaluate a function at every point of a space and label the results.

    The function is traced once and compiled once for every combination of static axes; its traced arguments run as
    lanes of one program on every local device. With `out` the finished chunks stay on disk, and the same call
    continues where an interrupted one stopped, with the same bits. The folder knows the function by the program that it
    is (`core.program`): an edit that changes a number is refused wherever it stands, a comment is not.

    Args:
        point: called with one keyword argument per axis, for one point; returns an array, or a dictionary, record or
            nest of them. Nested outputs get dotted names, a lone array is called ``value``. Fields called ``status``
            are read as `jaxsci.core.status` bits.
        space: made by `product` or `zip`.
        dims: names of an output's own dimensions, ``{"x": ("row", "col")}``.
        units: units of outputs and axes, ``{"x": "K"}``.
        out: folder for chunks, the record ``sweep.json`` and ``results.nc``.
        overwrite: forget what is in the folder.
        batch: ``"vmap"`` runs lanes in lockstep; ``"map"`` one after another on each device, so that no lane waits for
            a slower one; ``"loop"`` calls any Python function point by point, without tracing (numbers arrive as Python
            numbers); ``"auto"`` takes ``"map"`` on CPUs where the point holds a loop whose length depends on data,
            else ``"vmap"``.
        lanes: points per device and dispatch; by default from the outline of the point and the memory, the same in
            every run. Equal lanes give equal bits, on any number of devices.
        chunk: points per chunk file; by default a file about every second.
        devices: the local devices to use: all by default, a number of them, or a list.
        allow_nan: outputs whose NaN or infinite entries are no trouble, such as padded histories.
        fail_fast: stop at the first dispatch with a fault in some status; finished chunks stay.
        progress: a bar on stderr, False for silence, or a callable ``(points done, points, text)``.
        meta: plain data kept as JSON text in the attribute ``meta``.
        version: text of the user's own that a folder remembers: another one is another sweep. For what a program does
            not show, above all with ``batch="loop"``, where the point counts by its source text.
        accept_changes: go on in a folder although the point function has been edited since; the source texts before and
            after are kept in the provenance.
        retry_failed: compute those points of the folder again whose function raised an exception; otherwise they count
            as done.
        executor: whose workers compute instead of this process, with the same bits: anything with ``submit(function,
            *args)`` and futures with ``done()`` and ``result()``, such as a `concurrent.futures.ProcessPoolExecutor`
            whose processes are spawned, ``client.get_executor(pure=False)`` of Dask, or submitit's for SLURM. It gets
            whole chunks: `chunk` points, by default as many as keep a worker busy for a moment. See "Other engines".

    Returns:
        An `xarray.Dataset`: dimensions of the space in order, then those of the outputs; coordinates; an int32
        ``status`` for every point, 0 = ok, else bits of `jaxsci.core.status` (a NaN or infinity in a floating output,
        the point's own statuses, an exception: the point is NaN, its text stands in the attribute ``errors``, and the
        points around it are computed all the same); provenance as JSON text in the attribute ``provenance``.
        `jaxsci.check` raises on faults.

    Other engines:
        With an `executor` the points are traced here and travel as a program (`jax.export`), which each worker compiles
        once, with the settings of JAX that change numbers; large arrays travel once, as files in `out` where workers
        see it. A function that calls back to the host, or ``batch="loop"``, travels itself, by cloudpickle. Workers
        need the same versions and the same platform as this process and use all their devices, or `devices` of them.
        This process alone writes, as chunks are finished. A chunk whose worker is lost is handed out again at most
        three times, the last time point by point: a point that ends every worker becomes a NaN and a status. A process
        pool breaks when a worker is lost: that raises, and the same call with a new pool continues. Needs
        ``jaxsci[distributed]``.

    Raises:
        SweepMismatch: the folder holds another sweep; the message says which axis, program, source line or version
            differs, and whether the point draws random numbers while it is traced.
        ValueError, TypeError: axes that are no parameters, outputs that are no arrays or differ in shape between static
            combinations, labels that fit nothing.
        jaxsci.core.status.StatusError: with `fail_fast`, naming the failing points by coordinate.
        OSError, RuntimeError: the folder cannot be written, or another process is writing into it; the executor is
            broken or all of a chunk failed every time, the message names the folder.

    Example:
        >>> from jaxsci import sweep
        >>> space = sweep.product(x=[0.0, 1.0, 2.0], n=sweep.static([1, 2]))
        >>> ds = sweep.run(lambda x, n: {"power": x**n}, space, progress=False)
        >>> ds["power"].sel(x=2.0, n=2).item()
        4.0
    """
    options = Options(
        dims, units, batch, lanes, chunk, devices, allow_nan, fail_fast, progress, meta, version, accept_changes,
        retry_failed, executor,
    )  # fmt: skip
    if out is None:
        study = prepare("run", point, space, options)
        return compute_in_memory(study, options)
    with Store("run", out) as store:
        record = store.begun(overwrite)
        study = prepare("run", point, space, options, record)
        session = open_folder(study, identify(study), store, record, options)
        return compute_in_folder(session, options)


class Session(NamedTuple):
    """A study with its folder open, whose record is written.

    Attributes:
        study: the study.
        store: the folder, locked.
        record: the record under which new chunks stand.
        done: Bool over all points, True for those on disk; None in a new folder.
    """

    study: Study
    store: Store
    record: Record
    done: np.ndarray | None


def open_folder(study: Study, identity: Identity, store: Store, record: Record | None, options: Options) -> Session:
    """Hold the study against what the folder says, and write the record under which new chunks will stand."""
    provenance, done, chunks = _provenance(study, identity), None, CHUNKS
    if record is None:  # a new folder, or overwrite: chunks without a record belong to nobody
        store.clear()
    else:
        told = compare(study, identity, record, store.folder, accept=options.accept_changes)
        done, found = _finished(study, store, record, options.retry_failed)
        study = study._replace(variables=study.variables or found)
        provenance |= {"started": record.provenance["started"], "edits": list(record.provenance["edits"])}
        if done.all():  # a second call of a finished sweep changes nothing
            provenance["finished"] = record.provenance["finished"]
        chunks = record.chunks
        if told:
            texts = {"before": record.identity.function[:_MAX_SOURCE], "after": identity.function[:_MAX_SOURCE]}
            provenance["edits"].append({"accepted": _now(), "differences": told, **texts})
    record = Record(
        identity, study.batch, study.lanes, _plain(study.variables), chunks, study.shown._asdict(), provenance
    )
    store.write_record(record)
    return Session(study, store, record, done)


def compute_in_memory(study: Study, options: Options) -> Any:
    """Run all points and build the Dataset."""
    sink = Sink(study.space.num_points, None, None, None)
    _compute(study, None, sink, options)
    provenance = _provenance(study, None) | {"finished": _now()}
    return _dataset_of(describe(study.space), sink, study.shown, provenance)


def compute_in_folder(session: Session, options: Options) -> Any:
    """Run the points that the folder lacks, build the Dataset from its chunks and write it."""
    study, store, record, done = session
    if options.fail_fast:
        _check_finished(study.space, store, record)
    _compute(study, done, Sink(study.space.num_points, store, record, options.chunk), options)
    record = record._replace(provenance=record.provenance | {"finished": record.provenance["finished"] or _now()})
    dataset = _dataset_of(record.identity.space, gathered(store.folder, record), study.shown, record.provenance)
    store.write_record(record)
    _dataset.write_netcdf(dataset, store.folder / RESULTS)
    return dataset


def _compute(study: Study, done: np.ndarray | None, sink: Sink, options: Options) -> None:
    """Run the points; whatever ends the run, finished points reach the sink's folder."""
    finished = 0 if done is None else int(done.sum())
    try:
        with reporting("sweep.run", options.progress, study.space.num_points, finished, unit="point") as report:
            run_points(study, done, sink, report, options)
    except BaseException as error:
        if not isinstance(error, status.StatusError):
            sink.flush()
        if isinstance(error, KeyboardInterrupt):
            _say_how_to_continue(sink.store)
        raise


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _dataset_of(description: dict, sink: Sink, shown: _dataset.Presentation, provenance: dict) -> Any:
    sizes, coords = dict(description["sizes"]), coords_of(description)
    errors = {_points.told(_points.coordinates(coords, sizes, i)): text for i, text in sorted(sink.errors.items())}
    seconds = {"run_seconds": round(sink.seconds, 6), "compile_seconds": round(sink.compile_seconds, 6)}
    return _dataset.build(
        description, sink.variables or {}, sink.arrays, sink.codes, shown, provenance | seconds, errors
    )


def _provenance(study: Study, identity: Identity | None) -> dict[str, Any]:
    """Where the numbers come from."""
    keys = {axis.name: axis.entries.seeds for axis in study.space.axes if isinstance(axis.entries, Keys)}
    programs = json.dumps(identity.programs, sort_keys=True) if identity and study.traces else None
    return {
        "function": study.name,
        "program": programs and hashlib.sha256(programs.encode()).hexdigest(),
        "version": study.version,
        "versions": versions(),
        "device": device_description(study.devices),
        **settings(),
        "platform": study.devices[0].platform,
        "seeds": {name: [int(seeds[0]), int(seeds[-1])] for name, seeds in keys.items()},
        "batch": study.batch,
        "lanes": study.lanes,
        "devices": len(study.devices),
        "points": study.space.num_points,
        "combinations": len(study.combinations),
        "allow_nan": list(study.allow_nan),
        "edits": [],
        "started": _now(),
        "finished": None,
    }


def _plain(variables: dict[str, Variable] | None) -> dict | None:
    return None if variables is None else {n: [list(v.shape), str(v.dtype)] for n, v in variables.items()}


def _finished(study: Study, store: Store, record: Record, retry: bool) -> tuple[np.ndarray, dict[str, Variable] | None]:
    """Which points are on disk, and their variables. Every chunk is read, so that its checksums are; damaged files are
    removed, and with `retry` the points whose function raised."""
    done, variables = np.zeros(study.space.num_points, bool), None
    for path in sorted(store.chunks(record).glob("*.npz")):
        chunk = read_chunk(path)
        if chunk is None:
            path.unlink()
            continue
        raised = chunk["status"] & POINT_RAISED != 0
        if retry and raised.any():
            chunk = _without(store, record, path, chunk, ~raised)
        done[chunk["index"]] = True
        if chunk["values"] and variables is None:
            variables = {n: Variable(a.shape[1:], a.dtype) for n, a in chunk["values"].items()}
            check_same(variables, "the finished points", study.variables or variables, "this run")
    return done, variables


def _without(store: Store, record: Record, path: pathlib.Path, chunk: dict, keep: np.ndarray) -> dict:
    """The chunk with the points to keep, also on disk; a kill between its two files leaves points twice, alike."""
    index, codes = chunk["index"][keep], chunk["status"][keep]
    values = {name: array[keep] for name, array in chunk["values"].items()}
    notes = chunk["notes"] | {"errors": {i: text for i, text in chunk["notes"]["errors"].items() if int(i) in index}}
    if len(index):
        store.write_chunk(record, index, values, codes, notes)
    path.unlink()
    return {"index": index, "status": codes, "values": values, "notes": notes}


def _check_finished(space: Space, store: Store, record: Record) -> None:
    """`fail_fast` also looks at what an earlier run has left."""
    for chunk in read_chunks(store.folder, record):
        bad = np.flatnonzero(status.faults(chunk["status"]))
        if len(bad):
            where = _points.told(_points.coordinates(space.coords, space.sizes, int(chunk["index"][bad[0]])))
            text = status.explain(int(chunk["status"][bad[0]]))
            raise status.StatusError(f"sweep.run(fail_fast=True): the folder holds failed points, e.g. {where}: {text}")


def gathered(folder: str | os.PathLike, record: Record) -> Sink:
    """All chunks of a folder in arrays; points that are missing are NaN (0 for integers) with the status `not run`."""
    points = int(np.prod([size for _, size in record.identity.space["sizes"]]))
    sink = Sink(points, None, None, None)
    if record.variables is not None:
        sink.variables = variables_of(record.variables)
        sink.arrays = {n: _dataset.fill(v, points) for n, v in sink.variables.items()}
    for chunk in read_chunks(folder, record):
        notes = chunk["notes"]
        errors = {int(i): text for i, text in notes["errors"].items()}
        values = chunk["values"] or None
        sink.keep(Batch(chunk["index"], values, chunk["status"], notes["seconds"], notes["compile_seconds"], errors))
    return sink


def load(folder: str | os.PathLike) -> Any:
    """The results in a folder as a Dataset, also while a run is still writing or after it was killed.

    Args:
        folder: what `run` got as `out`.

    Returns:
        The Dataset that `run` returns; points not computed yet are NaN (0 for integers) and have the status `not run`.

    Raises:
        ValueError: the folder holds no sweep.

    Example:
        >>> import tempfile
        >>> from jaxsci import sweep
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = sweep.run(lambda x: {"y": x * x}, sweep.product(x=[1.0, 2.0]), out=folder)
        ...     print(sweep.load(folder).y.values)
        [1. 4.]
    """
    require("xarray", "sweep", "sweep.load")
    record = read_record(folder)
    if record is None:
        raise ValueError(f"sweep.load: {str(folder)!r} holds no sweep (no sweep.json); pass what run got as out=")
    sink = gathered(pathlib.Path(folder), record)
    now = read_record(folder)
    if now is not None and now.chunks != record.chunks:  # it was extended while we read
        return load(folder)
    shown = _dataset.Presentation(**record.presentation)
    return _dataset_of(record.identity.space, sink, shown, record.provenance)


def _say_how_to_continue(store: Store | None) -> None:
    if store is None:
        told = "interrupted; nothing was kept. With out='folder' the same call continues where it stopped"
    else:
        told = f"interrupted; finished points are in {str(store.folder)!r}. Run the same call again to continue"
    print(f"\nsweep.run: {told}", file=sys.stderr)
