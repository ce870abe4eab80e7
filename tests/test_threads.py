"""Batched factorisations that run at once do not wait for each other for ever; jaxlib 0.10 alone does."""

import os
import subprocess
import sys

_PROGRAM = """
import os
import jax, jax.numpy as jnp
import jaxsci

@jax.jit
@jax.vmap
def several(x):
    matrix = jnp.exp(-((x - x.T) ** 2) * 12) + 0.01 * jnp.eye(40)
    return sum(jnp.linalg.cholesky(scale * matrix).sum() for scale in range(1, 4))

x = jax.random.normal(jax.random.key(0), (256, 40, 1))
for _ in range(10):
    several(x).block_until_ready()
print(os.environ.get("PJRT_NPROC"), "through")
"""


def _run(**given):
    env = {name: value for name, value in os.environ.items() if name not in ("PJRT_NPROC", "NPROC")} | given
    found = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=120, env=env)
    assert found.stdout.endswith("through\n"), found.stderr
    return found.stdout.split()[0]


def test_factorisations_do_not_wait_for_each_other():
    _run()


def test_who_sets_the_number_of_threads_keeps_it():
    assert _run(PJRT_NPROC="7") == "7"
    assert _run(NPROC="6") == "None"
