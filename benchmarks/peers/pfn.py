"""What prior-data fitted networks are compared with: the published PyTorch codes, exact Gaussian processes, and Markov
chains over learning curves."""

import math
import os
import sys
import time
import types

import numpy as np


def lcpfn_curves(num, points):
    """The published sampler of learning curves: values with noise, (num, points)."""
    from lcpfn import domhan_prior

    np.random.seed(0)  # noqa: NPY002 - the published sampler draws from this state

    def run():
        return domhan_prior.get_batch_domhan(num, points, 1, domhan_prior.sample_from_prior)[1].T.numpy()

    return run


def _on_best_threads(run):
    """`run` after choosing one thread or one for each core, whichever was faster: on a busy machine several wait."""
    import torch

    seconds = {}
    for threads in {1, os.cpu_count()}:
        torch.set_num_threads(threads)
        run()
        start = time.perf_counter()
        run()
        seconds[threads] = time.perf_counter() - start
    torch.set_num_threads(min(seconds, key=seconds.get))
    return run


def _network(width, layers, heads, hidden, buckets):
    """The published network without dropout, with today's modules where it names those of an old PyTorch."""
    import lcpfn.layer
    import torch
    from lcpfn import encoders
    from lcpfn.transformer import TransformerModel

    for name in ("MultiheadAttention", "Linear", "Dropout", "LayerNorm", "Module"):
        setattr(lcpfn.layer, name, getattr(torch.nn, name))
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(
        encoders.Normalize(0.0, 101.0), encoders.Normalize(0.5, math.sqrt(1 / 12)), encoders.Linear(1, width)
    )
    y_encoder = encoders.get_normalized_uniform_encoder(encoders.Linear)(1, width)
    return TransformerModel(
        encoder, buckets, width, heads, hidden, layers, 0.0, y_encoder=y_encoder, all_layers_same_init=False
    )


