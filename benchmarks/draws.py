"""Draws with keys whose rounds are written out, beside the same draws with JAX's own keys: the same bits, sooner."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._harness import compare, compiled, main
from jaxsci.core import keys

FUNCTIONS = {"uniform": jax.random.uniform, "normal": jax.random.normal}


def _steps(draw, num, num_steps):
    """Draws in a loop, each with a key of its own, as a filter or a sampler makes them."""

    def run(key):
        def body(total, i):
            return total + draw(jax.random.fold_in(key, i), (num,)), None

        return jax.lax.scan(body, jnp.zeros(num), jnp.arange(num_steps))[0]

    return run


def _differ(mine, theirs):
    return int(np.sum(np.asarray(mine) != np.asarray(theirs)))


def rows(fast, peers):
    """All rows."""
    del peers
    key = jax.random.key(0)
    for name, draw in FUNCTIONS.items():
        for num in (1000, 65_536, 1_000_000):
            num_steps = max(5, min(200, 1_000_000 // num))
            run = _steps(draw, num, num_steps)
            yield compare(
                f"{name} draws of {num:,} numbers in a loop", compiled(run, keys.unrolled(key)), compiled(run, key),
                peer_name="jax.random", amount=num * num_steps, unit="numbers/s", accuracy=_differ, within=0.0,
                target=1.0, seconds=0.3 if fast else 2.0, note="accuracy: sums that differ by a bit",
            )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("draws", rows))
