"""Pytree arithmetic against NumPy, its corner cases and its dtypes."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.core import tree

VALUES = st.floats(-100, 100, width=32)
VECTORS = hnp.arrays(np.float32, st.integers(1, 6), elements=VALUES)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(VECTORS, VECTORS, VALUES)
def test_equals_numpy_on_the_joined_vector(a, b, alpha):
    x, y = {"a": a, "b": [b]}, {"a": a[::-1].copy(), "b": [2 * b + 1]}
    flat_x, flat_y = np.append(a, b).astype(np.float64), np.append(a[::-1], 2 * b + 1).astype(np.float64)
    scale = np.abs(flat_x) @ np.abs(flat_y) + 1
    np.testing.assert_allclose(tree.dot(x, y), flat_x @ flat_y, atol=1e-6 * scale)
    np.testing.assert_allclose(tree.norm(x), np.linalg.norm(flat_x), rtol=1e-5, atol=1e-20)
    joined = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree.axpy(alpha, x, y))])
    np.testing.assert_allclose(joined, alpha * flat_x + flat_y, rtol=1e-5, atol=1e-2)


@pytest.mark.x64
def test_complex_and_half_precision_products():
    x = jnp.array([1 + 2j, 3j])
    assert float(tree.dot(x, x)) == 14 and tree.dot(x, x).dtype == jnp.float64
    ones = jnp.ones(4096, jnp.bfloat16)  # in bfloat16 itself the sum would stop at 256
    assert float(tree.dot(ones, ones)) == 4096 and tree.dot(ones, ones).dtype == jnp.float32
    mixed = {"a": jnp.float32(1), "b": jnp.float64(2)}
    assert float(tree.dot(mixed, mixed)) == 5


def test_norm_at_zero_has_gradient_zero_and_keeps_nan():
    np.testing.assert_array_equal(jax.grad(tree.norm)(jnp.zeros(3)), np.zeros(3))
    assert bool(jnp.isnan(tree.norm(jnp.array([jnp.nan, 1]))))
    assert float(tree.norm({})) == 0 and float(tree.norm(jnp.float32(-3))) == 3


def test_where_picks_whole_trees_and_keys(key):
    a = (key, jnp.float32(1), jnp.zeros((2, 2), jnp.int8))
    b = (jax.random.key(1), jnp.float32(2), jnp.ones((2, 2), jnp.int8))
    for condition, expected in ((True, a), (False, b)):
        got = tree.where(jnp.array(condition), a, b)
        assert all(bool(jnp.all(x == y)) and x.dtype == y.dtype for x, y in zip(got, expected))
    lanes = jax.vmap(tree.where, in_axes=(0, None, None))(jnp.array([True, False]), a, b)
    assert bool(lanes[0][0] == a[0]) and bool(lanes[0][1] == b[0])


def test_cast_changes_real_floating_arrays_and_nothing_else(key):
    x = {"a": np.float64(2), "b": jnp.float32(1), "n": jnp.int32(3), "z": jnp.complex64(1j), "key": key}
    x |= {"function": jnp.sin, "number": 0.5, "none": None}
    got = tree.cast(x, jnp.bfloat16)
    assert got["a"].dtype == got["b"].dtype == jnp.bfloat16
    assert all(got[name] is x[name] for name in ("n", "z", "key", "function", "number", "none"))


def test_as_arrays_keeps_functions():
    got = tree.as_arrays({"a": 1, "b": (np.ones(2), True), "function": jnp.sin})
    assert all(isinstance(a, jax.Array) for a in (got["a"], *got["b"])) and got["function"] is jnp.sin


@pytest.mark.parametrize(
    ("leaves", "finite"),
    [
        ((), True),
        ((jnp.ones(3), jnp.int32(4), jax.random.key(0)), True),
        ((jnp.ones(3), jnp.array([0, jnp.inf])), False),
        ((jnp.bfloat16(jnp.nan),), False),
        ((1 + 0j, jnp.complex64(complex(0, np.nan))), False),
        ((np.float64(1e300), 1.0), True),
    ],
)
@pytest.mark.x64
def test_all_finite(leaves, finite):
    assert bool(tree.all_finite(leaves)) is finite


def test_dynamic_index_equals_indexing(key):
    x = {"a": jnp.arange(12).reshape(4, 3), "k": jax.random.split(key, 4)}
    for i in range(4):
        got = jax.jit(tree.dynamic_index)(x, i)
        assert bool(jnp.all(got["a"] == x["a"][i])) and bool(got["k"] == x["k"][i])


def test_small_ones():
    x = {"a": jnp.arange(3.0), "b": jnp.int32(4)}
    assert float(tree.sub(x, x)["a"].sum()) == 0 and int(tree.sub(x, {"a": x["a"], "b": jnp.int32(1)})["b"]) == 3
    assert jax.eval_shape(tree.zeros_like, x) == jax.eval_shape(lambda x: x, x)
    assert tree.axpy(jnp.float32(0.5), jnp.ones(2), jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
