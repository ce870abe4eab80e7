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
# # Particle filters on a currency
#
# Prices are calm for weeks and then they are not. How wild a day is, its *volatility*, is never seen; only the day's
# return is. A particle filter follows the volatility with a cloud of guesses: each guess moves by chance, is weighed by
# how well it explains the return of the day, and now and then the light ones are replaced by copies of the heavy ones
# (*resampling*). It tells two things: what the volatility may be today, and how likely the whole series is under the
# parameters of the model, which is what they are estimated by.
#
# This page runs filters on 201 returns of the pound sterling against the US dollar, compares two of them with the exact
# answer, sweeps over parameters, leaves days out, and ends with a trap that single precision sets for all of them.

# %%
import math
import os
import pathlib
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.tree_util import Partial
from matplotlib.colors import BoundaryNorm
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

from jaxsci import check, explain, smc, sweep

FAST = os.environ.get("JAXSCI_FAST") == "1"
DAYS = 30 if FAST else 201
BLUE, RED, GREY = "#0072B2", "#D55E00", "#666666"
plt.rcParams["figure.dpi"] = 80

here = pathlib.Path(__file__).parent if "__file__" in globals() else pathlib.Path()
date, rate = np.loadtxt(here / "data" / "gbp_usd.txt", delimiter=",", dtype="U10", unpack=True)
date, rate = date.astype("datetime64[D]")[1 : DAYS + 1], rate.astype(float)
returns = 100 * np.diff(np.log(rate))[:DAYS]  # in per cent
y = jnp.asarray(returns, jnp.float32)


def axes_of_time(ylabel, title, height=3.0):
    """A wide figure with dates along its axis."""
    _, ax = plt.subplots(figsize=(8, height), layout="constrained")
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_locator(locator := AutoDateLocator())
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


ax = axes_of_time("return of the day [%]", "pound sterling against US dollar, 1997")
ax.axhline(0, color=GREY, linewidth=0.8)
ax.bar(date, returns, width=1.0, color=BLUE)
plt.show()

# %% [markdown]
# ## The model, as distributions
#
# The logarithm $x_t$ of the variance wanders about a level $\mu$, and the return is normal with standard deviation
# $e^{x_t/2}$ (Taylor 1982):
#
# $$x_0\sim N\!\Big(\mu,\tfrac{\sigma^2}{1-\rho^2}\Big),\qquad x_t\sim N\big(\mu+\rho(x_{t-1}-\mu),\sigma^2\big),\qquad
# y_t\sim N\big(0,e^{x_t}\big).$$
#
# `smc.state_space` takes three functions that return distribution objects, here of distrax; those of numpyro work too.
# The parameters are leaves of `Partial`s, so other values compile nothing again. `batched=True` says that the functions
# take the whole cloud, which then draws with one key a step.


# %%
class Parameters(NamedTuple):
    mu: jax.Array
    rho: jax.Array
    sigma: jax.Array


def first(p, y):
    return distrax.Normal(p.mu, p.sigma / jnp.sqrt(1 - p.rho**2))


def following(p, x, y):
    return distrax.Normal(p.mu + p.rho * (x - p.mu), p.sigma)


def observation(p, x, y):
    return distrax.Normal(0.0, jnp.exp(x / 2))


def space(p):
    return smc.state_space(Partial(first, p), Partial(following, p), Partial(observation, p), batched=True)


PUBLISHED = Parameters(*(jnp.float32(v) for v in (2 * math.log(0.5992), 0.9702, 0.178)))  # Pitt and Shephard 1999

# %% [markdown]
# ## Two filters
#
# The *bootstrap* filter moves each particle as the model does, blind to the return of the day. A *guided* filter looks
# first: its proposal is the model's step, shifted to where the return draws it. To first order in $x_t$ the density of
# $y_t$ shifts a normal law with mean $m$ and variance $s^2$ by $\frac{s^2}{2}(y_t^2e^{-m}-1)$, up on wild days, down on
# calm ones (Pitt and Shephard 1999). The weights make up for the difference, so both filters estimate the same thing.


