"""What does guidance sample? U^(1-w) C^w by a corrected sampler, with its constant. Edit me, then: python study.py"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxsci import sweep
from jaxsci.diffusion import correctors, grids, predictions, schedules, solvers

PARTICLES, SEEDS = 4096, 8
POWERS = np.linspace(0.5, 3.0, 11)
SCHEDULE = schedules.ve(0.01, 10.0)
TABLE = solvers.sde_dpm(grids.logsnr(SCHEDULE, 100))
# weights, means and standard deviations of two mixtures: the unconditional law U and the conditional one C
LAWS = (([0.5, 0.5], [-2.0, 2.0], [1.0, 1.0]), ([0.3, 0.7], [-2.5, 1.5], [0.5, 0.5]))


def noise(law, x, t, cond):
    """The exact prediction of the noise in a mixture."""
    weights, means, stds = (jnp.asarray(a, x.dtype) for a in law)
    alpha, sigma = SCHEDULE.alpha_sigma(SCHEDULE.lam(t))
    variance = (alpha * stds) ** 2 + sigma**2
    away = x - alpha * means
    share = jax.nn.softmax(jnp.log(weights) - 0.5 * jnp.log(variance) - away**2 / (2 * variance))
    return sigma * jnp.sum(share * away / variance, keepdims=True)


def moments(law):
    """Mean and standard deviation of a mixture."""
    weights, means, stds = map(np.asarray, law)
    mean = weights @ means
    return np.array([mean], np.float32), np.float32(np.sqrt(weights @ (stds**2 + (means - mean) ** 2)))


DENOISERS = tuple(predictions.denoiser(Partial(noise, law), SCHEDULE, "epsilon") for law in LAWS)
MEANS, STDS = zip(*map(moments, LAWS))


def run(key, power, threshold):
    """One cloud for one power of guidance; with threshold 0 nothing is resampled."""
    beta, options = jnp.stack([1 - power, power]), {"std": STDS, "ess_threshold": threshold}
    return correctors.sample(key, DENOISERS, TABLE, MEANS, num_particles=PARTICLES, beta=beta, **options)


def spread(x, weights):
    """Mean and standard deviation of a weighted cloud."""
    mean = jnp.sum(weights * x)
    return mean, jnp.sqrt(jnp.sum(weights * (x - mean) ** 2))


def point(key, power):
    """log Z, mean and standard deviation with the weights, and of the guided cloud alone."""
    found, alone = run(key, power, 0.5), run(key, power, 0.0)
    mean, std = spread(found.value.particles[:, 0], jax.nn.softmax(found.value.log_weights))
    guided_mean, guided_std = spread(alone.value.particles[:, 0], 1 / PARTICLES)
    told = {"mean": mean, "std": std, "guided_mean": guided_mean, "guided_std": guided_std}
    return told | {"log_z": found.log_z, "status": found.status}


def study(**options):
    """All powers and seeds as lanes of one program; `options` are those of `sweep.run`."""
    return sweep.run(point, sweep.product(power=POWERS, key=sweep.keys(SEEDS)), **options)


if __name__ == "__main__":
    print(study()[["log_z", "mean", "std", "guided_mean", "guided_std"]].mean("key").to_dataframe().round(3))
