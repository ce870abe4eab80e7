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
# # Decoding with particles
#
# A language model writes one token after the other, and a *reward model* says on the way how promising the text
# looks. What to do with both? *Best-of-n* writes n texts and takes the one of the highest reward. *Beam search* keeps
# the best beginnings at every token. A *particle filter* takes the reward for a likelihood: it keeps many beginnings,
# weighs them, and copies them in proportion to their weights instead of dropping all but the best.
#
# Rewards err. This page lets all three search for the same thing with the same number of tokens, while the reward
# gets noisier and noisier. The game is small enough for every probability to be known exactly: five operations on a
# number, beginning with 1, that shall end at 15.

# %%
import functools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen
from jax.tree_util import Partial

from jaxsci import check, nn
from jaxsci.core import train
from jaxsci.core.protocols import SequenceModel
from jaxsci.smc import decoding

FAST = os.environ.get("JAXSCI_FAST") == "1"
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
plt.rcParams["figure.dpi"] = 80

NAMES, OPERATIONS = ("+1", "·2", "-3", "+5"), (lambda x: x + 1, lambda x: 2 * x, lambda x: x - 3, lambda x: x + 5)
V, DEPTH, START, GOAL = 4, 5, 1, 15
results = np.array([START])
for _ in range(DEPTH):
    results = np.stack([f(results) for f in OPERATIONS], axis=1).reshape(-1)
right = results == GOAL
places = V ** np.arange(DEPTH - 1, -1, -1)
print(f"{right.sum()} of {right.size} sequences end at {GOAL}")


def axes(xlabel, ylabel, title, width=6.0):
    """A figure without clutter."""
    _, ax = plt.subplots(figsize=(width, 3.2), layout="constrained")
    ax.set_title(title, loc="left", fontsize=11)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


# %% [markdown]
# ## A small model that is right now and then
#
# A decoder of two layers learns from sequences of which a fifth reach the goal and the others are random: a student
# who has seen some solutions. What it has learned is read off exactly, because all 1024 sequences fit into one pass.

# %%
CFG = nn.transformer.config(32, 2, 4, positions="rotary", max_length=DEPTH + 1)
BEGIN = V  # the token before the first


def logits_of(params, tokens):
    """Logits of the operation after each token of one sequence."""
    h = nn.transformer.apply(params, CFG, params["embedding"][tokens], mask=nn.attention.causal_mask(tokens.shape[0]))
    return h @ params["head"]["kernel"]


def begin(key):
    """First parameters."""
    keys = jax.random.split(key, 3)
    head = {"kernel": 0.1 * jax.random.normal(keys[2], (32, V)), "bias": None}
    return nn.transformer.init(keys[0], CFG) | {"embedding": jax.random.normal(keys[1], (V + 1, 32)), "head": head}


def batch(solutions, key, i):
    """128 sequences, a fifth of them right."""
    first, second, third = jax.random.split(key, 3)
    random = jax.random.randint(first, (128, DEPTH), 0, V)
    known = solutions[jax.random.randint(second, (128,), 0, solutions.shape[0])]
    tokens = jnp.where(jax.random.uniform(third, (128, 1)) < 0.2, known, random)
    return jnp.concatenate([jnp.full((128, 1), BEGIN), tokens], axis=1)


def loss(params, tokens, key):
    """Mean of -log p in nats a token."""
    log_p = jax.nn.log_softmax(jax.vmap(functools.partial(logits_of, params))(tokens[:, :-1]))
    return -jnp.mean(jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1))


digits = np.arange(V**DEPTH)[:, None] // places[None] % V
solutions = jnp.asarray(digits[right], jnp.int32)
trained = train.run(
    jax.random.key(1),
    loss,
    begin(jax.random.key(0)),
    Partial(batch, solutions),
    optimizer=optax.adam(3e-3),
    num_steps=5 if FAST else 600,
)
check(trained)
params = trained.value

everything = jnp.concatenate([jnp.full((V**DEPTH, 1), BEGIN), jnp.asarray(digits[:, :-1])], axis=1)
table = jax.nn.log_softmax(jax.jit(jax.vmap(functools.partial(logits_of, params)))(everything))
log_policy = [np.asarray(table[:: V ** (DEPTH - t), t], np.float64) for t in range(DEPTH)]  # of each prefix once
_, law = decoding.tree_posterior(log_policy, [np.ones(V ** (t + 1)) for t in range(DEPTH)], weight="probability")
print(f"loss {trained.history[0]:.3f} -> {trained.history[-1]:.3f}, right with probability {law[right].sum():.3f}")

