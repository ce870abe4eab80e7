r"""The `Regressor` protocol, with which contextual policies predict losses, and ridge regression.

Ridge keeps, for each arm or for all together, the upper triangular root R of $A = \lambda I + \sum \phi\phi^\top =
R^\top R$ and $z = R^{-\top}\sum y\phi$; the coefficients are $\hat\theta = R^{-1}z$, and a play costs $d^2$
(`_rotations.py`). A itself is never formed: in single precision a ridge over features of the sizes 1 and $10^4$ would
lose all digits of A, while R keeps half of them.

References: Abbasi-Yadkori, Pál, Szepesvári 2011, Improved algorithms for linear stochastic bandits, section 4; Foster
and Rakhlin 2020, Beyond UCB (regression oracles).
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.bandits._rotations import append_row
from jaxsci.core import entry, status, tree
from jaxsci.core.keys import unrolled
from jaxsci.core.policies import as_context, as_update, check_num_arms
from jaxsci.core.precision import matmul
from jaxsci.core.protocols import finite_status
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
        status: ``status(state)``: bits of what went wrong, as of a policy; policies over a regressor hand it on.
    """

    init: Callable[..., PyTree]
    predict: Callable[..., Float[Array, " K"]]
    update: Callable[..., PyTree]
    leverage: Callable[..., Float[Array, " K"]] | None = None
    sample: Callable[..., Float[Array, " K"]] | None = None
    status: Callable[[PyTree], Int[Array, ""]] = Partial(finite_status)


