"""Points of a space by number: static combinations, and the arithmetic from a number to axis entries.

A combination is one value of every static axis. Along each dimension it owns some positions (all of them where the
dimension has no static axis), so its points are a smaller grid; point i of it is unravelled over that grid. The
grid itself is never built: a program gets i and the small axis arrays.
"""

import itertools
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci.core.keys import wrap
from jaxsci.sweep._axes import Keys, Static, Values, lossless
from jaxsci.sweep._space import Axis, Space


class Combination(NamedTuple):
    """One value of every static axis, and where it holds.

    Attributes:
        static: the value of each static axis, by name.
        labels: its label, by name of the axis.
        positions: for each dimension of the space the positions along it where these values hold, int32.
    """

    static: dict[str, Any]
    labels: dict[str, Any]
    positions: tuple[np.ndarray, ...]

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(len(p) for p in self.positions)

    @property
    def key(self) -> str:
        """Its labels as JSON text, by which files know it; 1 and 1.0 are one label."""
        return json.dumps({name: _plain(label) for name, label in self.labels.items()})

    @property
    def text(self) -> str:
        """For messages and the progress bar."""
        return ", ".join(f"{name}={label}" for name, label in self.labels.items())


def _plain(label: Any) -> Any:
    value = getattr(label, "item", lambda: label)()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def combinations(space: Space) -> list[Combination]:
    """All static combinations, in the order in which they first appear along the dimensions."""
    per_dim = []
    for dim, size in space.sizes.items():
        here = [axis for axis in space.axes if isinstance(axis.entries, Static) and axis.dims == (dim,)]
        groups: dict[tuple, list[int]] = {}
        for i in range(size if here else 0):
            groups.setdefault(tuple(int(axis.codes[i]) for axis in here), []).append(i)
        per_dim.append((here, list(groups.items()) if here else [((), range(size))]))
    found = []
    for choice in itertools.product(*(groups for _, groups in per_dim)):
        static, labels = {}, {}
        for (here, _), (codes, positions) in zip(per_dim, choice):
            for axis, code in zip(here, codes):
                static[axis.name] = axis.entries.entries[code]
                labels[axis.name] = space.coords[axis.name].values[positions[0]]
        found.append(Combination(static, labels, tuple(np.asarray(p, np.int32) for _, p in choice)))
    return found


def dim_indices(combination: Combination, local: np.ndarray) -> tuple[np.ndarray, ...]:
    """Positions along every dimension of the points numbered `local` within the combination."""
    offsets = np.unravel_index(local, [len(p) for p in combination.positions])
    return tuple(p[o] for p, o in zip(combination.positions, offsets))


def global_index(space: Space, combination: Combination, local: np.ndarray) -> np.ndarray:
    """Numbers within the whole space, first dimension slowest."""
    return np.ravel_multi_index(dim_indices(combination, local), tuple(space.sizes.values())).astype(np.int32)


def coordinates(coords: dict, sizes: dict[str, int], index: int) -> dict[str, Any]:
    """Coordinate values of one point of the whole space."""
    position = dict(zip(sizes, np.unravel_index(index, tuple(sizes.values()))))
    return {name: c.values[tuple(position[d] for d in c.dims)] for name, c in coords.items()}


def told(coordinates: dict[str, Any]) -> str:
    """Coordinates as text: ``lr=0.1, key=3``."""
    return ", ".join(f"{name}={value}" for name, value in coordinates.items())


# --- traced arguments --------------------------------------------------------------------------------------


def traced_axes(space: Space) -> list[Axis]:
    """The axes that are not static."""
    return [axis for axis in space.axes if not isinstance(axis.entries, Static)]


def canonical(what: str, array: np.ndarray) -> np.ndarray:
    """The array in the dtype that JAX gives it. Floats are rounded; a number that would become another one raises.

    Raises:
        ValueError: an integer beyond the dtype, a float that would become infinite or 0.
    """
    if array.dtype.kind == "O":  # what is no number is told elsewhere
        return array
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
    if not lossless(array, cast):
        bad = next(a for a, c in zip(np.ravel(array), np.ravel(cast)) if not lossless(a, c))
        raise ValueError(f"sweep: {what} exceeds {dtype}: it holds {bad}; jax.config.update('jax_enable_x64', True)")
    return cast


