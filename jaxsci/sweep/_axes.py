"""What may stand on one axis of a space: traced arrays, static choices, stacked pytrees, typed keys.

Each constructor checks its input and returns a record of entries with their labels; `jaxsci.sweep._space` gives them
names and dimensions.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxsci.core.keys import generator
from jaxsci.core.provenance import fingerprint


class Values(NamedTuple):
    """Traced scalars.

    Attributes:
        values: one array (n,), vmapped.
    """

    values: np.ndarray


class Static(NamedTuple):
    """Choices that are baked into the program: one compilation each.

    Attributes:
        entries: the different choices.
        labels: coordinate of each of the n positions.
        codes: ``codes[i]`` is the index in `entries` of the choice at position i.
        unit: unit of numeric labels; None has none.
    """

    entries: tuple
    labels: np.ndarray
    codes: np.ndarray
    unit: str | None


class Stack(NamedTuple):
    """Equal-kind pytrees along a leading axis.

    Attributes:
        leaves: the leaves of all entries, each stacked along a leading axis; typed keys as their data.
        key_impls: for each leaf the name of the generator where it holds typed keys, else None.
        treedef: structure of one entry.
        labels: coordinates along each dimension.
        codes: which entry stands where, an array over the dimensions.
        tokens: content hash of each entry.
        dims: names of the dimensions; None takes the name of the axis.
    """

    leaves: tuple[np.ndarray, ...]
    key_impls: tuple[Any, ...]
    treedef: Any
    labels: tuple[np.ndarray, ...]
    codes: np.ndarray
    tokens: tuple[str, ...]
    dims: tuple[str, ...] | None


class Keys(NamedTuple):
    """Typed keys ``jax.random.key(seed)``.

    Attributes:
        seeds: the seeds, (n,): they are the coordinate.
        independent: whether the index of the point is folded in, so that no two points share a stream.
    """

    seeds: np.ndarray
    independent: bool


def values(name: str, x: Any) -> Values:
    """A one-dimensional numeric array or list; anything else raises and says which constructor is meant."""
    if isinstance(x, jax.core.Tracer):
        raise TypeError(f"sweep: axis {name!r} is traced; build the space outside jit and vmap")
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise TypeError(f"sweep: axis {name!r} holds typed keys; sweep.keys(n, seed=...) makes labelled ones")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"sweep: axis {name!r} is a masked array, whose mask no axis can hold; take its .compressed()")
    if x is None or isinstance(x, (str, bytes, Mapping, set)) or callable(x):
        raise TypeError(
            f"sweep: axis {name!r} must be an array of numbers, got {type(x).__name__}; "
            "use sweep.static([...]) for names, callables and sizes, sweep.stack({label: pytree}) for pytrees"
        )
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"sweep: axis {name!r} is ragged ({error}); an axis is one-dimensional") from error
    looks_like_keys = array.dtype == np.uint32 and array.shape[-1:] == (2,) and (array.ndim == 2 or "key" in name)
    if looks_like_keys:
        raise TypeError(f"sweep: axis {name!r} looks like raw uint32 keys; use sweep.keys(n, seed=...)")
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"sweep: axis {name!r} must hold real numbers, got dtype {array.dtype}; use sweep.static([...]) for names, "
            "callables and other objects, two axes for real and imaginary parts"
        )
    if array.ndim != 1:
        raise ValueError(
            f"sweep: axis {name!r} must be one-dimensional, got shape {array.shape}; "
            "use sweep.stack({label: array}) for an axis of arrays, [x] for a single value"
        )
    if not array.size:
        raise ValueError(f"sweep: axis {name!r} is empty")
    return Values(array)


def _label(value: Any) -> Any:
    """A short name for a static value: numbers and strings stand for themselves, callables by name; None if unknown."""
    if isinstance(value, functools.partial):
        return _label(value.func)
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.dtype):
        return str(value)
    if isinstance(value, tuple) and all(isinstance(v, (bool, int, float, str, type(None))) for v in value):
        return str(value)
    if value is None:
        return "None"
    if isinstance(value, type) or callable(value) and hasattr(value, "__name__"):
        return value.__name__
    if jax.tree.leaves(value) and not isinstance(value, (dict, list, tuple, np.ndarray, jax.Array)):
        return type(value).__name__
    return None


def _label_array(labels: Sequence[Any]) -> np.ndarray:
    """Labels as a coordinate: Boolean, integer or float if all of them are, else strings."""
    kinds = {type(label) for label in labels}
    if kinds <= {bool} or kinds <= {int} and all(-(2**63) <= label < 2**63 for label in labels):
        return np.asarray(labels)
    if float in kinds and kinds <= {int, float}:
        return np.asarray(labels, np.float64)
    return np.asarray([str(label) for label in labels])


def static(values: Sequence[Any] | np.ndarray | Mapping[Any, Any], unit: str | None = None) -> Static:
    """Choices known while tracing: names, callables, sizes, step counts; the point is compiled once for each.

    Args:
        values: a list, or ``{label: value}``. Without labels numbers and strings stand for themselves and callables for
            their names. The values may be anything, also unhashable ones and Modules; static.
        unit: unit of numeric labels, kept as an attribute of the coordinate.

    Returns:
        An axis for `product` or `zip`.

    Raises:
        ValueError: no values, or two different values with the same label. A value is known by its label: a value that
            changes behind a label of its own is noticed where it changes what the point computes.
        TypeError: a value without a natural label (an array, a dictionary, ...) in a list.

    Example:
        >>> from jaxsci import sweep
        >>> space = sweep.product(rule=sweep.static({"twice": lambda x: 2 * x, "square": lambda x: x * x}), x=[3.0])
        >>> sweep.run(lambda rule, x: {"y": rule(x)}, space).y.values.tolist()
        [[6.0], [9.0]]
    """
    if isinstance(values, (str, bytes)) or callable(values):
        raise TypeError(f"sweep.static: expected a list or {{label: value}}, got {values!r}; put it into a list")
    labelled = list(values.items()) if isinstance(values, Mapping) else [(_label(v), v) for v in values]
    if not labelled:
        raise ValueError("sweep.static: the axis is empty")
    for label, value in labelled:
        if label is None:
            raise TypeError(
                f"sweep.static: a {type(value).__name__} has no natural label; give labels: static({{'name': value}})"
            )
    entries: dict[str, Any] = {}
    for label, value in labelled:
        if not _same(entries.setdefault(str(label), value), value):
            raise ValueError(
                f"sweep.static: two different values are labelled {str(label)!r}; give labels: "
                "static({'a': ..., 'b': ...})"
            )
    numbers = {name: i for i, name in enumerate(entries)}
    return Static(
        entries=tuple(entries.values()),
        labels=_label_array([label for label, _ in labelled]),
        codes=np.asarray([numbers[str(label)] for label, _ in labelled], np.int32),
        unit=unit,
    )


def _same(a: Any, b: Any) -> bool:
    """True for one object given twice, and for equal plain values."""
    if a is b:
        return True
    try:
        return type(a) is type(b) and bool(a == b or repr(a) == repr(b) == "nan")
    except Exception:  # arrays and foreign objects have a comparison of their own
        return False


def _path(path) -> str:
    return jax.tree_util.keystr(path) or "the value itself"


def _host(leaf: Any, label: str, path) -> tuple[np.ndarray, Any]:
    """A leaf as NumPy, and the generator's name if it holds typed keys."""
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(f"sweep.stack: leaf {_path(path)} of {label!r} is traced; build the space outside jit and vmap")
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf)), generator(leaf)
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"sweep.stack: leaf {_path(path)} of {label!r} is a masked array; stack its data and its mask")
    array = np.asarray(leaf)
    if array.dtype.kind in "OUSM":
        raise TypeError(
            f"sweep.stack: leaf {_path(path)} of {label!r} is a {type(leaf).__name__}, not an array; keep it static "
            "(a static field of a Module) or use sweep.static"
        )
    return array, None


