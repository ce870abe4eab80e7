r"""Learning curves: a random mixture of three growth laws that rises and stays within [0, 1], seen with noise.

$f(t) = \sum_k w_k f_k(t)$, $t = 1, \dots, m$, $w_k \sim U(0, 1)$, not normalised, with

* power: $c - a\,t^{-\alpha}$, $c \sim U(0, 1.25)$, $a \sim U(-.6, .6)$, $\ln\alpha \sim N(0, 2^2)$;
* Janoschek: $A - (A - B)\,e^{-\kappa t^\delta}$, $A \sim U(0, 1)$, $B \sim U(0, 2)$, $\ln\kappa \sim N(-2, 1)$,
  $\ln\delta \sim N(0, .5^2)$;
* logarithmic: $c - a/\ln(t + 1)$, $c \sim U(0, 1)$, $a \sim U(-.5, .5)$.

A curve counts if $f(m) > f(1)$ and all $f(t) \in [0, 1]$, else all is drawn again: one in five does for m = 100.
$y_t = f(t) + \sigma\varepsilon_t$, $\ln\sigma \sim N(-4, 1)$, which may leave [0, 1].

Candidates come in rounds of several, of which the first good one is taken, so the law is exact; a batch goes on
until each of its curves has one. In a round all are tried at a few epochs, and the first that pass at all of them.

Reference: Adriaensen et al. 2023, Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks,
section 3 and the published code, from which the paper differs in the law of $\sigma$.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxsci.core import entry, loops, status, tree
from jaxsci.core.keys import unrolled
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import KeyArray, Size, as_float, as_real, float_dtype
from jaxsci.pfn.priors._check import Prior, checked, leaf

PARAMETERS = (
    "power c", "power a", "power ln alpha", "Janoschek A", "Janoschek B", "Janoschek ln kappa", "Janoschek ln delta",
    "logarithmic c", "logarithmic a", "power w", "Janoschek w", "logarithmic w", "ln sigma",
)  # fmt: skip
"""Names of the thirteen numbers that make a curve, in their order."""

REJECTED = status.register(
    "pfn",
    29,
    "no curve accepted",
    "none of the candidates rose and stayed within [0, 1]; the curve holds NaN",
    "raise max_rounds, or num_candidates",
)

# Bounds of the uniform parameters, mean and standard deviation of the normal ones, by position in PARAMETERS.
_UNIFORM = {
    0: (0, 1.25),
    1: (-0.6, 0.6),
    3: (0, 1),
    4: (0, 2),
    7: (0, 1),
    8: (-0.5, 0.5),
    9: (0, 1),
    10: (0, 1),
    11: (0, 1),
}
_NORMAL = {2: (0, 2), 5: (-2, 1), 6: (0, 0.5)}
_SCREENED, _LOOKED_AT = 7, 2  # epochs at which all candidates are tried, candidates tried at all epochs
_PRESETS = {"code": (-4.0, 1.0), "paper": (-4.0, math.sqrt(0.5))}  # of ln sigma; the paper has ln sigma^2 ~ N(-8, 2)


class Curve(NamedTuple):
    """One learning curve with what made it.

    Attributes:
        y: (m,), what is observed.
        mean: (m,), f without the noise.
        parameters: (13,), in the order of `PARAMETERS`.
        status: 0; no curve accepted: y and mean are NaN then; a noise law, or what it made, that is not finite.
    """

    y: Float[Array, " m"]
    mean: Float[Array, " m"]
    parameters: Float[Array, " 13"]
    status: Int[Array, ""]


def curves(
    preset: str = "code",
    *,
    noise_law: tuple[ArrayLike, ArrayLike] | None = None,
    num_candidates: Size = 32,
    max_rounds: Size = 8,
) -> Prior:
    r"""Learning curves of num_points epochs; the one feature of epoch t is t/(num_points + 1).

    Args:
        preset: law of $\ln\sigma$: "code" is N(-4, 1), "paper" N(-4, 1/2). Static.
        noise_law: mean and standard deviation of $\ln\sigma$ in place of the preset's, traced.
        num_candidates: curves drawn in a round, static.
        max_rounds: rounds, static. All of 8 rounds of 32 fail once in 10^25 curves of 100 points; targets are NaN then.

    Returns:
        The prior; num_features must be 1 and num_points at least 2.

    Raises:
        ValueError: another preset, sizes below 1, what is no pair.

    Do not differentiate through the rejection.

    Example:
        >>> from jaxsci.pfn import priors
        >>> x, y = priors.curves()(jax.random.key(0), 100, 1)
        >>> print(x.shape, y.shape, f"{x[-1, 0]:.4f}")
        (100, 1) (100,) 0.9901

    References: Adriaensen et al. 2023, section 3.
    """
    law = noise_law_of("priors.curves", preset, noise_law)
    num_candidates, max_rounds = _sizes("priors.curves", num_candidates, max_rounds)
    return Partial(bind(_prior, num_candidates=num_candidates, max_rounds=max_rounds), law)


def draw_curve(
    key: KeyArray,
    num_points: Size,
    preset: str = "code",
    *,
    noise_law: tuple[ArrayLike, ArrayLike] | None = None,
    num_candidates: Size = 32,
    max_rounds: Size = 8,
) -> Curve:
    """The curve that ``curves(...)(key, num_points, 1)`` observes, with its mean and parameters.

    Args:
        key: one typed key.
        num_points: m >= 2, static.
        preset, noise_law, num_candidates, max_rounds: as for `curves`.

    Returns:
        A `Curve`. Status: no curve accepted.

    Raises:
        ValueError: as for `curves`.

    Example:
        >>> from jaxsci.pfn import priors
        >>> curve = priors.draw_curve(jax.random.key(0), 100)
        >>> print(curve.y.shape, bool(curve.mean[-1] > curve.mean[0]), curve.status)
        (100,) True 0
    """
    law = noise_law_of("priors.draw_curve", preset, noise_law)
    num_candidates, max_rounds = _sizes("priors.draw_curve", num_candidates, max_rounds)
    key, num_points, _ = checked("draw_curve", key, num_points, 1, least_points=2)
    return _draw(law, key, num_points, num_candidates, max_rounds)


def curve_mean(parameters: Float[ArrayLike, " 13"], epochs: Float[ArrayLike, " m"]) -> Float[Array, " m"]:
    """f at epochs t >= 1 for one set of parameters in the order of `PARAMETERS`; the last is not used. Differentiable.

    Example:
        >>> from jaxsci.pfn import priors
        >>> made = priors.draw_curve(jax.random.key(0), 50)
        >>> bool(jnp.allclose(priors.curve_mean(made.parameters, jnp.arange(1, 51)), made.mean, atol=1e-6))
        True
    """
    parameters = as_float(parameters)
    return _mean(parameters, as_real(epochs, parameters.dtype))


def log_prior(parameters: Float[ArrayLike, " 13"], num_points: Size, preset: str = "code") -> Float[Array, ""]:
    """Log-density of the parameters of a curve of m points under `curves`, up to the constant of the rejection.

    Args:
        parameters: in the order of `PARAMETERS`, traced.
        num_points: m >= 2, static.
        preset: as for `curves`, static.

    Returns:
        -inf outside the bounds, and where the curve does not rise or leaves [0, 1].

    Raises:
        ValueError: another preset, fewer than two points.

    Example:
        >>> from jaxsci.pfn import priors
        >>> curve = priors.draw_curve(jax.random.key(0), 50)
        >>> bool(jnp.isfinite(priors.log_prior(curve.parameters, 50)))
        True
    """
    mean, scale = noise_law_of("priors.log_prior", preset)
    num_points = check_size("priors.log_prior", "num_points", num_points, least=2)
    parameters = as_float(parameters)
    dtype = parameters.dtype
    at, low, high = (np.asarray(a) for a in zip(*((i, *b) for i, b in _UNIFORM.items())))
    inside = jnp.all((parameters[at] >= low.astype(dtype)) & (parameters[at] <= high.astype(dtype)))
    laws = {**_NORMAL, 12: (mean, scale)}
    normal = sum(
        -0.5 * ((parameters[i] - m) / s) ** 2 - jnp.log(s * math.sqrt(2 * math.pi)) for i, (m, s) in laws.items()
    )
    uniform = -float(np.sum(np.log(high - low)))
    good = inside & _accepted(_mean(parameters, jnp.arange(1, num_points + 1, dtype=dtype)))
    return jnp.where(good, (normal + uniform).astype(dtype), -jnp.inf)


@eqx.filter_jit
def acceptance(key: KeyArray, num_points: Size = 100, num_candidates: Size = 10_000) -> Float[Array, ""]:
    """The share of candidates that rise and stay within [0, 1]: .205 for 100 points.

    Args:
        key: one typed key.
        num_points: m >= 2, static.
        num_candidates: drawn in all, static.

    Raises:
        ValueError: sizes that are too small.

    Example:
        >>> from jaxsci.pfn import priors
        >>> print(f"{priors.acceptance(jax.random.key(0)):.1f}")
        0.2
    """
    key, num_points, _ = checked("acceptance", key, num_points, 1, least_points=2)
    num_candidates = check_size("priors.acceptance", "num_candidates", num_candidates)
    made = candidates(key, num_candidates, float_dtype())
    return jnp.mean(_accepted(_mean(made, jnp.arange(1, num_points + 1, dtype=made.dtype))), dtype=made.dtype)


def noise_law_of(function, preset, given=None):
    """Mean and standard deviation of ln sigma: those given, or the preset's."""
    if preset not in _PRESETS:
        raise ValueError(f"{function}: preset must be one of {sorted(_PRESETS)}, got {preset!r}")
    law = _PRESETS[preset] if given is None else given
    if len(law) != 2:
        raise ValueError(f"{function}: noise_law must be a pair (mean, standard deviation) of ln sigma, got {law!r}")
    return tuple(leaf(part) for part in law)


