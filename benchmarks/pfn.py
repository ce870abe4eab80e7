"""Prior-data fitted networks: drawing the prior, a training step, exact processes in batches, learning curves."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from benchmarks._harness import compare, compiled, main, row
from benchmarks._peers import Failed, Outside, PeerError
from jaxsci import gp, pfn
from jaxsci.core import train as training
from jaxsci.pfn import bars, curves, priors, scores

POINTS, BATCH = 100, 24  # epochs of a curve, curves a step
SIZES = {"width": 64, "layers": 3, "heads": 4, "hidden": 128}
LENGTH, NOISE, CONTEXT = 0.2, 0.01, 20


def _apart(mine, theirs):
    """Distance of two means of final values, in standard errors."""
    if theirs is None:
        return None
    mine, theirs = (np.asarray(a)[:, -1] for a in (mine, theirs))
    return abs(mine.mean() - theirs.mean()) / np.hypot(mine.std() / len(mine) ** 0.5, theirs.std() / len(theirs) ** 0.5)


def _prior_rows(fast, peers):
    num = 200 if fast else 1000
    ours = compiled(lambda key: priors.draw(key, priors.curves(), num, POINTS)[1], jax.random.key(0))
    peer = peers.find(("lcpfn", "torch"), "pfn:lcpfn_curves", num=num, points=POINTS)
    yield compare(
        f"{num} learning curves of {POINTS} epochs from the prior", ours, peer, peer_name="lcpfn", amount=num,
        unit="curves/s", accuracy=_apart, target=10.0, within=5.0, seconds=0.5 if fast else 3.0,
        note="accuracy: distance of the mean final values, in standard errors",
    )  # fmt: skip


def _ours_step(prior, cfg, borders, context, points, batch):
    """`(state, update, draw)`: a state after one step, the whole step, and the batch alone."""
    optax = __import__("optax")
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    key = jax.random.key(1)

    def draw(i):
        sizes = {"batch_size": batch, "num_points": points, "num_features": cfg.num_features}
        return pfn.batch(jax.random.fold_in(key, i), prior, context=context, **sizes)

    def loss(params, data, _):
        return pfn.loss(params, cfg, data, borders=borders)

    def update(state, data):
        return training.step(key, state, data, loss=loss, optimizer=optimizer)

    return training.init(pfn.init(jax.random.key(0), cfg), optimizer=optimizer), update, draw


def _training_rows(fast, peers):
    seconds = 2.0 if fast else 10.0
    prior = priors.curves()
    cfg = pfn.config(1, 200, width=64, num_layers=3, num_heads=4, hidden=128, y_range=(0.0, 1.0))
    borders = pfn.prior_borders(jax.random.key(2), prior, 200, num_points=POINTS, num_sets=500 if fast else 2000)
    state, update, draw = _ours_step(prior, cfg, jnp.asarray(borders, jnp.float32), (1, POINTS - 1), POINTS, BATCH)
    given = {**SIZES, "borders": borders, "batch": BATCH, "points": POINTS}
    for name, draws, target in (
        ("a training step with its data drawn", 1, 1.5),
        ("a training step on given data", 0, None),
    ):
        if draws:
            ours = compiled(lambda state: update(state, draw(state.step))[1], state)
        else:
            ours = compiled(lambda state, data: update(state, data)[1], state, jax.block_until_ready(draw(0)))
        peer = peers.find(("lcpfn", "torch"), "pfn:lcpfn_step", draws=draws, **given)
        yield compare(
            f"{name}, {BATCH} curves of {POINTS} epochs, width 64, 3 layers", ours, peer, peer_name="lcpfn",
            amount=BATCH, unit="curves/s", target=target, within=1.0, accuracy=_losses_apart, seconds=seconds,
            note="accuracy: difference of the losses at the start, nats",
        )  # fmt: skip
    yield _share("learning curves", state, update, draw, seconds)
    cfg = pfn.config(1, 128, width=64, num_layers=3)
    prior = priors.gp(length=LENGTH, noise=NOISE)
    borders = pfn.prior_borders(jax.random.key(2), prior, 128, num_points=40, num_sets=500)
    yield _share(
        "a Gaussian process", *_ours_step(prior, cfg, jnp.asarray(borders, jnp.float32), (0, 20), 40, 32), seconds
    )
    prior = priors.tabular(num_classes=(2, 5))
    for width, layers in ((64, 3), (512, 6)):  # as shipped, and as the scripts of pfns have it
        cfg = pfn.config(16, 5, width=width, num_layers=layers, x_range=None)
        step = _ours_step(prior, cfg, None, (10, 130), 160, 8)
        yield _share(f"tables, width {width}, {layers} layers", *step, seconds)


def _losses_apart(mine, theirs):
    return None if theirs is None else abs(float(mine) - float(theirs))


def _share(name, state, update, draw, seconds):
    """The share of a training step that drawing its data takes."""
    whole = compiled(lambda state: update(state, draw(state.step))[1], state)
    drawing = compiled(draw, jnp.int32(0))
    found = compare(f"share of the prior in a training step: {name}", drawing, whole, seconds=seconds)
    share = 1 / found["ratio"]
    return row(
        found["name"], share, unit="of a step", accuracy=share, within=0.2, note="drawing alone against the whole step"
    )


def _data(num, queries, x64):
    dtype = jnp.float64 if x64 else jnp.float32
    prior = priors.gp(length=jnp.asarray(LENGTH, dtype), noise=jnp.asarray(NOISE, dtype))
    x, y = priors.draw(jax.random.key(5), prior, num, CONTEXT + queries)
    return x, y


def _furthest(mine, theirs):
    if theirs is None:
        return None
    return max(float(np.max(np.abs(np.asarray(a) - b))) for a, b in zip(mine[:2], theirs))


def _process_rows(fast, peers):
    """A thousand data sets in one call: the exact process, and a network, against a loop of fits."""
    num, queries, seconds = 1000, 20, 1.0 if fast else 5.0
    kernel = gp.kernels.scale(gp.kernels.rbf(LENGTH), 1.0)
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        x, y = _data(num, queries, True)

        def exact(x, y, x_query):
            return priors.posterior(kernel, x, y, CONTEXT, x_query, noise=NOISE)

        arrays = x[:, :CONTEXT], y[:, :CONTEXT], x[:, CONTEXT:]
        ours = compiled(jax.vmap(exact), *arrays)
        given = dict(zip(("x", "y", "x_query"), map(np.asarray, arrays)), length=LENGTH, noise=NOISE)
        for package, target in (("sklearn", 50.0), ("tinygp", None)):
            extra = {"fitted": 0} if package == "sklearn" else {}
            peer = peers.find(package, f"pfn:{package}_gp", **given, **extra)
            yield compare(
                f"exact posterior of {num} data sets of {CONTEXT} points, {queries} queries | {package}", ours, peer,
                peer_name=package, amount=num, unit="data sets/s", accuracy=_furthest, target=target, within=1e-6,
                seconds=seconds, note="float64; accuracy: largest difference of means and variances",
            )  # fmt: skip
    finally:
        jax.config.update("jax_enable_x64", before)
    yield from _network_rows(fast, peers, kernel, seconds)


def _network_rows(fast, peers, kernel, seconds):
    model = pfn.load("gp-1d-small")
    num, queries = 1000, 20
    x, y = _data(num, queries, False)
    arrays = x[:, :CONTEXT], y[:, :CONTEXT], x[:, CONTEXT:]

    def network(x, y, x_query):
        law = pfn.predict(model, x, y, CONTEXT, x_query)
        return bars.mean(law), bars.variance(law)

    # A quarter at a time: what lies between the layers then stays in the cache of a processor.
    ours = compiled(lambda *all: jax.lax.map(lambda one: network(*one), all, batch_size=num // 4), *arrays)
    gap = scores.gp_gap(jax.random.key(6), model, kernel, CONTEXT, noise=NOISE, num_sets=256 if fast else 1024)
    for fitted, target in ((0, None), (1, 50.0)):
        # Optimising takes long: fewer data sets, and the time of a data set is compared.
        few = 50 if fitted else num
        given = dict(
            zip(("x", "y", "x_query"), (np.asarray(a[:few], float) for a in arrays)), length=LENGTH, noise=NOISE
        )
        peer = peers.find("sklearn", "pfn:sklearn_gp", fitted=fitted, **given)
        how = "fits that optimise three parameters" if fitted else "fits with the true parameters"
        yield _each(
            f"a network on {num} data sets of {CONTEXT} points in one call | {how}", ours, num, peer, few,
            "scikit-learn", seconds, accuracy=float(gap.gap), target=target, within=0.15,
            note=f"accuracy: gap to the exact process in nats, whose own log-density is {float(gap.exact):.3f}",
        )  # fmt: skip


def _each(name, ours, num, peer, num_peer, peer_name, seconds, **options):
    """A row of seconds an item, for sides whose calls hold different numbers of them; the peer is timed once."""
    alone = compare(name, ours, seconds=seconds)
    theirs, trouble = None, peer
    if isinstance(peer, Outside):
        try:
            theirs, trouble = peer.sample(1) / num_peer, None
        except PeerError as error:
            trouble = Failed(str(error))
    note = options.pop("note", "")
    mine = alone["ours"] / num
    return row(
        name, mine, unit="s", peer_name=peer_name, peer=theirs, ratio=None if theirs is None else theirs / mine,
        trouble=trouble, note="; ".join(text for text in (note, alone["note"]) if text), **options,
    )  # fmt: skip


def _score(law, y, num_observed):
    later = jnp.arange(y.size) >= num_observed
    return jnp.sum(jnp.where(later, law, 0)) / jnp.sum(later)


def _curve_rows(fast, peers):
    """The posterior of learning curves: walkers here and in emcee, and the shipped network against emcee."""
    num, n, seconds = 4 if fast else 100, 40, 1.0 if fast else 10.0
    walkers, steps, burn_in, thin = (52, 300, 150, 3) if fast else (100, 2000, 500, 5)
    _, y = priors.draw(jax.random.key(7), priors.curves(), num, POINTS)
    given = {
        "y": np.asarray(y, float),
        "num_observed": n,
        "walkers": walkers,
        "steps": steps,
        "burn_in": burn_in,
        "thin": thin,
    }
    model = pfn.load("lc-small")

    def walk(key, y):
        options = {"num_walkers": walkers, "num_steps": (steps - burn_in) // thin, "burn_in": burn_in, "thin": thin}
        found = curves.posterior(key, y, n, **options)
        return _score(curves.mixture_log_density(found.value, y), y, n)

    def network(y):
        return _score(bars.log_prob(curves.predict(model, y, n), y), y, n)

    name = f"{POINTS} epochs, {n} known"
    peer = peers.find("emcee", "pfn:emcee_curves", vectorize=1, **given)
    theirs = []

    def difference(mine, other):
        if other is None:
            return None
        theirs.append(np.asarray(other))
        apart = np.asarray(mine) - other
        return abs(apart.mean()) / (apart.std(ddof=1) / len(apart) ** 0.5)

    ours = compiled(jax.vmap(walk), jax.random.split(jax.random.key(8), num), y)
    yield compare(
        f"posterior of {num} curves, {name}, {walkers} walkers, {steps} steps", ours, peer, peer_name="emcee",
        amount=num, unit="curves/s", accuracy=difference, target=1.0, within=5.0, seconds=seconds,
        note="all walkers in one call of the density; accuracy: difference of the log-scores, in standard errors",
    )  # fmt: skip
    _, many = priors.draw(jax.random.key(9), priors.curves(), 1000, POINTS)
    worse = None
    if theirs:
        mine = np.asarray(jax.jit(jax.vmap(network))(y))
        worse = float(np.mean(theirs[0] - mine))
    few = {**given, "y": given["y"][:1]}
    peer = peers.find("emcee", "pfn:emcee_curves", vectorize=0, **few)
    yield _each(
        f"a network on 1000 curves in one call, {name} | {walkers} walkers, {steps} steps",
        compiled(jax.vmap(network), many), 1000, peer, 1, "emcee", seconds, accuracy=worse, target=1e4, within=0.0,
        note=f"the density is called for each walker, as published; accuracy: the log-score is lower by, {num} curves",
    )  # fmt: skip


def _density_row(fast, peers):
    """Log-densities of the bar distribution, tails included, against the published class."""
    rng = np.random.default_rng(0)
    borders = np.sort(rng.standard_normal(101)).astype(np.float32)
    logits = rng.standard_normal((2000, 100)).astype(np.float32)
    y = (2.5 * rng.standard_normal(2000)).astype(np.float32)
    ours = compiled(lambda logits, y: bars.log_prob(bars.distribution(borders, logits), y), logits, y)
    peer = peers.find(("pfns", "torch"), "pfn:pfns_log_density", borders=borders, logits=logits, y=y)
    yield compare(
        "log-density of 2000 bar distributions of 100 buckets", ours, peer, peer_name="pfns", amount=2000,
        unit="densities/s", accuracy=lambda a, b: None if b is None else float(np.max(np.abs(a - b) / (1 + np.abs(b)))),
        within=1e-5, seconds=0.3, note="accuracy: largest difference, relative where above 1",
    )  # fmt: skip


def _table_row(fast, peers):
    """Random weights of equal width and depth: tokens of whole rows here, of pairs of features there."""
    width, layers, heads, features, points, queries, batch = 192, 12, 6, 16, 100, 50, 4
    cfg = pfn.config(features, 10, width=width, num_layers=layers, num_heads=heads, x_range=None)
    params = pfn.init(jax.random.key(0), cfg)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, points + queries, features)).astype(np.float32)
    y = rng.integers(0, 10, (batch, points)).astype(np.float32)
    run = jax.vmap(lambda x, y: pfn.apply(params, cfg, x[:points], y, points, x[points:]))
    sizes = {
        "width": width,
        "layers": layers,
        "heads": heads,
        "features": features,
        "points": points,
        "queries": queries,
    }
    peer = peers.find(("tabpfn", "torch"), "pfn:tabpfn_forward", batch=batch, **sizes)
    yield compare(
        f"{batch} tables of {points} + {queries} rows, {features} features, width {width}, {layers} layers",
        compiled(run, x, y), peer, peer_name="tabpfn", amount=batch, unit="tables/s", seconds=1.0 if fast else 5.0,
        note="random weights; speed alone: the peer attends between pairs of features too, which is more work",
    )  # fmt: skip


TABLES = ("iris", "wine", "breast_cancer")


def splits(name, num_known=None, num_splits=20):
    """`(x, y, x_query, y_query)` of random splits of a table of scikit-learn: half of it known, at most 130 rows."""
    x, y = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")(return_X_y=True)
    num_known = min(len(y) // 2, 130) if num_known is None else num_known
    orders = np.stack([np.random.default_rng(seed).permutation(len(y)) for seed in range(num_splits)])
    known, asked = orders[:, :num_known], orders[:, num_known:]
    return tuple(np.asarray(a, np.float32) for a in (x[known], y[known], x[asked], y[asked]))


def roc_auc(y, prob):
    """Area under the receiver's curve of each split, the mean over the classes, each against the others."""
    found = []
    for c in np.unique(y):
        mine = y == c
        ranks = np.where(mine, scipy.stats.rankdata(prob[..., int(c)], axis=1), 0).sum(1)
        few, many = mine.sum(1), (~mine).sum(1)
        found.append((ranks - few * (few + 1) / 2) / (few * many))
    return np.mean(found, axis=0)


