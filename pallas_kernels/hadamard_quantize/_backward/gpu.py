"""The masked transform on GPU (Triton): each program has one plane of 128 columns of some rows."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels._compat import gather, pl, scatter
from pallas_kernels.hadamard_quantize import gpu as forward
from pallas_kernels.hadamard_quantize.gpu import Config
from pallas_kernels.hadamard_quantize.reference import PLANE, Static, norm


def refusal(slope, mask, *, block: int, columns: bool = False) -> str | None:
    """Why the kernel cannot take the arrays, or None."""
    return forward.refusal(slope, static=Static("values", 0, block, True, columns))


def default_config(dtype) -> Config:
    """So many rows that no registers spill."""
    return Config(rows=32 if dtype == jnp.bfloat16 else 16, num_warps=8)


def call(slope, mask, *, block: int, columns: bool = False, interpret: bool, config: Config | None = None):
    """As `reference.call`; `config` None takes `default_config`."""
    if columns:
        return call(slope.T, mask.T, block=block, interpret=interpret, config=config).T
    num, n = slope.shape
    config = config or default_config(slope.dtype)
    return forward.launch(
        functools.partial(_body, block=block, config=config, interpret=interpret),
        (-(-num // config.rows), -(-n // PLANE)),
        (slope, mask, forward.signs(block)),
        [jax.ShapeDtypeStruct(slope.shape, slope.dtype)],
        "hadamard_quantize_backward",
        config,
        interpret,
    )[0]


def _body(slope_ref, mask_ref, matrix_ref, out_ref, *, block, config, interpret):
    here = forward.place(pl.program_id(0), pl.program_id(1), config.rows)
    slope = gather(slope_ref, here)
    kept = jnp.where(gather(mask_ref, here).astype(jnp.int32) != 0, slope.astype(jnp.float32), 0)
    raw = kept if block == 1 else forward.rotated(kept.astype(slope.dtype), matrix_ref[...], interpret)
    scatter(out_ref, here, raw * norm(block))


__all__: list[str] = []
