"""`extend`: a bigger space, of which only the new points are computed."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxsci.core import status
from jaxsci.core.provenance import fingerprint, source_of, versions
from jaxsci.sweep._execute import Batch
from jaxsci.sweep._plan import check_options
from jaxsci.sweep._run import execute, gathered, identify, refuse, run, settings
from jaxsci.sweep._space import Space, axis_codes, coords_of, describe, position_tokens
from jaxsci.sweep._store import CHUNKS, Store, SweepMismatch, differences, read_record
from jaxsci.sweep._trace import check_parameters

_DEFAULTS = {"dims": None, "units": None, "batch": "auto", "lanes": None, "chunk": None, "devices": None}
_DEFAULTS |= {"allow_nan": (), "fail_fast": False, "progress": True, "meta": None}


def extend(done: Any, point: Callable, space: Space, *, out: str | os.PathLike | None = None, **options: Any) -> Any:
    """Add points along the axes of a finished or unfinished sweep; only the new ones are computed.

    Args:
        done: the folder of a sweep, or a Dataset that `run` returned.
        point: the same function.
        space: the bigger space: the same axes and dimensions, with all the old values among the new ones.
        out: folder of the bigger sweep. By default a folder grows in place, a Dataset stays in memory.
        **options: those of `run`, such as ``dims``, ``units``, ``progress``. A folder keeps its labels, batch and lanes
            where they are not given.

    Returns:
        The Dataset that `run` gives for the bigger space.

    Raises:
        ValueError: another set of axes, or old values that the new space lacks.
        SweepMismatch: another function, version or dtype, or a static or stacked value that changed under its label.

    Example:
        >>> from jaxsci import sweep
        >>> square = lambda x: x**2
        >>> small = sweep.run(square, sweep.product(x=[1.0, 2.0]), progress=False)
        >>> sweep.extend(small, square, sweep.product(x=[1.0, 2.0, 3.0]), progress=False)["value"].values.tolist()
        [1.0, 4.0, 9.0]
    """
    unknown = sorted(set(options) - set(_DEFAULTS))
    if unknown:
        raise TypeError(f"sweep.extend: unknown option {unknown[0]!r}; it takes out and {', '.join(_DEFAULTS)}")
    check_parameters("extend", point, space)
    check_options("extend", options.get("batch", "auto"), options.get("lanes"), options.get("chunk"))
    if isinstance(done, (str, os.PathLike)):
        return _extend_folder(pathlib.Path(done), point, space, out, options)
    if not hasattr(done, "data_vars"):
        raise TypeError(f"sweep.extend: expected a folder or a Dataset of sweep.run, got {type(done).__name__}")
    return _extend_dataset(done, point, space, out, options)


def _extend_folder(folder: pathlib.Path, point, space: Space, out, options: dict) -> Any:
    record = read_record(folder)
    if record is None:
        raise ValueError(f"sweep.extend: {str(folder)!r} holds no sweep (no sweep.json)")
    shown = record["presentation"]
    kept = {**shown, "allow_nan": record["identity"]["allow_nan"], "batch": record["batch"], "lanes": record["lanes"]}
    options = {**_DEFAULTS, **kept, **options}
    identity = identify(point, space, options)
    refuse("extend", folder, {**record, "identity": {**record["identity"], "space": identity["space"]}}, identity)
    place = folder if out is None else pathlib.Path(out)
    with Store("extend", place) as store:
        if place == folder:
            record = store.record()  # again, now that nobody else writes
            if not differences(record["identity"], identity):
                return execute(point, space, store, {"identity": identity, "record": record}, options)
        elif (begun := store.record()) is not None:  # it has the old points: they are written before the record
            refuse("extend", out, begun, identity)
            return execute(point, space, store, {"identity": identity, "record": begun}, options)
        sink = gathered(folder, record)
        reused = _reused(record["identity"]["space"], identity["space"], sink.arrays, sink.codes, sink.errors)
        # The bigger sweep gets a chunk folder of its own, first with the old points; replacing the record then
        # switches over in one step, so that a kill leaves either the old sweep or the new one.
        number = int(record["chunks"].removeprefix(CHUNKS).lstrip("-") or 0) + 1
        grown = {
            **record,
            "identity": identity,
            "batch": options["batch"] if options["batch"] != "auto" else record["batch"],
            "lanes": options["lanes"] or record["lanes"],
            "chunks": f"{CHUNKS}-{number}",
        }
        notes = {"seconds": sink.seconds, "compile_seconds": sink.compile_seconds}
        notes["errors"] = {str(i): text for i, text in reused.errors.items()}
        store.empty_chunks(grown)
        if len(reused.index):
            store.write_chunk(grown, reused.index, reused.values or {}, reused.codes, notes)
        store.write_record(grown)
        return execute(point, space, store, {"identity": identity, "record": grown}, options)


def _extend_dataset(done: Any, point, space: Space, out, options: dict) -> Any:
    provenance = json.loads(done.attrs.get("provenance", "null"))
    if provenance is None:
        raise ValueError("sweep.extend: the Dataset has no provenance; pass one that sweep.run or sweep.load returned")
    if provenance["fingerprint"] != fingerprint(source_of(point)):
        raise SweepMismatch(f"sweep.extend: the Dataset was made by another {provenance['function']}: sources differ")
    for name, now in {**versions(), **settings({**_DEFAULTS, **options})}.items():
        then = {**provenance, **provenance["versions"]}.get(name)
        if then != now:
            raise SweepMismatch(
                f"sweep.extend: the Dataset was made with {name} {then}, here it is {now}; run it again"
            )
    old = _described(done, describe(space), provenance)
    public = [n for n in done.data_vars if n != "status"]
    points = int(np.prod([size for _, size in old["sizes"]]))
    lead = [name for name, _ in old["sizes"]]
    arrays = {n: done[n].transpose(*lead, ...).values.reshape(points, *done[n].shape[len(lead) :]) for n in public}
    reused = _reused(old, describe(space), arrays, done["status"].transpose(*lead).values.ravel(), {})
    labels = {n: list(done[n].dims[len(lead) :]) for n in public if len(done[n].dims) > len(lead)}
    units = {n: done[n].attrs["units"] for n in [*public, *done.coords] if "units" in done[n].attrs}
    kept = {"dims": labels, "units": units, "batch": provenance["batch"], "lanes": provenance["lanes"]}
    kept["allow_nan"] = provenance["allow_nan"]
    kept["meta"] = json.loads(done.attrs.get("meta", "null"))
    options = {**_DEFAULTS, **kept, **options}
    if out is None:
        return execute(point, space, None, None, options, reused)
    if read_record(out) is not None:
        return run(point, space, out=out, **options)  # a second call continues the first one
    identity = identify(point, space, options)
    with Store("extend", out) as store:
        return execute(point, space, store, {"identity": identity, "record": None}, options, reused)


def _described(done: Any, new: dict, provenance: dict) -> dict[str, Any]:
    """The space of a Dataset in `describe`'s form: its sizes and labels, the kinds of axes from the new one."""
    coords = []
    for c in new["coords"]:
        if c["name"] not in done.coords:
            raise ValueError(f"sweep.extend: the Dataset has no coordinate {c['name']!r}; the axes must be the same")
        values = done.coords[c["name"]].values
        dims = list(done.coords[c["name"]].dims)
        coords.append(
            {**c, "dims": dims, "values": values.tolist(), "dtype": "str" if c["dtype"] == "str" else str(values.dtype)}
        )
    order = [d for d in done["status"].dims]
    tokens = provenance["entries"]
    if tokens is None:
        raise ValueError("sweep.extend: too many static and stacked values for a Dataset; extend its folder instead")
    axes = [{**a, "tokens": tokens.get(a["name"]), "codes": None} for a in new["axes"]]  # one token per position
    return {"sizes": [[d, done.sizes[d]] for d in order], "axes": axes, "coords": coords}