class RidgeState(NamedTuple):
    r"""Ridge regression of M models: one for each arm, or a single one for all arms; w is the weight of a play.

    Attributes:
        factor: (R, z): R is upper triangular with a diagonal >= 0, $R^\top R = \lambda I + \sum w\,\phi\phi^\top$, and
            $z = R^{-\top}\sum w\,y\,\phi$ of losses y is its last column.
        rest: what rounding has left of the sums in `factor`.
        theta: coefficients $\hat\theta = R^{-1}z$.
        rounds: losses learnt by all models together.
        status: NONFINITE_UPDATE once a play was left out because its sums overflowed; 0 = ok.
    """

    factor: Float[Array, "M d d+1"]
    rest: Float[Array, "M d d+1"]
    theta: Float[Array, "M d"]
    rounds: Int[Array, ""]
    status: Int[Array, ""]


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
) -> Regressor:
    r"""Ridge regression of losses on features: $\hat\theta = A^{-1}\sum y\phi$, $A = \lambda I + \sum\phi\phi^\top$.

    Args:
        num_arms: K, static.
        num_features: d, static.
        regularization: $\lambda$ > 0, traced.
        shared: False, one $\theta$ for each arm and a context Float[d] common to them; True, one $\theta$ for all
            and a context Float[K, d] of features of the arms. Static.

    Returns:
        A `Regressor` with leverage and sample; its state is a `RidgeState`. Losses have any range. Its status says
        SINGULAR where some feature is, to rounding, a combination of the others and the regularisation is too small to
        tell them apart: then the coefficients mean nothing, and predictions hold only for features like those seen.

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
    regularization = as_float(regularization)
    sizes = {"num_arms": num_arms, "num_features": num_features, "shared": bool(shared)}
    return Regressor(
        Partial(bind(_init, **sizes), regularization),
        Partial(bind(_predict, **sizes)),
        Partial(bind(_update, **sizes)),
        Partial(bind(_leverage, **sizes)),
        Partial(bind(_sample, **sizes)),
        Partial(_status),
    )


@eqx.filter_jit
def _init(regularization, key, *, num_arms, num_features, shared) -> RidgeState:
    models, dtype = 1 if shared else num_arms, regularization.dtype
    unit = jnp.broadcast_to(jnp.eye(num_features, dtype=dtype), (models, num_features, num_features))
    zeros = jnp.zeros((models, num_features), dtype)
    factor = jnp.concatenate([jnp.sqrt(regularization) * unit, zeros[..., None]], axis=2)
    return RidgeState(factor, jnp.zeros_like(factor), zeros, jnp.int32(0), jnp.int32(status.OK))


def _features(state: RidgeState, context, num_arms, num_features, shared):
    shape = (num_arms, num_features) if shared else (num_features,)
    return as_context("ridge", context, shape, state.theta.dtype)


def _predict(state: RidgeState, context, **sizes):
    phi = _features(state, context, **sizes)
    return matmul(phi, state.theta[0]) if sizes["shared"] else matmul(state.theta, phi)


def _leverage(state: RidgeState, context, **sizes):
    """phi^T A^{-1} phi = |R^{-T} phi|^2 for each arm."""
    phi = _features(state, context, **sizes)
    if sizes["shared"]:
        half = solve_triangular(state.factor[0, :, :-1], phi.T, trans="T").T
    else:
        half = jax.vmap(lambda factor: solve_triangular(factor[:, :-1], phi, trans="T"))(state.factor)
    return jnp.sum(half**2, axis=1)


def _sample(key, state: RidgeState, context, scale, **sizes):
    predicted = _predict(state, context, **sizes)
    if not sizes["shared"]:
        # Each arm has its own parameters, and only their product with phi matters: a normal number of known variance.
        spread = jnp.sqrt(_leverage(state, context, **sizes))
        return predicted + scale * spread * jax.random.normal(unrolled(key), predicted.shape, predicted.dtype)
    normal = jax.random.normal(unrolled(key), state.theta.shape[1:], predicted.dtype)
    around = solve_triangular(state.factor[0, :, :-1], normal)
    return predicted + scale * matmul(_features(state, context, **sizes), around)


def _update(state: RidgeState, context, action, loss, weight=1.0, **sizes) -> RidgeState:
    phi = _features(state, context, **sizes)
    model, row = (0, phi[action]) if sizes["shared"] else (action, phi)
    weight = jnp.asarray(weight, row.dtype)
    useful = (weight > 0) & jnp.isfinite(weight)
    measured = jnp.append(row, jnp.asarray(loss, row.dtype)) * jnp.sqrt(jnp.where(useful, weight, 0))
    before = state.factor[model], state.rest[model], state.theta[model]
    factor, rest, _ = append_row(*before[:2], jnp.where(useful, measured, 0))
    after = factor, rest, _coefficients(factor)
    taken = useful & tree.all_finite(after)
    factor, rest, theta = tree.where(taken, after, before)
    return RidgeState(
        state.factor.at[model].set(factor),
        state.rest.at[model].set(rest),
        state.theta.at[model].set(theta),
        state.rounds + taken,
        state.status | status.flag(useful & ~taken, status.NONFINITE_UPDATE),
    )


def _coefficients(factor):
    """R^{-1} z."""
    return solve_triangular(factor[:, :-1], factor[:, -1])


def _status(state: RidgeState) -> Int[Array, ""]:
    """A column of R whose part off the columns before it is below rounding depends on them."""
    eps, root = jnp.finfo(state.factor.dtype).eps, state.factor[..., :-1]
    own = jnp.diagonal(root, axis1=1, axis2=2)
    dependent = own <= eps * own.shape[1] * jnp.max(jnp.abs(root), axis=1)
    return state.status | status.flag(jnp.any(dependent), status.SINGULAR)


def faded(state: RidgeState, start: RidgeState, discount) -> RidgeState:
    r"""$A \leftarrow \gamma A + (1 - \gamma)\lambda I$ and $\sum y\phi \leftarrow \gamma\sum y\phi$; the A of
    `start` is $\lambda I$.

    The new root is that of the rows $\sqrt\gamma\,(R, z)$ above $\sqrt{(1-\gamma)\lambda}\,(I, 0)$.
    """
    kept, prior = jnp.sqrt(discount) * state.factor, jnp.sqrt(1 - discount) * start.factor
    factor = jnp.triu(jnp.linalg.qr(jnp.concatenate([kept, prior], axis=1), mode="r")[:, :-1])
    factor = jnp.where(jnp.diagonal(factor, axis1=1, axis2=2)[..., None] < 0, -factor, factor)
    return state._replace(factor=factor, rest=jnp.zeros_like(factor), theta=jax.vmap(_coefficients)(factor))


__all__ = ["Regressor", "RidgeState", "ridge"]

entry.hold(globals(), "_init", "_learn", "_leverage", "_predict", "_sample", "_status", "_update")
