"""What kernels are made of: each primitive of `_compat` by a tiny op that climbs the ladder, and its traps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ladder
import tiny_ops
from pallas_kernels import _compat
from tiny_ops import OPS, PLATFORM, SPECS

ON_TPU = [name for name in OPS if PLATFORM[name] == "tpu"]
ON_GPU = [name for name in OPS if PLATFORM[name] == "cuda"]
CLIMBED = [
    *((name, rung) for name in ON_TPU for rung in ("interpret", "tpu_interpret")),
    *((name, "interpret") for name in ON_GPU),
]
BATCH = 3


def batch_of(name):
    """(arguments, results by NumPy), each with a leading axis of a batch."""
    args = [tiny_ops.make(name, seed) for seed in range(BATCH)]
    truths = [OPS[name](*a, implementation="reference") for a in args]
    return jax.tree.map(lambda *a: np.stack(a), *args), jax.tree.map(lambda *a: np.stack(a), *truths)


def batched_specs(name):
    return tuple(jax.ShapeDtypeStruct((BATCH, *s.shape), s.dtype) for s in SPECS[name])


# --- the ladder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "rung"), CLIMBED)
def test_equals_numpy(name, rung):
    ladder.check(OPS[name], tiny_ops.make(name), rung)


@pytest.mark.parametrize("rung", [ladder.on_device("tpu")])
@pytest.mark.parametrize("name", ON_TPU)
def test_equals_numpy_on_tpu(name, rung):
    ladder.check(OPS[name], tiny_ops.make(name), rung)


@pytest.mark.parametrize("rung", [ladder.on_device("gpu")])
@pytest.mark.parametrize("name", ON_GPU)
def test_equals_numpy_on_gpu(name, rung):
    ladder.check(OPS[name], tiny_ops.make(name), rung)


@pytest.mark.parametrize("name", OPS)
def test_vmap_equals_numpy(name):
    rung = "tpu_interpret" if name in ON_TPU else "interpret"
    args, truths = batch_of(name)
    ladder.assert_same(jax.vmap(functools.partial(OPS[name], implementation=rung))(*args), truths)


@pytest.mark.parametrize("name", OPS)
def test_lowers(name):
    ladder.check_lowers(OPS[name], SPECS[name], PLATFORM[name])
    ladder.check_lowers(jax.vmap(OPS[name]), batched_specs(name), PLATFORM[name])


@pytest.mark.x64
@pytest.mark.parametrize("name", OPS)
def test_lowers_under_x64(name):
    ladder.check_lowers(OPS[name], SPECS[name], PLATFORM[name])


V5E, H200 = ladder.TARGETS


@pytest.mark.parametrize("target", [V5E])
@pytest.mark.parametrize("name", ON_TPU)
def test_compiles_for_tpu(name, target):
    ladder.check_compiles(f"tiny_ops.{name}", name, target)


@pytest.mark.parametrize("target", [H200])
@pytest.mark.parametrize("name", ON_GPU)
def test_compiles_for_gpu(name, target):
    ladder.check_compiles(f"tiny_ops.{name}", name, target)


# --- an ordered axis ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_ordered", [0, 1])
def test_cores_share_the_independent_axes_only(num_ordered):
    (x,) = tiny_ops.make("running_sum")
    results = []

    def call(x, *, interpret):
        results.append(tiny_ops.running_sum_call(x, interpret=interpret, num_ordered=num_ordered))
        return results[-1]

    ladder.check_races(call, (x,))
    # Each core has scratch of its own: a carry along an axis that is not in order is lost, and no race is seen.
    sums, _ = tiny_ops.running_sum(x, implementation="reference")
    assert np.array_equal(results[0][0], sums) == (num_ordered == 1)


@pytest.mark.bad_input
@pytest.mark.parametrize("num_ordered", [-1, 3])
def test_more_ordered_axes_than_the_grid_has_raise(num_ordered):
    x = jax.ShapeDtypeStruct((2, 3, *tiny_ops.TILE), jnp.float32)
    with pytest.raises(ValueError, match="running_sum: num_ordered must lie between 0 and the 2 axes"):
        jax.eval_shape(functools.partial(tiny_ops.running_sum_call, interpret=True, num_ordered=num_ordered), x)


# --- prefetched indices ------------------------------------------------------------------------------------


def test_a_batch_of_prefetched_indices_is_a_loop_of_launches():
    op, (source, x) = tiny_ops.permute_tiles, SPECS["permute_tiles"]
    more_source, more_x = batched_specs("permute_tiles")
    for axes, specs, looped in (((0, None), (more_source, x), True), ((None, 0), (source, more_x), False)):
        text = ladder.lowered_text(jax.vmap(op, axes), specs, "tpu")
        assert text.count(_compat.TPU_TARGET) == 1 and ("stablehlo.while" in text) == looped


def test_a_prefetched_index_beyond_the_end_raises_in_the_tpu_interpreter():
    source, x = tiny_ops.make("permute_tiles")
    source[2] = len(x)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Out-of-bounds block index"):
        jax.block_until_ready(tiny_ops.permute_tiles(source, x, implementation="tpu_interpret"))
    _compat.pltpu.reset_tpu_interpret_mode_state()


# --- gather, scatter, atomic addition ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["put", "histogram"])
def test_outputs_take_the_place_of_inputs(name):
    text = ladder.lowered_text(OPS[name], SPECS[name], "cuda")
    calls = [line for line in text.splitlines() if _compat.GPU_TARGET in line]
    assert len(calls) == 1 and "output_operand_alias<" in calls[0]


@pytest.mark.x64
@pytest.mark.parametrize("dtype", _compat.ATOMIC_DTYPES)
def test_atomic_addition_lowers(dtype):
    index, weight, start = (
        jax.ShapeDtypeStruct(s.shape, d) for s, d in zip(SPECS["histogram"], ("int32", dtype, dtype))
    )
    ladder.check_lowers(tiny_ops.histogram, (index, weight, start), "cuda")


@pytest.mark.bad_input
@pytest.mark.parametrize("implementation", [None, "interpret"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_atomic_addition_of_other_dtypes_raises(dtype, implementation):
    index, weight, start = (jnp.zeros(8, d) for d in ("int32", dtype, dtype))
    with pytest.raises(TypeError, match=f"the output is {dtype} and GPUs add float32"):
        jax.eval_shape(functools.partial(tiny_ops.histogram, implementation=implementation), index, weight, start)


def test_the_interpreter_loses_repeated_indices():
    """Why `atomic_add` is told of the interpreter: should this fail, JAX has mended it and the argument can go."""

    def body(index_ref, start_ref, out_ref):
        _compat.plgpu.atomic_add(out_ref, (index_ref[...],), jnp.ones(2))

    whole = _compat.pl.BlockSpec((2,), lambda i: (0,))
    out = _compat.call_gpu(
        body, grid=(1,), in_specs=[whole, whole], out_specs=whole, out_shape=jax.ShapeDtypeStruct((2,), jnp.float32),
        num_warps=4, num_stages=1, interpret=True, name="lost", aliases={1: 0},
    )(np.zeros(2, np.int32), np.zeros(2, np.float32))  # fmt: skip
    np.testing.assert_array_equal(out, [1, 0])


@pytest.mark.bad_input
def test_one_index_array_for_each_axis():
    x = jnp.zeros((4, 4))
    with pytest.raises(ValueError, match="one index array for each of the 2 axes, got 1"):
        _compat.gather(x, jnp.arange(4))
