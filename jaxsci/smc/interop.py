"""Results of particle filters as plain records that other packages read.

ArviZ: `to_arviz`, a dict of dicts of NumPy arrays; ArviZ itself is not needed for it.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxsci.core import entry
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import KeyArray, Size, concrete
from jaxsci.smc._run import Result
from jaxsci.smc.resamplers import systematic


def to_arviz(
    key: KeyArray,
    result: Result,
    num_draws: Size | None = None,
    *,
    name: str = "x",
    resampler: Callable = systematic,
) -> dict[str, dict[str, Any]]:
    """The groups that ``arviz.from_dict`` takes: equally weighted draws, what is known of each, how the run went.

    Up to ArviZ 0.x write ``arviz.from_dict(**groups)``, from 1.0 on ``arviz.from_dict(groups)``. A result with a batch
    axis (a run under `jax.vmap` over keys) gives as many chains, any other gives one.

    Args:
        key: one typed key, not that of the run.
        result: of `smc.run`, concrete.
        num_draws: D, how many draws a chain; as many as there are particles by default. Static.
        name: of the variable, if the particles are one array. Otherwise variables are named after their place in the
            pytree: ``{"a": ..., "b": (..., ...)}`` gives "a", "b_0", "b_1".
        resampler: from `smc.resamplers`.

    Returns:
        posterior: of each variable (chains, D, ...), in random order: copies of one particle do not stand side by side.
        sample_stats: "log_weight" (chains, D): log(N W) of the particle that the draw copies.
        constant_data: "log_increment", "ess", "resampled", "status" (chains, T), "log_z" (chains,), and "log_weights"
            (chains, N) of the cloud before it was resampled.

    Raises:
        TypeError: `result` is traced, or no result; `resampler` is no function.
        ValueError: `num_draws` is no int >= 1, or the result has more than one batch axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> def init(key, num, y):
        ...     x = jax.random.normal(key, (num,))
        ...     return x, -((y - x) ** 2)
        >>> def move(key, x, log_weights, y):
        ...     return x, -((y - x) ** 2), None
        >>> result = smc.run(jax.random.key(0), smc.Model(init, move), jnp.zeros(3), num_particles=100)
        >>> groups = smc.interop.to_arviz(jax.random.key(1), result, 50, name="position")
        >>> {name: list(group) for name, group in groups.items() if name != "constant_data"}
        {'posterior': ['position'], 'sample_stats': ['log_weight']}
        >>> groups["posterior"]["position"].shape
        (1, 50)
    """
    function = "smc.interop.to_arviz"
    key = as_typed_key(key, function)
    concrete((result.log_z, result.value.log_weights), function, "result", "call it on what the compiled code returns")
    if result.log_z.ndim > 1:
        raise ValueError(f"{function}: result must have one batch axis at most, the chains, got {result.log_z.shape}")
    value, history, log_z = jax.device_get((result.value, result.history, result.log_z))
    if log_z.ndim == 0:
        value, history, log_z = jax.tree.map(lambda a: np.asarray(a)[None], (value, history, log_z))
    num = value.log_weights.shape[1] if num_draws is None else check_size(function, "num_draws", num_draws)
    found = np.asarray(_chosen(key, value.log_weights, num, as_partial(resampler, function, "resampler")))

    def drawn(a):
        return np.stack([of_chain[indices] for of_chain, indices in zip(a, found)])

    posterior = {_label(path, name): drawn(a) for path, a in jax.tree_util.tree_leaves_with_path(value.particles)}
    course = {what: getattr(history, what) for what in ("log_increment", "ess", "resampled", "status")}
    return {
        "posterior": posterior,
        "sample_stats": {"log_weight": drawn(value.log_weights)},
        "constant_data": {**course, "log_z": log_z, "log_weights": value.log_weights},
    }


@eqx.filter_jit
def _chosen(key, log_weights, num, resampler):
    """(chains, num) indices of particles, equally weighted and in random order."""

    def one(key, log_weights):
        first, second = jax.random.split(key)
        return jax.random.permutation(unrolled(second), resampler(first, log_weights, num))

    return jax.vmap(one)(jax.random.split(key, log_weights.shape[0]), log_weights)


def _label(path, name: str) -> str:
    """The keys on the way to a leaf, joined by underscores; `name` for a pytree that is one array."""
    return "_".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path) or name


__all__ = ["to_arviz"]

entry.guard(globals())
