"""The rungs that every kernel climbs, each a function that raises AssertionError where the kernel falls.

1. `check_truth`: the reference equals an independent formula in float64.
2. `check(op, args, rung)` for the rungs of `RUNGS`: the kernel equals the reference
   - "interpret": GPU kernel, Pallas interpreter;
   - "tpu_interpret": TPU kernel, TPU interpreter: unwritten memory is NaN, a read outside a buffer raises;
   - "device": what `implementation=None` compiles on the accelerator at hand (marker `device`).
3. `check_races`: the TPU kernel on two interpreted cores; no grid step touches what another writes.
4. `check_lowers`: lowers for "tpu" and "cuda" on any machine, with the kernel inside; for "cpu" without it.
5. `check_compiles`: the vendor's compiler accepts it (marker `aot`), in a process of its own with a time limit.

`op` is a public function of `pallas_kernels`, or one like it of `tiny_ops`; `args` its arrays; comparisons are exact
unless `tol` is given.
"""

import contextlib
import importlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings

import chex
import jax
import numpy as np
import pytest

from pallas_kernels import _compat

PLATFORMS = ("tpu", "cuda")
KERNEL_TEXT = {"tpu": _compat.TPU_TARGET, "cuda": _compat.GPU_TARGET, "gpu": _compat.GPU_TARGET}


def on_device(*backends: str):
    """The rung "device" for an op whose kernels run on these backends: "tpu", "gpu"."""
    here = jax.default_backend()
    reason = f"needs {' or '.join(b.upper() for b in backends)}, this is {here.upper()}"
    return pytest.param("device", marks=[pytest.mark.device, pytest.mark.skipif(here not in backends, reason=reason)])


DEVICE = on_device("tpu", "gpu")
RUNGS = ("interpret", "tpu_interpret", DEVICE)

_DEVICES = {
    "tpu": jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu"),
    "cuda": jax.sharding.AbstractDevice("NVIDIA H200", 132, "gpu"),
}
_ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def triton_notice():
    """Silence what JAX 0.11 says whenever a GPU kernel is lowered; nothing can be done about it here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _compat.TRITON_NOTICE, DeprecationWarning)
        yield


# --- values ------------------------------------------------------------------------------------------------


def assert_same(got, expected, tol: float = 0.0) -> None:
    """Equal structure, shape, dtype and values, to `tol` relative to the largest entry; NaN equals NaN."""
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        exact = np.asarray(a).dtype.kind in "iub"
        a, b = (np.asarray(v) if exact else np.asarray(v).astype(np.float64) for v in (a, b))
        if exact or not tol:
            np.testing.assert_array_equal(a, b)
        else:
            scale = np.max(np.abs(b), initial=0.0, where=np.isfinite(b))
            np.testing.assert_allclose(a, b, rtol=0, atol=tol * scale)


def check_truth(op, args, truth, tol: float = 0.0) -> None:
    """The reference equals `truth(*args)`, which gets NumPy arrays, floats as float64."""
    exact = [np.asarray(a) if np.asarray(a).dtype.kind in "iub" else np.asarray(a).astype(np.float64) for a in args]
    got = jax.tree.leaves(op(*args, implementation="reference"))
    for a, b in zip(got, jax.tree.leaves(truth(*exact)), strict=True):
        a = np.asarray(a).astype(np.asarray(b).dtype)
        np.testing.assert_allclose(a, b, rtol=tol, atol=0)


def check(op, args, rung: str, tol: float = 0.0, **static) -> None:
    """What the rung computes equals the reference on the same arrays."""
    if rung != "device":
        got = op(*args, implementation=rung, **static)
    else:
        with triton_notice():
            lowered = jax.jit(lambda *a: op(*a, **static)).lower(*args)
            assert KERNEL_TEXT[jax.default_backend()] in lowered.as_text(), "the kernel was not chosen on this device"
            got = lowered.compile()(*args)
    assert_same(got, op(*args, implementation="reference", **static), tol)


def check_races(call, args, copies=("on_wait",)) -> None:
    """The TPU kernel's `call(*args, interpret=...)`, at a size of several grid steps, is free of races.

    Two interpreted cores share the steps. A body that starts copies of its own is also run with `copies` "eager":
    data then move when a copy is issued, instead of when it is waited for.
    """
    # The flag has no public name; should it move, this line breaks and is mended, rather than pass unseen.
    state = importlib.import_module("jax._src.pallas.mosaic.interpret.interpret_pallas_call")
    found = []
    for dma in copies:
        _compat.pltpu.reset_tpu_interpret_mode_state()
        jax.block_until_ready(call(*args, interpret=_compat.tpu_interpreter(dma, num_cores=2)))
        found.append(state.races.races_found)
    _compat.pltpu.reset_tpu_interpret_mode_state()
    assert not any(found), "two grid steps touch the same memory"


# --- lowering and compiling --------------------------------------------------------------------------------


@contextlib.contextmanager
def lowering_for(platform: str):
    """A device of `platform` stands in for the one that this machine lacks."""
    device = _DEVICES.get(platform)
    # Not an explicit axis, JAX 0.11's default: the loop that vmap makes of prefetched indices does not lower on it.
    axes = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((1,), ("d",), axis_types=axes, abstract_device=device) if device else None
    with jax.sharding.use_abstract_mesh(mesh) if mesh else contextlib.nullcontext(), triton_notice():
        yield


def lowered_text(function, specs, platform: str) -> str:
    """The lowered program for `platform`, made on any machine."""
    with lowering_for(platform):
        return jax.jit(function).trace(*specs).lower(lowering_platforms=(platform,)).as_text()


def check_lowers(function, specs, platform: str) -> None:
    """`function` (the op, or a transformation of it) lowers for `platform` with the kernel of that platform inside."""
    text = lowered_text(function, specs, platform)
    inside = {p for p in PLATFORMS if KERNEL_TEXT[p] in text}
    assert inside == {platform} & set(PLATFORMS), f"lowered for {platform}: kernels of {inside or 'no platform'} inside"


H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H200"
"""
"""The device as XLA describes it; a description, not a measurement."""


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


