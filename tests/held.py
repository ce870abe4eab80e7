"""Good calls of what users reach through the records of families: policies' updates, kernels, moves, solvers' steps.

`recorded` runs registered entries without compiling them, notes the first call of every held function, by whomever it
is made, and which of its arguments the record adds itself. Traced arguments become ones of their shape and dtype.
"""

import contextlib
import inspect
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import contracts
import mistakes
import registry
from jaxsci.core import entry
from jaxsci.core.static import Bound


def functions() -> dict[str, Callable]:
    """Guarded functions that have no public name, by module and name."""
    public = {id(value) for value in registry.public_names().values()}
    return {
        f"{module}.{name}": value
        for module in sorted(m for m in sys.modules if m.startswith("jaxsci."))
        for name, value in vars(sys.modules[module]).items()
        if entry.is_guarded(value) and value.__module__ == module and id(value) not in public
    }


class _Ended(BaseException):
    """Stops a check where it would compile: what it calls by hand has been seen."""


@contextlib.contextmanager
def _noted_holders():
    """A list of the Partials and Bounds whose calls run, the innermost last."""
    holders, plain = [], {Partial: Partial.__call__, Bound: Bound.__call__}

    def noting(call):
        def noted(self, *args, **kwargs):
            holders.append(self)
            try:
                return call(self, *args, **kwargs)
            finally:
                holders.pop()

        return noted

    for kind, call in plain.items():
        kind.__call__ = noting(call)
    try:
        yield holders
    finally:
        del Partial.__call__  # inherited
        Bound.__call__ = plain[Bound]


@contextlib.contextmanager
def _nothing_compiled():
    """What jax.jit makes in here ends the check when it is called."""

    def ended(*args, **kwargs):
        raise _Ended

    plain = jax.jit
    jax.jit = lambda *args, **kwargs: ended
    try:
        yield
    finally:
        jax.jit = plain


def _added(function, holders) -> tuple[int, set[str]]:
    """How many positional arguments the innermost holders of a function add to its call, and which keywords."""
    count, names = 0, set()
    for holder in reversed(holders):
        if getattr(holder, "func", getattr(holder, "function", None)) is not function:
            break
        count += len(getattr(holder, "args", ()))
        names |= set(getattr(holder, "keywords", ()) or dict(getattr(holder, "items", ())))
        function = holder
    return count, names


def _noted(value):
    """`value` with the shapes and dtypes of its tracers, which end with the trace."""
    traced = jax.core.Tracer
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype) if isinstance(a, traced) else a, value)


def _filled(value):
    """`value` with ones for the shapes in it, and keys of zeros for those of keys."""

    def leaf(a):
        if not isinstance(a, jax.ShapeDtypeStruct):
            return a
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(np.zeros((*a.shape, 2), np.uint32))
        return jnp.asarray(np.ones(a.shape, a.dtype))

    return jax.tree.map(leaf, value)


def _run(registered, key) -> None:
    """Call what an entry registers, compiling nothing."""
    if isinstance(registered, contracts.Compiled):
        function, args = registered.make(key, np.dtype("float32"))
        jax.eval_shape(lambda: mistakes._arrays_of(function(*args)))
    elif isinstance(registered, contracts.Builder):
        function, args = registered.make()
        function(*args)
    elif isinstance(registered, contracts.Family):
        with contextlib.suppress(Exception):  # it ends where it looks at a traced number
            jax.eval_shape(lambda: registered.check(key, "float32"))
        with _nothing_compiled():
            registered.check(key, "float32")


def recorded(entries: dict[str, object], key, names: set[str] | None = None) -> dict[str, mistakes.Call]:
    """The first good calls that some registered entries make of held functions.

    Args:
        entries: by their names, what is run.
        key: for the arguments of the entries.
        names: of held functions that are asked for; all by default.
    """
    found, undo = {}, []
    with _noted_holders() as holders:
        for name, function in functions().items():
            if names is not None and name not in names:
                continue

            def spy(args, kwargs, name=name, function=function):
                if name not in found:
                    found[name] = function, _noted(args), _noted(kwargs), *_added(function, holders)

            undo.append(mistakes.spied(function, spy, outside=False))
        try:
            for registered in entries.values():
                with contextlib.suppress(Exception, _Ended):
                    _run(registered, key)
        finally:
            for again in undo:
                again()
    return {name: call for name, kept in found.items() if (call := _good(name, *kept)) is not None}


def _good(name, function, args, kwargs, count, keywords) -> mistakes.Call | None:
    """The call, if it can be made again with ones for what was traced."""
    parameters, args, kwargs = list(inspect.signature(function).parameters), _filled(args), _filled(kwargs)
    call = mistakes.Call(name, function, args, kwargs, True, frozenset({*parameters[:count], *keywords}))
    try:
        jax.eval_shape(lambda: mistakes._arrays_of(function(*args, **kwargs)))
    except Exception:
        return None
    return call


__all__ = ["functions", "recorded"]
