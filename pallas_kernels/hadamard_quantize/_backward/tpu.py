"""The masked transform on TPU: plane by plane of 128 columns, like the op itself."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels._compat import call_tpu, pl
from pallas_kernels.hadamard_quantize import tpu as forward
from pallas_kernels.hadamard_quantize.reference import PLANE, Static, norm

_ROWS, _MOST_COLUMNS = 256, 1024


def refusal(slope, mask, *, block: int, columns: bool = False) -> str | None:
    """Why the kernel cannot take the arrays, or None."""
    return forward.refusal(slope, static=Static("values", 0, block, True, columns))


def call(slope, mask, *, block: int, columns: bool = False, interpret):
    """As `reference.call`; `interpret` is False, True or the parameters of the TPU interpreter."""
    if columns:
        return call(slope.T, mask.T, block=block, interpret=interpret).T
    (num, n), columns = slope.shape, forward.padded_columns(slope.shape[1])
    wide = max(c for c in range(PLANE, min(columns, _MOST_COLUMNS) + 1, PLANE) if columns % c == 0)
    rows = min(_ROWS, -(-num // forward._TILE) * forward._TILE)
    slope, mask = forward.padded(slope, rows, columns), forward.padded(mask, rows, columns)
    part = pl.BlockSpec((rows, wide), lambda i, j: (i, j))
    out = call_tpu(
        functools.partial(_body, block=block, interpret=interpret),
        grid=(slope.shape[0] // rows, columns // wide),
        in_specs=[part, part, pl.BlockSpec((PLANE, PLANE), lambda i, j: (0, 0))],
        out_specs=part,
        out_shape=jax.ShapeDtypeStruct(slope.shape, slope.dtype),
        interpret=interpret,
        name="hadamard_quantize_backward",
    )(slope, mask, forward.signs(block))
    return out[:num, :n]


def _body(slope_ref, mask_ref, matrix_ref, out_ref, *, block, interpret):
    for j in range(slope_ref.shape[1] // PLANE):
        here = slice(j * PLANE, (j + 1) * PLANE)
        slope = slope_ref[:, here]
        kept = jnp.where(mask_ref[:, here].astype(jnp.int32) != 0, slope.astype(jnp.float32), 0)
        raw = kept if block == 1 else forward.rotated(kept.astype(slope.dtype), matrix_ref[...], interpret)
        out_ref[:, here] = (raw * norm(block)).astype(out_ref.dtype)


__all__: list[str] = []
