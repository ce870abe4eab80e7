"""Progress: a bar on stderr, a callable of the user's, or silence. Fed between dispatches, never from compiled code."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from jaxsci.core.extras import require


@contextlib.contextmanager
def reporting(progress: bool | Callable, total: int, done: int) -> Iterator[Callable[[int, str], Any]]:
    """Give a function ``report(points_done, text)`` for the time of a run.

    `progress`: True shows a bar (points, points per second, the static combination), False nothing; a callable gets
    ``(points done, points in all, text)`` after every dispatch.
    """
    if callable(progress):
        yield lambda points, text: progress(points, total, text)
        return
    with _bar(progress, total, done, unit="point", smoothing=0.1) as report:
        yield report


@contextlib.contextmanager
def tracing(progress: bool | Callable, combinations: int, points: int) -> Iterator[Callable[[int, str], Any]]:
    """Give a function ``report(combinations_traced, text)``: its bar vanishes at the end, a callable gets
    ``(0, points in all, text)``."""
    if callable(progress):
        yield lambda _, text: progress(0, points, text)
        return
    with _bar(progress, combinations, 0, unit="trace", leave=False) as report:
        yield report


@contextlib.contextmanager
def _bar(shown: bool, total: int, done: int, **options: Any) -> Iterator[Callable[[int, str], Any]]:
    if not shown:
        yield lambda count, text: None
        return
    tqdm = require("tqdm", "sweep", "sweep.run(progress=True)").tqdm
    with tqdm(total=total, initial=done, file=sys.stderr, dynamic_ncols=True, **options) as bar:

        def report(count: int, text: str) -> None:
            if text != report.text:
                bar.set_description_str(text, refresh=False)
                report.text = text
                bar.refresh()
            bar.update(count - bar.n if count > bar.n else 0)

        report.text = ""
        yield report