# %%
def tilted(law, y):
    mean, scale = law.loc, law.scale
    seen = jnp.nan_to_num(y**2 * jnp.exp(-mean), nan=1.0)  # a missing return draws nowhere
    return distrax.Normal(mean + scale**2 / 2 * (seen - 1), scale)


def guided_first(p, y):
    return tilted(first(p, y), y)


def guided_step(p, x, y):
    return tilted(following(p, x, y), y)


def bootstrap(p):
    return smc.bootstrap(space(p))


def guided(p):
    return smc.guided(space(p), Partial(guided_first, p), Partial(guided_step, p))


FILTERS = {"bootstrap": bootstrap, "guided": guided}
NUM = 1000 if FAST else 20_000


def moments(x, weights):
    mean = jnp.sum(weights * x)
    return mean, jnp.sqrt(jnp.sum(weights * (x - mean) ** 2))


results = {
    name: smc.run(jax.random.key(1), make(PUBLISHED), y, num_particles=NUM, statistics=moments)
    for name, make in FILTERS.items()
}

# %% [markdown]
# The state is a single number, so the exact likelihood can be had by integrating over a grid: slow in more dimensions,
# but a judge here. Each run also tells its own standard error: it knows which particle of the first day each survivor
# descends from, and families that have grown unequal are a sign of noise (`smc.log_z_variance`).


# %%
def exact_log_likelihood(y, p, num=300):
    """The filter on a grid of states, in float64; a NaN is a missing day."""
    mu, rho, sigma = (float(a) for a in p)
    wide = sigma / math.sqrt(1 - rho**2)
    x = np.linspace(mu - 7 * wide, mu + 7 * wide, num)

    def density(z, scale):
        return np.exp(-0.5 * (z / scale) ** 2) / (scale * math.sqrt(2 * math.pi))

    mass, total = density(x - mu, wide) * (x[1] - x[0]), 0.0
    step = density(x - mu - rho * (x[:, None] - mu), sigma) * (x[1] - x[0])
    for t, value in enumerate(y):
        mass = mass if t == 0 else mass @ step
        mass = mass if np.isnan(value) else mass * density(value, np.exp(x / 2))
        total += math.log(mass.sum())
        mass /= mass.sum()
    return total


exact = exact_log_likelihood(returns, PUBLISHED)
print(f"exact      {exact:9.3f}")
for name, result in results.items():
    error = float(jnp.sqrt(smc.log_z_variance(check(result)).value))
    print(f"{name:10s} {float(result.log_z):9.3f} ± {error:.3f}")
    assert abs(float(result.log_z) - exact) < 5 * error

# %% [markdown]
# ## What the filter says: the volatility of the day
#
# The line is $e^{E[x_t]/2}$ given the returns up to that day, the band is two standard deviations of $x_t$ either side.
# The filter is not fooled by one calm day in a wild week, and wakes up at once at the large returns.

# %%
mean, spread = results["guided"].history.statistics
ax = axes_of_time("per cent a day", "what is seen, |return|, and what is not: the volatility", 3.4)
ax.bar(date, np.abs(returns), width=1.0, color="#BBBBBB", label="|return|")
ax.fill_between(date, np.exp((mean - 2 * spread) / 2), np.exp((mean + 2 * spread) / 2), color=BLUE, alpha=0.25)
ax.plot(date, np.exp(mean / 2), color=BLUE, label="volatility, with 95 % band")
ax.legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# ## How healthy is the cloud?
#
# The *effective sample size* is the number of equal weights that would be as good as the weights there are. When it
# falls below half of the cloud the filter resamples, and the number jumps up. On a day that nobody expected (28 July)
# the bootstrap filter is left with a small part of its particles, as few had wandered to where the volatility must have
# been; the guided one has sent more of them there.

