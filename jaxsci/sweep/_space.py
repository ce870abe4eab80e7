"""Spaces: named dimensions, the axes that live on them, and the coordinates that label them.

A space never holds its grid. Axis `a` lives on dimensions `a.dims`; `a.codes`, an array over them, says which entry
stands where. `product` puts spaces side by side; `zip` flattens each to one dimension and lets them share it.
"""

import builtins
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsci.sweep import _axes

MAX_POINTS = 2**31 - 1  # points are indexed by int32


class Axis(NamedTuple):
    """One parameter of the point function.

    Attributes:
        name: name of the parameter.
        dims: dimensions that the axis lives on.
        codes: which entry stands where, an integer array over `dims`.
        entries: the values to choose from.
    """

    name: str
    dims: tuple[str, ...]
    codes: np.ndarray
    entries: _axes.Values | _axes.Static | _axes.Stack | _axes.Keys


class Coord(NamedTuple):
    """Labels of points.

    Attributes:
        dims: dimensions along which the labels run.
        values: the labels, an array over `dims`.
        unit: unit of the labels; None has none.
    """

    dims: tuple[str, ...]
    values: np.ndarray
    unit: str | None = None


class Space(NamedTuple):
    """The points of a sweep; made by `product` and `zip`.

    Attributes:
        sizes: size of each named dimension, in order.
        axes: the parameters of the point function.
        coords: labels by name; a dimension may have several, or none.
    """

    sizes: dict[str, int]
    axes: tuple[Axis, ...]
    coords: dict[str, Coord]

    @property
    def num_points(self) -> int:
        """Number of points: the product of the sizes."""
        return math.prod(self.sizes.values())

    def __repr__(self) -> str:
        dims = " x ".join(f"{name}: {size}" for name, size in self.sizes.items())
        return f"Space({self.num_points} points = {dims})"


def _single(name: str, x: Any) -> Space:
    """The space of one named axis."""
    if isinstance(x, _axes.Static):
        dims, codes, labels, unit = (name,), x.codes, x.labels, x.unit
    elif isinstance(x, _axes.Keys):
        dims, codes, labels, unit = (name,), np.arange(len(x.seeds), dtype=np.int32), x.seeds, None
    elif isinstance(x, _axes.Stack):
        dims = x.dims or (name,)
        coords = {d: Coord((d,), labels) for d, labels in builtins.zip(dims, x.labels)}
        return Space(dict(builtins.zip(dims, x.codes.shape)), (Axis(name, dims, x.codes, x),), coords)
    else:
        x = _axes.values(name, x)
        dims, codes, labels, unit = (name,), np.arange(len(x.values), dtype=np.int32), x.values, None
    return Space({name: len(codes)}, (Axis(name, dims, codes, x),), {name: Coord(dims, labels, unit)})


def _flattened(space: Space, dim: str) -> Space:
    """The same points along one dimension, first dimension slowest."""
    order = list(space.sizes)

    def spread(array: np.ndarray, dims: tuple[str, ...]) -> np.ndarray:
        array = np.transpose(array, np.argsort([order.index(d) for d in dims]))
        shape = [space.sizes[d] if d in dims else 1 for d in order]
        return np.broadcast_to(array.reshape(shape), tuple(space.sizes.values())).ravel()

    axes = tuple(a._replace(dims=(dim,), codes=spread(a.codes, a.dims)) for a in space.axes)
    coords = {n: c._replace(dims=(dim,), values=spread(c.values, c.dims)) for n, c in space.coords.items()}
    return Space({dim: space.num_points}, axes, coords)


def _joined(function: str, parts: Sequence[Space], sizes: dict[str, int]) -> Space:
    """One space of all axes and coordinates; names must not repeat."""
    axes = tuple(axis for part in parts for axis in part.axes)
    for kind, names in (
        ("axis", [axis.name for axis in axes]),
        ("coordinate", [name for part in parts for name in part.coords]),
    ):
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"sweep.{function}: {kind} {repeated[0]!r} appears twice; rename one of them")
        for name in names:
            if "/" in name or not name:
                raise ValueError(f"sweep.{function}: {kind} {name!r} needs a name without /, which netCDF cannot hold")
    coords = {name: coord for part in parts for name, coord in part.coords.items()}
    for name, coord in coords.items():
        if name in sizes and name not in coord.dims:
            raise ValueError(
                f"sweep.{function}: {name!r} is the name of a dimension and of a coordinate along {coord.dims[0]!r}; "
                "rename one of them"
            )
    if math.prod(sizes.values()) > MAX_POINTS:
        raise ValueError(f"sweep.{function}: {math.prod(sizes.values())} points exceed 2^31 - 1; split the space")
    return Space(sizes, axes, coords)


def _parts(function: str, spaces: Sequence[Any], axes: dict[str, Any]) -> list[tuple[str | None, Space]]:
    for space in spaces:
        if not isinstance(space, Space):
            raise TypeError(
                f"sweep.{function}: positional arguments are spaces, got {type(space).__name__}; "
                "name the axis: product(lr=[...])"
            )
    parts = [(None, space) for space in spaces]
    parts += [(name, x if isinstance(x, Space) else _single(name, x)) for name, x in axes.items()]
    if not parts:
        raise ValueError(f"sweep.{function}: the space is empty; name at least one axis, e.g. {function}(lr=[.1, .2])")
    return parts


