"""Seeded mutations of the good calls of `mistakes.recorded`, and what their results must not be.

One leaf of one argument is changed: to NaN, an infinity, 0, its negative, 1e30 or 1e-30 times itself, in one entry or
in all; to no entries, one entry, another rank, length or dtype; a key to one of the old kind. A call may refuse, or
answer; where its result has a status, a number that is not finite, and that was finite without the change, needs a bit
in it.
"""

import inspect
import random
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import contracts
import mistakes
import registry

NAMES, ENTRIES = registry.public_names(), registry.entries()
KINDS = (contracts.Compiled, contracts.Builder)
CALLED = sorted(n for n, e in ENTRIES.items() if isinstance(e, KINDS) and not n.startswith("pallas_kernels"))

VALUES: dict[str, Callable] = {
    "nan": lambda a: np.full_like(a, np.nan),
    "inf": lambda a: np.full_like(a, np.inf),
    "-inf": lambda a: np.full_like(a, -np.inf),
    "zero": np.zeros_like,
    "negative": lambda a: -a,
    "huge": lambda a: np.clip(a.astype(np.float64) * 1e30, -1e38, 1e38).astype(a.dtype),
    "tiny": lambda a: (a * 1e-30).astype(a.dtype),
}
_FORMS: dict[str, Callable] = {
    "empty": lambda a: a[:0] if a.ndim else a.reshape(1)[:0],
    "size one": lambda a: a.reshape(-1)[:1],
    "rank": lambda a: a[None],
    "longer": lambda a: np.concatenate([a, a]) if a.ndim else np.stack([a, a]),
    "shorter": lambda a: a[:-1] if a.ndim else a,
    "int32": lambda a: np.nan_to_num(a).astype(np.int32),
    "float16": lambda a: a.astype(np.float16),
    "bool": lambda a: a.astype(bool),
}


class Case(NamedTuple):
    """One mutated call: what was changed, and whether its values alone were."""

    text: str
    call: mistakes.Call
    values_only: bool


def mutated(call: mistakes.Call, seed: int) -> Case | None:
    """The call with one leaf changed as `seed` says; None where nothing can be changed."""
    rng = random.Random(seed)
    bound = inspect.signature(call.function).bind(*call.args, **call.kwargs)
    leaves, tree = jax.tree.flatten(dict(bound.arguments))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(dict(bound.arguments))]
    places = [i for i, leaf in enumerate(leaves) if _is_number(leaf) or _is_key(leaf)]
    if not places:
        return None
    at = rng.choice(places)
    leaf = leaves[at]
    if _is_key(leaf):
        kind, values_only, changed = "old key", False, jax.random.key_data(leaf)
    else:
        array = np.asarray(leaf)
        floating = np.issubdtype(array.dtype, np.floating)
        kind = rng.choice([*(VALUES if floating else ("zero", "negative", "nan", "huge")), *_FORMS])
        values_only = kind in VALUES and floating
        change = VALUES.get(kind) or _FORMS[kind]
        if not floating and kind in VALUES:
            array = array.astype(np.float32) if kind in ("nan", "huge") else array.astype(np.int32)
        with np.errstate(all="ignore"):
            new = change(array)
        if values_only and array.size > 1 and rng.random() < 0.5:  # in one entry
            mask = np.zeros(array.size, bool)
            mask[rng.randrange(array.size)] = True
            new, kind = np.where(mask.reshape(array.shape), new, array), f"{kind} in one entry"
        changed = new.item() if isinstance(leaf, (bool, int, float)) and new.shape == () else new
    arguments = tree.unflatten([*leaves[:at], changed, *leaves[at + 1 :]])
    bound.arguments.update(arguments)
    again = call._replace(args=bound.args, kwargs=bound.kwargs)
    return Case(f"{call.name}{paths[at]}: {kind}", again, values_only)


def _is_key(leaf) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_number(leaf) -> bool:
    if isinstance(leaf, (jax.Array, np.ndarray)):
        return not _is_key(leaf) and np.asarray(leaf).dtype.kind in "biuf"
    return isinstance(leaf, (bool, int, float))


# --- judging -----------------------------------------------------------------------------------------------

# Where a number that is not finite is part of the answer.
_OPEN_FIELDS = {"history", "trajectory", "residual", "error", "log_prob"}


def statuses(result: Any) -> list[np.ndarray]:
    """All fields of a result that hold status bits, at any depth."""
    found = []
    for name, value in _fields(result):
        if name.endswith("status") and hasattr(value, "dtype"):
            found.append(np.asarray(value))
        elif _fields(value):
            found += statuses(value)
    return found


def _fields(x) -> list[tuple[str, Any]]:
    if hasattr(x, "_fields"):
        return [(n, getattr(x, n)) for n in x._fields]
    return [(n, getattr(x, n)) for n in getattr(x, "__dataclass_fields__", ())] if not isinstance(x, type) else []


def numbers(result: Any, place: str = "") -> dict[str, np.ndarray]:
    """Floating leaves of a result by their place, without fields where a number need not be finite."""
    if place.rpartition(".")[2] in _OPEN_FIELDS:
        return {}
    found = {}
    if _fields(result):
        for name, value in _fields(result):
            found |= numbers(value, f"{place}.{name}")
        return found
    for path, leaf in jax.tree_util.tree_leaves_with_path(result):
        if isinstance(leaf, (jax.Array, np.ndarray)) and not _is_key(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating):
            found[f"{place}{jax.tree_util.keystr(path)}"] = np.asarray(leaf.astype(np.float32))
    return found


def silent(result: Any, good: Any, given: Any = ()) -> list[str]:
    """Places that are not finite while every status is 0, and that are finite in the good result.

    A number of the caller's in `given` that a record hands on as it is, is no result.
    """
    bits = statuses(result)
    if not bits or any(b.any() for b in bits):
        return []
    before, own = numbers(good), [np.asarray(leaf) for leaf in jax.tree.leaves(given) if _is_number(leaf)]
    return [
        place
        for place, a in numbers(result).items()
        if place in before
        and np.isfinite(before[place]).all()
        and not _sound(place, a)
        and not any(a.shape == b.shape and np.array_equal(a, b.astype(np.float32), equal_nan=True) for b in own)
    ]


def _sound(place: str, a: np.ndarray) -> bool:
    """Finite everywhere; logarithms of weights and scores may be infinite: a probability of 0."""
    return not np.isnan(a).any() if ".log_" in place else bool(np.isfinite(a).all())


def seed_of(seed: int, name: str, index: int) -> int:
    """The seed of one case: another for every name and index, the same in every process."""
    return zlib.crc32(f"{seed} {name} {index}".encode())
