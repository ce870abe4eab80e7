"""Arguments held against annotations, for `entry`: which one does not fit, and how to say it.

The search goes from what is certain to what is likely, and stops at the first argument found: its type, dtype or shape
(with the sizes that earlier arguments gave to the names in shape strings); a list where an array is asked for; a field
of a record that is of another kind (dtype, not shape: records travel stacked); a leaf that is text or a foreign object;
an array with axes where the default is a number; None or complex numbers where the error speaks of them.

What a function casts fits: integers where floats are asked for, arrays of NumPy, numbers; what cannot be decided fits.
"""

import collections.abc
import dataclasses
import inspect
import operator
import re
import types
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import AbstractArray, PyTree, jaxtyped

_EMPTY = inspect.Parameter.empty
_ANY = (Any, object, PyTree, _EMPTY)
_NUMBERS = (bool, int, float, complex, np.bool_, np.number)


def misfit(function, bound: inspect.BoundArguments, error: Exception) -> str | None:
    """The sentence about the first argument that does not fit, None if all do."""
    hints = _hints(function)
    given = list(_given(bound, hints))
    alone = {name for name, value, hint, _ in given if _fits_alone(value, hint)}
    together = (_axes, _spoken_of)  # where several arguments are alike, one alone is not to blame
    for check in (_loosely, _strictly, _record, _leaf, *together):
        with jaxtyped("context"):
            found = []
            for name, value, hint, parameter in given:
                words = check(value, hint, parameter, error)
                if words is not None:
                    partners = _partners(name, given) if check is _loosely and name in alone else ""
                    found.append(f"{name} {words}{partners}")
                    if check not in together:
                        break
        if len(found) == 1:
            return found[0]
    return None


def _fits_alone(value, hint) -> bool:
    with jaxtyped("context"):
        return fits(value, hint, loose=True)


def _partners(name, given) -> str:
    """The earlier arguments that gave a size which this one has not: either may be the wrong one."""
    sizes = {n: set(re.findall(r"[A-Za-z_]\w*", " ".join(_dims(hint)))) for n, _, hint, _ in given}
    values = {n: value for n, value, _, _ in given}
    names = list(values)
    shared = [n for n in names[: names.index(name)] if sizes[n] & sizes[name]]
    return f", with {', '.join(f'{n} {describe(values[n])}' for n in shared)}" if shared else ""


def _dims(hint) -> list[str]:
    return [c.dim_str for c in (typing.get_args(hint) if _is_union(hint) else (hint,)) if _is_array(c)]


def _hints(function) -> dict[str, Any]:
    plain = inspect.unwrap(function)
    found = dict(getattr(plain, "__annotations__", {}))
    if any(isinstance(hint, str) for hint in found.values()):
        try:
            found = typing.get_type_hints(plain, include_extras=True)
        except Exception:
            found = {k: Any if isinstance(v, str) else v for k, v in found.items()}
    return found


def _given(bound, hints):
    for name, value in bound.arguments.items():
        parameter = bound.signature.parameters[name]
        hint = hints.get(name, _EMPTY)
        if parameter.kind is parameter.VAR_POSITIONAL:
            yield from ((f"{name}[{i}]", v, hint, parameter) for i, v in enumerate(value))
        elif parameter.kind is parameter.VAR_KEYWORD:
            yield from ((k, v, hint, parameter) for k, v in value.items())
        else:
            yield name, value, hint, parameter


# --- the checks, in their order ----------------------------------------------------------------------------


def _loosely(value, hint, parameter, error):
    if _same_as_default(value, parameter) or fits(value, hint, loose=True):
        return None
    return f"must be {said(hint)}, got {describe(value)}{_remedy(value, hint)}"


def _strictly(value, hint, parameter, error):
    if not isinstance(value, (list, tuple)) or _same_as_default(value, parameter) or fits(value, hint, loose=False):
        return None
    return f"must be {said(hint)}, got {describe(value)}; use jnp.asarray"