def lcpfn_step(width, layers, heads, hidden, borders, batch, points, draws):
    """A training step of the published code: data (drawn by its sampler each time, or once), loss, gradient, update."""
    import torch
    from lcpfn import bar_distribution, domhan_prior

    np.random.seed(0)  # noqa: NPY002 - the published sampler draws from this state
    model = _network(width, layers, heads, hidden, len(borders) - 1).train()
    criterion = bar_distribution.FullSupportBarDistribution(torch.tensor(borders, dtype=torch.float32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)

    def draw():
        return domhan_prior.get_batch_domhan(batch, points, 1, domhan_prior.sample_from_prior)

    once = draw()

    def run():
        x, y, target = draw() if draws else once
        known = np.random.randint(1, points)  # noqa: NPY002
        loss = criterion(model((x, y), single_eval_pos=known), target[known:]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return np.asarray(loss.item())

    return _on_best_threads(run)


def pfns_log_density(borders, logits, y):
    """Log-density of the published distribution with half-normal tails."""
    import torch
    from pfns.model import bar_distribution

    criterion = bar_distribution.FullSupportBarDistribution(torch.tensor(borders))
    given = torch.tensor(logits), torch.tensor(y)
    return lambda: -criterion(*given).numpy()


def tabpfn_forward(width, layers, heads, features, points, queries, batch):
    """Tables through the second TabPFN's network with random weights; the package around it wants files."""
    import importlib.util

    import torch

    package = types.ModuleType("tabpfn")
    package.__path__ = list(importlib.util.find_spec("tabpfn").submodule_search_locations)
    sys.modules["tabpfn"] = package
    from tabpfn.model.encoders import LinearInputEncoderStep, NanHandlingEncoderStep, SequentialEncoder
    from tabpfn.model.transformer import PerFeatureTransformer

    torch.manual_seed(0)

    def encoder(num):
        keys = ("main", "nan_indicators")
        linear = LinearInputEncoderStep(num_features=2 * num, emsize=width, in_keys=keys, out_keys=("output",))
        return SequentialEncoder(NanHandlingEncoderStep(), linear)

    sizes = {"ninp": width, "nhead": heads, "nhid": 2 * width, "nlayers": layers}
    model = PerFeatureTransformer(
        encoder=encoder(2), y_encoder=encoder(1), features_per_group=2, decoder_dict={"standard": (None, 10)}, **sizes,
        multiquery_item_attention_for_test_set=True,
    ).eval()  # fmt: skip
    x = torch.randn(points + queries, batch, features)
    y = torch.randint(0, 10, (points, batch, 1)).float()

    @torch.no_grad()
    def run():
        return model(x, y, single_eval_pos=points).numpy()

    return _on_best_threads(run)


def sklearn_gp(x, y, x_query, length, noise, fitted):
    """One scikit-learn process after the other: means and variances of the queries of each data set, noise included."""
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels

    def one(x, y, x_query):
        if fitted:
            kernel = kernels.ConstantKernel() * kernels.RBF(length) + kernels.WhiteKernel(noise)
            process = GaussianProcessRegressor(kernel, alpha=1e-6)
        else:
            process = GaussianProcessRegressor(kernels.RBF(length), alpha=noise, optimizer=None)
        mean, scale = process.fit(x, y).predict(x_query, return_std=True)
        return mean, scale**2 + (0 if fitted else noise)

    def run():
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of optimisers that stop at a bound
            found = [one(*data) for data in zip(x, y, x_query)]
        return tuple(np.stack(part) for part in zip(*found))

    return run


def tinygp_gp(x, y, x_query, length, noise):
    """Processes of `tinygp` under vmap in double precision: means and variances of the queries, noise included."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import tinygp

    def one(x, y, x_query):
        process = tinygp.GaussianProcess(tinygp.kernels.ExpSquared(length), x, diag=noise)
        found = process.condition(y, x_query).gp
        return found.mean, found.variance + noise

    return jax.vmap(one), x, y, x_query


# Bounds of the uniform parameters, mean and standard deviation of the normal ones, in the order: power c, a, ln alpha;
# Janoschek A, B, ln kappa, ln delta; logarithmic c, a; three weights; ln sigma.
_UNIFORM = {
    0: (0, 1.25),
    1: (-0.6, 0.6),
    3: (0, 1),
    4: (0, 2),
    7: (0, 1),
    8: (-0.5, 0.5),
    9: (0, 1),
    10: (0, 1),
    11: (0, 1),
}
_NORMAL = {2: (0, 2), 5: (-2, 1), 6: (0, 0.5), 12: (-4, 1)}


def _curve(p, t):
    """Means (..., m) of curves with parameters (..., 13)."""
    p = p[..., None]
    with np.errstate(over="ignore", under="ignore"):
        power = p[..., 0, :] - p[..., 1, :] * t ** -np.exp(p[..., 2, :])
        growth = np.exp(-np.exp(p[..., 5, :]) * t ** np.exp(p[..., 6, :]))
    janoschek = p[..., 3, :] - (p[..., 3, :] - p[..., 4, :]) * growth
    logarithmic = p[..., 7, :] - p[..., 8, :] / np.log(t + 1)
    return p[..., 9, :] * power + p[..., 10, :] * janoschek + p[..., 11, :] * logarithmic


def _log_density(p, y, num_observed):
    t = np.arange(1.0, len(y) + 1)
    f = _curve(p, t)
    good = (f[..., -1] > f[..., 0]) & np.all((f >= 0) & (f <= 1), axis=-1)
    for i, (low, high) in _UNIFORM.items():
        good &= (p[..., i] >= low) & (p[..., i] <= high)
    normal = sum(-0.5 * ((p[..., i] - mean) / scale) ** 2 for i, (mean, scale) in _NORMAL.items())
    residual = (y[:num_observed] - f[..., :num_observed]) * np.exp(-p[..., 12, None])
    fit = -0.5 * np.sum(residual**2, axis=-1) - num_observed * p[..., 12]
    return np.where(good, normal + fit, -np.inf)


def emcee_curves(y, num_observed, walkers, steps, burn_in, thin, vectorize):
    """Mean log-density of the later values of each curve under the posterior that `emcee` draws, one after the other.

    Walkers start at the most likely of 4096 draws of the prior. `vectorize`: all walkers in one call of the density;
    else one call each, as the published code does it.
    """
    import emcee

    def one(y, seed):
        rng = np.random.RandomState(seed)
        draws = np.empty((4096, 13))
        for i, (low, high) in _UNIFORM.items():
            draws[:, i] = rng.uniform(low, high, 4096)
        for i, (mean, scale) in _NORMAL.items():
            draws[:, i] = rng.normal(mean, scale, 4096)
        prior = sum(0.5 * ((draws[:, i] - mean) / scale) ** 2 for i, (mean, scale) in _NORMAL.items())
        start = draws[np.argsort(-(_log_density(draws, y, num_observed) + prior))[:walkers]]
        sampler = emcee.EnsembleSampler(walkers, 13, _log_density, args=(y, num_observed), vectorize=bool(vectorize))
        sampler.random_state = rng.get_state()
        sampler.run_mcmc(start, steps, skip_initial_state_check=True)
        chain = sampler.get_chain(discard=burn_in, thin=thin, flat=True)
        later = np.arange(num_observed, len(y))
        residual = (y[later] - _curve(chain, later + 1.0)) * np.exp(-chain[:, 12:])
        each = -0.5 * residual**2 - chain[:, 12:] - math.log(2 * math.pi) / 2
        largest = each.max(0)
        return np.mean(largest + np.log(np.mean(np.exp(each - largest), axis=0)))

    return lambda: np.array([one(curve, seed) for seed, curve in enumerate(y)])


def sklearn_logistic(x, y, x_query):
    """Probabilities of the classes by a logistic regression on standardised inputs, for each split."""
    from sklearn.linear_model import LogisticRegression

    def one(x, y, x_query):
        mean, spread = x.mean(0), x.std(0) + 1e-6
        fitted = LogisticRegression(max_iter=2000).fit((x - mean) / spread, y)
        return fitted.predict_proba((x_query - mean) / spread)

    return lambda: np.stack([one(*each) for each in zip(x, y, x_query)])