# %%
ax = axes_of_time("effective sample size / N", "share of the cloud that counts: every jump upwards is a resampling")
for name, color in (("bootstrap", RED), ("guided", BLUE)):
    ax.plot(date, np.asarray(results[name].history.ess) / NUM, color=color, label=name)
ax.axhline(0.5, color=GREY, linestyle=":", label="below this the filter resamples")
ax.set_ylim(0, 1.3)
ax.legend(frameon=False, ncols=3, loc="upper left")
plt.show()
for name, result in results.items():
    ess = np.asarray(result.history.ess) / NUM
    print(
        f"{name:10s} least {ess.min():.2f} on {date[ess.argmin()]}; {int(result.history.resampled.sum())} resamplings"
    )

# %% [markdown]
# ## How noisy is the likelihood?
#
# Run again with other keys and the estimate of $\log L$ scatters. A run is one function of a key, so a `sweep` makes
# lanes of all keys: one compiled program for each filter and each number of particles. Dots: standard deviation over
# the keys. Crosses: the standard error that a single run tells of itself, averaged over the runs; they need only one
# run, and are missing for clouds too small to tell (all descend from one particle of the first day).

# %%
SIZES, SEEDS = ([100, 400], 4) if FAST else ([500, 2000, 8000], 32)


def estimate(key, filter, num):
    result = smc.run(key, FILTERS[filter](PUBLISHED), y, num_particles=num)
    told = smc.log_z_variance(result)
    return {"log_z": result.log_z, "told": jnp.sqrt(told.value), "status": result.status}


noise_space = sweep.product(filter=sweep.static(list(FILTERS)), num=sweep.static(SIZES), key=sweep.keys(SEEDS))
noise = check(sweep.run(estimate, noise_space, allow_nan=["told"], progress=False))

# %%
_, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for name, color in (("bootstrap", RED), ("guided", BLUE)):
    one = noise.sel(filter=name)
    axes[0].loglog(SIZES, one["log_z"].std("key", ddof=1), "o-", color=color, label=f"{name}, over {SEEDS} keys")
    told = one["told"].mean("key", skipna=False)
    axes[0].loglog(SIZES, told, "x", color=color, markersize=9, label=f"{name}, told by single runs")
    found = one["log_z"].isel(num=1).values
    offset = 0.0 if name == "bootstrap" else 1.0
    jitter = offset + np.linspace(-0.25, 0.25, SEEDS)
    axes[1].plot(found, jitter, "o", color=color, alpha=0.7)
line = float(noise["log_z"].sel(filter="bootstrap").isel(num=-1).std("key", ddof=1)) * np.sqrt(
    SIZES[-1] / np.array(SIZES)
)
axes[0].loglog(SIZES, line, ":", color=GREY, label="slope of 1/√N")
axes[0].set(xlabel="particles N", ylabel="standard error of log L")
axes[0].set_xticks(SIZES, [f"{n:,}" for n in SIZES])
axes[0].set_yticks([0.05, 0.1, 0.2, 0.4], ["0.05", "0.1", "0.2", "0.4"])
axes[0].minorticks_off()
axes[0].legend(frameon=False, fontsize=9)
axes[1].axvline(exact, color="black", linestyle=":")
axes[1].annotate("exact", (exact, 1.45), xytext=(4, 0), textcoords="offset points")
axes[1].set(xlabel=f"log L, N = {SIZES[1]:,}, a dot a key", ylim=(-0.5, 1.6))
axes[1].locator_params(axis="x", nbins=4)
axes[1].set_yticks([0, 1], ["bootstrap", "guided"])
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# The error falls with $1/\sqrt N$ (a standard deviation over 32 keys is itself uncertain by an eighth), and the guided
# filter is somewhat ahead. What a single run tells is of the right size from a few thousand particles on.
#
# ## Which parameters? 64 draws, and the surface behind them
#
# $\hat L$ is an estimate, but $E[\hat L] = L$ exactly. So draws from a prior, weighted by their $\hat L$, are draws
# from the exact posterior, whatever the number of particles. Below: 64 draws of persistence $\rho$ and noise $\sigma$
# as lanes of one program, then a grid of both as the same kind of sweep. All lanes share one key, which makes the
# surface smoother than its noise. The filter is the bootstrap one: the expansion behind the guided proposals is made
# for small $\sigma$. Dashed lines are the exact surface, by integration.

