r"""What a format does to an array: its error, and how many entries it masks or saturates.

For rows of normal entries the relative error is that of `formats.gaussian`, and the share without a gradient is
$P(|x| > \alpha + T)$ with the last level $\alpha$ and the trust T: 0.73 % at four bits without zero.

Reference: A. Panferov et al. 2025, arXiv:2502.05003, section 3.2.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import status
from jaxsci.core.types import as_float
from jaxsci.quantization._hadamard import hadamard_transform
from jaxsci.quantization._quantize import check_fits, encode, outside, tile_magnitudes
from jaxsci.quantization._spec import QuantSpec

ZERO_TILE = status.register(
    "quantization",
    19,
    "tile of zeros",
    "all entries that share a unit are zero, so that their unit is the least one",
    "nothing is wrong if they are meant to be; a dead row or column can be pruned",
    notice=True,
)


class Report(NamedTuple):
    """What a format does to an array.

    Attributes:
        error: mean squared error over mean square; 0 for an array of zeros.
        masked: share of entries (after the transform) whose gradient is stopped.
        saturated: share of entries beyond the first or the last level.
        status: NONFINITE_INPUT, and ZERO_TILE as a notice; 0 = ok.
    """

    error: Float[Array, ""]
    masked: Float[Array, ""]
    saturated: Float[Array, ""]
    status: Int[Array, ""]


@eqx.filter_jit
def report(x: Float[ArrayLike, "..."], spec: QuantSpec) -> Report:
    """Error, masked and saturated shares of an array in a format.

    Args:
        x: any shape, traced.
        spec: from `quant_spec`; its numbers are traced.

    Raises:
        ValueError: see `quantize`.

    Example:
        >>> import jax, jaxsci
        >>> from jaxsci import quantization
        >>> x = jax.random.normal(jax.random.key(0), (64, 4096))
        >>> found = jaxsci.check(quantization.report(x, quantization.quest(None, 4).activations))
        >>> print(found.error.round(3), found.masked.round(3))
        0.012 0.007
    """
    x = as_float(x)
    axis = check_fits("report", x, spec)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    rotated = hadamard_transform(wide, spec.hadamard, axis) if spec.hadamard else wide
    values, passes, scale, zero = encode(x, spec, None, axis, "values")
    square = jnp.mean(rotated**2)
    error = jnp.mean((values - rotated) ** 2) / jnp.where(square == 0, 1, square)
    code = status.flag(~jnp.all(jnp.isfinite(x)), status.NONFINITE_INPUT)
    code = code | status.flag(jnp.any(tile_magnitudes(wide, spec, axis) == 0), ZERO_TILE)
    shares = (jnp.mean(a.astype(x.dtype)) for a in (~passes, outside(rotated, scale, zero, spec, axis)))
    error = jnp.where(square == 0, 0, error)
    return Report(error.astype(x.dtype), *shares, code)


__all__ = ["ZERO_TILE", "Report", "report"]
