r"""State-space models from distribution objects, and the filters that are made of them.

$x_0 \sim f_0$, $x_t \sim f(\cdot \mid x_{t-1})$, $y_t \sim g(\cdot \mid x_t)$. A filter moves its cloud by a proposal m
and weighs by $f g / m$: bootstrap m = f; guided: any m; auxiliary: ancestors chosen in view of the next observation.

References: N. J. Gordon, D. J. Salmond, A. F. M. Smith, IEE Proc. F 140 (1993), 107-113; M. K. Pitt, N. Shephard, J.
Amer. Statist. Assoc. 94 (1999), 590-599; N. Chopin, O. Papaspiliopoulos, An Introduction to Sequential Monte Carlo,
Springer 2020, chapter 10.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, PyTree

from jaxsci.core import entry
from jaxsci.core.keys import as_typed_key
from jaxsci.core.static import as_partial
from jaxsci.core.types import KeyArray
from jaxsci.smc import _laws
from jaxsci.smc._model import Model
from jaxsci.smc._step import Cloud


class StateSpace(eqx.Module):
    """A state-space model; from `state_space`.

    Attributes:
        init: ``init(input) -> law`` of the first state.
        transition: ``transition(x, input) -> law`` of the next state.
        observation: ``observation(x, input) -> law`` of the observation.
        observed: ``observed(input) -> y``: where in the input the observation stands.
        batched: whether the functions take a whole cloud; static.
    """

    init: Callable[..., Any]
    transition: Callable[..., Any]
    observation: Callable[..., Any]
    observed: Callable[..., Any]
    batched: bool = eqx.field(static=True)


@Partial
def _itself(input):
    return input


def state_space(
    init: Callable[[PyTree], Any],
    transition: Callable[[PyTree, PyTree], Any],
    observation: Callable[[PyTree, PyTree], Any],
    *,
    observed: Callable[[PyTree], Array] = _itself,
    batched: bool = False,
) -> StateSpace:
    """A state-space model from functions that return distributions (of distrax, numpyro, or anything alike).

    A law needs ``log_prob(x)`` and ``sample(seed=key, sample_shape=shape)``, or `key` in place of `seed`. A NaN in an
    observation means missing; of a vector single components may be missing if the law's `log_prob` keeps the component
    axis (a Normal with vector parameters) or the law is a multivariate normal one. Otherwise an observation that is
    missing in part makes the weights NaN: status NONFINITE_INPUT.

    Args:
        init: ``init(input) -> law`` of x_0.
        transition: ``transition(x, input) -> law`` of x_t given x_{t-1} = x and the input of time t, controls among it.
        observation: ``observation(x, input) -> law`` of y_t given x_t = x.
        observed: ``observed(input) -> y``; by default the input is the observation.
        batched: `transition` and `observation` take the whole cloud and return a law with one batch axis, of N; a step
            then draws with one key, which is many times faster. By default they take one particle. Static.

    Parameters enter by closure (another closure is another compilation) or as leaves of a `jax.tree_util.Partial`.

    Returns:
        A `StateSpace` for `bootstrap`, `guided`, `auxiliary` and `forecast`.

    Raises:
        TypeError: an argument is no function.

    Example:
        >>> import distrax
        >>> from jaxsci import smc
        >>> space = smc.state_space(
        ...     lambda y: distrax.Normal(0.0, 1.0),
        ...     lambda x, y: distrax.Normal(0.9 * x, 1.0),
        ...     lambda x, y: distrax.Normal(x, 0.5),
        ... )
        >>> print(space.transition(1.0, 0.0).mean().round(2))
        0.9
    """
    given = {"init": init, "transition": transition, "observation": observation, "observed": observed}
    return StateSpace(**{n: as_partial(f, "smc.state_space", n) for n, f in given.items()}, batched=bool(batched))


def bootstrap(space: StateSpace, *, frozen: bool = False) -> Model:
    """The filter that moves its cloud as the model does, and weighs by the density of the observation.

    Args:
        space: from `state_space`.
        frozen: particles without gradient, densities of their draws with one, see `lift`; static.

    Returns:
        A `Model` for `run`, whose inputs are those of `space`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import distrax
        >>> from jaxsci import smc
        >>> space = smc.state_space(
        ...     lambda y: distrax.Normal(0.0, 1.0),
        ...     lambda x, y: distrax.Normal(0.9 * x, 1.0),
        ...     lambda x, y: distrax.Normal(x, 0.5),
        ... )
        >>> result = smc.run(jax.random.key(0), smc.bootstrap(space), jnp.zeros(5), num_particles=200)
        >>> print(result.value.particles.shape, int(result.status))
        (200,) 0
    """
    return Model(Partial(_init, space, None, _flag(frozen)), Partial(_move, space, None, _flag(frozen)))


def guided(
    space: StateSpace,
    init: Callable[[PyTree], Any],
    proposal: Callable[[PyTree, PyTree], Any],
    *,
    frozen: bool = False,
) -> Model:
    """The filter that moves its cloud by proposals which have seen the observation.

    Args:
        space: from `state_space`.
        init: ``init(input) -> law`` that x_0 is drawn from.
        proposal: ``proposal(x, input) -> law`` that x_t is drawn from; takes a cloud if `space` is batched.
        frozen: see `bootstrap`.

    Returns:
        A `Model` for `run`.

    Raises:
        TypeError: an argument is no function.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import distrax
        >>> from jaxsci import smc
        >>> space = smc.state_space(
        ...     lambda y: distrax.Normal(0.0, 1.0),
        ...     lambda x, y: distrax.Normal(0.9 * x, 1.0),
        ...     lambda x, y: distrax.Normal(x, 0.5),
        ... )
        >>> near = lambda x, y: distrax.Normal(0.5 * (0.9 * x + y), 0.7)
        >>> model = smc.guided(space, lambda y: distrax.Normal(0.5 * y, 0.7), near)
        >>> result = smc.run(jax.random.key(0), model, jnp.zeros(5), num_particles=200)
        >>> print(result.value.particles.shape, int(result.status))
        (200,) 0
    """
    draws = as_partial(init, "smc.guided", "init"), as_partial(proposal, "smc.guided", "proposal")
    return Model(Partial(_init, space, draws[0], _flag(frozen)), Partial(_move, space, draws[1], _flag(frozen)))


def auxiliary(space: StateSpace, model: Model, log_eta: Callable[[PyTree, PyTree], Array]) -> Model:
    """The filter `model` with ancestors chosen by their weights times eta, in view of the next observation.

    The perfect choice is log p(y_t | x_{t-1}). A poor one is dangerous: an eta that varies more than what it foretells
    makes log Z far noisier than no look-ahead. The notice UNEVEN_LOOK_AHEAD warns of an eta that varies much.

    Args:
        space: what `model` was made of.
        model: from `bootstrap` or `guided`.
        log_eta: ``log_eta(x, input) -> scalar`` of a particle x_{t-1} and the input of time t; takes a cloud and
            returns N numbers if `space` is batched.

    Returns:
        A `Model` for `run`.

    Raises:
        TypeError: `log_eta` is no function.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import distrax
        >>> from jaxsci import smc
        >>> space = smc.state_space(
        ...     lambda y: distrax.Normal(0.0, 1.0),
        ...     lambda x, y: distrax.Normal(0.9 * x, 1.0),
        ...     lambda x, y: distrax.Normal(x, 0.5),
        ... )
        >>> look = lambda x, y: distrax.Normal(0.9 * x, 1.2).log_prob(y)
        >>> model = smc.auxiliary(space, smc.bootstrap(space), look)
        >>> result = smc.run(jax.random.key(0), model, jnp.zeros(5), num_particles=200)
        >>> print(result.value.particles.shape, int(result.status))
        (200,) 0
    """
    return model._replace(look_ahead=Partial(_look_ahead, space, as_partial(log_eta, "smc.auxiliary", "log_eta")))


def forecast(key: KeyArray, space: StateSpace, cloud: Cloud, inputs: PyTree) -> tuple[PyTree, Array]:
    """Draw states and observations beyond the last one: a path for each particle, whose weights stay as they are.

    Args:
        key: one typed key.
        space: from `state_space`.
        cloud: weighted particles of now, ``result.value``.
        inputs: those of the K steps ahead, along a leading axis; what stands for observations is not read.

    Returns:
        ``(particles, observations)``, each with leading axes K, N.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import distrax
        >>> from jaxsci import smc
        >>> space = smc.state_space(
        ...     lambda y: distrax.Normal(0.0, 1.0),
        ...     lambda x, y: distrax.Normal(0.9 * x, 1.0),
        ...     lambda x, y: distrax.Normal(x, 0.5),
        ... )
        >>> result = smc.run(jax.random.key(0), smc.bootstrap(space), jnp.zeros(5), num_particles=50)
        >>> ahead = smc.forecast(jax.random.key(1), space, result.value, jnp.zeros(3))
        >>> print([a.shape for a in jax.tree.leaves(ahead)])
        [(3, 50), (3, 50)]
    """
    return _forecast(as_typed_key(key, "smc.forecast"), space, cloud, inputs)


@eqx.filter_jit
def _forecast(key, space, cloud, inputs):
    def body(particles, now):
        i, input = now
        first, second = jax.random.split(jax.random.fold_in(key, i))
        particles = _draw(space, space.transition, first, particles, input)
        return particles, (particles, _draw(space, space.observation, second, particles, input))

    num = jnp.arange(jnp.shape(jax.tree.leaves(inputs)[0])[0], dtype=jnp.int32)
    return jax.lax.scan(body, cloud.particles, (num, inputs))[1]


# --- pieces ------------------------------------------------------------------------------------------------
# Static flags are Partials without leaves, so that a model is a pytree of its parameters alone.


@Partial
def _frozen():
    return True


@Partial
def _free():
    return False


def _flag(frozen):
    return _frozen if frozen else _free


def _init(space, proposal, frozen, key, num, input):
    law = (space.init if proposal is None else proposal)(input)
    x = _laws.sample(law, key, (num,))

    def density(law):
        return jax.vmap(lambda x: _laws.log_density(law, x))(x)

    if frozen():
        x = jax.tree.map(jax.lax.stop_gradient, x)
    value = _observation(space, x, input)
    if proposal is not None:
        value = value + density(space.init(input)) - density(law)
    return x, value + _gradient_alone(density(law)) if frozen() else value


def _move(space, proposal, frozen, key, particles, log_weights, input):
    law = space.transition if proposal is None else proposal
    x = _draw(space, law, key, particles, input)
    if frozen():
        x = jax.tree.map(jax.lax.stop_gradient, x)
    value = _observation(space, x, input)
    if proposal is not None:
        value = value + _density(space, space.transition, particles, x, input)
        value = value - _density(space, law, particles, x, input)
    if frozen():
        value = value + _gradient_alone(_density(space, law, particles, x, input))
    return x, value, None


def _look_ahead(space, log_eta, particles, log_weights, input):
    return log_eta(particles, input) if space.batched else jax.vmap(log_eta, (0, None))(particles, input)


def _gradient_alone(value):
    return value - jax.lax.stop_gradient(value)


def _size(particles):
    return jnp.shape(jax.tree.leaves(particles)[0])[0]


def _draw(space, law, key, particles, input):
    if space.batched:
        return _laws.sample(law(particles, input), key)
    keys = jax.random.split(key, _size(particles))
    return jax.vmap(lambda k, x: _laws.sample(law(x, input), k))(keys, particles)


def _density(space, law, particles, x, input):
    if space.batched:
        return _laws.log_density(law(particles, input), x, 1)
    return jax.vmap(lambda before, x: _laws.log_density(law(before, input), x))(particles, x)


def _observation(space, particles, input):
    y = space.observed(input)
    if space.batched:
        return _laws.log_observed(space.observation(particles, input), y, 1)
    return jax.vmap(lambda x: _laws.log_observed(space.observation(x, input), y))(particles)


__all__ = ["StateSpace", "auxiliary", "bootstrap", "forecast", "guided", "state_space"]

entry.hold(globals(), "_init", "_look_ahead", "_move")
