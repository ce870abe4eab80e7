r"""Value families $J^\theta(t, x)$: linear in features, or a perceptron, with the terminal condition built in.

With a terminal reward h and a horizon T the family is $J^\theta(t, x) = h(x) + (T - t)\,f^\theta(t, x)$, so that
$J^\theta(T, \cdot) = h$ for every theta.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from jaxsci import nn
from jaxsci.core import entry, precision
from jaxsci.core.static import as_partial, bind
from jaxsci.core.types import Scalar, as_float


class Value(NamedTuple):
    """A family of value functions. Any record with these fields will do; `linear_value` and `mlp_value` make it.

    Attributes:
        apply: ``apply(params, t, x) -> scalar``.
        features: ``features(t, x) -> Float[n]`` when ``apply = params @ features + fixed``; what least squares needs.
        fixed: ``fixed(t, x) -> scalar``, the part without parameters; None is 0.
    """

    apply: Callable
    features: Callable | None = None
    fixed: Callable | None = None


def linear_value(
    features: Callable,
    fixed: Callable | None = None,
    *,
    terminal: Callable | None = None,
    horizon: Scalar | None = None,
) -> Value:
    r"""Linear family $J^\theta = g + \theta\cdot\phi$, with $g = h(x)$ and $(T - t)\phi$ when h and T are given.

    Args:
        features: ``features(t, x) -> Float[n]``.
        fixed: ``fixed(t, x) -> scalar`` g, 0 by default. With it the terminal condition is the caller's affair:
            g(T, x) = h(x) and features that vanish at T.
        terminal: ``terminal(x) -> scalar`` h, in place of `fixed`.
        horizon: T, traced; goes with `terminal`.

    Raises:
        ValueError: `fixed` and `terminal` together, or one of `terminal` and `horizon` alone.
        TypeError: a function that cannot be called.

    Example:
        >>> from jaxsci.control import martingale
        >>> value = martingale.linear_value(
        ...     lambda t, x: jnp.stack([jnp.ones_like(x), x]), terminal=lambda x: x**2, horizon=1.0)
        >>> float(value.apply(jnp.array([1.0, 2.0]), 1.0, jnp.asarray(3.0)))
        9.0
    """
    features = as_partial(features, "linear_value", "features")
    if _ends("linear_value", terminal, horizon):
        if fixed is not None:
            raise ValueError("linear_value: expected fixed or terminal, got both; fixed holds the terminal reward")
        features = Partial(_vanishing, features, as_float(horizon))
        fixed = Partial(_terminal, as_partial(terminal, "linear_value", "terminal"))
    elif fixed is not None:
        fixed = as_partial(fixed, "linear_value", "fixed")
    return Value(Partial(_linear, features, fixed), features, fixed)


def mlp_value(cfg: nn.mlp.Config, *, terminal: Callable | None = None, horizon: Scalar | None = None) -> Value:
    r"""Perceptron family: net(x), or $h(x) + (T - t)\,\mathrm{net}(t, x)$ when h and T are given.

    Args:
        cfg: from `nn.mlp.config` with one output, and as many inputs as x has entries, one more for the time when a
            horizon is given. Parameters come from `nn.mlp.init`.
        terminal, horizon: as in `linear_value`.

    Raises:
        ValueError: more than one output, or one of `terminal` and `horizon` alone.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import nn
        >>> from jaxsci.control import martingale
        >>> cfg = nn.mlp.config(3, (16,), 1)  # the time and two coordinates
        >>> value = martingale.mlp_value(cfg, terminal=jnp.sum, horizon=2.0)
        >>> params = nn.mlp.init(jax.random.key(0), cfg)
        >>> float(value.apply(params, jnp.asarray(2.0), jnp.array([1.0, 3.0])))
        4.0
    """
    if cfg.num_out != 1:
        raise ValueError(f"mlp_value: cfg must have num_out 1, got {cfg.num_out}")
    if not _ends("mlp_value", terminal, horizon):
        return Value(Partial(bind(_net, cfg=cfg)))
    horizon = as_float(horizon)
    return Value(Partial(bind(_net_to_horizon, cfg=cfg), as_partial(terminal, "mlp_value", "terminal"), horizon))


def _ends(function: str, terminal, horizon) -> bool:
    if (terminal is None) != (horizon is None):
        raise ValueError(f"{function}: terminal and horizon go together, got only one of them")
    return terminal is not None


def weighted(params, features):
    """Features weighted by the parameters; shapes are compared here, once for everybody."""
    if getattr(params, "shape", None) != jnp.shape(features):
        got = getattr(params, "shape", type(params).__name__)
        raise ValueError(
            f"martingale: expected parameters of shape {jnp.shape(features)}, one for each feature, got {got}"
        )
    return precision.vdot(params, features)


def _linear(features, fixed, params, t, x):
    level = weighted(params, features(t, x))
    return level if fixed is None else level + fixed(t, x)


def _vanishing(features, horizon, t, x):
    here = features(t, x)
    return (horizon - t).astype(here.dtype) * here


def _terminal(terminal, t, x):
    return terminal(x)


def _net(params: PyTree, t, x, *, cfg) -> Float[Array, ""]:
    return nn.mlp.apply(params, cfg, jnp.ravel(x))[0]


def _net_to_horizon(terminal, horizon, params, t, x, *, cfg):
    x = jnp.asarray(x)
    inputs = jnp.concatenate([jnp.reshape(t, (1,)).astype(x.dtype), jnp.ravel(x)])
    return terminal(x) + (horizon - t).astype(x.dtype) * nn.mlp.apply(params, cfg, inputs)[0]


__all__ = ["Value", "linear_value", "mlp_value"]

entry.hold(globals(), "_linear", "_net", "_net_to_horizon", "_terminal")
