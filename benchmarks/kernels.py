"""Kernels against the same computation written in jax.numpy, and against the bandwidth of a copy on this device."""

import sys

import jax
import jax.numpy as jnp

from benchmarks._harness import compare, compiled, main
from pallas_kernels import extrema
from pallas_kernels.extrema import arg_specs


def _pair(x):
    return jnp.min(x), jnp.max(x)


def _difference(ours, theirs):
    return max(abs(float(a) - float(b)) for a, b in zip(ours, theirs))


def rows(fast):
    """`extrema`: one pass over memory. Its peers are `jnp.min` with `jnp.max`, and a copy as the ceiling."""
    seconds = 0.5 if fast else 3.0
    note = "accuracy: largest difference of the results" + ("; fits in cache" if fast else "")
    for name in ("several_steps",) if fast else arg_specs.TIMED:
        args = arg_specs.make(jax.random.key(0), name)
        gigabytes = arg_specs.cost(name)[0] / 1e9
        common = dict(amount=gigabytes, unit="GB/s", seconds=seconds)
        ours = compiled(lambda x: extrema(x), *args)
        yield compare(
            f"extrema {name}", ours, compiled(_pair, *args), peer_name="jnp.min, jnp.max", accuracy=_difference,
            target=1.0, note=note, **common,
        )  # fmt: skip
        copy = compiled(lambda x: x + jnp.ones((), x.dtype), *args)  # reads and writes: twice the bytes
        line = compare(f"extrema {name} against a copy", ours, copy, peer_name="copy", **common)
        peer, ratio = 2 * line["peer"], line["ratio"] / 2
        yield line | {"peer": peer, "ratio": ratio, "note": f"ratio: share of the copy's bandwidth; {line['note']}"}


if __name__ == "__main__":
    sys.exit(main("kernels", rows))
