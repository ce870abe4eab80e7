"""`extend`: a bigger space, of which only the new points are computed."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxsci.core import status
from jaxsci.sweep._execute import Batch
from jaxsci.sweep._identity import compare, identify
from jaxsci.sweep._prepare import Options, prepare
from jaxsci.sweep._run import compute_in_folder, gathered, open_folder
from jaxsci.sweep._space import Space, axis_codes, coords_of, position_tokens
from jaxsci.sweep._store import CHUNKS, Identity, Record, Store, SweepMismatch, read_record


def extend(
    folder: str | os.PathLike, point: Callable, space: Space, *, out: str | os.PathLike | None = None, **options: Any
) -> Any:
    """Add points along the axes of a finished or unfinished sweep; only the new ones are computed.

    Args:
        folder: the folder of a sweep, what `run` got as `out`.
        point: the same function: the same program at every combination of static values that both sweeps have.
        space: the bigger space: the same axes and dimensions, with all the old values among the new ones.
        out: folder of the bigger sweep. By default the folder grows in place.
        **options: those of `run`, such as ``dims``, ``units``, ``progress``. Labels, batch and lanes stay what they are
            where they are not given.

    Returns:
        The Dataset that `run` gives for the bigger space.

    Raises:
        ValueError: the folder holds no sweep, another set of axes, or old values that the new space lacks.
        SweepMismatch: another function, version or dtype, or a stacked value that changed under its label.

    Example:
        >>> import tempfile
        >>> from jaxsci import sweep
        >>> square, folder = lambda x: x**2, tempfile.mkdtemp()
        >>> small = sweep.run(square, sweep.product(x=[1.0, 2.0]), out=folder, progress=False)
        >>> big = sweep.extend(folder, square, sweep.product(x=[1.0, 2.0, 3.0]), progress=False)
        >>> big["value"].values.tolist()
        [1.0, 4.0, 9.0]
    """
    unknown = sorted(set(options) - set(Options._fields))
    if unknown:
        raise TypeError(f"sweep.extend: unknown option {unknown[0]!r}; it takes out and {', '.join(Options._fields)}")
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(
            f"sweep.extend: expected the folder of a sweep, got {type(folder).__name__}; pass what run got as out="
        )
    folder = pathlib.Path(folder)
    old = read_record(folder)
    if old is None:
        raise ValueError(f"sweep.extend: {str(folder)!r} holds no sweep (no sweep.json)")
    kept = {**old.presentation, "allow_nan": old.identity.allow_nan, "version": old.identity.version}
    options = Options(**{**kept, **options})
    study = prepare("extend", point, space, options, old)
    identity = identify(study)
    place = folder if out is None else pathlib.Path(out)
    with Store("extend", place) as store:
        here = store.record()  # read now that nobody else writes
        if here is None or place == folder and here.identity.space != identity.space:
            here = _grow(study, identity, folder, here or old, store, options)
        return compute_in_folder(open_folder(study, identity, store, here, options), options)


def _grow(study, identity: Identity, folder: pathlib.Path, old: Record, store: Store, options: Options) -> Record:
    """Write the old points under the record of the bigger sweep.

    They get a chunk folder of their own; replacing the record then switches over in one step, so that a kill leaves
    either the old sweep or the new one.
    """
    compare(study, identity, old, folder, accept=options.accept_changes, grows=True)
    sink = gathered(folder, old)
    reused = _reused(old.identity.space, identity.space, sink.arrays, sink.codes, sink.errors)
    number = int(old.chunks.removeprefix(CHUNKS).lstrip("-") or 0) + 1
    # programs of new combinations are none that the old points could differ from
    grown = old._replace(
        identity=identity._replace(programs=identity.programs | old.identity.programs, function=old.identity.function),
        batch=study.batch,
        lanes=study.lanes,
        chunks=f"{CHUNKS}-{number}",
    )
    notes = {"seconds": sink.seconds, "compile_seconds": sink.compile_seconds}
    notes["errors"] = {str(i): text for i, text in reused.errors.items()}
    store.empty_chunks(grown)
    if len(reused.index):
        store.write_chunk(grown, reused.index, reused.values or {}, reused.codes, notes)
    store.write_record(grown)
    return grown


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
    """A label must still stand for the same stacked value."""
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
