r"""Grids of few levels: uniform ones with and without zero, Lloyd-Max, small floating-point formats, NF4.

A grid is a table of levels in units of its own; a value is ``unit * level``. Uniform levels are whole numbers of steps,
with zero (mid-tread: $x = uq$) or half a step beside them, without zero (mid-rise: $x = u(q + \frac12)$). All grids are
interchangeable in `quantization.quant_spec`; `gaussian` tells the unit at which a grid is best for normal variables.

References: J. Max 1960, IRE Trans. Inf. Theory 6, 7-12 (Lloyd-Max); B. Darvish Rouhani et al. 2023, arXiv:2310.10537
(e2m1); P. Micikevicius et al. 2022, arXiv:2209.05433 (e4m3, e5m2); T. Dettmers et al. 2023, arXiv:2305.14314 (NF4).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxsci.core import entry
from jaxsci.core.static import check_size
from jaxsci.core.types import concrete
from jaxsci.quantization import _gaussian


class Grid(NamedTuple):
    """A table of levels.

    Attributes:
        name: of the family: ``"midrise"``, ``"midtread"``, ``"affine"``, ``"lloyd"``, ``"e2m1"``, ...
        levels: ascending, in units of the grid, float64.
        bits: of a packed code: the least b with ``2**b >= len(levels)``.
    """

    name: str
    levels: Float[np.ndarray, " count"]
    bits: int


class Gaussian(NamedTuple):
    """What a grid does to a standard normal variable.

    Attributes:
        unit: at which the error is least (of `reference`: the published one).
        clip: the last level there, ``unit * levels[-1]``.
        error: mean squared error there.
        half_gap: half of the widest gap between levels, in standard deviations.
    """

    unit: float
    clip: float
    error: float
    half_gap: float


def _bits(function: str, bits: int, least: int) -> int:
    bits = check_size(f"formats.{function}", "bits", bits, least=least)
    if bits > 8:
        raise ValueError(f"formats.{function}: bits must lie in {least} to 8, got {bits}; codes are held in 8 bits")
    return bits


def midrise(bits: int) -> Grid:
    r"""The ``2**bits`` levels $q + \frac12$, q from $-2^{b-1}$: no zero; with one bit the sign.

    Args:
        bits: 1 to 8.

    Raises:
        ValueError: another number of bits. Three levels exist as `ternary`.

    Example:
        >>> from jaxsci.quantization import formats
        >>> print(formats.midrise(2).levels)
        [-1.5 -0.5  0.5  1.5]
    """
    bits = _bits("midrise", bits, 1)
    return Grid("midrise", np.arange(2**bits) - (2**bits - 1) / 2, bits)


def midtread(bits: int, *, full: bool = False) -> Grid:
    r"""Whole numbers from $-q$ to $q = 2^{b-1} - 1$; `full` adds $-2^{b-1}$.

    Args:
        bits: 2 to 8. Two bits are three levels, log2(3) = 1.585 bits: see `ternary`.
        full: whether the extra negative level is used.

    Raises:
        ValueError: another number of bits.

    Example:
        >>> from jaxsci import quantization
        >>> print(quantization.formats.midtread(3).levels)
        [-3. -2. -1.  0.  1.  2.  3.]
    """
    bits = _bits("midtread", bits, 2)
    most = 2 ** (bits - 1) - 1
    return Grid("midtread", np.arange(-most - bool(full), most + 1.0), bits)


def ternary() -> Grid:
    """The three levels -1, 0, 1: 1.585 bits, packed in two.

    Example:
        >>> from jaxsci import quantization
        >>> print(quantization.formats.ternary().levels)
        [-1.  0.  1.]
    """
    return midtread(2)


def affine(bits: int) -> Grid:
    r"""Codes from 0 to $2^b - 1$ that a whole zero point shifts, $x = u(q - z)$: for ranges that are not symmetric.

    Args:
        bits: 2 to 8.

    Raises:
        ValueError: another number of bits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> spec = quantization.quant_spec(quantization.formats.affine(2), scale="absmax")
        >>> print(quantization.fake_quantize(jnp.array([0.0, 1.2, 3.0]), spec))
        [0. 1. 3.]
    """
    bits = _bits("affine", bits, 2)
    return Grid("affine", np.arange(2.0**bits), bits)


def lloyd(bits: int) -> Grid:
    """The ``2**bits`` levels of least error for a standard normal variable, in standard deviations.

    Args:
        bits: 1 to 8.

    Raises:
        ValueError: another number of bits.

    Example:
        >>> from jaxsci import quantization
        >>> print(quantization.formats.lloyd(1).levels.round(3))
        [-0.798  0.798]
    """
    bits = _bits("lloyd", bits, 1)
    return Grid("lloyd", np.asarray(_gaussian.lloyd_max(2**bits)), bits)


def _symmetric(magnitudes) -> np.ndarray:
    positive = np.asarray(magnitudes, np.float64)
    return np.concatenate([-positive[:0:-1], positive])


def e2m1() -> Grid:
    """The four-bit floating-point numbers 0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> spec = quantization.quant_spec(quantization.formats.e2m1(), scale="absmax")
        >>> print(quantization.fake_quantize(jnp.array([6.0, 2.4, 0.6]), spec))
        [6.  2.  0.5]
    """
    return Grid("e2m1", _symmetric([0, 0.5, 1, 1.5, 2, 3, 4, 6]), 4)


def _float8(name: str, dtype) -> Grid:
    values = np.arange(128, dtype=np.uint8).view(dtype).astype(np.float64)
    return Grid(name, _symmetric(values[np.isfinite(values)]), 8)


def e4m3() -> Grid:
    """The finite eight-bit numbers of four exponent and three mantissa bits, to 448; larger ones become 448.

    A code is the number's bit pattern without its sign bit, negative for negative numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> spec = quantization.quant_spec(quantization.formats.e4m3(), scale="absmax")
        >>> print(quantization.fake_quantize(jnp.array([448.0, 17.0]), spec))
        [448.  16.]
    """
    return _float8("e4m3", jnp.float8_e4m3fn)


def e5m2() -> Grid:
    """The finite eight-bit numbers of five exponent and two mantissa bits, to 57344; codes as those of `e4m3`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> spec = quantization.quant_spec(quantization.formats.e5m2(), scale="absmax")
        >>> print(quantization.fake_quantize(jnp.array([57344.0, 17.0]), spec))
        [5.7344e+04 1.6000e+01]
    """
    return _float8("e5m2", jnp.float8_e5m2)


_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def nf4() -> Grid:
    """The 16 published levels of "normal float": quantiles of a normal law, scaled to [-1, 1], zero among them.

    Example:
        >>> from jaxsci import quantization
        >>> print(quantization.formats.nf4().levels[:3].round(3))
        [-1.    -0.696 -0.525]
    """
    return Grid("nf4", np.asarray(_NF4), 4)


def gaussian(grid: Grid, *, reference: bool = False) -> Gaussian:
    """The unit at which a grid has the least mean squared error for a standard normal variable.

    Args:
        grid: from this namespace.
        reference: take the constants of the published QuEST code instead of the exact root: for comparison with it bit
            by bit. Grids of uniform levels only.

    Returns:
        `Gaussian`, of Python floats.

    Raises:
        ValueError: a floating-point grid of eight bits, whose error hardly depends on the unit and has many minima; an
            affine one; a reference that was never published.
        TypeError: a traced level.

    Example:
        >>> from jaxsci.quantization import formats
        >>> found = formats.gaussian(formats.midrise(4))
        >>> print(round(found.clip, 10), round(found.error, 8))
        2.5140045915 0.01154288
    """
    levels = concrete(grid.levels, "formats.gaussian", "levels", "make the grid outside compiled code")
    if grid.name in ("affine", "e4m3", "e5m2"):
        raise ValueError(f"formats.gaussian: a grid {grid.name!r} has no unit that is best for normal variables")
    if reference:
        uniform = grid.name in ("midrise", "midtread") and levels[0] == -levels[-1]
        if not uniform or len(levels) not in _gaussian.REFERENCE_CLIPS:
            raise ValueError(
                f"formats.gaussian: no constant was published for {len(levels)} levels of {grid.name!r}; "
                "use reference=False"
            )
        unit = _gaussian.REFERENCE_CLIPS[len(levels)] / levels[-1]
    else:
        unit = 1.0 if grid.name == "lloyd" else _gaussian.best_unit(levels)
    half_gap = unit * float(np.max(np.diff(levels))) / 2
    return Gaussian(float(unit), float(unit * levels[-1]), _gaussian.error(unit * levels), float(half_gap))


__all__ = [
    "Gaussian",
    "Grid",
    "affine",
    "e2m1",
    "e4m3",
    "e5m2",
    "gaussian",
    "lloyd",
    "midrise",
    "midtread",
    "nf4",
    "ternary",
]

entry.guard(globals())
