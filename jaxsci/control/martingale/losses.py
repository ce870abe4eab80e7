r"""Losses on whole paths, for any family and any optimiser: what online methods solve step by step, offline.

Each takes one path and returns a scalar to be averaged over a batch by vmap, except `orthogonality`, whose expectation
stands inside a square and which takes the batch. `jaxsci.core.train` runs them. A loss has no status: check that of
the paths before, ``jaxsci.check(paths)``. A path that failed counts up to where it stands still, but a reward that
`rollout` or `rewarded` reports as not finite makes the loss not finite.

Reference: Jia and Zhou 2022, JMLR 23(154), sections 3 and 4.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jaxsci.control.martingale._condition import (
    Condition,
    as_unknowns,
    checked_scale,
    credit,
    real,
    residual,
    time_weight,
)
from jaxsci.control.simulate import Path, transitions
from jaxsci.core import entry, precision
from jaxsci.core.types import Scalar, as_float

_METRICS = ("identity", "covariance")


def martingale_loss(cond: Condition, params: PyTree, path: Path) -> Float[Array, ""]:
    r"""ML: $\frac12\sum_k\Delta_k(G_k - J_k)^2$ with the discounted return $G_k$; finds the best mean-square fit of J.

    $G_k = r_k\Delta_k + e^{-\beta\Delta_k}G_{k+1}$ from $G_K = J(t_K, X_K)$, which is h with a terminal condition built
    in (an infinite horizon is cut there, with no gradient of the parameters through it). For an ergodic condition there
    is no such loss.

    Args:
        cond: from `condition`; discount and weights are used, test functions are not.
        params: parameters of the family.
        path: one path.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> def features(t, x): return jnp.stack([jnp.ones_like(x), x**2])
        >>> value = control.martingale.linear_value(features, terminal=lambda x: x**2, horizon=1.0)
        >>> condition = control.martingale.condition(value)
        >>> path = control.exact.brownian(jax.random.key(0), 0.0, num_steps=10, dt=0.1)
        >>> loss = control.martingale.losses.martingale_loss(condition, jnp.array([1.0, 0.0]), path)
        >>> loss.shape
        ()
    """
    if cond.average:
        raise ValueError("martingale_loss: expected a discounted or finite-horizon condition, got an ergodic one")
    return _martingale_loss(cond, as_unknowns(cond, params, path.dts), path)


@eqx.filter_jit
def _martingale_loss(cond, unknowns, path):
    path = real(path)
    values = jax.vmap(lambda t, x: cond.value.apply(unknowns.params, t, x))(path.ts, path.xs)
    discount = cond.discount.astype(path.ts.dtype)
    keep = jnp.exp(-discount * path.dts)

    def back(g, now):
        reward, dt, kept = now
        g = reward * dt + kept * g
        return g, g

    end = cond.value.apply(jax.lax.stop_gradient(unknowns.params), path.ts[-1], path.xs[-1])
    _, returns = jax.lax.scan(back, end, (path.rs, path.dts, keep), reverse=True)
    return jnp.sum(time_weight(cond, path.ts[:-1]) * path.dts * (returns - values[:-1]) ** 2) / 2


def temporal_difference(
    cond: Condition,
    params: PyTree,
    path: Path,
    *,
    trace_decay: Scalar | None = None,
    trace_scale: str = "dt",
) -> Float[Array, ""]:
    r"""CTD(0) or CTD($\lambda$): a surrogate whose negative gradient is $\sum_k\xi_k\delta_k$; its value means nothing.

    One gradient step of rate alpha is the offline update $\theta\leftarrow\theta + \alpha\sum_k\xi_k\delta_k$.

    Args:
        cond: from `condition`.
        params: parameters of the family, or `Unknowns`.
        path: one path, an episode.
        trace_decay: lambda in [0, 1] per unit of time, traced; None for CTD(0). Traces are not carried: every test is
            multiplied by the errors that it is to meet, so that a network costs what it costs without a trace.
        trace_scale: "dt" or "unit", as in `ctd`; static.

    Raises:
        ValueError: an unknown `trace_scale`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> path = control.exact.ornstein_uhlenbeck(jax.random.key(0), num_steps=100, dt=0.05)
        >>> path = path._replace(rs=path.xs[:-1])
        >>> slope = jax.grad(control.martingale.losses.temporal_difference, argnums=1)(condition, jnp.zeros(2), path)
        >>> moments = control.martingale.moments(condition, jnp.zeros(2), path)
        >>> print(bool(jnp.allclose(slope, -moments, atol=1e-4)))
        True
    """
    checked_scale("temporal_difference", trace_scale)
    decay = None if trace_decay is None else as_float(trace_decay)
    return _temporal_difference(cond, as_unknowns(cond, params, path.dts), path, decay, trace_scale)


@eqx.filter_jit
def _temporal_difference(cond, unknowns, path, decay, trace_scale: str):
    path = real(path)
    steps, frozen = transitions(path), jax.lax.stop_gradient(unknowns)
    at = jax.vmap(lambda step: residual(cond, frozen, step))(steps)
    weights = credit(cond, at.delta, path.dts, decay, trace_scale)

    def one(step, test, weight):
        if cond.test is None:
            level = cond.value.apply(unknowns.params, step.t, step.x) + (unknowns.average if cond.average else 0)
            return -time_weight(cond, step.t) * weight * level
        return -weight * precision.matmul(test, ravel_pytree(unknowns)[0])

    return jnp.sum(jax.vmap(one)(steps, at.test, weights))


def orthogonality(cond: Condition, params: PyTree, paths: Path, *, metric: str = "identity") -> Float[Array, ""]:
    r"""GTD, offline: $\frac12 m^\top\mathcal{A}m$ with $m = \frac1N\sum_{paths}\sum_k\xi_k\delta_k$, tests held fixed.

    Args:
        cond: from `condition`; there may be more test functions than unknowns.
        params: parameters of the family, or `Unknowns`.
        paths: a `Path` with one leading axis over the batch.
        metric: static; "identity" (CGTD) or "covariance", the inverse of $\frac1N\sum\sum_k\xi_k\xi_k^\top\Delta_k$
            (CGTD2), its pseudo-inverse where test functions depend on each other on these paths.

    Raises:
        ValueError: an unknown metric, or no batch axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> keys = jax.random.split(jax.random.key(0), 64)
        >>> paths = jax.vmap(lambda key: control.exact.ornstein_uhlenbeck(key, num_steps=100, dt=0.05))(keys)
        >>> paths = paths._replace(rs=paths.xs[:, :-1])
        >>> loss = control.martingale.losses.orthogonality
        >>> print(bool(loss(condition, jnp.array([0.0, 2 / 3]), paths) < loss(condition, jnp.zeros(2), paths)))
        True
    """
    if metric not in _METRICS:
        raise ValueError(f"orthogonality: metric must be one of {_METRICS}, got {metric!r}")
    if jnp.ndim(paths.dts) != 2:
        raise ValueError(f"orthogonality: paths need one leading batch axis, got dts of shape {jnp.shape(paths.dts)}")
    return _orthogonality(cond, as_unknowns(cond, params, paths.dts), real(paths), metric)


@eqx.filter_jit
def _orthogonality(cond, unknowns, paths, metric):
    def one(step):
        here = residual(cond, unknowns, step)
        test = jax.lax.stop_gradient(here.test)
        return test * here.delta, test

    steps = jax.vmap(transitions)(paths)
    products, tests = jax.vmap(jax.vmap(one))(steps)
    mean = products.sum(1).mean(0)
    if metric == "identity":
        return jnp.sum(mean**2) / 2
    weighted = tests * steps.dt[..., None]
    covariance = precision.einsum("ikm,ikn->mn", tests, weighted) / tests.shape[0]
    sizes, axes = jnp.linalg.eigh(covariance)
    kept = sizes > sizes.shape[0] * jnp.finfo(sizes.dtype).eps * sizes[-1]
    along = precision.matmul(mean, axes)
    # A NaN is no size above the cutoff: it would leave nothing to sum, a loss of 0.
    kept = kept | jnp.isnan(sizes)
    return jnp.sum(jnp.where(kept, along**2 / jnp.where(kept, sizes, 1), 0)) / 2


def mean_square_td_error(cond: Condition, params: PyTree, path: Path) -> Float[Array, ""]:
    r"""MSTDE: $\frac12\sum_k\delta_k^2/\Delta_k$. A baseline: do not use it.

    Warning:
        As dt -> 0 it measures the quadratic variation of the martingale part, not the error of J: with enough capacity
        its minimiser is constant in x for every t < T.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> value = control.martingale.linear_value(lambda t, x: jnp.stack([jnp.ones_like(x), x]))
        >>> condition = control.martingale.condition(value, discount=0.5)
        >>> path = control.exact.ornstein_uhlenbeck(jax.random.key(0), num_steps=400, dt=0.05)
        >>> path = path._replace(rs=path.xs[:-1])
        >>> loss = control.martingale.losses.mean_square_td_error
        >>> truth = jnp.array([0.0, 2 / 3])
        >>> print(bool(loss(condition, jnp.zeros(2), path) < loss(condition, truth, path)))  # misleading
        True
    """
    return _mean_square_td_error(cond, as_unknowns(cond, params, path.dts), path)


@eqx.filter_jit
def _mean_square_td_error(cond, unknowns, path):
    steps = transitions(real(path))
    delta = jax.vmap(lambda step: residual(cond, unknowns, step).delta)(steps)
    return jnp.sum(time_weight(cond, steps.t) * delta**2 / jnp.where(steps.dt > 0, steps.dt, jnp.inf)) / 2


__all__ = ["martingale_loss", "mean_square_td_error", "orthogonality", "temporal_difference"]

entry.guard(globals())
