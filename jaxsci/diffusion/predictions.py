r"""What a network predicts, as data and noise: every model becomes one `Denoiser` ``(x, t, cond, w) -> (D, eps)``.

With $x = \alpha x_0 + \sigma\varepsilon$, $D = E[x_0 | x]$ and $\varepsilon = (x - \alpha D)/\sigma$:

==================  ===================================  ============================================
kind                model output                         data and noise
==================  ===================================  ============================================
epsilon             eps                                  D = (x - sigma eps) / alpha
sample              D                                    eps = (x - alpha D) / sigma
v_prediction        v = alpha eps - sigma D              D = (alpha x - sigma v) / (alpha^2 + sigma^2)
score               s = -eps / sigma                     eps = -sigma s
flow_prediction     u = eps - D                          D = (x - sigma u) / (alpha + sigma)
edm                 F of the preconditioned input        D = c_skip x + c_out F(c_in x, c_noise)
==================  ===================================  ============================================

References: J. Ho, A. Jain, P. Abbeel 2020; T. Salimans, J. Ho, "Progressive Distillation", 2022, appendix D (v);
T. Karras et al. 2022, equation 7 (EDM); J. Ho, T. Salimans, "Classifier-Free Diffusion Guidance", 2022, equation 6.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core import entry
from jaxsci.core.host import as_leaf
from jaxsci.core.static import Bound, as_partial, bind
from jaxsci.core.types import Scalar, is_concrete
from jaxsci.diffusion.schedules import NoiseSchedule

KINDS = ("epsilon", "sample", "v_prediction", "score", "flow_prediction", "edm")
"""Prediction kinds that `convert` and `denoiser` know."""


def convert(
    kind: str,
    output: Float[Array, "*d"],
    x: Float[Array, "*d"],
    alpha: Float[ArrayLike, ""],
    sigma: Float[ArrayLike, ""],
) -> tuple[Float[Array, "*d"], Float[Array, "*d"]]:
    """Data and noise prediction from a model's output; the table is in the module's docstring.

    Args:
        kind: one of `KINDS` but "edm", which changes the model's input as well (static).
        output: what the model returned.
        x: the noisy point.
        alpha, sigma: of its time.

    Returns:
        ``(D, eps)`` of the shape of `x`.

    Raises:
        ValueError: an unknown kind, or an output of another shape than `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.diffusion import predictions
        >>> D, eps = predictions.convert("v_prediction", jnp.array([0.1]), jnp.array([1.0]), 0.6, 0.8)
        >>> print(f"{D[0]:.2f} {eps[0]:.2f}")
        0.52 0.86
    """
    if jnp.shape(output) != jnp.shape(x):
        raise ValueError(f"predictions.convert: output must have the shape of x {x.shape}, got {jnp.shape(output)}")
    if kind == "epsilon":
        return (x - sigma * output) / alpha, output
    if kind == "sample":
        return output, (x - alpha * output) / sigma
    if kind == "v_prediction":
        norm = alpha**2 + sigma**2
        return (alpha * x - sigma * output) / norm, (sigma * x + alpha * output) / norm
    if kind == "score":
        return (x + sigma**2 * output) / alpha, -sigma * output
    if kind == "flow_prediction":
        norm = alpha + sigma
        return (x - sigma * output) / norm, (x + alpha * output) / norm
    raise ValueError(f"predictions.convert: kind must be one of {KINDS[:-1]}, got {kind!r}")


def _combine(conditional, unconditional, w):
    """Classifier-free guidance of outputs that are linear in eps: w = 1 is the conditional one."""
    return jax.tree.map(lambda c, u: u + w * (c - u), conditional, unconditional)


def _denoise(model, schedule, null, classifier, sigma_data, x, t, cond, w, *, kind, guidance, batched):
    # A state in half precision must not round the time that the network sees, nor the numbers of the schedule.
    wide = at_least_single(x)
    lam = schedule.lam(t)
    alpha, sigma = (jnp.asarray(v, wide) for v in schedule.alpha_sigma(lam))
    w = jnp.asarray(w, wide)
    if kind == "edm":
        ratio, data = sigma / alpha, jnp.asarray(sigma_data, wide)
        root = jnp.sqrt(ratio**2 + data**2)
        skip, out = data**2 / root**2, ratio * data / root
        inputs, time = (x / (alpha * root)).astype(x.dtype), jnp.log(ratio) / 4
    else:
        inputs, time = x, schedule.model_time(t)
    time = jnp.asarray(time, wide)

    def call(x, t, cond):
        if not batched:
            return model(x, t, cond)
        lift = lambda a: jnp.asarray(a)[None]  # noqa: E731
        return jax.tree.map(lambda a: a[0], model(lift(x), lift(t), jax.tree.map(lift, cond)))

    def call_both(x, t, cond, null):
        """One batched call for both labels."""
        pair = jax.tree.map(_stacked, *jax.tree.map(jnp.asarray, (cond, null)))
        xs, ts = jnp.broadcast_to(x, (2, *x.shape)), jnp.broadcast_to(t, (2,))
        return model(xs, ts, pair) if batched else jax.vmap(model)(xs, ts, pair)

    if guidance == "classifier_free":
        if cond is None:
            raise ValueError("predictions.denoiser: classifier_free guidance needs cond; pass cond=null for w = 1")
        output = call_both(inputs, time, cond, null)
        output = _combine(output[0], output[1], w)
    else:
        output = call(inputs, time, cond)
    output = jnp.asarray(output, wide)
    if kind == "edm":
        data, noise = convert("sample", skip * (x / alpha) + out * output, x, alpha, sigma)
    else:
        data, noise = convert(kind, output, x, alpha, sigma)
    if guidance == "classifier":
        slope = jax.grad(lambda x: classifier(x, time, cond))(x)
        noise = noise - w * sigma * slope
        data = (x - sigma * noise) / alpha
    return data.astype(x.dtype), noise.astype(x.dtype)


def _stacked(cond, null):
    """Both labels, in a dtype that keeps whole numbers as they are (-1 beside unsigned labels)."""
    dtype = cond.dtype
    if not jnp.issubdtype(dtype, jnp.inexact):
        if jnp.issubdtype(null.dtype, jnp.inexact):
            raise TypeError(
                f"predictions.denoiser: null must be of whole numbers as cond is ({cond.dtype}), got {null.dtype}; "
                "give both the same dtype"
            )
        dtype = jnp.promote_types(cond.dtype, null.dtype)
    return jnp.stack([cond.astype(dtype), null.astype(dtype)])


def at_least_single(x) -> Any:
    """The dtype of times and coefficients for a state."""
    return jnp.promote_types(x.dtype, jnp.float32)


def denoiser(
    model: Callable[..., Any],
    schedule: NoiseSchedule,
    kind: str,
    *,
    guidance: str | None = None,
    null: PyTree = None,
    classifier: Callable[..., Any] | None = None,
    sigma_data: Scalar = 0.5,
    batched: bool = False,
) -> Partial:
    r"""Wrap a model into the form that every sampler takes: ``(x, t, cond, w) -> (D, eps)``.

    Classifier-free guidance combines $\varepsilon_u + w(\varepsilon_c - \varepsilon_u)$ with one batched call of both
    labels; classifier guidance is $\varepsilon - w\,\sigma\nabla_x\log p(c|x)$.

    Args:
        model: ``model(x, t, cond) -> output``, a function or Partial (its arrays are then traced); t is
            ``schedule.model_time(t)``, for "edm" log(sigma)/4.
        schedule: the noise schedule the model was trained under.
        kind: one of `KINDS` (static).
        guidance: None, "classifier_free" or "classifier" (static).
        null: the condition that means "none", of the structure of `cond`; for "classifier_free".
        classifier: ``classifier(x, t, cond) -> log p(cond | x)``; for "classifier".
        sigma_data: standard deviation of the data; for "edm" (traced).
        batched: the model insists on a leading batch axis of x, t and cond (static).

    Returns:
        The denoiser, a Partial: it crosses jit, and stacks under vmap.

    Raises:
        ValueError: an unknown kind or guidance, an argument of it that is missing, or one of another guidance; when
            called: classifier_free guidance without a condition.
        TypeError: `schedule` is none, or `model` is not callable; when called: a fractional null beside whole numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> vp = diffusion.schedules.vp_linear()
        >>> denoise = diffusion.predictions.denoiser(lambda x, t, cond: jnp.zeros_like(x), vp, "sample")
        >>> data, noise = denoise(jnp.ones(2), 0.5, None, 1.0)
        >>> print(data)
        [0. 0.]
    """
    if kind not in KINDS:
        raise ValueError(f"predictions.denoiser: kind must be one of {KINDS}, got {kind!r}")
    if guidance not in (None, "classifier_free", "classifier"):
        raise ValueError(
            f"predictions.denoiser: guidance must be None, 'classifier_free' or 'classifier', got {guidance!r}"
        )
    if guidance == "classifier_free" and null is None:
        raise ValueError("predictions.denoiser: classifier_free guidance needs null, the condition that means none")
    if guidance == "classifier" and classifier is None:
        raise ValueError("predictions.denoiser: classifier guidance needs classifier(x, t, cond) -> log p(cond | x)")
    for name, value, owner in (("null", null, "classifier_free"), ("classifier", classifier, "classifier")):
        if value is not None and guidance != owner:
            raise ValueError(
                f"predictions.denoiser: {name} has no effect with guidance={guidance!r}; pass guidance={owner!r}"
            )
    if not isinstance(schedule, NoiseSchedule):
        raise TypeError(
            f"predictions.denoiser: schedule must be a NoiseSchedule, got {type(schedule).__name__}; the order is "
            "denoiser(model, schedule, kind)"
        )
    model = as_partial(model, "predictions.denoiser", "model")
    classifier = None if classifier is None else as_partial(classifier, "predictions.denoiser", "classifier")
    rule = bind(_denoise, kind=kind, guidance=guidance, batched=bool(batched))
    return Partial(rule, model, schedule, jax.tree.map(as_leaf, null), classifier, as_leaf(sigma_data))


def check_guided(caller: str, denoiser: Callable, scale: ArrayLike) -> None:
    """Raises ValueError where a scale that is not 1 meets a denoiser of `denoiser` that was made without guidance."""
    rule = getattr(denoiser, "func", None)
    if not isinstance(rule, Bound) or rule.function is not _denoise or dict(rule.items)["guidance"] is not None:
        return
    if is_concrete(scale) and np.any(np.asarray(scale) != 1):
        raise ValueError(
            f"{caller}: guidance_scale={np.asarray(scale)} has no effect: the denoiser was made without guidance; pass "
            "guidance= to predictions.denoiser"
        )


def _within(scale, low, high, t):
    return jnp.where((t >= low) & (t <= high), scale, 1)


def within(scale: Scalar, low: Scalar, high: Scalar) -> Partial:
    """A guidance scale that holds between two times, 1 elsewhere; for ``sample(..., guidance_scale=)``.

    Args:
        scale: w in the interval, traced.
        low, high: ends of the interval in schedule time, both included, traced.

    Example:
        >>> from jaxsci.diffusion import predictions
        >>> print(predictions.within(4.0, 0.2, 0.8)(jnp.array([0.1, 0.5, 0.9])))
        [1. 4. 1.]

    References: T. Kynkäänniemi et al., "Applying Guidance in a Limited Interval Improves Sample and Distribution
    Quality in Diffusion Models", 2024.
    """
    return Partial(_within, *map(as_leaf, (scale, low, high)))


def checked(caller: str, out: Any, x: Float[Array, "*d"]) -> tuple[Float[Array, "*d"], Float[Array, "*d"]]:
    """What a denoiser returned at x, in the dtype of x; TypeError unless it is (D, eps), both of the shape of x."""
    if not isinstance(out, (tuple, list)) or len(out) != 2 or any(jnp.shape(a) != x.shape for a in out):
        raise TypeError(
            f"{caller}: denoiser must return (D, eps), both of shape {x.shape}, got {jax.tree.map(jnp.shape, out)}; "
            "wrap a plain network by predictions.denoiser"
        )
    return jnp.asarray(out[0], x.dtype), jnp.asarray(out[1], x.dtype)


def called(caller: str, denoiser: Callable, x: Float[Array, "*d"], *arguments) -> tuple[Array, Array]:
    """`checked` output of ``denoiser(x, *arguments)``; errors of the network say that x is one sample."""
    try:
        out = denoiser(x, *arguments)
    except Exception as error:
        error.add_note(
            f"{caller}: the denoiser was called with one sample, x of shape {x.shape}; many go through jax.vmap over "
            "the state, and a network that wants a leading axis through predictions.denoiser(..., batched=True)"
        )
        raise
    return checked(caller, out, x)


__all__ = ["KINDS", "convert", "denoiser", "within"]

entry.guard(globals(), "_denoise", "_within")
