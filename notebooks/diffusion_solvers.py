# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which solver, and how many model calls?
#
# A diffusion model turns noise into an image by solving an ordinary differential equation; each model call is one
# evaluation of its right-hand side. Solvers differ in what they make of few calls. In jaxsci **a solver is a table**:
# "all solvers, all numbers of calls, all seeds" is one `vmap`, and the comparison below is one compiled program.
#
# The model is a small network trained on the handwritten digits of scikit-learn, 8 x 8 pixels, with class labels and a
# null label for guidance. Errors are distances from the network's own exact solution, so they measure the solver alone.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen
from jax.tree_util import Partial

from jaxsci import check, diffusion, plot, sweep
from jaxsci.core import train
from jaxsci.diffusion import grids, search, solvers, statistics, tables, unified, v3
from jaxsci.models import digits

FAST = os.environ.get("JAXSCI_FAST") == "1"
CALLS = (5, 8) if FAST else (5, 6, 8, 10, 12, 15, 20)
NUM = 8 if FAST else 128
trained = digits.train(jax.random.key(0), num_steps=30 if FAST else 6000, progress=False)
print(f"{len(trained.history)} steps, last losses {trained.history[-20:].mean():.3f}, {trained.seconds:.0f} s")
schedule, model = digits.schedule(), digits.denoiser(trained.value)
images, labels = digits.data()
start = jax.random.normal(jax.random.key(1), (NUM, digits.NUM_PIXELS))

# %% [markdown]
# ## Every solver, every number of calls, two time grids
#
# DPM-Solver-v3 needs statistics of the model: how its prediction changes along the path, per pixel. They are estimated
# once, on noisy data.

# %%
stats = statistics.estimate(
    jax.random.key(2), model, schedule, images, lams=30 if FAST else 120, num_samples=32 if FAST else 1024
)
GRIDS = {"uniform in time": grids.time, "uniform in log-SNR": grids.logsnr}
SOLVERS = {
    "DDIM": solvers.ddim,
    "DEIS tAB3": lambda grid: solvers.deis(grid, order=3),
    "DPM++ 2M": lambda grid: solvers.dpm_multistep(grid, order=2),
    "DPM++ 3M": lambda grid: solvers.dpm_multistep(grid, order=3),
    "UniPC-2": lambda grid: solvers.unipc(grid, order=2),
    "UniPC-3": lambda grid: solvers.unipc(grid, order=3),
    "iPNDM": solvers.ipndm,
    "v3, order 1": lambda grid: v3.dpm_v3(grid, stats, order=1, corrector=None),
    "v3, order 2": lambda grid: v3.dpm_v3(grid, stats, order=2, pseudo=True, corrector="pseudo"),
}
FINE = solvers.unipc(grids.logsnr(schedule, 60 if FAST else 400), order=3)


def exact(denoiser, x, **options):
    """What infinitely many calls would give, to about six digits."""
    run = lambda x: diffusion.sample(None, denoiser, FINE, x, **options).value  # noqa: E731
    return jax.jit(jax.vmap(run))(x)


def study(denoiser, target, names=tuple(SOLVERS), where=tuple(GRIDS), **options):
    """Root mean square error per pixel: solvers x grids x calls, one program."""
    table = {(g, s, n): SOLVERS[s](GRIDS[g](schedule, n)) for g in where for s in names for n in CALLS}

    def point(table):
        out = jax.vmap(lambda x: diffusion.sample(None, denoiser, table, x, **options))(start)
        return {"error": jnp.sqrt(jnp.mean((out.value - target) ** 2)), "status": jnp.max(out.status)}

    space = sweep.product(table=sweep.stack(table, dims=("grid", "solver", "calls")))
    return check(sweep.run(point, space, progress=False))["error"]


truth = exact(model, start)
errors = study(model, truth)
_, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", sharey=True)
for ax, name in zip(axes, GRIDS):
    ax.set(yscale="log", ylim=(0.8 * float(errors.min()), 1.25 * float(errors.max())))  # before labels are placed
    plot.lines(errors.sel(grid=name).rename("error per pixel"), x="calls", by="solver", log="y", title=name, ax=ax)
plt.show()
print(errors.sel(grid="uniform in time").to_pandas().round(3))

