"""A cluster of Dask: workers that are killed, from outside and by a point, cost neither points nor bits."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import sweep
from jaxsci.sweep._dataset import POINT_RAISED

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def client():
    import dask
    from distributed import Client, LocalCluster

    # a chunk whose worker ends is ours at once; by default Dask tries it on three more workers
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        with LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
            with Client(cluster) as client:
                yield client


def _points(folder):
    index = np.concatenate([np.load(path)["index"] for path in folder.rglob("*.npz")])
    return sorted(index.tolist())


def test_a_worker_killed_in_the_middle(client, tmp_path, caplog):
    weights = jnp.linspace(0, 1, 100_000)  # travels as a file

    def point(x, key, n):
        start = jax.random.normal(key, (4,)) * x + weights.sum() * 1e-5
        length, y = jax.lax.while_loop(lambda c: c[0] < 40_000 * x, lambda c: (c[0] + 1, jnp.sin(c[1])), (0.0, start))
        return {"y": y * n, "length": length}

    space = sweep.product(x=np.linspace(0, 1, 20), key=sweep.keys(16), n=sweep.static([1, 2]))
    killed = []

    def kill(done, total, text):
        if done >= total // 3 and not killed:
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    options = {"lanes": 16, "chunk": 16, "batch": "map"}
    executor = client.get_executor(pure=False)
    found = sweep.run(point, space, executor=executor, out=tmp_path, progress=kill, **options)
    print(f"killed {killed}; workers now {list(client.run(os.getpid).values())}\n{caplog.text}")
    assert killed and killed[0] not in client.run(os.getpid).values()
    assert _points(tmp_path) == list(range(640))
    assert found.equals(sweep.run(point, space, progress=False, **options)) and not found["status"].any()


def test_a_point_that_always_kills_its_worker(client, tmp_path, caplog):
    def point(x, deadly):
        def host(v):
            if v == deadly:
                os._exit(1)
            return np.sqrt(v)

        y = jax.pure_callback(host, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")
        return {"y": y, "z": jnp.exp(x) * jnp.ones(3)}

    space = {"x": np.arange(64.0)}
    options = {"lanes": 8, "chunk": 16, "progress": False}
    executor = client.get_executor(pure=False)
    found = sweep.run(
        point, sweep.product(**space, deadly=sweep.static([37.0])), executor=executor, out=tmp_path, **options
    )
    print(caplog.text)
    one = sweep.run(point, sweep.product(**space, deadly=sweep.static([-1.0])), **options)
    bad = np.arange(64) == 37
    np.testing.assert_array_equal(found["status"].values[:, 0], np.where(bad, POINT_RAISED, 0))
    assert _points(tmp_path) == list(range(64))
    for name in ("y", "z"):
        np.testing.assert_array_equal(found[name].values[~bad], one[name].values[~bad])
    assert np.isnan(found["y"].values[bad]).all()
    ((where, told),) = json.loads(found.attrs["errors"]).items()
    assert where == "x=37.0, deadly=37.0" and told.startswith("KilledWorker")
    assert "handed out again, 3 of 3 times" in caplog.text and "gave up the point x=37.0" in caplog.text
