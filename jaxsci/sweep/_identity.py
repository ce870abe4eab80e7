"""What makes two sweeps the same, and in words what makes them differ.

A point function is the program that it is at every combination of static values: an edit that changes a number changes
a program, wherever it stands; a comment, a renamed local, the number of devices, lanes and chunks do not. A loop over a
Python function has no program: there the source text counts, and the static values. The source of a compiled point is
kept too, but only to explain a refusal.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from jaxsci.core import program
from jaxsci.core.provenance import fingerprint, settings, source_of, versions
from jaxsci.sweep._prepare import Study
from jaxsci.sweep._space import describe
from jaxsci.sweep._store import Identity, Record, SweepMismatch
from jaxsci.sweep._trace import trace

_LISTED = 3


def identify(study: Study) -> Identity:
    """The identity of a sweep; a loop over a Python function is known by its source and static values alone."""
    if study.batch == "loop":
        programs = [fingerprint(c.static) for c in study.combinations]
    else:
        platform = program.platform_of(study.devices[0])
        programs = [program.of_jaxpr(t.closed, platform) for t in study.traces]
    return Identity(
        space=describe(study.space),
        programs={c.key: digest for c, digest in zip(study.combinations, programs)},
        function=source_of(study.point),
        version=study.version,
        versions=versions(),
        settings=settings() | {"platform": study.devices[0].platform},
        allow_nan=sorted(study.allow_nan),
    )


def compare(
    study: Study, new: Identity, record: Record, folder: Any, *, accept: bool, grows: bool = False
) -> str | None:
    """Raise if `new` is not the sweep whose record a folder holds; with `grows` it may be a larger one.

    With `accept` an edit of the point function is no reason to refuse; the edit is returned in words.
    """
    old = record.identity
    edits = list(_edits(study, old, new))
    others = list(_others(old, new))
    if (record.batch == "loop") != (study.batch == "loop") or not grows and record.batch != study.batch:
        edits, others = [], [*others, f"batch: {record.batch} in the folder, {study.batch} here"]
    if not grows:
        others += list(_space_differences(old.space, new.space))
        if record.lanes != study.lanes:
            others.append(f"lanes: {record.lanes} in the folder, {study.lanes} here")
    if not edits and not others:
        return None
    told = "\n".join(f"  {line}" for line in [*edits, *others])
    if accept and not others:
        return told
    remedy = "Choose another folder, pass overwrite=True to start afresh, or sweep.extend to add points"
    if not others:
        remedy += ", or accept_changes=True to go on with the edited function"
    raise SweepMismatch(f"sweep.{study.caller}: {str(folder)!r} holds another sweep. What differs:\n{told}\n{remedy}")


def _edits(study: Study, old: Identity, new: Identity) -> Iterator[str]:
    """Lines that say how the point function has changed; none if it computes the same numbers."""
    changed = [key for key in new.programs if key in old.programs and old.programs[key] != new.programs[key]]
    source = old.function != new.function
    if old.version != new.version:
        yield f"version: {old.version!r} in the folder, {new.version!r} here"
    loop = study.batch == "loop"
    if not changed and not (source and loop):
        return
    if source:
        yield "the point function, what it closes over or what it calls (- folder, + here):"
        lines = difflib.unified_diff(old.function.splitlines(), new.function.splitlines(), n=0, lineterm="")
        told = [line for line in list(lines)[2:] if not line.startswith("@@")]
        yield from [f"    {line}" for line in told[:8]] + (["    ..."] if len(told) > 8 else [])
    elif loop:
        yield f"static values behind the same labels, at {_told(changed)}"
    elif _draws(study, new, changed[0]):
        yield (
            f"the program at {_told(changed)}: {study.name} gives another program each time it is traced; it draws "
            "random numbers, reads a clock or counts calls in Python. Pass a key and use jax.random"
        )
    else:
        yield (
            f"the program at {_told(changed)}, though the text of {study.name} is the same: what it calls or reads has "
            "changed (a library, jaxsci itself, a data file, a value behind a label)"
        )


def _draws(study: Study, new: Identity, key: str) -> bool:
    """Whether a second trace gives another program."""
    combination = next(c for c in study.combinations if c.key == key)
    again = trace(study.point, study.space, combination)
    return program.of_jaxpr(again.closed, program.platform_of(study.devices[0])) != new.programs[key]


def _told(keys: list[str]) -> str:
    texts = [", ".join(f"{n}={v}" for n, v in json.loads(key).items()) or "every point" for key in keys]
    return "; ".join(texts[:_LISTED]) + (f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else "")


def _others(old: Identity, new: Identity) -> Iterator[str]:
    for name in dict.fromkeys([*old.versions, *new.versions]):
        a, b = old.versions.get(name), new.versions.get(name)
        if a != b:
            yield f"version of {name}: {a} in the folder, {b} here"
    rest = [(name, old.settings.get(name), value) for name, value in new.settings.items()]
    for name, a, b in [*rest, ("allow_nan", old.allow_nan, new.allow_nan)]:
        if a != b:
            yield f"{name}: {a} in the folder, {b} here"


def _shown(values: list) -> str:
    short = len(values) <= 6
    return str(values) if short else f"[{', '.join(map(str, values[:3]))}, ..., {values[-1]}] ({len(values)})"


def _equal(a: Any, b: Any) -> bool:
    """Equality of plain data as JSON sees it, where NaN equals NaN."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _space_differences(old: Mapping, new: Mapping) -> list[str]:
    return [] if _equal(old, new) else list(_axis_differences(old, new)) or ["the space"]