# %% [markdown]
# Two things matter before the order does. **The grid**: on nodes uniform in log-SNR most solvers are better than on
# nodes uniform in time, and the ranking changes. **The linear part**: where the grid is poor, at few calls, v3 halves
# the error of all others, because it integrates exactly what the statistics already know. High order alone buys little
# at five calls; at fifteen it decides.
#
# That is one model, and a smooth one: its time features are slow. `python -m benchmarks.diffusion_statistics` compares
# three. On a network with the sinusoidal time features of image models, trained on two moons, v3 is a little worse than
# UniPC-2 on log-SNR, and twice as bad as the best solver of second order on nodes uniform in time; on exact predictions
# with a short ripple in time it is worse at five calls, and at eight on log-SNR. Both tables carry a notice there:
# `jaxsci.explain(table.status)` says "statistics explain little" or "unresolved statistics", and what to take instead.
# The table of the digits carries none.


# %%
def mosaic(values, empty=-1.0):
    """The first samples, two rows of seven, or one of four."""
    rows, columns = (2, 7) if len(values) >= 14 else (1, 4)
    tiles = np.asarray(values[: rows * columns]).reshape(rows, columns, 8, 8)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=empty)
    return tiles.transpose(0, 2, 1, 3).reshape(rows * 9, columns * 9)[:-1, :-1]


samples = {"exact": truth}
for name in ("DDIM", "UniPC-3", "v3, order 2"):
    table = SOLVERS[name](grids.time(schedule, 5))
    samples[name] = jax.vmap(lambda x: diffusion.sample(None, model, table, x).value)(start)  # noqa: B023
_, axes = plt.subplots(len(samples), 2, figsize=(9.6, 6), layout="constrained")
for (left, right), (name, found) in zip(axes, samples.items()):
    left.imshow(mosaic(found), cmap="gray", vmin=-1, vmax=1)
    right.imshow(mosaic(found - truth, 0.0), cmap="RdBu", vmin=-0.6, vmax=0.6)
    off = f"off by {float(jnp.sqrt(jnp.mean((found - truth) ** 2))):.2f}"
    left.set_ylabel(name if name == "exact" else f"{name}\n5 calls\n{off}", rotation=0, ha="right", va="center")
    for ax in (left, right):
        ax.set(xticks=[], yticks=[])
axes[0, 0].set_title("samples, the same latents in every row")
axes[0, 1].set_title("less the exact ones (white: equal)")
plt.show()

# %% [markdown]
# Five calls of DDIM blur: ink is missing along the strokes (red) and smeared beside them (blue). Of that v3 leaves less
# than half.
#
# ## When v3 does not win: strong guidance
#
# Classifier-free guidance evaluates the model with and without the label and extrapolates by a scale w. The statistics
# belong to the model without guidance and do not fit the extrapolated one. w is an ordinary array, so a study of scales
# is one more `vmap`.

# %%
guided = digits.denoiser(trained.value, guidance="classifier_free")
label, SCALES = jnp.int32(3), (1.0, 2.0, 3.0, 5.0)
NAMES = ("DEIS tAB3", "DPM++ 2M", "UniPC-2", "v3, order 2")
few = {name: SOLVERS[name](grids.time(schedule, 6)) for name in NAMES}


def at_scale(table, scale):
    """Error of six calls against the exact solution of the same guided model."""
    run = lambda t, x: diffusion.sample(None, guided, t, x, cond=label, guidance_scale=scale).value  # noqa: E731
    ours, exactly = (jax.vmap(lambda x, t=t: run(t, x))(start) for t in (table, FINE))
    return {"error per pixel": jnp.sqrt(jnp.mean((ours - exactly) ** 2))}


space = sweep.product(table=sweep.stack(few, dims=("solver",)), scale=np.asarray(SCALES))
by_scale = sweep.run(at_scale, space, progress=False)["error per pixel"]
plot.lines(by_scale, x="scale", by="solver", log="y", title="six calls, uniform in time, label 3")
plt.show()
print(by_scale.to_pandas().round(3))

# %% [markdown]
# Data prediction of second order (DPM++ 2M, UniPC-2) stays usable as w grows; methods that interpolate the noise
# prediction (DEIS) lose most, and v3 loses its lead. With guidance, take a second-order data solver.
#
# ## A solver of our own
#
# Nothing forces all rows of a table to be alike. `search` lets every row choose its prediction, order, stencil,
# relaxation and corrector, moves the nodes, and may replace the first call by the mean of the data. It starts from
# uniform schedules and evolves; after a while a small network, trained on the losses so far, picks which children are
# worth evaluating. Half of the latents are searched on, the other half judges.

