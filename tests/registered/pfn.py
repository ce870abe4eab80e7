"""Entries of jaxsci.pfn: bar distributions, network, training, models and files; those of its priors stand beside."""

import jax
import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Bad, Builder, Compiled, Driver
from jaxsci import gp, pfn
from jaxsci.pfn import bars, interop, scores

NUM = 4
EDGES = np.array([-1.0, -0.2, 0.1, 0.9, 1.5])
CFG = pfn.config(1, NUM, width=4, num_layers=1, num_heads=2, hidden=4)


def _bar(function, *shapes):
    """An entry of a function of a distribution and further arguments between .05 and .95."""

    def make(key, dtype):
        logits = contracts.normal(key, (2, NUM), dtype)
        rest = [contracts.uniform(jax.random.fold_in(key, i), s, dtype, 0.05, 0.95) for i, s in enumerate(shapes)]
        borders = jnp.asarray(EDGES, dtype)

        def run(logits, borders, *rest):
            return function(bars.BarDistribution(borders, logits, jnp.int32(0), True), *rest)

        return run, (logits, borders, *rest)

    return make


def _sample(key, dtype):
    logits = contracts.normal(key, (NUM,), dtype)
    return lambda k, l: bars.sample(k, bars.distribution(EDGES.astype(dtype), l), (5,)), (key, logits)


def _mixture(key, dtype):
    logits = contracts.normal(key, (2, NUM), dtype)

    def run(logits, borders):
        stack = bars.BarDistribution(jnp.stack([borders, borders]), logits, jnp.int32(0), True)
        return bars.mixture(stack, borders + 0.1)

    return run, (logits, jnp.asarray(EDGES, dtype))


def _borders(sample, num_buckets=10):
    values = np.sort(np.asarray(sample, np.float64))
    each = values.size // num_buckets
    inner = [(values[k * each - 1] + values[k * each]) / 2 for k in range(1, num_buckets)]
    return np.array([values[0], *inner, values[each * num_buckets - 1]])


def _network(key, dtype):
    params = jax.tree.map(
        lambda a: contracts.normal(jax.random.fold_in(key, a.size), a.shape, dtype),
        jax.eval_shape(lambda k: pfn.init(k, CFG), jax.random.key(0)),
    )
    x = contracts.uniform(key, (4, 1), dtype)
    return params, x, contracts.normal(key, (4,), dtype)


def _apply(key, dtype):
    return lambda p, x, y: pfn.apply(p, CFG, x[:3], y[:3], 2, x[3:]), _network(key, dtype)


def _sequence(key, dtype):
    return lambda p, x, y: pfn.apply_sequence(p, CFG, x, y, 2), _network(key, dtype)


def _encode(key, dtype):
    return lambda p, x, y: pfn.encode(p, CFG, x, y, 2), _network(key, dtype)


def _query(key, dtype):
    params, x, y = _network(key, dtype)
    keys, values = (contracts.normal(jax.random.fold_in(key, i), (1, 3, 2, 2), dtype) for i in (1, 2))
    return lambda p, k, v, x: pfn.query(p, CFG, pfn.Context(k, v, jnp.int32(2)), x), (params, keys, values, x)


def _model(params, dtype):
    return pfn.Model(params, jnp.asarray(EDGES, dtype), CFG, True)


def _predict(key, dtype):
    return lambda p, x, y: pfn.predict(_model(p, dtype), x[:3], y[:3], 2, x[3:]), _network(key, dtype)


def _classify(key, dtype):
    params, x, _ = _network(key, dtype)
    y = jnp.asarray([0, 2, 1, 0], dtype)

    def run(params, x):
        return pfn.classify(pfn.Model(params, None, CFG, False), x, y, 4, x).log_prob[:, :3]

    return run, (params, x)


def _line(key, num_points, num_features):
    x = jax.random.uniform(key, (num_points, num_features))
    return x, x[:, 0]


def _batch(key, dtype):
    return lambda k: pfn.batch(k, _line, batch_size=2, num_points=4, context=(0, 3)), (key,)


def _loss(key, dtype):
    params, x, y = _network(key, dtype)
    data = x[None], y[None], jnp.asarray([2], jnp.int32)
    return lambda p: pfn.loss(p, CFG, data, borders=jnp.asarray(EDGES, dtype)), (params,)


def _log_score(key, dtype):
    def run(params, key):
        return scores.log_score(key, _model(params, dtype), _line, 2, num_points=4, num_sets=2)

    return run, (_network(key, dtype)[0], key)


def _gp_gap(key, dtype):
    kernel = gp.kernels.rbf(jnp.asarray(0.2, dtype))

    def run(params, key):
        noise, sizes = jnp.asarray(0.1, dtype), {"max_context": 3, "num_queries": 2, "num_sets": 2}
        return scores.gp_gap(key, _model(params, dtype), kernel, 2, noise=noise, **sizes)

    return run, (_network(key, dtype)[0], key)


def _trained(folder):
    options = {"num_points": 4, "num_steps": 2, "batch_size": 2, "out": folder, "progress": False}
    result = pfn.train(jax.random.key(0), _line, CFG, EDGES, **options)
    assert result.history.shape == (2,) and int(result.status) == 0
    path = folder / "model.npz"
    pfn.save(path, result.value, about={"steps": 2})
    assert pfn.about(path) == {"steps": 2}
    np.testing.assert_array_equal(pfn.load(path).borders, EDGES.astype(np.float32))


def _drawn(folder):
    borders = pfn.prior_borders(jax.random.key(0), _line, NUM, num_points=10, num_sets=100)
    np.testing.assert_allclose(borders, np.linspace(0, 1, NUM + 1), atol=0.1)


