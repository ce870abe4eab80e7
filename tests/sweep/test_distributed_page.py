"""The scripts of docs/distributed.md run as they stand."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest
import xarray

from jaxsci import sweep

pytestmark = pytest.mark.full
ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "distributed.md").read_text(), re.S)


def start(folder, number, *arguments):
    path = folder / f"script{number}.py"
    path.write_text(SCRIPTS[number])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, str(path), *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def test_a_laptop_and_a_cluster(tmp_path):
    assert output(start(tmp_path, 0)).startswith("1.51248")
    assert output(start(tmp_path, 1)).startswith("best rate: 0.0")
    for name in ("laptop", "dask"):
        assert not sweep.load(tmp_path / "runs" / name)["status"].any()


def test_two_processes_share_what_one_does_alone(tmp_path):
    alone, together = tmp_path / "a", tmp_path / "b"
    for folder in (alone, together):
        folder.mkdir()
    assert "'shift': 24, 'key': 32" in output(start(alone, 3))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start(together, 3, address, "2", str(k)) for k in range(2)]
    assert "'shift': 24, 'key': 32" in "".join([output(process) for process in processes])
    parts = [sweep.load(together / "runs" / f"pod-{k}") for k in range(2)]
    assert xarray.concat(parts, dim="shift", combine_attrs="override").equals(sweep.load(alone / "runs" / "pod-0"))
