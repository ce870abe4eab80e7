"""What all figures share: colours, sizes, labels from names and units, reading labelled or plain arrays.

Colours: Okabe and Ito 2008, *Color Universal Design*, without the yellow, which is too light for lines on white.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsci.core import extras

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
GREY = "#666666"
FONT = 10.0
SIZE = (7.2, 4.4)  # inches; at DPI 125 a figure is 900 pixels wide
DPI = 125
_MOST_MOVES = 8  # lines of text up or down
_LEAD = 16  # points from the end of a line to a label that had to move


class Labelled(NamedTuple):
    """An array in NumPy with the names of its axes.

    Attributes:
        values: the numbers.
        dims: name of each axis, in order.
        coords: labels along each axis, by its name; 0, 1, ... where none are known.
        label: name and units of the values, "" if unknown.
        dim_labels: name and units of each axis, by its name.
    """

    values: np.ndarray
    dims: tuple[str, ...]
    coords: dict[str, np.ndarray]
    label: str
    dim_labels: dict[str, str]


def read(function: str, data: Any, dims: Sequence[str] = ()) -> Labelled:
    """A labelled array as it is, a plain one with the names `dims`."""
    if hasattr(data, "data_vars"):
        raise TypeError(f"plot.{function}: expected one array, got a Dataset; take one of {list(data.data_vars)}")
    if hasattr(data, "dims") and hasattr(data, "coords"):
        names = tuple(str(d) for d in data.dims)
        coords, labels = {}, {}
        for dim, size in zip(names, data.shape):
            known = dim in data.coords
            coords[dim] = np.asarray(data.coords[dim].values if known else np.arange(size))
            labels[dim] = _label(data.coords[dim].attrs if known else {}, dim)
        values, label = np.asarray(data.values), _label(getattr(data, "attrs", {}), getattr(data, "name", None))
    else:
        values, names = np.asarray(data), tuple(dims)
        if values.ndim != len(names):
            raise ValueError(
                f"plot.{function}: a plain array of shape {values.shape} needs {values.ndim} names of axes, got "
                f"{list(names)}; pass a DataArray, or dims= where the function takes it"
            )
        coords = {dim: np.arange(size) for dim, size in zip(names, values.shape)}
        label, labels = "", {dim: dim for dim in names}
    if values.size == 0:
        raise ValueError(f"plot.{function}: nothing to draw, the array has shape {values.shape}")
    if values.dtype.kind == "V":  # bfloat16 and its relatives
        values = values.astype(np.float64)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"plot.{function}: expected real numbers, got dtype {values.dtype}")
    return Labelled(values, names, coords, label, labels)


def _label(attributes: dict, name: Any) -> str:
    name = str(attributes.get("long_name") or name or "").replace("_", " ")
    units = str(attributes.get("units") or "")
    return f"{name} [{units}]" if units and units != "1" else name


def ordered(function: str, data: Labelled, groups: Sequence[Sequence[str]]) -> np.ndarray:
    """The values with their axes in the order of `groups`, each group joined into one axis."""
    wanted = [dim for group in groups for dim in group]
    for dim in wanted:
        if dim not in data.dims:
            raise ValueError(f"plot.{function}: no dimension {dim!r}; the array has {list(data.dims)}")
    left = [dim for dim in data.dims if dim not in wanted]
    if left or len(set(wanted)) != len(wanted):
        raise ValueError(
            f"plot.{function}: dimensions {left or wanted} are not used exactly once; name each of {list(data.dims)} "
            "in one argument, or select an entry first"
        )
    values = np.transpose(data.values, [data.dims.index(dim) for dim in wanted])
    sizes = dict(zip(data.dims, data.values.shape))
    return values.reshape([int(np.prod([sizes[dim] for dim in group])) for group in groups])


def names(dims: str | Iterable[str] | None) -> tuple[str, ...]:
    """One name, several or none, as a tuple."""
    return () if dims is None else (dims,) if isinstance(dims, str) else tuple(dims)


def text(value: Any, digits: int = 4) -> str:
    """A coordinate label: numbers with a few significant digits, all else as it prints."""
    return f"{value:.{digits}g}" if isinstance(value, (float, np.floating)) else str(value)


def figure(function: str, ax: Any, size: tuple[float, float] = SIZE):
    """`ax`, or that of a new figure."""
    if ax is not None:
        return ax
    pyplot = extras.require("matplotlib.pyplot", "plot", f"plot.{function}")
    return pyplot.subplots(figsize=size, dpi=DPI, layout="constrained")[1]


def finish(ax, *, xlabel: str, ylabel: str, title: str | None, log: str = "") -> None:
    """Scales, labels and a quiet frame."""
    if "x" in log:
        ax.set_xscale("log")
    if "y" in log:
        ax.set_yscale("log")
    ax.set_xlabel(xlabel, fontsize=FONT)
    ax.set_ylabel(ylabel, fontsize=FONT)
    if title:
        ax.set_title(title, fontsize=FONT + 1, loc="left")
    ax.tick_params(labelsize=FONT - 1)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="#E5E5E5", linewidth=0.6)
    ax.set_axisbelow(True)


def direct_labels(ax, entries: Sequence[tuple[Any, Any, str, str]]) -> None:
    """Write (x, y, text, colour) to the right of the ends of lines, moved apart where they would overlap.

    Where a label had to move by half a line of text or more, thin lines lead from the ends to the labels.
    """
    entries = [(ax.convert_xunits(x), *rest) for x, *rest in entries if rest[1] and np.isfinite(rest[0])]  # dates too
    if not entries:
        return
    ax.figure.draw_without_rendering()  # settles layout and limits, on which the distances depend
    points = 72 / ax.figure.dpi
    gap = 1.25 * FONT / points  # pixels from one line of text to the next
    right = max(ax.transData.transform((x, y))[0] for x, y, *_ in entries)
    ends = sorted((*ax.transData.transform((x, y)), text, color) for x, y, text, color in entries)
    ends.sort(key=lambda end: end[1])
    heights = _apart([end[1] for end in ends], gap, *ax.get_window_extent().intervaly)
    led = any(abs(height - y) > gap / 2 for (_, y, *_), height in zip(ends, heights))
    places = [
        (ax.transData.inverted().transform((x, y)), ((right - x) * points + 5 + led * _LEAD, (height - y) * points))
        for (x, y, *_), height in zip(ends, heights)
    ]
    for (end, shift), (*_, color) in zip(places if led else (), ends):
        _lead(ax, end, shift, color)
    for (end, shift), (*_, label, color) in zip(places, ends):
        ax.annotate(
            label, end, fontsize=FONT, color=color, va="center", xytext=shift, textcoords="offset points",
            annotation_clip=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},  # a line behind it stops there
        )  # fmt: skip


def _lead(ax, end, shift, color):
    """A thin line from a point of the data to a place some points (1/72 inch) away from it."""
    patches = extras.require("matplotlib.patches", "plot", "plot.lines")
    transforms = extras.require("matplotlib.transforms", "plot", "plot.lines")
    inches = transforms.ScaledTranslation((shift[0] - 1) / 72, shift[1] / 72, ax.figure.dpi_scale_trans)
    line = patches.ConnectionPatch(
        end, end, ax.transData, ax.transData + inches, arrowstyle="-", color=color, linewidth=0.7, clip_on=False
    )
    line.set_in_layout(False)  # the label that it leads to is
    ax.add_artist(line)


def _apart(heights: Sequence[float], gap: float, bottom: float, top: float) -> np.ndarray:
    """The nearest heights, in the same order, that are a gap or more apart; within the axes if there is room.

    Least squares under an order: neighbours that violate it are pooled at their mean.
    """
    steps = gap * np.arange(len(heights))
    pools: list[list[float]] = []
    for height in np.asarray(heights) - steps:
        pools.append([height, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [[(m * a + n * b) / (m + n), m + n]]
    level = np.repeat([mean for mean, _ in pools], [int(n) for _, n in pools])
    if steps[-1] <= top - bottom:
        level = np.clip(level, bottom, top - steps[-1])
    return level + steps


def untangle(ax, movable: Sequence[Any]) -> None:
    """Move each of these texts to the first place around its point where its box touches no other text's."""
    ax.figure.draw_without_rendering()
    texts = [text for text in ax.texts if text.get_text()]
    free = list(movable)
    for text in movable:
        free.remove(text)
        others = [other.get_window_extent() for other in texts if other is not text and other not in free]
        height = 1.3 * text.get_fontsize()
        for k in range(2 * _MOST_MOVES + 1):
            shift = height * ((k + 1) // 2) * (-1) ** k
            x, y = text.xyann
            text.xyann = (x, y + shift)
            if not any(text.get_window_extent().overlaps(box) for box in others):
                break
            text.xyann = (x, y)
