"""Entries of jaxsci.smc."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import contracts
from contracts import Bad, Compiled, Driver, Family
from jaxsci import smc

R = smc.resamplers
STORED = ("particles", "log_weights", "ancestors")


class Normal:
    """The least that a distribution must offer: N(loc, scale^2), broadcast."""

    def __init__(self, loc, scale):
        self.loc, self.scale = jnp.broadcast_arrays(loc, scale)
        self.batch_shape = self.loc.shape

    def sample(self, *, seed, sample_shape=()):
        """Draws of shape ``sample_shape + batch_shape``."""
        noise = contracts.normal(seed, (*sample_shape, *self.loc.shape), self.loc.dtype)
        return jnp.broadcast_to(self.loc, noise.shape) + jnp.broadcast_to(self.scale, noise.shape) * noise

    def log_prob(self, x):
        """Log-density of each component."""
        return -0.5 * ((x - self.loc) / self.scale) ** 2 - jnp.log(self.scale) - 0.5 * math.log(2 * math.pi)


def _first(theta, y):
    return Normal(0 * theta[0], theta[1])


def _next(theta, x, y):
    return Normal(theta[0] * x, theta[1])


def _seen(theta, x, y):
    return Normal(x, theta[2])


def _toward(theta, x, y):
    return Normal(0.5 * (theta[0] * x + y), theta[1])


def _toward_first(theta, y):
    return Normal(0.5 * y, theta[1])


def _eta(theta, x, y):
    return -0.1 * (y - theta[0] * x) ** 2


def space(theta, batched=True):
    """A linear state-space model with parameters (slope, scale of states, scale of observations)."""
    return smc.state_space(Partial(_first, theta), Partial(_next, theta), Partial(_seen, theta), batched=batched)


def _data(key, dtype):
    theta = jnp.asarray([0.9, 1.0, 0.5], dtype) + 0.05 * contracts.normal(key, (3,), dtype)
    return theta, contracts.normal(jax.random.fold_in(key, 1), (4,), dtype)


def _entry(read, grad=(0, 1)):
    """`read(theta, y)` of a linear model's parameters and four observations."""
    return Compiled(lambda key, dtype: (read, _data(key, dtype)), grad=grad)


def _moments(x, weights):
    mean = jnp.sum(weights * x)
    return mean, jnp.sum(weights * (x - mean) ** 2)


def _filter(model, y, **options):
    """A run whose random choices do not depend on the arguments: it is smooth in them."""
    return smc.run(jax.random.key(7), model, y, num_particles=8, ess_threshold=0.0, **options)


def _run(theta, y):
    options = dict(num_particles=8, ess_threshold=1.0, statistics=_moments)
    return smc.run(jax.random.key(7), smc.bootstrap(space(theta)), y, store=STORED, **options)


def _steps(theta, y):
    key, model = jax.random.key(7), smc.bootstrap(space(theta))
    state, begun = smc.init(key, model, y[0], num_particles=8)
    return *smc.step(key, model, state, y[1], ess_threshold=0.0), begun


def _single_first(theta, key, y):
    return theta[1] * contracts.normal(key, (), theta.dtype)


def _single_next(theta, key, x, y):
    return theta[0] * x + theta[1] * contracts.normal(key, (), theta.dtype)


def _single_weight(theta, before, x, y):
    return -0.5 * ((y - x) / theta[2]) ** 2


def _lifted(theta, y):
    parts = (Partial(f, theta) for f in (_single_first, _single_next, _single_weight))
    return _filter(smc.lift(smc.FeynmanKac(*parts)), y)


def _guided(theta, y):
    return smc.guided(space(theta), Partial(_toward_first, theta), Partial(_toward, theta))


def _marginal(theta, y):
    return smc.marginal(space(theta), Partial(_toward_first, theta), Partial(_toward, theta), block_size=3)


def _auxiliary(theta, y):
    model = smc.auxiliary(space(theta), smc.bootstrap(space(theta)), Partial(_eta, theta))
    return smc.run(jax.random.key(7), model, y, num_particles=8)


def _forecast(theta, y):
    cloud = smc.Cloud(y, jnp.zeros_like(y))
    return smc.forecast(jax.random.key(7), space(theta), cloud, y[:3])


def _finish(theta, y):
    result = _filter(smc.bootstrap(space(theta)), y)
    return smc.finish(result.state, result.history)


def _uniform(theta, y):
    return smc.resample_to_uniform(jax.random.key(8), _filter(smc.bootstrap(space(theta)), y), 6)


def _conditional(key, dtype):
    def run(log_weights, pivot, slot):
        return R.conditional_systematic(jax.random.key(3), log_weights, 6, pivot=pivot, slot=slot)

    pivot, slot = jax.random.randint(key, (2,), 0, 5)
    return run, (contracts.normal(key, (5,), dtype), pivot, slot)


