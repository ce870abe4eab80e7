r"""Brownian increments, $\Delta W_k \sim N(0, \Delta_k)$, and their sums over longer steps of the same path.

Reference: P. E. Kloeden, E. Platen, *Numerical Solution of Stochastic Differential Equations*, 1992, section 1.8.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import keys
from jaxsci.core.types import KeyArray, as_real, float_dtype


def increments(
    key: KeyArray, num_steps: int, dt: ArrayLike, shape: tuple[int, ...] = (), *, dtype=None
) -> Float[Array, "K ..."]:
    """Brownian increments of K steps, the ones `euler_maruyama` draws at the same key.

    Args:
        key: typed key; increment k is drawn from ``fold_in(key, k)``.
        num_steps: K, static.
        dt: length of every step, or one for each, shape (K,); traced.
        shape: of one increment, static.
        dtype: that of `dt` by default.

    Returns:
        Shape (K, *shape), variance dt.

    Example:
        >>> import jax
        >>> from jaxsci import control
        >>> dw = control.increments(jax.random.key(0), 1000, 0.01)
        >>> print(dw.shape, f"{dw.std():.1f}")
        (1000,) 0.1
    """
    dtype = jnp.dtype(dtype) if dtype is not None else float_dtype(dt)
    dt = as_real(dt, dtype)
    if dt.shape not in ((), (num_steps,)):
        raise ValueError(f"increments: dt must have shape () or ({num_steps},), got {dt.shape}")
    return _increments(keys.as_typed_key(key, "increments"), dt, num_steps, tuple(shape))


@eqx.filter_jit
def _increments(key, dt, num_steps: int, shape):
    return drawn(key, jnp.broadcast_to(dt, (num_steps,)), shape)


def drawn(key, dts, shape):
    """The increments of all steps at once: a draw inside the loop costs several times the step itself."""
    normals = jax.vmap(lambda k: normal(key, k, shape, dts.dtype))(jnp.arange(dts.shape[0], dtype=jnp.int32))
    return normals * root(dts).reshape(-1, *(1 for _ in shape))


def root(dt):
    """sqrt(dt), 0 where there is none, with derivatives of 0 there."""
    return jnp.where(dt > 0, jnp.sqrt(jnp.where(dt > 0, dt, 1)), 0)


def normal(key, index, shape, dtype):
    """The standard normals of step `index`, whatever draws them."""
    return jax.random.normal(jax.random.fold_in(jax.random.fold_in(keys.unrolled(key), index), 0), shape, dtype)


def coarsen(
    fine: Float[Array, "K ..."], factor: int | Int[ArrayLike, ""], *, num_steps: int | None = None
) -> Float[Array, "L ..."]:
    """Brownian increments over steps `factor` times as long: sums of blocks, so that all grids see the same path.

    Args:
        fine: increments on the finest grid, leading axis K.
        factor: steps in a block; static, or traced when `num_steps` is given.
        num_steps: length of the result, static; K / factor by default. Padded with zeros, so that grids of several
            steps stack and the factor may be a vmapped axis. Blocks past `num_steps` are dropped.

    Raises:
        ValueError: factor is static and no integer >= 1, or does not divide K.

    A traced factor below 1 gives NaN, which `euler_maruyama` reports.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import control
        >>> fine = control.increments(jax.random.key(0), 12, 0.1)
        >>> coarse = jax.vmap(lambda f: control.coarsen(fine, f, num_steps=12))(jnp.array([1, 2, 3]))
        >>> coarse.shape, bool(jnp.allclose(coarse.sum(1), fine.sum()))
        ((3, 12), True)
    """
    fine = jnp.asarray(fine)
    length = fine.shape[0]
    if not isinstance(factor, jax.Array) and (factor < 1 or factor != int(factor)):
        raise ValueError(f"coarsen: factor must be an integer >= 1, got {factor}")
    if num_steps is None:
        if isinstance(factor, jax.core.Tracer):
            raise TypeError("coarsen: factor must be static without num_steps; pass num_steps to pad the result")
        if factor < 1 or length % int(factor):
            raise ValueError(f"coarsen: factor must divide the {length} steps, got {factor}")
        num_steps = length // int(factor)
    return _coarsen(fine, jnp.asarray(factor, jnp.int32), num_steps)


@eqx.filter_jit
def _coarsen(fine, factor, num_steps: int):
    blocks = jnp.arange(fine.shape[0], dtype=jnp.int32) // jnp.maximum(factor, 1)
    sums = jax.ops.segment_sum(fine, blocks, num_segments=num_steps, indices_are_sorted=True)
    return jnp.where(factor >= 1, sums, jnp.nan)
