"""Peers in interpreters of their own: which one has the package, what a peer answers, and what goes wrong there.

A peer is a function in `benchmarks/peers/<subject>.py`. It always runs in a process of its own, started with the first
interpreter of ``--peer-python`` that has the package, else with this one: a peer that needs other versions of NumPy or
Python stays comparable, and BLAS there is on one thread, without which SciPy's times swing with the machine's load. The
times are those that the peer's process takes by its own clock.
"""

import atexit
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

FOLDER = pathlib.Path(__file__).with_name("peers")
_SERVE = FOLDER / "_serve.py"
_OURS = {"numpy", "scipy"}  # jaxsci needs them itself, so the versions compared with are those it uses
_THREADS = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")


class Missing(NamedTuple):
    """No interpreter has these packages."""

    packages: tuple[str, ...]

    def __str__(self):
        names = " and ".join(self.packages)
        return f"not measured: no {names} here; name an interpreter that has it: --peer-python PYTHON"


class Failed(NamedTuple):
    """The peer is there and did not do its work."""

    error: str

    def __str__(self):
        return f"the peer failed: {self.error}"


class PeerError(Exception):
    """What a peer's process says went wrong, or how it ended."""


class Outside(NamedTuple):
    """A peer that is ready in its process: `call()` gives its output, `sample(repeats)` seconds by its own clock."""

    call: Callable[[], Any]
    compile_seconds: float | None
    sample: Callable[[int], float]


class Peers:
    """Finds peers; `versions` tells what was used and where. Close it, or use it as a context, to end the processes.

    Args:
        interpreters: commands of Python interpreters, tried in order before this one.
        limit: seconds after which a peer that does not answer is ended.
    """

    def __init__(self, interpreters: Sequence[str] = (), limit: float = 600.0):
        self.interpreters, self.limit = list(interpreters), limit
        self.versions: dict[str, dict[str, Any]] = {}
        self.missing: list[str] = []
        self._workers: dict[int, _Worker] = {}

    def find(self, packages: str | tuple[str, ...], function: str, /, **inputs: Any) -> Outside | Missing | Failed:
        """Prepare a function of ``benchmarks/peers/<file>.py``, given as ``"file:function"``, in the first interpreter
        that has all packages. Inputs are arrays, numbers and text."""
        packages = (packages,) if isinstance(packages, str) else packages
        own = len(self.interpreters)  # the place of this interpreter, the last
        lacking = {}
        for place in range(own + 1):
            if place < own and set(packages) <= _OURS:
                continue
            try:
                worker = self._worker(place)
                found = worker.ask(ask="look", packages=["numpy", *packages])
                if found["missing"]:
                    lacking |= dict.fromkeys(name for name in packages if name in found["missing"])
                    continue
                where = "this interpreter" if place == own else f"--peer-python number {place + 1}"
                for name in packages:
                    version = {"version": found["versions"][name], "python": found["python"], "interpreter": where}
                    self.versions[name] = version
                return worker.prepare(function, inputs)
            except PeerError as error:
                return Failed(str(error))
        names = tuple(lacking) or packages
        self.missing += [name for name in names if name not in self.missing]
        return Missing(names)

    def _worker(self, place):
        worker = self._workers.get(place)
        if worker is None or worker.ended():
            if worker is not None:
                worker.close()
            python = [*self.interpreters, sys.executable][place]
            worker = self._workers[place] = _Worker(python, place == len(self.interpreters), self.limit)
        return worker

    def close(self):
        """End the processes; a later `find` starts new ones."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def trouble_with(python: str) -> str | None:
    """Why `python` cannot run anything, None if it can."""
    command = [python, "-c", "print(6 * 7)"]
    try:
        done = subprocess.run(command, env=_environment(False), capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return getattr(error, "strerror", None) or str(error)
    return None if done.returncode == 0 and done.stdout.strip() == "42" else "it does not run Python"


def _environment(own: bool) -> dict[str, str]:
    """This one's; another interpreter must not find this one's packages."""
    kept = {name: value for name, value in os.environ.items() if own or not name.startswith("PYTHON")}
    return kept | {f"{name}_NUM_THREADS": "1" for name in _THREADS} | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class _Worker:
    """A process with `peers/_serve.py`."""

    def __init__(self, python, own, limit):
        self.limit, self.folder = limit, pathlib.Path(tempfile.mkdtemp(prefix="benchmarks-peer-"))
        try:
            with open(self.folder / "stderr", "w") as log:
                self.process = subprocess.Popen(
                    [python, str(_SERVE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                    text=True, env=_environment(own),
                )  # fmt: skip
        except OSError as error:
            shutil.rmtree(self.folder)
            raise PeerError(f"its interpreter does not start ({error.strerror})") from None
        atexit.register(self.close)

    def ended(self):
        return self.process.poll() is not None

    def close(self):
        atexit.unregister(self.close)
        try:
            self.process.stdin.close()  # which ends it
        except OSError:  # something unsent, and nobody there
            pass
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, **request):
        late = threading.Event()
        timer = threading.Timer(self.limit, lambda: (late.set(), self.process.kill()))
        timer.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except (OSError, ValueError):  # it ended before, or was closed
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise PeerError(f"no answer within {self.limit:.3g} s" if late.is_set() else self._end())
        answer = json.loads(line)
        if "error" in answer:
            print(answer["trace"], file=sys.stderr)
            raise PeerError(without_paths(answer["error"]))
        return answer

    def _end(self):
        """How the process ended, with the last line that it wrote."""
        code = self.process.wait()
        how = f"its process ended with status {code}" if code >= 0 else f"its process died: {signal.strsignal(-code)}"
        log = self.folder / "stderr"
        told = log.read_text(errors="replace") if log.exists() else ""
        print(told, file=sys.stderr)
        last = told.strip().splitlines()[-1:]
        return without_paths("; ".join([how, *last]))

    def prepare(self, function, inputs):
        file, name = function.split(":")
        sent = self.folder / "inputs.npz"
        np.savez(sent, **{key: np.asarray(value) for key, value in inputs.items()})
        made = self.ask(ask="prepare", file=str(FOLDER / f"{file}.py"), function=name, inputs=str(sent))

        def call():
            got = self.folder / "outputs.npz"
            kind = self.ask(ask="call", number=made["number"], outputs=str(got))["kind"]
            with np.load(got, allow_pickle=False) as arrays:
                values = {key[1:]: arrays[key] for key in arrays.files}
            return values if kind == "dict" else tuple(values.values()) if kind == "tuple" else values["0"]

        def sample(repeats):
            return self.ask(ask="time", number=made["number"], repeats=repeats)["seconds"]

        return Outside(call, made["compile_seconds"], sample)


def without_paths(text: str) -> str:
    """In one line, folders cut from paths: what is published does not tell where things lie on this machine."""
    return re.sub(r"(?<![\w.:/])(/[^\s/'\":,;()]+)+/", "", " ".join(text.split()))