def _padded(arrays: list[np.ndarray], pad: Any, names: list[str], path) -> list[np.ndarray]:
    """Arrays of one leaf with equal shapes: leading lengths are padded with `pad` where it is given."""
    shapes = [a.shape for a in arrays]
    if len(set(shapes)) == 1:
        return arrays
    told = ", ".join(f"{n}: {s}" for n, s in zip(names, shapes))
    if pad is None:
        raise ValueError(
            f"sweep.stack: leaf {_path(path)} differs in shape ({told}); pad=value fills the leading axis up to the "
            "longest, sweep.static compiles one program for each"
        )
    if any(len(s) != len(shapes[0]) or not s or s[1:] != shapes[0][1:] for s in shapes):
        raise ValueError(f"sweep.stack: leaf {_path(path)} differs beyond its leading axis ({told}); pad cannot help")
    filled = [_fill_of(a.dtype, pad, path) for a in arrays]
    longest = max(s[0] for s in shapes)
    widths = [[(0, longest - s[0])] + [(0, 0)] * (len(s) - 1) for s in shapes]
    return [np.pad(a, w, constant_values=value) for a, w, value in zip(arrays, widths, filled)]


def _fill_of(dtype: np.dtype, pad: Any, path) -> np.ndarray:
    """`pad` in the dtype of a leaf; only the rounding of a float may change it."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = np.asarray(pad).astype(dtype)
        except (TypeError, ValueError, OverflowError):
            value = None
    holds = value is not None and value.ndim == 0 and value.dtype.kind != "O"
    if not holds or not lossless(np.asarray(pad), value):
        raise ValueError(
            f"sweep.stack: pad={pad!r} is no {dtype}, which leaf {_path(path)} holds; pad with such a value"
        )
    return value


def lossless(array: np.ndarray, cast: np.ndarray) -> bool:
    """True if `cast` is `array` in another dtype, up to the rounding of floats: whole numbers are the same, no number
    became infinite, and none became 0."""
    if array.dtype.kind not in "biufc":
        return False
    if cast.dtype.kind not in "fc":
        return bool(np.array_equal(array, cast))
    return bool(np.array_equal(np.isfinite(array), np.isfinite(cast)) and np.array_equal(array == 0, cast == 0))


def _check_labels(labels: Sequence[Any]) -> None:
    """Different labels must stay different as a coordinate, which is text where they are of several kinds."""
    texts = [str(label) for label in labels]
    for i, text in enumerate(texts):
        if text in texts[:i]:
            raise ValueError(
                f"sweep.stack: the labels {labels[texts.index(text)]!r} and {labels[i]!r} are both {text!r} in the "
                "results; rename one"
            )


def _grid(entries: Mapping[Any, Any], dims: tuple[str, ...]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Labels along each of `dims`, and which entry stands where; the tuple labels must fill the grid."""
    tuples = [label if isinstance(label, tuple) else (label,) for label in entries]
    if len(set(dims)) < len(dims):
        raise ValueError(f"sweep.stack: dims must be different names, got {dims}")
    if any(len(t) != len(dims) for t in tuples):
        raise ValueError(f"sweep.stack: dims {dims} need labels of {len(dims)} parts, got {list(entries)}")
    levels = [list(dict.fromkeys(t[d] for t in tuples)) for d in range(len(dims))]
    for level in levels:
        _check_labels(level)
    codes = np.full([len(level) for level in levels], -1, np.int32)
    for i, t in enumerate(tuples):
        codes[tuple(level.index(part) for level, part in zip(levels, t))] = i
    if (codes < 0).any():
        hole = tuple(level[i] for level, i in zip(levels, np.argwhere(codes < 0)[0]))
        raise ValueError(f"sweep.stack: the labels do not fill the grid {dims}: {hole} is missing")
    return tuple(map(_label_array, levels)), codes


