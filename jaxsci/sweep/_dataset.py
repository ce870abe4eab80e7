"""Results as a labelled `xarray.Dataset`, and that Dataset as a netCDF file.

Dimensions are those of the space, then those of the outputs; coordinates, units and CF status flags are attached;
provenance is JSON text, because netCDF has no nested attributes.
"""

import contextlib
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxsci.core import status
from jaxsci.core.extras import require
from jaxsci.core.files import write_atomic
from jaxsci.sweep._space import coords_of
from jaxsci.sweep._trace import Variable, is_status

POINT_RAISED = status.register(
    "sweep", 30, "point raised", "the point function raised an exception", "see the attribute 'errors' of the Dataset"
)


_MAX_META = 60_000


class Presentation(NamedTuple):
    """What the user says about labels; it may change between runs of one sweep.

    Attributes:
        dims: names of each output's own dimensions.
        units: units of outputs and coordinates.
        meta: plain data of the user's, kept as JSON text.
    """

    dims: dict[str, list[str]]
    units: dict[str, str]
    meta: Any


def presentation(function: str, dims: Mapping | None, units: Mapping | None, meta: Any) -> Presentation:
    """Check the types of the labels, and that they can be written as JSON."""
    found: dict[str, list[str]] = {}
    for name, given in dict(dims or {}).items():
        found[str(name)] = [given] if isinstance(given, str) else [str(d) for d in given]
    for name, unit in dict(units or {}).items():
        if not isinstance(unit, str):
            raise TypeError(f"sweep.{function}: unit of {name!r} must be text, got {type(unit).__name__}")
    try:
        size = len(json.dumps(meta))
    except (TypeError, ValueError) as error:
        raise TypeError(f"sweep.{function}: meta must be plain data that JSON can hold ({error})") from error
    if size > _MAX_META:
        raise ValueError(
            f"sweep.{function}: meta has {size} characters, an attribute of a netCDF file holds {_MAX_META}"
        )
    return Presentation(found, dict(units or {}), meta)


def check_presentation(function: str, shown: Presentation, description: dict, variables: dict[str, Variable]) -> None:
    """Every label must belong to an output or an axis, and dimension names must fit the shapes."""
    sizes = {name: (size, "the space") for name, size in description["sizes"]}
    coords = [c["name"] for c in description["coords"]]
    for name in sorted({*variables, "status"} & {*coords, *sizes}):
        raise ValueError(f"sweep.{function}: {name!r} is both an output and an axis; rename one of them")
    for name in shown.dims:
        if name not in variables:
            raise ValueError(f"sweep.{function}: dims names {name!r}; the outputs are {', '.join(variables)}")
    for name in shown.units:
        if name not in variables and name not in coords:
            known = ", ".join([*variables, *coords])
            raise ValueError(f"sweep.{function}: units names {name!r}; outputs and axes are {known}")
    if "status" in variables:
        raise ValueError(
            f"sweep.{function}: output 'status' is {variables['status'].dtype}; a status is an integer of bits (see "
            "jaxsci.core.status), the sweep has one of its own. Rename the output, or cast it"
        )
    for name, variable in variables.items():
        given = trailing_dims(shown, name, variable)
        if len(given) != len(variable.shape):
            raise ValueError(
                f"sweep.{function}: output {name!r} has {len(variable.shape)} dimensions {variable.shape}, "
                f"dims names {len(given)}: {tuple(given)}"
            )
        for i, (dim, size) in enumerate(zip(given, variable.shape)):
            known, owner = sizes.setdefault(dim, (size, f"output {name!r}"))
            if known != size or owner == "the space":
                raise ValueError(
                    f"sweep.{function}: dimension {dim!r} of output {name!r} has size {size}, but {owner} has one "
                    f"of that name, of size {known}; choose another name"
                )
            if dim in given[:i] or dim in {*variables, *coords, "status"}:
                other = "another dimension of it" if dim in given[:i] else "an axis" if dim in coords else "an output"
                raise ValueError(
                    f"sweep.{function}: dimension {dim!r} of output {name!r} has the name of {other}; choose another "
                    f"with dims={{{name!r}: (...)}}"
                )


