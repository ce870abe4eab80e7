"""The ladder can fail: each rung is shown a kernel that is wrong in the way the rung is there to catch."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ladder
from pallas_kernels import _compat, extrema
from pallas_kernels._compat import pl, pltpu

ROWS, LANES, STEPS = 8, 128, 8


def _sum_by_grid(x, *, interpret, semantics):
    """Adds up blocks in one output block that every grid step revisits: right in order, a race in parallel."""

    def body(x_ref, out_ref):
        @pl.when(pl.program_id(0) == 0)
        def _():
            out_ref[...] = jnp.zeros_like(out_ref)

        out_ref[...] += x_ref[...]

    return pl.pallas_call(
        body,
        grid=(STEPS,),
        in_specs=[pl.BlockSpec((ROWS, LANES), lambda i: (i, 0))],
        out_specs=pl.BlockSpec((ROWS, LANES), lambda i: (0, 0)),
        out_shape=jax.ShapeDtypeStruct((ROWS, LANES), x.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=(semantics,)),
        interpret=interpret,
    )(x)


@pytest.mark.parametrize(("semantics", "races"), [("parallel", True), ("arbitrary", False)])
def test_a_race_between_grid_steps_is_found(semantics, races):
    x = jnp.arange(STEPS * ROWS * LANES, dtype=jnp.float32).reshape(STEPS * ROWS, LANES)
    call = functools.partial(_sum_by_grid, semantics=semantics)
    results = []

    def kept(x, *, interpret):
        results.append(call(x, interpret=interpret))
        return results[-1]

    with pytest.raises(AssertionError, match="two grid steps") if races else contextlib.nullcontext():
        ladder.check_races(kept, (x,))
    right = np.asarray(x).reshape(STEPS, ROWS, LANES).sum(0)
    assert np.array_equal(results[0], right) != races
    # The race is invisible to the plain interpreter: why the rung exists.
    np.testing.assert_array_equal(call(x, interpret=True), right)


def test_memory_that_no_step_writes_is_found():
    def half_written(x, *, implementation):
        def body(x_ref, out_ref):
            out_ref[pl.ds(0, ROWS // 2), :] = x_ref[pl.ds(0, ROWS // 2), :]

        if implementation == "reference":
            return x
        return pl.pallas_call(
            body, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=_compat.tpu_interpreter()
        )(x)

    with pytest.raises(AssertionError):
        ladder.check(half_written, (jnp.ones((ROWS, LANES)),), "tpu_interpret")


def test_a_dropped_tail_is_found():
    def without_tail(x, *, implementation):
        return extrema(x if implementation == "reference" else x[:-1], implementation=implementation)

    x = jnp.arange(129.0)
    for rung in ("interpret", "tpu_interpret"):
        with pytest.raises(AssertionError):
            ladder.check(without_tail, (x,), rung)


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
def test_a_program_without_its_kernel_is_found(platform):
    specs = (jax.ShapeDtypeStruct((300,), jnp.float32),)
    with pytest.raises(AssertionError, match="no platform"):
        ladder.check_lowers(lambda x: (jnp.min(x), jnp.max(x)), specs, platform)


def test_a_wrong_reference_is_found():
    with pytest.raises(AssertionError):
        ladder.check_truth(extrema, (jnp.arange(5.0),), lambda x: (x.min(), x.mean()))


def test_assert_same_tells_dtypes_apart_and_takes_nan_for_nan():
    nan = jnp.array([jnp.nan, 1.0])
    ladder.assert_same(nan, nan)
    ladder.assert_same(nan, nan + 1e-6, tol=1e-5)
    for other in (nan.astype(jnp.bfloat16), jnp.array([0.0, 1.0]), nan[:1], (nan,)):
        with pytest.raises(AssertionError):
            ladder.assert_same(nan, other, tol=1e-5)


@pytest.mark.slow
def test_compiling_happens_in_a_process_of_its_own():
    ladder.check_compiles("extrema", "block_and_one", "cpu")
    with pytest.raises(AssertionError, match="does not compile"):
        ladder.check_compiles("extrema", "no such spec", "cpu")


def test_lax_platform_dependent_lowers_one_branch_only():
    """The dispatch rests on this: a branch of another platform is traced, and never lowered."""
    text = ladder.lowered_text(
        lambda x: lax.platform_dependent(x, tpu=jnp.sin, cuda=jnp.cos, default=jnp.exp),
        (jax.ShapeDtypeStruct((3,), jnp.float32),),
        "cpu",
    )
    assert "exponential" in text and "sine" not in text
