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
# # Training networks of one, two and four bits
#
# A network with weights and activations of a few bits needs an eighth to a thirty-second of the memory, and its
# products become products of small whole numbers. Rounding has no gradient, so the question is how to train it. This
# page follows the answer of QuEST (Panferov et al. 2025): the best grid for a bell curve, a rotation that makes every
# row a bell curve, and a gradient that is believed only where rounding was harmless. At the end a small language model
# with two bits is packed into bytes, and predicts exactly what it did before.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen, nnx
from sklearn.datasets import load_digits

from jaxsci import check, nn, quantization, sweep
from jaxsci.models import language
from jaxsci.quantization import fake_quantize, formats, quant_spec

FAST = os.environ.get("JAXSCI_FAST") == "1"
STEPS, SEEDS, WINDOWS = (4, 1, 4) if FAST else (150, 2, 64)

# %% [markdown]
# ## Which levels?
#
# With $b$ bits there are $2^b$ levels. Spread evenly over $[-\alpha, \alpha]$, a small α cuts off the tails, a large
# one rounds coarsely. For a normal variable the best α is the root of one equation, and the figures below are exact.
# Left: what a number becomes. Right: the error, with the bound $4^{-b}$ that no code of $b$ bits can beat.

# %%
x = np.linspace(-3.5, 3.5, 1401).astype(np.float32)
fig, axes = plt.subplots(1, 2, figsize=(11, 4))
for bits in (1, 2, 3):
    best = formats.gaussian(formats.midrise(bits)).unit
    spec = quant_spec(formats.midrise(bits), scale="fixed", unit=best)
    axes[0].plot(x, fake_quantize(x, spec), label=f"{bits} bit{'s' * (bits > 1)}")
axes[0].fill_between(x, 3 * np.exp(-(x**2) / 2) - 3.5, -3.5, color="0.9", label="density")
axes[0].set(title="the best even grids for a normal variable", xlabel="x", ylabel="quantised x")
axes[0].legend()
widths = np.arange(1, 9)
errors = {
    "even levels": [formats.gaussian(formats.midrise(b)).error for b in widths],
    "bound": 4.0**-widths,
}
for label, error in errors.items():
    axes[1].semilogy(widths, error, "o-" if label != "bound" else "k--", label=label)
axes[1].set(title="mean squared error", xlabel="bits")
axes[1].legend()
plt.show()

# %% [markdown]
# ## A rotation that hides outliers
#
# Trained networks have a few huge activations, and one of them spoils the scale of its whole row. A Hadamard matrix $H$
# is orthogonal and spreads every entry over its block of 128: the rotated row looks normal, whatever it was before. In
# a product the rotations cancel, $(xH)(H^\top W) = xW$, so they cost nothing but the transform.

# %%
row = np.random.default_rng(0).normal(size=(1, 1024)).astype(np.float32)
row[0, [100, 400, 900]] = [35, -50, 28]
turned = quantization.hadamard_transform(row, 128)
fig, axes = plt.subplots(2, 2, figsize=(11, 5), sharey="row")
for column, (name, a) in enumerate({"as it is": row, "rotated": turned}.items()):
    axes[0, column].plot(a[0], lw=0.6)
    axes[0, column].set(title=name, xlabel="entry")
    axes[1, column].hist(np.asarray(a[0] / a.std()), 80, range=(-5, 5), density=True, alpha=0.5)
    axes[1, column].plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "k", lw=1)
    axes[1, column].set(xlabel="entry / standard deviation")
fig.tight_layout()
plt.show()
for block in (0, 128):
    found = check(quantization.report(row, quantization.quest(None, 4, block=block, domain="full").activations))
    print(f"block {block:3d}: error {float(found.error):.4f} of the mean square, {float(found.saturated):.2%} cut off")

