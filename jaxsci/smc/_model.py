r"""What a Feynman-Kac model is: how a cloud starts, how it moves, and what its weights are multiplied by.

$\mathbb Q_T(dx_{0:T-1}) = \frac1Z\, M_0(dx_0) G_0(x_0) \prod_{t \ge 1} M_t(x_{t-1}, dx_t)\, G_t(x_{t-1}, x_t)$.
A `Model` holds functions of the whole cloud; `lift` makes one from functions of a single particle.

Reference: P. Del Moral, Feynman-Kac Formulae, Springer 2004; N. Chopin, O. Papaspiliopoulos, An Introduction to
Sequential Monte Carlo, Springer 2020, chapter 5.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsci.core import entry
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import Size


class Model(NamedTuple):
    """A Feynman-Kac model as functions of a cloud of N particles: any pytree of arrays with N along the leading axis.

    Within one step a cloud draws with one key and a leading axis, several times cheaper than with a key for each
    particle; with `core.keys.unrolled` it is cheaper still on a CPU, with the same numbers.

    Attributes:
        init: ``init(key, num, input) -> (particles, log_weights)``: `num` draws from M_0 and log G_0 of each, given the
            first input.
        move: ``move(key, particles, log_weights, input) -> (particles, log_increment, aux)``: draws from M_t and
            log G_t of each; `aux` is any record of arrays, None for nothing. The log-weights are for reading: the
            driver adds the increment.
        look_ahead: None, or ``look_ahead(particles, log_weights, input) -> log_eta``: how promising each particle is
            in view of the next input; resampling then follows the weights times eta, and corrects for it.
    """

    init: Callable[..., Any]
    move: Callable[..., Any]
    look_ahead: Callable[..., Any] | None = None


class FeynmanKac(NamedTuple):
    """A Feynman-Kac model as functions of a single particle x (any pytree of arrays); `lift` makes a `Model` of it.

    Attributes:
        init: ``init(key, input) -> x``: a draw from M_0.
        propagate: ``propagate(key, previous, input) -> x``: a draw from M_t.
        log_potential: ``log_potential(previous, x, input) -> scalar``: log G_t; `previous` is None at the first time.
        log_init: None, or ``log_init(x, input) -> scalar``: log-density of what `init` draws.
        log_propagate: None, or ``log_propagate(previous, x, input) -> scalar``: log-density of what `propagate` draws.
        log_auxiliary: None, or ``log_auxiliary(x, input) -> scalar``: log eta of a particle in view of the next input.
    """

    init: Callable[..., Any]
    propagate: Callable[..., Any]
    log_potential: Callable[..., Any]
    log_init: Callable[..., Any] | None = None
    log_propagate: Callable[..., Any] | None = None
    log_auxiliary: Callable[..., Any] | None = None


def lift(model: FeynmanKac, *, frozen: bool = False, batch_size: Size | None = None) -> Model:
    r"""The cloud's model of a model of single particles, by vmap; every particle draws with a key of its own.

    A key for each costs more than the draws of a simple model: write a `Model` directly where that counts.

    Args:
        model: functions of one particle, or `jax.tree_util.Partial`s of them whose leaves are the parameters (another
            value then compiles nothing again).
        frozen: particles carry no gradient, and the densities they are drawn from enter the weights as
            $\log m - \mathrm{stop}(\log m)$, a zero with a gradient. With ``run(..., gradient="stop_gradient")`` the
            gradient of log Z is then Fisher's score. Needs `log_init` and `log_propagate`. Static.
        batch_size: how many particles are computed at a time, for clouds whose intermediate results exceed memory; all
            at once by default. The numbers are the same whatever it is. Static.

    Returns:
        A `Model` for `smc.run`.

    Raises:
        TypeError: a field is no function.
        ValueError: `frozen` without both log-densities, or `batch_size` is no int >= 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> walk = smc.FeynmanKac(
        ...     init=lambda key, y: jax.random.normal(key),
        ...     propagate=lambda key, x, y: x + jax.random.normal(key),
        ...     log_potential=lambda before, x, y: -0.5 * (y - x) ** 2,
        ... )
        >>> result = smc.run(jax.random.key(0), smc.lift(walk), jnp.zeros(5), num_particles=100)
        >>> result.value.particles.shape, int(result.status)
        ((100,), 0)
    """
    optional = ("log_init", "log_propagate", "log_auxiliary")
    functions = {
        name: None if value is None and name in optional else as_partial(value, "smc.lift", f"model.{name}")
        for name, value in model._asdict().items()
    }
    if frozen and None in (model.log_init, model.log_propagate):
        raise ValueError(
            "smc.lift: frozen particles need the log-densities of their draws, got None for log_init or log_propagate"
        )
    model = FeynmanKac(**functions)
    freeze = _frozen if frozen else _free
    size = None if batch_size is None else check_size("smc.lift", "batch_size", batch_size)
    init, move, look_ahead = (bind(f, batch_size=size) for f in (_init, _move, _look_ahead))
    ahead = None if model.log_auxiliary is None else Partial(look_ahead, model)
    return Model(Partial(init, model, freeze), Partial(move, model, freeze), ahead)


# `freeze(particles, log_density)` gives the particles and what is added to their log-weights; it is a static leaf.


@Partial
def _free(particles, log_density):
    return particles, 0.0


@Partial
def _frozen(particles, log_density):
    particles = jax.tree.map(jax.lax.stop_gradient, particles)
    value = log_density(particles)
    return particles, value - jax.lax.stop_gradient(value)


def each(function, batch_size: int | None, *arrays):
    """`function` of one particle at each, all at once or `batch_size` at a time."""
    if batch_size is None:
        return jax.vmap(function)(*arrays)
    return jax.lax.map(lambda one: function(*one), arrays, batch_size=batch_size)


def _init(model, freeze, key, num, input, batch_size):
    def one(key):
        x = model.init(key, input)
        x, extra = freeze(x, lambda x: model.log_init(x, input))
        return x, model.log_potential(None, x, input) + extra

    return each(one, batch_size, jax.random.split(key, check_size("smc.lift", "num", num)))


def _move(model, freeze, key, particles, log_weights, input, batch_size):
    def one(key, before):
        x = model.propagate(key, before, input)
        x, extra = freeze(x, lambda x: model.log_propagate(before, x, input))
        return x, model.log_potential(before, x, input) + extra

    keys = jax.random.split(key, jnp.shape(log_weights)[0])
    return *each(one, batch_size, keys, particles), None


def _look_ahead(model, particles, log_weights, input, batch_size):
    return each(lambda x: model.log_auxiliary(x, input), batch_size, particles)


__all__ = ["FeynmanKac", "Model", "lift"]

entry.hold(globals(), "_init", "_move")