def _sizes(function, num_candidates, max_rounds):
    given = (("num_candidates", num_candidates), ("max_rounds", max_rounds))
    return [check_size(function, name, value) for name, value in given]


def _prior(law, key, num_points, num_features, *, num_candidates, max_rounds):
    key, num_points, num_features = checked("curves", key, num_points, num_features, least_points=2)
    if num_features != 1:
        raise ValueError(f"priors.curves: num_features must be 1, the epoch, got {num_features}")
    y = _draw(law, key, num_points, num_candidates, max_rounds).y
    return (jnp.arange(1, num_points + 1, dtype=y.dtype) / (num_points + 1))[:, None], y


@eqx.filter_jit
def _draw(law, key, num_points, num_candidates, max_rounds):
    dtype = float_dtype(law)
    mean, spread = (part.astype(dtype) for part in law)
    keys = jax.random.split(unrolled(key), 3)
    t = jnp.arange(1, num_points + 1, dtype=dtype)

    def attempt(loop):
        _, _, rounds = loop
        made = candidates(jax.random.fold_in(keys[0], rounds), num_candidates, dtype)
        # What fails at a few epochs need not be looked at in all; of the rest the first few are.
        hopeful = _accepted(_mean(made, t[_few(num_points)]))
        first = jax.lax.top_k(hopeful.astype(jnp.int32), min(_LOOKED_AT, num_candidates))[1]
        good = hopeful[first] & _accepted(_mean(made[first], t))
        return made[first][jnp.argmax(good)], jnp.any(good), rounds + 1

    start = jnp.zeros(12, dtype), jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    (found, good, _), _ = loops.bounded_while(lambda loop: ~loop[1], attempt, start, max_steps=max_rounds)
    log_scale = mean + spread * jax.random.normal(keys[1], (), dtype)
    f = jnp.where(good, _mean(found, t), jnp.nan)
    y = f + jnp.exp(log_scale) * jax.random.normal(keys[2], t.shape, dtype)
    parameters, finite = jnp.concatenate([found, log_scale[None]]), tree.all_finite((mean, spread))
    code = status.flag(~good, REJECTED) | status.flag(~finite, status.NONFINITE_INPUT)
    lost = finite & good & ~tree.all_finite((y, parameters))
    return Curve(y, f, parameters, code | status.flag(lost, status.NONFINITE_RESULT))


