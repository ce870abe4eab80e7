r"""Neural bandits: inverse gap weighting over a perceptron that takes one gradient step a round.

The network of width m has the tangent parametrisation (standard normal weights, every layer's sum divided by the root
of its fan-in) and is centred: $z(\theta; x) = f(\theta; x) - f(\theta_0; x)$ predicts $\hat y = z + 1/2$
(square loss) or $\hat y = 1/(1 + e^{-z})$ (log loss). In each round the chosen arm's loss is followed by

$$\theta \leftarrow \Pi_B\Big(\theta - \eta\nabla\Big[\ell(y, z) + \frac{c_p^2}{2\sqrt m}\,\ell''(z)
\|\theta - \theta_0\|^2\Big]\Big), \qquad \Pi_B \text{ onto } \|\theta - \theta_0\| \le B.$$

The last term is the average of the perturbed losses $\ell(y, z + c_p (\theta - \theta_0)^\top\varepsilon / m^{1/4})$
over random signs $\varepsilon$: exact for the square loss ($\ell'' = 1$), to second order in $c_p$ for the log loss
($\ell'' = \hat y(1 - \hat y)$). With `num_perturbations` = S > 0 the average runs over S drawn sign vectors instead.

Reference: Deb, Ban, Zuo, He, Banerjee 2024, Contextual bandits with online neural regression, sections 3 and 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.bandits._inverse_gap import fast_cb, square_cb
from jaxsci.bandits._ridge import Regressor
from jaxsci.core import entry, status, tree
from jaxsci.core.policies import as_context, check_num_arms
from jaxsci.core.protocols import Policy
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Size, as_float, float_dtype
from jaxsci.nn import mlp

_LOSSES = ("square", "log")


class NetworkState(NamedTuple):
    r"""The network of a neural regressor.

    Attributes:
        params: present parameters $\theta$.
        start: initial parameters $\theta_0$.
        signs: S sign vectors $\varepsilon$, int8, of the structure of the parameters with a leading axis S; None for
            the closed form.
        status: NONFINITE_UPDATE once a step was not finite and left out; 0 = ok.
    """

    params: PyTree
    start: PyTree
    signs: PyTree
    status: Int[Array, ""]


def network(
    num_arms: Size,
    num_features: Size,
    *,
    hidden: Sequence[int] = (100,),
    activation: str = "relu",
    loss: str = "square",
    learning_rate: ArrayLike = 1.0,
    perturbation: ArrayLike = 0.0,
    radius: ArrayLike = jnp.inf,
    num_perturbations: Size = 0,
) -> Regressor:
    r"""A perceptron of the arms' features, trained online: one projected gradient step per observed loss.

    Args:
        num_arms: K, static.
        num_features: d, entries of one arm's features, static. The context is Float[K, d], each row of norm about 1.
        hidden: widths of the hidden layers, static; m is the last.
        activation: a key of `nn.mlp.ACTIVATIONS`, static.
        loss: "square" on z + 1/2, or "log" on the logit z for losses in [0, 1]. Static.
        learning_rate: $\eta$, traced; the log loss wants about three times that of the square loss.
        perturbation: $c_p$ >= 0, traced; 0 leaves the perturbation out.
        radius: B, how far the parameters may go from their start, traced.
        num_perturbations: S, number of sign vectors, drawn by `init`; 0 is the closed form for S to infinity.
            Static: the state holds S numbers for each parameter.

    Returns:
        A `Regressor` without leverage; its state is a `NetworkState`. A step that is not finite is not taken, and the
        status says so.

    Raises:
        ValueError: a size below 1, an unknown loss or activation; a context of another shape, when it is used.
        ImportError: flax is missing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> model = bandits.regressors.network(2, 3, hidden=(8,))
        >>> x = jnp.eye(2, 3)
        >>> state = model.init(jax.random.key(0))
        >>> before = model.predict(state, x)
        >>> after = model.predict(model.update(state, x, 1, 1.0), x)
        >>> print(before, bool(after[1] > 0.5))
        [0.5 0.5] True

    References: Deb et al. 2024, section 3 (square loss), section 4 (log loss).
    """
    num_arms = check_num_arms("network", num_arms)
    num_perturbations = check_size("network", "num_perturbations", num_perturbations, least=0)
    if loss not in _LOSSES:
        raise ValueError(f"network: loss must be one of {_LOSSES}, got {loss!r}")
    cfg = mlp.config(num_features, tuple(hidden), 1, activation=activation)
    dtype = float_dtype(learning_rate, perturbation, radius)
    learning_rate, perturbation, radius = (jnp.asarray(v, dtype) for v in (learning_rate, perturbation, radius))
    sizes = {"num_arms": num_arms, "cfg": cfg, "log": loss == "log"}
    return Regressor(
        Partial(bind(_init, cfg=cfg, num_perturbations=num_perturbations, dtype=dtype)),
        Partial(bind(_predict, **sizes), perturbation),
        Partial(bind(_update, **sizes), learning_rate, perturbation, radius),
        status=Partial(_status),
    )


def neu_square_cb(
    num_arms: Size, num_features: Size, *, learning_rate: ArrayLike = 1.0, exploration: ArrayLike = 3.0, **options
) -> Policy:
    r"""NeuSquareCB: `square_cb` over a `network` with square loss, $\gamma_t = g\sqrt{Kt}$.

    Args:
        num_arms, num_features, learning_rate: as in `network`; the context is Float[K, d] (see `features.disjoint`).
        exploration: g >= 0, traced.
        options: further arguments of `network`: hidden, activation, perturbation, radius, num_perturbations.

    Losses in [0, 1].

    Raises:
        ValueError: as `network`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.neu_square_cb(3, 2, hidden=(4,))
        >>> decision = policy.select(jax.random.key(1), policy.init(jax.random.key(0)), jnp.ones((3, 2)))
        >>> print(0 <= int(decision.action) < 3)
        True

    References: Deb et al. 2024, algorithm 1.
    """
    model = network(num_arms, num_features, loss="square", learning_rate=learning_rate, **options)
    return square_cb(model, exploration=_times_root(exploration, num_arms))


def neu_fast_cb(
    num_arms: Size,
    num_features: Size,
    *,
    learning_rate: ArrayLike = 3.0,
    exploration: ArrayLike = 10.0,
    floor: ArrayLike = 1e-3,
    **options,
) -> Policy:
    r"""NeuFastCB: `fast_cb` over a `network` with log loss, $\gamma_t = g\sqrt{Kt}$.

    Args:
        num_arms, num_features, learning_rate: as in `network`; the context is Float[K, d] (see `features.disjoint`).
        exploration: g >= 0, traced.
        floor: predictions are clipped to [floor, 1], traced.
        options: further arguments of `network`: hidden, activation, perturbation, radius, num_perturbations.

    Losses in [0, 1]. For a loss outside that range the log loss has no minimum: the predictions saturate, and no status
    says so.

    Raises:
        ValueError: as `network`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> policy = bandits.policies.neu_fast_cb(3, 6, hidden=(16,))
        >>> state = policy.init(jax.random.key(0))
        >>> context = bandits.features.disjoint(jnp.array([0.6, 0.8]), num_arms=3)
        >>> decision = policy.select(jax.random.key(1), state, context)
        >>> state = policy.update(state, decision, 0.0, context)
        >>> after = policy.select(jax.random.key(2), state, context)
        >>> int(after.action) == int(decision.action), int(state.rounds)
        (True, 1)

    References: Deb et al. 2024, algorithm 2.
    """
    model = network(num_arms, num_features, loss="log", learning_rate=learning_rate, **options)
    return fast_cb(model, exploration=_times_root(exploration, num_arms), floor=floor)


def _times_root(exploration, num_arms: int):
    """g sqrt(K). The factor sqrt(t) of gamma_t comes from inverse gap weighting itself."""
    return as_float(exploration) * num_arms**0.5


def _tangent(name, x, kernel, bias):
    """The product of a layer in the tangent parametrisation. There is no bias, which all arms would share."""
    return x @ kernel * kernel.shape[0] ** -0.5


def _output(params, cfg, x):
    # This undoes the divisor of the first layer, so that features of norm 1 give hidden sums of variance 1.
    return mlp.apply(params, cfg, x * cfg.num_in**0.5, dense=_tangent)[..., 0]


@eqx.filter_jit
def _init(key, *, cfg, num_perturbations, dtype) -> NetworkState:
    start = mlp.init(jax.random.fold_in(key, 0), cfg, dtype=dtype)
    start = {name: a * a.shape[0] ** 0.5 if a.ndim == 2 else a for name, a in start.items()}
    signs = None
    if num_perturbations:
        leaves, structure = jax.tree.flatten(start)
        drawn = [
            jax.random.rademacher(jax.random.fold_in(key, 1 + i), (num_perturbations, *a.shape), jnp.int8)
            for i, a in enumerate(leaves)
        ]
        signs = structure.unflatten(drawn)
    return NetworkState(start, start, signs, jnp.int32(status.OK))


def _shifts(moved, signs, scale):
    """What each perturbation adds to every prediction, Float[S]; a single 0 for the closed form."""
    if signs is None:
        return jnp.zeros(1, scale.dtype)
    pairs = zip(jax.tree.leaves(moved), jax.tree.leaves(signs))
    return scale * sum(s.reshape(s.shape[0], -1).astype(a.dtype) @ a.reshape(-1) for a, s in pairs)


def _width(cfg) -> int:
    return (cfg.num_in, *cfg.hidden)[-1]


def _predict(perturbation, state: NetworkState, context, *, num_arms, cfg, log) -> Float[Array, " K"]:
    x = as_context("network", context, (num_arms, cfg.num_in), perturbation.dtype)
    z = _output(state.params, cfg, x) - _output(state.start, cfg, x)
    moved = tree.sub(state.params, state.start)
    shifts = _shifts(moved, state.signs, perturbation / _width(cfg) ** 0.25)
    z = z[:, None] + shifts[None, :]
    return jnp.mean(jax.nn.sigmoid(z) if log else z + 0.5, axis=1)


def _objective(params, start, signs, x, y, perturbation, *, cfg, log):
    """The mean loss of the perturbed networks, or its closed form."""
    z = _output(params, cfg, x) - _output(start, cfg, x)
    moved, scale = tree.sub(params, start), perturbation / _width(cfg) ** 0.25
    if signs is None:
        curvature = jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) if log else 1
        return _loss(z, y, log) + curvature * scale**2 / 2 * tree.dot(moved, moved)
    return jnp.mean(_loss(z + _shifts(moved, signs, scale), y, log))


def _loss(z, y, log):
    # -y log(yhat) - (1 - y) log(1 - yhat) by softplus: finite at any logit in float32.
    return jax.nn.softplus(z) - y * z if log else (z + 0.5 - y) ** 2 / 2


def _update(
    learning_rate, perturbation, radius, state: NetworkState, context, action, loss, weight=1.0, *, num_arms, cfg, log
) -> NetworkState:
    x = as_context("network", context, (num_arms, cfg.num_in), perturbation.dtype)[action]
    slope = jax.grad(_objective)(state.params, state.start, state.signs, x, loss, perturbation, cfg=cfg, log=log)
    moved = tree.sub(tree.axpy(-learning_rate * weight, slope, state.params), state.start)
    length = tree.norm(moved)
    inside = jnp.where(length > radius, radius / jnp.where(length > 0, length, 1), 1)
    params = tree.axpy(inside, moved, state.start)
    taken = (weight > 0) & jnp.isfinite(length)
    bits = state.status | status.flag((weight > 0) & ~taken, status.NONFINITE_UPDATE)
    return state._replace(params=tree.where(taken, params, state.params), status=bits)


def _status(state: NetworkState) -> Int[Array, ""]:
    return state.status


__all__ = ["NetworkState", "network", "neu_fast_cb", "neu_square_cb"]

entry.hold(globals(), "_init", "_predict", "_status", "_update")
