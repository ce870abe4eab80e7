"""The smallest op on each primitive of `pallas_kernels._compat`: they show how it is used, and climb the ladder.

===============  ========  =================================================================================
op               kernel    primitive
===============  ========  =================================================================================
running_sum      TPU       an ordered grid axis beside an independent one; scratch in VMEM and in SMEM
permute_tiles    TPU       index map by prefetched indices
segment_sum      TPU       all three: the prefetched segment of a tile says where an ordered sum is written
take             GPU       gather of rows, scatter of a ragged tail
put              GPU       scatter in place
histogram        GPU       atomic addition in place
===============  ========  =================================================================================

``op(*arrays, implementation=...)``: "reference" is plain NumPy; "interpret" and "tpu_interpret" are the interpreters;
None is the compiled kernel, which lowers for its own platform alone. `SPECS` and `make` are like those of arg_specs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pallas_kernels._compat import atomic_add, call_gpu, call_tpu, gather, pl, pltpu, scatter, tpu_interpreter

TILE = (8, 128)
BLOCK = 128
SEGMENTS = 3
LEFT_OUT = 3


def _tile(*lead: int):
    return jax.ShapeDtypeStruct((*lead, *TILE), jnp.float32)


# --- TPU ---------------------------------------------------------------------------------------------------


def running_sum_call(x, *, interpret, num_ordered=1):
    """Tiles (p, n, 8, 128): the sums over tiles 0..i of each p, and the total (p, n, 1, 1) of the tiles before i."""
    p, n = x.shape[:2]
    one = pl.BlockSpec((None, None, *TILE), lambda p, i: (p, i, 0, 0))
    number = pl.BlockSpec((None, None, 1, 1), lambda p, i: (p, i, 0, 0))
    return call_tpu(
        _running_sum_body,
        grid=(p, n),
        in_specs=[one],
        out_specs=[one, number],
        out_shape=[_tile(p, n), jax.ShapeDtypeStruct((p, n, 1, 1), jnp.float32)],
        num_ordered=num_ordered,
        scratch=[pltpu.VMEM(TILE, jnp.float32), pltpu.SMEM((1, 1), jnp.float32)],
        interpret=interpret,
        name="running_sum",
    )(x)


def _running_sum_body(x_ref, sum_ref, before_ref, carry, total):
    @pl.when(pl.program_id(1) == 0)
    def _():
        carry[...] = jnp.zeros_like(carry)
        total[0, 0] = jnp.zeros((), total.dtype)

    x = x_ref[...]
    carry[...] += x
    sum_ref[...] = carry[...]
    before_ref[...] = jnp.full((1, 1), total[0, 0])
    total[0, 0] += jnp.sum(x)


def _running_sum_truth(x):
    totals = x.sum((2, 3), keepdims=True)
    return np.cumsum(x, 1), np.cumsum(totals, 1) - totals


def permute_tiles_call(source, x, *, interpret):
    """Tiles x[source] of x (n, 8, 128), source (m,)."""
    m = source.size
    return call_tpu(
        _copy_body,
        grid=(m,),
        in_specs=[pl.BlockSpec((None, *TILE), lambda i, source: (source[i], 0, 0))],
        out_specs=pl.BlockSpec((None, *TILE), lambda i, source: (i, 0, 0)),
        out_shape=_tile(m),
        num_prefetch=1,
        interpret=interpret,
        name="permute_tiles",
    )(source, x)


def _copy_body(source_ref, x_ref, out_ref):
    out_ref[...] = x_ref[...]


def _permute_tiles_truth(source, x):
    return x[source]


def segment_sum_call(segment, x, *, num_segments, interpret):
    """Sums of the tiles (n, 8, 128) of each segment (n,); segments are in order and none is empty."""
    return call_tpu(
        _segment_sum_body,
        grid=(segment.size,),
        in_specs=[pl.BlockSpec((None, *TILE), lambda i, segment: (i, 0, 0))],
        out_specs=pl.BlockSpec((None, *TILE), lambda i, segment: (segment[i], 0, 0)),
        out_shape=_tile(num_segments),
        num_ordered=1,
        num_prefetch=1,
        scratch=[pltpu.VMEM(TILE, jnp.float32)],
        interpret=interpret,
        name="segment_sum",
    )(segment, x)


def _segment_sum_body(segment_ref, x_ref, out_ref, carry):
    i = pl.program_id(0)

    @pl.when((i == 0) | (segment_ref[i] != segment_ref[jnp.maximum(i - 1, 0)]))
    def _():
        carry[...] = jnp.zeros_like(carry)

    carry[...] += x_ref[...]
    out_ref[...] = carry[...]  # the last write before the block's index changes is the one that stays


def _segment_sum_truth(segment, x):
    return np.stack([x[segment == s].sum(0) for s in range(SEGMENTS)])


# --- GPU ---------------------------------------------------------------------------------------------------


def _whole(x):
    return pl.BlockSpec(x.shape, lambda i, n=len(x.shape): (0,) * n)  # a pointer: nothing is copied


def _call_gpu(body, count, inputs, out_shape, *, name, interpret, aliases=None):
    """`body` over programs of BLOCK of the `count` elements."""
    return call_gpu(
        body,
        grid=(-(-count // BLOCK),),
        in_specs=[_whole(x) for x in inputs],
        out_specs=_whole(out_shape),
        out_shape=out_shape,
        num_warps=4,
        num_stages=1,
        interpret=interpret,
        name=name,
        aliases=aliases,
    )(*inputs)


def _own():
    """The elements of this program; those beyond the end are outside every array."""
    return pl.program_id(0) * BLOCK + lax.broadcasted_iota(jnp.int32, (BLOCK,), 0)


def take_call(index, x, *, interpret):
    """Rows x[index] of x (n, d), d any length; -1 in rows whose index (m,) is outside 0..n-1 or is `LEFT_OUT`."""
    out = jax.ShapeDtypeStruct((index.size, x.shape[1]), x.dtype)
    columns = 1 << (x.shape[1] - 1).bit_length()  # extents of values are powers of two
    body = functools.partial(_take_body, columns=columns)
    return _call_gpu(body, index.size, (index, x), out, name="take", interpret=interpret)


def _take_body(index_ref, x_ref, out_ref, *, columns):
    own = _own()
    row = gather(index_ref, own, other=-1)
    column = lax.broadcasted_iota(jnp.int32, (1, columns), 1)
    value = gather(x_ref, (row[:, None], column), mask=row[:, None] != LEFT_OUT, other=-1)
    scatter(out_ref, (own[:, None], column), value)


def _take_truth(index, x):
    inside = (index >= 0) & (index < len(x)) & (index != LEFT_OUT)
    return np.where(inside[:, None], x[np.where(inside, index, 0)], np.array(-1, x.dtype))


def put_call(index, value, x, *, interpret):
    """x (n,) with x[index] = value (m,) where the index is inside and the value positive; indices differ."""
    return _call_gpu(_put_body, index.size, (index, value, x), x, name="put", interpret=interpret, aliases={2: 0})


def _put_body(index_ref, value_ref, x_ref, out_ref):
    own = _own()
    value = gather(value_ref, own)
    scatter(out_ref, gather(index_ref, own, other=-1), value, mask=value > 0)


def _put_truth(index, value, x):
    x, kept = x.copy(), (index >= 0) & (index < len(x)) & (value > 0)
    x[index[kept]] = value[kept]
    return x


def histogram_call(index, weight, start, *, interpret):
    """start (n,) plus, in each bin, the weights (m,) whose index is that bin; indices outside are not counted."""
    body = functools.partial(_histogram_body, interpret=interpret)
    inputs = (index, weight, start)
    return _call_gpu(body, index.size, inputs, start, name="histogram", interpret=interpret, aliases={2: 0})


def _histogram_body(index_ref, weight_ref, start_ref, out_ref, *, interpret):
    own = _own()
    weight = gather(weight_ref, own, other=1)
    # Beyond the end every index is 0 and every weight 1: the mask leaves them out.
    atomic_add(out_ref, gather(index_ref, own), weight, mask=own < index_ref.shape[0], interpret=interpret)


def _histogram_truth(index, weight, start):
    out, kept = start.copy(), (index >= 0) & (index < len(start))
    np.add.at(out, index[kept], weight[kept])
    return out


# --- the ops -----------------------------------------------------------------------------------------------


def _op(call, truth):
    @functools.partial(jax.jit, static_argnames="implementation")
    def kernel(*arrays, implementation):
        return call(*arrays, interpret=_INTERPRET[implementation]())

    def op(*arrays, implementation=None):
        if implementation == "reference":
            return truth(*(np.asarray(a) for a in arrays))
        return kernel(*arrays, implementation=implementation)

    return op


_INTERPRET = {None: lambda: False, "interpret": lambda: True, "tpu_interpret": tpu_interpreter}

running_sum = _op(running_sum_call, _running_sum_truth)
permute_tiles = _op(permute_tiles_call, _permute_tiles_truth)
segment_sum = _op(functools.partial(segment_sum_call, num_segments=SEGMENTS), _segment_sum_truth)
take = _op(take_call, _take_truth)
put = _op(put_call, _put_truth)
histogram = _op(histogram_call, _histogram_truth)

OPS = {
    "running_sum": running_sum,
    "permute_tiles": permute_tiles,
    "segment_sum": segment_sum,
    "take": take,
    "put": put,
    "histogram": histogram,
}
PLATFORM = {name: "tpu" if op in (running_sum, permute_tiles, segment_sum) else "cuda" for name, op in OPS.items()}


def make(name: str, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Arguments of an op, several grid steps and a ragged end; whole numbers, so that sums are exact in any order."""
    rng = np.random.default_rng(seed)

    def whole(*shape):
        return rng.integers(-9, 10, shape).astype(np.float32)

    if name == "running_sum":
        return (whole(2, 3, *TILE),)
    if name == "permute_tiles":
        return rng.integers(0, 4, 5).astype(np.int32), whole(4, *TILE)
    if name == "segment_sum":
        return np.sort(np.r_[:SEGMENTS, rng.integers(0, SEGMENTS, 3)]).astype(np.int32), whole(6, *TILE)
    m, n, ends = BLOCK + 61, 50, np.iinfo(np.int32)
    if name == "take":
        index = rng.integers(-5, n + 5, m)
        index[:4] = ends.min, ends.max, n, -1
        return index.astype(np.int32), whole(n, 5)
    if name == "put":
        index, value = rng.permutation(2 * m)[:m] - 40, whole(m)
        index[index == 0], index[0], value[0] = ends.min, 0, 7  # place 0 is written, whatever lies outside
        return index.astype(np.int32), value, whole(m)
    # Few values, so that they repeat; an extent that the indices' own dtype cannot tell.
    return rng.integers(-9, 9, m).astype(np.int8), whole(m), whole(200)


SPECS = {name: tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in make(name)) for name in OPS}
