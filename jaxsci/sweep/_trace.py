"""The point function: its parameters held against the space, its outputs named, its one trace per combination."""

import difflib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci.core.status import names_status
from jaxsci.sweep import _points
from jaxsci.sweep._cost import Cost, cost_of
from jaxsci.sweep._points import Combination
from jaxsci.sweep._space import Space


class Variable(NamedTuple):
    """One output of one point.

    Attributes:
        shape: its shape.
        dtype: its dtype on the host.
    """

    shape: tuple[int, ...]
    dtype: np.dtype


def bytes_per_point(variables: dict[str, Variable]) -> int:
    """Host bytes of one point: its outputs and the status."""
    return sum(math.prod(v.shape) * v.dtype.itemsize for v in variables.values()) + 4


def variables_of(plain: dict[str, Any]) -> dict[str, Variable]:
    """Variables out of the record of a folder."""
    return {n: Variable(tuple(shape), np.dtype(dtype)) for n, (shape, dtype) in plain.items()}


class Traced(NamedTuple):
    """The point function of one combination as a jaxpr, ready for any number of lanes.

    Attributes:
        closed: the closed jaxpr of one point.
        names: names of its raw outputs, in order.
        variables: those that are kept, with shape and dtype.
        cost: what one point costs.
    """

    closed: Any
    names: list[str]
    variables: dict[str, Variable]
    cost: Cost


def function_name(point: Callable) -> str:
    """What messages call the point function."""
    inner = point
    while hasattr(inner, "func"):
        inner = inner.func
    return getattr(inner, "__name__", type(inner).__name__)


