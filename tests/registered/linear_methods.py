"""Entries of the methods, theory, bounds, Lanczos and lineax interop of jaxsci.linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import contracts
from contracts import Bad, Builder, Compiled, Driver, Family
from jaxsci import linear
from jaxsci.core.static import bind

SHAPE = (3, 4)
WAVE = 2 * (np.cos(np.pi / 5) + np.cos(np.pi / 6))


def _method(make, needs_x64=False):
    def check(key, dtype):
        if needs_x64 and dtype == "float32":
            with pytest.raises(ValueError, match="jax_enable_x64"):
                contracts.check_method(make, key, dtype, tol=1e-4)
        else:
            contracts.check_method(make, key, dtype, tol=1e-4 if dtype == "float32" else 1e-10)

    return Family(check)


def _halved(r):
    return r / 2


def _refined():
    return linear.methods.refined(linear.methods.sor(1.2))


def _surrogate(key, dtype):
    return linear.theory.surrogate, tuple(
        contracts.uniform(jax.random.fold_in(key, i), (3,), dtype, 0.1, 0.9) for i in range(3)
    )


def _spectral(make):
    """`make(op, start)` of the shifted Laplacian."""

    def entry(key, dtype):
        def run(shift, start):
            return make(linear.operators.shifted_laplacian(SHAPE, shift), start)

        return run, (contracts.uniform(key, (), dtype), contracts.normal(key, SHAPE, dtype))

    return entry


def _gershgorin(op, start):
    return linear.bounds.gershgorin(op)


def _power(op, start):
    return linear.bounds.power(op, start, num_steps=5, margin=jnp.asarray(0.01, start.dtype))


def _tridiagonal(op, start):
    return linear.lanczos.tridiagonal(op, start, num_steps=4)


def _extremes(op, start):
    return linear.lanczos.extreme_eigenvalues(op, start, num_steps=4)


def _from_lineax(key, dtype):
    import lineax

    def run(matrix, x):
        return linear.interop.from_lineax(lineax.MatrixLinearOperator(matrix)).mv(x)

    return run, (contracts.normal(key, (4, 4), dtype), contracts.normal(key, (4,), dtype))


def _to_lineax(folder):
    import lineax

    solver = linear.interop.to_lineax(linear.methods.sor(1.1), tol=1e-5)
    found = lineax.linear_solve(lineax.MatrixLinearOperator(jnp.array([[4.0, 1.0], [1.0, 3.0]])), jnp.ones(2), solver)
    np.testing.assert_allclose(found.value, [2 / 11, 3 / 11], rtol=1e-4)
    assert int(found.stats["num_steps"]) > 1


def _to_lineax_refused(_):
    import lineax

    operator = lineax.FunctionLinearOperator(lambda x: 2 * x, jax.ShapeDtypeStruct((2,), jnp.float32))
    lineax.linear_solve(operator, jnp.ones(2), linear.interop.to_lineax(linear.methods.sor(1.0)))


# --- builders: the same figures from general eigenvalues ---------------------------------------------------


def _spd():
    a = np.diag([4.0, 5.0, 6.0, 7.0])
    for i in range(3):
        a[i, i + 1] = a[i + 1, i] = -1 - 0.1 * i
    return a


def _split(a):
    d, lower = np.diag(np.diag(a)), np.tril(a, -1)
    return d, lower, np.linalg.inv(d)


def _slack_truth(a, omegas, counts):
    d, lower, _ = _split(a)
    found = []
    for omega, k in zip(omegas, counts):
        c = np.eye(len(a)) - a @ np.linalg.inv(d / omega + lower)
        rate, power = np.abs(np.linalg.eigvals(c)).max(), np.eye(len(a))
        for _ in range(int(k) - 1):
            power = power @ c
        found.append((np.linalg.svd(power)[1][0] ** (1 / (k - 1)) - rate) / (1 - rate))
    return max(found)


def _energy_truth(a, omega):
    d, lower, inverse = _split(a)
    half = (2 - omega) / (2 * omega)
    gap = 1 - np.abs(np.linalg.eigvals(inverse @ (lower + lower.T))).max()
    product = np.abs(np.linalg.eigvals(inverse @ lower @ inverse @ lower.T)).max()
    return np.sqrt(1 - 2 * half * gap / (half**2 + gap / omega + product - 0.25))


def _pcg_truth(a, omega, tol):
    d, lower, inverse = _split(a)
    condition, back = np.linalg.cond(a), np.linalg.inv(a)
    alpha = np.linalg.eigvals(d @ back).real.max()
    beta = np.linalg.eigvals((lower @ inverse @ lower.T - d / 4) @ back).real.max()
    c = (2 - omega) / (1 + (2 - omega) ** 2 * alpha / (4 * omega) + beta * omega)
    reach = np.log(np.sqrt(condition) / tol + np.sqrt(condition / tol**2 - 1))
    return 1 + reach / -np.log(1 - 2 / (1 + np.sqrt(1 / c)))


ENTRIES = {
    "jaxsci.linear.methods.jacobi": _method(linear.methods.jacobi),
    "jaxsci.linear.methods.gauss_seidel": _method(linear.methods.gauss_seidel),
    "jaxsci.linear.methods.ssor": _method(Partial(bind(linear.methods.ssor), 1.2)),
    "jaxsci.linear.methods.chebyshev": _method(Partial(bind(linear.methods.chebyshev), 4.3 - WAVE, 4.3 + WAVE)),
    "jaxsci.linear.methods.pcg": _method(Partial(bind(linear.methods.pcg), Partial(_halved))),
    "jaxsci.linear.methods.refined": _method(_refined, needs_x64=True),
    "jaxsci.linear.theory.surrogate": Compiled(_surrogate, grad=(0, 1, 2)),
    "jaxsci.linear.theory.surrogate_slack": Builder(
        lambda: (linear.theory.surrogate_slack, (_spd(), np.array([0.8, 1.0]), np.array([12, 9]))),
        _slack_truth,
        tol=1e-10,
    ),
    "jaxsci.linear.theory.energy_bound": Builder(
        lambda: (linear.theory.energy_bound, (_spd(), np.array(0.8))), _energy_truth
    ),
    "jaxsci.linear.theory.ssor_pcg_bound": Builder(
        lambda: (linear.theory.ssor_pcg_bound, (_spd(), np.array([1.0, 1.5]), np.array(1e-8))), _pcg_truth
    ),
    "jaxsci.linear.bounds.gershgorin": Compiled(_spectral(_gershgorin)),
    "jaxsci.linear.bounds.power": Compiled(_spectral(_power), grad=(0,)),
    "jaxsci.linear.lanczos.tridiagonal": Compiled(_spectral(_tridiagonal), grad=(0,), tol=1e-4),
    "jaxsci.linear.lanczos.extreme_eigenvalues": Compiled(_spectral(_extremes), tol=1e-4),
    "jaxsci.linear.interop.from_lineax": Compiled(_from_lineax, grad=(0, 1)),
    "jaxsci.linear.interop.to_lineax": Driver(
        bad=(Bad(_to_lineax_refused, ValueError, "materialise=True"),), works=_to_lineax
    ),
}