def trailing_dims(shown: Presentation, name: str, variable: Variable) -> list[str]:
    """Names of an output's own dimensions: the given ones, or its name with a number."""
    return shown.dims.get(name) or [f"{name}_{i}" for i in range(len(variable.shape))]


def fill(variable: Variable, points: int) -> np.ndarray:
    """Room for all points: NaN, or zero where the dtype knows no NaN."""
    value = np.nan if variable.dtype.kind in "fc" else 0
    return np.full((points, *variable.shape), value, variable.dtype)


def flags() -> tuple[np.ndarray, str]:
    """CF attributes of a status: masks and blank-separated meanings; rooms that share a bit share its text."""
    texts: dict[int, list[str]] = {}
    for bit, text in status.bits():
        prefix = "" if text.room == "core" else f"{text.room}."
        texts.setdefault(bit, []).append(f"{prefix}{text.name.replace(' ', '_').replace('-', '_')}")
    masks = np.asarray([1 << bit for bit in texts], np.int32)
    return masks, " ".join("_or_".join(names) for names in texts.values())


def build(
    description: dict[str, Any],
    variables: dict[str, Variable],
    arrays: dict[str, np.ndarray],
    codes: np.ndarray,
    shown: Presentation,
    provenance: dict[str, Any],
    errors: Mapping[str, str],
) -> Any:
    """The labelled Dataset; `arrays` have one leading axis of all points."""
    xarray = require("xarray", "sweep", "jaxsci.sweep")
    dims = [name for name, _ in description["sizes"]]
    shape = [size for _, size in description["sizes"]]
    masks, meanings = flags()
    flag_attrs = {"flag_masks": masks, "flag_meanings": meanings}
    found = {}
    for name, variable in variables.items():
        trailing = trailing_dims(shown, name, variable)
        attrs = {"units": shown.units[name]} if name in shown.units else {}
        array = arrays[name].reshape(*shape, *variable.shape)
        if is_status(name, variable.dtype):
            array, attrs = array.astype(np.int32), {**attrs, **flag_attrs}
        found[name] = ([*dims, *trailing], array, attrs)
    long_name = "what went wrong at the point, 0 = ok"
    found["status"] = (dims, codes.astype(np.int32).reshape(shape), {"long_name": long_name, **flag_attrs})
    coords = {}
    seeds = {axis["name"] for axis in description["axes"] if axis["kind"] == "keys"}
    for name, coord in coords_of(description).items():
        unit = shown.units.get(name, coord.unit)
        attrs = {} if unit is None else {"units": unit}
        if name in seeds:
            attrs["long_name"] = "seed of jax.random.key"
        coords[name] = (list(coord.dims), coord.values, attrs)
    attrs = {"Conventions": "CF-1.11", "provenance": json.dumps(provenance)}
    if shown.meta is not None:
        attrs["meta"] = json.dumps(shown.meta)
    if errors:
        attrs["errors"] = json.dumps(dict(errors))
    return xarray.Dataset(found, coords, attrs)


def write_netcdf(dataset: Any, path: pathlib.Path) -> None:
    """Write ``results.nc`` whole or not at all. netCDF has no complex numbers: they become two variables.

    The file is built in memory first: on a full disk the HDF5 library ends the process when it closes a file.
    """
    require("h5netcdf", "sweep", "writing results.nc")
    for name in [n for n in dataset.data_vars if dataset[n].dtype.kind == "c"]:
        parts = {f"{name}.real": dataset[name].real, f"{name}.imag": dataset[name].imag}
        dataset = dataset.drop_vars(name).assign(parts)
    # With a client of Dask about, xarray takes locks from its cluster, which knows none of a file in memory.
    dask = sys.modules.get("dask")
    with contextlib.nullcontext() if dask is None else dask.config.set(scheduler="threads"):
        content = dataset.to_netcdf(engine="h5netcdf")
    write_atomic(path, lambda temporary: temporary.write_bytes(content))
