r"""The digits network: a residual perceptron of (x, lambda, class) that predicts $v = \alpha\varepsilon - \sigma x_0$.

$h_0 = s(A x + B f(\lambda) + e_c)$, $h_l = h_{l-1} + s(W_l h_{l-1} + b_l)$ for l = 1, 2, and $v = C h_2 + c$, with the
activation $s(z) = z\,\mathrm{sigmoid}(z)$, the features $f = (\lambda/5, \sin\omega\lambda, \cos\omega\lambda)$ and one
embedding e for each class and one for "none".

References: T. Salimans, J. Ho, "Progressive Distillation", 2022, appendix D (v); M. Tancik et al., "Fourier Features
Let Networks Learn High Frequency Functions", 2020; J. Ho, T. Salimans, "Classifier-Free Diffusion Guidance", 2022.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core import extras, keys
from jaxsci.core.types import KeyArray, as_real

NUM_PIXELS = 64
"""Entries of an image, 8 rows of 8."""
NULL_LABEL = 10
"""The class that means none."""
_HIDDEN = 384
_FREQUENCIES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)


@functools.cache
def _module():
    """The flax module; built at first use, because flax is an extra."""
    linen = extras.require("flax.linen", "nets", "models.digits")

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x, lam, label):
            phases = lam[..., None] * jnp.asarray(_FREQUENCIES, x.dtype).reshape((1,) * lam.ndim + (-1,))
            features = jnp.concatenate([lam[..., None] / 5, jnp.sin(phases), jnp.cos(phases)], axis=-1)
            hidden = linen.Dense(_HIDDEN)(jnp.concatenate([x, features], axis=-1))
            hidden = jax.nn.silu(hidden + linen.Embed(NULL_LABEL + 1, _HIDDEN)(label).astype(hidden.dtype))
            for _ in range(2):
                hidden = hidden + jax.nn.silu(linen.Dense(_HIDDEN)(hidden))
            return linen.Dense(NUM_PIXELS)(hidden)

    return Network()


def init(key: KeyArray) -> PyTree:
    """Fresh parameters, float32 (some 350 thousand).

    Args:
        key: one typed key.

    Raises:
        ImportError: flax is missing (extra "nets").

    Example:
        >>> import jax
        >>> from jaxsci.models import digits
        >>> params = digits.init(jax.random.key(0))
        >>> print(sum(a.size for a in jax.tree.leaves(params)))
        356032
    """
    return _init(keys.as_typed_key(key, "digits.init"))


@jax.jit
def _init(key):
    return _module().init(key, jnp.zeros(NUM_PIXELS, jnp.float32), jnp.float32(0), jnp.int32(0))["params"]


def apply(
    params: PyTree, x: Float[Array, "*batch 64"], lam: Float[ArrayLike, "*batch"], label: Int[ArrayLike, "*batch"]
) -> Float[Array, "*batch 64"]:
    """The prediction of v for one noisy image; leading axes pass through.

    Args:
        params: from `init`, `train` or `load`.
        x: noisy image, alpha x_0 + sigma eps with x_0 in [-1, 1].
        lam: log(alpha / sigma) of its noise.
        label: class 0 to 9, or `NULL_LABEL`.

    Returns:
        v of the shape of x, differentiable in all but the label.

    Raises:
        ValueError: the last axis of x has not 64 entries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.models import digits
        >>> params = digits.init(jax.random.key(0))
        >>> print(digits.apply(params, jnp.zeros(64), jnp.float32(0.0), jnp.int32(3)).shape)
        (64,)
    """
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] != NUM_PIXELS:
        raise ValueError(f"digits.apply: x must have shape (..., {NUM_PIXELS}), got {x.shape}; flatten the images")
    return _module().apply({"params": params}, x, as_real(lam, x.dtype), jnp.asarray(label, jnp.int32))


__all__ = ["NULL_LABEL", "NUM_PIXELS", "apply", "init"]
