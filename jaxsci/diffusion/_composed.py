r"""What correctors aim at: a product of powers of models' laws, and of a reward, at every node of a solver's table.

The target at $\lambda$ is $p_\lambda \propto \prod_i q_{i,\lambda}^{\beta_i}\,e^{\rho r}$. With $B = \sum_i \beta_i$,
$E = \sum_i \beta_i \varepsilon_i$ and a solver's noise $\kappa = \tau^2$, particles follow the reverse SDE of the
composed prediction

$$ \varepsilon = E - \tfrac{\kappa}{1+\kappa}\,\sigma\rho\,\nabla r, $$

and their log-weights grow, whatever kappa is, by

$$ \frac{d\log w}{d\lambda} = |E|^2 - \sum_i \beta_i|\varepsilon_i|^2 - (B - 1)\,d\,\frac{\alpha'}{\alpha}
   + \rho\,\nabla r \cdot \Bigl(\frac{\alpha'}{\alpha}x - \sigma E\Bigr) + \rho' r
   + \sum_i \beta_i' \log q_{i,\lambda}(x). $$

The squares are $(B-1)\sum_i\beta_i|\varepsilon_i|^2 - \sum_{i<j}\beta_i\beta_j|\varepsilon_i-\varepsilon_j|^2$, which
loses no digits where models agree; $\int \alpha'/\alpha\,d\lambda$ is $\log\alpha$, exact over any step.

References: M. Skreta et al., "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts", 2025,
propositions 3.1 to 3.4; here in lambda, where one formula serves every noise schedule.
"""

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxsci.diffusion.predictions import called


class Target(NamedTuple):
    """A product of powers, m factors; `beta` and `reward_scale` are numbers or functions of lambda."""

    denoisers: tuple[Callable, ...]
    conds: tuple[PyTree, ...]
    beta: PyTree
    reward: Callable | None
    reward_scale: PyTree
    log_densities: tuple[Callable, ...] | None


class Place(NamedTuple):
    """The target's parameters at a node, or how much they change over a row."""

    lam: Float[Array, ""]
    log_alpha: Float[Array, ""]
    beta: Float[Array, " m"]
    scale: Float[Array, ""]


class Seen(NamedTuple):
    """What the models say at the cloud's states; None for what the target has not."""

    data: Float[Array, "N *d"]
    noise: Float[Array, "N *d"]
    squares: Float[Array, " N"]
    reward: Float[Array, " N"] | None
    slope: Float[Array, "N *d"] | None
    log_densities: Float[Array, "N m"] | None


def places(target: Target, lam: Float[Array, " n"], alpha: Float[Array, " n"]) -> Place:
    """The parameters at n nodes; a number for the reward's scale is where it ends, in step with the signal."""
    finite = jnp.where(jnp.isfinite(lam), lam, 0)

    def at(value, shape):
        value = jax.vmap(value)(finite).reshape(lam.size, *shape) if callable(value) else value
        return jnp.broadcast_to(jnp.asarray(value, lam.dtype), (lam.size, *shape))

    scale = at(target.reward_scale, ())
    if not callable(target.reward_scale):
        ramp = jax.nn.sigmoid(2 * lam)
        scale = scale * ramp / jnp.max(jnp.where(jnp.isfinite(lam), ramp, 0))
    return Place(lam, jnp.log(alpha), at(target.beta, (len(target.denoisers),)), scale)


def _rows(x):
    """Sums over all axes but the cloud's, in at least float32.

    A product with ones: for a sum XLA's CPU library first fills arrays of x's size with every scalar in it.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(x.shape[0], -1)
    return jnp.dot(x, jnp.ones(x.shape[1], x.dtype), precision="highest")


def look(target: Target, x: Float[Array, "N *d"], t, here: Place, alpha, laws: bool) -> Seen:
    """Call every model once at each state; only the models are vmapped. `laws`: ask for densities too."""
    datas, noises = [], []
    for denoiser, cond in zip(target.denoisers, target.conds):

        def one(x, denoiser=denoiser, cond=cond):
            return called("correctors.sample", denoiser, x, t, cond, jnp.ones((), x.dtype))

        data, noise = jax.vmap(one)(x)
        datas.append(data)
        noises.append(noise)
    beta, total = here.beta, jnp.sum(here.beta)
    noise = sum(b * e for b, e in zip(beta, noises))
    # x = alpha D_i + sigma eps_i for each model, so that the composed pair obeys the same equation
    data = sum(b * d for b, d in zip(beta, datas)) + (1 - total) / alpha * x
    squares = (total - 1) * sum(b * _rows(e**2) for b, e in zip(beta, noises))
    for i, j in combinations(range(len(noises)), 2):
        squares = squares - beta[i] * beta[j] * _rows((noises[i] - noises[j]) ** 2)
    value = slope = None
    if target.reward is not None:
        value, slope = jax.vmap(jax.value_and_grad(lambda x: _scalar(target.reward(x, t), x)))(x)
        # where the reward is -inf the particle is dead: it moves on without it
        slope = jnp.where(jnp.isneginf(value).reshape(-1, *(1,) * (x.ndim - 1)), 0, slope)
    return Seen(data, noise, squares, value, slope, log_laws(target, x, t) if laws else None)


def rewards(target: Target, x: Float[Array, "N *d"], t) -> Float[Array, " N"] | None:
    """The reward of each state."""
    return None if target.reward is None else jax.vmap(lambda x: _scalar(target.reward(x, t), x))(x)


def log_laws(target: Target, x: Float[Array, "N *d"], t) -> Float[Array, "N m"] | None:
    """log q_i of each state."""
    if target.log_densities is None:
        return None
    pairs = list(zip(target.log_densities, target.conds))
    return jax.vmap(lambda x: jnp.stack([_scalar(f(x, t, cond), x) for f, cond in pairs]))(x)


def _scalar(value, x):
    if jnp.shape(value) != ():
        raise TypeError(
            f"correctors.sample: reward and log_densities must return a number for one state, got shape "
            f"{jnp.shape(value)}"
        )
    return jnp.asarray(value, x.dtype)


def times(factor, value):
    """factor * value, 0 where the factor is: a reward of -inf that does not count is nothing."""
    return jnp.where(factor == 0, 0, factor * jnp.where(factor == 0, 0, value))


def log_target(log_densities, reward, here: Place) -> Float[Array, " N"]:
    """log of the target's unnormalised density."""
    value = jnp.sum(times(here.beta[None], log_densities), axis=1)
    return value if reward is None else value + times(here.scale, reward)


def pair(seen: Seen, here: Place, kappa, alpha, sigma) -> tuple[Array, Array]:
    """(D, eps) that moves the cloud; a reward pushes as far as the solver's noise can make up for."""
    if seen.slope is None:
        return seen.data, seen.noise
    push = kappa / (1 + kappa) * here.scale * seen.slope
    return seen.data + sigma**2 / alpha * push, seen.noise - sigma * push


def log_growth(seen: Seen, here: Place, change: Place, x, sigma) -> Float[Array, " N"]:
    """How much the log-weights grow where lambda, log alpha, beta and rho change by `change`."""
    size = x.size // x.shape[0]
    growth = change.lam * seen.squares - (jnp.sum(here.beta) - 1) * size * change.log_alpha
    if seen.slope is not None:
        along = change.log_alpha * _rows(seen.slope * x) - change.lam * sigma * _rows(seen.slope * seen.noise)
        growth = growth + here.scale * along + times(change.scale, seen.reward)
    if seen.log_densities is not None:
        growth = growth + jnp.sum(times(change.beta[None], seen.log_densities), axis=1)
    return growth


__all__: list[str] = []
