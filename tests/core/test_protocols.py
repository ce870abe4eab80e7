"""The shapes families agree on: field names, argument defaults, and that they cross jit, vmap and grad as pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxsci.core import keys
from jaxsci.core.protocols import (
    Decision,
    Denoiser,
    Environment,
    Policy,
    Problem,
    Result,
    Solver,
    Stream,
    StreamCarry,
    TimeStep,
)


def test_names_are_the_agreed_ones():
    assert Decision._fields == ("action", "log_prob", "aux")
    assert Policy._fields == ("init", "select", "update", "status")
    assert Solver._fields == ("prepare", "init", "step", "broken")
    assert Problem._fields == ("op", "b", "x0", "context")
    assert StreamCarry._fields == ("solution", "memory")
    assert Stream._fields == ("init", "next")
    assert Environment._fields == ("reset", "step")
    assert TimeStep._fields == ("observation", "reward", "discount", "terminated", "truncated", "status")
    assert TimeStep(1)[1:] == (0.0, 1.0, False, False, 0)
    assert Result._fields == ("value", "state", "history", "status")
    assert Problem(1, 2).x0 is None and Problem(1, 2).context is None and StreamCarry(1).memory is None


def _richardson_prepare(op):
    return op


def _richardson_init(op, b, x0):
    return x0, b - op @ x0


def _richardson_step(rate, op, b, state):
    x = state[0] + rate * state[1]
    return x, b - op @ x


def _richardson_broken(op, state):
    return jnp.int32(0)


def test_a_family_member_crosses_jit_vmap_and_grad():
    def member(rate):
        return Solver(
            Partial(_richardson_prepare),
            Partial(_richardson_init),
            Partial(_richardson_step, rate),
            Partial(_richardson_broken),
        )

    op, b = jnp.array([[2.0, 0.5], [0.5, 1.0]]), jnp.ones(2)
    traces = []

    @jax.jit
    def one_step(solver):
        traces.append(1)
        state = solver.step(op, b, solver.init(op, b, jnp.zeros(2)))
        return jnp.sum(state[1] ** 2)

    rates = jnp.array([0.1, 0.3, 0.5])
    single = [one_step(member(rate)) for rate in rates]
    assert len(traces) == 1, "a new hyper-parameter value never retraces"
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *[member(rate) for rate in rates])
    np.testing.assert_allclose(jax.vmap(one_step)(stacked), single, rtol=1e-6)
    slope = jax.grad(one_step)(member(0.3)).step.args[0]
    residual, image = b - 0.3 * op @ b, op @ b
    np.testing.assert_allclose(slope, -2 * residual @ image, rtol=1e-5)


def test_a_denoiser_is_any_function_of_that_shape():
    def gaussian(x, t, cond, w):
        return x / (1 + t**2), x * t / (1 + t**2)

    denoiser: Denoiser = gaussian
    data, noise = denoiser(jnp.ones(3), jnp.float32(1), None, jnp.float32(1))
    np.testing.assert_allclose(data + noise, jnp.ones(3))


def test_keys_of_items_do_not_depend_on_the_chunk(key):
    whole = keys.per_item(key, 10)
    assert whole.shape == (10,) and len(np.unique(jax.random.key_data(whole), axis=0)) == 10
    assert all(bool(whole[i] == jax.random.fold_in(key, i)) for i in range(10))
    part = jax.jit(lambda start: keys.per_item(key, 4, start=start))(3)
    assert bool(jnp.all(part == whole[3:7]))