def _record(value, hint, parameter, error):
    kind = type(value)
    names = getattr(kind, "_fields", None) or (
        [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) and kind is not value else []
    )
    annotations = {}
    for base in reversed(kind.__mro__ if names else ()):
        annotations.update(base.__dict__.get("__annotations__", {}))
    for name in names:
        field = getattr(value, name, None)
        if not _right_kind(field, annotations.get(name, Any)):
            return f"has a field {name} that must be {said(annotations[name])}, got {describe(field)}"
    return None


def _leaf(value, hint, parameter, error):
    setting = hint is _EMPTY and parameter.kind is parameter.KEYWORD_ONLY  # such are words of the room, as a rule
    if setting or hint not in _ANY and not _is_tree(hint):
        return None
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, (str, bytes)) or type(leaf) is object:
            return f"must hold arrays and numbers, got {describe(leaf)}"
        if isinstance(leaf, type) and hint is not Any:
            return f"must hold arrays and numbers, got the class {leaf.__name__}, not an instance"
    return None


def _axes(value, hint, parameter, error):
    if not isinstance(parameter.default, (int, float)) or isinstance(parameter.default, bool):
        return None
    if _is_array(hint) or _is_union(hint) and any(map(_is_array, typing.get_args(hint))):
        return None  # a shape was asked for, and fits
    shape = getattr(value, "shape", None)
    if shape is None and isinstance(value, (list, tuple)):
        return f"must be a number, got {describe(value)}"
    return f"must be a scalar, got {describe(value)}; use jax.vmap over it" if shape else None


def _spoken_of(value, hint, parameter, error):
    text = str(error)
    if value is None and parameter.default is not None and "None" in text and hint in _ANY:
        return f"must be {said(hint)}, got None"
    if "complex" in text and any(_is_complex(leaf) for leaf in jax.tree.leaves(value)):
        return f"must be real, got {describe(value)}; pass .real, or a function of real and imaginary part"
    return None


def _same_as_default(value, parameter) -> bool:
    return value is parameter.default


def _is_complex(leaf) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, complex) or dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating)


def _right_kind(value, hint) -> bool:
    """Whether a field has the dtype that its record declares; arrays alone are looked at."""
    if isinstance(hint, str) or not isinstance(value, (jax.Array, np.ndarray)):
        return not (isinstance(value, str) and _is_array(hint))
    choices = typing.get_args(hint) if _is_union(hint) else (hint,)
    arrays = [choice for choice in choices if _is_array(choice)]
    if not arrays or len(arrays) < len([c for c in choices if c not in (*_NUMBERS, types.NoneType)]):
        return True
    return any(_array_fits(value, choice, shape=False) for choice in arrays)


# --- does a value fit a hint? ------------------------------------------------------------------------------


def fits(value: Any, hint: Any, *, loose: bool) -> bool:
    """Whether `value` may stand where `hint` is asked for; `loose` takes lists for arrays. In doubt it may."""
    if hint in _ANY or isinstance(hint, (str, typing.TypeVar)) or _is_tree(hint):
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    if _is_union(hint):
        return any(fits(value, choice, loose=loose) for choice in typing.get_args(hint))
    if _is_array(hint):
        return _array_fits(value, hint, loose=loose)
    if hint in (jax.Array, np.ndarray) or isinstance(hint, type) and issubclass(hint, _NUMBERS):
        return _number_fits(value, hint, loose)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.SupportsIndex:
        return _is_index(value)
    if hint is collections.abc.Callable or origin is collections.abc.Callable:
        return callable(value) and not _is_record_class(value)
    if origin is typing.Literal:
        return value in inner
    if origin is typing.Annotated:
        return fits(value, inner[0], loose=loose)
    if origin in (tuple, list) or origin in (collections.abc.Sequence, collections.abc.Iterable):
        return _sequence_fits(value, origin, inner, loose)
    kind = origin or hint
    try:
        return not isinstance(kind, type) or isinstance(value, kind)
    except TypeError:  # a protocol that cannot be asked
        return True