def _log_weights(function):
    return Compiled(lambda key, dtype: (function, (3 * contracts.normal(key, (5,), dtype),)), grad=(0,))


def _resampler(function, **bounds):
    return Family(lambda key, dtype: contracts.check_resampler(function, key, dtype, **bounds))


def _two(share):
    return share + 2


def _to_arviz(folder):
    result = smc.run(jax.random.key(0), smc.bootstrap(space(jnp.array([0.9, 1.0, 0.5]))), jnp.zeros(2), num_particles=8)
    groups = smc.interop.to_arviz(jax.random.key(1), result, 5)
    assert groups["posterior"]["x"].shape == (1, 5) and type(groups["posterior"]["x"]) is np.ndarray


def _density(theta, before, x, y):
    return -0.5 * ((x - theta[0] * before) / theta[1]) ** 2


def _single(theta):
    parts = (Partial(f, theta) for f in (_single_first, _single_next, _single_weight))
    return smc.FeynmanKac(*parts, log_propagate=Partial(_density, theta))


def _path(theta, y):
    return smc.conditional(jax.random.key(7), _single(theta), y, 0.5 * y, num_particles=4)


def _doubled(key, theta, path, y):
    return theta


def _gibbs(theta, y):
    options = dict(num_particles=3, num_steps=2, parameters=theta, update=_doubled, draw="ancestor")
    return smc.gibbs(jax.random.key(7), _single, y, **options)


def _lineage(key, dtype):
    return smc.lineage, (jax.random.randint(key, (4, 5), 0, 5), jax.random.randint(key, (3,), 0, 5))


ENTRIES = {
    "jaxsci.smc.conditional": _entry(_path, grad=()),
    "jaxsci.smc.gibbs": _entry(_gibbs, grad=()),
    "jaxsci.smc.lineage": Compiled(_lineage),
    "jaxsci.smc.resamplers.systematic": _resampler(R.systematic, least=np.floor, most=np.ceil),
    "jaxsci.smc.resamplers.ssp": _resampler(R.ssp, least=np.floor, most=np.ceil),
    "jaxsci.smc.resamplers.stratified": _resampler(R.stratified, least=lambda share: share - 2, most=_two),
    "jaxsci.smc.resamplers.residual": _resampler(R.residual, least=np.floor),
    "jaxsci.smc.resamplers.multinomial": _resampler(R.multinomial),
    "jaxsci.smc.resamplers.conditional_systematic": Compiled(_conditional),
    "jaxsci.smc.effective_sample_size": _log_weights(smc.effective_sample_size),
    "jaxsci.smc.log_mean_exp": _log_weights(smc.log_mean_exp),
    "jaxsci.smc.pareto_k": Compiled(
        lambda key, dtype: (smc.pareto_k, (3 * contracts.normal(key, (60,), dtype),)), tol=1e-4
    ),
    "jaxsci.smc.run": _entry(_run, grad=()),
    "jaxsci.smc.init": _entry(_steps),
    "jaxsci.smc.step": _entry(_steps),
    "jaxsci.smc.finish": _entry(_finish),
    "jaxsci.smc.lift": _entry(_lifted),
    "jaxsci.smc.state_space": _entry(lambda theta, y: _filter(smc.bootstrap(space(theta, False)), y)),
    "jaxsci.smc.bootstrap": _entry(lambda theta, y: _filter(smc.bootstrap(space(theta)), y).log_z),
    "jaxsci.smc.guided": _entry(lambda theta, y: _filter(_guided(theta, y), y)),
    "jaxsci.smc.auxiliary": _entry(_auxiliary, grad=()),
    "jaxsci.smc.with_lag": _entry(lambda theta, y: _filter(smc.with_lag(smc.bootstrap(space(theta)), 2), y).value),
    "jaxsci.smc.interop.to_arviz": Driver(
        bad=(Bad(lambda f: smc.interop.to_arviz(jax.random.key(0), 3), TypeError, "result must be a Result, got 3"),),
        works=_to_arviz,
    ),
    "jaxsci.smc.marginal": _entry(lambda theta, y: _filter(_marginal(theta, y), y)),
    "jaxsci.smc.in_batches": _entry(lambda theta, y: _filter(smc.in_batches(smc.bootstrap(space(theta)), 3), y).value),
    "jaxsci.smc.forecast": _entry(_forecast),
    "jaxsci.smc.log_z_variance": _entry(lambda theta, y: smc.log_z_variance(_filter(smc.bootstrap(space(theta)), y))),
    "jaxsci.smc.mean_variance": _entry(
        lambda theta, y: smc.mean_variance(_filter(smc.bootstrap(space(theta)), y), jnp.sin)
    ),
    "jaxsci.smc.resample_to_uniform": _entry(_uniform, grad=()),
}