def payload(space: Space, combination: Combination, on_host: bool = False) -> dict[str, Any]:
    """What a program gathers its arguments from: leaves of every traced axis, and which entry stands where. A function
    that runs on the host gets the numbers of an axis as they are."""
    found: dict[str, Any] = {}
    order = list(space.sizes)
    for axis in traced_axes(space):
        entries = axis.entries
        if isinstance(entries, Values):
            leaves = [entries.values]
        elif isinstance(entries, Keys):
            leaves = [np.asarray(jax.random.key_data(jax.vmap(jax.random.key)(entries.seeds.astype(np.uint32))))]
        else:
            leaves = list(entries.leaves)
        here = [combination.positions[order.index(d)] for d in axis.dims]
        found[axis.name] = {
            "leaves": [
                leaf if on_host and isinstance(entries, Values) else canonical(f"axis {axis.name!r}", leaf)
                for leaf in leaves
            ],
            "codes": axis.codes[np.ix_(*here)].astype(np.int32),
        }
    return {"axes": found, "positions": list(combination.positions)}


def _wrapped(entries: Any, leaves: list) -> Any:
    """Leaves of one entry as the value that the point function gets (keys: typed)."""
    if isinstance(entries, Values):
        return leaves[0]
    if isinstance(entries, Keys):
        return jax.random.wrap_key_data(leaves[0])
    wrapped = [leaf if impl is None else wrap(leaf, impl) for leaf, impl in zip(leaves, entries.key_impls)]
    return jax.tree.unflatten(entries.treedef, wrapped)


def _independent(space: Space, axis: Axis, value: Any, arrays: dict[str, Any], offset: dict[str, Any]) -> Any:
    """Fold the point's place into an independent key: position by position and not the point's number, so that the
    points of a space that grows keep their keys. Other values stay as they are."""
    if isinstance(axis.entries, Keys) and axis.entries.independent:
        for dim, positions in zip(space.sizes, arrays["positions"]):
            value = jax.random.fold_in(value, positions[offset[dim]])
    return value


def gather(space: Space, sizes: tuple[int, ...], arrays: dict[str, Any], i: jax.Array) -> dict[str, Any]:
    """Arguments of point `i` (int32, may be traced) of a combination whose grid has `sizes`."""
    offsets = []
    for size in reversed(sizes):
        offsets.append(jax.lax.rem(i, jnp.int32(size)))
        i = jax.lax.div(i, jnp.int32(size))
    offset = dict(zip(space.sizes, reversed(offsets)))
    arguments = {}
    for axis in traced_axes(space):
        held = arrays["axes"][axis.name]
        code = held["codes"][tuple(offset[d] for d in axis.dims)]
        value = _wrapped(axis.entries, [leaf[code] for leaf in held["leaves"]])
        arguments[axis.name] = _independent(space, axis, value, arrays, offset)
    return arguments


def abstract(space: Space, combination: Combination) -> dict[str, Any]:
    """Shapes and dtypes of the arguments of one point."""
    arrays = payload(space, combination)
    sizes = tuple(len(p) for p in combination.positions)
    return jax.eval_shape(lambda a, i: gather(space, sizes, a, i), arrays, jax.ShapeDtypeStruct((), jnp.int32))


def host_arguments(space: Space, combination: Combination, arrays: dict[str, Any], local: int) -> dict[str, Any]:
    """Arguments of one point for a function that is not traced: Python numbers, typed keys, pytrees of NumPy arrays."""
    offset = dict(zip(space.sizes, np.unravel_index(local, [len(p) for p in combination.positions])))
    arguments = dict(combination.static)
    for axis in traced_axes(space):
        held = arrays["axes"][axis.name]
        code = held["codes"][tuple(offset[d] for d in axis.dims)]
        if isinstance(axis.entries, Values):
            arguments[axis.name] = axis.entries.values[code].item()  # as the user wrote it, not as JAX narrows it
            continue
        value = _wrapped(axis.entries, [leaf[code] for leaf in held["leaves"]])
        arguments[axis.name] = _independent(space, axis, value, arrays, offset)
    return arguments
