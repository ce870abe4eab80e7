r"""A trained network with its borders, and what it predicts for one data set.

Targets that are numbers come as a `BarDistribution` over the borders; classes, numbered 0, 1, ..., as the logs of their
probabilities, of which those of classes that the context does not show are left out.

Reference: S. Müller et al. 2022, arXiv:2112.10510, sections 4 and 6.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core import status, tree
from jaxsci.core.types import float_dtype
from jaxsci.pfn import _network, bars
from jaxsci.pfn.bars import BarDistribution

OUTSIDE = status.register(
    "pfn",
    18,
    "outside the range of training",
    "an input lies outside the range that the network was trained on, where it knows nothing",
    "scale the inputs to the range of the model's configuration (x_range)",
    notice=True,
)


class Model(eqx.Module):
    """A network and all that its predictions need. Made by `model`, `train` or `load`.

    Attributes:
        params: of the network.
        borders: of the buckets; None for a network of classes.
        config: of the network (static parts only).
        full_support: whether the outer buckets are half-normals (static).
    """

    params: PyTree
    borders: Float[Array, " num_borders"] | None
    config: _network.Config
    full_support: bool = eqx.field(static=True)


class Classes(NamedTuple):
    """Predicted classes.

    Attributes:
        log_prob: logs of the probabilities of the classes 0, 1, ..., of every query.
        status: bits of the call, int32; 0 = ok.
    """

    log_prob: Float[Array, "Q K"]
    status: Int[Array, ""]


def model(params: PyTree, config: _network.Config, borders: Any = None, *, full_support: bool = True) -> Model:
    """A validated `Model`.

    Args:
        params: from `init` or a training.
        config: of the network.
        borders: of its buckets, increasing; None for classes.
        full_support: half-normal tails (static).

    Raises:
        ValueError: borders that do not increase, or are not one more than the buckets of the network.
        TypeError: `config` is no configuration of this room.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import pfn
        >>> cfg = pfn.config(1, 10, width=8, num_layers=1)
        >>> model = pfn.model(pfn.init(jax.random.key(0), cfg), cfg, jnp.linspace(-3.0, 3.0, 11))
        >>> print(model.config.num_buckets)
        10
    """
    if not isinstance(config, _network.Config):
        raise TypeError(f"pfn.model: config must come from pfn.config, got {type(config).__name__}")
    if borders is None:
        return Model(params, None, config, False)
    shape, num = np.shape(borders), config.num_buckets
    if shape != (num + 1,):
        raise ValueError(f"pfn.model: borders must have shape ({num + 1},) for {num} buckets, got {shape}")
    if isinstance(borders, jax.core.Tracer):
        return Model(params, borders, config, bool(full_support))
    dtype = jax.tree.leaves(params)[0].dtype
    borders = np.asarray(borders).astype(dtype)
    if not (np.isfinite(borders).all() and (np.diff(borders) > 0).all()):
        raise ValueError(f"pfn.model: borders must be finite and increase in {dtype}; see bars.borders_from_sample")
    bars.distribution(borders, np.zeros(num, dtype), full_support=full_support)
    return Model(params, jnp.asarray(borders), config, bool(full_support))


def predict(
    model: Model,
    x: Float[ArrayLike, "N F"],
    y: Float[ArrayLike, " N"],
    num_context: Int[ArrayLike, ""],
    x_query: Float[ArrayLike, "Q F"],
    *,
    attention: Callable | None = None,
    compute_dtype=None,
) -> BarDistribution:
    """The posterior predictive distribution of the targets at Q queries, by one pass of the network.

    Args:
        model: from `load` or `train`; a stack of models by `jax.vmap`, their mean by `bars.mixture`.
        x, y: N slots of one data set, as the prior makes it; many data sets by `jax.vmap`.
        num_context: how many of them are known, the first ones; 0 predicts the prior; traced.
        x_query: the queries.
        attention, compute_dtype: see `apply`.

    Returns:
        A `BarDistribution` with Q leading. Its status: non-finite input (known points or queries; what they touch is
        NaN), out of range (num_context was not in 0 ... N and was cut), outside the range of training (a notice).
        Differentiable in x, y, x_query and the model's arrays.

    Raises:
        ValueError: shapes that do not fit, more features than the network has, or a model of classes.
        TypeError: `model` is no `Model`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import pfn
        >>> model = pfn.load("gp-1d-small")
        >>> x = jnp.array([[0.1], [0.3], [0.9]])
        >>> dist = pfn.predict(model, x, jnp.sin(6 * x[:, 0]), 3, jnp.array([[0.2], [0.6]]))
        >>> print(pfn.bars.mean(dist).shape, bool(pfn.bars.variance(dist)[0] < pfn.bars.variance(dist)[1]))
        (2,) True

    References: S. Müller et al. 2022, section 3.
    """
    _check("pfn.predict", model)
    if model.borders is None:
        raise ValueError("pfn.predict: this model predicts classes; use pfn.classify")
    return _predict(model, *tree.as_arrays((x, y, num_context, x_query)), attention, compute_dtype)


@eqx.filter_jit
def _predict(model, x, y, num_context, x_query, attention, compute_dtype):
    logits = _network.apply(
        model.params, model.config, x, y, num_context, x_query, attention=attention, compute_dtype=compute_dtype
    )
    code = _status(model.config, x, y, num_context, x_query)
    # of finite values, so the network's own numbers are at fault
    code = code | status.flag((code == status.OK) & ~jnp.all(jnp.isfinite(logits)), status.NONFINITE_RESULT)
    return bars.distribution(model.borders, logits, full_support=model.full_support, status=code)


def classify(
    model: Model,
    x: Float[ArrayLike, "N F"],
    y: Float[ArrayLike, " N"],
    num_context: Int[ArrayLike, ""],
    x_query: Float[ArrayLike, "Q F"],
    *,
    attention: Callable | None = None,
    compute_dtype=None,
) -> Classes:
    """Probabilities of the classes at Q queries, by one pass of the network.

    Inputs are standardised by mean and standard deviation of the known points and scaled by F / (features given), as
    the prior of classification tables does.

    Args:
        model: of classes, from `load` or `train`.
        x, y: N slots; y holds classes 0, 1, ..., as numbers.
        num_context: how many are known; traced.
        x_query: the queries.
        attention, compute_dtype: see `apply`.

    Returns:
        `Classes`: -inf for a class that none of the known points has (without context none is left out). Status:
        non-finite input, out of range (a class that the network does not know, or num_context not in 0 ... N).

    Raises:
        ValueError: shapes that do not fit, more features than the network has, or a model of numbers.
        TypeError: `model` is no `Model`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import pfn
        >>> model = pfn.load("tabular-small")
        >>> x, y = jnp.array([[0.0], [0.1], [0.9], [1.0]]), jnp.array([0.0, 0.0, 1.0, 1.0])
        >>> x, query = (pfn.priors.pad_features(a, model.config.num_features) for a in (x, jnp.array([[0.05], [0.95]])))
        >>> print(pfn.classify(model, x, y, 4, query).log_prob.shape)
        (2, 3)
    """
    _check("pfn.classify", model)
    if model.borders is not None:
        raise ValueError("pfn.classify: this model predicts numbers; use pfn.predict")
    return _classify(model, *tree.as_arrays((x, y, num_context, x_query)), attention, compute_dtype)


@eqx.filter_jit
def _classify(model, x, y, num_context, x_query, attention, compute_dtype):
    cfg = model.config
    x, y, x_query = (jnp.asarray(a, float_dtype(x, y, x_query)) for a in (x, y, x_query))
    code = _status(cfg, x, y, num_context, x_query)
    live = jnp.arange(y.shape[0]) < num_context
    if x.ndim == 2 and x_query.ndim == 2 and x.shape[0] == y.shape[0] and x.shape[1] == x_query.shape[1]:
        count = jnp.maximum(jnp.sum(live), 1)
        mean = jnp.sum(jnp.where(live[:, None], x, 0), axis=0, keepdims=True) / count
        spread = jnp.sqrt(jnp.sum(jnp.where(live[:, None], (x - mean) ** 2, 0), axis=0, keepdims=True) / count)
        scale = cfg.num_features / max(x.shape[1], 1) / jnp.where(spread > 0, spread, 1)
        x, x_query = (x - mean) * scale, (x_query - mean) * scale
    logits = _network.apply(
        model.params, cfg, x, y, num_context, x_query, attention=attention, compute_dtype=compute_dtype
    )
    classes = jnp.arange(cfg.num_buckets, dtype=y.dtype)
    shown = jnp.any(live[:, None] & (y[:, None] == classes[None]), axis=0) | ~jnp.any(live)
    code = code | status.flag(~jnp.all(jnp.any(y[:, None] == classes[None], axis=1) | ~live), status.OUT_OF_RANGE)
    return Classes(jax.nn.log_softmax(jnp.where(shown[None], logits, -jnp.inf)), code)


def _check(function, given):
    if not isinstance(given, Model):
        raise TypeError(
            f"{function}: model must be a Model, got {type(given).__name__}; pfn.load or pfn.train make one"
        )


def _status(cfg, x, y, num_context, x_query):
    """Bits of what the caller gave."""
    x, y, x_query = jnp.asarray(x), jnp.asarray(y), jnp.asarray(x_query)
    live = jnp.arange(y.shape[0]) < num_context
    sound = jnp.all(jnp.isfinite(y) | ~live) & jnp.all(jnp.isfinite(x) | ~live[:, None])
    code = status.flag(~(sound & jnp.all(jnp.isfinite(x_query))), status.NONFINITE_INPUT)
    code = code | status.flag((num_context < 0) | (num_context > y.shape[0]), status.OUT_OF_RANGE)
    if cfg.x_range is None:
        return code
    low, high = cfg.x_range
    beyond = jnp.any(((x < low) | (x > high)) & live[:, None]) | jnp.any((x_query < low) | (x_query > high))
    return code | status.flag(beyond, OUTSIDE)


__all__ = ["OUTSIDE", "Classes", "Model", "classify", "model", "predict"]
