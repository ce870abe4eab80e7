"""The sweep engine: two devices against one, a batch against points one by one, and many small points."""

import json
import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._harness import main, row
from benchmarks._peers import without_paths
from jaxsci import sweep

_STEPS = 4000


def uneven(x):
    """A while loop of 4000 steps on 64 numbers, its length read from data."""

    def step(carry):
        i, y = carry
        return i + 1, y + 1e-3 * jnp.sin(y)

    limit = jnp.int32(_STEPS) + jnp.int32(0 * x)
    return jax.lax.while_loop(lambda c: c[0] < limit, step, (jnp.int32(0), x + jnp.arange(64.0)))[1].sum()


def _seconds(devices: int, points: int) -> float:
    space = sweep.product(x=np.linspace(0, 1, points))
    ds = sweep.run(uneven, space, devices=devices, progress=False)
    return json.loads(ds.attrs["provenance"])["run_seconds"]


def _two_devices(fast):
    """In a process of its own with two virtual devices: the flag must be there before JAX starts."""
    program = (
        "import statistics; from benchmarks import sweep as s;"
        f"n, k = {(512, 3) if fast else (2048, 7)};"
        "t = [(s._seconds(1, n), s._seconds(2, n)) for _ in range(k)];"
        "print(statistics.median(a for a, _ in t), statistics.median(b for _, b in t))"
    )
    flags = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", program], env=flags, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return row("2 devices", None, unit="s", ok=False, note=without_paths(done.stderr[-300:]))
    one, two = map(float, done.stdout.split())
    return row(
        f"lanes with {_STEPS}-step while loops on 2 virtual devices",
        two,
        unit="s",
        peer_name="1 device",
        peer=one,
        ratio=one / two,
        target=2 / 1.2,
        note="ideal 2; target within 1.2 of it; means nothing while other work holds the cores",
    )


def _many_points(fast):
    points = 10_000 if fast else 100_000
    space = sweep.product(x=np.linspace(0, 1, points))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ds = sweep.run(lambda x: x * jnp.ones(100), space, out=folder, progress=False)
        seconds = time.perf_counter() - started
    error = float(np.abs(ds["value"].values[:, 7] - ds["x"].values.astype("float32")).max())
    note = f"{points} points of 100 numbers to disk and back, compilation included; accuracy: largest error"
    return row("many small points", points / seconds, unit="points/s", accuracy=error, note=note)


def rows(fast, peers):
    """Scaling and throughput."""
    yield _two_devices(fast)
    yield _many_points(fast)


if __name__ == "__main__":
    sys.exit(main("sweep", rows))
