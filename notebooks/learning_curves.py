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
# # Stop the runs that will not win
#
# Of many training runs only the best one counts, yet each is trained to its end. A learning curve tells early how a
# run will end, if one knows how learning curves go on. A network that was trained on curves from a prior alone,
# none of them real, reads the beginning of a curve and predicts the distribution of every later value in one pass;
# a run is stopped when no later epoch has a chance of more than $\delta$ to beat the best value so far (Adriaensen
# et al. 2023).

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from jaxsci import pfn
from jaxsci.pfn import bars, curves, priors

FAST = os.environ.get("JAXSCI_FAST") == "1"
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"

# %% [markdown]
# ## Curves of the prior
#
# A mixture of three laws of growth that rises and stays within $[0, 1]$, with noise. The shipped network has seen
# nothing else.

# %%
_, drawn = priors.draw(jax.random.key(0), priors.curves(), 40, 100)
model = pfn.load("lc-small")
y = drawn[3]
figure, axes = plt.subplots(1, 4, figsize=(12, 3), sharey=True, layout="constrained")
axes[0].plot(np.arange(1, 101), drawn.T, color=GREY, lw=0.4)
axes[0].set(title="40 draws of the prior", xlabel="epoch", ylabel="value")
for ax, n in zip(axes[1:], (3, 10, 40)):
    law = curves.predict(model, y, n)
    later = np.arange(n + 1, 101)
    for share, shade in ((0.9, 0.2), (0.5, 0.4)):
        ends = [bars.quantile(law, 0.5 + side * share / 2)[n:] for side in (-1, 1)]
        ax.fill_between(later, *ends, color=BLUE, alpha=shade, lw=0)
    ax.plot(later, bars.quantile(law, 0.5)[n:], color=BLUE, lw=1)
    ax.plot(np.arange(1, 101), y, "k.", ms=2)
    ax.axvline(n + 0.5, color=RED, lw=0.8)
    ax.set(title=f"{n} epochs known", xlabel="epoch")
plt.show()

# %% [markdown]
# ## Real curves
#
# Networks with one hidden layer on scikit-learn's handwritten digits: validation accuracy after each of 50 epochs
# of SGD with momentum. Learning rate, batch size, hidden units and weight decay are drawn at random. All
# configurations of a batch size train at the same time, under one `vmap`; a mask hides the units that a
# configuration does not have.

# %%
EPOCHS, MAX_HIDDEN = 50, 32 if FAST else 128
NUM = {16: 4, 64: 8, 256: 8} if FAST else {16: 100, 64: 200, 256: 200}
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = images[order].astype("float32") / 16, labels[order]
split = 256 if FAST else 1024
train_x, train_y, valid_x, valid_y = images[:split], labels[:split], images[split:], labels[split:]


def logits(params, mask, x):
    hidden = jax.nn.relu(x @ params[0] + params[1][None]) * mask[None]
    return hidden @ params[2] + params[3][None]