# %%
PARTICLES = 200 if FAST else 2000
CELLS = 4 if FAST else 12
RHO, SIGMA = (0.6, 0.995), (0.05, 0.8)
rng = np.random.default_rng(0)


def likelihood(key, rho, sigma):
    result = smc.run(key, bootstrap(Parameters(PUBLISHED.mu, rho, sigma)), y, num_particles=PARTICLES)
    return {"log_z": result.log_z, "status": result.status}


draws = sweep.product(draw=sweep.zip(rho=rng.uniform(*RHO, 64), sigma=rng.uniform(*SIGMA, 64)))
prior = check(sweep.run(likelihood, sweep.product(draws, key=sweep.keys(1)), progress=False)).isel(key=0)
cells = sweep.product(rho=np.linspace(*RHO, CELLS), sigma=np.linspace(*SIGMA, CELLS), key=sweep.keys(1))
surface = check(sweep.run(likelihood, cells, progress=False))["log_z"].isel(key=0)
truth = np.array(
    [
        [exact_log_likelihood(returns, (PUBLISHED.mu, rho, sigma), 150) for sigma in surface["sigma"].values]
        for rho in surface["rho"].values
    ]
)

weight = np.exp(prior["log_z"] - prior["log_z"].max())
weight = weight / weight.sum()
print(f"largest error on the grid {np.abs(surface.values - truth).max():.2f}")
for name in ("rho", "sigma"):
    centre = float((weight * prior[name]).sum())
    width = float(np.sqrt((weight * (prior[name] - centre) ** 2).sum()))
    print(f"{name:5s} {centre:.2f} ± {width:.2f} a posteriori")

# %%
fig, ax = plt.subplots(figsize=(7.4, 4.8), layout="constrained")
levels = [-20, -14, -10, -7, -5, -3, -2, -1, 0]
even = BoundaryNorm(levels, 256)  # a colour for each level
below = np.clip(surface - truth.max(), -20, 0)
shown = ax.contourf(below["sigma"], below["rho"], below, levels=levels, norm=even)
ax.contour(below["sigma"], below["rho"], truth - truth.max(), levels=levels[:-1], colors="black", linewidths=0.8,
           linestyles="--")  # fmt: skip
fig.colorbar(shown, ax=ax, label="log L below the exact maximum")
ax.scatter(
    prior["sigma"], prior["rho"], s=6 + 2000 * weight, facecolor="none", edgecolor="white", linewidth=1.2,
    label="64 draws, area: posterior weight",
)  # fmt: skip
ax.plot(PUBLISHED.sigma, PUBLISHED.rho, "*", color=RED, markersize=14, label="Pitt and Shephard (1999)")
ax.set(xlabel="noise σ of the log-variance", ylabel="persistence ρ", xlim=SIGMA, ylim=RHO)
ax.set_title("how likely are the returns? dashed: exact", loc="left", fontsize=11)
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=9, facecolor="#777777", labelcolor="white")
plt.show()

# %% [markdown]
# A ridge: 201 days cannot tell a slow volatility with little noise from a quick one with much. A single optimum would
# hide that; the weighted draws show it.
#
# ## Days without a return
#
# A NaN means missing: the day weighs nothing, the cloud spreads as the model says, and the likelihood is that of the
# days that are left. Here a month is struck out.

