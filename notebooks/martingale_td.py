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
# # Why the TD error misleads
#
# How good is a policy? Its value $J(t, x)$ is the expected reward still to come. From recorded paths one computes, step
# by step, the temporal-difference error $\delta_k = J_{k+1} - J_k + (r_k - \beta J_k)\,\Delta t$, and it is tempting to
# make its mean square small. In continuous time that is a mistake. The state moves by $\sigma\,\Delta W$, of the size
# $\sqrt{\Delta t}$, so even the *true* value has
#
# $$\frac{1}{\Delta t}\,E\,\delta_k^2 \to E\,|\sigma\,\partial_x J|^2 > 0 .$$
#
# The square measures how much $J$ wiggles along a path, and the way to make it small is to flatten $J$. What identifies
# the true value is not that $\delta$ is small but that it is *unpredictable*: $E \sum_k \xi_k\,\delta_k = 0$ for
# everything $\xi_k$ known at time $t_k$. That is the martingale condition (Jia and Zhou 2022).

# %%
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.tree_util import Partial

from jaxsci import check, control, nn, plot, sweep
from jaxsci.control import martingale
from jaxsci.core import train

jax.config.update("jax_enable_x64", True)
FAST = os.environ.get("JAXSCI_FAST") == "1"
SEEDS = 2 if FAST else 16
BLUE, RED, GREEN = "#0072B2", "#D55E00", "#009E73"

# %% [markdown]
# ## The same network, three losses
#
# Brownian motion on $[0, 1]$, no running reward, $h(x) = x^2$ at the end. The truth is $J = x^2 + 1 - t$. The family is
# $h(x) + (1 - t)\,\mathrm{net}(t, x)$, which meets the terminal condition whatever the weights are.
#
# * ML, martingale loss: fit $J(t_k, X_k)$ to the return that followed.
# * CTD(0): the martingale condition with $\xi = \partial_\theta J$.
# * MSTDE: the mean square of the TD error.

# %%
STEPS, BATCH, UPDATES = (20, 16, 200) if FAST else (50, 128, 1500)
CFG = nn.mlp.config(2, (8,) if FAST else (32, 32), 1)
OPTIMIZER = optax.adam(optax.cosine_decay_schedule(5e-3, UPDATES))
LOSSES = {
    "ML": martingale.losses.martingale_loss,
    "CTD(0)": martingale.losses.temporal_difference,
    "MSTDE": martingale.losses.mean_square_td_error,
}
GRID = jnp.linspace(-1.6, 1.6, 81)


def square(x):
    return x**2


NETWORK = martingale.mlp_value(CFG, terminal=square, horizon=1.0)
CONDITION = martingale.condition(NETWORK)
TRUTH = martingale.Value(lambda params, t, x: x**2 + 1 - t)


def brownian(key, i=None, size=BATCH):
    start = jnp.zeros((), jnp.float32)
    keys = jax.random.split(key, size)
    return jax.vmap(lambda k: control.exact.brownian(k, start, num_steps=STEPS, dt=1 / STEPS))(keys)


def scores(value, params, paths):
    """The mean of delta^2 / dt, and the root mean square error of J over the law of the paths."""
    td = 2 / STEPS * jax.vmap(lambda p: LOSSES["MSTDE"](martingale.condition(value), params, p))(paths).mean()
    t, x = (a[:, :-1].reshape(-1) for a in (paths.ts, paths.xs))
    off = jax.vmap(lambda t, x: value.apply(params, t, x) - TRUTH.apply(None, t, x))(t, x)
    return td, jnp.sqrt(jnp.mean(off**2))


def trained(key, loss):
    def mean(params, paths, key):
        return jax.vmap(lambda p: loss(CONDITION, params, p))(paths).mean()

    first, fresh, test = (jax.random.fold_in(key, i) for i in range(3))
    start = jax.tree.map(lambda a: a.astype(jnp.float32), nn.mlp.init(first, CFG))
    found = train.run(fresh, mean, start, brownian, optimizer=OPTIMIZER, num_steps=UPDATES)
    curve = jax.vmap(lambda x: NETWORK.apply(found.value, jnp.float32(0.5), x))(GRID.astype(jnp.float32))
    td, rms = scores(NETWORK, found.value, brownian(test, size=500))
    return {"value": curve, "td": td, "rms": rms, "status": found.status}


