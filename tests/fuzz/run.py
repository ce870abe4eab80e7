"""Cases handed to a worker process one by one, each with a time limit.

``python tests/fuzz/run.py --cases 1000 --seed 1`` runs any number of them, ``--only gp`` those of some names.
Names come in an order drawn by the seed, some cases of each in a row, so that a program is compiled once for them.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import select
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
IN_A_ROW = 20
LIMIT = 120.0  # seconds for one case, with the compilation of its function, on a machine that has other work


class Worker:
    """A worker process that is started anew after a hang or a crash."""

    def __init__(self, seed: int):
        self.seed, self.process = seed, None

    def ask(self, name: str, index: int) -> tuple[str, str]:
        """The worker's verdict, or "hang" or "crash"."""
        if self.process is None:
            paths = os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), str(self.seed)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
            )  # fmt: skip
            self.limit = 2 * LIMIT  # it imports everything first
        try:
            self.process.stdin.write(f"{name} {index}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            return self._ended("crash", name, index)
        if not select.select([self.process.stdout], [], [], self.limit)[0]:
            return self._ended("hang", name, index)
        self.limit = LIMIT
        line = self.process.stdout.readline()
        return tuple(json.loads(line)) if line else self._ended("crash", name, index)

    def _ended(self, verdict, name, index):
        self.close()
        return verdict, f"{name} case {index}"

    def close(self):
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def order(names: list[str], seed: int, cases: int):
    """Names and indices of the cases."""
    rng, given = random.Random(seed), 0
    for round_ in range(1 + cases // (IN_A_ROW * len(names))):
        for name in rng.sample(names, len(names)):
            for index in range(round_ * IN_A_ROW, (round_ + 1) * IN_A_ROW):
                if given == cases:
                    return
                given += 1
                yield name, index


def fuzz(names: list[str], *, cases: int, seed: int, seconds: float = float("inf"), allowed=()):
    """Counts of the verdicts, and the texts of silent, hanging and crashing cases that no reason allows.

    Args:
        names: registered names to draw from.
        cases: how many calls are made.
        seed: of the mutations and of the order of names.
        seconds: after which no further case begins.
        allowed: pairs (beginning of a case's text, reason).
    """
    counts, texts, start, worker = collections.Counter(), [], time.monotonic(), Worker(seed)
    try:
        for name, index in order(names, seed, cases):
            if time.monotonic() - start > seconds:
                break
            verdict, text = worker.ask(name, index)
            if verdict in ("silent", "hang", "crash"):
                if any(text.startswith(beginning) for beginning, _ in allowed):
                    verdict = "allowed"
                else:
                    texts.append(f"{verdict}: {text}")
            counts[verdict] += 1
    finally:
        worker.close()
    return counts, texts


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent)]
    from fuzz import mutations
    from fuzz.allowed import ALLOWED

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", default="", help="names that contain this text")
    options = parser.parse_args()
    drawn = [name for name in mutations.CALLED if options.only in name]
    found, lines = fuzz(drawn, cases=options.cases, seed=options.seed, seconds=options.seconds, allowed=ALLOWED)
    print("\n".join([*lines, str(dict(found))]))
