r"""Multilayer perceptron: $h_{l+1} = \phi(h_l W_l + b_l)$, the last layer without activation.

The product of a layer is the argument `dense`, so that another precision, a quantised product or a kernel enters
without another network.

Reference: D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by back-propagating errors", 1986;
initialisation: Y. LeCun, L. Bottou, G. B. Orr, K.-R. Müller, "Efficient BackProp", 1998, section 4.6.
"""

import itertools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxsci.core import entry, keys
from jaxsci.core.types import KeyArray
from jaxsci.nn import layers

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": layers.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
}
"""Names that `config` accepts."""


class Config(eqx.Module):
    """Sizes and activation of a perceptron; all static. Made by `config`.

    Attributes:
        num_in: entries of the input.
        hidden: width of each hidden layer.
        num_out: entries of the output.
        activation: a key of `ACTIVATIONS`.
    """

    num_in: int = eqx.field(static=True)
    hidden: tuple[int, ...] = eqx.field(static=True)
    num_out: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)


def config(num_in: int, hidden: Sequence[int], num_out: int, *, activation: str = "tanh") -> Config:
    """A validated configuration.

    Args:
        num_in: entries of the input (static).
        hidden: width of each hidden layer (static); empty is a linear map.
        num_out: entries of the output (static).
        activation: one of `ACTIVATIONS` (static).

    Raises:
        ValueError: a size below 1 or an unknown activation.

    Example:
        >>> from jaxsci import nn
        >>> print(nn.mlp.config(3, (16, 16), 1, activation="relu").hidden)
        (16, 16)
    """
    sizes = (num_in, *hidden, num_out)
    if any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"mlp.config: sizes must be integers >= 1, got {sizes}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"mlp.config: activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
    return Config(num_in, tuple(hidden), num_out, activation)


def init(key: KeyArray, cfg: Config, *, dtype=None) -> PyTree:
    """Parameters: kernels of variance 1/fan-in (normals cut off at two standard deviations), biases zero.

    Args:
        key: one typed key.
        cfg: from `config` (static).
        dtype: of the parameters; JAX's default floating dtype when None (static).

    Returns:
        A dict with ``kernel_i`` Float[in, out] and ``bias_i`` Float[out] for every layer i.

    Example:
        >>> import jax
        >>> from jaxsci import nn
        >>> params = nn.mlp.init(jax.random.key(0), nn.mlp.config(3, (4,), 2))
        >>> print({name: array.shape for name, array in params.items()})
        {'bias_0': (4,), 'bias_1': (2,), 'kernel_0': (3, 4), 'kernel_1': (4, 2)}
    """
    dtype = jnp.dtype(dtype) if dtype is not None else jnp.result_type(float)
    return _init(keys.as_typed_key(key, "mlp.init"), cfg, dtype)


@eqx.filter_jit
def _init(key, cfg, dtype):
    draw, sizes, params = jax.nn.initializers.lecun_normal(), (cfg.num_in, *cfg.hidden, cfg.num_out), {}
    for i, shape in enumerate(itertools.pairwise(sizes)):
        params[f"kernel_{i}"] = draw(jax.random.fold_in(key, i), shape, dtype)
        params[f"bias_{i}"] = jnp.zeros(shape[1], dtype)
    return params


def apply(
    params: PyTree, cfg: Config, x: Float[Array, "*batch num_in"], *, dense: Callable = layers.affine
) -> Float[Array, "*batch num_out"]:
    """The network's output for one input; batches by `jax.vmap` (leading axes of `x` pass through as well).

    Args:
        params: from `init`.
        cfg: the same configuration (static).
        x: one input, Float[num_in].
        dense: ``dense(name, x, kernel, bias) -> x @ kernel + bias`` in whatever arithmetic, with the names
            ``"layer_0"``, ``"layer_1"``, ... (static unless a Partial); a kernel may be any record that it understands.

    Returns:
        Float[num_out], differentiable in `params` and `x`.

    Raises:
        ValueError: the last axis of `x` is not `num_in`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.nn import mlp
        >>> cfg = mlp.config(2, (8, 8), 1)
        >>> params = mlp.init(jax.random.key(0), cfg)
        >>> print(mlp.apply(params, cfg, jnp.ones(2)).shape, params["kernel_1"].shape)
        (1,) (8, 8)
    """
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] != cfg.num_in:
        raise ValueError(f"mlp.apply: x must have shape ({cfg.num_in},), got {x.shape}")
    act, last = ACTIVATIONS[cfg.activation], len(cfg.hidden)
    for i in range(last + 1):
        x = dense(f"layer_{i}", x, params[f"kernel_{i}"], params[f"bias_{i}"])
        x = act(x) if i < last else x
    return x


__all__ = ["ACTIVATIONS", "Config", "apply", "config", "init"]

entry.guard(globals())