space = sweep.product(loss=sweep.static(LOSSES), key=sweep.keys(2))
nets = check(sweep.run(trained, space, dims={"value": ("x",)}, progress=False)).assign_coords(x=np.asarray(GRID))

# %%
td_truth, _ = scores(TRUTH, None, brownian(jax.random.key(9), size=500))
print(f"{'':10s} {'TD error':>9s} {'error of J':>11s}")
print(f"{'the truth':10s} {float(td_truth):9.2f} {0.0:11.2f}")
for name in LOSSES:
    td, rms = (float(nets[v].sel(loss=name).mean()) for v in ("td", "rms"))
    print(f"{name:10s} {td:9.2f} {rms:11.2f}")
assert float(nets["td"].sel(loss="MSTDE").mean()) < float(td_truth)

# %% [markdown]
# The network that was trained on the TD error has by far the smallest TD error, smaller than the truth's own, and the
# worst value function.
#
# ## A network of your own
#
# A family of value functions is a record with `apply(params, t, x)`, so any network will do. Here one of equinox, with
# another activation and the terminal condition written by hand; only the loss is that of the cell above.

# %%
perceptron = eqx.nn.MLP(2, "scalar", 32, 2, jax.nn.silu, dtype=jnp.float32, key=jax.random.key(4))
weights, layers = eqx.partition(perceptron, eqx.is_array)


def silu_value(weights, t, x):
    return x**2 + (1 - t) * eqx.combine(weights, layers)(jnp.stack([t, x]))


OWN = martingale.Value(silu_value)
OWN_CONDITION = martingale.condition(OWN)


def own_loss(weights, paths, key):
    return jax.vmap(lambda p: martingale.losses.martingale_loss(OWN_CONDITION, weights, p))(paths).mean()


own = check(train.run(jax.random.key(5), own_loss, weights, brownian, optimizer=OPTIMIZER, num_steps=UPDATES))
td, rms = scores(OWN, own.value, brownian(jax.random.key(9), size=500))
print(f"{'equinox':10s} {float(td):9.2f} {float(rms):11.2f}")
if not FAST:
    assert rms < 0.1

# %% [markdown]
# It ends with the TD error of the truth and nearly with its values, as ML did above. Now the same failure as a picture,
# and as the step goes to zero.
#
# ## Smaller steps do not help
#
# A stationary process $dX = (\tfrac12 - X)\,dt + dW$ with reward $r = x$, discounted at $\beta = \tfrac12$. The value
# is a line, $J = 1 + \tfrac23(x - \tfrac12)$, and so is the family. All three methods are then one linear solve
# (`clstd`, `least_squares_ml`, `least_squares_mstde`), and their limits with infinitely many data are known in closed
# form: the lines in the right panel. Points: 20 000 units of time, standard errors over the seeds.

# %%
RATE, MEAN, BETA, TIME = 1.0, 0.5, 0.5, 2000.0 if FAST else 20_000.0
SOLVERS = {
    "ML": martingale.least_squares_ml,
    "CTD(0)": martingale.clstd,
    "MSTDE": martingale.least_squares_mstde,
}


def affine(t, x):
    return jnp.stack([jnp.ones_like(x), x - MEAN])


LINE = martingale.condition(martingale.linear_value(affine), discount=BETA)


def stationary(key, time, dt):
    path = control.exact.ornstein_uhlenbeck(key, num_steps=round(time / dt), dt=dt, rate=RATE, mean=MEAN)
    return control.transitions(path._replace(rs=path.xs[:-1]))


def solved(key, dt, solver):
    found = martingale.run(solver(LINE), jnp.zeros(2), stationary(key, TIME, dt))
    return {"slope": found.value[1], "status": found.status}


space = sweep.product(
    solver=sweep.static(SOLVERS),
    dt=sweep.static([0.2, 0.4] if FAST else [0.05, 0.1, 0.2, 0.4], unit="time units"),
    key=sweep.keys(SEEDS),
)
slopes = check(sweep.run(solved, space, progress=False))["slope"]

