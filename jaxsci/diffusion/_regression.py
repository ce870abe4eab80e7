r"""The compiled part of `statistics.estimate`: means over noisy samples, at all levels and at every second one.

First l, then with it f and its derivative along the flow, whose first and second moments give s and b:

$$ l = E[v \odot \sigma(\nabla_x\varepsilon)v], \qquad
   s = \frac{\mathrm{Cov}(f, f')}{\mathrm{Var} f + 10^{-6}E f^2 + 10^{-12}}, \qquad b = E f' - s\,E f. $$

Every second level is estimated along with all of them, by the same pass: with the slopes of l and the spans of the
secants that it would have alone.

References: K. Zheng et al., "DPM-Solver-v3", 2023, appendix C.1; T. Chan, G. Golub, R. LeVeque, "Updating Formulae and
a Pairwise Algorithm for Computing Sample Variances", 1979 (moments of chunks together).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from jaxsci.core.host import namespace
from jaxsci.core.keys import like, unrolled
from jaxsci.diffusion.predictions import called


def slopes(lam: Float[ArrayLike, " n"], values: Float[ArrayLike, "n *d"]) -> Float[ArrayLike, "n *d"]:
    """Derivative of `values` in lam by parabolas through neighbours: second order, at the ends and on uneven nodes."""
    xp = namespace(lam, values)
    lam, values = xp.asarray(lam), xp.asarray(values)
    h = xp.diff(lam).reshape(-1, *(1,) * (values.ndim - 1))
    secants = xp.diff(values, axis=0) / h
    if secants.shape[0] == 1:
        return xp.concatenate([secants, secants])
    inner = (h[1:] * secants[:-1] + h[:-1] * secants[1:]) / (h[1:] + h[:-1])
    return xp.concatenate([2 * secants[:1] - inner[:1], inner, 2 * secants[-1:] - inner[-1:]])


def spans(lam):
    """Offsets [n, 2] and weights [n, 2]: f' = sum_k weights_k (f(lam + offsets_k) - f(lam)), exact for parabolas.

    The points lie half-way to both neighbours, so that the slopes of all levels together telescope; at the ends both
    lie on one side.
    """
    h = jnp.diff(lam) / 2
    low = jnp.concatenate([h[:1], -h[:-1], -h[-1:]])
    high = jnp.concatenate([2 * h[:1], h[1:], -2 * h[-1:]])
    return jnp.stack([low, high], 1), jnp.stack([high / low, -low / high], 1) / (high - low)[:, None]


def every_second(lam: Float[ArrayLike, " n"]) -> np.ndarray:
    """Indices of every second level; the last level always is among them."""
    index = np.arange(0, np.shape(lam)[0], 2)
    return index if index[-1] == np.shape(lam)[0] - 1 else np.append(index, np.shape(lam)[0] - 1)


@eqx.filter_jit
def estimate(key, denoiser, schedule, data, lams, variance, cond, w, sizes, shared, derivative):
    """(lam, l, s, b, unexplained) at all levels and (lam, l, s, b) at every second one; see `statistics.estimate`."""
    num_samples, num_probes, batch = sizes

    def draw(key):
        """x0, its condition, the noise z and the probes of one sample."""
        mine = jax.random.split(unrolled(key), 3)
        if callable(data):
            x0 = data(like(mine[0], key))
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

    def noisy(sample, lam):
        alpha, sigma = (jnp.asarray(a, dtype) for a in schedule.alpha_sigma(lam))
        return alpha * sample[0] + sigma * sample[2], sigma

    def predict(x, lam, cond):
        return called("statistics.estimate", denoiser, x, schedule.t_of_lam(lam), cond, w)

    def jacobian_diagonal(lam, _, sample):
        x, sigma = noisy(sample, lam)
        if variance is not None:
            return 1 - jnp.exp(2 * lam) * variance(x, schedule.t_of_lam(lam), sample[1], w)
        noise = lambda x: predict(x, lam, sample[1])[1]  # noqa: E731
        product = jax.vmap(lambda v: v * jax.jvp(noise, (x,), (v,))[1])(sample[3])
        return sigma * jnp.mean(product, axis=0)

    def secants(x, lam, sample, offsets, weights):
        """D, eps and their derivatives along the flow."""
        here = predict(x, lam, sample[1])

        def there(offset):
            alpha, sigma = (jnp.asarray(a, dtype) for a in schedule.alpha_sigma(lam + offset))
            return predict(alpha * here[0] + sigma * here[1], lam + offset, sample[1])

        far = jax.lax.map(there, offsets)
        return here, [jnp.tensordot(weights, b - a[None], 1, precision="highest") for a, b in zip(here, far)]

    def tangents(x, lam, sample, *_):
        eps = predict(x, lam, sample[1])[1]
        velocity = jnp.asarray(schedule.rate(lam), dtype) * x - noisy(sample, lam)[1] * eps
        ones = jnp.ones((), dtype)
        return jax.jvp(lambda x, lam: predict(x, lam, sample[1]), (x, lam), (velocity, ones))

    def along_flow(lam, at_level, sample):
        """f and df/dlam, from D and eps: near l = 1 that loses nothing to cancellation; (x/alpha)^2 and D'^2."""
        level, slope, *span = at_level
        found = (secants if derivative == "secant" else tangents)(noisy(sample, lam)[0], lam, sample, *span)
        (data, eps), (data_rate, eps_rate) = found
        ratio = jnp.exp(-lam)
        f = (1 - level) * ratio * eps - level * data
        rate = (1 - level) * ratio * (eps_rate - eps) - level * data_rate - slope * (ratio * eps + data)
        return f, rate, (data + ratio * eps) ** 2, data_rate**2

    def over_samples(function, index, lams, at_levels, reduce, combine, start):
        """Fold `function(lam, at_level, sample)` of chunks of samples into statistics of all levels.

        `index` says which levels draw alike, where levels draw for themselves.
        """

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

            _, parts = jax.lax.scan(level, None, (jnp.asarray(index), lams, at_levels))
            return combine(total, parts), None

        return jax.lax.scan(chunk, start, jnp.arange(0, num_samples, batch))[0]

    zeros = jnp.zeros((lams.shape[0], *shape.shape), dtype)
    index, few = np.arange(lams.shape[0]), every_second(lams)
    level = over_samples(jacobian_diagonal, index, lams, None, _sum, jnp.add, zeros) / num_samples

    # One pass, which is compiled once, over all levels and then every second one with slopes and spans of its own.
    parts = (lams, level), (lams[few], level[few])
    index = np.concatenate([index, np.arange(len(few))])
    lams, level, slope, *span = (
        jnp.concatenate(pair)
        for pair in zip(*((lams, level, slopes(lams, level), *spans(lams)) for lams, level in parts))
    )
    zeros = jnp.zeros_like(level)
    start = [jnp.zeros((level.shape[0], *(1,) * len(shape.shape)), dtype), *(zeros,) * 7]
    moments = over_samples(along_flow, index, lams, (level, slope, *span), _moments, _merge, start)
    mean, mean_rate, var, cov, var_rate, size, data_rate = moments[1:3] + [a / num_samples for a in moments[3:]]
    # The last term is what rounding makes of an f that does not vary, whose two parts are as large as x/alpha; 512
    # since the other factor, f' with the error of l', is far larger. In float64 it is nothing.
    rounding = (512 * jnp.finfo(dtype).eps) ** 2 * size
    s = cov / (var + 1e-6 * (var + mean**2) + 1e-12 + rounding)
    over = tuple(range(1, level.ndim))
    left, known = jnp.sum(var_rate - 2 * s * cov + s**2 * var, over), jnp.sum(data_rate, over)
    unexplained = jnp.sqrt(jnp.maximum(left, 0) / (known + jnp.finfo(dtype).tiny))
    found, num = (lams, level, s, mean_rate - s * mean), len(parts[0][0])
    return (*(a[:num] for a in found), unexplained[:num]), tuple(a[num:] for a in found)


def _sum(values, keep):
    return jnp.sum(values * keep, axis=0)


def _moments(values, keep):
    """Of one chunk: count, means of f and g, sums of their squares and product about them, and of the other values."""
    count = jnp.sum(keep, axis=0)
    f, g, *others = values
    mean_f, mean_g = _sum(f, keep) / count, _sum(g, keep) / count
    df, dg = (f - mean_f[None]) * keep, (g - mean_g[None]) * keep
    squares = (jnp.sum(a * b, axis=0) for a, b in ((df, df), (df, dg), (dg, dg)))
    return [count, mean_f, mean_g, *squares, *(_sum(a, keep) for a in others)]


def _merge(total, part):
    """Moments of two chunks together, without cancellation (Chan, Golub and LeVeque 1979)."""
    na, fa, ga, *a = total
    nb, fb, gb, *b = part
    n = na + nb
    df, dg, share = fb - fa, gb - ga, na * nb / n
    apart = [df * df * share, df * dg * share, dg * dg * share, 0.0, 0.0]
    return [n, fa + df * nb / n, ga + dg * nb / n, *(x + y + z for x, y, z in zip(a, b, apart))]
