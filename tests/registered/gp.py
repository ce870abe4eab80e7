"""Entries of jaxsci.gp and of the bandits that stand on it."""

import jax
import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Compiled, Family
from jaxsci import bandits, gp
from jaxsci.gp import kernels


def _gram(make, *hyper):
    """The matrix of a kernel, differentiable in its hyper-parameters and, last, in the inputs."""

    def entry(key, dtype):
        def run(*args):
            return kernels.gram(make(*args[:-1]), args[-1], args[-1])

        move = contracts.uniform(jax.random.fold_in(key, 1), (), dtype, 0.9, 1.1)
        return run, (*(jnp.asarray(h, dtype) * move for h in hyper), contracts.normal(key, (4, 2), dtype))

    return Compiled(entry, grad=tuple(range(len(hyper) + 1)))


def _hamming(key, dtype):
    categories = jnp.round(2 * contracts.uniform(key, (4, 5), dtype))
    return lambda g: kernels.gram(kernels.hamming(g), categories, categories), (jnp.asarray(0.7, dtype),)


def _entry(read, grad=(0, 1, 2, 3)):
    """`read(gp, x)` of a process of four rows, one of them dead, and one input more."""

    def make(key, dtype):
        def run(length, noise, x, y):
            process = gp.condition(kernels.rbf(length), x[:4], y[:4], mask, noise=noise, size=5)
            return read(process, x[4], y[4])

        mask = jnp.asarray([True, False, True, True])
        x, y = contracts.normal(key, (5, 2), dtype), contracts.normal(jax.random.fold_in(key, 1), (5,), dtype)
        return run, (jnp.asarray(0.8, dtype), jnp.asarray(0.1, dtype), x, y)

    return Compiled(make, grad=grad)


def _parts(process):
    return process.chol, process.alpha, process.mask, process.status


def _model(params):
    return kernels.rbf(params["length"]), params["noise"]


def _fit(key, dtype):
    def run(params, y):
        x = jnp.linspace(0, 3, 8, dtype=dtype)[:, None]
        return gp.fit(_model, params, x, y, log_prior=_log_prior, max_steps=40, tol=1e-3).value

    y = jnp.sin(2 * jnp.linspace(0, 3, 8, dtype=dtype)) + 0.1 * contracts.normal(key, (8,), dtype)
    return run, ({"length": jnp.asarray(1.0, dtype), "noise": jnp.asarray(0.1, dtype)}, y)


def _log_prior(params):
    return -sum(jnp.log(p / 0.5) ** 2 for p in params.values())


ARMS = [[0, 0], [0, 1], [1, 0], [1, 1]]


def _surrogate(center):
    return bandits.regressors.gp_surrogate(
        jnp.asarray(ARMS, center.dtype), capacity=12, context_size=1, center=center, warmup=2, refit_steps=3
    )


def _ucb(key, dtype):
    def make(exploration, center):
        return bandits.policies.gp_ucb(_surrogate(center), exploration=exploration)

    contracts.check_policy(make, key, 4, hyper=(1.0, 0.5), context=jnp.asarray([0.2], dtype), dtype=dtype)


def _ts(key, dtype):
    """`gp_ts` shares init and update with `gp_ucb`; what is left is its select."""
    context, policy = jnp.asarray([0.2], dtype), bandits.policies.gp_ts(_surrogate(jnp.asarray(0.5, dtype)))
    state = policy.init(key)
    for i in range(3):
        state = policy.update(state, policy.select(jax.random.fold_in(key, i), state, context), 0.3 * i, context)
    draws = jax.random.split(key, 8)
    one = contracts.stacked([policy.select(k, state, context) for k in draws])
    many = jax.jit(jax.vmap(lambda k: policy.select(k, state, context)))(draws)
    contracts.assert_close(many, one, 1e-5, "jit(vmap) = loop")
    assert one.action.dtype == jnp.int32 and one.aux.dtype == one.log_prob.dtype == dtype
    assert 0 <= int(one.action.min()) and int(one.action.max()) < 4
    for arm in range(4):
        assert int(policy.select(key, state, context, jnp.arange(4) == arm).action) == arm
    nothing = policy.select(key, state, context, jnp.zeros(4, bool))
    assert float(nothing.log_prob) == -jnp.inf
    assert int(policy.update(state, nothing, 1.0, context).rounds) == 3