def _is_union(hint) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_tree(hint) -> bool:
    return (
        isinstance(hint, type)
        and hint is not PyTree
        and getattr(hint, "__module__", "") == "jaxtyping"
        and (hint.__name__.startswith("PyTree"))
    )


def _is_array(hint) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray)


def _is_record_class(value) -> bool:
    return isinstance(value, type) and hasattr(value, "_fields")


def _is_index(value) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    except Exception:  # traced
        return False
    return True


def _form(value, loose: bool):
    """Shape and dtype of an array, a number, or (loosely) of nested lists of numbers; None for anything else."""
    if isinstance(value, type):
        return None
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return tuple(value.shape), value.dtype
    if isinstance(value, _NUMBERS):
        return (), np.asarray(value).dtype
    if loose and isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        forms = [_form(v, True) for v in value]
        if any(f is None for f in forms) or len({f[0] for f in forms}) > 1:
            return None
        dtype = np.result_type(*(f[1] for f in forms)) if forms else np.dtype("float32")
        return (len(value), *(forms[0][0] if forms else ())), dtype
    return None


def _is_key(dtype) -> bool:
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _is_numeric(dtype) -> bool:
    return not _is_key(dtype) and (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_))


def _number_fits(value, hint, loose) -> bool:
    form = _form(value, loose)
    if form is None:
        return False
    shape, dtype = form
    if hint in (jax.Array, np.ndarray):
        return _is_numeric(dtype)
    if shape != () or not _is_numeric(dtype) or isinstance(value, jax.core.Tracer):
        return False
    if hint is int:
        return _is_index(value)
    if issubclass(hint, (bool, np.bool_)):
        return jnp.issubdtype(dtype, jnp.bool_)
    if hint is float:
        return not jnp.issubdtype(dtype, jnp.complexfloating)
    return True


def _array_fits(value, hint, *, loose: bool = True, shape: bool = True) -> bool:
    if str(getattr(hint.dtype, "__name__", "")) == "Key":
        return (
            not isinstance(value, type)
            and hasattr(value, "dtype")
            and _is_key(value.dtype)
            and (not shape or _asked(value, hint))
        )
    form = _form(value, loose)
    if form is None or not _is_numeric(form[1]):
        return False
    axes, dtype = form
    probes = [dtype]
    if jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_):
        probes += [np.dtype("float32"), np.dtype("int32")]  # what casts keep
    elif jnp.issubdtype(dtype, jnp.floating) and _is_whole(value):
        probes.append(np.dtype("int32"))
    like = hint.dtype[np.ndarray, hint.dim_str if shape else "..."]
    return any(_asked(np.broadcast_to(np.zeros((), probe), axes), like) for probe in probes)


def _is_whole(value) -> bool:
    if isinstance(value, (float, np.floating)) or isinstance(value, np.ndarray) and value.size < 100:
        return bool(np.all(np.isfinite(value)) and np.all(np.floor(value) == value))
    return False


def _asked(value, hint) -> bool:
    try:
        return isinstance(value, hint)
    except Exception:  # sizes that nobody has given yet
        return True


def _sequence_fits(value, origin, inner, loose) -> bool:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return loose and origin is not tuple and len(value.shape) > 0
    if isinstance(value, (str, bytes)) or isinstance(value, type):
        return False
    wanted = (list, tuple) if loose and origin in (tuple, list) else origin
    if not isinstance(value, wanted):
        return False
    if not isinstance(value, collections.abc.Sized) or not inner:
        return True
    if origin is tuple and not (len(inner) == 2 and inner[1] is ...):
        return len(value) == len(inner) and all(fits(v, h, loose=loose) for v, h in zip(value, inner))
    return all(fits(v, inner[0], loose=loose) for v in value) if isinstance(value, (list, tuple)) else True


