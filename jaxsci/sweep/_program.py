"""The compiled chunk: `lanes` points on every device, each device on its own.

`shard_map(vmap(point))`: a loop inside a point ends when the lanes of its device are done. `jit(vmap(point))` on
sharded inputs would make all devices meet at every iteration of it.
"""

import collections
import hashlib
import importlib.metadata
import os
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxsci.core import program, status
from jaxsci.sweep import _points
from jaxsci.sweep._points import Combination
from jaxsci.sweep._space import Space
from jaxsci.sweep._trace import Traced, allowed, is_status, kept

_AXIS = "lanes"
_MAX_KEPT = 32  # executables of this process, the least recently used goes first

_kept: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
_lock = threading.Lock()


class Program(NamedTuple):
    """A compiled chunk of one combination.

    Attributes:
        compiled: executable: (numbers of `step` points, *arguments) -> (outputs, statuses).
        arguments: axis arrays and captured arrays, on the devices.
        step: points per call: lanes times devices.
    """

    compiled: Any
    arguments: tuple
    step: int

    def __call__(self, local: np.ndarray, place: int | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Outputs and statuses of the points numbered `local`, at most `step` of them; the rest is padding. With
        `place` of a single point, which then fills every lane: what the lane gives that it has among others."""
        padded = np.concatenate([local, np.full(self.step - len(local), local[-1])]).astype(np.int32)
        outputs, codes = self.compiled(padded, *self.arguments)
        taken = slice(len(local)) if place is None else slice(place, place + 1)
        return {name: np.asarray(out)[taken] for name, out in outputs.items()}, np.asarray(codes)[taken]


def _status_of(outputs: dict[str, jax.Array], allow_nan: Sequence[str]) -> jax.Array:
    """Bitwise or of the point's own statuses and a bit for non-finite outputs, within one point."""
    code = jnp.int32(0)
    for name, out in outputs.items():
        if is_status(name, out.dtype):
            code = code | status.reduce(out)
        elif jnp.issubdtype(out.dtype, jnp.inexact) and not allowed(name, allow_nan):
            code = code | status.flag(~jnp.all(jnp.isfinite(out)), status.NONFINITE_RESULT)
    return code


def chunk_function(space: Space, combination: Combination, traced: Traced, batch: str, allow_nan) -> Callable:
    """What one device computes: (numbers of points, axis arrays, captured arrays) -> (outputs, statuses)."""
    sizes = tuple(len(p) for p in combination.positions)

    def lanes_of_one_device(indices, arrays, constants):
        closed = jax.extend.core.ClosedJaxpr(traced.closed.jaxpr, constants)
        function = jax.extend.core.jaxpr_as_fun(closed)  # the trace is reused: the user's function is not called again

        def one(i):
            outputs = function(*jax.tree.leaves(_points.gather(space, sizes, arrays, i)))
            # an output that does not depend on the point comes back as a Python number
            named = {n: jnp.asarray(o, a.dtype) for n, o, a in zip(traced.names, outputs, traced.closed.out_avals)}
            return kept(named), _status_of(named, allow_nan)

        return jax.lax.map(one, indices) if batch == "map" else jax.vmap(one)(indices)

    return lanes_of_one_device


def chunk_arguments(space: Space, combination: Combination, traced: Traced) -> tuple[dict, list]:
    """Axis arrays and captured arrays, which travel as arguments: as constants XLA would copy them into every
    program."""
    return _points.payload(space, combination), list(traced.closed.consts)


def has_callbacks(traced: Traced) -> bool:
    """Whether the point calls a host function, which its program does not hold."""
    return any("callback" in equation.primitive.name for equation in program.equations(traced.closed.jaxpr))


def compile_chunk(
    space: Space, combination: Combination, traced: Traced, devices: Sequence[Any], lanes: int, batch: str, allow_nan
) -> Program:
    """One program for all chunks of a combination; a process compiles equal ones once."""
    function = chunk_function(space, combination, traced, batch, allow_nan)
    return compiled(function, chunk_arguments(space, combination, traced), devices, lanes, again=has_callbacks(traced))


def compiled(
    function: Callable, arguments: tuple, devices: Sequence[Any], lanes: int, *, again: bool = False
) -> Program:
    """The chunk of a `chunk_function`, or of one that was exported, on some devices.

    An executable of an earlier call is taken where its text and devices are the same: lanes, shapes and constants stand
    in the text, captured arrays are arguments. Host functions do not, so with `again` it is compiled anew.
    """
    mesh = jax.make_mesh((len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=list(devices))
    split, whole = PartitionSpec(_AXIS), PartitionSpec()
    chunk = jax.shard_map(function, mesh=mesh, in_specs=(split, whole, whole), out_specs=split, check_vma=False)
    arguments = jax.device_put(arguments, NamedSharding(mesh, whole))
    step = lanes * len(devices)
    lowered = jax.jit(chunk).lower(jax.ShapeDtypeStruct((step,), jnp.int32), *arguments)
    return Program(lowered.compile() if again else _compiled(lowered, devices), arguments, step)


def _warn_of_waiting(text: str, devices: Sequence[Any]) -> None:
    """Before factorisations that may wait for each other for ever.

    On a CPU jaxlib 0.10 hands a batched factorisation to a thread of its pool, which waits there until other threads
    have computed the parts. As many at once as the pool has threads, by default one a core, all wait. Several devices
    share one pool. jaxlib 0.11 does without. JAX reads the variables when it first computes.
    """
    release = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
    if devices[0].platform != "cpu" or release >= (0, 11):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = int(os.environ.get("PJRT_NPROC") or os.environ.get("NPROC") or cores)
    at_once = len(devices) * len(re.findall(r"custom_call @(?:lapack|blas)_", text))
    if at_once > 1 and threads < 3 * len(devices):
        warnings.warn(
            f"sweep.run: this program holds factorisations, of which {at_once} may run at once, and with jaxlib "
            f"{'.'.join(map(str, release))} they can wait for each other for ever on the {threads} threads that JAX "
            f"has here; if the run stands still, set PJRT_NPROC={max(8, 4 * len(devices))} in the environment before "
            "Python starts, or take jaxlib 0.11",
            stacklevel=2,
        )


def _compiled(lowered: Any, devices: Sequence[Any]) -> Any:
    """The executable of a lowered chunk, from memory if there is one of this text and these devices."""
    text = lowered.as_text()
    _warn_of_waiting(text, devices)
    key = (hashlib.sha256(text.encode()).digest(), *((device.platform, device.id) for device in devices))
    with _lock:
        found = _kept.pop(key, None)
    found = found or lowered.compile()
    with _lock:
        _kept[key] = found
        if len(_kept) > _MAX_KEPT:
            _kept.popitem(last=False)
    return found
