"""Products at full precision: jax.numpy's numbers, and every one of them says HIGHEST to the compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.core import precision

X, Y = np.arange(6.0, dtype=np.float32).reshape(2, 3), np.float32([[1, -2], [0, 3], [4, 0.5]])
CASES = {
    "matmul": (precision.matmul, X @ Y),
    "vdot": (lambda a, b: precision.vdot(a, b.T), np.vdot(X, Y.T)),
    "tensordot": (lambda a, b: precision.tensordot(a, b, ((1,), (0,))), X @ Y),
    "einsum": (lambda a, b: precision.einsum("ij,jk,km->im", a, b, a), X @ Y @ X),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_the_precision_asked_for(name):
    function, expected = CASES[name]
    np.testing.assert_array_equal(function(X, Y), expected)
    text = jax.jit(function).lower(jnp.asarray(X), jnp.asarray(Y)).as_text()
    assert text.count("precision = [HIGHEST, HIGHEST]") == text.count("dot_general") > 0


@pytest.mark.bad_input
def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="contracting dimensions"):
        precision.matmul(jnp.ones((2, 3)), jnp.ones(2))
    with pytest.raises(TypeError, match="contracting dimensions"):
        precision.vdot(jnp.ones(2), jnp.ones(3))
