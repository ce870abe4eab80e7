r"""What networks are made of: the affine map that `dense` is by default, activations, normalisations, rotations.

$\mathrm{gelu}(x) = x\,\Phi(x)$ with the exact normal distribution function; layer norm subtracts the mean of the last
axis and divides by its standard deviation, root-mean-square norm only divides by the root of the mean square; rotary
positions turn the pairs $(x_i, x_{i+d/2})$ by the angles $p\,\theta^{-2i/d}$.

Reference: D. Hendrycks, K. Gimpel 2016, arXiv:1606.08415; J. L. Ba, J. R. Kiros, G. E. Hinton 2016, arXiv:1607.06450;
B. Zhang, R. Sennrich 2019, arXiv:1910.07467; J. Su et al. 2021, arXiv:2104.09864, section 3.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsci.core import entry


def affine(
    name: str, x: Float[Array, "... i"], kernel: Float[Array, "i o"], bias: Float[Array, " o"] | None
) -> Float[Array, "... o"]:
    """The product of a layer, ``x @ kernel + bias``: what `dense` is unless another one is given.

    Args:
        name: of the layer, such as ``"layer_0.query"``: by it another `dense` exempts, mixes or calibrates layers.
        x: inputs.
        kernel: weights, inputs first.
        bias: None is none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import nn
        >>> print(nn.layers.affine("up", jnp.ones(2), 2 * jnp.eye(2), jnp.array([0.0, 1.0])))
        [2. 3.]
    """
    del name
    out = x @ kernel
    return out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)


def gelu(x: Float[Array, "*d"]) -> Float[Array, "*d"]:
    """The Gaussian error linear unit in its exact form; the tanh form differs by up to 4.7e-4.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import nn
        >>> print([f"{v:.3f}" for v in nn.layers.gelu(jnp.array([-1.0, 0.0, 1.0]))])
        ['-0.159', '0.000', '0.841']
    """
    return jax.nn.gelu(x, approximate=False)


def layer_norm(
    x: Float[Array, "... d"], scale: Float[Array, " d"], bias: Float[Array, " d"] | None, eps: float = 1e-5
) -> Float[Array, "... d"]:
    """Mean 0 and variance 1 along the last axis, then scale and bias; computed in at least float32.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import nn
        >>> print(nn.layers.layer_norm(jnp.array([1.0, 3.0]), jnp.ones(2), jnp.zeros(2)).round(2))
        [-1.  1.]
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    out = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + eps)
    return _scaled(out, scale, bias).astype(x.dtype)


def rms_norm(x: Float[Array, "... d"], scale: Float[Array, " d"], eps: float = 1e-5) -> Float[Array, "... d"]:
    """Root mean square 1 along the last axis, then scale; computed in at least float32.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import nn
        >>> print([f"{v:.3f}" for v in nn.layers.rms_norm(jnp.array([3.0, 4.0]), jnp.ones(2))])
        ['0.849', '1.131']
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    out = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)
    return _scaled(out, scale, None).astype(x.dtype)


def _scaled(x, scale, bias):
    lead = (1,) * (x.ndim - 1)
    out = x * scale.reshape(lead + scale.shape)
    return out if bias is None else out + bias.reshape(lead + bias.shape)


def rotary(
    x: Float[Array, "T heads d"], positions: Int[Array, " T"], base: float = 10_000.0
) -> Float[Array, "T heads d"]:
    """Turn the two halves of each head by angles that grow with the position: products of two such vectors depend on
    the difference of their positions alone. `d` is even.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import nn
        >>> x = jnp.ones((2, 1, 4))  # two positions, one head
        >>> print(nn.layers.rotary(x, jnp.array([0, 1]))[0, 0])
        [1. 1. 1. 1.]
    """
    half = x.shape[-1] // 2
    wide = jnp.promote_types(x.dtype, jnp.float32)
    angles = positions.astype(wide)[:, None] * base ** (-jnp.arange(half, dtype=wide) / half)[None]
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = x[..., :half].astype(wide), x[..., half:].astype(wide)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


__all__ = ["affine", "gelu", "layer_norm", "rms_norm", "rotary"]

entry.guard(globals())
