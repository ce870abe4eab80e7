r"""An ensemble of walkers that move along the lines between them: no step size, the same under any affine map.

Walker j moves to $x_j' = x_k + z(x_j - x_k)$, k a walker of the other half, $z = ((a - 1)u + 1)^2/a$, u uniform, and is
accepted with probability $\min(1, z^{d-1}\pi(x_j')/\pi(x_j))$. One half moves at a time, given the other.

References: Goodman and Weare 2010, Commun. Appl. Math. Comput. Sci. 5, 65-80; Foreman-Mackey et al. 2013, emcee: The
MCMC Hammer, Publ. Astron. Soc. Pac. 125, 306 (halves).
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import status
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import KeyArray, Scalar, Size, as_float, as_scalar


class Ensemble(NamedTuple):
    """What `stretch` has drawn.

    Attributes:
        value: (S, W, d), the walkers after each kept step.
        log_density: (S, W), of them.
        acceptance: share of accepted moves after the burn-in.
        status: 0, degenerate weights if no walker started where the density is positive, non-finite input if the
            density of a start is NaN.
    """

    value: Float[Array, "S W d"]
    log_density: Float[Array, "S W"]
    acceptance: Float[Array, ""]
    status: Int[Array, ""]


def stretch(
    key: KeyArray,
    log_density: Callable,
    start: Float[ArrayLike, "W d"],
    *,
    num_steps: Size,
    burn_in: Size = 0,
    thin: Size = 1,
    scale: Scalar = 2.0,
) -> Ensemble:
    """Draw from a density by the stretch move.

    Args:
        key: one typed key.
        log_density: ``log_density(x (d,)) -> scalar``, unnormalised; -inf and NaN are never accepted.
        start: W walkers, an even number of at least four, traced; fewer than 2 d explore badly.
        num_steps: kept steps S, static.
        burn_in: steps before the first kept one, static.
        thin: steps for each kept one, static.
        scale: a > 1, traced.

    Returns:
        An `Ensemble`. Walkers that started where the density is 0 move as soon as a proposal of theirs falls where it
        is positive.

    Raises:
        ValueError: no even number of walkers, or sizes that are too small.

    No gradients.

    Example:
        >>> from jaxsci.pfn import curves
        >>> start = jax.random.normal(jax.random.key(0), (20, 2))
        >>> found = curves.stretch(jax.random.key(1), lambda x: -0.5 * jnp.sum(x**2), start, num_steps=500)
        >>> print(found.value.shape, f"{jnp.std(found.value):.1f}")
        (500, 20, 2) 1.0

    References: Goodman and Weare 2010, section 2; Foreman-Mackey et al. 2013, algorithm 3.
    """
    key, start = as_typed_key(key, "curves.stretch"), as_float(start)
    if start.ndim != 2 or start.shape[0] < 4 or start.shape[0] % 2 or start.shape[1] < 1:
        raise ValueError(
            "curves.stretch: start must be (walkers, dimensions) with an even number of at least four walkers, got "
            f"shape {start.shape}"
        )
    sizes = (("num_steps", num_steps, 1), ("burn_in", burn_in, 0), ("thin", thin, 1))
    sizes = [check_size("curves.stretch", name, value, least=least) for name, value, least in sizes]
    scale = as_scalar(scale, "curves.stretch", "scale", start.dtype)
    return _stretch(key, as_partial(log_density, "curves.stretch", "log_density"), start, *sizes, scale)


@eqx.filter_jit
def _stretch(key, log_density, start, num_steps, burn_in, thin, scale):
    num_walkers, num_dims = start.shape
    half = num_walkers // 2
    density = jax.vmap(log_density)

    def half_step(index, state):
        walkers, at, accepted = state
        which, keys = index % 2, jax.random.split(jax.random.fold_in(unrolled(key), index), 3)
        moving, fixed, here = walkers[which], walkers[1 - which], at[which]
        partner = fixed[jax.random.randint(keys[0], (half,), 0, half)]
        z = ((scale - 1) * jax.random.uniform(keys[1], (half,), start.dtype) + 1) ** 2 / scale
        proposal = partner + z[:, None] * (moving - partner)
        there = density(proposal).astype(start.dtype)
        ratio = jnp.where(jnp.isneginf(here), jnp.inf, (num_dims - 1) * jnp.log(z) + there - here)
        # A NaN fails every comparison; from where the density is 0 anything positive is accepted.
        accept = (there > -jnp.inf) & (jnp.log(jax.random.uniform(keys[2], (half,), start.dtype)) < ratio)
        walkers = walkers.at[which].set(jnp.where(accept[:, None], proposal, moving))
        at = at.at[which].set(jnp.where(accept, there, here))
        counted = jnp.sum(accept, dtype=jnp.int32) * (index >= 2 * burn_in)
        return walkers, at, accepted + counted

    def kept(state, index):
        # The burn-in comes before the first: one loop, compiled once.
        begin, end = jnp.where(index == 0, 0, burn_in + index * thin), burn_in + (index + 1) * thin
        state = jax.lax.fori_loop(2 * begin, 2 * end, half_step, state)
        return state, (state[0].reshape(start.shape), state[1].reshape(num_walkers))

    at = density(start).astype(start.dtype)
    code = status.flag(~jnp.any(at > -jnp.inf), status.DEGENERATE)
    lost = jnp.any(jnp.isnan(at)) | ~jnp.all(jnp.isfinite(start)) | ~jnp.isfinite(scale)
    code = code | status.flag(lost, status.NONFINITE_INPUT)
    at = jnp.where(jnp.isnan(at), -jnp.inf, at)
    state = start.reshape(2, half, num_dims), at.reshape(2, half), jnp.zeros((), jnp.int32)
    state, (value, log_densities) = jax.lax.scan(kept, state, jnp.arange(num_steps, dtype=jnp.int32))
    moves = num_steps * thin * num_walkers
    return Ensemble(value, log_densities, state[-1].astype(start.dtype) / moves, code)


__all__ = ["Ensemble", "stretch"]