# %% [markdown]
# ## A reward for every beginning
#
# The perfect process reward is the probability that a beginning ends well if the model goes on alone, which the tree
# gives by summation. A real one errs: here every beginning's log-odds are off by a normal number of standard
# deviation σ, the same one whenever the beginning comes up.

# %%
value = [right.astype(float)]
for t in range(DEPTH - 1, 0, -1):
    value.insert(0, (value[0].reshape(-1, V) * np.exp(log_policy[t])).sum(1))
log_odds = [np.log(v / (1 - v)) for v in (np.clip(v, 0.02, 0.98) for v in value)]
policy32, odds32 = ([jnp.asarray(a, jnp.float32) for a in arrays] for arrays in (log_policy, log_odds))


def noisy(key, sigma):
    """Rewards of all beginnings, log-odds off by sigma."""
    errors = [jax.random.normal(jax.random.fold_in(key, t), a.shape) for t, a in enumerate(odds32)]
    return [jax.nn.sigmoid(a + sigma * e) for a, e in zip(odds32, errors)]


tree_model, reward = decoding.tree(policy32, noisy(jax.random.key(2), 1.0))


def after_begin(init, prompt):
    """The tree of the reward does not count the first token."""
    return init(prompt[1:])


network = nn.transformer.sequence_model(params, CFG)
shifted = reward._replace(init=Partial(after_begin, reward.init))
options = dict(num_particles=16, max_tokens=DEPTH)
by_network = decoding.particle_filter(jax.random.key(3), network, shifted, jnp.array([BEGIN]), **options)
by_tree = decoding.particle_filter(jax.random.key(3), tree_model, reward, [], **options)
check((by_network, by_tree))
for row in np.asarray(by_network.value.tokens)[:4]:
    print(" ".join(NAMES[a] for a in row), "->", results[row @ places])
same = np.mean(np.asarray(by_network.value.tokens) == np.asarray(by_tree.value.tokens))
print(f"network with its caches against the tree read off it: {same:.0%} of the tokens are the same")

# %% [markdown]
# The network's caches travel with its particles, and the tree that was read off it draws the same tokens, so the
# sweeps below run on the tree.
#
# ## A model of your own
#
# Whatever gives logits token by token is a `SequenceModel`: here a recurrent cell of flax, trained on the same
# sequences, whose state is its carry and the logits that it just gave. The reward is that of above.


# %%
class Recurrent(linen.Module):
    """A gated recurrent unit and a layer on top."""

    @linen.compact
    def __call__(self, carry, token):
        carry, h = linen.GRUCell(32)(carry, jax.nn.one_hot(token, V + 1))
        return carry, linen.Dense(V)(h)


cell = Recurrent()


def read(weights, tokens):
    carry, logits = jax.lax.scan(functools.partial(cell.apply, weights), jnp.zeros(32), tokens)
    return logits, carry


def cell_loss(weights, tokens, key):
    logits, _ = jax.vmap(functools.partial(read, weights))(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


start = cell.init(jax.random.key(6), jnp.zeros(32), 0)
fit = {"optimizer": optax.adam(1e-2), "num_steps": 5 if FAST else 600}
weights = check(train.run(jax.random.key(7), cell_loss, start, Partial(batch, solutions), **fit)).value


def from_prompt(weights, prompt):
    logits, carry = read(weights, prompt)
    return carry, logits[-1]


def last_logits(state):
    return state[1]


def one_more(weights, state, token):
    return cell.apply(weights, state[0], token)


own = SequenceModel(Partial(from_prompt, weights), last_logits, Partial(one_more, weights))
by_own = check(decoding.particle_filter(jax.random.key(8), own, shifted, jnp.array([BEGIN]), num_particles=256,
                                        max_tokens=DEPTH)).value  # fmt: skip
share = np.exp(np.asarray(by_own.log_weights)) / 256 @ right[np.asarray(by_own.tokens) @ places]
logits, _ = jax.vmap(functools.partial(read, weights))(everything)
chosen = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), digits[..., None], axis=-1)
alone = np.exp(chosen.sum(axis=(1, 2)))[right].sum()
print(f"the recurrent cell is right with probability {alone:.3f}, its particles with the reward {share:.3f}")

# %% [markdown]
# ## The error falls as one over the number of particles
#
# The law that the filter aims at, $p(s)\,\prod_t w(r_t) / Z$, is known leaf by leaf.

