"""Wrong calls of everything registered, and whose name their errors say.

`recorded` runs a registered entry up to its first good call of the public function and keeps the arguments;
`wrong_calls` makes the usual mistakes with them, one argument at a time; `verdict` reads the error.
"""

import contextlib
import inspect
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import contracts
import registry
from jaxsci.core import entry

MISTAKES = ("swapped", "batch", "text", "list", "none", "class", "length", "traced", "fraction", "complex")
VERDICTS = ("accepted", "named", "own words", "callback", "note", "bare", "blamed")


class Call(NamedTuple):
    """One good call: a name, the arguments that its entry passes, and those of them that no user gives."""

    name: str
    function: Callable
    args: tuple
    kwargs: dict
    compiled: bool
    added: frozenset[str] = frozenset()


class Wrong(NamedTuple):
    """One wrong call: the mistake, the arguments that it is in, and how to run it."""

    mistake: str
    arguments: tuple[str, ...]
    run: Callable[[], Any]


class _Recorded(BaseException):
    """Stops an entry at the call that was to be recorded."""


def spied(wrapper: Callable, spy: Callable[[tuple, dict], None], outside: bool = True) -> Callable[[], None]:
    """`spy` sees the arguments of every call of a guarded function, of those from `outside` alone; what undoes it."""
    cell = wrapper.__closure__[wrapper.__code__.co_freevars.index("function")]
    function = cell.cell_contents

    def watching(*args, **kwargs):
        if not outside or sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] not in registry.PACKAGES:
            spy(args, kwargs)
        return function(*args, **kwargs)

    cell.cell_contents = watching

    def undo():
        cell.cell_contents = function

    return undo


def recorded(name: str, function: Callable, registered, key, dtype: str = "float32", folder=None) -> Call | None:
    """The first good call of the public `name` in its entry, None where the entry makes none that can be caught.

    A driver works in `folder`, which must stay while the call is made again.
    """
    kept = []

    def spy(args, kwargs):
        kept.append((args, kwargs))
        raise _Recorded

    if not entry.is_guarded(function):
        return None
    undo = spied(function, spy)
    try:
        if isinstance(registered, contracts.Compiled):
            made, args = registered.make(key, np.dtype(dtype))
            made(*args)
        elif isinstance(registered, contracts.Builder):
            made, args = registered.make()
            made(*args)
        elif isinstance(registered, contracts.Family):
            registered.check(key, dtype)
        elif isinstance(registered, contracts.Driver) and (works := registered.works or registered.resume):
            works(folder)
    except _Recorded:
        pass
    finally:
        undo()
    if not kept or any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(kept[0])):
        return None
    return Call(name, function, *kept[0], isinstance(registered, contracts.Compiled))


# --- the mistakes ------------------------------------------------------------------------------------------


def _is_array(x) -> bool:
    return isinstance(x, (jax.Array, np.ndarray)) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _arrays(change: Callable, value):
    """`value` with `change` made to its arrays; None where it has none."""
    if not any(_is_array(leaf) for leaf in jax.tree.leaves(value)):
        return None
    return jax.tree.map(lambda leaf: change(np.asarray(leaf)) if _is_array(leaf) else leaf, value)


def _longer(a):
    return np.concatenate([a, a[-1:]]) if a.ndim and a.shape[0] else a


def _wrong_values(value) -> Iterator[tuple[str, Any]]:
    static = isinstance(value, (bool, int, str)) and not isinstance(value, np.generic)
    batch, longer = _arrays(lambda a: np.stack([a, a]), value), _arrays(_longer, value)
    if batch is not None:
        yield "batch", batch
    if not isinstance(value, str):
        yield "text", "abc"
    if _is_array(value) and value.ndim:
        yield "list", np.asarray(value).tolist()
    if value is not None:
        yield "none", None
    if not static and not isinstance(value, (float, type)) and value is not None and not _is_array(value):
        yield "class", type(value)
    if longer is not None and any(a is not b for a, b in zip(jax.tree.leaves(longer), jax.tree.leaves(value))):
        if any(np.shape(a) != np.shape(b) for a, b in zip(jax.tree.leaves(longer), jax.tree.leaves(value))):
            yield "length", longer
    if isinstance(value, int) and not isinstance(value, bool):
        yield "fraction", value + 0.5
    if isinstance(value, float) or _is_array(value) and np.issubdtype(value.dtype, np.floating):
        yield "complex", value * (1 + 1j)


