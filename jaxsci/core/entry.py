"""What went wrong, said on the failure path: the functions that users call name the argument that does not fit.

`guard` puts a thin wrapper around the public functions of a module, and around functions that its families hold. A call
that succeeds pays for one more Python call. When one fails inside JAX, NumPy or equinox, without a word of ours, the
arguments are held against the annotations, and the first that does not fit is named:

    gp.predict: x must be Float[Array, "num d"], got f32[3]; ...

Where all fit, the error stays what it is and gets a note with the arguments. An error is never touched if

* a function of ours, not the user, made the call: the outermost function of ours explains;
* a frame of the user's lies below: the error comes from a callback, so it is the user's own;
* one of our functions raised it, so that it has its words (a note says which call it was, if the words do not), or it
  tells of the machine (files, imports, memory, a callback that failed while a program ran).

Whatever is no `Exception`, such as KeyboardInterrupt, passes by. Generators are left alone: they fail after the call.

Reading hints: see `jaxsci/core/_hints.py`.
"""

import dis
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable
from typing import Any

from jaxsci.core import _written

_OWN = {"jaxsci", "pallas_kernels"}
# Whose frames are nobody's: errors pass through them, and calls come through them (vmap, scan, partial).
_LIBRARIES = set(
    "jax jaxlib equinox jaxtyping beartype numpy scipy opt_einsum ml_dtypes optax flax distrax tensorflow_probability"
    " diffrax lineax optimistix gymnax chex orbax xarray pandas h5netcdf matplotlib sklearn wadler_lindig".split()
)
_RAISES = {dis.opmap["RAISE_VARARGS"], dis.opmap["RERAISE"]}
# What tells of the machine, or of a callback while a program ran, and of no argument.
_OF_THE_MACHINE = (OSError, ImportError, MemoryError, RecursionError, NotImplementedError)
_KEPT_NAMES = {"JaxRuntimeError", "XlaRuntimeError", "TypeCheckError"}


def guard(namespace: dict[str, Any], *held: str) -> None:
    """Wrap what users call: the functions in ``__all__`` of a module, and `held` ones.

    Every public module calls this in its last line, so whoever imports it finds the wrappers. A function that is
    defined elsewhere, in a module with an underscore, stays there as it is: functions of ours that import it from there
    do not pay. One function has one wrapper wherever it is exported, and the wrapper names the module that was guarded
    first.

    Args:
        namespace: ``globals()`` of the module.
        held: names of further functions of this module, those that the records of a family hold.
    """
    hold(namespace, *namespace.get("__all__", ()), *held)


def hold(namespace: dict[str, Any], *names: str) -> None:
    """Wrap functions of a module by name: those that the records of its families hold and users call through them.

    Args:
        namespace: ``globals()`` of the module; a call of this stands in its last line, or in that of `guard`.
        names: of functions; whatever else they name stays.
    """
    for name in names:
        if is_plain_callable(value := namespace.get(name)):
            namespace[name] = guarded(value, namespace["__name__"], name)
        elif isinstance(value, type) and hasattr(value, "_fields") and "__signature__" not in vars(value):
            value.__signature__ = _written.signature(value)  # records show their fields' aliases, too


def is_plain_callable(value: Any) -> bool:
    """Whether `value` is a function or a jitted one: no class, no generator, no record that can be called.

    Example:
        >>> from jaxsci.core import entry
        >>> entry.is_plain_callable(print), entry.is_plain_callable(entry.guard), entry.is_plain_callable(dict)
        (False, True, False)
    """
    if isinstance(value, types.FunctionType):
        return not inspect.isgeneratorfunction(inspect.unwrap(value))
    return isinstance(getattr(value, "__wrapped__", None), types.FunctionType) and not isinstance(value, type)


def is_guarded(value: Any) -> bool:
    """Whether `value` is what `guarded` makes.

    Example:
        >>> from jaxsci import gp
        >>> from jaxsci.core import entry
        >>> entry.is_guarded(gp.condition), entry.is_guarded(print)
        (True, False)
    """
    return isinstance(value, types.FunctionType) and value.__code__ is _CODE


_made: dict[int, tuple[Callable, Callable]] = {}  # by the identity of the function, which is kept alive with it