def curve(key, batch_size):
    """Validation accuracy after each epoch, of one configuration drawn from the key."""
    keys = jax.random.split(key, 7)
    rate = 10 ** jax.random.uniform(keys[0], minval=-4.0, maxval=0.0)
    decay = 10 ** jax.random.uniform(keys[1], minval=-6.0, maxval=-1.0)
    units = 2 ** jax.random.uniform(keys[2], minval=3.0, maxval=np.log2(MAX_HIDDEN))
    mask = (jnp.arange(MAX_HIDDEN) < units).astype(jnp.float32)
    scale = (2 / 64) ** 0.5, (2 / units) ** 0.5
    start = [
        scale[0] * jax.random.normal(keys[3], (64, MAX_HIDDEN)), jnp.zeros(MAX_HIDDEN),
        scale[1] * jax.random.normal(keys[4], (MAX_HIDDEN, 10)), jnp.zeros(10),
    ]  # fmt: skip

    def loss(params, x, labels):
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits(params, mask, x)), labels[:, None], axis=1)
        return -jnp.mean(chosen) + decay * sum(jnp.sum(p**2) for p in params[::2])

    def step(state, rows):
        params, momentum = state
        slopes = jax.grad(loss)(params, jnp.asarray(train_x)[rows], jnp.asarray(train_y)[rows])
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, slopes)
        return (jax.tree.map(lambda p, m: p - rate * m, params, momentum), momentum), None

    def epoch(state, key):
        rows = jax.random.permutation(key, split)[: split // batch_size * batch_size].reshape(-1, batch_size)
        state, _ = jax.lax.scan(step, state, rows)
        return state, jnp.mean(jnp.argmax(logits(state[0], mask, valid_x), axis=1) == valid_y)

    state = start, jax.tree.map(jnp.zeros_like, start)
    return jax.lax.scan(epoch, state, jax.random.split(keys[5], EPOCHS))[1]


runs = jnp.concatenate([
    jax.jit(jax.vmap(lambda k, size=size: curve(k, size)))(jax.random.split(jax.random.key(size), num))
    for size, num in NUM.items()
])  # fmt: skip
print(f"{len(runs)} runs; final accuracy: median {jnp.median(runs[:, -1]):.3f}, best {runs[:, -1].max():.3f}")
print(f"{np.mean(runs[:, -1] > runs[:, 0]):.0%} end above their start")

# %% [markdown]
# A metric enters on $[0, 1]$, higher is better, as `curves.normalize` maps it. Does the network, trained on the prior
# alone, know how these go on? Its 90 % intervals for the last epoch, given ten:

# %%
METRIC = curves.normalizer()  # accuracy: from 0 to 1, more is better
found = curves.normalize(METRIC, runs)
assert not np.any(found.status)
scaled = found.value


@jax.jit
@jax.vmap
def forecast(y):
    law = curves.predict(model, y, 10)
    return [bars.quantile(law, q)[-1] for q in (0.05, 0.5, 0.95)]


low, middle, high = (np.asarray(curves.denormalize(METRIC, q)) for q in forecast(scaled))
last = np.asarray(runs[:, -1])
print(f"within the interval: {np.mean((last > low) & (last < high)):.0%}; median width {np.median(high - low):.3f}")
print(f"mean absolute error of the median: {np.abs(middle - last).mean():.4f}, of the last value seen: "
      f"{np.abs(np.asarray(runs[:, 9]) - last).mean():.4f}")  # fmt: skip

# %% [markdown]
# ## Curves from elsewhere
#
# A curve is a row of numbers, whoever trained. Here scikit-learn's `MLPClassifier`, with Adam and one epoch for each
# `partial_fit`; the same forecast from ten epochs. Here the intervals hold two thirds of the ends, not nine tenths: the
# prior does not know these curves well.


# %%
def their_curve(seed):
    rng = np.random.default_rng(seed)
    units, rate = int(2 ** rng.uniform(3, 7)), 10 ** rng.uniform(-4, -2)
    network = MLPClassifier((units,), learning_rate_init=rate, batch_size=64, random_state=seed)
    return [network.partial_fit(train_x, train_y, classes=range(10)).score(valid_x, valid_y) for _ in range(EPOCHS)]


theirs = jnp.asarray([their_curve(seed) for seed in range(2 if FAST else 30)], jnp.float32)
seen = curves.normalize(METRIC, theirs)
assert not np.any(seen.status)
low, middle, high = (np.asarray(curves.denormalize(METRIC, q)) for q in forecast(seen.value))
last = np.asarray(theirs[:, -1])
print(f"within the interval: {np.mean((last > low) & (last < high)):.0%}; median width {np.median(high - low):.3f}")
print(f"mean absolute error of the median: {np.abs(middle - last).mean():.4f}, of the last value seen: "
      f"{np.abs(np.asarray(theirs[:, 9]) - last).mean():.4f}")  # fmt: skip

# %% [markdown]
# ## How many epochs does stopping save?
#
# The runs come in random order and are not resumed; the budget is that of 20 whole runs. The regret is what the best
# accuracy of all runs exceeds the best one seen so far by. Each rule is replayed in many orders, under one `vmap`.
# Patience(k) stops a run that has not improved for k epochs.

# %%
ORDERS, BUDGET = (4, 4 * EPOCHS) if FAST else (40, 20 * EPOCHS)
orders = np.stack([np.random.default_rng(i).permutation(len(runs)) for i in range(ORDERS)])
predicted = curves.survival_of(model)
RULES = {
    "no stop": curves.no_stop(),
    **{f"patience {k}": curves.patience(k) for k in (1, 5, 10, 20)},
    "predicted, coarse": curves.predictive(predicted, schedule=curves.coarse(EPOCHS)),
    "predicted, fine": curves.predictive(predicted, schedule=curves.fine(EPOCHS)),
}
if FAST:
    RULES = {name: RULES[name] for name in ("no stop", "patience 5", "predicted, coarse")}
found = {
    name: jax.jit(jax.vmap(lambda order, rule=rule: curves.evaluate(scaled, order, rule, budget=BUDGET)))(orders)
    for name, rule in RULES.items()
}
whole = found["no stop"]
reach = jax.jit(jax.vmap(curves.epochs_to_reach))
base = reach(whole.regret, whole.regret[:, -1])

print(f"{'':20s} {'runs begun':>10s} {'final regret':>13s} {'epochs to the regret of no stop':>33s}")
for name, each in found.items():
    epochs = np.minimum(reach(each.regret, whole.regret[:, -1]), BUDGET)
    begun = np.sum(np.asarray(each.epochs) > 0, axis=1)
    share = epochs.mean() / base.mean()
    print(f"{name:20s} {begun.mean():10.0f} {each.regret[:, -1].mean():13.4f} {epochs.mean():20.0f} ({share:.0%})")

# %%
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
colours = {"no stop": "black", "patience 5": GREEN, "predicted, coarse": RED, "predicted, fine": BLUE}
for name in (name for name in RULES if name in colours):
    ax.plot(np.arange(1, BUDGET + 1), found[name].regret.mean(0), color=colours[name], label=name)
ax.set(xscale="log", yscale="log", xlabel="epochs spent", ylabel="mean regret (normalised)")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## The yardstick
#
# What would the exact posterior say? An ensemble of walkers over the thirteen parameters of the prior's curves, a
# thousand times as much work, on curves of the prior:

# %%
num, walkers, steps = (2, 26, 40) if FAST else (40, 100, 400)
_, fresh = priors.draw(jax.random.key(21), priors.curves(), num, 100)


@jax.jit
@jax.vmap
def compare(key, y):
    draws = curves.posterior(key, y, 40, num_walkers=walkers, num_steps=steps, burn_in=steps)
    exact = curves.mixture_log_density(draws.value, y)
    mine = bars.log_prob(curves.predict(model, y, 40), y)
    return exact[40:].mean(), mine[40:].mean()


exact, mine = compare(jax.random.split(jax.random.key(22), num), fresh)
print(f"log-score of the later epochs, 40 of 100 known: walkers {exact.mean():.2f}, network {mine.mean():.2f}")
