r"""Training: every step draws its own data sets from the prior, so nothing can be learnt by heart.

$\theta \leftarrow \theta - \eta_i\,\mathrm{Adam}(\nabla L)$, $L = -\frac1B\sum_b \mathrm{mean}_{t \ge n_b} \log
q_\theta(y_{b,t} \mid x_{b,t}, (x_{b,s}, y_{b,s})_{s < n_b})$: the number of known points $n_b$ is drawn for each data
set, and all points after them are predicted. L is the mean over n of the divergence of the exact predictive
distribution from the network's, plus a constant. Gradients are cut to norm 1; the rate rises linearly and falls as a
cosine, per step.

Reference: S. Müller et al. 2022, arXiv:2112.10510, section 3 and appendix E.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core import extras, keys
from jaxsci.core import train as training
from jaxsci.core.keys import unrolled
from jaxsci.core.protocols import Result
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import KeyArray
from jaxsci.pfn import _network, _predict, bars

_LAWS = ("uniform", "weighted")


def prior_borders(
    key: KeyArray,
    prior: Callable,
    num_buckets: int,
    *,
    num_points: int,
    num_features: int = 1,
    num_sets: int = 2000,
) -> Float[np.ndarray, " num_borders"]:
    """Borders that a sample of the prior's targets fills equally.

    Args:
        key: one typed key.
        prior: ``prior(key, num_points, num_features) -> (x, y)``.
        num_buckets: K.
        num_points, num_features: of a data set.
        num_sets: how many data sets are drawn; num_sets * num_points >= 100 K is advised.

    Returns:
        Float64 numbers, K + 1 of them or fewer, see `bars.borders_from_sample`. Data sets that are not finite are left
        out.

    Raises:
        ValueError: sizes below 1, or a prior of one value.

    Example:
        >>> from jaxsci import pfn
        >>> borders = pfn.prior_borders(jax.random.key(0), pfn.priors.gp(), 10, num_points=20, num_sets=50)
        >>> print(borders.shape)
        (11,)
    """
    sizes = (("num_points", num_points), ("num_features", num_features), ("num_sets", num_sets))
    num_points, num_features, num_sets = (check_size("pfn.prior_borders", name, size) for name, size in sizes)
    key = keys.as_typed_key(key, "pfn.prior_borders")
    y = np.asarray(_targets(key, as_partial(prior, "pfn.prior_borders", "prior"), num_points, num_features, num_sets))
    return bars.borders_from_sample(y[np.isfinite(y).all(axis=1)], num_buckets)


@eqx.filter_jit
def _targets(key, prior, num_points, num_features, num_sets):
    return jax.vmap(lambda k: prior(k, num_points, num_features)[1])(keys.per_item(key, num_sets))


def batch(
    key: KeyArray,
    prior: Callable,
    *,
    batch_size: int,
    num_points: int,
    num_features: int = 1,
    context: tuple[int, int],
    law: str = "uniform",
) -> tuple[Float[Array, "B T F"], Float[Array, "B T"], Array]:
    """Data sets of the prior, and how many points of each are known.

    Args:
        key: one typed key; data set b depends on ``fold_in(key, b)`` alone, however many there are.
        prior: see `prior_borders` (static unless a Partial).
        batch_size, num_points, num_features: B, T, F (static).
        context: the fewest and the most known points (static).
        law: "uniform" over them, or "weighted" by 1 / (T - n), which gives every n as many predictions (static).

    Returns:
        ``(x, y, num_context)``.

    Example:
        >>> import jax
        >>> from jaxsci import pfn
        >>> data = pfn.batch(jax.random.key(0), pfn.priors.gp(), batch_size=4, num_points=6, context=(0, 5))
        >>> print([a.shape for a in data])
        [(4, 6, 1), (4, 6), (4,)]
    """

    def one(key):
        data, size = jax.random.split(key)
        x, y = prior(data, num_points, num_features)
        low, high = context
        if law == "uniform":
            return x, y, jax.random.randint(unrolled(size), (), low, high + 1, jnp.int32)
        logits = -jnp.log(num_points - jnp.arange(low, high + 1, dtype=jnp.float32))
        return x, y, low + jax.random.categorical(unrolled(size), logits).astype(jnp.int32)

    return jax.vmap(one)(keys.per_item(key, batch_size))


def loss(
    params: PyTree,
    cfg: _network.Config,
    data: tuple[Array, Array, Array],
    *,
    borders: Float[ArrayLike, " num_borders"] | None = None,
    full_support: bool = True,
    max_context: int | None = None,
    attention: Callable | None = None,
    compute_dtype=None,
) -> Float[Array, ""]:
    """Mean negative log-likelihood of what follows the known points, per point and data set.

    Args:
        params, cfg: of the network.
        data: ``(x, y, num_context)`` as `batch` makes them; data sets that are not finite count as nothing.
        borders: of the buckets; None: y holds classes 0, 1, ...
        full_support: half-normal tails (static).
        max_context, attention, compute_dtype: see `apply_sequence`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import pfn
        >>> cfg = pfn.config(1, 10, width=8, num_layers=1)
        >>> data = pfn.batch(jax.random.key(0), pfn.priors.gp(), batch_size=4, num_points=6, context=(0, 5))
        >>> print(pfn.loss(pfn.init(jax.random.key(1), cfg), cfg, data, borders=jnp.linspace(-3.0, 3.0, 11)).shape)
        ()
    """

    def one(x, y, num_context):
        sound = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))
        x, y = jnp.where(sound, x, 0), jnp.where(sound, y, 0)
        logits = _network.apply_sequence(
            params, cfg, x, y, num_context, max_context=max_context, attention=attention, compute_dtype=compute_dtype
        )
        if borders is None:
            found = jax.nn.log_softmax(logits)
            found = jnp.take_along_axis(found, jnp.clip(y, 0, cfg.num_buckets - 1).astype(int)[:, None], axis=1)[:, 0]
        else:
            found = bars.log_prob(bars.distribution(borders, logits, full_support=full_support), y)
        asked = (jnp.arange(y.shape[0]) >= num_context) & sound
        return -jnp.sum(jnp.where(asked, found, 0)) / jnp.maximum(jnp.sum(asked), 1), sound

    losses, sound = jax.vmap(one)(*data)
    return jnp.sum(losses) / jnp.maximum(jnp.sum(sound), 1)


def _loss(borders, attention, params, data, key, *, cfg, full_support, max_context, compute_dtype):
    del key  # everything random is in the data
    return loss(
        params, cfg, data, borders=borders, full_support=full_support, max_context=max_context, attention=attention,
        compute_dtype=compute_dtype,
    )  # fmt: skip


def _batch(prior, key, i, **sizes):
    del i
    return batch(key, prior, **sizes)


@functools.cache
def _optimizer(num_steps, learning_rate, warmup, clip):
    """One object for equal arguments, so that a second run compiles nothing."""
    optax = extras.require("optax", "nets", "pfn.train")
    # floats: optax turns integers into arrays at the first call, and the fingerprint of the checkpoint would change
    first = float(round(warmup * num_steps))
    rise = optax.linear_schedule(learning_rate / max(first, 1.0), learning_rate, max(first - 1.0, 1.0))
    fall = optax.cosine_decay_schedule(learning_rate, max(num_steps - first, 1.0))

    def rate(count):
        return jnp.where(count < first, rise(count), fall(count - first))

    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(rate))


def train(
    key: KeyArray,
    prior: Callable,
    cfg: _network.Config,
    borders: Any = None,
    *,
    num_points: int,
    num_steps: int,
    batch_size: int = 32,
    context: tuple[int, int] | None = None,
    law: str = "uniform",
    learning_rate: float = 1e-3,
    warmup: float = 0.1,
    clip: float = 1.0,
    full_support: bool = True,
    attention: Callable | None = None,
    compute_dtype=None,
    out: str | Path | None = None,
    save_every: float | int = 60.0,
    progress: bool | Callable = True,
    mesh: Mesh | None = None,
) -> Result:
    """Train a network on data sets of a prior. Killed and called again, it continues to the same bits.

    Args:
        key: one typed key: initialisation and all data.
        prior: ``prior(key, num_points, num_features) -> (x, y)``, pure; a Partial's leaves count as hyper-parameters.
        cfg: from `config`; its `num_features` is asked of the prior.
        borders: of its buckets, from `prior_borders`; None: the prior's y are classes 0, 1, ..., num_buckets - 1.
        num_points: T, known and predicted ones together.
        num_steps: the rate falls to 0 over them, so another number is another run.
        batch_size: data sets a step.
        context: the fewest and the most known points; (0, T - 1) by default.
        law: of their number, see `batch`.
        learning_rate, warmup, clip: peak of the rate, the share of the steps in which it rises, largest gradient norm.
        full_support: half-normal tails.
        attention, compute_dtype: see `apply`.
        out: folder: ``training/`` holds the checkpoints (extra "nets"), from which a second call with the same
            arguments goes on; None keeps nothing.
        save_every: seconds between two checkpoints.
        progress: True shows a bar (extra "sweep"), a callable gets ``(steps done, num_steps, text)``.
        mesh: devices that share a batch, see `core.train.run`.

    Returns:
        `Result`: the `Model`, the training's state, the loss at each step, and its status.

    Raises:
        ValueError: sizes that do not fit, or a folder that holds another run (the message says what differs).
        ImportError: an extra is missing: "nets" for the optimiser.

    Example:
        >>> from jaxsci import pfn
        >>> prior, cfg = pfn.priors.gp(), pfn.config(1, 10, width=8, num_layers=1)
        >>> borders = pfn.prior_borders(jax.random.key(0), prior, 10, num_points=8)
        >>> result = pfn.train(jax.random.key(1), prior, cfg, borders, num_points=8, num_steps=3, progress=False)
        >>> print(result.history.shape, result.value.config.num_buckets)
        (3,) 10
    """
    sizes = (("num_points", num_points), ("num_steps", num_steps), ("batch_size", batch_size))
    num_points, num_steps, batch_size = (check_size("pfn.train", name, size) for name, size in sizes)
    key = keys.as_typed_key(key, "pfn.train")
    low, high = (0, num_points - 1) if context is None else context
    if not 0 <= low <= high < num_points:
        raise ValueError(
            f"pfn.train: context must be (fewest, most) with 0 <= fewest <= most < {num_points} points, got {context}"
        )
    if law not in _LAWS:
        raise ValueError(f"pfn.train: law must be one of {', '.join(_LAWS)}, got {law!r}")
    for name, value, most in (("learning_rate", learning_rate, np.inf), ("warmup", warmup, 1), ("clip", clip, np.inf)):
        if not 0 <= float(value) <= most:
            raise ValueError(f"pfn.train: {name} must lie in [0, {most}], got {value}")
    start = _predict.model(_network.init(jax.random.fold_in(key, 0), cfg), cfg, borders, full_support=full_support)
    dtype = None if compute_dtype is None else jnp.dtype(compute_dtype)
    fixed = {"cfg": cfg, "full_support": start.full_support, "max_context": max(high, 1), "compute_dtype": dtype}
    shape = {"batch_size": batch_size, "num_points": num_points, "num_features": cfg.num_features}
    hook = None if attention is None else as_partial(attention, "pfn.train", "attention")
    result = training.fit(
        jax.random.fold_in(key, 1),
        Partial(bind(_loss, **fixed), start.borders, hook),
        start.params,
        Partial(bind(_batch, **shape, context=(low, high), law=law), as_partial(prior, "pfn.train", "prior")),
        optimizer=_optimizer(num_steps, float(learning_rate), float(warmup), float(clip)),
        num_steps=num_steps,
        checkpoint=None if out is None else Path(out) / "training",
        save_every=save_every,
        config={"configuration": cfg, "borders": start.borders, "num_steps": num_steps},
        progress=progress,
        mesh=mesh,
    )
    value = _predict.Model(result.value, start.borders, cfg, start.full_support)
    return Result(value, result.state, result.history, result.status)


__all__ = ["batch", "loss", "prior_borders", "train"]
