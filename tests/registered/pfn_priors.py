"""Entries of jaxsci.pfn.priors and jaxsci.pfn.curves."""

import jax
import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Builder, Compiled, Family
from jaxsci import gp, pfn
from jaxsci.pfn import bars, curves, priors

KEY = jax.random.key(3)


def _prior(make, *hyper, num_features=2, grad=None, tol=None):
    """A prior as a function of its hyper-parameters; every one of them is a leaf."""

    def entry(key, dtype):
        move = contracts.uniform(key, (), dtype, 0.95, 1.05)
        return lambda *args: make(*args)(KEY, 6, num_features), tuple(jnp.asarray(h, dtype) * move for h in hyper)

    return Compiled(entry, grad=tuple(range(len(hyper))) if grad is None else grad, tol=tol)


def _hyper(length, variance, noise):
    return priors.gp_hyper(length=tuple(length), variance=tuple(variance), noise=tuple(noise))


def _tabular(weight, noise, dropout):
    return priors.tabular(
        num_classes=(2, 3), max_hidden=4, weight_law=tuple(weight), noise_law=tuple(noise), dropout=dropout
    )


def _posterior(key, dtype):
    def run(variance, x, y, x_query, noise):
        return priors.posterior(gp.kernels.linear(variance), x, y, 3, x_query, noise=noise)

    x, y = contracts.normal(key, (4, 2), dtype), contracts.normal(jax.random.fold_in(key, 1), (4,), dtype)
    return run, (jnp.asarray(0.5, dtype), x, y, x[:2] + 1, jnp.asarray(0.1, dtype))


def _draw_curve(key, dtype):
    def run(law):
        return priors.draw_curve(KEY, 5, noise_law=tuple(law), num_candidates=8)

    return run, (jnp.asarray([-4, 1], dtype) * contracts.uniform(key, (), dtype, 0.9, 1.1),)


# Inside all bounds, rising, within [0, 1].
INSIDE = (0.6, 0.4, 0.1, 0.7, 0.3, -1.5, 0.2, 0.8, 0.3, 0.3, 0.3, 0.3, -4.0)


def _parameters(function):
    def entry(key, dtype):
        return function, (jnp.asarray(INSIDE, dtype) * contracts.uniform(key, (13,), dtype, 0.97, 1.03),)

    return Compiled(entry, grad=(0,))


def _quantiles(noise, probabilities):
    return priors.quantiles(KEY, priors.ridge(noise=noise), probabilities, 4, 6)


def _quantile_case(key, dtype):
    low = contracts.uniform(key, (), dtype, 0.1, 0.4)
    return _quantiles, (jnp.asarray(0.3, dtype), jnp.stack([low, 1 - low]))


def _draw(key, dtype):
    def run(noise):
        return priors.draw(KEY, priors.ridge(noise=noise), 3, 4, 2)

    return run, (contracts.uniform(key, (), dtype, 0.1, 0.4),)


def _acceptance(key, dtype):
    return lambda shift: shift * priors.acceptance(KEY, 5, 8).astype(dtype), (jnp.asarray(2.0, dtype),)


def _normalizer(key, dtype):
    """Also through a bound at infinity, and reflected."""

    def run(soft_high, x):
        loss = curves.normalizer(hard=(0.0, jnp.inf), soft=(0.0, soft_high), minimize=True)
        score = curves.normalizer(hard=(-1.0, 3.0), soft=(0.0, soft_high))
        values = [curves.normalize(n, x) for n in (loss, score)]
        return values, [curves.denormalize(n, v.value) for n, v in zip((loss, score), values)]

    return run, (jnp.asarray(2.3, dtype), contracts.uniform(key, (4,), dtype, 0.1, 2.0))


def _stop(key, dtype):
    chances = contracts.uniform(key, (5,), dtype)
    return lambda s, n, y: curves.stop(s, n, y, delta=0.6), (chances, jnp.asarray(3), jnp.asarray(0.5, dtype))


def _normal(width, y, num_observed, level):
    return jnp.full(y.shape, jax.scipy.stats.norm.sf(level, y[num_observed - 1], width))


def _same(logit, y, num_observed):
    return bars.distribution(
        jnp.linspace(0, 1, 3, dtype=y.dtype), jnp.broadcast_to(logit * jnp.arange(2), (*y.shape, 2))
    )


NET = pfn.config(1, 4, width=4, num_layers=1, num_heads=1)


def _predict(key, dtype):
    borders = jnp.linspace(0, 1, 5, dtype=dtype)

    def run(params, y):
        return curves.predict(pfn.model(params, NET, borders), y, 2)

    return run, (pfn.init(jax.random.key(1), NET, dtype=dtype), contracts.uniform(key, (4,), dtype))


