r"""Numbers to codes and back: $q = \mathrm{code}(x / u)$, $\hat x = u\, l_q$, with one unit u a tile.

`encode` and `decode` are the one place where values become codes and codes values: what training sees (`fake_quantize`)
and what is stored and executed (`quantize`, `dequantize`) agree bit by bit. Uniform grids compute the code (floor
without zero, round half to even with it), the others look it up; ties go to the even code, as in floating-point
formats. Everything is computed in at least float32. A tile with a NaN has a NaN for its unit, so that all of its values
are NaN: trouble is not hidden by a code. A tile of zeros has a unit that is not zero.

Reference: A. Panferov et al. 2025, arXiv:2502.05003, section 3.1; rounding at random: S. Gupta et al. 2015,
arXiv:1502.02551.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core.keys import as_typed_key
from jaxsci.core.types import KeyArray, as_float
from jaxsci.quantization._hadamard import check_block, hadamard_transform
from jaxsci.quantization._packing import PLANE, check_packable, pack, unpack
from jaxsci.quantization._spec import QuantSpec, is_uniform
from pallas_kernels import hadamard_quantize

_KERNEL_BLOCKS = (0, 16, 32, 64, 128)
_SEARCHED = 32  # levels from which a binary search is cheaper than comparisons
_SHRINKS = 80  # hundredths of the largest magnitude that the scale "mse" tries


class QuantizedArray(eqx.Module):
    """An array as codes and units; made by `quantize`.

    Attributes:
        codes: int8: the codes, signed, or bytes that hold several (see `pack`).
        scale: the unit of each tile, with as many axes as the array; in at least float32.
        zero_point: the code of 0 of an affine grid, else None.
        spec: the format, its numbers in the dtype of `scale`.
        shape: of the array (static).
        dtype_name: of the array (static).
        plane: entries of a plane of the packed bytes, 0 where codes are not packed (static).
    """

    codes: Int[ArrayLike, "..."]
    scale: Float[ArrayLike, "..."]
    zero_point: Float[ArrayLike, "..."] | None
    spec: QuantSpec
    shape: tuple[int, ...] = eqx.field(static=True)
    dtype_name: str = eqx.field(static=True)
    plane: int = eqx.field(static=True)


def check_fits(function: str, x, spec: QuantSpec) -> int:
    """The axis of a format within `x`, or a message that says what does not fit.

    Raises:
        ValueError: the axis is not there, or a group or the transform's block does not divide it.
    """
    if not isinstance(spec, QuantSpec):
        raise TypeError(f"{function}: spec must come from quant_spec, got {type(spec).__name__}")
    if not -x.ndim <= spec.axis < x.ndim:
        raise ValueError(f"{function}: axis {spec.axis} of the format must lie within the {x.ndim} axes of x")
    axis = spec.axis % x.ndim
    size = x.shape[axis]
    if spec.group and size % spec.group:
        raise ValueError(f"{function}: group {spec.group} must divide the {size} entries of axis {axis}")
    if spec.hadamard:
        check_block(function, spec.hadamard, size, axis)
    return axis


def _tiled(x, spec: QuantSpec, axis: int):
    """`x` with its tiles along the axes that are returned."""
    if spec.granularity == "tensor":
        return x, tuple(range(x.ndim))
    if spec.granularity == "channel":
        return x, (axis,)
    return x.reshape(*x.shape[:axis], x.shape[axis] // spec.group, spec.group, *x.shape[axis + 1 :]), (axis + 1,)


def _stored(units, spec: QuantSpec, axis: int):
    """Units of tiles with the axes of the array; groups have given up the axis inside a group."""
    return jnp.squeeze(units, axis + 1) if spec.granularity == "group" else units


def _of_tiles(stored, spec: QuantSpec, axis: int):
    return jnp.expand_dims(stored, axis + 1) if spec.granularity == "group" else stored


def offset(spec: QuantSpec):
    """The place of code 0 in the table of levels."""
    return jnp.asarray(spec.count) // 2


def _codes(t, spec: QuantSpec, noise):
    """Signed codes, as floats, of numbers in units (of an affine grid: with the zero point added)."""
    count = jnp.asarray(spec.count, t.dtype)
    least = -jnp.floor(count / 2)
    if is_uniform(spec):
        if noise is not None:
            codes = jnp.floor(t - 0.5 + noise if spec.grid == "midrise" else t + noise)
        else:
            codes = jnp.floor(t) if spec.grid == "midrise" else jnp.round(t)
        return jnp.clip(codes, least, least + count - 1)
    levels = jnp.asarray(spec.levels, t.dtype)
    if noise is not None:
        low = jnp.clip(_number_below(levels, t, spec) - 1, 0, jnp.asarray(spec.count) - 2)
        left, right = levels[low], levels[low + 1]
        up = noise * (right - left) < jnp.clip(t, left, right) - left
        return (low + up).astype(t.dtype) + least
    borders = (levels[1:] + levels[:-1]) / 2
    # A tie goes to the even code: where that is the upper one, the border itself must count as above.
    even_above = (jnp.arange(1, levels.shape[0]) - offset(spec)) % 2 == 0
    borders = jnp.where(even_above & jnp.isfinite(borders), jnp.nextafter(borders, -jnp.inf), borders)
    return _number_below(borders, t, spec).astype(t.dtype) + least


def _number_below(sorted_values, t, spec: QuantSpec):
    """How many of some ascending values lie below each number."""
    if sorted_values.shape[0] > _SEARCHED:
        return jnp.searchsorted(sorted_values, t, side="left").astype(jnp.int32)
    lead = sorted_values.reshape(-1, *(1,) * t.ndim)
    shape = (sorted_values.shape[0], *t.shape)
    return jnp.sum(jnp.broadcast_to(t[None], shape) > jnp.broadcast_to(lead, shape), axis=0, dtype=jnp.int32)


def values_of(codes, units, zero, spec: QuantSpec):
    """What codes (floats) stand for."""
    if is_uniform(spec):
        if spec.grid == "midrise":
            codes = codes + 0.5
        return (codes if zero is None else codes - zero) * units
    return jnp.asarray(spec.levels, units.dtype)[codes.astype(jnp.int32) + offset(spec)] * units


def _units(x, spec: QuantSpec, axes):
    """Unit of each tile, and its zero point where the grid is affine."""
    step, eps = (jnp.asarray(leaf, x.dtype) for leaf in (spec.step, spec.eps))

    def unit(statistic):
        found = statistic * step + eps
        return jnp.where(found <= math.sqrt(np.finfo(x.dtype).tiny), jnp.ones_like(found), found)

    def along(reduce, a):
        return reduce(a, axis=axes, keepdims=True)

    if spec.scale == "rms":
        return unit(jnp.sqrt(along(jnp.mean, x * x))), None
    if spec.scale == "l1":
        return unit(math.sqrt(math.pi / 2) * along(jnp.mean, jnp.abs(x))), None
    if spec.scale == "fixed":
        nan = along(jnp.any, jnp.isnan(x))
        return unit(jnp.where(nan, jnp.nan, jnp.ones_like(nan, x.dtype))), None
    if spec.grid == "affine":
        low, high = jnp.minimum(along(jnp.min, x), 0), jnp.maximum(along(jnp.max, x), 0)
        found = unit(high - low)
        zero = jnp.round(-low / found) - jnp.asarray(spec.count // 2, x.dtype)
    else:
        found, zero = unit(along(jnp.max, jnp.abs(x))), None
    if spec.scale == "absmax":
        return found, zero

    def shrunk(i, best):
        least, chosen = best
        tried = found * (1 - 0.01 * jnp.asarray(i, x.dtype))
        error = along(jnp.sum, (_snapped(x, tried, zero, spec) - x) ** 2)
        better = error < least
        return jnp.where(better, error, least), jnp.where(better, tried, chosen)

    start = (jnp.full_like(found, jnp.inf), found)
    return jax.lax.fori_loop(0, _SHRINKS, shrunk, start)[1], zero


def _scaled(x, units, zero, spec):
    t = x / units
    return t if zero is None else t + zero


def _snapped(x, units, zero, spec):
    return values_of(_codes(_scaled(x, units, zero, spec), spec, None), units, zero, spec)


def _passes(x, units, zero, spec: QuantSpec):
    """Where the gradient passes: within the clipped grid, or up to `trust` beyond it."""
    clip, trust = (jnp.asarray(a, x.dtype) for a in (spec.clip_scale, spec.trust))
    low, high = _ends(zero, spec, x.dtype)
    inside = (x <= (clip * high + trust) * units) & (x >= (clip * low - trust) * units)
    return inside | jnp.isinf(clip)


def _ends(zero, spec: QuantSpec, dtype):
    """First and last level, in units."""
    levels = jnp.asarray(spec.levels, dtype)
    low, high = levels[0], levels[jnp.asarray(spec.count) - 1]
    if zero is None:
        return low, high
    shift = zero + offset(spec).astype(dtype)
    return low - shift, high - shift


def outside(x, scale, zero_point, spec: QuantSpec, axis: int):
    """Which entries lie beyond the first or the last level; `x` is transformed, unit and zero point are as stored."""
    tiles, _ = _tiled(x, spec, axis)
    units = _of_tiles(scale, spec, axis)
    low, high = _ends(None if zero_point is None else _of_tiles(zero_point, spec, axis), spec, x.dtype)
    return ((tiles > high * units) | (tiles < low * units)).reshape(x.shape)


def tile_magnitudes(x, spec: QuantSpec, axis: int):
    """The largest magnitude of each tile."""
    tiles, axes = _tiled(x, spec, axis)
    return jnp.max(jnp.abs(tiles), axis=axes)


def is_one_pass(spec: QuantSpec) -> bool:
    """Whether `hadamard_quantize` knows this format: that of QuEST, with the blocks that it has."""
    kind = spec.grid, spec.scale, spec.granularity
    return kind == ("midrise", "rms", "channel") and spec.hadamard in _KERNEL_BLOCKS


def _encode_in_one_pass(x, spec: QuantSpec, axis: int, output: str):
    """`encode` by the kernel; on a CPU that is its reference."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    count, step, clip, trust, eps = (
        jnp.asarray(a, wide) for a in (spec.count, spec.step, spec.clip_scale, spec.trust, spec.eps)
    )
    top = (count - 1) / 2  # the last level in units
    # values that are transformed back must not be rounded to the array's dtype in between
    x = x.astype(wide) if output == "values" and spec.domain == "full" else x
    found = hadamard_quantize(
        x,
        step * top,
        bits=jnp.round(jnp.log2(count)).astype(jnp.int32),
        output=output,
        block=max(spec.hadamard, 1),
        mask=output == "values",
        reach=clip + trust / top,
        eps=eps * top,
        axis=axis,
    )
    return found.value, found.mask, jnp.expand_dims(found.step, axis), None


