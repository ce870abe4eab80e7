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
# # A network that mimics a Gaussian process
#
# Given a few points $(x_i, y_i)$, what is $y$ at another $x$? Bayes' answer is the posterior predictive
# distribution of a prior over functions. A prior-data fitted network learns to give that answer in one pass: it is
# trained on data sets drawn from the prior, each cut at a random place, to predict the rest, by
#
# $$L(\theta) = -E \log q_\theta(y \mid x, D_n)
#   = E\,\mathrm{KL}\big(p(\cdot \mid x, D_n)\,\|\,q_\theta(\cdot \mid x, D_n)\big) + \text{const.}$$
#
# So the loss minus that of the exact posterior is the error of the network, in nats. For a Gaussian process the
# exact posterior is known in closed form, and the error can be measured. That is what this notebook does (Müller et
# al. 2022).

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxsci import check, pfn
from jaxsci.gp import kernels
from jaxsci.pfn import bars, priors, scores

FAST = os.environ.get("JAXSCI_FAST") == "1"
BLUE, RED = "#0072B2", "#D55E00"

# %% [markdown]
# ## The prior, and 400 steps of training
#
# A prior is a function `(key, num_points, num_features) -> (x, y)`. Here: functions on $[0, 1]$ with covariance
# $e^{-(x - x')^2/2\ell^2}$, $\ell = 0.2$, seen with noise of variance $0.01$. Every training step draws 32 new data
# sets inside the compiled program. The network predicts the probabilities of 128 buckets, whose borders are
# quantiles of the prior; beyond them are half-normal tails.

# %%
LENGTH, NOISE = 0.2, 0.01
KERNEL = kernels.rbf(LENGTH)
PRIOR = priors.gp(KERNEL, noise=NOISE)
STEPS = 20 if FAST else 400

cfg = pfn.config(1, 128, width=64, num_layers=3)
borders = pfn.prior_borders(jax.random.key(0), PRIOR, 128, num_points=40)
result = check(
    pfn.train(jax.random.key(1), PRIOR, cfg, borders, num_points=40, context=(0, 20), num_steps=STEPS, progress=False)
)
print(f"loss: {np.mean(result.history[:5]):.2f} at first, {np.mean(result.history[-20:]):.2f} at the end")

# %% [markdown]
# ## How far from the exact posterior?
#
# The gap is the mean of $\log p - \log q$ over fresh data sets, beside the mean of $\log p$ itself. The model that
# comes with the package had ten times as many steps of the same training.

# %%
MODELS = {f"{STEPS} steps": result.value, "gp-1d-small": pfn.load("gp-1d-small")}
SIZES = (0, 1, 2, 5, 10, 20)
NUM_SETS = 64 if FAST else 1024

print(f"{'known points':>24s}" + "".join(f"{n:8d}" for n in SIZES))
gaps = {}
for name, model in MODELS.items():
    found = [scores.gp_gap(jax.random.key(2), model, KERNEL, n, noise=NOISE, num_sets=NUM_SETS) for n in SIZES]
    gaps[name] = np.array([float(f.gap) for f in found])
    if not MODELS or name == f"{STEPS} steps":
        print(f"{'exact log-density':>24s}" + "".join(f"{float(f.exact):8.3f}" for f in found))
    print(f"{'gap, ' + name:>24s}" + "".join(f"{gap:8.3f}" for gap in gaps[name]))
    print(f"{'in its 90 % interval':>24s}" + "".join(f"{float(f.coverage):8.2f}" for f in found))
assert gaps["gp-1d-small"][-1] < gaps[f"{STEPS} steps"][-1]

# %% [markdown]
# The more points are known the sharper the truth is, and the harder it is to hit: most of the gap at 20 points is
# precision, not shape, and more training closes it.
#
# ## The same data, both answers
#
# Shades: the density that the network predicts. Lines: mean and two standard deviations of the exact posterior. One
# function, more and more of it known.

