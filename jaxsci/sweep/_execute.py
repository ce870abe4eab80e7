"""Running the points: dispatch after dispatch into a sink, which keeps them in memory or writes chunk files."""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsci.core import status
from jaxsci.sweep import _points
from jaxsci.sweep._dataset import POINT_RAISED, fill
from jaxsci.sweep._prepare import Study, check_variables
from jaxsci.sweep._program import compile_chunk
from jaxsci.sweep._space import Space
from jaxsci.sweep._store import Record, Store
from jaxsci.sweep._trace import Variable, allowed, check_same, host_dtype, is_status, kept, named_outputs

_FLUSH_SECONDS, _FLUSH_BYTES = 1.0, 16 << 20
_MAX_ERRORS, _MAX_TEXT = 100, 300  # what an attribute of a netCDF file can hold


class Batch(NamedTuple):
    """Some finished points.

    Attributes:
        index: their numbers in the whole space.
        values: outputs by name, leading axis over the points; None where all raised and no shapes are known yet.
        codes: status of each point.
        seconds: time that they ran.
        compile_seconds: time spent compiling for them.
        errors: text of the exception, by number of the point, where the point function raised.
    """

    index: np.ndarray
    values: dict[str, np.ndarray] | None
    codes: np.ndarray
    seconds: float
    compile_seconds: float = 0.0
    errors: dict[int, str] = {}


class Sink:
    """Collects batches. Without a folder they go straight into arrays of all points; with one, into chunk files
    about once a second, so that a sweep of any length holds little more than one chunk."""

    def __init__(self, points: int, store: Store | None, record: Record | None, chunk: int | None):
        self.store, self.record, self.chunk = store, record, chunk
        self.codes = None if store else np.full(points, status.NOT_RUN, np.int32)
        self.arrays: dict[str, np.ndarray] = {}
        self.variables: dict[str, Variable] | None = None
        self.errors: dict[int, str] = {}
        self.points, self.seconds, self.compile_seconds = points, 0.0, 0.0
        self._held: list[Batch] = []
        self._held_points, self._held_bytes = 0, 0
        self._since = time.monotonic()

    def add(self, batch: Batch) -> None:
        """Take one batch; it may stay in memory until the next flush."""
        if self.store is None:
            self.keep(batch)
            return
        self._held.append(batch)
        self._held_points += len(batch.index)
        self._held_bytes += sum(a.nbytes for a in (batch.values or {}).values())
        due = time.monotonic() - self._since >= _FLUSH_SECONDS or self._held_bytes >= _FLUSH_BYTES
        if (self._held_points >= self.chunk) if self.chunk is not None else due:
            self.flush()

    def flush(self) -> None:
        """Write what is held as one chunk file (two where some points of a loop had no outputs yet)."""
        for some in ([b for b in self._held if b.values is not None], [b for b in self._held if b.values is None]):
            if some:
                values = {n: np.concatenate([b.values[n] for b in some]) for n in some[0].values or {}}
                index, codes = (np.concatenate([getattr(b, name) for b in some]) for name in ("index", "codes"))
                notes = {
                    "seconds": sum(b.seconds for b in some),
                    "compile_seconds": sum(b.compile_seconds for b in some),
                    "errors": {str(i): text for b in some for i, text in b.errors.items()},
                }
                self.store.write_chunk(self.record, index, values, codes, notes)
        self._held, self._held_points, self._held_bytes = [], 0, 0
        self._since = time.monotonic()

    def keep(self, batch: Batch) -> None:
        """Put a batch into the arrays of all points."""
        self.codes[batch.index] = batch.codes
        self.seconds += batch.seconds
        self.compile_seconds += batch.compile_seconds
        for i, text in batch.errors.items():
            if len(self.errors) < _MAX_ERRORS:
                self.errors[i] = text
        if batch.values is None:
            return
        if self.variables is None:
            self.variables = {n: Variable(a.shape[1:], a.dtype) for n, a in batch.values.items()}
            self.arrays = {n: fill(v, self.points) for n, v in self.variables.items()}
        for name, array in batch.values.items():
            self.arrays[name][batch.index] = array


def run_points(study: Study, done: np.ndarray | None, sink: Sink, report: Callable, fail_fast: bool) -> None:
    """Compute every point that `done` does not mark and hand it to the sink."""
    finished = 0 if done is None else int(done.sum())
    for batch, text in (_looped if study.batch == "loop" else _compiled)(study, done):
        if fail_fast and status.faults(batch.codes).any():
            sink.flush()
            raise status.StatusError(_failed(study.space, batch))
        sink.add(batch)
        finished += len(batch.index)
        report(finished, text)
    sink.flush()


def _failed(space: Space, batch: Batch) -> str:
    """The points of a bad batch by coordinate, with what their statuses mean."""
    bad = np.flatnonzero(status.faults(batch.codes))
    lines = [f"sweep.run(fail_fast=True): {len(bad)} of the {len(batch.codes)} points just computed failed:"]
    for i in bad[:5]:
        where = _points.told(_points.coordinates(space.coords, space.sizes, int(batch.index[i])))
        text = batch.errors.get(int(batch.index[i])) or status.explain(int(batch.codes[i])).replace("\n", " | ")
        lines.append(f"  {where}: {text}")
    if len(bad) > 5:
        lines.append(f"  and {len(bad) - 5} more")
    return "\n".join(lines)


