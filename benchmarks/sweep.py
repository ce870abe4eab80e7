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


def short(x):
    """Some tens of microseconds: a loop of 400 steps on 16 numbers."""
    return jax.lax.fori_loop(0, 400, lambda i, y: jnp.sin(y) + x, x * jnp.ones(16))


def _workers(fast):
    """The same points by two workers of Dask and by this process, each three times, the first of which is left out."""
    points = 10_000 if fast else 100_000
    name = f"{points} points of some tens of microseconds by two Dask workers"
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        return row(name, None, unit="points/s", ok=None, note="distributed is not installed")
    space, seconds = sweep.product(x=np.linspace(0, 1, points)), {}
    with LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        with Client(cluster) as client:
            for who, executor in [("one", None), ("dask", client.get_executor(pure=False))] * 3:
                started = time.perf_counter()
                ds = sweep.run(short, space, executor=executor, progress=False)
                seconds.setdefault(who, []).append((time.perf_counter() - started, ds))
    one, dask = (min(s for s, _ in seconds[who][1:]) for who in ("one", "dask"))
    equal = seconds["one"][0][1].equals(seconds["dask"][0][1])
    return row(
        name,
        points / dask,
        unit="points/s",
        peer_name="one process",
        peer=points / one,
        ratio=one / dask,
        target=0.5,
        ok=equal and one / dask >= 0.5,
        note="compiled before; ok: bit-identical and the target met; cores are shared with scheduler and parent",
    )


def rows(fast, peers):
    """Scaling and throughput."""
    yield _two_devices(fast)
    yield _many_points(fast)
    yield _workers(fast)


if __name__ == "__main__":
    sys.exit(main("sweep", rows))
