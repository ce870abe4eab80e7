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
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core.host import as_leaf
from jaxsci.core.static import as_partial, bind
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
    lam = schedule.lam(t)
    alpha, sigma = (jnp.asarray(v, x.dtype) for v in schedule.alpha_sigma(lam))
    w = jnp.asarray(w, x.dtype)
    if kind == "edm":
        ratio, data = sigma / alpha, jnp.asarray(sigma_data, x.dtype)
        root = jnp.sqrt(ratio**2 + data**2)
        skip, out = data**2 / root**2, ratio * data / root
        inputs, time = x / (alpha * root), jnp.log(ratio) / 4
    else:
        inputs, time = x, schedule.model_time(t)
    time = jnp.asarray(time, x.dtype)

    def call(x, t, cond):
        if not batched:
            return model(x, t, cond)
        lift = lambda a: jnp.asarray(a)[None]  # noqa: E731
        return jax.tree.map(lambda a: a[0], model(lift(x), lift(t), jax.tree.map(lift, cond)))

    def call_both(x, t, cond, null):
        """One batched call for both labels."""
        pair = jax.tree.map(lambda a, b: jnp.stack([a, b.astype(a.dtype)]), *jax.tree.map(jnp.asarray, (cond, null)))
        xs, ts = jnp.broadcast_to(x, (2, *x.shape)), jnp.broadcast_to(t, (2,))
        return model(xs, ts, pair) if batched else jax.vmap(model)(xs, ts, pair)

    if guidance == "classifier_free":
        if cond is None:
            raise ValueError("predictions.denoiser: classifier_free guidance needs cond; pass cond=null for w = 1")
        output = call_both(inputs, time, cond, null)
        output = _combine(output[0], output[1], w)
    else:
        output = call(inputs, time, cond)
    output = jnp.asarray(output, x.dtype)
    if kind == "edm":
        data, noise = convert("sample", skip * (x / alpha) + out * output, x, alpha, sigma)
    else:
        data, noise = convert(kind, output, x, alpha, sigma)
    if guidance == "classifier":
        slope = jax.grad(lambda x: classifier(x, time, cond))(x)
        noise = noise - w * sigma * slope
        data = (x - sigma * noise) / alpha
    return data, noise


def denoiser(
    model: Callable[..., Any],
    schedule: NoiseSchedule,
    kind: str,
    *,
    guidance: str | None = None,
    null: PyTree = None,
    classifier: Callable[..., Any] | None = None,
    sigma_data: ArrayLike = 0.5,
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
    model = as_partial(model, "predictions.denoiser", "model")
    classifier = None if classifier is None else as_partial(classifier, "predictions.denoiser", "classifier")
    rule = bind(_denoise, kind=kind, guidance=guidance, batched=bool(batched))
    return Partial(rule, model, schedule, jax.tree.map(as_leaf, null), classifier, as_leaf(sigma_data))


def checked(caller: str, out: Any, x: Float[Array, "*d"]) -> tuple[Float[Array, "*d"], Float[Array, "*d"]]:
    """What a denoiser returned at x, in the dtype of x; TypeError unless it is (D, eps), both of the shape of x."""
    if not isinstance(out, (tuple, list)) or len(out) != 2 or any(jnp.shape(a) != x.shape for a in out):
        raise TypeError(
            f"{caller}: denoiser must return (D, eps), both of shape {x.shape}, got {jax.tree.map(jnp.shape, out)}; "
            "wrap a plain network by predictions.denoiser"
        )
    return jnp.asarray(out[0], x.dtype), jnp.asarray(out[1], x.dtype)


__all__ = ["KINDS", "convert", "denoiser"]
