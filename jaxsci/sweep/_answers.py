"""What is computed for some points of one combination, on this machine or on a worker.

A dispatch of lanes is one call of a compiled program; where it raises, its points run one at a time, so that one bad
point is a status and the lanes around it are kept. A function of Python is called point by point.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsci.sweep import _points
from jaxsci.sweep._dataset import POINT_RAISED, fill
from jaxsci.sweep._prepare import Study
from jaxsci.sweep._program import Program, compile_chunk
from jaxsci.sweep._trace import Variable, host_dtype, named_outputs

_MAX_TEXT = 300  # characters of an exception, as much as an attribute of a netCDF file can hold of a hundred


class Lanes(NamedTuple):
    """What a compiled program gave for some points.

    Attributes:
        values: outputs by name, leading axis over the points.
        codes: status of each point.
        texts: text of the exception, by place among the points, where the point function raised.
        seconds: time that they ran.
        compile_seconds: time spent compiling for them.
    """

    values: dict[str, np.ndarray]
    codes: np.ndarray
    texts: dict[int, str]
    seconds: float
    compile_seconds: float = 0.0


class Called(NamedTuple):
    """What a function of Python gave for one point.

    Attributes:
        outputs: its raw outputs by name, on the host; None where it raised.
        text: text of the exception.
        error: the exception, where it was raised in this process.
        seconds: time that it ran.
    """

    outputs: dict[str, np.ndarray] | None
    text: str | None
    error: Exception | None
    seconds: float


# The numbers of points of each combination that are to be computed: (number of the combination, points within it).
Todo = Sequence[tuple[int, Sequence[int] | np.ndarray]]
# Answers as they come: (number of the combination, points within it, what was computed for them).
Answers = Iterator[tuple[int, np.ndarray, Lanes | list[Called]]]


def here(study: Study, todo: Todo) -> Answers:
    """Compute the points on the devices of this process, in order."""
    return (_calls if study.batch == "loop" else _dispatches)(study, todo)


def _dispatches(study: Study, todo: Todo) -> Answers:
    """One program for each combination that has work left; all its dispatches have the same size."""
    for position, numbers in todo:
        combination, traced = study.combinations[position], study.traces[position]
        start = time.perf_counter()
        used = study.devices[: max(1, math.ceil(len(numbers) / study.lanes))]
        program = compile_chunk(study.space, combination, traced, used, study.lanes, study.batch, study.allow_nan)
        compile_seconds = time.perf_counter() - start
        for first in range(0, len(numbers), program.step):
            local = np.asarray(numbers[first : first + program.step], np.int32)
            answer = dispatch(program, local, study.variables)
            yield position, local, answer._replace(compile_seconds=compile_seconds)
            compile_seconds = 0.0


def _calls(study: Study, todo: Todo) -> Answers:
    for position, numbers in todo:
        combination = study.combinations[position]
        arrays = _points.payload(study.space, combination, on_host=True)
        for i in numbers:
            arguments = _points.host_arguments(study.space, combination, arrays, int(i))
            yield position, np.asarray([i]), [call(study.name, study.point, arguments)]


def dispatch(program: Program, local: np.ndarray, variables: Mapping[str, Variable], place: int | None = None) -> Lanes:
    """One call of a program: at most its `step` points, or a single one in the lane `place`."""
    start, texts = time.perf_counter(), {}
    try:
        values, codes = program(local, place)
    except Exception as error:
        values, codes, texts = _singly(program, local, variables, place, error)
    return Lanes({name: values[name] for name in variables}, codes, texts, time.perf_counter() - start)


def _singly(
    program: Program, local: np.ndarray, variables: Mapping[str, Variable], place: int | None, error: Exception
) -> tuple[dict, np.ndarray, dict[int, str]]:
    """The points of a dispatch that raised, one at a time, each in its lane: outputs, statuses, and the texts of those
    that raise alone.

    One bad point, e.g. an ODE solver that throws, must not lose the lanes around it. Where every point raises, it is no
    matter of points (memory, a broken function), and the exception goes on.
    """
    if "RESOURCE_EXHAUSTED" in str(error):
        raise error
    values = {name: fill(variable, len(local)) for name, variable in variables.items()}
    codes, texts = np.full(len(local), POINT_RAISED, np.int32), {}
    for i, point in enumerate(local):
        try:
            found, code = program(np.asarray([point], np.int32), i if place is None else place)
        except Exception as raised:
            texts[i] = text_of(raised)
        else:
            codes[i] = code[0]
            for name, array in values.items():
                array[i] = found[name][0]
    _let_go()
    if len(texts) == len(local) > 1:
        raise error
    return values, codes, texts


def _let_go() -> None:
    """Make JAX forget programs that raised: of each device it keeps the outcome of the last one with an effect, and
    raises a failure again at every `jax.effects_barrier` and at the end of the process. One that succeeds replaces it.
    """
    for device in jax.local_devices():
        _effect(jax.device_put(np.float32(0), device)).block_until_ready()


@jax.jit
def _effect(x):
    jax.debug.callback(lambda _: None, x)
    return x


def lost(variables: Mapping[str, Variable] | None, text: str) -> Lanes | list[Called]:
    """The answer for one point that no worker could compute; without `variables` that of a loop."""
    if variables is None:
        return [Called(None, text[:_MAX_TEXT], None, 0.0)]
    values = {name: fill(variable, 1) for name, variable in variables.items()}
    return Lanes(values, np.asarray([POINT_RAISED], np.int32), {0: text[:_MAX_TEXT]}, 0.0)


def call(name: str, point: Callable, arguments: dict[str, Any]) -> Called:
    """Any Python function at one point; what it raises is kept as text."""
    start = time.perf_counter()
    try:
        out = point(**arguments)
    except Exception as error:
        return Called(None, text_of(error), error, time.perf_counter() - start)
    return Called(named_outputs(name, out, _host), None, None, time.perf_counter() - start)


def text_of(error: BaseException) -> str:
    """What was raised. An exception of compiled code holds the traceback of the callback behind it as text, in which
    one line says what that was."""
    lines = str(error).splitlines()
    told = next((line for line in lines if re.match(r"[\w.]*(Error|Exception)\w*: ", line)), None)
    return (told.lstrip("_") if told else f"{type(error).__name__}: {error}")[:_MAX_TEXT]


def _host(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype.kind == "O":
        raise TypeError(
            f"sweep: an output is {leaf!r}, which no dtype of NumPy holds; return a float or text of digits"
        )
    return array.astype(host_dtype(array.dtype), copy=False)
