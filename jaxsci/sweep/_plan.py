"""How a sweep will be run: batch mode, lanes per device, number of chunks and bytes, before anything is computed.

The lanes follow from the outline of the point function, the memory and the number of points, never from a stopwatch:
the same sweep gets the same lanes every time, and equal lanes give equal bits.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxsci.sweep import _points
from jaxsci.sweep._axes import Stack
from jaxsci.sweep._points import Combination
from jaxsci.sweep._space import Space
from jaxsci.sweep._trace import Traced, Variable, check_allow_nan, check_parameters, check_same, trace

BATCHES = ("auto", "vmap", "map", "loop")
_CHUNK_BYTES = 256 << 20  # outputs and working memory of one dispatch, over all its lanes
# operations aimed at per dispatch and device, and bounds on lanes: (target, least for vmap, least for map, most)
_CPU = (3e7, 8, 1, 1024)
_ACCELERATOR = (1e10, 256, 64, 65536)


class Plan(NamedTuple):
    """What `run` would do: sizes, mode and memory; ``print(plan)`` shows it as a table.

    `operations` and `working_bytes` are rough counts per point from the point's outline (loops of unknown length
    count as 100 steps); with ``batch="loop"`` nothing is known about outputs before they are computed (None).
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
            ("output", f"{human_bytes(self.output_bytes)}" if known else "known after the first point"),
            ("stacked axes", human_bytes(self.stack_bytes)),
        ]
        if known:
            rows.insert(
                5, ("per point", f"{human_bytes(self.bytes_per_point)}, about {self.operations:.1e} operations")
            )
            rows += [(f"  {name}", text) for name, text in self.variables.items()]
        return "\n".join(f"{name:14} {text}" for name, text in rows)


class Prepared(NamedTuple):
    """Checked input of a run with what tracing told."""

    combinations: list[Combination]
    traces: dict[int, Traced]
    variables: dict[str, Variable] | None
    batch: str
    lanes: int


def human_bytes(n: int) -> str:
    """1536 -> '1.5 kB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def bytes_per_point(variables: dict[str, Variable]) -> int:
    """Host bytes of one point: its outputs and the status."""
    return sum(math.prod(v.shape) * v.dtype.itemsize for v in variables.values()) + 4


def check_options(function: str, batch: str, lanes: Any, chunk: Any = None) -> None:
    """Static misuse of the options that several functions share."""
    if batch not in BATCHES:
        raise ValueError(f"sweep.{function}: batch must be one of {', '.join(BATCHES)}, got {batch!r}")
    for name, value in (("lanes", lanes), ("chunk", chunk)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"sweep.{function}: {name} must be a positive integer or None, got {value!r}")


def chosen_devices(function: str, devices: int | Sequence[Any] | None, most: int) -> list[Any]:
    """The local devices to use: all, the first n, or those given; never more than a combination has points."""
    local = jax.local_devices()
    if devices is None:
        chosen = local
    elif isinstance(devices, int):
        if not 1 <= devices <= len(local):
            raise ValueError(f"sweep.{function}: devices must be 1 to {len(local)} (the local devices), got {devices}")
        chosen = local[:devices]
    else:
        chosen = list(devices)
        if not chosen:
            raise ValueError(f"sweep.{function}: devices is an empty list")
    return chosen[: max(1, most)]


def _lanes(batch: str, traces: dict[int, Traced], devices: Sequence[Any], most: int) -> int:
    """Enough lanes to keep a device busy for some ten milliseconds, within the memory, in dispatches of equal size."""
    target, least_vmap, least_map, highest = _CPU if devices[0].platform == "cpu" else _ACCELERATOR
    operations = max(t.cost.operations for t in traces.values())
    memory = max(max(bytes_per_point(t.variables), 4 * t.cost.bytes) for t in traces.values())
    least = least_map if batch == "map" else least_vmap
    num_devices = len(devices)
    lanes = min(max(int(target // max(operations, 1.0)), least), highest)
    lanes = max(1, min(lanes, _CHUNK_BYTES // (max(memory, 1) * num_devices)))
    dispatches = math.ceil(most / (lanes * num_devices))
    return math.ceil(most / (dispatches * num_devices))


def trace_all(point: Callable, space: Space, combinations: Sequence[Combination], report=None) -> dict[int, Traced]:
    """One trace for every combination; outputs that differ between them raise before anything is computed."""
    traces: dict[int, Traced] = {}
    for i, combination in enumerate(combinations):
        if report is not None:
            report(0, f"tracing {combination.text}".strip())
        traces[i] = trace(point, space, combination)
        check_same(traces[0].variables, combinations[0].text, traces[i].variables, combination.text)
    return traces


def prepare(
    function: str,
    point: Callable,
    space: Space,
    batch: str,
    lanes: int | None,
    devices: list[Any],
    allow_nan,
    report=None,
) -> Prepared:
    """Trace all combinations and settle batch mode and lanes."""
    combinations = _points.combinations(space)
    if batch == "loop":
        return Prepared(combinations, {}, None, "loop", 1)
    traces = trace_all(point, space, combinations, report)
    check_allow_nan(function, allow_nan, traces[0].variables)
    if batch == "auto":
        # lanes of a vmapped loop all wait for the slowest; on an accelerator idle lanes are cheaper than a single one
        uneven = any(t.cost.uneven for t in traces.values())
        batch = "map" if uneven and devices[0].platform == "cpu" else "vmap"
    if lanes is None:
        lanes = _lanes(batch, traces, devices, max(c.size for c in combinations))
    return Prepared(combinations, traces, traces[0].variables, batch, lanes)


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
    check_parameters("plan", point, space)
    check_options("plan", batch, lanes)
    most = max(c.size for c in _points.combinations(space))
    chosen = chosen_devices("plan", devices, most)
    prepared = prepare("plan", point, space, batch, lanes, chosen, ())
    loop = prepared.batch == "loop"
    step = 1 if loop else prepared.lanes * len(chosen)
    traces = prepared.traces.values()
    per_point = None if loop else bytes_per_point(prepared.variables)
    return Plan(
        points=space.num_points,
        combinations=len(prepared.combinations),
        compilations=0 if loop else len(prepared.combinations),
        batch=prepared.batch,
        devices=1 if loop else len(chosen),
        lanes=prepared.lanes,
        dispatches=sum(math.ceil(c.size / step) for c in prepared.combinations),
        bytes_per_point=per_point,
        output_bytes=None if loop else per_point * space.num_points,
        working_bytes=None if loop else max(t.cost.bytes for t in traces),
        stack_bytes=sum(leaf.nbytes for a in space.axes if isinstance(a.entries, Stack) for leaf in a.entries.leaves),
        operations=None if loop else max(t.cost.operations for t in traces),
        variables=None if loop else {n: f"{v.dtype}{list(v.shape)}" for n, v in prepared.variables.items()},
    )
