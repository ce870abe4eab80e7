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
# # Powers and products of diffusion models, with their constants
#
# A trained diffusion model holds the scores of its law at every noise. It is tempting to multiply the score by 2 for
# samples of $q^2$, or to add the scores of two models for samples of $q_1 q_2$. Neither is right: noise and powers do
# not commute. **Correctors** keep that simulation and weigh its samples by what it got wrong; the same weights
# estimate the normalising constant $Z = \int q_1^{\beta_1} q_2^{\beta_2}$. In jaxsci the corrected sampler is a
# particle filter (`smc.Model`) moved by any solver's table, so powers, noises and seeds are lanes of one program.
#
# First a law with forty modes in the plane whose truth is known from a grid, then handwritten digits.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture

from jaxsci import check, diffusion, plot, smc
from jaxsci.diffusion import correctors, grids, schedules, solvers, tables
from jaxsci.models import digits

FAST = os.environ.get("JAXSCI_FAST") == "1"
SEEDS, PARTICLES, STEPS = (2, 64, 20) if FAST else (16, 1024, 100)

# %% [markdown]
# ## Forty modes
#
# The weights of the modes are unequal, so a power changes them: at $q^2$ a mode of twice the weight counts four times.

# %%
uniform = (np.random.RandomState(0).randint(0, 2**32, 80, dtype=np.uint32) & 0xFFFFFF) / 2.0**24
MEANS = (uniform.reshape(40, 2) - 0.5) * 80
WEIGHTS, WIDTH = np.random.default_rng(1).dirichlet(np.ones(40)), 1.3132617
ve = schedules.ve(0.05, 100.0)


def log_density(x, t):
    """log q of one point at noise t."""
    v = WIDTH**2 + t**2
    return logsumexp(np.log(WEIGHTS) - jnp.sum((x[None] - MEANS) ** 2, axis=-1) / (2 * v)) - jnp.log(2 * jnp.pi * v)


forty = diffusion.predictions.denoiser(lambda x, t, cond: -t * jax.grad(log_density)(x, t), ve, "epsilon")

side = np.linspace(-60, 60, 241 if FAST else 601)
points = np.stack(np.meshgrid(side, side), axis=-1)
log_q = np.asarray(jax.jit(jax.vmap(jax.vmap(log_density, (0, None)), (0, None)))(points, 0.0), np.float64)


def truth(beta):
    """log Z and the law of q^beta, by the grid."""
    log_p = beta * log_q + 2 * np.log(side[1] - side[0])
    log_z = np.log(np.exp(log_p - log_p.max()).sum()) + log_p.max()
    return log_z, np.exp(log_p - log_z)


# %% [markdown]
# Powers and noises are two axes of tables. $\kappa$ is the solver's noise: 0 is the ordinary differential equation, 1
# the usual reverse equation, $1/\beta$ the one whose noise is scaled down with the temperature.

# %%
BETAS, KAPPAS = ((2.0,), (1.0, 2.0)) if FAST else ((0.5, 1.5, 2.0, 3.0), (0.5, 1.0, 2.0))
lanes = [(beta, kappa) for beta in BETAS for kappa in KAPPAS if (1 + kappa) * beta >= 1]
karras = grids.karras(ve, STEPS)
stack = tables.stack([solvers.sde_dpm(karras, tau=kappa**0.5, power=beta) for beta, kappa in lanes])
beta, kappa = (np.float32([lane[i] for lane in lanes]) for i in (0, 1))


@jax.jit
def anneal(keys):
    def one(key, table, beta, kappa):
        options = dict(num_particles=PARTICLES, beta=beta, kappa=kappa, std=23.0)
        return correctors.sample(key, forty, table, jnp.zeros(2), **options)

    return jax.vmap(lambda *lane: jax.vmap(lambda key: one(key, *lane))(keys))(stack, beta, kappa)


