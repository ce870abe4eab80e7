"""What is settled before the first point is computed: checked options, one trace for every combination of static
values, batch mode, lanes.

The lanes follow from the outline of the point function, the memory and the number of points, never from a stopwatch:
the same sweep gets the same lanes every time, and equal lanes give equal bits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxsci.core.progress import reporting
from jaxsci.sweep import _dataset, _points
from jaxsci.sweep._points import Combination
from jaxsci.sweep._space import Space, describe
from jaxsci.sweep._store import Record
from jaxsci.sweep._trace import (
    Traced,
    Variable,
    bytes_per_point,
    check_allow_nan,
    check_parameters,
    function_name,
    trace_all,
    variables_of,
)

BATCHES = ("auto", "vmap", "map", "loop")
_CHUNK_BYTES = 256 << 20  # outputs and working memory of one dispatch, over all its lanes
# operations aimed at per dispatch and device, and bounds on lanes: (target, least for vmap, least for map, most)
_CPU = (3e7, 8, 1, 1024)
_ACCELERATOR = (1e10, 256, 64, 65536)


class Options(NamedTuple):
    """What `run` and `extend` take beside the function and the space; the docstring of `run` tells more.

    Attributes:
        dims: names of an output's own dimensions.
        units: units of outputs and axes.
        batch: "auto", "vmap", "map" or "loop".
        lanes: points per device and dispatch; None chooses.
        chunk: points per chunk file; None writes one about every second.
        devices: local devices, or how many of them; None is all.
        allow_nan: outputs whose NaN or infinite entries are no trouble.
        fail_fast: stop at the first dispatch with a status other than 0.
        progress: a bar, silence, or a callable ``(points done, points, text)``.
        meta: plain data for the attribute ``meta``.
        version: text of the user's that belongs to the identity of the sweep.
        accept_changes: go on in a folder although the point function has been edited.
        retry_failed: compute points of the folder again whose function raised.
        executor: whose workers compute; None computes on the devices here.
    """

    dims: Mapping[str, Sequence[str]] | None = None
    units: Mapping[str, str] | None = None
    batch: str = "auto"
    lanes: int | None = None
    chunk: int | None = None
    devices: int | Sequence[Any] | None = None
    allow_nan: str | Sequence[str] = ()
    fail_fast: bool = False
    progress: bool | Callable = True
    meta: Any = None
    version: str | None = None
    accept_changes: bool = False
    retry_failed: bool = False
    executor: Any = None


class Study(NamedTuple):
    """A sweep that is ready to run.

    Attributes:
        caller: public function that was called, for messages.
        name: name of the point function.
        point: the point function.
        space: its space.
        combinations: combinations of static values, in order.
        traces: the traced point for each combination; empty with ``batch="loop"``.
        variables: shape and dtype of each output; None in a loop that has computed no point yet.
        batch: "vmap", "map" or "loop".
        lanes: points per device and dispatch.
        devices: devices to use.
        allow_nan: outputs whose NaN or infinite entries are no trouble.
        shown: labels of the results.
        version: text of the user's that belongs to the identity.
    """

    caller: str
    name: str
    point: Callable
    space: Space
    combinations: list[Combination]
    traces: list[Traced]
    variables: dict[str, Variable] | None
    batch: str
    lanes: int
    devices: list[Any]
    allow_nan: tuple[str, ...]
    shown: _dataset.Presentation
    version: str | None


def check_options(caller: str, options: Options) -> None:
    """Static misuse of the options."""
    if options.batch not in BATCHES:
        raise ValueError(f"sweep.{caller}: batch must be one of {', '.join(BATCHES)}, got {options.batch!r}")
    for name, value in (("lanes", options.lanes), ("chunk", options.chunk)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"sweep.{caller}: {name} must be a positive integer or None, got {value!r}")
    if not isinstance(options.version, str | None):
        raise TypeError(f"sweep.{caller}: version must be text or None, got {type(options.version).__name__}")
    if options.executor is not None:
        _check_executor(caller, options)


def _check_executor(caller: str, options: Options) -> None:
    """An executor is known by its method; workers that are forks of this process would wait for its threads."""
    executor = options.executor
    if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        got = f"the class {executor.__name__}" if isinstance(executor, type) else type(executor).__name__
        raise TypeError(
            f"sweep.{caller}: executor must have a method submit(function, *args) that returns futures, got {got}; "
            "pass a process pool, client.get_executor(pure=False) of Dask or an executor of submitit"
        )
    start = getattr(getattr(executor, "_mp_context", None), "get_start_method", None)
    if start is not None and start() == "fork":
        raise ValueError(
            f"sweep.{caller}: the workers of this {type(executor).__name__} are forks of a process in which JAX has "
            'threads, and would stand still; pass mp_context=multiprocessing.get_context("spawn") when making it'
        )
    if not isinstance(options.devices, int | None):
        raise ValueError(
            f"sweep.{caller}: with an executor devices must be None or how many of its devices each worker uses, got "
            f"{type(options.devices).__name__}; a list names devices of this process"
        )


def prepare(caller: str, point: Callable, space: Space, options: Options, record: Record | None = None) -> Study:
    """Check everything, trace the point once for every combination, and settle batch mode and lanes.

    What the options leave open is taken from the record of the folder, if there is one.
    """
    check_options(caller, options)
    check_parameters(caller, point, space)
    shown = _dataset.presentation(caller, options.dims, options.units, options.meta)
    allow_nan = check_allow_nan(caller, options.allow_nan, None)
    combinations = _points.combinations(space)
    most = max(c.size for c in combinations)
    devices = _chosen_devices(caller, options.devices, most)
    batch, lanes = options.batch, options.lanes
    if record is not None:
        batch, lanes = record.batch if batch == "auto" else batch, lanes or record.lanes
    traces, variables = [], None
    if batch == "loop":
        lanes = 1
        if record is not None and record.variables is not None:
            variables = variables_of(record.variables)
    else:
        shown_to = options.progress
        if callable(shown_to):  # a folder's count of points is not known yet
            shown_to = record is None and (lambda _, __, text: options.progress(0, space.num_points, text))
        with reporting(f"sweep.{caller}", shown_to, len(combinations), unit="trace", leave=False) as report:
            traces = trace_all(point, space, combinations, report)
        variables = traces[0].variables
        if batch == "auto":
            # lanes of a vmapped loop all wait for the slowest; on an accelerator idle lanes are cheaper than one alone
            uneven = any(t.cost.uneven for t in traces)
            batch = "map" if uneven and devices[0].platform == "cpu" else "vmap"
        lanes = lanes or _lanes(batch, traces, devices, most)
    study = Study(
        caller, function_name(point), point, space, combinations, traces, variables, batch, lanes, devices, allow_nan,
        shown, options.version,
    )  # fmt: skip
    if variables is not None:
        check_variables(study, variables)
    return study


def check_variables(study: Study, variables: dict[str, Variable]) -> None:
    """Labels and exceptions of the user's must belong to outputs."""
    _dataset.check_presentation(study.caller, study.shown, describe(study.space), variables)
    check_allow_nan(study.caller, study.allow_nan, variables)


