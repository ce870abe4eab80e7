"""Casts and dtype rules: what becomes which dtype, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.core import static, types


def test_as_float_keeps_floating_dtypes_and_makes_the_rest_default_floats():
    default = jnp.result_type(float)
    for value, dtype in ((1, default), (True, default), (np.int8([1, 2]), default), (jnp.bfloat16(1), jnp.bfloat16)):
        got = types.as_float(value)
        assert isinstance(got, jax.Array) and got.dtype == dtype and got.shape == np.shape(value)
    assert types.as_scalar(2, "f", "x", jnp.float16).dtype == jnp.float16


@pytest.mark.x64
def test_double_precision_stays():
    assert types.as_float(np.float64(1)).dtype == jnp.float64 and types.as_float(np.float32(1)).dtype == jnp.float32


@pytest.mark.bad_input
def test_as_scalar_names_function_and_argument():
    with pytest.raises(ValueError, match=r"sor: omega must be a scalar, got shape \(2,\); use jax.vmap over it"):
        types.as_scalar(jnp.ones(2), "sor", "omega")


@pytest.mark.bad_input
def test_complex_numbers_are_refused_and_not_halved():
    for value in (1j, np.complex64(1), [1.0, 2j], {"a": jnp.ones(2) + 1j}):
        assert types.is_complex(value)
        with pytest.raises(TypeError, match="expected real numbers, got complex ones"):
            types.float_dtype(1.0, value)
    with pytest.raises(TypeError, match="f: x must be a real number, got complex64"):
        types.as_scalar(jnp.complex64(1), "f", "x", jnp.float32)
    with pytest.raises(TypeError, match="real numbers"):
        jax.jit(types.as_float)(np.complex64(1))
    assert not types.is_complex(1, 2.0, True, jnp.ones(2), {"key": jax.random.key(0)}, "text")


def test_counts_are_whole_numbers():
    for value in (7, 7.0, np.int8(7), np.float32(7), jnp.int32(7), np.uint64(7)):
        got = types.as_count(value, "f", "n")
        assert got.dtype == jnp.int32 and int(got) == 7
    assert int(jax.jit(lambda n: types.as_count(n, "f", "n"))(np.int8(7))) == 7
    assert jax.vmap(lambda n: types.as_count(n, "f", "n"))(np.arange(3)).tolist() == [0, 1, 2]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (2.5, ValueError, "f: n must be a whole number, got 2.5"),
        (np.nan, ValueError, "whole number, got nan"),
        (np.inf, ValueError, "whole number, got inf"),
        (1e12, ValueError, "f: n must fit int32, at most 2147483647, got 1000000000000.0"),
        (2**31, ValueError, "int32"),
        (True, TypeError, "must be an integer, got True"),
        ("many", TypeError, "must be an integer, got 'many'"),
        (None, TypeError, "must be an integer, got None"),
        (1j, TypeError, "must be an integer"),
        ([1, 2], ValueError, r"must be a scalar, got shape \(2,\)"),
    ],
)
def test_what_is_no_count_is_refused(value, error, match):
    with pytest.raises(error, match=match):
        types.as_count(value, "f", "n")


@pytest.mark.bad_input
def test_a_traced_float_is_no_count_and_a_traced_number_no_size():
    with pytest.raises(TypeError, match="f: n must be an integer, got a traced float32"):
        jax.jit(lambda n: types.as_count(n, "f", "n"))(2.5)
    with pytest.raises(TypeError, match="f: n must be static, a Python int, got a traced value; .*static_argnames"):
        jax.jit(lambda n: static.check_size("f", "n", n))(2)
    with pytest.raises(ValueError, match="f: n must be an int <= 2147483647"):
        static.check_size("f", "n", 10**12)