# %% [markdown]
# ## Where to believe the gradient
#
# The usual way passes all gradients through (*straight through*). But an entry far outside of the grid is moved by
# rounding more than half a step, and its gradient belongs to another place. *Trust* stops exactly those: the line shows
# where gradients pass for two bits, beside the error that rounding makes. Because the mask lives in the rotated domain,
# a masked entry still receives its share from 127 others, and moves.

# %%
unit = formats.gaussian(formats.midrise(2)).unit
fig, ax = plt.subplots(figsize=(8, 3.5))
for shift, (name, options) in enumerate(
    {"straight through": {"estimator": "ste"}, "clip": {"estimator": "clip"}, "trust": {"estimator": "trust"}}.items()
):
    spec = quant_spec(formats.midrise(2), scale="fixed", unit=unit, **options)
    passed = jax.grad(lambda x, spec=spec: fake_quantize(x, spec).sum())(x)
    ax.fill_between(x, 1.2 * shift, 1.2 * shift + passed, step="mid", alpha=0.6, label=name)
spec = quant_spec(formats.midrise(2), scale="fixed", unit=unit)
ax.plot(x, np.abs(x - fake_quantize(x, spec)) - 2.2, "k", lw=1, label="error of rounding")
ax.axhline(unit / 2 - 2.2, color="k", ls=":", lw=1)
ax.set(xlabel="x", yticks=[], title="where gradients pass, two bits (dotted: half a step)")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## A language model, bits and seeds at once
#
# The text is the documentation of Python's own topics, which every Python ships; a small decoder learns to predict the
# next of its 94 symbols. One training is a pure function of a key and of a format whose numbers are leaves, so all bits
# and seeds are lanes of one compiled program. Embeddings, norms and head stay as they are, every product of the blocks
# is quantised in both factors.

# %%
CFG = language.config(width=64, num_layers=1, hidden=128, context=32)
FORMATS = {
    "W4A4": quantization.quest(4, 4, block=64),
    "W2A2": quantization.quest(2, 2, block=64),
    "W2A2, straight through": quantization.quest(2, 2, block=64, estimator="ste"),
    "W1A1": quantization.quest(1, 1, block=64, estimator="clip", clip_scale=1.3),
}
OPTIONS = {"cfg": CFG, "num_steps": STEPS, "batch_size": 8, "num_windows": WINDOWS}


def point(key, spec=None):
    return language.point(key, spec, **OPTIONS)


space = sweep.product(spec=sweep.stack(FORMATS, dims=("format",)), key=sweep.keys(SEEDS))
few = check(sweep.run(point, space, dims={"loss": ("step",)}, progress=False))

# %%
full = check(sweep.run(point, sweep.product(key=sweep.keys(SEEDS)), dims={"loss": ("step",)}, progress=False))

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(2, 1))
curves = {"full precision": full, **{name: few.sel(format=name) for name in FORMATS}}
kernel = np.ones(min(20, STEPS)) / min(20, STEPS)
for i, (name, ds) in enumerate(curves.items()):
    axes[0].plot(np.convolve(ds.loss.mean("key"), kernel, "valid"), label=name, color=f"C{i}")
    axes[1].plot(np.full(SEEDS, i), ds.validation, "o", color=f"C{i}")
axes[0].set(title="loss while training (mean over 20 steps)", xlabel="step", ylabel="nats a symbol")
axes[0].legend()
axes[1].set(title="unseen text, each seed", ylabel="nats a symbol", xticks=range(len(curves)))
axes[1].set_xticklabels(curves, rotation=40, ha="right")
plt.show()
for name, ds in curves.items():
    print(f"{name:24s} {float(ds.validation.mean()):.3f} nats a symbol")

# %% [markdown]
# This is a small model for a short time, and its differences are small beside those of a long training: benchmark
# `quantization` trains the larger one.
#
# ## Packed, saved, executed
#
# Until now the levels were floating-point numbers. `pack_params` turns the kernels into real bytes, four numbers of two
# bits in each, and the same `apply` runs them: the products see the same levels, so the predictions are the same. A
# decoder is also a `SequenceModel`, which writes one symbol after the other and keeps keys and values of the past.

