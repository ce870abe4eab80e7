"""Particles that carry their recent past, so that a filter is a smoother of fixed lag.

Resampling permutes a particle with all that it holds: what it remembers is the path it has come along.

Reference: G. Kitagawa, J. Comput. Graph. Statist. 5 (1996), 1-25, section 5.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, PyTree

from jaxsci.core import entry
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import Size
from jaxsci.smc._model import Model


class Remembering(NamedTuple):
    """Particles and where they came from.

    Attributes:
        now: the particles of the model.
        past: the same arrays with a second axis of the lag: entry j is the state j + 1 steps ago, the first state where
            there are not so many.
    """

    now: PyTree
    past: PyTree


def with_lag(model: Model, lag: Size) -> Model:
    """The model whose particles remember their last `lag` states, see `Remembering`.

    A weighted mean over ``past[:, j]`` is the mean of the state j + 1 steps ago given all observations so far; with the
    whole series as lag it is the smoother of the genealogy, which runs out of ancestors for long series.

    Args:
        model: any `Model`.
        lag: how many states, static; memory N times lag.

    Returns:
        A `Model` of the same weights.

    Raises:
        ValueError: `lag` is no int >= 1.
        TypeError: a function of the model is none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> def init(key, num, y):
        ...     return jnp.zeros(num), jnp.zeros(num)
        >>> def move(key, x, log_weights, y):
        ...     return x + 1, 0 * x, None
        >>> model = smc.with_lag(smc.Model(init, move), 3)
        >>> cloud = smc.run(jax.random.key(0), model, jnp.zeros(3), num_particles=2).value
        >>> print(cloud.particles.now, cloud.particles.past[0])
        [2. 2.] [1. 0. 0.]
    """
    lag = check_size("smc.with_lag", "lag", lag)
    parts = [None if f is None else as_partial(f, "smc.with_lag", f"model.{n}") for n, f in model._asdict().items()]
    init, move, look_ahead = parts
    ahead = None if look_ahead is None else Partial(_look_ahead, look_ahead)
    return Model(Partial(bind(_init, lag=lag), init), Partial(_move, move), ahead)


def _init(init, key, num, input, lag):
    particles, log_weights = init(key, num, input)

    def repeated(a) -> Array:
        a = jnp.asarray(a)
        return jnp.broadcast_to(a[:, None], (a.shape[0], lag, *a.shape[1:]))

    return Remembering(particles, jax.tree.map(repeated, particles)), log_weights


def _move(move, key, particles, log_weights, input):
    now, increment, aux = move(key, particles.now, log_weights, input)

    def shifted(past, before):
        return jnp.concatenate([before[:, None], past[:, :-1]], axis=1)

    return Remembering(now, jax.tree.map(shifted, particles.past, particles.now)), increment, aux


def _look_ahead(look_ahead, particles, log_weights, input):
    return look_ahead(particles.now, log_weights, input)


__all__ = ["Remembering", "with_lag"]

entry.hold(globals(), "_init", "_look_ahead", "_move")
