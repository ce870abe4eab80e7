"""What a compiled function computes, as a digest: the text of its program and the contents of the arrays it captures.

The function is traced on the shapes of its arguments and lowered for the platform that computes, without compiling.
The text of that program has no locations, no folders and no names of Python variables, so a comment, a renamed local or
a moved file keeps the digest; an edit anywhere that changes a number changes it, also in a library, in a data file that
the function reads, or in a kernel of Pallas. Not seen are the versions of the compiler and settings that act later than
lowering: `provenance.versions` and `provenance.settings` stand beside a digest.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import numpy as np
from jaxtyping import PyTree

from jaxsci.core import entry, provenance

_SYMBOL = re.compile(r'@("(?:[^"\\]|\\.)*"|[A-Za-z_$.][\w$.-]*)')
_LONG_CONSTANT = re.compile(r'dense<"0x[0-9A-Fa-f]+">')
_RESULT_NAMES = re.compile(r'jax\.result_info = "[^"]*"')


def fingerprint(function: Callable, *args: PyTree, platform: str | None = None) -> str:
    """Hexadecimal digest of the program that `function` is on arguments of these shapes.

    It is equal in every process, for any hash seed, number of devices and state of caches. Algebraically equal programs
    (``x + x`` and ``2 * x``) differ. A `jax.debug.print` counts as a part of the program; a host callback counts by its
    place in the program and its source text (`provenance.source_of`), which is all that can be known of it.

    Args:
        function: a function of arrays; it is traced anew, and once more over two lanes where it holds a
            `jax.custom_batching.custom_vmap`, whose rule only a batch shows.
        *args: pytrees of arrays or `jax.ShapeDtypeStruct`s; their values do not count.
        platform: ``"cpu"``, ``"tpu"``, ``"cuda"`` or ``"rocm"``; by default where JAX computes.

    Returns:
        64 hexadecimal digits (SHA-256).

    Raises:
        Whatever `function` raises while it is traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import program
        >>> x = jnp.ones(3)
        >>> program.fingerprint(lambda x: 2 * x, x) == program.fingerprint(lambda renamed: renamed * 2, x)
        False
        >>> program.fingerprint(lambda x: 2 * x, x) == program.fingerprint(lambda renamed: 2 * renamed, x)
        True
    """
    # a function of its own each time: JAX would answer a known one with its former trace
    return of_jaxpr(jax.make_jaxpr(lambda *args: function(*args))(*args), platform)


def of_jaxpr(closed: Any, platform: str | None = None) -> str:
    """`fingerprint` of a function that is traced already, given as a `jax.extend.core.ClosedJaxpr`.

    Example:
        >>> import jax
        >>> from jaxsci.core import program
        >>> one, two = (program.of_jaxpr(jax.make_jaxpr(lambda x: x + c)(1.0)) for c in (1.0, 2.0))
        >>> print(one != two)
        True
    """
    found = list(equations(closed.jaxpr))
    parts = [_text_digest(closed, platform, lanes=False)]
    if any("custom_vmap" in e.primitive.name for e in found):
        parts.append(_text_digest(closed, platform, lanes=True))
    parts += [provenance.fingerprint(constant) for constant in closed.consts]
    for e in found:
        if e.primitive.name in ("pure_callback", "io_callback"):
            callback = e.params["callback"]
            parts.append(provenance.source_of(getattr(callback, "callback_func", callback)))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def platform_of(device: jax.Device) -> str:
    """The name under which programs for a device are lowered: JAX calls both kinds of GPU ``"gpu"``.

    Example:
        >>> import jax
        >>> from jaxsci.core import program
        >>> print(program.platform_of(jax.local_devices(backend="cpu")[0]))
        cpu
    """
    if device.platform != "gpu":
        return device.platform
    return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"


def inner_jaxprs(equation: Any) -> list[Any]:
    """Open jaxprs among the parameters of an equation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.core import program
        >>> jaxpr = jax.make_jaxpr(jax.jit(jnp.sin))(1.0).jaxpr
        >>> print(len(list(program.inner_jaxprs(jaxpr.eqns[0]))))
        1
    """
    found = []
    for value in equation.params.values():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                found.append(item)
    return found


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of an open jaxpr and of those nested in it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.core import program
        >>> jaxpr = jax.make_jaxpr(lambda x: jnp.sin(x) + 1)(1.0).jaxpr
        >>> print([equation.primitive.name for equation in program.equations(jaxpr)])
        ['sin', 'add']
    """
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_jaxprs(equation):
            yield from equations(inner)


def _text_digest(closed: Any, platform: str | None, lanes: bool) -> str:
    """Digest of the lowered text; captured arrays are arguments, so that they are no part of it."""

    def run(constants, args):
        function = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(closed.jaxpr, constants))
        return jax.vmap(function)(*args) if lanes else function(*args)

    constants = [jax.ShapeDtypeStruct(np.shape(c), c.dtype) for c in closed.consts]
    lead = (2,) if lanes else ()
    args = [jax.ShapeDtypeStruct(lead + a.shape, a.dtype, weak_type=a.weak_type) for a in closed.in_avals]
    # kernels are bytecode inside the text, and bytecode holds the files and lines of the Python code
    limit = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        traced = jax.jit(run).trace(constants, args)
        lowered = traced.lower(lowering_platforms=(platform or platform_of(jax.devices()[0]),))
        return _module_digest(lowered.compiler_ir("stablehlo"))
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def _module_digest(module: Any) -> str:
    """Digest of a module from its function ``main``. The names of the others come from Python and from a counter, so a
    call counts by the digest of the function that it calls."""
    bodies: dict[str, str] = {}
    for operation in module.body.operations:
        text = _LONG_CONSTANT.sub(lambda m: _hash(m.group()), operation.operation.get_asm())
        name = operation.attributes["sym_name"].value if "sym_name" in operation.attributes else text
        bodies[name] = _RESULT_NAMES.sub("", text)
    digests: dict[str, str] = {}

    def digest(name: str) -> str:
        def called(symbol: re.Match) -> str:
            other = symbol.group(1).strip('"')
            return "@" if other == name else f"@{digest(other)}" if other in bodies else symbol.group()

        if name not in digests:
            digests[name] = _hash(_SYMBOL.sub(called, bodies[name]))
        return digests[name]

    main = digest("main")
    # what no call reaches (nothing, as JAX lowers today) still counts
    return _hash("\n".join([main, *sorted(map(digest, set(bodies) - set(digests)))]))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


__all__ = ["equations", "fingerprint", "inner_jaxprs", "of_jaxpr", "platform_of"]

entry.guard(globals())
