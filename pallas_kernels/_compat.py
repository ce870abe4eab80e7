"""Pallas as the kernels see it: every name and parameter that depends on the version of JAX stands here.

Holds for JAX 0.10.2 to 0.11.2. The Triton backend of Pallas is announced to go one day; kernels therefore reach it
through `call_gpu` and `masked_load` only, and where it is missing the ops fall back on their references.
Importing this module imports Pallas (.3 s), so only the kernel modules do so.
"""

from typing import Any

import jax
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
    vmem_limit_bytes: int | None = None,
):  # fmt: skip
    """`pallas_call` for a TPU kernel whose grid steps are independent of each other."""
    # On one core the interpreter gets no semantics: it does not count the grid axis that vmap puts in front.
    one_core = isinstance(interpret, pltpu.InterpretParams) and interpret.num_cores_or_threads == 1
    semantics = None if one_core else ("parallel",) * len(grid)
    return pl.pallas_call(
        body,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        # No step reads what another wrote, so chips of two cores may split the grid.
        compiler_params=pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=vmem_limit_bytes),
        interpret=interpret,
        name=name,
    )


def call_gpu(
    body, *, grid: tuple[int, ...], in_specs, out_specs, out_shape, num_warps: int, num_stages: int,
    interpret: bool, name: str, aliases: dict[int, int] | None = None,
):  # fmt: skip
    """`pallas_call` for a Triton kernel; the parameters name the backend, whose default differs between versions.

    `aliases` maps inputs to the outputs that take their place in memory.
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
