r"""Regret: cumulative cost relative to a baseline, $\sum_{s\le t} (c_s - c^*_s)$ or $\sum c_s / \sum c^*_s$."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxsci.plot import _style
from jaxsci.plot._lines import draw_bands

_KINDS = ("difference", "ratio")


def regret(
    cost: Any,
    *,
    baseline: Any,
    x: str = "round",
    over: str | Iterable[str] | None = None,
    by: str = "policy",
    labels: Iterable[str] | None = None,
    kind: str = "difference",
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Draw cumulative cost relative to a baseline over the rounds: a mean and a 5–95 % band for each policy.

    Args:
        cost: cost of each round: a `DataArray` with dimensions `by`, `x` and any of repetitions, or a plain array
            (policies, rounds) or (policies, seeds, rounds).
        baseline: the label of a policy (its index in a plain array), compared seed by seed; or the costs of something
            that is not in `cost`, of shape (rounds,) or (seeds, rounds).
        x: dimension of the rounds.
        over: dimension or dimensions of the repetitions; by default all that are neither `by` nor `x`, such as the
            ``key`` of a sweep.
        by: dimension of the policies.
        labels: names of the policies of a plain array.
        kind: "difference" or "ratio" of the two cumulative costs.
        title: above the figure.
        ax: Axes to draw on; a new figure by default.

    Returns:
        The Axes. A repetition with a missing cost leaves mean and band from that round on.

    Raises:
        ValueError: an unknown policy or kind, a missing dimension, a baseline of another shape.
        TypeError: the data are not real numbers.
        ImportError: the extra "plot" is missing.

    Example:
        >>> import numpy as np
        >>> from jaxsci import plot
        >>> cost = np.array([[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
        >>> ax = plot.regret(cost, baseline=1, labels=["random", "best"])
        >>> ax.get_lines()[1].get_ydata()
        array([1., 2., 3.])
    """
    if kind not in _KINDS:
        raise ValueError(f"plot.regret: kind must be one of {_KINDS}, got {kind!r}")
    array = _style.read("regret", cost, (by, *(_style.names(over) or ("seed",)), x) if np.ndim(cost) == 3 else (by, x))
    over = tuple(dim for dim in (_style.names(over) or array.dims) if dim in array.dims and dim not in (by, x))
    values = _style.ordered("regret", array, ((by,), over, (x,))).astype(np.float64)
    plain = not hasattr(cost, "dims")
    policies = list(labels) if labels is not None else [_style.text(v) for v in array.coords[by]]
    if len(policies) != len(values):
        raise ValueError(f"plot.regret: expected {len(values)} labels, got {len(policies)}")
    known = list(array.coords[by]) if not plain else list(range(len(values)))
    own = np.ndim(baseline) == 0 and not hasattr(baseline, "dims")
    if own:
        if baseline not in known:
            raise ValueError(f"plot.regret: no policy {baseline!r} to be the baseline; there are {known}")
        reference, name = values[known.index(baseline)], policies[known.index(baseline)]
    else:
        if hasattr(baseline, "dims"):  # by name, whatever the order
            wanted = [d for d in (*over, x) if d in baseline.dims]
            baseline = baseline.transpose(*wanted).values if set(wanted) == set(baseline.dims) else baseline.values
        reference, name = np.asarray(baseline, np.float64), "baseline"
        if reference.ndim > 2 and reference.ndim == 1 + len(over):  # repetitions as one axis, as the costs have them
            reference = reference.reshape(-1, reference.shape[-1])
        if reference.shape not in (values.shape[1:], values.shape[2:]):
            raise ValueError(
                f"plot.regret: baseline must have shape {values.shape[2:]} or {values.shape[1:]}, got {reference.shape}"
            )
    spent, expected = np.cumsum(values, axis=-1), np.cumsum(np.broadcast_to(reference, values.shape[1:]), axis=-1)
    if kind == "ratio":
        relative = spent / np.where(expected == 0, np.nan, expected)
    else:
        relative = spent - expected
    unseen = [known.index(baseline)] if own else []

    ax = _style.figure("regret", ax)
    ax.axhline(float(kind == "ratio"), color=_style.GREY, linewidth=1, linestyle="--", zorder=1)
    rounds = array.coords[x] + 1 if plain else array.coords[x]
    ends = draw_bands(ax, rounds, relative, policies, band="quantile" if over else None, leave_out=unseen)
    ends.append((rounds[-1], float(kind == "ratio"), name, _style.GREY))
    of = array.label or "cost"
    ylabel = f"cumulative {of} {'relative to' if kind == 'ratio' else 'in excess of'} {name}"
    if over:
        ylabel += f"\n(mean, 5–95 % over {', '.join(over)})"
    _style.finish(ax, xlabel=array.dim_labels[x], ylabel=ylabel, title=title)
    _style.direct_labels(ax, ends)
    return ax
