"""DPM-Solver-v3 beside the best solver of second order, on three models: is it worse, and does its status say so?

The models are the digits network of the package (not with ``--fast``: it is trained first), a small network with
sinusoidal time features trained on two moons, and an exact denoiser of three Gaussians with a ripple of .01 in eps that
is shorter than any spacing of levels. Errors are distances from the model's own solution with 600 steps, at 5, 8 and 10
calls, each solver on the better of two grids; statistics are `statistics.estimate` with its defaults.
"""

import functools
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._harness import main, row
from jaxsci import diffusion
from jaxsci.core import status
from jaxsci.diffusion import grids, predictions, schedules, solvers, statistics, tables, v3

VP = schedules.vp_linear()
CALLS = (5, 8, 10)
LIMIT = 1.2
V3 = {
    "v3-1": {"order": 1, "corrector": None}, "v3-2": {"order": 2, "pseudo": True, "corrector": "pseudo"},
    "v3-3": {"order": 3, "corrector": "same"},
}  # fmt: skip
SECOND = {
    "DPM++ 2M": lambda grid: solvers.dpm_multistep(grid, order=2), "UniPC-2": lambda grid: solvers.unipc(grid, order=2),
    "DEIS 2": lambda grid: solvers.deis(grid, order=1),
}  # fmt: skip
GRIDS = {"time": grids.time, "log-SNR": grids.logsnr}

_MEANS, _WIDTH = np.array([[1.5, 0.0], [-1.0, 1.2], [-0.8, -1.4]], np.float32), 0.3


def _rippled(ripple, x, t, cond, w):
    """Exact predictions of three Gaussians, and a ripple in eps."""
    alpha, sigma = (jnp.asarray(a, x.dtype) for a in VP.alpha_sigma(VP.lam(t)))
    v = alpha**2 * _WIDTH**2 + sigma**2
    gap = x[None] - alpha * _MEANS
    r = jax.nn.softmax(-jnp.sum(gap**2, -1) / (2 * v))
    data = jnp.sum(r[:, None] * (_MEANS + alpha * _WIDTH**2 / v * gap), 0)
    eps = (x - alpha * data) / sigma + ripple * jnp.sin(1000 * t)
    return (x - sigma * eps) / alpha, eps


def _three(key):
    first, second = jax.random.split(key)
    return jnp.asarray(_MEANS)[jax.random.randint(first, (), 0, 3)] + _WIDTH * jax.random.normal(second, (2,))


def _network(params, x, t, cond):
    """A perceptron with the sinusoidal time features that image networks have."""
    angles = 1000 * t * jnp.exp(-np.log(1e4) * jnp.arange(16) / 16)
    h = jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)])
    for weights, bias in params[:-1]:
        h = jax.nn.silu(h @ weights + bias)
    return h @ params[-1][0] + params[-1][1]


def _moons():
    """Rows of the data, and a denoiser trained on them: 6000 steps of Adam on the loss of eps."""
    import optax
    from sklearn.datasets import make_moons

    data = jnp.asarray(make_moons(4000, noise=0.05, random_state=0)[0] * 1.2 - np.array([0.6, 0.3]), jnp.float32)
    sizes, key, num_steps = (34, 128, 128, 128, 2), jax.random.key(0), 6000
    params = [
        (jax.random.normal(jax.random.fold_in(key, i), (m, n)) / np.sqrt(m), jnp.zeros(n))
        for i, (m, n) in enumerate(zip(sizes, sizes[1:]))
    ]
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, num_steps))

    def loss(params, key):
        which, when, noise = jax.random.split(key, 3)
        x0 = data[jax.random.randint(which, (512,), 0, len(data))]
        t, z = jax.random.uniform(when, (512,), minval=1e-3), jax.random.normal(noise, x0.shape)
        alpha, sigma = (a[:, None] for a in VP.alpha_sigma(VP.lam(t)))
        found = jax.vmap(lambda x, t: _network(params, x, t, None))(alpha * x0 + sigma * z, t)
        return jnp.mean((found - z) ** 2)

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    (params, _), _ = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))(
        carry, jax.random.split(key, num_steps)
    )
    return predictions.denoiser(functools.partial(_network, params), VP, "epsilon"), VP, data


def _digits():
    from jaxsci.models import digits

    trained = digits.train(jax.random.key(0), progress=False)
    return digits.denoiser(trained.value), digits.schedule(), jnp.asarray(digits.data()[0], jnp.float32)


def _errors(denoiser, schedule, data):
    """Root mean square errors and statuses by solver, grid and calls; and the number of levels that were taken."""
    stats = statistics.estimate(jax.random.key(2), denoiser, schedule, data)
    shape = stats.l.shape[1:]
    start = jax.random.normal(jax.random.key(1), (128, *shape))
    run = lambda table: jax.vmap(lambda x: diffusion.sample(None, denoiser, table, x))(start)  # noqa: E731
    fine = solvers.unipc(grids.logsnr(schedule, 600), order=3)
    truth = jax.jit(run)(jax.tree.map(jnp.asarray, fine)).value
    made = {}
    for where, grid in GRIDS.items():
        for num in CALLS:
            at = grid(schedule, num)
            made |= {(name, where, num): builder(at) for name, builder in SECOND.items()}
            made |= {(name, where, num): v3.dpm_v3(at, stats, **options) for name, options in V3.items()}

    def judge(table):
        result = run(table)
        return jnp.sqrt(jnp.mean((result.value - truth) ** 2)), status.reduce(result.status)

    error, code = jax.jit(jax.vmap(judge))(jax.tree.map(jnp.asarray, tables.stack(list(made.values()))))
    found = zip(made, np.asarray(error).tolist(), np.asarray(code).tolist())
    return {key: (e, c) for key, e, c in found}, stats.lam.shape[0] - 1


def rows(fast, peers):
    """One row for each model, grid and number of calls."""
    models = {"three Gaussians, rippled": lambda: (functools.partial(_rippled, 0.01), VP, _three)}
    models = {"three Gaussians": lambda: (functools.partial(_rippled, 0.0), VP, _three)} | models
    if importlib.util.find_spec("sklearn") and importlib.util.find_spec("optax"):
        models["moons"] = _moons
        if not fast and importlib.util.find_spec("flax"):
            models["digits"] = _digits
    for model, make in models.items():
        found, levels = _errors(*make())
        for where in GRIDS:
            for num in CALLS:
                best = min(SECOND, key=lambda name: found[name, where, num][0])
                theirs, (mine, code) = found[best, where, num][0], found["v3-2", where, num]
                said = ", ".join(text.name for bit, text in status.bits("diffusion") if code >> bit & 1) or "ok"
                all_of_v3 = ", ".join(f"{name} {found[name, where, num][0]:.3f}" for name in V3)
                yield row(
                    f"{model}, {where}, {num} calls", mine, unit="rms error", peer_name=best, peer=theirs,
                    ratio=theirs / mine, accuracy=mine / theirs, ok=mine <= LIMIT * theirs or code != 0,
                    note=f"{all_of_v3}; {levels} levels; status: {said}",
                )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("diffusion_statistics", rows))
