r"""Rows times a block-diagonal Hadamard matrix, scaled by their root mean square, quantised and packed, in one pass.

.. math:: y = x H / \sqrt B, \quad s = c \sqrt{\overline{x^2}} + \epsilon, \quad \Delta = \frac{2 s}{N - 1}, \quad
          q = \mathrm{clip}(\lfloor y / \Delta \rfloor, -N/2, N/2 - 1), \quad \hat y = \Delta (q + 1/2)

H has Sylvester's matrices of order B along its diagonal. It is orthonormal up to its scale, so the root mean square of
y is that of x and needs no transform. The grid is the mid-rise one: N = 2^bits levels, none of them 0.

Reference: Panferov et al. 2025, QuEST: Stable Training of LLMs with 1-Bit Weights and Activations, arXiv:2502.05003.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels import _dispatch
from pallas_kernels.hadamard_quantize import reference
from pallas_kernels.hadamard_quantize.reference import PLANE, Static

_BLOCKS, _OUTPUTS, _PACKED = (1, 16, 32, 64, 128), ("codes", "packed", "values"), (1, 2, 4, 8)


class HadamardQuantized(NamedTuple):
    """What `hadamard_quantize` returns.

    Attributes:
        value: codes, bytes of packed codes, or dequantised values, as `output` says.
        step: distance of two levels in each row.
        mask: whether an entry is within reach of the grid; None where it was not asked for.
    """

    value: Int[Array, "... columns"] | Float[Array, "... columns"]
    step: Float[Array, "..."]
    mask: Bool[Array, "... n"] | None


def hadamard_quantize(
    x: Float[Array | np.ndarray, "... n"],
    clip_factor: Float[Array | np.ndarray, ""] | float,
    *,
    bits: int | Int[Array | np.ndarray, ""],
    output: str = "codes",
    block: int = 128,
    mask: bool = False,
    reach: Float[Array | np.ndarray, ""] | float | None = None,
    eps: Float[Array | np.ndarray, ""] | float = 1e-8,
    axis: int = -1,
    implementation: str | None = None,
) -> HadamardQuantized:
    r"""Transform, scale of every row, mid-rise quantisation and packing along the last axis, or another.

    The mask of the trust estimator is ``|y| <= reach * s``, with y after the transform and s = step · (N - 1) / 2. By
    default it reaches half a step beyond the last level.

    Bits 1, 2 and 4 are packed by planes of 128 columns: byte r of the j-th group of 128 · 8 / bits columns holds in its
    bits p·bits to (p + 1)·bits - 1 the code of column 128 (8 / bits) j + 128 p + r; with 4 bits as two's complement,
    with 1 and 2 as q + N/2. Eight bits are the codes themselves.

    Roofline, itemsize b bytes: reads b bytes an element once from memory (twice from cache), writes bits / 8 (packed),
    1 (codes) or b (values), and 1 for the mask; 2 · 128 operations an element in bfloat16, three times as many in
    float32 (three exact parts of bfloat16): bound by memory bandwidth. On TPU rows and columns are padded to whole
    tiles first, where they are none.

    Args:
        x: (..., n), real floating; each row along the last axis has a scale of its own; n is a multiple of `block`,
            and of 128 · 8 / bits where it is packed (with 8 bits any n is); traced.
        clip_factor: c > 0, outermost level in root mean squares; traced.
        bits: from 1 to 8 (not checked where it is traced); traced or static, for packing static (1, 2, 4 or 8).
        output: "codes" (int8), "packed" (int8, n · bits / 8 columns) or "values" (the dtype of x, after the transform);
            static.
        block: order B of the Hadamard matrices: 16, 32, 64, 128, or 1 for none; static.
        mask: whether to return the mask; static.
        reach: half-width of the mask in units of s; None is N / (N - 1); traced.
        eps: added to the scale, so that a row of zeros has one; traced.
        axis: along which a row runs, instead of the last; a CPU then turns nothing around; static.
        implementation: None picks by platform; "reference", "tpu", "gpu", "interpret" or "tpu_interpret"; static.

    Returns:
        HadamardQuantized(value, step (...) at least float32, mask (..., n) or None), rows along `axis`. Sums are in at
        least float32.
        Nothing is hidden: a row with a NaN has step NaN, one with an infinity (or whose squares overflow) an infinite
        or NaN step, and so have its values; its codes are 0, for want of a code that says so. A row of zeros has codes
        0.

    Raises:
        ValueError: sizes that do not divide, bits, block or output out of range, an axis that x lacks, an array that
            should be a scalar, implementation is unknown or cannot run.
        TypeError: x is not real floating, bits is no integer, or is traced and to be packed.

    With ``output="values"`` differentiable once, in reverse mode and in x alone, by the trust estimator:
    the cotangent of x is that of the values times the mask, transformed back. Everything else is a constant. The
    reference and the kernels give equal codes, except where their sums differ in the last bits and an entry lies
    within that of a border.

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels import hadamard_quantize
        >>> x = jnp.sin(jnp.arange(512.0)).reshape(2, 256)
        >>> out = hadamard_quantize(x, 2.514, bits=4, output="packed")
        >>> out.value.shape, out.value.dtype, bool(jnp.allclose(out.step, 0.237, atol=1e-3)), out.mask
        ((2, 128), dtype('int8'), True, None)

    References: Panferov et al. 2025, section 3 and appendix A.
    """
    x = jnp.asarray(x)
    if x.ndim and not -x.ndim <= axis < x.ndim:
        raise ValueError(f"hadamard_quantize: axis must lie within the {x.ndim} axes of x, got {axis}")
    last = axis in (-1, x.ndim - 1)
    x = x if last else jnp.moveaxis(x, axis, 0)
    static = _check(x, bits, output, block, mask, not last)
    for name, value in (("clip_factor", clip_factor), ("reach", reach), ("eps", eps), ("bits", bits)):
        if value is not None and jnp.ndim(value) != 0:
            raise ValueError(
                f"hadamard_quantize: {name} must be a scalar, got shape {jnp.shape(value)}; use jax.vmap over several"
            )
    # JAX 0.11 compiles anew what it traced while Pallas was first imported.
    _dispatch._module("_compat")
    found = _compiled(x, clip_factor, jnp.asarray(bits, jnp.int32), reach, eps, static, implementation)
    if last:
        return found
    value, inside = (None if a is None else jnp.moveaxis(a, 0, axis) for a in (found.value, found.mask))
    return HadamardQuantized(value, found.step, inside)


def transform(x: Float[Array | np.ndarray, "... n"], block: int = 128) -> Float[Array, "... n"]:
    r"""The last axis times the orthonormal block-diagonal Hadamard matrix, :math:`x H / \sqrt B`; its own inverse.

    Args:
        x: (..., n), real floating, n a multiple of `block`; traced.
        block: order B of the matrices, a power of two, 1 for none; static.

    Returns:
        (..., n) in the dtype of x. Differentiable; sums are in at least float32.

    Raises:
        ValueError: block is no power of two, or n no multiple of it.
        TypeError: x is not real floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from pallas_kernels.hadamard_quantize import transform
        >>> transform(jnp.arange(4.0), 4).tolist()
        [3.0, -1.0, -2.0, 0.0]

    References: Sylvester 1867, Thoughts on inverse orthogonal matrices.
    """
    x = jnp.asarray(x)
    _check_floating(x, "transform")
    block = operator.index(block)
    if block < 1 or block & (block - 1):
        raise ValueError(f"transform: block must be a power of two, got {block}")
    _check_columns(x, block, "transform")
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return (reference.rotate(x.astype(wide), block) * reference.norm(block)).astype(x.dtype)


def _check_floating(x, who: str) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{who}: x must have a real floating dtype, got {x.dtype}; cast it first")


def _check_columns(x, multiple: int, who: str, why: str = "the block", axis: int = -1) -> None:
    if x.ndim == 0 or x.size == 0 or x.shape[axis] % multiple:
        which = "last axis of x" if axis else "axis of rows, moved to the front,"
        raise ValueError(
            f"{who}: the {which} must be a multiple of {multiple} ({why}) and nothing of length 0, got shape "
            f"{x.shape}; pad it, or take a block that divides it"
        )


def _check(x, bits, output, block, mask, columns) -> Static:
    _check_floating(x, "hadamard_quantize")
    if output not in _OUTPUTS:
        raise ValueError(f"hadamard_quantize: output must be one of {', '.join(_OUTPUTS)}, got {output!r}")
    if block not in _BLOCKS:
        raise ValueError(f"hadamard_quantize: block must be one of {', '.join(map(str, _BLOCKS))}, got {block!r}")
    if not jnp.issubdtype(jnp.result_type(bits), jnp.integer):
        raise TypeError(f"hadamard_quantize: bits must be an integer, got {jnp.result_type(bits)}")
    axis = 0 if columns else -1
    _check_columns(x, block, "hadamard_quantize", axis=axis)
    concrete = None if isinstance(bits, jax.core.Tracer) or jnp.ndim(bits) else int(bits)
    if concrete is not None and not 1 <= concrete <= 8:
        raise ValueError(f"hadamard_quantize: bits must lie between 1 and 8, got {concrete}")
    if output != "packed":
        return Static(output, 0, block, bool(mask), columns)
    if concrete is None:
        raise TypeError("hadamard_quantize: packed codes need bits as a Python integer, got a traced array")
    if concrete not in _PACKED:
        raise ValueError(f"hadamard_quantize: packed codes have 1, 2, 4 or 8 bits, got {concrete}; take codes instead")
    if concrete == 8:  # a code a byte
        return Static("codes", 0, block, bool(mask), columns)
    _check_columns(x, PLANE * 8 // concrete, "hadamard_quantize", f"planes of {PLANE} columns, {concrete} bits", axis)
    return Static(output, concrete, block, bool(mask), columns)


@functools.partial(jax.jit, static_argnums=(5, 6))
def _compiled(x, clip_factor, bits, reach, eps, static, implementation):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    levels = jnp.left_shift(jnp.int32(1), bits).astype(wide)
    reach = levels / (levels - 1) if reach is None else reach
    numbers = [jnp.asarray(v, wide) for v in (clip_factor, 2 / (levels - 1), levels / 2, reach, eps)]
    numbers = jax.lax.stop_gradient(jnp.stack(numbers).reshape(1, 5))
    rows = x.reshape(x.shape[0], -1) if static.columns else x.reshape(-1, x.shape[-1])
    if static.output == "values":
        value, step, *mask = _values(static, implementation, rows, numbers)
    else:
        value, step, *mask = _run(static, implementation, jax.lax.stop_gradient(rows), numbers)
    shape = x.shape[1:] if static.columns else x.shape[:-1]
    mask = mask[0].reshape(x.shape) if static.mask else None
    whole = (value.shape[0], *shape) if static.columns else (*shape, value.shape[1])
    return HadamardQuantized(value.reshape(whole), step.reshape(shape), mask)


def _run(static, implementation, x, numbers):
    return _dispatch.run("hadamard_quantize", x, numbers, implementation=implementation, static=static)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _values(static, implementation, x, numbers):
    return _run(static, implementation, x, numbers)


def _values_forward(static, implementation, x, numbers):
    value, step, mask = _run(static._replace(mask=True), implementation, x, numbers)
    return (value, step, mask)[: 2 + static.mask], (mask.astype(jnp.int8), numbers)


def _values_backward(static, implementation, kept, cotangents):
    mask, numbers = kept
    slope = _dispatch.run(
        "hadamard_quantize._backward", cotangents[0], mask, implementation=implementation, block=static.block,
        columns=static.columns,
    )  # fmt: skip
    return slope, jnp.zeros_like(numbers)


_values.defvjp(_values_forward, _values_backward)

__all__ = ["HadamardQuantized", "hadamard_quantize", "transform"]
