"""What the models of the package were trained on: priors, sizes, and the figures that are measured afterwards."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsci.gp import kernels
from jaxsci.pfn import priors, scores

_LENGTH, _VARIANCE, _NOISE = 0.2, 1.0, 0.01
GP_SIZES, SHARES = (0, 1, 2, 5, 10, 20), (10, 20, 40, 80)


class Preset(NamedTuple):
    """A training.

    Attributes:
        prior: makes the prior.
        num_features: F.
        num_buckets: K, or the number of classes.
        classes: whether the targets are classes.
        num_points: T.
        context: the fewest and the most known points.
        num_steps, batch_size, learning_rate: of the training.
        ranges: of inputs and targets.
        measure: ``measure(key, model) -> figures``.
    """

    prior: Callable
    num_features: int
    num_buckets: int
    classes: bool
    num_points: int
    context: tuple[int, int]
    num_steps: int
    batch_size: int
    learning_rate: float
    ranges: dict[str, Any]
    measure: Callable


def gp_kernel() -> kernels.Kernel:
    """The kernel of the preset "gp"."""
    return kernels.scale(kernels.rbf(_LENGTH), _VARIANCE)


def gp_prior() -> priors.Prior:
    """The prior of the preset "gp": squared exponential of length .2, variance 1, noise .01."""
    return priors.gp(gp_kernel(), noise=_NOISE)


def _gaps(key, model):
    """Gap to the exact process and its own log-density, by the number of known points."""
    found = {}
    for n in GP_SIZES:
        gap = jax.tree.map(float, scores.gp_gap(key, model, gp_kernel(), np.int32(n), noise=_NOISE))
        found[f"n={n}"] = {name: round(value, 4) for name, value in gap._asdict().items()}
    return found


def _curve_scores(key, model):
    """Log-score of the unseen part by the share of the curve that is known."""
    found = {}
    for share in SHARES:
        each = np.asarray(scores.log_score(key, model, priors.curves(), np.int32(share), num_points=100))
        found[f"{share} %"] = {
            "score": round(float(each.mean()), 4),
            "error": round(float(each.std() / each.size**0.5), 4),
        }
    return found


def _accuracy(key, model):
    """Log-score on fresh tables of the prior by the number of known rows."""
    found = {}
    for n in (20, 50, 100):
        preset = PRESETS["tabular"]
        each = np.asarray(
            scores.log_score(key, model, preset.prior(), np.int32(n), num_points=preset.num_points, num_sets=256)
        )
        found[f"n={n}"] = {"score": round(float(each.mean()), 4)}
    return found


PRESETS = {
    "gp": Preset(
        gp_prior, 1, 128, False, 40, (0, 20), 4000, 32, 1e-3, {"x_range": (0.0, 1.0)}, _gaps
    ),
    "lc": Preset(
        priors.curves, 1, 200, False, 100, (1, 99), 5000, 24, 1e-3,
        {"x_range": (0.0, 1.0), "y_range": (0.0, 1.0)}, _curve_scores,
    ),
    "tabular": Preset(
        lambda: priors.tabular(num_classes=(2, 3)), 30, 3, True, 160, (10, 130), 8000, 8, 1e-3, {"x_range": None},
        _accuracy,
    ),
}  # fmt: skip
"""By the name that the command line knows."""