def _todo(space: Space, combination: _points.Combination, done: np.ndarray | None) -> Sequence[int] | np.ndarray:
    """Numbers within the combination that are not done. Finished chunks are whole blocks of lanes, so what is left
    falls into the same blocks as in a run that was never interrupted."""
    if done is None:
        return range(combination.size)
    local = np.arange(combination.size)
    return local[~done[_points.global_index(space, combination, local)]]


def _compiled(study: Study, done: np.ndarray | None) -> Iterator[tuple[Batch, str]]:
    """One program for each combination that has work left; all its dispatches have the same size."""
    for combination, traced in zip(study.combinations, study.traces):
        todo = _todo(study.space, combination, done)
        if not len(todo):
            continue
        start = time.perf_counter()
        used = study.devices[: max(1, math.ceil(len(todo) / study.lanes))]
        program = compile_chunk(study.space, combination, traced, used, study.lanes, study.batch, study.allow_nan)
        compile_seconds = time.perf_counter() - start
        for first in range(0, len(todo), program.step):
            local = np.asarray(todo[first : first + program.step], np.int32)
            start = time.perf_counter()
            index, errors = _points.global_index(study.space, combination, local), {}
            try:
                values, codes = program(local)
            except Exception as error:
                values, codes, texts = _singly(study, program, local, error)
                errors = {int(index[i]): text for i, text in texts.items()}
            seconds = time.perf_counter() - start
            values = {name: values[name] for name in study.variables}
            yield Batch(index, values, codes, seconds, compile_seconds, errors), combination.text
            compile_seconds = 0.0


def _singly(study: Study, program, local: np.ndarray, error: Exception) -> tuple[dict, np.ndarray, dict[int, str]]:
    """The points of a dispatch that raised, one at a time: outputs, statuses, and the texts of those that raise alone.

    One bad point, e.g. an ODE solver that throws, must not lose the lanes around it. Where every point raises, it is no
    matter of points (memory, a broken function), and the exception goes on.
    """
    if "RESOURCE_EXHAUSTED" in str(error):
        raise error
    values = {name: fill(variable, len(local)) for name, variable in study.variables.items()}
    codes, texts = np.full(len(local), POINT_RAISED, np.int32), {}
    for i, point in enumerate(local):
        try:
            found, code = program(np.asarray([point], np.int32))
        except Exception as raised:
            texts[i] = _text_of(raised)
        else:
            codes[i] = code[0]
            for name, array in values.items():
                array[i] = found[name][0]
    if len(texts) == len(local) > 1:
        raise error
    return values, codes, texts


def _text_of(error: Exception) -> str:
    """What was raised. An exception of compiled code holds the traceback of the callback behind it as text, in which
    one line says what that was."""
    lines = str(error).splitlines()
    told = next((line for line in lines if re.match(r"[\w.]*(Error|Exception)\w*: ", line)), None)
    return (told.lstrip("_") if told else f"{type(error).__name__}: {error}")[:_MAX_TEXT]


def _looped(study: Study, done: np.ndarray | None) -> Iterator[tuple[Batch, str]]:
    """Any Python function, one point after another; a point that raises is a status and not the end."""
    space, variables, first = study.space, study.variables, None
    for combination in study.combinations:
        arrays = _points.payload(space, combination, on_host=True)
        for i in _todo(space, combination, done):
            index = _points.global_index(space, combination, np.asarray([i]))
            arguments = _points.host_arguments(space, combination, arrays, int(i))
            start = time.perf_counter()
            errors: dict[int, str] = {}
            try:
                out = study.point(**arguments)
            except Exception as error:
                values, code = None, POINT_RAISED
                errors[int(index[0])] = _text_of(error)
                first = first or error
                if variables is not None:
                    values = {n: fill(v, 1) for n, v in variables.items()}
            else:
                raw = named_outputs(study.name, out, _host)
                outputs = kept(raw)
                found = {n: Variable(a.shape, a.dtype) for n, a in outputs.items()}
                if variables is None:
                    check_variables(study, found)
                    variables = found
                if found != variables:
                    where = _points.told(_points.coordinates(space.coords, space.sizes, int(index[0])))
                    check_same(variables, "earlier points", found, where)
                values, code = {n: a[None] for n, a in outputs.items()}, _code(raw, study.allow_nan)
            seconds = time.perf_counter() - start
            yield Batch(index, values, np.asarray([code], np.int32), seconds, errors=errors), combination.text
    if variables is None and first is not None:
        raise RuntimeError(
            f"sweep.run: every point of {study.name} raised, the first {type(first).__name__}: {first}"
        ) from first


def _host(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype.kind == "O":
        raise TypeError(
            f"sweep: an output is {leaf!r}, which no dtype of NumPy holds; return a float or text of digits"
        )
    return array.astype(host_dtype(array.dtype), copy=False)


def _code(outputs: dict[str, np.ndarray], allow_nan: Sequence[str]) -> int:
    """Status of one point computed on the host."""
    code = 0
    for name, out in outputs.items():
        if is_status(name, out.dtype):
            code |= int(np.bitwise_or.reduce(out.astype(np.int64), axis=None))
            if not -(2**31) <= code < 2**31:
                raise ValueError(f"sweep: output {name!r} is no status: {code} is beyond the bits of an int32")
        elif out.dtype.kind in "fc" and not allowed(name, allow_nan) and not np.isfinite(out).all():
            code |= status.NONFINITE_RESULT
    return code
