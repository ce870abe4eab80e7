"""Entries of jaxsci.diffusion.statistics and jaxsci.diffusion.v3."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import contracts
from contracts import Bad, Builder, Compiled, Driver
from jaxsci.diffusion import grids, schedules, statistics, tables, v3

VP = schedules.vp_linear()
LAMS = np.linspace(-3.0, 3.0, 5)


# --- statistics --------------------------------------------------------------------------------------------


def _noise(mean, x, t, cond, w):
    """Exact for N(mean, 1), bent a little so that f varies."""
    alpha, sigma = (jnp.asarray(a, x.dtype) for a in VP.alpha_sigma(VP.lam(t)))
    eps = sigma * (x - alpha * mean) + 0.3 * alpha * sigma * jnp.sin(x)
    return (x - sigma * eps) / alpha, eps


def _estimate(key, dtype):
    def run(key, mean, data):
        return statistics.estimate(
            key, Partial(_noise, mean), VP, data, lams=LAMS, num_samples=6, num_probes=2, batch_size=4
        )

    return run, (key, contracts.normal(key, (3,), dtype), contracts.normal(jax.random.fold_in(key, 1), (5, 3), dtype))


def _constant(key, dtype):
    def run(lams, l, s, b):  # noqa: E741
        return statistics.constant(VP, l, s, b, lams=lams)

    return run, (jnp.asarray(LAMS, dtype), *contracts.uniform(key, (3, 2), dtype))


def _levels(shape=(2,)):
    rng = np.random.default_rng(0)
    return statistics.Statistics(LAMS, *(rng.uniform(size=(5, *shape)) for _ in range(3)))


def _back(folder):
    statistics.save(_levels(), folder / "stats.npz")
    chex.assert_trees_all_equal(statistics.load(folder / "stats.npz"), _levels())


def _other_file(folder):
    np.savez(folder / "other.npz", a=np.ones(2))
    statistics.load(folder / "other.npz")


# --- the solver --------------------------------------------------------------------------------------------


def _random_statistics(key, dtype):
    # l, s, b of natural size, smooth enough for differences of step 1e-6
    l, s, b = contracts.uniform(key, (3, 5, 2), dtype)  # noqa: E741
    return statistics.Statistics(jnp.asarray(LAMS, dtype), l, s - 0.5, b)


NODES = (-2.6, -1.1, 0.2, 2.3)


def _nodes(key, dtype):
    return jnp.asarray(NODES, dtype) + 0.1 * contracts.uniform(key, (4,), dtype)


def _rule(key, dtype):
    def run(lams, stats):
        grid = grids.at_lams(VP, lams)
        table = tables.tabulate(v3.v3(stats, 2, corrector="pseudo", grid=grid), grid)
        return table.predictor, table.corrector

    return run, (_nodes(key, dtype), _random_statistics(key, dtype))


def _dpm_v3():
    def run(lams, l):  # noqa: E741
        grid = grids.at_lams(VP, lams)
        stats = statistics.Statistics(LAMS, l, 0 * l, 0 * l)
        return v3.dpm_v3(grid, stats, order=1).predictor[:3]

    return run, (np.array(NODES), np.ones((5, 2)))


def _first_order_data(lams, l):  # noqa: E741
    alpha, sigma = VP.alpha_sigma(lams)
    wide = lambda a: np.broadcast_to(a[:, None, None], (3, 1, 2))  # noqa: E731
    data = alpha[1:] * -np.expm1(-np.diff(lams))
    return wide(sigma[1:] / sigma[:-1]), wide(data), np.zeros((3, 1, 2))


def _snap():
    def run(lams, levels):
        stats = statistics.Statistics(levels, *np.ones((3, levels.size)))
        return v3.snap(grids.at_lams(VP, lams), stats).lam

    return run, (np.array(NODES), LAMS)


def _nearest(lams, levels):
    return np.array([min(levels, key=lambda level: abs(level - lam)) for lam in lams])


ENTRIES = {
    # s divides by Var f of six samples: rounding 1e-7 of f becomes 1e-4 of s in float32 where f varies little
    "jaxsci.diffusion.statistics.estimate": Compiled(_estimate, tol=1e-3),
    "jaxsci.diffusion.statistics.constant": Compiled(_constant, grad=(1, 2, 3)),
    "jaxsci.diffusion.statistics.save": Driver(
        bad=(
            Bad(lambda f: statistics.save(_levels(), f / "x", layout="zip"), ValueError, "layout must be"),
            Bad(
                lambda f: jax.jit(lambda b: statistics.save(_levels()._replace(b=b), f / "x"))(np.ones((5, 2))),
                TypeError,
                "concrete",
            ),
        ),
        works=_back,
    ),
    "jaxsci.diffusion.statistics.load": Driver(
        bad=(
            Bad(_other_file, ValueError, "holds no statistics of a model"),
            Bad(lambda f: statistics.load(f), ValueError, "pass the model's schedule"),
        ),
        works=_back,
    ),
    "jaxsci.diffusion.v3.v3": Compiled(_rule, grad=(0, 1)),
    "jaxsci.diffusion.solvers.dpm_v3": Builder(_dpm_v3, _first_order_data, tol=1e-12),
    "jaxsci.diffusion.v3.snap": Builder(_snap, _nearest),
    "jaxsci.diffusion.v3.preset": Driver(
        bad=(
            Bad(lambda f: v3.preset("nobody", 5), ValueError, "name must be one of"),
            Bad(lambda f: v3.preset("edm", 0), ValueError, "num_calls must be an int >= 1"),
        )
    ),
}