result = check(anneal(jax.random.split(jax.random.key(0), SEEDS)))
log_z = np.asarray(result.log_z, np.float64)
print(" beta kappa   log Z  (grid)    s.e.  spread  ratio  resampled")
for (b, k), row, ratio, often in zip(lanes, log_z, result.variance_ratio[:, 0], result.history.resampled):
    mean = np.exp(row - truth(b)[0])
    found = np.log(mean.mean()) + truth(b)[0]
    error = mean.std(ddof=1) / mean.mean() / SEEDS**0.5
    line = f"{b:5} {k:5} {found:8.3f} {truth(b)[0]:7.3f} {error:7.3f} {row.std():7.3f}"
    print(f"{line} {ratio:6.2f} {often.sum(1).mean():6.1f}")

# %% [markdown]
# "ratio" is what theory says of a narrow normal target: the variance of the unweighted cloud over the right one. Below
# 1 the cloud is too narrow, its weights have heavy tails, and log Z spreads from run to run: more noise helps, and
# scaling the noise down with the temperature (kappa = 1/beta) is the worst choice.

# %%
lane = lanes.index((2.0, 2.0))
cloud, log_weights = (np.asarray(a[lane, 0]) for a in (result.value.particles, result.value.log_weights))
plain = np.asarray(diffusion.sample(
    jax.random.key(1), jax.vmap(forty, (0, None, None, None)), solvers.sde_dpm(karras),
    100 * jax.random.normal(jax.random.key(2), (PARTICLES, 2)),
).value)  # fmt: skip
even = cloud[smc.resamplers.systematic(jax.random.key(3), log_weights, PARTICLES)]
_, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", sharex=True, sharey=True)
shown = (("q", plain, 1.0), ("q², cloud without weights", cloud, 2.0), ("q², corrected", even, 2.0))
for ax, (title, x, power) in zip(axes, shown):
    law = truth(power)[1]
    ax.contour(side, side, law, levels=np.geomspace(1e-3, 1, 4) * law.max(), colors="grey", linewidths=0.7)
    ax.plot(*x.T, ".", ms=2)
    ax.set(title=title, aspect="equal")
plt.show()

# %% [markdown]
# ## A law of your own
#
# Any density that can be differentiated is a denoiser. Here: a mixture that scikit-learn fitted to the iris flowers, in
# four dimensions. With noise of variance t² its covariances grow by t², and the power 2 has the constant
# $Z = \int q^2 = E_q\,q$, which scikit-learn's own samples and densities tell, too. The two agree within their errors.

# %%
flowers = load_iris().data
fitted = GaussianMixture(3, covariance_type="diag", random_state=0).fit(flowers)
narrow = schedules.ve(0.01, 30.0)


def iris_density(x, t):
    each = norm.logpdf(x[None], fitted.means_, jnp.sqrt(fitted.covariances_ + t**2)).sum(axis=1)
    return logsumexp(each, b=fitted.weights_)


iris = diffusion.predictions.denoiser(lambda x, t, cond: -t * jax.grad(iris_density)(x, t), narrow, "epsilon")
options = dict(beta=2.0, kappa=2.0, std=np.float32(flowers.std(0)), num_particles=PARTICLES)
squared = jax.jit(
    jax.vmap(lambda key: correctors.sample(key, iris, grids.karras(narrow, STEPS), centre, **options).log_z)
)
centre = jnp.float32(flowers.mean(0))
runs = np.exp(np.asarray(squared(jax.random.split(jax.random.key(7), SEEDS)), np.float64))
theirs = np.exp(fitted.score_samples(fitted.sample(100_000)[0]))
print("Z of the iris mixture squared:")
for name, each in (("corrected cloud", runs), ("scikit-learn", theirs)):
    print(f"{name:16s} {each.mean():.3f} ± {each.std(ddof=1) / len(each) ** 0.5:.3f}")

# %% [markdown]
# ## Digits: how much do two classes overlap?
#
# The network knows the classes 0 to 9. The powers 1/2 and 1/2 of two of them make $Z = \int \sqrt{q_a q_b}$, their
# affinity: 1 for equal laws, 0 for laws without a common point. All 45 pairs are lanes.

