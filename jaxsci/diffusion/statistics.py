r"""Empirical model statistics of DPM-Solver-v3: l, s and b per noise level and dimension, estimated from the model.

With $f = (\sigma\varepsilon - l\,x)/\alpha = (1-l)e^{-\lambda}\varepsilon - l D$ the probability-flow ODE is

$$ \frac{d}{d\lambda}\frac{x}{\alpha} = -l\,\frac{x}{\alpha} - f, \qquad \frac{df}{d\lambda} \approx s f + b, $$

exact for every l, s and b, and solved the better the flatter $e^{-S}f - \int e^{-S}b$ is. l makes f least sensitive to
x, $l = E[\mathrm{diag}(\sigma\nabla_x\varepsilon)]$; s and b are the regression of $df/d\lambda$ along the flow on f.
For an exact denoiser $\sigma\nabla\varepsilon = I - e^{2\lambda}\mathrm{Cov}(x_0|x)$, so that
$l = 1 - e^{2\lambda}E[\mathrm{Var}(x_0|x)]$ lies in [0, 1].

References: K. Zheng et al., "DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics", 2023,
section 3 and appendix C.1; M. Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1990.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core import arrays, entry, keys
from jaxsci.core.host import namespace, to_host
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray, Size, as_real, concrete, is_concrete
from jaxsci.diffusion import _regression, grids
from jaxsci.diffusion.predictions import check_guided
from jaxsci.diffusion.schedules import NoiseSchedule

_KIND = "statistics of a model"


class Statistics(NamedTuple):
    """l, s and b at N + 1 noise levels, from noise to data; d is the shape of the data, or () when all share one.

    The last two fields let `v3.dpm_v3` judge them; None where nobody knows (files of others, closed forms).

    Attributes:
        lam: log(alpha / sigma), rising.
        l: mean diagonal of sigma times the Jacobian of eps: 1 in pure noise, 0 at clean data.
        s: slope of df/dlam on f.
        b: intercept of df/dlam on f.
        unexplained: r.m.s. of df/dlam - s f - b, which no coefficient knows, over that of dD/dlam, which data
            prediction does not know either.
        coarse: the same from every second level alone, without the last two fields.
    """

    lam: Float[Array, " N+1"]
    l: Float[Array, "N+1 *d"]  # noqa: E741
    s: Float[Array, "N+1 *d"]
    b: Float[Array, "N+1 *d"]
    unexplained: Float[Array, " N+1"] | None = None
    coarse: "Statistics | None" = None


def _levels(name, schedule, lams):
    """The given noise levels, or N uniform steps between the ends of the schedule."""
    if np.ndim(lams) == 0:
        return grids.logsnr(schedule, lams).lam
    if np.ndim(lams) != 1 or np.shape(lams)[0] < 2:
        raise ValueError(f"statistics.{name}: lams must be a vector of at least 2 levels, got {np.shape(lams)}")
    if not isinstance(lams, jax.core.Tracer) and not np.all(np.diff(np.asarray(lams)) > 0):
        raise ValueError(f"statistics.{name}: lams must rise, from noise to data, got {np.asarray(lams)}")
    return lams


# --- estimation ---------------------------------------------------------------------------------------------


def estimate(
    key: KeyArray,
    denoiser: Callable[..., tuple[Array, Array]],
    schedule: NoiseSchedule,
    data: Float[ArrayLike, "M *d"] | Callable[..., Any],
    *,
    lams: Size | Float[ArrayLike, " levels"] | None = None,
    num_samples: int = 1024,
    num_probes: int = 1,
    variance: Callable[..., Array] | None = None,
    cond: PyTree = None,
    guidance_scale: ArrayLike = 1.0,
    common_random_numbers: bool = True,
    derivative: str = "secant",
    batch_size: int = 64,
) -> Statistics:
    r"""Estimate l, s and b from noisy data $x = \alpha x_0 + \sigma z$ by Jacobian-vector products.

    $$ l = E[v \odot \sigma(\nabla_x\varepsilon)v], \quad
       s = \frac{\mathrm{Cov}(f, f')}{\mathrm{Var} f + 10^{-6}E f^2 + 10^{-12}}, \quad b = E f' - s\,E f, \quad
       f' = e^{-\lambda}[(l-1)\varepsilon + \varepsilon'] - \dot l x/\alpha $$

    with Rademacher v, derivatives of D and $\varepsilon$ along the flow, and $\dot l$ by differences. The guard keeps s
    finite where f does not vary (constant pixels, Gaussian dimensions); the solver is exact for any s.

    The derivatives are secants between points half-way to the neighbouring levels, $\alpha D + \sigma\varepsilon$. What
    a network does between two levels then cancels in the integrals of b, up to its own size. Exact derivatives
    grow with the frequency instead: those of sinusoidal time features at 120 levels make v3 useless.

    Args:
        key: sample i uses ``fold_in(key, i)``, so that `batch_size` changes nothing but rounding.
        denoiser: ``denoiser(x, t, cond, w) -> (D, eps)``, differentiable in x and t.
        schedule: the noise schedule.
        data: rows are drawn with replacement; or ``sampler(key) -> x0``, or ``-> (x0, cond)`` with a condition each,
            for example a slow solver where there are no data.
        lams: N (static): N + 1 uniform levels between the ends of the schedule, 30 to 1200; or the levels themselves,
            rising (traced), such as ``grids.logsnr(schedule, 120, t_min=1e-4).lam``. A grid must lie between them.
            None: the first of 60, 120, 240 and 480 at which half of the levels give the same coefficients within 5 %,
            of an eight-step solver; the last one if none does, and tables of it say so (`v3.dpm_v3`). Outside compiled
            code only.
        num_samples: K (static); matters more than N. The published files have 1024 to 4096.
        num_probes: Rademacher vectors per sample (static).
        variance: ``variance(x, t, cond, w) -> Var(x0 | x)`` of an exact denoiser, per entry: l is then free of the
            noise of probes.
        cond: condition of all samples, unless the sampler gives one.
        guidance_scale: w. Statistics of the model without guidance are usual; at strong guidance they misfit.
        common_random_numbers: the same x0, z and v at every level (static), so that l, s and b are smooth in lam.
            Independent draws cost high-order solvers their order.
        derivative: "secant", or "exact" by Jacobian-vector products: for networks that are smooth in time on the scale
            of the levels (static).
        batch_size: samples in flight (static): bounds the memory.

    Returns:
        `Statistics` in the dtype of the data, with `unexplained` and `coarse`.

    Raises:
        ValueError: sizes below 1, an unknown derivative, a concrete guidance_scale that the denoiser does not know, or
            levels of a wrong shape or that do not rise.
        TypeError: traced arguments without `lams`, integer data, or a denoiser that does not give two arrays like x.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.diffusion import predictions, schedules, statistics
        >>> vp = schedules.vp_linear()
        >>> def model(x, t, cond):  # exact for data from N(0, 1): eps = sigma x
        ...     return vp.alpha_sigma(vp.lam(t))[1] * x
        >>> denoiser = predictions.denoiser(model, vp, "epsilon")
        >>> stats = statistics.estimate(
        ...     jax.random.key(0), denoiser, vp, lambda key: jax.random.normal(key, (2,)), lams=4, num_samples=8)
        >>> print(stats.l.shape, [f"{level:.2f}" for level in stats.l[:, 0]])  # sigma^2
        (5, 2) ['1.00', '0.99', '0.61', '0.01', '0.00']

    References: Zheng et al. 2023, equations 8, 11 and 12 and appendix C.1.1.
    """
    for name, size in (("num_samples", num_samples), ("num_probes", num_probes), ("batch_size", batch_size)):
        check_size("statistics.estimate", name, size)
    if derivative not in ("secant", "exact"):
        raise ValueError(f"statistics.estimate: derivative must be 'secant' or 'exact', got {derivative!r}")
    key = keys.as_typed_key(key, "statistics.estimate")
    check_guided("statistics.estimate", denoiser, guidance_scale)
    if not callable(data):
        data = jnp.asarray(data)
        if data.ndim < 1 or data.shape[0] < 1 or not jnp.issubdtype(data.dtype, jnp.floating):
            raise TypeError(
                f"statistics.estimate: data must be floating rows [M, *d] or a sampler, got {data.dtype}{data.shape}"
            )
    if lams is None:
        given = key, denoiser, schedule, data, variance, cond, guidance_scale
        if not is_concrete(given):
            raise TypeError(
                "statistics.estimate: without lams it is a loop on the host; inside compiled code pass lams=120"
            )
        return _resolved(
            key, denoiser, schedule, data, num_samples=num_samples, num_probes=num_probes, variance=variance, cond=cond,
            guidance_scale=guidance_scale, common_random_numbers=common_random_numbers, derivative=derivative,
            batch_size=batch_size,
        )  # fmt: skip
    lams = jnp.asarray(_levels("estimate", schedule, lams))
    sizes = num_samples, num_probes, min(batch_size, num_samples)
    found, half = _regression.estimate(
        key, denoiser, schedule, data, lams, variance, cond, as_real(guidance_scale, lams.dtype), sizes,
        bool(common_random_numbers), derivative,
    )  # fmt: skip
    return Statistics(*found, Statistics(*half))


def _resolved(key, denoiser, schedule, data, **options):
    """Statistics on as many levels as their own check asks for."""
    from jaxsci.diffusion import _judged, v3  # they build on this file

    host = to_host(schedule)
    grid = grids.logsnr(host, 8)
    for num in (60, 120, 240, 480):
        found = estimate(key, denoiser, schedule, data, lams=num, **options)
        table = v3.dpm_v3(grid, found, order=2, corrector=None)
        if not table.status & _judged.UNRESOLVED:
            break
    return found


# --- special cases and files --------------------------------------------------------------------------------


def constant(
    schedule: NoiseSchedule,
    l: ArrayLike = 1.0,  # noqa: E741
    s: ArrayLike = 0.0,
    b: ArrayLike = 0.0,
    *,
    lams: Size | Float[ArrayLike, " levels"] = 120,
) -> Statistics:
    """The same l, s and b at every level; (1, 0, 0) is data prediction (the default), (0, -1, 0) noise prediction.

    Args:
        schedule: the noise schedule.
        l, s, b: numbers, or arrays of the data's shape (traced).
        lams: levels as in `estimate`.

    Example:
        >>> from jaxsci.diffusion import schedules, statistics
        >>> print(statistics.constant(schedules.vp_linear(), lams=5).l)
        [1. 1. 1. 1. 1. 1.]

    References: Zheng et al. 2023, appendix A.2.
    """
    xp = namespace(schedule, l, s, b, lams)
    lams = xp.asarray(_levels("constant", schedule, lams))
    shape = np.broadcast_shapes(np.shape(l), np.shape(s), np.shape(b))
    dtype = xp.result_type(lams, *(a for a in (l, s, b) if not isinstance(a, (int, float))))
    same = lambda a: xp.broadcast_to(xp.asarray(a, dtype), (lams.shape[0], *shape))  # noqa: E731
    return Statistics(lams.astype(dtype), same(l), same(s), same(b))


def save(statistics: Statistics, path: str | Path, *, layout: str = "npz") -> None:
    """Write statistics as one npz file, or ("official") as a folder with ``l.npz`` and ``sb.npz`` without levels.

    Raises:
        TypeError: traced statistics.
        ValueError: an unknown layout, or levels that are not uniform for "official", which implies them.

    Example:
        >>> import os, tempfile
        >>> from jaxsci.diffusion import schedules, statistics
        >>> path = os.path.join(tempfile.mkdtemp(), "s.npz")
        >>> statistics.save(statistics.constant(schedules.vp_linear(), lams=5), path)
        >>> print(statistics.load(path).l)
        [1. 1. 1. 1. 1. 1.]
    """
    concrete(statistics, "statistics.save", "statistics", "save outside compiled code")
    if layout not in ("npz", "official"):
        raise ValueError(f"statistics.save: layout must be 'npz' or 'official', got {layout!r}")
    lam, l, s, b = (np.asarray(a) for a in statistics[:4])  # noqa: E741
    if layout == "npz":
        half = {} if statistics.coarse is None else statistics.coarse._asdict()
        found = statistics._asdict() | {"coarse": None} | {f"coarse.{name}": a for name, a in half.items()}
        found = {name: a for name, a in found.items() if a is not None}
        return arrays.save(path, found, kind=_KIND, caller="statistics.save")
    step = np.diff(np.asarray(lam, np.float64))
    if np.ptp(step) > 1e-3 * np.abs(step).mean():
        raise ValueError("statistics.save: layout 'official' implies uniform levels, these are not; use layout='npz'")
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "l.npz", l=l)
    np.savez(folder / "sb.npz", s=s, b=b)


def load(path: str | Path, schedule: NoiseSchedule | None = None, *, t_min=None, t_max=None) -> Statistics:
    """Read what `save` wrote, or a folder of the official layout: float64 on the host.

    Args:
        path: an npz file, or a folder with ``l.npz`` and ``sb.npz``.
        schedule: of the model; a folder needs it, for its levels are uniform between the times t_max and t_min.
        t_min, t_max: ends with which the folder was made; those of the schedule by default.

    Raises:
        ValueError: a folder without a schedule, arrays of different shapes, or another kind of file.

    Example:
        >>> import os, tempfile
        >>> from jaxsci.diffusion import schedules, statistics
        >>> path = os.path.join(tempfile.mkdtemp(), "s.npz")
        >>> statistics.save(statistics.constant(schedules.vp_linear(), lams=5), path)
        >>> print(statistics.load(path).l)
        [1. 1. 1. 1. 1. 1.]
    """
    path = Path(path)
    if path.is_dir():
        if schedule is None:
            raise ValueError(f"statistics.load: {path} holds no noise levels; pass the model's schedule and its ends")
        with np.load(path / "l.npz") as first, np.load(path / "sb.npz") as second:
            l, s, b = first["l"], second["s"], second["b"]  # noqa: E741
        if not l.shape == s.shape == b.shape:
            raise ValueError(f"statistics.load: l, s and b must have one shape, got {l.shape}, {s.shape} and {b.shape}")
        return to_host(Statistics(grids.logsnr(schedule, l.shape[0] - 1, t_min=t_min, t_max=t_max).lam, l, s, b))
    needed = Statistics._fields[:4]
    found = arrays.load(path, kind=_KIND, names=needed, caller="statistics.load")
    half = Statistics(*(found[f"coarse.{name}"] for name in needed)) if "coarse.lam" in found else None
    return to_host(Statistics(*(found[name] for name in needed), found.get("unexplained"), half))


__all__ = ["Statistics", "constant", "estimate", "load", "save"]

entry.guard(globals())
