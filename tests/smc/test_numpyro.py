"""Laws in the manner of numpyro (`key` before `sample_shape`, moments as properties) give the runs that distrax gives.

numpyro is no dependency, so stand-ins with its signatures and shapes play its part.
"""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import smc
from jaxsci.core import status


class Law:
    """Signatures of `numpyro.distributions.Distribution`: a draw has ``sample_shape + batch_shape + event_shape``."""

    def __init__(self, batch_shape, event_shape):
        self.batch_shape, self.event_shape = batch_shape, event_shape

    def shape(self, sample_shape=()):
        return sample_shape + self.batch_shape + self.event_shape


class Normal(Law):
    """N(loc, scale^2); `event_dim` axes are one event, as ``to_event`` makes them."""

    def __init__(self, loc, scale, event_dim=0):
        self.loc, self.scale, self.event_dim = loc, scale, event_dim
        shape = jnp.broadcast_shapes(jnp.shape(loc), jnp.shape(scale))
        cut = len(shape) - event_dim
        super().__init__(shape[:cut], shape[cut:])

    def sample(self, key=None, sample_shape=()):
        shape = self.shape(sample_shape)
        noise = jax.random.normal(key, shape)
        return noise * jnp.broadcast_to(self.scale, shape) + jnp.broadcast_to(self.loc, shape)

    def log_prob(self, value):
        loc, scale = (jnp.broadcast_to(a, value.shape) for a in (self.loc, self.scale))
        density = -0.5 * ((value - loc) / scale) ** 2 - jnp.log(scale) - 0.5 * np.log(2 * np.pi)
        return density.sum(tuple(range(-self.event_dim, 0)))


class MultivariateNormal(Law):
    """Mean and covariance are properties; beside a batch of means one covariance has axes of length one."""

    def __init__(self, loc, covariance_matrix):
        self.loc = loc
        self.covariance_matrix = jnp.reshape(
            covariance_matrix, (1,) * (loc.ndim - 1) + jnp.shape(covariance_matrix)[-2:]
        )
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    @property
    def mean(self):
        return self.loc

    def sample(self, key=None, sample_shape=()):
        shape = self.shape(sample_shape)
        factor = jnp.linalg.cholesky(self.covariance_matrix.reshape(self.covariance_matrix.shape[-2:]))
        return jnp.broadcast_to(self.loc, shape) + jax.random.normal(key, shape) @ factor.T


def series(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(1, 2))
def log_z(key, make, batched, y):
    return smc.run(key, make(batched), y, num_particles=64).log_z


def scalars(law, batched):
    space = smc.state_space(
        lambda y: law(0.0, 2.0), lambda x, y: law(0.9 * x, 1.0), lambda x, y: law(x, 0.5), batched=batched
    )
    return smc.guided(space, lambda y: law(0.2 * y, 2.0), lambda x, y: law(0.5 * (0.9 * x + jnp.nan_to_num(y)), 1.0))


@pytest.mark.parametrize("batched", [False, True])
def test_a_filter_of_numbers(batched, key):
    """Proposals, densities of them and a missing observation."""
    y = series(6)
    y[3] = np.nan
    ours, theirs = (log_z(key, functools.partial(scalars, law), batched, y) for law in (Normal, distrax.Normal))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


COVARIANCE = np.array([[2.0, 0.5, 0.3], [0.5, 1.0, -0.2], [0.3, -0.2, 1.5]], np.float32)


def _distrax(loc, covariance):
    """distrax promotes ranks inside unless each mean has its covariance."""
    return distrax.MultivariateNormalFullCovariance(loc, jnp.broadcast_to(covariance, (*loc.shape[:-1], 3, 3)))


def vectors(law, batched):
    return smc.bootstrap(
        smc.state_space(
            lambda y: law(jnp.zeros(3), COVARIANCE),
            lambda x, y: law(0.8 * x, COVARIANCE),
            lambda x, y: law(x, COVARIANCE),
            batched=batched,
        )
    )


@pytest.mark.parametrize("batched", [False, True])
def test_a_filter_of_vectors_with_missing_components(batched, key):
    """The stand-in has no `log_prob`: the marginal density comes from its moments."""
    y = series(4, 3)
    y[1, 1], y[2] = np.nan, np.nan
    ours, theirs = (log_z(key, functools.partial(vectors, law), batched, y) for law in (MultivariateNormal, _distrax))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_vector_that_is_one_event_cannot_miss_a_part(key):
    space = smc.state_space(
        lambda y: Normal(jnp.zeros(3), 1.0, 1),
        lambda x, y: Normal(0.8 * x, 1.0, 1),
        lambda x, y: Normal(x, 1.0, 1),
        batched=True,
    )
    y = series(3, 3)
    y[1], y[2, 0] = np.nan, np.nan
    codes = smc.run(key, smc.bootstrap(space), y, num_particles=64).history.status
    assert list(codes) == [0, 0, status.NONFINITE_INPUT | status.DEGENERATE]


def test_forecasts_have_the_shapes_of_the_laws(key):
    space = smc.state_space(
        lambda y: Normal(jnp.zeros(2), 1.0, 1),
        lambda x, y: Normal(x, 1.0, 1),
        lambda x, y: Normal(x[..., 0], 1.0),
        batched=True,
    )
    result = smc.run(key, smc.bootstrap(space), jnp.zeros(2), num_particles=8)
    states, seen = smc.forecast(key, space, result.value, jnp.zeros(3))
    assert states.shape == (3, 8, 2) and seen.shape == (3, 8)