# %%
spec = FORMATS["W2A2"]
trained = language.train(jax.random.key(0), spec, progress=False, **OPTIONS)
packed = quantization.pack_params(trained.value, language.rules(spec))
blocks = quantization.num_bytes(trained.value["layer_0"]), quantization.num_bytes(packed["layer_0"])
print(f"block: {blocks[0]} bytes trained, {blocks[1]} packed, 1 / {blocks[0] / blocks[1]:.1f}")

dense = language.products(spec)
tokens = language.encode("The import statement combines two")[: CFG.max_length]
before, after = (language.apply(params, CFG, tokens, dense=dense) for params in (trained.value, packed))
same = np.mean(np.argmax(before, -1) == np.argmax(after, -1))
print(f"equal predictions: {same:.0%}, largest difference of logits {float(jnp.abs(before - after).max()):.1e}")

model = nn.transformer.sequence_model(packed, CFG, dense=dense)
prompt = language.encode("The import")
text = language.write(jax.random.key(1), model, prompt, CFG.max_length - len(prompt), temperature=0.5)
print("written:", repr("The import" + language.decode(text)))

# %% [markdown]
# ## Your own flax network
#
# `nn.flax.named_dense` takes a module of linen or nnx as it is and sends its dense layers through the same `dense`,
# each by its name, so that single layers can be left out or get other bits. First linen, trained for a moment on the
# handwritten digits; the first and the last layer stay in full precision.

# %%
digits = load_digits()
IMAGES, LABELS = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
network = nn.flax.named_dense(
    linen.Sequential([linen.Dense(128), jax.nn.relu, linen.Dense(128), jax.nn.relu, linen.Dense(10)])
)
params = network.init(jax.random.key(0), IMAGES[0])
names = quantization.layer_names(network.apply, params, IMAGES[0])
rules = {names[0]: None, names[-1]: None, "*": quantization.quest(2, 2)}
dense = quantization.dense(rules, names=names)
optimizer = optax.adam(3e-3)


@jax.jit
def step(params, state):
    def loss(params):
        logits = network.apply(params, IMAGES[:1297], dense=dense)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[:1297]).mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state


state = optimizer.init(params)
for _ in range(2 if FAST else 60):
    params, state = step(params, state)
packed = quantization.pack_params(params, rules)
answers = [np.argmax(network.apply(p, IMAGES[1297:], dense=dense), -1) for p in (params, packed)]
print("layers:", ", ".join(names))
print(f"two bits inside: {np.mean(answers[0] == LABELS[1297:]):.1%} of unseen digits right")
print(f"packed: {np.mean(answers[0] == answers[1]):.1%} equal answers")

# %% [markdown]
# The same for a module of nnx, with one format more: its first layer has four bits, its second one.


# %%
class Network(nnx.Module):
    """Two dense layers."""

    def __init__(self, rngs):
        self.up = nnx.Linear(64, 128, rngs=rngs)
        self.down = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        return self.down(jax.nn.relu(self.up(x)))


module = Network(nnx.Rngs(0))
mixed = {"up": quantization.quest(4, 4, block=64), "down": quantization.quest(1, 8)}
network = nn.flax.named_dense(module)
params, dense = network.init(), quantization.dense(mixed)
packed = quantization.pack_params(params, mixed)
plain, few, stored = (
    module(IMAGES), network.apply(params, IMAGES, dense=dense), network.apply(packed, IMAGES, dense=dense)
)  # fmt: skip
print(f"up: {packed['up']['kernel'].codes.nbytes} bytes of codes, down: {packed['down']['kernel'].codes.nbytes}")
print(f"correlation with full precision: {np.corrcoef(np.ravel(plain), np.ravel(few))[0, 1]:.3f}")
print(f"packed against trained: largest difference {float(jnp.abs(few - stored).max()):.1e}")
