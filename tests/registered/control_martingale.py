"""Entries of jaxsci.control.martingale."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import contracts
from contracts import Compiled, Family
from jaxsci import control, nn
from jaxsci.control import martingale
from jaxsci.core import status

K = 6


def _features(t, x):
    return jnp.stack([jnp.ones_like(x), x])


def _square(x):
    return x**2


def _path(key, x0, num_steps=K):
    path = control.exact.ornstein_uhlenbeck(key, x0, num_steps=num_steps, dt=0.1)
    return path._replace(rs=path.xs[:-1])


def _condition(discount, **kwargs):
    return martingale.condition(martingale.linear_value(_features), discount=discount, **kwargs)


def _inputs(key, dtype):
    return (
        key,
        contracts.normal(key, (2,), dtype),
        contracts.normal(jax.random.fold_in(key, 1), (), dtype),
        contracts.uniform(jax.random.fold_in(key, 2), (), dtype, 0.1, 0.9),
    )


def _to_horizon(discount):
    value = martingale.linear_value(_features, terminal=_square, horizon=0.1 * K + 0 * discount)
    return martingale.condition(value, discount=discount)


def _on_path(function, make=_condition, **kwargs):
    """A function of a condition, parameters and one path."""

    def entry(key, dtype):
        def run(key, params, x0, discount):
            return function(make(discount, **kwargs), params, _path(key, x0))

        return run, _inputs(key, dtype)

    return entry


def _batch(key, x0):
    return jax.vmap(lambda k: _path(k, x0))(jax.random.split(key, 3))


def _orthogonality(key, dtype):
    def run(key, params, x0, discount):
        return martingale.losses.orthogonality(_condition(discount), params, _batch(key, x0), metric="covariance")

    return run, _inputs(key, dtype)


def _residual(key, dtype):
    def run(key, params, x0, discount):
        step = jax.tree.map(lambda a: a[2], control.transitions(_path(key, x0)))
        return martingale.residual(_condition(discount, average=True), params, step)

    return run, _inputs(key, dtype)


def _run(key, dtype):
    def run(key, params, x0, discount):
        method = martingale.ctd(_condition(discount), learning_rate=discount, trace_decay=discount)
        return martingale.run(method, params, control.transitions(_path(key, x0)))

    return run, _inputs(key, dtype)


def _ridged(discount):
    # Three paths of six steps are few; the ridge keeps the system well conditioned in float32 too.
    return martingale.clstd(_condition(discount), ridge=0.1, allow_float32=True)


def _fit(key, dtype):
    def run(key, params, x0, discount):
        return martingale.fit(_ridged(discount), params, _batch(key, x0))._replace(state=None)

    return run, _inputs(key, dtype)


def _merge(key, dtype):
    def run(key, params, x0, discount):
        method = _ridged(discount)
        states = [martingale.fit(method, params, _batch(jax.random.fold_in(key, i), x0)).state for i in range(2)]
        return method.finish(martingale.merge(*states))._replace(state=None)

    return run, _inputs(key, dtype)


def _linear(key, dtype):
    def run(params, t, x):
        value = martingale.linear_value(_features, terminal=_square, horizon=jnp.ones_like(t))
        return value.apply(params, t, x)

    return run, (contracts.normal(key, (2,), dtype), jnp.asarray(0.3, dtype), contracts.normal(key, (), dtype))


CFG = nn.mlp.config(2, (4,), 1)


def _network(key, dtype):
    def run(params, t, x):
        value = martingale.mlp_value(CFG, terminal=_square, horizon=jnp.ones_like(t))
        return value.apply(params, t, x)

    return run, (nn.mlp.init(key, CFG, dtype=dtype), jnp.asarray(0.3, dtype), contracts.normal(key, (), dtype))


def check_martingale_method(make, key, dtype):
    """A method learns, keeps its dtype and structure, vmaps, never compiles again, and survives bad transitions.

    ``make(discount)`` builds it over two parameters; the discount is a leaf.
    """
    dtype = np.dtype(dtype)
    discount = jnp.asarray(0.5, dtype)
    steps = control.transitions(_path(key, jnp.asarray(0.2, dtype), 200))
    params = jnp.zeros(2, dtype)

    def learn(discount, steps):
        return martingale.run(make(discount), params, steps)._replace(state=None)

    estimate = learn(discount, steps)
    assert int(estimate.status) == 0 and int(estimate.steps) == 200 and estimate.value.dtype == dtype
    assert bool(jnp.any(estimate.value != 0)) and bool(jnp.all(jnp.isfinite(estimate.value)))
    method = make(discount)
    state = method.init(params)
    spec = jax.eval_shape(lambda s: s, state)
    one = jax.tree.map(lambda a: a[0], steps)
    assert jax.eval_shape(method.update, state, one) == spec, "update keeps structure, shapes and dtypes"
    tol = 1e-3 if dtype == np.float32 else 1e-9
    discounts = jnp.asarray([0.2, 0.5, 0.8], dtype)
    together = jax.vmap(learn, (0, None))(discounts, steps)
    for i in range(3):
        contracts.assert_close(together.value[i], learn(discounts[i], steps).value, tol, "vmap = loop")
    jax.block_until_ready(learn(jnp.asarray(0.3, dtype), steps))
    with contracts.count_compilations() as events:
        jax.block_until_ready(learn(jnp.asarray(0.7, dtype), steps))
    assert not events, "a new hyper-parameter value compiled again"
    bad = learn(discount, steps._replace(reward=steps.reward.at[5].set(jnp.nan)))
    assert int(bad.status) == status.NONFINITE_INPUT and bool(jnp.all(jnp.isfinite(bad.value)))
    bad = learn(discount, steps._replace(dt=-steps.dt))
    assert int(bad.status) & status.OUT_OF_RANGE and bool(jnp.all(jnp.isfinite(bad.value)))


def _method(make):
    return Family(Partial(check_martingale_method, make))


def _ctd(discount):
    return martingale.ctd(_condition(discount), learning_rate=0.1, trace_decay=0.5)


def _cgtd(discount):
    return martingale.cgtd(_condition(discount), learning_rate=0.1, auxiliary_rate=0.1)


def _cgtd2(discount):
    return martingale.cgtd2(_condition(discount), learning_rate=0.1, auxiliary_rate=0.1)


def _ctdc(discount):
    return martingale.ctdc(_condition(discount), learning_rate=0.1, auxiliary_rate=0.1)


def _clstd(discount):
    return martingale.clstd(_condition(discount), trace_decay=0.5, allow_float32=True)


def _ml(discount):
    return martingale.least_squares_ml(_condition(discount), allow_float32=True)


def _mstde(discount):
    return martingale.least_squares_mstde(_condition(discount), allow_float32=True)


P = "jaxsci.control.martingale"
ENTRIES = {
    f"{P}.condition": Compiled(_on_path(martingale.moments, weight_by_discount=True), grad=(1, 2, 3)),
    f"{P}.moments": Compiled(_on_path(martingale.moments, discounting="multiplicative"), grad=(1, 2, 3)),
    f"{P}.residual": Compiled(_residual, grad=(1, 2, 3)),
    f"{P}.linear_value": Compiled(_linear, grad=(0, 1, 2)),
    f"{P}.mlp_value": Compiled(_network, grad=(0, 1, 2)),
    f"{P}.run": Compiled(_run, grad=(1, 2, 3)),
    f"{P}.fit": Compiled(_fit, grad=(2, 3)),
    f"{P}.merge": Compiled(_merge),
    f"{P}.ctd": _method(_ctd),
    f"{P}.cgtd": _method(_cgtd),
    f"{P}.cgtd2": _method(_cgtd2),
    f"{P}.ctdc": _method(_ctdc),
    f"{P}.clstd": _method(_clstd),
    f"{P}.least_squares_ml": _method(_ml),
    f"{P}.least_squares_mstde": _method(_mstde),
    f"{P}.losses.martingale_loss": Compiled(_on_path(martingale.losses.martingale_loss, _to_horizon), grad=(1, 2, 3)),
    f"{P}.losses.mean_square_td_error": Compiled(_on_path(martingale.losses.mean_square_td_error), grad=(1, 2, 3)),
    f"{P}.losses.temporal_difference": Compiled(_on_path(martingale.losses.temporal_difference)),
    f"{P}.losses.orthogonality": Compiled(_orthogonality),
}
