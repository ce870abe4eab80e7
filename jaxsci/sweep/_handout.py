"""Points handed out to the workers of an executor: anything with ``submit`` and futures with ``done`` and ``result``.

A chunk is whole dispatches of lanes, so every point meets the lanes that it meets in one process, and its bits are the
same. A chunk whose worker is lost is handed out again at most three times: as it is, for its worker may have ended for
another reason; cut into its dispatches; at last, when all else is done, point by point, each in its lane and alone in
flight, which tells the point that ends workers from those around it.
"""

import collections
import hashlib
import itertools
import logging
import math
import pathlib
import pickle
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from typing import Any

import jax
import numpy as np
from jax import export

from jaxsci.core import program as programs
from jaxsci.core.extras import require
from jaxsci.core.provenance import versions
from jaxsci.sweep import _points
from jaxsci.sweep._answers import Answers, Lanes, Todo, lost, text_of
from jaxsci.sweep._parcel import LARGE, Blobs, pack
from jaxsci.sweep._prepare import Options, Study
from jaxsci.sweep._program import chunk_arguments, chunk_function, has_callbacks
from jaxsci.sweep._trace import bytes_per_point
from jaxsci.sweep._worker import Job, Reply, Ticket, settings_now, work

_AGAIN = 3  # times that a chunk is handed out again
_SECONDS, _BYTES = 0.5, 16 << 20  # of a chunk, where the caller gives no size
_LEAST_SECONDS = 0.02  # about as long as an engine takes to hand out a chunk and bring back its answer
_FIRST, _FIRST_SIZED = 8, 64  # chunks in flight before the number of workers is known; with sizes of the caller's
_LEAST_WAIT, _MOST_WAIT = 0.001, 1.0  # seconds between two looks at the futures

_log = logging.getLogger("jaxsci.sweep")


class _Chunk:
    """Points that were first handed out together.

    Attributes:
        size: number of points.
        left: those whose fate is not known.
        lost: (point, text) of those that no worker could compute.
    """

    def __init__(self, size: int):
        self.size, self.left = size, size
        self.lost: list[tuple[int, str]] = []


class _Piece:
    """What one future computes: a chunk or a part of one.

    Attributes:
        position: number of the combination.
        local: points within it.
        chunk: the chunk that they belong to.
        attempt: how often they were handed out before.
        place: the lane of a single point, where the others of its dispatch are missing.
        sent: blobs that go along.
    """

    def __init__(self, position: int, local: np.ndarray, chunk: _Chunk, attempt: int = 0, place: int | None = None):
        self.position, self.local, self.chunk, self.attempt, self.place = position, local, chunk, attempt, place
        self.sent: dict[str, bytes] = {}

    def again(self, lanes: int | None) -> Iterator["_Piece"]:
        """The pieces to hand out next: the same, or with `lanes` such that a point that ends workers is found."""
        attempt, size = self.attempt + 1, len(self.local)
        if lanes is None or attempt < 2 or self.place is not None:
            yield _Piece(self.position, self.local, self.chunk, attempt, self.place)
        elif attempt == 2 and size > lanes:
            for first in range(0, size, lanes):
                yield _Piece(self.position, self.local[first : first + lanes], self.chunk, attempt)
        else:
            for place in range(size) if attempt == _AGAIN else [None]:
                local = self.local if place is None else self.local[place : place + 1]
                yield _Piece(self.position, local, self.chunk, attempt, place and place % lanes)


def handed_out(study: Study, todo: Todo, options: Options, folder: pathlib.Path | None) -> Answers:
    """Compute the points by the workers of `options.executor`; answers come as chunks are finished, in any order.

    Raises:
        RuntimeError: the executor is broken, workers have other versions, or all of a chunk failed every time.
        TypeError: a function with callbacks, or of Python, that does not pickle.
    """
    blobs = Blobs(folder)
    handout = _Handout(study, todo, options, folder, blobs)
    try:
        yield from handout.run()
    finally:
        handout.cancel()
        blobs.close()


