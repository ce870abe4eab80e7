r"""A perceptron that ranks decisions: scores s fitted by $\sum_{L_i < L_j}\log(1 + e^{s_i - s_j})$.

Only the order of the losses enters, so outliers do not matter and infinite losses may take part.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsci import nn
from jaxsci.core import extras, train


@eqx.filter_jit
def _features(d, where) -> Float[Array, " f"]:
    """What the predictor sees: normalised nodes, one-hot decisions of every row, zeros in rows that do not exist."""
    dtype, (low, high) = where.ends.dtype, where.ends
    row = jnp.arange(where.num_rows)
    rows = jnp.concatenate(
        [
            jax.nn.one_hot(d.kind, 3, dtype=dtype), jax.nn.one_hot(d.order - 1, 4, dtype=dtype),
            jax.nn.one_hot(d.start, 3, dtype=dtype), d.points[:, 0].sum(-1, keepdims=True).astype(dtype) / 3,
            (10 * d.coefficient)[:, None], d.corrector[:, None].astype(dtype), jnp.ones((where.num_rows, 1), dtype),
        ],
        axis=1,
    )  # fmt: skip
    rows = jnp.where((row < d.num_rows)[:, None], rows, 0)
    nodes = (d.lam - low) / (high - low)
    return jnp.concatenate([nodes, jnp.diff(nodes), rows.ravel(), jax.nn.one_hot(d.first, 3, dtype=dtype)])


@jax.jit
def _ranking_loss(scores: Float[Array, " n"], losses: Float[Array, " n"]) -> Float[Array, ""]:
    r"""Mean of $\log(1 + e^{s_i - s_j})$ over pairs with $L_i < L_j$; losses that are not finite take no part as i."""
    better = (losses[:, None] < losses[None, :]) & ~jnp.isnan(losses)[None, :]
    pair = jax.nn.softplus(scores[:, None] - scores[None, :])
    return jnp.sum(jnp.where(better, pair, 0)) / jnp.maximum(jnp.sum(better), 1)


@eqx.filter_jit
def _fit(key, cfg, inputs, losses, num_steps: int):
    """Parameters of the predictor; rows of NaN losses are padding."""
    optax = extras.require("optax", "nets", "search.search with a predictor")
    params = nn.mlp.init(key, cfg, dtype=inputs.dtype)

    def loss(params, batch, key):
        return _ranking_loss(_scores(params, cfg, inputs), losses)

    optimizer = optax.adamw(3e-3, weight_decay=1e-3)
    return train.run(key, loss, params, lambda key, i: (), optimizer=optimizer, num_steps=num_steps).value


@eqx.filter_jit
def _scores(params, cfg, inputs):
    return jax.vmap(lambda x: nn.mlp.apply(params, cfg, x)[0])(inputs)
