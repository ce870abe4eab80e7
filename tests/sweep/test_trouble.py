"""A point that raises in compiled code, and a disk that is full: what is lost, what is kept, what is said."""

import errno
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci
from jaxsci import sweep
from jaxsci.core import files, status

SPACE = sweep.product(x=np.linspace(0, 1, 11))
ANGRY = "JAXSCI_TEST_ANGRY"  # where the callback raises; not part of the program, as a full disk or a server is not


def _callback(x):
    if f"{float(x):.1f}" in os.environ.get(ANGRY, "0.3 0.8"):
        raise ValueError(f"no answer at {float(x):.1f}")
    return np.sqrt(x)


def point(x):
    """Raises at run time, as an ODE solver does that throws."""
    y = jax.pure_callback(_callback, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")
    return {"y": y, "z": x * jnp.ones(2)}


def test_a_point_that_raises_loses_no_other_and_can_be_tried_again(tmp_path, caplog, monkeypatch):
    caplog.set_level("CRITICAL", logger="jax._src.callback")  # which prints the traceback as well
    keep = {"out": tmp_path / "a", "dims": {"z": ("k",)}, "progress": False, "lanes": 4}
    ds = sweep.run(point, SPACE, **keep)
    bad = np.isclose(ds.x, 0.3) | np.isclose(ds.x, 0.8)
    np.testing.assert_array_equal(ds.status != 0, bad)
    np.testing.assert_array_equal(np.isnan(ds.y), bad)
    jax.effects_barrier()  # JAX would raise the error again here and at the end of the process
    np.testing.assert_allclose(ds.y[~bad], np.sqrt(ds.x[~bad]), rtol=1e-6)
    told = json.loads(ds.attrs["errors"])
    assert sorted(told.values()) == ["ValueError: no answer at 0.3", "ValueError: no answer at 0.8"]
    with pytest.raises(status.StatusError, match="2 of 11 failed\n  x=0.3.*: point raised"):
        jaxsci.check(ds)
    assert sweep.run(point, SPACE, **keep).equals(ds)  # failed points count as done
    monkeypatch.setenv(ANGRY, "0.8")
    again = sweep.run(point, SPACE, retry_failed=True, **keep)
    np.testing.assert_array_equal(again.status != 0, np.isclose(ds.x, 0.8))
    np.testing.assert_allclose(again.y[3], np.sqrt(0.3), rtol=1e-6)
    assert list(json.loads(again.attrs["errors"]).values()) == ["ValueError: no answer at 0.8"]
    np.testing.assert_array_equal(again.y[~bad], ds.y[~bad])


def test_what_raises_everywhere_is_no_matter_of_points(caplog):
    caplog.set_level("CRITICAL", logger="jax._src.callback")
    space = sweep.product(x=[0.3, 0.3])
    with pytest.raises(jax.errors.JaxRuntimeError, match="no answer at 0.3"):
        sweep.run(point, space, dims={"z": ("k",)}, progress=False)


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    def full(temporary):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.npz"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="No space left on device.*kept.*a.npz") as raised:
        files.write_atomic(path, full)
    assert raised.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_what_files_do_not_know_is_converted_or_refused_at_the_first_point(tmp_path):
    """Integers of four bits, labels beyond int64; statuses beyond int32, integers beyond any dtype."""
    x, quiet = sweep.product(x=[1.0, 2.0]), {"progress": False}
    ds = sweep.run(lambda x: {"s": jnp.int4(-3), "u": jnp.uint4(9)}, x, out=tmp_path / "a", **quiet)
    assert ds["s"].dtype == np.int8 and ds["u"].dtype == np.uint8 and ds["s"].values.tolist() == [-3, -3]
    wide = sweep.product(n=sweep.static([2**70, 1]))
    ds = sweep.run(lambda n: jnp.float32(n), wide, out=tmp_path / "b", **quiet)
    assert sweep.load(tmp_path / "b")["n"].values.tolist() == [str(2**70), "1"] and float(ds["value"][0]) == 2.0**70
    points = []
    for bad, error, match in (
        (lambda x: points.append(x) or {"y": x, "status": 3_000_000_000}, ValueError, "'status' is no status: 3000"),
        (lambda x: points.append(x) or 2**70, TypeError, "which no dtype of NumPy holds"),
    ):
        with pytest.raises(error, match=match):
            sweep.run(bad, x, batch="loop", out=tmp_path / "c", overwrite=True, **quiet)
    assert points == [1.0, 1.0]


_LIMITED = """
import resource, signal, sys
import numpy as np
from jaxsci import sweep
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
space = sweep.product(x=np.linspace(0, 1, 40))
try:
    ds = sweep.run(lambda x: {"y": x * np.ones(20_000, np.float32)}, space, out=sys.argv[1], progress=False, chunk=10,
                   lanes=10)
    print("done", float(ds.y.sum()))
except OSError as error:
    print(error)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_results_that_do_not_fit_end_in_a_clean_error_and_a_resume(tmp_path):
    """Chunks of .8 or 1.6 MB fit below the limit, results.nc of 3.2 MB does not; without it the same call finishes."""
    folder = str(tmp_path / "a")
    limited, free = (
        subprocess.run(
            [sys.executable, "-c", _LIMITED, folder, limit], capture_output=True, text=True, check=True, timeout=300
        ).stdout
        for limit in ("2600000", "0")
    )
    assert "results.nc" in limited and "what was written before is kept" in limited
    assert free.startswith("done 400000")