def stack(
    entries: Mapping[Any, PyTree],
    dims: Sequence[str] | None = None,
    *,
    pad: float | None = None,
    unify: Callable[[list], list] | None = None,
) -> Stack:
    """Equal-kind pytrees as one labelled, vmapped axis: one compilation for all of them.

    Args:
        entries: ``{label: pytree}``; tuple labels, one part for each of `dims`, span a grid of several dimensions.
        dims: names of the new dimensions; the axis' own name by default.
        pad: fills leaves of unequal leading length up to the longest; the pytree must carry its own count or mask.
        unify: maps the list of pytrees to one whose static parts and shapes agree (the union of their features). By
            default the method ``unify`` of the first entry's type, where it has one.

    Returns:
        An axis for `product` or `zip`; `plan` tells its memory.

    Raises:
        ValueError: no entries, structures or shapes that differ (the message names the entries and the leaf), or a grid
            with holes.
        TypeError: a leaf that is not an array.

    Example:
        >>> import numpy as np
        >>> from jaxsci import sweep
        >>> points = {"near": {"x": np.float32(1), "y": np.float32(2)}, "far": {"x": np.float32(3), "y": np.float32(4)}}
        >>> space = sweep.product(place=sweep.stack(points))
        >>> result = sweep.run(lambda place: {"radius2": place["x"] ** 2 + place["y"] ** 2}, space)
        >>> print(result.radius2.sel(place="far").item())
        25.0
    """
    if not isinstance(entries, Mapping):
        raise TypeError(f"sweep.stack: expected {{label: pytree}}, got {type(entries).__name__}")
    if not entries:
        raise ValueError("sweep.stack: the axis is empty")
    if isinstance(dims, str):
        dims = (dims,)
    _check_labels(list(entries))
    names, trees = [str(label) for label in entries], list(entries.values())
    if unify is None:
        unify = getattr(type(trees[0]), "unify", None)
    if unify is not None:
        trees = list(unify(trees))
    flat = [jax.tree_util.tree_flatten_with_path(tree) for tree in trees]
    paths, treedef = [path for path, _ in flat[0][0]], flat[0][1]
    for name, (leaves, other) in zip(names, flat):
        if other != treedef:
            theirs = {_path(path) for path, _ in leaves}
            ours = {_path(path) for path in paths}
            odd = sorted(ours ^ theirs)
            where = f"leaf {odd[0]} is in one only" if odd else f"static parts differ: {treedef} against {other}"
            raise ValueError(
                f"sweep.stack: {names[0]!r} and {name!r} have different structures; {where}. Use unify=, or "
                "sweep.static for things of different kinds"
            )
    if not paths:
        raise ValueError("sweep.stack: the entries hold no arrays; use sweep.static")
    stacked, impls = [], []
    for i, path in enumerate(paths):
        hosted = [_host(leaves[i][1], name, path) for name, (leaves, _) in zip(names, flat)]
        arrays = _padded([array for array, _ in hosted], pad, names, path)
        kinds = {array.dtype.kind for array in arrays}
        if len({impl for _, impl in hosted}) > 1 or not (len(kinds) == 1 or kinds <= set("iuf")):
            told = ", ".join(f"{n}: {a.dtype}" for n, a in zip(names, arrays))
            raise ValueError(f"sweep.stack: leaf {_path(path)} differs in kind ({told})")
        stacked.append(np.stack(arrays))
        impls.append(hosted[0][1])
    if dims is None:
        labels, codes = (_label_array(list(entries)),), np.arange(len(names), dtype=np.int32)
    else:
        labels, codes = _grid(entries, tuple(dims))
    tokens = tuple(fingerprint([leaf[i] for leaf in stacked]) for i in range(len(trees)))
    return Stack(tuple(stacked), tuple(impls), treedef, labels, codes, tokens, None if dims is None else tuple(dims))


