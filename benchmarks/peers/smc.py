"""Particle filters and resampling of other packages, on a linear-Gaussian series and on given weights."""

import numpy as np


def particles_filter(y, rho, scale_x, scale_y, num, runs):
    """Bootstrap filters of `particles`, one after the other: log-likelihood of each."""
    import particles
    from particles import distributions, state_space_models

    class Linear(state_space_models.StateSpaceModel):
        def PX0(self):  # noqa: N802
            return distributions.Normal(scale=scale_x / np.sqrt(1 - rho**2))

        def PX(self, t, xp):  # noqa: N802
            return distributions.Normal(loc=rho * xp, scale=scale_x)

        def PY(self, t, xp, x):  # noqa: N802
            return distributions.Normal(loc=x, scale=scale_y)

    def run():
        found = []
        for _ in range(runs):
            bootstrap = state_space_models.Bootstrap(ssm=Linear(), data=y)
            smc = particles.SMC(fk=bootstrap, N=num, resampling="systematic", ESSrmin=0.5)
            smc.run()
            found.append(smc.logLt)
        return np.asarray(found)

    return run


def _normal(x, mean, scale):
    import jax.numpy as jnp

    return -0.5 * ((x - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * np.log(2 * np.pi)


def smcx_filter(y, rho, scale_x, scale_y, num, runs):
    """Bootstrap filters of `smcx` under vmap: log-likelihood of each."""
    import jax
    import jax.numpy as jnp
    import smcx

    def one(key):
        return smcx.bootstrap_filter(
            key,
            lambda key, num: scale_x / np.sqrt(1 - rho**2) * jax.random.normal(key, (num,)),
            lambda key, x: rho * x + scale_x * jax.random.normal(key),
            lambda y, x: _normal(y[0], x, scale_y),
            jnp.asarray(y, jnp.float32),
            num,
            store_history=False,
        ).marginal_loglik

    return jax.vmap(one), jax.random.split(jax.random.key(1), runs)


def cuthbert_filter(y, rho, scale_x, scale_y, num, runs):
    """Bootstrap filters of `cuthbert` under vmap: log-likelihood of each. It weighs from the second state on, so the
    first observation is that of a state which does not move."""
    import cuthbert
    import jax
    import jax.numpy as jnp
    from cuthbert.smc import particle_filter
    from cuthbertlib.resampling import adaptive, systematic

    inputs = (jnp.asarray(y, jnp.float32), jnp.arange(len(y)) == 0)

    def propagate(key, x, input):
        return jnp.where(input[1], x, rho * x + scale_x * jax.random.normal(key))

    filter_ = particle_filter.build_filter(
        lambda key: scale_x / np.sqrt(1 - rho**2) * jax.random.normal(key),
        propagate,
        lambda before, x, input: _normal(input[0], x, scale_y),
        num,
        adaptive.ess_decorator(systematic.resampling, 0.5),
    )

    def one(key):
        first, second = jax.random.split(key)
        start = filter_.init_prepare(key=first)
        return cuthbert.filter(filter_, inputs, start, key=second).log_normalizing_constant[-1]

    return jax.vmap(one), jax.random.split(jax.random.key(1), runs)


def blackjax_systematic(log_weights):
    """Systematic resampling of `blackjax`."""
    import jax
    import jax.numpy as jnp
    from blackjax.smc import resampling

    def run(key, log_weights):
        return resampling.systematic(key, jax.nn.softmax(log_weights), log_weights.size)

    return run, jax.random.key(0), jnp.asarray(log_weights, jnp.float32)


def smcx_systematic(log_weights):
    """Systematic resampling of `smcx`."""
    import jax
    import jax.numpy as jnp
    from smcx import resampling

    def run(key, log_weights):
        return resampling.systematic(key, jax.nn.softmax(log_weights), log_weights.size)

    return run, jax.random.key(0), jnp.asarray(log_weights, jnp.float32)


def cuthbert_systematic(log_weights):
    """Systematic resampling of `cuthbertlib`."""
    import jax
    import jax.numpy as jnp
    from cuthbertlib.resampling import systematic

    def run(key, log_weights):
        return systematic.resampling(key, log_weights, jnp.arange(log_weights.size), log_weights.size)[0]

    return run, jax.random.key(0), jnp.asarray(log_weights, jnp.float32)
