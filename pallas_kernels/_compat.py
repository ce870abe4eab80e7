"""Pallas as the kernels see it: every name and parameter that depends on the version of JAX stands here.

Holds for JAX 0.10.2 to 0.11.2. The Triton backend of Pallas is announced to go one day; kernels therefore reach it
through `call_gpu`, `masked_load`, `gather`, `scatter` and `atomic_add` only, and where it is missing the ops fall back
on their references.
Importing this module imports Pallas, which takes time, so only the kernel modules do so.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

try:
    from jax.experimental.pallas import triton as plgpu
except ImportError:  # a later JAX without the Triton backend
    plgpu = None

TPU_TARGET = "tpu_custom_call"
"""Name of a compiled TPU kernel in lowered text."""

TRITON_NOTICE = "The Pallas Triton backend is deprecated"
"""JAX 0.11 warns with this text whenever it lowers a GPU kernel; there is no other backend for `pallas_call` yet."""

GPU_TARGET: str = getattr(plgpu, "CUSTOM_CALL_TARGET_NAME", "__gpu$xla.gpu.triton")
"""Name of a compiled GPU kernel in lowered text; public since 0.11."""


def missing(kind: str) -> str | None:
    """Why kernels of this kind ("tpu" or "gpu") cannot be built with the installed JAX, or None."""
    if kind == "gpu" and plgpu is None:
        return f"JAX {jax.__version__} has no Pallas Triton backend"
    return None


def call_tpu(
    body, *, grid: tuple[int, ...], in_specs, out_specs, out_shape, interpret: Any, name: str,
    vmem_limit_bytes: int | None = None, num_ordered: int = 0, scratch=(), num_prefetch: int = 0,
):  # fmt: skip
    """`pallas_call` for a TPU kernel; its body gets the refs (*prefetched, *inputs, *outputs, *scratch).

    By default the steps are independent of each other and there are neither prefetched operands nor scratch.

    Args:
        num_ordered: so many axes at the end of `grid` run in order, the last one fastest; steps along them may read
            what earlier ones left in scratch or in an output block whose index did not change meanwhile. Steps along
            the axes before them are independent: chips of two cores may split these.
        scratch: buffers of one core, e.g. ``pltpu.VMEM((8, 128), jnp.float32)`` for vectors and
            ``pltpu.SMEM((1, 1), jnp.int32)`` for scalars. They outlive a step and hold garbage at first. The body
            sets them where ``pl.program_id`` is 0 along every ordered axis, because what the runs of other
            independent steps and other entries of a batch left is still there.
        num_prefetch: so many leading operands are int32 arrays that lie in scalar memory before the first step. They
            have no entry in `in_specs`; every index map gets their refs after the indices of the grid:
            ``lambda i, rows: (rows[i], 0)``.

    Traps:
        * A prefetched index outside the array reads or writes foreign memory on a TPU. The TPU interpreter raises for
          one beyond the end and takes a negative one from the end; the plain interpreter takes some block for both.
          Clamp indices before the call.
        * An output block that no step writes holds garbage.
        * Under vmap the batch is a further, independent grid axis. A batched prefetched operand however makes a loop
          of one launch for each entry of the batch, and that loop does not lower where a mesh with explicit axes is
          set (JAX 0.11.2). A scalar that steers only the body and differs within batches is better an input of shape
          (1, 1) with ``pl.BlockSpec((1, 1), lambda i: (0, 0), memory_space=pltpu.SMEM)``.

    Raises:
        ValueError: `num_ordered` is not between 0 and the number of axes.
    """
    if not 0 <= num_ordered <= len(grid):
        raise ValueError(f"{name}: num_ordered must lie between 0 and the {len(grid)} axes of the grid: {num_ordered}")
    # On one core the interpreter gets no semantics: it does not count the grid axis that vmap puts in front.
    one_core = isinstance(interpret, pltpu.InterpretParams) and interpret.num_cores_or_threads == 1
    semantics = ("parallel",) * (len(grid) - num_ordered) + ("arbitrary",) * num_ordered
    return pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=num_prefetch,
            grid=grid,
            in_specs=in_specs,
            out_specs=out_specs,
            scratch_shapes=tuple(scratch),
        ),
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=None if one_core else semantics, vmem_limit_bytes=vmem_limit_bytes
        ),
        interpret=interpret,
        name=name,
    )


def call_gpu(
    body, *, grid: tuple[int, ...], in_specs, out_specs, out_shape, num_warps: int, num_stages: int,
    interpret: bool, name: str, aliases: dict[int, int] | None = None,
):  # fmt: skip
    """`pallas_call` for a Triton kernel; the parameters name the backend, whose default differs between versions.

    `aliases` maps inputs to the outputs that take their place in memory. On a GPU the ref of such an input reads what
    any program has written meanwhile, in the interpreter the values from before the call: read there only what no other
    program writes, and before this one does.
    """
    return pl.pallas_call(
        body,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=plgpu.CompilerParams(num_warps=num_warps, num_stages=num_stages),
        input_output_aliases=aliases or {},
        interpret=interpret,
        name=name,
    )


def loop(count: int, body, carry):
    """`fori_loop` from 0 with an int32 counter: in double precision its own has 64 bits, which TPUs refuse."""

    def step(c, _):
        return (c[0] + 1, body(*c)), None

    return lax.scan(step, (np.int32(0), carry), None, length=count)[0][1]


def masked_load(ref, start, size: int, mask, other):
    """`ref[start : start + size]` where `mask` holds, `other` elsewhere; nothing is read there (GPU bodies only)."""
    return plgpu.load(ref.at[pl.ds(start, size)], mask=mask, other=other)


def gather(ref, at, *, mask=None, other=0):
    """`ref[at]` element by element, `other` where an index is outside `ref` or `mask` is False (GPU bodies only).

    Nothing is read there. `at` is one integer array for each axis of `ref`, together a tuple where `ref` has several;
    they and `mask` broadcast to the shape of the result, whose extents are powers of two. Rows of a matrix:
    ``gather(x_ref, (rows[:, None], columns[None, :]))``, with columns beyond the last one where the row's length is
    no power of two. A negative index is outside: it does not count from the end. `ref` has at most 2**30 elements.
    """
    at, inside = _inside(ref, at, mask)
    at = tuple(jnp.where(inside, i, 0) for i in at)
    return plgpu.load(ref.at[at], mask=inside, other=jnp.full(inside.shape, other, ref.dtype))


def scatter(ref, at, value, *, mask=None) -> None:
    """`ref[at] = value`, except where an index is outside `ref` or `mask` is False (GPU bodies only).

    `at` and `mask` are as in `gather`; `value` broadcasts to their shape. Where two elements of one or of several
    programs have the same index, any of them may be what is kept. Elements of an output that no program writes hold
    garbage: name in `aliases` of `call_gpu` the input whose values they shall keep.
    """
    at, inside = _inside(ref, at, mask)
    at = _outside_apart(ref, at, inside)
    plgpu.store(ref.at[at], jnp.broadcast_to(value, inside.shape).astype(ref.dtype), mask=inside)


ATOMIC_DTYPES = ("float32", "float64", "int32", "uint32")
"""What `atomic_add` adds: Triton has no atomic addition of bfloat16 and of integers below 32 bits."""


def atomic_add(ref, at, value, *, mask=None, interpret: bool) -> None:
    """`ref[at] += value`, every element counted also where indices repeat (GPU bodies only).

    `at`, `mask` and `value` are as in `scatter`, and the output needs values to start from, so it takes the place of
    an input (`aliases` of `call_gpu`), e.g. of zeros. Programs add in any order: integers give one result, floats
    one that differs in its rounding from run to run. `interpret` is that of `call_gpu`, handed on to the body: the
    interpreter of Pallas loses repeated indices and takes no mask (JAX 0.10.2 to 0.11.2), so there the whole block
    is added to at once.

    Raises:
        TypeError: `ref` has a dtype that GPUs do not add atomically.
    """
    if ref.dtype.name not in ATOMIC_DTYPES:
        raise TypeError(f"atomic_add: the output is {ref.dtype} and GPUs add {', '.join(ATOMIC_DTYPES)} atomically")
    at, inside = _inside(ref, at, mask)
    value = jnp.broadcast_to(value, inside.shape).astype(ref.dtype)
    if interpret:
        ref[...] = ref[...].at[_outside_apart(ref, at, inside)].add(value, mode="drop")
    else:
        plgpu.atomic_add(ref, at, value, mask=inside)


def _inside(ref, at, mask):
    """(the index arrays, where all of them are inside `ref` and `mask` holds), all of one shape."""
    at = at if isinstance(at, tuple) else (at,)
    if len(at) != len(ref.shape):
        raise ValueError(f"expected one index array for each of the {len(ref.shape)} axes, got {len(at)}")
    shape = np.broadcast_shapes(*(i.shape for i in at), () if mask is None else mask.shape)
    # At least 32 bits, so that the extents can be told from an index of few: codes of 8 bits index 256 levels.
    at = tuple(jnp.broadcast_to(i if i.dtype.itemsize >= 4 else i.astype(jnp.int32), shape) for i in at)
    tests = [t for i, n in zip(at, ref.shape) for t in (i >= 0, i < n)]
    return at, functools.reduce(lax.bitwise_and, tests if mask is None else [*tests, jnp.broadcast_to(mask, shape)])


def _outside_apart(ref, at, inside):
    """The index arrays, beyond the end where not inside.

    A masked store writes nothing there on a GPU; the interpreter writes the old value back, over what another element
    may have stored in the same place, unless the index is beyond the end.
    """
    return tuple(jnp.where(inside, i, n) for i, n in zip(at, ref.shape))


def tpu_interpreter(dma: str = "on_wait", num_cores: int = 1):
    """Parameters of the TPU interpreter at its strictest: reads outside a buffer raise, unwritten memory is NaN.

    With two cores it also looks for races between grid steps, and then compiles anew at every call (JAX 0.10.2).
    """
    return pltpu.InterpretParams(
        dma_execution_mode=dma,
        detect_races=num_cores > 1,
        out_of_bounds_reads="raise",
        uninitialized_memory="nan",
        num_cores_or_threads=num_cores,
    )
