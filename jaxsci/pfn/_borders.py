r"""Borders of the buckets from a sample of the prior: equally probable buckets.

Sorted sample $y_{(1)}, \dots$, s values a bucket: the inner border k lies midway between the last value of bucket k and
the first of the next, the outer ones are the smallest and the largest value.

Reference: S. Müller et al. 2022, arXiv:2112.10510, section 4.
"""

import numpy as np
from jaxtyping import ArrayLike, Float

from jaxsci.core.static import check_size
from jaxsci.core.types import concrete


def borders_from_sample(sample: Float[ArrayLike, "..."], num_buckets: int) -> Float[np.ndarray, " num_borders"]:
    """Borders of `num_buckets` buckets that a sample of the prior fills equally.

    Args:
        sample: values of the prior, any shape (built); a hundred or more a bucket make borders that the draw hardly
            shifts.
        num_buckets: K (static).

    Returns:
        Increasing float64 numbers, K + 1 of them; fewer where values repeat, since borders that float32 cannot tell
        apart are dropped.

    Raises:
        ValueError: fewer values than buckets, a value that is not finite, or a sample without two distinct values.
        TypeError: the sample is traced.

    Example:
        >>> from jaxsci.pfn import bars
        >>> print(bars.borders_from_sample([0.0, 1.0, 2.0, 4.0], 2))
        [0.  1.5 4. ]
    """
    num_buckets = check_size("bars.borders_from_sample", "num_buckets", num_buckets)
    remedy = "draw the sample outside compiled code"
    values = np.asarray(concrete(sample, "bars.borders_from_sample", "sample", remedy), np.float64).ravel()
    if values.size < num_buckets:
        raise ValueError(
            f"bars.borders_from_sample: sample must hold at least num_buckets = {num_buckets} values, got {values.size}"
        )
    if not np.isfinite(values).all():
        raise ValueError("bars.borders_from_sample: sample must be finite; leave out the draws that failed")
    values = np.sort(values)
    each = values.size // num_buckets
    values = values[: each * num_buckets]
    firsts = np.arange(1, num_buckets) * each
    borders = np.concatenate([values[:1], (values[firsts - 1] + values[firsts]) / 2, values[-1:]])
    distinct = np.concatenate([[True], np.diff(borders.astype(np.float32)) > 0])
    borders = borders[distinct]
    if borders.size < 2:
        raise ValueError(
            f"bars.borders_from_sample: sample must hold two values that float32 tells apart, got {values[0]} alone"
        )
    return borders


__all__ = ["borders_from_sample"]
