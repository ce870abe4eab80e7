r"""Orders of convergence: $\log e \approx a + p \log n$ by least squares, with lines of whole slopes to compare."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxsci.plot import _style

_FALLEN = np.log(1e3)
_FLAT = 0.25


def orders(
    errors: Any,
    n: Any = None,
    *,
    x: str | None = None,
    by: str | None = None,
    labels: Iterable[str] | None = None,
    fit: tuple[float | int, float | int] | None = None,
    references: Iterable[float | int] | None = None,
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw errors against sizes on log-log axes and write the fitted slope beside each line.

    Args:
        errors: a `DataArray` with the sizes as coordinate of one dimension, or a plain array (sizes,) or
            (methods, sizes).
        n: the sizes, positive, for a plain array.
        x: the dimension of the sizes of a `DataArray`; the last by default.
        by: the dimension of the methods; the other one by default.
        labels: names of the methods of a plain array.
        fit: fit the slopes to sizes in this closed range only. By default to all sizes but those at the round-off
            floor: the last ones, along which the error falls at less than a quarter of its steepest slope after it has
            fallen by a factor of a thousand. They are drawn nevertheless.
        references: slopes of the grey lines; by default the fitted ones rounded to whole numbers.
        title: above the figure.
        ax: Axes to draw on; a new figure by default.

    Returns:
        The Axes. Errors that are zero, negative or not finite are left out of lines and fits.

    Raises:
        ValueError: sizes are missing, not positive or of another length; nothing to draw.
        TypeError: the data are not real numbers.
        ImportError: the extra "plot" is missing.

    Example:
        >>> import numpy as np
        >>> from jaxsci import plot
        >>> n = 2.0 ** np.arange(3, 9)
        >>> ax = plot.orders([1 / n, 3 / n**2], n, labels=["Euler", "midpoint"])
        >>> [text.get_text() for text in ax.texts][-2:]
        ['midpoint: slope −2.00', 'Euler: slope −1.00']
    """
    plain = not hasattr(errors, "dims")
    array = _style.read("orders", errors, ("method", "n")[-max(1, np.ndim(errors)) :] if plain else ())
    x = x or next(dim for dim in reversed(array.dims) if dim != by)
    by = by or next((dim for dim in array.dims if dim != x), None)
    values = _style.ordered("orders", array, (_style.names(by), (x,))).astype(np.float64)
    if plain and n is None:
        raise ValueError("plot.orders: a plain array needs the sizes n")
    sizes = np.asarray(array.coords[x] if n is None else n, np.float64)
    if sizes.shape != values.shape[1:]:
        raise ValueError(f"plot.orders: n must hold {values.shape[1]} sizes, got shape {sizes.shape}")
    if not (sizes > 0).all():
        raise ValueError("plot.orders: sizes must be positive on a logarithmic axis")
    usable = np.isfinite(values) & (values > 0)
    if not usable.any():
        raise ValueError("plot.orders: no positive finite error to draw")
    if labels is not None:
        methods = list(labels)
    elif by and not plain:
        methods = [_style.text(v) for v in array.coords[by]]
    else:
        methods = [""] if len(values) == 1 else [f"method {i}" for i in range(len(values))]
    if len(methods) != len(values):
        raise ValueError(f"plot.orders: expected {len(values)} labels, got {len(methods)}")

    ax = _style.figure("orders", ax)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ends, slopes = [], []
    for i, (method, error, use) in enumerate(zip(methods, values, usable)):
        color = _style.COLORS[i % len(_style.COLORS)]
        ax.plot(sizes[use], error[use], "o-", color=color, markersize=5, linewidth=1.6, label=method or None)
        fitted = use & ((sizes >= fit[0]) & (sizes <= fit[1])) if fit else _above_floor(sizes, error, use)
        words = "slope n/a"
        if len(np.unique(sizes[fitted])) > 1:
            slope, level = np.polyfit(np.log(sizes[fitted]), np.log(error[fitted]), 1)
            slopes.append((slope, level))
            words = f"slope {_signed(slope)}"
        if use.any():
            last = np.flatnonzero(use)[np.argmax(sizes[use])]
            ends.append((sizes[last], error[last], f"{method}: {words}".removeprefix(": "), color))
    whole = dict.fromkeys(round(slope) for slope, _ in slopes) if references is None else references
    grey = _references(ax, sizes, whole, slopes)
    _style.finish(ax, xlabel=array.dim_labels[x], ylabel=array.label or "error", title=title)
    _style.direct_labels(ax, ends)
    _style.untangle(ax, grey)
    return ax


def _above_floor(sizes, errors, use):
    """Which of the usable sizes are before the flat end of the line."""
    order = np.flatnonzero(use)[np.argsort(sizes[use], kind="stable")]
    n, error = np.log(sizes[order]), np.log(errors[order])
    if len(order) < 3 or np.any(np.diff(n) == 0) or np.ptp(error) < _FALLEN:
        return use
    local = np.diff(error) / np.diff(n)
    steepest, first = local.min(), len(local)
    while first and local[first - 1] > _FLAT * steepest:
        first -= 1
    found = use.copy()
    if first < len(local):
        found[order[first:]] = False
    return found


def _signed(slope, digits=2):
    return f"{slope:.{digits}f}".replace("-", "−")


def _references(ax, sizes, references, slopes):
    """Dashed lines of given slopes, each a little below the fitted line that is nearest in slope."""
    low, high, texts = sizes.min(), sizes.max(), []
    for reference in references if slopes else ():
        slope, level = min(slopes, key=lambda s: abs(s[0] - reference))
        middle = np.sqrt(low * high)
        height = np.exp(level + slope * np.log(middle)) / 2.2
        ends = np.array([low * (high / low) ** 0.15, low * (high / low) ** 0.85])
        line = height * (ends / middle) ** reference
        ax.plot(ends, line, color=_style.GREY, linewidth=1, linestyle="--", zorder=1)
        text = ax.annotate(
            _signed(reference, 0 if float(reference).is_integer() else 1), (ends[1], line[1]), color=_style.GREY,
            fontsize=_style.FONT - 1, xytext=(2, -3), textcoords="offset points", va="top", ha="right",
        )  # fmt: skip
        texts.append(text)
    return texts
