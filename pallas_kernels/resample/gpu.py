"""`resample` on GPU (Triton): five launches, none of which waits for another program.

1. `log_weight_stats`; 2. each program adds up the shares of its slab; 3. one program scans these totals; 4. each
program scans its slab from there and writes the ends of the stretched shares; 5. each slot finds its ancestor by binary
search among them, and neighbouring slots read neighbouring ends. (An exponential is the same in 2 and 4, so the total
is that of the sums.)
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pallas_kernels._compat import call_gpu, gather, loop, masked_load, pl, scatter
from pallas_kernels.log_weight_stats import gpu as stats_gpu
from pallas_kernels.log_weight_stats import reference as stats
from pallas_kernels.resample import _fixed, reference


class Config(NamedTuple):
    """Launch parameters: `block` elements (a power of two) per load, `steps` loads per program."""

    block: int
    steps: int
    num_warps: int


def default_config(n: int) -> Config:
    """At most some thousand slabs, so that their totals are one block of one program."""
    block = min(1024, max(128, 1 << (n - 1).bit_length()))
    steps = max(1, math.ceil(n / (4096 * block)))
    return Config(block, steps, num_warps=4)


def refusal(log_weights, offset, *, num_out: int) -> str | None:
    """Why the kernel cannot take the arrays, or None."""
    return stats_gpu.refusal(log_weights)


def call(log_weights: jax.Array, offset: jax.Array, *, num_out: int, interpret: bool, config: Config | None = None):
    """Ancestors (num_out,) of log-weights (n,); `config` None takes `default_config`."""
    n = log_weights.shape[0]
    config = default_config(n) if config is None else config
    launch = functools.partial(_launch, config=config, interpret=interpret)
    slabs = math.ceil(n / (config.block * config.steps))
    largest, total, _, _ = stats_gpu.call(log_weights, interpret=interpret)
    usable = jnp.isfinite(largest)
    scale = _fixed.coarse_scale(jnp.where(usable, total, 1), num_out).astype(largest.dtype)
    numbers = [jnp.where(usable, stats.shift(largest), 0), scale]
    pairs = launch(_totals_body, slabs, (log_weights, jnp.stack(numbers)), [slabs] * 2, "resample_totals")
    exact = lax.reduce(tuple(pairs), (np.int32(0), np.int32(0)), _fixed.add, (0,))
    before = launch(_before_body, 1, pairs, [slabs] * 2, "resample_before", width=_power(slabs))
    coarse, fine = _fixed.stretch(exact, num_out, scale.dtype)
    arrays = (log_weights, jnp.stack([*numbers, fine]), offset.reshape(1), coarse.reshape(1), *before)
    (ends,) = launch(_ends_body, slabs, arrays, [n], "resample_ends", num_out=num_out)
    slots = math.ceil(num_out / config.block)
    (drawn,) = launch(_search_body, slots, (ends,), [num_out], "resample_search")
    return reference.choose(drawn, usable, n, num_out)


def _launch(body, programs, arrays, sizes, name, *, config, interpret, **static):
    """`body` over `programs`; outputs are int32 vectors of these sizes."""
    out = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in sizes]
    whole = [pl.BlockSpec(a.shape, lambda i: (0,)) for a in (*arrays, *out)]  # pointers: nothing is copied
    if body in (_totals_body, _ends_body):
        static |= {"block": config.block, "steps": config.steps}
    elif body is _search_body:
        static |= {"block": config.block}
    return call_gpu(
        functools.partial(body, **static),
        grid=(programs,),
        in_specs=whole[: len(arrays)],
        out_specs=whole[len(arrays) :],
        out_shape=out,
        num_warps=config.num_warps,
        num_stages=1,
        interpret=interpret,
        name=name,
    )(*arrays)


def _power(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


def _weights(x_ref, numbers_ref, start, block):
    at = start + lax.broadcasted_iota(jnp.int32, (block,), 0)
    x = masked_load(x_ref, start, block, at < x_ref.shape[0], jnp.asarray(-jnp.inf, x_ref.dtype)).astype(
        numbers_ref.dtype
    )
    return jnp.exp(jnp.where(x != x, -jnp.inf, x) - numbers_ref[0]), at


def _add_up(x):
    return jnp.sum(x, dtype=jnp.int32)  # also in double precision


def _totals_body(x_ref, numbers_ref, whole_ref, fraction_ref, *, block, steps):
    slab = pl.program_id(0)

    def step(j, total):
        weights, _ = _weights(x_ref, numbers_ref, (slab * steps + j) * block, block)
        return _fixed.add(total, _fixed.total(_fixed.shares(weights, numbers_ref[1]), _add_up))

    whole_ref[slab], fraction_ref[slab] = loop(steps, step, _fixed.zeros())


def _before_body(whole_ref, fraction_ref, whole_before_ref, fraction_before_ref, *, width):
    at = lax.broadcasted_iota(jnp.int32, (width,), 0)
    pair = tuple(gather(ref, at) for ref in (whole_ref, fraction_ref))
    before = _fixed.subtract(_fixed.running(pair, lax.cumsum), pair)
    for ref, value in zip((whole_before_ref, fraction_before_ref), before):
        scatter(ref, at, value)


def _ends_body(x_ref, numbers_ref, offset_ref, coarse_ref, whole_ref, fraction_ref, end_ref, *, block, steps, num_out):
    slab = pl.program_id(0)
    by = coarse_ref[0], numbers_ref[2]

    def step(j, before):
        weights, at = _weights(x_ref, numbers_ref, (slab * steps + j) * block, block)
        pair = _fixed.shares(weights, numbers_ref[1])
        sums = _fixed.add(_fixed.running(pair, lax.cumsum), before)
        offspring = _fixed.stretched(sums, by, num_out)
        scatter(end_ref, at, _fixed.offspring_before(offspring, offset_ref[0], num_out))
        return _fixed.add(before, _fixed.total(pair, _add_up))

    loop(steps, step, (whole_ref[slab], fraction_ref[slab]))


def _search_body(ends_ref, ancestor_ref, *, block):
    n = ends_ref.shape[0]
    slot = pl.program_id(0) * block + lax.broadcasted_iota(jnp.int32, (block,), 0)

    def step(_, bounds):
        low, high = bounds
        middle = (low + high) >> 1
        owned = gather(ends_ref, middle) > slot
        return jnp.where(owned, low, middle + 1), jnp.where(owned, middle, high)

    low, _ = lax.fori_loop(0, n.bit_length(), step, (jnp.zeros_like(slot), jnp.full_like(slot, n - 1)))
    scatter(ancestor_ref, slot, low)


__all__: list[str] = []
