r"""Exact samplers: paths whose law on the grid is the true one, with no discretisation error.

Brownian motion $dX = \mu\,dt + \sigma\,dW$, Ornstein-Uhlenbeck $dX = \kappa(m - X)\,dt + \sigma\,dW$, geometric
Brownian motion $dX = \mu X\,dt + \sigma X\,dW$; coordinates of x0 are independent. Rewards are zero:
`jaxsci.control.rewarded` adds them. Step k draws from ``fold_in(key, k)``, the same normals as `control.increments`.

Reference: P. Glasserman, *Monte Carlo Methods in Financial Engineering*, 2003, sections 3.1 to 3.3.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

from jaxsci.control.simulate import Path, increments
from jaxsci.core import entry, keys, status, tree
from jaxsci.core.types import KeyArray, Scalar, as_real, float_dtype

# Below this size of z the quotient (1 - exp(-z)) / z is summed as a series, right to rounding in float64.
_SMALL = 1e-3
# Steps fold in 0, 1, 2, ...; the stationary start folds in the other end of the range.
_START = 0xFFFF_FFFF


def brownian(
    key: KeyArray,
    x0: Float[ArrayLike, "*d"],
    *,
    num_steps: int,
    dt: Scalar,
    drift: ArrayLike = 0.0,
    volatility: ArrayLike = 1.0,
) -> Path:
    r"""Brownian motion with drift: $X_{k+1} = X_k + \mu\,dt + \sigma\,\Delta W_k$.

    Args:
        key: typed key.
        x0: initial state, any shape, traced.
        num_steps: K, static.
        dt: step, traced.
        drift, volatility: mu and sigma, scalars or of the shape of x0, traced.

    Returns:
        A `Path` with zero rewards. Status bits: non-finite input, out of range (dt < 0).

    Example:
        >>> import jax
        >>> from jaxsci import control
        >>> path = control.exact.brownian(jax.random.key(0), 0.0, num_steps=4, dt=0.25)
        >>> path.xs.shape, float(path.ts[-1])
        ((5,), 1.0)
    """
    x0, dt, drift, volatility = _arrays(x0, dt, drift, volatility)
    return _brownian(keys.as_typed_key(key, "exact.brownian"), x0, dt, drift, volatility, num_steps)


@eqx.filter_jit
def _brownian(key, x0, dt, drift, volatility, num_steps: int):
    noise = increments(key, num_steps, jnp.broadcast_to(dt, (num_steps,)), x0.shape)
    steps = (drift * dt)[None] + volatility[None] * noise
    return _path(x0, dt, (drift, volatility), x0[None] + jnp.cumsum(steps, axis=0))


def geometric_brownian(
    key: KeyArray,
    x0: Float[ArrayLike, "*d"],
    *,
    num_steps: int,
    dt: Scalar,
    drift: ArrayLike = 0.0,
    volatility: ArrayLike = 1.0,
) -> Path:
    r"""Geometric Brownian motion: $X_{k+1} = X_k \exp((\mu - \sigma^2/2)\,dt + \sigma\,\Delta W_k)$.

    Args:
        key, x0, num_steps, dt, drift, volatility: as in `brownian`; drift and volatility are per unit of value.

    Returns:
        A `Path` with zero rewards.

    Example:
        >>> import jax
        >>> from jaxsci import control
        >>> path = control.exact.geometric_brownian(jax.random.key(0), 100.0, num_steps=12, dt=1 / 12, volatility=0.2)
        >>> print(path.xs.shape, bool(path.xs.min() > 0))
        (13,) True
    """
    x0, dt, drift, volatility = _arrays(x0, dt, drift, volatility)
    return _geometric(keys.as_typed_key(key, "exact.geometric_brownian"), x0, dt, drift, volatility, num_steps)


@eqx.filter_jit
def _geometric(key, x0, dt, drift, volatility, num_steps: int):
    noise = increments(key, num_steps, jnp.broadcast_to(dt, (num_steps,)), x0.shape)
    steps = ((drift - volatility**2 / 2) * dt)[None] + volatility[None] * noise
    return _path(x0, dt, (drift, volatility), x0[None] * jnp.exp(jnp.cumsum(steps, axis=0)))


def ornstein_uhlenbeck(
    key: KeyArray,
    x0: Float[ArrayLike, "*d"] | None = None,
    *,
    num_steps: int,
    dt: Scalar,
    rate: ArrayLike = 1.0,
    mean: ArrayLike = 0.0,
    volatility: ArrayLike = 1.0,
) -> Path:
    r"""Ornstein-Uhlenbeck: $X_{k+1} = m + \rho(X_k - m) + \sigma\sqrt{(1-\rho^2)/2\kappa}\,Z_k$, $\rho=e^{-\kappa dt}$.

    Args:
        key: typed key.
        x0: initial state, any shape, traced; None draws a scalar from the stationary law.
        num_steps: K, static.
        dt: step, traced.
        rate: kappa; positive for a stationary start, and 0 is Brownian motion. Traced.
        mean, volatility: m and sigma, traced.

    Returns:
        A `Path` with zero rewards. Status bits: non-finite input, out of range (dt < 0, or no stationary law).

    Example:
        >>> import jax
        >>> from jaxsci import control
        >>> path = control.exact.ornstein_uhlenbeck(jax.random.key(0), num_steps=4000, dt=0.1, rate=2.0, mean=1.0)
        >>> print(f"{path.xs.mean():.1f} {path.xs.std():.1f}")
        1.0 0.5
    """
    key = keys.as_typed_key(key, "exact.ornstein_uhlenbeck")
    given = jnp.zeros((), float_dtype(dt, rate, mean, volatility)) if x0 is None else x0
    given, dt, *parameters = _arrays(given, dt, rate, mean, volatility)
    return _ornstein(key, None if x0 is None else given, dt, *parameters, num_steps)


@eqx.filter_jit
def _ornstein(key, x0, dt, rate, mean, volatility, num_steps: int):
    code = jnp.int32(0)
    if x0 is None:
        code = status.flag(~(rate > 0), status.OUT_OF_RANGE)
        spread = volatility / jnp.sqrt(2 * jnp.where(rate > 0, rate, 1))
        x0 = mean + spread * jax.random.normal(jax.random.fold_in(key, _START), (), dt.dtype)
    # Both sides of the choice have derivatives in the rate, 0 included, where this is Brownian motion.
    z = 2 * rate * dt
    small = jnp.abs(z) < _SMALL
    safe = jnp.where(small, 1, rate)
    series = 1 - z / 2 * (1 - z / 3 * (1 - z / 4 * (1 - z / 5)))
    variance = jnp.where(small, dt * series, -jnp.expm1(-2 * safe * dt) / (2 * safe))
    noise = increments(key, num_steps, jnp.ones((num_steps,), dt.dtype), x0.shape)
    kept, shocks = jnp.exp(-rate * dt), (volatility * jnp.sqrt(variance))[None] * noise

    def body(deviation, shock):
        deviation = kept * deviation + shock
        return deviation, deviation

    deviations = jax.lax.scan(body, x0 - mean, shocks)[1]
    path = _path(x0, dt, (rate, mean, volatility), mean[None] + deviations)
    return path._replace(status=path.status | code)


def running_maximum(path: Path) -> Path:
    """The path with its running maximum: states (x, m), stacked along a last axis, m_k = max of x_0, ..., x_k.

    It is the maximum over the grid, below that over all times by about 0.5826 sigma sqrt(dt).

    Example:
        >>> import jax
        >>> from jaxsci import control
        >>> path = control.exact.running_maximum(control.exact.brownian(jax.random.key(0), 0.0, num_steps=8, dt=0.1))
        >>> print(path.xs.shape, bool((path.xs[:, 1] >= path.xs[:, 0]).all()))
        (9, 2) True

    References: Broadie, Glasserman and Kou 1997, A continuity correction for discrete barrier options.
    """
    lost = (path.status == status.OK) & ~tree.all_finite(path.xs)
    code = path.status | status.flag(lost, status.NONFINITE_INPUT)
    return path._replace(xs=_with_maximum(path.xs), status=code)


@eqx.filter_jit
def _with_maximum(xs):
    return jnp.stack([xs, jax.lax.cummax(xs, axis=0)], axis=-1)


def _arrays(x0, dt, *parameters):
    """All in the dtype of x0; parameters in its shape."""
    dtype = float_dtype(x0)
    x0 = as_real(x0, dtype)
    return x0, as_real(dt, dtype), *(jnp.broadcast_to(as_real(a, dtype), x0.shape) for a in parameters)


def _path(x0, dt, parameters, xs) -> Path:
    """A path from its states after x0; one that is not finite stands still at 0 and says so."""
    num_steps = xs.shape[0]
    code = status.flag(~(dt >= 0), status.OUT_OF_RANGE)
    code = code | status.flag(~tree.all_finite((x0, dt, parameters)), status.NONFINITE_INPUT)
    xs = jnp.concatenate([x0[None], xs])
    code = code | status.flag(~tree.all_finite(xs) & (code == status.OK), status.NONFINITE_RESULT)
    lost = code != status.OK
    ts = jnp.arange(num_steps + 1, dtype=xs.dtype) * dt
    dts = jnp.broadcast_to(dt, (num_steps,))
    ts, xs, dts = tree.where(lost, tree.zeros_like((ts, xs, dts)), (ts, xs, dts))
    return Path(ts, xs, None, jnp.zeros_like(dts), dts, code)


__all__ = ["brownian", "geometric_brownian", "ornstein_uhlenbeck", "running_maximum"]

entry.guard(globals())