# %%
low, high = (float(schedule.lam(np.float64(t))) for t in (schedule.t_max, schedule.t_min))
space = search.space(5, low, high)
half = NUM // 2
mean = images.mean(0)
found = search.search(
    jax.random.key(3),
    search.matching(model, start[:half], truth[:half]),
    space,
    schedule,
    statistics=stats,
    mean=mean,
    num_evaluations=44 if FAST else 400,
)
judge = jax.jit(search.matching(model, start[half:], truth[half:]))
uniform = tables.stack(
    [unified.solver(schedule, d, statistics=stats, pad=True) for d in search.starting_population(schedule, space)]
)
best = float(jax.vmap(judge)(jax.tree.map(jnp.asarray, uniform)).min())
ours = float(judge(unified.solver(schedule, found.decisions, statistics=stats, mean=mean, pad=True)))
print(f"held-out error at 5 calls: best uniform {best:.4f}, found {ours:.4f}, {100 * (1 - ours / best):.0f} % less")
history = np.minimum.accumulate(found.history.losses)
_, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.step(np.arange(1, len(history) + 1), history)
ax.axhline(history[len(search.starting_population(schedule, space)) - 1], color="gray", linestyle=":")
ax.set(xlabel="solvers tried", ylabel="error per pixel (searched latents)", title="dotted: best uniform schedule")
plt.show()
d = found.decisions
print("node, prediction, order, corrected")
for i in range(int(d.num_rows)):
    print(f"{d.lam[i]:7.2f}  {unified.KINDS[int(d.kind[i])]:5s}  {int(d.order[i])}  {bool(d.corrector[i])}")
print("first prediction from:", ("model", "zero", "mean")[int(d.first)])

# %% [markdown]
# The result is a plain table: `tables.save(found.value, "five.npz")`, and it runs wherever tables run, also in the
# plain-Python runner with a torch network.
#
# ## A network of your own
#
# A network of flax, written and trained as in any tutorial: it predicts the noise, and its times are the 1000 whole
# steps of its own chain. `vp_discrete` is that chain as a schedule, and every solver runs. Eight calls of UniPC-2 are
# worth fifteen of DDIM; without statistics of this network a higher order has nothing to add.


# %%
class Perceptron(linen.Module):
    """Three hidden layers of 256."""

    @linen.compact
    def __call__(self, x, step):
        angles = step / 1000 * 2.0 ** jnp.arange(6)
        h = jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)])
        for _ in range(3):
            h = linen.silu(linen.Dense(256)(h))
        return x + linen.Dense(x.size)(h)


network, betas = Perceptron(), diffusion.schedules.betas("linear", 1000)
signal, pixels = jnp.asarray(np.cumprod(1 - betas), jnp.float32), jnp.asarray(images)


def pick(key, i):
    return pixels[jax.random.randint(key, (128,), 0, len(pixels))]


def noise_loss(params, x, key):
    first, second = jax.random.split(key)
    steps, noise = jax.random.randint(first, (len(x),), 0, 1000), jax.random.normal(second, x.shape)
    seen = jnp.sqrt(signal[steps])[:, None] * x + jnp.sqrt(1 - signal[steps])[:, None] * noise
    return jnp.mean((jax.vmap(lambda x, n: network.apply(params, x, n))(seen, steps) - noise) ** 2)


weights = network.init(jax.random.key(7), pixels[0], 0)
fit = {"optimizer": optax.adam(1e-3), "num_steps": 30 if FAST else 2000}
fitted = check(train.run(jax.random.key(8), noise_loss, weights, pick, **fit))
chain = diffusion.schedules.vp_discrete(betas)
own = diffusion.predictions.denoiser(
    Partial(lambda weights, x, step, cond: network.apply(weights, x, step), fitted.value), chain, "epsilon"
)

# %%
NAMES = ("DDIM", "DPM++ 2M", "UniPC-2", "UniPC-3")
with_own = sweep.stack({(s, n): SOLVERS[s](grids.time(chain, n)) for s in NAMES for n in CALLS}, ("solver", "calls"))
best = jax.vmap(lambda x: diffusion.sample(None, own, solvers.unipc(grids.logsnr(chain, 300), order=3), x).value)(start)


def with_network(table):
    found = jax.vmap(lambda x: diffusion.sample(None, own, table, x).value)(start)
    return {"error": jnp.sqrt(jnp.mean((found - best) ** 2))}


own_errors = sweep.run(with_network, sweep.product(table=with_own), progress=False)["error"]
print(own_errors.to_pandas().round(3))

# %% [markdown]
# **Take away.**
#
# * Ten calls or fewer, no guidance: UniPC-2 on log-SNR is never far off. Estimate statistics once, and if the status
#   of the v3 table (order 2, pseudo-corrector) is 0, take that: here it halves the error.
# * Guidance: DPM++ 2M or UniPC-2. More than twenty calls: any solver of order 3.
# * The grid is worth as much as the solver: try both.
# * One model, very many samples: search. It pays back after a few hundred evaluations.