def _few(num_points):
    """Places of a few epochs with both ends, in even ratios."""
    return np.unique(np.round(np.geomspace(1, num_points, _SCREENED)).astype(int)) - 1


def candidates(key, num, dtype):
    """(num, 12): all parameters but the noise's, from their laws without the rejection."""
    first, second = jax.random.split(unrolled(key))
    low, high = (jnp.asarray(a, dtype) for a in zip(*_UNIFORM.values()))
    mean, scale = (jnp.asarray(a, dtype) for a in zip(*_NORMAL.values()))
    uniform = low[None] + (high - low)[None] * jax.random.uniform(first, (num, len(_UNIFORM)), dtype)
    normal = mean[None] + scale[None] * jax.random.normal(second, (num, len(_NORMAL)), dtype)
    places = np.argsort(np.asarray([*_UNIFORM, *_NORMAL]))
    return jnp.concatenate([uniform, normal], axis=1)[:, places]


def _mean(parameters, t):
    """f: parameters (..., 12 or 13) and epochs (m,) to (..., m). Powers of t are exponentials: none becomes NaN."""
    p = [parameters[..., i, None] for i in range(12)]
    t = t.reshape((1,) * (parameters.ndim - 1) + t.shape)
    log_t = jnp.log(t)
    power = p[0] - p[1] * jnp.exp(-jnp.exp(p[2]) * log_t)
    janoschek = p[3] - (p[3] - p[4]) * jnp.exp(-jnp.exp(p[5] + jnp.exp(p[6]) * log_t))
    logarithmic = p[7] - p[8] / jnp.log1p(t)
    return p[9] * power + p[10] * janoschek + p[11] * logarithmic


def _accepted(f) -> Bool[Array, "..."]:
    return (f[..., -1] > f[..., 0]) & jnp.all((f >= 0) & (f <= 1), axis=-1)


__all__ = [
    "PARAMETERS", "REJECTED", "Curve", "acceptance", "curve_mean", "curves", "draw_curve", "log_prior",
]  # fmt: skip

entry.hold(globals(), "_prior")
