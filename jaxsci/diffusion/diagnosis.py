r"""Whether a denoiser was put together as its network was trained: the usual mistakes, found and named.

With $x = \alpha x_0 + \sigma z$ from data, the loss $E|\varepsilon - z|^2$ of every noise level is known before a
sample is made. Its measure is the better of two predictions that need no network, the mean of the data and $x/\alpha$:

$$ r(\lambda) = \frac{E|D - x_0|^2}{\min(E|x_0 - \bar x_0|^2,\; d\,\sigma^2/\alpha^2)}. $$

A trained network stays below 1, up to the noise of the draws. Where it does not, the same network is read in the other
ways that are common, as another kind of prediction and with another scale of time, and the one with far less error is
named.

References: J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models", 2020, equation 12 (the loss);
T. Karras et al. 2022, section 5 (loss over noise levels).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core import entry, keys
from jaxsci.core.host import to_host
from jaxsci.core.static import Bound, bind, check_size
from jaxsci.core.types import KeyArray, Size, concrete
from jaxsci.diffusion import predictions
from jaxsci.diffusion.schedules import NoiseSchedule

_FACTORS = 1.1, 1.5  # by which another reading must be better: in the geometric mean over the levels, and at one
_USELESS = 1.2  # median of r above which a network knows nothing
_SCALES = (1e-3, 1.0, 1e3)
_READ = ("epsilon", "sample", "v_prediction", "score", "flow_prediction")


class Diagnosis(NamedTuple):
    """What `diagnose` found, on the host.

    Attributes:
        lam: noise levels, from noise to data.
        loss: mean of |eps - z|^2 per entry at each of them.
        relative: r, the error of D over that of the better prediction without a network; above 1 is useless.
        findings: one sentence for each mistake, its remedy in it; none is a clean bill.
    """

    lam: Float[np.ndarray, " levels"]
    loss: Float[np.ndarray, " levels"]
    relative: Float[np.ndarray, " levels"]
    findings: tuple[str, ...]


def _scaled(inner, scale, t):
    return scale * inner(t)


@eqx.filter_jit
def _losses(denoiser, schedule, x0, z, lams, cond):
    """(loss of eps, error of D) at every level."""

    def level(lam):
        alpha, sigma = (jnp.asarray(a, x0.dtype) for a in schedule.alpha_sigma(lam))
        t = schedule.t_of_lam(lam)
        x = alpha * x0 + sigma * z
        data, eps = jax.vmap(lambda x: denoiser(x, t, cond, jnp.ones((), x.dtype)))(x)
        return jnp.mean((eps - z) ** 2), jnp.mean((data - x0) ** 2)

    return jax.lax.map(level, lams)


def _rule_of(denoiser):
    """The options of a denoiser of `predictions.denoiser`, or None."""
    rule = getattr(denoiser, "func", None)
    known = isinstance(rule, Bound) and rule.function is predictions._denoise
    return dict(rule.items) if known else None


def _read_as(denoiser, kind, scale):
    """The same network as another kind, with its times multiplied."""
    model, schedule, *rest = denoiser.args
    schedule = schedule._replace(model_time=Partial(_scaled, schedule.model_time, jnp.float32(scale)))
    return Partial(bind(predictions._denoise, **(_rule_of(denoiser) | {"kind": kind})), model, schedule, *rest)


def _whole_steps_only(denoiser, x, cond):
    """Whether the network cuts or rounds its time to whole numbers: no change within a step, one between steps."""
    model, batched = denoiser.args[0], _rule_of(denoiser)["batched"]

    def at(time):
        time = jnp.asarray(time, jnp.float32)
        if batched:
            lift = lambda a: jnp.asarray(a)[None]  # noqa: E731
            return np.asarray(model(lift(x), lift(time), jax.tree.map(lift, cond))[0])
        return np.asarray(model(x, time, cond))

    base, near, further = (at(100.0 + shift) for shift in (0.1, 0.3, 2.1))
    return bool(np.array_equal(base, near) and not np.array_equal(base, further))


def _name(kind, scale, own):
    parts = [] if kind == own else [f"it predicts {kind!r} and not {own!r}: pass kind={kind!r}"]
    if scale != 1:
        parts.append(
            f"its times are {scale:g} times those it is given: give the schedule a model_time of that scale "
            "(time_scale= of schedules.vp_discrete)"
        )
    return "; ".join(parts)


def diagnose(
    denoiser: Callable[..., tuple[Array, Array]],
    schedule: NoiseSchedule,
    data: Float[ArrayLike, "M *d"] | Callable[[KeyArray], Array],
    *,
    key: KeyArray | None = None,
    cond: PyTree = None,
    num_samples: Size = 256,
    num_levels: Size = 9,
) -> Diagnosis:
    r"""Denoising loss over the noise levels, and what is wrong with how the network is used. A driver.

    Found and named are: another kind of prediction, times of another scale, a schedule that does not lead from noise
    to data (cumulative products of 1 - beta where betas were meant; `schedules.vp_discrete` refuses them too), and
    fractional times for a network that has an embedding of whole steps.

    Args:
        denoiser: of `predictions.denoiser`; of another one only the loss is known, and is compared with 1.
        schedule: that the samples will be made with.
        data: rows, drawn with replacement, or ``sampler(key) -> x0``.
        key: of the draws; a fixed one by default.
        cond: condition of all samples.
        num_samples: draws at each level.
        num_levels: levels, uniform between the ends of the schedule.

    Returns:
        `Diagnosis`; print its `findings`.

    Raises:
        TypeError: a traced argument, or a schedule that is none.
        ValueError: sizes below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> vp = diffusion.schedules.vp_linear()
        >>> def network(x, t, cond):  # eps of data from N(3, 1)
        ...     alpha, sigma = vp.alpha_sigma(vp.lam(t))
        ...     return sigma * (x - 3 * alpha)
        >>> denoiser = diffusion.predictions.denoiser(network, vp, "v_prediction")
        >>> found = diffusion.diagnose(denoiser, vp, lambda key: 3 + jax.random.normal(key, (8,)))
        >>> print(found.findings[0])
        it predicts 'epsilon' and not 'v_prediction': pass kind='epsilon'

    References: module docstring.
    """
    if not isinstance(schedule, NoiseSchedule):
        raise TypeError(f"diffusion.diagnose: schedule must be a NoiseSchedule, got {type(schedule).__name__}")
    check_size("diffusion.diagnose", "num_samples", num_samples)
    check_size("diffusion.diagnose", "num_levels", num_levels)
    concrete(jax.tree.leaves((denoiser, schedule)), "diffusion.diagnose", "denoiser and schedule", "call it outside")
    key = jax.random.key(0) if key is None else keys.as_typed_key(key, "diffusion.diagnose")
    first, second = jax.random.split(key)
    host = to_host(schedule)
    low, high = (float(host.lam(np.float64(t))) for t in (host.t_max, host.t_min))
    findings = []
    if not low < 0 < high:
        findings.append(
            f"the schedule goes from lam {low:.2f} to {high:.2f}, not from noise (below 0) to data (above 0): were "
            "cumulative products of 1 - beta given as betas? Use schedules.from_alphas_cumprod"
        )
    if callable(data):
        x0 = jax.vmap(data)(jax.random.split(first, num_samples))
    else:
        rows = jnp.asarray(data)
        x0 = rows[jax.random.randint(first, (num_samples,), 0, rows.shape[0])]
    z = jax.random.normal(second, x0.shape, x0.dtype)
    lams = np.linspace(max(low, -12.0), min(high, 12.0), num_levels)
    spread = float(jnp.mean((x0 - jnp.mean(x0, axis=0, keepdims=True)) ** 2))
    trivial = np.minimum(spread, np.exp(-2 * lams))
    run = functools.partial(_losses, schedule=schedule, x0=x0, z=z, lams=jnp.asarray(lams, x0.dtype), cond=cond)

    def judge(denoiser):
        loss, error = (np.asarray(a, np.float64) for a in run(denoiser))
        relative = np.where(np.isfinite(error), error, np.inf) / trivial
        return loss, relative, np.log(np.clip(relative, 1e-3, 1e3))

    loss, relative, logs = judge(denoiser)
    rule = _rule_of(denoiser)
    if rule is not None and rule["kind"] in _READ:
        if _whole_steps_only(denoiser, x0[0], cond):
            times = np.asarray([float(host.model_time(host.t_of_lam(lam))) for lam in lams])
            if np.abs(times - np.round(times)).max() > 1e-3:
                findings.append(
                    "the network reads whole time steps only, and the schedule gives it fractions such as "
                    f"{times[np.argmax(np.abs(times - np.round(times)))]:.3f}: stand on grids.from_timesteps, or "
                    "round the times in the model"
                )
        readings = {(kind, scale): judge(_read_as(denoiser, kind, scale)) for kind in _READ for scale in _SCALES}
        best = min(readings, key=lambda reading: readings[reading][2].mean())
        gain = logs - readings[best][2]
        better = gain.mean() > np.log(_FACTORS[0]) and gain.max() > np.log(_FACTORS[1])
        if better and np.median(readings[best][1]) < _USELESS:
            findings.append(_name(*best, rule["kind"]))
    if not findings and np.median(relative) > _USELESS:
        findings.append(
            "it is no better than the mean of the data or x/alpha, and no other reading is: look at the weights, at "
            "the scale of the data, and at the conditions"
        )
    return Diagnosis(lams, loss, relative, tuple(findings))


__all__ = ["Diagnosis", "diagnose"]

entry.guard(globals())