def keys(num: int | Sequence[int] | np.ndarray, seed: int = 0, independent: bool = False) -> Keys:
    """Typed keys ``jax.random.key(seed), jax.random.key(seed + 1), ...``; the integer seed is the coordinate.

    Every point with the same seed gets the same key, whatever its other coordinates: common random numbers, so that
    differences between choices are not drowned in noise.

    Args:
        num: how many, or the list of seeds itself.
        seed: the first seed.
        independent: fold the index of the point in, so that no two points share a stream.

    Raises:
        ValueError: no keys, or seeds outside [0, 2^31).
        TypeError: seeds that are not integers.

    Example:
        >>> import jax
        >>> from jaxsci import sweep
        >>> space = sweep.product(scale=[1.0, 2.0], key=sweep.keys(3))
        >>> draws = sweep.run(lambda scale, key: {"x": scale * jax.random.normal(key)}, space).x
        >>> bool((draws.sel(scale=2.0) == 2 * draws.sel(scale=1.0)).all())  # the same keys at every scale
        True
    """
    if isinstance(num, (int, np.integer)) and num < 0:
        raise ValueError(f"sweep.keys: the number of keys must be positive, got {num}")
    seeds = np.arange(seed, seed + num) if isinstance(num, (int, np.integer)) else np.asarray(num)
    if not seeds.size:
        raise ValueError("sweep.keys: the axis is empty")
    if seeds.dtype.kind not in "iu" or seeds.ndim != 1:
        raise TypeError(
            f"sweep.keys: expected a number of keys or a list of integer seeds, got {seeds.dtype}{list(seeds.shape)}"
        )
    if seeds.min() < 0 or seeds.max() >= 2**31:
        raise ValueError(f"sweep.keys: seeds must lie in [0, 2^31), got {seeds.min()} to {seeds.max()}")
    return Keys(seeds.astype(np.int64), bool(independent))