def _rule(make, *hyper):
    """A rule keeps its promises: one Boolean, hyper-parameters are leaves, and a replay under vmap is one run each."""

    def check(key, dtype):
        runs = jnp.sort(contracts.uniform(key, (3, 5), dtype), axis=1)
        orders = np.asarray([[0, 1, 2], [2, 0, 1], [1, 2, 0]])

        def replay(order, *hyper):
            return curves.evaluate(runs, order, make(*hyper), budget=9)

        leaves = tuple(jnp.asarray(h, dtype) for h in hyper)
        one = [replay(orders[0], *leaves)]
        with contracts.count_compilations() as events:
            one += [jax.block_until_ready(replay(order, *(1.1 * h for h in leaves))) for order in orders[1:]]
        assert not [e for e in events if leaves == ()] and len(events) <= 1, "new values compiled again"
        factors = np.asarray([1.0, 1.1, 1.1])
        lanes = [jnp.asarray(factors * np.asarray(h), dtype) for h in leaves]
        many = jax.jit(jax.vmap(replay))(orders, *lanes)
        contracts.assert_close(many, contracts.stacked(one), 1e-6, "vmap = loop")
        assert one[0].regret.dtype == dtype and not np.any(one[0].status)
        assert make(*leaves)(runs[0], 2, runs[0, 1]).dtype == bool

    return Family(check)


def _evaluate(key, dtype):
    def run(runs, order):
        found = curves.evaluate(runs, order, curves.patience(2), budget=8)
        return found, curves.epochs_to_reach(found.regret, 0.3)

    return run, (contracts.uniform(key, (3, 4), dtype), jnp.asarray([2, 0, 1]))


def _ball(x):
    return -0.5 * jnp.sum(x**2)


def _stretch(key, dtype):
    def run(key, start):
        return curves.stretch(key, _ball, start, num_steps=2, burn_in=1, thin=2)

    return run, (key, contracts.normal(key, (6, 2), dtype))


def _curve_posterior(key, dtype):
    def run(key, y):
        # Two steps: a rounding error in one decision later on is another chain.
        found = curves.posterior(key, y, 3, num_walkers=26, num_steps=1, burn_in=0, thin=1, num_starts=64)
        return found.acceptance, found.status

    return run, (key, contracts.uniform(key, (5,), dtype, 0.4, 0.6))


def _mixture(key, dtype):
    parameters = jnp.asarray([INSIDE], dtype) * contracts.uniform(key, (3, 13), dtype, 0.97, 1.03)
    return curves.mixture_log_density, (parameters, contracts.uniform(key, (5,), dtype, 0.4, 0.42))


def _fine(num_epochs):
    return np.array([2 <= n <= num_epochs - 1 for n in range(1, num_epochs + 1)])


def _coarse(num_epochs):
    at = {int(np.ceil(round(share * num_epochs, 9))) for share in (0.1, 0.2, 0.4, 0.8)}
    return np.array([n in at and n < num_epochs for n in range(1, num_epochs + 1)])


P, C = "jaxsci.pfn.priors", "jaxsci.pfn.curves"
ENTRIES = {
    f"{P}.gp": _prior(lambda length, v, noise: priors.gp(length=length, variance=v, noise=noise), 0.5, 1.2, 0.1),
    f"{P}.gp_hyper": _prior(_hyper, [3.0, 6.0], [2.0, 0.15], [1.1, 0.05], grad=()),
    f"{P}.ridge": _prior(lambda v, noise: priors.ridge(weight_variance=v, noise=noise), 0.5, 0.1),
    f"{P}.tabular": _prior(_tabular, [3.6, 0.07], [1.9, 0.05], 0.2, num_features=3, grad=()),
    f"{P}.curves": _prior(
        lambda law: priors.curves(noise_law=tuple(law), num_candidates=8), [-4.0, 1.0], num_features=1
    ),
    f"{P}.posterior": Compiled(_posterior, grad=(0, 1, 2, 3, 4)),
    f"{P}.draw_curve": Compiled(_draw_curve),
    f"{P}.curve_mean": _parameters(lambda p: priors.curve_mean(p, np.arange(1, 7))),
    f"{P}.log_prior": _parameters(lambda p: priors.log_prior(p, 6)),
    f"{P}.acceptance": Compiled(_acceptance),
    f"{P}.pad_features": Compiled(
        lambda key, dtype: (lambda x: priors.pad_features(x, 5), (contracts.normal(key, (3, 2), dtype),)), grad=(0,)
    ),
    f"{P}.draw": Compiled(_draw),
    f"{P}.quantiles": Compiled(_quantile_case),
    f"{C}.normalizer": Compiled(_normalizer, grad=(0, 1), tol=3e-5),
    f"{C}.normalize": Compiled(_normalizer, tol=3e-5),
    f"{C}.denormalize": Compiled(_normalizer, tol=3e-5),
    f"{C}.stop": Compiled(_stop),
    f"{C}.fine": Builder(lambda: (curves.fine, (10,)), _fine),
    f"{C}.coarse": Builder(lambda: (curves.coarse, (25,)), _coarse),
    f"{C}.no_stop": _rule(curves.no_stop),
    f"{C}.patience": _rule(curves.patience, 2.0),
    f"{C}.predictive": _rule(
        lambda width, delta: curves.predictive(
            jax.tree_util.Partial(_normal, width), delta=delta, schedule=curves.fine(5)
        ),
        0.1,
        0.05,
    ),
    f"{C}.survival_of": _rule(
        lambda logit: curves.predictive(curves.survival_of(jax.tree_util.Partial(_same, logit))), 0.5
    ),
    f"{C}.predict": Compiled(_predict, grad=(0, 1)),
    f"{C}.evaluate": Compiled(_evaluate),
    f"{C}.epochs_to_reach": Compiled(_evaluate),
    f"{C}.stretch": Compiled(_stretch),
    f"{C}.posterior": Compiled(_curve_posterior),
    f"{C}.mixture_log_density": Compiled(_mixture, grad=(0, 1), tol=1e-4),
}
