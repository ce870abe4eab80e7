r"""The `Regressor` protocol, with which contextual policies predict losses, and ridge regression.

Ridge keeps, for each arm or for all together, $A = \lambda I + \sum \phi\phi^\top$, $b = \sum y\phi$ and
$\hat\theta = A^{-1}b$; a round costs $d^2$, because $A^{-1}$ loses a rank-one term (Sherman and Morrison):

$$A^{-1} \leftarrow A^{-1} - \frac{vv^\top}{1 + \phi^\top v}, \qquad v = A^{-1}\phi.$$

Rounding errors of these steps add up in float32, so $A^{-1}$ is computed anew from $A$ every `refresh_every` rounds.

References: J. Sherman, W. J. Morrison 1950; Abbasi-Yadkori, Pál, Szepesvári 2011, Improved algorithms for linear
stochastic bandits, section 4; Foster and Rakhlin 2020, Beyond UCB (regression oracles).
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core.policies import as_update, check_num_arms
from jaxsci.core.precision import matmul
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Size, as_float


class Regressor(NamedTuple):
    r"""Predicts the loss of every arm from a context and learns from one observed loss at a time.

    Attributes:
        init: ``init(key) -> state``: a record with at least one floating leaf, whose dtype the predictions have.
        predict: ``predict(state, context) -> losses`` of all K arms.
        update: ``update(state, context, action, loss, weight) -> state``; weight 0 changes nothing, and policies give
            no other weight to a round whose loss, weight or context is not finite.
        leverage: ``leverage(state, context)``: for each arm $\phi^\top A^{-1}\phi$, the squared width of the prediction
            in units of the noise; None where there is none.
        sample: ``sample(key, state, context, scale)``: losses predicted by parameters drawn from $N(\hat\theta,
            \mathrm{scale}^2 A^{-1})$.
    """

    init: Callable[..., PyTree]
    predict: Callable[..., Float[Array, " K"]]
    update: Callable[..., PyTree]
    leverage: Callable[..., Float[Array, " K"]] | None = None
    sample: Callable[..., Float[Array, " K"]] | None = None


class RidgeState(NamedTuple):
    r"""Ridge regression of M models: one for each arm, or a single one for all arms; w is the weight of a play.

    Attributes:
        gram: $A = \lambda I + \sum w\,\phi\phi^\top$.
        inverse: $A^{-1}$.
        moment: $b = \sum w\,y\,\phi$ of losses y.
        theta: coefficients $\hat\theta = A^{-1}b$.
        rounds: losses learnt by all models together; $A^{-1}$ is computed anew at multiples of `refresh_every`.
    """

    gram: Float[Array, "M d d"]
    inverse: Float[Array, "M d d"]
    moment: Float[Array, "M d"]
    theta: Float[Array, "M d"]
    rounds: Int[Array, ""]


def learns(regressor: Regressor) -> Partial:
    """The update of a policy whose state is the state of its regressor."""
    return as_update(Partial(_learn, regressor), small=False, unlearns=False)


def _learn(regressor: Regressor, state, decision, loss, context, weight):
    return regressor.update(state, context, decision.action, loss, weight)


def ridge(
    num_arms: Size,
    num_features: Size,
    *,
    regularization: ArrayLike = 1.0,
    shared: bool = False,
    refresh_every: Size = 1000,
) -> Regressor:
    r"""Ridge regression of losses on features: $\hat\theta = A^{-1}\sum y\phi$, $A = \lambda I + \sum\phi\phi^\top$.

    Args:
        num_arms: K, static.
        num_features: d, static.
        regularization: $\lambda$ > 0, traced.
        shared: False, one $\theta$ for each arm and a context Float[d] common to them; True, one $\theta$ for all
            and a context Float[K, d] of features of the arms. Static.
        refresh_every: rounds after which $A^{-1}$ is computed anew, static. Under `vmap`, if it is due in one lane, all
            lanes compute it.

    Returns:
        A `Regressor` with leverage and sample; its state is a `RidgeState`. Losses have any range.

    Raises:
        ValueError: a size below 1; a context of another shape, when it is used.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits
        >>> model = bandits.regressors.ridge(2, 3, regularization=0.5)
        >>> state = model.update(model.init(jax.random.key(0)), jnp.ones(3), 1, 7.0)
        >>> print(model.predict(state, jnp.ones(3)))
        [0. 6.]

    References: Abbasi-Yadkori, Pál, Szepesvári 2011, section 4.
    """
    num_arms, num_features = check_num_arms("ridge", num_arms), check_size("ridge", "num_features", num_features)
    refresh_every = check_size("ridge", "refresh_every", refresh_every)
    regularization = as_float(regularization)
    sizes = {"num_arms": num_arms, "num_features": num_features, "shared": bool(shared)}
    return Regressor(
        Partial(bind(_init, **sizes), regularization),
        Partial(bind(_predict, **sizes)),
        Partial(bind(_update, refresh_every=refresh_every, **sizes)),
        Partial(bind(_leverage, **sizes)),
        Partial(bind(_sample, **sizes)),
    )


@eqx.filter_jit
def _init(regularization, key, *, num_arms, num_features, shared) -> RidgeState:
    models, dtype = 1 if shared else num_arms, regularization.dtype
    unit = jnp.broadcast_to(jnp.eye(num_features, dtype=dtype), (models, num_features, num_features))
    zeros = jnp.zeros((models, num_features), dtype)
    return RidgeState(regularization * unit, unit / regularization, zeros, zeros, jnp.int32(0))


def as_features(function: str, context, shape: tuple[int, ...], dtype) -> Array:
    """The context as an array, or a ValueError that names the expected shape."""
    if context is None or jnp.shape(context) != shape:
        got = "none" if context is None else f"shape {jnp.shape(context)}"
        raise ValueError(f"{function}: expects a context of shape {shape}, got {got}")
    return jnp.asarray(context, dtype)


def _features(state: RidgeState, context, num_arms, num_features, shared):
    shape = (num_arms, num_features) if shared else (num_features,)
    return as_features("ridge", context, shape, state.theta.dtype)


def _predict(state: RidgeState, context, **sizes):
    phi = _features(state, context, **sizes)
    return matmul(phi, state.theta[0]) if sizes["shared"] else matmul(state.theta, phi)


def _leverage(state: RidgeState, context, **sizes):
    phi = _features(state, context, **sizes)
    if sizes["shared"]:
        square = jnp.sum(matmul(phi, state.inverse[0]) * phi, axis=1)
    else:
        square = matmul(matmul(state.inverse, phi), phi)
    return jnp.maximum(square, 0)


def _sample(key, state: RidgeState, context, scale, **sizes):
    predicted = _predict(state, context, **sizes)
    if not sizes["shared"]:
        # Each arm has its own parameters, and only their product with phi matters: a normal number of known variance.
        spread = jnp.sqrt(_leverage(state, context, **sizes))
        return predicted + scale * spread * jax.random.normal(key, predicted.shape, predicted.dtype)
    normal = jax.random.normal(key, state.theta.shape[1:], predicted.dtype)
    around = solve_triangular(jnp.linalg.cholesky(state.gram[0]), normal, trans="T", lower=True)
    return predicted + scale * matmul(_features(state, context, **sizes), around)


def _update(state: RidgeState, context, action, loss, weight=1.0, *, refresh_every, **sizes) -> RidgeState:
    phi = _features(state, context, **sizes)
    model, row = (0, phi[action]) if sizes["shared"] else (action, phi)
    weight = jnp.asarray(weight, row.dtype)
    useful = (weight > 0) & jnp.isfinite(weight)
    root = jnp.sqrt(jnp.where(useful, weight, 0))
    row, target = jnp.where(useful, root * row, 0), root * loss
    gram = state.gram.at[model].add(jnp.outer(row, row))
    moment = state.moment.at[model].add(row * target)
    # The term subtracted is symmetric to the last bit, so the inverse stays symmetric after any number of rounds.
    v = matmul(state.inverse[model], row)
    one = state.inverse[model] - jnp.outer(v, v) / (1 + jnp.sum(row * v))
    inverse = state.inverse.at[model].set(one)
    theta = state.theta.at[model].set(jnp.where(useful, matmul(one, moment[model]), state.theta[model]))
    rounds = state.rounds + useful

    # A while loop of at most one pass. Under vmap a `cond` would compute the inverses in every round.
    def refresh(_):
        return jnp.bool_(False), *_solved(gram, moment)

    due = useful & (rounds % refresh_every == 0)
    _, inverse, theta = jax.lax.while_loop(lambda carry: carry[0], refresh, (due, inverse, theta))
    return RidgeState(gram, inverse, moment, theta, rounds)


def faded(state: RidgeState, start: RidgeState, discount) -> RidgeState:
    r"""$A \leftarrow \gamma A + (1 - \gamma)\lambda I$, $b \leftarrow \gamma b$, where $\lambda I$ is the A of
    `start`."""
    gram, moment = discount * state.gram + (1 - discount) * start.gram, discount * state.moment
    inverse, theta = _solved(gram, moment)
    return state._replace(gram=gram, inverse=inverse, moment=moment, theta=theta)


def _solved(gram, moment):
    """Inverses and coefficients of all models."""
    inverse = jax.vmap(_inverse)(gram)
    return inverse, jax.vmap(matmul)(inverse, moment)


def _inverse(gram):
    """The inverse of a positive definite matrix, exactly symmetric."""
    identity = jnp.eye(gram.shape[0], dtype=gram.dtype)
    half = solve_triangular(jnp.linalg.cholesky(gram), identity, lower=True)
    inverse = matmul(half.T, half)
    return (inverse + inverse.T) / 2


__all__ = ["Regressor", "RidgeState", "ridge"]
