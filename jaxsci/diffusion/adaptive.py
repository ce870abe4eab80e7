r"""Adaptive steps: DPM-Solver-12 and -23, a pair of orders whose difference sets the step, in one bounded loop.

From $\lambda$ with step h the lower order gives $x^{lo}$, the higher one, which contains it, $x^{hi}$. With

$$ E = \Bigl(\tfrac1d\sum_j \bigl((x^{hi}_j - x^{lo}_j)/\delta_j\bigr)^2\Bigr)^{1/2}, \quad
   \delta = \max(a, r\max(|x^{lo}|, |x^{prev}|)) $$

the step is taken if E <= 1, and $h \leftarrow \min(\theta h E^{-1/p}, \lambda_N - \lambda)$ either way. The rows are
those of `rules`, on a little grid made inside the loop. Lanes of a vmap choose their own steps; the loop runs as long
as the slowest.

References: C. Lu et al., "DPM-Solver", 2022, appendix C (adaptive step size); A. Jolicoeur-Martineau et al.,
"Gotta Go Fast When Generating Data with Score-Based Models", 2021 (the error norm).
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core import entry, loops, status
from jaxsci.core.static import as_partial
from jaxsci.core.types import Scalar, as_scalar
from jaxsci.diffusion import grids, rules
from jaxsci.diffusion._sample import combine
from jaxsci.diffusion.predictions import at_least_single, called, check_guided
from jaxsci.diffusion.schedules import NoiseSchedule


class Result(NamedTuple):
    """A sample and how many steps it took.

    Attributes:
        value: the state at `lam`.
        nfe: model calls: one for each accepted step, and those inside every attempt.
        accepted: steps taken, int32.
        rejected: attempts whose estimated error was too large, int32.
        lam: where the run stands: lam of t_min, unless it stopped early.
        status: MAX_STEPS, NONFINITE_INPUT, OUT_OF_RANGE (ends of the time; the value is NaN), NONFINITE_RESULT; 0 = ok.
    """

    value: Float[Array, "*d"]
    nfe: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    lam: Float[Array, ""]
    status: Int[Array, ""]


class _Carry(NamedTuple):
    """What the loop carries.

    Attributes:
        lam: where the run stands.
        h: step in lam that is tried next.
        x: state at `lam`.
        lower: lower-order result of the last step taken, for the scale of the error.
        data: data prediction of the last evaluation at the left end of a step.
        noise: noise prediction of the same evaluation.
        fresh: whether (data, noise) must be evaluated at x; after a rejected step they hold already.
        nfe: model calls so far.
        accepted: steps taken.
        rejected: steps refused.
        finite: whether the last estimated error was finite.
    """

    lam: Array
    h: Array
    x: Array
    lower: Array
    data: Array
    noise: Array
    fresh: Array  # whether (data, noise) must be evaluated at x
    nfe: Array
    accepted: Array
    finite: Array


def sample(
    denoiser: Callable[..., tuple[Array, Array]],
    schedule: NoiseSchedule,
    x_T: Float[ArrayLike, "*d"],
    *,
    order: int = 3,
    kind: str = "noise",
    t_min: Scalar | None = None,
    t_max: Scalar | None = None,
    h_init: Scalar = 0.05,
    atol: ArrayLike = 0.0078,
    rtol: ArrayLike = 0.05,
    safety: Scalar = 0.9,
    max_steps: Scalar = 1000,
    cond: PyTree = None,
    guidance_scale: ArrayLike = 1.0,
) -> Result:
    """One sample with steps chosen by the estimated error; deterministic.

    Args:
        denoiser: ``denoiser(x, t, cond, w) -> (D, eps)``; see `predictions.denoiser`.
        schedule: the noise schedule; both ends must have signal and noise.
        x_T: the state at t_max.
        order: 2 (DPM-Solver-12) or 3 (DPM-Solver-23) (static).
        kind: "noise" (DPM-Solver) or "data" (DPM-Solver++): which prediction is interpolated (static).
        t_min, t_max: ends; those of the schedule by default (traced). lam must be finite there, and rise from t_max on.
        h_init: first step in lam (traced).
        atol, rtol: a and r (traced); the defaults are for data in [-1, 1], 1/128 is one grey level.
        safety: theta (traced).
        max_steps: attempts, accepted or not (traced).
        cond, guidance_scale: as in `diffusion.sample`.

    Returns:
        `Result`. Forward-mode differentiable with fixed decisions; not in reverse mode: tabulate the accepted nodes.

    Raises:
        ValueError: an order other than 2 or 3, or an unknown kind.
        TypeError: x_T is not floating, or a denoiser that does not give two arrays like x.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> from jaxsci.diffusion import adaptive
        >>> schedule = diffusion.schedules.vp_linear()
        >>> def model(x, t, cond):  # the exact noise prediction for data N(1, 1/4)
        ...     alpha, sigma = schedule.alpha_sigma(schedule.lam(t))
        ...     return sigma * (x - alpha) / (alpha**2 / 4 + sigma**2)
        >>> denoiser = diffusion.predictions.denoiser(model, schedule, "epsilon")
        >>> result = adaptive.sample(denoiser, schedule, jnp.array([1.0]))
        >>> print(f"{result.value[0]:.1f} {int(result.status)}")  # 1 + 1/2
        1.5 0

    References: Lu et al. 2022 (DPM-Solver), algorithms 3 and 4 and appendix C.
    """
    if order not in (2, 3):
        raise ValueError(f"adaptive.sample: order must be 2 or 3, got {order}")
    if kind not in ("data", "noise"):
        raise ValueError(f"adaptive.sample: kind must be 'data' or 'noise', got {kind!r}")
    x_T = jnp.asarray(x_T)
    if not jnp.issubdtype(x_T.dtype, jnp.floating):
        raise TypeError(f"adaptive.sample: x_T must be floating, got {x_T.dtype}")
    ends = (schedule.t_max if t_max is None else t_max, schedule.t_min if t_min is None else t_min)
    numbers = {"h_init": h_init, "atol": atol, "rtol": rtol, "safety": safety, "guidance_scale": guidance_scale}
    numbers = [as_scalar(a, "adaptive.sample", name) for name, a in numbers.items()]
    check_guided("adaptive.sample", denoiser, guidance_scale)
    # times, steps and errors are never in half precision
    numbers = jnp.stack([jnp.asarray(a, at_least_single(x_T)) for a in (*ends, *numbers)])
    denoiser = as_partial(denoiser, "adaptive.sample", "denoiser")
    return _run(denoiser, schedule, x_T, cond, numbers, jnp.asarray(max_steps, jnp.int32), order, kind)


# Fractions of the step where the model is called, and the rows: the stages, the lower and the higher result.
_PAIRS = {
    2: ((0.5,), ((0, (), "exact"),), (0, (), "exact"), (1, ((0,),), "bh2")),
    3: ((1 / 3, 2 / 3), ((0, (), "exact"), (1, ((0,),), "exact")), (1, ((0,),), "bh2"), (2, ((0,),), "exact")),
}


@eqx.filter_jit
def _run(denoiser, schedule, x_T, cond, numbers, max_steps, order, kind):
    t_max, t_min, h_init, atol, rtol, safety, w = numbers
    dtype = numbers.dtype
    lam_start, lam_end = (jnp.asarray(schedule.lam(t), dtype) for t in (t_max, t_min))
    fractions, stages, lower_row, higher_row = _PAIRS[order]

    def model(x, t):
        return called("adaptive.sample", denoiser, x, t, cond, w)

    def body(carry):
        last = carry.h >= lam_end - carry.lam
        h = jnp.minimum(carry.h, lam_end - carry.lam)
        target = jnp.where(last, lam_end, carry.lam + h)
        grid = grids.at_lams(schedule, jnp.stack([carry.lam, *(carry.lam + c * h for c in fractions), target]))
        data, noise = jax.lax.cond(
            carry.fresh, lambda x: model(x, grid.t[0]), lambda x: (carry.data, carry.noise), carry.x
        )
        datas, noises, end = [data], [noise], len(fractions) + 1  # the newest last

        def reach(target, base, stencils, relaxation):
            """The state at a node, by a row of evaluation `base` from the start of the step."""
            row = rules._expand(grid, base, target, rules._Expansion(base, kind, stencils, relaxation))
            return combine(row, {base: carry.x}, datas[base::-1], noises[base::-1])

        for i, stage in enumerate(stages):
            data_i, noise_i = model(reach(i + 1, *stage), grid.t[i + 1])
            datas, noises = [*datas, data_i], [*noises, noise_i]
        lower, higher = reach(end, *lower_row), reach(end, *higher_row)
        scale = jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(lower), jnp.abs(carry.lower)))
        error = jnp.sqrt(jnp.mean(((higher - lower).astype(dtype) / scale) ** 2))
        taken = error <= 1
        grown = safety * h * jnp.maximum(error, jnp.finfo(dtype).tiny ** 0.5) ** (-1 / order)
        lam = jnp.where(taken, target, carry.lam)
        return _Carry(
            lam,
            jnp.minimum(grown, lam_end - lam),
            jnp.where(taken, higher, carry.x),
            jnp.where(taken, lower, carry.lower),
            data,
            noise,
            taken,
            carry.nfe + carry.fresh.astype(jnp.int32) + (order - 1),
            carry.accepted + taken,
            jnp.isfinite(error),
        )

    zero, zeros = jnp.int32(0), jnp.zeros_like(x_T)
    yes = jnp.asarray(True)
    outside = ~(lam_end > lam_start) | ~jnp.isfinite(lam_end) | ~jnp.isfinite(lam_start)
    finite = jnp.all(jnp.isfinite(x_T)) & ~outside
    start = _Carry(lam_start, h_init, x_T, x_T, zeros, zeros, yes, zero, zero, finite)
    carry, attempts = loops.bounded_while(lambda c: (c.lam < lam_end) & c.finite, body, start, max_steps=max_steps)
    bits = status.merge(
        status.flag(~jnp.all(jnp.isfinite(x_T)), status.NONFINITE_INPUT),
        status.flag(outside, status.OUT_OF_RANGE),
        status.flag(~outside & ~(carry.finite & jnp.all(jnp.isfinite(carry.x))), status.NONFINITE_RESULT),
        status.flag(carry.finite & (carry.lam < lam_end), status.MAX_STEPS),
    )
    value, rejected = jnp.where(outside, jnp.nan, carry.x), attempts - carry.accepted
    return Result(value, carry.nfe, carry.accepted, rejected, carry.lam, bits)


__all__ = ["Result", "sample"]

entry.guard(globals())
