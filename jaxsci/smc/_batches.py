"""Clouds beyond memory: a model that moves its cloud a batch of particles at a time.

What a move needs on the way (proposals, densities, features) then takes memory for B particles; the cloud itself, its
weights and ancestors stay whole.
"""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsci.core import entry
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import Size
from jaxsci.smc import _checks
from jaxsci.smc._model import Model


def in_batches(model: Model, batch_size: Size) -> Model:
    r"""The model that draws, moves and weighs `batch_size` particles at a time, one batch after the other.

    Batch b draws with ``fold_in(key, b)``, so the numbers depend on the batch size, though their law does not. For
    equal numbers whatever the size, write functions of one particle and take ``lift(..., batch_size=)``: there every
    particle has a key of its own. The last batch is filled up with copies of the last particle, which are dropped.

    Args:
        model: any `Model` in which a particle depends on its own past alone; `move` and `look_ahead` see the particles
            and weights of one batch. With ``run(num_resampled=)`` the children of a batch are put where they belong.
        batch_size: B, static.

    Returns:
        A `Model`; what `move` returns as `aux` gets a leading axis of the batches.

    Raises:
        ValueError: `batch_size` is no int >= 1.
        TypeError: a function of the model is none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> def init(key, num, y):
        ...     x = jax.random.normal(key, (num,))
        ...     return x, -((y - x) ** 2)
        >>> def move(key, x, log_weights, y):
        ...     print("moves", x.shape)
        ...     return x, -((y - x) ** 2), None
        >>> model = smc.in_batches(smc.Model(init, move), 300)
        >>> smc.run(jax.random.key(0), model, jnp.zeros(3), num_particles=1000).value.particles.shape
        moves (300,)
        (1000,)
    """
    size = check_size("smc.in_batches", "batch_size", batch_size)
    parts = [None if f is None else as_partial(f, "smc.in_batches", f"model.{n}") for n, f in model._asdict().items()]
    bound = [bind(f, batch_size=size) for f in (_init, _move, _look_ahead)]
    return Model(*(None if part is None else Partial(f, part) for f, part in zip(bound, parts)))


def _init(init, key, num, input, batch_size):
    def one(b):
        return _checks.pair("init of the model", init(jax.random.fold_in(key, b), batch_size, input), 2)

    drawn = jax.lax.map(one, jnp.arange(-(-num // batch_size), dtype=jnp.int32))
    return jax.tree.map(lambda a: _joined(a, batch_size, num), drawn)


def _move(move, key, particles, log_weights, input, batch_size):
    def one(now):
        b, particles, log_weights = now
        return _checks.pair("move of the model", move(jax.random.fold_in(key, b), particles, log_weights, input), 3)

    num, batches = log_weights.shape[0], _batches((particles, log_weights), batch_size)
    b = jnp.arange(-(-num // batch_size), dtype=jnp.int32)
    particles, increment, aux = jax.lax.map(one, (b, *batches))
    return *jax.tree.map(lambda a: _joined(a, batch_size, num), (particles, increment)), aux


def _look_ahead(look_ahead, particles, log_weights, input, batch_size):
    found = jax.lax.map(lambda now: look_ahead(*now, input), _batches((particles, log_weights), batch_size))
    return _joined(found, batch_size, log_weights.shape[0])


def _batches(cloud, size: int):
    """(N, ...) as (N / B, B, ...), filled up with the last particle."""

    def split(a):
        a = jnp.asarray(a)
        missing = -a.shape[0] % size
        if missing:
            a = jnp.concatenate([a, jnp.broadcast_to(a[-1:], (missing, *a.shape[1:]))])
        return a.reshape(-1, size, *a.shape[1:])

    return jax.tree.map(split, cloud)


def _joined(a, size: int, num: int):
    """(N / B, P B, ...) as (P N, ...): children i of all parents before children i + 1, as without batches."""
    if a.ndim < 2 or a.shape[1] % size:
        raise ValueError(
            f"smc.in_batches: the model must return arrays with {size} particles, or a multiple of them, along their "
            f"leading axis, got shape {a.shape[1:]}"
        )
    a = jnp.moveaxis(a.reshape(a.shape[0], -1, size, *a.shape[2:]), 0, 1)  # (P, N / B, B, ...)
    a = a.reshape(a.shape[0], -1, *a.shape[3:])[:, :num]
    return a.reshape(-1, *a.shape[2:])


__all__ = ["in_batches"]

entry.hold(globals(), "_init", "_move")
