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

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core import arrays, entry, keys
from jaxsci.core.host import namespace, to_host
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray, Size, concrete
from jaxsci.diffusion import grids
from jaxsci.diffusion.predictions import checked
from jaxsci.diffusion.schedules import NoiseSchedule

_KIND = "statistics of a model"


class Statistics(NamedTuple):
    """l, s and b at N + 1 noise levels, from noise to data; d is the shape of the data, or () when all share one.

    Attributes:
        lam: log(alpha / sigma), rising.
        l: mean diagonal of sigma times the Jacobian of eps: 1 in pure noise, 0 at clean data.
        s: slope of df/dlam on f.
        b: intercept of df/dlam on f.
    """

    lam: Float[Array, " N+1"]
    l: Float[Array, "N+1 *d"]  # noqa: E741
    s: Float[Array, "N+1 *d"]
    b: Float[Array, "N+1 *d"]


def _slopes(lam: Float[ArrayLike, " n"], values: Float[ArrayLike, "n *d"]) -> Float[ArrayLike, "n *d"]:
    """Derivative of `values` in lam by parabolas through neighbours: second order, at the ends and on uneven nodes."""
    xp = namespace(lam, values)
    lam, values = xp.asarray(lam), xp.asarray(values)
    h = xp.diff(lam).reshape(-1, *(1,) * (values.ndim - 1))
    secants = xp.diff(values, axis=0) / h
    if secants.shape[0] == 1:
        return xp.concatenate([secants, secants])
    inner = (h[1:] * secants[:-1] + h[:-1] * secants[1:]) / (h[1:] + h[:-1])
    return xp.concatenate([2 * secants[:1] - inner[:1], inner, 2 * secants[-1:] - inner[-1:]])


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
    lams: Size | Float[ArrayLike, " levels"] = 120,
    num_samples: int = 1024,
    num_probes: int = 1,
    variance: Callable[..., Array] | None = None,
    cond: PyTree = None,
    guidance_scale: ArrayLike = 1.0,
    common_random_numbers: bool = True,
    batch_size: int = 64,
) -> Statistics:
    r"""Estimate l, s and b from noisy data $x = \alpha x_0 + \sigma z$ by Jacobian-vector products.

    $$ l = E[v \odot \sigma(\nabla_x\varepsilon)v], \quad
       s = \frac{\mathrm{Cov}(f, f')}{\mathrm{Var} f + 10^{-6}E f^2 + 10^{-12}}, \quad b = E f' - s\,E f, \quad
       f' = e^{-\lambda}[(l-1)\varepsilon + \varepsilon'] - \dot l x/\alpha $$

    with Rademacher v, $\varepsilon'$ one product along the flow (dx/dlam, 1), and $\dot l$ by differences. The guard
    keeps s finite where f does not vary (constant pixels, Gaussian dimensions); the solver is exact for any s.

    Args:
        key: sample i uses ``fold_in(key, i)``, so that `batch_size` changes nothing but rounding.
        denoiser: ``denoiser(x, t, cond, w) -> (D, eps)``, differentiable in x and t.
        schedule: the noise schedule.
        data: rows are drawn with replacement; or ``sampler(key) -> x0``, or ``-> (x0, cond)`` with a condition each,
            for example a slow solver where there are no data.
        lams: N (static): N + 1 uniform levels between the ends of the schedule, 120 to 1200; or the levels themselves,
            rising (traced), such as ``grids.logsnr(schedule, 120, t_min=1e-4).lam``. A grid must lie between them.
        num_samples: K (static); matters more than N. The published files have 1024 to 4096.
        num_probes: Rademacher vectors per sample (static).
        variance: ``variance(x, t, cond, w) -> Var(x0 | x)`` of an exact denoiser, per entry: l is then free of the
            noise of probes.
        cond: condition of all samples, unless the sampler gives one.
        guidance_scale: w. Statistics of the model without guidance are usual; at strong guidance they misfit.
        common_random_numbers: the same x0, z and v at every level (static), so that l, s and b are smooth in lam.
            Independent draws cost high-order solvers their order.
        batch_size: samples in flight (static): bounds the memory.

    Returns:
        `Statistics` in the dtype of the data.

    Raises:
        ValueError: sizes below 1, or levels of a wrong shape or that do not rise.
        TypeError: integer data, or a denoiser that does not give two arrays like x.

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
    key = keys.as_typed_key(key, "statistics.estimate")
    if not callable(data):
        data = jnp.asarray(data)
        if data.ndim < 1 or data.shape[0] < 1 or not jnp.issubdtype(data.dtype, jnp.floating):
            raise TypeError(
                f"statistics.estimate: data must be floating rows [M, *d] or a sampler, got {data.dtype}{data.shape}"
            )
    lams = jnp.asarray(_levels("estimate", schedule, lams))
    sizes = num_samples, num_probes, min(batch_size, num_samples)
    return _estimate(
        key, denoiser, schedule, data, lams, variance, cond, jnp.asarray(guidance_scale, lams.dtype), sizes,
        bool(common_random_numbers),
    )  # fmt: skip


@eqx.filter_jit
def _estimate(key, denoiser, schedule, data, lams, variance, cond, w, sizes, shared):
    num_samples, num_probes, batch = sizes

    def draw(key):
        """x0, its condition, the noise z and the probes of one sample."""
        mine = jax.random.split(key, 3)
        if callable(data):
            x0 = data(mine[0])
            x0, own = x0 if isinstance(x0, tuple) else (x0, cond)
        else:
            x0, own = data[jax.random.randint(mine[0], (), 0, data.shape[0])], cond
        z = jax.random.normal(mine[1], x0.shape, x0.dtype)
        return x0, own, z, jax.random.rademacher(mine[2], (num_probes, *x0.shape), x0.dtype)

    shape = jax.eval_shape(draw, key)[0]
    dtype = shape.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"statistics.estimate: the sampler must give floating data, got {dtype}")
    lams, w = lams.astype(dtype), w.astype(dtype)
    num_levels = lams.shape[0]

    def noisy(sample, lam):
        alpha, sigma = (jnp.asarray(a, dtype) for a in schedule.alpha_sigma(lam))
        return alpha * sample[0] + sigma * sample[2], sigma

    def predict(x, lam, cond):
        return checked("statistics.estimate", denoiser(x, schedule.t_of_lam(lam), cond, w), x)

    def jacobian_diagonal(lam, _, sample):
        x, sigma = noisy(sample, lam)
        if variance is not None:
            return 1 - jnp.exp(2 * lam) * variance(x, schedule.t_of_lam(lam), sample[1], w)
        noise = lambda x: predict(x, lam, sample[1])[1]  # noqa: E731
        product = jax.vmap(lambda v: v * jax.jvp(noise, (x,), (v,))[1])(sample[3])
        return sigma * jnp.mean(product, axis=0)

    def along_flow(lam, at_level, sample):
        """f and df/dlam, from D and eps: near l = 1 that loses nothing to cancellation; and (x/alpha)^2."""
        level, slope = at_level
        x, sigma = noisy(sample, lam)
        eps = predict(x, lam, sample[1])[1]
        velocity = jnp.asarray(schedule.rate(lam), dtype) * x - sigma * eps
        ones = jnp.ones((), dtype)
        (data, eps), (data_rate, eps_rate) = jax.jvp(
            lambda x, lam: predict(x, lam, sample[1]), (x, lam), (velocity, ones)
        )
        ratio = jnp.exp(-lam)
        f = (1 - level) * ratio * eps - level * data
        rate = (1 - level) * ratio * (eps_rate - eps) - level * data_rate - slope * (ratio * eps + data)
        return f, rate, (data + ratio * eps) ** 2

    def over_samples(function, at_levels, reduce, combine, start):
        """Fold `function(lam, at_level, sample)` of chunks of samples into statistics of all levels."""

        def chunk(total, first):
            ids = first + jnp.arange(batch)
            keep = (ids < num_samples).astype(dtype).reshape(-1, *(1,) * len(shape.shape))
            numbers = lambda key: jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(ids)  # noqa: E731
            common = numbers(key) if shared else None

            def level(_, at):
                index, lam, mine = at
                samples = common if shared else numbers(jax.random.fold_in(jax.random.fold_in(key, num_samples), index))
                values = jax.vmap(function, in_axes=(None, None, 0))(lam, mine, samples)
                return None, reduce(values, keep)

            _, parts = jax.lax.scan(level, None, (jnp.arange(num_levels), lams, at_levels))
            return combine(total, parts), None

        return jax.lax.scan(chunk, start, jnp.arange(0, num_samples, batch))[0]

    zeros = jnp.zeros((num_levels, *shape.shape), dtype)
    level = over_samples(jacobian_diagonal, None, _sum, jnp.add, zeros) / num_samples
    slope = _slopes(lams, level)
    count = jnp.zeros((num_levels, *(1,) * len(shape.shape)), dtype)
    start = (count, *(zeros,) * 5)
    _, mean, mean_rate, square, product, size = over_samples(along_flow, (level, slope), _moments, _merge, start)
    var, cov = square / num_samples, product / num_samples
    # The last term is what rounding makes of an f that does not vary, whose two parts are as large as x/alpha; 64 since
    # the other factor, f' with the error of l', is far larger. In float64 it is nothing.
    rounding = (64 * jnp.finfo(dtype).eps) ** 2 * size / num_samples
    s = cov / (var + 1e-6 * (var + mean**2) + 1e-12 + rounding)
    return Statistics(lams, level, s, mean_rate - s * mean)


def _sum(values, keep):
    return jnp.sum(values * keep, axis=0)


def _moments(values, keep):
    """Count, means of f and g, sums of (f - mean)^2 and (f - mean)(g - mean), and of the third value, of one chunk."""
    count = jnp.sum(keep, axis=0)
    f, g, size = values
    mean_f, mean_g = _sum(f, keep) / count, _sum(g, keep) / count
    df, dg = (f - mean_f[None]) * keep, (g - mean_g[None]) * keep
    return count, mean_f, mean_g, jnp.sum(df * df, axis=0), jnp.sum(df * dg, axis=0), _sum(size, keep)


def _merge(total, part):
    """Moments of two chunks together, without cancellation (Chan, Golub and LeVeque 1979)."""
    (na, fa, ga, sa, pa, za), (nb, fb, gb, sb, pb, zb) = total, part
    n = na + nb
    df, dg, share = fb - fa, gb - ga, na * nb / n
    return n, fa + df * nb / n, ga + dg * nb / n, sa + sb + df * df * share, pa + pb + df * dg * share, za + zb


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
    """
    concrete(statistics, "statistics.save", "statistics", "save outside compiled code")
    if layout not in ("npz", "official"):
        raise ValueError(f"statistics.save: layout must be 'npz' or 'official', got {layout!r}")
    lam, l, s, b = (np.asarray(a) for a in statistics)  # noqa: E741
    if layout == "npz":
        return arrays.save(path, statistics._asdict(), kind=_KIND, caller="statistics.save")
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
    found = arrays.load(path, kind=_KIND, names=Statistics._fields, caller="statistics.load")
    return to_host(Statistics(*(found[name] for name in Statistics._fields)))


__all__ = ["Statistics", "constant", "estimate", "load", "save"]

entry.guard(globals())
