"""`run`, `load`: a space and a function in, a labelled Dataset out, with a folder that survives interruptions."""

import datetime
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxsci.core import status
from jaxsci.core.extras import require
from jaxsci.core.provenance import device_description, fingerprint, source_of, versions
from jaxsci.sweep import _dataset, _points
from jaxsci.sweep._axes import Keys
from jaxsci.sweep._execute import Batch, Sink, run_points
from jaxsci.sweep._plan import Prepared, check_options, chosen_devices, prepare
from jaxsci.sweep._progress import reporting
from jaxsci.sweep._space import Space, coords_of, describe, position_tokens
from jaxsci.sweep._store import CHUNKS, RESULTS, Store, SweepMismatch, differences, read_chunk, read_chunks, read_record
from jaxsci.sweep._trace import Variable, check_allow_nan, check_parameters, check_same, function_name


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
) -> Any:
    """Evaluate a function at every point of a space and label the results.

    The function is traced once and compiled once for every combination of static axes; its traced arguments run as
    lanes of one program on every local device. With `out` the finished chunks stay on disk, and the same call
    continues where an interrupted one stopped, with the same bits.

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
        fail_fast: stop at the first dispatch with a status other than 0; finished chunks stay.
        progress: a bar on stderr, False for silence, or a callable ``(points done, points, text)``.
        meta: plain data kept as JSON text in the attribute ``meta``.

    Returns:
        An `xarray.Dataset`: dimensions of the space in order, then those of the outputs; coordinates; an int32
        ``status`` for every point, 0 = ok, else bits of `jaxsci.core.status` (a NaN or infinity in a floating output,
        the point's own statuses, an exception in a loop); provenance as JSON text in the attribute ``provenance``.
        `jaxsci.check` raises on a status other than 0.

    Raises:
        SweepMismatch: the folder holds another sweep; the message says which axis, source line or version differs.
        ValueError, TypeError: axes that are no parameters, outputs that are no arrays or differ in shape between static
            combinations, labels that fit nothing.
        jaxsci.core.status.StatusError: with `fail_fast`, naming the failing points by coordinate.
        OSError, RuntimeError: the folder cannot be written, or another process is writing into it.

    Example:
        >>> from jaxsci import sweep
        >>> space = sweep.product(x=[0.0, 1.0, 2.0], n=sweep.static([1, 2]))
        >>> ds = sweep.run(lambda x, n: {"power": x**n}, space, progress=False)
        >>> ds["power"].sel(x=2.0, n=2).item()
        4.0
    """
    options = {"dims": dims, "units": units, "batch": batch, "lanes": lanes, "chunk": chunk, "devices": devices}
    options |= {"allow_nan": allow_nan, "fail_fast": fail_fast, "progress": progress, "meta": meta}
    check_parameters("run", point, space)
    check_options("run", batch, lanes, chunk)
    _dataset.presentation("run", dims, units, meta)
    if out is None:
        return execute(point, space, None, None, options)
    identity = identify(point, space, options)
    with Store("run", out) as store:
        record = None if overwrite else store.record()
        if record is None and not overwrite and (store.folder / RESULTS).exists():
            raise ValueError(
                f"sweep.run: {str(out)!r} holds a {RESULTS} that no sweep here has written; choose another folder, or "
                "pass overwrite=True to replace it"
            )
        if record is not None:
            asked = {"batch": batch if batch != "auto" else record["batch"], "lanes": lanes or record["lanes"]}
            if asked["batch"] == "loop":
                asked["lanes"] = 1
            refuse("run", out, record, {**identity, **asked})
        known = {"identity": identity, "record": record}
        return execute(point, space, store, known, options)


def identify(point: Callable, space: Space, options: dict) -> dict[str, Any]:
    """All that must agree for two runs to be the same sweep."""
    allow_nan = check_allow_nan("run", options["allow_nan"], None)
    return {
        "function": source_of(point),
        "space": describe(space),
        "versions": versions(),
        **settings(options),
        "allow_nan": sorted(allow_nan),
    }