def wrong_calls(call: Call) -> list[Wrong]:
    """The usual mistakes made with each argument of a good call."""
    bound = inspect.signature(call.function).bind(*call.args, **call.kwargs)
    given = [n for n in bound.arguments if n not in call.added]
    plain = [n for n in given if bound.signature.parameters[n].kind in (1, 3, 0)]
    found = []

    def with_(changes):
        again = inspect.signature(call.function).bind(*call.args, **call.kwargs)
        again.arguments.update(changes)

        def run():
            if call.compiled:  # nothing needs to be compiled for its error
                return jax.eval_shape(lambda: _arrays_of(call.function(*again.args, **again.kwargs)))
            return call.function(*again.args, **again.kwargs)

        return run

    for name in plain:
        value = bound.arguments[name]
        found += [Wrong(m, (name,), with_({name: wrong})) for m, wrong in _wrong_values(value)]
        if isinstance(value, (bool, int)):

            def traced(value, name=name):
                again = inspect.signature(call.function).bind(*call.args, **call.kwargs)
                again.arguments[name] = value
                return _arrays_of(call.function(*again.args, **again.kwargs))

            found.append(Wrong("traced", (name,), lambda traced=traced, value=value: jax.eval_shape(traced, value)))
    for one, other in zip(plain, plain[1:]):
        a, b = bound.arguments[one], bound.arguments[other]
        if _form(a) != _form(b):
            found.append(Wrong("swapped", (one, other), with_({one: b, other: a})))
    return found


def _arrays_of(result):
    return [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, jax.Array)]


def _form(value):
    leaves = jax.tree.leaves(value)
    return jax.tree.structure(value), [(getattr(a, "shape", ()), getattr(a, "dtype", type(a))) for a in leaves]


class _TooLong(BaseException):
    """A call that still runs was not refused."""


@contextlib.contextmanager
def _limit(seconds: float = 5.0):
    """End what computes longer: a driver that took a wrong argument for a right one."""

    def ended(*_):
        raise _TooLong

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGPROF, ended)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# --- reading the answer ------------------------------------------------------------------------------------


def verdict(call: Call, wrong: Wrong) -> tuple[str, str]:
    """One of `VERDICTS` about the error of a wrong call, and its text."""
    try:
        with _limit():
            result = wrong.run()
    except _TooLong:
        return "accepted", ""
    except Exception as error:
        return read(error, call, wrong.arguments)
    if wrong.mistake == "complex" and not any(
        np.issubdtype(leaf.dtype, np.complexfloating) for leaf in jax.tree.leaves(result) if hasattr(leaf, "dtype")
    ):
        return "lost", "an imaginary part was dropped, or never looked at"
    return "accepted", ""


def read(error: Exception, call: Call, arguments: tuple[str, ...]) -> tuple[str, str]:
    """Whom an error blames: "named" is one of `arguments`, "blamed" another argument of this function."""
    text = f"{type(error).__name__}: {error}"
    parameters = set(inspect.signature(call.function).parameters)
    words = set(re.findall(r"\w+", str(error)))
    chosen = re.match(r"^[\w.]+: (?P<who>\w+)(\[\d+\])? (must|has a field)", str(error))
    owners = [entry._owner(step.tb_frame) for step in _steps(error)]
    if _by_wrapper(error):  # the argument that `entry` found, or one that the signature lacks
        partners = re.search(r", with (.*)$", str(error))
        who = {chosen["who"], *re.findall(r"\w+", partners[1] if partners else "")} if chosen else words
        return ("named" if who & set(arguments) else "blamed"), text
    if "ours" in owners and "user" in owners[owners.index("ours") :]:
        return "callback", text
    if isinstance(error, OSError):  # of the machine, about the file that was named
        return "own words", text
    if owners[-1] == "ours" and _raises(error):
        if words & set(arguments):
            return "named", text
        return ("blamed" if chosen and chosen["who"] in parameters else "own words"), text
    notes = [n for n in getattr(error, "__notes__", ()) if "was called with" in n]
    return ("note" if notes else "bare"), text


def _steps(error: Exception) -> list:
    steps = [error.__traceback__]
    while steps[-1].tb_next is not None:
        steps.append(steps[-1].tb_next)
    return steps


def _raises(error: Exception) -> bool:
    last = _steps(error)[-1]
    return last.tb_frame.f_code.co_code[last.tb_lasti] in entry._RAISES


def _by_wrapper(error: Exception) -> bool:
    """Whether `entry` made this error: its traceback ends in the wrapper."""
    return _steps(error)[-1].tb_frame.f_code is entry._CODE