# --- words -------------------------------------------------------------------------------------------------


def said(hint: Any) -> str:
    """A hint as readers of a signature know it."""
    if hint in _ANY or _is_tree(hint):
        return "arrays and numbers"
    if hint is None or hint is types.NoneType:
        return "None"
    if _is_union(hint):
        choices = typing.get_args(hint)
        if set(_NUMBERS[:4]) <= set(choices):
            rest = [c for c in choices if c not in (*_NUMBERS, jax.Array, np.ndarray, np.bool)]
            return " or ".join(["a number or an array", *map(said, rest)])
        shapes = {(c.dtype.__name__, c.dim_str) for c in choices if _is_array(c)}
        words = [f"{dtype}[{dims}]" if dims else f"a scalar ({dtype})" for dtype, dims in sorted(shapes)]
        return (
            " or ".join([*words, *(said(c) for c in choices if not _is_array(c) and c not in _NUMBERS)]) or "a number"
        )
    if _is_array(hint):
        if hint.dtype.__name__ == "Key":
            return "a typed key, jax.random.key(seed)"
        return f"{hint.dtype.__name__}[{hint.dim_str}]" if hint.dim_str else f"a scalar ({hint.dtype.__name__})"
    if hint is typing.SupportsIndex or hint is int:
        return "a static int"
    if hint is collections.abc.Callable or typing.get_origin(hint) is collections.abc.Callable:
        return "a function"
    if typing.get_origin(hint) is not None:
        return str(hint).replace("typing.", "").replace("collections.abc.", "")
    simple = {bool: "True or False", float: "a static number", str: "text", jax.Array: "an array"}
    return simple.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def describe(value: Any) -> str:
    """A value in a few words: dtype and shape of an array, the name of a class, what text says."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, jax.core.Tracer):
        return f"a traced {value.aval.str_short(short_dtypes=True)}"
    if isinstance(value, (jax.Array, np.ndarray)):
        if getattr(value, "dtype", None) is not None and _is_key(value.dtype):
            return f"keys of shape {value.shape}" if value.shape else "a typed key"
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if value is None or isinstance(value, (str, bytes, *_NUMBERS)):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return f"a {type(value).__name__} of length {len(value)}"
    if isinstance(value, Partial):
        return f"a function ({getattr(value.func, '__name__', 'Partial')})"
    if isinstance(value, types.FunctionType):
        return f"a function ({value.__name__})"
    return f"a {type(value).__name__}"


def _remedy(value, hint) -> str:
    if isinstance(value, jax.core.Tracer) and not _takes_arrays(hint):
        return "; keep it static (jax.jit(..., static_argnames=...), sweep.static)"
    if isinstance(value, type) and isinstance(hint, type) and issubclass(value, hint):
        return ", not an instance"
    choices = [c for c in (typing.get_args(hint) if _is_union(hint) else (hint,)) if _is_array(c)]
    form = _form(value, False)
    dims = [c.dim_str.split() for c in choices if "..." not in c.dim_str and "*" not in c.dim_str]
    if form and dims and len(form[0]) > max(map(len, dims)):
        return "; use jax.vmap over a batch"
    return ""


def _takes_arrays(hint) -> bool:
    choices = typing.get_args(hint) if _is_union(hint) else (hint,)
    return any(_is_array(c) or c in (jax.Array, *_ANY) for c in choices)


def note(name: str, bound: inspect.BoundArguments) -> str:
    """Function and arguments, for an error whose cause was not found."""
    return f"{name} was called with {', '.join(f'{n}={describe(v)}' for n, v in bound.arguments.items())}"


def short(signature: inspect.Signature) -> str:
    """A signature without annotations."""
    parameters = [p.replace(annotation=_EMPTY) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=_EMPTY))


__all__ = ["describe", "fits", "misfit", "note", "said", "short"]