def _axis_differences(old: Mapping, new: Mapping) -> Iterator[str]:
    old_axes, new_axes = ({a["name"]: a for a in s["axes"]} for s in (old, new))
    old_coords, new_coords = ({c["name"]: c for c in s["coords"]} for s in (old, new))
    for name in dict.fromkeys([*old_axes, *new_axes]):
        if name not in new_axes:
            yield f"axis {name!r} is in the folder and not in this space"
        elif name not in old_axes:
            yield f"axis {name!r} is new"
    axes = {*old_axes, *new_axes}
    for name in sorted((n for n in old_coords if n in new_coords), key=lambda n: n not in axes):
        a, b = old_coords[name], new_coords[name]
        if not _equal([a["values"], a["dtype"], a["dims"]], [b["values"], b["dtype"], b["dims"]]):
            yield (
                f"axis {name!r}: {_shown(a['values'])} {a['dtype']} over {a['dims']} in the folder, "
                f"{_shown(b['values'])} {b['dtype']} over {b['dims']} here"
            )
    for name in [n for n in old_axes if n in new_axes]:
        a, b = old_axes[name], new_axes[name]
        if a["kind"] != b["kind"]:
            yield f"axis {name!r} is {a['kind']} in the folder and {b['kind']} here"
        elif a["independent"] != b["independent"]:
            yield f"axis {name!r}: independent={a['independent']} in the folder, {b['independent']} here"
        elif (a["tokens"], a["codes"]) != (b["tokens"], b["codes"]) and _equal(_labels(old, a), _labels(new, b)):
            changed = [i for i, (s, t) in enumerate(zip(a["tokens"] or [], b["tokens"] or [])) if s != t]
            which = f"entry {changed[0]} has another content" if changed else "its entries are arranged differently"
            yield f"axis {name!r} has the same labels, but {which}"
    if [n for n, _ in old["sizes"]] != [n for n, _ in new["sizes"]] and dict(old["sizes"]).keys() == dict(
        new["sizes"]
    ).keys():
        yield f"order of dimensions: {[n for n, _ in old['sizes']]} in the folder, not so here"


def _labels(space: Mapping, axis: Mapping) -> list:
    """Coordinates along the dimensions of one axis."""
    return [c["values"] for c in space["coords"] if set(c["dims"]) <= set(axis["dims"])]