# %%
gap = slice(10, 20) if FAST else slice(60, 82)
holed = returns.copy()
holed[gap] = np.nan
missing = check(
    smc.run(
        jax.random.key(1), guided(PUBLISHED), jnp.asarray(holed, jnp.float32), num_particles=NUM, statistics=moments
    )
)
error = float(jnp.sqrt(smc.log_z_variance(missing).value))
known = exact_log_likelihood(holed, PUBLISHED)
print(f"log L of the days left {float(missing.log_z):.3f} ± {error:.3f}, exact {known:.3f}")
assert abs(float(missing.log_z) - known) < 5 * error

near = slice(max(gap.start - 20, 0), gap.stop + 20)
ax = axes_of_time("volatility, per cent a day", "a month without data: the band widens until a return comes in")
for (mean, spread), color, name in (
    (results["guided"].history.statistics, GREY, "all days"),
    (missing.history.statistics, BLUE, "month struck out"),
):
    low, high = np.exp((mean - 2 * spread) / 2), np.exp((mean + 2 * spread) / 2)
    ax.fill_between(date[near], low[near], high[near], color=color, alpha=0.25)
    ax.plot(date[near], np.exp(mean / 2)[near], color=color, label=name)
ax.axvspan(date[gap.start], date[gap.stop - 1], color="#F5E9D6", zorder=0, label="no data")
ax.set_ylim(top=1.4)
ax.legend(frameon=False, ncols=3, loc="upper left")
plt.show()

# %% [markdown]
# ## A look-ahead that ruins the estimate
#
# An *auxiliary* filter chooses ancestors in view of the next return, by a guess $\eta$ of $p(y_t\mid x_{t-1})$. The
# first-order guess of the textbook is an upper bound that grows like $\exp\big(\frac{\sigma^2}{8}y^4e^{-2m}\big)$: at a
# surprise it puts everything on the few particles with the lowest volatility, which are the wrong ones. The run says
# so: the notice *uneven look-ahead*.


# %%
def log_eta(p, x, y):
    mean = following(p, x, y).loc
    moved = tilted(following(p, x, y), y).loc
    gain = ((moved - p.mu) ** 2 - (mean - p.mu) ** 2) / (2 * p.sigma**2)
    return gain - y**2 / 2 * jnp.exp(-mean) * (1 + mean - p.mu)


def ahead(key):
    model = smc.auxiliary(space(PUBLISHED), guided(PUBLISHED), Partial(log_eta, PUBLISHED))
    result = smc.run(key, model, y, num_particles=SIZES[1])
    return {"log_z": result.log_z, "status": result.status}


look = sweep.run(ahead, sweep.product(key=sweep.keys(SEEDS)), progress=False)
plain = noise["log_z"].isel(num=1)
for name in (*FILTERS, "auxiliary"):
    one = look["log_z"] if name == "auxiliary" else plain.sel(filter=name)
    print(f"{name:10s} log L from {float(one.min()):8.2f} to {float(one.max()):8.2f} over {SEEDS} keys")
code = int(np.bitwise_or.reduce(look["status"].values))
print(explain(code))
if not FAST:
    assert code & smc.UNEVEN_LOOK_AHEAD and float(look["log_z"].std()) > 10 * float(plain.sel(filter="guided").std())

# %% [markdown]
# ## The float32 trap
#
# Systematic resampling gives a particle of weight $W_i$ either $\lfloor NW_i\rfloor$ or $\lceil NW_i\rceil$ copies,
# and none to a particle of weight zero. Particle libraries on JAX do it in three lines: running sums of the weights,
# evenly spaced points, a search. In single precision the numbers just below 1 are $6\cdot10^{-8}$ apart, six per cent
# of an average weight at a million particles; and a sum that runs in parallel is not even monotone, so that the search
# goes astray. `smc.resamplers` keeps each running sum as a whole number of copies and a fraction, which loses nothing.


# %%
def three_lines(key, log_weights, num):
    sums = jnp.cumsum(jax.nn.softmax(log_weights))
    points = (jnp.arange(num) + jax.random.uniform(key)) / num
    return jnp.minimum(jnp.searchsorted(sums, points), num - 1)