# %%
_, exact = decoding.tree_posterior(
    log_policy, [np.asarray(r) for r in noisy(jax.random.key(2), 1.0)], weight="probability"
)
sizes = (4, 8) if FAST else (16, 64, 256)


@functools.partial(jax.jit, static_argnums=1)
def clouds(keys, num):
    """Filters of `num` particles, one for each key."""

    def one(key):
        return decoding.particle_filter(
            key, tree_model, reward, [], num_particles=num, max_tokens=DEPTH, weight="probability"
        ).value

    return jax.vmap(one)(keys)


def squared_error(num, runs):
    """Mean over runs of the squared distance between the weighted leaves and their exact law."""
    found = clouds(jax.random.split(jax.random.key(num), runs), num)
    weights = np.exp(np.asarray(found.log_weights, np.float64)) / num
    errors = []
    for w, leaf in zip(weights, np.asarray(found.tokens) @ places):
        errors.append(np.sum((np.bincount(leaf, w, minlength=exact.size) - exact) ** 2))
    return np.mean(errors)


errors = [squared_error(num, 10 if FAST else 200) for num in sizes]
slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
ax = axes("particles", "squared error", f"distance to the exact law: slope {slope:.2f}")
ax.loglog(sizes, errors, "o-", color=BLUE)
ax.loglog(sizes, errors[0] * sizes[0] / np.array(sizes), "--", color=GREY, label="1/N")
ax.set_xticks(sizes, labels=[str(num) for num in sizes])
ax.minorticks_off()
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Equal budget, noisy reward
#
# All methods draw the same number of tokens. Best-of-n takes the highest last reward; beam search keeps a quarter as
# many beginnings and gives each four children, drawn from the model as a language model's would be, or all four that
# there are; the particle filter answers with the result that has most of the weight (*weighted majority*).
#
# The filter runs twice: as the reward says, and with log-odds divided by $1 + \sigma^2/4$. The true log-odds vary
# with a variance of some 2 to 4; who knows how noisy a reward is should trust it less in that proportion. The other
# two cannot make use of it: the best reward stays the best on any scale.

# %%
METHODS = {
    "particle filter, reward tempered": BLUE,
    "particle filter, as the reward says": "#56B4E9",
    "best of n": RED,
    "beam search, drawn children": GREEN,
    "beam search, all children": GREY,
}
answers, answer = jnp.asarray(results - results.min()), GOAL - int(results.min())
num_answers = int(np.ptp(results)) + 1
right32 = jnp.asarray(right)