def _view(folder):
    dist = bars.distribution(EDGES, np.zeros((2, NUM)))
    view, key = interop.to_distrax(dist), jax.random.key(0)
    assert view.batch_shape == (2,) and view.sample(seed=key, sample_shape=(3,)).shape == (3, 2)
    for name in ("mean", "variance", "mode", "entropy"):
        np.testing.assert_array_equal(getattr(view, name)(), getattr(bars, name)(dist))
    np.testing.assert_array_equal(view.log_prob(0.3), bars.log_prob(dist, 0.3))
    np.testing.assert_allclose(view.survival_function(0.3), 1 - view.cdf(0.3), rtol=1e-6)


_NO_DTYPE = {"dtype": "the data have the dtype of the prior"}

ENTRIES = {
    "jaxsci.pfn.bars.borders_from_sample": Builder(
        lambda: (lambda y: bars.borders_from_sample(y, 10), (np.random.default_rng(0).normal(size=101),)),
        truth=_borders,
    ),
    "jaxsci.pfn.bars.cdf": Compiled(_bar(bars.cdf, (2,)), grad=(0, 1, 2)),
    "jaxsci.pfn.bars.distribution": Driver(
        bad=(Bad(lambda _: bars.distribution(EDGES, np.zeros(3)), ValueError, "one entry more"),)
    ),
    "jaxsci.pfn.bars.entropy": Compiled(_bar(bars.entropy), grad=(0, 1)),
    "jaxsci.pfn.bars.expected_improvement": Compiled(_bar(bars.expected_improvement, (2,)), grad=(0, 1, 2)),
    "jaxsci.pfn.bars.log_prob": Compiled(_bar(bars.log_prob, (2,)), grad=(0, 1, 2)),
    "jaxsci.pfn.bars.mean": Compiled(_bar(bars.mean), grad=(0, 1)),
    "jaxsci.pfn.bars.mixture": Compiled(_mixture, grad=(0, 1)),
    "jaxsci.pfn.bars.mode": Compiled(_bar(bars.mode)),
    "jaxsci.pfn.bars.probability_of_improvement": Compiled(_bar(bars.probability_of_improvement, (2,)), grad=(0, 1)),
    "jaxsci.pfn.bars.quantile": Compiled(_bar(bars.quantile, (2,)), grad=(0, 1, 2)),
    "jaxsci.pfn.bars.reflect": Compiled(_bar(bars.reflect), grad=(0, 1)),
    "jaxsci.pfn.bars.sample": Compiled(_sample),
    "jaxsci.pfn.bars.survival": Compiled(_bar(bars.survival, (2,)), grad=(0, 1, 2)),
    "jaxsci.pfn.bars.upper_confidence_bound": Compiled(_bar(bars.upper_confidence_bound, (2,)), grad=(0, 2)),
    "jaxsci.pfn.bars.variance": Compiled(_bar(bars.variance), grad=(0, 1)),
    "jaxsci.pfn.about": Driver(bad=(Bad(lambda _: pfn.about("nothing"), FileNotFoundError, "there is no model"),)),
    "jaxsci.pfn.apply": Compiled(_apply, grad=(0, 1, 2)),
    "jaxsci.pfn.apply_sequence": Compiled(_sequence, grad=(0, 1, 2)),
    "jaxsci.pfn.batch": Compiled(_batch, skip=_NO_DTYPE),
    "jaxsci.pfn.classify": Compiled(_classify, grad=(0, 1)),
    "jaxsci.pfn.config": Driver(
        bad=(
            Bad(lambda _: pfn.config(0, 4), ValueError, "num_features must be an int >= 1"),
            Bad(lambda _: pfn.config(1, 4, y_range=(0.0, np.inf)), ValueError, "y_range must be two finite numbers"),
        )
    ),
    "jaxsci.pfn.encode": Compiled(_encode, grad=(0, 1, 2)),
    "jaxsci.pfn.init": Compiled(lambda key, dtype: (lambda k: pfn.init(k, CFG, dtype=dtype), (key,))),
    "jaxsci.pfn.interop.to_distrax": Driver(
        bad=(Bad(lambda _: interop.to_distrax(EDGES), TypeError, "expected a BarDistribution"),), works=_view
    ),
    "jaxsci.pfn.load": Driver(bad=(Bad(lambda _: pfn.load("nothing"), FileNotFoundError, "there is no model"),)),
    "jaxsci.pfn.loss": Compiled(_loss, grad=(0,)),
    "jaxsci.pfn.model": Driver(
        bad=(Bad(lambda _: pfn.model({"w": jnp.ones(1)}, CFG, np.ones(5)), ValueError, "finite and increase"),)
    ),
    "jaxsci.pfn.names": Driver(works=lambda folder: pfn.names()),
    "jaxsci.pfn.predict": Compiled(_predict, grad=(0, 1, 2)),
    "jaxsci.pfn.prior_borders": Driver(works=_drawn),
    "jaxsci.pfn.query": Compiled(_query, grad=(0, 1, 2, 3)),
    "jaxsci.pfn.save": Driver(
        bad=(Bad(lambda folder: pfn.save(folder / "m.npz", {}), TypeError, "model must be a Model"),)
    ),
    "jaxsci.pfn.scores.gp_gap": Compiled(_gp_gap, tol=1e-4, skip={"vmap": "its data sets are a batch already"}),
    "jaxsci.pfn.scores.log_score": Compiled(_log_score, skip=_NO_DTYPE),
    "jaxsci.pfn.train": Driver(
        bad=(
            Bad(
                lambda _: pfn.train(jax.random.key(0), _line, CFG, EDGES, num_points=0, num_steps=1),
                ValueError,
                "num_points must be an int >= 1",
            ),
        ),
        works=_trained,
    ),
}
