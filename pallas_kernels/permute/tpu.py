"""`permute` on TPU: one row a grid step, fetched from where its ancestor says, which lies in scalar memory.

A row is seen as lines of 128 lanes, padded where it is no multiple. The steps are independent; in place nothing is
saved, because a step copies its block whether it moves or not.
"""

import jax
import jax.numpy as jnp

from pallas_kernels._compat import call_tpu, pl
from pallas_kernels.permute.reference import SMALL, row_bytes

_LANES = 128
_DTYPES = ("float32", "bfloat16", "int32", "uint32")
_MAX_ROW = 2**20  # bytes: two in, two out, of 16 MiB
_MAX_ROWS = 2**17  # their ancestors take half of the scalar memory


def refusal(x, ancestors, *, in_place: bool) -> str | None:
    """Why the kernel cannot take the arrays, or None."""
    if x.dtype.name not in _DTYPES:
        return f"x is {x.dtype} and the TPU kernel takes {', '.join(_DTYPES)}"
    if not SMALL <= row_bytes(x) <= _MAX_ROW:
        return f"rows have {row_bytes(x)} bytes and the TPU kernel takes {SMALL} to {_MAX_ROW}"
    if ancestors.shape[0] > _MAX_ROWS:
        return f"there are {ancestors.shape[0]} ancestors and the TPU kernel takes at most {_MAX_ROWS}"
    return None


def call(x: jax.Array, ancestors: jax.Array, *, in_place: bool, interpret):
    """Rows of x (n, ...) by `ancestors` (m,) in [0, n); `interpret` is False, True or those of the TPU interpreter."""
    flat = x.reshape(x.shape[0], -1)
    width, num = flat.shape[1], ancestors.shape[0]
    lines = -(-width // _LANES)
    flat = jnp.pad(flat, ((0, 0), (0, lines * _LANES - width))).reshape(-1, lines, _LANES)
    moved = call_tpu(
        _body,
        grid=(num,),
        in_specs=[pl.BlockSpec((None, lines, _LANES), lambda k, ancestors: (ancestors[k], 0, 0))],
        out_specs=pl.BlockSpec((None, lines, _LANES), lambda k, ancestors: (k, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((num, lines, _LANES), x.dtype),
        interpret=interpret,
        name="permute",
        num_prefetch=1,
    )(ancestors, flat)
    return moved.reshape(num, lines * _LANES)[:, :width].reshape(num, *x.shape[1:])


def _body(ancestors_ref, x_ref, out_ref):
    out_ref[...] = x_ref[...]


__all__: list[str] = []
