"""Heat maps: two dimensions as cells of equal size, so that geometric grids and names read as well as even grids."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxsci.core import extras
from jaxsci.plot import _style


def heatmap(
    data: Any,
    *,
    x: str | None = None,
    y: str | None = None,
    dims: Iterable[str] = ("y", "x"),
    best: str | None = "min",
    log: bool = False,
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw a two-dimensional array as coloured cells with a colour bar, and mark the best cell.

    Args:
        data: a `DataArray` of two dimensions, or a plain matrix.
        x: the dimension along the x axis; the last one by default.
        y: the other one.
        dims: names of the axes of a plain matrix.
        best: "min", "max" or None: which cell gets the frame, and its value and place in the title.
        log: logarithmic colours; values that are not positive are then drawn as missing.
        title: above the figure.
        ax: Axes to draw on; a new figure by default.

    Returns:
        The Axes; missing values are grey.

    Raises:
        ValueError: not two dimensions, an unknown `best`, or no value that can be drawn.
        TypeError: the data are not real numbers.
        ImportError: the extra "plot" is missing.

    Example:
        >>> import numpy as np
        >>> from jaxsci import plot
        >>> ax = plot.heatmap(np.arange(6.0).reshape(2, 3), dims=("rate", "width"), best="max")
        >>> ax.get_title(loc="left")
        'largest: 5 at rate=1, width=2'
    """
    if best not in ("min", "max", None):
        raise ValueError(f"plot.heatmap: best must be 'min', 'max' or None, got {best!r}")
    array = _style.read("heatmap", data, tuple(dims))
    if len(array.dims) != 2:
        raise ValueError(f"plot.heatmap: expected two dimensions, got {list(array.dims)}; select or average the rest")
    x = x or next(dim for dim in reversed(array.dims) if dim != y)
    y = y or next(dim for dim in array.dims if dim != x)
    values = _style.ordered("heatmap", array, ((y,), (x,))).astype(np.float64)
    drawn = np.where(np.isfinite(values) & ((values > 0) if log else True), values, np.nan)
    if not np.isfinite(drawn).any():
        raise ValueError("plot.heatmap: no finite" + (" positive" if log else "") + " value to draw")
    colors = extras.require("matplotlib.colors", "plot", "plot.heatmap")
    ax = _style.figure("heatmap", ax)
    limits = (np.nanmin(drawn), np.nanmax(drawn))
    norm = (colors.LogNorm if log else colors.Normalize)(*limits)
    cells = ax.pcolormesh(np.ma.masked_invalid(drawn), norm=norm, cmap="viridis")
    ax.set_facecolor("#BBBBBB")
    bar = ax.figure.colorbar(cells, ax=ax)
    bar.set_label(array.label, fontsize=_style.FONT)
    bar.ax.tick_params(labelsize=_style.FONT - 1)
    found = None
    if best is not None:
        row, column = np.unravel_index((np.nanargmin if best == "min" else np.nanargmax)(drawn), drawn.shape)
        for width, color in ((4.0, "black"), (1.8, "white")):  # seen on light and on dark cells
            ax.plot(
                column + np.array([0, 1, 1, 0, 0]), row + np.array([0, 0, 1, 1, 0]), color=color, linewidth=width,
                solid_joinstyle="miter", clip_on=False, zorder=3,
            )  # fmt: skip
        place = ", ".join(f"{d}={_style.text(array.coords[d][i])}" for d, i in ((y, row), (x, column)))
        found = f"{'smallest' if best == 'min' else 'largest'}: {_style.text(drawn[row, column])} at {place}"
    titled = "\n".join(line for line in (title, found) if line)
    _style.finish(ax, xlabel=array.dim_labels[x], ylabel=array.dim_labels[y], title=titled)
    ax.grid(False)
    box = ax.get_window_extent()
    letter = 0.62 * _style.FONT * ax.figure.dpi / 72  # pixels
    longest = max(len(_style.text(c, 3)) for c in array.coords[x])
    _ticks(ax.set_xticks, array.coords[x], box.width / (letter * (longest + 1.5)))
    _ticks(ax.set_yticks, array.coords[y], box.height / (3 * letter))
    return ax


def _ticks(set_ticks, coords, room):
    """Labels at the centres of the cells, every second or third where there is no room for all."""
    chosen = np.arange(0, len(coords), int(np.ceil(len(coords) / max(1, room))))
    set_ticks(chosen + 0.5, [_style.text(coords[i], 3) for i in chosen])
