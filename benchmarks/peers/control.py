"""Quadrature, Riccati equations and temporal differences by quadax, probnum, SciPy, python-control and rlax."""

import warnings

import numpy as np


def quadgk(c):
    """Integrals of exp(sin 3t + ct) over [0, 1], one for each c, by quadax's adaptive rule under vmap."""
    import jax
    import jax.numpy as jnp
    import quadax

    jax.config.update("jax_enable_x64", True)
    interval = jnp.array([0.0, 1.0])

    def one(c):
        return quadax.quadgk(lambda t, c: jnp.exp(jnp.sin(3 * t) + c * t), interval, args=(c,), epsabs=1e-10)[0]

    return jax.vmap(one), jnp.asarray(c)


def bayesquad(n):
    """Mean of the integral of e^-t cos 5t over [0, .1] from n equidistant values, by probnum."""
    # What probnum 0.1 asks NumPy for, and NumPy 2 no longer has.
    for name, value in {"Inf": np.inf, "infty": np.inf, "float_": np.float64, "complex_": np.complex128}.items():
        if name not in np.__dict__:
            setattr(np, name, value)
    warnings.simplefilter("ignore")
    from probnum.quad import bayesquad_from_data
    from probnum.randprocs.kernels import Matern

    covariance = Matern(input_shape=(1,), lengthscales=0.3, nu=3.5)

    def run():
        nodes = np.linspace(0.0, 0.1, n)
        values = np.exp(-nodes) * np.cos(5 * nodes)
        return bayesquad_from_data(nodes[:, None], values, kernel=covariance, domain=(0.0, 0.1))[0].mean

    return run


def riccati_loop(A, B, Q, R):
    """Stabilising solutions (num, d, d), one call of SciPy each."""
    from scipy.linalg import solve_continuous_are

    return lambda: np.stack([solve_continuous_are(a, b, Q, R) for a, b in zip(A, B)])


def lqr(A, B, Q, R):
    """The same of one system, by python-control."""
    import control

    return lambda: np.asarray(control.lqr(A, B, Q, R)[1])


def td_lambda(theta, now, then, rewards, gamma, decay):
    """The update features . errors of TD(lambda), by rlax."""
    import jax
    import jax.numpy as jnp
    import rlax

    jax.config.update("jax_enable_x64", True)

    def update(theta, now, then, rewards):
        errors = rlax.td_lambda(now @ theta, rewards, jnp.full(len(rewards), gamma), then @ theta, decay)
        return now.T @ errors

    return update, *map(jnp.asarray, (theta, now, then, rewards))
