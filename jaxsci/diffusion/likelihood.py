r"""Likelihood and latents of a diffusion model: the probability-flow ODE, integrated from data to noise.

In $\lambda = \log(\alpha/\sigma)$, from $\lambda_0$ at `t_min` to $\lambda_T$ at `t_max`, with d the size of x,

$$ \frac{dx}{d\lambda} = \frac{\alpha'}{\alpha}\,x - \sigma\,\varepsilon(x), \qquad
   \frac{d\ell}{d\lambda} = d\,\frac{\alpha'}{\alpha} - \sigma\,\mathrm{tr}\,\nabla_x\varepsilon(x), \qquad
   \log p_{t_{min}}(x_0) = \log p_T(x_T) + \ell. $$

The trace is exact (d forward derivatives) or $v^\top \nabla\varepsilon\, v$ for one random $v$ of signs, which is kept
during the whole integration and makes the estimate unbiased.

References: R. T. Q. Chen et al., "Neural Ordinary Differential Equations", 2018, theorem 1; W. Grathwohl et al.,
"FFJORD", 2019, section 3.1 (random trace); Y. Song et al., "Score-Based Generative Modeling through Stochastic
Differential Equations", 2021, section 4.3.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core import entry, extras, keys, status, tree
from jaxsci.core.keys import unrolled
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import KeyArray, Scalar, as_float, as_real, as_scalar, float_dtype
from jaxsci.diffusion.predictions import called, check_guided
from jaxsci.diffusion.schedules import NoiseSchedule

_SOLVERS = {"tsit5": "Tsit5", "dopri8": "Dopri8"}
_TRACES = ("exact", "hutchinson")


class LogProb(NamedTuple):
    """A log-density and what was computed on the way.

    Attributes:
        value: log p(x) in nats.
        latent: where x came from: the state at `t_max`.
        steps: steps of the integrator, rejected ones included.
        status: NONFINITE_INPUT, OUT_OF_RANGE (ends of the time), MAX_STEPS, NONFINITE_RESULT (then NaN); 0 = ok.
    """

    value: Float[Array, ""]
    latent: Float[Array, "*d"]
    steps: Int[Array, ""]
    status: Int[Array, ""]


class Transport(NamedTuple):
    """The end of a trajectory of the probability-flow ODE.

    Attributes:
        value: the state at the other end; with MAX_STEPS as far as it got, NaN with any other status.
        steps: steps of the integrator, rejected ones included.
        status: NONFINITE_INPUT, OUT_OF_RANGE (ends of the time), MAX_STEPS, NONFINITE_RESULT; 0 = ok.
    """

    value: Float[Array, "*d"]
    steps: Int[Array, ""]
    status: Int[Array, ""]


def log_prob(
    key: KeyArray | None,
    denoiser: Callable[..., tuple[Array, Array]],
    schedule: NoiseSchedule,
    x: Float[ArrayLike, "*d"],
    *,
    trace: str = "exact",
    prior: Callable[..., Array] | None = None,
    cond: PyTree = None,
    guidance_scale: ArrayLike = 1.0,
    t_min: Scalar | None = None,
    t_max: Scalar | None = None,
    rtol: Scalar = 1e-5,
    atol: Scalar = 1e-5,
    solver: str = "tsit5",
    max_steps: int = 4096,
) -> LogProb:
    r"""$\log p(x)$ under the model at time `t_min`, by the change of variables along the probability-flow ODE.

    It is the density of data with the noise of `t_min`, not of the data themselves; and a normal prior in place of the
    true density at `t_max` leaves a bias (some 5e-3 nats for the usual linear schedule).

    Args:
        key: one typed key for "hutchinson"; None for "exact".
        denoiser: ``denoiser(x, t, cond, w) -> (D, eps)``; see `predictions.denoiser`.
        schedule: the noise schedule of the denoiser.
        x: one point; batches are the caller's vmap. Computed in at least float32.
        trace: "exact" takes d forward derivatives a call (d up to some hundreds), "hutchinson" one; static.
        prior: ``prior(x_T) -> log p_T(x_T)``, a function or a Partial; None is the normal law of variance
            alpha^2 + sigma^2 at `t_max`, which is 1 for variance-preserving schedules.
        cond, guidance_scale: as in `diffusion.sample`. A guided model is no longer the score of a known law; the ODE
            and its density are still well defined.
        t_min, t_max: ends in schedule time (traced); those of the schedule by default. lam must be finite there.
        rtol, atol: of the adaptive steps, on (x, l) together (traced).
        solver: "tsit5" (order 5) or "dopri8" (order 8, for tolerances below 1e-8); static.
        max_steps: static.

    Returns:
        `LogProb`. Differentiable by reverse mode in x, guidance_scale, and what the denoiser and the prior hold; its
        gradient in x is the model's score at `t_min`.

    Raises:
        ValueError: an unknown `trace` or `solver`, or no key for "hutchinson".
        TypeError: a key that is not typed, or a denoiser that does not give two arrays like x.
        ImportError: diffrax is missing (extra "ode").

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.diffusion import likelihood, schedules
        >>> vp = schedules.vp_linear()
        >>> def denoiser(x, t, cond, w):  # standard normal data stay standard normal
        ...     alpha, sigma = vp.alpha_sigma(vp.lam(t))
        ...     return alpha * x, sigma * x
        >>> result = likelihood.log_prob(None, denoiser, vp, jnp.array([1.0, 0.0]))
        >>> print(f"{result.value:.3f} {int(result.status)}")  # -log(2 pi) - 1/2
        -2.338 0

    References: see the module.
    """
    if trace not in _TRACES:
        raise ValueError(f"likelihood.log_prob: trace must be one of {_TRACES}, got {trace!r}")
    if trace == "hutchinson" and key is None:
        raise ValueError("likelihood.log_prob: trace='hutchinson' draws; pass a key, e.g. jax.random.key(0)")
    if key is not None:
        key = keys.as_typed_key(key, "likelihood.log_prob")
    arrays = _arrays("log_prob", denoiser, schedule, x, guidance_scale, t_min, t_max, rtol, atol, solver)
    denoiser = as_partial(denoiser, "likelihood.log_prob", "denoiser")
    return _log_prob(key, denoiser, schedule, prior, cond, arrays, trace, solver, max_steps)


def transport(
    denoiser: Callable[..., tuple[Array, Array]],
    schedule: NoiseSchedule,
    x: Float[ArrayLike, "*d"],
    to: str,
    *,
    cond: PyTree = None,
    guidance_scale: ArrayLike = 1.0,
    t_min: Scalar | None = None,
    t_max: Scalar | None = None,
    rtol: Scalar = 1e-5,
    atol: Scalar = 1e-5,
    solver: str = "tsit5",
    max_steps: int = 4096,
) -> Transport:
    """The probability-flow ODE from one end of time to the other, to a tolerance.

    Other arguments, errors and gradients as in `log_prob`.

    Args:
        x: the state where it starts.
        to: "noise": from `t_min` to `t_max`, the latent of a point. Any deterministic solver run from it comes back to
            the point as it converges. "data": from `t_max` to `t_min`, the sample of a latent, the truth that solvers
            are held against. Static.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> vp = diffusion.schedules.vp_linear()
        >>> def network(x, t, cond):  # of N(0, 1): eps = sigma x
        ...     return vp.alpha_sigma(vp.lam(t))[1] * x
        >>> denoiser = diffusion.predictions.denoiser(network, vp, "epsilon")
        >>> print(diffusion.likelihood.transport(denoiser, vp, jnp.ones(2), "noise").value.round(2))
        [1. 1.]
    """
    if to not in ("noise", "data"):
        raise ValueError(f"likelihood.transport: to must be 'noise' or 'data', got {to!r}")
    arrays = _arrays("transport", denoiser, schedule, x, guidance_scale, t_min, t_max, rtol, atol, solver)
    denoiser = as_partial(denoiser, "likelihood.transport", "denoiser")
    return _transport(denoiser, schedule, cond, arrays, solver, max_steps, to == "noise")


def bits_per_dimension(
    log_prob: Float[ArrayLike, "..."], num_dims: int, *, bin_width: Scalar = 1.0
) -> Float[Array, "..."]:
    r"""$-(\log p + d\log\Delta) / (d\log 2)$: the code length of data on a grid of spacing $\Delta$.

    Args:
        log_prob: nats, of data with uniform noise of width `bin_width` added.
        num_dims: d (static).
        bin_width: spacing of the grid in the units of x: 2/255 for bytes scaled to [-1, 1], 1/8 for the digits here.

    Returns:
        Bits, of the shape of `log_prob`.

    Raises:
        ValueError: num_dims below 1.

    Example:
        >>> from jaxsci.diffusion import likelihood
        >>> print(f"{likelihood.bits_per_dimension(0.0, 64, bin_width=1 / 8):.3f}")  # uniform over [0, 1]: 8 levels
        3.000
    """
    log_prob, num_dims = as_float(log_prob), check_size("likelihood.bits_per_dimension", "num_dims", num_dims)
    width = as_real(bin_width, log_prob.dtype)
    return -(log_prob / num_dims + jnp.log(width)) / math.log(2)


# --- inside -------------------------------------------------------------------------------------------------


class _Arrays(NamedTuple):
    """All that is traced and no callable, in the dtype of the point.

    Attributes:
        x: the point.
        w: guidance scale.
        t_min: time of the data end.
        t_max: time of the noise end.
        rtol: relative tolerance of the integrator.
        atol: absolute tolerance of the integrator.
    """

    x: Array
    w: Array
    t_min: Array
    t_max: Array
    rtol: Array
    atol: Array


def _arrays(name, denoiser, schedule, x, guidance_scale, t_min, t_max, rtol, atol, solver):
    if solver not in _SOLVERS:
        raise ValueError(f"likelihood.{name}: solver must be one of {tuple(_SOLVERS)}, got {solver!r}")
    t_min = schedule.t_min if t_min is None else t_min
    t_max = schedule.t_max if t_max is None else t_max
    guidance_scale = as_scalar(guidance_scale, f"likelihood.{name}", "guidance_scale")
    check_guided(f"likelihood.{name}", denoiser, guidance_scale)
    dtype = jnp.promote_types(float_dtype(x), jnp.float32)
    return _Arrays(*(as_real(a, dtype) for a in (x, guidance_scale, t_min, t_max, rtol, atol)))


@eqx.filter_jit
def _log_prob(key, denoiser, schedule, prior, cond, arrays, trace, solver, max_steps):
    x, size = arrays.x, arrays.x.size
    signs = jax.random.rademacher(unrolled(key), x.shape, x.dtype) if trace == "hutchinson" else None
    basis = None if signs is not None else jnp.eye(size, dtype=x.dtype).reshape(size, *x.shape)

    def field(lam, state, _):
        rate, sigma, noise = _flow(denoiser, schedule, cond, arrays, lam)
        eps, derivative = jax.linearize(noise, state[0])
        if signs is not None:
            divergence = jnp.sum(signs * derivative(signs))
        else:
            divergence = jnp.trace(jax.vmap(derivative)(basis).reshape(size, size))
        return rate * state[0] - sigma * eps, size * rate - sigma * divergence

    (latent, change), steps, code = _integrate(
        field, schedule, arrays, (x, jnp.zeros((), x.dtype)), solver, max_steps, True
    )
    if prior is None:
        alpha, sigma = schedule.alpha_sigma(schedule.lam(arrays.t_max))
        variance = jnp.asarray(alpha**2 + sigma**2, x.dtype)
        density = -0.5 * (jnp.sum(latent**2) / variance + size * jnp.log(2 * jnp.pi * variance))
    else:
        density = jnp.asarray(prior(latent), x.dtype)
        if density.shape != ():
            raise TypeError(f"likelihood.log_prob: prior must return a scalar, got shape {density.shape}")
    value = jnp.where(jnp.isnan(change), jnp.nan, density + change)  # a prior may be finite for a NaN
    code = status.merge(code, status.flag((code == status.OK) & ~jnp.isfinite(value), status.NONFINITE_RESULT))
    return LogProb(value, latent, steps, code)


@eqx.filter_jit
def _transport(denoiser, schedule, cond, arrays, solver, max_steps, to_noise):
    def field(lam, x, _):
        rate, sigma, noise = _flow(denoiser, schedule, cond, arrays, lam)
        return rate * x - sigma * noise(x)

    return Transport(*_integrate(field, schedule, arrays, arrays.x, solver, max_steps, to_noise))


def _flow(denoiser, schedule, cond, arrays, lam):
    """alpha'/alpha, sigma and the noise prediction as a function of x, at lam."""
    dtype = arrays.x.dtype
    t = jnp.asarray(schedule.t_of_lam(lam), dtype)

    def noise(x):
        return called("likelihood", denoiser, x, t, cond, arrays.w)[1]

    return jnp.asarray(schedule.rate(lam), dtype), jnp.asarray(schedule.alpha_sigma(lam)[1], dtype), noise