def _reused(old: dict, new: dict, arrays: dict[str, np.ndarray], codes: np.ndarray, errors: dict[int, str]) -> Batch:
    """The finished points of the old space, numbered in the new one."""
    old_sizes, new_sizes = dict(old["sizes"]), dict(new["sizes"])
    for name in ("axes", "coords"):
        a, b = ({x["name"] for x in s[name]} for s in (old, new))
        if a != b or list(old_sizes) != list(new_sizes):
            told = f"{sorted(a)} over {list(old_sizes)}, got {sorted(b)} over {list(new_sizes)}"
            raise ValueError(f"sweep.extend: axes and dimensions must stay the same, expected {told}")
    places = [_places(dim, old, new) for dim in old_sizes]
    _check_contents(old, new, dict(zip(old_sizes, places)))
    ran = np.flatnonzero((codes & status.NOT_RUN) == 0)
    position = np.unravel_index(ran, tuple(old_sizes.values()))
    index = np.ravel_multi_index(tuple(p[i] for p, i in zip(places, position)), tuple(new_sizes.values()))
    index, order = np.unique(index, return_index=True)  # equal coordinates twice are one point computed twice
    ran = ran[order]
    told = {int(i): errors[int(r)] for i, r in zip(index, ran) if int(r) in errors}
    return Batch(index.astype(np.int32), {n: a[ran] for n, a in arrays.items()} or None, codes[ran], 0.0, errors=told)


def _places(dim: str, old: dict, new: dict) -> np.ndarray:
    """For every position of the old dimension, the position with the same coordinates in the new one."""

    def tuples(space):
        named = {n: c for n, c in sorted(coords_of(space).items()) if c.dims == (dim,)}
        rows = zip(*(c.values.tolist() for c in named.values()))
        # NaN equals nothing, itself included, so it needs a stand-in to be found
        return list(named), [tuple("nan" if v != v else v for v in row) for row in rows]

    names, before = tuples(old)
    found = {t: i for i, t in reversed([*enumerate(tuples(new)[1])])}
    for t in before:
        if t not in found:
            where = ", ".join(f"{n}={v}" for n, v in zip(names, t))
            raise ValueError(f"sweep.extend: the new space lacks {where}, which the old one has; pass the bigger space")
    places = np.asarray([found[t] for t in before])
    for axis in new["axes"]:
        if axis["independent"] and not np.array_equal(places, np.arange(len(places))):
            raise ValueError(
                f"sweep.extend: the keys of axis {axis['name']!r} are independent: they depend on where a point "
                f"stands; add new values of {dim!r} at its end"
            )
    return places


def _check_contents(old: dict, new: dict, places: dict[str, np.ndarray]) -> None:
    """A label must still stand for the same static or stacked value."""
    for a in old["axes"]:
        b = next(x for x in new["axes"] if x["name"] == a["name"])
        if a["kind"] != b["kind"] or a["independent"] != b["independent"]:
            raise SweepMismatch(f"sweep.extend: axis {a['name']!r} is of another kind than in the old sweep")
        if not a["tokens"]:
            continue
        after = np.asarray(position_tokens(new, b)).reshape(axis_codes(new, b).shape)
        after = after[np.ix_(*(places[d] for d in a["dims"]))]
        for i, (before, now) in enumerate(zip(position_tokens(old, a), after.ravel())):
            if before != now:
                raise SweepMismatch(
                    f"sweep.extend: entry {i} of axis {a['name']!r} has the same label as before and another content"
                )