def encode(x: Float[Array, "..."], spec: QuantSpec, key: KeyArray | None, axis: int, output: str):
    """Transform, units and codes of an array: the one place where numbers become codes, and where the kernel that does
    it in one pass enters.

    Returns:
        ``(codes, None, scale, zero_point)`` for the output "codes", codes as integers or floats, and
        ``(values, passes, scale, zero_point)`` for "values": what the codes stand for and where gradients pass; all of
        the shape of `x` and in the transformed domain; units and zero points as they are stored.
    """
    if key is None and is_one_pass(spec):
        return _encode_in_one_pass(x, spec, axis, output)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if spec.hadamard:
        wide = hadamard_transform(wide, spec.hadamard, axis)
    tiles, axes = _tiled(wide, spec, axis)
    units, zero = _units(tiles, spec, axes)
    noise = None if key is None else jax.random.uniform(as_typed_key(key, "quantize"), tiles.shape, tiles.dtype)
    t = _scaled(tiles, units, zero, spec)
    codes = _codes(jnp.where(jnp.isnan(t), 0, t), spec, noise)
    scale = _stored(units, spec, axis), None if zero is None else _stored(zero, spec, axis)
    if output == "codes":
        return codes.reshape(x.shape), None, *scale
    values, passes = values_of(codes, units, zero, spec), _passes(tiles, units, zero, spec)
    return values.reshape(x.shape), passes.reshape(x.shape), *scale


