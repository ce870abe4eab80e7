r"""The law of losses against parameters, tokens and precision: $L = A / (N\,\mathrm{eff}(P))^\alpha + B / D^\beta + E$.

A model of N parameters in format P learns like one of N eff(P) parameters without quantisation. `fit` finds the
constants and one efficiency for each format from runs, `loss` evaluates, `bits_worth` tells which format gives most for
its bits: in the published runs four.

Reference: A. Panferov et al. 2025, arXiv:2502.05003, section 4; J. Hoffmann et al. 2022, arXiv:2203.15556.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core import entry
from jaxsci.core.host import namespace
from jaxsci.core.types import concrete
from jaxsci.quantization import _scaling_runs


class Law(NamedTuple):
    """Constants of the law.

    Attributes:
        a: A.
        alpha: exponent of the parameters.
        b: B.
        beta: exponent of the tokens.
        e: loss without either limit.
        efficiency: of each format by its name; 1 is no quantisation.
    """

    a: float
    alpha: float
    b: float
    beta: float
    e: float
    efficiency: dict[str, float]


class Runs(NamedTuple):
    """Finished trainings, one an entry.

    Attributes:
        formats: names.
        num_params: parameters outside of embeddings.
        num_tokens: tokens seen.
        losses: of validation, in nats a token.
    """

    formats: tuple[str, ...]
    num_params: Float[np.ndarray, " n"]
    num_tokens: Float[np.ndarray, " n"]
    losses: Float[np.ndarray, " n"]


def loss(
    law: Law,
    num_params: Float[ArrayLike, "..."],
    num_tokens: Float[ArrayLike, "..."],
    efficiency: Float[ArrayLike, "..."] = 1.0,
) -> Float[Array | np.ndarray, "..."]:
    """The loss that the law predicts.

    Args:
        law: constants; its efficiencies are not read.
        num_params: N, traced; numbers stay on the host in float64.
        num_tokens: D, traced.
        efficiency: of the format, e.g. ``law.efficiency["W4A4"]``, traced. Shapes broadcast.

    Example:
        >>> from jaxsci.quantization import scaling
        >>> law = scaling.published_law()
        >>> print(round(float(scaling.loss(law, 30e6, 3e9, law.efficiency["W4A4"])), 2))
        3.27
    """
    xp = namespace(law[:5], num_params, num_tokens, efficiency)
    n, d, share = (xp.asarray(v) * 1.0 for v in (num_params, num_tokens, efficiency))
    return law.a / (n * share) ** law.alpha + law.b / d**law.beta + law.e


def published_law() -> Law:
    """Constants of the published fit, to all 104 runs behind it.

    Example:
        >>> from jaxsci.quantization import scaling
        >>> law = scaling.published_law()
        >>> print(0 < float(scaling.loss(law, 1e8, 1e10)) < 5)
        True
    """
    return Law(*_scaling_runs.CONSTANTS, dict(_scaling_runs.EFFICIENCY))


def published_runs() -> Runs:
    """The published runs that were printed: 82 of 104, with sizes from the shapes of the models.

    Example:
        >>> from jaxsci.quantization import scaling
        >>> print(len(scaling.published_runs()))
        4
    """
    rows = []
    for name, losses in _scaling_runs.LOSSES.items():
        rows += [(name, size, _scaling_runs.TOKENS[size], v) for size, v in zip(_scaling_runs.SIZES, losses)]
    for name, losses in _scaling_runs.SHORT.items():
        rows += [(name, "30M", tokens, v) for tokens, v in zip((0.75e9, 1.5e9), losses)]
    names, sizes, tokens, losses = zip(*rows)
    return Runs(names, np.array([_num_params(s) for s in sizes], float), np.asarray(tokens), np.asarray(losses))


def _num_params(size: str) -> int:
    """Parameters of the blocks: attention and a gated feed-forward part of width 8/3, rounded up to 256."""
    blocks, width = _scaling_runs.SHAPES[size]
    hidden = -(-(8 * width // 3) // 256) * 256
    return blocks * (4 * width**2 + 3 * width * hidden)


def predicted(law: Law, runs: Runs) -> Float[np.ndarray, " n"]:
    """What the law says of each run.

    Raises:
        ValueError: a format without an efficiency.

    Example:
        >>> from jaxsci.quantization import scaling
        >>> law, runs = scaling.published_law(), scaling.published_runs()
        >>> print(scaling.predicted(law, runs).shape)
        (82,)
    """
    unknown = sorted({name for name in runs.formats if name not in law.efficiency})
    if unknown:
        raise ValueError(
            f"scaling.predicted: the law has no efficiency of {', '.join(unknown)}; it knows "
            f"{', '.join(law.efficiency)}"
        )
    share = np.array([law.efficiency[name] for name in runs.formats])
    return loss(law, np.asarray(runs.num_params, float), np.asarray(runs.num_tokens, float), share)


_STARTS = [(1.5, 0.06), (5.0, 0.2), (5.0, 0.35)]  # log A, alpha; then log B, beta
_MAX_EVALUATIONS = 400
_TOKEN_STARTS = [(4.0, 0.24), (6.0, 0.35)]


def fit(runs: Runs, *, full_precision: str = "W16A16") -> Law:
    """The law of least squared relative error of the losses, from several starts.

    Args:
        runs: of at least as many entries as constants and formats; concrete.
        full_precision: the format whose efficiency is 1.

    Raises:
        ValueError: arrays of different lengths, numbers that are not positive, too few runs, or none of
            `full_precision`; no minimum was found.
        TypeError: traced numbers.

    Example:
        >>> from jaxsci.quantization import scaling
        >>> law = scaling.fit(scaling.published_runs())
        >>> worth = scaling.bits_worth(law, {f"W{bits}A{bits}": bits for bits in (1, 2, 3, 4, 8)})
        >>> print(max(worth, key=worth.get))
        W4A4
    """
    n, d, y = (np.asarray(v, np.float64) for v in concrete(runs[1:], "scaling.fit", "runs", "fit on the host"))
    if not n.shape == d.shape == y.shape == (len(runs.formats),):
        raise ValueError(
            f"scaling.fit: runs must have arrays of one length, got {len(runs.formats)} formats and shapes {n.shape}, "
            f"{d.shape}, {y.shape}"
        )
    if not (np.all(n > 0) and np.all(d > 0) and np.all(y > 0) and np.all(np.isfinite(n * d * y))):
        raise ValueError("scaling.fit: parameters, tokens and losses must be positive and finite")
    if full_precision not in runs.formats:
        raise ValueError(f"scaling.fit: no run of {full_precision!r}, whose efficiency is 1")
    names = [name for name in dict.fromkeys(runs.formats) if name != full_precision]
    if len(y) < 5 + len(names):
        raise ValueError(f"scaling.fit: {5 + len(names)} constants need as many runs, got {len(y)}")
    place = np.array([-1 if name == full_precision else names.index(name) for name in runs.formats])

    def residual(theta):
        log_a, alpha, log_b, beta, log_e = theta[:5]
        share = np.append(theta[5:], 0.0)[place]
        parts = np.exp(log_a - alpha * (np.log(n) + share)) + np.exp(log_b - beta * np.log(d)) + np.exp(log_e)
        return np.log(parts) - np.log(y)

    best = None
    for log_a, alpha in _STARTS:
        for log_b, beta in _TOKEN_STARTS:
            start = np.concatenate([[log_a, alpha, log_b, beta, -3.0], np.full(len(names), -1.0)])
            found = scipy.optimize.least_squares(residual, start, x_scale="jac", max_nfev=_MAX_EVALUATIONS)
            best = found if best is None or found.cost < best.cost else best
    if not best.success:  # the best of all starts was cut off: a constant runs away, or the runs follow no such law
        raise ValueError(
            f"scaling.fit: no minimum within {_MAX_EVALUATIONS} evaluations from any start (relative error "
            f"{np.sqrt(2 * best.cost / len(y)):.2g}); the runs do not determine the law: add runs of other sizes, or "
            "leave formats out"
        )
    log_a, alpha, log_b, beta, log_e = (float(v) for v in best.x[:5])
    efficiency = {full_precision: 1.0} | dict(zip(names, np.exp(best.x[5:]).tolist()))
    return Law(float(np.exp(log_a)), alpha, float(np.exp(log_b)), beta, float(np.exp(log_e)), efficiency)


def bits_worth(law: Law, bits: Mapping[str, float | int], *, full_bits: float | int = 16) -> dict[str, float]:
    """Efficiency a bit, relative to full precision: how much more model a byte holds in each format.

    Args:
        law: with efficiencies.
        bits: of each format by its name.
        full_bits: of full precision.

    Raises:
        ValueError: a format without an efficiency, or bits that are not positive.

    Example:
        >>> from jaxsci.quantization import scaling
        >>> worth = scaling.bits_worth(scaling.published_law(), {"W4A4": 4, "W1A1": 1})
        >>> print({name: round(value, 2) for name, value in worth.items()})
        {'W4A4': 2.77, 'W1A1': 0.33}
    """
    for name, width in bits.items():
        if name not in law.efficiency or not width > 0:
            raise ValueError(
                f"scaling.bits_worth: expected formats of the law and positive bits, got {name!r}: {width}; the law "
                f"knows {', '.join(law.efficiency)}"
            )
    return {name: full_bits * law.efficiency[name] / width for name, width in bits.items()}


__all__ = ["Law", "Runs", "bits_worth", "fit", "loss", "predicted", "published_law", "published_runs"]

entry.guard(globals())
