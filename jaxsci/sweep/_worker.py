"""What a worker does with points that it is handed: programs are compiled once and kept by digest.

The functions here run in other processes, on other machines. They return what happened and raise nothing: an exception
that comes out of a future then always means that a worker, or the way to it, is gone.
"""

import collections
import contextlib
import os
import pickle
import platform
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from jaxsci.core.provenance import versions
from jaxsci.sweep import _points
from jaxsci.sweep._answers import Called, Lanes, call, dispatch, text_of
from jaxsci.sweep._parcel import file_of, unpack
from jaxsci.sweep._program import Program, compile_chunk, compiled
from jaxsci.sweep._trace import trace

_MAX_RUNS = 2  # sweeps whose programs and arrays a worker holds; executables live on in `_program`


class Job(NamedTuple):
    """What the points of a combination need.

    Attributes:
        name: name of the point function.
        program: the chunk as `jax.export` writes it; None where the function itself travels.
        arguments: axis arrays and captured arrays of the program.
        point: the point function, where there is no program.
        space: its space, where there is no program.
        batch: "vmap", "map" or "loop".
        lanes: points per device and dispatch.
        allow_nan: outputs whose NaN or infinite entries are no trouble.
        variables: shape and dtype of each output; None in a loop.
        devices: how many of the worker's devices to use at most; None is all.
        platform: platform of the devices.
    """

    name: str
    program: bytes | None
    arguments: Any
    point: Callable | None
    space: Any
    batch: str
    lanes: int
    allow_nan: tuple[str, ...]
    variables: dict[str, Any] | None
    devices: int | None
    platform: str


class Ticket(NamedTuple):
    """Where a worker finds a job.

    Attributes:
        run: name of the run.
        digest: of the job.
        job: the pickled job; None where it is among the blobs.
        blobs: digests of the large things that belong to it.
        folder: where these are files.
        versions: versions of what computes, which must agree.
        settings: settings of JAX that change numbers, by the name of their context.
    """

    run: str
    digest: str
    job: bytes | None
    blobs: tuple[str, ...]
    folder: str
    versions: dict[str, str]
    settings: dict[str, Any]


class Reply(NamedTuple):
    """What became of some points.

    Attributes:
        worker: name of the process.
        devices: number of devices that it computes on.
        answer: what was computed.
        need: digests of blobs that the worker lacks.
        raised: text of an exception that is no matter of single points; another worker may do better.
        refused: an exception that every worker would raise.
    """

    worker: str
    devices: int = 1
    answer: Lanes | list[Called] | None = None
    need: tuple[str, ...] = ()
    raised: str | None = None
    refused: Exception | None = None


class _Held:
    """What a worker keeps of one run."""

    def __init__(self):
        self.lock = threading.Lock()
        self.blobs: dict[str, Any] = {}
        self.jobs: dict[str, Job] = {}
        self.ready: dict[tuple[str, int], tuple[Callable, int]] = {}


_runs: collections.OrderedDict[str, _Held] = collections.OrderedDict()
_lock = threading.Lock()


def settings_now() -> dict[str, Any]:
    """Settings of JAX that change numbers, by the name of the context that sets them."""
    return {
        "enable_x64": bool(jax.config.jax_enable_x64),
        "threefry_partitionable": bool(jax.config.jax_threefry_partitionable),
        "default_prng_impl": jax.config.jax_default_prng_impl,
        "default_matmul_precision": jax.config.jax_default_matmul_precision,
    }


def work(
    ticket: Ticket, position: int, local: np.ndarray, place: int | None, number: int, sent: dict[str, bytes]
) -> Reply:
    """Compute some points of a combination.

    Args:
        ticket: where the job is found.
        position: number of the combination.
        local: numbers of the points within it.
        place: the lane of a single point; None where lanes are filled in order.
        number: one of its own for every call, for engines that take equal calls for one.
        sent: blobs that this worker lacked.
    """
    worker, found = f"{platform.node()}:{os.getpid()}", versions().items()
    differing = [f"{n} {v}, here {ticket.versions.get(n)}" for n, v in found if v != ticket.versions.get(n)]
    if differing:
        told = f"sweep.run: worker {worker} has {'; '.join(differing)}; results would depend on who computes"
        return Reply(worker, refused=RuntimeError(told))
    with contextlib.ExitStack() as stack:
        for name, value in ticket.settings.items():
            stack.enter_context(getattr(jax, name)(value))
        try:
            return _work(worker, ticket, position, local, place, sent)
        except Exception as error:
            return Reply(worker, raised=text_of(error))