@eqx.filter_jit
def quantize(
    x: Float[ArrayLike, "..."], spec: QuantSpec, *, key: KeyArray | None = None, packed: bool = False
) -> QuantizedArray:
    r"""Codes and units of an array.

    Args:
        x: any shape, traced.
        spec: from `quant_spec`; its numbers are traced.
        key: round at random: to one of the two neighbours with probabilities whose mean is x; None rounds to the
            nearest.
        packed: put codes of 1, 2 or 4 bits into bytes along the format's axis, see `pack`; planes hold 128 entries, or
            the largest power of two that fills an axis too short for that (static).

    Returns:
        `QuantizedArray`. With a transform the codes are those of the transformed array. A tile with a NaN has a NaN for
        its unit; with an infinity its unit is infinite, unless it is fixed: then the infinity becomes the last level.

    Raises:
        ValueError: an axis that `x` lacks, a group or block that does not divide it, bits or sizes that cannot be
            packed.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.quantization import dequantize, formats, quant_spec, quantize
        >>> spec = quant_spec(formats.midtread(4), scale="absmax")
        >>> q = quantize(jnp.array([-7.0, 2.2, 0.4]), spec)
        >>> print(q.codes, q.scale, dequantize(q))
        [-7  2  0] [1.] [-7.  2.  0.]
    """
    x = as_float(x)
    axis = check_fits("quantize", x, spec)
    codes, _, scale, zero = encode(x, spec, key, axis, "codes")
    codes, plane = codes.astype(jnp.int8), 0
    if packed:
        if spec.bits is None:
            raise ValueError("quantize: formats of several numbers of bits were stacked; pack each with its own format")
        num_bytes = x.shape[axis] // check_packable("quantize", spec.bits, x.shape[axis], axis)
        plane = min(PLANE, num_bytes & -num_bytes)
        codes = pack(codes, spec.bits, axis, plane)
    spec = jax.tree.map(lambda a: jnp.asarray(a, scale.dtype if jnp.result_type(a) != jnp.int32 else jnp.int32), spec)
    return QuantizedArray(codes, scale, zero, spec, x.shape, str(x.dtype), plane)


