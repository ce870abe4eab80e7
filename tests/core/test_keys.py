"""Keys that draw fast: the bits are JAX's own, whatever is drawn, and they travel like any key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import sweep
from jaxsci.core import checkpoint, keys

KEY = jax.random.key(20)
SHAPES = (), (7,), (3, 5), (2, 3, 4), (19, 27), (1024,)
INTEGERS = jnp.uint8, jnp.uint16, jnp.uint32


def _everything(key):
    """Numbers of each kind, of several shapes and widths, what is split off and what is folded in."""
    words = [jax.random.bits(jax.random.fold_in(key, i), s, d) for i, s in enumerate(SHAPES) for d in INTEGERS]
    children = [jax.random.key_data(jax.random.split(key, shape)) for shape in SHAPES]
    folded = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, i)))(jnp.array([0, 1, 2**31 - 1, -1]))
    first, second = jax.random.split(key)
    floats = [
        jax.random.normal(first, (1001,)),
        jax.random.uniform(second, (4, 3), minval=-1.0),
        jax.random.gamma(first, jnp.array([0.3, 2.5]), (2,)),
        jax.random.categorical(second, jnp.log(jnp.array([0.2, 0.3, 0.5])), shape=(50,)),
        jax.random.permutation(first, 17),
        jax.random.randint(second, (9,), -3, 1000),
        jax.random.bernoulli(first, 0.3, (20,)),
    ]
    return words, children, folded, floats


def _assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_bits_are_those_of_jax():
    both = jax.jit(lambda key: (_everything(key), _everything(keys.unrolled(key))))(KEY)
    _assert_equal(*both)


@pytest.mark.x64
def test_words_of_64_bits():
    shape = (5, 3)
    _assert_equal(jax.random.bits(KEY, shape, jnp.uint64), jax.random.bits(keys.unrolled(KEY), shape, jnp.uint64))
    _assert_equal(*(jax.jit(jax.random.normal, static_argnums=1)(k, shape) for k in (KEY, keys.unrolled(KEY))))


def test_inside_loops_lanes_and_branches():
    def walk(key):
        def body(x, i):
            mine = jax.random.fold_in(key, i)
            jump = jax.lax.cond(i % 2 == 0, lambda k: jax.random.normal(k), lambda k: jax.random.uniform(k), mine)
            return x + jump, x

        return jax.lax.scan(body, 0.0, jnp.arange(5))

    lanes = jax.random.split(KEY, 6)
    _assert_equal(*(jax.jit(jax.vmap(walk))(k) for k in (lanes, keys.unrolled(lanes))))


def test_an_array_too_large_for_32_bits_of_counter_is_left_to_jax():
    big = jax.eval_shape(lambda key: jax.random.bits(key, (2**16, 2**17)), keys.unrolled(KEY))
    assert (big.shape, big.dtype) == ((2**16, 2**17), jnp.uint32)


def test_other_generators_are_left_alone():
    other = jax.random.key(0, impl="rbg")
    assert keys.unrolled(other).dtype == other.dtype
    assert keys.unrolled(keys.unrolled(KEY)).dtype == keys.unrolled(KEY).dtype
    with jax.threefry_partitionable(False):
        assert keys.unrolled(KEY).dtype == KEY.dtype


def test_back_to_the_kind_of_another():
    assert keys.like(keys.unrolled(KEY), KEY).dtype == KEY.dtype
    _assert_equal(jax.random.key_data(keys.like(keys.unrolled(KEY), KEY)), jax.random.key_data(KEY))


def test_the_name_and_the_data_make_the_key_again():
    for key in (KEY, keys.unrolled(KEY), jax.random.key(1, impl="rbg")):
        again = keys.wrap(np.asarray(jax.random.key_data(key)), keys.generator(key))
        assert again.dtype == key.dtype
        _assert_equal(jax.random.normal(again), jax.random.normal(key))


def test_they_are_saved_and_stacked_like_any_key(tmp_path):
    key = keys.unrolled(KEY)
    checkpoint.save(tmp_path, {"key": key}, 1)
    loaded = checkpoint.restore(tmp_path, {"key": key})["key"]
    assert loaded.dtype == key.dtype
    _assert_equal(jax.random.key_data(loaded), jax.random.key_data(key))
    space = sweep.product(one=sweep.stack({"a": {"key": key}, "b": {"key": keys.unrolled(jax.random.key(1))}}))
    found = sweep.run(lambda one: jax.random.normal(one["key"]), space, progress=False)
    np.testing.assert_array_equal(found["value"].values, [jax.random.normal(KEY), jax.random.normal(jax.random.key(1))])
