"""Entries of jaxsci.linear."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import contracts
from contracts import Compiled, Family
from jaxsci import bandits, linear
from jaxsci.core.static import bind

SHAPE = (4, 5)


def _grid(key, dtype, i=0):
    return contracts.normal(jax.random.fold_in(key, i), SHAPE, dtype)


def _solve(key, dtype):
    tol = 1e-5 if dtype == "float32" else 1e-12

    def run(b, shift, omega):
        op = linear.operators.shifted_laplacian(SHAPE, shift)
        result = linear.solve(op, b, method=linear.methods.sor(omega), tol=tol)
        return result.value, result.steps, result.status

    shift = contracts.uniform(key, (), dtype, 0.1, 0.4)
    return run, (_grid(key, dtype), shift, jnp.asarray(1.3, dtype))


def _stencil(key, dtype):
    def run(*coefficients):
        return linear.operators.stencil5(*coefficients).mv(jnp.ones(SHAPE, coefficients[0].dtype))

    return run, tuple(_grid(key, dtype, i) for i in range(5))


def _shifted(key, dtype):
    def run(shift, x):
        return linear.operators.shifted_laplacian(SHAPE, shift).mv(x)

    return run, (contracts.normal(key, (), dtype), _grid(key, dtype))


def _diffusion(key, dtype):
    def run(down, right, step, x):
        return linear.operators.diffusion(down, right, step).mv(x)

    keys = jax.random.split(key, 3)
    down, right = contracts.uniform(keys[0], (3, 5), dtype), contracts.uniform(keys[1], (4, 4), dtype)
    return run, (down, right, contracts.uniform(keys[2], (), dtype), _grid(key, dtype))


def _dense(key, dtype):
    def run(matrix, x):
        return linear.operators.dense(matrix).mv(x)

    return run, (contracts.normal(key, (5, 5), dtype), contracts.normal(key, (5,), dtype))


def _radius(key, dtype):
    return lambda c: linear.theory.laplacian_radius(SHAPE, c), (contracts.uniform(key, (3,), dtype),)


def _young_omega(key, dtype):
    return linear.theory.young_omega, (contracts.uniform(key, (3,), dtype, 0.1, 0.95),)


def _young_rate(key, dtype):
    radius = contracts.uniform(key, (3,), dtype, 0.5, 0.9)
    return linear.theory.young_rate, (jnp.asarray([1.0, 1.02, 1.9], dtype), radius)


def _laplacian_omega(key, dtype):
    def run(shift):
        return linear.streams.laplacian_omega(0, shift, shape=SHAPE)

    return run, (contracts.uniform(key, (), dtype),)


def _stream_entry(make):
    """Two problems in a row of a stream, the last solution fed back."""

    def entry(key, dtype):
        def run(key, *args):
            stream = make(*args)
            carry = stream.init(key)
            carry, first = stream.next(key, carry, jnp.int32(0))
            carry, second = stream.next(key, carry._replace(solution=first.b), jnp.int32(1))
            return carry, first.b, second.b, second.context, second.op.mv(first.b)

        return run, (key, *_stream_args(make, key, dtype))

    return entry


def _laplacian_stream(low):
    return linear.streams.shifted_laplacian(SHAPE, beta=(low * 0 + 0.5, 1.5), low=low, width=low * 0 + 0.6)


def _heat_stream(step):
    return linear.streams.heat(6, step=step)


def _picture_stream(images):
    return linear.streams.perona_malik(images, steps_per_image=2)


def _stream_args(make, key, dtype):
    if make is _laplacian_stream:
        return (jnp.asarray(-0.1, dtype),)
    if make is _heat_stream:
        return (jnp.asarray(1e-3, dtype),)
    return (contracts.uniform(key, (2, *SHAPE), dtype),)


ARMS = (1.0, 1.2, 1.4)


def _tuned(make):
    def entry(key, dtype):
        tol = 1e-3 if dtype == "float32" else 1e-6

        def run(key, arms):
            low = jnp.asarray(-0.1, arms.dtype)
            policy = bandits.policies.tsallis_inf(3, floor=jnp.asarray(1.0, arms.dtype))
            return make(key, _laplacian_stream(low), policy, arms, tol)

        return run, (key, jnp.asarray(ARMS, dtype))

    return entry


def _sequence(key, stream, policy, arms, tol):
    result = linear.tuned_sequence(key, stream, linear.methods.sor, policy, arms, num_rounds=6, tol=tol)
    record = result.history
    return result.state.policy.losses, record.action, record.steps, record.cost, result.status


def _table(key, stream, policy, arms, tol):
    return linear.cost_table(key, stream, linear.methods.sor, arms, num_rounds=3, tol=tol)


def _init(key, stream, policy, arms, tol):
    return linear.tuned_init(key, stream, policy)


def _step(key, stream, policy, arms, tol):
    state = linear.tuned_init(key, stream, policy)
    _, record = linear.tuned_step(key, state, stream, linear.methods.sor, policy, arms, tol=tol)
    return record.action, record.steps, record.cost


def _iterations(key, dtype):
    def run(residual):
        result = linear.Result(residual, jnp.int32(7), residual, jnp.int32(0), residual)
        return linear.iterations(result, None, None)

    return run, (contracts.uniform(key, (), dtype),)


def _method(make):
    def check(key, dtype):
        contracts.check_method(make, key, dtype, tol=1e-4 if dtype == "float32" else 1e-10)

    return Family(check)


ENTRIES = {
    "jaxsci.linear.solve": Compiled(_solve, grad=(0, 1), tol=2e-5),
    "jaxsci.linear.tuned_sequence": Compiled(_tuned(_sequence), tol=1e-4),
    "jaxsci.linear.cost_table": Compiled(_tuned(_table)),
    "jaxsci.linear.tuned_init": Compiled(_tuned(_init)),
    "jaxsci.linear.tuned_step": Compiled(_tuned(_step)),
    "jaxsci.linear.iterations": Compiled(_iterations),
    "jaxsci.linear.methods.sor": _method(Partial(bind(linear.methods.sor), 1.4)),
    "jaxsci.linear.methods.cg": _method(linear.methods.cg),
    "jaxsci.linear.methods.ssor_pcg": _method(Partial(bind(linear.methods.ssor_pcg), 1.4)),
    "jaxsci.linear.operators.stencil5": Compiled(_stencil, grad=(0, 1, 2, 3, 4)),
    "jaxsci.linear.operators.shifted_laplacian": Compiled(_shifted, grad=(0, 1)),
    "jaxsci.linear.operators.diffusion": Compiled(_diffusion, grad=(0, 1, 2, 3)),
    "jaxsci.linear.operators.dense": Compiled(_dense, grad=(0, 1)),
    "jaxsci.linear.theory.laplacian_radius": Compiled(_radius, grad=(0,)),
    "jaxsci.linear.theory.young_omega": Compiled(_young_omega, grad=(0,)),
    "jaxsci.linear.theory.young_rate": Compiled(_young_rate, grad=(0, 1)),
    "jaxsci.linear.streams.shifted_laplacian": Compiled(_stream_entry(_laplacian_stream)),
    "jaxsci.linear.streams.heat": Compiled(_stream_entry(_heat_stream)),
    "jaxsci.linear.streams.perona_malik": Compiled(_stream_entry(_picture_stream), grad=(1,)),
    "jaxsci.linear.streams.laplacian_omega": Compiled(_laplacian_omega, grad=(0,)),
}