def _make_surrogate(key, dtype):
    def run(arms, center):
        made = bandits.regressors.gp_surrogate(arms, capacity=3, center=center)
        return made.arms, made.center, made.params

    return run, (contracts.normal(key, (4, 2), dtype), jnp.asarray(0.5, dtype))


def _params(dtype):
    return {name: jnp.asarray(v, dtype) for name, v in (("length", 0.7), ("coupling", 1.2), ("precision", 50.0))}


def _interface_model(key, dtype):
    def run(params, contexts):
        kernel, noise = bandits.regressors.interface_model(params)
        inputs = contexts, jnp.asarray(ARMS, dtype)
        return kernels.gram(kernel, inputs, inputs), noise

    return run, (_params(dtype), contracts.normal(key, (4, 3), dtype))


ENTRIES = {
    "jaxsci.gp.kernels.rbf": _gram(kernels.rbf, np.array([0.5, 1.5])),
    "jaxsci.gp.kernels.matern": _gram(lambda length: kernels.matern(2.5, length), 0.8),
    "jaxsci.gp.kernels.linear": _gram(kernels.linear, 0.8),
    "jaxsci.gp.kernels.constant": _gram(kernels.constant, 0.8),
    "jaxsci.gp.kernels.hamming": Compiled(_hamming, grad=(0,)),
    "jaxsci.gp.kernels.scale": _gram(lambda v: kernels.scale(kernels.rbf(0.6), v), 0.8),
    "jaxsci.gp.kernels.add": _gram(lambda a, b: kernels.add(kernels.rbf(a), kernels.constant(b)), 0.8, 0.3),
    "jaxsci.gp.kernels.multiply": _gram(lambda a, b: kernels.multiply(kernels.rbf(a), kernels.linear(b)), 0.8, 0.3),
    "jaxsci.gp.kernels.part": _gram(lambda a: kernels.part(kernels.rbf(a), (1, 2)), 0.8),
    "jaxsci.gp.kernels.gram": _gram(lambda a: kernels.matern(1.5, a), np.array([0.8, 0.9])),
    "jaxsci.gp.condition": _entry(lambda process, x, y: _parts(process)),
    "jaxsci.gp.append": _entry(lambda process, x, y: _parts(gp.append(process, x, y))),
    "jaxsci.gp.predict": _entry(lambda process, x, y: gp.predict(process, x)),
    "jaxsci.gp.marginals": _entry(lambda process, x, y: gp.marginals(process, jnp.stack([x, -x]))),
    "jaxsci.gp.joint": _entry(lambda process, x, y: gp.joint(process, jnp.stack([x, -x]))),
    "jaxsci.gp.sample": _entry(lambda process, x, y: gp.sample(jax.random.key(3), process, jnp.stack([x, -x]))),
    "jaxsci.gp.log_marginal": _entry(lambda process, x, y: gp.log_marginal(process)),
    "jaxsci.gp.leave_one_out": _entry(lambda process, x, y: gp.leave_one_out(process)),
    "jaxsci.gp.fit": Compiled(_fit, tol=1e-2),  # float32: the objective is flat to rounding within about 1e-3
    "jaxsci.bandits.regressors.gp_surrogate": Compiled(_make_surrogate, grad=(0, 1)),
    "jaxsci.bandits.policies.gp_ucb": Family(_ucb),
    "jaxsci.bandits.policies.gp_ts": Family(_ts),
    "jaxsci.bandits.regressors.interface_model": Compiled(_interface_model, grad=(0, 1)),
    "jaxsci.bandits.regressors.interface_prior": Compiled(
        lambda key, dtype: (bandits.regressors.interface_prior, (_params(dtype),)), grad=(0,)
    ),
}
