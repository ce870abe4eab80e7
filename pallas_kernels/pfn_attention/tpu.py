"""`pfn_attention` on TPU: a step has a block of rows and the whole context of one head on chip, and walks over that.

The softmax is the running one: largest score, sum and weighted values so far, which start with the row's own term
where it has one. Blocks of slots that begin after the last live one are not visited.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pallas_kernels._compat import call_tpu, pl, pltpu
from pallas_kernels.pfn_attention import reference

_LANES = 128
_TILE = 16  # rows of one bfloat16 tile; a float32 tile has 8
_BLOCK = 256  # rows, and slots, of a step
_MAX_BYTES = 64 * 2**20  # of the 128 MiB of VMEM
_DTYPES = ("float32", "bfloat16")


def refusal(query, key, *_, scale: float) -> str | None:
    """Why the kernel cannot take the arrays, or None."""
    if query.dtype.name not in _DTYPES:
        why = "TPUs have no double precision" if query.dtype.name == "float64" else "no kernel for this dtype"
        return f"the arrays are {query.dtype} and the TPU kernel takes {', '.join(_DTYPES)} ({why})"
    # Forward the context is on chip as a whole, backward also the rows with their outputs' cotangents and sums.
    need = on_chip(query.dtype, query.shape[1], (key.shape[0], key.shape[0])) + on_chip(
        query.dtype, query.shape[1], (query.shape[0],) * 3
    )
    if need > _MAX_BYTES:
        return f"the tokens need {need >> 20} MiB of on-chip memory and the TPU kernel takes {_MAX_BYTES >> 20}"
    return None


def on_chip(dtype, size: int, lengths: tuple[int, ...]) -> int:
    """Bytes of arrays of so many vectors, two copies of each."""
    return 2 * sum(lengths) * math.ceil(size / _LANES) * _LANES * max(dtype.itemsize, 4)


def blocks(rows: int, slots: int) -> tuple[int, int]:
    """(rows, slots) of a step."""
    return min(_BLOCK, _round_up(rows, _TILE)), min(_BLOCK, _round_up(slots, _LANES))


def call(query, key, value, own_key, own_value, limits, *, scale: float, interpret, sizes=None):
    """As `reference.call`; `interpret` is False, True or the parameters of the TPU interpreter."""
    (rows, size), slots = query.shape, key.shape[0]
    num_rows, num_slots = blocks(rows, slots) if sizes is None else sizes
    query, own_key, own_value = (padded(x, num_rows) for x in (query, own_key, own_value))
    key, value = (padded(x, num_slots) for x in (key, value))
    part, whole = block(num_rows, size), all_of(key)
    out, log_total = call_tpu(
        functools.partial(_body, scale=scale, num_slots=num_slots, interpret=interpret),
        grid=(query.shape[0] // num_rows,),
        in_specs=[LIMITS, part, part, part, whole, whole],
        out_specs=[part, block(num_rows, 1)],
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct((query.shape[0], 1), jnp.float32),
        ],
        interpret=interpret,
        name="pfn_attention",
        vmem_limit_bytes=_MAX_BYTES + 32 * 2**20,
    )(limits, query, own_key, own_value, key, value)
    return out[:rows], log_total[:rows]


LIMITS = pl.BlockSpec((1, 2), lambda i: (0, 0), memory_space=pltpu.SMEM)


def block(rows: int, size: int):
    """The step's rows of an array."""
    return pl.BlockSpec((rows, size), lambda i: (i, 0))


def all_of(x):
    """The whole array in every step."""
    return pl.BlockSpec(x.shape, lambda i: (0, 0))


def padded(x, rows: int):
    """x with zeros below, to a multiple of `rows`."""
    return jnp.pad(x, ((0, _round_up(x.shape[0], rows) - x.shape[0]), (0, 0)))


def at(j, rows: int):
    """The j-th block of rows of a ref."""
    return pl.ds(pl.multiple_of(j * rows, rows), rows)


def product(a, b, along_a: int, along_b: int, interpret):
    """As `reference.product`; on a TPU bfloat16 is multiplied as it is."""
    if interpret or a.dtype != jnp.bfloat16:  # on a CPU XLA refuses some products of bfloat16
        return reference.product(a, b, along_a, along_b)
    return lax.dot_general(a, b, (((along_a,), (along_b,)), ((), ())), preferred_element_type=jnp.float32)


def walk(length, step, carry):
    """`carry` after `step(j, carry)` for j from 0; the number of steps is known at run time only."""
    return lax.fori_loop(np.int32(0), length, step, carry)


def num_live_blocks(live, num_slots: int):
    """Blocks of slots with a live one."""
    return lax.div(live + np.int32(num_slots - 1), np.int32(num_slots))


def is_itself(limits_ref, rows: int):
    """Which of the step's rows add themselves (rows, 1)."""
    row = pl.program_id(0) * rows + lax.broadcasted_iota(jnp.int32, (rows, 1), 0)
    return row >= limits_ref[0, 1]


def is_live(limits_ref, j, shape):
    """Which entries of (rows, slots) belong to a live slot, in the j-th block of slots."""
    return j * shape[1] + lax.broadcasted_iota(jnp.int32, shape, 1) < limits_ref[0, 0]


def _body(
    limits_ref, query_ref, own_key_ref, own_value_ref, key_ref, value_ref, out_ref, sum_ref, *, scale, num_slots,
    interpret,
):  # fmt: skip
    query = query_ref[...]
    rows = query.shape[0]
    itself = is_itself(limits_ref, rows)
    own = jnp.where(itself, scale * reference.own_score(query, own_key_ref[...]), reference.MASKED)
    own_value = jnp.where(itself, own_value_ref[...].astype(jnp.float32), 0)

    def step(j, carry):
        largest, total, out = carry
        score = scale * product(query, key_ref[at(j, num_slots), :], 1, 1, interpret)
        score = jnp.where(is_live(limits_ref, j, score.shape), score, reference.MASKED)
        # The block has a live slot, so this is above `MASKED` and the weight of a dead one is 0.
        higher = jnp.maximum(largest, jnp.max(score, axis=1, keepdims=True))
        shrink, weight = jnp.exp(largest - higher), jnp.exp(score - higher)
        total = total * shrink + jnp.sum(weight, axis=1, keepdims=True)
        value = value_ref[at(j, num_slots), :]
        return higher, total, out * shrink + product(weight.astype(value.dtype), value, 1, 0, interpret)

    start = (own, jnp.where(itself, 1.0, 0.0).astype(jnp.float32), own_value)
    largest, total, out = walk(num_live_blocks(limits_ref[0, 0], num_slots), step, start)
    out_ref[...] = (out / total).astype(out_ref.dtype)
    sum_ref[...] = largest + jnp.log(total)


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


__all__: list[str] = []
