"""Running the points: answer after answer into a sink, which keeps them in memory or writes chunk files.

Whoever computes, the devices of this process or the workers of an executor, only answers (`_answers`). All else is done
here and once: statuses, the bar, chunk files.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxsci.core import status
from jaxsci.sweep import _points
from jaxsci.sweep._answers import Answers, Called, Lanes, here
from jaxsci.sweep._dataset import POINT_RAISED, fill
from jaxsci.sweep._handout import handed_out
from jaxsci.sweep._prepare import Options, Study, check_variables
from jaxsci.sweep._space import Space
from jaxsci.sweep._store import Record, Store
from jaxsci.sweep._trace import Variable, allowed, check_same, is_status, kept

_FLUSH_SECONDS, _FLUSH_BYTES = 1.0, 16 << 20
_MAX_ERRORS = 100  # what an attribute of a netCDF file can hold


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


def run_points(study: Study, done: np.ndarray | None, sink: Sink, report: Callable, options: Options) -> None:
    """Compute every point that `done` does not mark, on the devices here or by the workers of an executor, and hand it
    to the sink."""
    finished = 0 if done is None else int(done.sum())
    todo = [(n, _todo(study.space, combination, done)) for n, combination in enumerate(study.combinations)]
    todo = [(n, numbers) for n, numbers in todo if len(numbers)]
    if options.executor is None:
        answers = here(study, todo)
    else:
        answers = handed_out(study, todo, options, sink.store and sink.store.folder)
    # what an executor still holds is called back at once, whatever ends the loop
    with contextlib.closing(answers):
        for batch, text in _batches(study, answers):
            if options.fail_fast and status.faults(batch.codes).any():
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


def _batches(study: Study, answers: Answers) -> Iterator[tuple[Batch, str]]:
    """Answers as batches of finished points, with the text that tells where they are."""
    variables, first = study.variables, None
    for position, local, answer in answers:
        combination = study.combinations[position]
        index = _points.global_index(study.space, combination, local)
        if isinstance(answer, Lanes):
            values = {name: answer.values[name] for name in study.variables}
            errors = {int(index[i]): text for i, text in answer.texts.items()}
            yield Batch(index, values, answer.codes, answer.seconds, answer.compile_seconds, errors), combination.text
            continue
        for number, called in zip(index, answer):
            first = first or (called if called.outputs is None else None)
            batch, variables = _called(study, int(number), called, variables)
            yield batch, combination.text
    if variables is None and first is not None:
        raise RuntimeError(f"sweep.run: every point of {study.name} raised, the first {first.text}") from first.error


def _called(
    study: Study, index: int, called: Called, variables: dict[str, Variable] | None
) -> tuple[Batch, dict[str, Variable] | None]:
    """One point of a function of Python, and the outputs as they are known by then; a point that raises is a status
    and not the end."""
    errors: dict[int, str] = {}
    if called.outputs is None:
        values, code = variables and {n: fill(v, 1) for n, v in variables.items()}, POINT_RAISED
        errors[index] = called.text
    else:
        outputs = kept(called.outputs)
        found = {n: Variable(a.shape, a.dtype) for n, a in outputs.items()}
        if variables is None:
            check_variables(study, found)
            variables = found
        if found != variables:
            where = _points.told(_points.coordinates(study.space.coords, study.space.sizes, index))
            check_same(variables, "earlier points", found, where)
        values, code = {n: a[None] for n, a in outputs.items()}, _code(called.outputs, study.allow_nan)
    batch = Batch(np.asarray([index], np.int32), values, np.asarray([code], np.int32), called.seconds, errors=errors)
    return batch, variables


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
