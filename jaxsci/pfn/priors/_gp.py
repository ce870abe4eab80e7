r"""Gaussian process priors, and the exact law of what is not yet seen.

$x_{ij} \sim U(0, 1)$, $f \sim \mathcal{GP}(0, k)$, $y_i = f(x_i) + \varepsilon_i$, $\varepsilon_i \sim N(0, \sigma^2)$:
the kernel fixed (`gp`), Matern-5/2 whose length a feature, variance and noise are drawn for each data set (`gp_hyper`),
or linear (`ridge`). What is predicted is y, with its noise. In float32 the covariance of f carries T eps max k more on
its diagonal than it should, the rounding error of its factor.

Reference: Muller et al. 2022, Transformers Can Do Bayesian Inference, sections 5.1, 5.2 and appendix F.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike, Float, Int

from jaxsci import gp as processes
from jaxsci.core import entry
from jaxsci.core.keys import unrolled
from jaxsci.core.types import as_real, float_dtype
from jaxsci.gp import kernels
from jaxsci.pfn.priors._check import Prior, checked, leaf

# (shape, rate) of the gamma laws of gp_hyper, in the published code and in the paper's appendix F.
_PRESETS = {
    "code": {"length": (3.0, 6.0), "variance": (0.5, 0.15), "noise": (1.1, 0.05)},
    "paper": {"length": (3.0, 6.0), "variance": (2.0, 0.15), "noise": (1e-4, 1.0)},
}


def gp(
    kernel: kernels.Kernel | None = None,
    *,
    length: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    noise: ArrayLike = 0.01,
) -> Prior:
    r"""A Gaussian process with fixed hyper-parameters on inputs uniform on $[0, 1]^F$.

    Args:
        kernel: from `gp.kernels`, or any function of a pair of inputs (F,); None is the squared exponential
            $v\,e^{-r^2/2\ell^2}$ with the next two.
        length: $\ell$, one or (F,), .2 by default; traced.
        variance: v, 1 by default; traced.
        noise: variance of the observation noise, traced.

    Returns:
        The prior.

    Raises:
        ValueError: a kernel together with a length or a variance.

    Example:
        >>> from jaxsci.pfn import priors
        >>> x, y = priors.gp(length=0.3)(jax.random.key(0), 20, 2)
        >>> print(x.shape, y.shape)
        (20, 2) (20,)

    References: Muller et al. 2022, section 5.1.
    """
    if kernel is not None and not (length is None and variance is None):
        raise ValueError(
            "priors.gp: length and variance belong to the default kernel, got a kernel too; build them into it, e.g. "
            "gp.kernels.scale(gp.kernels.matern(2.5, length), variance)"
        )
    if kernel is None:
        length, variance = 0.2 if length is None else length, 1.0 if variance is None else variance
        kernel = kernels.scale(kernels.rbf(leaf(length)), leaf(variance))
    return Partial(_gp, kernels.as_tree(kernel), leaf(noise))


def ridge(*, weight_variance: ArrayLike = 0.01, noise: ArrayLike = 0.01) -> Prior:
    r"""Linear functions of inputs uniform on $[0, 1]^F$: $y = w \cdot x + \varepsilon$, $w_j \sim N(0, v)$.

    Args:
        weight_variance: v, one or (F,), traced.
        noise: variance of $\varepsilon$, traced.

    Returns:
        The prior; `posterior` with the kernel ``gp.kernels.linear(weight_variance)`` is its exact predictive law.

    Example:
        >>> from jaxsci.pfn import priors
        >>> x, y = priors.ridge(noise=0.1)(jax.random.key(0), 8, 3)
        >>> print(x.shape, y.shape)
        (8, 3) (8,)
    """
    return Partial(_ridge, leaf(weight_variance), leaf(noise))


def gp_hyper(preset: str = "code", *, length=None, variance=None, noise=None) -> Prior:
    r"""A Gaussian process whose hyper-parameters are drawn for each data set; Matern-5/2, a length for each feature.

    $\ell_j, v, \sigma^2 \sim \mathrm{Gamma}(\text{shape}, \text{rate})$, each with its own pair.

    Args:
        preset: "code" has (3, 6) for lengths, (.5, .15) for the variance, (1.1, .05) for the noise, as the published
            code; "paper" has (2, .15) and (1e-4, 1) for the last two: hardly any noise. Static.
        length, variance, noise: pairs (shape, rate) in place of the preset's, traced.

    Returns:
        The prior.

    Raises:
        ValueError: another preset, or what is no pair.

    Example:
        >>> from jaxsci.pfn import priors
        >>> x, y = priors.gp_hyper("paper")(jax.random.key(0), 20, 5)
        >>> print(x.shape, y.shape)
        (20, 5) (20,)

    References: Muller et al. 2022, section 5.2 and appendix F.
    """
    if preset not in _PRESETS:
        raise ValueError(f"priors.gp_hyper: preset must be one of {sorted(_PRESETS)}, got {preset!r}")
    given = {"length": length, "variance": variance, "noise": noise}
    pairs = {name: _PRESETS[preset][name] if pair is None else pair for name, pair in given.items()}
    for name, pair in pairs.items():
        if len(pair) != 2:
            raise ValueError(f"priors.gp_hyper: {name} must be a pair (shape, rate), got {len(pair)} numbers")
    return Partial(_gp_hyper, {name: tuple(leaf(part) for part in pair) for name, pair in pairs.items()})


@eqx.filter_jit
def posterior(
    kernel: kernels.Kernel,
    x: Float[ArrayLike, "T F"],
    y: Float[ArrayLike, " T"],
    num_context: Int[ArrayLike, ""],
    x_query: Float[ArrayLike, "Q F"],
    *,
    noise: ArrayLike = 0.01,
) -> processes.Prediction:
    """The exact law of observations at `x_query` given the first rows of a data set: what a network is to learn.

    Args:
        kernel: the prior's: `gp.kernels.linear(weight_variance)` for `ridge`.
        x, y: a data set, traced.
        num_context: n, the rows that count, in 0 ... T; traced.
        x_query: Q inputs, traced.
        noise: variance of the observation noise, traced.

    Returns:
        A `gp.Prediction` of Q normal laws, noise included.

    Raises:
        ValueError: shapes that do not fit.

    Differentiable in everything but the number of rows.

    Example:
        >>> from jaxsci import gp
        >>> from jaxsci.pfn import priors
        >>> x, y = jnp.ones((4, 1)), jnp.ones(4)
        >>> law = priors.posterior(gp.kernels.linear(1.0), x, y, 2, x[:1], noise=0.5)
        >>> print(f"{law.mean[0]:.2f} {law.variance[0]:.2f}")
        0.80 0.70

    References: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, equation 2.22.
    """
    x, y, x_query = jnp.asarray(x), jnp.asarray(y), jnp.asarray(x_query)
    if x_query.ndim != 2 or x.shape != (*y.shape, x_query.shape[-1]):
        raise ValueError(
            f"priors.posterior: expected x (T, F), y (T,), x_query (Q, F), got {x.shape}, {y.shape}, {x_query.shape}"
        )
    process = processes.condition(kernel, x, y, jnp.arange(y.size) < num_context, noise=noise)
    found = processes.marginals(process, x_query)
    return found._replace(variance=found.variance + as_real(noise, found.mean.dtype))


def _gp(kernel, noise, key, num_points, num_features):
    return _process(kernel, noise, *checked("gp", key, num_points, num_features))


@eqx.filter_jit
def _process(kernel, noise, key, num_points, num_features):
    dtype = float_dtype(kernel, noise)
    keys = jax.random.split(unrolled(key), 3)
    x = jax.random.uniform(keys[0], (num_points, num_features), dtype)
    # The process that nothing is known of: one dead row, since none would have no shape.
    nothing = processes.condition(
        kernel, jnp.zeros_like(x[:1]), jnp.zeros((1,), dtype), jnp.zeros(1, bool), noise=noise
    )
    f = processes.sample(keys[1], nothing, x).value
    return x, f + jnp.sqrt(noise).astype(dtype) * jax.random.normal(keys[2], f.shape, dtype)


def _gp_hyper(pairs, key, num_points, num_features):
    return _drawn(pairs, *checked("gp_hyper", key, num_points, num_features))


@eqx.filter_jit
def _drawn(pairs, key, num_points, num_features):
    dtype = float_dtype(pairs)
    first, second = jax.random.split(unrolled(key))
    names = ["length"] * num_features + ["variance", "noise"]
    shapes, rates = (jnp.stack([pairs[name][i].astype(dtype) for name in names]) for i in (0, 1))
    # One call for all: the sampler is long to compile.
    drawn = jax.random.gamma(first, shapes, shapes.shape, dtype) / rates
    kernel = kernels.scale(kernels.matern(2.5, drawn[:-2]), drawn[-2])
    return _process(kernel, drawn[-1], second, num_points, num_features)


def _ridge(weight_variance, noise, key, num_points, num_features):
    return _line(weight_variance, noise, *checked("ridge", key, num_points, num_features))


@eqx.filter_jit
def _line(weight_variance, noise, key, num_points, num_features):
    dtype = float_dtype(weight_variance, noise)
    keys = jax.random.split(unrolled(key), 3)
    x = jax.random.uniform(keys[0], (num_points, num_features), dtype)
    weights = jnp.sqrt(weight_variance).astype(dtype) * jax.random.normal(keys[1], (num_features,), dtype)
    return x, x @ weights + jnp.sqrt(noise).astype(dtype) * jax.random.normal(keys[2], (num_points,), dtype)


__all__ = ["gp", "gp_hyper", "posterior", "ridge"]

entry.hold(globals(), "_gp", "_gp_hyper", "_ridge")
