r"""The marginal particle filter: weights that sum over all ancestors a particle may have had.

A cloud $(x^j, W^j)$ moves to $z^i \sim m(\cdot \mid x^i)$, one draw from each component of the mixture
$\frac1N \sum_j m(\cdot \mid x^j)$, and is weighed by

$w^i = g(y \mid z^i)\, \frac{\sum_j W^j f(z^i \mid x^j)}{\frac1N \sum_j m(z^i \mid x^j)}$

instead of $W^i g f / m$ of its own ancestor alone: the choice of the ancestor is integrated out, so the weights vary
less, at a cost of N^2. $\hat Z$ stays unbiased, because a draw from each component under the density of the mixture
integrates exactly what the mixture does (Veach and Guibas 1995, the balance heuristic). After a resampling all W are
equal, and both mixtures are over the particles that were chosen.

References: M. Klaas, N. de Freitas, A. Doucet, Toward practical N^2 Monte Carlo: the marginal particle filter, UAI
2005; E. Veach, L. Guibas, Optimally combining sampling techniques, SIGGRAPH 1995.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import PyTree

from jaxsci.core import entry
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import Size
from jaxsci.smc import _filters
from jaxsci.smc._filters import StateSpace
from jaxsci.smc._model import Model
from jaxsci.smc._weights import log_total
from pallas_kernels.log_weight_stats import log_weight_stats


def marginal(
    space: StateSpace,
    init: Callable[[PyTree], Any],
    proposal: Callable[[PyTree, PyTree], Any],
    *,
    block_size: Size = 128,
) -> Model:
    """The guided filter with the ancestors integrated out of its weights, at N^2 densities a step.

    With the model's own transition as proposal the two mixtures cancel, and it is the bootstrap filter. Gradients flow
    through states and weights; the modes of `run` that need the densities of draws ("stop_gradient" with frozen
    particles) are not offered.

    Args:
        space: from `state_space`.
        init: ``init(input) -> law`` that x_0 is drawn from.
        proposal: ``proposal(x, input) -> law`` that x_t is drawn from; takes a cloud if `space` is batched.
        block_size: particles whose N densities are computed at a time: memory N times this; static.

    Returns:
        A `Model` for `run`. There is no single ancestor whose weight a particle continues, so the single-run variances
        (`log_z_variance`, `mean_variance`) do not hold for it.

    Raises:
        TypeError: an argument is no function.
        ValueError: `block_size` is no int >= 1.

    Example:
        >>> import distrax, jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> space = smc.state_space(
        ...     lambda y: distrax.Normal(0.0, 1.0),
        ...     lambda x, y: distrax.Normal(0.9 * x, 1.0),
        ...     lambda x, y: distrax.Normal(x, 0.5),
        ...     batched=True,
        ... )
        >>> wide = lambda x, y: distrax.Normal(0.5 * (0.9 * x + y), 1.0)
        >>> model = smc.marginal(space, lambda y: distrax.Normal(0.0, 1.0), wide)
        >>> result = smc.run(jax.random.key(0), model, jnp.zeros(5), num_particles=200)
        >>> result.value.particles.shape, int(result.status)
        ((200,), 0)

    References: M. Klaas, N. de Freitas, A. Doucet, UAI 2005.
    """
    size = check_size("smc.marginal", "block_size", block_size)
    first, law = as_partial(init, "smc.marginal", "init"), as_partial(proposal, "smc.marginal", "proposal")
    move = Partial(bind(_move, block_size=size), space, law)
    return _filters.guided(space, first, law)._replace(move=move)


def _move(space, law, key, particles, log_weights, input, block_size):
    x = _filters._draw(space, law, key, particles, input)
    alive = log_weights > -jnp.inf

    # Rows are computed anew in the backward pass: N^2 densities would be kept for it otherwise.
    @jax.checkpoint
    def row(z):
        z = jax.tree.map(lambda a: jnp.broadcast_to(a, (log_weights.shape[0], *a.shape)), z)
        there = _filters._density(space, space.transition, particles, z, input)
        drawn = _filters._density(space, law, particles, z, input)
        # A component without weight is no part of the mixture: its draw is dropped below.
        return _log_sum(there + log_weights), _log_sum(jnp.where(alive, drawn, -jnp.inf))

    there, drawn = jax.lax.map(row, x, batch_size=block_size)
    value = _filters._observation(space, x, input) + there - drawn
    # The driver adds what is returned to the weight of the same place, which the mixture contains already.
    return x, value - jnp.where(alive, log_weights, 0), None


def _log_sum(log_values):
    largest, total, *_ = log_weight_stats(log_values)
    return log_total(largest, total)


__all__ = ["marginal"]

entry.hold(globals(), "_move")
