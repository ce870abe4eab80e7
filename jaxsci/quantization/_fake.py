r"""Quantised values that gradients pass: the estimators of quantisation-aware training.

With the transform H, codes q and the mask M of `QuantSpec`, $\hat x = u\,l_{q(Hx)}$ and
$\partial L/\partial x = H\,(M \odot \partial L/\partial\hat x)$; in the domain "full" the values are transformed back
and so is the cotangent. Units get no gradient. A masked entry is one of the transformed array: its gradient is shared
by all entries of its block, so that entries far outside the grid still move.

Reference: A. Panferov et al. 2025, arXiv:2502.05003, section 3.2.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core.types import KeyArray, as_float
from jaxsci.quantization._hadamard import hadamard_transform
from jaxsci.quantization._quantize import check_fits, encode, finished, is_one_pass
from jaxsci.quantization._spec import QuantSpec


@jax.custom_vjp
def _fake(x, spec: QuantSpec, key):
    return _forward(x, spec, key)[0]


def _forward(x, spec: QuantSpec, key):
    # `encode` transforms and quantises; what stands in for it there serves training and packed networks alike.
    axis = spec.axis % x.ndim
    values, passes, _, _ = encode(x, spec, key, axis, "values")
    return finished(values, spec, axis).astype(x.dtype), (passes, spec)


def _backward(saved, cotangent):
    passes, spec = saved
    axis = spec.axis % passes.ndim
    wide = cotangent.astype(jnp.promote_types(cotangent.dtype, jnp.float32))
    wide = jnp.where(passes, finished(wide, spec, axis), 0)
    if spec.hadamard:
        wide = hadamard_transform(wide, spec.hadamard, axis)
    return wide.astype(cotangent.dtype), None, None


_fake.defvjp(_forward, _backward)


@eqx.filter_jit
def fake_quantize(x: Float[ArrayLike, "..."], spec: QuantSpec, *, key: KeyArray | None = None) -> Float[Array, "..."]:
    r"""The values of the quantised array, with the gradient of the format's estimator.

    Args:
        x: any shape, traced.
        spec: from `quant_spec`; its numbers are traced, so that bits, clipping and trust are axes of a vmap.
        key: round at random, see `quantize`.

    Returns:
        ``dequantize(quantize(x, spec, key=key))`` bit by bit. Differentiable in `x` alone, in reverse mode.

    Raises:
        ValueError: see `quantize`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.quantization import fake_quantize, formats, quant_spec
        >>> spec = quant_spec(formats.midrise(2), scale="fixed", unit=1.0, estimator="trust")
        >>> x = jnp.array([0.2, 1.9, 2.1])
        >>> print(fake_quantize(x, spec), jax.grad(lambda x: fake_quantize(x, spec).sum())(x))
        [0.5 1.5 1.5] [1. 1. 0.]
    """
    x = as_float(x)
    axis = check_fits("fake_quantize", x, spec)
    if key is None and is_one_pass(spec):  # the kernel has a gradient of its own, the same
        return finished(encode(x, spec, None, axis, "values")[0], spec, axis).astype(x.dtype)
    return _fake(x, spec, key)


__all__ = ["fake_quantize"]
