r"""Using a rule: integrate a function, weigh samples, cumulate, pad.

$\int_a^b f \approx \frac{b-a}{s_1-s_0} \sum_j w_j\, f\big(a + (b-a)\frac{t_j-s_0}{s_1-s_0}\big)$ for a rule on
$[s_0, s_1]$. In graph: a, b and whatever f holds are traced and differentiated; nodes and weights are constants or
traced. Weights computed in float64 and cast serve float32 sums well, since only their own digits are lost.

Reference: Davis and Rabinowitz 1984, Methods of Numerical Integration, chapter 2.
"""

import warnings
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core import precision
from jaxsci.core.types import Scalar, as_float, as_real, concrete, float_dtype, is_concrete
from jaxsci.quadrature._rule import ConditioningWarning, Rule, checked_nodes, interval

# Condition of the Legendre-Vandermonde matrix above which interpolation through the nodes is noise.
_ILL = 1e8


def integrate(
    f: Callable[[Float[Array, ""]], PyTree],
    rule: tuple[ArrayLike, ArrayLike],
    a: Scalar | None = None,
    b: Scalar | None = None,
    *,
    source: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
) -> PyTree:
    r"""$\int_a^b f(t)\,dt$ by a rule; f is vmapped over the nodes and may return a pytree.

    Args:
        f: scalar -> pytree of arrays, traced once.
        rule: `Rule` or any (nodes, weights), each (n,), traced.
        a, b: ends, traced; a > b gives the negative. Both None: the rule is used where it stands.
        source: the interval that the rule stands on, traced; [0, 1] is the builders' default. A Bayesian rule that is
            moved is the one of the kernel with its length scaled alike: whether that is meant is up to you.

    Returns:
        The pytree of f, integrated, in the dtype of a and b where they are arrays, else of the rule.

    Raises:
        TypeError: a rule that is no pair (nodes, weights).
        ValueError: only one end is given; an end that is not finite (a traced one gives NaN); nodes and weights of
            other shapes than (n,); `source` is two equal numbers (equal arrays give an infinity or NaN).

    Differentiable in a, b, `source`, the rule, and the variables that f closes over or its Partial holds.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import quadrature
        >>> rule = quadrature.rules.gauss_legendre(8)
        >>> area = lambda b: quadrature.integrate(lambda t: {"sine": jnp.sin(t), "one": jnp.ones(2)}, rule, 0.0, b)
        >>> print(f"{area(jnp.pi)['sine']:.5f}", area(2.0)["one"].round(5))
        2.00000 [2. 2.]
        >>> print(f"{jax.grad(lambda b: area(b)['sine'])(1.0):.5f} {jnp.sin(1.0):.5f}")
        0.84147 0.84147
    """
    if not isinstance(rule, (tuple, list)) or len(rule) != 2:
        raise TypeError(
            f"integrate: rule must be a pair (nodes, weights), e.g. quadrature.rules.simpson(5), got {rule!r}"
        )
    nodes, weights = rule
    if np.ndim(nodes) != 1 or np.shape(nodes) != np.shape(weights):
        raise ValueError(
            f"integrate: expected nodes and weights of one shape (n,), got {np.shape(nodes)} and {np.shape(weights)}; "
            "use jax.vmap over a stack of rules"
        )
    if (a is None) != (b is None):
        raise ValueError("integrate: expected both ends or none, got one of a and b")
    moved = a is not None
    if moved and is_concrete((a, b)) and not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
        raise ValueError(
            f"integrate: a and b must be finite, got {a} and {b}; map an infinite range to a finite one first, e.g. "
            "t = s / (1 - s) with dt = ds / (1 - s)^2 takes [0, 1) to [0, infinity)"
        )
    if moved and not any(isinstance(x, jax.Array) for x in source) and source[0] == source[1]:
        raise ValueError(f"integrate: source must be an interval of some length, got {source}")
    typed = [x for x in (a, b, *source) if hasattr(x, "dtype")] if moved else []
    dtype = float_dtype(typed) if typed else float_dtype(nodes, weights)
    nodes, weights = as_real(nodes, dtype), as_real(weights, dtype)
    if moved:
        a, b, start, end = (as_real(x, dtype) for x in (a, b, *source))
        ratio = (b - a) / (end - start)
        nodes, weights = a + ratio * (nodes - start), ratio * weights
    return apply(weights, jax.vmap(f)(nodes))


