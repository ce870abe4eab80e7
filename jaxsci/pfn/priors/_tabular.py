r"""Classification tables from random perceptrons, with a random number of features in use.

For each data set: used features $f = 2 + \mathrm{round}(b(F - 1) - \frac12)$, $b \sim \mathrm{Beta}(1, 1.6)$; hidden
units $h = 2 + \mathrm{round}(b(H - 1) - \frac12)$, $b \sim \mathrm{Beta}(2, 4)$; $\sigma_w \sim \mathrm{Gamma}(3.6188)
\times .067737$, $\sigma_n \sim \mathrm{Gamma}(1.8663) \times .052755$. Inputs are standard normal; three layers
$z_1 = W_1 x + b_1$, $z_{l+1} = W_{l+1}\tanh z_l + b_{l+1} + \sigma_n\varepsilon$ with all weights and biases
$N(0, \sigma_w^2)$. The output and the inputs are standardised over the data set. Class $c$ of C is the c-th part of
equal size in the order of the output; with two classes that is output > median, with more the classes are in random
order. Features not in use are 0, those in use are scaled by F/f, so that the sum over features keeps its size.

Reference: Muller et al. 2022, Transformers Can Do Bayesian Inference, section 6 and appendix.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core import entry
from jaxsci.core.keys import unrolled
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import as_float, float_dtype
from jaxsci.pfn.priors._check import Prior, checked, leaf

_FEATURES_LAW, _HIDDEN_LAW = (1.0, 1.6), (2.0, 4.0)  # of beta laws
_WEIGHT_LAW, _NOISE_LAW = (3.6188, 0.067737), (1.8663, 0.052755)  # (shape, scale) of gamma laws
_LEAST = 2  # of features in use and of hidden units


def tabular(
    *,
    num_classes: int | tuple[int, int] = 2,
    max_hidden: int = 150,
    weight_law: tuple[ArrayLike, ArrayLike] = _WEIGHT_LAW,
    noise_law: tuple[ArrayLike, ArrayLike] = _NOISE_LAW,
    dropout: ArrayLike | None = None,
    alternate: bool = False,
) -> Prior:
    r"""Classes of a random three-layer perceptron; y holds 0, 1, ..., C - 1 as floats.

    Args:
        num_classes: C, or a pair (least, most) from which each data set draws its own evenly; static.
        max_hidden: H, the largest number of hidden units; static.
        weight_law, noise_law: (shape, scale) of the gamma laws of $\sigma_w$ and $\sigma_n$, traced.
        dropout: r in [0, 1): a share r of the entries of all tensors but the first weights is zero, the standard
            deviation of all of them is $\sigma_w/(1 - r)$. Traced; None is 0, and draws no masks.
        alternate: the points alternate between the lower and the upper half in the order of the output, which runs
            up or down at random; any even number of points from the first on is then balanced. Static.

    Returns:
        The prior. Its classes have equal sizes, to one point.

    Raises:
        ValueError: fewer than two classes or hidden units, a pair in the wrong order; fewer points than classes, or
            fewer than two features, when it is called.

    Example:
        >>> from jaxsci.pfn import priors
        >>> x, y = priors.tabular(num_classes=3)(jax.random.key(0), 60, 10)
        >>> print(x.shape, [int(jnp.sum(y == c)) for c in range(3)])
        (60, 10) [20, 20, 20]

    References: Muller et al. 2022, section 6.
    """
    pair = tuple(num_classes) if isinstance(num_classes, (tuple, list)) else (num_classes, num_classes)
    if len(pair) != 2:
        raise ValueError(f"priors.tabular: num_classes must be an int or a pair (least, most), got {num_classes!r}")
    low, high = (check_size("priors.tabular", "num_classes", part, least=2) for part in pair)
    if low > high:
        raise ValueError(f"priors.tabular: num_classes must be (least, most), got {num_classes!r}; swap them")
    max_hidden = check_size("priors.tabular", "max_hidden", max_hidden, least=_LEAST)
    function = bind(_tabular, classes=(low, high), max_hidden=max_hidden, alternate=bool(alternate))
    laws = tuple(tuple(leaf(part) for part in law) for law in (weight_law, noise_law))
    return Partial(function, *laws, None if dropout is None else leaf(dropout))


def pad_features(x: Float[ArrayLike, "T f"], num_features: int) -> Float[Array, "T F"]:
    r"""A table of f features as one of F, as `tabular` makes them: scaled by F/f, the others 0.

    Args:
        x: a table, already standardised; traced.
        num_features: F, the number that a network was trained with; static.

    Returns:
        (T, F).

    Raises:
        ValueError: x is no matrix, or has more features than F.

    Differentiable in x.

    Example:
        >>> from jaxsci.pfn import priors
        >>> print(priors.pad_features(jnp.ones((1, 2)), 4))
        [[2. 2. 0. 0.]]
    """
    x = as_float(x)
    num_features = check_size("priors.pad_features", "num_features", num_features)
    if x.ndim != 2:
        raise ValueError(f"priors.pad_features: x must be a matrix (points, features), got shape {x.shape}")
    used = x.shape[1]
    if not 1 <= used <= num_features:
        raise ValueError(
            f"priors.pad_features: x must have 1 ... {num_features} features, got {used}; choose some of them, or use "
            "a network that was trained with more"
        )
    return jnp.pad(x * (num_features / used), [(0, 0), (0, num_features - used)])


def _tabular(weight_law, noise_law, dropout, key, num_points, num_features, *, classes, max_hidden, alternate):
    key, num_points, num_features = checked("tabular", key, num_points, num_features, least_points=classes[1])
    if num_features < _LEAST:
        raise ValueError(f"priors.tabular: num_features must be an int >= {_LEAST}, got {num_features}")
    sizes = (num_points, num_features, classes, max_hidden, alternate)
    return _table(weight_law, noise_law, dropout, key, *sizes)


@eqx.filter_jit
def _table(weight_law, noise_law, dropout, key, num_points, num_features, classes, max_hidden, alternate):
    dtype = float_dtype(weight_law, noise_law, dropout)
    keys = jax.random.split(unrolled(key), 5)
    # All gamma variables in one call, since the sampler is long to compile; of two of them a beta variable is made.
    shapes = [*_FEATURES_LAW, *_HIDDEN_LAW, weight_law[0], noise_law[0]]
    gammas = jax.random.gamma(keys[0], jnp.stack([jnp.asarray(s, dtype) for s in shapes]), (6,), dtype)
    used, hidden = _some(gammas[:2], num_features), _some(gammas[2:4], max_hidden)
    weight, noise = gammas[4] * weight_law[1].astype(dtype), gammas[5] * noise_law[1].astype(dtype)
    live = jnp.arange(num_features) < used
    x = jnp.where(live, jax.random.normal(keys[1], (num_points, num_features), dtype), 0)
    output = _perceptron(keys[2], x, weight, noise, dropout, hidden, max_hidden)
    x = jnp.where(live, _standardised(x) * (num_features / used.astype(dtype)), 0)
    if alternate:
        order = _alternating(keys[3], output)
        x, output = x[order], output[order]
    return x, _classes(keys[4], output, classes).astype(dtype)


def _some(gammas, most):
    """A number in 2 ... most: 2 + round(b (most - 1) - 1/2), b of a beta law."""
    steps = jnp.round(gammas[0] / jnp.sum(gammas) * (most - 1) - 0.5)
    return _LEAST + jnp.clip(steps, 0, most - _LEAST).astype(jnp.int32)


def _perceptron(key, x, weight, noise, dropout, hidden, max_hidden):
    """The output (T,): units beyond `hidden` hold tanh 0 = 0, so they say nothing to the next layer."""
    dtype, keys = x.dtype, jax.random.split(key, 3)
    live = jnp.arange(max_hidden) < hidden
    widths = (x.shape[1], max_hidden, max_hidden, 1)
    z = x
    for layer, (num_in, num_out) in enumerate(zip(widths, widths[1:])):
        parts = jax.random.split(keys[layer], 4)
        # The last row holds the biases.
        tensor = weight * jax.random.normal(parts[0], (num_in + 1, num_out), dtype)
        if dropout is not None:
            kept = jax.random.bernoulli(parts[1], 1 - dropout, tensor.shape)
            if layer == 0:
                kept = kept | (jnp.arange(num_in + 1) < num_in)[:, None]
            tensor = jnp.where(kept, tensor / (1 - dropout).astype(dtype), 0)
        z = (jnp.tanh(z) if layer else z) @ tensor[:-1] + tensor[-1][None]
        if layer:
            z = z + noise * jax.random.normal(parts[2], z.shape, dtype)
        if layer < 2:
            z = jnp.where(live, z, 0)
    return z[:, 0]


def _standardised(x):
    """Columns of mean 0 and standard deviation 1; a constant one becomes 0."""
    centred = x - jnp.mean(x, 0, keepdims=True)
    scale = jnp.sqrt(jnp.mean(centred**2, 0, keepdims=True))
    return centred / jnp.where(scale > 0, scale, 1)


def _alternating(key, output):
    """Places that take the lower and the upper half of the sorted outputs in turn."""
    order = jnp.argsort(output)
    order = jnp.where(jax.random.bernoulli(key), order, order[::-1])
    num = output.shape[0]
    place = jnp.arange(num)
    return order[place // 2 + jnp.where(place % 2 == 0, 0, (num + 1) // 2)]


def _classes(key, output, classes):
    """Class of each point: its part of equal size in the order of outputs; more than two are shuffled."""
    (low, high), num = classes, output.shape[0]
    first, second = jax.random.split(key)
    count = low if low == high else jax.random.randint(first, (), low, high + 1)
    rank = jnp.argsort(jnp.argsort(output))
    part = rank * count // num
    if high == 2:
        return part
    names = jnp.argsort(jnp.where(jnp.arange(high) < count, jax.random.uniform(second, (high,)), jnp.inf))
    return names[part]


__all__ = ["pad_features", "tabular"]

entry.hold(globals(), "_tabular")
