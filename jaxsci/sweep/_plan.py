"""`plan`: how a sweep will be run, before anything is computed."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxsci.sweep._axes import Stack
from jaxsci.sweep._prepare import Options, prepare
from jaxsci.sweep._space import Space
from jaxsci.sweep._trace import bytes_per_point


class Plan(NamedTuple):
    """What `run` would do: sizes, mode and memory; ``print(plan)`` shows it as a table.

    With ``batch="loop"`` nothing is known about outputs before they are computed: those fields are None.

    Attributes:
        points: number of points.
        combinations: combinations of static values.
        compilations: programs to compile: one for each combination, 0 with ``batch="loop"``.
        batch: "vmap", "map" or "loop".
        devices: number of devices used.
        lanes: points per device and dispatch.
        dispatches: calls of compiled programs, or of the function with ``batch="loop"``.
        bytes_per_point: host bytes of one point: its outputs and status.
        output_bytes: host bytes of all points.
        working_bytes: bytes of a point's largest intermediate, a rough count.
        stack_bytes: bytes of all stacked axes.
        operations: operations of a point, a rough count; a loop of unknown length counts as 100 steps.
        variables: dtype and shape of each output, as text.
    """

    points: int
    combinations: int
    compilations: int
    batch: str
    devices: int
    lanes: int
    dispatches: int
    bytes_per_point: int | None
    output_bytes: int | None
    working_bytes: int | None
    stack_bytes: int
    operations: float | None
    variables: dict[str, str] | None

    def __str__(self) -> str:
        known = self.bytes_per_point is not None
        rows = [
            ("points", f"{self.points}"),
            ("compilations", f"{self.compilations} (static combinations: {self.combinations})"),
            ("batch", f"{self.batch}, {self.lanes} lanes on each of {self.devices} devices"),
            ("dispatches", f"{self.dispatches}"),
            ("output", f"{_human_bytes(self.output_bytes)}" if known else "known after the first point"),
            ("stacked axes", _human_bytes(self.stack_bytes)),
        ]
        if known:
            rows.insert(
                5, ("per point", f"{_human_bytes(self.bytes_per_point)}, about {self.operations:.1e} operations")
            )
            rows += [(f"  {name}", text) for name, text in self.variables.items()]
        return "\n".join(f"{name:14} {text}" for name, text in rows)


def _human_bytes(n: int) -> str:
    """1536 -> '1.5 kB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def plan(
    point: Callable,
    space: Space,
    *,
    batch: str = "auto",
    lanes: int | None = None,
    devices: int | Sequence[Any] | None = None,
) -> Plan:
    """What `run` would do with the same arguments: points, compilations, lanes, dispatches, bytes. Computes nothing.

    The point function is traced once for every static combination.

    Args:
        point: the point function, see `run`.
        space: the space, see `product`.
        batch, lanes, devices: as for `run`.

    Returns:
        A `Plan`; print it.

    Raises:
        ValueError, TypeError: what `run` raises before it computes.

    Example:
        >>> from jaxsci import sweep
        >>> sweep.plan(lambda x: x**2, sweep.product(x=[1.0, 2.0, 3.0])).points
        3
    """
    study = prepare("plan", point, space, Options(batch=batch, lanes=lanes, devices=devices, progress=False))
    loop = study.batch == "loop"
    step = 1 if loop else study.lanes * len(study.devices)
    per_point = None if loop else bytes_per_point(study.variables)
    return Plan(
        points=space.num_points,
        combinations=len(study.combinations),
        compilations=0 if loop else len(study.combinations),
        batch=study.batch,
        devices=1 if loop else len(study.devices),
        lanes=study.lanes,
        dispatches=sum(math.ceil(c.size / step) for c in study.combinations),
        bytes_per_point=per_point,
        output_bytes=None if loop else per_point * space.num_points,
        working_bytes=None if loop else max(t.cost.bytes for t in study.traces),
        stack_bytes=sum(leaf.nbytes for a in space.axes if isinstance(a.entries, Stack) for leaf in a.entries.leaves),
        operations=None if loop else max(t.cost.operations for t in study.traces),
        variables=None if loop else {n: f"{v.dtype}{list(v.shape)}" for n, v in study.variables.items()},
    )
