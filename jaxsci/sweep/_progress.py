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
    if not progress:
        yield lambda points, text: None
        return
    tqdm = require("tqdm", "sweep", "sweep.run(progress=True)").tqdm
    with tqdm(total=total, initial=done, unit="point", file=sys.stderr, dynamic_ncols=True, smoothing=0.1) as bar:

        def report(points: int, text: str) -> None:
            if text != report.text:
                bar.set_description_str(text, refresh=False)
                report.text = text
                bar.refresh()
            bar.update(points - bar.n if points > bar.n else 0)

        report.text = ""
        yield report
