"""`pfn_attention` on GPU (Triton): a program has a block of rows of one head and walks over blocks of live slots.

The softmax is the running one, as on TPU. Ends that are ragged cost nothing but masks: no array is padded. Float32 is
multiplied as three products of TF32 parts, float32's own multiply-adds would spill registers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pallas_kernels._compat import call_gpu, gather, pl, scatter
from pallas_kernels.pfn_attention import reference

_DTYPES = ("float32", "bfloat16")
_MAX_SIZE, _MAX_WIDTH = 2**30, 128


class Config(NamedTuple):
    """Launch parameters: rows and slots of a block, both powers of two from 16 on."""

    rows: int
    slots: int
    num_warps: int
    num_stages: int


def default_config(rows: int, slots: int, size: int, dtype) -> Config:
    """64 by 64 in bfloat16; less in float32 and for heads above 64, so that no registers spill."""
    low, long = dtype == jnp.bfloat16, size > 64
    most = {(True, False): (64, 64), (True, True): (64, 32), (False, False): (32, 32), (False, True): (16, 32)}
    num_rows, num_slots = most[low, long]
    warps, stages = 8 if low and long else 4, 2 if low else 1
    return Config(min(num_rows, power(rows)), min(num_slots, power(slots)), warps, stages)


def refusal(query, key, *_, scale: float) -> str | None:
    """Why the kernel cannot take the arrays, or None."""
    if query.dtype.name not in _DTYPES:
        return f"the arrays are {query.dtype} and the GPU kernel takes {', '.join(_DTYPES)}"
    if query.shape[1] > _MAX_WIDTH:
        return f"a head has {query.shape[1]} entries and the GPU kernel takes at most {_MAX_WIDTH}"
    if max(query.size, key.size) > _MAX_SIZE:
        return f"the arrays have {max(query.size, key.size)} elements and the GPU kernel takes at most {_MAX_SIZE}"
    return None


def call(query, key, value, own_key, own_value, limits, *, scale: float, interpret: bool, config: Config | None = None):
    """As `reference.call`; `config` None takes `default_config`."""
    rows, size = query.shape
    config = config or default_config(rows, key.shape[0], size, query.dtype)
    return launch(
        functools.partial(_body, scale=scale, config=config, interpret=interpret),
        -(-rows // config.rows),
        (limits, query, own_key, own_value, key, value),
        [jax.ShapeDtypeStruct(query.shape, query.dtype), jax.ShapeDtypeStruct((rows, 1), jnp.float32)],
        "pfn_attention",
        config,
        interpret,
    )


def launch(body, programs, arrays, out_shape, name, config, interpret):
    """`body` over `programs`, each with pointers to all arrays: nothing is copied."""
    whole = [pl.BlockSpec(x.shape, lambda i: (0, 0)) for x in (*arrays, *out_shape)]
    return call_gpu(
        body, grid=(programs,), in_specs=whole[: len(arrays)], out_specs=whole[len(arrays) :], out_shape=out_shape,
        num_warps=config.num_warps, num_stages=config.num_stages, interpret=interpret, name=name,
    )(*arrays)  # fmt: skip


def power(n: int) -> int:
    """The next power of two, at least 16: what a product of blocks takes."""
    return max(16, 1 << (n - 1).bit_length())


def product(a, b, along_a: int, along_b: int, interpret: bool):
    """As `reference.product`."""
    if interpret:  # on a CPU XLA refuses some products of bfloat16
        return reference.product(a, b, along_a, along_b)
    precision = None if a.dtype == jnp.bfloat16 else lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    sums = (((along_a,), (along_b,)), ((), ()))
    return lax.dot_general(a, b, sums, precision=precision, preferred_element_type=jnp.float32)


def block(ref, j, rows: int):
    """The j-th block of rows of a ref (n, size), 0 beyond its ends; at least 16 wide."""
    return gather(ref, (index(j, rows)[:, None], jnp.arange(power(ref.shape[1]), dtype=jnp.int32)[None, :]))


def column(ref, j, rows: int, which: int):
    """Entries (rows, 1) of one column of a ref, 0 beyond its end."""
    return gather(ref, (index(j, rows)[:, None], jnp.full((rows, 1), which, jnp.int32)))


def write(ref, j, x):
    """`x` as the j-th block of rows of a ref; what lies beyond its ends is dropped."""
    lanes = jnp.arange(x.shape[1], dtype=jnp.int32)[None, :]
    scatter(ref, (index(j, x.shape[0])[:, None], lanes), x)


def index(j, rows: int):
    """Numbers of the rows of the j-th block."""
    return j * rows + lax.broadcasted_iota(jnp.int32, (rows,), 0)


def walk(length, step, carry):
    """`carry` after `step(j, carry)` for j from 0; the number of steps is known at run time only."""
    return lax.fori_loop(np.int32(0), length, step, carry)


def num_live_blocks(limits_ref, slots: int):
    """Blocks of slots with a live one."""
    return lax.div(limits_ref[0, 0] + np.int32(slots - 1), np.int32(slots))


def _body(
    limits_ref, query_ref, own_key_ref, own_value_ref, key_ref, value_ref, out_ref, sum_ref, *, scale, config,
    interpret,
):  # fmt: skip
    i = pl.program_id(0)
    rows, slots = config.rows, config.slots
    query, own_key = block(query_ref, i, rows), block(own_key_ref, i, rows)
    itself = index(i, rows)[:, None] >= limits_ref[0, 1]
    own = jnp.where(itself, scale * reference.own_score(query, own_key), reference.MASKED)
    own_value = jnp.where(itself, block(own_value_ref, i, rows).astype(jnp.float32), 0)

    def step(j, carry):
        largest, total, out = carry
        score = scale * product(query, block(key_ref, j, slots), 1, 1, interpret)
        score = jnp.where(index(j, slots)[None, :] < limits_ref[0, 0], score, reference.MASKED)
        # The block has a live slot, so this is above `MASKED` and the weight of a dead one is 0.
        higher = jnp.maximum(largest, jnp.max(score, axis=1, keepdims=True))
        shrink, weight = jnp.exp(largest - higher), jnp.exp(score - higher)
        total = total * shrink + jnp.sum(weight, axis=1, keepdims=True)
        value = block(value_ref, j, slots)
        return higher, total, out * shrink + product(weight.astype(value.dtype), value, 1, 0, interpret)

    start = (own, jnp.where(itself, 1.0, 0.0).astype(jnp.float32), own_value)
    largest, total, out = walk(num_live_blocks(limits_ref, slots), step, start)
    write(out_ref, i, out / total)
    write(sum_ref, i, largest + jnp.log(total))


__all__: list[str] = []