def product(*spaces: Space, **axes: Any) -> Space:
    """All combinations of the axes: each becomes a named dimension, in the order given.

    Args:
        *spaces: spaces made by `zip` or `product`, put side by side with the rest.
        **axes: name = values. A one-dimensional array or list of numbers is traced and vmapped; `static`, `stack` and
            `keys` make the other kinds; a space of one dimension (made by `zip`) gives that dimension this name.

    Returns:
        A `Space` for `run`. Its memory is that of the axes, not of the grid.

    Raises:
        ValueError: no axes, an empty or two-dimensional axis, names that repeat.
        TypeError: values that are no numbers; the message names the constructor that is meant.

    Example:
        >>> from jaxsci import sweep
        >>> sweep.product(sweep.zip(lr=[0.1, 0.2], decay=[1.0, 0.5]), key=sweep.keys(3))
        Space(6 points = lr: 2 x key: 3)
    """
    parts = []
    for name, part in _parts("product", spaces, axes):
        nested = name is not None and isinstance(axes[name], Space)
        if nested and len(part.sizes) > 1:
            raise ValueError(
                f"sweep.product: {name!r} names a space of {len(part.sizes)} dimensions; pass it positionally"
            )
        parts.append(_flattened(part, name) if nested else part)
    sizes: dict[str, int] = {}
    for part in parts:
        for dim, size in part.sizes.items():
            if dim in sizes:
                raise ValueError(f"sweep.product: dimension {dim!r} appears twice; rename one of them")
            sizes[dim] = size
    return _joined("product", parts, sizes)


def zip_axes(*spaces: Space, **axes: Any) -> Space:
    """Axes of equal length paired along one dimension, named after the first of them (or by `product`).

    Args:
        *spaces: spaces of any shape; each is flattened, first dimension slowest.
        **axes: name = values, as for `product`.

    Returns:
        A `Space` of one dimension with a coordinate for every axis.

    Raises:
        ValueError: lengths that differ, and all that `product` raises.

    Example:
        >>> from jaxsci import sweep
        >>> sweep.product(pair=sweep.zip(lr=[0.1, 0.2], decay=[1.0, 0.5]))
        Space(2 points = pair: 2)
    """
    parts = _parts("zip", spaces, axes)
    for name, _ in parts:
        if name is not None and isinstance(axes[name], Space):
            raise ValueError(f"sweep.zip: pass the space {name!r} positionally; the names of its axes stay")
    lengths = {", ".join(axis.name for axis in part.axes): part.num_points for _, part in parts}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"sweep.zip: paired axes need equal lengths, got {told}")
    dim = next(iter(parts[0][1].sizes))
    return _joined("zip", [_flattened(part, dim) for _, part in parts], {dim: parts[0][1].num_points})


# --- the space as plain data, for the folder and the fingerprint -----------------------------------------------


def describe(space: Space) -> dict[str, Any]:
    """JSON form of a space: enough to label results and to tell what differs from another space."""
    axes = []
    for axis in space.axes:
        entries = axis.entries
        trivial = np.array_equal(axis.codes.ravel(), np.arange(axis.codes.size))
        axes.append(
            {
                "name": axis.name,
                "kind": type(entries).__name__.lower(),
                "dims": list(axis.dims),
                "codes": None if trivial else axis.codes.tolist(),
                "tokens": list(entries.tokens) if isinstance(entries, _axes.Stack) else None,
                "independent": isinstance(entries, _axes.Keys) and entries.independent,
            }
        )
    coords = [
        {
            "name": name,
            "dims": list(coord.dims),
            "dtype": str(coord.values.dtype) if coord.values.dtype.kind != "U" else "str",
            "values": coord.values.tolist(),
            "unit": coord.unit,
        }
        for name, coord in space.coords.items()
    ]
    return {"sizes": [[name, size] for name, size in space.sizes.items()], "axes": axes, "coords": coords}


def coords_of(description: dict[str, Any]) -> dict[str, Coord]:
    """The coordinates out of `describe`'s form."""
    return {
        c["name"]: Coord(
            tuple(c["dims"]), np.asarray(c["values"], None if c["dtype"] == "str" else c["dtype"]), c["unit"]
        )
        for c in description["coords"]
    }


def position_tokens(description: dict[str, Any], axis: dict[str, Any]) -> list[str]:
    """Content hashes of a stacked axis, one for every position (flat, first dimension slowest)."""
    return [axis["tokens"][code] for code in axis_codes(description, axis).ravel()]


def axis_codes(description: dict[str, Any], axis: dict[str, Any]) -> np.ndarray:
    """Which entry of an axis stands where, out of `describe`'s form."""
    shape = [size for name, size in description["sizes"] if name in axis["dims"]]
    return np.arange(math.prod(shape)).reshape(shape) if axis["codes"] is None else np.asarray(axis["codes"])