def check_parameters(function: str, point: Callable, space: Any) -> None:
    """Axes and parameters must be the same names; the message proposes the nearest one."""
    if not callable(point):
        raise TypeError(f"sweep.{function}: point must be a function of the axes, got {type(point).__name__}")
    if not isinstance(space, Space):
        raise TypeError(
            f"sweep.{function}: expected a space made by sweep.product or sweep.zip, got {type(space).__name__}"
        )
    try:
        parameters = inspect.signature(point).parameters
    except (TypeError, ValueError):
        return  # built-ins tell nothing about themselves
    axes = {axis.name for axis in space.axes}
    name, kinds = function_name(point), inspect.Parameter
    for p in parameters.values():
        if p.kind is kinds.POSITIONAL_ONLY and p.default is kinds.empty:
            raise ValueError(f"sweep.{function}: {name} takes {p.name!r} by position only; axes are passed by name")
    by_name = {n for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    if not any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        for axis in sorted(axes - by_name):
            near = difflib.get_close_matches(axis, by_name - axes, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"sweep.{function}: unknown axis {axis!r}: {name} has no such parameter; "
                f"it takes {', '.join(by_name) or 'none'}{hint}"
            )
    for missing in [n for n in by_name - axes if parameters[n].default is kinds.empty]:
        raise ValueError(
            f"sweep.{function}: {name} needs {missing!r}, and the space has no such axis; "
            f"it has {', '.join(sorted(axes))}. Add the axis or bind the value with functools.partial"
        )


# --- outputs -----------------------------------------------------------------------------------------------


def _part(key: Any) -> str:
    for field in ("key", "name", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def named_outputs(name: str, out: Any, convert: Callable) -> dict[str, Any]:
    """Leaves of an output under dotted names; a lone array is called ``value``."""
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(out)[0]:
        variable = ".".join(map(_part, path)) or "value"
        dtype = getattr(leaf, "dtype", None)
        if isinstance(leaf, np.ma.MaskedArray):
            raise TypeError(
                f"sweep: output {variable!r} of {name} is a masked array, whose mask no Dataset can hold; return "
                "its .filled(np.nan), or the mask beside it"
            )
        if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
            raise TypeError(f"sweep: output {variable!r} of {name} is a typed key; return jax.random.key_data(key)")
        if not isinstance(leaf, (bool, int, float, complex)) and (dtype is None or np.dtype(dtype).kind in "OUSMm"):
            raise TypeError(
                f"sweep: output {variable!r} of {name} is a {type(leaf).__name__}; a point returns arrays or numbers, "
                "also in dictionaries and records"
            )
        if variable in found or "/" in variable:
            raise ValueError(f"sweep: output name {variable!r} of {name} must be unique and without /")
        found[variable] = convert(leaf)
    if not found:
        raise TypeError(f"sweep: {name} returned no arrays (got {type(out).__name__}); return what the study is about")
    return found


def host_dtype(dtype: Any) -> np.dtype:
    """The dtype an output has in files: small floats and integers that netCDF does not know become float32 and int8."""
    if jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize < 4:
        return np.dtype(np.float32)
    if jnp.issubdtype(dtype, jnp.integer) and np.dtype(dtype).kind not in "iu":  # of two and four bits
        return np.dtype(np.int8 if jnp.issubdtype(dtype, jnp.signedinteger) else np.uint8)
    return np.dtype(dtype)


def is_status(name: str, dtype: Any) -> bool:
    """True for an integer output called ``status`` or ``..._status``, at any depth."""
    return names_status(name) and np.dtype(dtype).kind in "iu"


def kept(outputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs by their names in the Dataset: a point's own scalar status merges into the sweep's ``status`` and is not
    kept beside it, one of another shape is called ``point.status``."""
    found = {}
    for name, out in outputs.items():
        if name == "status" and is_status(name, out.dtype):
            if out.shape != ():
                found["point.status"] = out
        else:
            found[name] = out
    return found


def allowed(name: str, allow_nan: Sequence[str]) -> bool:
    """True if `name` is listed, alone, as a whole record, or by its last part."""
    return any(name == a or name.startswith(f"{a}.") or name.endswith(f".{a}") for a in allow_nan)


# What JAX raises where Python asks a traced value for its number.
_NEEDS_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def _traced_output(name: str, leaf: Any) -> jax.Array:
    """A leaf as an array of JAX; a constant of NumPy or Python that JAX would change raises."""
    if not isinstance(leaf, jax.Array):
        _points.canonical(f"an output of {name}", np.asarray(leaf))
    return jnp.asarray(leaf)


def trace(point: Callable, space: Space, combination: Combination) -> Traced:
    """Call the point function once with abstract arguments."""
    names: list[str] = []
    name = function_name(point)

    def flat(arguments):
        out = named_outputs(name, point(**combination.static, **arguments), lambda leaf: _traced_output(name, leaf))
        names.extend(out)
        return [leaf.astype(host_dtype(leaf.dtype)) for leaf in out.values()]

    try:
        closed = jax.make_jaxpr(flat)(_points.abstract(space, combination))
    except Exception as error:
        if isinstance(error, _NEEDS_NUMBERS):
            error.add_note(
                f"sweep: {name} is traced once for all points, so its arguments have no values while Python looks at "
                "them (if, float(), SciPy). Use jnp.where or jax.lax.cond, make the axis sweep.static, or pass "
                'batch="loop", which calls any Python function point by point'
            )
        if combination.static:
            error.add_note(f"sweep: while tracing {name} for {combination.text}")
        raise
    outputs = kept(dict(zip(names, closed.out_avals)))
    variables = {n: Variable(tuple(a.shape), np.dtype(a.dtype)) for n, a in outputs.items()}
    return Traced(closed, names, variables, cost_of(closed.jaxpr))


def trace_all(point: Callable, space: Space, combinations: Sequence[Combination], report: Callable) -> list[Traced]:
    """One trace for every combination; outputs that differ between them raise before anything is computed."""
    traces: list[Traced] = []
    for combination in combinations:
        report(len(traces), f"tracing {combination.text}".strip())
        traces.append(trace(point, space, combination))
        check_same(traces[0].variables, combinations[0].text, traces[-1].variables, combination.text)
    return traces


def check_same(first: dict[str, Variable], where: str, other: dict[str, Variable], here: str) -> None:
    """Outputs must agree in names, shapes and dtypes wherever they were computed."""
    for name in dict.fromkeys([*first, *other]):
        a, b = first.get(name), other.get(name)
        if a == b:
            continue
        told = ["missing" if v is None else f"{v.dtype}{list(v.shape)}" for v in (a, b)]
        raise ValueError(
            f"sweep: output {name!r} is {told[0]} for {where or 'the first point'} and {told[1]} for {here}; outputs "
            "must agree: pad to the longest with a mask, or run one sweep for each"
        )


def check_allow_nan(function: str, allow_nan: Any, variables: dict[str, Variable] | None) -> tuple[str, ...]:
    """Names of outputs whose non-finite entries are no trouble."""
    names = (allow_nan,) if isinstance(allow_nan, str) else tuple(allow_nan)
    if variables is not None:
        for name in names:
            if not any(allowed(v, (name,)) for v in variables):
                raise ValueError(f"sweep.{function}: allow_nan names {name!r}; the outputs are {', '.join(variables)}")
    return names