dt = np.geomspace(0.01, 0.5, 60)
rho, gamma = np.exp(-RATE * dt), np.exp(-BETA * dt)
pull = 1 - rho + BETA * dt
limits = {
    "ML": dt / (1 - rho * gamma),
    "CTD(0)": dt / pull,
    "MSTDE": pull * dt / (pull**2 + 1 - rho**2),
}

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), dpi=110, layout="constrained")
for name, color, width in (("MSTDE", RED, 1.6), ("CTD(0)", GREEN, 5), ("ML", BLUE, 2.5)):  # all three are to be seen
    for curve in nets["value"].sel(loss=name).transpose("key", "x").values:
        left.plot(nets["x"], curve, color=color, linewidth=width, label=name)
left.plot(GRID, GRID**2 + 0.5, "k--", linewidth=1.2, label="truth")
handles, names = left.get_legend_handles_labels()
left.legend(*zip(*{n: (h, n) for h, n in zip(handles, names)}.values()), frameon=False)
left.set(xlabel="state x", ylabel="value J(1/2, x)", title="networks at t = 1/2, two seeds each")
for name, color in (("MSTDE", RED), ("CTD(0)", GREEN), ("ML", BLUE)):
    right.plot(dt, np.abs(limits[name] / (2 / 3) - 1), color=color, label=name)
    found = slopes.sel(solver=name)
    error = found.std("key") / np.sqrt(SEEDS - 1)
    off = abs(found.mean("key") / (2 / 3) - 1)
    right.errorbar(found["dt"], off, error / (2 / 3), fmt="o", color=color, markersize=4, capsize=3)
right.set(xscale="log", yscale="log", ylim=(3e-3, 2), title="lines: infinitely many data; points: measured")
right.set(xlabel="step dt [time units]", ylabel="relative error of the slope")
right.legend(frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="#E5E5E5", linewidth=0.6)
plt.show()

# %% [markdown]
# Left: ML and CTD(0) lie on the parabola. MSTDE is right near $t = 1$, where the family leaves it no choice, and flat
# before. Right: ML and CTD(0) err by $O(\Delta t)$ and nothing else; MSTDE comes to be wrong by 100 %, and more data
# make it more certain of it.

# %%
for name, limit in limits.items():
    print(f"{name:8s} slope at dt = 0.01: {limit[0]:.4f}   (truth {2 / 3:.4f})")
if not FAST:
    assert np.all(nets["rms"].sel(loss="MSTDE") > 10 * nets["rms"].sel(loss="ML"))

# %% [markdown]
# ## Online: which learning rate?
#
# The same process as a stream, one CTD(0) update a step:
# $\theta \leftarrow \theta + \alpha_t\,\partial_\theta J\,\delta$.
# Two schedules, constant $\alpha$ and $\alpha / (1 + t/10)^{0.67}$. Rates, schedules and seeds are vmapped lanes of
# one program; `dt` changes the number of steps and is therefore static, one compilation for each. The error is that
# of $J$, root mean square over the stationary law.

# %%
STREAM = 100.0 if FAST else 2000.0
RATES = np.geomspace(0.002, 1.0, 3 if FAST else 10)


def falling(rate, power, t):
    return rate / (1 + t / 10) ** power


def online(key, dt, rate, power):
    method = martingale.ctd(LINE, learning_rate=Partial(falling, rate, power))
    found = martingale.run(method, jnp.zeros(2), stationary(key, STREAM, dt))
    level, slope = found.value
    return {"error": jnp.sqrt((level - 1) ** 2 + (slope - 2 / 3) ** 2 / 2), "status": found.status}


space = sweep.product(
    power=[0.0, 0.67],
    dt=sweep.static([0.02, 0.05, 0.1], unit="time units"),
    rate=RATES,
    key=sweep.keys(2 if FAST else 16),
)
learnt = check(sweep.run(online, space, progress=False))
error = learnt["error"].assign_attrs(long_name="RMS error of J")
error["rate"].attrs["long_name"] = "learning rate alpha"
error["dt"].attrs["long_name"] = "step dt"
print(dict(error.sizes), "=", error.size, "runs")

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4.2), dpi=110, sharey=True, layout="constrained")
for ax, power, title in zip(axes, (0.0, 0.67), ("constant rate", "falling rate")):
    title = f"{title}, by dt [time units]"
    plot.lines(error.sel(power=power), x="rate", by="dt", over="key", log="xy", title=title, ax=ax)
