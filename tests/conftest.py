"""Suite-wide settings and fixtures: two virtual CPU devices, strict ranks, seeds from the test's name."""

import ctypes
import gc
import os
import zlib

# Before jax starts: CPU only unless the device tests are asked for, and two devices for the sharding tests.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Two devices that share the threads of two cores would wait for each other for ever, see jaxsci/sweep/_program.py.
os.environ.setdefault("PJRT_NPROC", "6")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()
if os.environ.get("JAXSCI_TEST_QUICK"):
    # Less optimised programs, compiled several times faster, each by one thread: there is a worker for every core.
    quick = [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters,xla_cpu_disable_loop_unrolling",
    ]
    given = os.environ["XLA_FLAGS"]  # a worker has those of its parent
    os.environ["XLA_FLAGS"] = " ".join([given, *(f for f in quick if f not in given)])
os.environ.setdefault("MPLBACKEND", "Agg")

import chex
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

pytest_plugins = ["budget"]

# Compiled programs pile up in a long session. Each maps memory of its own, and a process that runs out of maps
# (65530 on Linux) crashes inside the compiler. glibc keeps what is freed unless it is told to give it back; a process
# that stays large would drop its programs again and again. Two workers may take two fifths of the machine's memory.
_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
_CLEAR_ABOVE_BYTES, _CLEAR_ABOVE_MAPS, _LOOK_EVERY = max(2 << 30, _MEMORY // 5), 30_000, 8
_tests_done = 0


def pytest_collection_finish():
    """Keep what the imports made out of the collector's sight, and have it look less often: 5 % of the suite."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@pytest.fixture(autouse=True)
def fresh_settings(request):
    """Tests marked ``x64`` run in double precision, all others in JAX's default; chex counts traces anew in each."""
    chex.clear_trace_counter()  # it counts by place in the source, across the cases of one test
    wanted = request.node.get_closest_marker("x64") is not None
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", wanted)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def key(request):
    """A typed key whose seed derives from the test's own name: independent tests, reproducible runs."""
    return jax.random.fold_in(jax.random.key(0), zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def bounded_memory():
    """Drop compiled programs between tests once this process has grown large."""
    global _tests_done
    yield
    _tests_done += 1
    if _tests_done % _LOOK_EVERY:
        return
    try:
        with open("/proc/self/statm") as f:
            resident = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        with open("/proc/self/maps", "rb") as f:
            maps = f.read().count(b"\n")
    except OSError:
        return
    if resident > _CLEAR_ABOVE_BYTES or maps > _CLEAR_ABOVE_MAPS:
        jax.clear_caches()
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
