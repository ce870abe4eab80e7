r"""What a Gaussian process says of f: at one input, at several each by itself or together, by draws, left out.

With $K = LL^\top$ and $\alpha = K^{-1}y$ the posterior at x has mean $k_x^\top\alpha$ and variance
$k(x, x) - \|L^{-1}k_x\|^2$.

Reference: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, algorithm 2.1 and section 5.4.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import loops, precision, status, tree
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.types import KeyArray
from jaxsci.gp._factor import factor, factor_status
from jaxsci.gp._gp import GP, check_one, check_several
from jaxsci.gp.kernels import gram


class Prediction(NamedTuple):
    """Posterior of f, without noise, at one input; leading axes under vmap.

    Attributes:
        mean: posterior mean.
        variance: posterior variance >= 0; add the noise's for that of an observation.
        status: bits of the GP, and NONFINITE_RESULT (mean and variance are then 0); 0 = ok.
    """

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]
    status: Int[Array, "..."]


class Joint(NamedTuple):
    """Posterior of f, without noise, at m inputs together.

    Attributes:
        mean: posterior mean.
        covariance: posterior covariance.
        status: bits of the GP, and NONFINITE_RESULT (all is then 0); 0 = ok.
    """

    mean: Float[Array, " m"]
    covariance: Float[Array, "m m"]
    status: Int[Array, ""]


class Sample(NamedTuple):
    """One draw of f at m inputs together.

    Attributes:
        value: the values drawn.
        status: bits of the GP and of the draw; 0 = ok.
    """

    value: Float[Array, " m"]
    status: Int[Array, ""]


@eqx.filter_jit
def predict(gp: GP, x: PyTree) -> Prediction:
    """Posterior mean and variance of f at one input; `marginals` takes several.

    Args:
        gp: from `condition` or `append`.
        x: one input, traced.

    Returns:
        A `Prediction`; the variance is clipped at 0, add the noise's for that of an observation. Status: the GP's, and
        non-finite result (mean 0 and variance 0) where x or the kernel is not finite.

    Raises:
        ValueError: x has not the shape of the inputs of the process.

    Differentiable in everything.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> x = jnp.array([[0.0], [1.0]])
        >>> process = gp.condition(gp.kernels.rbf(1.0), x, jnp.array([0.0, 1.0]), noise=1e-4)
        >>> found = gp.predict(process, jnp.array([1.0]))
        >>> print(f"{found.mean:.2f} {found.variance:.2f}")
        1.00 0.00

    References: Rasmussen and Williams 2006, algorithm 2.1.
    """
    check_one("gp.predict", gp, x)
    mean, covariance, code = joint(gp, jax.tree.map(lambda a: jnp.asarray(a)[None], x))
    return Prediction(mean[0], jnp.maximum(covariance[0, 0], 0), code)


@eqx.filter_jit
def marginals(gp: GP, xs: PyTree) -> Prediction:
    """Posterior mean and variance of f at several inputs, each by itself: `joint` without the covariances.

    One triangular solve for all of them, also under a `jax.vmap` over processes.

    Args:
        gp: from `condition` or `append`.
        xs: m inputs along the leading axis of every array, traced.

    Returns:
        A `Prediction` of m rows, each with a status of its own; see `predict`.

    Raises:
        ValueError: xs have not the shape of the inputs of the process.

    Differentiable in everything.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> process = gp.condition(gp.kernels.rbf(1.0), jnp.array([[0.0], [1.0]]), jnp.array([0.0, 1.0]), noise=1e-4)
        >>> found = gp.marginals(process, jnp.array([[1.0], [9.0]]))
        >>> [round(float(v), 2) for v in found.variance]
        [0.0, 1.0]

    References: Rasmussen and Williams 2006, algorithm 2.1.
    """
    check_several("gp.marginals", gp, xs)
    mean, reduced = _reduced(gp, xs)
    prior = jax.vmap(lambda x: gp.kernel(x, x))(xs).astype(gp.y.dtype)
    variance = jnp.maximum(prior - jnp.sum(reduced**2, axis=0), 0)
    bad = ~(jnp.isfinite(mean) & jnp.isfinite(variance))
    code = gp.status | status.flag(bad, status.NONFINITE_RESULT)
    return Prediction(jnp.where(bad, 0, mean), jnp.where(bad, 0, variance), code)


def _reduced(gp: GP, xs):
    """The mean (m,) at all inputs, and L^-1 k_x of each as the columns of a matrix (N, m)."""
    covariances = jnp.where(gp.mask[:, None], gram(gp.kernel, gp.x, xs).astype(gp.y.dtype), 0)
    mean = precision.matmul(covariances.T, gp.alpha)
    # Under vmap two solves at once may wait for each other for ever, see `loops.after`: this one after that of alpha.
    return mean, solve_triangular(gp.chol, loops.after(covariances, gp.alpha), lower=True)


@eqx.filter_jit
def joint(gp: GP, xs: PyTree) -> Joint:
    """Posterior mean and covariance of f at several inputs together.

    Args:
        gp: from `condition` or `append`.
        xs: m inputs along the leading axis of every array, traced.

    Returns:
        A `Joint`; as a difference of matrices the covariance is positive semi-definite to rounding error only.
        Status: as `predict`, with all zeros.

    Raises:
        ValueError: xs have not the shape of the inputs of the process.

    Differentiable in everything.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> process = gp.condition(gp.kernels.rbf(1.0), jnp.array([[0.0], [1.0]]), jnp.array([0.0, 1.0]), noise=0.01)
        >>> found = gp.joint(process, jnp.array([[0.2], [0.5], [3.0]]))
        >>> print(found.mean.shape, found.covariance.shape)
        (3,) (3, 3)

    References: Rasmussen and Williams 2006, equation 2.24.
    """
    check_several("gp.joint", gp, xs)
    mean, reduced = _reduced(gp, xs)
    prior = gram(gp.kernel, xs, xs).astype(gp.y.dtype)
    covariance = prior - precision.matmul(reduced.T, reduced)
    bad = ~tree.all_finite((mean, covariance))
    mean, covariance = (jnp.where(bad, 0, a) for a in (mean, covariance))
    return Joint(mean, covariance, gp.status | status.flag(bad, status.NONFINITE_RESULT))


@eqx.filter_jit
def sample(key: KeyArray, gp: GP, xs: PyTree) -> Sample:
    """One draw of f at several inputs together; `jax.vmap` over keys draws more at the cost of one factorisation.

    Args:
        key: one typed key.
        gp: from `condition` or `append`.
        xs: m inputs along the leading axis of every array, traced.

    Returns:
        A `Sample`. The covariance's diagonal is raised by its own rounding error, (N + m) eps max k(x, x), so that
        points already known exactly can be drawn; more than that is reported as jitter raised.

    Raises:
        ValueError: xs have not the shape of the inputs of the process.

    Differentiable in everything.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import gp
        >>> process = gp.condition(gp.kernels.rbf(1.0), jnp.array([[0.0], [1.0]]), jnp.array([0.0, 1.0]), noise=0.01)
        >>> print(gp.sample(jax.random.key(0), process, jnp.array([[0.2], [0.8]])).value.shape)
        (2,)

    References: Rasmussen and Williams 2006, section A.2.
    """
    key = as_typed_key(key, "gp.sample")
    check_several("gp.sample", gp, xs)
    mean, covariance, code = joint(gp, xs)
    m = mean.shape[0]
    prior = jax.vmap(lambda x: gp.kernel(x, x))(xs).astype(mean.dtype)
    rounding = (gp.y.shape[0] + m) * jnp.finfo(mean.dtype).eps * jnp.max(prior)
    rounding = jax.lax.stop_gradient(jnp.where(jnp.isfinite(rounding), rounding, 1))
    chol, extra = factor(covariance + rounding * jnp.eye(m, dtype=mean.dtype))
    # No factor found: the mean is all that can be said.
    chol = jnp.where(jnp.isinf(extra), 0, chol)
    noise = jax.random.normal(unrolled(key), (m,), mean.dtype)
    return Sample(mean + precision.matmul(chol, noise), code | factor_status(extra))


@eqx.filter_jit
def leave_one_out(gp: GP) -> Prediction:
    r"""Mean and variance of f at every row given all other rows.

    $m_i = y_i - \alpha_i/K^{-1}_{ii}$, $v_i = 1/K^{-1}_{ii} - \sigma_i^2 - \text{jitter}$

    Returns:
        A `Prediction` of N rows; dead ones hold zeros. Differentiable in everything.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import gp
        >>> x, y = jnp.arange(4.0)[:, None], jnp.array([0.0, 1.0, 2.0, 9.0])
        >>> found = gp.leave_one_out(gp.condition(gp.kernels.rbf(2.0), x, y, noise=0.1))
        >>> print(int(jnp.argmax(abs(found.mean - y))))  # the value that its neighbours do not expect
        3

    References: Rasmussen and Williams 2006, equation 5.12.
    """
    num_rows = gp.y.shape[0]
    inverse = solve_triangular(gp.chol, loops.after(jnp.eye(num_rows, dtype=gp.y.dtype), gp.alpha), lower=True)
    diagonal = jnp.sum(inverse**2, axis=0)  # of the inverse of K
    variance = jnp.maximum(1 / diagonal - gp.noise - gp.jitter, 0)
    mean = gp.y - gp.alpha / diagonal
    lost = gp.mask & ~(jnp.isfinite(mean) & jnp.isfinite(variance))
    code = gp.status | status.flag(lost, status.NONFINITE_RESULT)
    return Prediction(jnp.where(gp.mask, mean, 0), jnp.where(gp.mask, variance, 0), code)


__all__ = ["Joint", "Prediction", "Sample", "joint", "leave_one_out", "marginals", "predict", "sample"]