def signed_codes(q: QuantizedArray) -> Int[Array, "..."]:
    """The codes of an array, unpacked: int8 of its shape."""
    return unpack(q.codes, q.spec.bits, q.spec.axis, q.plane) if q.plane else jnp.asarray(q.codes)


@eqx.filter_jit
def dequantize(q: QuantizedArray) -> Float[Array, "..."]:
    """The values that codes stand for: bit by bit those of `fake_quantize`.

    Args:
        q: from `quantize`, packed or not.

    Returns:
        The shape and dtype of the array; transformed if the format's domain is "half", transformed back if "full".

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> spec = quantization.quant_spec(quantization.formats.midtread(4), scale="absmax")
        >>> print(quantization.dequantize(quantization.quantize(jnp.array([-7.0, 2.2, 0.4]), spec)))
        [-7.  2.  0.]
    """
    spec, axis = q.spec, q.spec.axis % len(q.shape)
    scale = jnp.asarray(q.scale)
    codes, _ = _tiled(signed_codes(q).astype(scale.dtype), spec, axis)
    zero = None if q.zero_point is None else _of_tiles(jnp.asarray(q.zero_point), spec, axis)
    values = values_of(codes, _of_tiles(scale, spec, axis), zero, spec).reshape(q.shape)
    return finished(values, spec, axis).astype(q.dtype_name)


def finished(values, spec: QuantSpec, axis: int):
    """Values in the domain that the format asks for."""
    if spec.hadamard and spec.domain == "full":
        return hadamard_transform(values, spec.hadamard, axis)
    return values


__all__ = [
    "QuantizedArray",
    "check_fits",
    "dequantize",
    "encode",
    "finished",
    "is_one_pass",
    "offset",
    "outside",
    "quantize",
    "signed_codes",
    "tile_magnitudes",
    "values_of",
]