def _work(worker: str, ticket: Ticket, position: int, local: np.ndarray, place: int | None, sent: dict) -> Reply:
    start = time.perf_counter()
    with _lock:
        held = _runs.pop(ticket.run, None) or _Held()
        _runs[ticket.run] = held
        if len(_runs) > _MAX_RUNS:
            _runs.popitem(last=False)
        before = [other for other in _runs.values() if other is not held]
    with held.lock:  # threads of one worker compile a program once
        for other in before:  # a sweep that is run again
            if (ticket.digest, position) in other.ready:
                held.ready.setdefault((ticket.digest, position), other.ready[ticket.digest, position])
        if (ticket.digest, position) not in held.ready:
            need = [digest for digest in ticket.blobs if not _fetched(held, ticket.folder, digest, sent)]
            if need:
                return Reply(worker, need=tuple(need))
            if ticket.digest not in held.jobs:
                held.jobs[ticket.digest] = unpack(ticket.job or held.blobs[ticket.digest], held.blobs.__getitem__)
            job = held.jobs[ticket.digest]
            if jax.local_devices()[0].platform != job.platform:
                told = (
                    f"sweep.run: worker {worker} computes on {jax.local_devices()[0].platform}, this process on "
                    f"{job.platform}; start this process where there is a {jax.local_devices()[0].platform} too"
                )
                return Reply(worker, refused=RuntimeError(told))
            held.ready[ticket.digest, position] = (_caller if job.batch == "loop" else _runner)(job, position)
        evaluate, devices = held.ready[ticket.digest, position]
    waited = time.perf_counter() - start
    try:
        answer = evaluate(np.asarray(local), place)
    except (TypeError, ValueError) as error:
        if devices:
            raise
        return Reply(worker, refused=error)  # of outputs that no Dataset can hold
    if isinstance(answer, Lanes):
        answer = answer._replace(compile_seconds=waited)
    return Reply(worker, max(devices, 1), answer)


def _fetched(held: _Held, folder: str, digest: str, sent: dict[str, bytes]) -> bool:
    """Whether a blob is held now: from before, from the call, or from its file."""
    if digest in held.blobs:
        return True
    data = sent.get(digest)
    if data is None:
        try:
            data = file_of(folder, digest).read_bytes()
        except OSError:
            return False
    held.blobs[digest] = pickle.loads(data)
    return True


def _caller(job: Job, position: int) -> tuple[Callable, int]:
    """A function of Python, point by point; it has no devices."""
    combination = _points.combinations(job.space)[position]
    arrays = _points.payload(job.space, combination, on_host=True)

    def evaluate(local: np.ndarray, place: int | None) -> list[Called]:
        arguments = (_points.host_arguments(job.space, combination, arrays, int(i)) for i in local)
        # exceptions of the user's may not pickle; their text does
        return [call(job.name, job.point, a)._replace(error=None) for a in arguments]

    return evaluate, 0


def _runner(job: Job, position: int) -> tuple[Callable, int]:
    """A compiled program, dispatch by dispatch, and the number of its devices."""
    devices = jax.local_devices()[: job.devices]
    if job.program is not None:
        program = compiled(export.deserialize(bytearray(job.program)).call, job.arguments, devices, job.lanes)
    else:
        combination = _points.combinations(job.space)[position]
        traced = trace(job.point, job.space, combination)
        program = compile_chunk(job.space, combination, traced, devices, job.lanes, job.batch, job.allow_nan)

    def evaluate(local: np.ndarray, place: int | None) -> Lanes:
        firsts = range(0, len(local), program.step)
        return _joined([_dispatched(program, local[k : k + program.step], job, place) for k in firsts], program.step)

    return evaluate, len(devices)


def _dispatched(program: Program, local: np.ndarray, job: Job, place: int | None) -> Lanes:
    return dispatch(program, local, job.variables, place)


def _joined(parts: list[Lanes], step: int) -> Lanes:
    """The answers of some dispatches as one."""
    return Lanes(
        values={name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
        codes=np.concatenate([part.codes for part in parts]),
        texts={k * step + i: text for k, part in enumerate(parts) for i, text in part.texts.items()},
        seconds=sum(part.seconds for part in parts),
    )