def apply(weights: Float[ArrayLike, "... n"], samples: PyTree, axis: int = 0) -> PyTree:
    r"""$\sum_j w_j f_j$ along one axis of every leaf, at full precision and in the leaf's dtype.

    Args:
        weights: (n,), or (m, n) such as `integration_matrix` gives: then the axis gets length m. Traced.
        samples: pytree of arrays with n entries along `axis`; integers become floats.
        axis: static.

    Raises:
        ValueError: the axis has another length than n, or weights of another rank.

    Differentiable in `weights` and `samples`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quadrature
        >>> weights = quadrature.rules.simpson(3, 0.0, 1.0).weights
        >>> print(quadrature.apply(weights, jnp.array([[0.0, 0.25, 1.0]]), axis=1).round(4))
        [0.3333]
    """
    rank = np.ndim(weights)
    if rank not in (1, 2):
        raise ValueError(f"apply: weights must have shape (n,) or (m, n), got {np.shape(weights)}")

    def leaf(f):
        f = as_float(f)
        if not -f.ndim <= axis < f.ndim or f.shape[axis] != np.shape(weights)[-1]:
            raise ValueError(
                f"apply: samples must have {np.shape(weights)[-1]} entries along axis {axis}, got shape {f.shape}"
            )
        total = precision.tensordot(as_real(weights, f.dtype), f, axes=((rank - 1,), (axis,)))
        return jnp.moveaxis(total, 0, axis) if rank == 2 else total

    return jax.tree.map(leaf, samples)


def pad(rule: tuple[ArrayLike, ArrayLike], num_nodes: int) -> Rule:
    """The same rule with its last node repeated at weight 0 up to `num_nodes`, so that rules of several n stack.

    Args:
        rule: `Rule` or (nodes, weights), each (n,), built.
        num_nodes: at least n, static.

    Raises:
        ValueError: fewer nodes than the rule has, or nodes and weights of other shapes than (n,), n >= 1.
        TypeError: a traced argument, or `num_nodes` that is no integer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import quadrature
        >>> rules = [quadrature.pad(quadrature.rules.trapezoid(n), 5) for n in (2, 3, 5)]
        >>> stack = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *rules)
        >>> print(jax.vmap(lambda r: quadrature.integrate(lambda t: t**2, r))(stack))
        [0.5     0.375   0.34375]
    """
    alternative = "pad the rule on the host before it enters the compiled function"
    nodes, weights, size = concrete((*rule, num_nodes), "quadrature.pad", "the rule and num_nodes", alternative)
    if nodes.ndim != 1 or nodes.shape != weights.shape or nodes.size == 0:
        raise ValueError(f"pad: expected nodes and weights of one shape (n,), got {nodes.shape} and {weights.shape}")
    if size.ndim or not np.issubdtype(size.dtype, np.integer):
        raise TypeError(f"pad: num_nodes must be an integer, got {num_nodes!r}")
    nodes, weights, extra = nodes.astype(np.float64), weights.astype(np.float64), int(size) - len(nodes)
    if extra < 0:
        raise ValueError(f"pad: num_nodes must be >= {len(nodes)}, the rule's own number, got {int(size)}")
    return Rule(np.append(nodes, np.repeat(nodes[-1], extra)), np.append(weights, np.zeros(extra)))


def cumulative_trapezoid(samples: ArrayLike, nodes: Float[ArrayLike, " n"], axis: int = 0) -> Float[Array, "..."]:
    r"""$F_i = \int_{t_0}^{t_i} f$ by the trapezoidal rule, $F_0 = 0$; the shape of `samples`.

    Args:
        samples: f at the nodes along `axis`, traced.
        nodes: (n,), in order, any spacing, traced.
        axis: static.

    Raises:
        ValueError: the axis has another length than `nodes`.

    Differentiable in both.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quadrature
        >>> t = jnp.array([0.0, 0.5, 2.0])
        >>> print(quadrature.cumulative_trapezoid(t, t))
        [0.    0.125 2.   ]
    """
    f, dtype = _leading("cumulative_trapezoid", samples, axis, np.shape(nodes), 1)
    h = jnp.diff(as_real(nodes, dtype)).reshape(-1, *(1,) * (f.ndim - 1))
    return _accumulate((f[1:] + f[:-1]) * h / 2, axis)


