"""Which implementation of an op runs: the one mechanism that all ops share.

An op is a folder ``pallas_kernels/<op>/`` whose modules keep to these names:

* ``reference.py``: ``call(*arrays, **static)``, the meaning of the op in jax.numpy;
* ``tpu.py`` and ``gpu.py``: ``call(*arrays, interpret, **static)``, the same by a kernel, and
  ``refusal(*arrays, **static)``, which tells from shapes and dtypes why the kernel cannot run, or None.

The op gives `run` a derivative (`_tangent`, or a ``custom_vjp``) and wraps it in ``jit``; it then composes with jit,
vmap, grad, scan and checkpoint.

===============  ==========================================================================================
implementation   what runs
===============  ==========================================================================================
None             on TPU and CUDA the kernel unless it refuses, elsewhere the reference; chosen when lowering
"reference"      jax.numpy, on every platform
"tpu"            the TPU kernel; compiles for TPU alone
"gpu"            the GPU kernel; compiles for CUDA alone
"interpret"      the GPU kernel in the interpreter of Pallas, on every platform; slow, for tests
"tpu_interpret"  the TPU kernel in the TPU interpreter (unwritten memory, reads out of bounds); slower still
===============  ==========================================================================================

One program is lowered for one platform: lowering or exporting for several at once is not possible with kernels inside.
A kernel is opaque to the partitioner: on sharded arrays call the op inside ``jax.shard_map``.
"""

import functools
import importlib
from typing import Any

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

IMPLEMENTATIONS = ("reference", "tpu", "gpu", "interpret", "tpu_interpret")

_PLATFORM = {"tpu": "tpu", "gpu": "cuda"}
_KIND = {"tpu": "tpu", "gpu": "gpu", "interpret": "gpu", "tpu_interpret": "tpu"}
_INSTEAD = {"tpu": "tpu_interpret", "gpu": "interpret"}


def run(op: str, *arrays: jax.Array, implementation: str | None, **static: Any):
    """Evaluate `op` by the implementation asked for; `None` picks by platform at lowering time.

    Args:
        op: name of a folder of this package.
        *arrays: the op's arrays, traced.
        implementation: see the table above, static.
        **static: the op's static arguments, handed to every implementation.

    Raises:
        ValueError: unknown name; the named kernel refuses these shapes or dtypes; or, when lowering, the named kernel
            is for another platform.
    """
    reference = functools.partial(_module(op, "reference").call, **static)
    if implementation == "reference":
        return reference(*arrays)
    if implementation is None:
        kinds = [kind for kind in _PLATFORM if _refusal(op, kind, arrays, static) is None]
        branches = {_PLATFORM[kind]: _kernel(op, kind, False, static) for kind in kinds}
        return lax.platform_dependent(*arrays, default=reference, **branches) if branches else reference(*arrays)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"{op}: implementation must be None or one of {', '.join(map(repr, IMPLEMENTATIONS))}, "
            f"got {implementation!r}"
        )
    kind = _KIND[implementation]
    reason = _refusal(op, kind, arrays, static)
    if reason is not None:
        raise ValueError(
            f"{op}: implementation={implementation!r} cannot run here: {reason}; use implementation=None, which "
            "takes a kernel where one can run and the reference elsewhere, or 'reference'"
        )
    if implementation == "interpret":
        return _kernel(op, kind, True, static)(*arrays)
    if implementation == "tpu_interpret":
        return _kernel(op, kind, _module("_compat").tpu_interpreter(), static)(*arrays)
    elsewhere = functools.partial(_wrong_platform, op, kind, reference)
    return lax.platform_dependent(*arrays, default=elsewhere, **{_PLATFORM[kind]: _kernel(op, kind, False, static)})


def _module(*path: str):
    # Imported at first use: Pallas takes time to import, and `import pallas_kernels` shall not pay for it.
    return importlib.import_module(".".join(("pallas_kernels", *path)))


def _kernel(op: str, kind: str, interpret: Any, static: dict):
    return functools.partial(_module(op, kind).call, interpret=interpret, **static)


def _refusal(op: str, kind: str, arrays: tuple, static: dict) -> str | None:
    return _module("_compat").missing(kind) or _module(op, kind).refusal(*arrays, **static)


# A named kernel on another platform. The platform is known only when lowering, so the error has to come from there:
# a primitive without inputs stands in the place of the result, and its lowering raises.

_nowhere_p = Primitive("pallas_kernels_wrong_platform")
_nowhere_p.multiple_results = True
_nowhere_p.def_abstract_eval(lambda *, message, avals: avals)


def _refuse_to_lower(ctx, *, message, avals):
    raise ValueError(message)


mlir.register_lowering(_nowhere_p, _refuse_to_lower)


def _wrong_platform(op: str, kind: str, reference, *arrays):
    shapes, tree = jax.tree.flatten(jax.eval_shape(reference, *arrays))
    message = (
        f"{op}: implementation={kind!r} compiles for {_PLATFORM[kind]} alone and this program is lowered for another "
        f"platform; use None or 'reference' to run here, or {_INSTEAD[kind]!r} to run the same kernel in an interpreter"
    )
    avals = tuple(jax.core.ShapedArray(s.shape, s.dtype) for s in shapes)
    return jax.tree.unflatten(tree, _nowhere_p.bind(message=message, avals=avals))
