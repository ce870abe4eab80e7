"""Progress of a host loop: a bar on stderr, a callable of the user's, or silence. Never fed from compiled code."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from jaxsci.core import entry, extras


@contextlib.contextmanager
def reporting(
    caller: str, progress: bool | Callable, total: int, done: int = 0, *, unit: str = "step", **options: Any
) -> Iterator[Callable[[int, str], Any]]:
    """Give a function ``report(done, text)`` for the time of a loop.

    Args:
        caller: the function that asks, named when tqdm is missing.
        progress: True shows a bar, False nothing; a callable gets ``(done, total, text)``.
        total: how much there is to do.
        done: how much was done before.
        unit: what is counted.
        options: more of tqdm's, e.g. ``leave=False``.

    Raises:
        ImportError: a bar is asked for and the extra "sweep" is missing.

    Example:
        >>> from jaxsci.core import progress
        >>> with progress.reporting("fit", lambda done, total, text: print(done, total, text), 10) as report:
        ...     report(3, "loss 0.5")
        3 10 loss 0.5
    """
    if callable(progress):
        yield lambda count, text="": progress(count, total, text)
        return
    if not progress:
        yield lambda count, text="": None
        return
    tqdm = extras.require("tqdm", "sweep", f"{caller}(progress=True)").tqdm
    with tqdm(total=total, initial=done, unit=unit, file=sys.stderr, dynamic_ncols=True, **options) as bar:

        def report(count: int, text: str = "") -> None:
            if text != report.text:
                bar.set_description_str(text, refresh=False)
                report.text = text
            bar.update(max(0, count - bar.n))

        report.text = ""
        yield report


__all__ = ["reporting"]

entry.guard(globals())
