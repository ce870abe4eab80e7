"""Casts and dtype rules: what becomes which dtype, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.core import types


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