def _norm(y):
    """Root mean square, infinite for an error that is none: the step is then shortened, NaN would stay for ever."""
    size = extras.require("optimistix", "ode", "diffusion.likelihood").rms_norm(y)
    return jnp.where(jnp.isfinite(size), size, jnp.inf)


def _integrate(field, schedule, arrays, start, solver, max_steps, to_noise):
    """Follow `field` between the two ends; returns the end, the steps and the status."""
    dfx = extras.require("diffrax", "ode", "diffusion.likelihood")
    dtype = arrays.x.dtype
    data, noise = (jnp.asarray(schedule.lam(t), dtype) for t in (arrays.t_min, arrays.t_max))
    bad = ~tree.all_finite(start)
    outside = ~(data > noise) | ~jnp.isfinite(data) | ~jnp.isfinite(noise)
    code = status.flag(bad, status.NONFINITE_INPUT) | status.flag(outside, status.OUT_OF_RANGE)
    # The integrator must not see them: give it no way to go, and report.
    data, noise = (jnp.where(code == status.OK, lam, i) for lam, i in ((data, 1.0), (noise, 0.0)))
    safe = tree.where(code == status.OK, start, tree.zeros_like(start))
    solution = dfx.diffeqsolve(
        dfx.ODETerm(field),
        getattr(dfx, _SOLVERS[solver])(),
        data if to_noise else noise,
        noise if to_noise else data,
        None,
        safe,
        # Where the model's output is not finite every step is refused, until it is too short to move.
        stepsize_controller=dfx.PIDController(
            rtol=arrays.rtol, atol=arrays.atol, norm=_norm, dtmin=jnp.finfo(dtype).tiny, force_dtmin=False
        ),
        max_steps=max_steps,
        throw=False,
    )
    end = jax.tree.map(lambda a: a[-1], solution.ys)
    capped = solution.result == dfx.RESULTS.max_steps_reached
    failed = (solution.result != dfx.RESULTS.successful) | ~tree.all_finite(end)
    late = status.flag(capped, status.MAX_STEPS) | status.flag(failed & ~capped, status.NONFINITE_RESULT)
    steps = jnp.where(code == status.OK, solution.stats["num_steps"], 0).astype(jnp.int32)
    code = jnp.where(code == status.OK, late, code)
    known = (code == status.OK) | (code == status.MAX_STEPS)
    end = tree.where(known, end, jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), end))
    return end, steps, code


__all__ = ["LogProb", "Transport", "bits_per_dimension", "log_prob", "transport"]

entry.guard(globals())
