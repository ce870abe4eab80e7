"""Lines with bands: the mean over some dimensions, a line for each entry of others."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxsci.plot import _style

_BANDS = ("quantile", "sd", None)


def lines(
    data: Any,
    *,
    x: str | None = None,
    over: str | Iterable[str] | None = None,
    by: str | None = None,
    dims: Iterable[str] | None = None,
    band: str | None = "quantile",
    log: str = "",
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw the mean over `over` against `x` with a band, one line for each entry of `by`.

    Args:
        data: a `DataArray`, or a plain array of 1 to 3 axes.
        x: the dimension along the axis; the last one that is not named otherwise by default.
        over: the dimension(s) to average; its missing values (NaN) are left out.
        by: the dimension with one line an entry, labelled at the line's end.
        dims: names of the axes of a plain array; by default ``(by, over, x)`` with those that are given.
        band: "quantile" is 5 to 95 %, "sd" one standard deviation either side of the mean, None no band.
        log: "", "x", "y" or "xy".
        title: above the figure.
        ax: Axes to draw on; a new figure by default.

    Returns:
        The Axes.

    Raises:
        ValueError: a dimension that is not there or not accounted for; an unknown `band` or `log`.
        TypeError: the data are not real numbers.
        ImportError: the extra "plot" is missing.

    Example:
        >>> import numpy as np
        >>> from jaxsci import plot
        >>> ax = plot.lines(np.random.default_rng(0).normal(size=(2, 20, 50)), by="method", over="seed", x="step")
        >>> ax.get_xlabel(), len(ax.get_lines())
        ('step', 2)
    """
    if band not in _BANDS:
        raise ValueError(f"plot.lines: band must be one of {_BANDS}, got {band!r}")
    if log not in ("", "x", "y", "xy"):
        raise ValueError(f"plot.lines: log must be '', 'x', 'y' or 'xy', got {log!r}")
    over = _style.names(over)
    if dims is None:
        dims = (*_style.names(by), *over, x or "x")
    array = _style.read("lines", data, tuple(dims))
    if x is None:
        free = [dim for dim in array.dims if dim not in (*over, by)]
        if not free:
            raise ValueError(f"plot.lines: no dimension of {list(array.dims)} is left for the x axis")
        x = free[-1]
    values = _style.ordered("lines", array, (_style.names(by), over, (x,)))
    labels = [_style.text(v) for v in array.coords[by]] if by else [""]
    ax = _style.figure("lines", ax)
    positions = _positions(ax, array.coords[x])
    ends = draw_bands(ax, positions, values, labels, band=band if over else None)
    if title is None and by:
        title = f"by {array.dim_labels[by]}"
    _style.finish(ax, xlabel=array.dim_labels[x], ylabel=_ylabel(array.label, over, band), title=title, log=log)
    _style.direct_labels(ax, ends)
    return ax


def _ylabel(label, over, band):
    if not over:
        return label
    width = {"quantile": ", 5–95 %", "sd": " ± sd", None: ""}[band]
    return f"{label}\n(mean{width} over {', '.join(over)})".strip()


def _positions(ax, coords):
    """Numbers along the x axis; names become ticks 0, 1, ..."""
    if np.issubdtype(coords.dtype, np.number) or np.issubdtype(coords.dtype, np.datetime64):
        return coords
    ax.set_xticks(np.arange(len(coords)), [str(c) for c in coords])
    return np.arange(len(coords))


def draw_bands(ax, x, values, labels, *, band, leave_out=()):
    """Draw values of shape (lines, samples, x); returns (x, y, label, colour) of the ends of the lines.

    Lines in `leave_out` are not drawn, but keep their colours: a policy looks the same in every figure.
    """
    ends = []
    for i, (samples, label) in enumerate(zip(values.astype(np.float64), labels)):
        if i in leave_out:
            continue
        color = _style.COLORS[i % len(_style.COLORS)]
        dash = _style.DASHES[i // len(_style.COLORS) % len(_style.DASHES)]
        there = np.isfinite(samples).any(axis=0)  # NumPy warns about columns without a number
        mean, low, high = (np.full(samples.shape[1], np.nan) for _ in range(3))
        kept = np.where(np.isfinite(samples[:, there]), samples[:, there], np.nan)
        if there.any():
            mean[there] = np.nanmean(kept, axis=0)
        if band is not None and there.any():
            if band == "quantile":
                low[there], high[there] = np.nanquantile(kept, (0.05, 0.95), axis=0)
            else:
                spread = np.nanstd(kept, axis=0)
                low[there], high[there] = mean[there] - spread, mean[there] + spread
            ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        ax.plot(x, mean, color=color, linestyle=dash, linewidth=1.8, label=label or None)
        if there.any():
            last = np.flatnonzero(there)[-1]
            ends.append((x[last], mean[last], label, color))
    return ends
