"""Factorisations that run at once wait for each other with jaxlib 0.10 on few cores: told before, and cured."""

import importlib.metadata
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import sweep

_NEW = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) >= (0, 11)
_PROGRAM = """
import jax, jax.numpy as jnp

@jax.jit
@jax.vmap
def several(x):
    matrix = jnp.exp(-((x - x.T) ** 2) * 12) + 0.01 * jnp.eye(40)
    return sum(jnp.linalg.cholesky(scale * matrix).sum() for scale in range(1, 4))

x = jax.random.normal(jax.random.key(0), (256, 40, 1))
for _ in range(10):
    several(x).block_until_ready()
print("through")
"""


def test_more_threads_cure_it():
    """What the warning says; without the variable this program stands still on two cores."""
    env = os.environ | {"PJRT_NPROC": "8"}
    found = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=120, env=env)
    assert found.stdout == "through\n", found.stderr


def _point(x):
    return jnp.linalg.cholesky((2 + x) * jnp.eye(3))[0, 0]


@pytest.mark.skipif(_NEW, reason="jaxlib 0.11 does not wait")
def test_a_sweep_warns(monkeypatch):
    grid = sweep.product(x=np.arange(4.0))
    sweep.run(_point, grid, progress=False)  # enough threads for the suite
    monkeypatch.setenv("PJRT_NPROC", "2")
    with pytest.warns(UserWarning, match=r"2 may run at once.* on the 2 threads .*set PJRT_NPROC=8"):
        sweep.run(_point, grid, progress=False)
    sweep.run(_point, grid, progress=False, devices=1)  # one at a time
    sweep.run(lambda x: 2 * x, grid, progress=False)