_WHEELS = {
    "v5e": ("libtpu", "pip install libtpu at the version that the extra jax[tpu] pins"),
    "h200": ("jax_plugins.xla_cuda12", "pip install --no-deps jax-cuda12-plugin and jax-cuda12-pjrt at JAX's version, "
             "nvidia-cuda-nvcc-cu12 nvidia-cuda-runtime-cu12 nvidia-nvjitlink-cu12 nvidia-cuda-cupti-cu12"),
}  # fmt: skip

TARGETS = tuple(
    pytest.param(
        target,
        marks=[
            pytest.mark.aot,
            pytest.mark.skipif(not _installed(module), reason=f"no compiler for {target}: {remedy}"),
        ],
    )
    for target, (module, remedy) in _WHEELS.items()
)


def check_compiles(op: str, spec: str, target: str, limit_s: float = 120) -> None:
    """The compiler of `target` ("v5e", "h200", or "cpu" to try this function itself) accepts op(spec), without spills.

    `op` is the op's name and `spec` a name in its arg_specs; an op elsewhere is "module.name", its specs the module's
    SPECS. A compiler that aborts or hangs takes only its own process down.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join((str(_ROOT), str(_ROOT / "tests"))),
        # libtpu asks the cloud for its neighbours and takes a lock on the machine unless told otherwise.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # a cached program would leave nothing to inspect
    with tempfile.TemporaryDirectory() as folder:
        environment["XLA_FLAGS"] = f"--xla_dump_to={folder}"
        code = f"import ladder; ladder.compile_for({op!r}, {spec!r}, {target!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=_ROOT, timeout=limit_s, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{op}({spec}) does not compile for {target}:\n{done.stderr[-3000:]}"
        assert f"compiled for {target}" in done.stdout
        if target == "h200":
            assert not (spilled := _spills(pathlib.Path(folder))), f"registers spill: {spilled}"


def compile_for(op: str, spec: str, target: str) -> None:
    """Body of the process that `check_compiles` starts."""
    from jax.experimental import topologies

    if target == "cpu":
        devices = jax.devices("cpu")
    elif target == "v5e":
        devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    else:
        devices = topologies.get_topology_desc(
            platform="cuda", topology_name="h200", target_config=H200, topology="1x1x1"
        ).devices
    mesh = jax.sharding.Mesh(np.array(devices[:1]), ("d",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    package, _, op = op.rpartition(".")
    specs = importlib.import_module(package or f"pallas_kernels.{op}.arg_specs").SPECS[spec]
    args = [jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place) for s in specs]
    function = getattr(importlib.import_module(package or "pallas_kernels"), op)
    with jax.set_mesh(mesh):
        lowered = jax.jit(function, out_shardings=place).lower(*args)
        kernel = KERNEL_TEXT.get({"v5e": "tpu", "h200": "cuda"}.get(target))
        assert kernel is None or kernel in lowered.as_text(), "the kernel is not in the program"
        lowered.compile()
    print(f"compiled for {target}")


def _spills(folder: pathlib.Path) -> list[str]:
    """Lines of the assembler's report on the dumped PTX that tell of spilled registers."""
    nvcc = pathlib.Path(importlib.util.find_spec("nvidia.cuda_nvcc").submodule_search_locations[0])
    sources = [p for p in sorted(folder.glob("*.ptx")) if p.stat().st_size > 1]  # the last one is blank
    assert sources, "the compiler left no PTX to inspect"
    found = []
    for source in sources:
        command = [str(nvcc / "bin" / "ptxas"), "-v", "-arch=sm_90a", str(source), "-o", os.devnull]
        report = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr
        found += [line for line in report.splitlines() if re.search(r"[1-9]\d* bytes spill", line)]
    return found
