"""Two colour photographs as small noisy grey pictures: what the nonlinear diffusion of the study works on."""

import numpy as np
from jaxtyping import Float

from jaxsci.core.extras import require

# The width of one averaged block: 427 x 640 pixels become 42 x 64 cells.
_BLOCK = 10
_NAMES = ("china.jpg", "flower.jpg")


def clean(name: str = "china.jpg", *, block: int = _BLOCK) -> Float[np.ndarray, "rows cols 3"]:
    """A photograph that scikit-learn ships, averaged over blocks, values in [0, 1].

    Args:
        name: "china.jpg" or "flower.jpg".
        block: side of a block in pixels.

    Raises:
        ImportError: the extra "demo" is missing.

    Example:
        >>> from jaxsci.demo import photographs
        >>> print(photographs.clean(block=40).ndim)
        3
    """
    data = require("sklearn.datasets", "demo", "the photographs of the demo")
    require("PIL", "demo", "the photographs of the demo")
    picture = data.load_sample_image(name).astype(np.float64) / 255
    rows, cols = picture.shape[0] // block, picture.shape[1] // block
    return picture[: rows * block, : cols * block].reshape(rows, block, cols, block, 3).mean((1, 3))


def noisy(*, block: int = _BLOCK, noise: float = 0.03, seed: int = 0) -> Float[np.ndarray, "6 rows cols"]:
    """The colour channels of both photographs with Gaussian noise: six pictures of one shape.

    Args:
        block: side of a block in pixels.
        noise: standard deviation, in units of the grey range.
        seed: of the noise.

    Example:
        >>> from jaxsci.demo import photographs
        >>> print(photographs.noisy(block=40).shape[0])
        6
    """
    channels = np.concatenate([np.moveaxis(clean(name, block=block), 2, 0) for name in _NAMES])
    return channels + noise * np.random.default_rng(seed).normal(size=channels.shape)


__all__ = ["clean", "noisy"]
