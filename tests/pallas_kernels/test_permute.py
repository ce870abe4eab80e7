"""`permute`: rows by index, in place where survivors stay; kernels equal to the reference bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ladder
from pallas_kernels import permute
from pallas_kernels.permute import arg_specs, gpu, settle, tpu

RNG = np.random.default_rng(0)


# --- truth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
def test_rows_by_index(dtype):
    x = jnp.asarray(RNG.standard_normal((9, 3, 700)) > 0, dtype)
    ancestors = RNG.integers(0, 9, 14)
    np.testing.assert_array_equal(permute(x, ancestors), np.asarray(x)[ancestors])
    vector = np.arange(9)
    np.testing.assert_array_equal(permute(vector, ancestors), vector[ancestors])


def test_settled_ancestors_are_the_same_offspring_and_survivors_stay():
    draws = np.stack([np.sort(RNG.integers(0, 40, 40)) for _ in range(50)] + [np.full(40, 17), np.arange(40)[::-1]])
    settled = np.asarray(jax.vmap(settle)(draws))
    for before, after in zip(draws, settled):
        np.testing.assert_array_equal(np.sort(before), np.sort(after))
        np.testing.assert_array_equal(after[after], after)
        assert np.sum(after == np.arange(40)) == len(set(before))


@pytest.mark.parametrize("name", ["ragged", "caches"])
def test_in_place_gives_the_same_rows_alone_and_in_batches(name, key):
    x, ancestors = arg_specs.make(key, name)
    ancestors = settle(jnp.resize(ancestors, x.shape[0]))
    expected = np.asarray(x)[np.asarray(ancestors)]
    in_place = functools.partial(permute, in_place=True)
    np.testing.assert_array_equal(in_place(x, ancestors), expected)
    both = jnp.stack([ancestors, jnp.arange(x.shape[0])])
    np.testing.assert_array_equal(jax.vmap(in_place, (None, 0))(x, both), [expected, x])
    np.testing.assert_array_equal(jax.vmap(in_place)(jnp.stack([x, -x]), both), [expected, -x])


def test_in_place_in_a_loop_copies_nothing_but_what_moves(key):
    """The compiled loop holds no second array of the size of the rows: it is written in place."""
    x, ancestors = arg_specs.make(key, "caches")
    ancestors = settle(ancestors)

    def repeated(in_place):
        def body(x, _):
            return permute(x, ancestors, in_place=in_place), None

        f = jax.jit(lambda x: jax.lax.scan(body, x, None, length=5)[0], donate_argnums=0)
        return f.lower(jax.ShapeDtypeStruct(x.shape, x.dtype)).compile().memory_analysis().temp_size_in_bytes

    assert repeated(True) < x.nbytes / 8 < x.nbytes <= repeated(False)


def test_derivatives_are_those_of_a_gather(key):
    x, ancestors = arg_specs.make(key, "ragged")
    slope = jnp.asarray(RNG.standard_normal((53, 3, 171)), jnp.float32)
    got, pull = jax.vjp(lambda x: permute(x, ancestors), x)
    expected = np.zeros(x.shape)
    np.add.at(expected, np.asarray(ancestors), np.asarray(slope))
    np.testing.assert_allclose(pull(slope)[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(jax.jvp(lambda x: permute(x, ancestors), (x,), (2 * x,))[1], 2 * got)


# --- kernels equal the reference ---------------------------------------------------------------------------


@pytest.mark.parametrize("rung", ladder.RUNGS)
@pytest.mark.parametrize("name", arg_specs.TESTED)
def test_kernel_equals_reference(name, rung, key):
    ladder.check(permute, arg_specs.make(key, name), rung)


@pytest.mark.parametrize("rung", ladder.RUNGS)
@pytest.mark.parametrize("name", ["one", "integers", "caches"])
def test_kernel_in_place_equals_reference(name, rung, key):
    ladder.check(arg_specs.settled, arg_specs.make(key, name), rung)


@pytest.mark.parametrize("rung", ladder.RUNGS[:2])
def test_rows_that_are_not_finite_stay_as_they_are_and_indices_are_clipped(rung):
    x = RNG.standard_normal((5, 512)).astype(np.float32)
    x[1, :3] = np.nan, np.inf, -np.inf
    ancestors = np.array([1, -3, 99, 1], np.int32)
    expected = x[[1, 0, 4, 1]]
    for implementation in ("reference", rung, None):
        np.testing.assert_array_equal(permute(x, ancestors, implementation=implementation), expected)
    np.testing.assert_array_equal(permute(x[:, :9], ancestors), expected[:, :9])


@pytest.mark.parametrize("config", [gpu.Config(1, 128, 4), gpu.Config(8, 256, 4)])
def test_tiles_of_any_shape(config, key):
    x, ancestors = arg_specs.make(key, "ragged")
    got = gpu.call(x, ancestors, in_place=False, interpret=True, config=config)
    ladder.assert_same(got, permute(x, ancestors, implementation="reference"))


@pytest.mark.full
@pytest.mark.parametrize("rung", ladder.RUNGS[:2])
def test_batches_equal_the_reference(rung, key):
    x, ancestors = arg_specs.make(key, "integers")
    args = jnp.stack([x, x + 1, 2 * x]), jnp.stack([ancestors, ancestors[::-1], jnp.zeros_like(ancestors)])
    got = jax.vmap(functools.partial(permute, implementation=rung))(*args)
    ladder.assert_same(got, jax.vmap(functools.partial(permute, implementation="reference"))(*args))


@pytest.mark.full
def test_tpu_kernel_is_free_of_races(key):
    x, ancestors = arg_specs.make(key, "integers")
    ladder.check_races(functools.partial(tpu.call, in_place=False), (x, ancestors))


# --- lowering and compiling --------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.full) for n in arg_specs.TESTED), "large"])
def test_lowers(name, platform):
    ladder.check_lowers(permute, arg_specs.SPECS[name], platform)


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
def test_lowers_in_place_and_in_batches(platform):
    ladder.check_lowers(arg_specs.settled, arg_specs.SPECS["caches"], platform)
    spec = tuple(jax.ShapeDtypeStruct((3, *s.shape), s.dtype) for s in arg_specs.SPECS["ragged"])
    ladder.check_lowers(jax.vmap(permute), spec, platform)


@pytest.mark.parametrize("target", ladder.TARGETS)
@pytest.mark.parametrize("name", arg_specs.TESTED)
def test_compiles(name, target):
    ladder.check_compiles("permute", name, target)


# --- bad input ---------------------------------------------------------------------------------------------

X = np.zeros((3, 512), np.float32)
BAD = {
    "real ancestors": ((X, np.zeros(3)), {}, TypeError, "integers, got float"),
    "keys": ((jax.random.split(jax.random.key(0), 3), np.arange(3)), {}, TypeError, r"index them, x\[ancestors\]"),
    "a number": ((np.float32(3), np.arange(3)), {}, ValueError, "at least one row"),
    "no rows": ((X[:0], np.arange(3)), {}, ValueError, "at least one row"),
    "matrix": ((X, np.zeros((2, 2), int)), {}, ValueError, r"vmap\(permute\)"),
    "in place": ((X, np.arange(2)), {"in_place": True}, ValueError, "as many ancestors as rows, got 2 and 3"),
    "name": ((X, np.arange(3)), {"implementation": "cuda"}, ValueError, "got 'cuda'"),
    "small": ((X[:, :9], np.arange(3)), {"implementation": "interpret"}, ValueError, "rows of 36 bytes"),
    "wide": ((np.zeros((1, 2**19), np.float32), [0]), {"implementation": "tpu_interpret"}, ValueError, "1048576"),
    "bool": ((np.zeros((1, 4096), bool), [0]), {"implementation": "interpret"}, ValueError, "x is bool"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises(case):
    args, static, error, match = BAD[case]
    with pytest.raises(error, match=match):
        permute(*args, **static)
