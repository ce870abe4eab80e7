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
# # Digits as a contextual bandit
#
# A classifier that is told only *wrong* or *right* about the one answer it gave is a contextual bandit: the picture is
# the context, the ten digits are the arms, the loss is 1 for a wrong answer. It must explore, because it never sees
# what another answer would have brought. This page plays linear and neural policies on the handwritten digits of
# scikit-learn, measures how much exploration pays, and then takes a task on which no linear model can win.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from jax.tree_util import Partial
from sklearn.datasets import load_digits

from jaxsci import bandits, check, plot, sweep
from jaxsci.core.static import bind

FAST = os.environ.get("JAXSCI_FAST") == "1"
SEEDS, ROUNDS = (2, 120) if FAST else (8, 4000)

digits = load_digits()
PIXELS = jnp.asarray(digits.data / np.linalg.norm(digits.data, axis=1, keepdims=True), jnp.float32)
LABELS = jnp.asarray(digits.target)
titles = [str(label) for label in digits.target[:6]]
plot.images(digits.images[:6] / 16, titles=titles, columns=6)
plt.show()

# %% [markdown]
# ## Two policies
#
# *LinUCB* fits one ridge regression per digit and plays the least optimistic loss, $\hat\theta_a^\top x -
# \alpha\sqrt{x^\top A_a^{-1}x}$. *NeuFastCB* trains one network on the features $x \otimes e_a$, one gradient step a
# round, and plays arm $a$ with a probability that falls with the gap of its predicted loss to the best one; $g$ sets
# how fast.
#
# A run is one function of a key and of the number that sets exploration, and `sweep` makes a batch of it: all seeds and
# all values in one compiled program per policy.

# %%
BLOCKS = Partial(bind(bandits.features.disjoint, num_arms=10))


def run(key, policy):
    shown = jax.random.randint(jax.random.fold_in(key, 0), (ROUNDS,), 0, len(LABELS))
    losses = 1 - jax.nn.one_hot(LABELS[shown], 10)
    record = bandits.replay(jax.random.fold_in(key, 1), losses, policy, PIXELS[shown]).history
    return {"mistake": record.cost, "status": record.status.max()}


def linear(key, alpha):
    return run(key, bandits.policies.lin_ucb(10, 64, alpha=alpha))


def neural(key, exploration):
    return run(key, bandits.wrappers.encoded(bandits.policies.neu_fast_cb(10, 640, exploration=exploration), BLOCKS))


ALPHA, GAP = [0.03, 0.1, 0.3, 1.0, 3.0], [1.0, 3.0, 10.0, 30.0, 1e9]
dims = {"mistake": ("round",)}
key = sweep.keys(SEEDS)
linear_runs = check(sweep.run(linear, sweep.product(alpha=ALPHA, key=key), dims=dims, progress=False))
neural_runs = check(sweep.run(neural, sweep.product(exploration=GAP, key=key), dims=dims, progress=False))

# %% [markdown]
# ## Regret
#
# An oracle makes no mistake, so the cumulative mistakes are the regret; guessing makes 0.9 a round. Lines are means
# over seeds, bands 5–95 %.

# %%
chosen = xr.concat(
    [
        linear_runs["mistake"].sel(alpha=1.0, drop=True),
        linear_runs["mistake"].sel(alpha=0.1, drop=True),
        neural_runs["mistake"].sel(exploration=10.0, drop=True),
        neural_runs["mistake"].sel(exploration=1e9, drop=True),
    ],
    xr.Variable("policy", ["LinUCB, α = 1", "LinUCB, α = 0.1", "NeuFastCB, g = 10", "network, greedy"]),
)
plot.regret(chosen, baseline=np.zeros(ROUNDS), over="key", title="mistakes so far")
plt.show()

# %% [markdown]
# The digits are close to linearly separable, and LinUCB solves its regressions exactly in every round, while the
# network takes a single gradient step: the linear policy is ahead, and stays ahead. The greedy network can lock onto a
# wrong answer for a class, so it makes more mistakes and its seeds scatter most. LinUCB gets by with little α, because
# a fit that starts at loss 0 takes whatever it has not seen for the best.

# %%
totals = chosen.sum("round")
for name in totals["policy"].values:
    one = totals.sel(policy=name)
    print(f"{name:20s} {float(one.mean()):6.0f} ± {float(one.std(ddof=1)):.0f} mistakes in {ROUNDS}")

# %% [markdown]
# ## How much exploration?
#
# Left: LinUCB against the width α. Right: NeuFastCB against g, where *large* is greedy (the last point is $g = 10^9$).

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
by_alpha = linear_runs["mistake"].sum("round", keep_attrs=False).rename("mistakes")
by_gap = neural_runs["mistake"].sum("round", keep_attrs=False).rename("mistakes")
by_gap = by_gap.assign_coords(exploration=[1.0, 3.0, 10.0, 30.0, 100.0])
plot.lines(by_alpha, x="alpha", over="key", log="x", title="LinUCB", ax=axes[0])
plot.lines(by_gap, x="exploration", over="key", log="x", title="NeuFastCB (last point: greedy)", ax=axes[1])
plt.show()

# %% [markdown]
# ## Where a line is not enough
#
# Contexts are points on the unit circle at angle $\varphi$; arm 0 is right where $\sin 2\varphi > 0$, arm 1 elsewhere.
# Opposite points agree and neighbouring quadrants do not, so the best linear prediction is a constant.


# %%
def quadrants(key, policy):
    angle = jax.random.uniform(jax.random.fold_in(key, 0), (ROUNDS,), maxval=2 * jnp.pi)
    context = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    right = jnp.sin(2 * angle) > 0
    losses = jnp.stack([1.0 - right, 1.0 * right], axis=1)
    return {"mistake": bandits.replay(jax.random.fold_in(key, 1), losses, policy, context).history.cost}


pair = Partial(bind(bandits.features.disjoint, num_arms=2))
POLICIES = {
    "LinUCB": bandits.policies.lin_ucb(2, 2),
    "NeuFastCB": bandits.wrappers.encoded(bandits.policies.neu_fast_cb(2, 4, hidden=(64,)), pair),
}


def compare(key, policy):
    return quadrants(key, POLICIES[policy])


space = sweep.product(policy=sweep.static(list(POLICIES)), key=key)
circle = check(sweep.run(compare, space, dims=dims, progress=False))
plot.regret(circle["mistake"], baseline=np.zeros(ROUNDS), over="key", title="mistakes so far, quadrants of the circle")
plt.show()

# %%
last = circle["mistake"].isel(round=slice(-ROUNDS // 4, None)).mean(("round", "key"))
print({str(name): round(float(last.sel(policy=name)), 3) for name in last["policy"].values})
if not FAST:
    mean = totals.mean("key")
    assert float(mean.sel(policy="LinUCB, α = 1")) < float(mean.sel(policy="NeuFastCB, g = 10"))
    assert float(mean.sel(policy="NeuFastCB, g = 10")) < float(mean.sel(policy="network, greedy"))
    assert float(last.sel(policy="NeuFastCB")) < 0.15 < 0.4 < float(last.sel(policy="LinUCB"))

# %% [markdown]
# **Take away.** A policy is three pure functions, so a comparison over seeds and hyper-parameters is a `vmap`. Begin
# with LinUCB; take a network where no line fits the losses, and let it explore.
