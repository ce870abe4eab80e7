r"""Noise schedules: $x_t = \alpha_t x_0 + \sigma_t\varepsilon$ as a record of pure functions of time and of log-SNR.

With $\lambda = \log(\alpha/\sigma)$ (half the logarithm of the signal-to-noise ratio) the probability-flow ODE is
$dx/d\lambda = (\alpha'/\alpha)\,x - \sigma\varepsilon$; three families fix $\alpha$ and $\sigma$ by $\lambda$:

=====================  ==========================  ==========================  ========================
family                 alpha                       sigma                       alpha'/alpha (d/dlambda)
=====================  ==========================  ==========================  ========================
variance preserving    sigmoid(2 lambda)^(1/2)     sigmoid(-2 lambda)^(1/2)    sigma^2
variance exploding     1                           exp(-lambda)                0
flow                   sigmoid(lambda)             sigmoid(-lambda)            sigma
=====================  ==========================  ==========================  ========================

and each schedule says which time belongs to which lambda. All functions work on NumPy values in float64 (tables) and
on traced values (inside compiled loops).

References: Y. Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021, appendix
C; A. Nichol, P. Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, section 3.2; T. Karras et al.,
"Elucidating the Design Space of Diffusion-Based Generative Models", 2022, table 1; Y. Lipman et al., "Flow Matching
for Generative Modeling", 2023; S. Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core import entry
from jaxsci.core.host import as_leaf, namespace
from jaxsci.core.static import bind
from jaxsci.core.types import Scalar, concrete, is_concrete


class NoiseSchedule(NamedTuple):
    """A noise schedule: pure functions whose parameters are leaves.

    Attributes:
        lam: ``lam(t)``: log(alpha / sigma) at time t; falls with t.
        t_of_lam: ``t_of_lam(lam)``: the inverse of `lam`.
        alpha_sigma: ``alpha_sigma(lam) -> (alpha, sigma)``; lam = inf is data, -inf pure noise.
        rate: ``rate(lam)``: alpha'/alpha, the linear coefficient of the probability-flow ODE in lam.
        model_time: ``model_time(t)``: what a network trained under this schedule takes for its time.
        t_min: smallest time used for sampling by default.
        t_max: time of the noise that sampling starts from.
    """

    lam: Callable[..., Any]
    t_of_lam: Callable[..., Any]
    alpha_sigma: Callable[..., Any]
    rate: Callable[..., Any]
    model_time: Callable[..., Any]
    t_min: Float[Array, ""] | float
    t_max: Float[Array, ""] | float


def _identity(t):
    return t


# --- the three families in lambda ---------------------------------------------------------------------------


def _softplus(xp, x):
    return xp.logaddexp(x, xp.zeros_like(x))


def _alpha_sigma(lam, *, power):
    """Variance preserving (power 2) and flow (power 1): alpha^power and sigma^power are sigmoids that add up to 1."""
    xp = namespace(lam)
    lam = xp.asarray(lam)
    return tuple(xp.exp(-1 / power * _softplus(xp, sign * power * lam)) for sign in (-1, 1))


def _rate(lam, *, power):
    xp = namespace(lam)
    return xp.exp(-_softplus(xp, power * xp.asarray(lam)))


def _ve_alpha_sigma(lam):
    xp = namespace(lam)
    lam = xp.asarray(lam)
    return xp.ones_like(lam), xp.exp(-lam)


def _ve_rate(lam):
    xp = namespace(lam)
    return xp.zeros_like(xp.asarray(lam))


def _vp_lam(*parameters_and_t, log_alpha):
    """lam of a variance-preserving schedule, without cancellation when log_alpha is near 0."""
    xp = namespace(parameters_and_t)
    with np.errstate(divide="ignore", invalid="ignore"):  # inf without noise, NaN beyond the range
        value = log_alpha(xp, *parameters_and_t)
        return value - 0.5 * xp.log(-xp.expm1(2 * value))


def _vp_time(*parameters_and_lam, time):
    """Time from ``time(xp, *parameters, -2 log alpha)``."""
    xp = namespace(parameters_and_lam)
    *parameters, lam = parameters_and_lam
    return time(xp, *parameters, _softplus(xp, -2 * xp.asarray(lam)))


def _vp(log_alpha, time, parameters, t_min, t_max, model_time=_identity):
    """A variance-preserving schedule from ``log_alpha(xp, *parameters, t)`` and ``time``, see `_vp_time`."""
    lam, t_of_lam = bind(_vp_lam, log_alpha=log_alpha), bind(_vp_time, time=time)
    return NoiseSchedule(
        Partial(lam, *parameters), Partial(t_of_lam, *parameters), Partial(bind(_alpha_sigma, power=2)),
        Partial(bind(_rate, power=2)), Partial(model_time), as_leaf(t_min), as_leaf(t_max),
    )  # fmt: skip


def _within_reach(name, bound, **parameters):
    """Raises where a concrete parameter is not finite, or is not ``> 0`` or ``>= 0``."""
    for parameter, value in parameters.items():
        if is_concrete(value):
            a = np.asarray(value)
            needed = bound if np.all(np.isfinite(a)) else "finite"
            if needed == "finite" or not np.all(a > 0 if bound == "> 0" else a >= 0):
                raise ValueError(f"schedules.{name}: {parameter} must be {needed}, got {value}")


# --- variance preserving ------------------------------------------------------------------------------------


def _linear_log_alpha(xp, beta_min, beta_max, t):
    return -0.25 * t**2 * (beta_max - beta_min) - 0.5 * t * beta_min


def _linear_time(xp, beta_min, beta_max, twice):
    c = 2 * (beta_max - beta_min) * twice
    # c / (root + beta) / spread with c = 4 spread |log alpha|: no cancellation, and right for spread = 0 in the limit
    return 2 * twice / (xp.sqrt(beta_min**2 + c) + beta_min)


def vp_linear(beta_min: Scalar = 0.1, beta_max: Scalar = 20.0, *, t_min: float = 1e-3) -> NoiseSchedule:
    r"""$\beta = \beta_0 + t(\beta_1-\beta_0)$, $\log\alpha = -\frac14t^2(\beta_1-\beta_0) - \frac12t\beta_0$.

    Args:
        beta_min, beta_max: beta at times 0 and 1 (traced).
        t_min: where sampling stops by default.

    Raises:
        ValueError: a concrete beta below 0 or not finite.

    Example:
        >>> from jaxsci.diffusion import schedules
        >>> vp = schedules.vp_linear()
        >>> print(f"{vp.lam(0.5):.8f} {vp.t_of_lam(0.0):.8f}")
        -1.22756773 0.25896026

    References: Song et al. 2021, appendix C.
    """
    _within_reach("vp_linear", ">= 0", beta_min=beta_min, beta_max=beta_max)
    return _vp(_linear_log_alpha, _linear_time, (as_leaf(beta_min), as_leaf(beta_max)), t_min, 1.0)


def _cosine_log_alpha(xp, offset, t):
    quarter = 0.5 * np.pi / (1 + offset)
    return xp.log(xp.cos(quarter * (t + offset))) - xp.log(xp.cos(quarter * offset))


def _cosine_time(xp, offset, twice):
    quarter = 0.5 * np.pi / (1 + offset)
    return xp.arccos(xp.exp(-0.5 * twice) * xp.cos(quarter * offset)) / quarter - offset


def vp_cosine(offset: Scalar = 0.008, *, t_min: float = 1e-3, t_max: float = 0.9946) -> NoiseSchedule:
    r"""$\alpha_t = \cos(\frac\pi2\frac{t+s}{1+s}) / \cos(\frac\pi2\frac s{1+s})$.

    Args:
        offset: s (traced).
        t_min, t_max: range used for sampling; the signal vanishes at t = 1.

    Raises:
        ValueError: a concrete offset below 0 or not finite.

    Example:
        >>> from jaxsci.diffusion import schedules
        >>> vp = schedules.vp_cosine()
        >>> alpha, sigma = vp.alpha_sigma(vp.lam(0.5))
        >>> print(f"{alpha**2 + sigma**2:.3f}")
        1.000

    References: Nichol and Dhariwal 2021, equation 17; the range is that of DPM-Solver (Lu et al. 2022).
    """
    _within_reach("vp_cosine", ">= 0", offset=offset)
    return _vp(_cosine_log_alpha, _cosine_time, (as_leaf(offset),), t_min, t_max)


def _discrete_log_alpha(xp, log_alphas, t):
    times = np.arange(1, log_alphas.shape[0] + 1) / log_alphas.shape[0]
    return _interpolate(xp, t, times, log_alphas)


def _discrete_time(xp, log_alphas, twice):
    times = np.arange(1, log_alphas.shape[0] + 1) / log_alphas.shape[0]
    return _interpolate(xp, 0.5 * twice, -log_alphas, times)


def _interpolate(xp, x, knots, values):
    """Piecewise linear, continued beyond the ends by the first and last piece."""
    x = xp.asarray(x)
    knots, values = xp.asarray(knots), xp.asarray(values)
    i = xp.clip(xp.searchsorted(knots, x), 1, knots.shape[0] - 1)
    left, right = knots[i - 1], knots[i]
    return values[i - 1] + (x - left) / (right - left) * (values[i] - values[i - 1])


def _discrete_model_time(t, *, num_steps, scale):
    return (t - 1.0 / num_steps) * scale


def betas(name: str, num_steps: int = 1000, *, beta_start: float | None = None, beta_end: float | None = None):
    r"""The three usual laws of $\beta_i$, i = 1..num_steps, in float64.

    Args:
        name: "linear" (1e-4 to .02), "scaled_linear" (linear in the root, .00085 to .012) or "squaredcos_cap_v2"
            ($\beta_i = \min(1 - \bar\alpha(i/N)/\bar\alpha((i-1)/N), .999)$ with the cosine law).
        num_steps: N.
        beta_start, beta_end: other ends than the usual ones; not for "squaredcos_cap_v2".

    Returns:
        NumPy Float64[num_steps].

    Raises:
        ValueError: an unknown name, or ends given for the cosine law.

    Example:
        >>> from jaxsci.diffusion import schedules
        >>> print(schedules.betas("linear", 5).round(4))
        [0.0001 0.0051 0.01   0.015  0.02  ]
    """
    concrete((beta_start, beta_end), "schedules.betas", "beta_start and beta_end", "write the law with jax.numpy")
    usual = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "squaredcos_cap_v2": (None, None)}
    if name not in usual:
        raise ValueError(f"schedules.betas: name must be one of {sorted(usual)}, got {name!r}")
    if name == "squaredcos_cap_v2":
        if beta_start is not None or beta_end is not None:
            raise ValueError("schedules.betas: 'squaredcos_cap_v2' takes no beta_start and beta_end")
        bar = np.cos(np.linspace(0, 1, num_steps + 1) / 1.008 * np.pi / 2 + 0.008 / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    start = usual[name][0] if beta_start is None else beta_start
    end = usual[name][1] if beta_end is None else beta_end
    return np.linspace(start, end, num_steps) if name == "linear" else np.linspace(start**0.5, end**0.5, num_steps) ** 2


def vp_discrete(
    betas: Float[ArrayLike, " N"],
    *,
    zero_terminal_snr: bool = False,
    time_scale: float | None = None,
    lam_min: float | None = None,
) -> NoiseSchedule:
    r"""A trained chain $\log\alpha_i = \frac12\sum_{j\le i}\log(1-\beta_j)$ at $t_i = i/N$, between them linear.

    A builder: `betas` must be concrete.

    Args:
        betas: variances of the N steps, each in (0, 1).
        zero_terminal_snr: shift and scale the roots of the cumulative products so that the last is zero; its square
            is then set to 2^-24, the value the common implementations use. Needs a v- or x0-predicting model.
        time_scale: the model's time is (t - 1/N) time_scale; N by default, which makes it the number of the step.
        lam_min: sampling starts where lam reaches this value; for cosine chains -5.1 is usual. None: at t = 1.

    Returns:
        `NoiseSchedule` with t in [1/N, 1].

    Raises:
        TypeError: a traced argument.
        ValueError: a beta outside (0, 1), less than two of them, or what looks like cumulative products.

    Example:
        >>> from jaxsci.diffusion import schedules
        >>> chain = schedules.vp_discrete(schedules.betas("linear", 10))
        >>> alpha, sigma = chain.alpha_sigma(chain.lam(0.5))
        >>> print(f"{alpha**2 + sigma**2:.3f}")
        1.000

    References: Ho et al., "Denoising Diffusion Probabilistic Models", 2020; Lin et al. 2024 (terminal SNR).
    """
    concrete(betas, "schedules.vp_discrete", "betas", "pass log-alphas into a schedule of your own")
    beta = np.asarray(betas, np.float64)
    if beta.ndim != 1 or beta.size < 2 or not np.all((beta > 0) & (beta < 1)):
        raise ValueError(f"schedules.vp_discrete: betas must be at least two numbers in (0, 1), got shape {beta.shape}")
    if beta[0] > 0.5 and np.all(np.diff(beta) < 0):
        raise ValueError(
            f"schedules.vp_discrete: betas fall from {beta[0]:.4g} to {beta[-1]:.4g}, as cumulative products of "
            "1 - beta do; pass those to schedules.from_alphas_cumprod"
        )
    log_alphas = 0.5 * np.cumsum(np.log1p(-beta))
    if zero_terminal_snr:
        roots = np.exp(log_alphas)
        roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
        roots[-1] = 2.0**-12
        log_alphas = np.log(roots)
    scale = float(beta.size if time_scale is None else time_scale)
    model_time = bind(_discrete_model_time, num_steps=beta.size, scale=scale)
    schedule = _vp(_discrete_log_alpha, _discrete_time, (log_alphas,), 1 / beta.size, 1.0, model_time)
    if lam_min is None:
        return schedule
    return schedule._replace(t_max=as_leaf(float(schedule.t_of_lam(max(lam_min, schedule.lam(1.0))))))


def from_alphas_cumprod(alphas_cumprod: Float[ArrayLike, " N"], **options) -> NoiseSchedule:
    r"""`vp_discrete` from $\bar\alpha_i = \prod_{j\le i}(1 - \beta_j)$, as files of weights store it.

    Args:
        alphas_cumprod: falling, in (0, 1); concrete.
        **options: those of `vp_discrete`.

    Raises:
        TypeError: a traced argument.
        ValueError: less than two numbers, or numbers that do not fall within (0, 1).

    Example:
        >>> import numpy as np
        >>> from jaxsci.diffusion import schedules
        >>> chain = schedules.from_alphas_cumprod(np.cumprod(1 - schedules.betas("linear")))
        >>> print(f"{chain.lam(0.5):.4f} {schedules.vp_discrete(schedules.betas('linear')).lam(0.5):.4f}")
        -1.2308 -1.2308
    """
    concrete(alphas_cumprod, "schedules.from_alphas_cumprod", "alphas_cumprod", "write the law with jax.numpy")
    bar = np.asarray(alphas_cumprod, np.float64)
    if bar.ndim != 1 or bar.size < 2 or not (np.all((bar > 0) & (bar < 1)) and np.all(np.diff(bar) < 0)):
        raise ValueError(
            f"schedules.from_alphas_cumprod: expected at least two falling numbers in (0, 1), got {bar.shape} from "
            f"{bar.ravel()[:1]} to {bar.ravel()[-1:]}; betas go to schedules.vp_discrete"
        )
    return vp_discrete(1 - bar / np.append(1.0, bar[:-1]), **options)


def chain_length(schedule: NoiseSchedule) -> int | None:
    """The number of steps of a schedule from `vp_discrete`, None for any other."""
    rule = getattr(schedule.model_time, "func", None)
    return dict(rule.items)["num_steps"] if getattr(rule, "function", None) is _discrete_model_time else None


# --- variance exploding and flow ----------------------------------------------------------------------------


def _ve_lam(t):
    with np.errstate(divide="ignore", invalid="ignore"):
        return -namespace(t).log(t)


def _ve_time(lam):
    return namespace(lam).exp(-lam)


def ve(sigma_min: Scalar = 0.002, sigma_max: Scalar = 80.0) -> NoiseSchedule:
    """alpha = 1, sigma = t: time is the noise level, from `sigma_max` down to `sigma_min` (traced).

    The EDM networks of Karras et al. use it as well; their preconditioning is a prediction kind, not a schedule.

    Raises:
        ValueError: concrete levels below 0, not finite, or of which `sigma_min` is not the smaller.

    Example:
        >>> from jaxsci.diffusion import schedules
        >>> ve = schedules.ve()
        >>> alpha, sigma = ve.alpha_sigma(ve.lam(2.0))
        >>> print(f"{alpha:.2f} {sigma:.2f}")
        1.00 2.00

    References: Song et al. 2021, appendix C; Karras et al. 2022, table 1.
    """
    _within_reach("ve", ">= 0", sigma_min=sigma_min, sigma_max=sigma_max)
    if is_concrete((sigma_min, sigma_max)) and not np.all(np.asarray(sigma_min) < np.asarray(sigma_max)):
        raise ValueError(f"schedules.ve: sigma_min must be below sigma_max, got {sigma_min} and {sigma_max}")
    return NoiseSchedule(
        Partial(_ve_lam), Partial(_ve_time), Partial(_ve_alpha_sigma), Partial(_ve_rate),
        Partial(_identity), as_leaf(sigma_min), as_leaf(sigma_max),
    )  # fmt: skip


def _flow_lam(shift, t):
    xp = namespace(shift, t)
    t = xp.asarray(t)
    with np.errstate(divide="ignore", invalid="ignore"):  # t = 0 is data (lam = inf), t = 1 is noise (lam = -inf)
        return xp.log1p(-t) - xp.log(t) - xp.log(shift)


def _flow_time(shift, lam):
    return _alpha_sigma(lam + namespace(shift, lam).log(shift), power=1)[1]


def _flow_model_time(shift, scale, t):
    return scale * shift * t / (1 + (shift - 1) * t)


def flow(shift: Scalar = 1.0, *, t_min: float = 1e-3, t_max: float = 1.0, time_scale: float = 1.0) -> NoiseSchedule:
    r"""$\alpha = 1 - s,\ \sigma = s$ with $s = kt/(1 + (k-1)t)$, that is $\lambda' = \lambda - \log k$.

    Args:
        shift: k (traced); 1 is straight rectified flow, 3 is common for large images.
        t_min, t_max: range of the unshifted time used for sampling; t_max = 1 is pure noise.
        time_scale: the model's time is s times this.

    Raises:
        ValueError: a concrete shift that is not positive and finite.

    Example:
        >>> from jaxsci.diffusion import schedules
        >>> flow = schedules.flow()
        >>> alpha, sigma = flow.alpha_sigma(flow.lam(0.25))
        >>> print(f"{alpha:.2f} {sigma:.2f}")
        0.75 0.25

    References: Lipman et al. 2023; P. Esser et al., "Scaling Rectified Flow Transformers", 2024, section 5.3.
    """
    _within_reach("flow", "> 0", shift=shift)
    shift, time_scale, t_min, t_max = map(as_leaf, (shift, time_scale, t_min, t_max))
    return NoiseSchedule(
        Partial(_flow_lam, shift), Partial(_flow_time, shift), Partial(bind(_alpha_sigma, power=1)),
        Partial(bind(_rate, power=1)), Partial(_flow_model_time, shift, time_scale), t_min, t_max,
    )  # fmt: skip


__all__ = ["NoiseSchedule", "betas", "flow", "from_alphas_cumprod", "ve", "vp_cosine", "vp_discrete", "vp_linear"]

entry.guard(
    globals(),
    "_alpha_sigma",
    "_discrete_model_time",
    "_flow_lam",
    "_flow_model_time",
    "_flow_time",
    "_rate",
    "_ve_alpha_sigma",
    "_ve_lam",
    "_ve_rate",
    "_ve_time",
    "_vp_lam",
    "_vp_time",
)
