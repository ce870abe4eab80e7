"""Problem records: validation, and that they cross jit and stack under vmap without new compilations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contracts import count_compilations
from jaxsci import control


def _drift(t, x, u, args):
    return -args["rate"] * x


def _noise(t, x, u, args):
    return args["noise"]


def _reward(t, x, u, args):
    return x


def _problem(rate=1.0, noise=0.5, **kwargs):
    return control.sde(_drift, _noise, _reward, args={"rate": rate, "noise": noise}, **kwargs)


def test_numbers_become_leaves_and_functions_do_not():
    problem = _problem(discount=0.1, horizon=2)
    assert sorted(float(a) for a in jax.tree.leaves(problem)) == pytest.approx([0.1, 0.5, 1.0, 2.0])
    assert jax.tree.structure(problem) == jax.tree.structure(_problem(2.0, discount=0.3))


def test_problems_stack_and_new_values_compile_nothing(key):
    problems = [_problem(rate, discount=0.1, horizon=1.0) for rate in (0.5, 1.0, 2.0)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *problems)

    def run(problem):
        return control.euler_maruyama(key, problem, None, 1.0, num_steps=8).xs

    together = jax.vmap(run)(stacked)
    for row, problem in zip(together, problems):
        np.testing.assert_allclose(row, run(problem), rtol=1e-6)
    with count_compilations() as events:
        jax.block_until_ready(run(_problem(3.0, 0.7, discount=0.2, horizon=1.5)))
    assert not events


def test_no_reward_is_zero(key):
    path = control.euler_maruyama(key, control.sde(_drift_free, _one), None, jnp.zeros(2), num_steps=3, dt=0.1)
    assert not bool(jnp.any(path.rs))


def _drift_free(t, x, u, args):
    return 0.0


def _one(t, x, u, args):
    return 1.0


@pytest.mark.bad_input
def test_static_misuse_raises():
    with pytest.raises(TypeError, match="drift must be a function"):
        control.sde(1.0, _noise, _reward)
    with pytest.raises(TypeError, match="diffusion must be a function"):
        control.sde(_drift, 0.3)
    with pytest.raises(TypeError, match="terminal must be a function"):
        control.ode(_drift, terminal=0.0)
    with pytest.raises(ValueError, match="discount must be a scalar"):
        control.sde(_drift, _noise, discount=jnp.ones(2))