def cumulative_simpson(samples: ArrayLike, spacing: Scalar, axis: int = 0) -> Float[Array, "..."]:
    r"""$F_i = \int_{t_0}^{t_i} f$ on equispaced nodes, $F_0 = 0$, exact for quadratics; the shape of `samples`.

    Each interval integrates the parabola through its ends and a neighbour, $\frac{h}{12}(5f_0 + 8f_1 - f_2)$ or its
    mirror image, so that at every second node the result is Simpson's.

    Args:
        samples: f at n >= 3 equispaced nodes along `axis`, traced.
        spacing: distance of the nodes, a scalar, traced.
        axis: static.

    Raises:
        ValueError: fewer than 3 samples, or a spacing that is no scalar.

    Differentiable in both.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quadrature
        >>> t = jnp.linspace(0.0, 1.0, 5)
        >>> print(quadrature.cumulative_simpson(3 * t**2, 0.25).round(4))
        [0.     0.0156 0.125  0.4219 1.    ]
    """
    if np.ndim(spacing):
        raise ValueError(
            f"cumulative_simpson: spacing must be a scalar, got shape {np.shape(spacing)}; nodes of any spacing go to "
            "cumulative_trapezoid"
        )
    f, dtype = _leading("cumulative_simpson", samples, axis, None, 3)
    left = (5 * f[:-2] + 8 * f[1:-1] - f[2:]) / 12  # integral over the first interval of each triple
    right = (-f[:-2] + 8 * f[1:-1] + 5 * f[2:]) / 12  # over the second
    number = jnp.arange(f.shape[0] - 1).reshape(-1, *(1,) * (f.ndim - 1))
    first = jnp.concatenate([left, right[-1:]])
    second = jnp.concatenate([left[:1], right])
    pieces = jnp.where(number % 2 == 0, first, second)
    return _accumulate(as_real(spacing, dtype) * pieces, axis)


def integration_matrix(nodes: ArrayLike | Sequence, a: Scalar = 0.0, b: Scalar = 1.0) -> np.ndarray:
    r"""S with $(S f)_i = \int_a^{t_i} p$, p the polynomial through $f_j$ at $t_j$: for Gauss and Chebyshev nodes.

    Args:
        nodes: (n,) strictly increasing in [a, b], built; of `rules.gauss_legendre` or `rules.clenshaw_curtis`.
        a, b: ends, finite, a < b, built.

    Returns:
        (n, n) float64, for `apply(S, samples)`.

    Raises:
        ValueError: bad nodes or interval. TypeError: a traced argument.

    Warns:
        ConditioningWarning: interpolation through these nodes is unstable (many equispaced ones).

    Example:
        >>> from jaxsci import quadrature
        >>> nodes, _ = quadrature.rules.gauss_legendre(4)
        >>> S = quadrature.integration_matrix(nodes)
        >>> print(abs(S @ nodes**3 - nodes**4 / 4).max() < 1e-14)
        True

    References: Trefethen 2013, Approximation Theory and Approximation Practice, chapter 19.
    """
    a, b = interval("integration_matrix", a, b)
    nodes = checked_nodes("integration_matrix", nodes, a, b)
    n = len(nodes)
    x = (2 * nodes - a - b) / (b - a)
    legendre = np.polynomial.legendre.legvander(x, n)
    condition = np.linalg.cond(legendre[:, :n])
    if condition > _ILL:
        warnings.warn(
            f"integration_matrix: interpolation through these {n} nodes has condition {condition:.1e}; use those of "
            "rules.gauss_legendre or rules.clenshaw_curtis",
            ConditioningWarning,
            stacklevel=3,
        )
    # int_{-1}^x P_j = (P_{j+1} - P_{j-1}) / (2j + 1), and x + 1 for j = 0.
    primitive = np.empty((n, n))
    primitive[:, 0] = x + 1
    primitive[:, 1:] = (legendre[:, 2:] - legendre[:, : n - 1]) / (2 * np.arange(1, n) + 1)
    return (b - a) / 2 * np.linalg.solve(legendre[:, :n].T, primitive.T).T


def _leading(function, samples, axis, expected, least):
    """Samples with `axis` in front, checked, and their dtype."""
    f = as_float(samples)
    if not -f.ndim <= axis < f.ndim:
        raise ValueError(f"{function}: samples of shape {f.shape} have no axis {axis}")
    f = jnp.moveaxis(f, axis, 0)
    if f.shape[0] < least or (expected is not None and expected != f.shape[:1]):
        wanted = f"at least {least}" if expected is None else f"the nodes' {expected}"
        raise ValueError(f"{function}: expected {wanted} samples along axis {axis}, got {f.shape[0]}")
    return f, f.dtype


def _accumulate(pieces, axis):
    total = jnp.cumsum(pieces, axis=0)
    return jnp.moveaxis(jnp.concatenate([jnp.zeros_like(total, shape=(1, *total.shape[1:])), total]), 0, axis)


__all__ = ["apply", "cumulative_simpson", "cumulative_trapezoid", "integrate", "integration_matrix", "pad"]
