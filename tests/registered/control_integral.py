"""Entries of jaxsci.control.integral and jaxsci.control.riccati."""

import jax
import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Builder, Compiled
from jaxsci import quadrature
from jaxsci.control import integral, riccati

RULE = quadrature.rules.trapezoid(3, 0.0, 0.1)


def _matrices(key, dtype):
    """A stable two-dimensional problem."""
    A = jnp.asarray([[-1.0, 1.0], [0.0, -2.0]], dtype) + 0.2 * contracts.normal(key, (2, 2), dtype)
    return A, jnp.asarray([[0.0], [1.0]], dtype), jnp.eye(2, dtype=dtype), jnp.eye(1, dtype=dtype)


def _start(key, dtype):
    return jnp.asarray([1.0, -2.0], dtype) + 0.1 * contracts.normal(key, (2,), dtype)


def _tolerances(dtype):
    single = dtype == "float32"
    return {"rtol": 1e-4 if single else 1e-9, "atol": 1e-5 if single else 1e-11, "allow_float32": True}


def _evaluate(key, dtype):
    def run(x, *matrices):
        problem = integral.linear_quadratic(*matrices)
        zero = jnp.zeros(3, x.dtype)
        found = integral.evaluate(
            problem, integral.quadratic, zero, x, rule=RULE, num_rows=4, cutoff=1e-9, **_tolerances(dtype)
        )
        return found.x, found.differences, found.integrals, found.status

    return run, (_start(key, dtype), *_matrices(key, dtype))


def _samples(key, dtype):
    def run(weights, samples, *matrices):
        problem = integral.linear_quadratic(*matrices)
        found = integral.evaluate_samples(
            problem, integral.quadratic, weights, samples, jnp.asarray(RULE[1], samples.dtype),
            starts=samples[:, 0], ends=samples[:, -1], cutoff=1e-9, allow_float32=True,
        )  # fmt: skip
        return found.weights, found.residual, found.rank, found.status

    samples = contracts.normal(key, (5, 3, 2), dtype)
    return run, (contracts.normal(jax.random.fold_in(key, 1), (3,), dtype), samples, *_matrices(key, dtype))


def _iteration(key, dtype):
    def run(x, *matrices):
        problem = integral.linear_quadratic(*matrices)
        found = integral.policy_iteration(
            problem, integral.quadratic, jnp.zeros(3, x.dtype), x, rule=RULE, num_rows=4, max_steps=2, tol=1e-12,
            **_tolerances(dtype),
        )  # fmt: skip
        return found.steps, found.status, found.rank, found.state

    return run, (_start(key, dtype), *_matrices(key, dtype))


def _linear(key, dtype):
    def run(x, *matrices):
        problem = integral.linear_quadratic(*matrices)
        return problem.drift(x, problem.args), problem.input_matrix(x, problem.args), problem.state_cost

    return run, (_start(key, dtype), *_matrices(key, dtype))


def _policy(key, dtype):
    def run(weights, x, *matrices):
        return integral.policy(integral.linear_quadratic(*matrices), integral.quadratic, weights, x)

    return run, (contracts.normal(key, (3,), dtype), _start(key, dtype), *_matrices(key, dtype))


def _features(function):
    return Compiled(lambda key, dtype: (function, (_start(key, dtype),)), grad=(0,))


def _bound(key, dtype):
    return integral.newton_bound, tuple(contracts.uniform(key, (2, 3), dtype, 0.1, 0.4))


def _kleinman(key, dtype):
    def run(*matrices):
        history = riccati.kleinman(*matrices, num_iterations=3)
        return history.P, history.K, history.status

    return run, _matrices(key, dtype)


def _fixed_point(key, dtype):
    def run(*matrices):
        tol = 1e-4 if dtype == "float32" else 1e-11
        found = riccati.integral_fixed_point(*matrices, RULE, 0.1, tol=tol, allow_float32=True)
        return found.value, found.K, found.status

    return run, _matrices(key, dtype)


def _hjb(key, dtype):
    def run(P, x, *matrices):
        return riccati.hjb_residual(lambda y: y @ P @ y, integral.linear_quadratic(*matrices), x)

    return run, (contracts.normal(key, (2, 2), dtype), _start(key, dtype), *_matrices(key, dtype))


def _solve():
    """One dimension: b^2 p^2 / r - 2 a p - q = 0, the positive root."""

    def truth(a, b, q, r):
        p = (a + np.sqrt(a**2 + q * b**2 / r)) * r / b**2
        return p, p * b / r

    return Builder(lambda: (riccati.solve, tuple(np.full((1, 1), v) for v in (0.4, 1.5, 2.0, 0.7))), truth)


_DOUBLE = "refused in single precision unless asked for, and slow to compile"

ENTRIES = {
    "jaxsci.control.integral.evaluate_samples": Compiled(_samples, grad=(0, 1)),
    "jaxsci.control.integral.evaluate": Compiled(
        _evaluate,
        skip={
            "grad": "the ODE solver runs in forward mode; forward derivatives have a test of their own",
            "float32": _DOUBLE,
        },
    ),
    "jaxsci.control.integral.policy_iteration": Compiled(
        _iteration,
        skip={"grad": "a while loop around a forward-mode ODE solver has no reverse mode", "float32": _DOUBLE},
    ),
    "jaxsci.control.integral.linear_quadratic": Compiled(_linear, grad=(0, 1)),
    "jaxsci.control.integral.policy": Compiled(_policy, grad=(0, 1, 3, 5)),
    "jaxsci.control.integral.quadratic": _features(integral.quadratic),
    "jaxsci.control.integral.kronecker": _features(integral.kronecker),
    "jaxsci.control.integral.newton_bound": Compiled(_bound, grad=(0, 1)),
    "jaxsci.control.riccati.solve": _solve(),
    "jaxsci.control.riccati.kleinman": Compiled(_kleinman, grad=(0, 1, 2, 3)),
    "jaxsci.control.riccati.integral_fixed_point": Compiled(
        _fixed_point, skip={"grad": "a while loop: forward mode only, which has a test of its own"}
    ),
    "jaxsci.control.riccati.hjb_residual": Compiled(_hjb, grad=(0, 1, 2)),
}