plt.show()

# %% [markdown]
# Read off three things.
#
# * **One learning rate serves all steps.** The three curves lie on each other: CTD does not divide by `dt`, so what is
#   learnt in one unit of time depends on $\alpha$ alone. Code that uses $\delta/\Delta t$ must retune $\alpha$ whenever
#   the step changes.
# * **A constant rate trades speed for noise.** Too small has not arrived, too large keeps shaking; the best is small,
#   and smaller the longer the stream.
# * **A falling rate** starts large and averages the noise away: at 0.1 it is about five times as accurate as the
#   constant, and a first value that is five times too large costs a factor of two.

# %%
best = error.mean("key").idxmin("rate")
print("best learning rate:")
print(best.to_series().unstack("dt").round(3))
if not FAST:
    mean = error.mean("key")
    assert float((mean.max("dt") / mean.min("dt")).max()) < 1.6  # one rate for all steps
    assert mean.sel(power=0.67, dt=0.05).min() < mean.sel(power=0.0, dt=0.05).min()

# %% [markdown]
# ## When the family is wrong
#
# Now reward 1 everywhere, so that $J = 1/\beta = 2$ is constant, mean 0, and a family without constants, $\theta x^2$.
# No $\theta$ is right, and the test functions decide which one is found. A trace,
# $\xi_t = \int_0^t (\lambda e^{-\beta})^{t-s}\,\partial_\theta J_s\,ds$, leads from CTD(0) to ML, which is the best fit
# in mean square. The curve is known in closed form.


# %%
def parabola(t, x):
    return (x**2)[None]


WRONG = martingale.condition(martingale.linear_value(parabola), discount=BETA)


def traced(key, trace_decay):
    path = control.exact.ornstein_uhlenbeck(key, num_steps=round(TIME / 4 / 0.05), dt=0.05)
    steps = control.transitions(path._replace(rs=jnp.ones_like(path.dts)))
    found = martingale.run(martingale.clstd(WRONG, trace_decay=trace_decay), jnp.zeros(1), steps)
    return {"theta": found.value[0], "status": found.status}


space = sweep.product(trace_decay=[0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0], key=sweep.keys(SEEDS))
theta = check(sweep.run(traced, space, progress=False))["theta"].assign_attrs(long_name="coefficient theta")
theta["trace_decay"].attrs.update(long_name="trace decay lambda", units="per time unit")

# %%
ax = plot.lines(theta, x="trace_decay", over="key", title="the limit depends on the test functions")
ax.lines[0].set_label("CLSTD(lambda), dt = 0.05")
decay = np.linspace(1e-3, 1, 200)
c = BETA - np.log(decay)
ax.plot(decay, 2 / (BETA + 2 * (2 + BETA) * c / (c + 2)), "k--", linewidth=1, label="closed form, dt = 0")
ax.axhline(2 / (4 + 3 * BETA), color=GREEN, linestyle=":", label="CTD(0)")
ax.axhline(2 / (3 * BETA), color="#CC79A7", linestyle=":", label="ML, best fit")
ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.15))
plt.show()

# %% [markdown]
# ## What to choose
#
# | you have | take |
# |---|---|
# | recorded data, a family linear in its parameters | `clstd`: one solve, no learning rate. Float64. |
# | the same, whole episodes, a family that may not hold the truth | `least_squares_ml`: the best fit of $J$ |
# | recorded episodes, a network | `losses.martingale_loss` |
# | a network, and no end or a far one | `losses.temporal_difference`, that is CTD(0) offline |
# | a stream | `ctd` with a falling rate; a trace (`trace_decay`) moves it from CTD(0) towards ML |
# | more test functions than parameters | `cgtd2`, or `losses.orthogonality` |
#
# With a family that holds the truth all of them agree up to $O(\Delta t)$ and noise. With one that does not, each finds
# its own compromise; only ML's is the nearest to $J$, and it pays with more noise.
#
# **Do not** train on the squared TD error, nor stop, tune or compare by it: the truth itself would lose. Watch the
# martingale loss on paths that were held out, or `martingale.moments`, which must average to zero.