def _chosen_devices(caller: str, devices: int | Sequence[Any] | None, most: int) -> list[Any]:
    """The local devices to use: all, the first n, or those given; never more than a combination has points."""
    local = jax.local_devices()
    if devices is None:
        chosen = local
    elif isinstance(devices, int):
        if not 1 <= devices <= len(local):
            raise ValueError(f"sweep.{caller}: devices must be 1 to {len(local)} (the local devices), got {devices}")
        chosen = local[:devices]
    else:
        chosen = list(devices)
        if not chosen:
            raise ValueError(f"sweep.{caller}: devices is an empty list")
    return chosen[: max(1, most)]


def _lanes(batch: str, traces: Sequence[Traced], devices: Sequence[Any], most: int) -> int:
    """Enough lanes to keep a device busy for some ten milliseconds, within the memory, in dispatches of equal size."""
    target, least_vmap, least_map, highest = _CPU if devices[0].platform == "cpu" else _ACCELERATOR
    operations = max(t.cost.operations for t in traces)
    memory = max(max(bytes_per_point(t.variables), 4 * t.cost.bytes) for t in traces)
    least = least_map if batch == "map" else least_vmap
    num_devices = len(devices)
    lanes = min(max(int(target // max(operations, 1.0)), least), highest)
    lanes = max(1, min(lanes, _CHUNK_BYTES // (max(memory, 1) * num_devices)))
    dispatches = math.ceil(most / (lanes * num_devices))
    return math.ceil(most / (dispatches * num_devices))
