"""Feynman-Kac correctors: what they cost beside their model calls, and log Z against quadrature."""

import importlib.util
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from benchmarks._harness import Candidate, compare, compiled, host, main, row
from benchmarks.diffusion import _network, _processor_share
from jaxsci.diffusion import correctors, grids, predictions, schedules, solvers

VP, VE = schedules.vp_linear(), schedules.ve(0.01, 10.0)
NUM_STEPS = 20
LIMIT = 1.1  # times the model calls


# --- cost ---------------------------------------------------------------------------------------------------


def _against_calls(seconds, batch):
    """Correctors on the digits network against nothing but the same model calls."""
    if importlib.util.find_spec("flax") is None:
        yield row("correctors over model calls", None, unit="s", note="flax is not installed here")
        return
    models = [_network(seed) for seed in (0, 1)]  # two networks: equal calls would be made once
    x = jax.random.normal(jax.random.key(1), (batch, 64))
    ones = [jax.jit(jax.vmap(model, (0, None, None))).lower(x, jnp.float32(0.5), None).compile() for model in models]
    grid = grids.logsnr(VP, NUM_STEPS)
    times = [jnp.float32(t) for t in grid.t[:-1]]

    def calls(m):
        y = x
        for t in times:
            for one in ones[:m]:
                y = one(y, t, None)
        return y

    for name, beta in (("one law annealed", (1.5,)), ("two laws", (-0.5, 1.5))):
        laws = tuple(predictions.denoiser(model, VP, "v_prediction") for model in models[: len(beta)])
        table = jax.tree.map(jnp.asarray, solvers.sde_dpm(grid, power=sum(beta)))
        for share, often in ((0.5, "when ESS < N/2"), (1.0, "at every step")):

            def run(key, table, beta, laws, share=share):
                options = dict(num_particles=batch, beta=beta, ess_threshold=share)
                return correctors.sample(key, laws, table, jnp.zeros(64), **options).value

            ours = compiled(run, jax.random.key(0), table, jnp.asarray(beta), laws)
            peer = host(calls, len(beta))
            note = f"digits net, batch {batch}; draws, weights, resampling and solver included; at most {LIMIT} times "
            yield compare(
                f"{name}, {NUM_STEPS} steps, resampled {often}", ours, peer,
                peer_name=f"{len(beta) * NUM_STEPS} jitted model calls", target=1 / LIMIT, seconds=seconds,
                note=f"{note}the calls, in processor time {_processor_share(ours, peer):.3f}",
            )  # fmt: skip


# --- accuracy -----------------------------------------------------------------------------------------------

# Of U^-.5 C^1.5 in one dimension: weights, means, variances of U and C; log Z by quadrature.
LAWS = (((0.5, 0.5), (-2.0, 2.0), (1.0, 1.0)), ((0.3, 0.7), (-2.5, 1.5), (0.25, 0.25)))
LOG_Z = 0.3099


def _score_noise(weights, means, variances, x, t, cond):
    """The exact noise prediction of a mixture in one dimension under VE."""
    v = variances + t**2
    posterior = jax.nn.softmax(jnp.log(weights) - 0.5 * jnp.log(v) - 0.5 * (x - means) ** 2 / v)
    return t * jnp.sum(posterior * (x - means) / v, keepdims=True)


def _study(num_seeds, num_particles):
    """log Z of guided laws: seeds are lanes of one program; particle steps a second."""
    laws = tuple(
        predictions.denoiser(Partial(_score_noise, *(jnp.asarray(a) for a in law)), VE, "epsilon") for law in LAWS
    )
    grid = grids.logsnr(VE, 100)

    def run(key):
        options = dict(num_particles=num_particles, beta=np.asarray([-0.5, 1.5]), std=2.0, ess_threshold=0.9)
        return correctors.sample(key, laws, grid, jnp.zeros(1), **options).log_z

    begun = time.perf_counter()
    program = jax.jit(jax.vmap(run)).lower(keys := jax.random.split(jax.random.key(0), num_seeds)).compile()
    ours = Candidate(lambda: program(keys), time.perf_counter() - begun)
    ratio = np.exp(np.asarray(ours.call(), np.float64) - LOG_Z)
    error = abs(ratio.mean() - 1) / (ratio.std(ddof=1) / num_seeds**0.5)
    found = (
        f"log Z {np.log(ratio.mean()) + LOG_Z:.4f}, quadrature {LOG_Z}; one run's Z varies by {ratio.std(ddof=1):.3f}"
    )
    yield compare(
        f"U^-.5 C^1.5, 100 steps, {num_seeds} seeds x {num_particles} particles", ours,
        amount=100 * num_seeds * num_particles, unit="particle steps/s", accuracy=error, within=5.0, seconds=0.5,
        note=f"accuracy: standard errors between the mean of Z and quadrature; {found}",
    )  # fmt: skip


def rows(fast, peers):
    """All rows."""
    yield from _against_calls(0.5 if fast else 2.0, 1024)
    yield from _study(8 if fast else 64, 1024)


if __name__ == "__main__":
    sys.exit(main("correctors", rows))