def count(resampler, log_weights):
    """Particles with neither floor nor ceiling of their share in copies, and copies of particles of weight zero."""
    weights = np.exp(log_weights.astype(np.float64))
    shares = weights * (len(weights) / weights.sum())
    ancestors = jax.jit(resampler, static_argnums=2)(jax.random.key(0), jnp.asarray(log_weights), len(weights))
    copies = np.bincount(np.asarray(ancestors), minlength=len(weights))
    wrong = (copies < np.floor(shares)) | (copies > np.ceil(shares))
    return int(wrong.sum()), int(copies[weights == 0].sum())


def log_weights_of(law, num):
    rng = np.random.default_rng(1)
    weights = {
        "equal": lambda: np.ones(num),
        "gamma(0.1)": lambda: rng.gamma(0.1, size=num),
        "half of them zero": lambda: rng.random(num) * (rng.random(num) < 0.5),
        "Gaussian likelihood": lambda: np.exp(-2 * (rng.standard_normal(num) - 2) ** 2),
    }[law]()
    with np.errstate(divide="ignore"):
        return np.log(weights.astype(np.float32))


MILLION = 10_000 if FAST else 1_000_000
CLOUDS = [1000, MILLION] if FAST else [10_000, 100_000, MILLION, 4_000_000]
LAWS = ["equal", "gamma(0.1)", "half of them zero", "Gaussian likelihood"]
RESAMPLERS = {"cumsum and searchsorted": three_lines, "smc.resamplers.systematic": smc.resamplers.systematic}
print(f"N = {MILLION:,}: particles with a wrong number of copies, and copies of particles of weight zero")
found = {name: [count(r, log_weights_of(law, MILLION)) for law in LAWS] for name, r in RESAMPLERS.items()}
for name, counts in found.items():
    print(f"{name:26s}", ", ".join(f"{law}: {wrong} and {zero}" for law, (wrong, zero) in zip(LAWS, counts)))
growth = {(name, law): [count(r, log_weights_of(law, n))[0] for n in CLOUDS]
          for name, r in RESAMPLERS.items() for law in (LAWS[0], LAWS[2])}  # fmt: skip
usual = found["cumsum and searchsorted"]
assert not np.any(found["smc.resamplers.systematic"])
assert FAST or (min(wrong for wrong, _ in usual[1:]) > 0 and usual[2][1] > 0)

# %%
_, axes = plt.subplots(1, 2, figsize=(10.5, 3.5), layout="constrained")
for shift, (name, color) in zip((-0.2, 0.2), zip(RESAMPLERS, (RED, BLUE))):
    bars = axes[0].barh(
        np.arange(len(LAWS)) + shift, [wrong for wrong, _ in found[name]], 0.38, color=color, label=name
    )
    axes[0].bar_label(bars, padding=3, fontsize=9)
    for law, style in zip((LAWS[0], LAWS[2]), ("o-", "s--")):
        axes[1].plot(CLOUDS, growth[name, law], style, color=color, label=f"{name}, {law}")
axes[0].set_yticks(range(len(LAWS)), LAWS)
axes[0].invert_yaxis()
axes[0].margins(x=0.15)
axes[0].set(xlabel="particles with a wrong number of copies", ylabel="weights", title=f"N = {MILLION:,}, float32")
axes[0].legend(frameon=False, fontsize=9, loc="upper right")
axes[1].set_xscale("log")
axes[1].set_yscale("symlog", linthresh=1)
axes[1].set_ylim(-0.5, 3e6)
axes[1].set(xlabel="particles N", ylabel="wrong numbers of copies", title="the same against N")
axes[1].legend(frameon=False, fontsize=9, loc="upper left")
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# **Take away.** Write the model as three functions that return distributions; `bootstrap` is the filter to begin with,
# `guided` pays where returns surprise. A run tells the likelihood, its own standard error and the state of its cloud
# day by day; more parameters, keys or lengths are lanes of a `sweep`. And count copies before you trust a resampler
# at a million particles.