class _Handout:
    """The state of one run: what waits, what is in flight, what is known of the workers."""

    def __init__(self, study: Study, todo: Todo, options: Options, folder: pathlib.Path | None, blobs: Blobs):
        self.study, self.folder, self.blobs = study, folder, blobs
        self.executor, self.chunk, self.limit = options.executor, options.chunk, options.devices
        self.name, self.numbers = uuid.uuid4().hex, itertools.count()
        self.tickets: dict[int, Ticket] = {}
        self.pending = sum(len(numbers) for _, numbers in todo)  # points not handed out yet
        self.fresh, self.waiting, self.last = self._pieces(todo), collections.deque(), collections.deque()
        self.flight: list[tuple[Any, _Piece]] = []
        self.workers: set[str] = set()
        self.devices, self.seconds, self.answered = 1, None, False
        self.broken: Exception | None = None

    def run(self) -> Answers:
        """Hand out, wait, take in, until nothing is left."""
        since = time.monotonic()
        while True:
            self._fill()
            if not self.flight and self.broken is None:
                return
            finished, flying = [], []
            for future, piece in self.flight:
                (finished if future.done() else flying).append((future, piece))
            if not finished and self.broken is None:
                # idle looks cost a fiftieth at most, and an answer waits no longer than that
                time.sleep(min(max(_LEAST_WAIT, (time.monotonic() - since) / 50), _MOST_WAIT))
                continue
            since, self.flight = time.monotonic(), flying
            for future, piece in finished:
                try:
                    reply = future.result()
                except BrokenExecutor as error:  # what else is finished comes first
                    self.broken = error
                    self.flight.append((future, piece))
                except Exception as error:
                    yield from self._gone(piece, text_of(error))
                else:
                    yield from self._taken(piece, reply)
            if self.broken is not None:
                raise self._told_broken(self.broken) from self.broken

    def cancel(self) -> None:
        """Call back what has not begun."""
        for future, _ in self.flight:
            if hasattr(future, "cancel"):
                try:
                    future.cancel()
                except Exception as error:  # it is the end already, and of something else
                    _log.info("sweep.run: %s while calling back a chunk", text_of(error))

    # --- handing out ---

    def _pieces(self, todo: Todo) -> Iterator[_Piece]:
        """Chunks of points that were not handed out before."""
        lanes = self.study.lanes
        for position, numbers in todo:
            first = 0
            while first < len(numbers):
                local = np.asarray(numbers[first : first + lanes * self._dispatches()], np.int32)
                first += len(local)
                self.pending -= len(local)
                yield _Piece(position, local, _Chunk(len(local)))

    def _dispatches(self) -> int:
        """How many dispatches of lanes the next chunk holds: as the caller says, or as many as keep a worker busy
        for a moment, and at the end two chunks for every worker."""
        lanes, study = self.study.lanes, self.study
        if self.chunk is not None:
            return math.ceil(self.chunk / lanes)
        if self.seconds is None:
            return 1
        each = max(self.seconds, 1e-6)
        most = min(_SECONDS / each, self.pending / (lanes * 2 * max(1, len(self.workers))))
        most = max(most, _LEAST_SECONDS / each)
        if study.variables is not None:
            most = min(most, _BYTES / (lanes * bytes_per_point(study.variables)))
        return max(1, math.ceil(most / self.devices)) * self.devices

    def _fill(self) -> None:
        first = _FIRST if self.chunk is None else _FIRST_SIZED
        while self.broken is None and len(self.flight) < max(first, 2 * len(self.workers) + 4):
            piece = self.waiting.popleft() if self.waiting else next(self.fresh, None)
            if piece is None:
                break
            self._submit(piece)
        # Whatever a lost worker held is lost with it, guilty or not: a last chance is alone in flight.
        if self.last and not self.flight and self.broken is None:
            self._submit(self.last.popleft())

    def _submit(self, piece: _Piece) -> None:
        ticket, number = self._ticket(piece.position), next(self.numbers)
        try:
            future = self.executor.submit(work, ticket, piece.position, piece.local, piece.place, number, piece.sent)
        except Exception as error:
            self.broken = error
            return
        self.flight.append((future, piece))

    def _ticket(self, position: int) -> Ticket:
        """How workers find the program of a combination; a function that travels itself is one job for all of them."""
        study = self.study
        if position not in self.tickets:
            travels = study.batch == "loop" or has_callbacks(study.traces[position])
            exported = None if travels else self._exported(position)
            if exported is None and None in self.tickets:
                self.tickets[position] = self.tickets[None]
            else:
                self.tickets[position] = self._made(exported)
                if exported is None:
                    self.tickets[None] = self.tickets[position]
        return self.tickets[position]

    def _exported(self, position: int) -> tuple[bytes, Any] | None:
        """The chunk of a combination as a portable program with its arguments; None where JAX has no form for it."""
        require("flatbuffers", "distributed", "sweep.run(executor=...)")
        study = self.study
        combination, traced = study.combinations[position], study.traces[position]
        arguments = chunk_arguments(study.space, combination, traced)
        function = chunk_function(study.space, combination, traced, study.batch, study.allow_nan)
        indices = jax.ShapeDtypeStruct((study.lanes,), np.int32)
        platform = programs.platform_of(study.devices[0])
        # the places of code in files would make two jobs of one that workers hold already
        limit = jax.config.jax_traceback_in_locations_limit
        jax.config.update("jax_traceback_in_locations_limit", 0)
        try:
            exported = export.export(jax.jit(function), platforms=[platform])(indices, *arguments)
            data = bytes(exported.serialize())
        except (ValueError, NotImplementedError) as error:
            _log.info("sweep.run: %s travels as a function, not as a program: %s", study.name, text_of(error))
            return None
        finally:
            jax.config.update("jax_traceback_in_locations_limit", limit)
        return data, jax.tree.map(_on_host, arguments)

    def _made(self, exported: tuple[bytes, Any] | None) -> Ticket:
        """The ticket of a program, or without one that of the point function."""
        study = self.study
        data, arguments = exported or (None, None)
        job = Job(
            name=study.name,
            program=data,
            arguments=arguments,
            point=study.point if exported is None else None,
            space=study.space if exported is None else None,
            batch=study.batch,
            lanes=study.lanes,
            allow_nan=study.allow_nan,
            variables=None if study.batch == "loop" else study.variables,
            devices=self.limit,
            platform=study.devices[0].platform,
        )
        try:
            packed = pack(job, self.blobs)
        except (OSError, ImportError):
            raise
        except Exception as error:
            raise TypeError(
                f"sweep.run: {study.name} cannot travel to workers: {text_of(error)}. With host callbacks, or with "
                'batch="loop", the function itself travels, by cloudpickle: let it make what does not pickle (files, '
                "locks, devices) when it is called, or import it from a module that the workers have too"
            ) from error
        digest, own, blobs = hashlib.sha256(packed.data).hexdigest(), packed.data, packed.blobs
        if len(own) > LARGE:
            digest = self.blobs.put(pickle.dumps(own))
            own, blobs = None, (*blobs, digest)
        return Ticket(self.name, digest, own, blobs, str(self.blobs.folder), versions(), settings_now())

    # --- taking in ---

    def _taken(self, piece: _Piece, reply: Reply) -> Answers:
        self.workers.add(reply.worker)
        self.devices = max(self.devices, reply.devices)
        if reply.refused is not None:
            raise reply.refused
        if reply.need:
            piece.sent = self.blobs.read(reply.need)
            self.waiting.appendleft(piece)
        elif reply.raised is not None:
            if piece.attempt == _AGAIN:
                raise self._hopeless(piece, reply.raised)
            self._hand_out_again(piece, None, f"{reply.worker}: {reply.raised}")
        else:
            self.answered = True
            answer = reply.answer
            seconds = answer.seconds if isinstance(answer, Lanes) else sum(called.seconds for called in answer)
            if piece.place is None:
                dispatches = math.ceil(len(piece.local) / self.study.lanes)
                self.seconds = seconds / dispatches
            yield piece.position, piece.local, answer
            yield from self._settled(piece)

    def _gone(self, piece: _Piece, text: str) -> Answers:
        """A piece whose worker ended, or could not be reached."""
        if piece.attempt < _AGAIN:
            self._hand_out_again(piece, self.study.lanes, text)
            return
        piece.chunk.lost += [(piece.position, int(i), text) for i in piece.local]
        yield from self._settled(piece)

    def _hand_out_again(self, piece: _Piece, lanes: int | None, text: str) -> None:
        pieces = list(piece.again(lanes))
        _log.warning(
            "sweep.run: %d points from %s failed (%s); handed out again, %d of %d times, in %d parts",
            len(piece.local), self._told(piece), text, piece.attempt + 1, _AGAIN, len(pieces),
        )  # fmt: skip
        (self.last if pieces[0].attempt == _AGAIN else self.waiting).extend(pieces)

    def _settled(self, piece: _Piece) -> Answers:
        """Points that no worker could compute become statuses once the rest of their chunk is known; where that is the
        whole chunk, it is no matter of points."""
        chunk = piece.chunk
        chunk.left -= len(piece.local)
        if chunk.left or not chunk.lost:
            return
        if len(chunk.lost) == chunk.size and (chunk.size > 1 or not self.answered):
            raise self._hopeless(piece, chunk.lost[-1][2])
        for position, i, text in chunk.lost:
            _log.warning("sweep.run: gave up the point %s: %s", self._coordinates(position, i), text)
            known = None if self.study.batch == "loop" else self.study.variables
            yield position, np.asarray([i], np.int32), lost(known, text)

    # --- words ---

    def _coordinates(self, position: int, i: int) -> str:
        space = self.study.space
        index = _points.global_index(space, self.study.combinations[position], np.asarray([i]))[0]
        return _points.told(_points.coordinates(space.coords, space.sizes, int(index)))

    def _told(self, piece: _Piece) -> str:
        return self._coordinates(piece.position, int(piece.local[0]))

    def _remedy(self) -> str:
        if self.folder is None:
            return "Nothing was kept: with out='folder' a new call continues where this one stopped"
        return f"Finished points are in {str(self.folder)!r}: the same call, with an executor that works, continues"

    def _told_broken(self, error: Exception) -> RuntimeError:
        flying = [piece for _, piece in self.flight]
        where = "; ".join(self._told(piece) for piece in flying[:3]) + ("; ..." if len(flying) > 3 else "")
        held = f"; it held {sum(len(p.local) for p in flying)} points, from {where}" if flying else ""
        return RuntimeError(
            f"sweep.run: the executor ({type(self.executor).__name__}) is broken: {text_of(error)}{held}. "
            f"{self._remedy()}"
        )

    def _hopeless(self, piece: _Piece, text: str) -> RuntimeError:
        return RuntimeError(
            f"sweep.run: all of {piece.chunk.size} points, from {self._told(piece)}, failed {_AGAIN + 1} times, the "
            f"last time with {text}. {self._remedy()}"
        )


def _on_host(leaf: Any) -> Any:
    """An argument as it travels: NumPy, but for typed keys."""
    return leaf if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)
