"""Pictures in a grid, with their own aspect and one grey scale for all."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxsci.core import extras
from jaxsci.plot import _style


def images(
    arrays: Any,
    *,
    titles: Iterable[str] | None = None,
    columns: int | None = None,
    limits: tuple[float | int, float | int] | None = None,
    ax: Sequence[Any] | Any = None,
) -> np.ndarray:
    """Draw grey (rows, columns) and colour (rows, columns, 3 or 4) pictures in a grid.

    Args:
        arrays: a sequence of pictures, or one array that stacks them along its first axis; the row 0 is on top. Colours
            are integers 0 to 255 or floats 0 to 1, and are clipped to that.
        titles: one a picture; names of labelled arrays by default.
        columns: pictures in a row; at most three by default.
        limits: values that are black and white in grey pictures; the extremes over all of them by default, so that they
            compare. Missing values are drawn in light blue.
        ax: Axes to draw on, one a picture; a new figure by default.

    Returns:
        NumPy array of the Axes used, one a picture.

    Raises:
        ValueError: no picture, a shape that is none, or the wrong number of titles or Axes.
        TypeError: the data are not real numbers.
        ImportError: the extra "plot" is missing.

    Example:
        >>> import numpy as np
        >>> from jaxsci import plot
        >>> axes = plot.images([np.eye(3), np.ones((2, 4))], titles=["before", "after"])
        >>> [a.get_title() for a in axes]
        ['before', 'after']
    """
    if hasattr(arrays, "ndim") and (arrays.ndim < 3 or arrays.ndim == 3 and arrays.shape[-1] in (3, 4)):
        arrays = [arrays]  # one picture; a stack of three or four columns wide pictures comes as a list
    pictures = [_picture(a, i) for i, a in enumerate(arrays)]
    if not pictures:
        raise ValueError("plot.images: no picture to draw")
    titles = list(titles) if titles is not None else [str(getattr(a, "name", None) or "") for a in arrays]
    if len(titles) != len(pictures):
        raise ValueError(f"plot.images: expected {len(pictures)} titles, got {len(titles)}")
    axes = _grid(pictures, columns, ax)
    grey = [p[np.isfinite(p)] for p in pictures if p.ndim == 2 and np.isfinite(p).any()]
    if limits is None:
        limits = (min(map(np.min, grey)), max(map(np.max, grey))) if grey else (0.0, 1.0)
    cmap = extras.require("matplotlib", "plot", "plot.images").colormaps["gray"].with_extremes(bad="#A6CEE3")
    for picture, title, one in zip(pictures, titles, axes):
        options = dict(cmap=cmap, vmin=limits[0], vmax=limits[1]) if picture.ndim == 2 else {}
        one.imshow(picture, interpolation="nearest", **options)
        one.set_title(title, fontsize=_style.FONT)
        one.set_axis_off()
    return axes


def _picture(array, index):
    values = np.asarray(getattr(array, "values", array))
    if values.dtype.kind == "V":  # bfloat16 and its relatives
        values = values.astype(np.float64)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"plot.images: picture {index}: expected real numbers, got dtype {values.dtype}")
    if values.size == 0 or not (values.ndim == 2 or values.ndim == 3 and values.shape[2] in (3, 4)):
        raise ValueError(
            f"plot.images: picture {index}: expected (rows, columns) or (rows, columns, 3 or 4), got {values.shape}"
        )
    if values.ndim == 2:
        return np.ma.masked_invalid(values.astype(np.float64)).filled(np.nan)
    if values.dtype.kind in "iu":
        return np.clip(values, 0, 255).astype(np.uint8)
    return np.clip(np.nan_to_num(values.astype(np.float64)), 0, 1)


def _grid(pictures, columns, ax):
    if ax is not None:
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) < len(pictures):
            raise ValueError(f"plot.images: {len(pictures)} pictures need as many Axes, got {len(axes)}")
        return axes[: len(pictures)]
    columns = min(columns or 3, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    width = _style.SIZE[0] / columns
    aspects = [p.shape[0] / p.shape[1] for p in pictures]
    heights = [min(3, max(aspects[columns * i : columns * (i + 1)])) * width + 0.3 for i in range(rows)]
    pyplot = extras.require("matplotlib.pyplot", "plot", "plot.images")
    _, axes = pyplot.subplots(
        rows, columns, figsize=(_style.SIZE[0], sum(heights)), dpi=_style.DPI, layout="constrained", squeeze=False,
        height_ratios=heights,
    )  # fmt: skip
    for unused in axes.ravel()[len(pictures) :]:
        unused.set_axis_off()
    return axes.ravel()[: len(pictures)]
