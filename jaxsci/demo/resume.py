"""A sweep that is killed and resumed: the finished data set equals that of an uninterrupted run, bit for bit."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci import linear, sweep


def point(key, omega):
    """One SOR solve of a random right-hand side: a loop whose length depends on its data."""
    dtype = jnp.result_type(omega, jnp.float32)
    op = linear.operators.shifted_laplacian((12, 12), jnp.zeros((), dtype))
    result = linear.solve(op, jax.random.normal(key, (12, 12), dtype), method=linear.methods.sor(omega), tol=1e-4)
    return {"x": result.value, "iterations": result.steps}


def small_sweep(folder: pathlib.Path):
    """The sweep that is killed: 640 points in 40 chunk files."""
    space = sweep.product(omega=np.linspace(1.0, 1.9, 10), key=sweep.keys(64))
    dims = {"x": ("row", "col")}
    return sweep.run(point, space, dims=dims, out=folder, lanes=8, chunk=16, devices=1, progress=False)


def demonstrate(folder: pathlib.Path) -> str:
    """Start the sweep in a process of its own, kill it once chunks are there, resume it here, and compare.

    Args:
        folder: made if it is not there; the sweeps are in a new folder inside it, which is removed at the end.

    Returns:
        A sentence that says what happened; it contains "bit-identical" exactly when the bits are equal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix="resume-", dir=folder))  # no folder of the user's is ever removed
    try:
        return _demonstrate(work / "killed", work / "whole")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _demonstrate(killed: pathlib.Path, whole: pathlib.Path) -> str:
    child = subprocess.Popen(
        [sys.executable, "-m", "jaxsci.demo.resume", str(killed)],
        env=os.environ | {"JAX_ENABLE_X64": str(int(jax.config.jax_enable_x64))},
        stderr=subprocess.DEVNULL,
    )
    chunks = 0
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        chunks = len(list(killed.glob("**/*.npz")))
        if chunks >= 3:
            break
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    chunks = len(list(killed.glob("**/*.npz")))
    resumed, straight = small_sweep(killed), small_sweep(whole)
    same = all(resumed[v].values.tobytes() == straight[v].values.tobytes() for v in straight.data_vars)
    return (
        f"A sweep of {resumed['iterations'].size} points killed (SIGKILL) after {chunks} of 40 chunks and resumed: "
        f"{'bit-identical' if same else 'DIFFERENT'} to the uninterrupted run."
    )


__all__ = ["demonstrate", "point", "small_sweep"]

if __name__ == "__main__":
    small_sweep(pathlib.Path(sys.argv[1]))
