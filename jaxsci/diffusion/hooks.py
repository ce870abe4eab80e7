r"""Hooks of `sample`: changes of the data prediction or of the state on the way, with their parameters as leaves.

A *data hook* ``hook(D, x, t, key) -> D`` changes the prediction; the sampler recomputes
$\varepsilon = (x - \alpha D)/\sigma$, so the history of a multistep solver stays one of consistent pairs. A *state
hook* ``hook(x, t_next, key) -> x`` changes the state after a step; histories do not know of it, so it suits first-order
tables best.

References: J. Song et al., "Solving Inverse Problems in Medical Imaging with Score-Based Generative Models", 2022, and
A. Lugmayr et al., "RePaint", 2022, equation 8 (replacing what is known).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core import entry
from jaxsci.core.host import as_leaf
from jaxsci.core.keys import unrolled
from jaxsci.core.static import as_partial
from jaxsci.core.types import Scalar, as_real, is_concrete
from jaxsci.diffusion.schedules import NoiseSchedule


def _mix(known, mask, values):
    """mask known + (1 - mask) values, mask and known broadcast to the data."""
    known, mask = (jnp.broadcast_to(as_real(a, values.dtype), values.shape) for a in (known, mask))
    return mask * known + (1 - mask) * values


def _inpaint(known, mask, data, x, t, key):
    return _mix(known, mask, data)


def inpaint(known: Float[ArrayLike, "*d"], mask: ArrayLike) -> Partial:
    r"""Data hook $D \leftarrow m\,y + (1 - m)\,D$: parts of the sample are given.

    The rest follows the model's prediction given the noisy known part: close to the conditional law, not equal to it.

    Args:
        known: y, of the shape of one sample or a number (traced).
        mask: m, 1 (True) where y is known, values between are soft (traced).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> from jaxsci.diffusion import hooks
        >>> schedule = diffusion.schedules.vp_linear()
        >>> model = lambda x, t, cond: jnp.zeros_like(x)
        >>> denoiser = diffusion.predictions.denoiser(model, schedule, "sample")
        >>> grid = diffusion.grids.with_zero(diffusion.grids.logsnr(schedule, 5))
        >>> hook = hooks.inpaint(jnp.array([3.0, 0.0]), jnp.array([True, False]))
        >>> x_T = jax.random.normal(jax.random.key(0), (2,))
        >>> print(diffusion.sample(None, denoiser, diffusion.solvers.unipc(grid), x_T, denoised_hook=hook).value)
        [3. 0.]
    """
    return Partial(_inpaint, as_leaf(known), as_leaf(mask))


def _hide_nothing(data, limited):
    """NaN where `data` are not finite: limits must not make a sample of an overflow."""
    return jnp.where(jnp.isfinite(data), limited, jnp.asarray(jnp.nan, limited.dtype))


def _clip(radius, data, *_):
    radius = as_real(radius, data.dtype)
    return _hide_nothing(data, jnp.clip(data, -radius, radius))


def clip(radius: ArrayLike = 1.0) -> Partial:
    """Data hook, static thresholding: every entry of D into [-radius, radius] (traced); NaN where D is not finite.

    It looks at D alone: ``hooks.clip(1.0)(D)`` works outside `sample`.

    Raises:
        ValueError: a concrete radius that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.diffusion import hooks
        >>> print(hooks.clip(1.0)(jnp.array([-3.0, 0.5]), jnp.zeros(2), 0.5, None))
        [-1.   0.5]
    """
    if is_concrete(radius) and not np.all(np.asarray(radius) > 0):
        raise ValueError(f"hooks.clip: radius must be positive, got {radius}")
    return Partial(_clip, as_leaf(radius))


def _dynamic_threshold(quantile, max_value, data, *_):
    wide = data.astype(jnp.promote_types(data.dtype, jnp.float32))
    quantile, max_value = as_real(quantile, wide.dtype), as_real(max_value, wide.dtype)
    q = jnp.quantile(jnp.abs(wide).reshape(-1), quantile)
    q = jnp.minimum(jnp.maximum(q, 1.0), max_value)
    return _hide_nothing(data, (jnp.clip(wide, -q, q) / q).astype(data.dtype))


def dynamic_threshold(quantile: Scalar = 0.995, *, max_value: Scalar = jnp.inf) -> Partial:
    r"""Data hook: $D \leftarrow clip(D, \pm q)/q$, $q = \min(\max(\mathrm{quantile}_p |D|, 1), q_{\max})$.

    It looks at one D alone, as `clip` does. The result lies in [-1, 1], is computed in at least float32, and is NaN
    where D is not finite.

    Args:
        quantile: p in [0, 1], linear between order statistics (traced).
        max_value: largest q (traced). With 1 this is plain clipping, which is the default of a widely used
            implementation; the paper has no such bound.

    Raises:
        ValueError: a concrete quantile outside [0, 1], or a concrete max_value that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.diffusion import hooks
        >>> print(hooks.dynamic_threshold(1.0)(jnp.array([-4.0, 2.0]), jnp.zeros(2), 0.5, None))
        [-1.   0.5]

    References: C. Saharia et al., "Photorealistic Text-to-Image Diffusion Models", 2022, section 2.3.
    """
    if is_concrete(quantile) and not np.all((np.asarray(quantile) >= 0) & (np.asarray(quantile) <= 1)):
        raise ValueError(f"hooks.dynamic_threshold: quantile must lie in [0, 1], got {quantile}")
    if is_concrete(max_value) and not np.all(np.asarray(max_value) > 0):
        raise ValueError(f"hooks.dynamic_threshold: max_value must be positive, got {max_value}")
    return Partial(_dynamic_threshold, as_leaf(quantile), as_leaf(max_value))


def _replace_known(known, mask, schedule, x, t, key):
    if key is None:
        raise ValueError("hooks.replace_known: draws noise; pass a key to sample, e.g. jax.random.key(0)")
    alpha, sigma = (jnp.asarray(a, x.dtype) for a in schedule.alpha_sigma(schedule.lam(t)))
    known = jnp.broadcast_to(jnp.asarray(known, x.dtype), x.shape)
    noisy = alpha * known + sigma * jax.random.normal(unrolled(key), x.shape, x.dtype)
    return _mix(noisy, mask, x)


def replace_known(known: Float[ArrayLike, "*d"], mask: ArrayLike, schedule: NoiseSchedule) -> Partial:
    r"""State hook $x \leftarrow m(\alpha_t y + \sigma_t\xi) + (1 - m)x$: the known part with fresh noise at every node.

    Needs a key in `sample`. Exact in law for the known part, but a multistep history does not see the change: prefer
    `inpaint`, or a first-order table.

    Args:
        known: y, of the shape of one sample or a number (traced).
        mask: m, 1 (True) where y is known (traced).
        schedule: of the table's grid.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.diffusion import hooks, schedules
        >>> hook = hooks.replace_known(jnp.ones(2), jnp.array([1.0, 0.0]), schedules.vp_linear())
        >>> print(hook(jnp.zeros(2), 0.5, jax.random.key(0))[1])
        0.0
    """
    return Partial(_replace_known, as_leaf(known), as_leaf(mask), schedule)


def _compose(hooks, value, *rest):
    *rest, key = rest
    for j, hook in enumerate(hooks):
        value = hook(value, *rest, None if key is None else jax.random.fold_in(key, j))
    return value


def compose(*hooks: Callable[..., Array]) -> Partial:
    """One hook after the other, all data hooks or all state hooks; hook j draws from ``fold_in(key, j)``.

    Raises:
        TypeError: something that is not callable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.diffusion import hooks
        >>> hook = hooks.compose(hooks.clip(2.0), hooks.clip(1.0))
        >>> print(hook(jnp.array([-3.0, 0.5]), jnp.zeros(2), 0.5, jax.random.key(0)))
        [-1.   0.5]
    """
    return Partial(_compose, tuple(as_partial(hook, "hooks.compose", f"hook {j}") for j, hook in enumerate(hooks)))


__all__ = ["clip", "compose", "dynamic_threshold", "inpaint", "replace_known"]

entry.guard(globals(), "_clip", "_compose", "_dynamic_threshold", "_inpaint", "_replace_known")