# %%
x, y = PRIOR(jax.random.key(11), 20, 1)
grid = jnp.linspace(0, 1, 50 if FAST else 200)[:, None]
values = jnp.linspace(-4, 3, 60 if FAST else 280)
model = MODELS["gp-1d-small"]

figure, axes = plt.subplots(1, 4, figsize=(12, 3), sharey=True, layout="constrained")
for ax, n in zip(axes, (0, 1, 5, 20)):
    law = pfn.predict(model, x, y, n, grid)
    exact = priors.posterior(KERNEL, x, y, n, grid, noise=NOISE)
    density = jnp.exp(jax.vmap(bars.log_prob, (None, 0))(law, values))
    ax.pcolormesh(grid[:, 0], values, np.sqrt(density), cmap="Blues", shading="nearest", rasterized=True)
    spread = 2 * jnp.sqrt(exact.variance)
    ax.plot(grid[:, 0], exact.mean, color=RED, lw=1)
    for edge in (exact.mean - spread, exact.mean + spread):
        ax.plot(grid[:, 0], edge, color=RED, lw=0.7, ls="--")
    ax.plot(x[:n, 0], y[:n], "k.", ms=5)
    ax.set(title=f"{n} known", xlabel="x")
axes[0].set(ylabel="y", ylim=(-4, 3))
plt.show()

# %% [markdown]
# ## What it is good for
#
# A thousand data sets are one call, and the answer is a distribution in closed form: here the chance that a further
# observation beats the best one so far, and the expected improvement, at every point of every data set.

# %%
xs, ys = priors.draw(jax.random.key(12), PRIOR, 50 if FAST else 1000, 40)


@jax.jit
@jax.vmap
def improve(x, y):
    law = pfn.predict(model, x[:10], y[:10], 10, x[10:])
    best = jnp.max(y[:10])
    better = y[10:] > best
    return bars.probability_of_improvement(law, best), bars.expected_improvement(law, best), better, y[10:] - best


chance, expected, better, gain = (np.asarray(a) for a in improve(xs, ys))
for low, high in ((0, 0.02), (0.02, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
    inside = (chance > low) & (chance <= high)
    if inside.any():
        print(
            f"chance {low:4.2f} to {high:4.2f}: said {chance[inside].mean():.3f}, came true {better[inside].mean():.3f}"
        )
print(f"improvement: expected {expected.mean():.4f}, found {np.maximum(gain, 0).mean():.4f}")

# %% [markdown]
# ## A prior of your own
#
# Where no posterior is known in closed form, the recipe is the same: write down how data come about. Here: one jump
# between two levels, at an unknown place. The network of the Gaussian process expects smooth functions, and the same
# data cost it dearly; 400 steps on the right prior are worth more than ten times as many on the wrong one.


# %%
def jump(key, num_points, num_features):
    keys = jax.random.split(key, 4)
    x = jax.random.uniform(keys[0], (num_points, num_features))
    levels, place = jax.random.normal(keys[1], (2,)), jax.random.uniform(keys[2])
    return x, jnp.where(x[:, 0] < place, *levels) + 0.1 * jax.random.normal(keys[3], (num_points,))


borders = pfn.prior_borders(jax.random.key(20), jump, 128, num_points=40)
options = dict(num_points=40, context=(0, 20), num_steps=STEPS, progress=False)
MODELS["trained on jumps"] = check(pfn.train(jax.random.key(21), jump, cfg, borders, **options)).value
print(f"{'log-density, known:':>24s}" + "".join(f"{n:8d}" for n in SIZES))
means = {}
for name in ("gp-1d-small", "trained on jumps"):
    found = [
        scores.log_score(jax.random.key(22), MODELS[name], jump, n, num_points=40, num_sets=NUM_SETS) for n in SIZES
    ]
    means[name] = [float(each.mean()) for each in found]
    print(f"{name:>24s}" + "".join(f"{mean:8.2f}" for mean in means[name]))
if not FAST:
    assert means["trained on jumps"][-1] > means["gp-1d-small"][-1]
