"""`summary`: what a sweep says at a glance: best and worst point, failures in words, seconds."""

import json
from typing import Any, NamedTuple

import numpy as np

from jaxsci.core import status
from jaxsci.sweep._points import told

_LISTED = 5


class Summary(NamedTuple):
    """Best and worst points with their coordinates, failures with their causes, and the time it took.

    Attributes:
        variable: the output that is compared.
        points: number of points.
        ok: points without a fault.
        best: ``(value, coordinates)`` of the best point without a fault and with a finite value; None if there is none.
        worst: the same of the worst.
        failures: for each status with a fault, in words: (number of points, coordinates of the first few).
        errors: text of exceptions, by coordinates.
        run_seconds: seconds that points ran; None where the Dataset does not say.
        compile_seconds: seconds spent compiling; None where the Dataset does not say.
    """

    variable: str
    points: int
    ok: int
    best: tuple[float, dict[str, Any]] | None
    worst: tuple[float, dict[str, Any]] | None
    failures: dict[str, tuple[int, list[dict[str, Any]]]]
    errors: dict[str, str]
    run_seconds: float | None
    compile_seconds: float | None

    def __str__(self) -> str:
        lines = [f"{self.variable}: {self.ok} of {self.points} points ok"]
        for name, found in (("best", self.best), ("worst", self.worst)):
            lines.append(f"  {name:5} {'none' if found is None else f'{found[0]:.6g} at {told(found[1])}'}")
        for cause, (count, where) in self.failures.items():
            lines.append(f"  {count} points: {cause}")
            lines += [f"    {told(w)}" for w in where] + (["    ..."] if count > len(where) else [])
        lines += [f"  raised at {where}: {text}" for where, text in list(self.errors.items())[:_LISTED]]
        if self.run_seconds is not None:
            lines.append(f"  {self.run_seconds:.2f} s running, {self.compile_seconds:.2f} s tracing and compiling")
        return "\n".join(lines)


def summary(dataset: Any, variable: str, mode: str = "min") -> Summary:
    """Best and worst point of a variable, what failed and why, and the seconds spent.

    Args:
        dataset: what `run` or `load` returned.
        variable: an output with one number per point.
        mode: ``"min"`` if small is good, ``"max"`` if large is.

    Returns:
        A `Summary`; print it.

    Raises:
        ValueError: an unknown variable or mode, or a variable with dimensions of its own.

    Example:
        >>> from jaxsci import sweep
        >>> ds = sweep.run(lambda x: (x - 1) ** 2, sweep.product(x=[0.0, 1.0, 3.0]), progress=False)
        >>> sweep.summary(ds, "value").best[1]["x"].item()
        1.0
    """
    if mode not in ("min", "max"):
        raise ValueError(f"sweep.summary: mode must be 'min' or 'max', got {mode!r}")
    if variable not in dataset.data_vars:
        raise ValueError(f"sweep.summary: unknown variable {variable!r}; there are {list(dataset.data_vars)}")
    if "status" not in dataset.data_vars:
        raise ValueError("sweep.summary: the Dataset has no status; pass one that sweep.run or sweep.load returned")
    codes = dataset["status"]
    extra = [d for d in dataset[variable].dims if d not in codes.dims]
    if extra:
        raise ValueError(
            f"sweep.summary: {variable!r} has dimensions of its own, {tuple(extra)}; reduce them first, "
            f"e.g. ds['m'] = ds[{variable!r}].mean({tuple(extra)})"
        )
    values = np.asarray(dataset[variable].transpose(*codes.dims).values, np.float64)
    flags = codes.values
    good = (status.faults(flags) == 0) & np.isfinite(values)
    best = worst = None
    if good.any():
        small = np.unravel_index(np.argmin(np.where(good, values, np.inf)), values.shape)
        large = np.unravel_index(np.argmax(np.where(good, values, -np.inf)), values.shape)
        best, worst = (small, large) if mode == "min" else (large, small)
        best, worst = ((float(values[i]), _coordinates(codes, i)) for i in (best, worst))
    failures = {}
    for code in np.unique(flags[status.faults(flags) != 0]):
        where = np.argwhere(flags == code)
        text = status.explain(int(code)).replace("\n", " | ")
        failures[text] = (len(where), [_coordinates(codes, tuple(i)) for i in where[:_LISTED]])
    provenance = json.loads(dataset.attrs.get("provenance", "{}"))
    return Summary(
        variable=variable,
        points=flags.size,
        ok=int((status.faults(flags) == 0).sum()),
        best=best,
        worst=worst,
        failures=failures,
        errors=json.loads(dataset.attrs.get("errors", "{}")),
        run_seconds=provenance.get("run_seconds"),
        compile_seconds=provenance.get("compile_seconds"),
    )


def _coordinates(codes: Any, index: tuple) -> dict[str, Any]:
    """Coordinates of one point; a dimension without any is told by its position."""
    point = codes[tuple(int(i) for i in index)]
    found = {name: c.values[()] for name, c in point.coords.items()}
    labelled = {d for c in codes.coords.values() for d in c.dims}
    return found | {d: int(i) for d, i in zip(codes.dims, index) if d not in labelled}