def _classes_rows(fast, peers):
    """The shipped network of tables, trained on the prior alone, against a fit to each split."""
    model = pfn.load("tabular-small")
    mine, theirs = [], []
    for name in TABLES:
        x, y, x_query, y_query = splits(name)
        known = y.shape[1]

        def classify(x, y, x_query, known=known):
            return jnp.exp(pfn.classify(model, x, y, known, x_query).log_prob)

        def lower(prob, other, y_query=y_query):
            mine.append(roc_auc(y_query, np.asarray(prob)).mean())
            theirs.append(None if other is None else roc_auc(y_query, other).mean())
            return None if other is None else theirs[-1] - mine[-1]

        peer = peers.find("sklearn", "pfn:sklearn_logistic", x=x, y=y, x_query=x_query)
        yield compare(
            f"{len(y)} splits of {name}, {known} rows known | logistic regression",
            compiled(jax.vmap(classify), x, y, x_query), peer, peer_name="scikit-learn", amount=len(y),
            unit="splits/s", accuracy=lower, seconds=1.0 if fast else 5.0,
            note="accuracy: by how much the area under the ROC curve is lower",
        )  # fmt: skip
    whole = None if None in theirs else float(np.mean(theirs))
    yield row(
        f"area under the ROC curve, mean of {', '.join(TABLES)}", float(np.mean(mine)), unit="of 1",
        peer_name="logistic regression", peer=whole, ratio=None if whole is None else float(np.mean(mine)) / whole,
        accuracy=None if whole is None else whole - float(np.mean(mine)), within=0.01,
        note="accuracy: how much lower; the published small model reaches .986",
    )  # fmt: skip


def rows(fast, peers):
    """All rows."""
    for part in (
        _prior_rows, _training_rows, _process_rows, _curve_rows, _density_row, _table_row, _classes_rows,
    ):  # fmt: skip
        yield from part(fast, peers)


if __name__ == "__main__":
    sys.exit(main("pfn", rows))