def settings(options: dict) -> dict[str, Any]:
    """Settings of JAX that change numbers."""
    bits = "partitionable" if jax.config.jax_threefry_partitionable else "not partitionable"
    return {
        "x64": bool(jax.config.jax_enable_x64),
        "platform": chosen_devices("run", options["devices"], 1)[0].platform,
        "prng": f"{jax.config.jax_default_prng_impl}, {bits}",
        "matmul_precision": str(jax.config.jax_default_matmul_precision),
    }


def refuse(function: str, folder: Any, record: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise if what is asked is not what the folder holds."""
    found = {**record["identity"], "batch": record["batch"], "lanes": record["lanes"]}
    lines = differences(found, asked)
    if lines:
        told = "\n".join(f"  {line}" for line in lines)
        raise SweepMismatch(
            f"sweep.{function}: {str(folder)!r} holds another sweep. What differs:\n{told}\n"
            "Choose another folder, pass overwrite=True to start afresh, or sweep.extend to add points"
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def execute(
    point, space: Space, store: Store | None, known: dict | None, options: dict, reused: Batch | None = None
) -> Any:
    """Run what is missing and build the Dataset; `known` is the folder's identity and record, `reused` points that
    another run has computed."""
    description = describe(space)
    shown = _dataset.presentation("run", options["dims"], options["units"], options["meta"])
    allow_nan = check_allow_nan("run", options["allow_nan"], None)
    combinations = _points.combinations(space)
    chosen = chosen_devices("run", options["devices"], max(c.size for c in combinations))
    record = known["record"] if known else None
    done = _done(space, store, record) if record else None
    if reused is not None:
        done = np.zeros(space.num_points, bool)
        done[reused.index] = True
    finished = 0 if done is None else int(done.sum())
    with reporting(options["progress"], space.num_points, finished) as report:
        if record is None:
            prepared = prepare("run", point, space, options["batch"], options["lanes"], chosen, allow_nan, report)
        else:
            prepared = Prepared(combinations, {}, _variables(store, record), record["batch"], record["lanes"])

        if reused is not None and reused.values is not None:
            old = {n: Variable(a.shape[1:], a.dtype) for n, a in reused.values.items()}
            prepared = prepared._replace(variables=prepared.variables or old)
            check_same(old, "the old points", prepared.variables, "the new ones")

        def check(variables):
            _dataset.check_presentation("run", shown, description, variables)
            check_allow_nan("run", allow_nan, variables)

        if prepared.variables is not None:
            check(prepared.variables)
        provenance = _provenance(point, space, prepared, chosen, allow_nan, record)
        if store is not None:
            if record is None:  # a new folder, or overwrite; without a record, chunks belong to nobody
                store.clear()  # only now: a point that cannot be traced costs no old results
            record = {
                "identity": known["identity"],
                "batch": prepared.batch,
                "lanes": prepared.lanes,
                "variables": _plain(prepared.variables),
                "chunks": record["chunks"] if record else CHUNKS,
                "presentation": shown._asdict(),
                "provenance": provenance,
            }
            store.write_record(record)
        sink = Sink(space.num_points, store, record, options["chunk"])
        if reused is not None:
            sink.add(reused)
            sink.flush()
        if options["fail_fast"] and store is not None:
            _check_finished(space, store, record)
        try:
            run_points(point, space, prepared, chosen, done, allow_nan, options["fail_fast"], sink, report, check)
        except BaseException as error:
            if not isinstance(error, status.StatusError):
                sink.flush()
            if isinstance(error, KeyboardInterrupt):
                _say_how_to_continue(store)
            raise
    if store is not None:
        sink = gathered(store.folder, record)
    provenance["finished"] = _now()
    dataset = _dataset_of(description, sink, shown, provenance)
    if store is not None:
        store.write_record({**record, "provenance": provenance})
        _dataset.write_netcdf(dataset, store.folder / RESULTS)
    return dataset


def _dataset_of(description: dict, sink: Sink, shown: _dataset.Presentation, provenance: dict) -> Any:
    variables = sink.variables or {}
    sizes, coords = dict(description["sizes"]), coords_of(description)
    errors = {_points.told(_points.coordinates(coords, sizes, i)): text for i, text in sorted(sink.errors.items())}
    provenance = {
        **provenance,
        "run_seconds": round(sink.seconds, 6),
        "compile_seconds": round(sink.compile_seconds, 6),
    }
    return _dataset.build(description, variables, sink.arrays, sink.codes, shown, provenance, errors)


def _provenance(point, space, prepared: Prepared, devices: list, allow_nan, record: dict | None) -> dict[str, Any]:
    """Where the numbers come from; `entries` tells `extend` whether a static or stacked value has changed."""
    seeds = {
        a.name: [int(a.entries.seeds[0]), int(a.entries.seeds[-1])] for a in space.axes if isinstance(a.entries, Keys)
    }
    described = describe(space)
    entries = {a["name"]: position_tokens(described, a) for a in described["axes"] if a["tokens"]}
    return {
        "function": function_name(point),
        "fingerprint": fingerprint(source_of(point)),
        "versions": versions(),
        "device": device_description(devices),
        **settings({"devices": devices}),
        "seeds": seeds,
        "batch": prepared.batch,
        "lanes": prepared.lanes,
        "devices": len(devices),
        "points": space.num_points,
        "combinations": len(prepared.combinations),
        "entries": entries if sum(map(len, entries.values())) <= 1000 else None,  # attributes must stay small
        "allow_nan": list(allow_nan),
        "started": record["provenance"]["started"] if record else _now(),
        "finished": None,
    }


def _plain(variables: dict[str, Variable] | None) -> dict | None:
    return None if variables is None else {n: [list(v.shape), str(v.dtype)] for n, v in variables.items()}


def _variables(store: Store, record: dict) -> dict[str, Variable] | None:
    """Outputs as the record tells them, or as the first chunk of a loop shows them."""
    if record["variables"] is not None:
        return {n: Variable(tuple(shape), np.dtype(dtype)) for n, (shape, dtype) in record["variables"].items()}
    for chunk in read_chunks(store.folder, record):
        if chunk["values"]:
            return {n: Variable(a.shape[1:], a.dtype) for n, a in chunk["values"].items()}
    return None


def _done(space: Space, store: Store, record: dict) -> np.ndarray:
    """Which points are on disk. Every chunk is read, so that its checksums are; damaged files are removed."""
    done = np.zeros(space.num_points, bool)
    for path in sorted(store.chunks(record).glob("*.npz")):
        chunk = read_chunk(path)
        if chunk is None:
            path.unlink()
        else:
            done[chunk["index"]] = True
    return done


def _check_finished(space: Space, store: Store, record: dict) -> None:
    """`fail_fast` also looks at what an earlier run has left."""
    for chunk in read_chunks(store.folder, record):
        bad = np.flatnonzero(chunk["status"])
        if len(bad):
            where = _points.told(_points.coordinates(space.coords, space.sizes, int(chunk["index"][bad[0]])))
            text = status.explain(int(chunk["status"][bad[0]]))
            raise status.StatusError(f"sweep.run(fail_fast=True): the folder holds failed points, e.g. {where}: {text}")


def gathered(folder: str | os.PathLike, record: dict) -> Sink:
    """All chunks of a folder in arrays; points that are missing are NaN (0 for integers) with the status `not run`."""
    points = int(np.prod([size for _, size in record["identity"]["space"]["sizes"]]))
    sink = Sink(points, None, None, None)
    if record["variables"] is not None:
        sink.variables = {n: Variable(tuple(s), np.dtype(d)) for n, (s, d) in record["variables"].items()}
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
    """
    require("xarray", "sweep", "sweep.load")
    record = read_record(folder)
    if record is None:
        raise ValueError(f"sweep.load: {str(folder)!r} holds no sweep (no sweep.json); pass what run got as out=")
    sink = gathered(pathlib.Path(folder), record)
    now = read_record(folder)
    if now is not None and now["chunks"] != record["chunks"]:  # it was extended while we read
        return load(folder)
    shown = _dataset.Presentation(**record["presentation"])
    return _dataset_of(record["identity"]["space"], sink, shown, record["provenance"])


def _say_how_to_continue(store: Store | None) -> None:
    if store is None:
        told = "interrupted; nothing was kept. With out='folder' the same call continues where it stopped"
    else:
        told = f"interrupted; finished points are in {str(store.folder)!r}. Run the same call again to continue"
    print(f"\nsweep.run: {told}", file=sys.stderr)