def guarded(function: Callable, module: str, name: str) -> Callable:
    """`function` with an explanation of its failures; always the same wrapper for the same function.

    Signature, documentation and pickling are those of a function `name` of `module`; printed, the signature shows the
    aliases of the source (`jaxsci/core/_written.py`). What a jitted function offers
    beside the call (`lower`, ...) is offered by the wrapper, too.

    Args:
        function: any callable.
        module: the module in which users find it.
        name: its name there.

    Example:
        >>> import jax
        >>> from jaxsci.core import entry
        >>> def half(x: jax.Array) -> jax.Array:
        ...     return x / 2
        >>> wrapped = entry.guarded(half, "jaxsci.room", "half")
        >>> wrapped(jax.numpy.ones(2)).tolist(), wrapped.__name__, entry.is_guarded(wrapped)
        ([0.5, 0.5], 'half', True)
    """
    if is_guarded(function):
        return function
    if id(function) in _made:
        return _made[id(function)][1]
    room = module.removeprefix("jaxsci.").replace("._", ".")
    # Unwrapped, since a hook that checks types decorates it as every function of this module.
    wrapper = inspect.unwrap(_wrapper(function, functools.partial(_explained, f"{room}.{name.strip('_')}", function)))
    # The globals of the function: tools (doctest, typing) ask for them.
    source = getattr(inspect.unwrap(function), "__globals__", wrapper.__globals__)
    wrapper = types.FunctionType(_CODE, source, name, None, wrapper.__closure__)
    functools.update_wrapper(wrapper, function, updated=())
    if (signature := _written.signature(function)) is not None:
        wrapper.__signature__ = signature
    wrapper.__module__, wrapper.__qualname__, wrapper.__name__ = module, name, name
    for offered in ("lower", "trace", "eval_shape", "clear_cache", "cache_clear", "cache_info"):
        if hasattr(function, offered):
            setattr(wrapper, offered, getattr(function, offered))
    if isinstance(function, types.FunctionType) and function.__module__ == module:
        function.__qualname__ = f"{name}.__wrapped__"  # under its own name pickle would find the wrapper
    _made[id(function)] = function, wrapper
    return wrapper


def _wrapper(function, explained):
    def wrapper(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise explained(error, args, kwargs)  # noqa: B904  (the cause is set where there is another one)

    return wrapper


_CODE = inspect.unwrap(_wrapper(None, None)).__code__


# --- on the failure path -----------------------------------------------------------------------------------


def _owner(frame: types.FrameType) -> str:
    """Whose code runs in a frame: "ours", "library" or "user"."""
    root = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    file = frame.f_code.co_filename
    if frame.f_globals.get("__name__") == "jaxsci.core.static" and frame.f_code.co_name == "__call__":
        return "library"  # `Bound` passes on what it was called with, as Partial does
    if root in _OWN:  # a doctest runs in the names of its module
        return "user" if file.startswith(("<doctest", "<stdin", "<ipython")) else "ours"
    generated = root.startswith("namedtuple_") or root == "" or file == "<frozen importlib._bootstrap>"
    if root in _LIBRARIES or generated or root in sys.stdlib_module_names and root != "__main__":
        return "library"
    return "user"


def _called_by_us(frame: types.FrameType | None) -> bool:
    while frame is not None and _owner(frame) == "library":
        frame = frame.f_back
    return frame is not None and _owner(frame) == "ours"


def _explained(name: str, function: Callable, error: Exception, args: tuple, kwargs: dict) -> Exception:
    """The error that the user shall see: `error` itself, or one that names the argument and has `error` as its cause.

    Looking for words must not raise errors of its own, whatever the arguments are.
    """
    if isinstance(error, _OF_THE_MACHINE) or type(error).__name__ in _KEPT_NAMES:
        return error
    if _called_by_us(sys._getframe(2)):
        return error
    steps, tb = [], error.__traceback__.tb_next if error.__traceback__ else None
    while tb is not None:
        steps.append(tb)
        tb = tb.tb_next
    if any(_owner(step.tb_frame) == "user" for step in steps):
        return error
    try:
        return _found(name, function, error, args, kwargs, steps)
    except Exception:
        return error


def _found(name, function, error, args, kwargs, steps) -> Exception:
    from jaxsci.core import _hints

    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as misfit:
        signature = _hints.short(inspect.signature(function))
        return _named(error, f"{name}: {misfit}; its arguments are {signature}")
    if steps:
        last = steps[-1]
        code = last.tb_frame.f_code.co_code
        if _owner(last.tb_frame) == "ours" and code[last.tb_lasti] in _RAISES:
            if not re.match(r"[\w.]+: ", str(error)):  # it does not say whose words they are
                error.add_note(_hints.note(name, bound))
            return error
    try:
        misfit = _hints.misfit(function, bound, error)
    except Exception:  # an argument that cannot even be asked what it is
        misfit = None
    if misfit is None:
        error.add_note(_hints.note(name, bound))
        return error
    return _named(error, f"{name}: {misfit}")


def _named(error: Exception, words: str) -> Exception:
    new = (ValueError if isinstance(error, ValueError) else TypeError)(words)
    new.__cause__ = error
    return new


__all__ = ["guard", "guarded", "hold", "is_guarded", "is_plain_callable"]