@functools.partial(jax.jit, static_argnums=2)
def accuracy(keys, sigma, num):
    """Share of right answers of each method: every key draws new errors of the reward."""

    def one(key):
        noise, first, second, third = jax.random.split(key, 4)
        model, reward = decoding.tree(policy32, noisy(noise, sigma))

        def leaf(result):
            return result.value.tokens @ jnp.asarray(places)

        def filtered(tau):
            result = decoding.particle_filter(
                first, model, reward, [], num_particles=num, max_tokens=DEPTH, reward_temperature=tau
            )
            votes = decoding.majority(answers[leaf(result)], result.value.log_weights, num_answers)
            return jnp.argmax(votes) == answer

        def best(result):
            return right32[leaf(result)[result.best]]

        beams = dict(num_beams=max(1, num // 4), num_children=4, max_tokens=DEPTH)
        return jnp.stack(
            [
                *jax.vmap(filtered)(jnp.stack([1 + sigma**2 / 4, jnp.ones_like(sigma)])),
                best(decoding.best_of_n(second, model, reward, [], num_particles=num, max_tokens=DEPTH)),
                best(decoding.beam_search(third, model, reward, [], **beams)),
                best(decoding.beam_search(None, model, reward, [], **beams)),
            ]
        )

    return jnp.mean(jax.vmap(one)(keys), axis=0, dtype=jnp.float32)


RUNS = 8 if FAST else 400
sigmas = jnp.linspace(0.0, 6.0, 3 if FAST else 7)
budgets = (4,) if FAST else (4, 8, 16)
keys = jax.random.split(jax.random.key(5), RUNS)
shares = {num: np.stack([np.asarray(accuracy(keys, sigma, num)) for sigma in sigmas]) for num in budgets}

budget = budgets[len(budgets) // 2]
ax = axes("noise σ of the reward's log-odds", "right answers", f"{budget} sequences each, {RUNS} rewards", 7.5)
for (name, colour), line in zip(METHODS.items(), shares[budget].T):
    spread = np.sqrt(np.clip(line * (1 - line), 1e-4, None) / RUNS)
    ax.plot(sigmas, line, color=colour, label=name)
    ax.fill_between(sigmas, line - spread, line + spread, color=colour, alpha=0.2, lw=0)
ax.axhline(law[right].sum(), color="k", lw=0.8, ls=":", label="the model alone")
ax.legend(frameon=False, fontsize=8)
plt.show()
for name, line in zip(METHODS, shares[budget].T):
    print(f"{name:38s}", " ".join(f"{share:.2f}" for share in line))

# %% [markdown]
# With a perfect reward beam search wins: nothing speaks against taking the best, and copies are wasted. As the reward
# gets noisier, taking the best means taking the luckiest error, at every token, and beam search falls first. The
# tempered filter falls last.
#
# ## Where it fails
#
# Where does the filter lose to the better of its rivals? Blue: it wins; red: it loses. On the left it trusts the
# reward as it is, on the right in proportion to its noise.

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
for ax, which, title in zip(panels, (1, 0), ("as the reward says", "reward tempered")):
    gap = np.stack([shares[num][:, which] - shares[num][:, 2:].max(axis=1) for num in budgets])
    image = ax.imshow(gap, origin="lower", aspect="auto", cmap="RdBu", vmin=-0.4, vmax=0.4)
    ax.set_xticks(range(len(sigmas)), [f"{s:.2g}" for s in np.asarray(sigmas)])
    ax.set_yticks(range(len(budgets)), budgets)
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel("noise σ")
panels[0].set_ylabel("sequences")
figure.colorbar(image, ax=panels, label="right answers, filter less best rival")
plt.show()

# %% [markdown]
# ## Where more samples hurt
#
# A different failure does not need particles. A verifier says only yes or no, and one tries again until it says yes.
# If it never passes a wrong answer, more attempts can only help. If it sometimes does, the tasks that are left after
# many rejections are the hard ones, and a yes is mostly mistaken. With a price on wrong answers the expected reward
# has a peak and falls after it: here for a model that solves 58 % of the tasks with probability .87 and the rest with
# .13, and a verifier that rejects three quarters of the wrong answers (the figures of a published fit to an 8B
# model).

# %%
attempts = 20
fit = dict(success=[0.87, 0.13], prior=[0.58, 0.42])
ax = axes("attempts", "expected reward", "resampling until the verifier accepts", 7.5)
for cost, colour in ((0.0, BLUE), (0.7, GREEN), (1.0, RED), (2.0, GREY)):
    laws = [
        decoding.resampling_law(**fit, num_attempts=attempts, soundness=0.75, cost=cost, survival=s)
        for s in ("exact", "published")
    ]
    ax.plot(np.arange(1, attempts + 1), laws[0].reward, color=colour, label=f"a wrong answer costs {cost:g}")
    ax.plot(np.arange(1, attempts + 1), laws[1].reward, color=colour, ls=":", lw=1)
    best = int(laws[0].best)
    ax.plot(best, laws[0].reward[best - 1], "o", color=colour)
ax.set_xticks((1, 5, 10, 15, 20))
ax.legend(frameon=False, fontsize=8, title="dotted: as published", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The dotted lines are the published formula, which weighs each attempt by the wrong average over the types of tasks:
# it promises too much where wrong answers are cheap and too little where they are dear. Over all verifiers and
# prices, this is the number of attempts after which one should stop: in the white corner one should not begin.

# %%
num = 8 if FAST else 60
soundness, cost = jnp.linspace(0.3, 0.999, num), jnp.linspace(0.0, 4.0, num)


def stop(s, c):
    """Best number of attempts."""
    return decoding.resampling_law(**fit, num_attempts=50, soundness=s, cost=c).best


best = np.asarray(jax.jit(jax.vmap(jax.vmap(stop, (None, 0)), (0, None)))(soundness, cost), float)
ax = axes("cost of a wrong answer", "soundness of the verifier", "attempts after which more hurt", 6.5)
image = ax.imshow(
    np.log2(np.where(best > 0, best, np.nan)), origin="lower", aspect="auto", extent=(0, 4, 0.3, 1.0), cmap="viridis"
)
bar = plt.colorbar(image, ax=ax, ticks=range(6))
bar.ax.set_yticklabels([str(2**k) for k in range(6)])
plt.show()
