"""How near is a sample of n model calls to the exact one? Edit me, then: python study.py"""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsci import diffusion, sweep
from jaxsci.diffusion import grids, predictions, schedules, solvers, statistics, v3
from jaxsci.models import digits

SAMPLES = 64  # of the digits at every noise level, for the statistics of DPM-v3
IMAGES, SCHEDULE, BANDWIDTH = jnp.asarray(digits.data()[0]), schedules.vp_linear(), 0.3
CALLS, GRIDS = (5, 6, 8, 10, 12, 15, 20), {"uniform in time": grids.time, "uniform in log-SNR": grids.logsnr}
SOLVERS = {
    "DDIM": lambda grid, stats: solvers.ddim(grid),
    "DEIS tAB3": lambda grid, stats: solvers.deis(grid, order=3),
    "DPM++ 2M": lambda grid, stats: solvers.dpm_multistep(grid, order=2),
    "UniPC-3": lambda grid, stats: solvers.unipc(grid, order=3),
    "DPM-v3": lambda grid, stats: v3.dpm_v3(grid, stats, order=2, pseudo=True, corrector="pseudo"),
}


def noise(images, norms, x, t, cond):
    """The exact noise prediction for 1797 handwritten digits, each blurred by a normal law."""
    alpha, sigma = SCHEDULE.alpha_sigma(SCHEDULE.lam(t))
    variance = (alpha * BANDWIDTH) ** 2 + sigma**2
    near = jax.nn.softmax((alpha * (images @ x) - alpha**2 / 2 * norms) / variance)
    return sigma / variance * (x - alpha * (near @ images))


MODEL = predictions.denoiser(Partial(noise, IMAGES, jnp.sum(IMAGES**2, axis=1)), SCHEDULE, "epsilon")
START = jax.random.normal(jax.random.key(0), (64, 64))


def sample(table, start):
    """Images from all starts by one solver."""
    return jax.vmap(lambda x: diffusion.sample(None, MODEL, table, x).value)(start)


EXACT = sample(solvers.unipc(grids.logsnr(SCHEDULE, 200), order=3), START)


def point(table):
    """One solver: its images, and how far they are from the exact ones."""
    images = sample(table, START)
    return {"image": images.reshape(-1, 8, 8), "error": jnp.sqrt(jnp.mean((images - EXACT) ** 2, axis=1))}


def study(**options):
    """All grids, solvers and numbers of calls as one labelled data set; `options` are those of `sweep.run`."""
    stats = statistics.estimate(jax.random.key(1), MODEL, SCHEDULE, IMAGES, lams=60, num_samples=SAMPLES)
    every = [(grid, name, n) for grid in GRIDS for name in SOLVERS for n in CALLS]
    tables = {(grid, name, n): SOLVERS[name](GRIDS[grid](SCHEDULE, n), stats) for grid, name, n in every}
    space = sweep.product(table=sweep.stack(tables, dims=("grid", "solver", "calls")))
    dims = {"image": ("latent", "row", "column"), "error": ("latent",)}
    units = {"image": "1", "error": "1"}
    return sweep.run(point, space, dims=dims, units=units, batch="map", **options)  # one by one: padding is skipped


if __name__ == "__main__":
    print(study().error.mean("latent").sel(grid="uniform in time").to_pandas().round(3).to_string())