# %%
trained = digits.train(jax.random.key(0), num_steps=30 if FAST else 3000, progress=False)
schedule, model = digits.schedule(), digits.denoiser(trained.value)
images, _ = digits.data()
mean, std = jnp.asarray(images.mean(0)), jnp.asarray(images.std(0))
NUM = 16 if FAST else 256
grid = grids.karras(schedule, 6 if FAST else 40)


def blend(key, conds, beta, num, kappa):
    """A cloud of two classes' powers."""
    table = solvers.sde_dpm(grid, tau=kappa**0.5, power=float(np.sum(beta)))
    options = dict(num_particles=num, beta=np.float32(beta), conds=conds, std=std, kappa=kappa)
    return correctors.sample(key, (model, model), table, mean, **options)


pairs = [(a, b) for a in range(10) for b in range(a)][:: 9 if FAST else 1]
first, second = (jnp.asarray([pair[i] for pair in pairs]) for i in (0, 1))
affinity = jax.jit(lambda key: jax.lax.map(lambda c: blend(key, c, (0.5, 0.5), NUM, 1.0), (first, second)))
overlap = check(affinity(jax.random.key(4)))
matrix = np.zeros((10, 10))
for (a, b), value in zip(pairs, np.asarray(overlap.log_z)):
    matrix[a, b] = matrix[b, a] = value
print(f"effective samples at the end: {float(overlap.history.ess[:, -1].min()):.0f} to "
      f"{float(overlap.history.ess[:, -1].max()):.0f} of {NUM}")  # fmt: skip
_, ax = plt.subplots(figsize=(5, 4), layout="constrained")
picture = ax.imshow(matrix)
ax.set(xlabel="class", ylabel="class", title="log affinity of classes, nats", xticks=range(10), yticks=range(10))
plt.colorbar(picture)
plt.show()
near = sorted(zip(np.asarray(overlap.log_z), pairs), reverse=True)
print("nearest:", ", ".join(f"{a} and {b} ({z:.1f})" for z, (a, b) in near[:3]))
print("farthest:", ", ".join(f"{a} and {b} ({z:.1f})" for z, (a, b) in near[-3:]))

# %% [markdown]
# ## Digits: annealed, blended, multiplied
#
# Row by row: threes; threes at the power 1.5, nearer to what is typical; the law whose constant is the affinity of 3
# and 8; the product of the two. Above each stand log Z, how much it varies over runs, and the effective number of
# samples. Between laws that do not add up to a power of 1 every pixel is corrected, so weights and log Z are rougher.
# The product's log Z varies by nats and its samples are alike: few ancestors are left, which the effective number after
# the last resampling does not tell (`state.eves` does).


# %%
def mosaic(values):
    tiles = np.asarray(values[:16]).reshape(4, 4, 8, 8)
    return np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=-1).transpose(0, 2, 1, 3).reshape(36, 36)


targets = {
    "threes": ((3, 3), (1.0, 0.0)),
    "threes, power 1.5": ((3, 3), (1.5, 0.0)),
    "between 3 and 8": ((3, 8), (0.5, 0.5)),
    "3 times 8": ((3, 8), (1.0, 1.0)),
}
runs = jax.random.split(jax.random.key(5), 2 if FAST else 4)
pictures, titles = [], []
for name, (pair, powers) in list(targets.items())[:: 3 if FAST else 1]:
    classes = tuple(map(jnp.int32, pair))
    run = jax.jit(lambda keys: jax.lax.map(lambda key: blend(key, classes, powers, 4 * NUM, 1.0), keys))  # noqa: B023
    found = check(run(runs))
    chosen = smc.resamplers.systematic(jax.random.key(6), found.value.log_weights[0], 16)
    pictures.append(mosaic(found.value.particles[0][chosen]))
    spread = f"log Z {float(found.log_z.mean()):.1f} ± {float(found.log_z.std()):.1f}"
    titles.append(f"{name}\n{spread}, ESS {float(found.history.ess[:, -1].mean()):.0f}")
plot.images(pictures, titles=titles, columns=2, limits=(-1, 1))
plt.show()
