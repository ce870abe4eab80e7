"""Entries of the physics policy of jaxsci.linear."""

import jax.numpy as jnp

import contracts
from contracts import Family
from jaxsci import linear


def _policy(method):
    def make(arms, low, tol, misfit):
        return linear.physics_policy(arms, low=low, high=low + 1, method=method, tol=tol, misfit=misfit, num_members=8)

    def check(key, dtype):
        hyper = (jnp.linspace(1.0, 1.7, 4), 0.0, 1e-6, 0.1)
        context = jnp.asarray(0.3, dtype)
        # A solve of infinite cost counts as the dearest, a context that is NaN or infinite as one in the range.
        learns = ("inf", "context")
        contracts.check_policy(
            make, key, 4, hyper=hyper, context=context, losses=(5.0, 60.0), dtype=dtype, learns=learns
        )

    return Family(check)


ENTRIES = {
    "jaxsci.linear.physics_policy": _policy("sor"),
}
